"""Whisper's encoder on one 30 s window: the edge engine beside the ggml engine and every other runtime installed.

All have the same random weights and two threads, all are checked to give the same features within what their type
allows, and then timed in turn in this one process. It prints every contestant, and the table of the README.

    make peers                                              once: the other runtimes (benches/peers/README.md)
    .venv/bin/python -m pytest benches/test_encode.py -s    the tables; also in .benchmarks/encode.md and .json

    WHISPERQ_BENCH_ROUNDS=3       of everything; scalar kernels have 3 at most. Without it: 11
    WHISPERQ_BENCH_SHAPE=tiny.en  another model of tests/support/make_model.py. Without it: base.en

The model has one decoder layer: whisper.cpp's encode stage computes the cross attention's keys and values of every
decoder layer, too, which nobody else does there (a ninth of its work for base, with one layer 2 %). What the stage is
with all layers is a line of its own. Every time is from a spectrogram in memory to features in memory, but
whisper.cpp's, which is its own account of the stage.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt
import pytest
from interleave import Contestant, Outcome, about, interleave, machine
from peers import PACKAGES, open_peers
from peers.other_build import OtherBuild
from report import Bar, Report, disturbances
from whisperq_edge import _core
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._engines.core_model import CoreModel
from whisperq_edge._system.native import build_info, drain_log, load_ggml

from tests.support.make_model import PRESETS, mel_filters, write_random_model

Floats = npt.NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
GGML_FOR_AVX2 = ROOT / "build" / "ggml-avx2"  # benches/peers/install.py

SHAPE = os.environ.get("WHISPERQ_BENCH_SHAPE", "base.en")
ROUNDS = int(os.environ.get("WHISPERQ_BENCH_ROUNDS", "11"))
LOAD_ROUNDS = 3 * ROUNDS
SCALAR_ROUNDS = min(3, ROUNDS)  # 12 s each
THREADS = 2
WINDOW_S = 30
TYPES = ("q8_0", "q5_0", "q4_0", "f16")

# Largest relative error, norm(out - f32) / norm(f32). Rounding weights and inputs to the type makes about a third of it
# with these weights; without one of its layers, or with other weights, an encoder is off by 0.3 and more.
TOLERANCES = {"f32": 1e-4, "f16": 5e-3, "bf16": 0.02, "int8": 0.06, "q8_0": 0.06, "q5_0": 0.15, "q4_0": 0.3}

# whisper.cpp's flash attention fills 1500 keys up to 1536 with zeros and does not mask them, so that they take part in
# the softmax. In openai/whisper's encoder 36 such keys make the same difference: 0.033 (base) and 0.039 (tiny), and
# against that the f16 model is off by 6e-4, as it is without flash attention. It is the same amount of work, and a bit.
PADDED_KEYS = 0.05


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    report = Report("encode", machine(THREADS, PACKAGES), SHAPE)
    yield report
    report.show()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in every type, with one decoder layer."""
    folder = tmp_path_factory.mktemp("models")
    f32 = write_random_model(folder / "f32.bin", PRESETS[SHAPE]._replace(n_text_layer=1), "f32")
    return {
        "f32": f32,
        **{name: convert_model(f32, folder / f"{name}.bin", type=name, proof="tensors").path for name in TYPES},
    }


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """q8_0, with every decoder layer. Its encoder is the same: the seed's first numbers go there."""
    return write_random_model(tmp_path_factory.mktemp("whole") / "q8_0.bin", SHAPE, "q8_0")


@pytest.fixture(scope="module")
def pcm() -> Floats:
    return (0.05 * np.random.default_rng(0).standard_normal(480_000)).astype(np.float32)


@pytest.fixture(scope="module")
def mel(pcm: Floats) -> Floats:
    return _core.log_mel_spectrogram(pcm, mel_filters(PRESETS[SHAPE].n_mels))


@dataclass(frozen=True)
class Entry:
    """A contestant that can be asked for its features before it is timed, and how far they may be off."""

    name: str
    tolerance: float
    encode: Callable[[], Floats]
    run: Callable[[], Optional[float]]
    rounds: Optional[int] = None


def test_encode(
    benchmark: Any, report: Report, models: dict[str, Path], whole_model: Path, pcm: Floats, mel: Floats, tmp_path: Path
) -> None:
    expected = open_edge(models["f32"]).encode_checked(mel)  # within 1e-5 of openai/whisper (tests)
    with ExitStack() as stack:
        edge = edge_entries(models, mel)
        ggml = ggml_entries(models, whole_model, pcm)
        avx2, notes = avx2_entries(stack, models, pcm)
        peers, peer_notes = open_peers(models["f32"], THREADS, tmp_path)
        others = [entry_of(each.name, each.type, functools.partial(each.encode, mel)) for each in peers]
        entries = [*edge, *ggml, *avx2, *others]
        errors = {each.name: relative_error(each.encode(), expected) for each in entries}
        wrong = {each.name: errors[each.name] for each in entries if not errors[each.name] <= each.tolerance}
        assert wrong == {}, "these do other work than ours and are not timed"
        contestants = [Contestant(each.name, each.run, each.rounds) for each in entries]
        outcome = interleave(contestants, ROUNDS, benchmark=benchmark)
    ours = edge[0].name
    found = {**outcome.as_dict(ours), "errors": errors, "notes": [*notes, *peer_notes]}
    report.data["encode"] = found
    described = about(f"{SHAPE} shapes, random weights", " ".join(TYPES), THREADS, WINDOW_S)
    benchmark.extra_info.update(**described, machine=report.machine, shape=SHAPE, encode=found)
    report.bars.extend(encode_bars(outcome))
    report.lines += [f"encode, one 30 s window, {SHAPE} shapes, {THREADS} threads, random weights", outcome.table(ours)]
    report.lines += [*_error_lines(errors), *notes, *peer_notes]
    report.disturbances += disturbances("encode", outcome)


def test_load(benchmark: Any, report: Report, whole_model: Path) -> None:
    """From a path to a model that is ready, page cache warm. Ours checks the whole file; whisper.cpp checks nothing,
    and allocates its buffers later."""
    contestants = [Contestant("edge load", functools.partial(_time_to_make, open_edge, whole_model))]
    contestants.append(Contestant("ggml load", functools.partial(_time_to_make, open_ggml_engine, whole_model)))
    outcome = interleave(contestants, LOAD_ROUNDS, benchmark=benchmark)
    found = outcome.as_dict("edge load")
    report.data["load"] = found
    described = about(f"{SHAPE} shapes, random weights", "q8_0", THREADS, 0)
    benchmark.extra_info.update(**described, machine=report.machine, shape=SHAPE, load=found)
    report.bars.append(Bar("load q8_0, ggml", 0.6, 0.3, outcome.ratio("edge load", "ggml load")))
    report.lines += ["", f"load, {SHAPE} shapes, q8_0", outcome.table("edge load")]
    report.disturbances += disturbances("load", outcome)


# ---- Contestants -----------------------------------------------------------------------------------------------------

WHOLE = "ggml q8_0, all decoder layers"


def edge_entries(models: dict[str, Path], mel: Floats) -> list[Entry]:
    """The chosen kernels with every type, q8_0 first; then q8_0 with each of the others that this CPU has."""

    def entry(name: str, isa: str) -> Entry:
        encoder = open_edge(models[name], isa)
        rounds = SCALAR_ROUNDS if encoder.isa == "scalar" else None
        return entry_of(f"edge {name} {encoder.isa}", name, functools.partial(encoder.encode_checked, mel), rounds)

    chosen = _core.chosen_isa()
    others = [isa["name"] for isa in _core.isas() if isa["built"] and isa["supported"] and isa["name"] != chosen]
    return [*(entry(name, chosen) for name in TYPES), *(entry("q8_0", isa) for isa in reversed(others))]


def ggml_entries(models: dict[str, Path], whole_model: Path, pcm: Floats) -> list[Entry]:
    entries = [
        _ggml_entry(ggml_name(name, flash), name, models[name], pcm, flash) for name in TYPES for flash in (True, False)
    ]
    return [*entries, _ggml_entry(WHOLE, "q8_0", whole_model, pcm, True)]


def ggml_name(type_name: str, flash_attention: bool, build: str = "") -> str:
    return f"ggml{build} {type_name}" + ("" if flash_attention else ", no flash attention")


def _ggml_entry(name: str, type_name: str, path: Path, pcm: Floats, flash_attention: bool) -> Entry:
    engine = open_ggml_engine(path, flash_attention)

    def probe() -> Any:
        return engine.probe(pcm, [], n_threads=THREADS)

    tolerance = ggml_tolerance(type_name, flash_attention)
    return Entry(name, tolerance, lambda: probe()["audio_features"], lambda: float(probe()["encode_ms"]))


def ggml_tolerance(type_name: str, flash_attention: bool) -> float:
    return float(np.hypot(TOLERANCES[type_name], PADDED_KEYS if flash_attention else 0.0))


def avx2_entries(stack: ExitStack, models: dict[str, Path], pcm: Floats) -> tuple[list[Entry], list[str]]:
    """The ggml engine built for AVX2, where that is another one than the installed one."""
    if not ggml_is_native() or _core.cpu_family() != "x86_64":
        return [], []
    folder = Path(os.environ.get("WHISPERQ_BENCH_GGML_AVX2", GGML_FOR_AVX2))
    if not (folder / "whisperq_edge" / "_build.json").is_file():
        return [], [
            f"the ggml engine here is a native build ({' '.join(build_info().ggml_requires)}); one for AVX2 is skipped:"
            " not built (make peers)"
        ]
    entries = []
    for flash in (True, False):
        build = stack.enter_context(OtherBuild(folder, models["q8_0"], pcm, THREADS, flash))
        assert not any(name.startswith("avx512") for name in build.requires), f"{folder} is no build for AVX2"
        name = ggml_name("q8_0", flash, " for AVX2")
        entries.append(Entry(name, ggml_tolerance("q8_0", flash), build.encode, build.encode_ms))
    return entries, []


def ggml_is_native() -> bool:
    """Whether the installed one may have more than AVX2 (or, elsewhere, than the family's baseline) in it."""
    return build_info().native == "ON"


def entry_of(name: str, type_name: str, encode: Callable[[], Floats], rounds: Optional[int] = None) -> Entry:
    """A contestant whose time is that of the call."""

    def run() -> None:
        encode()

    return Entry(name, TOLERANCES[type_name], encode, run, rounds)


def open_edge(path: Path, isa: str = "auto") -> CoreModel:
    return CoreModel(_core.read_model_file(path), isa, THREADS)


def open_ggml_engine(path: Path, flash_attention: bool = True) -> Any:
    engine = load_ggml().Engine(str(path), False, 0, flash_attention)
    drain_log()
    return engine


def _time_to_make(make: Callable[[Path], Any], path: Path) -> float:
    """ms, without those of its end."""
    began = time.perf_counter()
    made = make(path)
    took_ms = 1000 * (time.perf_counter() - began)
    del made
    return took_ms


# ---- What is checked and shown ---------------------------------------------------------------------------------------


def relative_error(found: Any, expected: Floats) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def encode_bars(outcome: Outcome) -> Iterator[Bar]:
    """The encoder's lines of the README's table. whisper.cpp's attention is the one that is faster in this run."""
    isa = _core.chosen_isa()
    q8_0 = f"edge q8_0 {isa}"

    def bar(what: str, bar: float, aim: float, ours: str, theirs: list[str], remark: str = "") -> Bar:
        present = [name for name in theirs if name in outcome.times_ms]
        if ours not in outcome.times_ms or not present:
            return Bar(what, bar, aim, None, f"{theirs[0] if ours in outcome.times_ms else ours} is not here")
        baseline = outcome.fastest(present)
        return Bar(what, bar, aim, outcome.ratio(ours, baseline), remark)

    def ggml(name: str, build: str = "") -> list[str]:
        return [ggml_name(name, flash, build) for flash in (True, False)]

    yield bar("encode q8_0, ggml (native)", 0.20, 0.12, q8_0, ggml("q8_0"), "" if ggml_is_native() else "not native")
    yield bar("encode q8_0, CTranslate2 int8", 0.45, 0.28, q8_0, ["ctranslate2 int8"])
    yield bar("encode q8_0, OpenVINO bf16", 0.95, 0.70, q8_0, ["openvino bf16"])
    yield bar("encode q5_0, our q8_0", 1.15, 1.0, f"edge q5_0 {isa}", [q8_0])
    yield bar("encode q4_0, our q8_0", 1.15, 1.0, f"edge q4_0 {isa}", [q8_0])
    yield bar("encode f16, ggml f16", 0.45, 0.30, f"edge f16 {isa}", ggml("f16"))
    if _core.cpu_family() == "x86_64":
        for_avx2 = ggml("q8_0", " for AVX2") if ggml_is_native() else ggml("q8_0")
        yield bar("encode q8_0 with avx2, ggml for AVX2", 0.40, 0.25, "edge q8_0 avx2", for_avx2)


def _error_lines(errors: dict[str, float]) -> list[str]:
    width = max(map(len, errors))
    return ["", "relative error to f32", *(f"{name:<{width}}  {error:.1e}" for name, error in errors.items()), ""]
