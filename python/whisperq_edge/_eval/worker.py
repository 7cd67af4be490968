"""A model in a process of its own, which hears one utterance after the other: its peak memory is the model's alone, and
what ends it does not end us.

``_workers/eval`` is that process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._system.worker import Worker

__all__ = ["answers", "edge_model", "round_activations"]


def answers(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a new process has to say about ``task``, line by line.

    Args:
        task: ``model`` (path), ``engine``, ``device``, ``n_threads``, ``options`` of ``transcribe``, ``activations``
            (arguments of :func:`round_activations`, or none), and ``utterances``, a list of (name, path).

    Yields:
        ``{"load_ms", "peak_rss_bytes"}`` when the model is there; then for each utterance ``{"utterance", "text",
        "language", "audio_s", "wall_ms", "stages", "peak_rss_bytes"}`` or ``{"utterance", "failure"}``.

    Raises:
        WhisperqError, OSError, MemoryError: as raised there, where it is about the model or the options.
        InferenceError: the process died.
    """
    with Worker("whisperq_edge._workers.eval", task, str(task["model"])) as worker:
        yield from worker


def round_activations(model: Any, arguments: Mapping[str, Any]) -> None:
    """``EdgeModel.round_activations`` of a ``WhisperModel`` on the edge engine, from the next call on."""
    edge_model(model).round_activations(**arguments)


def edge_model(model: Any) -> Any:
    """The native model of a ``WhisperModel`` on the edge engine."""
    return model._running_engine()._native.native
