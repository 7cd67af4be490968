"""Other runtimes that are installed, given the same weights in their format and the same options.

They are timed from samples to text. Of the stages of openai-whisper and faster-whisper nothing is known from outside;
openvino and onnxruntime run graphs, and what is around these is ours (``graph_loop``).
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .._convert.convert import convert_model
from .._errors import WhisperqError
from .._whisper.dims import Dims, n_text_tokens
from .card import package_version
from .ctranslate2_folder import write_ctranslate2
from .graph_loop import GraphTranscriber
from .graph_weights import GraphWeights, read_weights
from .worker import count_text

__all__ = ["PEERS", "PeerModel", "open_peer", "prepare_peer"]

Turn = Callable[[], dict[str, Any]]

_DIMS = "dims.json"


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
    write: Callable[[Path, Path], list[Path]]
    is_greedy: bool = False


def prepare_peer(peer: str, model: Path, folder: Path, beam_size: int = 1) -> tuple[list[PeerModel], str]:
    """A peer with the weights of a ggml file in its own format.

    Args:
        peer: a key of :data:`PEERS`.
        model: the ggml file.
        folder: where its format is written to.
        beam_size: that it shall decode with.

    Returns:
        the models, none where it cannot run; and why it cannot.
    """
    known = PEERS[peer]
    missing = [name for name in known.modules if importlib.util.find_spec(name) is None]
    version = package_version(known.package)
    if missing or version is None:
        return [], f"not installed: pip install {' '.join(known.modules) if known.is_greedy else known.package}"
    if known.is_greedy and beam_size > 1:
        return [], f"over its graphs we decode greedily only: --beam-size 1 instead of {beam_size}"
    try:
        paths = known.write(model, folder)
    except (WhisperqError, ValueError, ImportError, RuntimeError) as error:
        return [], f"it cannot be given these weights: {error}"
    names = [peer if len(known.types) == 1 else f"{peer} {type}" for type in known.types]
    return [PeerModel(name, peer, path, type, version) for name, path, type in zip(names, paths, known.types)], ""


def open_peer(task: Mapping[str, Any], samples: Any) -> Turn:
    """In the worker: loads the peer; a function that transcribes once."""
    opened = {
        "openai": _openai,
        "faster-whisper": _faster_whisper,
        "openvino": _openvino,
        "onnxruntime": _onnxruntime,
    }
    return opened[task["kind"]](task, samples)


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


def _write_openai(model: Path, folder: Path) -> list[Path]:
    path = folder / "model.pt"
    convert_model(model, path, to="openai", type="f16", proof="tensors")
    return [path]


def _openai(task: Mapping[str, Any], samples: Any) -> Turn:
    import torch
    import whisper

    torch.set_num_threads(task["n_threads"])
    model = whisper.load_model(task["model"], device="cpu")
    eot = n_text_tokens(model.is_multilingual)
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


def _write_ctranslate2(model: Path, folder: Path) -> list[Path]:
    path = folder / "ctranslate2"
    write_ctranslate2(model, path)
    return [path, path]  # it makes them int8 as it loads


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
    eot = n_text_tokens(model.model.is_multilingual)
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


# ---- openvino and onnxruntime ----------------------------------------------------------------------------------------


_GRAPH_TYPES = ("f32", "int8")


def _write_openvino(model: Path, folder: Path) -> list[Path]:
    from .openvino_graph import write_openvino

    return _write_graphs(write_openvino, model, folder, "openvino")


def _write_onnxruntime(model: Path, folder: Path) -> list[Path]:
    from .onnxruntime_graph import write_onnxruntime

    return _write_graphs(write_onnxruntime, model, folder, "onnxruntime")


def _write_graphs(write: Callable[[GraphWeights, Path, str], None], model: Path, folder: Path, name: str) -> list[Path]:
    """A folder for each type, with the model's dimensions beside the graphs."""
    weights, paths = read_weights(model), []
    for type in _GRAPH_TYPES:
        path = folder / f"{name}-{type}"
        write(weights, path, type)
        (path / _DIMS).write_text(json.dumps(weights.dims), encoding="utf-8")
        paths.append(path)
    return paths


def _openvino(task: Mapping[str, Any], samples: Any) -> Turn:
    from .openvino_graph import OpenvinoDecoder, OpenvinoEncoder

    return _over_graphs(task, samples, OpenvinoEncoder, OpenvinoDecoder)


def _onnxruntime(task: Mapping[str, Any], samples: Any) -> Turn:
    from .onnxruntime_graph import OnnxruntimeDecoder, OnnxruntimeEncoder

    return _over_graphs(task, samples, OnnxruntimeEncoder, OnnxruntimeDecoder)


def _over_graphs(task: Mapping[str, Any], samples: Any, encoder: Any, decoder: Any) -> Turn:
    folder = Path(task["model"])
    dims = Dims(*json.loads((folder / _DIMS).read_text(encoding="utf-8")))
    given = (folder, task["type"], task["n_threads"])
    loop = GraphTranscriber(dims, task["options"]["language"], encoder(*given), decoder(*given), task["n_tokens"])
    return lambda: loop.turn(samples)


PEERS = {
    "openai": _Peer(("whisper", "torch"), "openai-whisper", ("f32",), _write_openai),
    "faster-whisper": _Peer(
        ("faster_whisper", "ctranslate2", "tokenizers"), "faster-whisper", ("float32", "int8"), _write_ctranslate2
    ),
    "openvino": _Peer(("openvino",), "openvino", _GRAPH_TYPES, _write_openvino, is_greedy=True),
    "onnxruntime": _Peer(("onnxruntime", "onnx"), "onnxruntime", _GRAPH_TYPES, _write_onnxruntime, is_greedy=True),
}
"""What ``--vs`` knows."""
