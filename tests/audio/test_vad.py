"""Speech spans from hand-made probabilities, and times there and back."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisperq_edge._audio.timeline import SpeechTimeline
from whisperq_edge._errors import InternalError, OptionError
from whisperq_edge._result import Segment, Word
from whisperq_edge._vad_options import VadOptions

from tests.support.whole_audio import speech_spans

W = 512  # samples in a window
BARE = {"speech_pad_ms": 0, "min_silence_duration_ms": 96}  # 96 ms are three windows


def spans_of(pattern: str, n_samples: Optional[int] = None, **options: Any) -> list[tuple[float, float]]:
    """One letter a window: S speech, - silence, ~ between the thresholds. The spans are in windows."""
    probs = np.array([{"S": 0.9, "-": 0.1, "~": 0.4}[letter] for letter in pattern], np.float32)
    length = len(pattern) * W if n_samples is None else n_samples
    return [(start / W, end / W) for start, end in speech_spans(probs, length, VadOptions(**{**BARE, **options}))]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", []),
        ("-----", []),
        ("~~~~~", []),
        ("SSSSS", [(0, 5)]),
        ("--SSS-----", [(2, 5)]),
        ("--SSS---SS", [(2, 10)]),  # three silent windows last two window lengths when the third begins
        ("--SSS----SS", [(2, 5), (9, 11)]),
        ("SS~~~~~~~~", [(0, 10)]),  # what is between the thresholds goes on as it was
        ("SS-~~~~~~-", [(0, 2)]),  # ... but a silence that began does not end by it
        ("SS--S--S", [(0, 8)]),
        ("---S", [(3, 4)]),
        ("S----S----", [(0, 1), (5, 6)]),
    ],
)
def test_hysteresis(pattern: str, expected: list[tuple[int, int]]) -> None:
    assert spans_of(pattern) == expected


def test_thresholds_belong_to_speech() -> None:
    probs = np.array([0.5, 0.35, 0.35, 0.35, 0.35, 0.35], np.float64)
    options = VadOptions(threshold=0.5, neg_threshold=0.35, **BARE)
    assert speech_spans(probs, 6 * W, options) == [(0, 6 * W)]
    assert speech_spans(np.nextafter(probs, 0.0), 6 * W, options) == []


def test_default_silence_threshold() -> None:
    assert VadOptions().silence_threshold == 0.35
    assert VadOptions(threshold=0.1).silence_threshold == 0.01
    assert VadOptions(threshold=0.1, neg_threshold=0.05).silence_threshold == 0.05


def test_short_speech_is_dropped() -> None:
    pattern = "SS------SSS------S"
    assert spans_of(pattern, min_speech_duration_ms=64) == [(8, 11)]
    assert spans_of(pattern) == [(0, 2), (8, 11), (17, 18)]


def test_padding_and_its_sharing() -> None:
    # 64 ms are two windows; the gaps are 7, 3 and 5 windows.
    pattern = "---SS-------SS---S-----S"
    options = {"speech_pad_ms": 64, "min_silence_duration_ms": 64}
    assert spans_of(pattern, **options) == [(1, 7), (10, 15.5), (15.5, 20), (21, 24)]
    assert spans_of(pattern, **{**options, "speech_pad_ms": 1000})[0] == (0, 8.5)


def test_the_last_window_may_reach_beyond_the_audio() -> None:
    assert spans_of("--SSS", n_samples=4 * W + 10) == [(2, 4 + 10 / W)]
    assert spans_of("---S", n_samples=3 * W) == []
    assert spans_of("SS----", n_samples=W, speech_pad_ms=400) == [(0, 1)]


# 0.4 s less the window are 11.5 windows: the excess shows in window 12.
TOO_LONG: dict[str, Any] = {"max_speech_duration_s": 0.4, "min_silence_duration_ms": 2000}


def test_too_long_speech_is_split_at_its_last_long_silence() -> None:
    options = {**TOO_LONG, "use_max_poss_sil_at_max_speech": False}
    assert spans_of("SSS-----SSSSSSSSSS", **options) == [(0, 3), (8, 18)]  # five windows are more than 98 ms
    assert spans_of("SSS--SS-----SSSSSSS", **options) == [(0, 7), (12, 19)]
    assert spans_of("SSSSSS---------S", **options) == [(0, 6), (15, 16)]  # the silence lasts when the time is over
    assert spans_of("SSS----SSSSSSSSSSS", **options) == [(0, 12), (13, 18)]  # four are not: hard, and a window is lost
    assert spans_of("S" * 30, **options) == [(0, 12), (13, 25), (26, 30)]


def test_too_long_speech_is_split_at_its_longest_silence() -> None:
    assert spans_of("S-----SS----SSSSSS", **TOO_LONG) == [(0, 1), (6, 18)]
    assert spans_of("S----SS-----SSSSSS", **TOO_LONG) == [(0, 7), (12, 18)]
    equal = "S----SS----SSSSSSSS"  # the first of them splits; after it no silence is left to split at
    assert spans_of(equal, **TOO_LONG) == [(0, 1), (5, 17), (18, 19)]
    lasting = "SSSSSS---------S"  # a silence counts when speech has ended it: the cut is hard
    assert spans_of(lasting, **TOO_LONG) == [(0, 12), (15, 16)]
    assert spans_of("S" * 30, **TOO_LONG) == [(0, 12), (13, 25), (26, 30)]


@pytest.mark.parametrize("at_longest", [False, True])
@pytest.mark.parametrize(("shortest_ms", "splits"), [(0, True), (64, True), (127, True), (128, False), (500, False)])
def test_a_silence_that_is_long_enough_splits_speech(at_longest: bool, shortest_ms: float, splits: bool) -> None:
    # 128 ms are four windows: from the first silent window to the last one, or to the one that ends the silence.
    pattern = "SSS----SSSSSSSSSSS" if at_longest else "SSS-----SSSSSSSSSS"
    options = {"min_silence_at_max_speech": shortest_ms, "use_max_poss_sil_at_max_speech": at_longest}
    first_end = spans_of(pattern, **TOO_LONG, **options)[0][1]
    assert first_end == (3 if splits else 12)


def test_probabilities_have_to_be_numbers() -> None:
    for probs in (np.array([0.1, np.nan]), np.array([np.inf]), np.zeros((2, 2))):
        with pytest.raises(InternalError):
            speech_spans(probs, 1024, VadOptions())


milliseconds = st.sampled_from([0, 16, 30, 64, 100, 250, 400, 2000]) | st.floats(0.0, 3000.0)
vad_options = st.builds(
    VadOptions,
    threshold=st.sampled_from([0.5, 0.3, 0.9, 1.0]),
    neg_threshold=st.none() | st.floats(0.0, 0.3),
    min_speech_duration_ms=milliseconds,
    max_speech_duration_s=st.sampled_from([math.inf, 30.0, 5.0, 1.0, 0.5]),
    min_silence_duration_ms=milliseconds,
    speech_pad_ms=milliseconds,
    min_silence_at_max_speech=st.sampled_from([98, 0, 64, 400]) | st.floats(0.0, 1000.0),
    use_max_poss_sil_at_max_speech=st.booleans(),
)


@st.composite
def speech_like(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Runs of alike probabilities, as speech has them: independent ones would never be silent for long."""
    runs = draw(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 1.0]), st.integers(1, 60)), max_size=20))
    return np.array([level for level, length in runs for _ in range(length)], np.float64)


@given(speech_like(), st.integers(0, W - 1), vad_options)
def test_spans_are_sorted_disjoint_and_inside(probs: np.ndarray[Any, Any], missing: int, options: VadOptions) -> None:
    n_samples = max(probs.size * W - missing, 0)
    spans = speech_spans(probs, n_samples, options)
    position = 0
    for start, end in spans:
        assert isinstance(start, int)
        assert isinstance(end, int)
        assert position <= start < end <= n_samples
        position = end
    SpeechTimeline(spans, n_samples)
    if (probs < options.threshold).all():
        assert spans == []
    longest_s = options.max_speech_duration_s
    if longest_s * 16000 > W + 2 * options.speech_pad_ms * 16 + W:
        assert all(end - start <= longest_s * 16000 + W for start, end in spans)


@given(speech_like(), st.integers(1, W), vad_options)
def test_against_faster_whisper(probs: np.ndarray[Any, Any], missing: int, options: VadOptions) -> None:
    """Until 1.2.1 it knows no longest silence: the last one splits, when it is longer than 98 ms."""
    theirs = pytest.importorskip("faster_whisper.vad", reason="faster-whisper is not installed")
    n_samples = max(probs.size * W - missing, 0)
    probs = probs[: n_samples // W + 1]
    known = {field.name for field in dataclasses.fields(theirs.VadOptions)}
    if "use_max_poss_sil_at_max_speech" not in known:
        options = dataclasses.replace(options, min_silence_at_max_speech=98, use_max_poss_sil_at_max_speech=False)
    given = {name: value for name, value in vars(options).items() if name in known}
    kept = theirs.get_vad_model
    theirs.get_vad_model = lambda: lambda audio: probs
    try:
        expected = theirs.get_speech_timestamps(np.zeros(n_samples, np.float32), theirs.VadOptions(**given))
    finally:
        theirs.get_vad_model = kept
    ours = speech_spans(probs, n_samples, options)
    assert ours == [(span["start"], span["end"]) for span in expected]


@given(speech_like(), st.integers(1, W), vad_options)
def test_against_silero(probs: np.ndarray[Any, Any], missing: int, options: VadOptions) -> None:
    theirs = pytest.importorskip("silero_vad.utils_vad", reason="silero-vad is not installed")
    n_samples = max(probs.size * W - missing, 0)
    probs = probs[: n_samples // W + 1]
    expected = theirs.get_speech_timestamps_from_probs(probs.tolist(), audio_length_samples=n_samples, **vars(options))
    assert speech_spans(probs, n_samples, options) == [(span["start"], span["end"]) for span in expected]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 0.0),
        ("threshold", 1.1),
        ("threshold", math.nan),
        ("threshold", "0.5"),
        ("threshold", True),
        ("neg_threshold", 0.6),
        ("neg_threshold", -0.1),
        ("min_speech_duration_ms", -1),
        ("min_speech_duration_ms", None),
        ("max_speech_duration_s", 0),
        ("max_speech_duration_s", math.nan),
        ("min_silence_duration_ms", math.inf),
        ("speech_pad_ms", -0.5),
        ("min_silence_at_max_speech", -1),
        ("min_silence_at_max_speech", math.inf),
        ("min_silence_at_max_speech", None),
        ("use_max_poss_sil_at_max_speech", None),
        ("use_max_poss_sil_at_max_speech", "yes"),
    ],
)
def test_wrong_options(field: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        VadOptions.from_any({field: value})
    assert caught.value.field == field


def test_options_from_any() -> None:
    assert VadOptions.from_any(None) == VadOptions()
    assert VadOptions.from_any({"threshold": 0.25, "speech_pad_ms": 30}) == VadOptions(threshold=0.25, speech_pad_ms=30)
    options = VadOptions(min_speech_duration_ms=250)
    assert VadOptions.from_any(options) is options
    with pytest.raises(OptionError, match="min_silence_duration_ms"):
        VadOptions.from_any({"min_silence": 100})
    with pytest.raises(OptionError, match="a dict of VAD options"):
        VadOptions.from_any([("threshold", 0.5)])  # type: ignore[arg-type]


# --- the timeline -----------------------------------------------------------------------------------------------------

S = 16000
TIMELINE = SpeechTimeline([(1 * S, 2 * S), (5 * S, 7 * S), (7 * S, 8 * S), (20 * S, 21 * S)], 22 * S)


def test_cut() -> None:
    samples = np.arange(22 * S, dtype=np.float32)
    cut = np.concatenate([samples[start:end] for start, end in TIMELINE.spans])
    assert cut.dtype == np.float32
    assert cut.size == 5 * S == TIMELINE.duration_s * S
    assert cut[::S].tolist() == [1 * S, 5 * S, 6 * S, 7 * S, 20 * S]


@pytest.mark.parametrize(
    ("cut_s", "start_s", "end_s"),
    [
        (0.0, 1.0, 1.0),
        (0.5, 1.5, 1.5),
        (1.0, 5.0, 2.0),  # where two spans meet
        (1.25, 5.25, 5.25),
        (3.0, 7.0, 7.0),  # ... with nothing between them
        (4.0, 20.0, 8.0),
        (4.5, 20.5, 20.5),
        (5.0, 21.0, 21.0),
        (9.0, 21.0, 21.0),  # beyond the end
        (-1.0, 1.0, 1.0),
    ],
)
def test_to_original(cut_s: float, start_s: float, end_s: float) -> None:
    assert TIMELINE.to_original(cut_s) == start_s
    assert TIMELINE.to_original(cut_s, is_end=True) == end_s


def test_times_come_out_as_they_are_written() -> None:
    assert TIMELINE.to_original(0.3) == 1.3
    assert TIMELINE.to_original(1.1) == 5.1


def segment(start: float, end: float, words: Optional[list[Word]] = None, seek: int = 0) -> Segment:
    return Segment(0, seek, start, end, " a", [1], 0.0, -0.1, 1.0, 0.1, words)


def test_restore() -> None:
    given = [segment(0.0, 1.0), segment(1.0, 4.0, seek=100), segment(4.0, 5.0, seek=400)]
    restored = TIMELINE.restore(given)
    assert [(made.start, made.end, made.seek) for made in restored] == [
        (1.0, 2.0, 100),
        (5.0, 8.0, 500),
        (20.0, 21.0, 2000),
    ]
    assert given[0].start == 0.0
    assert restored[0].tokens == given[0].tokens


def test_restore_keeps_a_word_within_one_span() -> None:
    words = [Word(0.2, 0.6, " a", 0.9), Word(0.6, 1.1, " b", 0.8), Word(0.95, 1.5, " c", 0.7)]
    made = TIMELINE.restore([segment(0.0, 2.0, words)])[0]
    assert made.words == [Word(1.2, 1.6, " a", 0.9), Word(1.6, 2.0, " b", 0.8), Word(5.0, 5.5, " c", 0.7)]
    assert (made.start, made.end) == (1.2, 5.5)
    assert TIMELINE.restore([segment(0.0, 2.0, [])])[0].words == []


def test_no_speech() -> None:
    nothing = SpeechTimeline([], 10)
    assert nothing.spans == [] and nothing.duration_s == 0.0
    assert nothing.to_original(1.0) == 0.0
    assert nothing.restore([]) == []
    assert nothing.duration_s == 0.0


@pytest.mark.parametrize("spans", [[(5, 5)], [(5, 4)], [(-1, 4)], [(0, 10), (9, 12)], [(10, 20), (0, 5)], [(0, 21)]])
def test_wrong_spans(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="span"):
        SpeechTimeline(spans, 20)


@st.composite
def timelines(draw: st.DrawFn) -> SpeechTimeline:
    lengths = draw(st.lists(st.tuples(st.integers(0, 300_000), st.integers(1, 300_000)), min_size=1, max_size=8))
    spans, position = [], 0
    for gap, length in lengths:
        spans.append((position + gap, position + gap + length))
        position += gap + length
    return SpeechTimeline(spans, position)


@given(timelines(), st.lists(st.floats(0.0, 160.0), min_size=2, max_size=20))
def test_times_stay_in_order_and_inside(timeline: SpeechTimeline, times: list[float]) -> None:
    first, last = timeline.spans[0][0] / S, timeline.spans[-1][1] / S
    for is_end in (False, True):
        restored = [timeline.to_original(time_s, is_end=is_end) for time_s in sorted(times)]
        assert restored == sorted(restored)
        assert all(first <= time_s <= last for time_s in restored)
    assert all(timeline.to_original(t, is_end=True) <= timeline.to_original(t) for t in times)


@given(timelines(), st.data())
def test_round_trip(timeline: SpeechTimeline, data: st.DataObject) -> None:
    """A sample of the cut audio leads back to the place that it was cut from, to the millisecond."""
    source = np.concatenate([np.arange(start, end) for start, end in timeline.spans])
    position = data.draw(st.integers(0, source.size - 1))
    assert timeline.to_original(position / S) == pytest.approx(source[position] / S, abs=0.000_51)
