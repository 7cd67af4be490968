"""Files that ``torch.save`` wrote, opened without torch: a zip with a pickle and the values of each storage beside it.

The pickle is walked (:mod:`.pickle_reader`), never unpickled. Values stay in the file until somebody asks for rows;
only those that are compressed, or whose axes were swapped, are held in memory, a bounded part of them at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Union

import numpy as np
import numpy.typing as npt

from ..._errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from .pickle_reader import PickledTensor, StorageRef, read_pickle
from .safetensors import shown
from .source import FileSlice
from .zip_reader import ZipEntry, read_zip

__all__ = ["TorchTensor", "is_torch_file", "read_torch_file"]

_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "i8": 1, "u8": 1, "bool": 1, "i32": 4, "i64": 8}

_MOST_PICKLE_BYTES = 64 << 20
_MOST_VALUES = 1 << 40  # of a tensor or a storage; keeps every product far from 64 bits
# What must be held in memory to read a tensor may be that much larger than the tensor; else a small file could ask for
# any amount of memory.
_MOST_WASTE = 16
_HARMLESS_BYTES = 64 << 20
_HELD_BYTES = 256 << 20

_ZIP = b"PK\x03\x04"
_LEGACY = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # a pickle of this number opens the format before torch 1.6
_LEGACY_START = b"\x80\x02\x8a\n"


@dataclass(frozen=True)
class TorchTensor:
    """One tensor of a file, its values still there.

    Attributes:
        shape: may be empty.
        type: ``f32 f16 bf16 f64 i8 u8 bool i32 i64``.
        read_rows: ``(first, count)`` -> bytes of these rows, little endian; a row is ``shape[-1]`` values (one value
            of a tensor without axes). Safe to call from several threads.
        where: file and byte offset of the first value, or of the compressed entry that it is in.
    """

    shape: tuple[int, ...]
    type: str
    read_rows: Callable[[int, int], bytes]
    where: tuple[str, int]


def is_torch_file(path: Path) -> bool:
    """Whether a file begins like one of ``torch.save``, of today or of before torch 1.6. False for what is no file."""
    if not path.is_file():
        return False
    start = _start(path)
    return start.startswith(_ZIP) or _is_legacy(start)


def read_torch_file(path: Path) -> object:
    """What ``torch.save`` put into a file: plain containers (:func:`.read_pickle`) with a TorchTensor for each tensor.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeModelError: its pickle asks for more than tensors and plain containers.
        UnsupportedModelError: a format before torch 1.6, TorchScript, big endian or encrypted.
        ModelFormatError: it is damaged or is no such file.
    """
    _check_start(path)
    entries = read_zip(path)
    top = _top_folder(entries, path)
    _check_byte_order(entries.get(f"{top}/byteorder"))
    pickle = entries[f"{top}/data.pkl"]
    if pickle.size > _MOST_PICKLE_BYTES:
        raise ModelFormatError(
            str(path), pickle.offset, f"{shown(pickle.name)} size", str(pickle.size), f"at most {_MOST_PICKLE_BYTES}"
        )
    tensors = _Tensors(path, top, entries)
    offset = pickle.offset if pickle.stored else None
    return read_pickle(bytes(pickle.unpack()), path, tensors.build, offset)


# ---- The file as a whole ---------------------------------------------------------------------------------------------


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _is_legacy(start: bytes) -> bool:
    return start.startswith(_LEGACY_START) or (start[:1] == b"\x80" and _LEGACY in start[:32])


def _check_start(path: Path) -> None:
    if not path.is_file():
        if path.exists():  # to open a pipe would wait for ever
            raise ModelFormatError(str(path), 0, "file", "a folder, pipe or device", "a regular file")
        raise ModelNotFoundError(f"there is no file {path}")
    start = _start(path)
    if _is_legacy(start) or start[257:262] == b"ustar":
        which = "a pickle" if _is_legacy(start) else "a tar"
        raise UnsupportedModelError(
            f"{path} is {which} in the format that torch wrote before version 1.6. Save it again with a newer torch"
            " (torch.save(torch.load(path, weights_only=True), path)), or use the model's safetensors file"
        )
    if not start.startswith(_ZIP):
        raise ModelFormatError(
            str(path), 0, "first bytes", shown(start[:8]), "PK\\x03\\x04, a zip as torch.save writes it"
        )


def _top_folder(entries: dict[str, ZipEntry], path: Path) -> str:
    """Its name is that of the file that was saved, or ``archive``."""
    tops = [name.split("/")[0] for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(tops) != 1:
        raise ModelFormatError(
            str(path), 0, "zip", f"with {len(tops)} entries FOLDER/data.pkl", "1, as torch.save writes"
        )
    if f"{tops[0]}/constants.pkl" in entries:
        raise UnsupportedModelError(
            f"{path} is TorchScript, a program and not a checkpoint: save the model's state_dict with torch.save"
        )
    return tops[0]


def _check_byte_order(entry: object) -> None:
    """Files of before torch 2.1 do not say; they were little endian wherever Whisper was trained."""
    if not isinstance(entry, ZipEntry):
        return
    order = bytes(entry.unpack()) if entry.size <= 16 else b""
    if order == b"big":
        raise UnsupportedModelError(f"{entry.path} is big endian: save it again on a little endian machine")
    if order != b"little":
        raise ModelFormatError(str(entry.path), entry.offset, "byteorder", shown(order), "little")


# ---- Bytes that must be held in memory -------------------------------------------------------------------------------


class _Held:
    """The blocks of bytes that were used last; each is made once however many threads ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[object, Union[bytes, bytearray]] = OrderedDict()

    def get(self, key: object, make: Callable[[], Union[bytes, bytearray]]) -> Union[bytes, bytearray]:
        with self._lock:
            block = self._blocks.pop(key, None)
            if block is None:
                block = make()
            self._blocks[key] = block
            while len(self._blocks) > 1 and sum(map(len, self._blocks.values())) > _HELD_BYTES:
                self._blocks.popitem(last=False)
            return block


@dataclass(frozen=True)
class _Span:
    """A stretch of a storage that is read as a whole: ``n_bytes`` from ``begin`` on."""

    entry: ZipEntry
    begin: int
    n_bytes: int
    held: _Held

    @property
    def held_bytes(self) -> int:
        """What :meth:`get` keeps in memory: a compressed entry can only be unpacked from its beginning."""
        return self.n_bytes if self.entry.stored else self.entry.size

    def get(self) -> memoryview:
        if self.entry.stored:
            slice_ = FileSlice(self.entry.path, self.entry.offset + self.begin, self.n_bytes)
            return memoryview(
                self.held.get((self.entry.offset, self.begin, self.n_bytes), lambda: slice_.read_rows(0, 1))
            )
        whole = memoryview(self.held.get(self.entry.offset, self.entry.unpack))
        return whole[self.begin : self.begin + self.n_bytes]


@dataclass(frozen=True)
class _RowsInOrder:
    """Rows one after the other in a compressed storage."""

    span: _Span
    row_bytes: int

    def read_rows(self, first: int, count: int) -> bytes:
        return bytes(self.span.get()[first * self.row_bytes : (first + count) * self.row_bytes])


@dataclass(frozen=True)
class _RowsAcross:
    """Rows of a tensor with other strides: a transposed one, a slice of columns, one value repeated."""

    span: _Span
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    value_bytes: int

    def read_rows(self, first: int, count: int) -> bytes:
        """Strides were checked to stay within the span, which is as long as the tensor reaches."""
        values = np.frombuffer(self.span.get(), f"<u{self.value_bytes}")
        strides = [step * self.value_bytes for step in self.stride]
        view = np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)
        if view.ndim < 2:
            return view.tobytes()
        return _rows_of(view, np.arange(first, first + count))


def _rows_of(view: npt.NDArray[np.unsignedinteger], rows: npt.NDArray[np.int64]) -> bytes:
    return view[np.unravel_index(rows, view.shape[:-1])].tobytes()


# ---- Tensors ---------------------------------------------------------------------------------------------------------


class _Tensors:
    """Makes the TorchTensors of a file."""

    def __init__(self, path: Path, top: str, entries: dict[str, ZipEntry]) -> None:
        self._path, self._top, self._entries = path, top, entries
        self._held = _Held()
        self._storages: dict[str, StorageRef] = {}

    def build(self, pickled: PickledTensor) -> TorchTensor:
        """Raises ModelFormatError when a value of the tensor would lie outside its storage."""
        storage, shape = pickled.storage, pickled.size
        entry = self._entry(storage)
        value_bytes = _VALUE_BYTES[storage.type]
        n_values = self._n_values(pickled, entry)
        row_bytes = (shape[-1] if shape else 1) * value_bytes
        begin = pickled.offset * value_bytes
        where = (str(self._path), entry.offset + (begin if entry.stored else 0))
        if n_values == 0:
            return TorchTensor(shape, storage.type, lambda first, count: b"", where)
        span = _Span(entry, begin, self._reach(pickled) * value_bytes, self._held)
        rows: Union[FileSlice, _RowsInOrder, _RowsAcross]
        if not _is_contiguous(shape, pickled.stride):
            rows = _RowsAcross(span, shape, pickled.stride, value_bytes)
        elif entry.stored:
            rows = FileSlice(self._path, entry.offset + begin, row_bytes)
        else:
            rows = _RowsInOrder(span, row_bytes)
        if not isinstance(rows, FileSlice):
            self._check_waste(entry, span.held_bytes, n_values * value_bytes)
        return TorchTensor(shape, storage.type, rows.read_rows, where)

    def _entry(self, storage: StorageRef) -> ZipEntry:
        """The entry of a storage, of exactly the size that the pickle says."""
        entry = self._entries.get(f"{self._top}/data/{storage.key}")
        if entry is None:
            name = shown(f"{self._top}/data/{storage.key}")
            raise ModelFormatError(str(self._path), 0, f"entry {name}", "missing", "the values of a tensor")
        known = self._storages.setdefault(storage.key, storage)
        n_bytes = storage.n_values * _VALUE_BYTES[storage.type]
        if known != storage or entry.size != n_bytes:
            allowed = f"{n_bytes} for {storage.n_values} values of {storage.type}"
            if known != storage:
                allowed = f"{known.n_values} values of {known.type} as before, not {storage.n_values} of {storage.type}"
            raise ModelFormatError(
                str(self._path), entry.offset, f"{shown(entry.name)} size", f"{entry.size} bytes", allowed
            )
        return entry

    def _n_values(self, pickled: PickledTensor, entry: ZipEntry) -> int:
        n_values = 1
        for size in pickled.size:
            n_values *= size
        if max(n_values, *pickled.size, *pickled.stride, 0) > _MOST_VALUES:
            raise ModelFormatError(
                str(self._path),
                entry.offset,
                "shape of a tensor",
                shown(pickled.size),
                f"at most {_MOST_VALUES} values",
            )
        reach = self._reach(pickled) if n_values else 0
        if pickled.offset + reach > pickled.storage.n_values:
            raise ModelFormatError(
                str(self._path),
                entry.offset,
                f"tensor of shape {pickled.size}, stride {shown(pickled.stride)}, offset {pickled.offset}",
                f"{pickled.offset + reach} values long",
                f"within the {pickled.storage.n_values} values of {shown(entry.name)}",
            )
        return n_values

    @staticmethod
    def _reach(pickled: PickledTensor) -> int:
        """Values from the first to the last of a tensor that has any."""
        return 1 + sum((size - 1) * step for size, step in zip(pickled.size, pickled.stride))

    def _check_waste(self, entry: ZipEntry, held_bytes: int, needed_bytes: int) -> None:
        most = max(_MOST_WASTE * needed_bytes, _HARMLESS_BYTES)
        if held_bytes > most:
            raise ModelFormatError(
                str(self._path),
                entry.offset,
                f"{shown(entry.name)} size",
                f"{held_bytes} bytes to hold in memory for a tensor of {needed_bytes}",
                f"at most {most}",
            )


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride)):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True
