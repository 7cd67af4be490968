"""Which language is spoken: given, or found by the model in the first windows that hold speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .._whisper.tokenizer import Tokenizer
from .._whisper.units import FRAMES_PER_WINDOW
from .call import Call, whole
from .first_pass import FirstPass
from .longform import Chunk

__all__ = ["Language", "Listened", "language_windows", "windows_of"]


class Listened(Protocol):
    """What is known of the audio when the windows are chosen that the language is detected from."""

    def lies_in_silence(self, seek: int, n_frames: int) -> bool: ...
    def holds_speech(self, seek: int, n_frames: int) -> bool: ...


def windows_of(clips: Sequence[Chunk]) -> list[Chunk]:
    """Cut clips into windows. No window goes on behind the end of its clip."""
    return [
        (seek, min(FRAMES_PER_WINDOW, begin + n_frames - seek))
        for begin, n_frames in clips
        for seek in range(begin, begin + n_frames, FRAMES_PER_WINDOW)
    ]


def language_windows(windows: Sequence[Chunk], heard: Listened) -> Sequence[Chunk]:
    """Return the windows that hold speech; where none does, those that are not silent; else all."""
    audible = [window for window in windows if not heard.lies_in_silence(*window)]
    spoken = [window for window in audible if heard.holds_speech(*window)]
    return spoken or audible or windows or [(0, 0)]  # less than a frame of audio is no window


class Language:
    """The language of a call.

    Attributes:
        tokenizer: for the language that was chosen; before, for the one that was given.
    """

    def __init__(self, call: Call, heard: FirstPass) -> None:
        self._call = call
        self._heard = heard
        self.tokenizer = Tokenizer(call.vocabulary, call.options.language, call.options.task)

    def choose(self, clips: Sequence[Chunk]) -> list[tuple[str, float]]:
        """The language that was given, or the likeliest: (code, probability), likeliest first."""
        if not self._has_to_detect:
            return [(self._call.options.language or "en", 1.0)]
        ranking = self._detect(self._windows_to_detect_from(clips))
        self.tokenizer = self._tokenizer_of(ranking[0][0])
        return ranking

    def tokenizer_for(self, audio: Any) -> Tokenizer:
        """``multilingual`` (faster-whisper's) asks for the language of each window anew."""
        if not self._call.options.multilingual or self.tokenizer.language is None:
            return self.tokenizer
        return self._tokenizer_of(self._languages(audio)[0][0])

    @property
    def _has_to_detect(self) -> bool:
        return self._call.options.language is None and self.tokenizer.language is not None

    def _windows_to_detect_from(self, clips: Sequence[Chunk]) -> list[Chunk]:
        """Return the first windows of the clips that hold speech, up to ``language_detection_segments``."""
        chosen = language_windows(windows_of(clips), self._heard)
        return list(chosen[: self._call.options.language_detection_segments])

    def _detect(self, windows: Sequence[Chunk]) -> list[tuple[str, float]]:
        """faster-whisper's: listens to the windows until one is sure enough; if none is, the language that was the
        likeliest most often. One window decides alone by default, as it does for openai/whisper."""
        votes: dict[str, list[float]] = {}
        ranking: list[tuple[str, float]] = []
        for seek, n_frames in windows:
            ranking = self._languages(self._hear_window(seek, n_frames))
            threshold = self._call.options.language_detection_threshold
            if threshold is None or ranking[0][1] > threshold:
                return ranking
            votes.setdefault(ranking[0][0], []).append(ranking[0][1])
        chosen = max(votes, key=lambda code: len(votes[code]))
        return [(chosen, max(votes[chosen])), *(entry for entry in ranking if entry[0] != chosen)]

    def _hear_window(self, seek: int, n_frames: int) -> Any:
        """A whole window in any case: from short ones other languages are detected (docs/short-audio.md)."""
        self._call.check_memory(1, self._call.n_audio_ctx)
        with self._call.clock.timed("mel"):
            # The end of the audio is none of a clip: what openai/whisper hears there it hears here.
            ends_before = seek + n_frames < self._heard.mel.n_frames
            mel = self._heard.mel.window(seek, n_frames if ends_before else FRAMES_PER_WINDOW)
        return self._call.hear(mel, self._call.n_audio_ctx)

    def _languages(self, audio: Any) -> list[tuple[str, float]]:
        self._call.go_on()
        with self._call.clock.timed("prompt"):
            logits = whole(self._call.native.logits(audio, [self.tokenizer.sot], 0, self._call.should_stop))[0]
        scores = logits[list(self.tokenizer.language_tokens)].astype(np.float64)
        weights = np.exp(scores - scores.max())
        probabilities = (weights / weights.sum()).tolist()
        return sorted(zip(self.tokenizer.language_codes, probabilities), key=lambda entry: -entry[1])

    def _tokenizer_of(self, language: str) -> Tokenizer:
        return Tokenizer(self._call.vocabulary, language, self._call.options.task)
