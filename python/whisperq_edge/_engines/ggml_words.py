"""Words with times out of tokens with times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .._result import Word
from .._whisper.tokenizer import UNSPACED_LANGUAGES

__all__ = ["Piece", "group_words"]


@dataclass(frozen=True)
class Piece:
    """A text token: its bytes (perhaps a part of a character), its time in seconds and its probability."""

    raw: bytes
    start: float
    end: float
    probability: float


def group_words(pieces: Iterable[Piece], language: str, prepended: str, appended: str) -> list[Word]:
    """The words of a segment, in order, inside each other's times never.

    Args:
        pieces: the segment's text tokens.
        language: code; decides whether spaces part words.
        prepended: punctuation that belongs to the word after it.
        appended: punctuation that belongs to the word before it.
    """
    units = _whole_characters(pieces)
    words = units if language in UNSPACED_LANGUAGES else _split_at_spaces(units)
    return _monotone(_merge_punctuation(words, prepended, appended))


def _merged(parts: Sequence[Piece]) -> Piece:
    raw = b"".join(part.raw for part in parts)
    probability = sum(part.probability for part in parts) / len(parts)
    return Piece(raw, parts[0].start, parts[-1].end, probability)


def _is_whole(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _whole_characters(pieces: Iterable[Piece]) -> list[Piece]:
    """Tokens joined until their bytes are whole characters."""
    units: list[Piece] = []
    held: list[Piece] = []
    for piece in pieces:
        held.append(piece)
        if _is_whole(b"".join(part.raw for part in held)):
            units.append(_merged(held))
            held = []
    return [*units, _merged(held)] if held else units


def _split_at_spaces(units: list[Piece]) -> list[Piece]:
    """A token that starts with a space starts a word; punctuation on its own is a unit of its own."""
    groups: list[list[Piece]] = []
    for unit in units:
        text = unit.raw.decode("utf-8", errors="replace")
        alone = bool(text.strip()) and not any(character.isalnum() for character in text)
        if not groups or text.startswith(" ") or alone:
            groups.append([unit])
        else:
            groups[-1].append(unit)
    return [_merged(group) for group in groups]


def _merge_punctuation(words: list[Piece], prepended: str, appended: str) -> list[Word]:
    merged: list[Word] = []
    before = ""
    before_start = 0.0
    for piece in words:
        text = piece.raw.decode("utf-8", errors="replace")
        bare = text.strip()
        if merged and bare and not before and not text.startswith(" ") and bare in appended:
            merged[-1] = replace(merged[-1], word=merged[-1].word + text)
        elif bare and text.startswith(" ") and bare in prepended:
            before_start = before_start if before else piece.start
            before += text
        else:
            start = before_start if before else piece.start
            merged.append(Word(start, piece.end, before + text, piece.probability))
            before = ""
    if before:
        merged.append(Word(before_start, before_start, before, 0.0))
    return merged


def _monotone(words: list[Word]) -> list[Word]:
    """Upstream's token times may step back; a word starts no earlier than the one before it ends."""
    steady: list[Word] = []
    at = 0.0
    for word in words:
        start = max(word.start, at)
        end = max(word.end, start)
        steady.append(replace(word, start=start, end=end))
        at = end
    return steady
