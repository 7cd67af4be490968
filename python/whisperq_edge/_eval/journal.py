"""What was heard so far, line by line in a file beside the output, so that a killed run goes on where it was.

The first line holds the settings. Each further line is one utterance by one system, or what a system's process had to
say about itself. A line is written in one piece; one that a dying machine left half is dropped. A lock beside the file
keeps a second run from writing into it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from .._errors import DatasetError, OptionError
from .._system.locks import lock_if_free

__all__ = ["Journal", "journal_path"]

_FORMAT = "whisperq_edge_eval_journal"
_VERSION = 1


def journal_path(output: Path) -> Path:
    """Where the journal of a run lies whose results go to ``output``."""
    return output.with_name(output.name + ".journal")


class Journal:
    """Records by (system, utterance). Without a path it is kept in memory only.

    Args:
        path: of the file, or None.
        settings: everything that decides what is heard; a journal of other settings cannot be continued.
        resume: continue the one that is there, if one is there.
        overwrite: begin anew where one is there.

    Raises:
        OptionError: there is one and neither was asked for, it is of other settings, or another run is writing it.
        DatasetError: the file is no journal, or a line in its middle is damaged.
        OSError: the file cannot be written.
    """

    def __init__(
        self, path: Optional[Path], settings: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self._path = path
        self._records: dict[tuple[str, str], dict[str, Any]] = {}
        self._systems: dict[str, dict[str, Any]] = {}
        self._descriptor = -1
        self._held = contextlib.ExitStack()
        if path is None:
            return
        with contextlib.ExitStack() as stack:
            _take_for_ourselves(stack, path)
            stack.callback(self._close_file)
            self._open(path, json.loads(json.dumps(settings)), resume, overwrite)
            self._held = stack.pop_all()

    def _open(self, path: Path, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        if path.exists() and not resume and not overwrite:
            raise OptionError(
                "output", str(path), "a journal of an earlier run is there: --resume goes on, --overwrite begins anew"
            )
        n_bytes = self._read(path, settings) if resume and path.exists() else 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        os.ftruncate(self._descriptor, n_bytes)
        os.lseek(self._descriptor, n_bytes, os.SEEK_SET)
        if not n_bytes:
            self._write({_FORMAT: _VERSION, "settings": settings})

    def close(self) -> None:
        """Ends the writing; another run may begin."""
        self._held.close()

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def utterance(self, system: str, utterance: str) -> Optional[dict[str, Any]]:
        """What is known of it; None: it is still to be heard."""
        return self._records.get((system, utterance))

    def system(self, system: str) -> dict[str, Any]:
        """What its processes said about themselves: of each value the largest."""
        return dict(self._systems.get(system, {}))

    def add_utterance(self, system: str, utterance: str, record: Mapping[str, Any]) -> None:
        self._records[system, utterance] = dict(record)
        self._write({"system": system, "utterance": utterance, **record})

    def add_system(self, system: str, record: Mapping[str, float]) -> None:
        self._merge(system, record)
        self._write({"system": system, **record})

    def _merge(self, system: str, record: Mapping[str, Any]) -> None:
        known = self._systems.setdefault(system, {})
        for name, value in record.items():
            known[name] = value if known.get(name) is None or (value or 0) > known[name] else known[name]

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._descriptor >= 0:
            raw = memoryview((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
            while raw:
                raw = raw[os.write(self._descriptor, raw) :]
            os.fsync(self._descriptor)

    def _read(self, path: Path, settings: Mapping[str, Any]) -> int:
        """Bytes of the lines that are whole."""
        whole, newline, _ = path.read_bytes().rpartition(b"\n")
        if not newline:
            return 0  # killed before the first line was written
        lines = whole.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line.decode("utf-8", "surrogatepass"))
                self._take(values, number == 1, settings, path)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                if isinstance(error, OptionError):
                    raise
                raise DatasetError(str(path), number, f"this line of the journal is damaged: {error!r}") from None
        return len(whole) + 1

    def _take(self, values: dict[str, Any], is_first: bool, settings: Mapping[str, Any], path: Path) -> None:
        if is_first:
            if values[_FORMAT] != _VERSION:
                raise ValueError(f"version {values[_FORMAT]!r}")
            _check_settings(values["settings"], settings, path)
            return
        system, utterance = values.pop("system"), values.pop("utterance", None)
        if utterance is None:
            self._merge(system, values)
        else:
            self._records[system, utterance] = values


def _take_for_ourselves(stack: contextlib.ExitStack, path: Path) -> None:
    """The lock beside the journal, until ``stack`` is closed."""
    if not stack.enter_context(lock_if_free(path.with_name(path.name + ".lock"))):
        raise OptionError(
            "output",
            str(path),
            "a journal that no other run is writing to: wait until that one ends, or give another --output",
        )


def _check_settings(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            raise OptionError(
                "resume",
                str(path),
                f"that run had {name}={then.get(name)!r}, this one has {now.get(name)!r}: give the same,"
                " another --output, or --overwrite to begin anew",
            )
