"""A model of a published shape with random weights. What it says is nonsense; how fast it says it is no different."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Callable, Union

import numpy as np

from .._convert.plan import Recipe, plan_types
from .._convert.readers.source import Source, SourceTensor, rows_of, sinusoids
from .._convert.writer import write_ggml
from .._errors import OptionError
from .._store.catalog import ALIASES, MODELS, find_model
from .._system.files import atomic_write
from .._whisper.dims import Dims
from .._whisper.mel_filters import mel_filters
from .._whisper.shapes import expected_shapes
from .._whisper.vocabulary import known_vocabulary

__all__ = ["random_dims", "write_random"]

ReadRows = Callable[[int, int], bytes]


def random_dims(shape: str) -> Dims:
    """The dimensions that a published name stands for.

    Raises:
        OptionError: no such name.
    """
    model = find_model(shape)
    if model is None:
        raise OptionError("random", shape, f"one of {', '.join([*MODELS, *ALIASES])}")
    return model.dims


def write_random(path: Path, shape: Union[str, Dims], type: str, *, n_threads: int = 0) -> None:
    """Writes a ggml file of a published shape; the same bytes for the same arguments.

    Args:
        path: where to.
        shape: a name of the catalog, such as ``base.en``, or dimensions.
        type: of the matrices.
        n_threads: 0 takes every CPU that the process may use.

    Raises:
        OptionError: no such shape or type.
        OSError: the file cannot be written.
    """
    dims = random_dims(shape) if isinstance(shape, str) else shape
    tensors = [SourceTensor(name, form, "f32", _rows(name, form)) for name, form in expected_shapes(dims).items()]
    source = Source(path, "random", [], dims, tensors, known_vocabulary(dims.n_vocab), mel_filters(dims.n_mels))
    with atomic_write(path, "wb") as stream:
        write_ggml(stream, path, source, plan_types(source, Recipe(type)), n_threads=n_threads)


def _rows(name: str, shape: tuple[int, ...]) -> ReadRows:
    """Values that keep activations of size one from layer to layer, so that nothing overflows or becomes denormal."""
    if name == "encoder.positional_embedding":
        return rows_of(sinusoids(*shape))
    if name.endswith(("ln.weight", "ln_post.weight")):
        return rows_of(np.ones(shape, np.float32))
    if name.endswith("bias"):
        return rows_of(np.zeros(shape, np.float32))
    row_size = shape[-1]
    scale = np.float32(1 / np.sqrt(np.prod(shape[1:])))
    seed = zlib.crc32(name.encode())

    def random(first: int, count: int) -> bytes:
        rng = np.random.default_rng([seed, first])
        return (rng.standard_normal((count, row_size), np.float32) * scale).astype("<f4").tobytes()

    return random
