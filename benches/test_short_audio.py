"""Short audio, encoded as far as it goes, beside whole windows and faster-whisper: encoding and decoding, in turn in
one process.

    python -m pytest benches/test_short_audio.py -s    the tables; also in .benchmarks/short_audio.md and .json

    WHISPERQ_BENCH_ROUNDS=3                of everything. Without it: 11
    WHISPERQ_BENCH_PEER=no                 without faster-whisper, which wants four times the memory
    WHISPERQ_BENCH_SHAPE=large-v3-turbo    another model of tests/support/make_model.py. Without it: base.en

Weights are random, q8_0 (faster-whisper makes int8 of f32). A clip has four tokens a second, whatever is heard in it,
and is decoded greedily or with 5 beams. With random weights nothing looks wrong, so nothing is done again in full:
docs/short-audio.md has the time of real speech.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt
import pytest
from interleave import Contestant, about, interleave, machine
from report import Bar, Report, disturbances
from whisperq_edge import WhisperModel
from whisperq_edge._bench.ctranslate2_folder import write_ctranslate2
from whisperq_edge._bench.worker import forced_tokens
from whisperq_edge._whisper.dims import end_of_text

from tests.support.make_model import write_random_model

Floats = npt.NDArray[np.float32]

SHAPE = os.environ.get("WHISPERQ_BENCH_SHAPE", "base.en")
ROUNDS = int(os.environ.get("WHISPERQ_BENCH_ROUNDS", "11"))
THREADS = 2
TOKENS_PER_S = 4
WITH_PEER = os.environ.get("WHISPERQ_BENCH_PEER", "yes") != "no"
BARS = {3: (0.35, 0.20), 10: (0.65, 0.50)}  # against whole windows
FASTER_WHISPER_BAR = (0.30, 0.20)


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    report = Report("short_audio", machine(THREADS, ["faster-whisper", "ctranslate2"]), SHAPE)
    yield report
    report.show()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "q8_0.bin", SHAPE, "q8_0")


@pytest.fixture(scope="module")
def faster_whisper(tmp_path_factory: pytest.TempPathFactory) -> Optional[Any]:
    """None: it is not installed, or not wanted."""
    if not WITH_PEER:
        return None
    try:
        import faster_whisper
    except ImportError:
        return None
    folder = tmp_path_factory.mktemp("peer")
    write_ctranslate2(write_random_model(folder / "f32.bin", SHAPE, "f32"), folder / "ctranslate2")
    return faster_whisper.WhisperModel(
        str(folder / "ctranslate2"), device="cpu", compute_type="int8", cpu_threads=THREADS, local_files_only=True
    )


def noise(seconds: int) -> Floats:
    return (0.05 * np.random.default_rng(0).standard_normal(seconds * 16_000)).astype(np.float32)


def options(n_tokens: int, n_vocab: int, beam_size: int) -> dict[str, Any]:
    forced = forced_tokens(n_tokens, end_of_text(n_vocab), n_vocab)
    off = {"no_speech_threshold": None, "log_prob_threshold": None, "compression_ratio_threshold": None}
    return {**forced, **off, "language": "en", "temperature": 0.0, "beam_size": beam_size}


@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("seconds", [3, 10])
def test_short_audio(
    benchmark: Any, report: Report, model: Path, faster_whisper: Optional[Any], seconds: int, beam_size: int
) -> None:
    samples, n_tokens = noise(seconds), TOKENS_PER_S * seconds
    with WhisperModel(model, device="cpu", engine="edge", cpu_threads=THREADS) as ours:
        asked = options(n_tokens, ours.dims["n_vocab"], beam_size)

        def run(audio_ctx: Any) -> Callable[[], None]:
            return lambda: check_tokens(
                ours.transcribe(samples, drop_silence=False, audio_ctx=audio_ctx, **asked).segments, n_tokens
            )

        contestants = [Contestant("short", run("auto")), Contestant("whole window", run(1500))]
        if faster_whisper is not None:
            # CTranslate2 spends at most half of the length that faster-whisper asks for on new tokens.
            theirs = {**asked, "max_new_tokens": 2 * n_tokens - 2}
            contestants.append(
                Contestant(
                    "faster-whisper int8",
                    lambda: check_tokens([*faster_whisper.transcribe(samples, **theirs)[0]], n_tokens),
                )
            )
        outcome = interleave(contestants, ROUNDS, benchmark=benchmark)
    what = f"{seconds} s, {beam_size} beam{'s' if beam_size > 1 else ''}"
    found = outcome.as_dict("whole window")
    report.data[what] = found
    benchmark.extra_info.update(**about(f"{SHAPE} shapes, random weights", "q8_0", THREADS, seconds), short=found)
    report.bars.append(Bar(f"{what}, against its whole window", *BARS[seconds], outcome.ratio("short", "whole window")))
    if faster_whisper is None:
        report.bars.append(Bar(f"{what}, against faster-whisper int8", *FASTER_WHISPER_BAR, remark="it is not here"))
    else:
        ratio = outcome.ratio("short", "faster-whisper int8")
        report.bars.append(Bar(f"{what}, against faster-whisper int8", *FASTER_WHISPER_BAR, ratio))
    report.lines += [f"{what}, {SHAPE} shapes, {THREADS} threads, random weights", outcome.table("whole window")]
    report.disturbances += disturbances(what, outcome)


def check_tokens(segments: Any, expected: int) -> None:
    """Equal work: as many tokens in every system."""
    found = sum(len(segment.tokens) for segment in segments)
    assert found == expected, f"{found} tokens instead of {expected}"
