"""Tables: drawn on a terminal, columns that stay whole in a pipe or a file. A progress bar on a terminal only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Callable

import click

from .._system.progress import is_terminal

__all__ = ["is_terminal", "print_table", "stage_progress"]


def print_table(
    rows: Sequence[Sequence[str]], header: Sequence[str] = (), *, right: Collection[str] = (), indent: str = ""
) -> None:
    """Rows of cells on stdout; columns whose header is in ``right`` are numbers."""
    if is_terminal(sys.stdout):
        _print_rich(rows, header, right)
    else:
        _print_plain(rows, header, right, indent)


def _print_plain(rows: Sequence[Sequence[str]], header: Sequence[str], right: Collection[str], indent: str) -> None:
    everything = [header, *rows] if header else list(rows)
    if not everything:
        return
    widths = [max(map(len, column)) for column in zip(*everything)]
    to_the_right = [name in right for name in header] if header else [False] * len(widths)
    for row in everything:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, to_the_right)]
        click.echo(indent + "  ".join(cells).rstrip(), file=sys.stdout)


def _print_rich(rows: Sequence[Sequence[str]], header: Sequence[str], right: Collection[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(header), header_style="bold", pad_edge=False)
    for name in header or [""] * (len(rows[0]) if rows else 0):
        table.add_column(name, justify="right" if name in right else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a path in brackets is no markup
    Console().print(table)


@contextlib.contextmanager
def stage_progress() -> Iterator[Callable[[str, float], None]]:
    """A function that is told a stage and the fraction of it that is done. Silent when stderr is no terminal."""
    if not is_terminal(sys.stderr):
        yield lambda stage, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=fraction)

        yield advance
