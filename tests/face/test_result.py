"""Results: the sums of timings, the layout of dictionaries."""

from __future__ import annotations

import copy
import json
import math
import pickle
import zlib
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisperq_edge._result import (
    STAGES,
    Segment,
    StageTime,
    Timings,
    Transcript,
    Word,
    compression_ratio,
    join_text,
)

milliseconds = st.floats(0.0, 1e7)
stage_times = st.dictionaries(st.sampled_from(STAGES), st.builds(StageTime, milliseconds, st.integers(0, 10**6)))
timings = st.builds(lambda stages, total: Timings(stages, total), stage_times, milliseconds)


def rows_sum(timings: Timings) -> float:
    return math.fsum(row.ms for name, row in timings.items() if name != "total")


@given(stage_times, milliseconds)
def test_rows_sum_to_total(stages: dict[str, StageTime], total_ms: float) -> None:
    timings = Timings(stages, total_ms)
    assert timings["other"].ms >= 0.0
    assert rows_sum(timings) == pytest.approx(timings["total"].ms, rel=1e-12, abs=1e-9)
    assert timings["total"].ms == max(total_ms, math.fsum(stage.ms for stage in stages.values()))


@given(timings, timings)
def test_sums(a: Timings, b: Timings) -> None:
    both = a + b
    for name in STAGES:
        assert both[name] == StageTime(a[name].ms + b[name].ms, a[name].runs + b[name].runs)
    assert rows_sum(both) == pytest.approx(both["total"].ms, rel=1e-12, abs=1e-9)
    assert both["total"].runs == 2
    assert Timings.zero() + a == a


@given(timings)
def test_the_printed_rows_sum_to_the_printed_total(timings: Timings) -> None:
    lines = timings.table("title").splitlines()
    assert lines[0] == "title"
    printed = {line[:14].strip(): round(float(line[14:28]) * 100) for line in lines[2:]}
    total = printed.pop("Total")
    assert sum(printed.values()) == total


def test_table_labels_and_layout() -> None:
    table = Timings({"mel": StageTime(12.5, 2), "encode": StageTime(100.0, 1)}, 120.25).table()
    labels = [line[:14].strip() for line in table.splitlines()[1:]]
    assert ", ".join(labels) == "Load, Audio decode, VAD, Mel, Sample, Encode, Decode, Batchd, Prompt, Other, Total"
    assert "Mel                    12.50        2        6.25" in table
    assert "Load                    0.00        0           -" in table
    assert "Other                   7.75        1        7.75" in table


def test_timings_are_an_immutable_mapping_in_fixed_order() -> None:
    timings = Timings({"sample": StageTime(1.0, 3), "load": StageTime(2.0, 1)}, 5.0)
    order = "load audio_decode vad mel encode prompt decode batchd sample other total"
    assert " ".join(timings) == order
    assert " ".join(timings.to_dict()) == order
    assert timings.to_dict()["sample"] == {"ms": 1.0, "runs": 3}
    assert len(timings) == 11
    with pytest.raises(TypeError):
        timings["load"] = StageTime(0.0, 0)  # type: ignore[index]
    with pytest.raises(KeyError):
        timings["nothing"]
    with pytest.raises(ValueError, match="nothing"):
        Timings({"nothing": StageTime(1.0, 1)}, 1.0)
    with pytest.raises(TypeError):
        timings + 1  # type: ignore[operator]


def test_timings_copy_and_pickle() -> None:
    timings = Timings({"mel": StageTime(0.1, 1)}, 0.7)
    assert pickle.loads(pickle.dumps(timings)) == timings
    assert copy.deepcopy(timings) == timings
    assert repr(timings) == "Timings(mel=0.10 ms/1, other=0.60 ms/1, total=0.70 ms/1)"


def test_ms_per_run() -> None:
    assert StageTime(9.0, 3).ms_per_run == 3.0
    assert StageTime(0.0, 0).ms_per_run == 0.0


@pytest.mark.parametrize("text", ["", "a", "la " * 100, "日本語 " * 9])
def test_compression_ratio(text: str) -> None:
    raw = text.encode()
    assert compression_ratio(text) == len(raw) / len(zlib.compress(raw))


def segment(id: int, text: str, words: Optional[list[Word]] = None) -> Segment:
    return Segment(id, 0, 0.0, 1.0, text, [1, 2], 0.0, -0.5, 1.25, 0.125, words)


def test_transcript_layout() -> None:
    @dataclass
    class Options:
        beam_size: int = 5
        limit_s: float = float("inf")
        folder: Path = Path("folder")
        temperatures: tuple[float, ...] = (0.0, 0.2)

    segments = [segment(0, " Hi"), segment(1, " there.", [Word(0.0, 1.0, " there.", np.float32(0.5))])]
    transcript = Transcript(
        join_text(segments), segments, "en", 0.75, 2.5, Timings({"mel": StageTime(1.0, 1)}, 3.0), Options(), "tiny"
    )
    assert transcript.text == " Hi there."
    assert list(transcript) == segments
    assert len(transcript) == 2
    layout = transcript.to_dict()
    assert list(layout)[:3] == ["text", "segments", "language"]
    assert "words" not in layout["segments"][0]
    order = "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob words"
    assert " ".join(layout["segments"][1]) == order
    assert layout["segments"][1]["words"] == [{"word": " there.", "start": 0.0, "end": 1.0, "probability": 0.5}]
    assert layout["options"] == {"beam_size": 5, "limit_s": None, "folder": "folder", "temperatures": [0.0, 0.2]}
    assert json.loads(json.dumps(layout, allow_nan=False)) == layout


def test_numpy_values_become_plain() -> None:
    made = Segment(np.int64(3), 0, np.float32(0.5), 1.0, "x", list(np.array([7, 8])), 0.0, 0.0, 1.0, np.float32("nan"))
    layout = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert (layout["id"], layout["start"], layout["tokens"], layout["no_speech_prob"]) == (3, 0.5, [7, 8], None)
    options = {"array": np.arange(3), "scalar": np.float64(1.5), 4: {"set": {1}}}
    transcript = Transcript("", [], "en", 1.0, 0.0, Timings.zero(), options, "tiny")
    assert transcript.to_dict()["options"] == {"array": [0, 1, 2], "scalar": 1.5, "4": {"set": [1]}}


def test_results_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        segment(0, "x").text = "y"  # type: ignore[misc]
