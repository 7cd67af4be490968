"""The writer's own sums, for a model whose weights are nowhere."""

from __future__ import annotations

import functools
from pathlib import Path

from .._errors import InternalError
from .._whisper.dims import Dims
from .._whisper.mel_filters import mel_filters
from .._whisper.shapes import expected_shapes
from .._whisper.vocabulary import known_vocabulary
from . import writer
from .plan import Recipe, plan_types
from .readers.source import Source, SourceTensor

__all__ = ["header_bytes", "tensor_bytes"]


def header_bytes(dims: Dims) -> int:
    """Return the bytes of a file's header, mel filters and vocabulary included."""
    return _header_bytes(dims.n_vocab, dims.n_mels)


@functools.cache
def tensor_bytes(dims: Dims, type: str) -> tuple[int, int]:
    """Return the bytes of all weights, and of what a file says about each of them.

    Args:
        dims: of the model.
        type: of the matrices. One whose blocks do not fill their rows is the next larger one, as in the file.
    """
    source = _without_weights(dims)
    return writer.tensor_bytes(source, plan_types(source, Recipe(type)))


@functools.cache
def _header_bytes(n_vocab: int, n_mels: int) -> int:
    source = _without_weights(Dims(n_mels, *(1,) * 8, n_vocab))
    source.vocabulary, source.mel_filters = known_vocabulary(n_vocab), mel_filters(n_mels)
    return writer.header_bytes(source)


def _without_weights(dims: Dims) -> Source:
    def nothing(first: int, count: int) -> bytes:
        raise InternalError("weights of the catalog were asked for")

    tensors = [SourceTensor(name, shape, "f32", nothing) for name, shape in expected_shapes(dims).items()]
    return Source(Path(), "catalog", [], dims, tensors)
