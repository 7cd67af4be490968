"""Whisper's tokens: text to ids and back, the special tokens, and words out of tokens.

Behaves as openai/whisper's ``tokenizer.py`` on tiktoken does. All that it needs is a model file's vocabulary: the bytes
of each text token, whose id is its merge rank too. The ids of the special tokens follow from the vocabulary's size.
"""

from __future__ import annotations

import functools
import heapq
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from .._errors import OptionError
from .._whisper.dims import N_TIMESTAMPS, n_language_tokens, n_text_tokens
from .._whisper.units import TOKEN_S
from .languages import LANGUAGES
from .vocabulary import known_vocabulary, vocabulary_name

__all__ = ["UNSPACED_LANGUAGES", "Tokenizer", "Vocabulary"]

UNSPACED_LANGUAGES = frozenset(("zh", "ja", "th", "lo", "my", "yue"))
"""Languages written without spaces: every whole character sequence counts as a word."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# What no speaker says: openai/whisper's list of annotations, brackets and notes.
_SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]", "{{", "}}"),
    *("♪♪", "♪♪♪"),
)
# Of these the first token is suppressed even where they have several: all begin with the same two bytes.
_NOTES = tuple("♩♪♫♬♭♮♯")


class Vocabulary:
    """The tokens of one model, for any language and task: ids to bytes, text to ids.

    Attributes:
        n_text: number of text tokens; the special tokens follow.
        n_languages: how many languages have a token.
        is_multilingual: False for the English-only models.
    """

    def __init__(self, tokens: Sequence[bytes], n_vocab: int) -> None:
        """
        Args:
            tokens: bytes of the tokens by id, as a model file has them; what follows the text tokens is not looked at.
            n_vocab: the model's number of tokens, special ones included.

        Raises:
            UnsupportedModelError: no Whisper has ``n_vocab`` tokens.
        """
        name = vocabulary_name(n_vocab)
        self.n_vocab = n_vocab
        self.is_multilingual = name == "multilingual"
        self.n_text = n_text_tokens(self.is_multilingual)
        self.n_languages = n_language_tokens(n_vocab)
        self._bytes = _whole_tokens(tokens[: self.n_text], n_vocab)
        self._ranks = {token: rank for rank, token in enumerate(self._bytes)}
        self._names = special_names(self.n_languages)
        self._ids = {special: self.n_text + i for i, special in enumerate(self._names)}

    def special(self, name: str) -> int:
        """The id of a special token, such as ``<|startoftranscript|>`` or ``<|1.08|>``."""
        return self._ids[name]

    def encode(self, text: str) -> list[int]:
        """The ids of a text. What looks like a special token is text as well."""
        # As tiktoken does: a pair of surrogates is a character, half of one is U+FFFD.
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return [token for piece in _pieces(whole) for token in self._encode_piece(piece.encode("utf-8"))]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; special ones by their names, bytes that are no character as U+FFFD."""
        return b"".join(map(self._token_bytes, tokens)).decode("utf-8", "replace")

    def _token_bytes(self, token: int) -> bytes:
        return self._bytes[token] if token < self.n_text else self._names[token - self.n_text].encode()

    def _encode_piece(self, piece: bytes) -> list[int]:
        whole = self._ranks.get(piece)
        return [whole] if whole is not None else _merge(piece, self._ranks)


class Tokenizer:
    """The tokens of one model for one language and task.

    Attributes:
        sot_sequence: what a window's tokens begin with: ``<|startoftranscript|>``, then language and task where the
            model has them (tuple of int).
    """

    def __init__(self, vocabulary: Vocabulary, language: Optional[str] = None, task: Optional[str] = None) -> None:
        """
        Args:
            vocabulary: of the model.
            language: code; English-only models have none, others take ``en`` for None.
            task: ``transcribe`` or ``translate``; likewise.

        Raises:
            OptionError: the model does not know the language.
        """
        self.vocabulary = vocabulary
        special = vocabulary.special
        self.eot = special("<|endoftext|>")
        self.sot = special("<|startoftranscript|>")
        self.translate = special("<|translate|>")
        self.transcribe = special("<|transcribe|>")
        self.sot_lm = special("<|startoflm|>")
        self.sot_prev = special("<|startofprev|>")
        self.no_speech = special("<|nospeech|>")
        self.no_timestamps = special("<|notimestamps|>")
        self.timestamp_begin = special("<|0.00|>")
        self.language = (language or "en") if vocabulary.is_multilingual else None
        self.sot_sequence: tuple[int, ...] = (self.sot,)
        if self.language is not None:
            task_token = self.translate if task == "translate" else self.transcribe
            self.sot_sequence = (self.sot, self.language_token(self.language), task_token)

    @property
    def language_codes(self) -> tuple[str, ...]:
        """The languages that have a token, in the order of their tokens."""
        return tuple(LANGUAGES)[: self.vocabulary.n_languages]

    @property
    def language_tokens(self) -> tuple[int, ...]:
        return tuple(range(self.sot + 1, self.sot + 1 + self.vocabulary.n_languages))

    def language_token(self, language: str) -> int:
        """The token of a language code."""
        if language not in self.language_codes:
            raise OptionError("language", language, f"one of the {self.vocabulary.n_languages} languages of this model")
        return self.sot + 1 + self.language_codes.index(language)

    def encode(self, text: str) -> list[int]:
        return self.vocabulary.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, timestamps left out."""
        return self.vocabulary.decode(token for token in tokens if token < self.timestamp_begin)

    def decode_with_timestamps(self, tokens: Iterable[int]) -> str:
        """The text of tokens, timestamps as ``<|1.08|>``."""
        return self.vocabulary.decode(tokens)

    @property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Tokens of speaker tags and other annotations, sorted."""
        return _non_speech_tokens(self.vocabulary)

    def split_to_word_tokens(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """The words of tokens, and the tokens of each: at spaces, or between characters where a language has none."""
        if self.language in UNSPACED_LANGUAGES:
            return self.split_tokens_on_unicode(tokens)
        return self.split_tokens_on_spaces(tokens)

    def split_tokens_on_unicode(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """Splits wherever the bytes so far are whole characters."""
        whole_text = self.decode_with_timestamps(tokens)
        words: list[str] = []
        word_tokens: list[list[int]] = []
        held: list[int] = []
        n_characters = 0  # of whole_text that the words so far make up
        for token in tokens:
            held.append(token)
            text = self.decode_with_timestamps(held)
            at = n_characters + text.find(_REPLACEMENT)
            # A U+FFFD that is in the whole text too does not wait for more bytes: the model has said just that.
            if _REPLACEMENT not in text or whole_text[at : at + 1] == _REPLACEMENT:
                words.append(text)
                word_tokens.append(held)
                n_characters += len(text)
                held = []
        return words, word_tokens

    def split_tokens_on_spaces(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """Joins what ``split_tokens_on_unicode`` gives up to the next space, punctuation or special token."""
        words: list[str] = []
        word_tokens: list[list[int]] = []
        for text, held in zip(*self.split_tokens_on_unicode(tokens)):
            begins = held[0] >= self.eot or text.startswith(" ") or text.strip() in string.punctuation
            if begins or not words:
                words.append(text)
                word_tokens.append(held)
            else:
                words[-1] += text
                word_tokens[-1] += held
        return words, word_tokens


# ---- Special tokens --------------------------------------------------------------------------------------------------


def special_names(n_languages: int) -> list[str]:
    """Names of the special tokens in the order of their ids, ``<|endoftext|>`` first."""
    return [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in list(LANGUAGES)[:n_languages]),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
        *(f"<|{i * TOKEN_S:.2f}|>" for i in range(N_TIMESTAMPS)),
    ]


@functools.lru_cache(maxsize=4)
def _non_speech_tokens(vocabulary: Vocabulary) -> tuple[int, ...]:
    # Hyphens and apostrophes stand within words, but do not begin one.
    found = {vocabulary.encode(" -")[0], vocabulary.encode(" '")[0]}
    for symbol in (*_SYMBOLS, *_NOTES):
        for tokens in (vocabulary.encode(symbol), vocabulary.encode(" " + symbol)):
            if len(tokens) == 1 or symbol in _NOTES:
                found.add(tokens[0])
    return tuple(sorted(found))


def _whole_tokens(tokens: Sequence[bytes], n_vocab: int) -> list[bytes]:
    """The tokens, those put right that an old converter of whisper.cpp damaged (bytes that are no character)."""
    known = known_vocabulary(n_vocab)[: len(tokens)]
    return [
        own if own != their and own.decode("utf-8", "replace").encode() == their else their
        for own, their in zip(known, tokens)
    ]


# ---- Byte pair encoding ----------------------------------------------------------------------------------------------

# GPT-2's pattern, over the kinds of the characters instead of the characters: `re` has no Unicode categories.
_CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)")
_RUN = re.compile(" ?L+| ?N+| ?O+|[ S]+(?![LNO])|[ S]+")

# Unicode's White_Space; str.isspace() has the separators U+001C to U+001F as well.
_SPACES = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)


def _pieces(text: str) -> Iterator[str]:
    """A text cut into what tokens never reach across: words, numbers, other characters, spaces."""
    kinds = "".join(map(_kind, text))
    at = 0
    while at < len(text):
        match = _CONTRACTION.match(text, at) or _RUN.match(kinds, at)
        assert match is not None, "every character has a kind, and every kind begins a run"
        yield text[at : match.end()]
        at = match.end()


def _kind(character: str) -> str:
    """``L`` letter, ``N`` number, `` `` the space, ``S`` another space, ``O`` any other character."""
    if character in _SPACES:
        return " " if character == " " else "S"
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


def _merge(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Byte pair encoding: the neighbours of lowest rank are joined, the leftmost first, until no two make a token.

    Parts are a list that is linked both ways, and the candidates a heap with stale entries, so that a prompt of a
    million letters takes seconds and not days.
    """
    ends = list(range(1, len(piece) + 1))  # of the part that begins at an index; 0: the part is gone
    before = list(range(-1, len(piece) - 1))
    heap: list[tuple[int, int, int]] = []

    def consider(start: int) -> None:
        """The pair of the part at ``start`` and the next one."""
        middle = ends[start]
        if start >= 0 and middle < len(piece):
            rank = ranks.get(piece[start : ends[middle]])
            if rank is not None:
                heapq.heappush(heap, (rank, start, ends[middle]))

    for start in range(len(piece)):
        consider(start)
    while heap:
        _, start, end = heapq.heappop(heap)
        middle = ends[start]
        if not 0 < middle < end or ends[middle] != end:
            continue  # one of the two has been joined with another since
        ends[start], ends[middle] = end, 0
        if end < len(piece):
            before[end] = start
        consider(start)
        if before[start] >= 0:
            consider(before[start])
    return [ranks[piece[start:end]] for start, end in enumerate(ends) if end]
