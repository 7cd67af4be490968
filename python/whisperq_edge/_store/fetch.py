"""One file over HTTP, of known size and hash: it goes on where it broke off, and is whole under its name or not there.

``requests`` does the talking. It honours proxies, sends no token to another host that it is redirected to, and brings
the certificates that python.org's Python on macOS and slim containers lack; urllib does neither of the last two. Its
whole tree of packages is plain Python, so that it installs on armv7 and musl without a compiler. It is imported when
something is fetched, because most calls fetch nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Callable, NamedTuple, Optional

from .._errors import ModelFormatError, ModelNotFoundError
from .._system.files import sync_directory
from .._system.locks import try_lock
from .._version import __version__

__all__ = ["FETCH_LOG", "PARTIAL", "Digests", "Remote", "digests_of", "fetch_file"]

FETCH_LOG = "whisperq_edge.fetch"
"""Name of the logger that tells, at INFO, what is fetched. The command line shows it."""

PARTIAL = ".partial"

_LOG = logging.getLogger(FETCH_LOG)
_PIECE = 1 << 16  # what a broken connection may lose
_TIMEOUT_S = (10.0, 30.0)  # to connect, and between two pieces
_ATTEMPTS = 5  # in a row that bring nothing, once anything came
_FIRST_ATTEMPTS = 2  # before anything came: who has no network shall not wait
_PAUSE_S = 1.0
_PASSING = (429, 500, 502, 503, 504)

OnFraction = Callable[[float], None]


class Remote(NamedTuple):
    """Where a file is, and what it must be."""

    url: str
    n_bytes: int
    sha1: str
    token: Optional[str] = None


class Digests(NamedTuple):
    """Hashes of a file's bytes, hexadecimal."""

    sha1: str
    sha256: str


class _Broken(Exception):
    """The connection, or a server that may be well again soon. The bytes that came are good."""


def fetch_file(remote: Remote, destination: Path, on_fraction: Optional[OnFraction] = None) -> Digests:
    """Fetch a file to ``destination``.

    What came is kept beside it as NAME.partial when the connection breaks, and a later call goes on from there.

    Args:
        remote: the file.
        destination: its path. Its folder must exist.
        on_fraction: told the fraction that is there, 0 to 1.

    Raises:
        ModelNotFoundError: the server cannot be reached, refuses, or has no such file.
        ModelFormatError: other bytes came than there should be. Nothing is left of them.
        OSError: the file cannot be written, or the disk is full.
    """
    partial = destination.with_name(destination.name + PARTIAL)
    with _opened(partial) as stream, _session(remote) as session:
        is_resumed = stream.seek(0, os.SEEK_END) > 0
        found = _fill_and_check(stream, remote, session, on_fraction)
        if found.sha1 != remote.sha1 and is_resumed:
            _LOG.warning("the part of %s from an earlier call was damaged: it is downloaded anew", remote.url)
            stream.truncate(0)
            found = _fill_and_check(stream, remote, session, on_fraction)
        if found.sha1 != remote.sha1:
            _discard(stream, partial)
            raise ModelFormatError(remote.url, 0, "SHA-1 of the whole file", found.sha1, remote.sha1)
        os.fsync(stream.fileno())
        if os.name == "nt":  # where only closed files are renamed
            stream.close()
        os.replace(partial, destination)
    sync_directory(str(destination.parent))
    return found


def digests_of(path: Path) -> Digests:
    """Return the hashes of a file's bytes, which are read piece by piece."""
    with open(path, "rb") as file:
        return _digests(file)


# ---- The file beside -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(partial: Path) -> Iterator[IO[bytes]]:
    """Open the partial file for appending and hold its lock, so that ``cache prune`` leaves it alone."""
    while True:
        with open(partial, "a+b") as stream:
            if try_lock(stream.fileno()) and _is_at(stream, partial):
                try:
                    yield stream
                finally:
                    if not stream.closed and stream.seek(0, os.SEEK_END) == 0:
                        _discard(stream, partial)
                return
        time.sleep(0.05)


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Tell whether the file is still there: another process may have removed it before we had locked it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except OSError:
        return False


def _discard(stream: IO[bytes], partial: Path) -> None:
    if os.name == "nt":
        stream.close()
    with contextlib.suppress(OSError):
        partial.unlink()


def _digests(file: IO[bytes]) -> Digests:
    sha1, sha256 = hashlib.sha1(usedforsecurity=False), hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        sha1.update(block)
        sha256.update(block)
    return Digests(sha1.hexdigest(), sha256.hexdigest())


# ---- Talking ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _session(remote: Remote) -> Iterator[Any]:
    import requests

    def authorise(request: Any) -> Any:
        if remote.token:
            request.headers["Authorization"] = f"Bearer {remote.token}"
        return request

    with requests.Session() as session:
        session.auth = authorise  # a function, because ~/.netrc would replace a mere header
        session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file
        session.headers["User-Agent"] = f"whisperq-edge/{__version__}"
        yield session


def _fill_and_check(stream: IO[bytes], remote: Remote, session: Any, on_fraction: Optional[OnFraction]) -> Digests:
    _check_space(stream, remote)
    _fill(stream, remote, session, on_fraction or (lambda fraction: None))
    stream.flush()
    stream.seek(0)
    return _digests(stream)


def _check_space(stream: IO[bytes], remote: Remote) -> None:
    """Raise OSError for a disk that is too small, before minutes of fetching."""
    needed = remote.n_bytes - stream.seek(0, os.SEEK_END)
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(stream.name))).free
    if free < needed:
        said = f"{_megabytes(needed)} are needed and {_megabytes(free)} are free"
        raise OSError(errno.ENOSPC, f"{said}: {os.strerror(errno.ENOSPC)}", stream.name)


def _fill(stream: IO[bytes], remote: Remote, session: Any, on_fraction: OnFraction) -> None:
    """Ask for what is missing until nothing is."""
    failures, has_received = 0, False
    while stream.seek(0, os.SEEK_END) < remote.n_bytes:
        before = stream.tell()
        try:
            _receive(stream, remote, session, on_fraction)
            trouble = "the connection was closed early"
        except _Broken as broken:
            trouble = str(broken)
        came = stream.seek(0, os.SEEK_END) > before
        has_received |= came
        failures = 0 if came else failures + 1
        if failures == (_ATTEMPTS if has_received else _FIRST_ATTEMPTS):
            raise ModelNotFoundError(_gave_up(remote, stream.tell(), trouble))
        if failures:
            time.sleep(failures * _PAUSE_S)


def _receive(stream: IO[bytes], remote: Remote, session: Any, on_fraction: OnFraction) -> None:
    """Send one request and append what comes.

    Raises:
        _Broken: another request may succeed.
    """
    from requests import exceptions as errors

    have = stream.tell()
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with session.get(remote.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if not _is_continued(response, have, remote):
                stream.truncate(0)
            if response.status_code == 416:  # the partial file is longer than the server's: begin anew
                return
            for piece in response.iter_content(_PIECE):
                stream.write(piece)
                if stream.tell() > remote.n_bytes:
                    stream.truncate(0)
                    raise _wrong_size(remote, f"more than {remote.n_bytes}")
                on_fraction(stream.tell() / remote.n_bytes)
    except (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError) as error:
        raise _Broken(_innermost(error)) from error
    except errors.RequestException as error:
        raise ModelNotFoundError(
            f"{remote.url} cannot be downloaded ({error}): check HF_ENDPOINT and proxies"
        ) from error


def _is_continued(response: Any, have: int, remote: Remote) -> bool:
    """Check the head of an answer, and tell whether its bytes go on where ours end."""
    status = response.status_code
    if status == 206:
        found = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is not None and found[2] != "*":
            _check_size(int(found[2]), remote)
        if found is None or int(found[1]) != have:
            raise ModelNotFoundError(f"{remote.url}: the server answered another range than was asked for")
        return True
    if status == 416:
        return False
    if status in _PASSING:
        raise _Broken(f"the server answered {status}")
    if status != 200:
        raise ModelNotFoundError(_refusal(remote, status))
    length = response.headers.get("Content-Length", "")
    if length.isdecimal():
        _check_size(int(length), remote)
    return have == 0


def _check_size(n_bytes: int, remote: Remote) -> None:
    """Refuse another file, such as the page of a captive portal, before any of it is kept."""
    if n_bytes != remote.n_bytes:
        raise _wrong_size(remote, str(n_bytes))


def _wrong_size(remote: Remote, found: str) -> ModelFormatError:
    return ModelFormatError(remote.url, 0, "size of the whole file", f"{found} bytes", f"{remote.n_bytes} bytes")


def _refusal(remote: Remote, status: int) -> str:
    if status in (401, 403):
        held = "HF_TOKEN holds a token that may not read it" if remote.token else "HF_TOKEN is not set"
        return f"{remote.url}: access is refused ({status}), and {held}: set HF_TOKEN to an access token that may"
    if status == 404:
        return f"{remote.url}: there is no such file (404): check HF_ENDPOINT, or give the path of a model"
    return f"{remote.url}: the server answered {status}: try again later, or give the path of a model"


def _gave_up(remote: Remote, have: int, trouble: str) -> str:
    kept = f"; {_megabytes(have)} of {_megabytes(remote.n_bytes)} are kept, and the next call goes on there"
    return (
        f"{remote.url} cannot be downloaded ({trouble}){kept if have else ''}: check the network, HF_ENDPOINT and"
        " proxies, or give the path of a model"
    )


def _innermost(error: BaseException) -> str:
    """Return the network's own words, which the layers of the package wrap."""
    seen: list[BaseException] = [error]
    while True:
        inner: Any = seen[-1].__cause__ or seen[-1].__context__ or getattr(seen[-1], "reason", None)
        inner = inner or next((each for each in seen[-1].args if isinstance(each, BaseException)), None)
        if not isinstance(inner, BaseException) or inner in seen:
            return (str(seen[-1]).strip().splitlines() or [type(seen[-1]).__name__])[0]
        seen.append(inner)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
