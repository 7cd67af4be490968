"""The `edge` engine behind the engine face: options by faster-whisper's names, windows decoded by our own kernels.

The loop over the windows is Python (``longform``); what a window costs is native: its encoding, its decoding, its
alignment. This module is what lies between: which tokens a window begins with, which temperature comes next, in which
language, and over how much of the window the encoder has to run.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Callable, NamedTuple, Optional, Protocol, TypeVar, Union

import numpy as np
import numpy.typing as npt

from .._audio.samples import Samples, StoppedError, samples_of
from .._audio.vad import SpeechScan
from .._audio.window_mel import LoudestMel, WindowMel
from .._errors import OptionError
from .._options import TranscribeOptions
from .._result import Dropped, EngineResult, Segment, StageTime, compression_ratio
from .._vad_options import VadOptions
from .._whisper.tokenizer import Tokenizer, Vocabulary
from .._whisper.units import FRAMES_PER_WINDOW, HOP_SAMPLES
from .evidence import ENOUGH, SpeechMarks, loud_windows_of_speech, may_be_believed, why_not_believed
from .longform import (
    Answer,
    Chunk,
    Prompt,
    Region,
    Step,
    Window,
    frames_per_window,
    needs_fallback,
    prefix_tokens,
    regions_of_clips,
    regions_of_speech,
    transcribe_in_batches,
    transcribe_sequentially,
    window_tokens,
)
from .word_times import Path, alignment_heads

__all__ = [
    "AlignRequest",
    "DecodeOptions",
    "EdgeEngine",
    "EdgeResult",
    "FindSilence",
    "HearSpeech",
    "NativeModel",
    "SilenceFinder",
    "SpeechStream",
    "WindowRequest",
]

Floats = npt.NDArray[np.float32]
_T = TypeVar("_T")

_AUTO_CTX_MARGIN = 128  # audio tokens (2.56 s) that audio_ctx="auto" encodes behind the end of the audio
_FRAMES_PER_AUDIO_TOKEN = 2
_SILENCE = "silence"


# ---- What is native --------------------------------------------------------------------------------------------------


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

    def listen(self, audio_features: Floats, should_stop: Callable[[], bool]) -> Any: ...
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


# ---- The engine ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EdgeResult(EngineResult):
    """``EngineResult``, and how ``audio_ctx`` went.

    Attributes:
        n_short_windows: windows that ``audio_ctx`` encoded the beginning of only.
        n_redone_windows: of these, those that looked wrong and were done again in full.
    """

    n_short_windows: int = 0
    n_redone_windows: int = 0


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


class EdgeEngine:
    """A model on our own kernels.

    Args:
        native: the model.
        vocabulary: bytes of the tokens by id, as ``_core.ModelFile.vocabulary`` has them.
        n_threads: that ``native`` runs on; the spectrogram takes as many.
        hear_speech: the voice detector, for ``vad_filter`` and to cut audio into batches. None: regions are cut every
            90 s.
        find_silence: spans that nothing can be heard in, by voice detection and energy both; windows within one are not
            decoded, and text is checked against the voice detector (``evidence``), unless ``drop_silence`` is False or
            ``vad_filter`` has cut the audio already. None: everything is decoded and believed, as openai/whisper does.
            Needs ``hear_speech``.
        check_batch: asked before windows are encoded. None: memory runs out where it does.
    """

    name = "edge"
    device = "cpu"

    def __init__(
        self,
        native: NativeModel,
        vocabulary: Sequence[bytes],
        *,
        n_threads: int = 0,
        hear_speech: Optional[HearSpeech] = None,
        find_silence: Optional[FindSilence] = None,
        check_batch: Optional[CheckBatch] = None,
    ) -> None:
        self.n_threads = n_threads
        self._native = native
        self._hparams = dict(native.hparams)
        self._vocabulary = Vocabulary(vocabulary, self._hparams["n_vocab"])
        self._hear_speech = hear_speech
        self._find_silence = find_silence
        self._check_batch = check_batch

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
    ) -> EdgeResult:
        """Runs over ``audio`` (float32, 16 kHz mono), twice: a first pass finds what has to be known of the whole, then
        windows are read as they are decoded. Segments have times in seconds and ids from 0.

        Args:
            clips_s: the parts to hear, in seconds; empty: all; None: those of the options.
            on_languages: gets (code, probability), likeliest first, before the first segment.
            on_progress: gets the fraction that is done.
            should_stop: ends the call; what was reported until then stands.

        Raises:
            AudioError: the audio cannot be used, or changed between the passes.
        """
        call = _Call(self._native, self._hparams, self._vocabulary, options, samples_of(audio), should_stop)
        call.check_batch = self._check_batch
        try:
            is_clipped = options.is_clipped if clips_s is None else bool(clips_s)
            call.hear_all(self.n_threads, self._hear_speech, self._find_silence, is_clipped)
            if clips_s is None and is_clipped:
                clips_s = options.clips_s(call.duration_s)
            if call.n_samples == 0 or (is_clipped and not clips_s):
                return call.result(stopped=False)
            clips = _clips(clips_s or (), call.n_frames)
            if not call.is_silent_throughout(clips):
                on_languages(call.choose_language(clips))
            for step in self._steps(call, clips):
                for segment in step.segments:
                    on_segment(segment)
                on_progress(min(step.seek / max(call.n_frames, 1), 1.0))
        except StoppedError:
            return call.result(stopped=True)
        except KeyboardInterrupt as interrupt:
            return replace(call.result(stopped=True), interrupt=interrupt)
        return call.result(stopped=False)

    def _steps(self, call: _Call, clips: list[Chunk]) -> Iterator[Step]:
        prompt = Prompt(call.tokenizer, call.options, self._hparams["n_text_ctx"])
        if call.options.batch_size is None:
            return transcribe_sequentially(call.decode, call.options, prompt, clips, call.n_frames, call.is_silent)
        regions = regions_of_clips(clips, call.options) if call.regions is None else call.regions
        return transcribe_in_batches(
            call.decode, call.options, prompt, regions, call.n_frames, call.is_silent, call.keep_from
        )

    def check(self, options: TranscribeOptions) -> None:
        """Raises ``OptionError`` for the first option that this engine cannot honour."""
        n_vocab, most_tokens = self._hparams["n_vocab"], self._hparams["n_text_ctx"] // 2
        _check("chunk_length", options.chunk_length, (options.chunk_length or 1) <= 30, "seconds up to 30, or None")
        _check(
            "max_new_tokens",
            options.max_new_tokens,
            (options.max_new_tokens or 0) <= most_tokens,
            f"up to {most_tokens}, half of the model's text context, or None",
        )
        penalty = options.length_penalty
        _check("length_penalty", penalty, penalty is None or 0 <= penalty <= 1, "0 to 1, or None")
        if options.hallucination_silence_threshold is not None:
            has_words = options.word_timestamps
            _check(
                "hallucination_silence_threshold",
                options.hallucination_silence_threshold,
                has_words,
                "None without word_timestamps, which it goes by",
            )
        if options.batch_size is not None:
            _check(
                "hallucination_silence_threshold",
                options.hallucination_silence_threshold,
                options.hallucination_silence_threshold is None,
                "None with a batch_size: chunks are not decoded again",
            )
        for token in options.suppress_tokens or ():
            _check("suppress_tokens", token, -1 <= token < n_vocab, f"token ids from -1 to {n_vocab - 1}")
        if options.initial_prompt is not None and not isinstance(options.initial_prompt, str):
            for token in options.initial_prompt:
                _check("initial_prompt", token, 0 <= token < n_vocab, f"token ids from 0 to {n_vocab - 1}")


def _vad_for_batches(options: TranscribeOptions) -> VadOptions:
    """faster-whisper's options for batches: no span is longer than a window, and short pauses part spans."""
    window_s = frames_per_window(options) / 100
    if options.vad_parameters is None:
        return VadOptions(min_silence_duration_ms=160, max_speech_duration_s=window_s)
    return replace(VadOptions.from_any(options.vad_parameters), max_speech_duration_s=window_s)


def _check(name: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise OptionError(name, value, f"{allowed} (engine edge)")


def _clips(clips_s: Sequence[tuple[float, float]], n_frames: int) -> list[Chunk]:
    """The clips in frames, within the audio; without any, all of it."""
    if not clips_s:
        return [(0, n_frames)]
    edges = [(round(start * 100), min(round(end * 100), n_frames)) for start, end in clips_s]
    return [(start, end - start) for start, end in edges if start < end]


# ---- One call --------------------------------------------------------------------------------------------------------


class _Clock:
    """Time and runs of the stages. What it takes to decode the audio meanwhile is no part of them."""

    def __init__(self, audio: Samples) -> None:
        self.stages: dict[str, StageTime] = {}
        self._audio = audio

    @contextmanager
    def timed(self, stage: str, runs: int = 1) -> Iterator[None]:
        began_s, decoded_ms = time.perf_counter(), self._audio.decode_ms
        try:
            yield
        finally:
            ms = (time.perf_counter() - began_s) * 1000 - (self._audio.decode_ms - decoded_ms)
            self.add(stage, max(ms, 0.0), runs)

    def add(self, stage: str, ms: float, runs: int) -> None:
        self.stages[stage] = self.stages.get(stage, StageTime()) + StageTime(ms, runs)


class _Call:
    """One ``transcribe``: decodes windows of one audio."""

    _mel: WindowMel

    def __init__(
        self,
        native: NativeModel,
        hparams: Mapping[str, int],
        vocabulary: Vocabulary,
        options: TranscribeOptions,
        audio: Samples,
        should_stop: Callable[[], bool],
    ) -> None:
        self.options = options
        self.tokenizer = Tokenizer(vocabulary, options.language, options.task)
        self.regions: Optional[list[Region]] = None  # that voice detection has cut for batches
        self._vocabulary = vocabulary
        self._native = native
        self._hparams = hparams
        self._audio = audio
        self._should_stop = should_stop
        self._clock = _Clock(audio)
        self._heads = alignment_heads(hparams)
        self._silence: list[tuple[int, int]] = []
        self._marks: Optional[SpeechMarks] = None  # where text is checked against the voice detector
        self._hear_speech: Optional[HearSpeech] = None
        self._n_speech: dict[int, int] = {}  # windows of speech by the first frame, of what is in hand
        self._dropped: list[Dropped] = []
        self._short_mels: dict[int, Floats] = {}  # of windows that may be done again: the audio has gone on meanwhile
        self._audios: dict[int, Any] = {}  # of windows that may be decoded again with timestamps, by the first frame
        self._n_short = 0
        self._n_redone = 0
        self.check_batch: Optional[CheckBatch] = None

    @property
    def n_frames(self) -> int:
        return self._mel.n_frames

    @property
    def n_samples(self) -> int:
        return self._audio.size

    @property
    def duration_s(self) -> float:
        return self._audio.duration_s

    def result(self, stopped: bool) -> EdgeResult:
        return EdgeResult(
            self._clock.stages,
            stopped,
            _joined(self._dropped),
            n_short_windows=self._n_short,
            n_redone_windows=self._n_redone,
        )

    def _go_on(self) -> None:
        if self._should_stop():
            raise StoppedError

    # -- The first pass

    def hear_all(
        self, n_threads: int, hear: Optional[HearSpeech], find: Optional[FindSilence], is_clipped: bool
    ) -> None:
        """Goes over the audio once: how loud its spectrogram is, and as far as the options ask for it where it is
        silent and where speech is to be cut into chunks."""
        loudest = LoudestMel(self._hparams["n_mels"], n_threads=n_threads)
        drops = self.options.drop_silence is not False and not self.options.vad_filter
        silence = find() if find is not None and hear is not None and drops else None
        cuts = self.options.batch_size is not None and not is_clipped and hear is not None
        scan = SpeechScan(_vad_for_batches(self.options)) if cuts else None
        stream = hear() if hear is not None and (silence is not None or cuts) else None
        if silence is not None:
            self._marks, self._hear_speech = SpeechMarks(), hear

        def listen(samples: Floats, is_last: bool = False) -> None:
            if stream is None:
                return
            with self._clock.timed("vad", runs=int(is_last)):
                probabilities = stream.finish() if is_last else stream.feed(samples)
                if silence is not None:
                    silence.push(samples, probabilities)
                if self._marks is not None:
                    self._marks.push(probabilities)
                if scan is not None:
                    scan.push(probabilities)

        self._go_on()
        for block in self._audio.blocks():
            with self._clock.timed("mel", runs=0):
                loudest.push(block)
            listen(block)
            self._go_on()
        listen(np.empty(0, np.float32), is_last=True)
        with self._clock.timed("mel"):
            loudest.finish()
            self._mel = WindowMel(self._audio, self._hparams["n_mels"], n_threads=n_threads, loudest=loudest)
        if silence is not None:
            self._silence = [(start, end) for start, end, _ in silence.finish()]
            self._hear_short_silence()
        if scan is not None:
            self.regions = regions_of_speech(scan.finish(self._audio.size), self.options)

    def _hear_short_silence(self) -> None:
        """Decodes audio of one window after all if the detector hears speech in it when it is loud. Its silence was
        found by its own level alone, which a single quiet word does not stand out from."""
        n_samples = self._audio.size
        is_short = n_samples <= FRAMES_PER_WINDOW * HOP_SAMPLES
        is_silent = is_short and self.is_silent_throughout([(0, self.n_frames)])
        if is_silent and self._loud_speech(0, n_samples) >= ENOUGH:
            self._silence = []

    def _loud_speech(self, start: int, end: int) -> int:
        """Windows of speech between these samples when they are loud."""
        if self._hear_speech is None:
            return 0
        stream = self._hear_speech()
        with self._clock.timed("vad"):
            return loud_windows_of_speech(
                self._audio.read(start, end),
                lambda samples: np.concatenate([stream.feed(samples), stream.finish()]),
            )

    def _check_memory(self, n_windows: int, n_ctx: int) -> None:
        if self.check_batch is not None:
            self.check_batch(n_windows, n_ctx)

    # -- Silence

    def is_silent_throughout(self, clips: Sequence[Chunk]) -> bool:
        return all(self._lies_in_silence(seek, n_frames) for seek, n_frames in clips)

    def is_silent(self, seek: int, n_frames: int) -> bool:
        """Whether a window needs no decoding; if so, it is noted as dropped."""
        if not self._lies_in_silence(seek, n_frames):
            return False
        self._dropped.append(Dropped(seek / 100, (seek + n_frames) / 100, _SILENCE))
        return True

    def _lies_in_silence(self, seek: int, n_frames: int) -> bool:
        begin, end = seek * HOP_SAMPLES, (seek + n_frames) * HOP_SAMPLES
        last = bisect.bisect_right(self._silence, (begin, math.inf)) - 1  # that begins no later
        return last >= 0 and end <= self._silence[last][1]

    def keep_from(self, frame: int) -> None:
        """Keep the audio from this frame on in reach: lanes of a batch read at several places in turn."""
        self._mel.keep_from(frame)

    # -- Language

    @property
    def _has_to_detect(self) -> bool:
        return self.options.language is None and self.tokenizer.language is not None

    def choose_language(self, clips: Sequence[Chunk]) -> list[tuple[str, float]]:
        """The language that was given, or the likeliest: (code, probability), likeliest first."""
        if not self._has_to_detect:
            return [(self.options.language or "en", 1.0)]
        ranking = self._detect_language(self._windows_to_detect_from(clips))
        self.tokenizer = self._tokenizer_of(ranking[0][0])
        return ranking

    def _windows_to_detect_from(self, clips: Sequence[Chunk]) -> list[Chunk]:
        """Up to ``language_detection_segments`` windows: the first ones of the clips that hold speech; where none does,
        the first ones that are not silent. None goes on behind the end of its clip."""
        windows = [
            (seek, min(FRAMES_PER_WINDOW, begin + n_frames - seek))
            for begin, n_frames in clips
            for seek in range(begin, begin + n_frames, FRAMES_PER_WINDOW)
        ]
        audible = [window for window in windows if not self._lies_in_silence(*window)]
        spoken = [window for window in audible if self._holds_speech(*window)]
        chosen = spoken or audible or windows or [(0, 0)]  # less than a frame of audio is no window
        return chosen[: self.options.language_detection_segments]

    def _holds_speech(self, seek: int, n_frames: int) -> bool:
        if self._marks is None:
            return True
        return self._marks.count(seek * HOP_SAMPLES, (seek + n_frames) * HOP_SAMPLES) >= ENOUGH

    def _detect_language(self, windows: Sequence[Chunk]) -> list[tuple[str, float]]:
        """faster-whisper's: listens to the windows until one is sure enough; if none is, the language that was the
        likeliest most often. One window decides alone by default, as it does for openai/whisper."""
        votes: dict[str, list[float]] = {}
        ranking: list[tuple[str, float]] = []
        for seek, n_frames in windows:
            self._check_memory(1, self._hparams["n_audio_ctx"])
            with self._clock.timed("mel"):
                # The end of the audio is none of a clip: what openai/whisper hears there it hears here.
                ends_before = seek + n_frames < self._mel.n_frames
                mel = self._mel.window(seek, n_frames if ends_before else FRAMES_PER_WINDOW)
            ranking = self._languages(self._hear(mel, self._hparams["n_audio_ctx"]))
            threshold = self.options.language_detection_threshold
            if threshold is None or ranking[0][1] > threshold:
                return ranking
            votes.setdefault(ranking[0][0], []).append(ranking[0][1])
        chosen = max(votes, key=lambda code: len(votes[code]))
        return [(chosen, max(votes[chosen])), *(entry for entry in ranking if entry[0] != chosen)]

    def _languages(self, audio: Any) -> list[tuple[str, float]]:
        self._go_on()
        with self._clock.timed("prompt"):
            logits = _whole(self._native.logits(audio, [self.tokenizer.sot], 0, self._should_stop))[0]
        scores = logits[list(self.tokenizer.language_tokens)].astype(np.float64)
        weights = np.exp(scores - scores.max())
        probabilities = (weights / weights.sum()).tolist()
        return sorted(zip(self.tokenizer.language_codes, probabilities), key=lambda entry: -entry[1])

    def _tokenizer_of(self, language: str) -> Tokenizer:
        return Tokenizer(self._vocabulary, language, self.options.task)

    # -- Windows

    def decode(self, windows: Sequence[Window]) -> list[Answer]:
        """A ``longform.WindowDecoder``."""
        lengths = [self._audio_ctx(window) for window in windows]
        full = self._hparams["n_audio_ctx"]
        if not windows[0].is_timed:
            self._short_mels, self._n_speech, self._audios = {}, {}, {}
        answers = self._decode_with_fallback(windows, lengths)
        suspects = [i for i, n_ctx in enumerate(lengths) if n_ctx < full and self._looks_wrong(windows[i], answers[i])]
        self._n_short += sum(n_ctx < full for n_ctx in lengths)
        self._n_redone += len(suspects)
        if suspects:
            redone = self._decode_with_fallback([windows[i] for i in suspects], [full] * len(suspects))
            for i, answer in zip(suspects, redone):
                answers[i] = answer
        checked = [self._checked(window, answer) for window, answer in zip(windows, answers)]
        return [self._heard_behind_prefix(window, answer) for window, answer in zip(windows, checked)]

    def _heard_behind_prefix(self, window: Window, answer: Answer) -> Answer:
        """Whisper may take the audio for said with the prefix and say no word behind it. The window is then decoded
        without the prefix, which is put in front of what that gives."""
        prefix = self._prefix(window, answer.tokenizer)
        if not prefix or any(map(str.isalnum, answer.tokenizer.decode(answer.tokens[len(prefix) :]))):
            return answer
        without = replace(window, is_first=False)
        heard = self._checked(without, self._decode_with_fallback([without], [self._hparams["n_audio_ctx"]])[0])
        if not heard.is_believed:
            return answer
        text = [token for token in prefix if token < answer.tokenizer.eot]
        begins_with_time = bool(heard.tokens) and heard.tokens[0] >= answer.tokenizer.timestamp_begin
        tokens = (heard.tokens[0], *text, *heard.tokens[1:]) if begins_with_time else (*prefix, *heard.tokens)
        return replace(heard, tokens=tokens, text=answer.tokenizer.decode(tokens).strip())

    def _checked(self, window: Window, answer: Answer) -> Answer:
        """The answer, marked where it is not believed, which is noted as dropped."""
        if window.seek not in self._n_speech:
            return answer
        why = why_not_believed(
            self._n_speech[window.seek],
            answer.text,
            answer.avg_logprob,
            answer.no_speech_prob,
            needs_fallback(answer, self.options),
            # A caller who switches one of these off wants text that the model itself doubts.
            believes_doubts=None in (self.options.no_speech_threshold, self.options.log_prob_threshold),
        )
        if why is not None and not window.is_timed:  # text of the first answer stands there
            self._dropped.append(Dropped(window.start_s, window.start_s + window.duration_s, why))
        return answer if why is None or not answer.text else replace(answer, is_believed=False)

    def _audio_ctx(self, window: Window) -> int:
        """Audio tokens to encode of a window."""
        full = self._hparams["n_audio_ctx"]
        if self.options.audio_ctx is None:
            return full
        return min(full, math.ceil(window.n_frames / _FRAMES_PER_AUDIO_TOKEN) + _AUTO_CTX_MARGIN)

    def _looks_wrong(self, window: Window, answer: Answer) -> bool:
        """Whether hearing a part of the window may have led the model astray: it did not end, repeats itself, or tells
        of times after the audio."""
        tokens, _ = window_tokens(answer.tokenizer, self.options, window, self._hparams["n_text_ctx"])
        most = min(self._sample_len, self._hparams["n_text_ctx"] + 1 - len(tokens))
        times = [token - answer.tokenizer.timestamp_begin for token in answer.tokens]
        limit = self.options.compression_ratio_threshold
        return (
            len(answer.tokens) - len(self._prefix(window, answer.tokenizer)) >= most
            or (limit is not None and answer.compression_ratio > limit)
            or max(times, default=0) * _FRAMES_PER_AUDIO_TOKEN > window.n_frames + _FRAMES_PER_AUDIO_TOKEN
        )

    @property
    def _sample_len(self) -> int:
        return self.options.max_new_tokens or self._hparams["n_text_ctx"] // 2

    def _decode_with_fallback(self, windows: Sequence[Window], lengths: Sequence[int]) -> list[Answer]:
        """openai/whisper's: the windows whose answers look wrong are decoded again, at the next temperature."""
        self._check_memory(len(windows), max(lengths))
        audios = [self._audio_of(window, n_ctx) for window, n_ctx in zip(windows, lengths)]
        tokenizers = [self._tokenizer_for(audio) for audio in audios]
        answers: dict[int, Answer] = {}
        waiting = list(range(len(windows)))
        for temperature in self.options.temperatures:
            requests = [self._request(windows[i], tokenizers[i]) for i in waiting]
            results = self._decode_at(temperature, [audios[i] for i in waiting], requests, windows[0].is_timed)
            for i, result in zip(waiting, results):
                answers[i] = self._answer(windows[i], result, temperature, tokenizers[i], audios[i])
            waiting = [i for i in waiting if self._goes_on(windows[i], answers[i])]
            if not waiting:
                break
        return [answers[i] for i in range(len(windows))]

    def _goes_on(self, window: Window, answer: Answer) -> bool:
        """Whether the window is worth decoding at the next temperature."""
        n_speech = self._n_speech.get(window.seek, ENOUGH)
        return needs_fallback(answer, self.options) and may_be_believed(n_speech, needs_fallback=True)

    def _count_speech(self, window: Window) -> None:
        """Counts the windows of speech as recorded, and made loud where those are few. Text of a ``prefix`` is not
        checked, because the caller knows what is said."""
        if self._marks is None or self._prefix(window, self.tokenizer) or window.seek in self._n_speech:
            return
        start, end = window.seek * HOP_SAMPLES, (window.seek + window.n_frames) * HOP_SAMPLES
        n_speech = self._marks.count(start, end)
        if n_speech < ENOUGH:
            n_speech = max(n_speech, self._loud_speech(start, end))
        self._n_speech[window.seek] = n_speech

    def _audio_of(self, window: Window, n_ctx: int) -> Any:
        """The window as the decoder hears it, which is kept where it may be decoded again with timestamps."""
        if window.is_timed:
            return self._audios[window.seek]
        audio = self._hear_window(window, n_ctx)
        if self.options.batch_size is not None and self.options.without_timestamps:
            self._audios[window.seek] = audio
        return audio

    def _hear_window(self, window: Window, n_ctx: int) -> Any:
        mel = self._short_mels.get(window.seek)
        if mel is None:
            with self._clock.timed("mel"):
                mel = self._mel.padded_window(window.seek, window.n_frames)
        self._count_speech(window)
        if n_ctx < self._hparams["n_audio_ctx"]:
            self._short_mels[window.seek] = mel
        return self._hear(mel, n_ctx)

    def _hear(self, mel: Floats, n_ctx: int) -> Any:
        self._go_on()
        with self._clock.timed("encode"):
            features = _whole(self._native.encode(mel, n_ctx, self._should_stop))
            self._go_on()
            return _whole(self._native.listen(features, self._should_stop))

    def _tokenizer_for(self, audio: Any) -> Tokenizer:
        """``multilingual`` (faster-whisper's) asks for the language of each window anew."""
        if not self.options.multilingual or self.tokenizer.language is None:
            return self.tokenizer
        return self._tokenizer_of(self._languages(audio)[0][0])

    def _request(self, window: Window, tokenizer: Tokenizer) -> WindowRequest:
        tokens, sot_index = window_tokens(tokenizer, self.options, window, self._hparams["n_text_ctx"])
        return WindowRequest(tokens, sot_index, window.seek, len(self._prefix(window, tokenizer)))

    def _prefix(self, window: Window, tokenizer: Tokenizer) -> tuple[int, ...]:
        return prefix_tokens(tokenizer, self.options, window, self._hparams["n_text_ctx"])

    def _decode_at(
        self, temperature: float, audios: Sequence[Any], requests: Sequence[WindowRequest], is_timed: bool
    ) -> Sequence[WindowResult]:
        self._go_on()
        asked = replace(self.options, without_timestamps=False) if is_timed else self.options
        options = _decode_options(asked, self.tokenizer, self._hparams, temperature, self._sample_len)
        results, stages = self._native.decode_windows(audios, requests, options, self._should_stop)
        self._count(stages)
        return results

    def _count(self, stages: Stages) -> None:
        for stage, (ms, runs) in stages.items():
            self._clock.add(stage, ms, runs)
        self._go_on()

    def _answer(
        self, window: Window, result: WindowResult, temperature: float, tokenizer: Tokenizer, audio: Any
    ) -> Answer:
        tokens = (*self._prefix(window, tokenizer), *result.tokens)
        text = tokenizer.decode(tokens).strip()

        def align(sot_sequence: Sequence[int], text_tokens: Sequence[int], n_audio_tokens: int) -> Path:
            request = AlignRequest(list(sot_sequence), list(text_tokens), n_audio_tokens)
            [aligned], stages = self._native.align_windows([audio], [request], self._heads, self._should_stop)
            self._count(stages)
            return Path(np.asarray(aligned.text_indices), np.asarray(aligned.time_indices), aligned.probabilities)

        return Answer(
            tokens=tokens,
            text=text,
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=compression_ratio(text),
            temperature=temperature,
            tokenizer=tokenizer,
            align=align,
        )


def _joined(dropped: Sequence[Dropped]) -> tuple[Dropped, ...]:
    """Return the parts in the order of the audio, with neighbours of one reason as one."""
    joined: list[Dropped] = []
    for part in sorted(dropped, key=lambda part: part.start):
        if joined and (joined[-1].end, joined[-1].reason) == (part.start, part.reason):
            part = replace(part, start=joined.pop().start)
        joined.append(part)
    return tuple(joined)


def _whole(computed: Optional[_T]) -> _T:
    """What was computed, unless it was stopped."""
    if computed is None:
        raise StoppedError
    return computed


def _decode_options(
    options: TranscribeOptions, tokenizer: Tokenizer, hparams: Mapping[str, int], temperature: float, sample_len: int
) -> DecodeOptions:
    """Beams at temperature 0, samples above. A ``beam_size`` of 1 is the greedy search (faster-whisper's meaning), and
    a ``length_penalty`` of 1 the mean over the tokens, which is openai/whisper's default."""
    beam_size = options.beam_size if temperature == 0 and options.beam_size > 1 else 0
    precision_s = 30 / hparams["n_audio_ctx"]
    return DecodeOptions(
        eot=tokenizer.eot,
        no_speech=tokenizer.no_speech,
        no_timestamps=tokenizer.no_timestamps,
        timestamp_begin=tokenizer.timestamp_begin,
        blank=(*tokenizer.encode(" "), tokenizer.eot),
        suppress_tokens=_suppressed(options, tokenizer),
        temperature=temperature,
        beam_size=beam_size,
        best_of=options.best_of if temperature > 0 else 1,
        patience=options.patience if beam_size else None,
        length_penalty=None if options.length_penalty in (None, 1) else options.length_penalty,
        sample_len=sample_len,
        suppress_blank=options.suppress_blank,
        without_timestamps=options.without_timestamps,
        max_initial_timestamp_index=(
            # openai/whisper's: a limit of 0 is none.
            round(options.max_initial_timestamp / precision_s) if options.max_initial_timestamp else None
        ),
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        seed=options.seed or 0,
    )


def _suppressed(options: TranscribeOptions, tokenizer: Tokenizer) -> tuple[int, ...]:
    """-1 stands for the non-speech symbols. With any token go the special ones that begin a window; without, openai's
    rule is to suppress nothing."""
    given = options.suppress_tokens
    if not given:
        return ()
    tokens = {token for token in given if token >= 0}
    if -1 in given:
        tokens.update(tokenizer.non_speech_tokens)
    tokens.update((tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm))
    return tuple(sorted({*tokens, tokenizer.no_speech}))
