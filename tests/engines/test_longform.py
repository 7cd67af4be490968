"""The window loop of the `edge` engine, over a model that answers by a script; openai/whisper is the oracle."""

from __future__ import annotations

import dataclasses
import json
import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from whisperq_edge import OptionError
from whisperq_edge._engines import longform
from whisperq_edge._engines.word_times import WordTiming, steady_words
from whisperq_edge._options import TranscribeOptions
from whisperq_edge._result import Dropped, Segment
from whisperq_edge._whisper.tokenizer import Tokenizer

from tests.support import scripted_windows
from tests.support.paths import DATA
from tests.support.scripted_windows import (
    VOCABULARY,
    Answer,
    Script,
    ScriptedModel,
    random_case,
    transcribe,
)

pytestmark = pytest.mark.usefixtures("numbered_mel")

GOLDEN = DATA / "longform" / "segments.json"
FIELDS = ("id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "no_speech_prob")
TIME = VOCABULARY.special("<|0.00|>")


# ---- openai/whisper says the same ------------------------------------------------------------------------------------


def as_ours(theirs: Sequence[dict[str, Any]], duration_s: float, options: dict[str, Any]) -> list[dict[str, Any]]:
    """openai/whisper's segments as far as they say something, with no time behind the audio of their window."""
    n_frames = round(duration_s * 16000) // 160
    clips = TranscribeOptions.from_arguments(options).clips_s(n_frames / 100)
    expected = []
    for segment in theirs:
        ends = [end for start, end in clips if round(start * 100) <= segment["seek"] < round(end * 100)]
        latest_s = min([segment["seek"] / 100 + 30, n_frames / 100, *ends])
        if segment["text"].strip() and segment["start"] < latest_s:
            times = {name: min(segment[name], latest_s) for name in ("start", "end")}
            expected.append({**segment, **times, "id": len(expected)})
    return expected


def assert_equal(
    ours: Sequence[Segment],
    theirs: Sequence[dict[str, Any]],
    duration_s: float,
    options: dict[str, Any],
    tolerance_s: float,
) -> None:
    theirs = as_ours(theirs, duration_s, options)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        for name in FIELDS:
            assert getattr(mine, name) == other[name], name
        assert mine.compression_ratio == pytest.approx(other["compression_ratio"], rel=0.2)  # zlib's versions differ
        if mine.words is not None:
            assert_equal_words(mine, other, duration_s, tolerance_s)


def assert_equal_words(mine: Segment, other: dict[str, Any], duration_s: float, tolerance_s: float) -> None:
    """Equal where openai/whisper's words keep inside of their segment and the audio, and in order."""
    heard_s = int(duration_s * 100) / 100
    raw = [WordTiming(word["word"], [], word["start"], word["end"], word["probability"]) for word in other["words"]]
    expected = steady_words(raw, min(other["start"], heard_s), min(other["end"], heard_s))
    assert mine.words is not None
    assert [word.word for word in mine.words] == [word.word for word in expected]
    for word, wanted in zip(mine.words, expected):
        assert abs(word.start - wanted.start) <= tolerance_s
        assert abs(word.end - wanted.end) <= tolerance_s
        assert word.probability == pytest.approx(wanted.probability, abs=1e-3)


def test_equal_to_openai_whisper_on_golden_data() -> None:
    for case in json.loads(GOLDEN.read_text(encoding="utf-8")):
        duration_s, options = random_case(case["seed"])
        if options.get("clip_timestamps"):  # openai/whisper listens to what is behind the end of a clip
            options["language"] = case["language"]
        rankings: list[Any] = []
        segments, _ = transcribe(Script(case["seed"]), duration_s, options, on_languages=rankings.append)
        assert [ranking[0][0] for ranking in rankings] == [case["language"]]
        assert_equal(segments, case["segments"], duration_s, options, tolerance_s=0.021)


@pytest.mark.filterwarnings("ignore")  # torch's and openai/whisper's own
@pytest.mark.parametrize("first", range(1000, 1100, 20))
def test_equal_to_openai_whisper_on_random_scripts(first: int) -> None:
    pytest.importorskip("whisper")
    from tests.support import scripted_openai

    n_segments = 0
    for seed in range(first, first + 20):
        duration_s, options = random_case(seed)
        ours, theirs = Script(seed), Script(seed)
        rankings: list[Any] = []
        segments, _ = transcribe(ours, duration_s, options, on_languages=rankings.append)
        told = {}
        if options.get("clip_timestamps"):  # where openai/whisper detects the language outside of the clips
            told["language"] = rankings[0][0][0]
        expected = scripted_openai.transcribe(theirs, duration_s, {**options, **told})
        assert_equal(segments, expected["segments"], duration_s, options, tolerance_s=0)
        assert ours.asked == theirs.asked
        n_segments += len(segments)
    assert n_segments > 20


def test_words_keep_in_order_in_their_segment_and_in_the_audio() -> None:
    n_words = 0
    for seed in range(40):
        duration_s, options = random_case(seed)
        options.pop("hallucination_silence_threshold", None)
        segments, _ = transcribe(Script(seed), duration_s, {**options, "word_timestamps": True})
        for segment in segments:
            assert segment.words is not None
            times = [time for word in segment.words for time in (word.start, word.end)]
            assert times == sorted(times)
            assert all(segment.start <= time <= min(segment.end, duration_s) for time in times)
            n_words += len(segment.words)
    assert n_words > 100


# ---- Prompts ---------------------------------------------------------------------------------------------------------


class Recorder(ScriptedModel):
    """Remembers what it was asked, and says what it is told: one segment of the whole window by default."""

    def __init__(self, answers: Sequence[Answer] = ()) -> None:
        super().__init__(Script(0))
        self.requests: list[tuple[tuple[int, int], list[int]]] = []
        self.options: list[Any] = []
        self.n_prefix: list[int] = []
        self._answers = list(answers)

    def _answer(self, audio: Any, request: Any, options: Any) -> Answer:
        self.requests.append((audio.window, request.tokens))
        self.options.append(options)
        self.n_prefix.append(request.n_prefix)
        if self._answers:
            return self._answers.pop(0)
        end = min(audio.window[1] // 2, 1500)
        return said(0, " word", end)


def said(*parts: Any, avg_logprob: float = -0.1, no_speech_prob: float = 0.01) -> Answer:
    """An answer of texts, and times in audio tokens."""
    tokens: list[int] = []
    for part in parts:
        tokens += [TIME + part] if isinstance(part, int) else VOCABULARY.encode(part)
    return Answer(tokens, avg_logprob, no_speech_prob)


def run(model: Recorder, duration_s: float = 70, **options: Any) -> Any:
    return transcribe(Script(0), duration_s, {"language": "en", "beam_size": 1, **options}, model=model)


def prompts(model: Recorder) -> list[str]:
    """What stands before each window's sot, as text."""
    tokenizer = Tokenizer(VOCABULARY, "en")
    return [tokenizer.decode(tokens[: tokens.index(tokenizer.sot)]) for _, tokens in model.requests]


def test_hotwords_stand_before_the_text_and_give_way_to_a_prefix() -> None:
    model = Recorder()
    run(model, hotwords="Wug, blick", prefix="It began")
    begin = VOCABULARY.encode(" It began")
    assert model.requests[0][1][-len(begin) :] == begin
    told = "<|startofprev|> Wug, blick It began word"
    assert prompts(model) == ["", told, f"{told} word"]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_prefix_stays_in_the_text_behind_a_timestamp(batch_size: Any) -> None:
    """Without ``<|0.00|>`` before it, Whisper would put a timestamp behind it, and say no more."""
    model = Recorder([said(" at noon.", 500, 500, " Then it ended.", 1500)])
    segments, _ = run(model, 30, prefix="It began", batch_size=batch_size)
    prefix = [TIME, *VOCABULARY.encode(" It began")]
    assert model.requests[0][1][-len(prefix) :] == prefix
    assert model.n_prefix == [len(prefix)]
    assert [segment.text for segment in segments] == [" It began at noon.", " Then it ended."]
    assert segments[0].start == 0 and segments[0].end == 10


def test_a_prefix_without_timestamps() -> None:
    model = Recorder([said(" at noon.")])
    segments, _ = run(model, 30, prefix="It began", without_timestamps=True)
    assert model.requests[0][1][-2:] == VOCABULARY.encode(" It began")
    assert [segment.text for segment in segments] == [" It began at noon."]


def test_a_prefix_that_nothing_follows_loses_no_speech() -> None:
    model = Recorder([said("!", 100), said(50, " Nobody said that.", 1500)])
    segments, _ = run(model, 30, prefix="Hello")
    assert model.n_prefix == [2, 0]
    assert [(segment.text, segment.end) for segment in segments] == [(" Hello Nobody said that.", 30)]


def test_hotwords_and_text_share_the_room() -> None:
    model = Recorder([said(0, " text" * 220, 1500)])
    run(model, hotwords="many " * 100, temperature=0.0)
    assert len(model.requests[1][1]) == 1 + 223 + 3
    run(model := Recorder(), hotwords="many " * 300)
    assert len(model.requests[1][1]) == 1 + 223 + 3


def test_an_initial_prompt_that_fills_all_the_room_is_still_carried() -> None:
    model = Recorder()
    tokens = list(range(1000, 1300))
    run(model, initial_prompt=tokens, carry_initial_prompt=True)
    assert [asked[1:224] for _, asked in model.requests] == [tokens[-223:]] * 3


def test_text_of_a_hot_window_prompts_nothing() -> None:
    unsure = said(0, " first", 1500, avg_logprob=-3)
    model = Recorder([unsure, said(0, " second", 1500)])
    segments, _ = run(model, temperature=[0.0, 0.6])
    assert segments[0].temperature == 0.6
    assert prompts(model)[2] == ""
    model = Recorder([unsure, said(0, " second", 1500)])
    run(model, temperature=[0.0, 0.6], prompt_reset_on_temperature=0.7)
    assert prompts(model)[2] == "<|startofprev|> second"


def test_what_the_search_is_told() -> None:
    model = Recorder([said(0, " a", 9, avg_logprob=-3)] * 2)
    run(model, 20, beam_size=5, best_of=3, patience=2, temperature=[0.0, 0.5], seed=7, length_penalty=0.5)
    cold, hot = model.options
    assert (cold.beam_size, cold.best_of, cold.patience, cold.length_penalty) == (5, 1, 2, 0.5)
    assert (hot.beam_size, hot.best_of, hot.patience, hot.temperature, hot.seed) == (0, 3, None, 0.5, 7)
    assert cold.blank == (220, VOCABULARY.special("<|endoftext|>"))


# ---- Batches ---------------------------------------------------------------------------------------------------------


def speech_in(*spans_s: tuple[float, float]) -> Any:
    """A voice detector that is sure of these spans."""

    def hear(samples: Any, should_stop: Any) -> Any:
        at_s = np.arange(-(-samples.size // 512)) * 512 / 16000
        return np.any([(start <= at_s) & (at_s < end) for start, end in spans_s], axis=0).astype(np.float32)

    return hear


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts have a word in place of many, which is no skipped speech."""
    monkeypatch.setattr(longform, "_LEAST_SKIPPED_FRAMES", 10**6)
    monkeypatch.setattr(longform, "_LONGEST_WORD_FRAMES", 10**6)


@pytest.mark.usefixtures("few_words")
def test_batches_decode_chunks_of_speech_together() -> None:
    model = Recorder()
    heard: list[float] = []
    segments, result = transcribe(
        Script(0),
        120,
        {
            "language": "en",
            "batch_size": 3,
            "initial_prompt": "Say",
            "beam_size": 1,
            "vad_parameters": {"speech_pad_ms": 0, "min_silence_duration_ms": 100},
        },
        model=model,
        on_progress=heard.append,
        hear_speech=speech_in((0, 10), (12, 24.96), (40, 100), (105.6, 110.4)),
    )
    windows = [window for window, _ in model.requests]
    # Neighbours that fit into 30 s share a window; what is longer is cut, where the voice detector is asked next.
    assert windows == [(0, 2496), (4000, 2998), (7001, 2999), (10560, 480)]
    # The first region ends at its longest pause. The second one begins beside it, and ends alone.
    assert model.batches == [2, 1, 1]
    # Each region begins with the initial prompt, and knows its own text.
    told = "<|startofprev|> Say"
    assert prompts(model) == [told, told, f"{told} word", f"{told} word word"]
    assert [segment.id for segment in segments] == list(range(len(windows)))
    assert [(segment.start, segment.seek) for segment in segments] == [(seek / 100, seek) for seek, _ in windows]
    assert heard == sorted(heard)
    assert result.stages["vad"].runs == 1


def test_a_batch_is_the_same_as_one_by_one() -> None:
    for seed in range(20):
        duration_s, options = random_case(seed)
        options.pop("hallucination_silence_threshold", None)
        one, _ = transcribe(Script(seed), duration_s, {**options, "batch_size": 1})
        many, _ = transcribe(Script(seed), duration_s, {**options, "batch_size": 8})
        assert one == many


def test_only_those_windows_fall_back_that_have_to() -> None:
    good, bad = said(0, " good", 1500), said(0, " bad" * 40, 1500)
    model = Recorder([good, bad, said(0, " better", 1500)])
    segments, _ = run(model, 60, batch_size=2, temperature=[0.0, 0.4], clip_timestamps=[0, 30, 30, 60])
    assert model.batches == [2, 1]
    assert [(segment.text, segment.temperature) for segment in segments] == [(" good", 0.0), (" better", 0.4)]


def test_a_batch_listens_again_to_speech_behind_the_last_timestamp() -> None:
    model = Recorder([said(0, " one", 100, 120, " two"), said(0, " two", 600)])
    segments, _ = run(model, 20, batch_size=2)
    assert [window for window, _ in model.requests] == [(0, 2000), (200, 1800), (1400, 600)]
    assert [(segment.text, segment.start, segment.end) for segment in segments] == [
        (" one", 0, 2),
        (" two", 2, 14),
        (" word", 14, 20),
    ]


@pytest.mark.usefixtures("few_words")
def test_a_batch_goes_on_where_the_sequential_loop_does_and_fills_the_window_again() -> None:
    spans = speech_in((0, 25), (26, 50), (51, 80))
    answers = [said(0, " one", 1000, 1000), said(0, " two", 1400, 1400), said(0, " three", 1500)]
    model = Recorder(answers)
    options = {"language": "en", "batch_size": 4, "vad_parameters": {"speech_pad_ms": 0}}
    segments, _ = transcribe(Script(0), 80, options, model=model, hear_speech=spans)
    # The second window would hold five seconds if it ended with its chunk, so it is cut amid the next one.
    assert [window for window, _ in model.requests] == [(0, 2502), (2000, 3000), (4800, 3000), (7800, 200)]
    assert [segment.start for segment in segments] == [0, 20, 48, 78]


@pytest.mark.parametrize("rest", [(" two",), (960, " two"), ()], ids=str)
def test_a_short_rest_is_not_worth_a_window(rest: tuple[Any, ...]) -> None:
    """Text that stands behind the last pair of timestamps is kept, up to the end of the window."""
    model = Recorder([said(0, " one", 955, 955, *rest)])
    segments, _ = run(model, 20, batch_size=2)
    assert [window for window, _ in model.requests] == [(0, 2000)]
    assert [segment.text for segment in segments] == [" one", " two"][: 2 if rest else 1]
    assert segments[-1].end == (20 if rest else 19.1)


@pytest.mark.usefixtures("few_words")
def test_a_rest_however_short_is_heard_again_where_speech_goes_on() -> None:
    model = Recorder([said(0, " one", 1476, 1476)])
    vad = {"speech_pad_ms": 0, "min_silence_duration_ms": 100}
    options = {"language": "en", "batch_size": 2, "vad_parameters": vad}
    transcribe(Script(0), 42, options, model=model, hear_speech=speech_in((0, 10), (10.56, 38.4)))
    assert [window for window, _ in model.requests] == [(0, 3000), (2952, 888)]


def test_a_region_that_is_cut_amid_speech_hears_its_rest() -> None:
    """A clip is cut every 90 s, wherever that is."""
    model = Recorder(
        [said(0, " one", 1500), said(0, " far", 500), *[said(0, " two", 1500)], said(0, " end", 1475, 1475)]
    )
    segments, _ = run(model, 100, batch_size=2, clip_timestamps=[0, 100])
    assert (8950, 50) in [window for window, _ in model.requests]
    assert [segment.start for segment in segments] == sorted(segment.start for segment in segments)


class Stretched(Recorder):
    """Aligns the n-th word with the n-th of the spans given (seconds in the window), in turn for each alignment."""

    def __init__(self, answers: Sequence[Answer], *spans_s: Sequence[tuple[float, float]]) -> None:
        super().__init__(answers)
        self._spans_s = list(spans_s)

    def _align(self, audio: Any, request: Any) -> Any:
        starts_s = [start for start, _ in self._spans_s[0]]
        end_s = self._spans_s.pop(0)[-1][1]
        text = np.arange(len(request.text_tokens) + 1)
        assert len(text) == len(starts_s) + 1  # a token is a word here
        times = np.array([*starts_s, end_s]) * 50
        return scripted_windows._Aligned(text, times.astype(np.int64), [0.9] * len(request.text_tokens))


MANY = " old house new river big night small garden red letter green day"


def evenly(n_words: int, end_s: float) -> list[tuple[float, float]]:
    """Spans of words that follow each other."""
    return [(i * end_s / n_words, (i + 1) * end_s / n_words) for i in range(n_words)]


TEXT_ONLY = {"batch_size": 2, "without_timestamps": True}


def run_on_speech(model: Recorder, duration_s: float, **options: Any) -> Any:
    """As ``run``, with a voice detector that hears speech all the time."""
    arguments = {"language": "en", "beam_size": 1, "temperature": 0.0, "batch_size": 2, **options}
    return transcribe(Script(0), duration_s, arguments, model=model, hear_speech=speech_in((0, duration_s)))


def is_timed(model: Recorder) -> list[bool]:
    return [VOCABULARY.special("<|notimestamps|>") not in tokens for _, tokens in model.requests]


def test_without_timestamps_a_batch_goes_on_behind_the_last_word() -> None:
    model = Stretched([said(" one two"), said(" one")], [(0, 1), (1, 2)], [(0, 1)])
    segments, _ = run_on_speech(model, 4, without_timestamps=True)
    assert [window for window, _ in model.requests] == [(0, 400), (200, 200)]
    assert segments[0].end == segments[1].start == 2


def test_a_word_over_much_speech_is_decoded_again_with_timestamps() -> None:
    model = Stretched([said(" one two"), said(0, MANY, 450, 450)], [(0, 1), (1, 9)], evenly(12, 9))
    segments, _ = run_on_speech(model, 9, without_timestamps=True)
    assert [window for window, _ in model.requests] == [(0, 900), (0, 900)] and is_timed(model) == [False, True]
    assert [(segment.start, segment.end, segment.text) for segment in segments] == [(0, 9, MANY)]
    assert all(token < TIME for token in segments[0].tokens)


def test_what_timestamps_leave_of_such_a_window_is_heard_next() -> None:
    answers = [said(" one two"), said(0, MANY, 350, 350), said(" two")]
    model = Stretched(answers, [(0, 1), (1, 9)], evenly(12, 7), [(0, 1.5)])
    segments, _ = run_on_speech(model, 9, without_timestamps=True)
    assert [window for window, _ in model.requests] == [(0, 900), (0, 900), (700, 200)]
    assert [(segment.start, segment.end) for segment in segments] == [(0, 7), (7, 9)]


def test_speech_that_timestamps_skip_too_is_heard_next() -> None:
    """The segment has so many words that it is not sparse, and one of them stands for four seconds of speech."""
    spans = [*evenly(11, 4), (4, 9)]
    model = Stretched(
        [said(" one two"), said(0, MANY, 450, 450), said(" two" * 9)], [(0, 1), (1, 9)], spans, evenly(9, 5)
    )
    segments, _ = run_on_speech(model, 9, without_timestamps=True)
    assert [window for window, _ in model.requests] == [(0, 900), (0, 900), (400, 500)]
    assert [(segment.start, segment.end) for segment in segments] == [(0, 4), (4, 9)]
    assert segments[0].text == MANY[: -len(" day")]


@pytest.mark.parametrize("again", [said(0, " one", 300), said(0, " one two one one", 300, avg_logprob=-3)])
def test_where_timestamps_do_not_help_the_text_ends_before_what_is_skipped(again: Answer) -> None:
    model = Stretched(
        [said(" one two one"), again, said(" two two two two")],
        [(0, 1), (1, 4.6), (4.6, 6)],
        [(0, 1.2), (1.2, 2.5), (2.5, 3.8), (3.8, 5)],
    )
    segments, _ = run_on_speech(model, 6, without_timestamps=True)
    assert [window for window, _ in model.requests] == [(0, 600), (0, 600), (100, 500)]
    assert [segment.text for segment in segments] == [" one", " two two two two"]
    assert segments[0].end == segments[1].start == 1


def test_a_pause_is_no_skipped_speech() -> None:
    model = Stretched([said(" one two")], [(0, 1), (1, 8.5)])
    options = {"language": "en", "beam_size": 1, "vad_parameters": {"speech_pad_ms": 0}, **TEXT_ONLY}
    transcribe(Script(0), 9, options, model=model, hear_speech=speech_in((0, 2), (8.3, 9)))
    assert [window for window, _ in model.requests] == [(0, 900)] and is_timed(model) == [False]


def test_a_segment_that_skips_much_speech_ends_before_it() -> None:
    """The second segment has two words for seven seconds of speech, of which the second word covers five."""
    answers = [said(0, " one", 50, 50, " two one", 400, 400), said(0, " two" * 9, 250, 250)]
    model = Stretched(answers, [(0, 1), (1, 3), (3, 8)])
    segments, _ = run_on_speech(model, 8)
    assert [window for window, _ in model.requests] == [(0, 800), (300, 500)]
    assert [(one.start, one.end, one.text) for one in segments] == [(0, 1, " one"), (1, 3, " two"), (3, 8, " two" * 9)]


def test_a_timestamp_far_behind_the_last_word_is_not_believed() -> None:
    """The segment claims to reach to 8 s. Its word ends at 1 s, and speech goes on behind it."""
    model = Stretched([said(0, " one", 400, 400), said(0, " two" * 9, 350, 350)], [(0, 1)])
    segments, _ = run_on_speech(model, 8)
    assert [window for window, _ in model.requests] == [(0, 800), (100, 700)]
    assert [(segment.start, segment.end) for segment in segments] == [(0, 1), (1, 8)]


def test_speech_between_two_segments_is_decoded() -> None:
    model = Recorder([said(0, " one", 50, 250, " two", 300, 300), said(0, " two" * 9, 250, 250)])
    segments, _ = run_on_speech(model, 6)
    assert [window for window, _ in model.requests] == [(0, 600), (100, 500)]
    assert [segment.text for segment in segments] == [" one", " two" * 9]


def test_speech_that_is_skipped_at_the_beginning_is_decoded_by_itself_once() -> None:
    late = said(0, " one two", 300, 300)
    model = Stretched([late, late, said(0, MANY, 100, 100)], [(0, 4.5), (4.5, 6)], [(0, 3.5), (3.5, 4)])
    segments, _ = run_on_speech(model, 6)
    assert [window for window, _ in model.requests] == [(0, 600), (0, 400), (400, 200)]
    assert [(segment.start, segment.end) for segment in segments] == [(0, 4), (4, 6)]


def test_a_beginning_that_stays_skipped_ends_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    late = said(0, " one two", 300, 300)
    model = Stretched([late, said(0, " one", 200, 200), said(0, MANY, 100, 100)], [(0, 4.5), (4.5, 6)], [(0, 4)])
    run_on_speech(model, 6)
    assert [window for window, _ in model.requests] == [(0, 600), (0, 400), (400, 200)]
    assert "from 0.00 to 4.00 s" in caplog.text


def test_the_answer_with_timestamps_is_aligned_itself() -> None:
    """It has few words, too. Those of the first answer tell nothing about where it ends."""
    answers = [said(" one two"), said(0, " two one two one", 600, 600), said(" one two")]
    times = [(0, 1), (1, 2), (2, 3), (3, 12)]
    model = Stretched(answers, [(0, 1), (1, 12)], times, [(0, 1), (1, 2)], [(0, 1)])
    segments, _ = run_on_speech(model, 12, without_timestamps=True)
    assert [window for window, _ in model.requests][:3] == [(0, 1200), (0, 1200), (300, 900)]
    assert segments[0].text == " two one two"


@pytest.mark.parametrize("options", [{"max_new_tokens": 4}, {"prefix": "Say", "condition_on_previous_text": False}])
def test_few_words_that_the_caller_asked_for_are_not_looked_at(options: dict[str, Any]) -> None:
    model = Stretched([said(*([] if "prefix" in options else [0]), " one", 300, 300)])  # no alignment is scripted
    segments, _ = run_on_speech(model, 6, **options)
    assert [window for window, _ in model.requests] == [(0, 600)]
    assert segments[0].text.endswith(" one")


def test_answers_that_keep_ending_early_end_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = Recorder([said(0, " one", 10, 10, " two")] * 20)
    segments, _ = run(model, 20, batch_size=2)
    assert [window for window, _ in model.requests] == [(0, 2000), (20, 1980), (40, 1960)]
    assert [segment.text for segment in segments] == [" one", " one", " one", " two"]
    assert "from 0.60 to 20.00 s" in caplog.text


def test_what_max_new_tokens_cuts_is_not_heard_again() -> None:
    model = Recorder([said(0, " one two", 100, 120)])
    run(model, 20, batch_size=2, max_new_tokens=5)
    assert [window for window, _ in model.requests] == [(0, 2000)]


def test_a_window_that_leads_nowhere_ends_in_a_batch_too() -> None:
    model = Recorder([said(0, 0, " one")])
    run(model, 20, batch_size=2)
    assert [window for window, _ in model.requests] == [(0, 2000)]


def test_without_conditioning_every_window_of_a_batch_gets_the_initial_prompt() -> None:
    model = Recorder([said(0, " one", 1400, 1400)])
    run(model, 60, batch_size=2, initial_prompt="Say", condition_on_previous_text=False)
    assert len(model.requests) == 3 and set(prompts(model)) == {"<|startofprev|> Say"}


def test_segments_of_a_batch_come_in_the_order_of_the_audio() -> None:
    segments, _ = run(Recorder(), 400, batch_size=3, clip_timestamps=[0, 100, 100, 130, 130, 300, 300, 320, 320, 400])
    assert [segment.id for segment in segments] == list(range(len(segments)))
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts) and segments[-1].end == 400


# ---- What a result never holds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 2])
def test_no_segment_without_text_leaves(batch_size: Any) -> None:
    model = Recorder([said(0, " ", 100, 100, " one", 1200, 1200, 1250), said(0, " two", 50)])
    segments, _ = run(model, 25, batch_size=batch_size)
    assert [(segment.id, segment.text) for segment in segments] == [(0, " one"), (1, " two")]


def test_no_segment_lies_behind_the_audio() -> None:
    segments, _ = run(Recorder([said(0, " word", 200, 300, " late", 350)]), 5)
    assert [(segment.text, segment.start, segment.end) for segment in segments] == [(" word", 0, 4)]


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize(("duration_s", "chunk_length"), [(0.3, None), (4.7, None), (12.0, 5)])
def test_no_time_lies_behind_the_audio(duration_s: float, chunk_length: Any, batch_size: Any) -> None:
    late = said(0, " word", 1000)
    model = Recorder([late] * 3)
    segments, _ = run(model, duration_s, batch_size=batch_size, chunk_length=chunk_length)
    length_s = chunk_length or duration_s
    assert [segment.end for segment in segments] == [
        min(segment.seek / 100 + length_s, duration_s) for segment in segments
    ]
    assert len(segments) == (3 if chunk_length else 1)


def test_a_batch_hears_clips() -> None:
    model = Recorder()
    run(model, 70, batch_size=4, clip_timestamps=[1, 2, 10, 50])
    assert [window for window, _ in model.requests] == [(100, 100), (1000, 3000), (4000, 1000)]
    assert model.batches == [2, 1]


def test_the_prefix_of_a_batch_is_of_the_first_chunk_that_is_heard() -> None:
    """As it is of windows one after the other: what is silent is not decoded."""
    begin = VOCABULARY.encode(" It began")
    for batch_size in (None, 2):
        model = Recorder()
        options = {"language": "en", "prefix": "It began", "batch_size": batch_size, "clip_timestamps": [0, 30, 30, 70]}
        transcribe(Script(0), 70, options, model=model, **silent((0, 30)))
        first, *others = [tokens[-len(begin) :] == begin for _, tokens in model.requests]
        assert first and others and not any(others)


def test_the_audio_of_a_batch_is_gone_when_the_next_one_comes() -> None:
    alive: list[int] = []

    class Weighed(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.heard: weakref.WeakSet[Any] = weakref.WeakSet()

        def encode(self, *arguments: Any) -> Any:
            if self.contexts and len(self.contexts) % 2 == 0:
                alive.append(len(self.heard))
            audio = super().encode(*arguments)
            self.heard.add(audio)
            return audio

    run(Weighed(), 170, batch_size=2, word_timestamps=True)
    assert alive == [0, 0]


# ---- Silence ---------------------------------------------------------------------------------------------------------


def silent(*spans_s: tuple[float, float]) -> dict[str, Any]:
    return {
        "hear_speech": speech_in((0, 1e6)),
        "find_silence": lambda samples, probabilities: [(int(a * 16000), int(b * 16000)) for a, b in spans_s],
    }


def test_silence_is_not_decoded() -> None:
    model = Recorder()
    segments, result = transcribe(Script(0), 125, {"language": "en"}, model=model, **silent((29, 91), (119, 125)))
    assert [window for window, _ in model.requests] == [(0, 3000), (9000, 3000)]
    assert result.dropped == (Dropped(30.0, 90.0, "silence"), Dropped(120.0, 125.0, "silence"))
    assert len(segments) == 2


def test_nothing_but_silence_gives_nothing_in_no_language() -> None:
    model = Recorder()
    languages: list[Any] = []
    for batch_size in (None, 4):
        segments, result = transcribe(
            Script(0), 65, {"batch_size": batch_size}, model=model, on_languages=languages.append, **silent((0, 65))
        )
        assert (segments, languages, model.contexts) == ([], [], [])
        assert result.dropped == (Dropped(0.0, 65.0, "silence"),)


def test_silence_is_decoded_on_demand() -> None:
    model = Recorder()
    options = {"language": "en", "drop_silence": False}
    _, result = transcribe(Script(0), 65, options, model=model, **silent((0, 65)))
    assert len(model.requests) == 3 and result.dropped == ()


# ---- The beginning of a window only ----------------------------------------------------------------------------------


def test_short_audio_is_encoded_up_to_its_end() -> None:
    model = Recorder()
    _, result = run(model, 5, audio_ctx="auto")
    assert model.contexts == [320]  # 250 of the audio, a margin of 25 and a sixteenth, and what fills a pool of 32
    assert (result.n_short_windows, result.n_redone_windows) == (1, 0)
    run(model := Recorder(), 5)
    assert model.contexts == [1500]


@pytest.mark.parametrize(
    ("audio_ctx", "shortens", "n_ctx"),
    [(None, True, 320), (None, False, 1500), ("auto", False, 320), (1500, True, 1500)],
)
def test_an_option_overrules_what_the_engine_does(audio_ctx: Any, shortens: bool, n_ctx: int) -> None:
    options = {"language": "en", "beam_size": 1, "audio_ctx": audio_ctx}
    transcribe(Script(0), 5, options, model=(model := Recorder()), shortens=shortens)
    assert model.contexts == [n_ctx]


@pytest.mark.parametrize(
    "wrong",
    [
        said(0, " ha" * 100, 200),
        said(0, " late", 291),
        Answer([TIME, *range(1000, 1223)], -0.1, 0.01),
    ],
    ids=["repetitive", "times beyond the audio", "no end"],
)
def test_what_looks_wrong_is_done_again_in_full(wrong: Answer) -> None:
    model = Recorder([wrong])
    segments, result = run(model, 5, audio_ctx="auto", temperature=0.0)
    assert model.contexts == [320, 1500]
    assert [segment.text for segment in segments] == [" word"]
    assert (result.n_short_windows, result.n_redone_windows) == (1, 1)


def test_an_answer_that_the_caller_cut_is_not_done_again() -> None:
    model = Recorder([said(0, " one two", 200)])
    run(model, 5, audio_ctx="auto", max_new_tokens=4, temperature=0.0)
    assert len(model.requests[0][1]) and model.contexts == [320]


def test_the_whole_window_comes_before_higher_temperatures() -> None:
    model = Recorder([said(0, " one", 200, avg_logprob=-2)])
    segments, result = run(model, 5, audio_ctx="auto", temperature=[0.0, 0.2])
    assert model.contexts == [320, 1500] and result.n_redone_windows == 1
    assert [(segment.text, segment.temperature) for segment in segments] == [(" word", 0.0)]


@pytest.mark.parametrize(
    ("options", "contexts"),
    [({}, [1500, 320]), ({"multilingual": True}, [1500, 1500]), ({"multilingual": True, "language": "en"}, [1500])],
    ids=str,
)
def test_languages_are_detected_from_whole_windows(options: dict[str, Any], contexts: list[int]) -> None:
    transcribe(Script(0), 5, {"beam_size": 1, **options}, model=(model := Recorder()), shortens=True)
    assert model.contexts == contexts


# ---- Languages -------------------------------------------------------------------------------------------------------


def test_several_windows_vote_on_the_language() -> None:
    model, rankings = Recorder(), []
    options = {"language_detection_segments": 4, "language_detection_threshold": 0.99}
    transcribe(Script(3), 200, options, model=model, on_languages=rankings.append)
    windows = [(i * 3000, 3000) for i in range(4)]
    tops = [int(np.argmax(Script(0).language_logits(window))) for window in windows]
    assert rankings[0][0][0] == Tokenizer(VOCABULARY).language_codes[max(tops, key=tops.count) - 50259]
    assert len(rankings[0]) == 99
    assert len(model.contexts) == 4 + len(model.requests)


def test_multilingual_asks_every_window() -> None:
    model = Recorder()
    run(model, 125, multilingual=True)
    asked = [(window, tokens[tokens.index(50258) + 1]) for window, tokens in model.requests]
    assert len({token for _, token in asked}) > 1
    for window, token in asked:
        assert token == int(np.argmax(Script(0).language_logits(window)))


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize(
    ("speech_s", "silence_s", "clips", "heard"),
    [
        ((70, 80), (0, 65), [0], (6000, 3000)),  # the first windows are dropped
        ((70, 80), (0, 0), [0], (6000, 3000)),  # they hold noise, which is no silence
        ((0, 0), (0, 40), [0], (3000, 3000)),  # nothing sounds like speech
        ((0, 0), (0, 0), [0], (0, 3000)),
        ((0, 90), (0, 0), [45, 80], (4500, 3000)),
        ((0, 90), (0, 0), [45, 50], (4500, 500)),  # no further than the clip
        ((60, 90), (0, 0), [45, 50, 52, 87], (5200, 3000)),
        ((85, 90), (0, 0), [45, 50, 52, 87], (8200, 500)),
    ],
)
def test_the_language_is_that_of_the_first_window_with_speech(
    speech_s: Any, silence_s: Any, clips: list[float], heard: tuple[int, int], batch_size: Any
) -> None:
    rankings: list[Any] = []
    tools = {**silent(silence_s), "hear_speech": speech_in(speech_s)}
    options = {"batch_size": batch_size, "clip_timestamps": clips}
    transcribe(Script(0), 90, options, model=Recorder(), on_languages=rankings.append, **tools)
    expected = int(np.argmax(Script(0).language_logits(heard)))
    assert rankings[0][0][0] == Tokenizer(VOCABULARY).language_codes[expected - 50259]


def test_a_given_language_is_reported() -> None:
    rankings: list[Any] = []
    transcribe(Script(0), 5, {"language": "german"}, on_languages=rankings.append)
    assert rankings == [[("de", 1.0)]]


# ---- The engine's face -----------------------------------------------------------------------------------------------


def test_it_stops_between_windows_and_keeps_what_was_heard() -> None:
    model = Recorder()
    segments: list[Segment] = []
    segments, result = transcribe(
        Script(0), 200, {"language": "en"}, model=model, should_stop=lambda: len(model.requests) >= 3
    )
    assert result.stopped
    assert len(segments) == 2
    segments, result = transcribe(Script(0), 200, {"language": "en"}, model=model, should_stop=lambda: True)
    assert result.stopped and segments == []


def test_a_window_that_leads_nowhere_is_left() -> None:
    # A hallucination right after silence, and a threshold of 0: openai/whisper decodes the same window for ever.
    _, result = transcribe(
        Script(5), 100, {"language": "en", "word_timestamps": True, "hallucination_silence_threshold": 0.0}
    )
    assert not result.stopped


def test_chunk_length_sets_the_window() -> None:
    model = Recorder()
    run(model, 25, chunk_length=10)
    assert [window for window, _ in model.requests] == [(0, 1000), (1000, 1000), (2000, 500)]


def test_progress_goes_up_to_one() -> None:
    heard: list[float] = []
    transcribe(Script(0), 100, {"language": "en"}, model=Recorder(), on_progress=heard.append)
    assert heard == sorted(heard) and math.isclose(heard[-1], 1.0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"chunk_length": 31}, "chunk_length"),
        ({"max_new_tokens": 225}, "max_new_tokens"),
        ({"length_penalty": 2}, "length_penalty"),
        ({"suppress_tokens": [51865]}, "suppress_tokens"),
        ({"initial_prompt": [-1]}, "initial_prompt"),
        ({"hallucination_silence_threshold": 1.0}, "hallucination_silence_threshold"),
        ({"hallucination_silence_threshold": 1.0, "word_timestamps": True, "batch_size": 2}, "hallucination_silence"),
        ({"batch_size": 0}, "batch_size"),
        ({"audio_ctx": "short"}, "audio_ctx"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], field: str) -> None:
    with pytest.raises(OptionError, match=field):
        transcribe(Script(0), 1, options)


def test_all_options_have_defaults_that_pass() -> None:
    segments, _ = transcribe(Script(0), 1, dataclasses.asdict(TranscribeOptions()))
    assert segments and segments == transcribe(Script(0), 1, {})[0]
