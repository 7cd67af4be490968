"""Processes that tests start, stop and look at."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

__all__ = ["children_of", "is_running", "start_interruptible", "wait_for"]


def start_interruptible(command: list[str]) -> subprocess.Popen[str]:
    """Start a process that takes Ctrl-C, with pipes for stdout and stderr. Children of nohup inherit that SIGINT is
    ignored."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that a process started, out of /proc."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Return whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the first true answer of ``what``. None within ``seconds`` is a failure."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        answer = what()
        if answer:
            return answer
        time.sleep(0.005)
    raise AssertionError(f"not within {seconds} s")
