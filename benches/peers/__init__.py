"""Other runtimes as contestants: Whisper's encoder with the same weights in each one's own format.

A module for each runtime, imported when it is its turn: what is not installed is told and left out. None of them is
timed before its output was compared with ours (``benches/test_encode.py``).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

__all__ = ["PACKAGES", "PeerEncoder", "open_peers"]

Floats = npt.NDArray[np.float32]

# The module here, and the packages that it cannot do without.
MODULES = {
    "ctranslate2_model": ("ctranslate2",),
    "openvino_model": ("openvino",),
    "onnxruntime_model": ("onnxruntime", "onnx"),
    "torch_encoder": ("torch", "openai-whisper"),
}

PACKAGES = tuple(name for names in MODULES.values() for name in names)

NOT_TIMED = {
    "pywhispercpp": "pywhispercpp is the same whisper.cpp that the ggml engine runs, built for no certain CPU, and"
    " does not show the encoder's output, so that nobody could say whether it does the same work"
}


@dataclass(frozen=True)
class PeerEncoder:
    """An encoder, ready.

    Attributes:
        name: the runtime's and the type's, as in the table.
        package: whose version belongs to the figures.
        type: what it computes in: ``f32``, ``bf16`` or ``int8``.
        encode: float32 ``[n_mels, 3000]`` -> float32 ``[n_audio_ctx, n_audio_state]``.
    """

    name: str
    package: str
    type: str
    encode: Callable[[Floats], Floats]


def open_peers(model: Path, n_threads: int, folder: Path) -> tuple[list[PeerEncoder], list[str]]:
    """Every runtime that is installed, and a sentence for each that is not or cannot run here.

    Args:
        model: the ggml file whose weights all are given.
        n_threads: for each.
        folder: where models may be written; must stay as long as the encoders are used.
    """
    found: list[PeerEncoder] = []
    notes = list(NOT_TIMED.values())
    for module, packages in MODULES.items():
        missing = [name for name in packages if not _is_installed(name)]
        if missing:
            notes.append(f"{packages[0]} is skipped: {' and '.join(missing)} not installed (make peers)")
            continue
        try:
            found.extend(_encoders(module, model, n_threads, folder))
        except Exception as error:  # a foreign runtime can fail in any way; the others shall be timed all the same
            notes.append(f"{packages[0]} is skipped: {type(error).__name__}: {str(error).strip()[:300]}")
    return found, notes


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _encoders(module: str, model: Path, n_threads: int, folder: Path) -> Iterator[PeerEncoder]:
    peer: Any = importlib.import_module(f"{__name__}.{module}")
    yield from peer.encoders(model, n_threads, folder)
