"""What a model makes of silence (csrc/edge/silence.h), kept on disk. A process that finds it there encodes short audio
at once; the first one encodes a silent window, which takes as long as any other window::

    <cache>/silence-<isa>-<key>.bin    sha256 of what follows (32 bytes), and what ``EdgeModel.silence`` gives

The key is of the model's file, of the kernels and of this build. Where nothing can be written, each process learns for
itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import numpy.typing as npt

from .. import _core
from .._system.build import build_stamp
from .._system.files import atomic_write
from .._system.folders import cache_folder
from .._system.locks import ThreadLock

__all__ = ["KeptSilence"]

_N_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of the model's file
_DIGEST_BYTES = hashlib.sha256().digest_size


class KeptSilence:
    """Silence for one model, which learns it when it is first asked for.

    Args:
        model: that learns it.
        path: of its file.
    """

    def __init__(self, model: _core.EdgeModel, path: str) -> None:
        self._model = model
        self._path = path
        self._lock = ThreadLock()
        self._is_known = False

    def learn(self, should_stop: Callable[[], bool]) -> bool:
        """Return whether the model knows silence now. False: ``should_stop`` said True before."""
        if self._is_known:
            return True
        with self._lock:
            if not self._is_known:
                self._is_known = self._find(should_stop)
            return self._is_known

    def _find(self, should_stop: Callable[[], bool]) -> bool:
        kept = cache_folder() / f"silence-{self._model.isa}-{_key(self._path)}.bin"
        known = _read(kept)
        if known is not None:
            with contextlib.suppress(ValueError):  # of another size: not what this build writes
                self._model.set_silence(known)
                return True
        if not self._model.learn_silence(should_stop):
            return False
        _write(kept, self._model.silence)
        return True


def _key(path: str) -> str:
    """Of the build, and of the file by its size, its time and samples of its bytes: a hash of all of it would take as
    long as the audio does."""
    digest = hashlib.sha256(repr(build_stamp()).encode("utf-8"))
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        digest.update(repr((status.st_size, status.st_mtime_ns)).encode("utf-8"))
        for i in range(_N_SAMPLES):
            file.seek(i * status.st_size // _N_SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def _read(path: Path) -> Optional[memoryview]:
    try:
        found = memoryview(path.read_bytes())
    except OSError:
        return None
    digest, known = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    return known if hashlib.sha256(known).digest() == digest else None


def _write(path: Path, parts: Sequence[npt.NDArray[np.uint8]]) -> None:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.data)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            file.write(digest.digest())
            for part in parts:
                file.write(part.data)
