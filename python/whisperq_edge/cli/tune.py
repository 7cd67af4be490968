"""``whisperq-edge tune``: which type and number of threads are the fastest on this machine, for ``auto`` to take."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .._bench.random_model import random_dims
from .._bench.tune import thread_counts, tune
from .._core import isas, read_model_file, usable_cpus
from .._errors import OptionError
from .._store.catalog import find_model
from .._store.profile import store_profile
from .._whisper.dims import Dims
from .._whisper.types import resolve_type
from .reports import DEFAULT_MODEL, MODEL_VARIABLE, print_json, split_list
from .tables import print_table, stage_progress

__all__ = ["tune_command"]

_SMALL_TYPES = ("q5_1", "q5_0", "q4_1", "q4_0")
_ACCURATE_TYPES = ("f16", "q8_0")
_HEADER = ("type", "threads", "kernels", "s a window", "x chosen", "")


@click.command("tune")
@click.argument("model", metavar="[MODEL_OR_SHAPE]", envvar=MODEL_VARIABLE, default=DEFAULT_MODEL)
@click.option(
    "--types", "-t", default="f16,q8_0,q5_0,q4_0", show_default=True, help="Types to measure, comma-separated."
)
@click.option("--threads", default="", help="Numbers to measure, comma-separated.  [default: up to all CPUs]")
@click.option("--all", "all_isas", is_flag=True, help="Measure every instruction set, not only the best.")
@click.option("--allow", default="", metavar="TYPES", help="Types below 8 bits that may be chosen, such as q5_0,q4_0.")
@click.option("--smallest", is_flag=True, help="Every type that is measured may be chosen.")
@click.option("--tokens", type=click.IntRange(2, 224), default=50, show_default=True, help="Text tokens in the window.")
@click.option(
    "--rounds", type=click.IntRange(3, 100), default=7, show_default=True, help="Rounds of the fastest settings."
)
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
def tune_command(**options: Any) -> None:
    """Measure types and threads on this machine and keep the best for compute_type="auto" and --threads 0.

    MODEL_OR_SHAPE is a published name or a ggml file: its shape counts, weights are random. Without it $WHISPERQ_MODEL
    counts, else base. A window of 30 s is
    transcribed by each setting in turn, in processes of their own. base takes half a minute on two CPUs.

    Types of fewer than 8 bits cost accuracy. They are measured, but not chosen unless --allow or --smallest says so.

    The profile counts for models of this shape, until CPU, kernels, CPUs that may be used, quota or version change.
    """
    types = _types(options["types"], "types")
    small = [resolve_type(part, "allow") for part in split_list(options["allow"])]
    allowed = types if options["smallest"] else [type for type in types if type in _ACCURATE_TYPES or type in small]
    with stage_progress() as advance:
        profile = tune(
            _dims(options["model"]),
            types,
            _threads(options["threads"]) or thread_counts(usable_cpus()),
            _isas() if options["all_isas"] else ["auto"],
            allowed,
            n_tokens=options["tokens"],
            rounds=options["rounds"],
            on_progress=advance,
        )
    path = store_profile(profile)
    if options["as_json"]:
        print_json(asdict(profile))
        return
    print_table(_rows(profile), _HEADER, right=_HEADER[1:2] + _HEADER[3:5])
    click.echo(f"\n{profile.reason}")
    click.echo(f"Kept in {path} for models of this shape ({profile.shape}).", err=True)


def _types(text: str, field: str) -> list[str]:
    types = [resolve_type(part, field) for part in split_list(text)]
    known = (*_ACCURATE_TYPES, *_SMALL_TYPES)
    if not types or len(set(types)) < len(types) or not set(types) <= set(known):
        raise OptionError(field, text, f"some of {', '.join(known)}, each once")
    return types


def _threads(text: str) -> list[int]:
    try:
        counts = [int(part) for part in split_list(text)]
    except ValueError:
        counts = [0]
    if any(not 1 <= n <= 512 for n in counts) or len(set(counts)) < len(counts):
        raise OptionError("threads", text, "whole numbers from 1 to 512, comma-separated, each once")
    return counts


def _isas() -> list[str]:
    return [str(isa["name"]) for isa in isas() if isa["built"] and isa["supported"]]


def _dims(model: str) -> Any:
    path = Path(model).expanduser()
    if find_model(model) is None and path.is_file():
        return Dims(**read_model_file(path).hparams)
    return random_dims(model)


def _rows(profile: Any) -> list[tuple[str, ...]]:
    def note(setting: Any) -> str:
        if setting == profile.chosen:
            return "chosen"
        return "" if setting.type in profile.allowed else "below 8 bits: --allow"

    return [
        (
            *(setting.type, str(setting.n_threads), setting.isa, f"{setting.window_s:.3f}"),
            f"{setting.window_s / profile.chosen.window_s:.2f}",
            note(setting),
        )
        for setting in sorted(profile.measured, key=lambda setting: float(setting.window_s))
    ]
