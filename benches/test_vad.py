"""Speed of the voice detector against whisper.cpp's: a minute of audio on one thread, in turn in one process.

python -m pytest benches/test_vad.py -s
"""

from __future__ import annotations

import os
from typing import Any, Callable

import numpy as np
import numpy.typing as npt
from interleave import Contestant, about, interleave
from whisperq_edge import _core
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._system.native import build_info, data_file, load_ggml

SECONDS = 60
ROUNDS = int(os.environ.get("WHISPERQ_BENCH_ROUNDS", "15"))
PIECE = 1600  # 100 ms, as from a microphone
ISAS = [row["name"] for row in _core.isas() if row["built"] and row["supported"]]


def whole_clip(vad: Any, pcm: npt.NDArray[np.float32]) -> Callable[[], None]:
    def run() -> None:
        vad.probabilities(pcm)

    return run


def feed_pieces(vad: _core.Vad, pcm: npt.NDArray[np.float32]) -> None:
    for at in range(0, len(pcm), PIECE):
        vad.feed(pcm[at : at + PIECE])
    vad.finish()


def test_vad_beside_whisper_cpp(benchmark: Any) -> None:
    pcm: npt.NDArray[np.float32] = np.resize(to_pcm(data_file("assets/sample.flac")).samples, SECONDS * 16_000)
    path = str(data_file("assets/ggml-silero-v6.2.0.bin"))
    theirs = load_ggml().Vad(path, 1)
    ours = {isa: _core.Vad(path, isa=isa) for isa in ISAS}
    expected = theirs.probabilities(pcm)
    contestants = [Contestant("whisper.cpp", whole_clip(theirs, pcm))]
    for isa, vad in ours.items():
        assert not (np.abs(vad.probabilities(pcm) - expected) > 1e-3).any()
        contestants.append(Contestant(isa, whole_clip(vad, pcm)))
    best = ours[_core.chosen_isa()]
    contestants.append(Contestant("in pieces of 100 ms", lambda: feed_pieces(best, pcm)))
    outcome = interleave(contestants, ROUNDS, benchmark=benchmark)
    benchmark.extra_info.update(
        **about("silero v6.2.0", "f32", 1, SECONDS),
        whisper_cpp=build_info().whisper_cpp,
        **outcome.as_dict("whisper.cpp"),
    )
    print(f"\n{SECONDS} s of audio, 1 thread")
    print(outcome.table("whisper.cpp"))
