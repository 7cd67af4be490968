"""``WhisperModel``: the one class that most programs need."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, NoReturn, Optional, Union

import numpy as np

from . import _core
from ._audio.mel import log_mel_spectrogram
from ._audio.pcm import AudioLike, first_samples, open_samples
from ._audio.samples import Samples, StoppedError, cut_samples
from ._audio.silence import SilenceScan
from ._audio.speech import SpeechScan, speech_stream
from ._audio.timeline import SpeechTimeline
from ._engines.core_model import CoreModel
from ._engines.edge import EdgeEngine
from ._engines.face import Engine
from ._engines.ggml import GgmlEngine
from ._engines.short_audio import is_quantised
from ._errors import CancelledError, InferenceError, InterruptedByUser, OptionError, UnsupportedModelError
from ._options import (
    APPEND_PUNCTUATIONS,
    DEFAULT_TEMPERATURES,
    PREPEND_PUNCTUATIONS,
    TranscribeOptions,
    given_options,
)
from ._result import Dropped, EngineResult, Segment, StageTime, Timings, Transcript, join_text
from ._store.locate import locate_model
from ._store.profile import find_profile
from ._system.arrays import Floats
from ._system.checks import as_number, check, check_one_of, check_whole
from ._system.locks import ThreadLock
from ._system.native import build_info, load_ggml
from ._system.progress import ShowProgress, progress_bar
from ._vad_options import VadOptions
from ._whisper.languages import LANGUAGES
from ._whisper.units import SAMPLE_RATE, WINDOW_SAMPLES

__all__ = ["CancelToken", "WhisperModel"]

_LOG = logging.getLogger("whisperq_edge")
ENGINES = ("auto", "edge", "ggml")
DEVICES = ("auto", "cpu", "gpu", "cuda", "metal", "vulkan")

OnStart = Callable[[list[tuple[str, float]], float, float], None]


class CancelToken:
    """A token that ends a running ``transcribe`` from another thread.

    The call raises ``CancelledError`` within a fraction of a second.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the call to end. Any thread may do so, also before the call begins."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()


class WhisperModel:
    """A Whisper model, ready to transcribe. Several threads may use one model at the same time.

    Args:
        model_size_or_path: a name, a path or a hub id.

            - ``"nano"`` is bundled.
            - A published name such as ``"base"`` means whisper.cpp's published file in 8 bits, or in 5 where there is
              none. It is downloaded once. ``whisperq-edge models`` lists the names.
            - A path leads to a ggml file such as ``ggml-base.en.bin``, to an OpenAI ``.pt``, or to a folder of
              transformers or CTranslate2. All but the ggml file are converted once into the cache.
            - A hub id such as ``"openai/whisper-base.en"`` is downloaded with the extra ``hub`` unless the hub's cache
              has it, and converted once.
        device: ``auto`` (a GPU that the build supports and the machine has, else the CPU), ``cpu``, ``gpu``, ``cuda``,
            ``metal`` or ``vulkan``.
        device_index: which of several devices of that kind.
        compute_type: ``q8_0``, ``int8``, ``f16``, … A file of another type is quantised once into the cache
            (``whisperq-edge cache``).

            - ``default`` is ``$WHISPERQ_COMPUTE_TYPE`` or ``$WL_COMPUTE_TYPE`` where one is set. Else a ggml file and
              a published file keep their type, and any other source becomes f16.
            - ``auto`` is the same where a variable is set. Else it is the type that ``whisperq-edge tune`` chose for
              models of this shape, unless the file is quantised already or there is no profile.
            - A name's types that are not published are made of its float weights (extra ``hub``).
            - CTranslate2's ``int8_float16`` and its kin are int8, its ``int16`` and ``bfloat16`` are f16. A warning
              on the logger says so.
        cpu_threads: 0 takes the number that ``whisperq-edge tune`` found best for this shape and type (engine edge).
            Without a profile it takes every CPU that affinity and cgroup quota leave to the process.
        download_root: folder to download models into; None for our cache (published files) and the Hugging Face hub's.
        local_files_only: download nothing.
        engine: ``edge`` (our own, on the CPU), ``ggml`` (whisper.cpp) or ``auto``. ``auto`` takes ``edge``, unless
            there is a GPU to use or ``edge`` has no kernels for the file's type, such as the k-quants.
        flash_attention: use whisper.cpp's fused attention (engine ggml).

    Raises:
        ModelNotFoundError: no such model, or it is not here and cannot be downloaded.
        ModelFormatError: the file is damaged or is no Whisper model.
        UnsupportedModelError: the file is whole, but the engine cannot run it.
        UnsafeModelError: a pickle asks for more than tensors.
        OptionError: a value is not allowed here, such as a ``compute_type`` larger than the file's.
        IsaNotSupportedError: the engine was built for another CPU.
        OutOfMemoryError: the weights are more than the process can get; a ``MemoryError``.
        OSError: the cache cannot be written.
    """

    def __init__(
        self,
        model_size_or_path: Union[str, os.PathLike[str]],
        device: str = "auto",
        device_index: int = 0,
        compute_type: str = "default",
        cpu_threads: int = 0,
        *,
        download_root: Optional[Union[str, os.PathLike[str]]] = None,
        local_files_only: bool = False,
        engine: str = "auto",
        flash_attention: bool = True,
    ) -> None:
        began_us = _core.now_us()
        check_one_of("engine", engine, ENGINES)
        check_one_of("device", device, DEVICES)
        cpu_threads = check_whole("cpu_threads", cpu_threads, 0, 512, "0 (automatic) to 512")
        device_index = check_whole("device_index", device_index, 0, 255, "0 to 255")
        self.model_path: Path = locate_model(
            model_size_or_path,
            compute_type,
            local_files_only=local_files_only,
            download_root=download_root,
            n_threads=cpu_threads,
        )
        self._file = _core.read_model_file(self.model_path)
        self._engine: Optional[Engine]
        self._encoder: Optional[CoreModel]  # of ``encode``; beside the ggml engine it is opened when asked for
        self._engine, self._encoder = _open_engine(
            self._file, engine, device, device_index, cpu_threads, flash_attention
        )
        self._lock = ThreadLock()
        load_ms = (_core.now_us() - began_us) / 1000
        self._timings = Timings({"load": StageTime(load_ms, 1)}, load_ms)

    def __enter__(self) -> WhisperModel:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the model's memory back. Running calls end as usual; later calls raise an ``InferenceError``."""
        with self._lock:
            self._engine = None
            self._encoder = None

    def __repr__(self) -> str:
        state = f"engine={self.engine!r}, device={self.device!r}" if self._engine else "closed"
        return f"WhisperModel({str(self.model_path)!r}, {self.compute_type}, {state})"

    @property
    def dims(self) -> dict[str, int]:
        """Return the model's dimensions by Whisper's names (``n_mels``, ``n_audio_state``, …)."""
        return dict(self._file.hparams)

    @property
    def compute_type(self) -> str:
        """Return the type of the weight matrices: ``f32``, ``f16``, ``q8_0``, …"""
        return str(self._file.ftype)

    @property
    def is_multilingual(self) -> bool:
        return bool(self._file.is_multilingual)

    @property
    def supported_languages(self) -> list[str]:
        """Return the codes of the languages that the model knows."""
        return list(LANGUAGES)[: self._file.n_languages] if self.is_multilingual else ["en"]

    @property
    def engine(self) -> str:
        return self._running_engine().name

    @property
    def device(self) -> str:
        """Return ``cpu``, or the GPU's name as ggml calls it."""
        return self._running_engine().device

    @property
    def cpu_threads(self) -> int:
        return self._running_engine().n_threads

    @property
    def timings(self) -> Timings:
        """Return the times of loading and of every call that ended, together."""
        with self._lock:
            return self._timings

    def transcribe(
        self,
        audio: AudioLike,
        language: Optional[str] = None,
        task: str = "transcribe",
        *,
        sampling_rate: Optional[float] = None,
        audio_track: Optional[int] = None,
        on_segment: Optional[Callable[[Segment], None]] = None,
        on_progress: Optional[Callable[[float, float], None]] = None,
        cancel: Optional[CancelToken] = None,
        timeout_s: Optional[float] = None,
        beam_size: int = 5,
        best_of: int = 5,
        patience: float = 1,
        length_penalty: float = 1,
        repetition_penalty: float = 1,
        no_repeat_ngram_size: int = 0,
        temperature: Union[float, Sequence[float]] = DEFAULT_TEMPERATURES,
        compression_ratio_threshold: Optional[float] = 2.4,
        log_prob_threshold: Optional[float] = -1.0,
        no_speech_threshold: Optional[float] = 0.6,
        condition_on_previous_text: bool = True,
        prompt_reset_on_temperature: float = 0.5,
        initial_prompt: Union[str, Iterable[int], None] = None,
        prefix: Optional[str] = None,
        suppress_blank: bool = True,
        suppress_tokens: Optional[Sequence[int]] = (-1,),
        without_timestamps: bool = False,
        max_initial_timestamp: float = 1.0,
        word_timestamps: bool = False,
        prepend_punctuations: str = PREPEND_PUNCTUATIONS,
        append_punctuations: str = APPEND_PUNCTUATIONS,
        multilingual: bool = False,
        vad_filter: bool = False,
        vad_parameters: Union[VadOptions, Mapping[str, Any], None] = None,
        max_new_tokens: Optional[int] = None,
        chunk_length: Optional[int] = None,
        clip_timestamps: Union[str, Sequence[float]] = "0",
        hallucination_silence_threshold: Optional[float] = None,
        hotwords: Optional[str] = None,
        language_detection_threshold: Optional[float] = 0.5,
        language_detection_segments: int = 1,
        log_progress: bool = False,
        carry_initial_prompt: bool = False,
        seed: Optional[int] = None,
        batch_size: Optional[int] = None,
        audio_ctx: Union[str, int, None] = None,
        drop_silence: Optional[bool] = None,
        **unknown: NoReturn,
    ) -> Transcript:
        """Transcribe ``audio``.

        ``TranscribeOptions`` describes the arguments that are missing here.

        Args:
            audio: path, bytes or file object of an audio file, or an array of samples. An array is float in [-1, 1],
                int16, int32 or uint8, and 1-D or (samples, channels).
            language: code or English name; None detects it.
            task: ``transcribe`` or ``translate``.
            sampling_rate: of an array, in Hz (16000 when None).
            audio_track: which track of a file with several, counted from 0 as in FFmpeg's ``0:a:0``; None: the first.
            on_segment: called with every segment when it is ready.
            on_progress: called with the fraction done (0 to 1) and the seconds left at this pace.
            cancel: a token that ends the call.
            timeout_s: seconds from the start of the call after which the call ends; None: never.
            unknown: names that are no option. They raise an ``OptionError`` with the names that are near.

        Raises:
            AudioError: the audio cannot be used.
            OptionError: an option does not exist, its value is not possible, or the engine cannot honour it.
            CancelledError: the token was cancelled, or ``timeout_s`` went by. ``.partial`` has the transcript so far.
            InterruptedByUser: Ctrl-C; a ``KeyboardInterrupt`` with ``.partial``.
            InferenceError: the engine failed.
        """
        given = given_options(locals())
        return self._transcribe(
            audio,
            given,
            sampling_rate=sampling_rate,
            audio_track=audio_track,
            on_segment=on_segment,
            on_progress=on_progress,
            cancel=cancel,
            timeout_s=timeout_s,
        )

    def encode(self, audio: Union[AudioLike, Floats], audio_ctx: int = 0) -> Floats:
        """Return the audio features of one window of 30 s, float32 ``[n_ctx, n_audio_state]``.

        The encoder of the engine ``edge`` computes them, whichever engine transcribes.

        Args:
            audio: a log-mel spectrogram (an array ``[n_mels, frames]``, as ``log_mel_spectrogram`` gives it), or audio
                as ``transcribe`` takes it. The first 30 s of audio are encoded.
            audio_ctx: audio tokens (20 ms each) to compute, from the beginning; 0: all 1500.

        Raises:
            AudioError: the audio or the spectrogram cannot be used.
            OptionError: ``audio_ctx`` is out of range.
            UnsupportedModelError: the engine ``edge`` has no kernels for the file's type.
        """
        encoder = self._opened_encoder()
        n_mels = self._file.hparams["n_mels"]
        if isinstance(audio, np.ndarray) and audio.ndim == 2 and audio.shape[0] == n_mels:
            return encoder.encode_checked(audio, audio_ctx)
        window = np.zeros(WINDOW_SAMPLES, np.float32)
        samples = first_samples(audio, WINDOW_SAMPLES)
        window[: len(samples)] = samples
        return encoder.encode_checked(log_mel_spectrogram(window, n_mels), audio_ctx)

    def _transcribe(
        self,
        audio: AudioLike,
        given: dict[str, Any],
        *,
        sampling_rate: Optional[float] = None,
        audio_track: Optional[int] = None,
        on_start: Optional[OnStart] = None,
        on_segment: Optional[Callable[[Segment], None]] = None,
        on_progress: Optional[Callable[[float, float], None]] = None,
        cancel: Optional[CancelToken] = None,
        timeout_s: Optional[float] = None,
    ) -> Transcript:
        """``transcribe`` with one more callback: ``on_start(ranking, duration_s, heard_s)`` when the language is known.
        ``ranking`` has (code, probability), likeliest first; ``duration_s`` is the length of the audio and ``heard_s``
        what the voice detector left of it, in seconds."""
        began_us = _core.now_us()
        _check_timeout(timeout_s)
        _check_listeners(on_segment=on_segment, on_progress=on_progress)
        if cancel is not None and not isinstance(cancel, CancelToken):
            raise OptionError("cancel", cancel, "a CancelToken, or None")
        chosen = TranscribeOptions.from_arguments(given)
        engine = self._running_engine()
        engine.check(chosen)
        self._check_language(chosen)
        vad = VadOptions.from_any(chosen.vad_parameters)
        if chosen.vad_filter and chosen.is_clipped:
            raise OptionError("vad_filter", True, "not together with clip_timestamps: both choose parts of the audio")
        listeners = _Listeners(on_start, on_segment, on_progress, cancel, timeout_s, began_us)
        opened = open_samples(
            audio, sampling_rate=sampling_rate, audio_track=audio_track, should_stop=listeners.should_stop
        )
        with opened as samples:
            call = _Call(self, engine, chosen, vad, samples, began_us, listeners)
            try:
                with progress_bar(_label(audio)) if chosen.log_progress else nullcontext() as bar:
                    return call.run(bar)
            finally:
                with self._lock:
                    self._timings = self._timings + call.timings()

    def _opened_encoder(self) -> CoreModel:
        with self._lock:
            n_threads = self._running_engine().n_threads
            if self._encoder is None:
                self._encoder = CoreModel(self._file, n_threads=n_threads)
            return self._encoder

    def _running_engine(self) -> Engine:
        engine = self._engine  # once: another thread may close the model
        if engine is None:
            raise InferenceError("the model is closed: load it again to use it")
        return engine

    def _check_language(self, options: TranscribeOptions) -> None:
        if options.language is not None and options.language not in self.supported_languages:
            known = f"one of the {len(self.supported_languages)} languages of this model (supported_languages)"
            english = "en, or None: the model is English-only; take a multilingual one for other languages"
            raise OptionError("language", options.language, known if self.is_multilingual else english)
        if options.multilingual and not self.is_multilingual:
            _LOG.warning("multilingual=True changes nothing: %s is English-only", self.model_path)
        if options.task == "translate" and not self.is_multilingual:
            raise OptionError("task", "translate", "transcribe: an English-only model has nothing to translate from")


@dataclass(frozen=True)
class _Listeners:
    on_start: Optional[OnStart]
    on_segment: Optional[Callable[[Segment], None]]
    on_progress: Optional[Callable[[float, float], None]]
    cancel: Optional[CancelToken]
    timeout_s: Optional[float]
    began_us: int

    def should_stop(self) -> bool:
        return self.is_cancelled() or self._is_late()

    def is_cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.cancelled

    def _is_late(self) -> bool:
        return self.timeout_s is not None and _core.now_us() - self.began_us >= self.timeout_s * 1e6


class _Call:
    """One ``transcribe``: what it has heard so far and how long it took."""

    def __init__(
        self,
        model: WhisperModel,
        engine: Engine,
        options: TranscribeOptions,
        vad: VadOptions,
        audio: Samples,
        began_us: int,
        listeners: _Listeners,
    ) -> None:
        self._model_name = str(model.model_path)
        self._engine = engine
        self._options = options
        self._vad = vad
        self._audio = audio
        self._should_stop = listeners.should_stop
        self._began_us = began_us
        self._listeners = listeners
        self._timeline: Optional[SpeechTimeline] = None
        self._segments: list[Segment] = []
        self._dropped: tuple[Dropped, ...] = ()
        self._n_short = self._n_redone = 0  # windows
        self._language = options.language or "en"
        self._language_probability = 1.0 if options.language or not model.is_multilingual else 0.0
        self._stages: dict[str, StageTime] = {}
        self._fraction = 0.0
        self._bar: Optional[ShowProgress] = None
        self._engine_began_s = time.perf_counter()
        self._ended_us: Optional[int] = None

    def run(self, bar: Optional[ShowProgress]) -> Transcript:
        """``bar`` is told of the progress, as the listener is."""
        self._bar = bar
        try:
            stopped = self._transcribe()
        except KeyboardInterrupt as interrupt:
            raise InterruptedByUser("interrupted", self._transcript()) from interrupt
        finally:
            self._ended_us = _core.now_us()
        if stopped:
            raise CancelledError(self._why_stopped(), self._transcript())
        return self._transcript()

    def timings(self) -> Timings:
        ended_us = self._ended_us if self._ended_us is not None else _core.now_us()
        stages = {**self._stages, "audio_decode": StageTime(self._audio.decode_ms, self._audio.n_passes)}
        return Timings(stages, (ended_us - self._began_us) / 1000)

    def _transcribe(self) -> bool:
        """True when the call was cancelled."""
        if self._should_stop():
            return True
        try:
            audio = self._speech() if self._cuts_first else self._behind_lead()
            options = self._options.with_clips_from(self._lead_s() if self._options.is_clipped else 0.0)
        except StoppedError:
            return True
        result: EngineResult = self._engine.transcribe(
            audio,
            options,
            on_languages=self._hear_languages,
            on_segment=self._hear_segment,
            on_progress=self._hear_progress,
            should_stop=self._should_stop,
        )
        for name, stage in result.stages.items():
            self._stages[name] = self._stages.get(name, StageTime()) + stage
        self._dropped = self._restored(result.dropped)
        self._n_short, self._n_redone = result.n_short_windows, result.n_redone_windows
        self._warn_of_clips()
        if result.interrupt is not None:
            raise result.interrupt
        return result.stopped

    def _warn_of_clips(self) -> None:
        """Tell of clips that begin behind the end of the audio. Nothing is in them."""
        duration_s = self._audio.duration_s
        starts = [start for start, _ in self._options.clips_s(math.inf)] if self._options.is_clipped else []
        late = [start for start in starts if start >= duration_s > 0]
        if late:
            message = "clip_timestamps: %d of %d clips lie behind the audio, from %.2f s on; it ends at %.2f s"
            _LOG.warning(message, len(late), len(starts), late[0], duration_s)

    def _restored(self, dropped: tuple[Dropped, ...]) -> tuple[Dropped, ...]:
        if self._timeline is None:
            return dropped
        to_original = self._timeline.to_original
        return tuple(Dropped(to_original(d.start), to_original(d.end, is_end=True), d.reason) for d in dropped)

    @property
    def _cuts_first(self) -> bool:
        """Batches are cut by speech in the engine, out of the whole audio."""
        return self._options.vad_filter and self._options.batch_size is None

    def _speech(self) -> Samples:
        """The samples that hold speech, end to end; the timeline remembers where they were."""
        began_us, audio = _core.now_us(), self._audio
        stream, scan = speech_stream(), SpeechScan(self._vad)
        for block in audio.blocks():
            scan.push(stream.feed(block))
            if self._should_stop():
                raise StoppedError
        scan.push(stream.finish())
        self._timeline = SpeechTimeline(list(scan.finish(audio.size)), audio.size)
        vad_ms = (_core.now_us() - began_us) / 1000 - audio.decode_ms
        self._stages["vad"] = StageTime(max(vad_ms, 0.0), 1)
        return cut_samples(audio, self._timeline.spans, self._should_stop)

    def _lead_s(self) -> float:
        """Seconds of silence before audio that begins later than its video."""
        self._audio.read(0, 1)
        return self._audio.n_lead / SAMPLE_RATE

    def _behind_lead(self) -> Samples:
        """The samples without the silence before audio that begins later than its video. A window's first timestamp is
        at most one second, so that the text would begin in that silence. Clips are moved, and batches choose."""
        audio = self._audio
        if self._options.is_clipped or self._options.batch_size is not None or not self._lead_s():
            return audio
        for _ in audio.blocks():
            pass
        spans = [(audio.n_lead, audio.size)] if audio.n_lead < audio.size else []
        self._timeline = SpeechTimeline(spans, audio.size)
        return cut_samples(audio, self._timeline.spans, self._should_stop)

    def _why_stopped(self) -> str:
        if self._listeners.is_cancelled():
            return "the call was cancelled"
        heard_s = self._segments[-1].end if self._segments else 0.0
        return (
            f"timeout_s={self._listeners.timeout_s} went by: {heard_s:.2f} s of {self._audio.duration_s:.2f} s of audio"
            " are transcribed and kept in .partial; allow more time or give less audio"
        )

    def _hear_languages(self, ranking: list[tuple[str, float]]) -> None:
        self._engine_began_s = time.perf_counter()
        self._language, self._language_probability = ranking[0]
        if self._listeners.on_start is not None:
            heard_s = self._heard_duration_s() if self._cuts_first else self._audio.duration_s
            self._listeners.on_start(ranking, self._audio.duration_s, heard_s)

    def _hear_segment(self, segment: Segment) -> None:
        heard_s = segment.end
        if self._timeline is not None:
            [segment] = self._timeline.restore([segment])
        self._segments.append(segment)
        if self._listeners.on_segment is not None:
            self._listeners.on_segment(segment)
        self._report(heard_s / max(self._heard_duration_s(), 1e-9))

    def _heard_duration_s(self) -> float:
        return self._timeline.duration_s if self._timeline is not None else self._audio.duration_s

    def _hear_progress(self, fraction: float) -> None:
        self._report(fraction)

    def _report(self, fraction: float) -> None:
        if fraction <= self._fraction:
            return
        self._fraction = min(fraction, 1.0)
        elapsed_s = time.perf_counter() - self._engine_began_s
        for tell in (self._listeners.on_progress, self._bar):
            if tell is not None:
                tell(self._fraction, elapsed_s * (1 - self._fraction) / self._fraction)

    def _transcript(self) -> Transcript:
        return Transcript(
            text=join_text(self._segments),
            segments=list(self._segments),
            language=self._language,
            language_probability=self._language_probability,
            duration_s=self._audio.duration_s,
            timings=self.timings(),
            options=self._options,
            model=self._model_name,
            dropped=self._dropped,
            damage=self._audio.damage,
            n_short_windows=self._n_short,
            n_redone_windows=self._n_redone,
        )


def _label(audio: AudioLike) -> str:
    """Return what a progress bar calls the audio: the name of its file, where it has one."""
    return Path(os.fsdecode(audio)).name if isinstance(audio, (str, os.PathLike)) else "audio"


def _check_timeout(timeout_s: Optional[float]) -> None:
    holds = timeout_s is None or 0 < as_number(timeout_s) < math.inf
    check("timeout_s", timeout_s, holds, "seconds above 0, or None")


def _check_listeners(**listeners: Any) -> None:
    for name, listener in listeners.items():
        if listener is not None and not callable(listener):
            raise OptionError(name, listener, "something to call, or None")


def _open_engine(
    file: _core.ModelFile, engine: str, device: str, device_index: int, cpu_threads: int, flash_attention: bool
) -> tuple[Engine, Optional[CoreModel]]:
    if engine == "edge" and device not in ("auto", "cpu"):
        raise OptionError("device", device, "cpu: the engine edge runs on CPUs; engine='ggml' knows GPUs")
    if engine == "edge" or (engine == "auto" and not _wants_gpu(device)):
        try:
            return _open_edge(file, cpu_threads)
        except UnsupportedModelError:
            if engine == "edge":
                raise
    _check_runs_on_ggml(file)
    n_threads = cpu_threads or _core.usable_cpus()
    tools: dict[str, Any] = {"hear_speech": speech_stream, "find_silence": SilenceScan}
    return GgmlEngine(file, device, device_index, n_threads, flash_attention, **tools), None


def _wants_gpu(device: str) -> bool:
    if device != "auto":
        return device != "cpu"
    if not any(backend != "cpu" for backend in build_info().ggml_backends):
        return False
    return any(found["kind"] == "gpu" for found in load_ggml().devices())


def _open_edge(file: _core.ModelFile, cpu_threads: int) -> tuple[EdgeEngine, CoreModel]:
    isa, n_threads = "auto", cpu_threads or _core.usable_cpus()
    profile = find_profile(file.hparams) if cpu_threads == 0 else None
    tuned = profile.for_type(file.ftype) if profile is not None else None
    if tuned is not None:
        isa, n_threads = tuned.isa, tuned.n_threads
    model = CoreModel(file, isa, n_threads)
    engine = EdgeEngine(
        model,
        file.vocabulary,
        n_threads=n_threads,
        hear_speech=speech_stream,
        find_silence=SilenceScan,
        check_batch=model.check_batch,
        shortens=is_quantised(file.ftype),
    )
    return engine, model


def _check_runs_on_ggml(file: _core.ModelFile) -> None:
    """whisper.cpp's convolution asserts an f16 kernel and ends the process on an f32 file."""
    if file.ftype == "f32":
        raise UnsupportedModelError(
            f"{file.path} holds f32 weights, which whisper.cpp loads but cannot run: give a compute_type such as f16"
            " or int8, or engine='edge'"
        )
