"""Models that were fetched or converted once, so that they are quick ever after.

::

    <folder>/ggml-base.en-q8_0-1f2e3d4c5b6a.bin         a model, ready to load; the digits are the entry's key
    <folder>/ggml-base.en-q8_0-1f2e3d4c5b6a.bin.json    the converter's report, and under "cache" what we add to it
    <folder>/ggml-base.en-q8_0-1f2e3d4c5b6a.lock        held by the process that makes the entry
    <folder>/ggml-base.en-q8_0-1f2e3d4c5b6a.bin.partial what a broken download has brought so far (fetch)
    <folder>/sources.json                               hashes of sources, so that gigabytes are not read twice
    <folder>/self-test-avx2-1f2e3d4c5b6a.json           what the kernels' self-test found (_system/self_test)
    <folder>/silence-avx2-1f2e3d4c5b6a.bin              what a model makes of silence (_engines/kept_silence)
    <folder>/tune.json                                  what `whisperq-edge tune` found (profile)

An entry that is whole is opened and nothing is written. Files of other names are never touched.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

from .._core import read_model_file
from .._errors import ModelError, OptionError
from .._system.files import sha256_of_files
from .._system.folders import cache_folder
from .._system.json_files import write_json
from .._system.locks import lock_if_free, locked, try_lock
from .._system.native import load_ggml
from .._whisper.types import TYPES
from . import converter
from .fetch import FETCH_LOG, PARTIAL, Digests, Remote, digests_of, fetch_file
from .published import PublishedFile

__all__ = [
    "PROFILES",
    "CacheEntry",
    "Removed",
    "cached_model",
    "clear_cache",
    "fetched_model",
    "find_cached",
    "find_fetched",
    "has_sha1",
    "list_cache",
    "prune_cache",
]

_LOG = logging.getLogger("whisperq_edge")

PROFILES = "tune.json"
_SOURCES = "sources.json"
_SELF_TEST = re.compile(r"self-test-[a-z0-9_]+-[0-9a-f]{12}\.json")
_SILENCE = re.compile(r"silence-[a-z0-9_]+-[0-9a-f]{12}\.bin")
_MOST_SOURCES = 500
_DAY_S = 86400.0
_RECIPE = "recipe"
_ENTRY = re.compile(rf"(?P<stem>.+)-(?P<kind>{'|'.join([*TYPES, _RECIPE])})-(?P<key>[0-9a-f]{{12}})\.bin")

OnProgress = Callable[[str, float], None]
PathLike = Union[str, "os.PathLike[str]"]


# ---- Getting a model -------------------------------------------------------------------------------------------------


def cached_model(
    source: PathLike,
    type: str = "f16",
    *,
    recipe: Optional[PathLike] = None,
    model: Optional[str] = None,
    n_threads: int = 0,
    on_progress: Optional[OnProgress] = None,
) -> Path:
    """The file of ``source`` in another type: from the cache, or converted into it now.

    Of several processes that ask for the same at the same time one converts, and the others wait for it.

    Args:
        source: a file or folder that ``convert_model`` reads.
        type: a name in ``TYPES``: of the matrices.
        recipe: a TOML file that chooses a type for each; ``type`` does not count then.
        model: the name under which :func:`find_cached` shall find the entry.
        n_threads: of the conversion; 0 takes every CPU that the process may use.
        on_progress: see ``convert_model``.

    Raises:
        ModelError: the source is no sound Whisper model.
        OSError: the cache cannot be written, or the disk is full.
    """
    path = Path(source)
    what = f"recipe {Path(recipe).read_text(encoding='utf-8')}" if recipe is not None else f"type {type}"
    source_sha256 = _source_sha256(path)
    kind = _RECIPE if recipe is not None else type
    entry = cache_folder() / f"{_stem(model or path.name)}-{kind}-{_key(source_sha256, what)}.bin"
    if _accept(entry, model):
        return entry
    _make_folder(entry.parent)
    with _locked(_lock_path(entry)):
        if not _accept(entry, model):  # else another process made it while we waited
            _LOG.info("converting %s to %s in the cache: %s", path, kind, entry)
            options: dict[str, Any] = {"proof": "tensors", "n_threads": n_threads, "on_progress": on_progress}
            converter.convert_model(
                path, entry, type=None if recipe else type, recipe=recipe, overwrite=True, **options
            )
            _check_source(path, source_sha256, entry)
            _complete_record(entry, model)
    return entry


def find_cached(model: str, type: str) -> Optional[Path]:
    """The entry that was made under the name ``model`` in ``type``, if it is whole and of today's quantisers."""
    for path in _entry_paths(cache_folder()):
        if not path.name.startswith(f"{_stem(model)}-{type}-"):
            continue
        record = _read_record(path)
        if record and (record.model, record.quantizer) == (model, _quantizer()) and _accept(path, model):
            return path
    return None


# ---- Published files -------------------------------------------------------------------------------------------------


def find_fetched(file: PublishedFile, folder: Optional[PathLike] = None) -> Optional[Path]:
    """Return a published file that is there already, or None.

    Args:
        file: the published file.
        folder: of :func:`fetched_model`.
    """
    entry = _fetched_path(file, folder)
    if (_load_sidecar(entry) or {}).get("sha1") == file.sha1 and _accept(entry, file.model):
        return entry
    # A file that the user put there is taken when its bytes are right. In the cache nobody puts one.
    return entry if folder is not None and entry.is_file() and has_sha1(entry, file.sha1) else None


def has_sha1(path: Path, sha1: str) -> bool:
    """Tell whether a file has this hash. It is remembered like that of a source."""
    stamp = _stamp(path)
    known = _load_sources().get(str(path.absolute()))
    if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("sha1"), str):
        return bool(known["sha1"] == sha1)
    digests = digests_of(path)
    if _stamp(path) == stamp:
        _remember_source(path, {"stamp": stamp, **digests._asdict()})
    return digests.sha1 == sha1


def fetched_model(
    file: PublishedFile, remote: Remote, folder: Optional[PathLike] = None, on_progress: Optional[OnProgress] = None
) -> Path:
    """Return a published file, from the cache or fetched into it now.

    Of several processes that ask for the same at the same time one fetches, and the others wait for it.

    Args:
        file: the published file.
        remote: where it is.
        folder: where it shall be under its own name; None for the cache.
        on_progress: told what is fetched and the fraction that is there.

    Raises:
        ModelNotFoundError, ModelFormatError, OSError: see ``fetch_file``.
    """
    entry = _fetched_path(file, folder)
    _make_folder(entry.parent, "set WHISPERQ_CACHE" if folder is None else "set download_root")
    with _locked(_lock_path(entry)):
        found = find_fetched(file, folder)  # else another process made it while we waited
        if found is not None:
            return found
        if entry.exists() and folder is not None:
            _LOG.warning("%s has other bytes than the published file: it is downloaded anew", entry)
        logging.getLogger(FETCH_LOG).info(
            "downloading the model %s: %.0f MB from %s into %s; `whisperq-edge models` lists others, which --model or"
            " WHISPERQ_MODEL chooses",
            *(file.model, file.n_bytes / 1e6, remote.url, entry.parent),
        )
        tell = None if on_progress is None else lambda fraction: on_progress(f"downloading {file.name}", fraction)
        digests = fetch_file(remote, entry, tell)
        _record_fetched(entry, file, digests, remote.url)
    return entry


def _fetched_path(file: PublishedFile, folder: Optional[PathLike]) -> Path:
    if folder is not None:
        return Path(folder).expanduser().absolute() / file.name
    return cache_folder() / f"{_stem(file.model)}-{file.type}-{file.sha1[:12]}.bin"


def _record_fetched(entry: Path, file: PublishedFile, digests: Digests, source: str) -> None:
    """Write beside the file what makes it an entry like a converted one."""
    document = {
        "sha256": digests.sha256,
        "sha1": digests.sha1,
        "source": {"path": source},
        "destination": {"path": str(entry), "bytes": entry.stat().st_size, "type": file.type},
    }
    _write_sidecar(entry, document)
    _complete_record(entry, file.model)


def _quantizer() -> str:
    return str(load_ggml().quantizer_version)


def _key(source_sha256: str, what: str) -> str:
    return hashlib.sha256("\n".join((source_sha256, what, _quantizer())).encode("utf-8")).hexdigest()[:12]


def _stem(name: str) -> str:
    """``ggml-base.en`` for ``base.en``, ``base.en.pt``, ``ggml-base.en.bin`` and ``openai/whisper-base.en``."""
    stem = re.sub(r"\.(bin|pt|pth|safetensors)$", "", name.rsplit("/", 1)[-1], flags=re.IGNORECASE)
    stem = re.sub(r"^(ggml|faster-whisper|whisper)-", "", stem)
    return "ggml-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:80].strip("-.") or "model")


def _make_folder(folder: Path, step: str = "set WHISPERQ_CACHE") -> None:
    advice = f"{step} to a folder that can be written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"the cache cannot be made here ({error.strerror}): {advice}", str(folder)
        ) from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, f"the cache cannot be written: {advice}", str(folder))


def _check_source(source: Path, source_sha256: str, entry: Path) -> None:
    """The converter hashes what it reads: a source that changed meanwhile has another key."""
    if (_load_sidecar(entry) or {}).get("source_sha256") == source_sha256:
        return
    _remove(_sidecar(entry))
    _remove(entry)
    _remember_source(source, None)
    raise ModelError(f"{source} changed while it was being read: load it again when it is complete")


# ---- What makes an entry whole ---------------------------------------------------------------------------------------


class _Record(NamedTuple):
    """What the sidecar says. The last three are ours and missing until the entry is complete."""

    sha256: str
    n_bytes: int
    source: str
    model: Optional[str]
    quantizer: Optional[str]
    mtime_ns: Optional[int]


def _sidecar(entry: Path) -> Path:
    return entry.with_name(entry.name + ".json")


def _load_sidecar(entry: Path) -> Optional[dict[str, Any]]:
    try:
        document = json.loads(_sidecar(entry).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _read_record(entry: Path) -> Optional[_Record]:
    """None: it cannot be read, or it is not what a converter wrote."""
    document = _load_sidecar(entry)
    if document is None:
        return None
    ours = document.get("cache")
    ours = ours if isinstance(ours, dict) else {}
    try:
        return _Record(
            sha256=str(document["sha256"]),
            n_bytes=int(document["destination"]["bytes"]),
            source=str(document["source"]["path"]),
            model=ours.get("model"),
            quantizer=ours.get("quantizer"),
            mtime_ns=ours.get("mtime_ns"),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _accept(entry: Path, model: Optional[str]) -> bool:
    """Whether a file is what the converter wrote. Its bytes are read again only when it is not known to be untouched;
    that it is, and the name that it was asked for by, is then noted where that can be written."""
    record = _read_record(entry)
    if record is None:
        return False
    try:
        status = entry.stat()
        is_known = status.st_mtime_ns == record.mtime_ns
        if status.st_size != record.n_bytes or not (is_known or sha256_of_files([entry]) == record.sha256):
            return False
        read_model_file(entry)
    except (OSError, ModelError):
        return False
    if not is_known or model not in (None, record.model):
        with contextlib.suppress(OSError):
            _complete_record(entry, model or record.model)
    return True


def _complete_record(entry: Path, model: Optional[str]) -> None:
    """Adds to the converter's report what makes the next look cheap and lets a name find the entry."""
    document = _load_sidecar(entry) or {}
    document["cache"] = {"model": model, "quantizer": _quantizer(), "mtime_ns": entry.stat().st_mtime_ns}
    _write_sidecar(entry, document)


def _write_sidecar(entry: Path, document: dict[str, Any]) -> None:
    write_json(_sidecar(entry), document)


# ---- Identity of a source --------------------------------------------------------------------------------------------


def _source_sha256(path: Path) -> str:
    """Of a file its own; of a folder that of the list of the files that its reader opens. Remembered by size, time and
    inode of everything that was looked at."""
    stamp = _stamp(path)
    known = _load_sources().get(str(path.absolute()))
    if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    digest = sha256_of_files(_source_files(path))
    if _stamp(path) == stamp:  # else it is being written: no hash of it lasts
        _remember_source(path, {"stamp": stamp, "sha256": digest})
    return digest


def _stamp(path: Path) -> list[list[Any]]:
    """A folder's own time tells of files that came and went, those of its files of what changed in them."""
    paths = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
    rows: list[list[Any]] = []
    for each in paths:
        with contextlib.suppress(FileNotFoundError):  # a dangling link
            status = each.stat()
            rows.append([each.name, status.st_size, status.st_mtime_ns, status.st_ino])
    return rows


def _source_files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    return converter.open_source(path).files


def _load_sources() -> dict[str, Any]:
    try:
        document = json.loads((cache_folder() / _SOURCES).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _remember_source(path: Path, row: Optional[dict[str, Any]]) -> None:
    """None forgets it. Where nothing can be written, and when another process writes at the same time, a source is
    hashed once more."""
    name = str(path.absolute())
    rows = {known: each for known, each in _load_sources().items() if known != name and os.path.exists(known)}
    if row is not None:
        rows[name] = row
    with contextlib.suppress(OSError):
        _make_folder(cache_folder())
        write_json(cache_folder() / _SOURCES, dict([*rows.items()][-_MOST_SOURCES:]))


# ---- Locks -----------------------------------------------------------------------------------------------------------


def _lock_path(entry: Path) -> Path:
    return entry.with_suffix(".lock")


def _locked(path: Path) -> contextlib.AbstractContextManager[None]:
    waiting = "waiting for another process, which is making this entry of the cache: %s"
    return locked(path, lambda: _LOG.info(waiting, path))


# ---- Looking at it, and making room ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CacheEntry:
    """A model in the cache.

    Attributes:
        path: of the ggml file.
        kind: the type that was asked for, or ``recipe``.
        model: the published name or hub id it was made under; None: made from a file, or its report is unreadable.
        source: the file or folder it was made from; None: its report is unreadable.
        n_bytes: on disk, report included.
        used: when it was last read, as far as the file system notes that, or made; in seconds since 1970.
    """

    path: Path
    kind: str
    model: Optional[str]
    source: Optional[str]
    n_bytes: int
    used: float


class Removed(NamedTuple):
    """A file that is gone (an entry's report with it), and the bytes that it took."""

    path: Path
    n_bytes: int


def list_cache() -> list[CacheEntry]:
    """Every entry, the one used last first."""
    entries = [entry for entry in map(_entry, _entry_paths(cache_folder())) if entry is not None]
    return sorted(entries, key=lambda entry: (-entry.used, entry.path))


def prune_cache(max_bytes: Optional[int] = None, older_than_days: Optional[float] = None) -> list[Removed]:
    """Makes room: removes what was not used for ``older_than_days``, then what was used longest ago until the rest
    takes no more than ``max_bytes``; in any case what killed processes left behind.

    Entries that are being made are left alone.

    Raises:
        OptionError: a number below 0.
    """
    for field, value in (("max_bytes", max_bytes), ("older_than_days", older_than_days)):
        if value is not None and not value >= 0:
            raise OptionError(field, value, "0 or more")
    now = time.time()
    removed = _remove_leftovers(cache_folder(), now - _DAY_S)
    # What a model makes of silence goes first: the next short audio makes it again.
    candidates = [*_silence_files(cache_folder()), *reversed(list_cache())]
    total = sum(entry.n_bytes for entry in candidates)
    for entry in candidates:
        is_old = older_than_days is not None and now - entry.used > older_than_days * _DAY_S
        if is_old or (max_bytes is not None and total > max_bytes):
            gone = _remove_entry(entry)
            total -= sum(each.n_bytes for each in gone)
            removed += gone
    return removed


def clear_cache() -> list[Removed]:
    """Removes all that is ours and not being made right now, the profiles of ``tune`` too. The folder stays."""
    folder = cache_folder()
    removed = _remove_leftovers(folder, time.time())
    for entry in list_cache():
        removed += _remove_entry(entry)
    for path in _files_in(folder):
        if path.name in (_SOURCES, PROFILES) or _SELF_TEST.fullmatch(path.name) or _SILENCE.fullmatch(path.name):
            removed += _remove(path)
    return removed


def _entry_paths(folder: Path) -> list[Path]:
    return [path for path in _files_in(folder) if _ENTRY.fullmatch(path.name)]


def _files_in(folder: Path) -> list[Path]:
    """Regular files, links aside, in the order of their names."""
    try:
        with os.scandir(folder) as found:
            return sorted(Path(each.path) for each in found if each.is_file(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _silence_files(folder: Path) -> list[CacheEntry]:
    """As entries, so that they are pruned like them."""
    return [entry for path in _files_in(folder) if _SILENCE.fullmatch(path.name) and (entry := _entry(path))]


def _entry(path: Path) -> Optional[CacheEntry]:
    """None: it is gone by now."""
    match = _ENTRY.fullmatch(path.name)
    record = _read_record(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return CacheEntry(
        path=path,
        kind=match["kind"] if match else "",
        model=record.model if record else None,
        source=record.source if record else None,
        n_bytes=status.st_size + _size_of(_sidecar(path)),
        used=max(status.st_atime, status.st_mtime),
    )


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove_entry(entry: CacheEntry) -> list[Removed]:
    """Nothing when another process is making it right now."""
    with lock_if_free(_lock_path(entry.path)) as is_ours:
        if not is_ours:
            return []
        _remove(_sidecar(entry.path))
        return [Removed(entry.path, entry.n_bytes)] if _remove(entry.path) else []


def _remove(path: Path) -> list[Removed]:
    n_bytes = _size_of(path)
    try:
        path.unlink()
    except FileNotFoundError:
        return []
    return [Removed(path, n_bytes)]


def _remove_leftovers(folder: Path, before: float) -> list[Removed]:
    """What killed processes left: files half written, if they were last written ``before`` that time (in seconds), and
    locks and reports of no entry."""
    removed = []
    for path in _files_in(folder):
        if (path.name.startswith(".whisperq-") and path.name.endswith(".part")) or (
            path.suffix == PARTIAL and _ENTRY.fullmatch(path.stem)
        ):
            removed += _remove_if_abandoned(path, before)
        elif path.suffix == ".lock" and _ENTRY.fullmatch(path.with_suffix(".bin").name):
            with lock_if_free(path):  # which removes it in the end
                pass
        elif path.suffix == ".json" and _ENTRY.fullmatch(path.stem) and not path.with_suffix("").exists():
            removed += _remove(path)
    return removed


def _remove_if_abandoned(path: Path, before: float) -> list[Removed]:
    """A conversion under way keeps writing and holds a lock on what it writes."""
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_mtime < before and try_lock(stream.fileno()):
                return _remove(path)
    except FileNotFoundError:
        pass
    return []
