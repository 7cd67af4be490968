"""Whether text is believed: how much speech the voice detector hears where it was decoded, and how sure the model was.

Whisper gives text for sounds that nobody spoke, and is sure of it. The voice detector (Silero) is another witness,
because it was trained for this one question. It misses what is 40 dB too quiet, and the beginning of what it begins to
hear. So before text is disbelieved the detector hears the window again, as loud as speech can be, and a short window
twice over. docs/silence.md has the measurements.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt

from .._system.arrays import Floats
from .._whisper.units import SAMPLE_RATE

__all__ = [
    "ENOUGH",
    "HOPELESS_LOGPROB",
    "LONG",
    "SURE_LOGPROB",
    "SURE_NO_SPEECH",
    "SUSPECTED_NO_SPEECH",
    "UNSURE_LOGPROB",
    "SpeechMarks",
    "loud_windows_of_speech",
    "may_be_believed",
    "why_not_believed",
    "windows_of_speech",
]


ENOUGH = 7
"""Windows of speech (32 ms each) with which all text is believed: 0.22 s, less than a short word has."""

SURE_LOGPROB, SURE_NO_SPEECH = -0.5, 0.3
"""Text is believed where the detector hears nothing at all if its average log-probability is above the first number and
its no-speech probability below the second."""

UNSURE_LOGPROB = -1.0
"""Text is not believed where the detector hears hardly anything if its average log-probability is below this."""

SUSPECTED_NO_SPEECH = 0.45
"""Text is not believed, whatever the detector hears, if its log-probability is below ``UNSURE_LOGPROB`` at every
temperature and its no-speech probability above this. Whisper's own rule for its first answer has 0.6 here."""

HOPELESS_LOGPROB = -2.0
"""Text of long speech is not believed if its log-probability is below this at every temperature: babble, mostly."""

LONG = 94
"""Windows of speech, 3 s in all. A single word in noise may be as unlikely as babble, and be right."""

_MUCH = 63
"""Windows of speech, 2 s in all, for which the model should have some text."""

_SHOWN_CHARACTERS = 60
_WINDOW_SAMPLES = 512
_WINDOW_S = _WINDOW_SAMPLES / SAMPLE_RATE
_SPEECH_PROBABILITY = 0.5
_LOUD_QUANTILE, _LOUD = 0.999, 0.7
_SHORT_SAMPLES = 24_000


# ---- What the detector hears -----------------------------------------------------------------------------------------


def windows_of_speech(probabilities: npt.NDArray[np.floating[Any]]) -> int:
    """Return how many of the detector's windows are more likely speech than not."""
    return int(np.count_nonzero(probabilities >= _SPEECH_PROBABILITY))


def loud_windows_of_speech(samples: Floats, detect: Callable[[Floats], Floats]) -> int:
    """Return how many windows are speech when the samples are as loud as speech can be.

    A constant offset is taken away first. The level is that of the loudest thousandth of the samples, so that a click
    does not set it. Audio of less than 1.5 s is played twice and the better time counts, because the detector has heard
    nothing before the first time. Longer audio is played once: strings of words are heard worse the second time.

    Args:
        samples: float32, 16 kHz.
        detect: gives the probability of speech for every started window of 512 samples.
    """
    centred = samples - np.float32(samples.mean(dtype=np.float64)) if samples.size else samples
    level = float(np.quantile(np.abs(centred), _LOUD_QUANTILE)) if samples.size else 0.0
    if level == 0.0:
        return 0
    loud = np.clip(centred * np.float32(_LOUD / level), -1, 1)
    if loud.size >= _SHORT_SAMPLES:
        return windows_of_speech(detect(loud))
    twice = detect(np.concatenate([loud, loud]))
    first = loud.size // _WINDOW_SAMPLES
    return max(windows_of_speech(twice[:first]), windows_of_speech(twice[first:]))


class SpeechMarks:
    """The windows of speech in audio that comes in pieces, one byte each: 1.1 MB for 10 hours."""

    def __init__(self) -> None:
        self._marks = bytearray()

    def push(self, probabilities: npt.NDArray[np.floating[Any]]) -> None:
        """Append windows of 512 samples."""
        self._marks += (probabilities >= _SPEECH_PROBABILITY).tobytes()

    def count(self, start: int, end: int) -> int:
        """Return how many windows of speech begin between these samples."""
        return self._marks.count(1, start // _WINDOW_SAMPLES, -(-end // _WINDOW_SAMPLES))


# ---- What is made of it ----------------------------------------------------------------------------------------------


def may_be_believed(n_windows: int, needs_fallback: bool) -> bool:
    """Return whether a higher temperature may give text that is believed.

    Text without a window of speech has to be likely at the first temperature. So nothing is decoded again there.
    """
    return n_windows > 0 or not needs_fallback


def why_not_believed(
    n_windows: int,
    text: str,
    avg_logprob: float,
    no_speech_prob: float,
    needs_fallback: bool,
    believes_doubts: bool = False,
) -> Optional[str]:
    """Return the reason why text is dropped, or why there is none though much speech is heard. None: all is well.

    Args:
        n_windows: windows of speech where the text was decoded, as recorded or loud, whichever are more.
        text: of the whole answer.
        avg_logprob: mean natural log-probability of its tokens.
        no_speech_prob: the model's own probability that nobody speaks.
        needs_fallback: the text repeats itself or is unlikely, by the thresholds of the options.
        believes_doubts: believe text where speech is heard, however much the model doubts it.
    """
    if not text:
        return f"no text for {n_windows * _WINDOW_S:.1f} s of speech" if n_windows >= _MUCH else None
    why = None
    if avg_logprob < UNSURE_LOGPROB and no_speech_prob > SUSPECTED_NO_SPEECH and not believes_doubts:
        why = f"the model was unsure and expects no speech (probability {no_speech_prob:.2f})"
    elif avg_logprob < HOPELESS_LOGPROB and n_windows >= LONG and not believes_doubts:
        why = f"the model was unsure (average log-probability {avg_logprob:.2f})"
    if n_windows == 0:
        is_sure = avg_logprob > SURE_LOGPROB and no_speech_prob < SURE_NO_SPEECH and not needs_fallback
        why = None if is_sure and _has_letter(text) else "no speech heard"
    elif n_windows < ENOUGH:
        why = _why_not_by_little(n_windows * _WINDOW_S, text, avg_logprob) or why
    return None if why is None else f"{why}: {_shortened(text)}"


def _why_not_by_little(speech_s: float, text: str, avg_logprob: float) -> Optional[str]:
    heard = f"only {speech_s:.2f} s of speech heard"
    if not _has_letter(text):
        return f"{heard}, no letter or digit"
    if _repeats(text):
        return f"{heard}, the same words again and again"
    if avg_logprob < UNSURE_LOGPROB:
        return f"{heard}, the model was unsure (average log-probability {avg_logprob:.2f})"
    return None


def _has_letter(text: str) -> bool:
    """Return whether there is a letter, digit or other number of any script."""
    return any(unicodedata.category(character)[0] in "LN" for character in text)


def _repeats(text: str) -> bool:
    """Return whether words come three times on average."""
    words = re.findall(r"\w+", text.casefold())
    return len(words) >= 3 and 3 * len(set(words)) <= len(words)


def _shortened(text: str) -> str:
    whole = text.strip()
    return whole if len(whole) <= _SHOWN_CHARACTERS else whole[:_SHOWN_CHARACTERS] + "…"
