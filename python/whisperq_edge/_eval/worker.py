"""A model in a process of its own, which hears one utterance after the other: its peak memory is the model's alone, and
what ends it does not end us.

``python -m whisperq_edge._eval.worker FOLDER`` is that process. It reads ``task.json`` there and answers with a line of
JSON for every utterance on stdout. Its stdin ends when whoever asked is gone, and so does it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._errors import InferenceError, ModelError, OptionError, WhisperqError
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

__all__ = ["answers", "edge_model", "main", "round_activations"]

_WARM_UP_SAMPLES = 16_000


# ---- The process that asks -------------------------------------------------------------------------------------------


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
    with (
        task_folder(task, "whisperq-eval-") as folder,
        tempfile.TemporaryFile() as stderr,
        start_module("whisperq_edge._eval.worker", folder, stderr) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    raise restored(answer["error"], answer["arguments"])
                yield answer
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise InferenceError(death(task["model"], code, last_words(stderr)))


# ---- The process that is asked ---------------------------------------------------------------------------------------


def main(folder: Path) -> int:
    """Does the task in ``folder``; the exit code."""
    answers_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    try:
        for answer in _hear(task):
            print(json.dumps(answer), file=answers_to, flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        print(json.dumps(described(error)), file=answers_to, flush=True)
    return 0


def _end_with_parent(folder: Path) -> None:
    while os.read(0, 1):  # not by sys.stdin, whose lock would be missing when Python ends
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _hear(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    import numpy as np

    from .._model import WhisperModel

    model = WhisperModel(task["model"], device=task["device"], cpu_threads=task["n_threads"], engine=task["engine"])
    if task.get("activations"):
        round_activations(model, task["activations"])
    model.transcribe(np.zeros(_WARM_UP_SAMPLES, np.float32), **{**task["options"], "language": _any_language(model)})
    yield {"load_ms": model.timings["load"].ms, "peak_rss_bytes": peak_rss_bytes()}
    for name, path in task["utterances"]:
        try:
            answer = _hear_one(model, Path(path), task["options"])
        except (OptionError, ModelError, MemoryError):
            raise
        except (WhisperqError, OSError) as error:
            answer = {"failure": str(error)}
        yield {"utterance": name, **answer}


def round_activations(model: Any, arguments: Mapping[str, Any]) -> None:
    """``EdgeModel.round_activations`` of a ``WhisperModel`` on the edge engine, from the next call on."""
    edge_model(model).round_activations(**arguments)


def edge_model(model: Any) -> Any:
    """The native model of a ``WhisperModel`` on the edge engine."""
    return model._running_engine()._native.native


def _any_language(model: Any) -> str:
    """For warming up, where nobody speaks."""
    return str(model.supported_languages[0])


def _hear_one(model: Any, path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    transcript = model.transcribe(path, **options)
    return {
        "text": transcript.text,
        "language": transcript.language,
        "audio_s": round(transcript.duration_s, 4),
        "wall_ms": round(transcript.timings["total"].ms, 3),
        "stages": {name: [round(row.ms, 3), row.runs] for name, row in transcript.timings.items() if row.runs},
        "peak_rss_bytes": peak_rss_bytes(),
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
