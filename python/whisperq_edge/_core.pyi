from collections.abc import Collection, Mapping
from os import PathLike
from typing import Any, Callable, Optional, Union

import numpy as np
import numpy.typing as npt

class TensorInfo:
    """One tensor of a model file. ``dims`` has ggml's order: the row length first."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def dims(self) -> tuple[int, ...]: ...
    @property
    def n_values(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...

class ModelFile:
    """A model file that was read to its end and found whole. The data of the tensors is not part of it."""

    @property
    def path(self) -> str: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def hparams(self) -> dict[str, int]: ...
    @property
    def ftype(self) -> str: ...
    @property
    def quantization_version(self) -> int: ...
    @property
    def n_mel(self) -> int: ...
    @property
    def n_fft(self) -> int: ...
    @property
    def mel_filters_offset(self) -> int: ...
    @property
    def vocabulary_offset(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def vocabulary(self) -> list[bytes]: ...
    @property
    def is_multilingual(self) -> bool: ...
    @property
    def n_languages(self) -> int: ...
    @property
    def tensors(self) -> list[TensorInfo]: ...

class EdgeAudio:
    """What the decoder keeps of a window's audio: keys and values of its cross attention."""

    @property
    def n_ctx(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...

class EdgeModel:
    def __init__(self, path: str, isa: str = "auto", n_threads: int = 0) -> None: ...
    def encode(
        self, mel: npt.NDArray[np.float32], n_ctx: int, should_stop: Optional[Callable[[], bool]] = None
    ) -> npt.NDArray[np.float32]:
        """Audio features ``[n_ctx, n_audio_state]``.

        This and what follows ask ``should_stop`` meanwhile, and return None when it said True.
        """
    def listen(
        self, audio_features: npt.NDArray[np.float32], should_stop: Optional[Callable[[], bool]] = None
    ) -> EdgeAudio: ...
    def encode_short(
        self, mel: npt.NDArray[np.float32], n_ctx: int, should_stop: Optional[Callable[[], bool]] = None
    ) -> npt.NDArray[np.float32]:
        """Audio features ``[n_ctx, n_audio_state]`` of audio with silence behind it, up to the end of a window.

        ``n_ctx`` is a multiple of 32, and less than a window. This and ``listen_short`` need ``silence``.
        """
    def listen_short(
        self, audio_features: npt.NDArray[np.float32], should_stop: Optional[Callable[[], bool]] = None
    ) -> EdgeAudio:
        """The same as ``listen``, with the silence behind it."""
    def learn_silence(self, should_stop: Optional[Callable[[], bool]] = None) -> bool:
        """Encode a window of silence, for ``silence``. Return whether it is known now."""
    @property
    def silence(self) -> list[npt.NDArray[np.uint8]]:
        """What is known of silence, in parts; empty: nothing yet."""
    def set_silence(self, known: Union[bytes, memoryview]) -> None:
        """Take these parts, end to end, which a model of the same file, build and instruction set has learned.

        Raises ValueError for another size.
        """
    def logits(
        self,
        audio: EdgeAudio,
        tokens: list[int],
        first: int = 0,
        should_stop: Optional[Callable[[], bool]] = None,
    ) -> npt.NDArray[np.float32]:
        """Logits ``[len(tokens) - first, n_vocab]`` that follow the tokens from ``first`` on."""
    @property
    def linears(self) -> list[str]:
        """Tensor names of every matrix that inputs are multiplied with: convolutions, layers, token embedding."""
    def round_activations(
        self,
        scheme: str,
        block: int = 32,
        ranges: Optional[Mapping[str, float]] = None,
        only: Optional[Collection[str]] = None,
        symmetric: bool = True,
    ) -> None:
        """From the next call on, rounds the inputs of linears to int8 codes and back (csrc/edge/activation_study.h).

        Symmetric: 255 codes around 0, ``scale = max|x| / 127``. Otherwise 256 codes from ``min(x, 0)`` to
        ``max(x, 0)``. Codes are rounded to nearest, ties to even, as the kernels round the inputs of quantised models.
        Waits for a call that runs. For models of f32 and f16; everything else of them stays as it is.

        Args:
            scheme: ``float`` (nothing, as at first), ``observe`` (nothing, but ``activation_ranges()`` fills);
                one scale for ``tensor`` (all rows of an input: of the window in ``encode`` and ``listen``; of each
                sequence, whatever its batch, in a step or prompt), ``token`` (each row) or ``block`` (so many values
                of a row), from the values themselves; ``static``: from ``ranges``, values beyond are clipped.
            block: values, from 1; the last of a row may be shorter. A row of a convolution is three frames, channels
                innermost.
            ranges: for ``static``: the largest ``|x|`` of each linear; what it has of others is not looked at.
            only: names of ``linears``; None: those of encoder and decoder layers (``observe``: all). Rounds or
                observes the inputs of no other.
            symmetric: False for ``tensor``, ``token`` and ``block`` only.

        Raises:
            UnsupportedModelError: a linear of the model is quantised (``float`` is possible).
            OptionError: an unknown scheme or name, a block below 1, a range that is missing or is none, or options
                that do not go together. Nothing has changed then.
        """
    def activation_ranges(self) -> dict[str, float]:
        """The largest ``|x|`` by linear since ``observe`` was last asked for; of those that have had an input since."""
    @property
    def hparams(self) -> dict[str, int]: ...
    @property
    def isa(self) -> str: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def memory(self) -> dict[str, int]:
        """Bytes that it holds now: ``weights``, and the work memory of ``encoder``, ``decoder`` and ``machine``."""

class DecodeOptions:
    """What windows are decoded with, by openai/whisper's names (csrc/decoding/decode_options.h). Assign lists whole."""

    def __init__(self) -> None: ...
    eot: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    blank: list[int]
    suppress_tokens: list[int]
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

class WindowRequest:
    """The prompt of a window; ``stream`` is of random numbers, and names the window among all of this seed. The last
    ``n_prefix`` tokens count as sampled for the rules of what may follow."""

    def __init__(self, tokens: list[int], sot_index: int, stream: int = 0, n_prefix: int = 0) -> None: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def sot_index(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def n_prefix(self) -> int: ...

class WindowResult:
    """What was decoded from a window: tokens without prompt and eot. ``is_complete`` is False where it was stopped."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def sum_logprob(self) -> float: ...
    @property
    def avg_logprob(self) -> float: ...
    @property
    def no_speech_prob(self) -> float: ...
    @property
    def is_complete(self) -> bool: ...

def decode_windows(
    model: EdgeModel,
    audios: list[EdgeAudio],
    requests: list[WindowRequest],
    options: DecodeOptions,
    should_stop: Optional[Callable[[], bool]] = None,
) -> tuple[list[WindowResult], dict[str, tuple[float, int]]]:
    """Decodes windows together: a result for each, and stage -> (ms, runs) of prompt, decode, batchd and sample.

    Raises ValueError, which names the field, for what the model cannot be decoded with, and InferenceError where its
    logits are no numbers or the rules leave no token. What ``should_stop`` and signal handlers raise comes out.
    """

class AlignRequest:
    """The text of a window, without times, whose times are wanted; ``n_audio_tokens`` of 20 ms are audio."""

    def __init__(self, sot_sequence: list[int], text_tokens: list[int], n_audio_tokens: int) -> None: ...
    @property
    def sot_sequence(self) -> list[int]: ...
    @property
    def text_tokens(self) -> list[int]: ...
    @property
    def n_audio_tokens(self) -> int: ...

class AlignResult:
    """The path along which text tokens (and eot behind them) and audio tokens go together, int64 ``[steps]`` each, and
    the probability of each text token, float32."""

    @property
    def text_indices(self) -> npt.NDArray[np.int64]: ...
    @property
    def time_indices(self) -> npt.NDArray[np.int64]: ...
    @property
    def probabilities(self) -> npt.NDArray[np.float32]: ...
    @property
    def is_complete(self) -> bool: ...

def align_windows(
    model: EdgeModel,
    audios: list[EdgeAudio],
    requests: list[AlignRequest],
    *,
    heads: list[tuple[int, int]],
    eot: int,
    no_timestamps: int,
    should_stop: Optional[Callable[[], bool]] = None,
) -> tuple[list[AlignResult], dict[str, tuple[float, int]]]:
    """Finds when tokens were said, by the cross attention of ``heads``, (layer, head). Returns and raises as
    ``decode_windows``."""

def dtw(cost: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The cheapest path through a matrix ``[n, m]`` from corner to corner: (text_indices, time_indices)."""

def median_filter(x: npt.NDArray[np.float32], width: int = 7) -> npt.NDArray[np.float32]:
    """Median of ``width`` values around each, along the last dimension, reflected at its ends."""

def log_mel_spectrogram(
    pcm: npt.NDArray[np.float32],
    filters: npt.NDArray[np.float32],
    *,
    padding: int = 0,
    n_threads: int = 0,
    isa: str = "auto",
) -> npt.NDArray[np.float32]: ...

class MelStream:
    """A log-mel spectrogram of audio that comes in pieces: float32 ``[n, n_mels]``, log10 of the energies, before the
    clamp at the largest value - 8."""

    def __init__(self, filters: npt.NDArray[np.float32], *, n_threads: int = 0, isa: str = "auto") -> None: ...
    def push(self, pcm: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...
    def finish(self, *, padding: int = 0) -> npt.NDArray[np.float32]: ...

class Vad:
    """Silero's voice detector: a probability of speech for every started window of 512 samples at 16 kHz. Whole clips
    may be given from several threads."""

    def __init__(self, path: Union[str, PathLike[str]], isa: str = "auto") -> None: ...
    def probabilities(
        self, samples: npt.NDArray[np.float32], should_stop: Optional[Callable[[], bool]] = None
    ) -> npt.NDArray[np.float32]:
        """Of a whole clip. ``should_stop`` is asked every 20 ms; the result is shorter when it said so."""
    def stream(self) -> VadStream:
        """A stream of its own, on the same weights."""
    @property
    def isa(self) -> str: ...

class VadStream:
    """``Vad`` over audio in pieces, for one thread at a time."""

    def feed(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Of the windows that these samples, of any number, make full."""
    def finish(self) -> npt.NDArray[np.float32]:
        """Of the window that has begun, as if silence followed. Other audio may be fed afterwards."""

def describe_model(hparams: dict[str, int], type: str) -> ModelFile:
    """What ``read_model_file`` would give for a model of these dimensions, but vocabulary and mel filters.

    Raises ValueError for dimensions that are not all there, and InternalError for a type that does not fit them.
    """

def edge_memory(
    file: ModelFile,
    *,
    isa: str = "auto",
    n_threads: int,
    n_ctx: int,
    with_silence: bool = False,
    n_windows: int = 1,
    n_sequences: int = 1,
    n_prompt_tokens: int = 1,
    n_prompt_logits: int = 1,
    n_tokens: int = 1,
    n_align_windows: int = 1,
    n_align_tokens: int = 0,
    n_align_heads: int = 0,
) -> dict[str, int]:
    """Bytes that the edge engine would allocate, by the names of ``EdgeModel.memory`` and ``audio_caches``,
    ``self_caches``, ``learning`` (of silence), ``logits`` and ``alignment``. Nothing is.

    Args:
        n_ctx: audio tokens of a window.
        with_silence: windows may be short: the engine learns what silence is. ``n_ctx`` is a multiple of 32, or all.
        n_windows: decoded together.
        n_sequences: of each window: beams or samples.
        n_prompt_tokens: that a window begins with.
        n_prompt_logits: of these, those whose logits are wanted.
        n_tokens: of each sequence in the end, prompt included.
        n_align_windows: that are given to ``align_windows`` together.
        n_align_tokens: of each, start, ``<|notimestamps|>`` and end included; 0: none is aligned.
        n_align_heads: whose scores are kept; 0: none is aligned.

    Raises UnsupportedModelError for a type that it has no kernels for.
    """

SHORT_STEP: int
"""Short audio is encoded in steps of so many tokens."""

def isas() -> list[dict[str, Any]]: ...
def chosen_isa() -> str: ...
def self_test(isa: str, fault: str = "") -> dict[str, Any]: ...
def read_model_file(path: Union[str, PathLike[str]]) -> ModelFile: ...

__version__: str

def error_table() -> dict[str, str]: ...
def now_us() -> int: ...
def usable_cpus() -> int: ...
def cpu_quota() -> float:
    """The CPU quota of this process's cgroup, in CPUs; 0: none."""

def cpu_name() -> str: ...
def cpu_family() -> str: ...
def cpu_features() -> dict[str, bool]: ...
