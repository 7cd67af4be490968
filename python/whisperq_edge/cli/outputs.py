"""Where transcripts go: to stdout, into files, or into one JSON document. What ended early is marked in all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import click

from .._errors import AudioError, OptionError
from .._result import Timings, Transcript
from .._system.files import temporary_beside
from .._writers import render, write_all
from .messages import reason, tell

__all__ = ["Outputs"]

_PARTIAL = ".partial"


@dataclass
class Outputs:
    """What came of the inputs, in their order.

    Attributes:
        files: the inputs; ``-`` is stdin.
        folder: of the output files. None: stdout.
        formats: some of ``FORMATS``, in the order in which they are printed.
        as_json: everything goes into one document at the end.
        layout: options of ``render``.
        done: input, transcript, and whether it ended early.
        failed: input, name of the error, and what it says.
    """

    files: Sequence[str]
    folder: Optional[Path]
    formats: Sequence[str]
    as_json: bool
    layout: dict[str, Any]
    done: list[tuple[str, Transcript, bool]] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    _is_writing: bool = False  # a whole transcript

    def prepare(self) -> None:
        """Notices before the work what would lose its result after it.

        Raises:
            OptionError: two inputs would be written to one file, or the folder cannot be written to.
        """
        if self.folder is not None:
            self._check_names(self.folder)
            _make_folder(self.folder)

    def _check_names(self, folder: Path) -> None:
        taken: dict[str, int] = {}
        for i, name in enumerate(self.files):
            for stem in (_stem(name), _stem(name) + _PARTIAL):
                other = taken.setdefault(_folded(stem), i)
                if other != i:
                    both = f"{self.files[other]} and {name} would both become {folder / stem}.{self._suffix}"
                    raise OptionError("output_dir", str(folder), f"{both}: write one of them to another folder")

    @property
    def _suffix(self) -> str:
        return self.formats[0] if len(self.formats) == 1 else "*"

    def keep(self, name: str, transcript: Transcript) -> None:
        """Delivers a whole transcript."""
        self._note(name, transcript, is_partial=False)
        self._is_writing = True
        self._deliver(name, transcript, _stem(name))
        self._is_writing = False

    def cut_short(self, name: str, error: BaseException, why: str) -> None:
        """Delivers what there is of a transcript that ended early, beside a whole one from another run, never over it.
        One that is whole already, and that was being written, is on stdout.

        Args:
            error: what ended it, with what there is in ``.partial``, if it has one.
            why: it ended, in words.
        """
        if self._is_writing:
            self._fail(name, error, f"{why} while its transcript was written: it is {self._elsewhere} instead")
            return
        partial: Optional[Transcript] = getattr(error, "partial", None)
        said = f"{why}: nothing is transcribed"
        if partial is not None:
            self._note(name, partial, is_partial=True)
            if partial.segments:
                place = self._deliver(name, partial, _stem(name) + _PARTIAL)
                heard = f"{partial.segments[-1].end:.2f} s of {partial.duration_s:.2f} s of audio"
                said = f"{why}: {heard} are transcribed{f', in {place}' if place else ''}"
        self._fail(name, error, said)

    def fail(self, name: str, error: BaseException) -> None:
        self._fail(name, error, reason(error))

    def _note(self, name: str, transcript: Transcript, is_partial: bool) -> None:
        """Keep a transcript for the report. Damage of its audio was told as a warning, and is a failure besides."""
        self.done.append((name, transcript, is_partial))
        self.failed += [(name, AudioError.__name__, sentence) for sentence in transcript.damage]

    def _fail(self, name: str, error: BaseException, message: str) -> None:
        self.failed.append((name, type(error).__name__, message))
        called = "<stdin>" if name == "-" else name
        tell(message if message.startswith(called) else f"{name}: {message}")

    def _deliver(self, name: str, transcript: Transcript, stem: str) -> str:
        """Where it is now, when that is a file."""
        if self.folder is None:
            self._print(name, transcript)
            return ""
        try:
            write_all(transcript, self.formats, self.folder, stem, **self.layout)
        except KeyboardInterrupt:
            self._print(name, transcript)
            raise
        except OSError as error:
            self._fail(name, error, f"{reason(error)}: what could not be written is {self._elsewhere} instead")
            self._print(name, transcript)
            return ""
        return str(self.folder / f"{stem}.{self._suffix}")

    @property
    def _elsewhere(self) -> str:
        return "in the document" if self.as_json else "on stdout"

    def _print(self, name: str, transcript: Transcript) -> None:
        if self.as_json:
            return
        if len(self.files) > 1:
            click.echo(f"{name}:", err=True)
        for form in self.formats:
            text = render(transcript, form, **self.layout)
            if text:  # click would print a line of its own
                # By name: click would write UTF-8 to a stdout that is ASCII.
                click.echo(text, nl=not text.endswith("\n"), file=sys.stdout)
        if sys.stdout is not None:  # closed, as with >&-
            sys.stdout.flush()

    def report(self, timings: Timings) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "transcripts": [
                {"file": name, "partial": is_partial, **transcript.to_dict()}
                for name, transcript, is_partial in self.done
            ],
            "failures": [{"file": name, "error": error, "message": said} for name, error, said in self.failed],
            "timings": timings.to_dict(),
        }


def _stem(name: str) -> str:
    return "stdin" if name == "-" else Path(name).stem


def _folded(stem: str) -> str:
    """Names that file systems hold to be one are equal."""
    return stem.casefold() if sys.platform in ("win32", "darwin") else stem


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_beside(folder / "transcript"):
            pass
    except OSError as error:
        raise OptionError("output_dir", str(folder), f"it cannot be written to ({error.strerror})") from None
