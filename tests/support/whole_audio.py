"""What the package does with audio that comes in pieces, done with the whole at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from whisperq_edge._audio.silence import SilenceScan
from whisperq_edge._audio.speech import SpeechScan, speech_stream
from whisperq_edge._audio.window_mel import LoudestMel, WindowMel
from whisperq_edge._vad_options import VadOptions

__all__ = ["silent_spans", "speech_probabilities", "speech_spans", "window_mel"]

Floats = npt.NDArray[np.float32]


def speech_probabilities(samples: Floats) -> Floats:
    stream = speech_stream()
    return np.concatenate([stream.feed(samples), stream.finish()])


def speech_spans(
    probs: npt.NDArray[np.floating[Any]], n_samples: int, options: VadOptions, window_samples: int = 512
) -> list[tuple[int, int]]:
    scan = SpeechScan(options, window_samples)
    scan.push(probs)
    return list(scan.finish(n_samples))


def silent_spans(samples: Floats, probabilities: Floats) -> list[Any]:
    scan = SilenceScan()
    scan.push(samples, probabilities)
    return scan.finish()


def window_mel(samples: Floats, n_mels: int) -> WindowMel:
    loudest = LoudestMel(n_mels)
    loudest.push(samples)
    loudest.finish()
    return WindowMel(samples, n_mels, loudest)
