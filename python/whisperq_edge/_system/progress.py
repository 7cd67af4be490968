"""A progress bar on stderr, where stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Callable, Optional

__all__ = ["ShowProgress", "is_terminal", "progress_bar"]

ShowProgress = Callable[[float, float], None]


def is_terminal(stream: Optional[IO[str]]) -> bool:
    """Of a stream that was closed before Python began there is nothing, as with ``2>&-``."""
    return stream is not None and stream.isatty()


@contextmanager
def progress_bar(
    label: str, *, transient: bool = False, redirect_stderr: bool = False
) -> Iterator[Optional[ShowProgress]]:
    """Give a function that draws the fraction done and ignores the seconds left, or None where there is no terminal.

    Args:
        label: the text before the bar.
        transient: erase the bar at the end.
        redirect_stderr: put what is printed on stderr meanwhile above the bar. It replaces ``sys.stderr``.
    """
    if not is_terminal(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    # rich would send what is printed on stdout to the bar's stream, past a pipe or a file that waits for it.
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=transient,
        redirect_stdout=False,
        redirect_stderr=redirect_stderr,
    )
    with bar:
        task = bar.add_task(label, total=1.0)
        yield lambda fraction, left_s: bar.update(task, completed=fraction)
        bar.update(task, completed=1.0)
