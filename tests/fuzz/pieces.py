"""Files of the size of a model out of inputs of some bytes: pieces with holes, and the edits that an input lists.

The edits are those of ``fuzz_model_file.cpp``: operation (uint8), number of the piece (uint8), offset in it (uint16),
number of bytes (uint8), these bytes. Numbers wrap around, so that every input means something.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CUT", "DROP", "ERASE", "HOLE", "INSERT", "REPEAT", "REPLACE", "SWAP", "Piece", "edit_all", "write"]

REPLACE, INSERT, ERASE, HOLE, DROP, REPEAT, SWAP, CUT = range(8)
_MOST_EDITS = 32
_MOST_PIECES = 256
_EDIT = struct.Struct("<BBHB")


@dataclass
class Piece:
    """Bytes, and ``hole`` zeros after them that take no space."""

    data: bytes
    hole: int = 0


def edit_all(pieces: Sequence[Piece], script: bytes) -> list[Piece]:
    """The pieces after the edits that a script lists; one that is cut off is filled with zeros."""
    edited = [Piece(piece.data, piece.hole) for piece in pieces]
    at = 0
    for _ in range(_MOST_EDITS):
        if at >= len(script):
            break
        operation, index, offset, count = _EDIT.unpack(script[at : at + _EDIT.size].ljust(_EDIT.size, b"\0"))
        at += _EDIT.size
        _edit(edited, operation % 8, index % len(edited), offset, script[at : at + count])
        at += count
    return edited


def _edit(pieces: list[Piece], operation: int, index: int, offset: int, data: bytes) -> None:
    piece = pieces[index]
    at = min(offset, len(piece.data))
    if operation == REPLACE:
        piece.data = piece.data[:at] + data[: len(piece.data) - at] + piece.data[at + len(data) :]
    elif operation == INSERT:
        piece.data = piece.data[:at] + data + piece.data[at:]
    elif operation == ERASE:
        piece.data = piece.data[:at] + piece.data[at + len(data) :]
    elif operation == HOLE:
        piece.hole = int.from_bytes(data[:5], "little")
    elif operation == DROP:
        if len(pieces) > 1:
            del pieces[index]
    elif operation == REPEAT:
        if len(pieces) < _MOST_PIECES:
            pieces.insert(index, Piece(piece.data, piece.hole))
    elif operation == SWAP:
        other = offset % len(pieces)
        pieces[index], pieces[other] = pieces[other], pieces[index]
    else:
        piece.data, piece.hole = piece.data[:at], 0
        del pieces[index + 1 :]


def write(path: Path, pieces: Sequence[Piece]) -> None:
    with open(path, "wb") as file:
        size = 0
        for piece in pieces:
            if piece.data:
                file.seek(size)
                file.write(piece.data)
            size += len(piece.data) + piece.hole
        file.truncate(size)
