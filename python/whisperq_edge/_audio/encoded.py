"""The bytes of a file, a pipe or a file object, opened once and gone over as often as they are decoded."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from typing import IO, Any, Callable, Optional, cast

from .._errors import AudioError
from .decoders import checked_parts, from_parts
from .decoding import Decoding
from .mono import Mix
from .samples import (
    Pieces,
    ShouldStop,
    StoppedError,
    changed,
)
from .spliced import Part

__all__ = ["Encoded", "kept", "open_path", "stream_name"]

_READ_BYTES = 2**20
_MOST_BYTES_IN_MEMORY = 32 * 2**20
"""Encoded audio from a pipe or a file object goes to a temporary file when there is more of it than this."""


class Encoded:
    """An audio file that may be decoded more than once.

    Args:
        name: for errors.
        open_stream: gives the bytes as a file that seeks; called once, by the first pass.
        track: which audio track, from 0; None: the first.

    Attributes:
        lead_s: seconds of silence at the beginning, because the audio begins later than the video.
        damage: sentences about audio that was not read; known at the end of the first pass.
    """

    def __init__(self, name: str, open_stream: Callable[[], IO[bytes]], track: Optional[int] = None) -> None:
        self.name = name
        self._track = track
        self._open_stream = open_stream
        self._stream: Optional[IO[bytes]] = None
        self._state: Optional[tuple[int, int]] = None
        self._parts: Optional[list[Part]] = None
        self.lead_s = 0.0
        self.damage: list[str] = []

    def pieces(self, is_first: bool, mix: Optional[Mix] = None) -> Pieces:
        """PCM from the beginning. What is wrong with the file is told to the log by the first pass only."""
        if self._stream is None:
            self._stream = self._open_stream()
            self._state = _file_state(self._stream)
        self._check_unchanged()
        if self._parts is None:
            self._parts = checked_parts(self._stream, self.name)
        decoding = Decoding(self.name, warns=is_first, mix=mix, track=self._track, damage=self.damage)
        try:
            for piece in from_parts(self._parts, decoding):
                self.lead_s = decoding.lead_s
                yield piece
                if not is_first:
                    self._check_unchanged()
            self._check_unchanged(may_grow=is_first)
        finally:
            decoding.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _check_unchanged(self, may_grow: bool = False) -> None:
        """Raise ``AudioError`` where the file was written to. What is appended in the first pass is another audio."""
        assert self._stream is not None
        now = _file_state(self._stream)
        if now is None or self._state is None or now == self._state:
            return
        n_before, n_now = self._state[0], now[0]
        if may_grow and n_now > n_before:
            return
        raise changed(self.name, f"it had {n_before} bytes, now {n_now}" if n_now != n_before else "it was written to")


def _file_state(stream: IO[bytes]) -> Optional[tuple[int, int]]:
    """Bytes and time of the last change, of a file on a disk."""
    try:
        found = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is both of the latter
        return None
    return found.st_size, found.st_mtime_ns


def open_path(name: str, should_stop: ShouldStop) -> IO[bytes]:
    if not name:
        raise AudioError("the path of the audio is empty: give that of a file")
    if "://" in name and not os.path.exists(name):
        raise FileNotFoundError(errno.ENOENT, "No such file (addresses are not opened: download it first)", name)
    try:
        stream = open(name, "rb")  # noqa: SIM115 (stays open for the second pass)
    except ValueError as error:  # a NUL, or what no name of a file can hold
        raise AudioError(f"{name!r} can be no path of a file: {error}") from error
    if stream.seekable():
        return stream
    with stream:  # a pipe, which cannot seek, as decoders have to
        return kept(stream, should_stop)


def kept(stream: Any, should_stop: ShouldStop) -> IO[bytes]:
    """What is left to read of a file object: in memory, and in a temporary file where it is much."""
    kept: IO[bytes] = io.BytesIO()
    n_bytes = 0
    try:
        while content := _read_some(stream):
            if should_stop():
                raise StoppedError
            if n_bytes <= _MOST_BYTES_IN_MEMORY < n_bytes + len(content):
                in_memory = cast(io.BytesIO, kept)
                kept = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115
                kept.write(in_memory.getbuffer())
            kept.write(content)
            n_bytes += len(content)
        kept.flush()
        kept.seek(0)
    except BaseException:
        kept.close()
        raise
    return kept


def _read_some(stream: Any) -> bytes:
    text_mode = "the file object is in text mode; open it in binary mode: open(path, 'rb')"
    if isinstance(stream, io.TextIOBase):
        raise AudioError(text_mode)
    try:
        content = stream.read(_READ_BYTES)
    except UnicodeError as error:  # text mode by another class
        raise AudioError(text_mode) from error
    except ValueError as error:  # it is closed, or open for writing only
        raise AudioError(f"the file object cannot be read ({error}); open it anew: open(path, 'rb')") from error
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, str):
        raise AudioError(text_mode)
    raise AudioError(f"the file object's read() gave {type(content).__name__}; it has to give bytes")


def stream_name(stream: object) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else "the given file object"
