"""Processes of our own that run a model: the same modules, errors that come back whole, the memory that they took."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
    "start_module",
    "task_folder",
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


@contextlib.contextmanager
def task_folder(task: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """A folder with ``task.json`` in it, to run in: ``python -m`` looks for modules where it stands first."""
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        Path(folder, "task.json").write_text(json.dumps(task), encoding="utf-8")
        yield folder


def start_module(
    module: str, folder: str, stderr: IO[bytes], environment: Optional[Mapping[str, str]] = None
) -> subprocess.Popen[bytes]:
    """``python -m module folder``, run there, with pipes for stdin and stdout.

    Args:
        module: of this package.
        folder: of :func:`task_folder`.
        stderr: where its last words go.
        environment: variables that it gets beside ours.
    """
    if not sys.executable:
        raise InferenceError("models run in processes of their own, and where this Python's program is is not known")
    return subprocess.Popen(
        [sys.executable, "-m", module, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=folder,
        env={**child_environment(), **(environment or {})},
    )


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
