"""The directory of a zip file that nobody vouches for, and its entries: where they lie, or their bytes unpacked.

Narrower than zipfile on purpose: one disk, nothing encrypted, stored or deflated, no name twice, no two entries in the
same bytes of the file, and no entry that claims more than deflate could hold. Entries that are stored can be read where
they lie.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from ..._errors import ModelFormatError, UnsupportedModelError
from .source import regular_file_bytes, shown

__all__ = ["ZipEntry", "read_zip"]

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # plain, strong, and of the directory
_UTF8 = 0x0800
_ABSENT16, _ABSENT32 = 0xFFFF, 0xFFFFFFFF  # "the number is in the zip64 field"
_ZIP64 = 0x0001

_MOST_ENTRIES = 65_536  # large-v3 has 1,261
_MOST_DIRECTORY_BYTES = 16 << 20
_MOST_DEFLATE_RATIO = 1032  # 258 bytes from two bits
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class ZipEntry:
    """One file in the zip.

    Attributes:
        path: the zip.
        name: with its folders.
        size: bytes unpacked, as the directory claims; :meth:`unpack` proves it.
        packed_bytes: bytes in the zip, within the file and in no other entry.
        crc: of the unpacked bytes.
        stored: not compressed.
        offset: of the first packed byte in the zip.
    """

    path: Path
    name: str
    size: int
    packed_bytes: int
    crc: int
    stored: bool
    offset: int

    def unpack(self) -> bytearray:
        """All bytes, in memory; the caller has looked at ``size``.

        Raises:
            ModelFormatError: they are not as many as claimed, cannot be inflated or have another checksum.
        """
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = self._read(file) if self.stored else self._inflate(file)
        # torch can be told to compute no checksums and then writes zeros.
        if not (self.stored and self.crc == 0) and zlib.crc32(data) != self.crc:
            raise self._wrong("checksum", f"{zlib.crc32(data):#010x}", f"{self.crc:#010x}")
        return data

    def _read(self, file: BufferedReader) -> bytearray:
        data = bytearray(self.size)
        if file.readinto(data) != self.size:
            raise self._wrong("data", "cut off", f"{self.size} bytes")
        return data

    def _inflate(self, file: BufferedReader) -> bytearray:
        data, at, left = bytearray(self.size), 0, self.packed_bytes
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        while not inflater.eof:
            packed = inflater.unconsumed_tail
            if not packed:
                packed = file.read(min(left, _PIECE_BYTES))
                left -= len(packed)
            try:
                piece = inflater.decompress(packed, _PIECE_BYTES)
            except zlib.error as error:
                raise self._wrong("deflated data", f"damaged ({error})", "what deflate writes") from None
            if not packed and not piece and not inflater.eof:
                raise self._wrong("deflated data", f"cut off after {at} bytes", f"{self.size} bytes")
            if at + len(piece) > self.size:
                raise self._wrong("deflated data", f"more than {self.size} bytes", "as many as the directory claims")
            data[at : at + len(piece)] = piece
            at += len(piece)
        if at != self.size:
            raise self._wrong("deflated data", f"{at} bytes", f"{self.size}, as the directory claims")
        return data

    def _wrong(self, field: str, value: str, allowed: str) -> ModelFormatError:
        return ModelFormatError(str(self.path), self.offset, f"{shown(self.name)} {field}", value, allowed)


def read_zip(path: Path) -> dict[str, ZipEntry]:
    """Name -> entry of every entry of a zip file.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is damaged or is no zip file.
        UnsupportedModelError: encrypted, or packed by a method that torch does not use.
    """
    n_bytes = regular_file_bytes(path)
    with open(path, "rb") as file:
        return _Zip(path, file, n_bytes).entries()


class _Directory(NamedTuple):
    offset: int
    n_bytes: int
    n_entries: int


class _Zip:
    def __init__(self, path: Path, file: BufferedReader, n_bytes: int) -> None:
        self._path, self._file, self._n_bytes = path, file, n_bytes

    def entries(self) -> dict[str, ZipEntry]:
        directory = self._directory()
        data = self._read(directory.offset, directory.n_bytes, "directory of the zip")
        found: dict[str, ZipEntry] = {}
        at = 0
        for _ in range(directory.n_entries):
            entry, length = self._entry(data, at, directory.offset)
            if entry.name in found:
                raise self._wrong(directory.offset + at, "entry", f"{shown(entry.name)} twice", "each name once")
            found[entry.name] = entry
            at += length
        if at != len(data):
            raise self._wrong(directory.offset, "directory of the zip", f"{len(data)} bytes", f"{at} for its entries")
        self._check_apart(list(found.values()), directory)
        return found

    def _wrong(self, at: int, field: str, value: str, allowed: str) -> ModelFormatError:
        return ModelFormatError(str(self._path), at, field, value, allowed)

    def _read(self, at: int, count: int, field: str) -> bytes:
        if not 0 <= at <= self._n_bytes - count:
            raise self._wrong(
                max(0, min(at, self._n_bytes)),
                field,
                f"{count} bytes from byte {at} on",
                f"within the {self._n_bytes} bytes",
            )
        self._file.seek(at)
        data = self._file.read(count)
        if len(data) != count:
            raise self._wrong(at, field, f"{len(data)} bytes", f"{count} bytes")
        return data

    def _directory(self) -> _Directory:
        """From the record at the end of the file, or the one of zip64 before it."""
        tail_at = max(0, self._n_bytes - _END.size - _ABSENT16)
        tail = self._read(tail_at, self._n_bytes - tail_at, "file")
        end_at = tail.rfind(b"PK\x05\x06")
        while end_at >= 0 and not _ends_file(tail, end_at):
            end_at = tail.rfind(b"PK\x05\x06", 0, end_at)
        if end_at < 0:
            raise self._wrong(self._n_bytes, "end of the zip", "missing", "a zip file that is whole")
        _, disk, first_disk, here, n_entries, n_bytes, offset, _ = _END.unpack_from(tail, end_at)
        end_at += tail_at
        if _ABSENT16 in (disk, first_disk, here, n_entries) or _ABSENT32 in (n_bytes, offset):
            end_at, (disk, first_disk, here, n_entries, n_bytes, offset) = self._end64(end_at)
        if (disk, first_disk) != (0, 0) or here != n_entries:
            raise self._wrong(end_at, "zip", "one of several disks", "one file")
        if n_entries > _MOST_ENTRIES or n_bytes > _MOST_DIRECTORY_BYTES:
            raise self._wrong(
                end_at,
                "directory of the zip",
                f"{n_entries} entries in {n_bytes} bytes",
                f"at most {_MOST_ENTRIES} entries in {_MOST_DIRECTORY_BYTES} bytes",
            )
        if offset + n_bytes > end_at:
            raise self._wrong(
                end_at, "directory of the zip", f"bytes {offset} to {offset + n_bytes}", f"up to {end_at}"
            )
        return _Directory(offset, n_bytes, n_entries)

    def _end64(self, end_at: int) -> tuple[int, tuple[int, int, int, int, int, int]]:
        at = end_at - _END64_LOCATOR.size
        signature, _, end64_at, _ = _END64_LOCATOR.unpack(self._read(at, _END64_LOCATOR.size, "zip64 locator"))
        if signature != b"PK\x06\x07":
            raise self._wrong(at, "zip64 locator", "missing", "PK\\x06\\x07")
        if end64_at + _END64.size > at:
            raise self._wrong(at, "zip64 end of the zip", f"at byte {end64_at}", "before its locator")
        end = _END64.unpack(self._read(end64_at, _END64.size, "zip64 end of the zip"))
        if end[0] != b"PK\x06\x06":
            raise self._wrong(end64_at, "zip64 end of the zip", "missing", "PK\\x06\\x06")
        return end64_at, end[4:]

    def _entry(self, data: bytes, at: int, base: int) -> tuple[ZipEntry, int]:
        """An entry of the directory and the bytes that it takes there."""
        if len(data) - at < _CENTRAL.size:
            raise self._wrong(base + at, "entry", "cut off", f"{_CENTRAL.size} bytes")
        fields = _CENTRAL.unpack_from(data, at)
        signature, _, _, flags, method, _, _, crc, packed_bytes, size, n_name, n_extra, n_comment = fields[:13]
        disk, header_at = fields[13], fields[16]
        name_at = at + _CENTRAL.size
        length = _CENTRAL.size + n_name + n_extra + n_comment
        if signature != b"PK\x01\x02" or len(data) - at < length:
            raise self._wrong(base + at, "entry", "damaged or cut off", "an entry of the directory")
        raw_name = data[name_at : name_at + n_name]
        name = self._name(raw_name, flags, base + name_at)
        extra = data[name_at + n_name : name_at + n_name + n_extra]
        size, packed_bytes, header_at, disk = self._wide(
            (size, packed_bytes, header_at, disk), extra, base + name_at + n_name
        )
        if flags & _ENCRYPTED:
            raise UnsupportedModelError(f"{self._path}: {shown(name)} is encrypted: unpack it with its password first")
        if method not in (_STORED, _DEFLATED):
            raise UnsupportedModelError(
                f"{self._path}: {shown(name)} is packed by method {method}; torch stores, and deflate is read too:"
                " save the checkpoint again with torch.save"
            )
        if disk != 0:
            raise self._wrong(base + at, f"{shown(name)} disk", str(disk), "0")
        offset = self._data_offset(header_at, raw_name, method)
        entry = ZipEntry(self._path, name, size, packed_bytes, crc, method == _STORED, offset)
        self._check_sizes(entry, base + at)
        return entry, length

    def _name(self, raw: bytes, flags: int, at: int) -> str:
        try:
            return raw.decode("utf-8" if flags & _UTF8 else "cp437")
        except UnicodeDecodeError:
            raise self._wrong(at, "name of an entry", shown(raw), "UTF-8") from None

    def _wide(self, numbers: tuple[int, int, int, int], extra: bytes, at: int) -> tuple[int, int, int, int]:
        """(size, packed_bytes, header_at, disk) with those that 32 bits cannot hold from the zip64 field."""
        absent = [number == none for number, none in zip(numbers, (_ABSENT32, _ABSENT32, _ABSENT32, _ABSENT16))]
        if not any(absent):
            return numbers
        field = _extra_field(extra, _ZIP64)
        wide, begin = list(numbers), 0
        for i, n_bytes in enumerate((8, 8, 8, 4)):
            if absent[i]:
                if len(field) < begin + n_bytes:
                    raise self._wrong(at, "zip64 field", f"{len(field)} bytes", f"at least {begin + n_bytes}")
                wide[i] = int.from_bytes(field[begin : begin + n_bytes], "little")
                begin += n_bytes
        return wide[0], wide[1], wide[2], wide[3]

    def _data_offset(self, header_at: int, name: bytes, method: int) -> int:
        """Where the bytes begin: after the entry's own header, which repeats the name."""
        header = _LOCAL.unpack(self._read(header_at, _LOCAL.size, f"header of {shown(name)}"))
        name_at = header_at + _LOCAL.size
        if header[0] != b"PK\x03\x04" or header[9] != len(name) or self._read(name_at, len(name), "name") != name:
            raise self._wrong(header_at, f"header of {shown(name)}", "another", "PK\\x03\\x04 and the same name")
        if header[3] != method or header[2] & _ENCRYPTED:
            raise self._wrong(
                header_at, f"header of {shown(name)}", "another method or flags", "those of the directory"
            )
        return name_at + len(name) + int(header[10])

    def _check_sizes(self, entry: ZipEntry, at: int) -> None:
        label = f"{shown(entry.name)} size"
        if entry.offset + entry.packed_bytes > self._n_bytes:
            raise self._wrong(at, label, f"{entry.packed_bytes} bytes", f"an end within the {self._n_bytes} bytes")
        if entry.stored and entry.size != entry.packed_bytes:
            raise self._wrong(at, label, str(entry.size), f"{entry.packed_bytes}, for it is not compressed")
        if not entry.stored and entry.size > _MOST_DEFLATE_RATIO * entry.packed_bytes:
            most = _MOST_DEFLATE_RATIO * entry.packed_bytes
            raise self._wrong(at, label, str(entry.size), f"at most {most}, the most that deflate can put there")

    def _check_apart(self, entries: list[ZipEntry], directory: _Directory) -> None:
        """No byte of the file belongs to two entries, or a small file could claim any size."""
        end = 0
        for entry in sorted(entries, key=lambda entry: (entry.offset, entry.packed_bytes)):
            if entry.offset < end:
                raise self._wrong(
                    entry.offset, shown(entry.name), "in the bytes of another entry", f"from byte {end} on"
                )
            end = entry.offset + entry.packed_bytes
        if end > directory.offset:
            raise self._wrong(
                directory.offset, "directory of the zip", "in the bytes of an entry", f"from byte {end} on"
            )


def _ends_file(tail: bytes, at: int) -> bool:
    """Whether the record there and its comment reach exactly to the end of the file."""
    return len(tail) - at >= _END.size and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail)


def _extra_field(extra: bytes, wanted: int) -> bytes:
    at = 0
    while len(extra) - at >= 4:
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""
