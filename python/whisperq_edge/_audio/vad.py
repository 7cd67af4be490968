"""Voice activity: speech probabilities, spans of speech and of silence, and from times in the cut audio back to the
original.

The options (``VadOptions``) and their meaning are those of faster-whisper, whose model is Silero. A span is
``(start, end)`` in samples at 16 kHz, the end not included.
"""

from __future__ import annotations

import bisect
import dataclasses
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from .. import _core
from .._errors import InternalError
from .._result import Segment, Word
from .._system.arrays import Floats
from .._system.locks import ThreadLock
from .._system.native import data_file
from .._system.self_test import trusted_isa
from .._vad_options import VadOptions
from .._whisper.units import HOP_SAMPLES, SAMPLE_RATE

__all__ = [
    "SilenceScan",
    "SilentSpan",
    "SpeechScan",
    "SpeechTimeline",
    "silent_spans",
    "speech_probabilities",
    "speech_spans",
    "speech_stream",
]

Levels = npt.NDArray[np.float64]
Span = tuple[int, int]

_SILERO = "assets/ggml-silero-v6.2.0.bin"
_WINDOW_SAMPLES = 512


def speech_spans(
    probs: npt.NDArray[np.floating[Any]], n_samples: int, options: VadOptions, window_samples: int = 512
) -> list[Span]:
    """The spans of speech, padded; in order, disjoint and inside of the audio.

    Args:
        probs: speech probability of each window, from the first sample on.
        n_samples: length of the audio. The last windows may reach beyond it.
        options: when sound counts as speech.
        window_samples: length of a window.
    """
    scan = SpeechScan(options, window_samples)
    scan.push(probs)
    return list(scan.finish(n_samples))


class SpeechScan:
    """``speech_spans`` of probabilities that come in pieces. It keeps the spans only, 16 bytes each."""

    def __init__(self, options: VadOptions, window_samples: int = 512) -> None:
        self._scan = _Scan(options, window_samples)
        self._window_samples = window_samples
        self._pad = _samples_of_ms(options.speech_pad_ms)
        self._n_windows = 0

    def push(self, probs: npt.NDArray[np.floating[Any]]) -> None:
        if probs.ndim != 1 or not np.isfinite(probs).all():
            raise InternalError(f"the VAD gave no list of finite probabilities but an array of shape {probs.shape}")
        for index, prob in enumerate(probs.tolist(), self._n_windows):
            self._scan.step(index * self._window_samples, prob)
        self._n_windows += probs.size

    def finish(self, n_samples: int) -> Iterator[Span]:
        """The spans. The audio was this long; nothing may be pushed after it."""
        return _padded(self._scan.finish(n_samples), n_samples, self._pad)


def _samples_of_ms(ms: float) -> float:
    return ms * SAMPLE_RATE / 1000


class _Scan:
    """Goes over the windows once with two thresholds: speech starts at the high one and ends well below the low one.

    ``at`` is the first sample of the window in hand; a silence counts from its first window to the one in hand.
    """

    def __init__(self, options: VadOptions, window_samples: int) -> None:
        self._threshold = options.threshold
        self._silence_threshold = options.silence_threshold
        self._min_speech = _samples_of_ms(options.min_speech_duration_ms)
        self._min_silence = _samples_of_ms(options.min_silence_duration_ms)
        # The padding and the window in which the excess is noticed belong to the span: with them it must not be longer.
        longest = options.max_speech_duration_s * SAMPLE_RATE
        self._max_speech = longest - window_samples - 2 * _samples_of_ms(options.speech_pad_ms)
        self._shortest_split = _samples_of_ms(options.min_silence_at_max_speech)
        self._splits_at_longest = options.use_max_poss_sil_at_max_speech
        self._spans = array("q")  # start, end, start, end, ...
        self._start: Optional[int] = None  # of the speech we are in
        self._silence: Optional[int] = None  # start of the silence that may end it
        self._split: Optional[int] = None  # start of the silence to split at
        self._resumed: Optional[int] = None  # where speech went on after that silence

    def step(self, at: int, prob: float) -> None:
        is_speech = prob >= self._threshold
        if is_speech:
            self._end_silence(at)
        if self._start is None:
            if is_speech:
                self._start = at
            return
        if at - self._start > self._max_speech:
            self._break_up(self._start, at)
        if self._start is not None and prob < self._silence_threshold:
            self._stay_silent(self._start, at)

    def finish(self, n_samples: int) -> _Spans:
        """All spans; speech that still goes on ends with the audio."""
        if self._start is not None and n_samples - self._start > self._min_speech:
            self._spans.extend((self._start, n_samples))
        return _Spans(self._spans, n_samples)

    def _leave(self) -> None:
        self._start = None
        self._forget_silences()

    def _forget_silences(self) -> None:
        self._silence = self._split = self._resumed = None

    def _end_silence(self, at: int) -> None:
        if self._silence is not None and self._splits_at_longest:
            self._keep_longest(self._silence, at)
        elif self._silence is not None and self._split is not None and self._resumed is None:
            self._resumed = at
        self._silence = None

    def _keep_longest(self, silence: int, at: int) -> None:
        """Of silences of one length the first is kept."""
        longest = self._shortest_split
        if self._split is not None and self._resumed is not None:
            longest = self._resumed - self._split
        if at - silence > longest:
            self._split, self._resumed = silence, at

    def _stay_silent(self, start: int, at: int) -> None:
        if self._silence is None:
            self._silence = at
        if not self._splits_at_longest and at - self._silence > self._shortest_split:
            self._split, self._resumed = self._silence, None
        if at - self._silence >= self._min_silence:
            if self._silence - start > self._min_speech:
                self._spans.extend((start, self._silence))
            self._leave()

    def _break_up(self, start: int, at: int) -> None:
        """Ends speech that is too long: at the silence to split at, else right here."""
        if self._split is None:
            self._spans.extend((start, at))
            self._leave()
            return
        self._spans.extend((start, self._split))
        self._start = self._resumed  # None while that silence lasts, which is never the longest
        self._forget_silences()


class _Spans(Sequence[Span]):
    """Starts and ends, one after the other, as far as they lie in the audio."""

    def __init__(self, edges: array[int], n_samples: int) -> None:
        self._edges = edges
        self._n_samples = n_samples
        self._length = bisect.bisect_left(edges[::2], n_samples)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._edges[2 * index], min(self._edges[2 * index + 1], self._n_samples)


def _padded(spans: Sequence[Span], n_samples: int, pad: float) -> Iterator[Span]:
    """Each span with ``pad`` samples more on both sides; neighbours closer than two pads share the gap between them."""
    last = len(spans) - 1
    for index in range(len(spans)):
        start, end = spans[index]
        before = start if index == 0 else start - spans[index - 1][1]
        after = n_samples - end if index == last else spans[index + 1][0] - end
        room_before = before if index == 0 else _share(before, pad)
        room_after = after if index == last else _share(after, pad)
        yield int(start - min(pad, room_before)), int(end + min(pad, room_after))


def _share(gap: int, pad: float) -> float:
    return gap // 2 if gap < 2 * pad else pad


_network_lock = ThreadLock()
_network: Optional[_core.Vad] = None


def speech_probabilities(samples: Floats, should_stop: Optional[Callable[[], bool]] = None) -> Floats:
    """Probability of speech, float32 from 0 to 1, for every started window of 512 samples (Silero).

    May be called from several threads at once. The network is loaded by the first call, with the kernels of
    ``WHISPERQ_ISA`` or the best that this CPU supports.

    Args:
        samples: float32 at 16 kHz, one channel.
        should_stop: asked every 20 ms; when it returns True, the result is that of the windows so far.

    Raises:
        AudioError: the samples are no such array, or not finite.
    """
    return _loaded_network().probabilities(samples, should_stop=should_stop)


def speech_stream() -> _core.VadStream:
    """``speech_probabilities`` of audio that comes in pieces, for one thread at a time."""
    return _loaded_network().stream()


def _loaded_network() -> _core.Vad:
    global _network
    with _network_lock:
        if _network is None:
            _network = _core.Vad(str(data_file(_SILERO)), trusted_isa())
        return _network


class SilentSpan(NamedTuple):
    """Samples ``start`` to ``end`` (not included) in which there is nothing to decode, and why."""

    start: int
    end: int
    reason: str


NO_SOUND = "no sound"
"""Every window is constant: digital silence, or nothing but a DC offset."""
STEADY_NOISE = "quiet steady noise"

_SILENT_PROBABILITY = 0.25
_LOUDEST_SILENCE_DB = -30.0
_STEADY_DB = 10.0
_CONSTANT_DB = -120.0
_FLOOR_WINDOWS = 320
_KEPT_WINDOWS = 10
_SHORTEST_SILENCE_WINDOWS = 32
_STRETCH_SAMPLES = _FLOOR_WINDOWS * _WINDOW_SAMPLES


def silent_spans(samples: Floats, probabilities: Floats) -> list[SilentSpan]:
    """Where the voice detector and the energy agree that nobody speaks; in order and disjoint.

    The detector calls a window silent below a probability of 0.25. The energy has to agree, because the detector
    misses what is very quiet. A level alone cannot tell quiet noise from quiet speech; its changes can. A window is
    silent by energy when it is constant, or when its level (RMS without DC) is below -30 dB of full scale *and* no more
    than 10 dB above the floor: the 10th percentile of the levels that are not constant, in this stretch of 10 s, the
    one before and the one after. In 30 s of white and of pink noise at -30 to -90 dB no window was further than 1.3 and
    5.7 dB above the floor, and no probability above 0.12. In each of 200 recordings of LibriSpeech and AN4 the loudest
    window was at least 27 dB above it. Attenuated by 40 dB, 2 % of them have no probability above 0.1; attenuated by 0,
    20, 30 and 40 dB, none of their 37,542 windows of speech (above 0.5 as recorded) is in a silent span.

    0.32 s around whatever is not silent are not silent either. Spans shorter than 1 s are left out, unless they are all
    of the audio.

    Args:
        samples: float32 at 16 kHz, one channel; 10 s or more, or the whole of the audio, for a floor worth the name.
        probabilities: of speech, for every started window of 512 samples.
    """
    n_windows = -(-len(samples) // _WINDOW_SAMPLES)
    if probabilities.shape != (n_windows,):
        raise InternalError(f"{n_windows} windows have probabilities of shape {probabilities.shape}")
    scan = SilenceScan()
    scan.push(samples, probabilities)
    return scan.finish()


class SilenceScan:
    """``silent_spans`` of audio that comes in pieces. It keeps 30 s of levels, and the spans."""

    def __init__(self) -> None:
        self._rest = np.empty(0, np.float32)  # samples of the stretch that is not whole yet
        self._probabilities = np.empty(0, np.float32)  # of windows whose stretch was not judged yet
        self._levels_db: list[Levels] = []  # of the last stretch that was judged, and of those that were not
        self._n_judged = 0  # stretches
        self._n_samples = 0
        self._silence = _SilentRun()

    def push(self, samples: Floats, probabilities: Floats) -> None:
        """``probabilities``: of the windows that are full now, and in the end of the one that has begun."""
        self._n_samples += samples.size
        self._probabilities = np.concatenate([self._probabilities, probabilities])
        while self._rest.size + samples.size >= _STRETCH_SAMPLES:
            missing = _STRETCH_SAMPLES - self._rest.size
            whole = np.concatenate([self._rest, samples[:missing]]) if self._rest.size else samples[:missing]
            self._rest, samples = np.empty(0, np.float32), samples[missing:]
            self._hear(_levels_db(whole))
        self._rest = np.concatenate([self._rest, samples])

    def finish(self) -> list[SilentSpan]:
        """The spans. Nothing may be pushed after it."""
        if self._rest.size:
            self._hear(_levels_db(self._rest))
        if self._levels_db[self._n_before :]:
            self._judge()
        spans = self._silence.finish()
        return [SilentSpan(start, min(end, self._n_samples), reason) for start, end, reason in spans]

    @property
    def _n_before(self) -> int:
        return min(self._n_judged, 1)

    def _hear(self, levels_db: Levels) -> None:
        """A stretch is judged when the one after it is there, which its floor is taken of, too."""
        self._levels_db.append(levels_db)
        if len(self._levels_db) == self._n_before + 2:
            self._judge()

    def _judge(self) -> None:
        levels_db = self._levels_db[self._n_before]
        is_constant = levels_db < _CONSTANT_DB
        probabilities, self._probabilities = np.split(self._probabilities, [levels_db.size])
        is_steady = is_constant | (levels_db <= _highest_steady_db(np.concatenate(self._levels_db)))
        self._silence.push((probabilities < _SILENT_PROBABILITY) & is_steady, ~is_constant)
        self._n_judged += 1
        del self._levels_db[:-2]


class _SilentRun:
    """Runs of silent windows, without those beside a window that is not silent; the ends of the audio are beside
    nothing. Runs that are too short are left out, unless they are all of the audio."""

    def __init__(self) -> None:
        self._n_windows = 0
        self._start = 0  # of the silence that we are in, or that may begin
        self._sounding: Optional[int] = None  # first window in it that is not constant
        self._spans: list[tuple[int, int, str]] = []

    def push(self, is_silent: npt.NDArray[np.bool_], is_sounding: npt.NDArray[np.bool_]) -> None:
        at = 0
        for first, end in _runs(~is_silent):
            self._look_for_sound(is_sounding, at, first)
            self._end(self._n_windows + first - _KEPT_WINDOWS, _SHORTEST_SILENCE_WINDOWS)
            self._start, self._sounding = self._n_windows + end + _KEPT_WINDOWS, None
            at = end
        self._look_for_sound(is_sounding, at, is_silent.size)
        self._n_windows += is_silent.size

    def finish(self) -> list[tuple[int, int, str]]:
        """Start and end in samples, and the reason."""
        if self._n_windows:
            self._end(self._n_windows, min(_SHORTEST_SILENCE_WINDOWS, self._n_windows))
        return self._spans

    def _look_for_sound(self, is_sounding: npt.NDArray[np.bool_], first: int, end: int) -> None:
        first = max(first, self._start - self._n_windows)
        if self._sounding is None and first < end and is_sounding[first:end].any():
            self._sounding = self._n_windows + first + int(np.argmax(is_sounding[first:end]))

    def _end(self, end: int, shortest: int) -> None:
        if end - self._start >= shortest:
            reason = NO_SOUND if self._sounding is None or self._sounding >= end else STEADY_NOISE
            self._spans.append((self._start * _WINDOW_SAMPLES, end * _WINDOW_SAMPLES, reason))


def _levels_db(samples: Floats) -> Levels:
    """RMS of each started window without its mean, in dB of full scale; -240 for a constant one."""
    n_whole = len(samples) // _WINDOW_SAMPLES * _WINDOW_SAMPLES
    deviations = [samples[:n_whole].reshape(-1, _WINDOW_SAMPLES).std(axis=1, dtype=np.float64)]
    if n_whole < len(samples):
        deviations.append(np.array([samples[n_whole:].std(dtype=np.float64)]))
    levels: Levels = np.concatenate(deviations)
    return 20.0 * np.log10(np.maximum(levels, 1e-12))


def _highest_steady_db(levels_db: Levels) -> float:
    """What a level may be for steady quiet noise, where these are around it."""
    sounding = levels_db[levels_db >= _CONSTANT_DB]
    floor_db = float(np.percentile(sounding, 10)) if sounding.size else _CONSTANT_DB
    return min(floor_db + _STEADY_DB, _LOUDEST_SILENCE_DB)


def _runs(flags: npt.NDArray[np.bool_]) -> list[Span]:
    """First index and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


class SpeechTimeline:
    """Cuts audio down to its speech, and leads times in the cut audio back to the original.

    Where two spans meet in the cut audio, one time stands for two in the original: an end time is the end of the
    earlier span, a start time the start of the later one.
    """

    def __init__(self, spans: Sequence[Span], n_samples: int) -> None:
        """
        Args:
            spans: speech in the original audio, ``(start_sample, end_sample)``, in order, disjoint, none empty.
            n_samples: length of the original audio.
        """
        previous_end = 0
        for start, end in spans:
            if not previous_end <= start < end <= n_samples:
                raise ValueError(
                    f"the span ({start}, {end}) has to be one of samples {previous_end} to {n_samples}, and not empty"
                )
            previous_end = end
        self._spans: list[Span] = [(int(start), int(end)) for start, end in spans]
        self._cut_ends: list[int] = []  # where each span ends in the cut audio
        length = 0
        for start, end in self._spans:
            length += end - start
            self._cut_ends.append(length)

    @property
    def spans(self) -> list[Span]:
        """Speech in the original audio, in samples."""
        return list(self._spans)

    @property
    def duration_s(self) -> float:
        """Seconds of speech: the length of the cut audio."""
        return self._cut_ends[-1] / SAMPLE_RATE if self._cut_ends else 0.0

    def cut(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The speech in ``samples`` (float32 at 16 kHz), end to end."""
        if not self._spans:
            return np.empty(0, np.float32)
        return np.concatenate([samples[start:end] for start, end in self._spans])

    def to_original(self, time_s: float, *, is_end: bool = False) -> float:
        """The time in the original audio (seconds) of a time in the cut audio (seconds). Never leaves the speech.

        Args:
            is_end: the time ends something. It matters only where two spans meet.
        """
        return self._within(self._span_at(time_s, is_end), time_s)

    def restore(self, segments: Iterable[Segment]) -> list[Segment]:
        """The segments, and their words, with times in the original audio."""
        return [self._restored(segment) for segment in segments]

    def _restored(self, segment: Segment) -> Segment:
        start_s, end_s = self.to_original(segment.start), self.to_original(segment.end, is_end=True)
        words = segment.words
        if words:
            words = [self._restored_word(word) for word in words]
            start_s, end_s = words[0].start, words[-1].end
        return dataclasses.replace(
            segment,
            seek=round(self.to_original(segment.seek * HOP_SAMPLES / SAMPLE_RATE) * 100),
            start=start_s,
            end=max(start_s, end_s),
            words=words,
        )

    def _restored_word(self, word: Word) -> Word:
        """A word lies in one span, that of its middle: nobody goes silent for seconds within a word."""
        span = self._span_at((word.start + word.end) / 2, is_end=False)
        return dataclasses.replace(word, start=self._within(span, word.start), end=self._within(span, word.end))

    def _span_at(self, time_s: float, is_end: bool) -> int:
        sample = round(time_s * SAMPLE_RATE)
        find = bisect.bisect_left if is_end else bisect.bisect_right
        return min(find(self._cut_ends, sample), len(self._cut_ends) - 1)

    def _within(self, span: int, time_s: float) -> float:
        """``time_s`` of the cut audio led back as a time in that span, to the millisecond."""
        if not self._spans:
            return 0.0
        start, end = self._spans[span]
        silence = end - self._cut_ends[span]  # samples that were cut out before this span
        original_s = round(time_s + silence / SAMPLE_RATE, 3)
        return min(max(original_s, start / SAMPLE_RATE), end / SAMPLE_RATE)
