"""The first pass over the audio: how loud its spectrogram is, where it is silent, and where somebody speaks."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

import numpy as np

from .._audio.speech import SpeechScan
from .._audio.window_mel import LoudestMel, WindowMel
from .._options import TranscribeOptions
from .._result import Dropped
from .._system.arrays import Floats
from .._vad_options import VadOptions
from .._whisper.units import FRAMES_PER_S, FRAMES_PER_WINDOW, HOP_SAMPLES
from .call import Call
from .evidence import ENOUGH, SpeechMarks, loud_windows_of_speech
from .face import FindSilence, HearSpeech
from .longform import Chunk, Region, frames_per_window, regions_of_speech

__all__ = ["FirstPass", "vad_for_batches"]

_SILENCE = "silence"


def vad_for_batches(options: TranscribeOptions) -> VadOptions:
    """Return faster-whisper's options for batches: no span is longer than a window, and short pauses part spans."""
    window_s = frames_per_window(options) / FRAMES_PER_S
    if options.vad_parameters is None:
        return VadOptions(min_silence_duration_ms=160, max_speech_duration_s=window_s)
    return replace(VadOptions.from_any(options.vad_parameters), max_speech_duration_s=window_s)


class FirstPass:
    """What has to be known of the whole audio before its windows are decoded.

    Attributes:
        mel: the spectrogram, a window at a time.
        regions: that voice detection has cut for batches; None where it was not asked to.
        checks_text: whether text is checked against the voice detector.
    """

    def __init__(
        self, call: Call, n_threads: int, hear: Optional[HearSpeech], find: Optional[FindSilence], is_clipped: bool
    ) -> None:
        """Go over the audio once, and do as far as the options ask for it.

        Args:
            call: whose audio it is.
            n_threads: of the spectrogram.
            hear: makes the voice detector.
            find: makes what finds silence.
            is_clipped: parts of the audio are heard, which the caller chose.
        """
        self._call = call
        self.regions: Optional[list[Region]] = None
        self._silence: list[tuple[int, int]] = []
        self._marks: Optional[SpeechMarks] = None
        self._hear_speech: Optional[HearSpeech] = None
        self.mel = self._heard_all(n_threads, hear, find, is_clipped)

    @property
    def n_frames(self) -> int:
        return self.mel.n_frames

    @property
    def checks_text(self) -> bool:
        return self._marks is not None

    def _heard_all(
        self, n_threads: int, hear: Optional[HearSpeech], find: Optional[FindSilence], is_clipped: bool
    ) -> WindowMel:
        loudest = LoudestMel(self._call.hparams["n_mels"], n_threads=n_threads)
        drops = self._call.options.drop_silence is not False and not self._call.options.vad_filter
        silence = find() if find is not None and hear is not None and drops else None
        cuts = self._call.options.batch_size is not None and not is_clipped and hear is not None
        scan = SpeechScan(vad_for_batches(self._call.options)) if cuts else None
        stream = hear() if hear is not None and (silence is not None or cuts) else None
        if silence is not None:
            self._marks, self._hear_speech = SpeechMarks(), hear

        def listen(samples: Floats, is_last: bool = False) -> None:
            if stream is None:
                return
            with self._call.clock.timed("vad", runs=int(is_last)):
                probabilities = stream.finish() if is_last else stream.feed(samples)
                if silence is not None:
                    silence.push(samples, probabilities)
                if self._marks is not None:
                    self._marks.push(probabilities)
                if scan is not None:
                    scan.push(probabilities)

        self._call.go_on()
        for block in self._call.audio.blocks():
            with self._call.clock.timed("mel", runs=0):
                loudest.push(block)
            listen(block)
            self._call.go_on()
        listen(np.empty(0, np.float32), is_last=True)
        with self._call.clock.timed("mel"):
            loudest.finish()
            mel = WindowMel(self._call.audio, self._call.hparams["n_mels"], loudest, n_threads=n_threads)
        if silence is not None:
            self._silence = [(start, end) for start, end, _ in silence.finish()]
            self._hear_short_silence(mel.n_frames)
        if scan is not None:
            self.regions = regions_of_speech(scan.finish(self._call.audio.size), self._call.options)
        return mel

    def _hear_short_silence(self, n_frames: int) -> None:
        """Decodes audio of one window after all if the detector hears speech in it when it is loud. Its silence was
        found by its own level alone, which a single quiet word does not stand out from."""
        n_samples = self._call.audio.size
        is_short = n_samples <= FRAMES_PER_WINDOW * HOP_SAMPLES
        is_silent = is_short and self.is_silent_throughout([(0, n_frames)])
        if is_silent and self._loud_speech(0, n_samples) >= ENOUGH:
            self._silence = []

    def _loud_speech(self, start: int, end: int) -> int:
        """Windows of speech between these samples when they are loud."""
        if self._hear_speech is None:
            return 0
        stream = self._hear_speech()
        with self._call.clock.timed("vad"):
            return loud_windows_of_speech(
                self._call.audio.read(start, end),
                lambda samples: np.concatenate([stream.feed(samples), stream.finish()]),
            )

    def is_silent_throughout(self, clips: Sequence[Chunk]) -> bool:
        return all(self.lies_in_silence(seek, n_frames) for seek, n_frames in clips)

    def is_silent(self, seek: int, n_frames: int) -> bool:
        """Whether a window needs no decoding; if so, it is noted as dropped."""
        if not self.lies_in_silence(seek, n_frames):
            return False
        self._call.dropped.append(Dropped(seek / FRAMES_PER_S, (seek + n_frames) / FRAMES_PER_S, _SILENCE))
        return True

    def lies_in_silence(self, seek: int, n_frames: int) -> bool:
        begin, end = seek * HOP_SAMPLES, (seek + n_frames) * HOP_SAMPLES
        last = bisect.bisect_right(self._silence, (begin, math.inf)) - 1  # that begins no later
        return last >= 0 and end <= self._silence[last][1]

    def holds_speech(self, seek: int, n_frames: int) -> bool:
        """Tell whether somebody speaks in a window. True where nobody listened."""
        if self._marks is None:
            return True
        return self._marks.count(seek * HOP_SAMPLES, (seek + n_frames) * HOP_SAMPLES) >= ENOUGH

    def count_speech(self, seek: int, n_frames: int) -> int:
        """Count the windows of speech as recorded, and made loud where those are few."""
        start, end = seek * HOP_SAMPLES, (seek + n_frames) * HOP_SAMPLES
        n_speech = 0 if self._marks is None else self._marks.count(start, end)
        return n_speech if n_speech >= ENOUGH else max(n_speech, self._loud_speech(start, end))

    def keep_from(self, frame: int) -> None:
        """Keep the audio from this frame on in reach: lanes of a batch read at several places in turn."""
        self.mel.keep_from(frame)
