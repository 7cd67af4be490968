"""A process may end at any moment: while a thread decodes, in a callback, in a child. It ends with its own exit code,
at once, and without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sanitizers import SLOWDOWN, forks_amid_allocations

SOON_S = 60 * SLOWDOWN  # of a loaded machine
PREPARE = """
import atexit, gc, multiprocessing, os, signal, sys, threading, time
import numpy as np
from whisperq_edge import WhisperModel
from whisperq_edge._audio.pcm import to_pcm
spoken = to_pcm(sys.argv[1]).samples
samples, endless = spoken[:32_000], np.tile(spoken, 20 if sys.argv[2] == "edge" else 10)
model = WhisperModel(sys.argv[4], device="cpu", engine=sys.argv[2], cpu_threads=int(sys.argv[3]))
OPTIONS = dict(language="en", temperature=0.0, beam_size=1, max_new_tokens=8 if model.engine == "ggml" else None)
heard = threading.Event()
def hear(pcm=samples, **more):
    return model.transcribe(pcm, on_segment=lambda segment: heard.set(), **OPTIONS, **more).text
def begin(daemon, pcm=endless):
    thread = threading.Thread(target=hear, args=(pcm,), daemon=daemon)
    thread.start()
    heard.wait()
    return thread
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")

# What a process does -> its exit code.
ENDS: dict[str, tuple[str, int]] = {
    "while a daemon thread decodes": ("begin(True); sys.exit(3)", 3),
    "while four daemon threads decode": ("[begin(True) for _ in range(4)]; sys.exit(3)", 3),
    "while a thread decodes that is waited for": ("begin(False, np.tile(spoken, 3)); sys.exit(3)", 3),
    "at the end of the program, while a daemon thread decodes": ("begin(True)", 0),
    "at once, while a thread decodes": ("begin(False); os._exit(3)", 3),
    "by SIGTERM, while a thread decodes": ("begin(False); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -15),
    "by SIGTERM, in the main thread": (
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start(); hear(endless)",
        -15,
    ),
    "by sys.exit in a callback": ("model.transcribe(endless, on_segment=lambda _: sys.exit(3), **OPTIONS)", 3),
    "by os._exit in a callback": ("model.transcribe(endless, on_segment=lambda _: os._exit(3), **OPTIONS)", 3),
    "by sys.exit in a handler of SIGTERM": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3));"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start(); hear(endless)",
        3,
    ),
    "with a model that was used": ("hear()", 0),
    "with a model in a cycle": (
        "class Owner: pass\nowner = Owner(); owner.model, owner.itself = model, owner\nhear(); del model, owner",
        0,
    ),
    "with a model that the module's end frees, after gc was off": ("gc.disable(); sys.kept = model; hear()", 0),
    "with a transcript in atexit": ("hear(); atexit.register(hear)", 0),
    "with a closed model": ("hear(); model.close()", 0),
}
POSIX_ONLY = ("SIGTERM",)

FORKS: dict[str, str] = {
    "sys.exit": "hear()\nif os.fork() == 0: sys.exit(0 if hear() else 1)\nsys.exit(os.wait()[1])",
    "os._exit in the midst": (
        "hear()\nif os.fork() == 0:\n    begin(True); os._exit(0)\nassert hear()\nsys.exit(os.wait()[1])"
    ),
    "sys.exit in the midst": (
        "hear()\nif os.fork() == 0:\n    heard.clear(); begin(True); sys.exit(0)\nassert hear()\nsys.exit(os.wait()[1])"
    ),
    "a child that never uses it": "hear()\nif os.fork() == 0: sys.exit(0)\nsys.exit(os.wait()[1])",
    "forked while a thread decodes": ("begin(True)\nif os.fork() == 0: sys.exit(0)\nsys.exit(os.wait()[1])"),
    "forked while a thread decodes, and used": (
        "expected = hear(); begin(True)\nif os.fork() == 0: sys.exit(0 if hear() == expected else 1)\n"
        "sys.exit(os.wait()[1])"
    ),
    "forked while a thread encodes, and used": (
        "mel = np.zeros((80, 3000), np.float32); expected = model.encode(mel)\n"
        "def encode():\n    while True: model.encode(mel)\n"
        "threading.Thread(target=encode, daemon=True).start()\n"
        "for i in range(5):\n"
        "    time.sleep(0.013)\n"
        "    if os.fork() == 0: sys.exit(0 if np.array_equal(model.encode(mel), expected) else 1)\n"
        "sys.exit(max(os.wait()[1] for i in range(5)))"
    ),
    "forked by a signal handler while it waits for a thread, and used": (
        "mel = np.zeros((80, 3000), np.float32); expected = model.encode(mel); native = model._encoder.native\n"
        "has_turn, may_go_on, children = threading.Event(), threading.Event(), []\n"
        "def stay(): has_turn.set(); return not may_go_on.wait(50)\n"
        "threading.Thread(target=native.encode, args=(mel, 1500, stay), daemon=True).start()\n"
        "has_turn.wait()\n"
        "def fork(*_): children.append(os.fork()); children[0] and may_go_on.set()\n"
        "signal.signal(signal.SIGALRM, fork); signal.setitimer(signal.ITIMER_REAL, 0.1)\n"
        "same = np.array_equal(native.encode(mel, 1500, lambda: False), expected)\n"
        "sys.exit((0 if same else 1) if children[0] == 0 else os.waitpid(children[0], 0)[1])"
    ),
    "a process of multiprocessing": (
        "hear()\nchild = multiprocessing.get_context('fork').Process(target=hear)\n"
        "child.start(); hear(); child.join(); sys.exit(child.exitcode)"
    ),
    "a pool of processes": (
        "expected = hear()\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    assert pool.map(hear, [samples] * 3) == [expected] * 3"
    ),
}


@pytest.fixture
def models(micro_en_path: Path) -> dict[str, object]:
    return {"edge": "nano", "ggml": micro_en_path}


def end_of(code: str, sample_path: Path, engine: str, model: object = "nano") -> tuple[int, str]:
    """Exit code and stderr; Python's own warning about forks with threads aside.

    ggml gets a model of random weights, which encodes a window eight times as fast as nano does: its transcript of
    `endless` takes seconds all the same. Threads of ggml wait for each other at full load. It gets two in one test.
    """
    n_threads = 2 if engine == "edge" or code == ENDS["while a daemon thread decodes"][0] else 1
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PREPARE + code]
    command += [str(sample_path), engine, str(n_threads), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON_S, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("engine", ["edge", "ggml"])
@pytest.mark.parametrize("how", ENDS)
def test_a_process_ends(sample_path: Path, models: dict[str, object], how: str, engine: str) -> None:
    if os.name == "nt" and any(word in how for word in POSIX_ONLY):
        pytest.skip("POSIX signals")
    code, expected = ENDS[how]
    assert end_of(code, sample_path, engine, models[engine]) == (expected, "")


@pytest.mark.parametrize("engine", ["edge", "ggml"])
def test_an_error_in_a_callback_ends_the_call(sample_path: Path, models: dict[str, object], engine: str) -> None:
    code = """
def fail(_):
    raise RuntimeError("mine")
model.transcribe(endless, on_segment=fail, **OPTIONS)
"""
    returned, message = end_of(code, sample_path, engine, models[engine])
    assert returned == 1 and message.rstrip().endswith("RuntimeError: mine")


@pytest.mark.parametrize("engine", ["edge", "ggml"])
def test_an_error_of_the_main_thread_ends_the_process(
    sample_path: Path, models: dict[str, object], engine: str
) -> None:
    returned, message = end_of("begin(True); raise RuntimeError('mine')", sample_path, engine, models[engine])
    assert returned == 1 and message.rstrip().endswith("RuntimeError: mine")


def marks_of(how: str) -> list[pytest.MarkDecorator]:
    return [forks_amid_allocations] if "while a thread" in how and "used" in how else []


@needs_fork
@pytest.mark.parametrize("how", [pytest.param(how, marks=marks_of(how)) for how in FORKS])
def test_a_child_ends(sample_path: Path, how: str) -> None:
    assert end_of(FORKS[how], sample_path, "edge") == (0, "")


# ---- The generator of faster-whisper's face --------------------------------------------------------------------------

# The last handler of all prints the windows that were encoded, the segments reported and those that were read.
FACE = """
import atexit, sys, threading
import numpy as np
from whisperq_edge import WhisperModel
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._engines.core_model import CoreModel
encoded, reported, texts = [], [], []
transcribe, encode = WhisperModel._transcribe, CoreModel.encode
def counted(*given, on_segment, **more):
    return transcribe(*given, on_segment=lambda segment: (reported.append(segment), on_segment(segment)), **more)
WhisperModel._transcribe = counted
CoreModel.encode = lambda *given: (encoded.append(1), encode(*given))[1]
def read():
    try:
        texts.extend(segment.text for segment in segments)
    except BaseException as error:
        print(type(error).__name__)
atexit.register(lambda: print(len(encoded), len(reported), len(texts)))
atexit.register(lambda: sys.argv[2] == "before" and read())
from whisperq_edge.compat import faster_whisper
atexit.register(lambda: sys.argv[2] == "after" and read())
model = faster_whisper.WhisperModel("nano", device="cpu", engine="edge", cpu_threads=2)
samples = np.tile(to_pcm(sys.argv[1]).samples, int(sys.argv[3]))
segments, _ = model.transcribe(samples, language="en", temperature=0.0)
texts.append(next(segments).text)
"""


def face_says(code: str, sample_path: Path, reader: str = "", n_times: int = 6) -> list[str]:
    command = [sys.executable, "-c", FACE + code, str(sample_path), reader, str(n_times)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SOON_S, check=True).stdout.split()


@pytest.mark.parametrize("code", ["segments.close()", "", "del segments", "del model"])
def test_a_generator_that_is_kept_ends_with_the_process(sample_path: Path, code: str) -> None:
    """As one that is closed does: the rest of ten minutes, 20 windows, is not transcribed."""
    n_encoded, _, n_read = map(int, face_says(code, sample_path, n_times=60))
    assert n_read == 1 and n_encoded < 10


def test_a_thread_reads_all_segments_after_the_main_thread(sample_path: Path) -> None:
    n_encoded, n_reported, n_read = map(int, face_says("threading.Thread(target=read).start()", sample_path))
    assert n_encoded >= 2 and n_read == n_reported > 1


def test_a_handler_of_the_exit_reads_all_segments(sample_path: Path) -> None:
    n_encoded, n_reported, n_read = map(int, face_says("", sample_path, "after"))
    assert n_encoded >= 2 and n_read == n_reported > 1


def test_segments_that_the_exit_cuts_off_are_an_error(sample_path: Path) -> None:
    assert face_says("", sample_path, "before", n_times=60)[0] == "CancelledError"
