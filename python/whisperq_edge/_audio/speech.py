"""Speech: its probability in every window of 512 samples, by Silero's network, and its spans.

The options (``VadOptions``) and their meaning are those of faster-whisper. A span is ``(start, end)`` in samples at
16 kHz, the end not included.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from .. import _core
from .._errors import InternalError
from .._system.locks import ThreadLock
from .._system.native import data_file
from .._system.self_test import trusted_isa
from .._vad_options import VadOptions
from .._whisper.units import SAMPLE_RATE

__all__ = ["Span", "SpeechScan", "speech_stream"]

Span = tuple[int, int]

_SILERO = "assets/ggml-silero-v6.2.0.bin"
_WINDOW_SAMPLES = 512


class SpeechScan:
    """The spans of speech in probabilities that come in pieces: padded, in order, disjoint and inside of the audio.

    It keeps the spans only, 16 bytes each.

    Args:
        options: when sound counts as speech.
        window_samples: length of a window, each of which has a probability. The last one may reach beyond the audio.
    """

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


def speech_stream() -> _core.VadStream:
    """Return a stream that gives the probability of speech for every window of 512 samples. For one thread at a time.

    May be called from several threads at once. The network is loaded by the first call, with the kernels of
    ``WHISPERQ_ISA`` or the best that this CPU supports.
    """
    return _loaded_network().stream()


def _loaded_network() -> _core.Vad:
    global _network
    with _network_lock:
        if _network is None:
            _network = _core.Vad(str(data_file(_SILERO)), trusted_isa())
        return _network
