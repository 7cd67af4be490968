"""A model that hears one utterance after the other: ``_eval.worker`` asks, and says for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import ModelError, OptionError, WhisperqError
from .._eval.worker import round_activations
from .._model import WhisperModel
from .._system.process import peak_rss_bytes
from .._system.worker import AwaitTurn, run
from .._whisper.units import SAMPLE_RATE

_WARM_UP_SAMPLES = SAMPLE_RATE  # 1 s


def hear(folder: Path, task: Mapping[str, Any], await_turn: AwaitTurn) -> Iterator[dict[str, Any]]:
    """Yield an answer when the model is there, then one for each utterance."""
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
    run(hear)
