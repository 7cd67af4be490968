"""Other runtimes that are installed, given the same weights in their format and the same options.

They are timed from samples to text. Of their stages nothing is known from outside.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from .._errors import WhisperqError
from .card import package_version
from .worker import count_text

__all__ = ["PEERS", "PeerModel", "open_peer", "prepare_peer"]

Turn = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class PeerModel:
    """A peer that can run.

    Attributes:
        name: as in the table.
        kind: of the worker's task.
        path: of the weights in its format.
        type: that it computes in.
        version: of its package.
    """

    name: str
    kind: str
    path: Path
    type: str
    version: str


@dataclass(frozen=True)
class _Peer:
    modules: tuple[str, ...]
    package: str
    types: tuple[str, ...]
    write: Optional[Callable[[Path, Path], Path]]


def prepare_peer(peer: str, model: Path, folder: Path) -> tuple[list[PeerModel], str]:
    """A peer with the weights of a ggml file in its own format.

    Args:
        peer: a key of :data:`PEERS`.
        model: the ggml file.
        folder: where its format is written to.

    Returns:
        the models, none where it cannot run; and why it cannot.
    """
    known = PEERS[peer]
    missing = [name for name in known.modules if importlib.util.find_spec(name) is None]
    version = package_version(known.package)
    if missing or version is None:
        return [], f"not installed: pip install {known.package}"
    if known.write is None:
        return [], "it runs graphs and has no transcription of its own; benches/peers compares its encoder"
    try:
        path = known.write(model, folder)
    except (WhisperqError, ValueError, ImportError) as error:
        return [], f"it cannot be given these weights: {error}"
    names = [peer if len(known.types) == 1 else f"{peer} {type}" for type in known.types]
    return [PeerModel(name, peer, path, type, version) for name, type in zip(names, known.types)], ""


def open_peer(task: Mapping[str, Any], samples: Any) -> Turn:
    """In the worker: loads the peer; a function that transcribes once."""
    return {"openai": _openai, "faster-whisper": _faster_whisper}[task["kind"]](task, samples)


def _options(task: Mapping[str, Any], eot: int, n_vocab: int) -> dict[str, Any]:
    """That both peers understand, under the names that they share."""
    given: dict[str, Any] = {
        "language": task["options"]["language"],
        "beam_size": task["options"]["beam_size"],
        "temperature": 0.0,
        "no_speech_threshold": None,
        "condition_on_previous_text": False,
    }
    if task["n_tokens"] is not None:
        given.update(without_timestamps=True, suppress_tokens=[-1, *range(eot, n_vocab)])
    return given


def _timed(hear: Callable[[], int]) -> Turn:
    def turn() -> dict[str, Any]:
        began_s = time.perf_counter()
        n_tokens = hear()
        return {"total_ms": (time.perf_counter() - began_s) * 1000, "stages": {}, "n_tokens": n_tokens}

    return turn


# ---- openai-whisper --------------------------------------------------------------------------------------------------


def _write_openai(model: Path, folder: Path) -> Path:
    from .._convert.convert import convert_model

    path = folder / "model.pt"
    convert_model(model, path, to="openai", type="f16", proof="tensors")
    return path


def _openai(task: Mapping[str, Any], samples: Any) -> Turn:
    import torch
    import whisper

    torch.set_num_threads(task["n_threads"])
    model = whisper.load_model(task["model"], device="cpu")
    eot = 50257 if model.is_multilingual else 50256
    options = _options(task, eot, model.dims.n_vocab)
    if options["beam_size"] == 1:
        options["beam_size"] = None  # greedy, which is something else there than one beam
    if task["n_tokens"] is not None:
        options["sample_len"] = task["n_tokens"]

    def hear() -> int:
        result = model.transcribe(samples, fp16=False, **options)
        return sum(count_text(segment["tokens"], eot) for segment in result["segments"])

    return _timed(hear)


# ---- faster-whisper --------------------------------------------------------------------------------------------------


def _write_ctranslate2(model: Path, folder: Path) -> Path:
    from .ctranslate2_folder import write_ctranslate2

    path = folder / "ctranslate2"
    write_ctranslate2(model, path)
    return path


def _faster_whisper(task: Mapping[str, Any], samples: Any) -> Turn:
    from faster_whisper import WhisperModel

    model = WhisperModel(
        task["model"],
        device="cpu",
        compute_type=task["type"],
        cpu_threads=task["n_threads"],
        num_workers=1,
        local_files_only=True,
    )
    eot = 50257 if model.model.is_multilingual else 50256
    options = _options(task, eot, task["n_vocab"])
    if task["n_tokens"] is not None:
        options["max_new_tokens"] = _ctranslate2_tokens(task["n_tokens"], 4 if model.model.is_multilingual else 2)

    def hear() -> int:
        segments, _ = model.transcribe(samples, **options)
        return sum(count_text(segment.tokens, eot) for segment in segments)

    return _timed(hear)


def _ctranslate2_tokens(n_tokens: int, n_prompt: int) -> int:
    """What faster-whisper has to be given for so many tokens: it adds the prompt, and CTranslate2 gives at most half of
    that sum, and no more than what the prompt leaves of it."""
    return max(2 * n_tokens - n_prompt, n_tokens)


PEERS = {
    "openai": _Peer(("whisper", "torch"), "openai-whisper", ("f32",), _write_openai),
    "faster-whisper": _Peer(
        ("faster_whisper", "ctranslate2", "tokenizers"), "faster-whisper", ("float32", "int8"), _write_ctranslate2
    ),
    "openvino": _Peer(("openvino",), "openvino", (), None),
    "onnxruntime": _Peer(("onnxruntime",), "onnxruntime", (), None),
}
"""What ``--vs`` knows."""
