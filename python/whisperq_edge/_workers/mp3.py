"""The process that decodes MP3 for ``_audio.mp3_process``: libsndfile by ctypes, between two pipes.

It is run by its path and imports nothing but a little of the standard library, so that it starts in 0.05 s and takes
10 MB. It decodes one file after another, as its stdin asks, until that ends.

A message is a letter and two numbers. ``R`` asks for bytes of the file, by their place and their number; the answer is
a number and so many bytes. The numbers of all others are those of the bytes that follow the message, and of the bytes
that the decoder has printed until then:

- ``L``: libsndfile is loaded.
- ``F``: the file is open; its rate and its number of channels.
- ``B``: a block of float32 samples.
- ``D``: the end; libsndfile's log of the file.
- ``E``: an error in libsndfile's words.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import Any, Optional

_AHEAD_BYTES = 2**16
_READ = 0x10
_GET_LOG_INFO = 0x1001
_LOG_BYTES = 2**14


class _Info(ctypes.Structure):
    """libsndfile's ``SF_INFO``."""

    _fields_ = (
        ("frames", ctypes.c_int64),
        ("rate", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("format", ctypes.c_int),
        ("sections", ctypes.c_int),
        ("seekable", ctypes.c_int),
    )


_LENGTH = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
_SEEK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p)
_MOVE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


class _Calls(ctypes.Structure):
    """libsndfile's ``SF_VIRTUAL_IO``."""

    _fields_ = (("length", _LENGTH), ("seek", _SEEK), ("read", _MOVE), ("write", _MOVE), ("tell", _LENGTH))


class _Pipe:
    """Messages to the process that asks, and its answers."""

    def __init__(self) -> None:
        self._to, self._from = sys.stdout.buffer, sys.stdin.buffer

    def next_task(self) -> tuple[int, ...]:
        """The size of a file, how often it is stretched, and the most frames and values of a block."""
        return struct.unpack("<4q", self._exactly(32))

    def tell(self, letter: bytes, content: bytes = b"") -> None:
        said_bytes = os.fstat(2).st_size
        self._send(letter, len(content), said_bytes, content)

    def ask(self, place: int, count: int) -> bytes:
        self._send(b"R", place, count)
        size = self._exactly(8)
        return self._exactly(struct.unpack("<q", size)[0])

    def _send(self, letter: bytes, first: int, second: int, content: bytes = b"") -> None:
        try:
            self._to.write(letter + struct.pack("<qq", first, second) + content)
            self._to.flush()
        except OSError:
            os._exit(0)  # nobody listens any more

    def _exactly(self, count: int) -> bytes:
        content = self._from.read(count)
        if len(content) < count:
            os._exit(0)
        return content


class _File:
    """What libsndfile calls for the bytes of the file.

    Args:
        size: of the file.
        stretch: the file is said to be this many times as long.
    """

    def __init__(self, pipe: _Pipe, size: int, stretch: int) -> None:
        self._pipe, self._size, self._stretch = pipe, size, stretch
        self._asks_length = False
        self._at, self._start, self._block = 0, 0, b""
        self.calls = _Calls(
            _LENGTH(lambda _: size * stretch),
            _SEEK(lambda offset, whence, _: self._seek(offset, whence)),
            _MOVE(lambda target, count, _: self._read(target, count)),
            _MOVE(lambda *_: 0),
            _LENGTH(lambda _: self._tell()),
        )

    def _tell(self) -> int:
        return self._at * self._stretch if self._asks_length else self._at

    def _seek(self, offset: int, whence: int) -> int:
        self._asks_length = offset == 0 and whence == os.SEEK_END
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = place if place >= 0 else self._at  # a damaged header sends it to before the start
        return self._tell()

    def _read(self, target: int, count: int) -> int:
        """Fill the target. Only the end of the file makes a read shorter than that."""
        filled = 0
        while filled < count and (n := self._read_some(target + filled, count - filled)):
            filled += n
        return filled

    def _read_some(self, target: int, count: int) -> int:
        offset = self._at - self._start
        if not 0 <= offset < len(self._block):
            self._start, offset = self._at, 0
            self._block = self._pipe.ask(self._at, max(count, _AHEAD_BYTES))
        piece = self._block[offset : offset + count]
        ctypes.memmove(target, piece, len(piece))
        self._at += len(piece)
        return len(piece)


def _loaded(names: list[str]) -> Any:
    """Return the first of these libraries that there is."""
    problem: Optional[OSError] = None
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            problem = error
    raise problem or OSError("no library was named")


def _declared(library: Any) -> Any:
    library.sf_open_virtual.restype = ctypes.c_void_p
    library.sf_open_virtual.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    library.sf_readf_float.restype = ctypes.c_int64
    library.sf_readf_float.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    library.sf_close.argtypes = (ctypes.c_void_p,)
    library.sf_error.argtypes = (ctypes.c_void_p,)
    library.sf_strerror.restype = ctypes.c_char_p
    library.sf_strerror.argtypes = (ctypes.c_void_p,)
    library.sf_command.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    return library


def _log_of(library: Any, file: int) -> bytes:
    log = ctypes.create_string_buffer(_LOG_BYTES)
    library.sf_command(file, _GET_LOG_INFO, log, _LOG_BYTES)
    return log.value


def main(names: list[str]) -> None:
    library, pipe = _declared(_loaded(names)), _Pipe()
    pipe.tell(b"L")
    while True:
        _decode(library, pipe, *pipe.next_task())


def _decode(library: Any, pipe: _Pipe, size: int, stretch: int, most_frames: int, most_values: int) -> None:
    source, info = _File(pipe, size, stretch), _Info()
    file = library.sf_open_virtual(ctypes.byref(source.calls), _READ, ctypes.byref(info), None)
    if not file:
        return pipe.tell(b"E", library.sf_strerror(None))
    pipe.tell(b"F", struct.pack("<qq", info.rate, info.channels))
    n_frames = max(1, min(most_frames, most_values // info.channels))
    block = (ctypes.c_float * (n_frames * info.channels))()
    while (n := library.sf_readf_float(file, block, n_frames)) > 0:
        pipe.tell(b"B", bytes(memoryview(block).cast("B")[: n * info.channels * 4]))
    if library.sf_error(file):
        pipe.tell(b"E", library.sf_strerror(file))
    else:
        pipe.tell(b"D", _log_of(library, file))
    library.sf_close(file)


if __name__ == "__main__":
    main(sys.argv[1:])
