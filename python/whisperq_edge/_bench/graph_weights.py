"""A model's weights for runtimes that are given a graph instead of a file: float32, under openai/whisper's names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._convert.readers.ggml import open_ggml
from .._convert.readers.rows import floats
from .._system.arrays import Floats
from .._whisper.dims import Dims

__all__ = ["Floats", "GraphWeights", "int8_rows", "read_weights"]


class GraphWeights(NamedTuple):
    """What a graph is put together from.

    Attributes:
        dims: of the model.
        tensors: float32 by name; biases are one-dimensional.
    """

    dims: Dims
    tensors: dict[str, Floats]

    @property
    def head_size(self) -> int:
        return self.dims.n_audio_state // self.dims.n_audio_head

    @property
    def n_bytes(self) -> int:
        return sum(each.nbytes for each in self.tensors.values())


def read_weights(path: Path) -> GraphWeights:
    """The weights of a ggml file of any type.

    Raises:
        ModelError: the file cannot be read.
    """
    source = open_ggml(path)
    tensors = {each.name: np.asarray(floats(each).reshape(each.shape), np.float32) for each in source.tensors}
    for name in tensors:
        if name.endswith("bias"):
            tensors[name] = tensors[name].reshape(-1)
    return GraphWeights(source.dims, tensors)


def int8_rows(matrix: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Codes ``[n, k]`` and a scale for each row ``[n, 1]``, symmetric: compression that needs no calibration."""
    scales = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), np.float32(1e-20)) / np.float32(127)
    return np.rint(matrix / scales).astype(np.int8), scales
