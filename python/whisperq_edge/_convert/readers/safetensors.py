"""safetensors files, read and written by us: nothing is mapped or loaded but the rows that are asked for.

A file is a length (8 bytes, little endian), that many bytes of JSON (name -> dtype, shape, data_offsets) and the
values. What the format demands is checked before any of it is believed: no name twice, every value inside the file, no
overlap and no hole.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Union

from ..._errors import InternalError, ModelFormatError
from ..._system.files import atomic_write, reserve
from .source import FileSlice, regular_file_bytes, shown

__all__ = ["StoredTensor", "parse_json_object", "read_safetensors", "shown", "write_safetensors"]

_DTYPES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000  # what the format allows
_MOST_AXES = 8
_MOST_DIGITS = 20  # of a number: those of 2**64; longer ones cost quadratic time on Python 3.9
_MOST_ITEMS = 1_000_000  # JSON of 100 MB could hold 50 million lists, which would cost us gigabytes


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, its values still there.

    Attributes:
        shape: numpy's order; may be empty.
        type: ``f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool``.
        read_rows: ``(first, count)`` -> bytes of these rows, little endian; a row is ``shape[-1]`` values (one value
            of a tensor without axes). Safe to call from several threads.
        where: file and byte offset of the first value.
    """

    shape: tuple[int, ...]
    type: str
    read_rows: Callable[[int, int], bytes]
    where: tuple[str, int]


class _Entry(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


# ---- JSON that is not trusted ----------------------------------------------------------------------------------------


class _DuplicateKey(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKey(key)
        key.encode("utf-8")  # a lone surrogate could neither be printed nor written again
        found[key] = value
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _key_offset(data: bytes, key: str, occurrence: int = 1) -> int:
    """Where a key stands; 0 where it was written with escapes of another kind than ours."""
    quoted = json.dumps(key, ensure_ascii=not key.isprintable()).encode("utf-8", "replace")
    at = -1
    for _ in range(occurrence):
        at = data.find(quoted, at + 1)
    return max(at, 0)


def parse_json_object(data: bytes, path: Path, offset: int = 0, field: str = "JSON") -> dict[str, object]:
    """The JSON object in ``data``, which begins at byte ``offset`` of ``path``.

    Raises:
        ModelFormatError: no JSON, no object, a key twice, a number or nesting that only serves to exhaust us.
    """

    def wrong(at: int, value: str, allowed: str) -> ModelFormatError:
        return ModelFormatError(str(path), offset + at, field, value, allowed)

    for mark in (b"{", b"[", b","):
        if data.count(mark) > _MOST_ITEMS:
            raise wrong(0, f"JSON with {data.count(mark)} times {mark.decode()!r}", f"at most {_MOST_ITEMS}")
    try:
        text = data.decode("utf-8")
        parsed = json.loads(text, object_pairs_hook=_unique, parse_int=_whole_number)
    except UnicodeDecodeError as error:
        raise wrong(error.start, f"byte {data[error.start]:#04x}", "JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        at = len(text[: error.pos].encode("utf-8"))
        raise wrong(at, f"no JSON ({error.msg})", "a JSON object") from None
    except _DuplicateKey as error:
        raise wrong(_key_offset(data, error.key, 2), f"the key {shown(error.key)} twice", "each key once") from None
    except (ValueError, RecursionError) as error:
        raise wrong(0, f"JSON with {shown(str(error))}", "plain names and numbers, few levels deep") from None
    if not isinstance(parsed, dict):
        raise wrong(0, f"JSON of the kind {type(parsed).__name__}", "a JSON object")
    return parsed


# ---- Reading ---------------------------------------------------------------------------------------------------------


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Name -> tensor of a safetensors file, in the order of their values.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is damaged or is no safetensors file.
    """
    header, n_bytes = _read_header(path)
    data_at = _LENGTH_BYTES + len(header)
    entries = _entries(parse_json_object(header, path, _LENGTH_BYTES, "header"), header, path)
    _check_layout(entries, n_bytes - data_at, header, path)
    return {entry.name: _stored(entry, data_at, path) for entry in entries}


def _read_header(path: Path) -> tuple[bytes, int]:
    """The JSON and the size of the file."""
    n_bytes = regular_file_bytes(path)
    with open(path, "rb") as file:
        start = file.read(_LENGTH_BYTES)
        if len(start) < _LENGTH_BYTES:
            raise ModelFormatError(str(path), 0, "file size", f"{len(start)} bytes", "at least 10 bytes")
        (length,) = struct.unpack("<Q", start)
        most = min(_MOST_HEADER_BYTES, n_bytes - _LENGTH_BYTES)
        if not 2 <= length <= most:
            raise ModelFormatError(str(path), 0, "header length", str(length), f"2 to {most} bytes")
        header = file.read(length)
    if len(header) < length:
        raise ModelFormatError(str(path), _LENGTH_BYTES, "header", f"{len(header)} bytes", f"{length} bytes")
    if header[:1] != b"{":
        raise ModelFormatError(str(path), _LENGTH_BYTES, "header", shown(header[:8]), "JSON that begins with '{'")
    return header, n_bytes


def _entries(parsed: dict[str, object], header: bytes, path: Path) -> list[_Entry]:
    """Every tensor of the header, in the order of their values."""
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _wrong_entry(path, header, "__metadata__", "entry", shown(metadata), "an object of texts")
    found = [_entry(name, value, header, path) for name, value in parsed.items()]
    return sorted(found, key=lambda entry: (entry.begin, entry.end))


def _wrong_entry(path: Path, header: bytes, name: str, field: str, value: str, allowed: str) -> ModelFormatError:
    """The name is looked for only now: to do that for each of a million entries would take hours."""
    label = name if len(name) <= 80 and name.isprintable() else shown(name)
    return ModelFormatError(str(path), _LENGTH_BYTES + _key_offset(header, name), f"{label} {field}", value, allowed)


def _entry(name: str, value: object, header: bytes, path: Path) -> _Entry:
    def wrong(field: str, found: object, allowed: str) -> ModelFormatError:
        return _wrong_entry(path, header, name, field, shown(found), allowed)

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise wrong("entry", value, "an object of dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise wrong("dtype", dtype, " ".join(_DTYPES))
    if not _are_sizes(shape) or len(shape) > _MOST_AXES:
        raise wrong("shape", shape, f"at most {_MOST_AXES} whole numbers from 0 on")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong("data_offsets", offsets, "[begin, end] with begin <= end")
    n_bytes = _product(shape) * _DTYPES[dtype]
    if offsets[1] - offsets[0] != n_bytes:
        raise wrong("data_offsets", offsets, f"{n_bytes} bytes for {dtype} of shape {shown(shape)}")
    return _Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _product(shape: Sequence[int]) -> int:
    """Python's integers do not overflow; the number of factors and their digits are bounded by the caller."""
    product = 1
    for size in shape:
        product *= size
    return product


def _check_layout(entries: list[_Entry], data_bytes: int, header: bytes, path: Path) -> None:
    """Values lie one after the other from the first byte of the data to the last."""
    end = 0
    for entry in entries:
        found, allowed = f"[{entry.begin}, {entry.end}]", ""
        if entry.end > data_bytes:
            allowed = f"an end within the {data_bytes} bytes of data"
        elif entry.begin < end:
            allowed = f"a begin of {end}: these bytes are those of another tensor too"
        elif entry.begin > end:
            allowed = f"a begin of {end}: the bytes between are nobody's"
        if allowed:
            raise _wrong_entry(path, header, entry.name, "data_offsets", found, allowed)
        end = entry.end
    if end != data_bytes:
        raise ModelFormatError(
            str(path),
            _LENGTH_BYTES,
            "header",
            f"tensors of {end} bytes",
            f"{data_bytes} bytes, as many as the file has",
        )


def _stored(entry: _Entry, data_at: int, path: Path) -> StoredTensor:
    row_size = entry.shape[-1] if entry.shape else 1
    rows = FileSlice(path, data_at + entry.begin, row_size * _DTYPES[entry.dtype])
    return StoredTensor(entry.shape, entry.dtype.lower(), rows.read_rows, (str(path), data_at + entry.begin))


# ---- Writing ---------------------------------------------------------------------------------------------------------


def write_safetensors(
    path: Union[str, Path],
    entries: Iterable[tuple[str, Sequence[int], str, Iterable[bytes]]],
    on_progress: Optional[Callable[[float], None]] = None,
) -> None:
    """Writes tensors one chunk at a time; the file appears whole or not at all.

    Args:
        path: where to; what stood there is replaced.
        entries: (name, shape, type as in :class:`StoredTensor`, bytes of the values in pieces of any size). The pieces
            are asked for when they are written, the larger types first, which keeps all values aligned.
        on_progress: called with the part that is written, 0 to 1.

    Raises:
        OSError: the disk is full; the message says what is needed and what is free.
        InternalError: a name twice, an unknown type, or pieces that are not as many bytes as shape and type say.
    """
    listed = sorted(entries, key=lambda entry: -_value_bytes(entry[2]))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, type, _ in listed:
        if name in header:
            raise InternalError(f"{name!r} is to be written twice into {path}")
        begin, end = end, end + _product(shape) * _value_bytes(type)
        header[name] = {"dtype": type.upper(), "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    done = 0
    with atomic_write(path, "wb") as file:
        reserve(file, _LENGTH_BYTES + len(text) + end, path)
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape, type, pieces in listed:
            left = _product(shape) * _value_bytes(type)
            for piece in pieces:
                left -= len(piece)
                if left < 0:
                    break
                file.write(piece)
                done += len(piece)
                if on_progress is not None:
                    on_progress(done / end)
            if left:
                raise InternalError(f"{name}: {abs(left)} bytes too {'few' if left > 0 else 'many'} for {type} {shape}")


def _value_bytes(type: str) -> int:
    if type.upper() not in _DTYPES:
        raise InternalError(f"safetensors has no type {type!r}")
    return _DTYPES[type.upper()]
