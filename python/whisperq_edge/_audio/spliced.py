"""A file made of pieces of another file and of bytes of our own. Decoders read it as if it lay on a disk."""

from __future__ import annotations

import bisect
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Optional, Union

__all__ = ["Part", "Piece", "overlaid", "spliced"]

_BUFFER_BYTES = 2**16

Piece = Union[bytes, tuple[int, int]]
"""Bytes, or the (start, end) of a range of the file below."""


def spliced(below: IO[bytes], pieces: Sequence[Piece]) -> IO[bytes]:
    """Return the pieces end to end as a file. Decoders read a few bytes at a time, so it is buffered."""
    return io.BufferedReader(_Spliced(below, pieces), _BUFFER_BYTES)


class _Spliced(io.RawIOBase):
    """Reads pieces end to end. Several of them may share the file below, in one thread.

    Args:
        below: a file that seeks.
        pieces: none of them may be empty.
    """

    def __init__(self, below: IO[bytes], pieces: Sequence[Piece]) -> None:
        super().__init__()
        self._below: Any = below
        self._pieces = [piece for piece in pieces if _length(piece)]
        self._starts = [0]
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + _length(piece))
        self._at = 0

    @property
    def size(self) -> int:
        return self._starts[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer. Only the end of the pieces, or of the file below, makes a read shorter than its buffer."""
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target) and self._at < self.size:
            count = self._read_piece(target[filled:])
            if not count:
                break
            filled += count
            self._at += count
        return filled

    def _read_piece(self, target: memoryview) -> int:
        index = bisect.bisect_right(self._starts, self._at) - 1
        piece, skipped = self._pieces[index], self._at - self._starts[index]
        count = min(len(target), _length(piece) - skipped)
        if isinstance(piece, bytes):
            target[:count] = piece[skipped : skipped + count]
            return count
        self._below.seek(piece[0] + skipped)
        found: Optional[int] = self._below.readinto(target[:count])
        return found or 0


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]


def overlaid(start: int, end: int, patches: Sequence[tuple[int, bytes]]) -> list[Piece]:
    """The range of a file with other bytes at some places, which are in order and do not overlap."""
    pieces: list[Piece] = []
    for place, content in patches:
        pieces += [(start, place), content]
        start = place + len(content)
    return [*pieces, (start, end)]


@dataclass(frozen=True)
class Part:
    """One of the streams that a file is joined of.

    Attributes:
        stream: its bytes.
        tells_length: of an MP3, whether its header has the number of frames. None: it is no MP3.
        missing: a sign that the stream was longer once.
        left_out: bytes beside the stream that belong to none.
        guess: a sentence about the header, which was not believed.
    """

    stream: IO[bytes]
    tells_length: Optional[bool] = None
    missing: Optional[str] = None
    left_out: int = 0
    guess: Optional[str] = None
