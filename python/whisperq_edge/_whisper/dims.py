"""A model's dimensions, and what follows from the size of its vocabulary.

Ids of tokens, of a model with ``n_vocab`` of them::

    0 ...                        text: 50256 tokens of English models, 50257 of others
    end_of_text(n_vocab)         <|endoftext|>, the first special token
    + 1                          <|startoftranscript|>
    + 2 ...                      a token for each language: 99, or 100 with Cantonese (large-v3)
    then                         translate, transcribe, startoflm, startofprev, nospeech, notimestamps
    then 1501                    the times 0.00 to 30.00 in steps of 20 ms
"""

from __future__ import annotations

from typing import NamedTuple

from .._errors import OptionError
from .languages import LANGUAGES
from .units import TOKENS_PER_WINDOW

__all__ = [
    "ENGLISH_VOCAB",
    "MULTILINGUAL_VOCAB",
    "N_TEXT_CTX",
    "N_TIMESTAMPS",
    "VOCAB_SIZES",
    "WITH_CANTONESE_VOCAB",
    "Dims",
    "end_of_text",
    "is_multilingual",
    "n_language_tokens",
    "n_text_tokens",
    "prompt_tokens",
]

ENGLISH_VOCAB, MULTILINGUAL_VOCAB, WITH_CANTONESE_VOCAB = 51864, 51865, 51866
"""``n_vocab`` of English-only models, of the first multilingual ones, and of those since large-v3."""

VOCAB_SIZES = (ENGLISH_VOCAB, MULTILINGUAL_VOCAB, WITH_CANTONESE_VOCAB)
"""Every ``n_vocab`` that a Whisper has."""

N_TEXT_CTX = 448
"""Positions of the decoder in every published model."""

N_TIMESTAMPS = TOKENS_PER_WINDOW + 1
"""Timestamp tokens: 0.00 to 30.00."""

_N_ENGLISH_TEXT, _N_MULTILINGUAL_TEXT = 50256, 50257
_N_OTHER_SPECIAL = 8  # all but languages and timestamps


class Dims(NamedTuple):
    """openai/whisper's ``ModelDimensions``."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_vocab: int


def is_multilingual(n_vocab: int) -> bool:
    """Tell whether a model of this many tokens knows more than English."""
    return n_vocab >= MULTILINGUAL_VOCAB


def n_text_tokens(multilingual: bool) -> int:
    """Return the number of text tokens. Their ids come first."""
    return _N_MULTILINGUAL_TEXT if multilingual else _N_ENGLISH_TEXT


def end_of_text(n_vocab: int) -> int:
    """Return the token ``<|endoftext|>``. The ids below it are text."""
    return n_text_tokens(is_multilingual(n_vocab))


def n_language_tokens(n_vocab: int) -> int:
    """Return the number of language tokens. English-only models have 99, which they never use."""
    return n_vocab - end_of_text(n_vocab) - N_TIMESTAMPS - _N_OTHER_SPECIAL


def prompt_tokens(n_vocab: int, language: str = "en") -> list[int]:
    """Return what a transcription without timestamps begins with.

    These are ``<|startoftranscript|>``, the language and ``<|transcribe|>`` where the model has them, and
    ``<|notimestamps|>``.

    Args:
        n_vocab: the model's number of tokens.
        language: code of the text's language. An English model ignores it.

    Raises:
        OptionError: the model has no token for the language.
    """
    n_languages = n_language_tokens(n_vocab)
    sot = end_of_text(n_vocab) + 1
    transcribe = sot + n_languages + 2  # after the languages and `translate`
    no_timestamps = transcribe + 4  # after `startoflm`, `startofprev` and `nospeech`
    if not is_multilingual(n_vocab):
        return [sot, no_timestamps]
    index = list(LANGUAGES).index(language)
    if index >= n_languages:
        raise OptionError("language", language, f"one of the first {n_languages} that Whisper learnt")
    return [sot, sot + 1 + index, transcribe, no_timestamps]
