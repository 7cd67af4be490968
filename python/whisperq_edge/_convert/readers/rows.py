"""Rows of a source tensor in another type: the checks around the native quantisers, and chunks of a size that fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from ..._errors import ModelFormatError, UnsupportedModelError
from ..._system.native import load_ggml
from .source import FLOAT_TYPES, SourceTensor

__all__ = ["CHUNK_VALUES", "chunks", "convert_rows", "encode_rows", "floats"]

CHUNK_VALUES = 1 << 20
"""Values that are converted in one piece: a few MB in each of the types, and enough work to be worth a thread."""


def chunks(tensor: SourceTensor) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of each piece."""
    step = max(1, CHUNK_VALUES // tensor.row_size)
    for first in range(0, tensor.n_rows, step):
        yield first, min(step, tensor.n_rows - first)


def convert_rows(
    tensor: SourceTensor,
    first: int,
    count: int,
    type: str,
    column_weights: Optional[npt.NDArray[np.float32]] = None,
) -> tuple[bytes, Any]:
    """Bytes of the rows in ``type`` and a ``_ggml.RowError`` that says how far they are from the source.

    Raises:
        ModelFormatError: a weight is NaN or infinite.
        UnsupportedModelError: a weight that is too large for ``type``.
    """
    raw = tensor.read_rows(first, count)
    scales = None if tensor.row_scales is None else tensor.row_scales[first : first + count]
    ggml = load_ggml()
    converted, error = ggml.quantize_rows(
        raw, tensor.type, tensor.row_size, type, row_scales=scales, column_weights=column_weights
    )
    if error.first_not_finite >= 0:
        _raise_not_finite(tensor, first, error.first_not_finite, raw, scales)
    if error.first_overflow >= 0:
        index = first * tensor.row_size + error.first_overflow
        raise UnsupportedModelError(
            f"{tensor.where[0]}: {tensor.name} value {index} is {error.first_overflow_value:g}, which {type} cannot"
            " hold (its numbers end at 65504): keep this tensor in f32, with tensor_type 'NAME=f32'"
        )
    return converted, error


def encode_rows(tensor: SourceTensor, first: int, count: int, type: str) -> bytes:
    """``convert_rows`` for callers that only want the bytes."""
    return convert_rows(tensor, first, count, type)[0]


def floats(tensor: SourceTensor, first: int = 0, count: Optional[int] = None) -> npt.NDArray[np.float32]:
    """Rows as float32 ``[count, row_size]``."""
    count = tensor.n_rows - first if count is None else count
    scales = None if tensor.row_scales is None else tensor.row_scales[first : first + count]
    values: npt.NDArray[np.float32] = load_ggml().dequantize_rows(
        tensor.read_rows(first, count), tensor.type, tensor.row_size, row_scales=scales
    )
    return values


def _raise_not_finite(
    tensor: SourceTensor, first: int, index: int, raw: bytes, scales: Optional[npt.NDArray[np.float32]]
) -> None:
    values = load_ggml().dequantize_rows(raw, tensor.type, tensor.row_size, row_scales=scales)
    path, offset = tensor.where
    in_tensor = first * tensor.row_size + index
    if tensor.type in FLOAT_TYPES:
        offset += in_tensor * FLOAT_TYPES[tensor.type]
    raise ModelFormatError(
        path, offset, f"{tensor.name} value {in_tensor}", str(float(values.reshape(-1)[index])), "a finite number"
    )
