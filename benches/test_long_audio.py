"""Long audio end to end: the edge engine in batches beside faster-whisper in batches and whisper.cpp in sequence.

Each runs in a process of its own, in turn (``peers/long_audio.py``): the time of the transcription without loading, and
the process's largest resident set. Noise, base shapes, random weights, windows of 30 s, 100 tokens forced in each.

    .venv/bin/python -m pytest benches/test_long_audio.py -s    also in .benchmarks/long_audio.md and .json

    WHISPERQ_BENCH_ROUNDS=1         of everything. Without it: 3
    WHISPERQ_BENCH_SHAPE=micro      another multilingual model of tests/support/make_model.py. Without it: base
    WHISPERQ_BENCH_SECONDS=120      of audio. Without it: 600
    WHISPERQ_BENCH_GROWTH_S=36000   the longer audio of the memory test, which has micro shapes. Without it: 3600
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from interleave import Contestant, about, interleave, machine
from peers.long_audio import RATE, Heard, noise, transcribe_elsewhere
from report import Bar, Report, disturbances
from whisperq_edge._bench.ctranslate2_folder import write_ctranslate2
from whisperq_edge._convert.convert import convert_model

from tests.support.make_model import write_random_model

SHAPE = os.environ.get("WHISPERQ_BENCH_SHAPE", "base")
ROUNDS = int(os.environ.get("WHISPERQ_BENCH_ROUNDS", "3"))
SECONDS = int(os.environ.get("WHISPERQ_BENCH_SECONDS", "600"))
GROWTH_S = int(os.environ.get("WHISPERQ_BENCH_GROWTH_S", "3600"))
THREADS = 2
BATCH = 8
TOKENS = 100
FASTER = "faster-whisper int8, batch 8"
PACKAGES = ("faster-whisper", "ctranslate2")


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    report = Report("long_audio", machine(THREADS, PACKAGES), SHAPE)
    yield report
    report.show()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in every form that can be had here."""
    folder = tmp_path_factory.mktemp("models")
    f32 = write_random_model(folder / "f32.bin", SHAPE, "f32")
    types = ("q8_0", "q4_0")
    found = {n: convert_model(f32, folder / f"{n}.bin", type=n, proof="tensors").path for n in types}
    try:
        import faster_whisper  # noqa: F401
    except ImportError:
        return found
    write_ctranslate2(f32, folder / "ctranslate2")
    return {**found, "ctranslate2": folder / "ctranslate2"}


def test_end_to_end(benchmark: Any, report: Report, models: dict[str, Path]) -> None:
    entries = {
        "edge q8_0, batch 8": ("edge", "q8_0", BATCH),
        "edge q4_0, batch 8": ("edge", "q4_0", BATCH),
        FASTER: ("faster-whisper", "ctranslate2", BATCH),
        "ggml q8_0, in sequence": ("ggml", "q8_0", 0),
    }
    entries = {name: entry for name, entry in entries.items() if entry[1] in models}
    heard: dict[str, list[Heard]] = {name: [] for name in entries}

    def run(name: str) -> float:
        engine, model, batch_size = entries[name]
        heard[name].append(transcribe_elsewhere(engine, models[model], SECONDS, TOKENS, THREADS, batch_size))
        return heard[name][-1].ms

    contestants = [Contestant(name, functools.partial(run, name)) for name in entries]
    outcome = interleave(contestants, ROUNDS, warm_up=0, benchmark=benchmark)
    n_expected = TOKENS * -(-SECONDS // 30)
    wrong = {name: each[0].n_tokens for name, each in heard.items() if abs(each[0].n_tokens / n_expected - 1) > 0.02}
    assert wrong == {}, f"these did other work than {n_expected} tokens"
    ours = "edge q8_0, batch 8"
    peaks = {name: float(np.median([one.peak_mb for one in each])) for name, each in heard.items()}
    before = {name: float(np.median([one.before_mb for one in each])) for name, each in heard.items()}
    report.data["end_to_end"] = {**outcome.as_dict(ours), "peak_mb": peaks, "before_mb": before}
    described = about(f"{SHAPE} shapes, random weights", "q8_0 q4_0", THREADS, SECONDS)
    benchmark.extra_info.update(**described, machine=report.machine, shape=SHAPE, end_to_end=report.data["end_to_end"])
    report.lines += [f"{SECONDS} s of audio, {TOKENS} tokens a window, {SHAPE} shapes", outcome.table(ours), ""]
    report.lines += [f"{name}: peak {peaks[name]:.0f} MB, before hearing {before[name]:.0f} MB" for name in peaks]
    report.disturbances += disturbances("end to end", outcome)
    for name in ("q8_0", "q4_0"):
        what = f"{SECONDS} s end to end {name}"
        ratios = {other: outcome.ratio(f"edge {name}, batch 8", other) for other in entries}
        report.bars.append(Bar(f"{what}, whisper.cpp q8_0", 0.20, 0.12, ratios["ggml q8_0, in sequence"]))
        if FASTER in ratios:
            report.bars.append(Bar(f"{what}, {FASTER}", 0.30, 0.18, ratios[FASTER]))
            share = peaks[f"edge {name}, batch 8"] / peaks[FASTER]
            report.lines.append(f"peak memory {name} over {FASTER}: {share:.2f} (bar 0.5, aim 0.3)")


def test_memory_grows_by(report: Report, tmp_path: Path) -> None:
    """What the largest resident set is higher by for long audio from a file: as the user has it."""
    model = write_random_model(tmp_path / "micro.bin", "micro", "q8_0")
    for batch_size in (0, BATCH):
        peaks = [
            transcribe_elsewhere("edge", model, write_noise(tmp_path / f"{s}.wav", s), 5, THREADS, batch_size).peak_mb
            for s in (600, GROWTH_S)
        ]
        growth = peaks[1] - peaks[0]
        per_10_h = growth / (GROWTH_S - 600) * 36_000
        how = f"batch {batch_size}" if batch_size else "in sequence"
        report.data[f"growth {how}"] = {"seconds": [600, GROWTH_S], "peak_mb": peaks}
        report.lines.append(
            f"memory, micro shapes, {how}: {peaks[0]:.0f} MB for 600 s, {peaks[1]:.0f} MB for {GROWTH_S} s:"
            f" {growth:+.0f} MB, at this pace {per_10_h:+.0f} MB for 10 h (bar 10, aim 0)"
        )


def write_noise(path: Path, seconds: int) -> Path:
    if not path.exists():
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            for piece in noise(seconds):
                file.write(piece)
    return path
