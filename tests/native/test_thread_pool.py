"""The thread pool: its properties by tests/cpp/check_thread_pool, and its life inside a Python process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.native_programs import EMULATED, as_cpu, needs_qemu_x86, not_under_qemu
from tests.support.paths import ROOT, TESTS
from tests.support.sanitizers import (
    FLAGS,
    SLOWDOWN,
    TOOLS,
    forks_amid_allocations,
    no_threads_in_a_child,
    not_with_sanitizers,
)

SOURCES = [
    TESTS / "cpp" / "check_thread_pool.cpp",
    ROOT / "csrc" / "core" / "thread_pool.cpp",
    ROOT / "csrc" / "core" / "cpu_count.cpp",
    ROOT / "csrc" / "core" / "forks.cpp",
]
COMPILER = os.environ.get("CXX") or shutil.which("c++")
CHECKS = [
    "each_task_once",
    "all_workers_work",
    "shares",
    "exceptions",
    "nested",
    "callers_take_turns",
    "rest_and_go_on",
    "idle_burns_nothing",
    "signals_stay_with_the_program",
    "fork_after_use",
    "fork_while_running",
    "shared",
    "exit_under_load",
]
NO_RACES = ["each_task_once", "shares", "exceptions", "nested", "callers_take_turns", "rest_and_go_on"]

needs_sources = pytest.mark.skipif(
    COMPILER is None or os.name != "posix" or not all(path.is_file() for path in SOURCES),
    reason="needs a compiler, POSIX and the sources",
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

FORKS = ["fork_after_use", "fork_while_running", "shared"]


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    if name == "fork_while_running":
        return [forks_amid_allocations]
    return [no_threads_in_a_child] if name in FORKS else []


def build(folder: Path, *flags: str) -> Path:
    program = folder / "check_thread_pool"
    command = [str(COMPILER), "-std=c++17", "-O1", *flags, f"-I{ROOT / 'csrc'}", *map(str, SOURCES)]
    command += ["-pthread", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, env=TOOLS, check=False)
    if done.returncode and flags:
        pytest.skip(f"the compiler has no {' '.join(flags)}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pool"), *FLAGS)


@pytest.fixture(scope="module")
def watched_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ThreadSanitizer, where it runs at all: some kernels place memory where it cannot be."""
    program = build(tmp_path_factory.mktemp("watched"), "-fsanitize=thread")
    if subprocess.run([program], capture_output=True, check=False).returncode:
        pytest.skip("ThreadSanitizer does not run here")
    return program


@needs_sources
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in CHECKS])
def test_property(program: Path, name: str) -> None:
    done = subprocess.run([program, name], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_sources
def test_no_property_is_left_out(program: Path) -> None:
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout.split() == CHECKS


@not_under_qemu
@needs_qemu_x86
@needs_sources
@pytest.mark.parametrize("name", ["each_task_once", "exceptions", "callers_take_turns"])
@pytest.mark.parametrize("cpu", EMULATED)
def test_property_on_another_cpu(program: Path, cpu: str, name: str) -> None:
    command = [*map(str, as_cpu(cpu, program)), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@not_with_sanitizers("ThreadSanitizer beside another; with it, all properties run under it")
@needs_sources
@pytest.mark.parametrize("name", NO_RACES)
def test_no_races(watched_program: Path, name: str) -> None:
    done = subprocess.run([watched_program, name], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- Inside Python ---------------------------------------------------------------------------------------------------

PREPARE = """
import os, sys, threading, time
import numpy as np
from whisperq_edge import _core
filters = np.random.default_rng(0).random((80, 201), np.float32)
pcm = np.random.default_rng(1).random(160_000, np.float32)
def compute():
    return _core.log_mel_spectrogram(pcm, filters, n_threads=4)
expected = compute()
"""


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code], capture_output=True, text=True, timeout=60 * SLOWDOWN, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@no_threads_in_a_child
@needs_fork
def test_a_forked_child_computes_and_exits() -> None:
    code = """
for leave in (sys.exit, os._exit):
    child = os.fork()
    if child == 0:
        leave(0 if (compute() == expected).all() else 1)
    print(os.waitpid(child, 0)[1])
print((compute() == expected).all())
"""
    assert run_python(code) == "0\n0\nTrue\n"


@no_threads_in_a_child
@needs_fork
def test_a_forked_pool_of_processes_computes() -> None:
    code = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    results = [pool.apply_async(compute) for _ in range(4)]
    print([bool((result.get(30) == expected).all()) for result in results])
"""
    assert run_python(code) == "[True, True, True, True]\n"


def test_the_interpreter_exits_while_a_thread_computes() -> None:
    code = """
def forever():
    while True:
        compute()
for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.05)
print("done")
"""
    assert run_python(code) == "done\n"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_threads_start_once_and_are_gone_at_the_end() -> None:
    code = """
import atexit
before = len(os.listdir("/proc/self/task"))
for _ in range(20):
    compute()
assert len(os.listdir("/proc/self/task")) == before
atexit._run_exitfuncs()
print(before - len(os.listdir("/proc/self/task")))
"""
    assert run_python(code) == "3\n"


def test_python_threads_share_the_pool() -> None:
    code = """
results = []
threads = [threading.Thread(target=lambda: results.append(bool((compute() == expected).all()))) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(results)
"""
    assert run_python(code) == f"{[True] * 8}\n"
