"""Sounds that tests make, and files of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

__all__ = ["encoded", "noise"]

_FRAMES_AT_ONCE = 4096  # libvorbis overflows its stack when it gets much at a time


def noise(n_samples: int, seed: int = 0, amplitude: float = 0.1) -> npt.NDArray[np.float32]:
    """Return white noise of this standard deviation, the same for the same seed."""
    return (amplitude * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def encoded(samples: npt.NDArray[Any], rate: int = 16_000, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """Return the bytes of a file with ``samples``, ``[frames]`` or ``[frames, channels]``."""
    if subtype not in soundfile.available_subtypes(format):
        pytest.skip(f"this libsndfile has no {subtype} in {format}")
    stream = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(stream, "w", rate, channels, format=format, subtype=subtype) as file:
        for first in range(0, len(samples), _FRAMES_AT_ONCE):
            file.write(samples[first : first + _FRAMES_AT_ONCE])
    return stream.getvalue()
