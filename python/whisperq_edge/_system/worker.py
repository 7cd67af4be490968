"""A module of ours in a process of its own, which answers in lines of JSON.

The process's peak memory is then that of its work alone, and an end by a signal ends the process only. The protocol::

    folder/task.json   the task, written before the process starts. Arrays and other files may lie beside it
    stdout             an answer a line: a JSON object. ``{"error", "arguments"}`` is an exception, which is raised here
    stdin              a line asks for the next turn, where the work has turns. Its end means that the asking process is
                       gone: this one removes the folder and ends
    exit code          0; 130 after Ctrl-C; anything else is a death
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, Optional

from .._errors import InferenceError
from .process import INTERRUPTED, child_environment, death, described, last_words, restored

__all__ = ["AwaitTurn", "Work", "Worker", "run"]

AwaitTurn = Callable[[], None]
"""Returns when the asking process asks for the next turn."""

Work = Callable[[Path, Mapping[str, Any], AwaitTurn], Iterator[Mapping[str, Any]]]
"""What a process does: from its folder, its task and the turns, an iterator of answers."""

_TASK = "task.json"


# ---- The process that asks -------------------------------------------------------------------------------------------


class Worker:
    """A process that does a task. It ends when this is closed.

    Args:
        module: of this package; its main calls :func:`run`.
        task: what JSON can hold.
        name: of the work's subject, for errors.
        prepare: puts files into the task's folder before the process starts.
        environment: variables that the process gets beside ours.

    Attributes:
        folder: of the task and of the files that the process leaves.
    """

    def __init__(
        self,
        module: str,
        task: Mapping[str, Any],
        name: str,
        *,
        prepare: Callable[[Path], None] = lambda folder: None,
        environment: Optional[Mapping[str, str]] = None,
    ) -> None:
        self._name = name
        if not sys.executable:
            raise InferenceError("models run in processes of their own, and the path of this Python's program is empty")
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whisperq-worker-")))
            prepare(self.folder)
            (self.folder / _TASK).write_text(json.dumps(task), encoding="utf-8")
            self._stderr = stack.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=self.folder,  # where no modules are: `python -m` looks there first
                env={**child_environment(), **(environment or {})},
            )
            stack.callback(self._end)
            self._stack = stack.pop_all()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the answers up to the end of the process. Raises as :meth:`answer`."""
        while (answer := self._read()) is not None:
            yield answer

    def answer(self) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            WhisperqError, OSError, MemoryError: as raised there.
            InferenceError: the process died.
            KeyboardInterrupt: it was interrupted.
        """
        answer = self._read()
        if answer is None:
            raise InferenceError(death(self._name, 0, last_words(self._stderr)))
        return answer

    def turn(self) -> dict[str, Any]:
        """Ask for the next turn, and return its answer. Raises as :meth:`answer`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the answer says of what
            self._process.stdin.write(b"turn\n")
            self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process, and remove its folder."""
        self._stack.close()

    def _read(self) -> Optional[dict[str, Any]]:
        """Return the next answer, or None when the process has ended as it should."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):  # the end, or half of an answer
            code = self._process.wait()
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code:
                raise InferenceError(death(self._name, code, last_words(self._stderr)))
            return None
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise restored(answer["error"], answer["arguments"])
        return answer

    def _end(self) -> None:
        self._process.kill()  # nothing is lost: every answer that matters was read
        with contextlib.suppress(BrokenPipeError), self._process:
            pass


# ---- The process that is asked ---------------------------------------------------------------------------------------


def run(work: Work) -> None:
    """Do the task in the folder that the command line names, and end the process. For the mains of ``_workers``."""
    sys.exit(_run(work, Path(sys.argv[1])))


def _run(work: Work, folder: Path) -> int:
    """Return the exit code."""
    answers_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    task = json.loads((folder / _TASK).read_text(encoding="utf-8"))
    turns: queue.SimpleQueue[None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[folder, turns], daemon=True).start()
    try:
        for answer in work(folder, task, turns.get):
            print(json.dumps(answer), file=answers_to, flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        print(json.dumps(described(error)), file=answers_to, flush=True)
    return 0


def _listen(folder: Path, turns: queue.SimpleQueue[None]) -> None:
    """Hand on each turn that is asked for, and end this process when whoever asked is gone."""
    while asked := os.read(0, 1):  # not by sys.stdin, whose lock would be missing when Python ends
        if asked == b"\n":
            turns.put(None)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
