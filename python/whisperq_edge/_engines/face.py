"""What the engines are asked for, and what they ask of native code. The rest of the package knows no more of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, Protocol, Union

import numpy as np
import numpy.typing as npt

from .._audio.samples import Samples
from .._options import TranscribeOptions
from .._result import EngineResult, Segment
from .._system.arrays import Floats

__all__ = [
    "AlignRequest",
    "AlignResult",
    "CheckBatch",
    "DecodeOptions",
    "Engine",
    "FindSilence",
    "HearSpeech",
    "NativeModel",
    "SilenceFinder",
    "SpeechStream",
    "Stages",
    "WindowRequest",
    "WindowResult",
]


# ---- An engine -------------------------------------------------------------------------------------------------------


class Engine(Protocol):
    """A model that transcribes samples: ``edge.EdgeEngine`` or ``ggml.GgmlEngine``."""

    @property
    def name(self) -> str:
        """``edge`` or ``ggml``."""

    @property
    def device(self) -> str:
        """``cpu``, or the GPU's name."""

    @property
    def n_threads(self) -> int:
        """Threads that compute."""

    def check(self, options: TranscribeOptions) -> None:
        """Raise ``OptionError`` for the first option that this engine cannot honour."""

    def transcribe(
        self,
        audio: Union[Floats, Samples],
        options: TranscribeOptions,
        clips_s: Optional[Sequence[tuple[float, float]]] = None,
        *,
        on_languages: Callable[[list[tuple[str, float]]], None],
        on_segment: Callable[[Segment], None],
        on_progress: Callable[[float], None],
        should_stop: Callable[[], bool],
    ) -> EngineResult:
        """Transcribe ``audio`` (float32, 16 kHz mono). Segments have times in seconds and ids from 0.

        Args:
            audio: what is heard.
            options: how; :meth:`check` has passed them.
            clips_s: the parts to hear, in seconds; empty: all; None: those of the options.
            on_languages: gets (code, probability), likeliest first, before the first segment.
            on_segment: gets each segment.
            on_progress: gets the fraction that is done.
            should_stop: ends the call; what was reported until then stands.

        Raises:
            AudioError: the audio cannot be used, or changed between two passes.
        """


# ---- What our own engine asks of native code -------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodeOptions:
    """What windows are decoded with: ``decoding::DecodeOptions`` field by field (csrc/decoding/decode_options.h)."""

    eot: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    blank: tuple[int, ...]
    suppress_tokens: tuple[int, ...]
    temperature: float
    beam_size: int
    best_of: int
    patience: Optional[float]
    length_penalty: Optional[float]
    sample_len: int
    suppress_blank: bool
    without_timestamps: bool
    max_initial_timestamp_index: Optional[int]
    repetition_penalty: float
    no_repeat_ngram_size: int
    seed: int


class WindowRequest(NamedTuple):
    """What a window begins with, where sot is in it, and its name among the streams of random numbers.

    The last ``n_prefix`` tokens are text that the answer begins with: the rules for what follows take them for sampled.
    """

    tokens: list[int]
    sot_index: int
    stream: int
    n_prefix: int = 0


class AlignRequest(NamedTuple):
    """What to align with a window's audio, of which ``n_audio_tokens`` (20 ms each) are not padding."""

    sot_sequence: list[int]
    text_tokens: list[int]
    n_audio_tokens: int


class WindowResult(Protocol):
    """Of one window: the tokens behind its prompt, without the end of text."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def avg_logprob(self) -> float: ...
    @property
    def no_speech_prob(self) -> float: ...


class AlignResult(Protocol):
    """See ``word_times.Path``."""

    @property
    def text_indices(self) -> npt.NDArray[np.int64]: ...
    @property
    def time_indices(self) -> npt.NDArray[np.int64]: ...
    @property
    def probabilities(self) -> Sequence[float]: ...


Stages = Mapping[str, tuple[float, int]]
"""Milliseconds and runs by stage."""


class NativeModel(Protocol):
    """A model on native code. ``audio`` is whatever ``listen`` gives: a window, as the decoder hears it.

    ``should_stop`` is asked between steps, and while another thread computes. After it said True, what is returned is
    None, or not looked at.
    """

    @property
    def hparams(self) -> Mapping[str, int]: ...
    def encode(self, mel: Floats, n_ctx: int, should_stop: Callable[[], bool]) -> Optional[Floats]:
        """Audio features ``[n_ctx, n_audio_state]`` of mel ``[n_mels, frames]``."""

    def encode_short(self, mel: Floats, n_ctx: int, should_stop: Callable[[], bool]) -> Optional[Floats]:
        """The same of audio with silence behind it, up to the end of the window. ``n_ctx`` is a multiple of 32."""

    def listen(self, audio_features: Floats, should_stop: Callable[[], bool]) -> Any: ...
    def listen_short(self, audio_features: Floats, should_stop: Callable[[], bool]) -> Any:
        """The same of what ``encode_short`` gave."""

    def logits(
        self, audio: Any, tokens: Sequence[int], first: int, should_stop: Callable[[], bool]
    ) -> Optional[Floats]:
        """``[len(tokens) - first, n_vocab]``."""

    def decode_windows(
        self,
        audios: Sequence[Any],
        requests: Sequence[WindowRequest],
        options: DecodeOptions,
        should_stop: Callable[[], bool],
    ) -> tuple[Sequence[WindowResult], Stages]:
        """One result for each audio and request."""

    def align_windows(
        self,
        audios: Sequence[Any],
        requests: Sequence[AlignRequest],
        heads: Sequence[tuple[int, int]],
        should_stop: Callable[[], bool],
    ) -> tuple[Sequence[AlignResult], Stages]:
        """One result for each audio and request."""


class SpeechStream(Protocol):
    """A voice detector over audio (float32, 16 kHz) in pieces: probability of speech, float32, for every window of 512
    samples."""

    def feed(self, samples: Floats) -> Floats:
        """Of the windows that are full now."""

    def finish(self) -> Floats:
        """Of the window that has begun. The audio ends here."""


class SilenceFinder(Protocol):
    """Finds where there is nothing to hear, in audio that comes in pieces."""

    def push(self, samples: Floats, probabilities: Floats) -> None:
        """``probabilities``: what ``SpeechStream`` gave for these samples."""

    def finish(self) -> Sequence[tuple[int, int, str]]:
        """``(start, end, reason)`` in samples, in order and disjoint. The audio ends here."""


HearSpeech = Callable[[], SpeechStream]
FindSilence = Callable[[], SilenceFinder]


CheckBatch = Callable[[int, int], None]
"""Raises ``OutOfMemoryError`` when so many windows, of so many audio tokens each, do not fit into memory."""
