"""What the ggml engine refuses or leaves out before whisper.cpp, which checks no number, gets it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sanitizers import SLOWDOWN
from whisperq_edge import OptionError, WhisperModel

Samples = npt.NDArray[np.float32]
QUICK: dict[str, Any] = {"beam_size": 1, "temperature": 0.0, "timeout_s": 60 * SLOWDOWN}


@pytest.fixture(scope="module")
def ggml() -> Iterator[WhisperModel]:
    with WhisperModel("nano", device="cpu", engine="ggml", cpu_threads=1) as model:
        yield model


@pytest.mark.parametrize("seconds", [30.01, 31, 999_999])
def test_a_first_timestamp_after_the_window_is_refused(ggml: WhisperModel, sample_pcm: Samples, seconds: float) -> None:
    with pytest.raises(OptionError, match=r"0 \(no limit\) to 30") as caught:
        ggml.transcribe(sample_pcm, max_initial_timestamp=seconds)
    assert caught.value.field == "max_initial_timestamp"


@pytest.mark.parametrize("seconds", [0, 30])
def test_the_window_is_no_limit(ggml: WhisperModel, sample_pcm: Samples, sample_text: str, seconds: float) -> None:
    assert ggml.transcribe(sample_pcm, max_initial_timestamp=seconds, **QUICK).text.split() == sample_text.split()


@pytest.mark.parametrize(
    "ladder",
    [
        (0.0, 1e-9),
        (0.0, 1e-6, 2e-6),
        (0.5, 0.5),
        (0.2, 0.0),
        (1.5, 2.0),
        (0.0, 0.4),
        tuple(i / 1000 for i in range(1001)),
        tuple(i * 1e-5 for i in range(100_001)),
    ],
    ids=["tiny step", "tiny steps", "no step", "down", "above 1", "not up to 1", "1001 steps", "100001 steps"],
)
def test_ladders_that_whisper_cpp_does_not_climb(
    ggml: WhisperModel, sample_pcm: Samples, ladder: tuple[float, ...]
) -> None:
    with pytest.raises(OptionError, match=r"one value, or up to 101 in equal steps up to 1\.0|from 1e-06 on") as caught:
        ggml.transcribe(sample_pcm, temperature=ladder, timeout_s=30 * SLOWDOWN)
    assert caught.value.field == "temperature"


@pytest.mark.parametrize("ladder", [(0.0, 0.5, 1.0), (0.7,), 10, tuple(i / 100 for i in range(101))])
def test_ladders_that_it_does_climb(ggml: WhisperModel, sample_pcm: Samples, ladder: Any) -> None:
    options = {"beam_size": 1, "best_of": 1, "max_new_tokens": 2, "log_prob_threshold": None}
    ggml.transcribe(sample_pcm, temperature=ladder, timeout_s=60 * SLOWDOWN, **options)


def test_a_temperature_that_makes_infinities_of_logits_is_refused(ggml: WhisperModel, sample_pcm: Samples) -> None:
    for temperature in (1.3e-38, 1e-7):
        with pytest.raises(OptionError, match="divides by it") as caught:
            ggml.transcribe(sample_pcm, temperature=temperature)
        assert caught.value.field == "temperature"


@pytest.mark.parametrize("clips", [[0, 1e-9], [0, 0.0004], [1, 1], [2, 2.0003, 3, 3.05], "5,5"])
@pytest.mark.parametrize("engine", ["ggml", "edge"])
def test_clips_without_length_are_not_all_of_the_audio(engine: str, sample_path: Path, clips: Any) -> None:
    with WhisperModel("nano", device="cpu", engine=engine, cpu_threads=1) as model:
        assert model.transcribe(sample_path, clip_timestamps=clips, drop_silence=False, **QUICK).text.strip() == ""


def test_clips_too_short_do_not_hide_the_others(ggml: WhisperModel, sample_pcm: Samples) -> None:
    alone = ggml.transcribe(sample_pcm, clip_timestamps=[0.5, 4], **QUICK)
    after = ggml.transcribe(sample_pcm, clip_timestamps=[0, 1e-9, 0.5, 4], **QUICK)
    assert alone.text and texts_and_times(after) == texts_and_times(alone)


def test_the_language_is_not_looked_for_after_the_end(multilingual_path: Path, sample_pcm: Samples) -> None:
    end = sample_pcm.size / 16000
    with WhisperModel(multilingual_path, device="cpu", engine="ggml", cpu_threads=1) as model:
        assert model.transcribe(sample_pcm, clip_timestamps=[end - 0.001, end], **QUICK).segments == []


def texts_and_times(transcript: Any) -> list[tuple[str, float, float]]:
    return [(segment.text, segment.start, segment.end) for segment in transcript.segments]
