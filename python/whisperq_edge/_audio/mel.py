"""The log-mel spectrogram that Whisper reads."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from .. import _core
from .._system.checks import check_whole
from .._system.self_test import trusted_isa
from .._whisper.mel_filters import mel_filters
from .._whisper.units import SAMPLE_RATE
from .mono import MAX_DURATION_S
from .pcm import AudioLike, to_pcm

__all__ = ["log_mel_spectrogram"]

_MOST_MELS = 256


def log_mel_spectrogram(audio: AudioLike, n_mels: int = 80, padding: int = 0) -> npt.NDArray[np.float32]:
    """Return the log-mel spectrogram of openai/whisper, within 1e-6 of its definition.

    The function of this name in openai/whisper computes in float32. It is some 2e-5 away from the definition on speech,
    and up to 1e-3 beside pure tones.

    Args:
        audio: a path, the bytes of a file, a file object, or an array of samples at 16 kHz, as
            :meth:`WhisperModel.transcribe` takes them.
        n_mels: mel bands: 80, or 128 for large-v3 and turbo; any number up to 256 is computed.
        padding: zero samples behind the audio. openai/whisper transcribes with 480000, 30 seconds.

    Returns:
        float32 ``[n_mels, n_frames]`` with a frame for every whole 160 samples (10 ms), padding included. All values
        are within 2 of the largest. Silence is added to audio of at most 200 samples, which openai/whisper refuses
        unless it is padded.

    Raises:
        OptionError: ``n_mels`` or ``padding`` is no whole number in its range.
        AudioError: the audio cannot be used.
        OSError: the file cannot be opened or read.
    """
    n_mels = check_whole("n_mels", n_mels, 1, _MOST_MELS)
    padding = check_whole("padding", padding, 0, MAX_DURATION_S * SAMPLE_RATE)
    return _core.log_mel_spectrogram(to_pcm(audio).samples, _filters(n_mels), padding=padding, isa=trusted_isa())


@functools.lru_cache(maxsize=4)
def _filters(n_mels: int) -> npt.NDArray[np.float32]:
    return mel_filters(n_mels)
