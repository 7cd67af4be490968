"""Files that appear under their final name whole or not at all, and the identity of what is in them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Optional, Union

from .locks import try_lock

__all__ = ["atomic_write", "reserve", "sha256_of_file", "sha256_of_files", "sync_directory", "temporary_beside"]

_BINARY = getattr(os, "O_BINARY", 0)
_NOT_INHERITED = getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_CLOEXEC", 0)
_PREFIX, _SUFFIX = ".whisperq-", ".part"


@contextlib.contextmanager
def atomic_write(
    path: Union[str, os.PathLike[str]], mode: str = "w", *, encoding: Optional[str] = None
) -> Iterator[IO[Any]]:
    """A file object whose content becomes ``path`` when the ``with`` block ends without an error.

    It is written beside ``path``, flushed to the disk and renamed, so that neither a reader nor a crash ever sees half
    of it. An error removes it and leaves what stood at ``path`` before. What is no regular file (a pipe,
    ``/dev/stdout``) cannot be renamed onto and is written straight.

    The file object's ``name`` is where it is being written. What a killed process left beside is removed by the next
    one that writes in the same folder.

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
    with _Beside(final) as beside:
        with _open(beside.path, mode, encoding) as stream:
            if before is not None:
                os.chmod(beside.path, stat.S_IMODE(before.st_mode))
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.rename()
    sync_directory(os.path.dirname(final))


@contextlib.contextmanager
def temporary_beside(path: Union[str, os.PathLike[str]]) -> Iterator[str]:
    """The path of a file in the folder of ``path`` that is gone after the ``with`` block, or at the latest when another
    process writes in that folder."""
    with _Beside(os.path.realpath(os.fspath(path))) as beside:
        yield beside.path


def reserve(stream: IO[bytes], n_bytes: int, path: Union[str, os.PathLike[str]]) -> None:
    """Takes the space that ``stream`` will need before the work begins, where the file system can.

    Raises:
        OSError: (ENOSPC) with what is needed and what is free. ``path`` is the file that the message names.
    """
    needed = f"{n_bytes / 1e6:.1f} MB are needed"
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, n_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return  # a file system that cannot reserve: writing will tell
        free = f"{shutil.disk_usage(os.path.dirname(os.path.realpath(os.fspath(path)))).free / 1e6:.1f} MB are free"
        raise OSError(error.errno, f"{needed} and {free}: {error.strerror}", os.fspath(path)) from error


def sha256_of_file(path: Union[str, os.PathLike[str]]) -> str:
    """Hexadecimal sha256 of a file's bytes, which are read piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_files(paths: Sequence[Path]) -> str:
    """Of one file its own sha256; of several that of the list of theirs, by name."""
    digests = [sha256_of_file(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    listing = "".join(f"{digest}  {path.name}\n" for digest, path in zip(digests, paths))
    return hashlib.sha256(listing.encode("utf-8")).hexdigest()


def sync_directory(path: str) -> None:
    """Makes a rename itself last. Windows cannot open a directory, and some file systems refuse: no harm done."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Beside:
    """A new empty file in the folder of ``final``, locked for as long as it is ours; gone at the end unless renamed."""

    def __init__(self, final: str) -> None:
        self._final = final
        folder = os.path.dirname(final)
        _remove_leftovers(folder)
        while True:
            self.path = os.path.join(folder, f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
            self._descriptor = _create(self.path, final)
            if _lock(self._descriptor) and os.path.exists(self.path):
                return
            os.close(self._descriptor)  # another process took it for a leftover before we had locked it

    def __enter__(self) -> _Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        with contextlib.suppress(OSError):  # renamed: nothing is there
            os.unlink(self.path)

    def rename(self) -> None:
        """The lock is kept until the file has its name: another process would take it for a leftover."""
        if os.name == "nt":  # where only closed files are renamed, and nobody removes an open one
            self._close()
        os.replace(self.path, self._final)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _remove_leftovers(folder: str) -> None:
    """Files of processes that died: nobody holds their lock. Without locks (Windows) an open file cannot be removed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                _remove_if_unlocked(entry)


def _remove_if_unlocked(entry: os.DirEntry[str]) -> None:
    with contextlib.suppress(OSError):
        if entry.is_dir(follow_symlinks=False):
            return
        descriptor = os.open(entry.path, os.O_RDONLY | _BINARY | _NOT_INHERITED)
        try:
            if _lock(descriptor):
                os.unlink(entry.path)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """False: another process holds it. On Windows everything is free: nobody removes a file there that is open."""
    return os.name == "nt" or try_lock(descriptor)


def _open(file: str, mode: str, encoding: Optional[str]) -> IO[Any]:
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
