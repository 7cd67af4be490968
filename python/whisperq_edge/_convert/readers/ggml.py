"""Model files of whisper.cpp as a source: any type that the ggml reader knows.

``_core.read_model_file`` has looked at every byte but the weights before anything here runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..._core import ModelFile, TensorInfo, read_model_file
from ..._whisper.shapes import expected_shapes
from .source import FLOAT_TYPES, FileSlice, Source, SourceTensor, check_dims, check_tensors, matrix_type

__all__ = ["MAGIC", "is_ggml", "open_ggml", "quantized_note"]

MAGIC = b"lmgg"
"""0x67676d6c in little-endian order."""


def is_ggml(path: Path) -> bool:
    """Whether a file begins as a ggml file does. Raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_ggml(path: Path) -> Source:
    """A ggml file, with the order of its tensors, its vocabulary and its mel filters as they are.

    Raises:
        ModelNotFoundError: nothing can be opened there.
        ModelFormatError: it is damaged or no ggml Whisper model.
    """
    model = read_model_file(path)
    dims = check_dims(dict(model.hparams), path)
    shapes = expected_shapes(dims)
    tensors = [_tensor(path, info, shapes[info.name]) for info in model.tensors]
    return check_tensors(
        Source(
            path=path,
            format="ggml",
            files=[path],
            dims=dims,
            tensors=tensors,
            vocabulary=model.vocabulary,
            mel_filters=_mel_filters(path, model),
            ftype=matrix_type(tensors),
            notes=quantized_note(tensors),
        )
    )


def quantized_note(tensors: Iterable[SourceTensor]) -> list[str]:
    """One sentence when some of the tensors are quantised already, none otherwise."""
    types = sorted({tensor.type for tensor in tensors} - FLOAT_TYPES.keys())
    if not types:
        return []
    return [
        f"The source is quantised already ({', '.join(types)}): its error stays and that of the new type is added to"
        " it. Take the f16 or f32 model as the source if there is one."
    ]


def _tensor(path: Path, info: TensorInfo, shape: tuple[int, ...]) -> SourceTensor:
    """``shape`` is the architecture's: files store the bias of a convolution as a column and may pad with ones."""
    n_rows = int(np.prod(shape[:-1], dtype=np.int64))
    rows = FileSlice(path, info.offset, info.n_bytes // n_rows)
    return SourceTensor(info.name, shape, info.type, rows.read_rows, where=(str(path), info.offset))


def _mel_filters(path: Path, model: ModelFile) -> npt.NDArray[np.float32]:
    data = FileSlice(path, model.mel_filters_offset, 4 * model.n_fft).read_rows(0, model.n_mel)
    return np.frombuffer(data, "<f4").reshape(model.n_mel, model.n_fft).astype(np.float32)
