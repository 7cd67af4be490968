"""The options of a transcription, by faster-whisper's names and with its defaults."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np

from ._errors import OptionError
from ._system.checks import is_number, is_whole
from ._vad_options import VadOptions
from ._whisper.languages import LANGUAGES
from ._whisper.units import TOKENS_PER_WINDOW

__all__ = [
    "APPEND_PUNCTUATIONS",
    "DEFAULT_TEMPERATURES",
    "PREPEND_PUNCTUATIONS",
    "TranscribeOptions",
    "given_options",
    "language_code",
]

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
    """Return the code of a language given by code or English name (openai/whisper accepts both).

    Raises:
        OptionError: the language is no text, or Whisper does not know it.
    """
    if not isinstance(language, str):
        raise OptionError("language", language, "a code such as en, or an English name such as german, as text")
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
    """The options of a transcription. Names and defaults are faster-whisper's.

    The options after ``log_progress`` are ours or openai/whisper's.

    Attributes:
        language: code or English name; None detects it from the first window with speech.
        task: ``transcribe``, or ``translate`` to English.
        beam_size: beams at temperature 0; 1 decodes greedily.
        best_of: samples at temperatures above 0.
        patience: patience of the beam search (Kasai et al. 2022).
        length_penalty: exponent of the length in a beam's score.
        repetition_penalty: above 1, tokens of this window are less likely to come again.
        no_repeat_ngram_size: no n-gram of this many tokens comes twice in a window; 0: off.
        temperature: one temperature, or several to fall back to when a window's text looks wrong.
        compression_ratio_threshold: text that compresses better is repetitive, and the next temperature is tried.
            None: off.
        log_prob_threshold: below this mean log probability the next temperature is tried. None: off.
        no_speech_threshold: a window above this probability of no speech, and below ``log_prob_threshold``, is silent.
            None: off.
        condition_on_previous_text: the text of a window is the prompt of the next one.
        prompt_reset_on_temperature: above this temperature the previous text is not used as a prompt.
        initial_prompt: text, or token ids, before the first window.
        prefix: text that the first window starts with; it stays in the transcript.
        suppress_blank: sample no blank at the start of a window's text.
        suppress_tokens: token ids that are never sampled; -1 stands for the non-speech symbols. None or empty: none.
        without_timestamps: sample text only.
        max_initial_timestamp: the latest first timestamp of a window, in seconds.
        word_timestamps: compute the times of words, in ``Segment.words``.
        prepend_punctuations: signs that are merged with the word after them.
        append_punctuations: signs that are merged with the word before them.
        multilingual: detect the language of every segment anew.
        vad_filter: cut out the parts without speech before transcribing. Times stay those of the whole audio.
        vad_parameters: a ``VadOptions`` or a dict of its fields. They are an error where no voice detection uses them:
            without ``vad_filter`` and without a ``batch_size`` that cuts the audio.
        max_new_tokens: tokens of a window. None: as many as the context holds.
        chunk_length: length of a window in seconds. None: 30.
        clip_timestamps: the parts to transcribe, as ``"start,end,start,end,…"`` or a list, in seconds.
        hallucination_silence_threshold: seconds of silence around a suspected hallucination.
        hotwords: hint phrases.
        language_detection_threshold: probability above which a language is taken at once.
        language_detection_segments: the number of windows that language detection may use.
        log_progress: show a progress bar where stderr is a terminal.
        carry_initial_prompt: put ``initial_prompt`` before every window, as openai/whisper does.
        seed: seed of the sampling at temperatures above 0.
        batch_size: decode this many windows together, from parts of the audio that voice detection has cut (as
            faster-whisper's ``BatchedInferencePipeline``). A window knows only the text before it in its part. Speech
            behind an answer's last timestamp is decoded again. None: window after window.
        audio_ctx: ``auto`` encodes short audio up to its end and a margin only (0.5 s and a sixteenth of the audio),
            with what the model makes of silence in place of the rest of the window. A window whose text looks wrong is
            done again in full (``Transcript.n_redone_windows``). 1500: whole windows. None: ``auto`` for quantised
            models, and whole windows for f16 and f32, whose text is openai/whisper's to the letter. ``multilingual``
            takes whole windows in any case.
        drop_silence: None does two things on the engine edge, and ``Transcript.dropped`` says where and why. Windows
            that voice detection and energy both call silent are not decoded. Text where the voice detector finds no
            speech is not believed unless the model is sure. False: all is decoded and believed, as the engine ggml
            always does.
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
    vad_parameters: Union[VadOptions, Mapping[str, Any], None] = None
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
    audio_ctx: Union[str, int, None] = None
    drop_silence: Optional[bool] = None

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> TranscribeOptions:
        """Return checked options from keyword arguments, as plain Python values.

        Numbers of numpy become Python's. Lists, arrays and generators become tuples.

        Raises:
            OptionError: a name is unknown, or no engine could use a value.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in arguments:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=3)
                raise OptionError(name, arguments[name], f"no such option; near: {', '.join(near) or ', '.join(names)}")
        options = cls(**{name: _plain(name, value) for name, value in arguments.items()})
        options._check_patience()
        options._check_vad_parameters()
        return options

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Return the temperatures to try, in this order."""
        if isinstance(self.temperature, (int, float)):
            return (float(self.temperature),)
        return tuple(float(value) for value in self.temperature)

    @property
    def is_clipped(self) -> bool:
        """Tell whether ``clip_timestamps`` chooses parts of the audio."""
        return self.clip_timestamps not in ("0", [0], (0,))

    def clips_s(self, duration_s: float) -> list[tuple[float, float]]:
        """Return the parts of the audio to transcribe, as (start, end) in seconds. The last end may be the audio's."""
        times = _clip_times(self.clip_timestamps)
        if len(times) % 2:
            times.append(duration_s)
        pairs = list(zip(times[::2], times[1::2]))
        return [(start, min(end, duration_s)) for start, end in pairs if start < duration_s]

    def with_clips_from(self, start_s: float) -> TranscribeOptions:
        """Return these options with clips that begin no earlier than ``start_s``. Clips that end before it stay."""
        if not self.is_clipped or start_s <= 0:
            return self
        times = _clip_times(self.clip_timestamps)
        ends = [*times[1::2], *([math.inf] if len(times) % 2 else [])]
        for i, end in enumerate(ends):
            times[2 * i] = max(times[2 * i], start_s) if end > start_s else times[2 * i]
        return dataclasses.replace(self, clip_timestamps=tuple(times))

    def _check_vad_parameters(self) -> None:
        """Refuse parameters that would do nothing. Batches are cut by voice detection unless clips cut them."""
        cuts_batches = self.batch_size is not None and not self.is_clipped
        if self.vad_parameters is not None and not self.vad_filter and not cuts_batches:
            allowed = "None, or with vad_filter=True, or with a batch_size and no clip_timestamps; else it does nothing"
            raise OptionError("vad_parameters", self.vad_parameters, allowed)

    def _check_patience(self) -> None:
        """Check what takes several options. It holds where there are beams, as in native code."""
        if self.beam_size == 1 or 0 not in self.temperatures:
            return
        if not 1 <= round(self.beam_size * self.patience) <= _MOST_SEQUENCES:
            allowed = f"patience * beam_size={self.beam_size}, rounded, has to be from 1 to {_MOST_SEQUENCES}"
            raise OptionError("patience", self.patience, allowed)


def given_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call, for ``TranscribeOptions.from_arguments``.

    Args:
        arguments: the ``locals()`` of a function whose parameters are options by name, before its first other
            statement. Its ``**unknown`` has names that are no option: ``from_arguments`` refuses them.
    """
    known = {name: arguments[name] for name in _RULES if name in arguments}
    return {**known, **arguments["unknown"]}


# ---- What an option may be -------------------------------------------------------------------------------------------

# As ``check`` in csrc/decoding/decode_options.cpp and the types of decode_options.h have it: what they refuse has to be
# refused here, where no audio was decoded yet and the option is known by name.
_MOST_SEQUENCES = 1024  # of a window: beams, samples, or candidates of the beam search
_MOST_INT = 2**31 - 1
_MOST_SEED = 2**64 - 1
_LEAST_FLOAT = float(np.finfo(np.float32).tiny)  # a smaller number above 0 may become 0 on the way
_MOST_FLOAT = float(np.finfo(np.float32).max)
_MOST_SECONDS = 1e6  # more than any audio has; as audio tokens (20 ms) still an int

_CLIPS = "seconds from 0 on that do not go back, as in '0,12.5,30,45' or [0, 12.5, 30, 45]"


class _RefusedError(Exception):
    """``value`` is not allowed: what was given, or one of several that were."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


class _Rule(NamedTuple):
    """What an option may be: ``plain`` gives it as a plain Python value, or raises ``_RefusedError``."""

    plain: Callable[[Any], Any]
    allowed: str

    def or_none(self) -> _Rule:
        return _Rule(lambda value: None if value is None else self.plain(value), f"{self.allowed}, or None")


def _plain(name: str, value: Any) -> Any:
    rule = _RULES[name]
    try:
        return rule.plain(value)
    except _RefusedError as refused:
        raise OptionError(name, refused.value, rule.allowed) from None


def _require(holds: bool, value: object) -> None:
    if not holds:
        raise _RefusedError(value)


def _is_flag(value: object) -> bool:
    return isinstance(value, (bool, np.bool_))


def _flag(value: Any) -> bool:
    """0 and 1 are what a switch is in many a configuration."""
    _require(_is_flag(value) or (is_whole(value) and value in (0, 1)), value)
    return bool(value)


def _audio_ctx(value: Any) -> Union[str, int]:
    """The number may be a text, as a command line has it."""
    _require(isinstance(value, str) or (is_whole(value) and not _is_flag(value)), value)
    _require(value in ("auto", TOKENS_PER_WINDOW, str(TOKENS_PER_WINDOW)), value)
    return "auto" if value == "auto" else TOKENS_PER_WINDOW


def _text(value: Any) -> str:
    _require(isinstance(value, str), value)
    return str(value)


def _one_of(*choices: str) -> _Rule:
    def plain(value: Any) -> str:
        _require(isinstance(value, str) and value in choices, value)
        return str(value)

    return _Rule(plain, f"one of {', '.join(choices)}")


def _whole(lowest: int, highest: int = _MOST_INT) -> _Rule:
    def plain(value: Any) -> int:
        _require(not _is_flag(value), value)
        try:
            whole = operator.index(value)
        except TypeError:
            _require(isinstance(value, (float, np.floating)) and float(value).is_integer(), value)
            whole = int(value)
        _require(lowest <= whole <= highest, value)
        return whole

    return _Rule(plain, f"a whole number from {lowest} to {highest}")


def _number(lowest: float, highest: float, allowed: str) -> _Rule:
    """NaN lies nowhere."""

    def plain(value: Any) -> float:
        _require(is_number(value), value)
        try:
            number = float(value)
        except OverflowError:
            raise _RefusedError(value) from None
        _require(lowest <= number <= highest, value)
        return number

    return _Rule(plain, allowed)


def _items(value: Any) -> Iterator[Any]:
    """Those of a list, an array, a generator, …; text and bytes are none: a letter is no token and no time."""
    _require(not isinstance(value, (str, bytes, bytearray, Mapping)), value)
    try:
        return iter(value)
    except TypeError:
        raise _RefusedError(value) from None


def _token_ids(lowest: int) -> _Rule:
    token = _whole(lowest)
    return _Rule(
        lambda value: tuple(token.plain(item) for item in _items(value)), f"a list of token ids, each {token.allowed}"
    )


def _prompt(value: Any) -> Union[str, tuple[int, ...]]:
    if isinstance(value, str):
        return str(value)
    tokens: tuple[int, ...] = _PROMPT_IDS.plain(value)
    return tokens


def _temperature(value: Any) -> Union[float, tuple[float, ...]]:
    def one(item: Any) -> float:
        temperature: float = _TEMPERATURE.plain(item)
        _require(temperature == 0 or temperature >= _LEAST_FLOAT, item)
        return temperature

    if is_number(value):
        return one(value)
    several = tuple(one(item) for item in _items(value))
    _require(bool(several), several)
    return several


def _clips(value: Any) -> Union[str, tuple[float, ...]]:
    try:
        clips = str(value) if isinstance(value, str) else tuple(_FINITE.plain(item) for item in _items(value))
    except _RefusedError:
        raise _RefusedError(value) from None  # '0', which is one of ['0', '1'], is the default
    times = _clip_times(clips)
    _require(all(math.isfinite(time) and time >= 0 for time in times) and times == sorted(times), clips)
    return clips


def _clip_times(clips: Union[str, Sequence[float]]) -> list[float]:
    parts: list[Any] = [part for part in clips.split(",") if part.strip()] if isinstance(clips, str) else [*clips]
    try:
        return [float(part) for part in parts] or [0.0]
    except (TypeError, ValueError):
        raise OptionError("clip_timestamps", clips, _CLIPS) from None


_FLAG = _Rule(_flag, "True or False")
_TEXT = _Rule(_text, "text")
_FINITE = _number(-_MOST_FLOAT, _MOST_FLOAT, "a finite number")
_THRESHOLD = _number(-math.inf, math.inf, "a number, which may be infinite")
_PENALTY = _number(_LEAST_FLOAT, _MOST_FLOAT, f"a number above 0, from {_LEAST_FLOAT:.2g} to {_MOST_FLOAT:.2g}")
_TEMPERATURE = _number(0, 10, f"0 or a number from {_LEAST_FLOAT:.2g} to 10, or several")
_PROMPT_IDS = _token_ids(0)

_RULES = {
    "language": _Rule(language_code, "a code or an English name").or_none(),
    "task": _one_of("transcribe", "translate"),
    "beam_size": _whole(1, _MOST_SEQUENCES),
    "best_of": _whole(1, _MOST_SEQUENCES),
    "patience": _PENALTY,
    "length_penalty": _FINITE.or_none(),
    "repetition_penalty": _PENALTY,
    "no_repeat_ngram_size": _whole(0),
    "temperature": _Rule(_temperature, _TEMPERATURE.allowed),
    "compression_ratio_threshold": _THRESHOLD.or_none(),
    "log_prob_threshold": _THRESHOLD.or_none(),
    "no_speech_threshold": _THRESHOLD.or_none(),
    "condition_on_previous_text": _FLAG,
    "prompt_reset_on_temperature": _THRESHOLD,
    "initial_prompt": _Rule(_prompt, f"text, or {_PROMPT_IDS.allowed}").or_none(),
    "prefix": _TEXT.or_none(),
    "suppress_blank": _FLAG,
    "suppress_tokens": _token_ids(-1).or_none(),
    "without_timestamps": _FLAG,
    "max_initial_timestamp": _number(0, _MOST_SECONDS, f"a number of seconds from 0 to {_MOST_SECONDS:.0f}"),
    "word_timestamps": _FLAG,
    "prepend_punctuations": _TEXT,
    "append_punctuations": _TEXT,
    "multilingual": _FLAG,
    "vad_filter": _FLAG,
    "vad_parameters": _Rule(lambda value: value, "what VadOptions.from_any takes, which judges it"),
    "max_new_tokens": _whole(1).or_none(),
    "chunk_length": _whole(1).or_none(),
    "clip_timestamps": _Rule(_clips, _CLIPS),
    "hallucination_silence_threshold": _number(0, math.inf, "a number of seconds from 0 on").or_none(),
    "hotwords": _TEXT.or_none(),
    "language_detection_threshold": _THRESHOLD.or_none(),
    "language_detection_segments": _whole(1),
    "log_progress": _FLAG,
    "carry_initial_prompt": _FLAG,
    "seed": _whole(0, _MOST_SEED).or_none(),
    "batch_size": _whole(1).or_none(),
    "audio_ctx": _Rule(_audio_ctx, f"auto, or {TOKENS_PER_WINDOW} (whole windows)").or_none(),
    "drop_silence": _FLAG.or_none(),
}
