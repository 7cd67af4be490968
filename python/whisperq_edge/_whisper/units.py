"""The units of time that Whisper counts in. Every other module takes them from here.

::

    1 s      = 16,000 samples = 100 frames = 50 audio tokens
    a frame  = 160 samples (10 ms): a column of the log-mel spectrogram
    an audio token = 2 frames (20 ms): a position of the encoder, and the step of the timestamp tokens
    a window = 30 s: the most that one run of the encoder takes
"""

from __future__ import annotations

__all__ = [
    "FRAMES_PER_S",
    "FRAMES_PER_TOKEN",
    "FRAMES_PER_WINDOW",
    "HOP_SAMPLES",
    "N_FFT_BINS",
    "SAMPLE_RATE",
    "TOKENS_PER_S",
    "TOKENS_PER_WINDOW",
    "TOKEN_S",
    "WINDOW_S",
    "WINDOW_SAMPLES",
]

SAMPLE_RATE = 16_000
"""Samples per second."""

HOP_SAMPLES = 160
"""Samples from the beginning of a frame to that of the next."""

N_FFT_BINS = 201
"""Frequency bins of a transform of 400 samples (25 ms): the columns of the mel filterbank."""

FRAMES_PER_S = SAMPLE_RATE // HOP_SAMPLES

FRAMES_PER_TOKEN = 2
"""The stride of the encoder's second convolution."""

TOKENS_PER_S = FRAMES_PER_S // FRAMES_PER_TOKEN

TOKEN_S = 0.02
"""Seconds of an audio token."""

WINDOW_S = 30

WINDOW_SAMPLES = WINDOW_S * SAMPLE_RATE

FRAMES_PER_WINDOW = WINDOW_S * FRAMES_PER_S

TOKENS_PER_WINDOW = FRAMES_PER_WINDOW // FRAMES_PER_TOKEN
