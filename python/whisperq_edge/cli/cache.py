"""``whisperq-edge cache``: the models that were converted once, and the room they take."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, Optional

import click

from .._convert.convert import parse_size
from .._errors import OptionError
from .._store.cache import CacheEntry, Removed, clear_cache, list_cache, prune_cache
from .._system.folders import cache_folder
from .reports import print_json
from .tables import print_table

__all__ = ["cache_command"]

_DAYS = {"m": 1 / 1440, "h": 1 / 24, "d": 1.0, "w": 7.0}

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("cache")
def cache_command() -> None:
    """Models that were downloaded or converted once: list them, make room.

    They are in $WHISPERQ_CACHE, or in whisperq-edge in the platform's folder for caches. Every one of them can be made
    again from its source, or downloaded again.
    """


@cache_command.command("path")
@_json_option
def path_command(as_json: bool) -> None:
    """Print the folder."""
    if as_json:
        print_json({"path": str(cache_folder())}, indent=None)
    else:
        click.echo(str(cache_folder()))


@cache_command.command("list")
@_json_option
def list_command(as_json: bool) -> None:
    """List the models, the one used last first."""
    entries = list_cache()
    total = sum(entry.n_bytes for entry in entries)
    if as_json:
        rows = [_entry_report(entry) for entry in entries]
        print_json({"path": str(cache_folder()), "bytes": total, "entries": rows})
        return
    if entries:
        print_table(list(map(_entry_row, entries)), ("model", "type", "MB", "last used", "file"), right=("MB",))
    click.echo(f"{_count(len(entries), 'model')}, {total / 1e6:.1f} MB in {cache_folder()}", err=True)


@cache_command.command("prune")
@click.option("--max-size", metavar="SIZE", help="Remove the models used longest ago until the rest is no larger: 2GB.")
@click.option("--older-than", metavar="TIME", help="Remove models that were not used for so long: 90m, 12h, 30d, 4w.")
@_json_option
def prune_command(max_size: Optional[str], older_than: Optional[str], as_json: bool) -> None:
    """Make room. Without options, only what killed processes left behind is removed."""
    max_bytes = None if max_size is None else _bytes(max_size)
    older_than_days = None if older_than is None else _days(older_than)
    _print_removed(prune_cache(max_bytes, older_than_days), as_json)


@cache_command.command("clear")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json_option
def clear_command(yes: bool, as_json: bool) -> None:
    """Remove everything that is in the cache."""
    entries = list_cache()
    total = sum(entry.n_bytes for entry in entries)
    if not yes:
        what = f"{_count(len(entries), 'model')}, {total / 1e6:.1f} MB"
        click.confirm(f"Remove everything in {cache_folder()} ({what})?", abort=True, err=True)
    _print_removed(clear_cache(), as_json)


def _entry_report(entry: CacheEntry) -> dict[str, Any]:
    return {
        "path": str(entry.path),
        "model": entry.model,
        "source": entry.source,
        "type": entry.kind,
        "bytes": entry.n_bytes,
        "used": entry.used,
    }


def _entry_row(entry: CacheEntry) -> tuple[str, ...]:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
    name = entry.model or entry.source or "(no report)"
    return name, entry.kind, f"{entry.n_bytes / 1e6:.1f}", used, entry.path.name


def _print_removed(removed: Sequence[Removed], as_json: bool) -> None:
    total = sum(each.n_bytes for each in removed)
    if as_json:
        rows = [{"path": str(each.path), "bytes": each.n_bytes} for each in removed]
        print_json({"bytes": total, "removed": rows})
        return
    for each in removed:
        click.echo(each.path)
    click.echo(f"{_count(len(removed), 'file')}, {total / 1e6:.1f} MB removed", err=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bytes(text: str) -> int:
    try:
        return parse_size(text)
    except OptionError as error:
        raise OptionError("max_size", text, error.allowed) from None


def _days(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mhdw])\s*", text, re.IGNORECASE)
    if match is None:
        raise OptionError("older_than", text, "a number with a unit, such as 90m, 12h, 30d or 4w")
    return float(match.group(1)) * _DAYS[match.group(2).lower()]
