"""A source and a plan into a ggml file: rows are read, converted on all cores and written in order, in small pieces."""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, Callable, Optional, Union

import numpy as np

from .. import _core
from .._errors import InternalError
from .._system.files import reserve
from .._whisper.types import MIXED, TYPES
from .._whisper.units import N_FFT_BINS
from .plan import Choice, file_type
from .read_back import ReadBack
from .readers.rows import chunks, convert_rows
from .readers.source import VALUE_BYTES, Source, SourceTensor

__all__ = ["TensorCost", "ggml_bytes", "header_bytes", "stored_bytes", "tensor_bytes", "write_ggml"]

_MAGIC = 0x67676D6C
_QUANTIZATION_VERSION = 2
_MIXED_FTYPE = 4


@dataclass
class TensorCost:
    """What became of one tensor: sums over all of its values (see ``RowError`` in csrc/ggml/quantize.h)."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    source_bytes: int
    type: str
    reason: str
    n_bytes: int
    sum_squares: float = 0.0
    sum_squared_error: float = 0.0
    max_error: float = 0.0

    @property
    def sqnr_db(self) -> Optional[float]:
        """Signal to quantisation noise in dB; None: no error at all."""
        return sqnr_db(self.sum_squares, self.sum_squared_error)

    def add(self, error: Any) -> None:
        self.sum_squares += error.sum_squares
        self.sum_squared_error += error.sum_squared_error
        self.max_error = max(self.max_error, error.max_error)


def sqnr_db(squares: float, squared_error: float) -> Optional[float]:
    return None if squared_error == 0 else float(10 * np.log10(max(squares, 1e-300) / squared_error))


def stored_bytes(n_values: int, type_name: str) -> int:
    """``n_values``: of whole rows; ``type_name``: of :class:`SourceTensor`."""
    if type_name in TYPES:
        return TYPES[type_name].row_bytes(n_values)
    return n_values * VALUE_BYTES[type_name]


def _stored_shape(tensor: SourceTensor) -> tuple[int, ...]:
    """whisper.cpp adds a convolution's bias to rows of frames and wants it as a column."""
    is_conv_bias = tensor.name in ("encoder.conv1.bias", "encoder.conv2.bias")
    return (*tensor.shape, 1) if is_conv_bias else tensor.shape


def _tensor_header(tensor: SourceTensor, type_name: str) -> bytes:
    shape, name = _stored_shape(tensor), tensor.name.encode("ascii")
    fields = (len(shape), len(name), TYPES[type_name].ggml_id, *reversed(shape))
    return struct.pack(f"<{len(fields)}i", *fields) + name


def _ftype_number(type_name: str) -> int:
    """``version * 1000 + ftype``. Plain floats carry no version, as whisper.cpp's own converters have it."""
    if type_name == MIXED:
        return 1000 * _QUANTIZATION_VERSION + _MIXED_FTYPE
    row = TYPES[type_name]
    return row.ftype if row.block_size == 1 else 1000 * _QUANTIZATION_VERSION + row.ftype


def _file_header(source: Source, type_name: str) -> bytes:
    dims, vocabulary, filters = source.dims, source.vocabulary, source.mel_filters
    if vocabulary is None or filters is None:
        raise InternalError("a source without vocabulary or mel filters reached the writer")
    numbers = (
        *(_MAGIC, dims.n_vocab, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer),
        *(dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer, dims.n_mels),
        *(_ftype_number(type_name), dims.n_mels, N_FFT_BINS),
    )
    parts = [struct.pack(f"<{len(numbers)}i", *numbers), np.ascontiguousarray(filters, "<f4").tobytes()]
    parts.append(struct.pack("<i", len(vocabulary)))
    for token in vocabulary:
        parts += [struct.pack("<i", len(token)), token]
    return b"".join(parts)


def ggml_bytes(source: Source, plan: Mapping[str, Choice]) -> int:
    """Size of the file that :func:`write_ggml` writes."""
    return header_bytes(source) + sum(tensor_bytes(source, plan))


def header_bytes(source: Source) -> int:
    """Of what comes before the tensors, which is the same for every type."""
    return len(_file_header(source, MIXED))


def tensor_bytes(source: Source, plan: Mapping[str, Choice]) -> tuple[int, int]:
    """Of all weights, and of what the file says about each of them: name, type and shape."""
    types = [(tensor, plan[tensor.name].type) for tensor in source.tensors]
    weights = sum(stored_bytes(tensor.n_values, type_name) for tensor, type_name in types)
    return weights, sum(len(_tensor_header(tensor, type_name)) for tensor, type_name in types)


def write_ggml(
    stream: IO[bytes],
    path: Union[str, os.PathLike[str]],
    source: Source,
    plan: dict[str, Choice],
    *,
    n_threads: int = 0,
    on_progress: Optional[Callable[[float], None]] = None,
) -> tuple[list[TensorCost], str]:
    """Writes the model to ``stream`` and reads it back from the disk; ``path`` is what error messages call it.

    Returns:
        what became of each tensor, and the sha256 of what was written.

    Raises:
        ModelFormatError: a weight of the source is not finite, or its file shrank.
        UnsupportedModelError: a weight that its type cannot hold.
        OSError: the disk is full, fails, or gives back other bytes than were written.
    """
    reserve(stream, ggml_bytes(source, plan), path)
    with ReadBack(stream) as read_back:
        out = _HashedStream(stream, read_back)
        costs = _write(out, source, plan, n_threads or _core.usable_cpus(), on_progress)
        read_back.finish(out.sha256)
        return costs, out.sha256


def _write(
    out: _HashedStream,
    source: Source,
    plan: dict[str, Choice],
    n_threads: int,
    on_progress: Optional[Callable[[float], None]],
) -> list[TensorCost]:
    out.write(_file_header(source, file_type(plan, source)))
    costs: dict[str, TensorCost] = {}
    n_values = sum(tensor.n_values for tensor in source.tensors)
    n_done = 0
    for piece in _converted(source, plan, n_threads):
        tensor = piece.tensor
        if tensor.name not in costs:
            costs[tensor.name] = _cost_of(tensor, plan[tensor.name])
            out.write(_tensor_header(tensor, plan[tensor.name].type))
        out.write(piece.converted)
        costs[tensor.name].add(piece.error)
        n_done += piece.error.n_values
        if on_progress is not None:
            on_progress(n_done / n_values)
    return list(costs.values())


def _cost_of(tensor: SourceTensor, choice: Choice) -> TensorCost:
    source_bytes = stored_bytes(tensor.n_values, tensor.type)
    n_bytes = stored_bytes(tensor.n_values, choice.type)
    return TensorCost(tensor.name, tensor.shape, tensor.type, source_bytes, choice.type, choice.reason, n_bytes)


@dataclass(frozen=True)
class _Piece:
    tensor: SourceTensor
    converted: bytes
    error: Any


def _converted(source: Source, plan: dict[str, Choice], n_threads: int) -> Iterator[_Piece]:
    """Pieces in the order of the file. No more are under way than keep the threads busy while one is written."""

    def convert(tensor: SourceTensor, first: int, count: int) -> _Piece:
        return _Piece(tensor, *convert_rows(tensor, first, count, plan[tensor.name].type))

    under_way: deque[Future[_Piece]] = deque()
    with ThreadPoolExecutor(n_threads, "whisperq-convert") as pool:
        try:
            for tensor in source.tensors:
                for first, count in chunks(tensor):
                    under_way.append(pool.submit(convert, tensor, first, count))
                    if len(under_way) > 2 * n_threads:
                        yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


class _HashedStream:
    def __init__(self, stream: IO[bytes], read_back: ReadBack) -> None:
        self._stream = stream
        self._read_back = read_back
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._stream.write(data)
        self._read_back.follow()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
