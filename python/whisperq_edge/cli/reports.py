"""What the commands that measure share: lists as options, a journal that survives Ctrl-C, a report in a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from .._files import atomic_write

__all__ = ["keeps_journal", "save_report", "split_list"]


def split_list(text: str) -> list[str]:
    """The parts of a comma-separated option; none that are empty."""
    return [part.strip() for part in text.split(",") if part.strip()]


@contextlib.contextmanager
def keeps_journal(journal: Optional[Path]) -> Iterator[None]:
    """Says after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            "without --output nothing is kept" if journal is None else f"{journal} has what was heard: --resume goes on"
        )
        raise KeyboardInterrupt(f"interrupted; {kept}") from None


def save_report(report: dict[str, Any], path: Path) -> None:
    """Writes it as JSON: whole, or not at all."""
    with atomic_write(path) as stream:
        json.dump(report, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
