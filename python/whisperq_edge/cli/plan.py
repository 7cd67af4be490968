"""``whisperq-edge plan``: what a model takes in memory, type by type, before it is loaded or fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import click

from .. import _core
from .._convert.readers.ggml import is_ggml
from .._convert.readers.open_source import open_source
from .._core import usable_cpus
from .._engines.memory import available_memory, plan_memory
from .._errors import ModelNotFoundError, OptionError
from .._store.catalog import ALIASES, BUNDLED_MODELS, MODELS, find_model, resolve_model
from .._whisper.types import resolve_type
from .._whisper.units import TOKENS_PER_WINDOW
from .reports import print_json
from .tables import print_table

__all__ = ["plan_command"]

_TYPES = "f16,q8_0,q5_0,q4_0"
_HEADER = ("type", "weights MB", "caches MB", "buffers MB", "audio MB", "Python MB", "total MB", "fits")


@click.command("plan")
@click.argument("model")
@click.option("--types", "-t", default="", help=f"Comma-separated.  [default: the file's own; {_TYPES} of a name]")
@click.option("--threads", type=click.IntRange(0, 512), default=0, help="0: all that this process may use.")
@click.option("--batch-size", type=click.IntRange(1, 256), default=1, show_default=True, help="Windows together.")
@click.option("--beam-size", type=click.IntRange(1, 64), default=5, show_default=True, help="Sequences of a window.")
@click.option(
    "--audio-ctx",
    type=click.IntRange(0, TOKENS_PER_WINDOW),
    default=0,
    help="Audio tokens of a window, 20 ms each; fewer are those of short audio; 0: all.",
)
@click.option("--word-timestamps", is_flag=True, help="With the times of words.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, sizes in bytes.")
def plan_command(**options: Any) -> None:
    """Tell what MODEL (a file, a folder or a name such as base) takes in memory on the engine `edge` before it loads.

    Weights are taken for as long as the model is loaded. Caches (keys and values of audio and text), buffers and audio
    are taken by a transcription: the most that it takes, with a text that fills the context in every beam. Python is
    the vocabulary and the like. "fits" compares the total with the memory that a process can get here and now.
    """
    plans = [
        plan_memory(
            file,
            n_threads=options["threads"],
            audio_ctx=_checked_ctx(options["audio_ctx"], file.hparams["n_audio_ctx"]),
            batch_size=options["batch_size"],
            beam_size=options["beam_size"],
            word_timestamps=options["word_timestamps"],
        )
        for file in _files(options["model"], options["types"])
    ]
    available = available_memory()
    if options["as_json"]:
        print_json(_report(options, plans, available))
        return
    rows = [
        (
            plan.type,
            *(f"{n / 1e6:.1f}" for n in (plan.weights, plan.caches, plan.buffers, plan.audio, plan.python, plan.total)),
            _fits(plan.total, available),
        )
        for plan in plans
    ]
    print_table(rows, _HEADER, right=_HEADER[1:-1])
    if available is not None:
        click.echo(f"Available now: {available.n_bytes / 1e6:.0f} MB ({available.limit}).")


def _checked_ctx(audio_ctx: int, most: int) -> int:
    if audio_ctx > most:
        raise OptionError("audio_ctx", audio_ctx, f"0 (all) to {most}")
    return audio_ctx


def _fits(n_bytes: int, available: Any) -> str:
    if available is None:
        return "?"
    return "yes" if n_bytes <= available.n_bytes else "no"


def _report(options: dict[str, Any], plans: list[Any], available: Any) -> dict[str, Any]:
    return {
        "model": options["model"],
        "threads": options["threads"] or usable_cpus(),
        "batch_size": options["batch_size"],
        "beam_size": options["beam_size"],
        "audio_ctx": options["audio_ctx"],
        "word_timestamps": options["word_timestamps"],
        "plans": [
            {**plan.to_dict(), "fits": None if available is None else plan.total <= available.n_bytes} for plan in plans
        ],
        "available": None if available is None else {"n_bytes": available.n_bytes, "limit": available.limit},
    }


def _files(model: str, types: str) -> list[Any]:
    """What there is to plan for: the file itself, or descriptions of files that need not exist."""
    wanted = [resolve_type(part.strip(), "types") for part in types.split(",") if part.strip()]
    path = _path(model)
    file = _core.read_model_file(path) if path is not None and _is_ggml(path) else None
    if file is not None and not wanted:
        return [file]
    hparams = file.hparams if file is not None else _dims(model, path)
    return [
        file if file is not None and file.ftype == type else _core.describe_model(hparams, type)
        for type in wanted or _TYPES.split(",")
    ]


def _path(model: str) -> Optional[Path]:
    """A bundled model's file, or what is there under this name; None: nothing is."""
    if model in BUNDLED_MODELS:
        return resolve_model(model)
    path = Path(model).expanduser()
    return path if path.is_file() or (path.is_dir() and find_model(model) is None) else None


def _is_ggml(path: Path) -> bool:
    return path.is_file() and (is_ggml(path) or path.suffix.lower() == ".bin")


def _dims(model: str, path: Optional[Path]) -> dict[str, int]:
    if path is not None:
        return dict(open_source(path).dims._asdict())
    known = find_model(model)
    if known is None:
        names = ", ".join([*MODELS, *ALIASES])
        raise ModelNotFoundError(f"there is no model {model!r}: give a path, or one of the names {names}")
    return dict(known.dims._asdict())
