from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt

__version__: str
max_decoders: int

def devices() -> list[dict[str, str]]: ...
def take_log() -> list[tuple[int, str]]: ...

class LogitsFilter:
    repetition_penalty: float
    no_repeat_ngram_size: int
    suppress: list[int]
    def __init__(self) -> None: ...

class TranscribeOptions:
    n_threads: int
    language: str
    translate: bool
    beam_size: int
    best_of: int
    temperature: float
    temperature_increment: float
    logprob_threshold: float
    entropy_threshold: float
    no_speech_threshold: float
    condition_on_previous_text: bool
    initial_prompt: str
    prompt_tokens: list[int]
    carry_initial_prompt: bool
    suppress_blank: bool
    suppress_non_speech: bool
    without_timestamps: bool
    max_initial_timestamp: float
    token_timestamps: bool
    max_new_tokens: int
    clips_ms: list[tuple[int, int]]
    language_window: tuple[int, int]
    filter: LogitsFilter
    def __init__(self) -> None: ...

class TokenPiece:
    @property
    def id(self) -> int: ...
    @property
    def bytes(self) -> bytes: ...
    @property
    def start_cs(self) -> int: ...
    @property
    def end_cs(self) -> int: ...
    @property
    def probability(self) -> float: ...

class SegmentData:
    @property
    def seek_frames(self) -> int: ...
    @property
    def start_cs(self) -> int: ...
    @property
    def end_cs(self) -> int: ...
    @property
    def text(self) -> bytes: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def pieces(self) -> list[TokenPiece]: ...
    @property
    def temperature(self) -> float: ...
    @property
    def avg_logprob(self) -> float: ...
    @property
    def no_speech_prob(self) -> float: ...
    @property
    def window_text(self) -> bytes: ...

class RowError:
    @property
    def n_values(self) -> int: ...
    @property
    def sum_squares(self) -> float: ...
    @property
    def sum_squared_error(self) -> float: ...
    @property
    def weighted_squares(self) -> float: ...
    @property
    def weighted_squared_error(self) -> float: ...
    @property
    def max_error(self) -> float: ...
    @property
    def first_not_finite(self) -> int: ...
    @property
    def first_overflow(self) -> int: ...
    @property
    def first_overflow_value(self) -> float: ...

quantizer_version: str

def quantize_rows(
    source: Any,
    source_type: str,
    row_size: int,
    type: str,
    *,
    row_scales: Optional[npt.NDArray[np.float32]] = None,
    column_weights: Optional[npt.NDArray[np.float32]] = None,
) -> tuple[bytes, RowError]: ...
def dequantize_rows(
    source: Any, source_type: str, row_size: int, *, row_scales: Optional[npt.NDArray[np.float32]] = None
) -> npt.NDArray[np.float32]: ...

class Engine:
    def __init__(
        self,
        path: str,
        use_gpu: bool,
        gpu_device: int,
        flash_attention: bool,
        matrix_types: dict[str, str] = ...,
    ) -> None: ...
    def transcribe(
        self,
        samples: npt.NDArray[np.float32],
        options: TranscribeOptions,
        *,
        on_languages: Optional[Callable[[list[tuple[str, float]]], None]] = None,
        on_segment: Optional[Callable[[SegmentData], None]] = None,
        on_progress: Optional[Callable[[float], None]] = None,
        should_stop: Optional[Callable[[], bool]] = None,
    ) -> dict[str, Any]: ...
    def probe(
        self,
        samples: npt.NDArray[np.float32],
        sequences: list[list[int]],
        *,
        n_threads: int,
        tokens_per_call: int = 0,
        statistics: bool = False,
        audio_ctx: int = 0,
        should_stop: Optional[Callable[[], bool]] = None,
    ) -> dict[str, Any]: ...
    def tokenize(self, text: str) -> list[int]: ...
    @property
    def is_multilingual(self) -> bool: ...
    @property
    def n_vocab(self) -> int: ...

class Vad:
    def __init__(self, path: str, n_threads: int) -> None: ...
    def probabilities(
        self, samples: npt.NDArray[np.float32], *, should_stop: Optional[Callable[[], bool]] = None
    ) -> npt.NDArray[np.float32]: ...
