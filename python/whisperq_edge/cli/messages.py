"""What the commands say on stderr: a sentence each, in the words of the command line."""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from typing import Union

import click

from .._errors import OptionError, WhisperqError
from .._store.fetch import FETCH_LOG
from .._system.self_test import SelfTestWarning

__all__ = ["encodable_stdout", "in_words_of", "reason", "shown_warnings", "tell"]

# Options that have another name in Python.
_PYTHON_NAMES = {
    "cpu_threads": "--threads",
    "log_prob_threshold": "--logprob-threshold",
    "model_size_or_path": "--model",
    "threshold": "--vad-threshold",
    "timeout_s": "--timeout",
}


def tell(sentence: str) -> None:
    click.echo(f"whisperq-edge: {sentence}", err=True)


def reason(error: BaseException) -> str:
    """What an exception says, and never nothing: Python's own are often raised without a word."""
    if isinstance(error, OSError) and not isinstance(error, WhisperqError) and error.strerror and not error.filename2:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    if isinstance(error, MemoryError):
        return str(error) or "memory ran out"
    return str(error) or type(error).__name__


def in_words_of(command: click.Command, error: OptionError) -> str:
    """``--threads -1 is not possible: …`` where the library, which is also called from Python, says ``cpu_threads=-1``.

    An option that ``command`` does not have keeps its name.
    """
    spelled = _spellings(command)
    if error.field not in spelled:
        return str(error)

    def respelled(found: re.Match[str]) -> str:
        """A name of one word may be meant as a word; with an underscore, or before a value, it is the option."""
        name, sets = found.groups()
        if "_" not in name and not sets:
            return found[0]
        return spelled[name] + (" " if sets else "")

    names = "|".join(sorted(spelled, key=len, reverse=True))
    allowed = re.sub(rf"(?<!['\w-])({names})\b(=?)", respelled, error.allowed)
    allowed = re.sub(r",? or None\b", "", allowed)  # which is an option that is not given
    return f"{spelled[error.field]}{_value(error.value)} is not possible: {allowed}"


def _value(value: object) -> str:
    if value is True:  # a switch
        return ""
    if isinstance(value, float):
        return f" {value:.15g}"  # 4, as it was given, not 4.0
    return f" {shlex.quote(value) if isinstance(value, str) else value}"


def _spellings(command: click.Command) -> dict[str, str]:
    """The options of a command and of its subcommands, by their names in Python."""
    spelled: dict[str, str] = {}
    for subcommand in command.commands.values() if isinstance(command, click.Group) else ():
        spelled.update(_spellings(subcommand))
    for option in command.params:
        long = [name for name in option.opts if name.startswith("--")]
        spelled.update({name.lstrip("-").replace("-", "_"): name for name in long})
    return {**spelled, **{name: option for name, option in _PYTHON_NAMES.items() if option in spelled.values()}}


@contextlib.contextmanager
def shown_warnings() -> Iterator[None]:
    """The library never prints, it logs: its warnings are shown on stderr, once, and its downloads."""
    with _told("whisperq_edge", logging.WARNING), _told(FETCH_LOG, logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("ignore", SelfTestWarning)  # it is logged as well
        yield


@contextlib.contextmanager
def _told(name: str, level: int) -> Iterator[None]:
    logger, handler = logging.getLogger(name), _Teller(level)
    level_before = logger.level
    if level < logger.getEffectiveLevel():
        logger.setLevel(level)
    if logger.parent is not logging.root:  # a warning is told by the parent's handler
        handler.addFilter(lambda record: record.levelno < logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)


class _Teller(logging.Handler):
    """Says each sentence once: the command finds the model's file, and then the library finds it again."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._said = ""

    def emit(self, record: logging.LogRecord) -> None:
        sentence = record.getMessage().strip().replace("\n", " ")
        if sentence != self._said:
            tell(sentence)
        self._said = sentence


@contextlib.contextmanager
def encodable_stdout() -> Iterator[None]:
    """Put a question mark for each character that stdout cannot encode, and say so once at the end. A stdout that has a
    rule of its own for them, as by ``PYTHONIOENCODING=cp1252:backslashreplace``, keeps it."""
    stdout = sys.stdout
    if not isinstance(stdout, io.TextIOWrapper) or stdout.errors not in ("strict", "surrogateescape"):
        yield
        return
    stand_in = _StandIn(keeps_bytes=stdout.errors == "surrogateescape")
    codecs.register_error(_HANDLER, stand_in)
    errors = stdout.errors
    stdout.reconfigure(errors=_HANDLER)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):  # its reader went away, or it is closed
            stdout.reconfigure(errors=errors)
        if stand_in.was_used:
            tell(
                f"stdout's encoding, {stdout.encoding}, lacks characters of what was printed: ? stands for each."
                " PYTHONIOENCODING=utf-8 keeps them"
            )


_HANDLER = "whisperq_edge.stand_in"


class _StandIn:
    """Python's hook for characters that cannot be encoded.

    Args:
        keeps_bytes: bytes of file names that are no text come out as they are.
    """

    def __init__(self, keeps_bytes: bool) -> None:
        self._keeps_bytes = keeps_bytes
        self.was_used = False

    def __call__(self, error: UnicodeError) -> tuple[Union[str, bytes], int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        code = ord(error.object[error.start])
        if self._keeps_bytes and 0xDC80 <= code <= 0xDCFF:
            return bytes([code - 0xDC00]), error.start + 1
        self.was_used = True
        is_surrogate = 0xD800 <= code <= 0xDFFF
        return f"\\u{code:04x}" if is_surrogate else "?", error.start + 1
