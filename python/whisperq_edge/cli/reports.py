"""What commands share: lists as options, a journal that survives Ctrl-C, a report as JSON on stdout or in a file."""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import click

from .._system.json_files import json_text, write_json

__all__ = [
    "DEFAULT_MODEL",
    "MODEL_VARIABLE",
    "keeps_journal",
    "language_or_none",
    "print_json",
    "save_report",
    "split_list",
]

MODEL_VARIABLE = "WHISPERQ_MODEL"
DEFAULT_MODEL = "base"
"""What commands take without a model, unless ``$WHISPERQ_MODEL`` names one; whatever is in the cache."""


def split_list(text: str) -> list[str]:
    """The parts of a comma-separated option; none that are empty."""
    return [part.strip() for part in text.split(",") if part.strip()]


def language_or_none(text: Optional[str]) -> Optional[str]:
    """Return the language that was asked for; None, which detects it, for ``auto``."""
    return None if text is not None and text.strip().lower() == "auto" else text


@contextlib.contextmanager
def keeps_journal(journal: Optional[Path]) -> Iterator[None]:
    """Says after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "without --output nothing is kept" if journal is None else f"{journal} has all results: --resume goes on"
        raise KeyboardInterrupt(f"interrupted; {kept}") from None


def print_json(report: Any, indent: Optional[int] = 2) -> None:
    """Print it as one JSON document. JSON is Unicode: on a stdout of another encoding its text is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(json_text(report, indent, is_ascii=not codecs.lookup(encoding).name.startswith("utf")))


def save_report(report: dict[str, Any], path: Path) -> None:
    """Writes it as JSON: whole, or not at all."""
    write_json(path, report)
