"""Reading a file back from the disk while it is still being written.

To read gigabytes back after the last byte was written takes a quarter of a conversion's time; behind the writer it
costs next to nothing, since the disk is idle while rows are quantised.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from typing import IO, Optional

__all__ = ["ReadBack"]

_STEP_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 20


class ReadBack:
    """Hashes what the disk gives back of ``stream`` on a thread of its own, some way behind the writer.

    ::

        with ReadBack(stream) as read_back:
            stream.write(...)
            read_back.follow()        # as often as one likes
            read_back.finish(sha256)  # of everything that was written
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._n_written = 0  # given to the system
        self._n_announced = 0
        self._is_complete = False
        self._is_abandoned = False
        self._error: Optional[BaseException] = None
        self._digest = hashlib.sha256()
        self._thread = threading.Thread(target=self._run, name="whisperq-read-back", daemon=True)

    def __enter__(self) -> ReadBack:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_abandoned = True
            self._changed.notify()
        self._thread.join()

    def follow(self) -> None:
        """Lets the thread read what was written so far, when that is worth a step."""
        position = self._stream.tell()
        if position - self._n_announced < _STEP_BYTES:
            return
        self._announce(position, is_complete=False)

    def finish(self, sha256: str) -> None:
        """Waits for the rest.

        Raises:
            OSError: the disk cannot be read, or its bytes are others than those that were written.
        """
        self._announce(self._stream.tell(), is_complete=True)
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._digest.hexdigest() != sha256:
            raise OSError(
                f"{self._stream.name}: the disk gives back other bytes than were written to it; nothing was kept"
            )

    def _announce(self, position: int, is_complete: bool) -> None:
        self._stream.flush()
        self._n_announced = position
        with self._changed:
            self._n_written, self._is_complete = position, is_complete
            self._changed.notify()

    def _run(self) -> None:
        try:
            with open(self._stream.name, "rb", buffering=0) as file:
                self._read(file)
        except BaseException as error:
            self._error = error

    def _read(self, file: IO[bytes]) -> None:
        n_read = 0
        while True:
            with self._changed:
                while not (self._n_written > n_read or self._is_complete or self._is_abandoned):
                    self._changed.wait()
                end, is_last = self._n_written, self._is_complete
                if self._is_abandoned:
                    return
            os.fsync(self._stream.fileno())
            _forget(file, n_read, end)
            while n_read < end:
                block = file.read(min(_BLOCK_BYTES, end - n_read))
                if not block:
                    return  # shorter than what was written: the hash will say so
                self._digest.update(block)
                n_read += len(block)
            if is_last:
                return


def _forget(file: IO[bytes], begin: int, end: int) -> None:
    """Asks the system to drop its copy of a part, so that the disk's own is read."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_DONTNEED)
