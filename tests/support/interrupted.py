"""Starting a process that takes Ctrl-C."""

from __future__ import annotations

import signal
import subprocess

__all__ = ["start_interruptible"]


def start_interruptible(command: list[str]) -> subprocess.Popen[str]:
    """A process with pipes for stdout and stderr. Children of nohup, as CI may be, inherit that SIGINT is ignored."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
