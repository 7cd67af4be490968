"""What a token costs: the edge engine beside the ggml engine and CTranslate2, greedily, with beams and in batches.

All have the same random weights, two threads and a forced number of tokens, sampling included, and are timed in turn in
this one process (``peers/decoders.py`` says how). It prints every contestant, and the bars.

    .venv/bin/python -m pytest benches/test_decode.py -s    the tables; also in .benchmarks/decode.md and .json

    WHISPERQ_BENCH_ROUNDS=3       of everything. Without it: 11
    WHISPERQ_BENCH_SHAPE=tiny     another multilingual model of tests/support/make_model.py. Without it: base
    WHISPERQ_BENCH_TOKENS=50      decoded in a window. Without it: 100

whisper.cpp's time is its own account of its stages `decode`, `batchd` and `sample`; everyone else's the wall clock of
the call, from the first token to the last.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from interleave import Contestant, Outcome, about, interleave, machine
from peers.decoders import CTranslate2Decoder, EdgeDecoder, GgmlDecoder
from report import Bar, Report, disturbances
from whisperq_edge import _core
from whisperq_edge._bench.ctranslate2_folder import write_ctranslate2
from whisperq_edge._convert.convert import convert_model

from tests.support.make_model import PRESETS, mel_filters, write_random_model

Floats = npt.NDArray[np.float32]

SHAPE = os.environ.get("WHISPERQ_BENCH_SHAPE", "base")
ROUNDS = int(os.environ.get("WHISPERQ_BENCH_ROUNDS", "11"))
TOKENS = int(os.environ.get("WHISPERQ_BENCH_TOKENS", "100"))
THREADS = 2
WINDOW_S = 30
BEAMS = 5
BATCH = 8
TYPES = ("q8_0", "q4_0")
PACKAGES = ("ctranslate2",)


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    report = Report("decode", machine(THREADS, PACKAGES), SHAPE)
    yield report
    report.show()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def f32(folder: Path) -> Path:
    return write_random_model(folder / "f32.bin", SHAPE, "f32")


@pytest.fixture(scope="module")
def models(f32: Path) -> dict[str, Path]:
    """The same weights in every type."""
    return {n: convert_model(f32, f32.with_name(f"{n}.bin"), type=n, proof="tensors").path for n in TYPES}


@pytest.fixture(scope="module")
def pcms() -> list[Floats]:
    """Windows of 30 s, all different."""
    draw = np.random.default_rng(0).standard_normal
    return [np.float32(0.05) * draw(480_000, np.float32) for _ in range(BATCH)]


@pytest.fixture(scope="module")
def mels(pcms: list[Floats]) -> list[Floats]:
    filters = mel_filters(PRESETS[SHAPE].n_mels)
    return [_core.log_mel_spectrogram(pcm, filters) for pcm in pcms]


@pytest.fixture(scope="module")
def edge(models: dict[str, Path], mels: list[Floats]) -> dict[str, EdgeDecoder]:
    return {name: EdgeDecoder(models[name], mels, THREADS) for name in TYPES}


@pytest.fixture(scope="module")
def ggml(models: dict[str, Path], pcms: list[Floats]) -> dict[str, GgmlDecoder]:
    """With whisper.cpp's fused attention, its default, and without: either may be the faster one."""
    return {
        ggml_name(name, flash): GgmlDecoder(models[name], pcms[0], THREADS, flash)
        for name in TYPES
        for flash in (True, False)
    }


@pytest.fixture(scope="module")
def ctranslate2(f32: Path, folder: Path, mels: list[Floats]) -> dict[str, CTranslate2Decoder]:
    """Empty where it is not installed."""
    try:
        model = folder / "ctranslate2"
        write_ctranslate2(f32, model)
    except ImportError:
        return {}
    return {"ctranslate2 int8": CTranslate2Decoder(model, mels, THREADS)}


def test_greedy(
    benchmark: Any,
    report: Report,
    edge: dict[str, EdgeDecoder],
    ggml: dict[str, GgmlDecoder],
    ctranslate2: dict[str, CTranslate2Decoder],
) -> None:
    decoders: dict[str, Any] = {**{f"edge {name}": each for name, each in edge.items()}, **ggml, **ctranslate2}
    outcome = time_decoders("greedy", decoders, benchmark, report)
    report.bars.append(bar(outcome, "greedy token q8_0, ggml", 0.50, 0.35, "edge q8_0", ggml_names("q8_0")))
    report.bars.append(bar(outcome, "greedy token q4_0, ggml", 0.45, 0.25, "edge q4_0", ggml_names("q4_0")))
    for name in TYPES:
        what = f"greedy token {name}, CTranslate2 int8"
        report.bars.append(bar(outcome, what, 0.25, 0.15, f"edge {name}", ["ctranslate2 int8"]))


def test_beams(
    benchmark: Any,
    report: Report,
    edge: dict[str, EdgeDecoder],
    ggml: dict[str, GgmlDecoder],
    ctranslate2: dict[str, CTranslate2Decoder],
) -> None:
    decoders: dict[str, Any] = {**{f"edge {name}": each for name, each in edge.items()}, **ggml, **ctranslate2}
    outcome = time_decoders(f"beam {BEAMS}", decoders, benchmark, report, beam_size=BEAMS)
    for name in TYPES:
        others = [*ggml_names(name), "ctranslate2 int8"]
        report.bars.append(bar(outcome, f"beam {BEAMS} {name}, the fastest other", 0.5, 0.3, f"edge {name}", others))


def test_batch(
    benchmark: Any, report: Report, edge: dict[str, EdgeDecoder], ctranslate2: dict[str, CTranslate2Decoder]
) -> None:
    """A token of one window in eight, against a token of one window alone: 1/3 is three times the tokens a second."""
    contestants = [
        Contestant(f"{name}, batch {n}", functools.partial(each.ms_per_token, TOKENS, n))
        for name, each in [*((f"edge {name}", each) for name, each in edge.items()), *ctranslate2.items()]
        for n in (1, BATCH)
    ]
    outcome = interleave(contestants, ROUNDS, benchmark=benchmark)
    tell("batch", f"a token in a batch, {TOKENS} tokens a window", outcome, benchmark, report)
    for name in TYPES:
        alone = f"edge {name}, batch 1"
        what = f"token {name} at batch {BATCH}, batch 1"
        report.bars.append(bar(outcome, what, 1 / 3, 1 / 4.5, f"edge {name}, batch {BATCH}", [alone]))


# ---- What is timed and shown -----------------------------------------------------------------------------------------


def ggml_name(type_name: str, flash_attention: bool) -> str:
    return f"ggml {type_name}" + ("" if flash_attention else ", no flash attention")


def ggml_names(type_name: str) -> list[str]:
    return [ggml_name(type_name, flash) for flash in (True, False)]


def time_decoders(what: str, decoders: dict[str, Any], benchmark: Any, report: Report, **options: int) -> Outcome:
    contestants = [
        Contestant(name, functools.partial(each.ms_per_token, TOKENS, **options)) for name, each in decoders.items()
    ]
    outcome = interleave(contestants, ROUNDS, benchmark=benchmark)
    tell(what, f"{what}, a token of {TOKENS} in one window", outcome, benchmark, report)
    return outcome


def tell(name: str, title: str, outcome: Outcome, benchmark: Any, report: Report) -> None:
    first = next(iter(outcome.times_ms))
    report.data[name] = outcome.as_dict(first)
    benchmark.extra_info.update(
        **about(f"{SHAPE} shapes, random weights", " ".join(TYPES), THREADS, WINDOW_S),
        machine=report.machine,
        shape=SHAPE,
        **{name: report.data[name]},
    )
    title = f"{title}, {SHAPE} shapes, {THREADS} threads, random weights"
    report.lines += ["", title, outcome.table(first)]
    report.disturbances += disturbances(name, outcome)


def bar(outcome: Outcome, what: str, bar: float, aim: float, ours: str, theirs: list[str]) -> Bar:
    """Against the fastest of ``theirs`` in this run."""
    present = [name for name in theirs if name in outcome.times_ms]
    if not present:
        return Bar(what, bar, aim, None, f"{theirs[0]} is not here")
    baseline = outcome.fastest(present)
    return Bar(what, bar, aim, outcome.ratio(ours, baseline), f"against {baseline}")
