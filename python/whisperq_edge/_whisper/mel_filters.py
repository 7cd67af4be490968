"""Whisper's mel filterbank, for models that come without it."""

from __future__ import annotations

import functools
from decimal import Context, Decimal, localcontext

import numpy as np
import numpy.typing as npt

from .._system.arrays import Floats
from .units import N_FFT_BINS, SAMPLE_RATE

__all__ = ["mel_filters"]


@functools.cache
def mel_filters(n_mels: int) -> Floats:
    """Whisper's filterbank, float32 ``[n_mels, 201]``, read-only: triangles of equal area on Slaney's mel scale, 0 to
    8 kHz.

    The bits are those of openai/whisper's ``mel_filters.npz``, which librosa made; so the order of the operations is
    librosa's, down to the place where it rounds to float32.
    """
    edges_hz = _band_edges_hz(n_mels)
    bins_hz = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT_BINS)
    distance = np.subtract.outer(edges_hz, bins_hz)
    width = np.diff(edges_hz)[:, None]
    rising, falling = -distance[:-2] / width[:-1], distance[2:] / width[1:]
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters *= (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    filters.flags.writeable = False
    return filters


def _band_edges_hz(n_mels: int) -> npt.NDArray[np.float64]:
    """Evenly spaced on the mel scale: linear below 1 kHz, logarithmic above.

    ``decimal`` computes the exponentials: those of numpy and of C libraries differ between processors in the last bit,
    and these filters shall not.
    """
    with localcontext(Context(prec=40)):
        hz_per_mel = 200.0 / 3.0
        mel_of_1_khz = 1000.0 / hz_per_mel
        log_step = float(Decimal.from_float(6.4).ln()) / 27.0
        highest_mel = mel_of_1_khz + float(Decimal(8).ln()) / log_step
        mels = np.linspace(0.0, highest_mel, n_mels + 2).tolist()
        return np.array(
            [
                hz_per_mel * mel
                if mel < mel_of_1_khz
                else 1000.0 * float(Decimal(log_step * (mel - mel_of_1_khz)).exp())
                for mel in mels
            ]
        )
