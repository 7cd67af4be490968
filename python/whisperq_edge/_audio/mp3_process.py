"""MP3 by libsndfile in a process of its own, whose stderr is ours to read.

libsndfile's decoder, mpg123, prints to the process's stderr where the content of a frame is damaged. No switch of
libsndfile's turns that off, and no thread can redirect stderr for itself alone. The lines are read here instead, and
their place in the audio is known. Nor does a crash of the decoder end this process.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Optional

import numpy as np

from .._system.arrays import Floats

__all__ = ["DecoderError", "Mp3Process", "NoProcessError"]

_CHILD = Path(__file__).parents[1] / "_workers" / "mp3.py"
_PATIENCE_S = 20.0
_MOST_LINE = 200
_PREFIX = re.compile(r"^\[[^\]]*\]\s*(?:error|warning|note)?:?\s*", re.IGNORECASE)


class NoProcessError(Exception):
    """No process can be had here."""


class DecoderError(Exception):
    """libsndfile's own words."""


class Mp3Process:
    """A process that decodes files, each from its beginning to its end, one after the other.

    Attributes:
        rate_hz: samples a second of the file that was opened last.
        n_channels: columns of its blocks.
        log: what libsndfile noted of it. Known at its end.
        damaged_frames: for each block of which the decoder complained, how many frames came before it.

    Raises:
        NoProcessError: it cannot be started.
    """

    def __init__(self) -> None:
        self.rate_hz, self.n_channels, self.log = 0, 0, ""
        self.damaged_frames: list[int] = []
        self._n_frames, self._n_said, self._n_said_at_first = 0, 0, 0
        self._stream: IO[bytes]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed with the process)
        try:
            self._process = self._started()
        except BaseException:
            self._stderr.close()
            raise
        try:
            self._wait_until_loaded()
        except BaseException:
            self.close()
            raise

    def open(self, stream: IO[bytes], stretch: int, most_frames: int, most_values: int) -> None:
        """Begin a file. The one before has to be read to its end.

        Args:
            stream: its bytes; read and sought by ``read``.
            stretch: the file is said to be this many times as long.
            most_frames: of a block.
            most_values: of a block with many channels.

        Raises:
            DecoderError: libsndfile cannot read it.
        """
        self._stream = stream
        self._n_frames, self.damaged_frames = 0, []
        self._send(struct.pack("<4q", stream.seek(0, os.SEEK_END), stretch, most_frames, most_values))
        letter, self._n_said, content = self._next_message()
        self._n_said_at_first = self._n_said
        if letter != b"F":
            raise DecoderError(content.decode("utf-8", "replace"))
        self.rate_hz, self.n_channels = struct.unpack("<qq", content)

    def read(self) -> Optional[Floats]:
        """The next block (frames, channels). None: it is over.

        Raises:
            DecoderError: the decoder cannot go on.
            OSError: the file cannot be read.
        """
        letter, said, content = self._next_message()
        if said > self._n_said:
            self.damaged_frames.append(self._n_frames)
        self._n_said = said
        if letter == b"D":
            self.log = content.decode("utf-8", "replace")
            return None
        if letter != b"B":
            raise DecoderError(content.decode("utf-8", "replace"))
        block = np.frombuffer(content, np.float32).reshape(-1, self.n_channels)
        self._n_frames += len(block)
        return block

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def first_line(self) -> str:
        """The first of the decoder's complaints, without its place in the decoder's sources."""
        self._stderr.seek(self._n_said_at_first)  # before it stand remarks on the header, which the walk has put right
        lines = self._stderr.read(_MOST_LINE).decode("utf-8", "replace").split("\n")
        self._stderr.seek(0, os.SEEK_END)  # the process goes on writing from where this one stands
        return _PREFIX.sub("", lines[0].strip())

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # an answer that it does not take any more
                assert pipe is not None
                pipe.close()
        self._process.wait()
        self._stderr.close()

    def _started(self) -> subprocess.Popen[bytes]:
        libraries = _libraries()
        if not sys.executable or getattr(sys, "frozen", False) or not libraries or not _CHILD.is_file():
            raise NoProcessError("there is no Python program, or no library, to start")
        try:
            return subprocess.Popen(
                # Isolated, and without site: it needs nothing but the standard library.
                [sys.executable, "-I", "-S", os.fspath(_CHILD), *libraries],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                start_new_session=True,  # Ctrl-C is for this process, which ends that one
            )
        except OSError as error:
            raise NoProcessError(str(error)) from error

    def _wait_until_loaded(self) -> None:
        timer = threading.Timer(_PATIENCE_S, self._process.kill)
        timer.start()
        try:
            if self._received(17)[:1] != b"L":
                raise NoProcessError("the process did not load libsndfile")
        finally:
            timer.cancel()

    def _next_message(self) -> tuple[bytes, int, bytes]:
        """A letter, the number of bytes that were printed, and the content. Gives bytes of the file until it comes."""
        while True:
            head = self._received(17)
            if len(head) < 17:
                raise DecoderError(f"its process ended with code {self._process.wait()}")
            letter, (first, second) = head[:1], struct.unpack("<qq", head[1:])
            if letter == b"R":
                self._give(first, second)
                continue
            content = self._received(first)
            if len(content) < first:  # it ended within a message
                raise DecoderError(f"its process ended with code {self._process.wait()}")
            return letter, second, content

    def _received(self, count: int) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.read(count)

    def _give(self, place: int, count: int) -> None:
        self._stream.seek(place)
        content = self._stream.read(count)
        self._send(struct.pack("<q", len(content)) + content)

    def _send(self, content: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError):  # the process has ended, which the next message tells
            pipe.write(content)
            pipe.flush()


def _libraries() -> list[str]:
    """The places where soundfile looks for libsndfile, in its order."""
    import soundfile

    names: list[Any] = [getattr(soundfile, name, None) for name in ("_full_path", "_libname", "_explicit_libname")]
    return [name for name in names if isinstance(name, str)]
