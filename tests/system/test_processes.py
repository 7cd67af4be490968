"""Processes of our own take no module from the folder where they were started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import whisperq_edge
from whisperq_edge._system.process import child_environment, signal_name

PACKAGE_FOLDER = Path(whisperq_edge.__file__).resolve().parents[1]
TRAPS = ("json", "numpy", "runpy", "importlib", "shutil", "whisperq_edge", "sitecustomize", "soundfile")

# Each begins a process from the folder of traps, as a program does whose modules were loaded before.
CHILDREN = {
    "self-test": """
from whisperq_edge._system import self_test
os.chdir(sys.argv[1])
found = self_test._run_apart("scalar")
assert found.state == "passed", found
""",
    "probe": """
from whisperq_edge._convert.probe import run_probe
from whisperq_edge._system.native import data_file
os.chdir(sys.argv[1])
run_probe(data_file("assets/ggml-nano.en.bin"), np.zeros(16000, np.float32), [[50257, 50362]], n_threads=1, repeats=1)
""",
    "eval": """
from whisperq_edge._eval.worker import answers
from whisperq_edge._system.native import data_file
os.chdir(sys.argv[1])
task = {"model": str(data_file("assets/ggml-nano.en.bin")), "engine": "edge", "device": "cpu", "n_threads": 1,
        "options": {"beam_size": 1}, "activations": None, "utterances": []}
assert [list(answer) for answer in answers(task)] == [["load_ms", "peak_rss_bytes"]]
""",
    "bench": """
from whisperq_edge._bench.worker import Worker
os.chdir(sys.argv[1])
task = {"kind": "yardstick", "model": "", "n_threads": 1}
with Worker(task) as worker:
    assert worker.turn()["n_tokens"] == 0
""",
}
BEFORE = """
import json, os, shutil, sys
import numpy as np
sys.path.insert(0, "")  # as with `python -c` and at a prompt: the current folder, whichever that is
"""


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """Modules that leave a note when they are imported."""
    folder = tmp_path / "traps"
    folder.mkdir()
    for name in TRAPS:
        note = f"open({os.fspath(tmp_path / 'sprung')!r}, 'a').write({name!r})\nraise SystemExit({name!r})\n"
        (folder / f"{name}.py").write_text(note, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_imports_nothing_from_the_current_folder(name: str, traps: Path, tmp_path: Path) -> None:
    done = run(CHILDREN[name], traps, [str(PACKAGE_FOLDER)])
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", CHILDREN)
def test_a_package_in_the_current_folder_is_found(name: str, tmp_path: Path) -> None:
    """As where somebody stands beside the sources, or where pip installed it with --target."""
    done = run(CHILDREN[name], PACKAGE_FOLDER, [str(PACKAGE_FOLDER)])
    assert done.returncode == 0, done.stderr


def run(code: str, folder: Path, python_path: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(python_path), "WHISPERQ_SELF_TEST": "never"}
    command = [sys.executable, "-c", BEFORE + code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_current_folder_is_no_place_for_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), ".", str(other), str(PACKAGE_FOLDER)])
    assert child_environment()["PYTHONPATH"].split(os.pathsep) == [str(other), str(PACKAGE_FOLDER)]
    monkeypatch.chdir(PACKAGE_FOLDER)
    assert child_environment()["PYTHONPATH"].split(os.pathsep)[0] == str(PACKAGE_FOLDER)


def test_a_signal_without_a_name_has_a_number() -> None:
    assert signal_name(4) == "SIGILL" and signal_name(200) == "signal 200"
