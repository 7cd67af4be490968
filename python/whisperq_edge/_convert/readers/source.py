"""What every reader of a model gives: dimensions, vocabulary, and tensors whose rows are read when they are needed.

Tensors carry openai/whisper's names (``encoder.blocks.0.attn.query.weight``) whatever the file called them, and numpy's
order of the axes: ``shape[-1]`` is the length of a row.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import numpy.typing as npt

from ..._errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from ..._whisper.dims import ENGLISH_VOCAB, Dims
from ..._whisper.shapes import expected_shapes
from ..._whisper.types import common_type, is_matrix
from ..._whisper.units import TOKENS_PER_WINDOW

__all__ = [
    "FLOAT_TYPES",
    "VALUE_BYTES",
    "FileSlice",
    "Source",
    "SourceTensor",
    "check_dims",
    "check_tensors",
    "matrix_type",
    "regular_file_bytes",
    "rows_of",
    "shown",
    "sinusoids",
]

FLOAT_TYPES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8}
"""Plain floats and the bytes of one value."""

VALUE_BYTES = {**FLOAT_TYPES, "i8": 1}
"""The same, and int8 with a scale for each row: every type of a source that is no block type of ggml."""

_HEAD_SIZE = 64


def shown(value: object) -> str:
    """A value from a file as it may stand in a message: ASCII, and not a page of it."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


# Ranges that every published model is well within; they bound what a file can make us allocate. The same as those of
# the ggml reader (csrc/model/file_format.cpp), so that what converts can be read again. Only n_vocab may be larger:
# readers leave out the rows behind Whisper's own tokens (token_ids.py).
_RANGES = {
    "n_mels": (80, 128),
    "n_audio_ctx": (1, TOKENS_PER_WINDOW),
    "n_audio_state": (64, 4096),
    "n_audio_head": (1, 64),
    "n_audio_layer": (1, 64),
    "n_text_ctx": (1, 4096),
    "n_text_state": (64, 4096),
    "n_text_head": (1, 64),
    "n_text_layer": (1, 64),
    "n_vocab": (ENGLISH_VOCAB, 2**18),
}


def regular_file_bytes(path: Path) -> int:
    """Size of a file, found out before it is opened: to open a pipe would wait for ever.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is a folder, pipe or device.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ModelNotFoundError(f"there is no file {path}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelFormatError(str(path), 0, "file", "a folder, pipe or device", "a regular file")
    return status.st_size


def check_dims(values: dict[str, object], path: Path) -> Dims:
    """Dimensions from a file, each an int in the range that Whisper's architecture and the ggml format allow.

    Raises:
        ModelFormatError: a dimension is missing or is no number.
        UnsupportedModelError: a number that no Whisper of ours can have.
    """
    for name, (least, most) in _RANGES.items():
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            # Lists of a pickle may hold each other in so many places that a text of them would never end.
            plain = value is None or isinstance(value, (str, float, bool))
            found = shown(value) if plain else f"a {type(value).__name__}"
            raise ModelFormatError(str(path), 0, name, found, f"a whole number from {least} to {most}")
        if not least <= value <= most:
            raise UnsupportedModelError(f"{path}: {name} is {value}; a Whisper model has {least} to {most}")
    dims = Dims(*(int(values[name]) for name in Dims._fields))  # type: ignore[call-overload]
    if dims.n_mels not in (80, 128):
        raise UnsupportedModelError(f"{path}: n_mels is {dims.n_mels}; a Whisper model has 80 or 128")
    if dims.n_text_state != dims.n_audio_state:
        raise UnsupportedModelError(
            f"{path}: n_text_state is {dims.n_text_state} and n_audio_state {dims.n_audio_state}; they must be equal"
        )
    for state, heads in ((dims.n_audio_state, dims.n_audio_head), (dims.n_text_state, dims.n_text_head)):
        if state != _HEAD_SIZE * heads:
            raise UnsupportedModelError(f"{path}: {heads} heads for {state} values; Whisper has {_HEAD_SIZE} a head")
    return dims


@dataclass(frozen=True)
class FileSlice:
    """Rows that lie one after the other in a file, uncompressed."""

    path: Path
    offset: int
    row_bytes: int

    def read_rows(self, first: int, count: int) -> bytes:
        """Raises ModelFormatError when the file ends before (it shrank since it was checked)."""
        wanted, at = count * self.row_bytes, self.offset + first * self.row_bytes
        with open(self.path, "rb", buffering=0) as file:
            file.seek(at)
            chunks = []
            left = wanted
            while left:
                chunk = file.read(left)
                if not chunk:
                    raise ModelFormatError(
                        str(self.path), at, "weights", f"{wanted - left} bytes", f"{wanted} bytes before the file ends"
                    )
                chunks.append(chunk)
                left -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a model.

    Attributes:
        name: openai/whisper's name.
        shape: numpy's order.
        type: of the values in ``read_rows``: ``f32 f16 bf16 f64``, ``i8`` (with ``row_scales``) or a block type of
            ggml.
        read_rows: ``(first, count)`` -> the bytes of these rows, a row being ``shape[-1]`` values of ``type``; a tensor
            of one axis is one row. Safe to call from several threads.
        row_scales: of ``i8``: float32 ``[n_rows]``; value = code * row_scales[row].
        where: file and byte offset that an error about these values shall name.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    read_rows: Callable[[int, int], bytes]
    row_scales: Optional[npt.NDArray[np.float32]] = None
    where: tuple[str, int] = ("", 0)

    @property
    def is_matrix(self) -> bool:
        """Whether it takes any type."""
        return is_matrix(self.name, len(self.shape))

    @property
    def row_size(self) -> int:
        return self.shape[-1]

    @property
    def n_rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def n_values(self) -> int:
        return prod(self.shape)


@dataclass
class Source:
    """A model to convert.

    Attributes:
        path: what the user named.
        format: ``ggml``, ``openai``, ``huggingface`` or ``ctranslate2``.
        files: every file that was read, in a fixed order; their bytes are the model's identity.
        dims: checked.
        vocabulary: bytes of each text token by id, or None: the file has none, take the one that fits ``n_vocab``.
        mel_filters: float32 ``[n_mels, 201]`` or None: Whisper's own.
        tensors: every tensor of the architecture, once (:func:`check_tensors`), in the order to write them.
        ftype: name of the type that the matrices have (``mixed`` for several).
        notes: sentences for the report: what was left out, ignored or assumed.
    """

    path: Path
    format: str
    files: list[Path]
    dims: Dims
    tensors: list[SourceTensor]
    vocabulary: Optional[list[bytes]] = None
    mel_filters: Optional[npt.NDArray[np.float32]] = None
    ftype: str = "f32"
    notes: list[str] = field(default_factory=list)


def matrix_type(tensors: Iterable[SourceTensor]) -> str:
    """The type that the matrices have, ``mixed`` for several."""
    return common_type(tensor.type for tensor in tensors if tensor.is_matrix)


def check_tensors(source: Source) -> Source:
    """The same source with its tensors known to be every one of the architecture, once and in shape.

    Raises:
        ModelFormatError: a tensor is missing, there twice, of another shape or unknown.
    """
    shapes = expected_shapes(source.dims)
    seen: set[str] = set()
    for tensor in source.tensors:
        path, offset = tensor.where if tensor.where[0] else (str(source.path), 0)
        if tensor.name not in shapes:
            found = shown(tensor.name)[1:-1]
            raise ModelFormatError(path, offset, "tensor name", found, "a tensor of a Whisper of these dimensions")
        if tensor.name in seen:
            raise ModelFormatError(path, offset, tensor.name, "there for the second time", "each tensor once")
        if tensor.shape != shapes[tensor.name]:
            raise ModelFormatError(path, offset, f"{tensor.name} shape", str(tensor.shape), str(shapes[tensor.name]))
        seen.add(tensor.name)
    missing = [name for name in shapes if name not in seen]
    if missing:
        raise ModelFormatError(
            str(source.path), 0, missing[0], "missing", f"all {len(shapes)} tensors ({len(seen)} are there)"
        )
    return source


def sinusoids(n_ctx: int, n_state: int) -> npt.NDArray[np.float32]:
    """The encoder's fixed positions ``[n_ctx, n_state]`` as openai/whisper computes them (``model.py``: sinusoids),
    for files that leave them out."""
    increment = np.log(10000.0) / (n_state // 2 - 1)
    inverse = np.exp((-increment * np.arange(n_state // 2)).astype(np.float32)).astype(np.float32)
    angles = np.arange(n_ctx, dtype=np.float32)[:, None] * inverse[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def rows_of(values: npt.NDArray[np.float32]) -> Callable[[int, int], bytes]:
    """``read_rows`` for values that are in memory."""
    flat = np.ascontiguousarray(values, "<f4").reshape(-1, values.shape[-1])
    return lambda first, count: flat[first : first + count].tobytes()
