"""From windows of 30 s to a transcript: what to decode next, with which prompt, and which segments an answer holds.

Two ways over the audio share their parts. ``transcribe_sequentially`` is openai/whisper's ``transcribe()``: each window
begins where the segments of the one before ended, and knows its text. ``transcribe_in_batches`` is faster-whisper's
``BatchedInferencePipeline``: chunks that voice detection has cut are decoded together, each for itself.

Nothing here knows how a window is decoded; see ``WindowDecoder``. Tokens and times only, so Python is fast enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Callable, Optional, Protocol

from ._options import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS, TranscribeOptions
from ._result import Segment
from ._tokenizer import Tokenizer
from ._window_mel import FRAMES_PER_WINDOW, HOP_SAMPLES
from ._word_times import Alignment, Draft, WordTiming, add_word_times, last_word_end, steady_words

__all__ = [
    "Answer",
    "Chunk",
    "Prompt",
    "Step",
    "Window",
    "WindowDecoder",
    "chunks_of_clips",
    "chunks_of_speech",
    "frames_per_window",
    "needs_fallback",
    "transcribe_in_batches",
    "transcribe_sequentially",
    "window_tokens",
]

Chunk = tuple[int, int]
"""First frame and number of frames (10 ms each)."""

_FRAMES_PER_SECOND = 100
_FRAMES_PER_TOKEN = 2
_TOKEN_S = 0.02
_PUNCTUATION = PREPEND_PUNCTUATIONS + APPEND_PUNCTUATIONS


@dataclass(frozen=True)
class Window:
    """What to decode.

    Attributes:
        seek: first frame.
        n_frames: frames of audio; up to 30 s, zeros follow.
        prompt: tokens of the text before it.
        is_first: whether ``prefix`` begins its text.
    """

    seek: int
    n_frames: int
    prompt: tuple[int, ...] = ()
    is_first: bool = False

    @property
    def start_s(self) -> float:
        return float(self.seek * HOP_SAMPLES / 16000)

    @property
    def duration_s(self) -> float:
        return self.n_frames * HOP_SAMPLES / 16000


@dataclass(frozen=True)
class Answer:
    """What a window's decoding gave.

    Attributes:
        tokens: behind the prompt, without the end of text.
        text: of the tokens, stripped.
        tokenizer: of the language it was decoded in.
        align: for the word times.
    """

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    tokenizer: Tokenizer
    align: Alignment


class WindowDecoder(Protocol):
    """Decodes windows together, with fallback to higher temperatures; the answers in their order."""

    def __call__(self, windows: Sequence[Window]) -> list[Answer]: ...


@dataclass(frozen=True)
class Step:
    """Segments that are ready, and the frame up to which all is heard."""

    segments: list[Segment]
    seek: int


IsSilent = Callable[[int, int], bool]
"""Whether a window (first frame, number of frames) is silent and need not be decoded."""


# ---- What both ways share --------------------------------------------------------------------------------------------


def frames_per_window(options: TranscribeOptions) -> int:
    """30 s, or ``chunk_length``."""
    return min(FRAMES_PER_WINDOW, (options.chunk_length or 30) * _FRAMES_PER_SECOND)


def needs_fallback(answer: Answer, options: TranscribeOptions) -> bool:
    """Whether to try a higher temperature: the text repeats itself, or the model was unsure and heard no silence."""
    is_unsure = options.log_prob_threshold is not None and answer.avg_logprob < options.log_prob_threshold
    if options.no_speech_threshold is not None and answer.no_speech_prob > options.no_speech_threshold and is_unsure:
        return False
    limit = options.compression_ratio_threshold
    return is_unsure or (limit is not None and answer.compression_ratio > limit)


def _says_no_speech(answer: Answer, options: TranscribeOptions) -> bool:
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
    if options.without_timestamps:
        begin.append(tokenizer.no_timestamps)
    prefix = options.prefix if window.is_first else None
    if prefix:
        longest_prefix = n_text_ctx // 2 - (options.max_new_tokens or n_text_ctx // 2)
        # No room is all the room there is: openai/whisper leaves its slice [-0:] whole.
        begin += tokenizer.encode(" " + prefix.strip())[
            -(longest_prefix if longest_prefix > 0 else n_text_ctx // 2 - 8) :
        ]
    longest = n_text_ctx // 2 - 1
    before = list(window.prompt[-longest:])
    if options.hotwords and not prefix:
        hotwords = tokenizer.encode(" " + options.hotwords.strip())[:longest]
        before = hotwords + before[len(before) - min(len(before), longest - len(hotwords)) :]
    if not before:
        return begin, 0
    return [tokenizer.sot_prev, *before, *begin], 1 + len(before)


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
        rest: tokens after the last pair of timestamps: a segment that did not end.
        ends_in_silence: the model closed its last segment and said nothing more.
    """

    drafts: list[Draft]
    n_frames: int
    rest: tuple[int, ...]
    ends_in_silence: bool


def _split(window: Window, answer: Answer) -> _Split:
    """Cuts at each pair of timestamps, one that ends a segment and one that begins the next. Without a pair all tokens
    are one segment, up to its last timestamp."""
    tokens, first_time = answer.tokens, answer.tokenizer.timestamp_begin
    is_time = [token >= first_time for token in tokens]
    ends_in_silence = is_time[-2:] == [False, True]
    cuts = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
    if not cuts:
        times = [token - first_time for token in tokens if token >= first_time]
        duration_s = times[-1] * _TOKEN_S if times and times[-1] > 0 else window.duration_s
        draft = _draft(window, answer, window.start_s, window.start_s + duration_s, tokens)
        return _Split([draft], window.n_frames, (), ends_in_silence)
    if ends_in_silence:
        cuts.append(len(tokens))
    drafts = []
    for begin, end in zip([0, *cuts], cuts):
        start_s = window.start_s + (tokens[begin] - first_time) * _TOKEN_S
        end_s = window.start_s + (tokens[end - 1] - first_time) * _TOKEN_S
        drafts.append(_draft(window, answer, start_s, end_s, tokens[begin:end]))
    n_frames = window.n_frames if ends_in_silence else (tokens[cuts[-1] - 1] - first_time) * _FRAMES_PER_TOKEN
    return _Split(drafts, n_frames, tokens[cuts[-1] :], ends_in_silence)


def _draft(window: Window, answer: Answer, start_s: float, end_s: float, tokens: Sequence[int]) -> Draft:
    tokenizer = answer.tokenizer
    text = tokenizer.decode(token for token in tokens if token < tokenizer.eot)
    return Draft(window.seek, start_s, end_s, list(tokens), text)


class _Writer:
    """Makes segments out of drafts and counts them."""

    def __init__(self, options: TranscribeOptions, duration_s: float) -> None:
        self._options = options
        self._duration_s = duration_s
        self._n_segments = 0

    def write(self, drafts: Sequence[Draft], answer: Answer) -> list[Segment]:
        """As openai/whisper does, a segment without text or duration stays, but says nothing."""
        for draft in drafts:
            if draft.start == draft.end or not draft.text.strip():
                draft.text, draft.tokens, draft.words = "", [], []
        return [self._segment(draft, answer) for draft in drafts]

    def _segment(self, draft: Draft, answer: Answer) -> Segment:
        words = None
        if self._options.word_timestamps:
            words = steady_words(draft.words, min(draft.start, self._duration_s), min(draft.end, self._duration_s))
        self._n_segments += 1
        return Segment(
            id=self._n_segments - 1,
            seek=draft.seek,
            start=draft.start,
            end=draft.end,
            text=draft.text,
            tokens=draft.tokens,
            temperature=answer.temperature,
            avg_logprob=answer.avg_logprob,
            compression_ratio=answer.compression_ratio,
            no_speech_prob=answer.no_speech_prob,
            words=words,
        )


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
        self._writer = _Writer(options, n_frames * HOP_SAMPLES / 16000)
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
        segments = self._writer.write(drafts, answer)
        self._prompt.hear((token for draft in drafts for token in draft.tokens), answer.temperature)
        return Step(segments, next_seek)

    def _time_words(self, window: Window, answer: Answer, split: _Split) -> tuple[list[Draft], int, bool]:
        """The segments with words, where to go on, and False where this window is to be decoded again further on."""
        drafts = split.drafts
        next_seek = window.seek + split.n_frames
        _add_words(drafts, window, answer, self._options, self._last_speech_s)
        end_s = None if split.ends_in_silence else last_word_end(drafts)
        if end_s is not None and end_s > window.start_s:
            next_seek = round(end_s * _FRAMES_PER_SECOND)
        threshold_s = self._options.hallucination_silence_threshold
        if threshold_s is not None:
            if end_s is not None and end_s > window.start_s and self._window_end_s(window) - end_s <= threshold_s:
                next_seek = window.seek + window.n_frames
            gap_s = _silence_before_hallucination(drafts, window)
            if gap_s > threshold_s:
                return [], window.seek + round(gap_s * _FRAMES_PER_SECOND), False
            drafts, next_seek = self._without_hallucinations(drafts, window, next_seek, threshold_s)
        heard_s = last_word_end(drafts)
        if heard_s is not None:
            self._last_speech_s = heard_s
        return drafts, next_seek, True

    def _window_end_s(self, window: Window) -> float:
        return float((window.seek + self.longest) * HOP_SAMPLES / 16000)

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
                    next_seek = round(max(window.start_s + 1, draft.start) * _FRAMES_PER_SECOND)
                    if self._n_frames * HOP_SAMPLES / 16000 - draft.end < threshold_s:
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


def chunks_of_speech(spans: Iterable[tuple[int, int]], options: TranscribeOptions) -> list[Chunk]:
    """Windows to decode, from spans of speech in samples: neighbours share a window while they fit into it, with the
    pause between them, and what is longer than a window is cut."""
    longest = frames_per_window(options)
    chunks: list[Chunk] = []
    for start, end in spans:
        first, last = start // HOP_SAMPLES, end // HOP_SAMPLES
        if chunks and last - chunks[-1][0] <= longest:
            chunks[-1] = (chunks[-1][0], last - chunks[-1][0])
        else:
            chunks.extend(chunks_of_clips([(first, last - first)], options))
    return chunks


def chunks_of_clips(clips: Iterable[Chunk], options: TranscribeOptions) -> list[Chunk]:
    """The clips, cut where they are longer than a window."""
    longest = frames_per_window(options)
    return [
        (seek, min(longest, begin + n_frames - seek))
        for begin, n_frames in clips
        for seek in range(begin, begin + n_frames, longest)
    ]


def transcribe_in_batches(
    decode: WindowDecoder,
    options: TranscribeOptions,
    prompt: Prompt,
    chunks: Sequence[Chunk],
    n_frames: int,
    is_silent: IsSilent,
) -> Iterator[Step]:
    """The transcript of ``chunks``, ``options.batch_size`` of them at a time; each gets the initial prompt and no text
    of others. A segment that an answer leaves open ends with its chunk: nobody comes back for it."""
    writer = _Writer(options, n_frames * HOP_SAMPLES / 16000)
    heard = ((seek, n) for seek, n in chunks if n > 0 and not is_silent(seek, n))
    windows = (Window(seek, n, prompt.tokens(), is_first=i == 0) for i, (seek, n) in enumerate(heard))
    last_speech_s = 0.0
    while batch := list(islice(windows, options.batch_size or 1)):
        answers = decode(batch)[::-1]
        for window in batch:
            # Each answer has its window's audio in its hands, which goes before that of the next batch comes.
            answer = answers.pop()
            drafts = [] if _says_no_speech(answer, options) else _whole(window, answer)
            if options.word_timestamps and drafts:
                _add_words(drafts, window, answer, options, last_speech_s)
                last_speech_s = last_word_end(drafts) or last_speech_s
            segments = writer.write(drafts, answer)
            del answer
            yield Step(segments, window.seek + window.n_frames)


def _whole(window: Window, answer: Answer) -> list[Draft]:
    split = _split(window, answer)
    first_time = answer.tokenizer.timestamp_begin
    if not any(token < answer.tokenizer.eot for token in split.rest):
        return split.drafts
    begins = split.rest[0] - first_time if split.rest[0] >= first_time else split.n_frames // _FRAMES_PER_TOKEN
    start_s = window.start_s + begins * _TOKEN_S
    end_s = max(start_s, window.start_s + window.duration_s)
    return [*split.drafts, _draft(window, answer, start_s, end_s, split.rest)]
