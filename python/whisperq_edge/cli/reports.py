"""What commands share: lists as options, a journal that survives Ctrl-C, a report as JSON on stdout or in a file."""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import click

from .._system.files import atomic_write

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
        kept = (
            "without --output nothing is kept" if journal is None else f"{journal} has what was heard: --resume goes on"
        )
        raise KeyboardInterrupt(f"interrupted; {kept}") from None


def print_json(report: dict[str, Any]) -> None:
    """Print it as one JSON document. JSON is Unicode: on a stdout of another encoding its text is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(_json(report, indent=2, is_ascii=not codecs.lookup(encoding).name.startswith("utf")))


def save_report(report: dict[str, Any], path: Path) -> None:
    """Writes it as JSON: whole, or not at all."""
    with atomic_write(path) as stream:
        stream.write(_json(report, indent=1) + "\n")


def _json(report: dict[str, Any], indent: int, *, is_ascii: bool = False) -> str:
    """Of a file name that is no UTF-8, Python makes lone surrogates: these are escaped, so that it stays JSON."""
    text = json.dumps(report, indent=indent, ensure_ascii=is_ascii)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
