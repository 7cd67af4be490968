"""whisperq-edge: OpenAI's Whisper models on ARM boards and laptops, small, fast and measured.

>>> from whisperq_edge import WhisperModel
>>> transcript = WhisperModel("nano").transcribe("speech.wav")
>>> print(transcript.text)
"""

import logging

from . import _core
from ._audio.mel import log_mel_spectrogram
from ._errors import (
    AudioError,
    AudioFormatError,
    CancelledError,
    ConversionError,
    CpuError,
    DatasetError,
    EmptyAudioError,
    InferenceError,
    InternalError,
    InterruptedByUser,
    IsaNotBuiltError,
    IsaNotSupportedError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    OptionError,
    OutOfMemoryError,
    UnknownIsaError,
    UnsafeModelError,
    UnsupportedModelError,
    WhisperqError,
)
from ._model import CancelToken, WhisperModel
from ._options import TranscribeOptions
from ._result import Segment, StageTime, Timings, Transcript, Word
from ._system.native import check_version
from ._vad_options import VadOptions
from ._version import __version__
from ._writers import render, write, write_all

check_version(_core)
# The library never prints: without this, Python shows warnings of a logger that nobody listens to on stderr.
logging.getLogger("whisperq_edge").addHandler(logging.NullHandler())

__all__ = [
    "AudioError",
    "AudioFormatError",
    "CancelToken",
    "CancelledError",
    "ConversionError",
    "CpuError",
    "DatasetError",
    "EmptyAudioError",
    "InferenceError",
    "InternalError",
    "InterruptedByUser",
    "IsaNotBuiltError",
    "IsaNotSupportedError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "OptionError",
    "OutOfMemoryError",
    "Segment",
    "StageTime",
    "Timings",
    "TranscribeOptions",
    "Transcript",
    "UnknownIsaError",
    "UnsafeModelError",
    "UnsupportedModelError",
    "VadOptions",
    "WhisperModel",
    "WhisperqError",
    "Word",
    "__version__",
    "log_mel_spectrogram",
    "render",
    "write",
    "write_all",
]
