"""Tables to paste into a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["markdown_table"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False) -> str:
    """Return a table in Markdown, without a line end behind it.

    A ``|`` in a cell would begin another cell, and a line end another row: the first is escaped, the second a space.

    Args:
        header: the names of the columns.
        rows: the cells of each row.
        right: align all columns but the first to the right, as for numbers.
    """
    rules = ["---"] + ["---:" if right else "---"] * (len(header) - 1)
    lines = [[_escaped(cell) for cell in row] for row in (header, *rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (lines[0], rules, *lines[1:]))


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").splitlines())
