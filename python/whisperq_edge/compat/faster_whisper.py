"""faster-whisper's face over this package: ``segments, info = WhisperModel("base.en").transcribe("speech.wav")``.

As there, ``segments`` is a generator that yields each segment when it is ready. Closing the generator early ends the
work. ``BatchedInferencePipeline`` decodes chunks of speech together (engine ``edge``); ``detect_language`` and
``decode_audio`` are there as well. Arguments that cannot be honoured raise ``OptionError``, which is a ``ValueError``:

- ``device_index``: one device; a list of several is refused.
- ``num_workers``: any number is taken. Threads share one model, so that the number changes neither memory nor the
  number of callers.
- ``files``, ``revision`` and ``use_auth_token`` with a token: download the model with ``huggingface_hub`` and give its
  folder; a token may stand in ``$HF_TOKEN``.
- CTranslate2's own arguments of the model (``inter_threads``, …) are refused. Ours, ``engine`` and
  ``flash_attention``, are taken.
- ``detect_language(features=…)``: give audio instead.
- ``decode_audio`` at another rate than 16 kHz.
- ``vad_parameters`` where no voice detection uses them; faster-whisper ignores them.
- A name that is no option; Python would raise a ``TypeError``.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import threading
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, Optional, Union, overload

import numpy as np

from .._audio.mono import MAX_DURATION_S
from .._audio.pcm import AudioLike, first_samples, to_pcm, to_stereo
from .._engines.first_pass import vad_for_batches
from .._errors import CancelledError, OptionError, UnsupportedModelError
from .._model import CancelToken
from .._model import WhisperModel as _WhisperModel
from .._options import (
    APPEND_PUNCTUATIONS,
    DEFAULT_TEMPERATURES,
    PREPEND_PUNCTUATIONS,
    TranscribeOptions,
    given_options,
)
from .._result import Segment, Transcript
from .._system.arrays import Floats
from .._system.checks import check_whole
from .._vad_options import VadOptions
from .._whisper.units import SAMPLE_RATE, WINDOW_SAMPLES

__all__ = [
    "BatchedInferencePipeline",
    "Segment",
    "TranscriptionInfo",
    "VadOptions",
    "WhisperModel",
    "decode_audio",
]

_LOG = logging.getLogger("whisperq_edge")
_OWN_ARGUMENTS = ("engine", "flash_attention")
Clips = Union[str, Iterable[float], Iterable[Mapping[str, float]]]


@dataclass(frozen=True)
class TranscriptionInfo:
    """The facts that are known before the first segment.

    Attributes:
        language: code.
        language_probability: 0 to 1; 1.0 when the language was given.
        duration: seconds of audio.
        duration_after_vad: seconds that voice detection left; 0 where it found no speech. Without voice detection it
            equals ``duration``, and so it does in batches, because their chunks may hold pauses.
        all_language_probs: (code, probability) of every language, likeliest first; None when the language was given.
        transcription_options: the options of the call.
        vad_options: the options of voice detection, or None without it.
    """

    language: str
    language_probability: float
    duration: float
    duration_after_vad: float
    all_language_probs: Optional[list[tuple[str, float]]]
    transcription_options: TranscribeOptions
    vad_options: Optional[VadOptions]


@overload
def decode_audio(
    input_file: AudioLike, sampling_rate: int = SAMPLE_RATE, split_stereo: Literal[False] = False
) -> Floats: ...


@overload
def decode_audio(
    input_file: AudioLike, sampling_rate: int = SAMPLE_RATE, *, split_stereo: Literal[True]
) -> tuple[Floats, Floats]: ...


def decode_audio(
    input_file: AudioLike, sampling_rate: int = SAMPLE_RATE, split_stereo: bool = False
) -> Union[Floats, tuple[Floats, Floats]]:
    """Return the samples of an audio file: float32, mono, 16 kHz (the only rate that Whisper takes).

    Args:
        split_stereo: return ``(left, right)`` instead of their mean; of one channel, that channel twice.

    Raises:
        OptionError: the rate is another one.
        AudioError: the audio cannot be used, or there are more than two channels to split.
        OSError: the file cannot be read.
    """
    if sampling_rate != SAMPLE_RATE:
        raise OptionError("sampling_rate", sampling_rate, f"{SAMPLE_RATE}, which Whisper takes")
    return to_stereo(input_file) if split_stereo else to_pcm(input_file).samples


@dataclass(frozen=True)
class _Started:
    """The language is known: (code, probability), likeliest first, and the seconds of audio, and of what is left of it
    to hear."""

    ranking: list[tuple[str, float]]
    duration_s: float
    heard_s: float


class WhisperModel:
    """faster-whisper's class of this name.

    ``whisperq_edge.WhisperModel`` describes the arguments, and the top of this module the differences.
    """

    def __init__(
        self,
        model_size_or_path: Union[str, os.PathLike[str]],
        device: str = "auto",
        device_index: Union[int, Sequence[int]] = 0,
        compute_type: str = "default",
        cpu_threads: int = 0,
        num_workers: int = 1,
        download_root: Optional[str] = None,
        local_files_only: bool = False,
        files: Optional[Mapping[str, Any]] = None,
        revision: Optional[str] = None,
        use_auth_token: Union[str, bool, None] = None,
        **model_kwargs: Any,
    ) -> None:
        _check_workers(num_workers)
        _check_unset("files", files, "None: give the folder that the files are in")
        _check_unset("revision", revision, "None: download it with huggingface_hub and give the folder")
        if use_auth_token is not True:
            _check_unset("use_auth_token", use_auth_token, "None: the token of $HF_TOKEN or of a login is used")
        for name, value in model_kwargs.items():
            if name not in _OWN_ARGUMENTS:
                raise OptionError(name, value, f"no such argument; ours are {' and '.join(_OWN_ARGUMENTS)}")
        self.model = _WhisperModel(
            model_size_or_path,
            device,
            _one_device(device_index),
            compute_type,
            cpu_threads,
            download_root=download_root,
            local_files_only=local_files_only,
            **model_kwargs,
        )

    @property
    def supported_languages(self) -> list[str]:
        """Return the codes of the languages that the model knows."""
        return self.model.supported_languages

    def transcribe(
        self,
        audio: AudioLike,
        language: Optional[str] = None,
        task: str = "transcribe",
        log_progress: bool = False,
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
        *,
        carry_initial_prompt: bool = False,
        seed: Optional[int] = None,
        audio_ctx: Union[str, int, None] = None,
        drop_silence: Optional[bool] = None,
        **unknown: NoReturn,
    ) -> tuple[Iterable[Segment], TranscriptionInfo]:
        """Return segments (a generator) and the facts that are known before the first one.

        ``whisperq_edge.TranscribeOptions`` describes the options. The options after ``language_detection_segments`` are
        ours.
        """
        return self._start(audio, given_options(locals()))

    def _start(self, audio: AudioLike, given: dict[str, Any]) -> tuple[Iterable[Segment], TranscriptionInfo]:
        chosen = TranscribeOptions.from_arguments(given)
        # As they were checked: a generator of tokens can be read once.
        worker = _Worker(self.model, audio, {name: getattr(chosen, name) for name in given})
        started = worker.wait_for_start(cuts=chosen.vad_filter)
        info = TranscriptionInfo(
            language=started.ranking[0][0],
            language_probability=started.ranking[0][1],
            duration=started.duration_s,
            duration_after_vad=started.heard_s,
            all_language_probs=started.ranking if chosen.language is None else None,
            transcription_options=chosen,
            vad_options=_vad_options(chosen),
        )
        segments = worker.segments()
        # A generator that is dropped before its first step never reaches its own `finally`.
        dropped = weakref.finalize(segments, worker.cancel)
        dropped.atexit = False  # type: ignore[misc]  # `_end_workers` is for the exit
        return segments, info

    def detect_language(
        self,
        audio: Optional[AudioLike] = None,
        features: Optional[Any] = None,
        vad_filter: bool = False,
        vad_parameters: Union[dict[str, Any], VadOptions, None] = None,
        language_detection_segments: int = 1,
        language_detection_threshold: float = 0.5,
    ) -> tuple[str, float, list[tuple[str, float]]]:
        """Return the language of ``audio``, its probability, and the probabilities of all languages, likeliest first.

        Audio that is empty, also after voice detection, gives the languages of silence, with a warning on the logger.

        Args:
            features: None; faster-whisper takes a spectrogram here.
            vad_filter: detect the language of speech only.
            vad_parameters: a ``VadOptions`` or a dict of its fields.
            language_detection_segments: the number of windows of 30 s to use.
            language_detection_threshold: probability above which a language is taken at once.

        Raises:
            UnsupportedModelError: the model knows English only.
            AudioError: the audio cannot be used.
            OptionError: an option has a value that is not possible.
        """
        _check_unset("features", features, "None: give the audio")
        if audio is None:
            raise OptionError("audio", audio, "a path, bytes, an open file or an array of samples")
        if not self.model.is_multilingual:
            raise UnsupportedModelError(f"{self.model.model_path} is English-only and knows no other language")
        options = {
            "vad_filter": vad_filter,
            "vad_parameters": vad_parameters,
            "language_detection_segments": language_detection_segments,
            "language_detection_threshold": language_detection_threshold,
            "drop_silence": False,  # of silence, too, something is the likeliest
        }
        n_windows = TranscribeOptions.from_arguments(options).language_detection_segments
        heard = audio if vad_filter else first_samples(audio, n_windows * WINDOW_SAMPLES)
        ranking = self._languages(heard, options)
        if not ranking:
            ranking = self._languages_of_silence()
        return ranking[0][0], ranking[0][1], ranking

    def _languages_of_silence(self) -> list[tuple[str, float]]:
        """Return an answer where there is nothing to hear, because faster-whisper has one."""
        _LOG.warning(
            "detect_language: the audio is empty, or voice detection left nothing of it; the languages are those of"
            " silence and mean nothing"
        )
        return self._languages(np.zeros(SAMPLE_RATE, np.float32), {"drop_silence": False})

    def _languages(self, audio: AudioLike, options: dict[str, Any]) -> list[tuple[str, float]]:
        """Those that a call finds, which ends there."""
        found: list[tuple[str, float]] = []
        cancel = CancelToken()

        def on_start(ranking: list[tuple[str, float]], duration_s: float, heard_s: float) -> None:
            found.extend(ranking)
            cancel.cancel()

        with contextlib.suppress(CancelledError):
            self.model._transcribe(audio, options, on_start=on_start, cancel=cancel)
        return found


class BatchedInferencePipeline:
    """faster-whisper's class of this name: a model that decodes chunks of speech together.

    Args:
        model: a ``WhisperModel`` of this module, on the engine ``edge``.
    """

    def __init__(self, model: WhisperModel) -> None:
        if not isinstance(model, WhisperModel):
            raise OptionError("model", model, f"a WhisperModel of {__name__}")
        self.model = model

    def transcribe(
        self,
        audio: AudioLike,
        language: Optional[str] = None,
        task: str = "transcribe",
        log_progress: bool = False,
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
        without_timestamps: bool = True,
        max_initial_timestamp: float = 1.0,
        word_timestamps: bool = False,
        prepend_punctuations: str = PREPEND_PUNCTUATIONS,
        append_punctuations: str = APPEND_PUNCTUATIONS,
        multilingual: bool = False,
        vad_filter: bool = True,
        vad_parameters: Union[VadOptions, Mapping[str, Any], None] = None,
        max_new_tokens: Optional[int] = None,
        chunk_length: Optional[int] = None,
        clip_timestamps: Optional[Clips] = None,
        hallucination_silence_threshold: Optional[float] = None,
        batch_size: int = 8,
        hotwords: Optional[str] = None,
        language_detection_threshold: Optional[float] = 0.5,
        language_detection_segments: int = 1,
        *,
        carry_initial_prompt: bool = False,
        seed: Optional[int] = None,
        audio_ctx: Union[str, int, None] = None,
        drop_silence: Optional[bool] = None,
        **unknown: NoReturn,
    ) -> tuple[Iterable[Segment], TranscriptionInfo]:
        """Transcribe as ``WhisperModel.transcribe`` does, with faster-whisper's defaults for batches.

        Args:
            batch_size: chunks that are decoded together.
            vad_filter: cut chunks where somebody speaks. False: take all of the audio, in parts of 90 s.
            without_timestamps: make a segment of each chunk. False: the model finds segments within chunks.
            clip_timestamps: the chunks, in place of those of ``vad_filter``: dicts of ``start`` and ``end`` in seconds,
                or clips as ``WhisperModel.transcribe`` takes them.
        """
        given = given_options(locals())
        if clip_timestamps is None and vad_filter:
            del given["clip_timestamps"]
        else:
            clips = "0" if clip_timestamps is None else _flat(clip_timestamps)
            # One clip of all of the audio: the engine's own "0" means that nobody chose, and so voice detection.
            given["clip_timestamps"] = (0.0, float(MAX_DURATION_S)) if clips in ("0", [0]) else clips
            given["vad_filter"] = False
        return self.model._start(audio, given)


def _vad_options(options: TranscribeOptions) -> Optional[VadOptions]:
    """Return what the voice detector goes by, which for batches is not what it goes by for a whole audio."""
    if not options.vad_filter:
        return None
    return VadOptions.from_any(options.vad_parameters) if options.batch_size is None else vad_for_batches(options)


def _flat(clips: Clips) -> Any:
    """Clips as ``TranscribeOptions`` has them, which judges them."""
    if isinstance(clips, str) or not isinstance(clips, Iterable):
        return clips
    several: list[Any] = list(clips)
    if not several:
        raise OptionError("clip_timestamps", clips, "one clip or more, or None for all of the audio")
    if all(isinstance(clip, Mapping) and {*clip} >= {"start", "end"} for clip in several):
        return [clip[edge] for clip in several for edge in ("start", "end")]
    return several


def _check_workers(num_workers: int) -> None:
    check_whole("num_workers", num_workers, 1, 2**31 - 1, "a whole number from 1 on")


def _check_unset(name: str, value: object, allowed: str) -> None:
    if value is not None:
        raise OptionError(name, value, allowed)


def _one_device(device_index: Union[int, Sequence[int]]) -> int:
    if not isinstance(device_index, (list, tuple)):
        return device_index  # type: ignore[return-value]
    if len(device_index) != 1:
        raise OptionError("device_index", device_index, "one device: a model runs on one")
    return int(device_index[0])


class _Worker:
    """A call on a thread of its own, which hands over what the call reports.

    The thread is a daemon so that a generator that is kept does not hold the process up until all audio is transcribed:
    the interpreter joins other threads before it closes any generator. `_end_workers` ends the thread in order.
    """

    def __init__(self, model: _WhisperModel, audio: AudioLike, options: dict[str, Any]) -> None:
        self._reports: queue.SimpleQueue[Union[_Started, Segment, Transcript, BaseException]] = queue.SimpleQueue()
        self._cancel = CancelToken()
        self._held: list[Union[Segment, Transcript, BaseException]] = []
        arguments = (model, audio, options)
        self._thread = threading.Thread(target=self._run, args=arguments, name="whisperq-edge", daemon=True)
        self._thread.start()
        _WORKERS.add(self)

    def _run(self, model: _WhisperModel, audio: AudioLike, options: dict[str, Any]) -> None:
        def on_start(ranking: list[tuple[str, float]], duration_s: float, heard_s: float) -> None:
            self._reports.put(_Started(ranking, duration_s, heard_s))

        try:
            self._reports.put(
                model._transcribe(audio, options, on_start=on_start, on_segment=self._reports.put, cancel=self._cancel)
            )
        except BaseException as error:
            self._reports.put(error)

    def cancel(self) -> None:
        self._cancel.cancel()

    def end(self) -> None:
        """Cancel the call and wait for its thread, which stops within a window."""
        self.cancel()
        self._thread.join()

    def wait_for_start(self, cuts: bool) -> _Started:
        """``cuts``: voice detection chooses what is heard."""
        try:
            report = self._reports.get()
        except BaseException:  # Ctrl-C: nobody is left who would listen
            self.cancel()
            raise
        if isinstance(report, _Started):
            return report
        if isinstance(report, BaseException):
            raise report
        self._held.append(report)
        assert isinstance(report, Transcript)  # an audio without speech ends before a language is known
        heard_s = 0.0 if cuts else report.duration_s
        return _Started([(report.language, report.language_probability)], report.duration_s, heard_s)

    def segments(self) -> Generator[Segment, None, None]:
        """Yield the segments as they come. Closing the generator cancels the call.

        Raises:
            CancelledError: the process ends, and segments are missing.
        """
        try:
            while True:
                report = self._held.pop() if self._held else self._reports.get()
                if isinstance(report, Segment):
                    yield report
                elif isinstance(report, Transcript):
                    return
                elif isinstance(report, BaseException):
                    raise report
        finally:
            self.end()


_WORKERS: weakref.WeakSet[_Worker] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    """End the calls whose generators are still kept when the interpreter exits."""
    workers = list(_WORKERS)
    for worker in workers:
        worker.cancel()
    for worker in workers:
        worker.end()
