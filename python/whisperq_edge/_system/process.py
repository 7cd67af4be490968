"""Processes of our own that run a model: the same modules, errors that come back whole, the memory that they took."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Optional, Union

from .. import _errors
from .._errors import InferenceError

__all__ = [
    "INTERRUPTED",
    "child_environment",
    "death",
    "described",
    "last_words",
    "peak_rss_bytes",
    "restored",
    "settle",
]

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

_LAST_WORDS_BYTES = 2000
_OTHER_TYPES = ("WHISPERQ_COMPUTE_TYPE", "WL_COMPUTE_TYPE")  # would load the model as something else than it is


def child_environment() -> dict[str, str]:
    """For ``python -m whisperq_edge...``: the same modules as here, however they came to be found.

    The current folder is left out, because a ``json.py`` or ``numpy.py`` that lies there would be run. It stays where
    this package is in it.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OTHER_TYPES}
    here, ours = Path.cwd().resolve(), Path(__file__).resolve().parents[2]
    folders = [os.path.abspath(entry) for entry in sys.path if here == ours or Path(entry).resolve() != here]
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    return environment


def last_words(stderr: IO[bytes]) -> str:
    """The end of what a process said on stderr."""
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
    return stderr.read().decode("utf-8", "replace").strip()


def death(model: Union[str, os.PathLike[str]], code: int, last_words: str) -> str:
    """What to say of a process that ended without an answer."""
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    hint = " Signal 9 is what the system sends when memory runs out." if code == -9 else ""
    said = f" It said: {last_words}" if last_words else ""
    return f"{os.fspath(model)}: the process that ran it ended {how}.{hint}{said}"


def described(error: Exception) -> dict[str, Any]:
    """An exception as JSON can hold it, for :func:`restored` in another process."""
    arguments = error.__reduce__()[1]
    name = "OSError" if isinstance(error, OSError) and not isinstance(error, _errors.WhisperqError) else None
    plain = [value if isinstance(value, (str, int, float, type(None))) else str(value) for value in arguments]
    return {"error": name or type(error).__name__, "arguments": plain}


def restored(name: str, arguments: Sequence[Any]) -> BaseException:
    """The exception that the other process raised."""
    if name in _errors.__all__:
        error: BaseException = getattr(_errors, name)(*arguments)
        return error
    if name == "MemoryError":
        return MemoryError(*arguments)
    if name == "OSError":
        return OSError(*arguments)
    return InferenceError(f"the process that ran the model failed: {name}{tuple(arguments)}")


def peak_rss_bytes() -> Optional[int]:
    """Most memory that this process has held so far; None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:  # ru_maxrss would count the parent's, before exec
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def settle(most_s: float = 2.0) -> bool:
    """Waits until no thread of this process computes any more; whether that came about in time.

    Pools of threads keep spinning for a moment after the work, to be quick when more comes. On a machine with no cores
    to spare they would slow down whoever has the next turn.
    """
    until = time.perf_counter() + most_s
    while time.perf_counter() < until:
        before_s, began = time.process_time(), time.perf_counter()
        time.sleep(0.01)
        if time.process_time() - before_s < 0.1 * (time.perf_counter() - began):
            return True
    return False
