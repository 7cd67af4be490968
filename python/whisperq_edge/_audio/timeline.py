"""Times in audio that was cut down to its speech, and in the original."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Sequence

from .._result import Segment, Word
from .._whisper.units import HOP_SAMPLES, SAMPLE_RATE
from .speech import Span

__all__ = ["SpeechTimeline"]


class SpeechTimeline:
    """Leads times in audio that was cut down to its speech back to the original.

    Where two spans meet in the cut audio, one time stands for two in the original: an end time is the end of the
    earlier span, a start time the start of the later one.
    """

    def __init__(self, spans: Sequence[Span], n_samples: int) -> None:
        """
        Args:
            spans: speech in the original audio, ``(start_sample, end_sample)``, in order, disjoint, none empty.
            n_samples: length of the original audio.
        """
        previous_end = 0
        for start, end in spans:
            if not previous_end <= start < end <= n_samples:
                raise ValueError(
                    f"the span ({start}, {end}) has to be one of samples {previous_end} to {n_samples}, and not empty"
                )
            previous_end = end
        self._spans: list[Span] = [(int(start), int(end)) for start, end in spans]
        self._cut_ends: list[int] = []  # where each span ends in the cut audio
        length = 0
        for start, end in self._spans:
            length += end - start
            self._cut_ends.append(length)

    @property
    def spans(self) -> list[Span]:
        """Speech in the original audio, in samples."""
        return list(self._spans)

    @property
    def duration_s(self) -> float:
        """Seconds of speech: the length of the cut audio."""
        return self._cut_ends[-1] / SAMPLE_RATE if self._cut_ends else 0.0

    def to_original(self, time_s: float, *, is_end: bool = False) -> float:
        """The time in the original audio (seconds) of a time in the cut audio (seconds). Never leaves the speech.

        Args:
            is_end: the time ends something. It matters only where two spans meet.
        """
        return self._within(self._span_at(time_s, is_end), time_s)

    def restore(self, segments: Iterable[Segment]) -> list[Segment]:
        """The segments, and their words, with times in the original audio."""
        return [self._restored(segment) for segment in segments]

    def _restored(self, segment: Segment) -> Segment:
        start_s, end_s = self.to_original(segment.start), self.to_original(segment.end, is_end=True)
        words = segment.words
        if words:
            words = [self._restored_word(word) for word in words]
            start_s, end_s = words[0].start, words[-1].end
        return dataclasses.replace(
            segment,
            seek=round(self.to_original(segment.seek * HOP_SAMPLES / SAMPLE_RATE) * 100),
            start=start_s,
            end=max(start_s, end_s),
            words=words,
        )

    def _restored_word(self, word: Word) -> Word:
        """A word lies in one span, that of its middle: nobody goes silent for seconds within a word."""
        span = self._span_at((word.start + word.end) / 2, is_end=False)
        return dataclasses.replace(word, start=self._within(span, word.start), end=self._within(span, word.end))

    def _span_at(self, time_s: float, is_end: bool) -> int:
        sample = round(time_s * SAMPLE_RATE)
        find = bisect.bisect_left if is_end else bisect.bisect_right
        return min(find(self._cut_ends, sample), len(self._cut_ends) - 1)

    def _within(self, span: int, time_s: float) -> float:
        """``time_s`` of the cut audio led back as a time in that span, to the millisecond."""
        if not self._spans:
            return 0.0
        start, end = self._spans[span]
        silence = end - self._cut_ends[span]  # samples that were cut out before this span
        original_s = round(time_s + silence / SAMPLE_RATE, 3)
        return min(max(original_s, start / SAMPLE_RATE), end / SAMPLE_RATE)
