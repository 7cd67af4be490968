"""The `ggml` engine behind the engine face: options by faster-whisper's names on one side, whisper.cpp on the other.

What whisper.cpp cannot do is an ``OptionError`` here. Nothing is silently ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

from .._audio.samples import Samples, StoppedError, samples_of
from .._core import ModelFile
from .._errors import OptionError
from .._options import TranscribeOptions
from .._result import EngineResult, Segment, StageTime, compression_ratio
from .._system.checks import check_whole
from .._system.native import drain_log, load_ggml
from .._whisper.types import MIXED, is_matrix
from .._whisper.units import FRAMES_PER_S, FRAMES_PER_WINDOW, HOP_SAMPLES, TOKENS_PER_WINDOW, WINDOW_S
from .call import Clock
from .face import FindSilence, HearSpeech
from .ggml_language import language_window
from .ggml_words import Piece, group_words

__all__ = ["GgmlEngine", "matrix_types"]

# Options of faster-whisper that whisper.cpp has no counterpart for: the values that mean what it does anyway.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "patience": ((1,), "whisper.cpp's beam search has no patience; allowed: 1"),
    "length_penalty": ((None, 1), "whisper.cpp ranks beams by their mean log probability; allowed: 1"),
    "compression_ratio_threshold": (
        (2.4, None),
        "whisper.cpp finds repetitions by the entropy of the last tokens instead; allowed: 2.4 (on), None (off)",
    ),
    "prompt_reset_on_temperature": ((0.5,), "whisper.cpp fixes it; allowed: 0.5"),
    "prefix": ((None, ""), "whisper.cpp cannot start a window with given text; allowed: None"),
    "multilingual": ((False,), "whisper.cpp detects the language once a call; allowed: False"),
    "chunk_length": ((None, 30), "whisper.cpp's windows are 30 s; allowed: None, 30"),
    "hallucination_silence_threshold": ((None,), "whisper.cpp has no such check; allowed: None"),
    "hotwords": ((None, ""), "whisper.cpp has no hotwords; use initial_prompt with carry_initial_prompt=True"),
    "language_detection_threshold": ((0.5, None), "whisper.cpp takes the likeliest language; allowed: 0.5, None"),
    "language_detection_segments": ((1,), "whisper.cpp reads one window; allowed: 1"),
    "batch_size": ((None,), "whisper.cpp decodes a window after the other; allowed: None"),
    "audio_ctx": ((None, TOKENS_PER_WINDOW), "whisper.cpp encodes whole windows here; allowed: None, 1500"),
    "drop_silence": (
        (None, False),
        "whisper.cpp decodes silence as well, and its text is not checked; allowed: None, False",
    ),
    "seed": ((None,), "whisper.cpp seeds its sampling itself, the same way in every call; allowed: None"),
}

# Our word for a backend -> the names under which ggml registers it, in lower case. Metal was renamed to MTL.
_BACKENDS = {"cuda": ("cuda",), "metal": ("metal", "mtl"), "vulkan": ("vulkan",)}

_NEVER_BELOW = -1e9  # a log probability or entropy threshold that nothing falls below
_NEVER_ABOVE = 2.0  # a probability threshold that nothing exceeds
_LATEST_S = WINDOW_S  # whisper.cpp computes the token of a later first timestamp in int, and writes before its array
_FRAME_MS = 1000 // FRAMES_PER_S
_LEAST_CLIP_MS = 100  # whisper.cpp decodes nothing shorter, and takes a length of 0 for all of the audio
_LEAST_TEMPERATURE = 1e-6  # logits over much less are no finite numbers any more
_MOST_TEMPERATURES = 101  # steps of 0.01: a window may be decoded once for each


def matrix_types(file: ModelFile) -> dict[str, str]:
    """The type of every matrix of a file of mixed types, for ``_ggml.Engine``; empty for any other file."""
    if file.ftype != MIXED:
        return {}
    return {t.name: t.type for t in file.tensors if is_matrix(t.name, len(t.dims))}


class GgmlEngine:
    """A model in whisper.cpp. The file has passed ``_core.read_model_file``.

    Args:
        hear_speech, find_silence: the voice detector, and what finds silence: the language is detected from the first
            window with speech. None: from the first window.
    """

    name = "ggml"

    def __init__(
        self,
        file: ModelFile,
        device: str,
        device_index: int,
        n_threads: int,
        flash_attention: bool,
        *,
        hear_speech: Optional[HearSpeech] = None,
        find_silence: Optional[FindSilence] = None,
    ) -> None:
        self._ggml = load_ggml()
        self._hear_speech, self._find_silence = hear_speech, find_silence
        self.device, gpu_index = _choose_device(self._ggml.devices(), device, device_index)
        self.n_threads = n_threads
        try:
            self._engine = self._ggml.Engine(
                file.path, self.device != "cpu", gpu_index, flash_attention, matrix_types(file)
            )
        finally:
            drain_log()

    def transcribe(
        self,
        audio: Union[npt.NDArray[np.float32], Samples],
        options: TranscribeOptions,
        clips_s: Optional[Sequence[tuple[float, float]]] = None,
        *,
        on_languages: Callable[[list[tuple[str, float]]], None],
        on_segment: Callable[[Segment], None],
        on_progress: Callable[[float], None],
        should_stop: Callable[[], bool],
    ) -> EngineResult:
        """Runs whisper.cpp over ``audio`` (float32, 16 kHz mono), which has to be in memory as a whole for it. Segments
        have times in seconds and ids from 0. ``clips_s``: the parts to hear; empty: all; None: those of the options."""
        opened = samples_of(audio, should_stop)
        try:
            samples = opened.whole()
        except StoppedError:
            return EngineResult({}, stopped=True)
        is_clipped = options.is_clipped if clips_s is None else bool(clips_s)
        if clips_s is None:
            clips_s = options.clips_s(opened.duration_s) if is_clipped else []
        clips_ms = _clips_ms(clips_s)
        if samples.size == 0 or (is_clipped and not clips_ms):
            return EngineResult({}, stopped=False)
        native, clock = self._native_options(options, clips_ms), Clock(opened)
        try:
            native.language_window = self._language_window(opened, options, clips_ms, clock, should_stop)
        except StoppedError:
            return EngineResult(clock.stages, stopped=True)
        language = options.language or "en"
        n_segments = 0

        def hear_languages(ranking: list[tuple[str, float]]) -> None:
            nonlocal language
            language = ranking[0][0]
            on_languages(ranking)

        def hear_segment(data: Any) -> None:
            nonlocal n_segments
            segment = _segment(n_segments, data, options, language, opened.duration_s)
            if segment.text.strip():
                on_segment(segment)
                n_segments += 1

        try:
            result = self._engine.transcribe(
                samples,
                native,
                on_languages=hear_languages,
                on_segment=hear_segment,
                on_progress=on_progress,
                should_stop=should_stop,
            )
        finally:
            drain_log()
        stages = {name: StageTime(ms, runs) for name, (ms, runs) in result["timings"].items()}
        return EngineResult({**stages, **clock.stages}, result["stopped"])

    def _language_window(
        self,
        audio: Samples,
        options: TranscribeOptions,
        clips_ms: Sequence[tuple[int, int]],
        clock: Clock,
        should_stop: Callable[[], bool],
    ) -> tuple[int, int]:
        """Return the first frame of the window to detect the language from, and its frames within the clip."""
        if options.language is not None or not self._engine.is_multilingual:
            return 0, FRAMES_PER_WINDOW
        n_frames = audio.size // HOP_SAMPLES
        edges = [(start // _FRAME_MS, min(end // _FRAME_MS, n_frames)) for start, end in clips_ms]
        clips = [(start, end - start) for start, end in edges if start < end]
        listens = options.drop_silence is not False and not options.vad_filter  # as in the engine edge
        hear, find = (self._hear_speech, self._find_silence) if listens else (None, None)
        return language_window(audio, clips, clock, hear, find, should_stop)

    def check(self, options: TranscribeOptions) -> None:
        """Raises ``OptionError`` for the first option that this engine cannot honour."""
        for name, (allowed, reason) in _FIXED.items():
            value = getattr(options, name)
            if not any(value is one or (value == one and one is not None) for one in allowed):
                raise OptionError(name, value, f"{reason} (engine ggml)")
        for name in ("beam_size", "best_of"):
            if getattr(options, name) > self._ggml.max_decoders:
                raise OptionError(name, getattr(options, name), f"at most {self._ggml.max_decoders} (engine ggml)")
        if options.max_initial_timestamp > _LATEST_S:
            latest = f"0 (no limit) to {_LATEST_S}, the seconds of a window (engine ggml)"
            raise OptionError("max_initial_timestamp", options.max_initial_timestamp, latest)
        _temperature_ladder(options)
        _check_token_ids("suppress_tokens", options.suppress_tokens, self._engine.n_vocab, lowest=-1)
        if isinstance(options.initial_prompt, tuple):
            _check_token_ids("initial_prompt", options.initial_prompt, self._engine.n_vocab, lowest=0)

    def _native_options(self, options: TranscribeOptions, clips_ms: list[tuple[int, int]]) -> Any:
        native = self._ggml.TranscribeOptions()
        native.n_threads = self.n_threads
        native.language = options.language or ""
        native.translate = options.task == "translate"
        native.beam_size = options.beam_size
        native.best_of = options.best_of
        native.temperature, native.temperature_increment = _temperature_ladder(options)
        native.logprob_threshold = _or(options.log_prob_threshold, _NEVER_BELOW)
        native.entropy_threshold = _or(options.compression_ratio_threshold, _NEVER_BELOW)
        native.no_speech_threshold = _or(options.no_speech_threshold, _NEVER_ABOVE)
        native.condition_on_previous_text = options.condition_on_previous_text
        if isinstance(options.initial_prompt, str):
            native.initial_prompt = options.initial_prompt.strip()
        elif options.initial_prompt is not None:
            native.prompt_tokens = list(options.initial_prompt)
        native.carry_initial_prompt = options.carry_initial_prompt
        native.suppress_blank = options.suppress_blank
        native.without_timestamps = options.without_timestamps
        native.max_initial_timestamp = options.max_initial_timestamp
        native.token_timestamps = options.word_timestamps
        native.max_new_tokens = options.max_new_tokens or 0
        native.clips_ms = clips_ms
        tokens = list(options.suppress_tokens or ())
        native.suppress_non_speech = -1 in tokens
        native.filter = self._filter(options, [token for token in tokens if token >= 0])
        return native

    def _filter(self, options: TranscribeOptions, suppressed: list[int]) -> Any:
        logits_filter = self._ggml.LogitsFilter()
        logits_filter.repetition_penalty = options.repetition_penalty
        logits_filter.no_repeat_ngram_size = options.no_repeat_ngram_size
        logits_filter.suppress = suppressed
        return logits_filter


def _choose_device(devices: list[dict[str, str]], device: str, index: int) -> tuple[str, int]:
    """The device's name and its index among the GPUs, which is how whisper.cpp counts."""
    gpus = [entry for entry in devices if entry["kind"] == "gpu"]
    if device == "cpu" or (device == "auto" and not gpus):
        return "cpu", 0
    is_any = device in ("auto", "gpu")
    matching = [i for i, gpu in enumerate(gpus) if is_any or gpu["backend"].lower() in _BACKENDS[device]]
    if not matching:
        seen = ["cpu", *(f"{gpu['name']} ({gpu['backend']})" for gpu in gpus)]
        raise OptionError(
            "device",
            device,
            f"this build sees: {', '.join(seen)}; allowed: auto, cpu, gpu,"
            " cuda, metal, vulkan where the build has them",
        )
    if not 0 <= index < len(matching):
        raise OptionError("device_index", index, f"0 to {len(matching) - 1}")
    return gpus[matching[index]]["name"], matching[index]


def _clips_ms(clips_s: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """The clips that are long enough for whisper.cpp."""
    clips = [(round(start * 1000), round(end * 1000)) for start, end in clips_s]
    return [(start, end) for start, end in clips if end - start >= _LEAST_CLIP_MS]


def _temperature_ladder(options: TranscribeOptions) -> tuple[float, float]:
    """First temperature and step. whisper.cpp climbs in equal steps to 1.0; other ladders it does not have."""
    temperatures = options.temperatures
    if any(0 < temperature < _LEAST_TEMPERATURE for temperature in temperatures):
        raise OptionError(
            "temperature",
            options.temperature,
            f"0, or from {_LEAST_TEMPERATURE} on: whisper.cpp divides by it (engine ggml)",
        )
    if len(temperatures) == 1:
        return temperatures[0], 0.0
    first, step = temperatures[0], temperatures[1] - temperatures[0]
    climb = _climb(first, step)
    if len(climb) != len(temperatures) or not np.allclose(climb, temperatures, atol=1e-4):
        raise OptionError(
            "temperature",
            options.temperature,
            f"one value, or up to {_MOST_TEMPERATURES} in equal steps up to 1.0 such as (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)"
            " (engine ggml)",
        )
    return first, step


def _climb(first: float, step: float) -> list[float]:
    """The temperatures that whisper.cpp tries, in its float32 arithmetic; none where there is no end of them, or a
    late one: a step that vanishes in rounding leads nowhere."""
    temperatures: list[float] = []
    value, step = _float32(first), _float32(step)
    while value < 1.0 + 1e-6:
        if step <= 0 or len(temperatures) == _MOST_TEMPERATURES:
            return []
        temperatures.append(value)
        value = _float32(value + step)
    return temperatures


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _check_token_ids(name: str, tokens: Any, n_vocab: int, lowest: int) -> None:
    for token in tokens or ():
        check_whole(name, token, lowest, n_vocab - 1, f"token ids from {lowest} to {n_vocab - 1}")


def _or(value: Optional[float], instead: float) -> float:
    return instead if value is None else value


def _segment(index: int, data: Any, options: TranscribeOptions, language: str, duration_s: float) -> Segment:
    """A segment in the audio: whisper.cpp's may end in the silence that it puts behind."""

    def time_s(centiseconds: int) -> float:
        return min(centiseconds / 100, duration_s)

    words = None
    if options.word_timestamps:
        pieces = [Piece(p.bytes, time_s(p.start_cs), time_s(p.end_cs), p.probability) for p in data.pieces]
        words = group_words(pieces, language, options.prepend_punctuations, options.append_punctuations)
    return Segment(
        id=index,
        seek=data.seek_frames,
        start=time_s(data.start_cs),
        end=time_s(data.end_cs),
        text=_text(data.text),
        tokens=list(data.tokens),
        temperature=round(data.temperature, 6),
        avg_logprob=data.avg_logprob,
        compression_ratio=compression_ratio(_text(data.window_text)),
        no_speech_prob=data.no_speech_prob,
        words=words,
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")
