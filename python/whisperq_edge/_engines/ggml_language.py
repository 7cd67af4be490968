"""Which part of the audio whisper.cpp detects the language from: the one that ``edge`` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Optional

import numpy as np

from .._audio.samples import Samples, StoppedError
from .._whisper.units import FRAMES_PER_WINDOW, HOP_SAMPLES
from .call import Clock
from .evidence import ENOUGH, SpeechMarks
from .face import FindSilence, HearSpeech
from .language import language_windows, windows_of
from .longform import Chunk

__all__ = ["language_window"]


def language_window(
    audio: Samples,
    clips: Sequence[Chunk],
    clock: Clock,
    hear_speech: Optional[HearSpeech],
    find_silence: Optional[FindSilence],
    should_stop: Callable[[], bool],
) -> Chunk:
    """Return the window to detect the language from: its first frame, and its frames within the clip.

    The audio is listened to up to the first window with speech. A single window is taken unheard.

    Args:
        clips: frames of the clips, within the audio; empty: all of it.
        hear_speech, find_silence: None: the first window is taken unheard.

    Raises:
        StoppedError: the caller asked to stop.
    """
    n_frames = audio.size // HOP_SAMPLES
    windows = windows_of(clips or [(0, n_frames)])
    if len(windows) > 1 and hear_speech is not None and find_silence is not None:
        with clock.timed("vad"):
            windows = _first_with_speech(windows, audio, _Heard(hear_speech, find_silence), should_stop)
    first, length = windows[0] if windows else (0, 0)
    # The end of the audio is none of a clip: whisper.cpp hears the silence behind it, as openai/whisper does.
    return (first, length) if first + length < n_frames else (first, FRAMES_PER_WINDOW)


def _first_with_speech(
    windows: Sequence[Chunk], audio: Samples, heard: _Heard, should_stop: Callable[[], bool]
) -> list[Chunk]:
    """Return windows as ``language_windows`` has them, or only the first one as soon as it is known."""
    for end in heard.blocks(audio, should_stop):
        for window in windows:
            if sum(window) * HOP_SAMPLES <= end and heard.holds_speech(*window):
                return [window]
    return list(language_windows(windows, heard))


class _Heard:
    """What voice detector and energy make of the audio, as far as it was listened to."""

    def __init__(self, hear_speech: HearSpeech, find_silence: FindSilence) -> None:
        self._stream, self._finder = hear_speech(), find_silence()
        self._marks = SpeechMarks()
        self._silence: list[tuple[int, int, str]] = []

    def blocks(self, audio: Samples, should_stop: Callable[[], bool]) -> Iterator[int]:
        """Listen to a block at a time, and yield the samples that were heard so far."""
        end = 0
        for block in audio.blocks():
            if should_stop():
                raise StoppedError
            probabilities = self._stream.feed(block)
            self._finder.push(block, probabilities)
            self._marks.push(probabilities)
            end += block.size
            yield end
        probabilities = self._stream.finish()
        self._finder.push(np.empty(0, np.float32), probabilities)
        self._marks.push(probabilities)
        self._silence = list(self._finder.finish())
        yield end

    def holds_speech(self, seek: int, n_frames: int) -> bool:
        return self._marks.count(seek * HOP_SAMPLES, (seek + n_frames) * HOP_SAMPLES) >= ENOUGH

    def lies_in_silence(self, seek: int, n_frames: int) -> bool:
        begin, end = seek * HOP_SAMPLES, (seek + n_frames) * HOP_SAMPLES
        return any(start <= begin and end <= stop for start, stop, _ in self._silence)
