"""From windows of 30 s to a transcript: what to decode next, with which prompt, and which segments an answer holds.

Two ways over the audio share their parts. ``transcribe_sequentially`` is openai/whisper's ``transcribe()``: each window
begins where the segments of the one before ended, and knows its text. ``transcribe_in_batches`` is for speed, as
faster-whisper's ``BatchedInferencePipeline``: regions that voice detection has cut are heard side by side, each for
itself. There, too, a window begins where the segments before it ended, so that no speech is lost.

Nothing here knows how a window is decoded; see ``WindowDecoder``. Tokens and times only, so Python is fast enough.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Callable, Optional, Protocol

from .._options import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS, TranscribeOptions
from .._result import Segment
from .._whisper.tokenizer import Tokenizer
from .._whisper.units import (
    FRAMES_PER_S,
    FRAMES_PER_TOKEN,
    FRAMES_PER_WINDOW,
    HOP_SAMPLES,
    SAMPLE_RATE,
    TOKEN_S,
    WINDOW_S,
)
from .word_times import Alignment, Draft, WordTiming, add_word_times, find_word_timings, last_word_end, steady_words

__all__ = [
    "Answer",
    "Chunk",
    "Prompt",
    "Region",
    "Step",
    "Window",
    "WindowDecoder",
    "frames_per_window",
    "needs_fallback",
    "prefix_tokens",
    "regions_of_clips",
    "regions_of_speech",
    "transcribe_in_batches",
    "transcribe_sequentially",
    "window_tokens",
]

Chunk = tuple[int, int]
"""First frame and number of frames (10 ms each)."""

_LOG = logging.getLogger("whisperq_edge")
_PUNCTUATION = PREPEND_PUNCTUATIONS + APPEND_PUNCTUATIONS


@dataclass(frozen=True)
class Window:
    """What to decode.

    Attributes:
        seek: first frame.
        n_frames: frames of audio; up to 30 s, zeros follow.
        prompt: tokens of the text before it.
        is_first: whether ``prefix`` begins its text.
        is_timed: decode it with timestamps, although the options ask for text only.
    """

    seek: int
    n_frames: int
    prompt: tuple[int, ...] = ()
    is_first: bool = False
    is_timed: bool = False

    @property
    def start_s(self) -> float:
        return float(self.seek * HOP_SAMPLES / SAMPLE_RATE)

    @property
    def duration_s(self) -> float:
        return self.n_frames * HOP_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True)
class Answer:
    """What a window's decoding gave.

    Attributes:
        tokens: behind the prompt, without the end of text.
        text: of the tokens, stripped.
        tokenizer: of the language it was decoded in.
        align: for the word times.
        is_believed: False where the voice detector hears too little speech for this text.
    """

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    tokenizer: Tokenizer
    align: Alignment
    is_believed: bool = True


class WindowDecoder(Protocol):
    """Decodes windows together, with fallback to higher temperatures; the answers in their order.

    Windows that ``is_timed`` are some of the last call's, while their answers are in use.
    """

    def __call__(self, windows: Sequence[Window]) -> list[Answer]: ...


@dataclass(frozen=True)
class Step:
    """Segments that are ready, and the frame up to which all is heard. In batches it is the number of frames that are
    heard, as if they were the first ones."""

    segments: list[Segment]
    seek: int


IsSilent = Callable[[int, int], bool]
"""Whether a window (first frame, number of frames) is silent and need not be decoded."""


# ---- What both ways share --------------------------------------------------------------------------------------------


def frames_per_window(options: TranscribeOptions) -> int:
    """30 s, or ``chunk_length``."""
    return min(FRAMES_PER_WINDOW, (options.chunk_length or WINDOW_S) * FRAMES_PER_S)


def needs_fallback(answer: Answer, options: TranscribeOptions) -> bool:
    """Whether to try a higher temperature: the text repeats itself, or the model was unsure and heard no silence."""
    is_unsure = options.log_prob_threshold is not None and answer.avg_logprob < options.log_prob_threshold
    if options.no_speech_threshold is not None and answer.no_speech_prob > options.no_speech_threshold and is_unsure:
        return False
    limit = options.compression_ratio_threshold
    return is_unsure or (limit is not None and answer.compression_ratio > limit)


def _says_no_speech(answer: Answer, options: TranscribeOptions) -> bool:
    if not answer.is_believed:
        return True
    if options.no_speech_threshold is None or not answer.no_speech_prob > options.no_speech_threshold:
        return False
    return options.log_prob_threshold is None or not answer.avg_logprob > options.log_prob_threshold


def window_tokens(
    tokenizer: Tokenizer, options: TranscribeOptions, window: Window, n_text_ctx: int
) -> tuple[list[int], int]:
    """The tokens that a window's decoding begins with, and where sot is among them.

    A prompt is cut to its last ``n_text_ctx / 2 - 1`` tokens. ``hotwords`` (faster-whisper's) stand before the text of
    earlier windows, and give way to ``prefix``.
    """
    begin = [*tokenizer.sot_sequence]
    if options.without_timestamps and not window.is_timed:
        begin.append(tokenizer.no_timestamps)
    prefix = prefix_tokens(tokenizer, options, window, n_text_ctx)
    begin += prefix
    longest = n_text_ctx // 2 - 1
    before = list(window.prompt[-longest:])
    if options.hotwords and not prefix:
        hotwords = tokenizer.encode(" " + options.hotwords.strip())[:longest]
        before = hotwords + before[len(before) - min(len(before), longest - len(hotwords)) :]
    if not before:
        return begin, 0
    return [tokenizer.sot_prev, *before, *begin], 1 + len(before)


def prefix_tokens(tokenizer: Tokenizer, options: TranscribeOptions, window: Window, n_text_ctx: int) -> tuple[int, ...]:
    """Return the tokens that a window's answer begins with: ``prefix`` in the first window, else none.

    They begin with ``<|0.00|>``, as faster-whisper's do. Without it, the rule that a window begins with a timestamp
    would put one behind the prefix, and Whisper takes the text for complete there.
    """
    if not window.is_first or not options.prefix or not options.prefix.strip():
        return ()
    longest = n_text_ctx // 2 - (options.max_new_tokens or n_text_ctx // 2)
    # No room is all the room there is: openai/whisper leaves its slice [-0:] whole.
    text = tokenizer.encode(" " + options.prefix.strip())[-(longest if longest > 0 else n_text_ctx // 2 - 8) :]
    is_timed = window.is_timed or not options.without_timestamps
    return (tokenizer.timestamp_begin, *text) if is_timed else (*text,)


class Prompt:
    """The text so far, as the next window's prompt.

    ``carry_initial_prompt`` keeps the initial prompt in front and cuts the text in the middle. (Where the initial
    prompt fills all the room, openai/whisper's slice loses it; here it stays.)
    """

    def __init__(self, tokenizer: Tokenizer, options: TranscribeOptions, n_text_ctx: int) -> None:
        self._options = options
        self._initial = _initial_prompt(tokenizer, options)
        self._longest = n_text_ctx // 2 - 1
        self._text: list[int] = [] if options.carry_initial_prompt else [*self._initial]

    def tokens(self) -> tuple[int, ...]:
        if not self._options.carry_initial_prompt:
            return tuple(self._text[-self._longest :])
        room = max(self._longest - len(self._initial), 0)
        return (*self._initial, *self._text[max(len(self._text) - room, 0) :])

    def hear(self, tokens: Iterable[int], temperature: float) -> None:
        """Appends a window's tokens. Text that was sampled at a high temperature prompts nothing, and neither does what
        came before it."""
        if not self._options.condition_on_previous_text or temperature > self._options.prompt_reset_on_temperature:
            self._text = []
        else:
            self._text = [*self._text, *tokens][-self._longest :]


def _initial_prompt(tokenizer: Tokenizer, options: TranscribeOptions) -> list[int]:
    prompt = options.initial_prompt
    if prompt is None:
        return []
    return tokenizer.encode(" " + prompt.strip()) if isinstance(prompt, str) else list(prompt)


@dataclass(frozen=True)
class _Split:
    """An answer cut into segments.

    Attributes:
        n_frames: how far into the window they reach: where the next one begins.
        n_timed_frames: where the last timestamp is that ends a segment; ``n_frames`` without one.
        rest: tokens after the last pair of timestamps: a segment that did not end.
        ends_in_silence: the model closed its last segment and said nothing more.
    """

    drafts: list[Draft]
    n_frames: int
    n_timed_frames: int
    rest: tuple[int, ...]
    ends_in_silence: bool


def _split(window: Window, answer: Answer) -> _Split:
    """Cuts at each pair of timestamps, one that ends a segment and one that begins the next. Without a pair all tokens
    are one segment, up to its last timestamp."""
    tokens, first_time = answer.tokens, answer.tokenizer.timestamp_begin
    is_time = [token >= first_time for token in tokens]
    ends_in_silence = is_time[-2:] == [False, True]
    cuts = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]

    def frames_before(token: int) -> int:
        """Up to a timestamp, which may lie in the zeros behind the window's audio."""
        return min((token - first_time) * FRAMES_PER_TOKEN, window.n_frames)

    n_timed = frames_before(tokens[-1]) if ends_in_silence else window.n_frames
    if not cuts:
        times = [token - first_time for token in tokens if token >= first_time]
        duration_s = times[-1] * TOKEN_S if times and times[-1] > 0 else window.duration_s
        draft = _draft(window, answer, window.start_s, window.start_s + duration_s, tokens)
        return _Split([draft], window.n_frames, n_timed, (), ends_in_silence)
    if ends_in_silence:
        cuts.append(len(tokens))
    else:
        n_timed = frames_before(tokens[cuts[-1] - 1])
    drafts = []
    for begin, end in zip([0, *cuts], cuts):
        start_s = window.start_s + (tokens[begin] - first_time) * TOKEN_S
        end_s = window.start_s + (tokens[end - 1] - first_time) * TOKEN_S
        drafts.append(_draft(window, answer, start_s, end_s, tokens[begin:end]))
    n_frames = window.n_frames if ends_in_silence else n_timed
    return _Split(drafts, n_frames, n_timed, tokens[cuts[-1] :], ends_in_silence)


def _draft(window: Window, answer: Answer, start_s: float, end_s: float, tokens: Sequence[int]) -> Draft:
    tokenizer = answer.tokenizer
    text = tokenizer.decode(token for token in tokens if token < tokenizer.eot)
    return Draft(window.seek, start_s, end_s, list(tokens), text)


class _Writer:
    """Makes segments out of drafts and numbers them."""

    def __init__(self, options: TranscribeOptions, duration_s: float) -> None:
        self._options = options
        self._duration_s = duration_s
        self._n_segments = 0

    def write(self, drafts: Sequence[Draft], answer: Answer, window: Window) -> list[Segment]:
        """Leave out drafts without text or duration, of which openai/whisper makes segments that say nothing, and clear
        their tokens, so that they prompt nothing. No time lies behind the window's audio, and no segment either."""
        for draft in drafts:
            if draft.start == draft.end or not draft.text.strip():
                draft.text, draft.tokens, draft.words = "", [], []
        end_s = min(window.start_s + window.duration_s, self._duration_s)
        return [self._segment(draft, answer, end_s) for draft in drafts if draft.text and draft.start < end_s]

    def _segment(self, draft: Draft, answer: Answer, latest_s: float) -> Segment:
        words = None
        start_s, end_s = min(draft.start, latest_s), min(draft.end, latest_s)
        if self._options.word_timestamps:
            words = steady_words(draft.words, start_s, end_s)
        return Segment(
            id=0,
            seek=draft.seek,
            start=start_s,
            end=end_s,
            text=draft.text,
            tokens=draft.tokens,
            temperature=answer.temperature,
            avg_logprob=answer.avg_logprob,
            compression_ratio=answer.compression_ratio,
            no_speech_prob=answer.no_speech_prob,
            words=words,
        )

    def number(self, segments: Sequence[Segment]) -> list[Segment]:
        """Give segments their ids, in the order in which they leave."""
        first = self._n_segments
        self._n_segments += len(segments)
        return [replace(segment, id=i) for i, segment in enumerate(segments, first)]


def _add_words(
    drafts: Sequence[Draft], window: Window, answer: Answer, options: TranscribeOptions, last_speech_s: float
) -> None:
    add_word_times(
        drafts,
        answer.align,
        answer.tokenizer,
        window.n_frames,
        prepended=options.prepend_punctuations,
        appended=options.append_punctuations,
        last_speech_s=last_speech_s,
    )


# ---- One window after the other --------------------------------------------------------------------------------------


def transcribe_sequentially(
    decode: WindowDecoder,
    options: TranscribeOptions,
    prompt: Prompt,
    clips: Sequence[Chunk],
    n_frames: int,
    is_silent: IsSilent,
) -> Iterator[Step]:
    """The transcript of ``clips``, window by window: openai/whisper's ``transcribe()``.

    Args:
        clips: the parts to hear.
        n_frames: of the audio.
    """
    loop = _Sequential(decode, options, prompt, n_frames, is_silent)
    for begin, n_clip_frames in clips:
        seek, end = begin, min(begin + n_clip_frames, n_frames)
        while seek < end:
            step = loop.step(seek, end)
            # Where openai/whisper would decode the same window for ever (a threshold of 0), we go on.
            seek = step.seek if step.seek > seek else min(seek + loop.longest, end)
            yield step


class _Sequential:
    """Remembers what windows leave to the next: the prompt, and where speech was last heard."""

    def __init__(
        self, decode: WindowDecoder, options: TranscribeOptions, prompt: Prompt, n_frames: int, is_silent: IsSilent
    ) -> None:
        self._decode = decode
        self._options = options
        self._prompt = prompt
        self._n_frames = n_frames
        self._is_silent = is_silent
        self._writer = _Writer(options, n_frames * HOP_SAMPLES / SAMPLE_RATE)
        self._last_speech_s = 0.0
        self._is_first = True
        self.longest = frames_per_window(options)

    def step(self, seek: int, clip_end: int) -> Step:
        n_frames = min(self.longest, clip_end - seek)
        if self._is_silent(seek, n_frames):
            return Step([], seek + n_frames)
        window = Window(seek, n_frames, self._prompt.tokens(), self._is_first)
        self._is_first = False
        [answer] = self._decode([window])
        if _says_no_speech(answer, self._options):
            return Step([], seek + n_frames)
        split = _split(window, answer)
        next_seek = seek + split.n_frames
        drafts = split.drafts
        if self._options.word_timestamps:
            drafts, next_seek, is_heard = self._time_words(window, answer, split)
            if not is_heard:
                return Step([], next_seek)
        segments = self._writer.number(self._writer.write(drafts, answer, window))
        self._prompt.hear((token for draft in drafts for token in draft.tokens), answer.temperature)
        return Step(segments, next_seek)

    def _time_words(self, window: Window, answer: Answer, split: _Split) -> tuple[list[Draft], int, bool]:
        """The segments with words, where to go on, and False where this window is to be decoded again further on."""
        drafts = split.drafts
        next_seek = window.seek + split.n_frames
        _add_words(drafts, window, answer, self._options, self._last_speech_s)
        end_s = None if split.ends_in_silence else last_word_end(drafts)
        if end_s is not None and end_s > window.start_s:
            next_seek = round(end_s * FRAMES_PER_S)
        threshold_s = self._options.hallucination_silence_threshold
        if threshold_s is not None:
            if end_s is not None and end_s > window.start_s and self._window_end_s(window) - end_s <= threshold_s:
                next_seek = window.seek + window.n_frames
            gap_s = _silence_before_hallucination(drafts, window)
            if gap_s > threshold_s:
                return [], window.seek + round(gap_s * FRAMES_PER_S), False
            drafts, next_seek = self._without_hallucinations(drafts, window, next_seek, threshold_s)
        heard_s = last_word_end(drafts)
        if heard_s is not None:
            self._last_speech_s = heard_s
        return drafts, next_seek, True

    def _window_end_s(self, window: Window) -> float:
        return float((window.seek + self.longest) * HOP_SAMPLES / SAMPLE_RATE)

    def _without_hallucinations(
        self, drafts: list[Draft], window: Window, next_seek: int, threshold_s: float
    ) -> tuple[list[Draft], int]:
        """Ends before the first suspicious segment that has silence, or another one, on both sides."""
        window_end_s = self._window_end_s(window)
        before_s = self._last_speech_s
        for i, draft in enumerate(drafts):
            if not draft.words:
                continue
            if _is_suspicious(draft):
                following = _first_with_words(drafts[i + 1 :])
                next_start_s = following.words[0].start if following else window.start_s + window.duration_s
                silence_before = (
                    draft.start - before_s > threshold_s
                    or draft.start < threshold_s
                    or draft.start - window.start_s < 2.0
                )
                silence_after = (
                    next_start_s - draft.end > threshold_s
                    or _is_suspicious(following)
                    or window_end_s - draft.end < 2.0
                )
                if silence_before and silence_after:
                    next_seek = round(max(window.start_s + 1, draft.start) * FRAMES_PER_S)
                    if self._n_frames * HOP_SAMPLES / SAMPLE_RATE - draft.end < threshold_s:
                        next_seek = self._n_frames
                    return drafts[:i], next_seek
            before_s = draft.end
        return drafts, next_seek


def _silence_before_hallucination(drafts: Sequence[Draft], window: Window) -> float:
    """Seconds before the first words where those are suspicious, else -1."""
    first = _first_with_words(drafts)
    return first.start - window.start_s if first is not None and _is_suspicious(first) else -1.0


def _first_with_words(drafts: Iterable[Draft]) -> Optional[Draft]:
    return next((draft for draft in drafts if draft.words), None)


def _is_suspicious(draft: Optional[Draft]) -> bool:
    """Whether the first words are improbable, or too short or too long to be spoken."""
    if draft is None or not draft.words:
        return False
    words = [word for word in draft.words if word.word not in _PUNCTUATION][:8]
    score = sum(map(_anomaly, words))
    return score >= 3 or score + 0.01 >= len(words)


def _anomaly(word: WordTiming) -> float:
    duration_s = word.end - word.start
    score = 1.0 if word.probability < 0.15 else 0.0
    if duration_s < 0.133:
        score += (0.133 - duration_s) * 15
    if duration_s > 2.0:
        score += duration_s - 2.0
    return score


# ---- Many windows at once --------------------------------------------------------------------------------------------

_REGION_WINDOWS = 3
"""A region is up to this many windows long. At its end a window often covers a short rest only, so long regions waste
less. Short ones fill a batch from shorter files, and a batch keeps the audio of all its regions (4 MB a minute)."""

_MOST_WINDOWS = 3
"""Times the windows that a region is long: so many are listened to, at most, where answers keep ending early. Singing
may do that, which the voice detector takes for speech and Whisper does not."""

_LEAST_REST_FRAMES = 100
"""Less speech than this, before a pause, is not worth a window of its own. The detector's spans reach 0.4 s beyond
speech, and Whisper hears words in what is much shorter than a second that nobody said."""

_LEAST_CUT_REST_FRAMES = 20
"""The same where no pause follows, because the region was cut amid the audio: no word is shorter."""

_LEAST_REST_BY_WORDS_FRAMES = 150
"""The same behind the last word, where there are no timestamps: its end is known less well, by alignment."""

_LONGEST_WORD_FRAMES = 150
"""A word that alignment stretches over more speech than this stands for words that the answer lacks."""

_LEAST_SKIPPED_FRAMES = 300
"""So much speech under one word is worth a window of its own, if timestamps do not help."""

_SLOW_FRAMES_PER_TOKEN = 50
"""Slow speech has a token in this time. Most speech has two or three."""

Region = Sequence[Chunk]
"""Chunks of speech that windows go through in order, apart from other regions. Pauses between them are left out."""


def regions_of_speech(spans: Iterable[tuple[int, int]], options: TranscribeOptions) -> list[Region]:
    """Group spans of speech (start, end in samples) into regions.

    A region ends at the longest pause in its second half.
    """
    longest = _REGION_WINDOWS * frames_per_window(options)
    regions: list[Region] = []
    waiting: list[Chunk] = []
    for start, end in spans:
        first, last = start // HOP_SAMPLES, end // HOP_SAMPLES
        while waiting and last - waiting[0][0] > longest:
            n_chunks = _longest_pause(waiting)
            regions.append(waiting[:n_chunks])
            waiting = waiting[n_chunks:]
        waiting.append((first, last - first))
    return [*regions, waiting] if waiting else regions


def _longest_pause(chunks: Sequence[Chunk]) -> int:
    """Return how many chunks stand before the longest pause in the second half; all of them, where none has one."""
    middle = (chunks[0][0] + sum(chunks[-1])) / 2
    pauses = [(seek - sum(chunks[i]), i + 1) for i, (seek, _) in enumerate(chunks[1:]) if seek >= middle]
    return max(pauses, default=(0, len(chunks)))[1]


def regions_of_clips(clips: Iterable[Chunk], options: TranscribeOptions) -> list[Region]:
    """Make each clip a region of its own, and several of a clip that is too long."""
    longest = _REGION_WINDOWS * frames_per_window(options)
    return [
        [(seek, min(longest, begin + n_frames - seek))]
        for begin, n_frames in clips
        for seek in range(begin, begin + n_frames, longest)
    ]


class _Lane:
    """Goes through one region, window by window, as the sequential loop goes through the audio.

    Attributes:
        seek: all before this frame is heard.
        segments: those that nobody has taken yet.
    """

    def __init__(
        self, region: Region, is_cut: bool, last_speech_s: float, prompt: Prompt, options: TranscribeOptions
    ) -> None:
        self._is_cut = is_cut  # the next region begins where this one ends
        self._chunks = [(seek, seek + n_frames) for seek, n_frames in region]
        self._longest = frames_per_window(options)
        # Timestamps tell where to go on after a window that ends amid speech. Without them, it shall end in a pause.
        self._shortest = 0 if options.without_timestamps else self._longest // 2
        self._least_rest = _LEAST_REST_BY_WORDS_FRAMES if options.without_timestamps else _LEAST_REST_FRAMES
        self.begin = self.seek = self._chunks[0][0]
        self.end = self._chunks[-1][1]
        self._n_left = _MOST_WINDOWS * -(-(self.end - self.begin) // self._longest)
        self._beginning: Optional[Chunk] = None
        self.last_speech_s = last_speech_s
        self.prompt = prompt
        self.segments: list[Segment] = []

    def next_chunk(self) -> Optional[Chunk]:
        """Take the next window. It ends with a chunk, unless that leaves it half empty. None: the region is heard."""
        rest = self._speech(self.seek, self.end)
        if not rest:
            return None
        seek = rest[0][0]
        if self._beginning is not None and self._beginning[0] == seek:
            return self._beginning
        fitting = [end - seek for _, end in rest if end - seek <= self._longest]
        is_good = fitting and (fitting[-1] >= self._shortest or seek + fitting[-1] == self.end)
        return seek, fitting[-1] if is_good else self._longest

    def n_speech_frames(self, begin: int, end: int) -> int:
        """Return how much of the frames from ``begin`` to ``end`` is speech."""
        return sum(last - first for first, last in self._speech(begin, end))

    def _speech(self, begin: int, end: int) -> list[tuple[int, int]]:
        cut = [(max(first, begin), min(last, end)) for first, last in self._chunks]
        return [(first, last) for first, last in cut if first < last]

    def _least_rest_before(self, end: int) -> int:
        """Return how much speech before frame ``end`` is worth hearing again. All of it is, where speech goes on."""
        if self._speech(end, end + 1):
            return 1
        return _LEAST_CUT_REST_FRAMES if self._is_cut and end == self.end else self._least_rest

    def begin_again(self, window: Window, n_skipped: int) -> bool:
        """Decode the beginning of a window by itself, once, if its answer skips that many frames there."""
        if n_skipped == 0:
            return False
        has_begun_again = self._beginning is not None and self._beginning[0] == window.seek
        if has_begun_again or self._n_left <= 1:
            _warn_left_out(window.seek, window.seek + n_skipped)
            return False
        self._n_left -= 1
        self._beginning = window.seek, min(n_skipped, window.n_frames * 2 // 3)
        self.seek = window.seek
        return True

    def go_on(self, window: Window, n_heard: int) -> bool:
        """Go on behind ``n_heard`` frames of the window that was heard last. False: nothing of it is left to hear."""
        end, seek = window.seek + window.n_frames, window.seek + n_heard
        n_rest = self.n_speech_frames(seek, end)
        self._n_left -= 1
        self.seek = end
        if n_heard == 0 or n_rest < self._least_rest_before(end):
            return False
        if self._n_left <= 0:
            _warn_left_out(seek, end)
            return False
        self.seek = seek
        return True


def _warn_left_out(begin: int, end: int) -> None:
    _LOG.warning(
        "from %.2f to %.2f s the voice detector finds speech and the model gives no text: it is left out",
        *(begin / FRAMES_PER_S, end / FRAMES_PER_S),
    )


def transcribe_in_batches(
    decode: WindowDecoder,
    options: TranscribeOptions,
    prompt: Prompt,
    regions: Sequence[Region],
    n_frames: int,
    is_silent: IsSilent,
    keep_from: Callable[[int], None] = lambda frame: None,
    *,
    knows_speech: bool = False,
) -> Iterator[Step]:
    """Yield the transcript of ``regions``, of which ``options.batch_size`` are heard side by side.

    Each region begins with the initial prompt and knows no text of others. Within it windows follow each other as in
    the sequential loop: the text so far is the prompt, and speech behind an answer's last timestamp is heard again.

    Args:
        keep_from: gets the first frame that may still be read, before each batch.
        knows_speech: the regions are of speech, so that answers with too few words for it can be told. Clips hold
            pauses, too.
    """
    batches = _Batches(decode, options, prompt, regions, n_frames, is_silent, knows_speech)
    while batches.fill():
        keep_from(batches.first_frame)
        batches.decode()
        yield from batches.take()
    yield from batches.take()


class _Batches:
    """Keeps as many lanes busy as a batch has windows, and hands out segments in the order of the audio."""

    def __init__(
        self,
        decode: WindowDecoder,
        options: TranscribeOptions,
        prompt: Prompt,
        regions: Sequence[Region],
        n_frames: int,
        is_silent: IsSilent,
        knows_speech: bool,
    ) -> None:
        self._decode = decode
        self._options = options
        self._prompt = prompt
        self._is_silent = is_silent
        self._knows_speech = knows_speech
        self._writer = _Writer(options, n_frames * HOP_SAMPLES / SAMPLE_RATE)
        self._regions = [region for region in regions if region]
        self._next_region = 0
        self._lanes: list[_Lane] = []  # in the order of the audio, those that wait for an earlier one included
        self._windows: list[tuple[_Lane, Window]] = []
        self._is_first = True

    @property
    def first_frame(self) -> int:
        return min(window.seek for _, window in self._windows)

    def fill(self) -> bool:
        """Choose the windows of the next batch: one of each lane that goes on. False: everything is heard."""
        self._windows = []
        lanes = iter([*self._lanes])
        while len(self._windows) < (self._options.batch_size or 1):
            lane = next(lanes, None) or self._open_lane()
            if lane is None:
                break
            chunk = self._next_audible(lane)
            if chunk is not None:
                self._windows.append((lane, Window(*chunk, lane.prompt.tokens(), self._is_first)))
                self._is_first = False
        return bool(self._windows)

    def _open_lane(self) -> Optional[_Lane]:
        if self._next_region == len(self._regions):
            return None
        i = self._next_region
        self._next_region += 1
        last_speech_s = sum(self._regions[i - 1][-1]) / FRAMES_PER_S if i > 0 else 0.0
        is_cut = i + 1 < len(self._regions) and self._regions[i + 1][0][0] == sum(self._regions[i][-1])
        self._lanes.append(_Lane(self._regions[i], is_cut, last_speech_s, copy(self._prompt), self._options))
        return self._lanes[-1]

    def _next_audible(self, lane: _Lane) -> Optional[Chunk]:
        while (chunk := lane.next_chunk()) is not None and self._is_silent(*chunk):
            lane.seek = sum(chunk)
        if chunk is None:
            lane.seek = lane.end
        return chunk

    def decode(self) -> None:
        heard = [_Heard(*asked, answer) for asked, answer in zip(self._windows, self._decode_all())][::-1]
        if self._knows_speech:
            self._mend_what_skips_speech([one for one in heard if self._may_skip_speech(one)])
        while heard:
            # Each answer has its window's audio in its hands, which goes before that of the next batch comes.
            self._hear(heard.pop())

    def _decode_all(self) -> list[Answer]:
        return self._decode([window for _, window in self._windows])

    def _may_skip_speech(self, heard: _Heard) -> bool:
        """Return whether words may be missed in an answer. A caller who sets ``max_new_tokens`` asks for so many, and
        ``prefix`` may be text that nobody says."""
        has_prefix = heard.window.is_first and bool((self._options.prefix or "").strip())
        return heard.answer.is_believed and not has_prefix and not self._was_cut(heard.answer)

    def _was_cut(self, answer: Answer) -> bool:
        return len(answer.tokens) >= (self._options.max_new_tokens or math.inf)

    def _mend_what_skips_speech(self, heard: Sequence[_Heard]) -> None:
        if self._options.without_timestamps:
            self._decode_with_timestamps([one for one in heard if one.skips_speech()])
        for one in heard:
            if one.window.is_timed or not self._options.without_timestamps:
                one.cut_where_segments_skip()

    def _decode_with_timestamps(self, doubtful: Sequence[_Heard]) -> None:
        """Decode windows again where text without timestamps leaves out what was said amid them. The answer with
        timestamps is taken if it has more text for the speech that it reaches over. Otherwise the text ends where
        much was left out, so that the next window begins there."""
        windows = [replace(one.window, is_timed=True) for one in doubtful]
        for one, window, answer in zip(doubtful, windows, self._decode(windows) if windows else []):
            is_good = answer.is_believed and not needs_fallback(answer, self._options)
            if is_good and _density(one.lane, window, answer) > _density(one.lane, one.window, one.answer):
                one.take(window, answer)
            else:
                one.cut_where_much_is_skipped()

    def _hear(self, heard: _Heard) -> None:
        lane, window, answer = heard.lane, heard.window, heard.answer
        if _says_no_speech(answer, self._options):
            lane.go_on(window, window.n_frames)
            return
        if lane.begin_again(window, heard.n_skipped_first):
            return
        split = _split(window, answer)
        drafts = split.drafts
        if not lane.go_on(window, self._n_heard_frames(heard, split)):
            drafts = [*drafts, *_open_segment(window, answer, split)]
        if window.is_timed:
            drafts = [_without_times(window, answer, drafts)]
        if self._options.word_timestamps and drafts:
            _add_words(drafts, window, answer, self._options, lane.last_speech_s)
            lane.last_speech_s = last_word_end(drafts) or lane.last_speech_s
        # Where there are no timestamps, a segment reaches to the end of its window: here, of what was heard of it.
        lane.segments += self._writer.write(drafts, answer, replace(window, n_frames=lane.seek - window.seek))
        if self._options.condition_on_previous_text:
            lane.prompt.hear((token for draft in drafts for token in draft.tokens), answer.temperature)

    def _n_heard_frames(self, heard: _Heard, split: _Split) -> int:
        """Return how far into the window the answer reaches. It is the whole window where ``max_new_tokens`` ended the
        answer: that much was asked for."""
        if self._was_cut(heard.answer):
            return heard.window.n_frames
        is_timed = heard.window.is_timed or not self._options.without_timestamps
        return split.n_timed_frames if is_timed else heard.last_word_frame()

    def take(self) -> Iterator[Step]:
        """Hand out what is ready: all segments up to the first lane that goes on, its own included."""
        while self._lanes:
            lane = self._lanes[0]
            segments, lane.segments = self._writer.number(lane.segments), []
            is_over = lane.seek >= lane.end
            if is_over:
                self._lanes.pop(0)
            yield Step(segments, lane.seek + sum(other.seek - other.begin for other in self._lanes[not is_over :]))
            if not is_over:
                return


class _Heard:
    """A window of a lane and its answer. Where no timestamp tells, alignment says which audio the words cover."""

    def __init__(self, lane: _Lane, window: Window, answer: Answer) -> None:
        self.lane, self.window, self.answer = lane, window, answer
        self._words: Optional[list[WordTiming]] = None
        self.n_skipped_first = 0  # frames at the beginning whose speech the answer skips

    def take(self, window: Window, answer: Answer) -> None:
        """Replace the answer, and with it what alignment said of the one before."""
        self.window, self.answer, self._words = window, answer, None

    def words(self) -> list[WordTiming]:
        """Align the answer's words with the window, once."""
        if self._words is None:
            answer = self.answer
            tokens = _text_tokens(answer)
            self._words = find_word_timings(answer.align, answer.tokenizer, tokens, self.window.n_frames)
        return self._words

    def last_word_frame(self) -> int:
        """Return the frame of the window at which its last word ends."""
        words = self.words()
        return round(words[-1].end * FRAMES_PER_S) if words else self.window.n_frames

    def skips_speech(self) -> bool:
        """Return whether a word is stretched over more speech than one can take."""
        return any(self._n_speech_frames(word.start, word.end) > _LONGEST_WORD_FRAMES for word in self.words())

    def cut_where_much_is_skipped(self) -> None:
        """End the answer before the first word that stands for a sentence or more, unless it is the first of all. The
        last word need not stand for as much, because nothing behind it is heard twice."""
        words = self.words()
        limits = [*[_LEAST_SKIPPED_FRAMES] * (len(words) - 1), _LONGEST_WORD_FRAMES]
        long = [i for i, word in enumerate(words) if self._n_speech_frames(word.start, word.end) > limits[i]]
        if not long or long[0] == 0:
            self._note_skipped_first(is_long=bool(long))
            return
        tokens = tuple(chain.from_iterable(word.tokens for word in words[: long[0]]))
        text = self.answer.tokenizer.decode(tokens).strip()
        self.answer, self._words = replace(self.answer, tokens=tokens, text=text), words[: long[0]]

    def cut_where_segments_skip(self) -> None:
        """End an answer with timestamps before much skipped speech, which lies between two segments or in one."""
        drafts = _split(self.window, self.answer).drafts
        tokens = self._before_gap(drafts) or self._before_stretched_word(drafts)
        if tokens:
            eot = self.answer.tokenizer.eot
            text = self.answer.tokenizer.decode(token for token in tokens if token < eot).strip()
            self.take(self.window, replace(self.answer, tokens=tokens, text=text))

    def _before_gap(self, drafts: Sequence[Draft]) -> tuple[int, ...]:
        for i, (before, after) in enumerate(zip(drafts, drafts[1:]), 1):
            gap_s = before.end - self.window.start_s, after.start - self.window.start_s
            if self._n_speech_frames(*gap_s) > _LEAST_SKIPPED_FRAMES:
                return tuple(chain.from_iterable(draft.tokens for draft in drafts[:i]))
        return ()

    def _before_stretched_word(self, drafts: Sequence[Draft]) -> tuple[int, ...]:
        """Return the tokens before the first stretched word, or all where speech goes on behind the last one, and a
        timestamp there. Alignment is asked where a segment has few tokens for its speech, and where the window is
        decoded again because its first answer skipped some: a long segment may hide as much."""
        if not (self.window.is_timed or any(self._is_sparse(draft) for draft in drafts)):
            return ()
        words, tokenizer = self.words(), self.answer.tokenizer
        starts_s = [word.start for word in words]
        ends_s = [word.end for word in words]
        # The last span is that of no word: from the last one to where the answer ends by its timestamps.
        spans = zip([*starts_s, *ends_s[-1:]], [*ends_s, drafts[-1].end - self.window.start_s])
        long = [(i, span[0]) for i, span in enumerate(spans) if self._n_speech_frames(*span) > _LEAST_SKIPPED_FRAMES]
        if not long or long[0][0] == 0:
            self._note_skipped_first(is_long=bool(long))
            return ()
        i, start_s = long[0]
        n_text = sum(len(word.tokens) for word in words[:i])
        counts = accumulate(token < tokenizer.eot for token in self.answer.tokens)
        tokens = [token for token, n in zip(self.answer.tokens, counts) if n <= n_text]
        while tokens[-1] >= tokenizer.eot:
            tokens.pop()
        return (*tokens, max(tokenizer.timestamp_begin + round(start_s / TOKEN_S), *tokens))

    def _note_skipped_first(self, is_long: bool) -> None:
        """Nothing stands before the first word that the answer could end with, if that one is stretched."""
        self.n_skipped_first = round(self.words()[0].end * FRAMES_PER_S) if is_long else 0

    def _is_sparse(self, draft: Draft) -> bool:
        n_tokens = sum(token < self.answer.tokenizer.eot for token in draft.tokens)
        n_frames = self._n_speech_frames(draft.start - self.window.start_s, draft.end - self.window.start_s)
        return n_frames > _LEAST_SKIPPED_FRAMES + _SLOW_FRAMES_PER_TOKEN * n_tokens

    def _n_speech_frames(self, start_s: float, end_s: float) -> int:
        """Return how much speech there is between two times, in seconds from the start of the window."""
        begin, end = (self.window.seek + round(time_s * FRAMES_PER_S) for time_s in (start_s, end_s))
        return self.lane.n_speech_frames(begin, end)


def _density(lane: _Lane, window: Window, answer: Answer) -> float:
    """Return how many text tokens an answer has for each frame of the speech that it reaches over."""
    end = window.seek + (_split(window, answer).n_timed_frames if window.is_timed else window.n_frames)
    return len(_text_tokens(answer)) / max(lane.n_speech_frames(window.seek, end), 1)


def _text_tokens(answer: Answer) -> list[int]:
    return [token for token in answer.tokens if token < answer.tokenizer.eot]


def _without_times(window: Window, answer: Answer, drafts: Iterable[Draft]) -> Draft:
    """Return the text of segments as one segment of the whole window, as it is without timestamps."""
    tokens = [token for draft in drafts for token in draft.tokens if token < answer.tokenizer.eot]
    return _draft(window, answer, window.start_s, window.start_s + window.duration_s, tokens)


def _open_segment(window: Window, answer: Answer, split: _Split) -> list[Draft]:
    """The text behind the last pair of timestamps as a segment that ends with the window, where there is text."""
    if not any(token < answer.tokenizer.eot for token in split.rest):
        return []
    first_time = answer.tokenizer.timestamp_begin
    begins = split.rest[0] - first_time if split.rest[0] >= first_time else split.n_timed_frames // FRAMES_PER_TOKEN
    start_s = window.start_s + begins * TOKEN_S
    end_s = max(start_s, window.start_s + window.duration_s)
    return [_draft(window, answer, start_s, end_s, split.rest)]
