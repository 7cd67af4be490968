"""The options of a transcription, by faster-whisper's names and with its defaults."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from ._errors import OptionError
from ._languages import LANGUAGES

__all__ = ["APPEND_PUNCTUATIONS", "DEFAULT_TEMPERATURES", "PREPEND_PUNCTUATIONS", "TranscribeOptions", "language_code"]

DEFAULT_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PREPEND_PUNCTUATIONS = "\"'“¿([{-"
APPEND_PUNCTUATIONS = "\"'.。,，!！?？:：”)]}、"

_LANGUAGE_ALIASES = {
    "burmese": "my",
    "valencian": "ca",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "pushto": "ps",
    "panjabi": "pa",
    "moldavian": "ro",
    "moldovan": "ro",
    "sinhalese": "si",
    "castilian": "es",
    "mandarin": "zh",
}


def language_code(language: str) -> str:
    """The code of a language given by code or English name (openai/whisper accepts both).

    Raises:
        OptionError: Whisper does not know it.
    """
    wanted = language.strip().lower()
    codes = {name: code for code, name in LANGUAGES.items()}
    code = wanted if wanted in LANGUAGES else codes.get(wanted) or _LANGUAGE_ALIASES.get(wanted)
    if code is None:
        near = difflib.get_close_matches(wanted, [*LANGUAGES, *codes], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise OptionError("language", language, f"a code such as en, or an English name such as german{hint}")
    return code


@dataclass(frozen=True)
class TranscribeOptions:
    """How to transcribe. Names and defaults are faster-whisper's; the last two groups are ours or openai/whisper's.

    Attributes:
        language: code or English name; None detects it from the first 30 s.
        task: ``transcribe``, or ``translate`` to English.
        beam_size: beams at temperature 0; 1 decodes greedily.
        best_of: samples at temperatures above 0.
        patience: of the beam search (Kasai et al. 2022).
        length_penalty: exponent of the length in a beam's score.
        repetition_penalty: above 1, tokens of this window are less likely to come again.
        no_repeat_ngram_size: no n-gram of this many tokens comes twice in a window; 0: off.
        temperature: one, or several to fall back to when a window's text looks wrong.
        compression_ratio_threshold: text that compresses better than this is repetitive: next temperature. None: off.
        log_prob_threshold: a mean log probability below this: next temperature. None: off.
        no_speech_threshold: a window above this probability of no speech, and below ``log_prob_threshold``, is silent.
            None: off.
        condition_on_previous_text: the text of a window is the prompt of the next one.
        prompt_reset_on_temperature: above this temperature the previous text is not used as a prompt.
        initial_prompt: text, or token ids, before the first window.
        prefix: text that the first window starts with.
        suppress_blank: no blank at the start of a window's text.
        suppress_tokens: token ids that are never sampled; -1 stands for the non-speech symbols. None or empty: none.
        without_timestamps: sample text only.
        max_initial_timestamp: seconds; the first timestamp of a window is not later than this.
        word_timestamps: times of words, in ``Segment.words``.
        prepend_punctuations: merged with the word after them.
        append_punctuations: merged with the word before them.
        multilingual: detect the language of every segment anew.
        vad_filter: cut out what holds no speech before transcribing; times stay those of the whole audio.
        vad_parameters: a ``VadOptions`` or a dict of its fields.
        max_new_tokens: per window. None: as many as the context holds.
        chunk_length: seconds of a window.
        clip_timestamps: ``"start,end,start,end,…"`` or a list of seconds: the parts to transcribe.
        hallucination_silence_threshold: seconds of silence around a suspected hallucination.
        hotwords: hint phrases.
        language_detection_threshold: probability above which a language is taken at once.
        language_detection_segments: how many windows to listen to for the language.
        log_progress: a progress bar of the library's own.
        carry_initial_prompt: openai/whisper's: put ``initial_prompt`` before every window.
        seed: of the sampling at temperatures above 0.
        batch_size: this many chunks of the audio, cut by voice detection, are decoded together, each for itself (as
            faster-whisper's ``BatchedInferencePipeline``). None: window after window, each knowing the one before.
        audio_ctx: ``auto`` encodes short audio up to its end and a margin only, and does a window again in full when
            its text looks wrong. None: always whole windows.
        drop_silence: False decodes also the windows that voice detection and energy both call silent. None: where the
            engine can tell, they are not.
    """

    language: Optional[str] = None
    task: str = "transcribe"
    beam_size: int = 5
    best_of: int = 5
    patience: float = 1
    length_penalty: float = 1
    repetition_penalty: float = 1
    no_repeat_ngram_size: int = 0
    temperature: Union[float, Sequence[float]] = DEFAULT_TEMPERATURES
    compression_ratio_threshold: Optional[float] = 2.4
    log_prob_threshold: Optional[float] = -1.0
    no_speech_threshold: Optional[float] = 0.6
    condition_on_previous_text: bool = True
    prompt_reset_on_temperature: float = 0.5
    initial_prompt: Union[str, Iterable[int], None] = None
    prefix: Optional[str] = None
    suppress_blank: bool = True
    suppress_tokens: Optional[Sequence[int]] = (-1,)
    without_timestamps: bool = False
    max_initial_timestamp: float = 1.0
    word_timestamps: bool = False
    prepend_punctuations: str = PREPEND_PUNCTUATIONS
    append_punctuations: str = APPEND_PUNCTUATIONS
    multilingual: bool = False
    vad_filter: bool = False
    vad_parameters: Any = None
    max_new_tokens: Optional[int] = None
    chunk_length: Optional[int] = None
    clip_timestamps: Union[str, Sequence[float]] = "0"
    hallucination_silence_threshold: Optional[float] = None
    hotwords: Optional[str] = None
    language_detection_threshold: Optional[float] = 0.5
    language_detection_segments: int = 1
    log_progress: bool = False
    carry_initial_prompt: bool = False
    seed: Optional[int] = None
    batch_size: Optional[int] = None
    audio_ctx: Optional[str] = None
    drop_silence: Optional[bool] = None

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> TranscribeOptions:
        """Checked options from keyword arguments.

        Raises:
            OptionError: an unknown name, or a value that no engine could use.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in arguments:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=3)
                raise OptionError(name, arguments[name], f"no such option; near: {', '.join(near) or ', '.join(names)}")
        options = cls(**arguments)
        if options.language is not None:
            options = dataclasses.replace(options, language=language_code(options.language))
        if options.initial_prompt is not None and not isinstance(options.initial_prompt, str):
            options = dataclasses.replace(options, initial_prompt=tuple(int(token) for token in options.initial_prompt))
        options._check()
        return options

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures to try, in this order."""
        if isinstance(self.temperature, (int, float)):
            return (float(self.temperature),)
        return tuple(float(value) for value in self.temperature)

    @property
    def is_clipped(self) -> bool:
        """Whether ``clip_timestamps`` chooses parts of the audio."""
        return self.clip_timestamps not in ("0", [0], (0,))

    def clips_s(self, duration_s: float) -> list[tuple[float, float]]:
        """The parts of the audio to transcribe, as (start, end) in seconds; the last end defaults to the audio's."""
        times = self._clip_times()
        if len(times) % 2:
            times.append(duration_s)
        pairs = list(zip(times[::2], times[1::2]))
        return [(start, min(end, duration_s)) for start, end in pairs if start < duration_s]

    def _clip_times(self) -> list[float]:
        clips = self.clip_timestamps
        parts: list[Any] = [part for part in clips.split(",") if part.strip()] if isinstance(clips, str) else [*clips]
        try:
            return [float(part) for part in parts] or [0.0]
        except (TypeError, ValueError):
            raise OptionError("clip_timestamps", clips, "seconds, as in '0,12.5,30,45' or [0, 12.5, 30, 45]") from None

    def _check(self) -> None:
        _one_of("task", self.task, ("transcribe", "translate"))
        if self.audio_ctx not in (None, "auto"):
            raise OptionError("audio_ctx", self.audio_ctx, "'auto' or None")
        for name in ("beam_size", "best_of", "language_detection_segments"):
            _at_least(name, getattr(self, name), 1)
        for name in ("no_repeat_ngram_size", "max_initial_timestamp"):
            _at_least(name, getattr(self, name), 0)
        for name in ("max_new_tokens", "chunk_length", "batch_size"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("patience", "repetition_penalty"):
            value = getattr(self, name)
            if not _is_number(value) or not value > 0:
                raise OptionError(name, value, "a number above 0")
        self._check_temperatures()
        self._check_clips()

    def _check_temperatures(self) -> None:
        try:
            temperatures = self.temperatures
        except (TypeError, ValueError):
            temperatures = ()
        if not temperatures or not all(0 <= value <= 10 for value in temperatures):
            raise OptionError("temperature", self.temperature, "a number from 0 to 10, or several")

    def _check_clips(self) -> None:
        times = self._clip_times()
        if any(not math.isfinite(time) or time < 0 for time in times) or any(b < a for a, b in zip(times, times[1:])):
            raise OptionError("clip_timestamps", self.clip_timestamps, "seconds from 0 on that do not go back")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _at_least(name: str, value: Any, lowest: float) -> None:
    if not _is_number(value) or value < lowest:
        raise OptionError(name, value, f"a number from {lowest} on")


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OptionError(name, value, f"one of {', '.join(allowed)}")
