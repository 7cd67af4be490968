"""A model in a process of its own, which hears one utterance after the other: its peak memory is the model's alone, and
what ends it does not end us.

``python -m whisperq_edge._eval.worker FOLDER`` is that process. It reads ``task.json`` there and answers with a line of
JSON for every utterance on stdout. Its stdin ends when whoever asked is gone, and so does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .._errors import InferenceError, ModelError, OptionError, WhisperqError
from .._process import INTERRUPTED, child_environment, death, described, peak_rss_bytes, restored

__all__ = ["answers", "main"]

_LAST_WORDS_BYTES = 2000
_WARM_UP_SAMPLES = 16_000


# ---- The process that asks -------------------------------------------------------------------------------------------


def answers(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a new process has to say about ``task``, line by line.

    Args:
        task: ``model`` (path), ``engine``, ``device``, ``n_threads``, ``options`` of ``transcribe``, and
            ``utterances``, a list of (name, path).

    Yields:
        ``{"load_ms", "peak_rss_bytes"}`` when the model is there; then for each utterance ``{"utterance", "text",
        "language", "audio_s", "wall_ms", "stages", "peak_rss_bytes"}`` or ``{"utterance", "failure"}``.

    Raises:
        WhisperqError, OSError, MemoryError: as raised there, where it is about the model or the options.
        InferenceError: the process died.
    """
    if not sys.executable:
        raise InferenceError("models run in processes of their own, and where this Python's program is is not known")
    with _folder(task) as folder, tempfile.TemporaryFile() as stderr, _start(folder, stderr) as process:
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
            raise InferenceError(death(task["model"], code, _last_words(stderr)))


@contextlib.contextmanager
def _folder(task: Mapping[str, Any]) -> Iterator[str]:
    """With the task in it, and to run in: ``python -m`` looks for modules where it stands first."""
    with tempfile.TemporaryDirectory(prefix="whisperq-eval-") as folder:
        Path(folder, "task.json").write_text(json.dumps(task), encoding="utf-8")
        yield folder


def _start(folder: str, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "whisperq_edge._eval.worker", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=folder,
        env=child_environment(),
    )


def _last_words(stderr: IO[bytes]) -> str:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
    return stderr.read().decode("utf-8", "replace").strip()


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
    sys.exit(main(Path(sys.argv[1])))
