"""The options of the voice detector, by faster-whisper's names and with its defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np

from ._errors import OptionError
from ._system.checks import as_number, check

__all__ = ["VadOptions"]


@dataclass(frozen=True)
class VadOptions:
    """The options of the voice detector: when sound counts as speech.

    Attributes:
        threshold: a window at least this likely starts or continues speech, above 0 and at most 1 (float).
        neg_threshold: a window less likely than this is silence within speech, at most ``threshold`` (float). None:
            ``threshold`` - 0.15, but at least 0.01.
        min_speech_duration_ms: shorter speech is dropped (milliseconds).
        max_speech_duration_s: longer speech is split (seconds). It is split at a silence of more than
            ``min_silence_at_max_speech`` where it has one, else right there.
        min_silence_duration_ms: silence has to be this long to end speech (milliseconds).
        speech_pad_ms: audio that is kept before and after each span of speech (milliseconds).
        min_silence_at_max_speech: a shorter silence splits no speech (milliseconds).
        use_max_poss_sil_at_max_speech: split speech that is too long at its longest silence. Only a silence that speech
            has ended counts. False: split at the last silence, which may still last.
    """

    threshold: float = 0.5
    neg_threshold: Optional[float] = None
    min_speech_duration_ms: float = 0
    max_speech_duration_s: float = math.inf
    min_silence_duration_ms: float = 2000
    speech_pad_ms: float = 400
    min_silence_at_max_speech: float = 98
    use_max_poss_sil_at_max_speech: bool = True

    def __post_init__(self) -> None:
        check("threshold", self.threshold, 0.0 < as_number(self.threshold) <= 1.0, "a number above 0 and at most 1")
        if self.neg_threshold is not None:
            allowed = f"a number from 0 to threshold={self.threshold:g}, or None"
            check("neg_threshold", self.neg_threshold, 0.0 <= as_number(self.neg_threshold) <= self.threshold, allowed)
        longest_s = self.max_speech_duration_s
        check("max_speech_duration_s", longest_s, as_number(longest_s) > 0.0, "a number of seconds above 0, or inf")
        for field in _MILLISECONDS:
            value = getattr(self, field)
            check(field, value, 0.0 <= as_number(value) < math.inf, "a finite number of milliseconds, at least 0")
        at_longest = self.use_max_poss_sil_at_max_speech
        check("use_max_poss_sil_at_max_speech", at_longest, isinstance(at_longest, (bool, np.bool_)), "True or False")

    @classmethod
    def from_any(cls, given: Union[VadOptions, Mapping[str, Any], None]) -> VadOptions:
        """Return options from a mapping of names to values. None: the defaults."""
        if given is None:
            return cls()
        if isinstance(given, VadOptions):
            return given
        if not isinstance(given, Mapping):
            raise OptionError("vad_parameters", given, "a dict of VAD options, VadOptions or None")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in names:
                raise OptionError("vad_parameters", name, f"the VAD options are {', '.join(names)}")
        return cls(**given)

    @property
    def silence_threshold(self) -> float:
        """Return ``neg_threshold``, or its default."""
        return max(self.threshold - 0.15, 0.01) if self.neg_threshold is None else self.neg_threshold


_MILLISECONDS = ("min_speech_duration_ms", "min_silence_duration_ms", "speech_pad_ms", "min_silence_at_max_speech")
