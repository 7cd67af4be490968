"""Time of each stage of ``transcribe`` on both engines: base.en shapes, random weights, one 30 s window.

Speed does not depend on the weights as long as the number of tokens is fixed, as ``max_new_tokens`` and
``without_timestamps`` fix it here. A stage's benchmark reports the stage's own time as the engine measured it, not that
of the whole call; run counts and medians are pytest-benchmark's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge import Timings, WhisperModel, _core
from whisperq_edge._system.native import build_info

from tests.support.make_model import write_random_model

WINDOW_S = 30
TOKENS = 50
ROUNDS = 5
AUDIO = (0.05 * np.random.default_rng(0).standard_normal(WINDOW_S * 16000)).astype(np.float32)
OPTIONS: dict[str, Any] = {
    "audio_ctx": 1500,  # whole windows on both engines
    "beam_size": 1,
    "temperature": 0.0,
    "without_timestamps": True,
    "max_new_tokens": TOKENS,
    "no_speech_threshold": None,
    "log_prob_threshold": None,
    "drop_silence": False,  # it is noise that we decode
}
STAGES = ("mel", "encode", "decode", "sample", "total")


SYSTEMS = list(itertools.product(["f16", "q8_0", "q5_0", "q4_0"], ["edge", "ggml"]))


@pytest.fixture(scope="module", params=SYSTEMS, ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperModel]:
    type_name, engine = request.param
    path = write_random_model(tmp_path_factory.mktemp("models") / "base.en.bin", "base.en", type_name)
    with WhisperModel(path, device="cpu", engine=engine) as model:
        model.transcribe(AUDIO, **OPTIONS)  # warm-up
        yield model


@pytest.fixture(scope="module")
def timings(model: WhisperModel) -> list[Timings]:
    return [model.transcribe(AUDIO, **OPTIONS).timings for _ in range(ROUNDS)]


def describe(benchmark: Any, model: WhisperModel) -> None:
    benchmark.extra_info.update(
        engine=model.engine,
        whisper_cpp=build_info().whisper_cpp,
        isa=_core.chosen_isa() if model.engine == "edge" else " ".join(build_info().ggml_requires),
        threads=model.cpu_threads,
        type=model.compute_type,
        model="base.en shapes, random weights",
        audio_s=WINDOW_S,
        tokens=TOKENS,
    )


@pytest.mark.parametrize("stage", STAGES)
def test_stage(benchmark: Any, model: WhisperModel, timings: list[Timings], stage: str) -> None:
    """Replays the engine's own measurements of one stage into the benchmark's statistics."""
    describe(benchmark, model)
    measured = iter([each[stage].ms for each in timings])
    benchmark.extra_info["runs_per_call"] = timings[0][stage].runs
    clock = Replay()
    benchmark._timer = clock

    def one_round() -> None:
        clock.now_s += next(measured) / 1000

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)


class Replay:
    """A clock that stands still but for what is added to it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("engine", ["edge", "ggml"])
def test_load(benchmark: Any, tmp_path: Path, engine: str) -> None:
    """From a path to a model that is ready, page cache warm: our check of the file and the engine's loading."""
    path = write_random_model(tmp_path / "base.en.bin", "base.en", "q8_0")

    def load() -> None:
        with WhisperModel(path, device="cpu", engine=engine) as model:
            describe(benchmark, model)

    benchmark.pedantic(load, rounds=ROUNDS, iterations=1, warmup_rounds=1)


@pytest.mark.parametrize("engine", ["edge", "ggml"])
def test_end_to_end_nano(benchmark: Any, engine: str) -> None:
    """The sample clip through the bundled model, decoding of the file included."""
    from whisperq_edge._system.native import data_file

    path = data_file("assets/sample.flac")
    with WhisperModel("nano", device="cpu", engine=engine) as model:
        describe(benchmark, model)
        benchmark.extra_info.update(model="nano", audio_s=round(model.transcribe(path, beam_size=1).duration_s, 2))
        benchmark.pedantic(lambda: model.transcribe(path, beam_size=1), rounds=ROUNDS, iterations=1)
