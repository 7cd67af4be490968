"""A system in a process of its own: it loads once, transcribes whenever it is asked to, and its peak memory is its own.

``_workers/bench`` is that process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._system.worker import Worker as Process

__all__ = ["Worker", "count_text", "forced_tokens"]

_ONE_THREAD_EACH = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Worker(Process):
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
        environment = dict(_ONE_THREAD_EACH) if task["kind"] == "yardstick" else {}
        if task.get("isa", "auto") != "auto":
            environment["WHISPERQ_ISA"] = task["isa"]
        super().__init__("whisperq_edge._workers.bench", task, str(task["model"]), environment=environment)
        try:
            self.ready = self.answer()
        except BaseException:
            self.close()
            raise

    def turn(self) -> dict[str, Any]:
        """Transcribe once: ``{"total_ms", "stages", "n_tokens", "peak_rss_bytes"}``."""
        return super().turn()

    def __enter__(self) -> Worker:
        return self


def forced_tokens(n_tokens: int, eot: int, n_vocab: int) -> dict[str, Any]:
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
