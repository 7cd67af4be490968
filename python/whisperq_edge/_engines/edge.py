"""The `edge` engine behind the engine face: options by faster-whisper's names, windows decoded by our own kernels.

The loop over the windows is Python (``longform``); what a window costs is native: its encoding, its decoding, its
alignment. What lies between is in ``first_pass``, ``language`` and ``windows``, which this module puts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Callable, Optional, Union

from .._audio.samples import Samples, StoppedError, samples_of
from .._errors import OptionError
from .._options import TranscribeOptions
from .._result import EngineResult, Segment
from .._system.arrays import Floats
from .._whisper.tokenizer import Vocabulary
from .._whisper.units import FRAMES_PER_S
from .call import Call
from .face import CheckBatch, FindSilence, HearSpeech, NativeModel
from .first_pass import FirstPass
from .language import Language
from .longform import (
    Chunk,
    Prompt,
    Step,
    regions_of_clips,
    transcribe_in_batches,
    transcribe_sequentially,
)
from .windows import Windows

__all__ = ["EdgeEngine"]


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
        shortens: whether short audio is encoded only as far as it goes where ``audio_ctx`` is None.
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
        shortens: bool = False,
    ) -> None:
        self.n_threads = n_threads
        self._native = native
        self._hparams = dict(native.hparams)
        self._vocabulary = Vocabulary(vocabulary, self._hparams["n_vocab"])
        self._hear_speech = hear_speech
        self._find_silence = find_silence
        self._check_batch = check_batch
        self._shortens = shortens

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
        call = Call(
            *(self._native, self._hparams, self._vocabulary, options, samples_of(audio), should_stop),
            check_batch=self._check_batch,
            # Languages of single windows are detected from what is decoded, and short windows give others.
            shortens=not options.multilingual
            and (options.audio_ctx == "auto" or (options.audio_ctx is None and self._shortens)),
        )
        try:
            is_clipped = options.is_clipped if clips_s is None else bool(clips_s)
            heard = FirstPass(call, self.n_threads, self._hear_speech, self._find_silence, is_clipped)
            if clips_s is None and is_clipped:
                clips_s = options.clips_s(call.audio.duration_s)
            if call.audio.size == 0 or (is_clipped and not clips_s):
                return call.result(stopped=False)
            clips = _clips(clips_s or (), heard.n_frames)
            language = Language(call, heard)
            if not heard.is_silent_throughout(clips):
                on_languages(language.choose(clips))
            for step in self._steps(call, heard, language, clips):
                for segment in step.segments:
                    on_segment(segment)
                on_progress(min(step.seek / max(heard.n_frames, 1), 1.0))
        except StoppedError:
            return call.result(stopped=True)
        except KeyboardInterrupt as interrupt:
            return replace(call.result(stopped=True), interrupt=interrupt)
        return call.result(stopped=False)

    def _steps(self, call: Call, heard: FirstPass, language: Language, clips: list[Chunk]) -> Iterator[Step]:
        options, decode = call.options, Windows(call, heard, language).decode
        prompt = Prompt(language.tokenizer, options, call.n_text_ctx)
        if options.batch_size is None:
            return transcribe_sequentially(decode, options, prompt, clips, heard.n_frames, heard.is_silent)
        knows_speech = heard.regions is not None
        regions = regions_of_clips(clips, options) if heard.regions is None else heard.regions
        return transcribe_in_batches(
            *(decode, options, prompt, regions, heard.n_frames, heard.is_silent, heard.keep_from),
            knows_speech=knows_speech,
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


def _check(name: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise OptionError(name, value, f"{allowed} (engine edge)")


def _clips(clips_s: Sequence[tuple[float, float]], n_frames: int) -> list[Chunk]:
    """The clips in frames, within the audio; without any, all of it."""
    if not clips_s:
        return [(0, n_frames)]
    edges = [(round(start * FRAMES_PER_S), min(round(end * FRAMES_PER_S), n_frames)) for start, end in clips_s]
    return [(start, end - start) for start, end in edges if start < end]
