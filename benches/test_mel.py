"""Speed of the log-mel spectrogram against whisper.cpp's: 10 minutes of audio and one window, in turn in one process.

Both pad with 30 s of silence and use the same number of threads. whisper.cpp's time is the ``mel`` stage as it measures
it itself, ours is that of the call from Python, memory for the result and the check of every sample included.

    python -m pytest benches/test_mel.py -s
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from interleave import about
from whisperq_edge import CancelledError, CancelToken, WhisperModel, _core
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._system.native import build_info, data_file
from whisperq_edge._whisper.mel_filters import mel_filters

THREADS = 2
PADDING = 480_000
ROUNDS = 7
OPTIONS: dict[str, Any] = {
    "beam_size": 1,
    "temperature": 0.0,
    "without_timestamps": True,
    "max_new_tokens": 1,
    "no_speech_threshold": None,
    "log_prob_threshold": None,
}
ISAS = [row["name"] for row in _core.isas() if row["built"] and row["supported"]]


@pytest.fixture(scope="module")
def model() -> Iterator[WhisperModel]:
    with WhisperModel("nano", device="cpu", cpu_threads=THREADS, engine="ggml") as model:
        yield model


def whisper_cpp_mel_ms(model: WhisperModel, pcm: npt.NDArray[np.float32]) -> float:
    """The spectrogram of all audio comes first: what follows is stopped after a window."""
    cancel = CancelToken()
    try:
        timings = model.transcribe(pcm, cancel=cancel, on_progress=lambda *_: cancel.cancel(), **OPTIONS).timings
    except CancelledError as stopped:
        timings = stopped.partial.timings
    return timings["mel"].ms


@pytest.mark.parametrize("seconds", [600, 30])
def test_mel_beside_whisper_cpp(benchmark: Any, model: WhisperModel, seconds: int) -> None:
    pcm: npt.NDArray[np.float32] = np.resize(to_pcm(data_file("assets/sample.flac")).samples, seconds * 16_000)
    filters = mel_filters(80)
    their_ms: list[float] = []
    our_ms: dict[str, list[float]] = {isa: [] for isa in ISAS}

    def one_round() -> None:
        their_ms.append(whisper_cpp_mel_ms(model, pcm))
        for isa in ISAS:
            began = time.perf_counter()
            _core.log_mel_spectrogram(pcm, filters, padding=PADDING, n_threads=THREADS, isa=isa)
            our_ms[isa].append(1000.0 * (time.perf_counter() - began))

    one_round()  # starts the threads, fills the caches
    their_ms.clear()
    for times in our_ms.values():
        times.clear()
    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    theirs = statistics.median(their_ms)
    ours = {isa: statistics.median(times) for isa, times in our_ms.items()}
    benchmark.extra_info.update(
        **about("80 mel bands", "f32", THREADS, seconds),
        rounds=ROUNDS,
        whisper_cpp=build_info().whisper_cpp,
        whisper_cpp_isa=" ".join(build_info().ggml_requires),
        whisper_cpp_ms=theirs,
        ours_ms=ours,
        ratios={isa: ms / theirs for isa, ms in ours.items()},
    )
    print(f"\nmel of {seconds} s, {THREADS} threads, medians of {ROUNDS}: whisper.cpp {theirs:.2f} ms", end="")
    print("".join(f"; {isa} {ms:.2f} ms, {ms / theirs:.4f} x" for isa, ms in ours.items()))
