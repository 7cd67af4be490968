"""A system in a process of its own: it loads once, transcribes whenever it is asked to, and its peak memory is its own.

``python -m whisperq_edge._bench.worker FOLDER`` is that process. It reads ``task.json`` there, says in a line of JSON
on stdout that it is ready, and answers every line on stdin with another. It ends when its stdin does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from .._errors import InferenceError
from .._system.process import (
    INTERRUPTED,
    death,
    described,
    last_words,
    peak_rss_bytes,
    restored,
    start_module,
    task_folder,
)

__all__ = ["Worker", "main", "settle"]

Turn = Callable[[], dict[str, Any]]

_ONE_THREAD_EACH = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


# ---- The process that asks -------------------------------------------------------------------------------------------


class Worker:
    """A process that has loaded a system.

    Args:
        task: ``kind`` (``whisperq-edge``, ``openai``, ``faster-whisper`` or ``yardstick``), ``model`` (path),
            ``engine``, ``type``, ``n_threads``, ``isa``, ``options`` of ``transcribe``, ``n_tokens`` to force or None,
            and ``samples``, a ``.npy`` of what is heard.

    Attributes:
        ready: what it said when it was: ``{"load_ms", "peak_rss_bytes"}``.

    Raises:
        WhisperqError, OSError, MemoryError: as raised there.
        InferenceError: the process died.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._name = str(task["model"])
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(task_folder(task, "whisperq-bench-"))
            self._stderr = stack.enter_context(tempfile.TemporaryFile())
            environment = dict(_ONE_THREAD_EACH) if task["kind"] == "yardstick" else {}
            if task.get("isa", "auto") != "auto":
                environment["WHISPERQ_ISA"] = task["isa"]
            self._process = start_module("whisperq_edge._bench.worker", folder, self._stderr, environment)
            stack.callback(self._end)
            self.ready = self._answer()
            self._stack = stack.pop_all()

    def turn(self) -> dict[str, Any]:
        """Transcribes once: ``{"total_ms", "stages", "n_tokens", "peak_rss_bytes"}``."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the answer says of what
            self._process.stdin.write(b"turn\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            raise InferenceError(death(self._name, code, last_words(self._stderr)))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise restored(answer["error"], answer["arguments"])
        return answer

    def _end(self) -> None:
        self._process.kill()  # nothing is lost: every answer was read
        with self._process:
            pass


# ---- The process that is asked ---------------------------------------------------------------------------------------


def main(folder: Path) -> int:
    """Does the task in ``folder``; the exit code."""
    answers_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    try:
        began_s = time.perf_counter()
        turn = _open(task)
        load_ms = (time.perf_counter() - began_s) * 1000
        _say(answers_to, {"load_ms": round(load_ms, 3), "peak_rss_bytes": peak_rss_bytes()})
        while sys.stdin.readline():
            answer = turn()
            settle()
            _say(answers_to, {**answer, "peak_rss_bytes": peak_rss_bytes()})
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        _say(answers_to, described(error))
    shutil.rmtree(folder, ignore_errors=True)  # whoever made it may have been killed
    return 0


def _say(stream: Any, answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), file=stream, flush=True)


def settle(most_s: float = 2.0) -> bool:
    """Waits until no thread of this process computes any more; whether that came about in time.

    Pools of threads keep spinning for a moment after the work, to be quick when more comes. On a machine with no cores
    to spare they would slow down whoever has the next turn.
    """
    until = time.perf_counter() + most_s
    while time.perf_counter() < until:
        before_s, began = time.process_time(), time.perf_counter()
        time.sleep(0.01)
        if time.process_time() - before_s < 0.1 * (time.perf_counter() - began):
            return True
    return False


def _open(task: Mapping[str, Any]) -> Turn:
    if task["kind"] == "yardstick":
        return _yardstick(task["n_threads"])
    import numpy as np

    samples = np.load(task["samples"])
    if task["kind"] == "whisperq-edge":
        return _ours(task, samples)
    from .peers import open_peer

    return open_peer(task, samples)


def _ours(task: Mapping[str, Any], samples: Any) -> Turn:
    from .._model import WhisperModel

    model = WhisperModel(task["model"], device="cpu", cpu_threads=task["n_threads"], engine=task["engine"])
    options = dict(task["options"])
    eot = 50257 if model.is_multilingual else 50256
    if task["n_tokens"] is not None:
        options.update(_forced_tokens(task["n_tokens"], eot, model.dims["n_vocab"]))

    def turn() -> dict[str, Any]:
        transcript = model.transcribe(samples, **options)
        return {
            "engine": model.engine,
            "total_ms": transcript.timings["total"].ms,
            "stages": {name: [row.ms, row.runs] for name, row in transcript.timings.items() if row.runs},
            "n_tokens": sum(count_text(segment.tokens, eot) for segment in transcript),
        }

    return turn


def _forced_tokens(n_tokens: int, eot: int, n_vocab: int) -> dict[str, Any]:
    """Options under which a window has exactly so many tokens, whatever the weights: text only, whose end is never
    sampled, and no second try. Nor are other special tokens, which would end a segment and so move the next window."""
    return {
        "max_new_tokens": n_tokens,
        "suppress_tokens": [-1, *range(eot, n_vocab)],
        "without_timestamps": True,
        "condition_on_previous_text": False,
    }


def count_text(tokens: Sequence[int], eot: int) -> int:
    return sum(token < eot for token in tokens)


def _yardstick(n_threads: int) -> Turn:
    """Work that no version of ours changes, on as many threads: products that fit the cache and copies that do not, of
    about the same time each. It says how fast the machine was in this round. Both halves matter: on a shared machine
    memory was seen to slow down by a sixth in a minute while arithmetic did by a twentieth."""
    import numpy as np

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
    sys.exit(main(Path(sys.argv[1])))
