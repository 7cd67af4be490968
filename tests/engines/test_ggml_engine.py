"""What the ggml engine refuses or leaves out before whisper.cpp, which checks no number, gets it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import OptionError, WhisperModel, WhisperqError
from whisperq_edge._engines.ggml import _choose_device
from whisperq_edge._system.native import data_file, load_ggml

from tests.support.paths import ROOT, TESTS
from tests.support.sanitizers import FLAGS, SLOWDOWN, TOOLS

Samples = npt.NDArray[np.float32]
UPSTREAM = ROOT / "third_party" / "whisper.cpp" / "upstream"
LOG_SOURCES = [TESTS / "cpp" / "check_log.cpp", ROOT / "csrc" / "ggml" / "log.cpp"]
COMPILER = os.environ.get("CXX") or shutil.which("c++")
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
    options = {"beam_size": 1, "best_of": 1, "max_new_tokens": 5, "log_prob_threshold": None}
    transcript = ggml.transcribe(sample_pcm[:32000], temperature=ladder, timeout_s=60 * SLOWDOWN, **options)
    first = ladder[0] if isinstance(ladder, tuple) else ladder
    assert transcript.segments
    assert all(segment.temperature == pytest.approx(first) for segment in transcript.segments)


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


# ---- The language ----------------------------------------------------------------------------------------------------

# Without timestamps, or the random model goes on by a second a window: the language is heard before all that.
DETECT: dict[str, Any] = {**QUICK, "max_new_tokens": 1, "without_timestamps": True, "log_prob_threshold": None}


@pytest.fixture(scope="module", params=["ggml", "edge"])
def multilingual(request: pytest.FixtureRequest, multilingual_path: Path) -> Iterator[WhisperModel]:
    with WhisperModel(multilingual_path, device="cpu", engine=request.param, cpu_threads=1) as model:
        yield model


def language_of(model: WhisperModel, audio: Samples, **options: Any) -> tuple[str, float]:
    heard = model.transcribe(audio, **DETECT, **options)
    return heard.language, heard.language_probability


def test_the_language_is_heard_no_further_than_the_clip(multilingual: WhisperModel, sample_pcm: Samples) -> None:
    behind = np.random.default_rng(0).uniform(-0.01, 0.01, 16_000 * 6).astype(np.float32)
    clips = {"clip_timestamps": [0.5, 4]}
    alone = np.concatenate([sample_pcm[: 16_000 * 4 + 400], np.zeros_like(behind)])
    followed = np.concatenate([sample_pcm[: 16_000 * 4 + 400], behind])
    assert language_of(multilingual, followed, **clips) == language_of(multilingual, alone, **clips)
    assert language_of(multilingual, followed) != language_of(multilingual, alone)


def test_the_language_is_that_of_the_first_window_with_speech(multilingual: WhisperModel, sample_pcm: Samples) -> None:
    late = np.concatenate([np.zeros(16_000 * 35, np.float32), sample_pcm])
    assert language_of(multilingual, late) == language_of(multilingual, late, clip_timestamps=[30])
    unheard = language_of(multilingual, late, drop_silence=False)
    assert unheard == language_of(multilingual, late, drop_silence=False, clip_timestamps=[0, 30])
    assert unheard != language_of(multilingual, late)


def test_both_engines_detect_from_the_same_audio(multilingual_path: Path, sample_pcm: Samples) -> None:
    late = np.concatenate([np.zeros(16_000 * 35, np.float32), sample_pcm, sample_pcm])
    found = []
    for engine in ("edge", "ggml"):
        with WhisperModel(
            multilingual_path, device="cpu", engine=engine, cpu_threads=1, flash_attention=False
        ) as model:
            found.append(
                [language_of(model, late, clip_timestamps=clips)[1] for clips in ([0], [0, 50], [37, 40, 42, 44])]
            )
    assert found[0] == pytest.approx(found[1], rel=2e-3)
    assert len(set(found[0])) == 3


# ---- Devices ---------------------------------------------------------------------------------------------------------


def gpu(name: str, backend: str) -> dict[str, str]:
    return {"name": name, "backend": backend, "kind": "gpu", "description": "made up"}


CPU = {"name": "CPU", "backend": "CPU", "kind": "cpu", "description": "made up"}


@pytest.mark.parametrize(
    ("device", "devices"),
    [
        ("metal", [gpu("MTL0", "MTL"), CPU]),  # as ggml names it today
        ("metal", [gpu("Metal", "Metal"), CPU]),  # and as it did
        ("cuda", [gpu("CUDA0", "CUDA"), CPU]),
        ("vulkan", [gpu("Vulkan0", "Vulkan"), CPU]),
        ("vulkan", [gpu("iGPU of a name of its own", "Vulkan"), CPU]),
    ],
)
def test_a_device_is_found_by_its_backend(device: str, devices: list[dict[str, str]]) -> None:
    assert _choose_device(devices, device, 0) == (devices[0]["name"], 0)
    others = {"cuda", "metal", "vulkan"} - {device}
    for other in others:
        with pytest.raises(OptionError, match=rf"this build sees: cpu, {devices[0]['name']} \("):
            _choose_device(devices, other, 0)


def test_a_device_is_counted_among_those_of_its_backend() -> None:
    devices = [gpu("CUDA0", "CUDA"), CPU, gpu("Vulkan0", "Vulkan"), gpu("Vulkan1", "Vulkan")]
    assert _choose_device(devices, "vulkan", 1) == ("Vulkan1", 2)
    assert _choose_device(devices, "gpu", 1) == _choose_device(devices, "auto", 1) == ("Vulkan0", 1)
    assert _choose_device(devices, "cpu", 0) == _choose_device([CPU], "auto", 0) == ("cpu", 0)
    with pytest.raises(OptionError, match="0 to 0"):
        _choose_device(devices, "cuda", 1)


def test_every_device_says_its_backend() -> None:
    found = load_ggml().devices()
    assert any(device["kind"] == "cpu" and device["backend"] == "CPU" for device in found)


# ---- What whisper.cpp complains of -----------------------------------------------------------------------------------


@pytest.mark.skipif(
    COMPILER is None or os.name != "posix" or not all(path.exists() for path in [*LOG_SOURCES, UPSTREAM / "include"]),
    reason="needs a compiler, POSIX and the sources",
)
def test_an_error_quotes_its_own_call(tmp_path: Path) -> None:
    folders = [ROOT / "csrc", UPSTREAM / "include", UPSTREAM / "ggml" / "include"]
    command = [COMPILER, "-std=c++17", "-O1", *FLAGS, *(f"-I{folder}" for folder in folders), *LOG_SOURCES]
    done = subprocess.run(
        [*map(str, command), "-pthread", "-o", str(tmp_path / "check_log")], capture_output=True, text=True, env=TOOLS
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run([tmp_path / "check_log"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_model_that_is_refused_in_silence_is_not_refused_for_an_earlier_reason(tmp_path: Path) -> None:
    """Its mel filters have less than no values, about which whisper.cpp logs nothing."""
    engine = load_ggml()
    with pytest.raises(WhisperqError, match=r"does not load: .*nowhere"):
        engine.Vad(str(tmp_path / "nowhere.bin"), 1)
    data = bytearray(data_file("assets/ggml-nano.en.bin").read_bytes())
    data[48:56] = struct.pack("<ii", -1, 201)
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(WhisperqError) as caught:
        engine.Engine(str(path), False, 0, True)
    message = str(caught.value)
    assert message.startswith("whisper.cpp: ") and "nowhere" not in message


def texts_and_times(transcript: Any) -> list[tuple[str, float, float]]:
    return [(segment.text, segment.start, segment.end) for segment in transcript.segments]
