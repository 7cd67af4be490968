"""faster-whisper's face."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import OptionError
from whisperq_edge.compat.faster_whisper import WhisperModel, decode_audio


@pytest.fixture(scope="module")
def model() -> Iterator[WhisperModel]:
    model = WhisperModel("nano", device="cpu")
    yield model
    model.model.close()


def test_segments_and_info(model: WhisperModel, sample_path: Path) -> None:
    segments, info = model.transcribe(str(sample_path), beam_size=1, temperature=0)
    assert info.language == "en" and info.language_probability == 1.0
    assert info.duration == info.duration_after_vad > 0
    assert info.transcription_options.beam_size == 1 and info.vad_options is None
    expected = model.model.transcribe(sample_path, beam_size=1, temperature=0).segments
    assert [dataclasses.astuple(segment) for segment in segments] == [dataclasses.astuple(each) for each in expected]


def test_vad(model: WhisperModel, sample_path: Path) -> None:
    segments, info = model.transcribe(sample_path, vad_filter=True, vad_parameters={"threshold": 0.4}, beam_size=1)
    assert info.vad_options is not None and info.vad_options.threshold == 0.4
    assert 0 < info.duration_after_vad <= info.duration
    assert list(segments)


def test_silence(model: WhisperModel) -> None:
    segments, info = model.transcribe(np.zeros(0, np.float32))
    assert list(segments) == [] and info.duration == 0


def test_errors_come_from_the_call(model: WhisperModel, sample_path: Path) -> None:
    with pytest.raises(OptionError):
        model.transcribe(sample_path, suppress_tokens=[99999])


def workers() -> int:
    return sum(thread.name == "whisperq-edge" for thread in threading.enumerate())


def test_closing_the_generator_ends_the_work(model: WhisperModel, sample_path: Path) -> None:
    long: npt.NDArray[np.float32] = np.tile(decode_audio(str(sample_path)), 20)
    segments, _ = model.transcribe(long, beam_size=1, temperature=0)
    assert next(iter(segments)).text
    segments.close()  # type: ignore[attr-defined]
    assert workers() == 0


def test_dropping_the_generator_ends_the_work(model: WhisperModel, sample_path: Path) -> None:
    long: npt.NDArray[np.float32] = np.tile(decode_audio(str(sample_path)), 20)
    segments, _ = model.transcribe(long, beam_size=1, temperature=0)
    del segments
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "whisperq-edge":
            thread.join(timeout=30)
    assert workers() == 0


def test_decode_audio_is_16_khz_only(sample_path: Path) -> None:
    assert decode_audio(str(sample_path)).dtype == np.float32
    with pytest.raises(ValueError, match="16000"):
        decode_audio(str(sample_path), sampling_rate=8000)
