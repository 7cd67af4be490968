"""OpenVINO: the graphs that ``whisperq-edge bench --vs openvino`` runs, in three precisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from whisperq_edge._bench.graph_weights import read_weights
from whisperq_edge._bench.openvino_graph import OpenvinoEncoder, write_openvino

from . import PeerEncoder

__all__ = ["encoders"]


def encoders(model: Path, n_threads: int, folder: Path) -> Iterator[PeerEncoder]:
    weights = read_weights(model)
    exact, int8 = folder / "openvino-f32", folder / "openvino-int8"
    for path, type in ((exact, "f32"), (int8, "int8")):
        write_openvino(weights, path, type)
    for path, name in ((exact, "f32"), (exact, "bf16"), (int8, "int8")):
        yield PeerEncoder(f"openvino {name}", "openvino", name, OpenvinoEncoder(path, name, n_threads))
