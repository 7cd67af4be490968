"""Which kernels are to be trusted: those that gave the known answers on this CPU, else ``scalar``.

The kernels of an instruction set are tested (``_core.self_test``, a few milliseconds) when a process first needs them.
What came out is remembered in the cache folder for this CPU, this build of ``_core`` and this instruction set, so that
the next process only reads a file::

    <cache>/self-test-<isa>-<key>.json    {"state": "passed", "ms": 2.4, ...}

Before the test the file says "started". Where a process finds that a test never came to its end, as an illegal
instruction or a kill ends it, it repeats the test in a process of its own, which may crash. Where nothing can be
written, each process tests for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Callable, NamedTuple, Optional

from .. import _core
from .._errors import OptionError
from .._version import __version__
from .build import build_stamp
from .folders import cache_folder
from .json_files import write_json
from .locks import ThreadLock, release_lock, take_lock
from .process import signal_name

__all__ = ["VARIABLE", "SelfTest", "SelfTestWarning", "known_self_test", "trusted_isa"]

_LOG = logging.getLogger("whisperq_edge")

VARIABLE = "WHISPERQ_SELF_TEST"
_MODES = ("auto", "always", "never")
_SCALAR = "scalar"
_PASSED, _FAILED, _STARTED, _NOT_RUN, _SKIPPED = "passed", "failed", "started", "not run yet", "skipped"
_PATIENCE_S = 2.0
_PATIENCE_APART_S = 30.0
_MIDR = Path("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1")


class SelfTestWarning(RuntimeWarning):
    """The kernels that were to be used gave wrong answers on this CPU, or none."""


class SelfTest(NamedTuple):
    """What is known of the kernels of an instruction set, on this CPU and in this build.

    Attributes:
        isa: the instruction set.
        state: ``passed``, ``failed``, ``started`` (it has not come to its end), ``not run yet`` or ``skipped``
            (``WHISPERQ_SELF_TEST=never``).
        ms: what the test took; None: it has not ended.
        reason: what was wrong; empty where nothing was.
    """

    isa: str
    state: str
    ms: Optional[float] = None
    reason: str = ""

    @property
    def is_trusted(self) -> bool:
        return self.state != _FAILED


_lock = ThreadLock()
_of_this_process: dict[str, SelfTest] = {}
_warned: set[str] = set()


def trusted_isa(isa: str = "auto") -> str:
    """The name of the kernels to use: those of ``isa`` if they give the right answers on this CPU, else ``scalar``.

    The first call in a process tests them, or finds what an earlier process found. That they fail is said once a
    process, as a :class:`SelfTestWarning` and in the log.

    Args:
        isa: ``auto`` (``WHISPERQ_ISA``, or the best that this CPU supports) or a name.

    Raises:
        UnknownIsaError, IsaNotBuiltError, IsaNotSupportedError: about ``isa``.
        OptionError: ``WHISPERQ_SELF_TEST`` is none of ``auto``, ``always`` (test in each process, whatever is
            remembered) and ``never``.
    """
    isa = _core.chosen_isa() if isa in ("", "auto") else isa
    if not _is_usable(isa):
        return isa  # whoever loads it raises the error with the list
    with _lock:
        found = _of_this_process.get(isa)
        if found is None:
            found = _of_this_process[isa] = _find(isa)
        is_news = not found.is_trusted and isa not in _warned
        _warned.add(isa)
    if is_news:
        _tell(found)
    return isa if found.is_trusted else _SCALAR


def known_self_test(isa: str = "auto") -> SelfTest:
    """What is known without a test: from this process, or an earlier one. Arguments and errors as ``trusted_isa``."""
    isa = _core.chosen_isa() if isa in ("", "auto") else isa
    known = _of_this_process.get(isa)
    if known is not None:
        return known
    if _mode() == "never":
        return SelfTest(isa, _SKIPPED)
    return _read(_path(isa), isa) or SelfTest(isa, _NOT_RUN)


def _is_usable(isa: str) -> bool:
    return any(row["name"] == isa and row["built"] and row["supported"] for row in _core.isas())


def _mode() -> str:
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in _MODES:
        raise OptionError(VARIABLE, mode, f"{', '.join(_MODES[:-1])} or {_MODES[-1]}")
    return mode


def _find(isa: str) -> SelfTest:
    mode = _mode()
    if mode == "never":
        return SelfTest(isa, _SKIPPED)
    path = _path(isa)
    if mode == "auto":
        known = _read(path, isa)
        if known is not None and known.state != _STARTED:
            return known
    with _held(path) as is_held:
        # Another process may have tested while we waited. What it started and nobody holds, it did not end.
        known = _read(path, isa) if mode == "auto" else None
        if known is not None and known.state != _STARTED:
            return known
        run = _run if known is None else _run_apart
        return _test(isa, run, path if is_held else None)


def _test(isa: str, run: Callable[[str], SelfTest], path: Optional[Path]) -> SelfTest:
    """``path``: where to note it; None: nowhere."""
    if path is None:
        return run(isa)
    found = None
    try:
        _write(path, SelfTest(isa, _STARTED))
        found = run(isa)
        return found
    finally:
        if found is None or not _write(path, found):
            with contextlib.suppress(OSError):
                path.unlink()  # what is left of a test that Ctrl-C ended would count as a crash


def _run(isa: str) -> SelfTest:
    return _judged(isa, _core.self_test(isa))


# The library by its path: neither the package nor what it imports is needed.
_APART = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("_core", sys.argv[1])
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
print(json.dumps(core.self_test(sys.argv[2])))
"""


def _run_apart(isa: str) -> SelfTest:
    # Isolated: without -I, Python takes modules from the folder where it stands first.
    command = [sys.executable or "python3", "-I", "-c", _APART, _core.__file__, isa]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_APART_S, check=True)
        return _judged(isa, json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return SelfTest(isa, _FAILED, None, f"the test of them does not come to its end ({_how_it_ended(error)})")


def _how_it_ended(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        code = error.returncode
        return signal_name(-code) if code < 0 else f"exit code {code}"
    return "timeout" if isinstance(error, subprocess.TimeoutExpired) else str(error)


def _judged(isa: str, answer: Mapping[str, Any]) -> SelfTest:
    failure = answer["failure"]
    if failure is None:
        return SelfTest(isa, _PASSED, answer["ms"])
    reason = (
        f"{failure['kernel']} ({failure['where']}, value {failure['index']}) gave {failure['got']:.9g}"
        f" instead of {failure['expected']:.9g} +- {failure['tolerance']:.2g}"
    )
    return SelfTest(isa, _FAILED, answer["ms"], reason)


def _tell(found: SelfTest) -> None:
    message = (
        f"the {found.isa} kernels do not work on this CPU ({_core.cpu_name() or _core.cpu_family()}): {found.reason}."
        f" Please report this with the output of `whisperq-edge info --json`. "
    )
    if found.isa == _SCALAR:
        message += "There is nothing to fall back to: do not trust the transcripts."
    else:
        message += (
            "The slow scalar kernels are used instead;"
            f" WHISPERQ_ISA chooses others, {VARIABLE}=always tests again and {VARIABLE}=never trusts them untested."
        )
    _LOG.warning("%s", message)
    warnings.warn(message, SelfTestWarning, stacklevel=3)


# ---- What is remembered ----------------------------------------------------------------------------------------------


def _path(isa: str) -> Path:
    return cache_folder() / f"self-test-{isa}-{_key()}.json"


def _key() -> str:
    """Of this CPU, and of this build: another compiler or another machine is another test."""
    features = ",".join(name for name, found in _core.cpu_features().items() if found)
    cpu = (_core.cpu_name(), _core.cpu_family(), features, _model_of_arm_cpu())
    return hashlib.sha256(repr((cpu, build_stamp())).encode("utf-8")).hexdigest()[:12]


def _model_of_arm_cpu() -> str:
    with contextlib.suppress(OSError):
        return _MIDR.read_text(encoding="ascii").strip()
    return ""


def _read(path: Path, isa: str) -> Optional[SelfTest]:
    try:
        document = json.loads(path.read_bytes())
        state, ms, reason = document["state"], document["ms"], document["reason"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if state not in (_PASSED, _FAILED, _STARTED):
        return None
    return SelfTest(isa, state, ms if isinstance(ms, (int, float)) else None, str(reason))


def _write(path: Path, found: SelfTest) -> bool:
    document = {"isa": found.isa, "state": found.state, "ms": found.ms, "reason": found.reason}
    document.update(cpu=_core.cpu_name(), version=__version__)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether nobody else tests the same until the end of the block. False, too, where there are no locks, the folder
    cannot be written, or whoever holds it takes too long: then a marker says nothing."""
    lock = path.with_suffix(".lock")
    stream = _take_patiently(lock)
    try:
        # A second attempt that gets the lock too shows that the file system has none.
        second = _attempt(lock) if stream is not None else None
        if second is not None:
            second.close()
        yield stream is not None and second is None
    finally:
        if stream is not None:
            release_lock(stream, lock)


def _take_patiently(lock: Path) -> Optional[IO[bytes]]:
    give_up_s = time.monotonic() + _PATIENCE_S
    with contextlib.suppress(OSError):
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            stream = take_lock(lock)
            if stream is not None or time.monotonic() > give_up_s:
                return stream
            time.sleep(0.005)
    return None


def _attempt(lock: Path) -> Optional[IO[bytes]]:
    with contextlib.suppress(OSError):
        return take_lock(lock)
    return None
