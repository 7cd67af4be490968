"""The spectrogram of long audio, a window at a time."""

from __future__ import annotations

from typing import Callable, Optional

import numpy as np
import numpy.typing as npt

from . import _core
from ._convert import vocabulary
from ._self_test import trusted_isa

__all__ = ["FRAMES_PER_WINDOW", "HOP_SAMPLES", "WindowMel"]

Floats = npt.NDArray[np.float32]

HOP_SAMPLES = 160
FRAMES_PER_WINDOW = 3000
_BLOCK_SAMPLES = 30 * 16000
_REACH_SAMPLES = 400  # a frame reaches 200 samples to each side; twice that is on the safe side
_WARM_UP_FRAMES = 2  # the first frames of a stream hear its reflected beginning


class WindowMel:
    """The log-mel spectrogram that openai/whisper cuts windows from, without ever holding more than some windows of it.

    openai/whisper clamps all values at the largest *of the whole audio* less 8, so a window cannot be had without
    hearing everything once. ``MelStream`` yields the values before that clamp, each with the bits that
    ``log_mel_spectrogram`` gets for all audio at once, whatever the pieces. So there are two passes: the first keeps
    the largest value only (and, of audio no longer than a window, the frames), the second computes the frames of a
    window when it is asked for. That costs some milliseconds more a window, and buys constant memory.
    """

    def __init__(
        self,
        samples: Floats,
        n_mels: int,
        *,
        n_threads: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            samples: float32, 16 kHz, mono.
            n_mels: mel bands of the model.
            n_threads: 0 takes every CPU that the process may use.
            should_stop: asked for every 30 s of audio in the first pass, which ends early on True.
        """
        self.n_frames = samples.size // HOP_SAMPLES
        self._samples = samples
        self._filters = vocabulary.mel_filters(n_mels)
        self._n_threads = n_threads
        self._kept: Optional[Floats] = None
        self._largest = self._find_largest(should_stop)

    def window(self, seek: int) -> Floats:
        """float32 ``[n_mels, 3000]`` from frame ``seek`` on, as if silence followed the audio: what languages are
        detected from."""
        return self._frames(seek, FRAMES_PER_WINDOW)

    def padded_window(self, seek: int, n_frames: int) -> Floats:
        """float32 ``[n_mels, 3000]``: ``n_frames`` from frame ``seek`` on, then zeros (which are not silence): what
        openai/whisper decodes."""
        padded = np.zeros((len(self._filters), FRAMES_PER_WINDOW), np.float32)
        padded[:, :n_frames] = self._frames(seek, n_frames)
        return padded

    def _stream(self) -> _core.MelStream:
        return _core.MelStream(self._filters, n_threads=self._n_threads, isa=trusted_isa())

    def _find_largest(self, should_stop: Callable[[], bool]) -> np.float32:
        stream = self._stream()
        largest = np.float32(-10.0)  # log10 of silence, which openai/whisper has 30 s of behind the audio
        is_short = self.n_frames <= FRAMES_PER_WINDOW
        kept = []
        for at in range(0, self._samples.size, _BLOCK_SAMPLES):
            frames = stream.push(self._samples[at : at + _BLOCK_SAMPLES])
            largest = max(largest, frames.max(initial=largest))
            if is_short:
                kept.append(frames)
            if should_stop():
                return largest
        frames = stream.finish(padding=_BLOCK_SAMPLES if is_short else 2 * _REACH_SAMPLES)
        if is_short:
            self._kept = np.concatenate([*kept, frames])
        return max(largest, frames.max(initial=largest))

    def _frames(self, seek: int, n_frames: int) -> Floats:
        log10_mel = self._log10_frames(seek, n_frames)
        floor = self._largest - np.float32(8)
        return ((np.maximum(log10_mel, floor) + np.float32(4)) / np.float32(4)).T

    def _log10_frames(self, seek: int, n_frames: int) -> Floats:
        if self._kept is not None and seek + n_frames <= len(self._kept):
            return self._kept[seek : seek + n_frames]
        skipped = min(seek, _WARM_UP_FRAMES)
        begin = (seek - skipped) * HOP_SAMPLES
        end = (seek + n_frames) * HOP_SAMPLES + _REACH_SAMPLES
        heard = self._samples[begin:end]
        stream = self._stream()
        pushed = stream.push(heard)
        frames = np.concatenate([pushed, stream.finish(padding=end - begin - heard.size)])
        return frames[skipped : skipped + n_frames]
