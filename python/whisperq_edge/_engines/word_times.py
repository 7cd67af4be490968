"""When each word was said: from the decoder's cross attention, by dynamic time warping.

Behaves as openai/whisper's ``timing.py``, heuristics included. What is heavy in it, from the decoder's attention to the
path through it, comes from outside (``Alignment``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, Optional, Protocol

import numpy as np
import numpy.typing as npt

from .._result import Word
from .._whisper.tokenizer import Tokenizer
from .._whisper.units import HOP_SAMPLES, SAMPLE_RATE, TOKENS_PER_S

__all__ = [
    "Alignment",
    "Draft",
    "Path",
    "WordTiming",
    "add_word_times",
    "alignment_heads",
    "find_word_timings",
    "last_word_end",
    "merge_punctuation",
    "steady_words",
]

Indices = npt.NDArray[np.int64]

_SENTENCE_ENDS = ".。!！?？"
_LONGEST_MEDIAN_S = 0.7


# ---- Heads -----------------------------------------------------------------------------------------------------------

# (layer, head) of the cross attention whose weights follow the audio, by openai/whisper's measurements. A model is
# known by n_text_layer, n_text_head, n_vocab; large-v1 and large-v2 have the same dimensions: v2's heads serve both.
_KNOWN_HEADS: dict[tuple[int, int, int], str] = {
    (4, 6, 51864): "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    (4, 6, 51865): "2.2 3.0 3.2 3.3 3.4 3.5",
    (6, 8, 51864): "3.3 4.7 5.1 5.5 5.7",
    (6, 8, 51865): "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    (12, 12, 51864): "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4",
    (12, 12, 51865): "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    (24, 16, 51864): (
        "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14 21.12"
    ),
    (24, 16, 51865): "13.15 15.4 15.15 16.1 20.0 23.4",
    (32, 20, 51865): (
        "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 22.3 22.9 22.12 23.5 23.7 23.13"
        " 25.5 26.1 26.12 27.15"
    ),
    (32, 20, 51866): "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    (4, 20, 51866): "2.4 2.11 3.3 3.6 3.11 3.14",
}


def alignment_heads(hparams: Mapping[str, int]) -> list[tuple[int, int]]:
    """(layer, head) of the heads to align by: those of the published model of these dimensions, for any other all heads
    of the upper half of the layers (openai/whisper's default)."""
    n_layer, n_head = hparams["n_text_layer"], hparams["n_text_head"]
    known = _KNOWN_HEADS.get((n_layer, n_head, hparams["n_vocab"]))
    if known is None:
        return [(layer, head) for layer in range(n_layer // 2, n_layer) for head in range(n_head)]
    pairs = [pair.split(".") for pair in known.split()]
    return [(int(layer), int(head)) for layer, head in pairs]


# ---- Alignment of tokens and audio -----------------------------------------------------------------------------------


class Path(NamedTuple):
    """The cheapest way through the cross attention, from the first token and moment to the last, step by step.

    Attributes:
        text_indices: of the text tokens and the end of text, from 0 (int array).
        time_indices: of the audio tokens (20 ms each), from 0 (int array).
        probabilities: of each text token where it stands, among all text tokens.
    """

    text_indices: Indices
    time_indices: Indices
    probabilities: Sequence[float]


class Alignment(Protocol):
    """Runs the decoder over a window's tokens, and finds the way through its attention to the audio.

    Args:
        sot_sequence: what the tokens begin with.
        text_tokens: without times.
        n_audio_tokens: how far the window's audio goes, in audio tokens.
    """

    def __call__(self, sot_sequence: Sequence[int], text_tokens: Sequence[int], n_audio_tokens: int) -> Path: ...


@dataclass
class WordTiming:
    """A word in a window: its tokens, seconds from the start of the window, and the mean probability of its tokens."""

    word: str
    tokens: list[int]
    start: float
    end: float
    probability: float


def find_word_timings(
    align: Alignment, tokenizer: Tokenizer, text_tokens: Sequence[int], n_frames: int
) -> list[WordTiming]:
    """The words of a window's text tokens, in order. ``n_frames`` (10 ms each) is how far its audio goes."""
    if not text_tokens:
        return []
    words, word_tokens = tokenizer.split_to_word_tokens([*text_tokens, tokenizer.eot])
    if len(word_tokens) <= 1:
        return []
    path = align(tokenizer.sot_sequence, text_tokens, max(n_frames // 2, 1))
    is_jump = np.concatenate([[True], np.diff(path.text_indices) > 0])
    token_starts = path.time_indices[is_jump] / TOKENS_PER_S
    edges = np.concatenate([[0], np.cumsum([len(tokens) for tokens in word_tokens[:-1]])]).tolist()
    return [
        WordTiming(word, tokens, token_starts[i], token_starts[j], float(np.mean(path.probabilities[i:j])))
        for word, tokens, i, j in zip(words, word_tokens, edges, edges[1:])
    ]


# ---- Words -----------------------------------------------------------------------------------------------------------


def merge_punctuation(words: list[WordTiming], prepended: str, appended: str) -> None:
    """Joins punctuation to the word after it (``prepended``) or before it (``appended``), in place. What was joined
    stays behind as an empty word without tokens. Times do not change."""
    following = len(words) - 1
    for i in range(len(words) - 2, -1, -1):
        mark, word = words[i], words[following]
        if mark.word.startswith(" ") and mark.word.strip() in prepended:
            word.word = mark.word + word.word
            word.tokens = mark.tokens + word.tokens
            mark.word, mark.tokens = "", []
        else:
            following = i
    previous = 0
    for i in range(1, len(words)):
        word, mark = words[previous], words[i]
        if not word.word.endswith(" ") and mark.word in appended:
            word.word += mark.word
            word.tokens = word.tokens + mark.tokens
            mark.word, mark.tokens = "", []
        else:
            previous = i


@dataclass
class Draft:
    """A segment in the making.

    Attributes:
        seek: start of its window, in frames.
        words: times in seconds from the start of the audio.
    """

    seek: int
    start: float
    end: float
    tokens: list[int]
    text: str
    words: list[WordTiming] = field(default_factory=list)


def add_word_times(
    drafts: Sequence[Draft],
    align: Alignment,
    tokenizer: Tokenizer,
    n_frames: int,
    *,
    prepended: str,
    appended: str,
    last_speech_s: float,
) -> None:
    """Gives the segments of one window their words, and starts and ends by them, in place.

    Args:
        n_frames: how far the window's audio goes, in frames of 10 ms.
        last_speech_s: where speech ended before this window; words after a pause are often too long.
    """
    if not drafts:
        return
    texts = [[token for token in draft.tokens if token < tokenizer.eot] for draft in drafts]
    timings = find_word_timings(align, tokenizer, list(chain.from_iterable(texts)), n_frames)
    median_s = _median_duration(timings)
    _shorten_at_sentence_ends(timings, 2 * median_s)
    merge_punctuation(timings, prepended, appended)
    offset_s = drafts[0].seek * HOP_SAMPLES / SAMPLE_RATE
    at = 0
    for draft, text in zip(drafts, texts):
        n_tokens = 0
        draft.words = []
        while at < len(timings) and n_tokens < len(text):
            timing = timings[at]
            if timing.word:
                draft.words.append(_placed(timing, offset_s))
            n_tokens += len(timing.tokens)
            at += 1
        if draft.words:
            _fit(draft, median_s, last_speech_s)
            last_speech_s = draft.end


def _median_duration(timings: Sequence[WordTiming]) -> float:
    durations = [timing.end - timing.start for timing in timings if timing.end != timing.start]
    return min(_LONGEST_MEDIAN_S, float(np.median(durations))) if durations else 0.0


def _shorten_at_sentence_ends(timings: Sequence[WordTiming], longest_s: float) -> None:
    """A pause between sentences goes to neither the mark nor the word after it."""
    if all(timing.end == timing.start for timing in timings):
        return
    for before, timing in zip(timings, timings[1:]):
        if timing.end - timing.start > longest_s:
            if timing.word in _SENTENCE_ENDS:
                timing.end = timing.start + longest_s
            elif before.word in _SENTENCE_ENDS:
                timing.start = timing.end - longest_s


def _placed(timing: WordTiming, offset_s: float) -> WordTiming:
    # numpy's rounding, not Python's: openai/whisper rounds numpy's doubles here.
    start, end = np.round(offset_s + np.float64(timing.start), 2), np.round(offset_s + np.float64(timing.end), 2)
    return WordTiming(timing.word, timing.tokens, float(start), float(end), timing.probability)


def _fit(draft: Draft, median_s: float, last_speech_s: float) -> None:
    """Fits the words and the segment to each other: words too long for a pause are cut, else words win."""
    words, longest_s = draft.words, 2 * median_s
    first, second = words[0], words[1] if len(words) > 1 else None
    is_too_long = first.end - first.start > longest_s or (
        second is not None and second.end - first.start > longest_s * 2
    )
    if first.end - last_speech_s > median_s * 4 and is_too_long:
        if second is not None and second.end - second.start > longest_s:
            first.end = second.start = max(second.end / 2, second.end - longest_s)
        first.start = max(0, first.end - longest_s)
    if draft.start < first.end and draft.start - 0.5 > first.start:
        first.start = max(0, min(first.end - median_s, draft.start))
    else:
        draft.start = first.start
    last = words[-1]
    if draft.end > last.start and draft.end + 0.5 < last.end:
        last.end = max(last.start + median_s, draft.end)
    else:
        draft.end = last.end


def last_word_end(drafts: Sequence[Draft]) -> Optional[float]:
    """Where the last word ends; without words, the last segment. None: there is no segment."""
    for draft in reversed(drafts):
        if draft.words:
            return draft.words[-1].end
    return drafts[-1].end if drafts else None


def steady_words(words: Sequence[WordTiming], start_s: float, end_s: float) -> list[Word]:
    """The words as they leave: in order, none before the one before it has ended, all from ``start_s`` to ``end_s``.

    openai/whisper's heuristics can set a word outside of its segment, or before its predecessor's end.
    """
    steady = []
    at = start_s
    for word in words:
        start = min(max(word.start, at), end_s)
        at = min(max(word.end, start), end_s)
        steady.append(Word(float(start), float(at), word.word, float(word.probability)))
    return steady
