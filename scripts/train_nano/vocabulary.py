"""The compact vocabulary: training touches some 2,500 of Whisper's 50,257 text tokens, so only those get rows.

All other rows are one shared vector. Its softmax weight is multiplied by the number of rows it stands for, hence the
probabilities seen in training are exactly those of the full `.en` vocabulary after `expand`.
"""

import string
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from whisper.tokenizer import get_tokenizer

N_VOCAB = 51864
EOT, SOT, SOT_PREV, NO_SPEECH, NO_TIMESTAMPS, TIMESTAMP_BEGIN = 50256, 50257, 50360, 50361, 50362, 50363
N_TIMESTAMPS = N_VOCAB - TIMESTAMP_BEGIN
SPECIALS = (EOT, SOT, SOT_PREV, NO_SPEECH, NO_TIMESTAMPS)

CTC_SYMBOLS = " '" + string.ascii_lowercase
CTC_BLANK = 0


@cache
def encode(text: str) -> tuple[int, ...]:
    """GPT-2 tokens of a segment, with the leading space that Whisper puts before every segment."""
    return tuple(get_tokenizer(multilingual=False).encoding.encode(" " + text))


def ctc_encode(text: str) -> list[int]:
    return [1 + CTC_SYMBOLS.index(c) for c in text]


def ctc_decode(best: np.ndarray) -> str:
    """Greedy CTC: collapse repeats, drop blanks."""
    kept = best[np.flatnonzero(np.diff(best, prepend=-1))]
    return "".join(CTC_SYMBOLS[c - 1] for c in kept if c != CTC_BLANK)


@dataclass
class CompactVocabulary:
    """Rows: used text tokens, specials, one row for everything unused, then the 1501 timestamps."""

    text_ids: list[int]
    compact: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.compact = {token: i for i, token in enumerate([*self.text_ids, *SPECIALS])}

    @classmethod
    def from_texts(cls, texts: list[str]) -> "CompactVocabulary":
        return cls(sorted({token for text in set(texts) for token in encode(text)}))

    @property
    def unused_row(self) -> int:
        return len(self.compact)

    @property
    def n_unused(self) -> int:
        return N_VOCAB - N_TIMESTAMPS - len(self.compact)

    @property
    def timestamp_row(self) -> int:
        return self.unused_row + 1

    def rows(self, tokens: list[int]) -> list[int]:
        return [self.timestamp_row + t - TIMESTAMP_BEGIN if t >= TIMESTAMP_BEGIN else self.compact[t] for t in tokens]

    def tokens(self) -> list[int]:
        """The full-vocabulary id of every compact row; -1 for the shared unused row."""
        return [*self.text_ids, *SPECIALS, -1, *range(TIMESTAMP_BEGIN, N_VOCAB)]

    def expand(self, compact: np.ndarray) -> np.ndarray:
        """(compact rows, d) -> (51864, d)."""
        full = np.repeat(compact[self.unused_row][None], N_VOCAB, axis=0)
        for row, token in enumerate(self.tokens()):
            if token >= 0:
                full[token] = compact[row]
        return full
