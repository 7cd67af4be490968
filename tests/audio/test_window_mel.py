from __future__ import annotations

import numpy as np
import pytest
from whisperq_edge import log_mel_spectrogram

from tests.support.whole_audio import window_mel


def audio(n_samples: int) -> np.ndarray:
    """Noise that swells and fades, loudest near its end, so that the clamp reaches back over all of it."""
    at = np.arange(n_samples)
    swell = np.abs(np.sin(at / 30000)) * (at / max(n_samples, 1)) ** 4
    return (np.random.RandomState(n_samples).standard_normal(n_samples) * swell).astype(np.float32)


@pytest.mark.parametrize("n_samples", [0, 1, 100, 160, 300, 16000, 480000, 480080, 480160, 1120037, 1440000])
@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_bits_are_those_of_the_whole_spectrogram(n_samples: int, n_mels: int) -> None:
    samples = audio(n_samples)
    whole = (
        log_mel_spectrogram(samples, n_mels, padding=480000) if n_samples else np.full((n_mels, 3000), -1.5, np.float32)
    )
    mel = window_mel(samples, n_mels)
    last = mel.n_frames
    assert last == whole.shape[1] - 3000
    for seek in {0, 1, 2, 3, 77, last // 2, last - 3000, last - 3, last} & set(range(last + 1)):
        assert np.array_equal(mel.window(seek), whole[:, seek : seek + 3000])
        n_frames = min(3000, last - seek)
        padded = mel.padded_window(seek, n_frames)
        assert np.array_equal(padded[:, :n_frames], whole[:, seek : seek + n_frames])
        assert padded.shape == (n_mels, 3000) and not padded[:, n_frames:].any()


@pytest.mark.parametrize("seek", [0, 500])
def test_a_window_that_ends_early_is_followed_by_silence(seek: int) -> None:
    samples = audio(16000 * 60)
    ended = np.concatenate([samples[: (seek + 700) * 160], np.zeros(16000 * 30, np.float32)])
    mel, expected = window_mel(samples, 80), window_mel(ended, 80)
    expected._largest = mel._largest
    found = mel.window(seek, 700)
    # The last frames of the window reach behind its end.
    assert np.array_equal(found[:, :697], expected.window(seek)[:, :697])
    assert np.array_equal(found[:, 703:], expected.window(seek)[:, 703:])
