"""Locks between processes, as files that are there while somebody holds them: the system frees those of a process that
died. And one between threads, which a child of ``fork()`` does not inherit."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Callable, Optional

__all__ = ["ThreadLock", "lock_if_free", "locked", "release_lock", "take_lock", "try_lock"]

_POLL_S = 0.05


class ThreadLock:
    """A lock for ``with``, which is free in a child of ``fork()``: a thread that held it is not there. The thread that
    holds it may take it again, as a signal handler does that runs in the midst of the block."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _thread_locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # renewed by a fork in the midst of the block
            self._lock.release()

    def renew(self) -> None:
        self._lock = threading.RLock()


_thread_locks: weakref.WeakSet[ThreadLock] = weakref.WeakSet()


def _renew_thread_locks() -> None:
    for lock in [*_thread_locks]:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_thread_locks)

if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Locks an open file until it is closed; False: another process or thread has it."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Locks an open file until it is closed; False: another process or thread has it. A file system without locks
        gives everybody one."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


def take_lock(path: Path) -> Optional[IO[bytes]]:
    """The lock file, locked until it is given to :func:`release_lock`; None: another process or thread has it.

    Raises:
        OSError: it cannot be made there.
    """
    stream = open(path, "ab")  # noqa: SIM115  (the caller closes it)
    # The one who had it before may have removed the file between our opening and our locking.
    if try_lock(stream.fileno()) and _is_same_file(stream, path):
        return stream
    stream.close()
    return None


def release_lock(stream: IO[bytes], path: Path) -> None:
    """Removes the lock file of :func:`take_lock` and frees it."""
    if os.name == "nt":  # where only closed files are removed, and nobody removes one that is open
        stream.close()
    with contextlib.suppress(OSError):
        path.unlink()
    stream.close()


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock during the ``with`` block, once whoever has it gives it back. Ctrl-C ends the waiting.

    Args:
        path: of the lock file.
        on_wait: called when another process or thread has the lock.
    """
    stream = take_lock(path)
    if stream is None:
        on_wait()
    while stream is None:
        time.sleep(_POLL_S)
        stream = take_lock(path)
    try:
        yield
    finally:
        release_lock(stream, path)


@contextlib.contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Holds the lock during the ``with`` block; whether it could be had at once."""
    stream = take_lock(path)
    try:
        yield stream is not None
    finally:
        if stream is not None:
            release_lock(stream, path)


def _is_same_file(stream: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except OSError:
        return False
