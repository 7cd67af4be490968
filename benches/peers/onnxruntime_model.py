"""ONNX Runtime: the graphs that ``whisperq-edge bench --vs onnxruntime`` runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from whisperq_edge._bench.graph_weights import read_weights
from whisperq_edge._bench.onnxruntime_graph import OnnxruntimeEncoder, write_onnxruntime

from . import PeerEncoder

__all__ = ["encoders"]


def encoders(model: Path, n_threads: int, folder: Path) -> Iterator[PeerEncoder]:
    weights = read_weights(model)
    for name in ("f32", "int8"):
        path = folder / f"onnxruntime-{name}"
        write_onnxruntime(weights, path, name)
        yield PeerEncoder(f"onnxruntime {name}", "onnxruntime", name, OnnxruntimeEncoder(path, name, n_threads))
