"""What was heard against what was said: word and character errors, by jiwer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .normalise import load_extra

__all__ = ["Confusion", "Score", "confusions", "score"]


@dataclass(frozen=True)
class Score:
    """One utterance, both texts normalised.

    Attributes:
        reference, hypothesis: what was said, what was heard.
        words, characters: of the reference; spaces count as characters between words.
        substitutions, deletions, insertions: of words, along the shortest way from the one to the other.
        character_errors: the same of characters, together.
        pairs: the words that differ: (said, heard), "" for nothing.
    """

    reference: str
    hypothesis: str
    words: int
    characters: int
    substitutions: int
    deletions: int
    insertions: int
    character_errors: int
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class Confusion:
    """``said`` was heard as ``heard`` so many times; "" is nothing (an insertion, a deletion)."""

    said: str
    heard: str
    count: int


def score(reference: str, hypothesis: str) -> Score:
    """Errors of one utterance. A reference without words is fine: all that was heard is inserted then.

    Raises:
        OptionError: jiwer is not installed.
    """
    jiwer = load_extra("jiwer", "jiwer")
    if not reference:  # which jiwer refuses
        heard = hypothesis.split()
        pairs = tuple(("", word) for word in heard)
        return Score(reference, hypothesis, 0, 0, 0, 0, len(heard), len(hypothesis), pairs)
    by_word = jiwer.process_words(reference, hypothesis)
    by_character = jiwer.process_characters(reference, hypothesis)
    return Score(
        reference,
        hypothesis,
        len(reference.split()),
        len(reference),
        by_word.substitutions,
        by_word.deletions,
        by_word.insertions,
        by_character.substitutions + by_character.deletions + by_character.insertions,
        tuple(_pairs(by_word)),
    )


def _pairs(output: Any) -> Iterable[tuple[str, str]]:
    said, heard = output.references[0], output.hypotheses[0]
    for chunk in output.alignments[0]:
        if chunk.type == "equal":
            continue
        n_said, n_heard = chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
        for i in range(max(n_said, n_heard)):
            yield (
                said[chunk.ref_start_idx + i] if i < n_said else "",
                heard[chunk.hyp_start_idx + i] if i < n_heard else "",
            )


def confusions(scores: Sequence[Score], most: int = 20) -> list[Confusion]:
    """The most frequent ones first; equally frequent ones by the alphabet."""
    counted = Counter(pair for each in scores for pair in each.pairs)
    ranking = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(said, heard, count) for (said, heard), count in ranking[:most]]
