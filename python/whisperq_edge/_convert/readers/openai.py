"""OpenAI's checkpoints (``base.en.pt``), read and written without torch: ``{"dims": {}, "model_state_dict": {}}``."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Callable, Optional

from ..._errors import InternalError, ModelFormatError, OptionError
from ..._system.files import atomic_write
from .rows import chunks, encode_rows
from .safetensors import shown
from .source import FLOAT_TYPES, Source, SourceTensor, check_dims, check_tensors, matrix_type
from .token_ids import KINDS, Listing, choose_kind, fit_tokens, keep_rows
from .torch_file import TorchTensor, is_torch_file, read_torch_file

__all__ = ["is_torch_file", "open_openai", "write_openai"]

# Buffers that openai/whisper computes itself; checkpoints of its earlier versions and of some fine-tunes have them.
_NOT_PARAMETERS = re.compile(r"alignment_heads|(.*\.)?mask")
_WRITTEN_TYPES = {"f16": "HalfStorage", "f32": "FloatStorage"}


# ---- Reading ---------------------------------------------------------------------------------------------------------


def open_openai(path: Path) -> Source:
    """The model in a checkpoint of openai/whisper, its weights still in the file.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeModelError: its pickle asks for more than tensors and plain containers.
        UnsupportedModelError: a format or dimensions that we do not read.
        ModelFormatError: damaged, no checkpoint of a Whisper, or tensors that are missing, unknown or no floats.
    """
    checkpoint = read_torch_file(path)
    dims, state = _parts(checkpoint, path)
    source = Source(path=path, format="openai", files=[path], dims=check_dims(dims, path), tensors=[])
    ignored = []
    for name, value in state.items():
        if _NOT_PARAMETERS.fullmatch(name):
            ignored.append(name)
        else:
            source.tensors.append(_source_tensor(name, value, path))
    if ignored:
        source.notes.append(f"Left out, for they are no weights: {', '.join(map(shown, ignored))}.")
    _fit_rows(source)
    check_tensors(source)
    source.ftype = matrix_type(source.tensors)
    return source


def _fit_rows(source: Source) -> None:
    """Cut the token embedding to Whisper's own tokens. A checkpoint lists no ids: ``n_vocab`` says which Whisper it is,
    as it does for openai/whisper, or with padding the mel bins."""
    stated = source.dims.n_vocab
    embedding = next((tensor for tensor in source.tensors if tensor.name == "decoder.token_embedding.weight"), None)
    n_rows = embedding.shape[0] if embedding is not None and len(embedding.shape) == 2 else stated
    kind = next((kind for kind in KINDS if kind.n_vocab == stated), None)
    if kind is None:
        kind = choose_kind(source.path, stated, source.dims.n_mels, Listing(), source.notes)
    if n_rows > kind.n_vocab:
        fit_tokens(source.path, kind, n_rows, Listing(), source.notes)
        source.dims = source.dims._replace(n_vocab=kind.n_vocab)
        source.tensors = keep_rows(source.tensors, source.dims, n_rows)


def _parts(checkpoint: object, path: Path) -> tuple[dict[str, object], dict[str, object]]:
    wanted = "a dict with dims and model_state_dict, as openai/whisper writes it"
    if not isinstance(checkpoint, dict):
        raise ModelFormatError(str(path), 0, "checkpoint", f"a {type(checkpoint).__name__}", wanted)
    for part in ("dims", "model_state_dict"):
        value = checkpoint.get(part)
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            if any(isinstance(name, str) and name.startswith("model.encoder.") for name in checkpoint):
                wanted += "; these names are Hugging Face's: name the folder with its config.json instead of this file"
            found = "missing" if part not in checkpoint else "no dict of names"
            names = ", ".join(shown(name) for name in list(checkpoint)[:4]) or "nothing"
            raise ModelFormatError(str(path), 0, part, f"{found} (the file has {names})", wanted)
    return checkpoint["dims"], checkpoint["model_state_dict"]


def _source_tensor(name: str, value: object, path: Path) -> SourceTensor:
    if not isinstance(value, TorchTensor):
        raise ModelFormatError(str(path), 0, shown(name), f"a {type(value).__name__}", "a tensor")
    if value.type not in FLOAT_TYPES:
        raise ModelFormatError(value.where[0], value.where[1], f"{shown(name)} type", value.type, " ".join(FLOAT_TYPES))
    return SourceTensor(name, value.shape, value.type, value.read_rows, where=value.where)


# ---- Writing ---------------------------------------------------------------------------------------------------------

_TOP = "archive"
_ALIGNMENT = 64
_LOCAL_HEADER_BYTES = 30
_ZIP64_FIELD_BYTES = 20  # what zipfile puts before our own field
_ZIP64_FROM = 1 << 31


def write_openai(
    source: Source, destination: Path, type: str = "f16", on_progress: Optional[Callable[[float], None]] = None
) -> None:
    """Writes a checkpoint that ``whisper.load_model`` and ``torch.load(weights_only=True)`` read; whole or not at all.

    Args:
        source: the model. A few MB of it are in memory at any time.
        destination: a file, replaced if it is there. No pipe: a zip is written with seeks.
        type: of all tensors: ``f16`` as OpenAI has it, or ``f32``.
        on_progress: called with the part that is written, 0 to 1.

    Raises:
        OptionError: ``type`` is neither ``f16`` nor ``f32``.
        ModelFormatError: a weight is NaN or infinite, or the source is damaged.
        UnsupportedModelError: a weight too large for f16.
        OSError: the file cannot be written.
    """
    if type not in _WRITTEN_TYPES:
        raise OptionError("type", type, f"one of {' '.join(_WRITTEN_TYPES)}, which an OpenAI checkpoint can have")
    progress = _Progress(sum(tensor.n_values for tensor in source.tensors), on_progress)
    # zipfile's default date is 1980: the same model gives the same bytes.
    with atomic_write(destination, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _put(archive, file, "data.pkl", _checkpoint_pickle(source, type))
        _put(archive, file, "byteorder", b"little")
        for key, tensor in enumerate(source.tensors):
            _put_tensor(archive, file, f"data/{key}", tensor, type, progress)
        _put(archive, file, "version", b"3\n")


class _Progress:
    def __init__(self, n_values: int, report: Optional[Callable[[float], None]]) -> None:
        self._n_values, self._report = n_values, report
        self._done = 0

    def add(self, n_values: int) -> None:
        self._done += n_values
        if self._report is not None:
            self._report(self._done / self._n_values)


def _put_tensor(
    archive: zipfile.ZipFile, file: IO[bytes], name: str, tensor: SourceTensor, type: str, progress: _Progress
) -> None:
    n_bytes = tensor.n_values * FLOAT_TYPES[type]
    with _open_entry(archive, file, name, n_bytes) as entry:
        for first, count in chunks(tensor):
            data = encode_rows(tensor, first, count, type)
            if len(data) != count * tensor.row_size * FLOAT_TYPES[type]:
                raise InternalError(f"{tensor.name}: {len(data)} bytes for {count} rows of {tensor.row_size} {type}")
            entry.write(data)
            progress.add(count * tensor.row_size)


def _put(archive: zipfile.ZipFile, file: IO[bytes], name: str, data: bytes) -> None:
    with _open_entry(archive, file, name, len(data)) as entry:
        entry.write(data)


def _open_entry(archive: zipfile.ZipFile, file: IO[bytes], name: str, n_bytes: int) -> IO[bytes]:
    """A new entry whose data begins at a multiple of 64 bytes, as torch aligns what it maps."""
    info = zipfile.ZipInfo(f"{_TOP}/{name}")
    info.file_size = n_bytes
    wide = n_bytes >= _ZIP64_FROM
    header_bytes = _LOCAL_HEADER_BYTES + len(info.filename) + (_ZIP64_FIELD_BYTES if wide else 0)
    info.extra = _padding(file.tell() + header_bytes)
    return archive.open(info, "w", force_zip64=wide)


def _padding(offset: int) -> bytes:
    """An extra field of zip (``FB`` is torch's too) that moves what follows to the next multiple of 64."""
    length = -(offset + 4) % _ALIGNMENT
    return b"FB" + struct.pack("<H", length) + bytes(length)


# ---- The pickle (protocol 2, as torch.save writes it) ----------------------------------------------------------------

_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _checkpoint_pickle(source: Source, type: str) -> bytes:
    dims = b"".join(_text(name) + _int(value) for name, value in source.dims._asdict().items())
    state = b"".join(_text(tensor.name) + _tensor(key, tensor, type) for key, tensor in enumerate(source.tensors))
    parts = _text("dims") + b"}(" + dims + b"u" + _text("model_state_dict") + _ORDERED_DICT + b"(" + state + b"u"
    return b"\x80\x02}(" + parts + b"u."


def _tensor(key: int, tensor: SourceTensor, type: str) -> bytes:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)."""
    storage = _text("storage") + f"ctorch\n{_WRITTEN_TYPES[type]}\n".encode() + _text(str(key)) + _text("cpu")
    storage = b"(" + storage + _int(tensor.n_values) + b"tQ"
    layout = _ints(tensor.shape) + _ints(_strides(tensor.shape))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _int(0) + layout + b"\x89" + _ORDERED_DICT + b"tR"


def _strides(shape: Sequence[int]) -> list[int]:
    """Of values one after the other, in values."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * shape[axis]
    return strides


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _ints(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
