"""Matroska and WebM: where a file ends, so that what was joined to it is found, and whether it tells its length."""

from __future__ import annotations

import os
import re
from typing import IO, NamedTuple, Optional

__all__ = ["MATROSKA_CLUSTER", "MATROSKA_START", "last_of_matroska", "tells_duration"]

_EBML = 0x1A45DFA3
_SEGMENT, _CLUSTER, _INFO, _DURATION = 0x18538067, 0x1F43B675, 0x1549A966, 0x4489
_MAY_BE_ENDLESS = (_SEGMENT, _CLUSTER)  # programs that write to a pipe leave their length open

_OF_SEGMENTS = (_CLUSTER, _INFO, 0x114D9B74, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770)
_OF_CLUSTERS = (0xE7, 0xA0, 0xA3, 0xA7, 0xAB, 0xAF, 0x5854)
_ANYWHERE = (0xEC, 0xBF)  # padding and checksums
_KNOWN = {_SEGMENT, *_OF_SEGMENTS, *_OF_CLUSTERS, *_ANYWHERE}

MATROSKA_START = re.compile(rb"\x1aE\xdf\xa3[\x01-\xff][\0-\xff]{0,7}?B[\x82\x86\xf2\xf3\xf7]")
"""The first bytes of the header: its id, its length, and the id of one of its fields."""

MATROSKA_CLUSTER = _CLUSTER.to_bytes(4, "big")
"""The first bytes of each part that holds sound."""

_LONGEST_HEAD = 12  # 4 bytes of an id and 8 of a length


class _Element(NamedTuple):
    """An element's id, where its content begins, and where it ends; -1: that is not known."""

    id: int
    content: int
    end: int


def last_of_matroska(stream: IO[bytes], start: int, size: int) -> tuple[int, int]:
    """Return where the last element of the file that begins at ``start`` lies: its first byte, and behind its last.

    It ends behind ``size`` where the file was cut. An element without a length ends where something begins that cannot
    be a part of it.
    """
    last, place = start, start
    while place < size:
        stream.seek(place)
        element = _element(stream.read(_LONGEST_HEAD), place)
        if element is None or (element.id not in _KNOWN and (place > start or element.id != _EBML)):
            break
        last, place = place, element.content if element.end < 0 else element.end
    return last, place


def tells_duration(stream: IO[bytes]) -> bool:
    """Whether the header has the length in time. Programs that write to a pipe leave it out."""
    place, size = 0, stream.seek(0, os.SEEK_END)
    while place < size:
        stream.seek(place)
        element = _element(stream.read(_LONGEST_HEAD), place)
        if element is None or element.id in (_CLUSTER, _DURATION):
            return element is not None and element.id == _DURATION
        place = element.content if element.id in (_SEGMENT, _INFO) else element.end
    return False


def _element(head: bytes, place: int) -> Optional[_Element]:
    """Read an id and a length, each of which tells its own number of bytes by its leading zeros."""
    if not head:
        return None
    id_bytes = 9 - head[0].bit_length()
    if id_bytes > 4 or len(head) <= id_bytes:
        return None
    length_bytes = 9 - head[id_bytes].bit_length()
    if length_bytes > 8 or len(head) < id_bytes + length_bytes:
        return None
    number = int.from_bytes(head[:id_bytes], "big")
    largest = (1 << 7 * length_bytes) - 1
    length = int.from_bytes(head[id_bytes : id_bytes + length_bytes], "big") & largest
    content = place + id_bytes + length_bytes
    if length < largest:
        return _Element(number, content, content + length)
    return _Element(number, content, -1) if number in _MAY_BE_ENDLESS else None
