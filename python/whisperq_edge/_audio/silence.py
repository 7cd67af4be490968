"""Silence: spans in which there is nothing to decode, and why."""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from .._errors import InternalError
from .._system.arrays import Doubles, Floats
from .speech import Span

__all__ = ["NO_SOUND", "STEADY_NOISE", "SilenceScan", "SilentSpan"]

_WINDOW_SAMPLES = 512  # of the voice detector


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


class SilenceScan:
    """Finds where the voice detector and the energy agree that nobody speaks, in audio that comes in pieces.

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

    It keeps 30 s of levels, and the spans.
    """

    def __init__(self) -> None:
        self._rest = np.empty(0, np.float32)  # samples of the stretch that is not whole yet
        self._probabilities = np.empty(0, np.float32)  # of windows whose stretch was not judged yet
        self._levels_db: list[Doubles] = []  # of the last stretch that was judged, and of those that were not
        self._n_judged = 0  # stretches
        self._n_samples = 0
        self._n_probabilities = 0
        self._silence = _SilentRun()

    def push(self, samples: Floats, probabilities: Floats) -> None:
        """``probabilities``: of the windows that are full now, and in the end of the one that has begun."""
        self._n_samples += samples.size
        self._n_probabilities += probabilities.size
        self._probabilities = np.concatenate([self._probabilities, probabilities])
        while self._rest.size + samples.size >= _STRETCH_SAMPLES:
            missing = _STRETCH_SAMPLES - self._rest.size
            whole = np.concatenate([self._rest, samples[:missing]]) if self._rest.size else samples[:missing]
            self._rest, samples = np.empty(0, np.float32), samples[missing:]
            self._hear(_levels_db(whole))
        self._rest = np.concatenate([self._rest, samples])

    def finish(self) -> list[SilentSpan]:
        """The spans. Nothing may be pushed after it."""
        n_windows = -(-self._n_samples // _WINDOW_SAMPLES)
        if self._n_probabilities != n_windows:
            raise InternalError(f"{n_windows} windows have {self._n_probabilities} probabilities")
        if self._rest.size:
            self._hear(_levels_db(self._rest))
        if self._levels_db[self._n_before :]:
            self._judge()
        spans = self._silence.finish()
        return [SilentSpan(start, min(end, self._n_samples), reason) for start, end, reason in spans]

    @property
    def _n_before(self) -> int:
        return min(self._n_judged, 1)

    def _hear(self, levels_db: Doubles) -> None:
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


def _levels_db(samples: Floats) -> Doubles:
    """RMS of each started window without its mean, in dB of full scale; -240 for a constant one."""
    n_whole = len(samples) // _WINDOW_SAMPLES * _WINDOW_SAMPLES
    deviations = [samples[:n_whole].reshape(-1, _WINDOW_SAMPLES).std(axis=1, dtype=np.float64)]
    if n_whole < len(samples):
        deviations.append(np.array([samples[n_whole:].std(dtype=np.float64)]))
    levels: Doubles = np.concatenate(deviations)
    return 20.0 * np.log10(np.maximum(levels, 1e-12))


def _highest_steady_db(levels_db: Doubles) -> float:
    """What a level may be for steady quiet noise, where these are around it."""
    sounding = levels_db[levels_db >= _CONSTANT_DB]
    floor_db = float(np.percentile(sounding, 10)) if sounding.size else _CONSTANT_DB
    return min(floor_db + _STEADY_DB, _LOUDEST_SILENCE_DB)


def _runs(flags: npt.NDArray[np.bool_]) -> list[Span]:
    """First index and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))
