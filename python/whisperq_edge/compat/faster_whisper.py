"""faster-whisper's ``WhisperModel`` over this package: ``segments, info = model.transcribe("speech.wav")``.

As there, ``segments`` is a generator and the work happens while it is consumed: segments come out as they are ready.
Closing the generator early ends the work. Options that the engine cannot honour raise ``OptionError``.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

from .._audio import AudioLike, to_pcm
from .._errors import CancelledError
from .._model import CancelToken
from .._model import WhisperModel as _WhisperModel
from .._options import TranscribeOptions
from .._result import Segment, Transcript
from .._vad import VadOptions

__all__ = ["Segment", "TranscriptionInfo", "VadOptions", "WhisperModel", "decode_audio"]


@dataclass(frozen=True)
class TranscriptionInfo:
    """What is known before the first segment.

    Attributes:
        language: code.
        language_probability: 0 to 1; 1.0 when the language was given.
        duration: seconds of audio.
        duration_after_vad: seconds that the voice detector left; equal to ``duration`` without it.
        all_language_probs: (code, probability) of every language, likeliest first; None when the language was given.
        transcription_options: the options of the call.
        vad_options: those of the voice detector, or None without it.
    """

    language: str
    language_probability: float
    duration: float
    duration_after_vad: float
    all_language_probs: Optional[list[tuple[str, float]]]
    transcription_options: TranscribeOptions
    vad_options: Optional[VadOptions]


def decode_audio(input_file: AudioLike, sampling_rate: int = 16000) -> npt.NDArray[np.float32]:
    """Samples of an audio file: float32, mono, 16 kHz (the only rate that Whisper takes)."""
    if sampling_rate != 16000:
        raise ValueError(f"sampling_rate={sampling_rate} is not possible: Whisper takes 16000")
    return to_pcm(input_file).samples


@dataclass(frozen=True)
class _Started:
    """The language is known: (code, probability), likeliest first, and the seconds of audio, and of what is left of it
    to hear."""

    ranking: list[tuple[str, float]]
    duration_s: float
    heard_s: float


class WhisperModel:
    """faster-whisper's class of this name. See ``whisperq_edge.WhisperModel`` for the arguments."""

    def __init__(
        self,
        model_size_or_path: Union[str, os.PathLike[str]],
        device: str = "auto",
        device_index: int = 0,
        compute_type: str = "default",
        cpu_threads: int = 0,
        **options: Any,
    ) -> None:
        self.model = _WhisperModel(model_size_or_path, device, device_index, compute_type, cpu_threads, **options)

    @property
    def supported_languages(self) -> list[str]:
        """Codes of the languages that the model knows."""
        return self.model.supported_languages

    def transcribe(
        self, audio: AudioLike, language: Optional[str] = None, task: str = "transcribe", **options: Any
    ) -> tuple[Iterable[Segment], TranscriptionInfo]:
        """Segments (a generator) and what is known about the audio before the first one."""
        chosen = TranscribeOptions.from_arguments({"language": language, "task": task, **options})
        worker = _Worker(self.model, audio, {"language": language, "task": task, **options})
        started = worker.wait_for_start()
        info = TranscriptionInfo(
            language=started.ranking[0][0],
            language_probability=started.ranking[0][1],
            duration=started.duration_s,
            duration_after_vad=started.heard_s,
            all_language_probs=started.ranking if language is None else None,
            transcription_options=chosen,
            vad_options=VadOptions.from_any(chosen.vad_parameters) if chosen.vad_filter else None,
        )
        segments = worker.segments()
        # A generator that is dropped before its first step never reaches its own `finally`.
        weakref.finalize(segments, worker.cancel)
        return segments, info


class _Worker:
    """Runs one call on a thread of its own and hands over what it reports."""

    def __init__(self, model: _WhisperModel, audio: AudioLike, options: dict[str, Any]) -> None:
        self._reports: queue.SimpleQueue[Union[_Started, Segment, Transcript, BaseException]] = queue.SimpleQueue()
        self._cancel = CancelToken()
        self._held: list[Union[Segment, Transcript, BaseException]] = []
        arguments = (model, audio, options)
        self._thread = threading.Thread(target=self._run, args=arguments, name="whisperq-edge")
        self._thread.start()

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

    def wait_for_start(self) -> _Started:
        report = self._reports.get()
        if isinstance(report, _Started):
            return report
        if isinstance(report, BaseException):
            raise report
        self._held.append(report)
        assert isinstance(report, Transcript)  # an audio without speech ends before a language is known
        return _Started([(report.language, report.language_probability)], report.duration_s, 0.0)

    def segments(self) -> Generator[Segment, None, None]:
        """The segments as they come. Closing the generator cancels the call."""
        try:
            while True:
                report = self._held.pop() if self._held else self._reports.get()
                if isinstance(report, Segment):
                    yield report
                elif isinstance(report, (CancelledError, Transcript)):
                    return
                elif isinstance(report, BaseException):
                    raise report
        finally:
            self.cancel()
            self._thread.join()
