"""The spectrogram of long audio, a window at a time."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np

from .. import _core
from .._system.arrays import Floats
from .._system.self_test import trusted_isa
from .._whisper.mel_filters import mel_filters
from .._whisper.units import FRAMES_PER_WINDOW, HOP_SAMPLES, WINDOW_SAMPLES
from .samples import Samples, samples_of

__all__ = ["LoudestMel", "WindowMel"]

_REACH_SAMPLES = 400  # a frame reaches 200 samples to each side; twice that is on the safe side
_SILENCE_LOG10 = np.float32(-10)  # openai/whisper's least energy is 1e-10
_WARM_UP_FRAMES = 2  # the first frames of a stream hear its reflected beginning


class LoudestMel:
    """What windows have to know of the whole audio, which comes in pieces: the largest value of its spectrogram before
    openai/whisper's clamp. Of audio no longer than a window the frames are kept, too.

    Attributes:
        value: log10 of an energy; -10 is that of silence, which openai/whisper has 30 s of behind the audio.
        kept: float32 ``[n_frames + 3000, n_mels]``, with 30 s of silence behind them, or None for longer audio.
    """

    def __init__(self, n_mels: int, *, n_threads: int = 0) -> None:
        self.value = np.float32(-10.0)
        self.kept: Optional[Floats] = None
        self._stream = _core.MelStream(mel_filters(n_mels), n_threads=n_threads, isa=trusted_isa())
        self._n_samples = 0
        self._frames: list[Floats] = []

    def push(self, samples: Floats) -> None:
        self._n_samples += samples.size
        self._take(self._stream.push(samples))

    def finish(self) -> None:
        """The audio ends here."""
        is_short = self._is_short
        self._take(self._stream.finish(padding=WINDOW_SAMPLES if is_short else 2 * _REACH_SAMPLES))
        if is_short:
            self.kept = np.concatenate(self._frames)
        self._frames = []

    @property
    def _is_short(self) -> bool:
        return self._n_samples // HOP_SAMPLES <= FRAMES_PER_WINDOW

    def _take(self, frames: Floats) -> None:
        self.value = max(self.value, frames.max(initial=self.value))
        self._frames = [*self._frames, frames] if self._is_short else []


class WindowMel:
    """The log-mel spectrogram that openai/whisper cuts windows from, without ever holding more than some windows of it.

    openai/whisper clamps all values at the largest *of the whole audio* less 8, so a window cannot be had without
    hearing everything once. ``MelStream`` yields the values before that clamp, each with the bits that
    ``log_mel_spectrogram`` gets for all audio at once, whatever the pieces. So there are two passes: the first
    (``LoudestMel``) keeps the largest value only (and, of audio no longer than a window, the frames), the second
    computes the frames of a window when it is asked for. That costs some milliseconds more a window, and buys constant
    memory.
    """

    def __init__(
        self,
        samples: Union[Floats, Samples],
        n_mels: int,
        loudest: LoudestMel,
        *,
        n_threads: int = 0,
    ) -> None:
        """
        Args:
            samples: float32, 16 kHz, mono.
            n_mels: mel bands of the model.
            loudest: what a first pass over the samples found.
            n_threads: 0 takes every CPU that the process may use.
        """
        self._samples = samples_of(samples)
        self._filters = mel_filters(n_mels)
        self._n_threads = n_threads
        self._largest = loudest.value
        self._kept = loudest.kept
        self.n_frames = self._samples.size // HOP_SAMPLES

    def window(self, seek: int, n_frames: int = FRAMES_PER_WINDOW) -> Floats:
        """float32 ``[n_mels, 3000]``: ``n_frames`` from frame ``seek`` on, as if silence followed them, and the audio:
        what languages are detected from."""
        silent = _scaled(_SILENCE_LOG10, self._largest)
        window = np.full((len(self._filters), FRAMES_PER_WINDOW), silent, np.float32)
        window[:, :n_frames] = self._frames(seek, n_frames)
        return window

    def padded_window(self, seek: int, n_frames: int) -> Floats:
        """float32 ``[n_mels, 3000]``: ``n_frames`` from frame ``seek`` on, then zeros (which are not silence): what
        openai/whisper decodes."""
        padded = np.zeros((len(self._filters), FRAMES_PER_WINDOW), np.float32)
        padded[:, :n_frames] = self._frames(seek, n_frames)
        return padded

    def keep_from(self, seek: int) -> None:
        """Windows from frame ``seek`` on will be asked for, in any order."""
        self._samples.keep_from(max(seek - _WARM_UP_FRAMES, 0) * HOP_SAMPLES)

    def _frames(self, seek: int, n_frames: int) -> Floats:
        frames: Floats = _scaled(self._log10_frames(seek, n_frames), self._largest).T
        return frames

    def _log10_frames(self, seek: int, n_frames: int) -> Floats:
        if self._kept is not None and seek + n_frames <= len(self._kept):
            return self._kept[seek : seek + n_frames]
        skipped = min(seek, _WARM_UP_FRAMES)
        begin = (seek - skipped) * HOP_SAMPLES
        end = (seek + n_frames) * HOP_SAMPLES + _REACH_SAMPLES
        heard = self._samples.read(begin, end)
        stream = _core.MelStream(self._filters, n_threads=self._n_threads, isa=trusted_isa())
        pushed = stream.push(heard)
        frames = np.concatenate([pushed, stream.finish(padding=end - begin - heard.size)])
        return frames[skipped : skipped + n_frames]


def _scaled(log10_mel: Any, largest: np.float32) -> Any:
    """openai/whisper's clamp at the largest value of the whole audio less 8, and its scale."""
    return (np.maximum(log10_mel, largest - np.float32(8)) + np.float32(4)) / np.float32(4)
