"""Text as openai/whisper's paper compares it (appendix C): case, punctuation, spelling, numbers, contractions aside.

The rules are the ones of ``whisper/normalizers`` in openai/whisper, by the package whisper-normalizer: openai-whisper
itself would bring torch with it.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any, Callable, Optional

from .._errors import OptionError

__all__ = ["NORMALISERS", "choose_normaliser", "load_extra", "normaliser"]

NORMALISERS = ("auto", "english", "basic", "none")

_ADDED = (r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b")
"""Rules for English that whisper-normalizer has and openai/whisper has not."""

_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Written without spaces between words: every character counts as a word, as in the paper."""


def load_extra(module: str, package: str) -> Any:
    """A module of the extra ``eval``.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OptionError(
            "eval", package, f"only with a package that is not installed ({error}): pip install 'whisperq-edge[eval]'"
        ) from error


def choose_normaliser(kind: str, language: Optional[str], languages_of_models: Collection[str] = ()) -> str:
    """``english`` or ``basic`` for ``auto``: English where the language is, or where no model knows another one.

    Args:
        kind: one of :data:`NORMALISERS`.
        language: the code that was asked for, or None.
        languages_of_models: of all models together.

    Raises:
        OptionError: another kind.
    """
    if kind not in NORMALISERS:
        raise OptionError("normaliser", kind, f"one of {', '.join(NORMALISERS)}")
    if kind != "auto":
        return kind
    is_english = language == "en" or (language is None and set(languages_of_models) == {"en"})
    return "english" if is_english else "basic"


def normaliser(kind: str, language: Optional[str] = None) -> Callable[[str], str]:
    """A function from text to words with one space between them.

    Args:
        kind: ``english``, ``basic``, or ``none``, which takes the words as they are.
        language: code; decides whether ``basic`` takes characters for words.

    Raises:
        OptionError: the package is not installed, or another kind.
    """
    if kind == "none":
        return _words
    if kind == "basic":
        module = load_extra("whisper_normalizer.basic", "whisper-normalizer")
        basic = module.BasicTextNormalizer(split_letters=language in _WITHOUT_SPACES)
        return lambda text: _words(basic(text))
    if kind == "english":
        english = load_extra("whisper_normalizer.english", "whisper-normalizer").EnglishTextNormalizer()
        for pattern in _ADDED:
            english.replacers.pop(pattern, None)
        return lambda text: _words(english(text))
    raise OptionError("normaliser", kind, "english, basic or none")


def _words(text: str) -> str:
    return " ".join(text.split())
