"""Files that appear under their final name whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import IO, Any, Optional, Union

__all__ = ["atomic_write"]

_BINARY = getattr(os, "O_BINARY", 0)
_NOT_INHERITED = getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_CLOEXEC", 0)


@contextlib.contextmanager
def atomic_write(
    path: Union[str, os.PathLike[str]], mode: str = "w", *, encoding: Optional[str] = None
) -> Iterator[IO[Any]]:
    """A file object whose content becomes ``path`` when the ``with`` block ends without an error.

    It is written beside ``path``, flushed to the disk and renamed, so that neither a reader nor a crash ever sees half
    of it. An error removes it and leaves what stood at ``path`` before. What is no regular file (a pipe,
    ``/dev/stdout``) cannot be renamed onto and is written straight.

    Args:
        path: where the file shall be. Its directory must exist. A link is followed.
        mode: ``"w"`` for text (UTF-8 and ``\\n`` unless told otherwise) or ``"wb"`` for bytes.
        encoding: of text.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode={mode!r} is not possible: 'w' or 'wb'")
    before = _stat(path)
    if before is not None and not stat.S_ISREG(before.st_mode):
        with _open(os.fspath(path), mode, encoding) as stream:  # a directory raises IsADirectoryError here
            yield stream
        return

    final = os.path.realpath(os.fspath(path))
    beside = os.path.join(os.path.dirname(final), f".whisperq-{secrets.token_hex(8)}.part")
    descriptor = _create(beside, final)
    try:
        with _open(descriptor, mode, encoding) as stream:
            if before is not None:
                os.chmod(beside, stat.S_IMODE(before.st_mode))
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, final)
    except BaseException:  # Ctrl-C too: no half file stays behind
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    _sync_directory(os.path.dirname(final))


def _open(file: Union[str, int], mode: str, encoding: Optional[str]) -> IO[Any]:
    if mode == "wb":
        return open(file, mode)
    return open(file, mode, encoding=encoding or "utf-8", newline="\n")


def _create(beside: str, final: str) -> int:
    """A new file. An error names the file that was asked for, not the one beside it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY | _NOT_INHERITED
    try:
        # 0o666 leaves the rights to the user's umask, as plain open() does; tempfile would make the file private.
        return os.open(beside, flags, 0o666)
    except OSError as error:
        error.filename = final
        raise


def _stat(path: Union[str, os.PathLike[str]]) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _sync_directory(path: str) -> None:
    """Makes the rename itself last. Windows cannot open a directory, and some file systems refuse: no harm done."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
