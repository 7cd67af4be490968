"""CTranslate2, what faster-whisper runs on: its specification filled with our weights, without a converter.

The folder is written in float32; CTranslate2 quantises to int8 when it loads, as it does for its users.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ctranslate2
import numpy as np
from whisperq_edge._bench.ctranslate2_folder import write_ctranslate2

from . import Floats, PeerEncoder

__all__ = ["encoders"]

_TYPES = {"f32": "float32", "int8": "int8"}


def encoders(model: Path, n_threads: int, folder: Path) -> Iterator[PeerEncoder]:
    written = folder / "ctranslate2"
    write_ctranslate2(model, written)
    for name, compute_type in _TYPES.items():
        yield PeerEncoder(f"ctranslate2 {name}", "ctranslate2", name, _Encoder(written, compute_type, n_threads))


class _Encoder:
    def __init__(self, folder: Path, compute_type: str, n_threads: int) -> None:
        self._model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type=compute_type, intra_threads=n_threads, inter_threads=1
        )

    def __call__(self, mel: Floats) -> Floats:
        features = self._model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None])))
        return np.array(features)[0]
