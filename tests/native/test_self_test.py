"""The self-test of the kernels: it sees every fault (tests/cpp/check_self_test), is run once per CPU and build, and
what fails is not used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import CpuError, OptionError, WhisperModel, _core
from whisperq_edge._system import self_test
from whisperq_edge._system.self_test import SelfTestWarning, known_self_test, trusted_isa
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.instruction_sets import each_isa, isa_names, runnable_isas
from tests.support.native_programs import (
    EMULATED,
    QEMU_ARM,
    answer,
    as_cpu,
    build,
    needs_arm,
    needs_qemu_x86,
    not_under_qemu,
    run,
    supported,
)

BEST = runnable_isas()[-1]
TABLE = ["multiply_strip", "multiply_packed", "multiply_float", "multiply_half", "half_to_float", "float_to_half"]
TABLE += ["layer_norm", "gelu", "attention", "quantize_head", "score_keys", "softmax", "mix_values"]
OTHERS = ["max_of", "sum_exp", "softmax of a row", "mel"]
needs_vectors = pytest.mark.skipif(BEST == "scalar", reason="this CPU has scalar kernels only")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new process on a new machine, as far as the self-test can see."""
    monkeypatch.setenv("WHISPERQ_CACHE", str(tmp_path))
    monkeypatch.delenv("WHISPERQ_ISA", raising=False)
    monkeypatch.delenv(self_test.VARIABLE, raising=False)
    new_process(monkeypatch)
    yield tmp_path


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "_of_this_process", {})
    monkeypatch.setattr(self_test, "_warned", set())


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is tested from now on."""
    tested: list[str] = []
    real = _core.self_test

    def count(isa: str) -> dict[str, Any]:
        tested.append(isa)
        return real(isa)

    monkeypatch.setattr(_core, "self_test", count)
    return tested


def break_kernels(monkeypatch: pytest.MonkeyPatch, kernel: str = "multiply_packed") -> None:
    real = _core.self_test
    monkeypatch.setattr(_core, "self_test", lambda isa: real(isa, kernel))


def notes(folder: Path) -> list[Path]:
    return sorted(folder.glob("self-test-*"))


# ---- What it sees ----------------------------------------------------------------------------------------------------


def test_every_fault_is_seen_on_every_isa() -> None:
    done = run(build("host") / "check_self_test")
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == supported(
        answer(build("host") / "check_kernels", "--list")
    )


@not_under_qemu
@needs_arm
@pytest.mark.parametrize(("cpu", "n_isas"), [("cortex-a53", 2), ("max", 4)])
def test_every_fault_is_seen_on_arm(cpu: str, n_isas: int) -> None:
    """All that the CPU has are right; faults are tried on the two best, since the other CPU's two best are the rest."""
    program = build("aarch64") / "check_self_test"
    right = run(QEMU_ARM, "-cpu", cpu, program, "--quick")
    assert (right.returncode, right.stderr) == (0, "")
    isas = [line.split()[0] for line in right.stdout.splitlines()]
    assert len(isas) == n_isas
    for isa in isas[-2:]:
        done = run(QEMU_ARM, "-cpu", cpu, program, isa)
        print(done.stdout)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(isa)
        assert int(done.stdout.split(" faults found")[0].split()[-1]) > 200


@not_under_qemu
@needs_qemu_x86
@pytest.mark.parametrize("cpu", EMULATED)
def test_what_is_right_passes_on_other_cpus(cpu: str) -> None:
    done = run(*as_cpu(cpu, build("host") / "check_self_test"), "--quick")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()][-1] == EMULATED[cpu]


AS_SHIPPED = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("_core", sys.argv[1])
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
isas = [row["name"] for row in core.isas() if row["built"] and row["supported"]]
print(json.dumps({isa: core.self_test(isa)["failure"] for isa in isas}))
"""


@not_under_qemu
@needs_qemu_x86
@pytest.mark.parametrize("cpu", EMULATED)
def test_what_is_shipped_passes_on_other_cpus(cpu: str) -> None:
    """The extension itself, whose code for every CPU must contain no instruction of one."""
    done = run(*as_cpu(cpu, Path(sys.executable)), "-I", "-c", AS_SHIPPED, _core.__file__)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found)[-1] == EMULATED[cpu] and not any(found.values())


def test_what_cannot_run_is_refused() -> None:
    for isa in isa_names():
        if isa not in runnable_isas():
            with pytest.raises(CpuError, match=isa):
                _core.self_test(isa)


@pytest.mark.parametrize("isa", each_isa())
def test_what_is_right_passes(isa: str) -> None:
    result = _core.self_test(isa)
    print(f"{isa}: {result['ms']:.2f} ms")
    assert (result["isa"], result["failure"]) == (isa, None)
    assert result["n_compared"] > 30_000


@pytest.mark.parametrize("kernel", [*TABLE, *OTHERS])
def test_what_is_wrong_is_named(kernel: str) -> None:
    failure = _core.self_test(BEST, kernel)["failure"]
    assert failure["kernel"] == kernel
    assert not abs(failure["got"] - failure["expected"]) <= failure["tolerance"]


# ---- When it runs ----------------------------------------------------------------------------------------------------


def test_it_runs_once_for_a_machine(folder: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_self_test().state == "not run yet"
    assert trusted_isa() == trusted_isa() == BEST
    assert runs == [BEST] and known_self_test().state == "passed"
    [note] = notes(folder)
    assert json.loads(note.read_text())["state"] == "passed"

    new_process(monkeypatch)
    assert known_self_test().ms is not None
    assert trusted_isa() == BEST and runs == [BEST]

    monkeypatch.setenv(self_test.VARIABLE, "always")
    new_process(monkeypatch)
    assert trusted_isa() == BEST and runs == [BEST, BEST]


def test_another_cpu_and_another_build_are_tested_too(
    folder: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted_isa()
    new_process(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(_core, "cpu_name", lambda: "another")
        trusted_isa()
    new_process(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("whisperq_edge._system.build.__version__", "9.9.9")
        trusted_isa()
    assert len(runs) == len(notes(folder)) == 3


def test_it_can_be_left_out(folder: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(self_test.VARIABLE, "never")
    assert known_self_test().state == "skipped"
    assert trusted_isa() == BEST and runs == [] and notes(folder) == []
    new_process(monkeypatch)
    monkeypatch.setenv(self_test.VARIABLE, "perhaps")
    with pytest.raises(OptionError, match="auto, always or never"):
        trusted_isa()


def test_four_threads_run_it_once(runs: list[str]) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(trusted_isa())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BEST] * 4 and runs == [BEST]


def test_a_folder_that_cannot_be_written_costs_a_test_only(
    tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("WHISPERQ_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        new_process(monkeypatch)
        assert trusted_isa() == BEST
    assert runs == [BEST] * 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"state": "splendid", "ms": 1, "reason": ""}', "\x00" * 10])
def test_a_note_that_cannot_be_read_counts_for_nothing(
    folder: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    trusted_isa()
    notes(folder)[0].write_text(content)
    new_process(monkeypatch)
    assert trusted_isa() == BEST and runs == [BEST] * 2


def test_a_test_that_is_interrupted_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(isa: str) -> dict[str, Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_core, "self_test", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trusted_isa()
    assert notes(folder) == []
    assert trusted_isa() == BEST


# ---- What fails is not used ------------------------------------------------------------------------------------------


@needs_vectors
def test_a_failure_is_said_and_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        break_kernels(patch)
        with pytest.warns(SelfTestWarning) as said:
            assert trusted_isa() == "scalar"
    [message] = [str(each.message) for each in said]
    for part in (f"the {BEST} kernels", "multiply_packed (q8_0", "instead of", "scalar", "WHISPERQ_ISA", "report"):
        assert part in message
    assert message in caplog.text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trusted_isa() == "scalar"  # said once a process

    new_process(monkeypatch)
    with pytest.warns(SelfTestWarning, match="multiply_packed"):
        assert trusted_isa() == "scalar"
    assert known_self_test().state == "failed"

    new_process(monkeypatch)
    monkeypatch.setenv(self_test.VARIABLE, "always")
    assert trusted_isa() == BEST
    assert known_self_test().state == "passed"


def test_when_scalar_fails_there_is_nothing_to_fall_back_to(monkeypatch: pytest.MonkeyPatch) -> None:
    break_kernels(monkeypatch, "gelu")
    with pytest.warns(SelfTestWarning, match="do not trust the transcripts"):
        assert trusted_isa("scalar") == "scalar"


@needs_vectors
def test_everything_runs_on_scalar_then(monkeypatch: pytest.MonkeyPatch, sample_pcm: npt.NDArray[np.float32]) -> None:
    samples = sample_pcm[: 2 * 16000]  # scalar takes its time
    options: dict[str, Any] = {"temperature": 0.0, "language": "en", "vad_filter": True, "audio_ctx": "auto"}
    with WhisperModel("nano", device="cpu", engine="edge") as model:
        expected = model.transcribe(samples, **options).text
        assert expected
    new_process(monkeypatch)
    monkeypatch.setenv(self_test.VARIABLE, "always")
    monkeypatch.setattr("whisperq_edge._audio.speech._network", None)
    used = []
    for name in ("EdgeModel", "Vad"):
        real = getattr(_core, name)
        monkeypatch.setattr(_core, name, lambda *given, real=real: used.append(given[1]) or real(*given))
    break_kernels(monkeypatch, "mel")
    with pytest.warns(SelfTestWarning, match="mel"), WhisperModel("nano", device="cpu", engine="edge") as model:
        assert model.transcribe(samples, **options).text == expected
    assert used == ["scalar", "scalar"]


CRASHES = """
import os, signal, sys
from whisperq_edge import _core
from whisperq_edge._system import self_test
def crash(isa):
    os.kill(os.getpid(), signal.SIGILL)
_core.self_test = crash
self_test.trusted_isa()
"""


@needs_vectors
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_crash_is_not_repeated(folder: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, timeout=60, check=False)
    assert done.returncode < 0 and known_self_test().state == "started"
    monkeypatch.setattr(self_test, "_APART", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.warns(SelfTestWarning, match="does not come to its end .SIGILL."):
        assert trusted_isa() == "scalar"
    new_process(monkeypatch)
    with pytest.warns(SelfTestWarning, match="SIGILL"):
        assert trusted_isa() == "scalar"
    assert runs == [] and known_self_test().state == "failed"
    new_process(monkeypatch)
    monkeypatch.setenv(self_test.VARIABLE, "always")
    assert trusted_isa() == BEST and known_self_test().state == "passed"


@needs_vectors
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_kill_in_the_midst_is_no_failure(folder: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, timeout=60, check=False)
    assert known_self_test().state == "started"
    assert trusted_isa() == BEST and runs == []
    assert known_self_test().state == "passed" and known_self_test().ms > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_tests_does_not_hang() -> None:
    code = """
import os, threading, time, warnings
warnings.simplefilter("ignore")
from whisperq_edge import _core
from whisperq_edge._system import self_test
real, begun = _core.self_test, threading.Event()
def slow(isa):
    begun.set()
    time.sleep(0.5)
    return real(isa)
_core.self_test = slow
thread = threading.Thread(target=self_test.trusted_isa)
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    _core.self_test = real
    os._exit(0 if self_test.trusted_isa() == _core.chosen_isa() else 1)
thread.join()
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- Where it is shown -----------------------------------------------------------------------------------------------


def info() -> tuple[dict[str, Any], str]:
    report = json.loads(cli_runner().invoke(main, ["info", "--json"]).stdout)["engines"]["edge"]
    [line] = [row for row in cli_runner().invoke(main, ["info"]).stdout.splitlines() if "self-test" in row]
    return report, line


@needs_vectors
def test_info_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    report, line = info()
    assert report["self_test"] == {"isa": BEST, "state": "not run yet", "ms": None, "reason": ""}
    assert f"{BEST}: not run yet" in line

    trusted_isa()
    report, line = info()
    assert (report["isa"], report["self_test"]["state"]) == (BEST, "passed")
    assert report["self_test"]["ms"] > 0 and " ms" in line

    new_process(monkeypatch)
    monkeypatch.setenv(self_test.VARIABLE, "always")
    break_kernels(monkeypatch, "gelu")
    with pytest.warns(SelfTestWarning):
        trusted_isa()
    report, line = info()
    assert (report["isa"], report["self_test"]["state"]) == ("scalar", "failed")
    assert f"{BEST}: failed in " in line and "gelu (" in line


def test_the_cache_is_cleared_of_it(folder: Path) -> None:
    trusted_isa()
    assert cli_runner().invoke(main, ["cache", "clear", "--yes"]).exit_code == 0
    assert notes(folder) == []
