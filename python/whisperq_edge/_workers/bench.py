"""A system that loads once and transcribes whenever it is asked to: ``_bench.worker`` asks, and says for what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._bench.peers import Turn, open_peer
from .._bench.worker import count_text, forced_tokens
from .._model import WhisperModel
from .._system.process import peak_rss_bytes, settle
from .._system.worker import AwaitTurn, run
from .._whisper.dims import end_of_text
from .._whisper.units import TOKENS_PER_WINDOW


def take_turns(folder: Path, task: Mapping[str, Any], await_turn: AwaitTurn) -> Iterator[dict[str, Any]]:
    """Yield an answer when the system is there, then one for each turn that is asked for."""
    began_s = time.perf_counter()
    turn = _open(task)
    load_ms = (time.perf_counter() - began_s) * 1000
    yield {"load_ms": round(load_ms, 3), "peak_rss_bytes": peak_rss_bytes()}
    while True:
        await_turn()
        answer = turn()
        settle()
        yield {**answer, "peak_rss_bytes": peak_rss_bytes()}


def _open(task: Mapping[str, Any]) -> Turn:
    if task["kind"] == "yardstick":
        return _yardstick(task["n_threads"])
    samples = np.load(task["samples"])
    if task["kind"] == "whisperq-edge":
        return _ours(task, samples)
    return open_peer(task, samples)


def _ours(task: Mapping[str, Any], samples: Any) -> Turn:
    model = WhisperModel(task["model"], device="cpu", cpu_threads=task["n_threads"], engine=task["engine"])
    options = {"audio_ctx": TOKENS_PER_WINDOW, **task["options"]}  # whole windows, as every other system encodes them
    eot = end_of_text(model.dims["n_vocab"])
    if task["n_tokens"] is not None:
        options.update(forced_tokens(task["n_tokens"], eot, model.dims["n_vocab"]))

    def turn() -> dict[str, Any]:
        transcript = model.transcribe(samples, **options)
        return {
            "engine": model.engine,
            "total_ms": transcript.timings["total"].ms,
            "stages": {name: [row.ms, row.runs] for name, row in transcript.timings.items() if row.runs},
            "n_tokens": sum(count_text(segment.tokens, eot) for segment in transcript),
        }

    return turn


def _yardstick(n_threads: int) -> Turn:
    """Work that no version of ours changes, on as many threads: products that fit the cache and copies that do not, of
    about the same time each. It says how fast the machine was in this round. Both halves matter: on a shared machine
    memory was seen to slow down by a sixth in a minute while arithmetic did by a twentieth."""
    factor = np.random.default_rng(0).standard_normal((384, 384)).astype(np.float32)
    buffers = [(factor.copy(), np.zeros(1 << 22, np.float32), np.ones(1 << 22, np.float32)) for _ in range(n_threads)]

    def work(square: Any, into: Any, out_of: Any) -> None:
        for _ in range(4):
            for _ in range(10):
                square @ square
            for _ in range(4):
                np.copyto(into, out_of)

    def turn() -> dict[str, Any]:
        began_s = time.perf_counter()
        threads = [threading.Thread(target=work, args=each) for each in buffers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"total_ms": (time.perf_counter() - began_s) * 1000, "stages": {}, "n_tokens": 0}

    return turn


if __name__ == "__main__":
    run(take_turns)
