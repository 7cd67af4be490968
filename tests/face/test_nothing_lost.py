"""Files appear whole or not at all: killed processes, full disks, Ctrl-C, several writers at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._core import read_model_file
from whisperq_edge._system.files import atomic_write, reserve, temporary_beside

from tests.support.make_model import Dims, write_random_model
from tests.support.processes import start_interruptible

SHAPE = Dims(80, 1500, 256, 4, 2, 448, 256, 4, 2, 51864)
SMALL = Dims(80, 96, 64, 1, 1, 96, 64, 1, 1, 51864)
"""Whose conversion is short enough to be killed a hundred times."""

N_KILLS = 100

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("source") / "source.bin", SHAPE, "f16")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def start_conversion(source: Path, final: Path, type_name: str) -> int:
    """The pid of a process that converts: forked, so that no time goes by with imports before it begins."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            convert_model(source, final, type=type_name, proof="tensors", overwrite=True)
            status = 0
        finally:
            os._exit(status)
    return pid


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
def test_killed_at_a_hundred_moments(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """The old file whole or the new one whole, and the next run removes what the killed one left."""
    source = write_random_model(tmp_path_factory.mktemp("small") / "source.bin", SMALL, "f16")
    final = tmp_path / "model.bin"
    versions = {}
    for type_name in ("q8_0", "q4_0"):
        began = time.perf_counter()
        convert_model(source, final, type=type_name, proof="tensors", overwrite=True)
        whole_s = time.perf_counter() - began
        versions[final.read_bytes()] = type_name
    rng = random.Random(7)
    seen, killed = set(), 0
    for i in range(N_KILLS):
        pid = start_conversion(source, final, ("q8_0", "q4_0")[i % 2])
        time.sleep(rng.uniform(0, 2.5 * whole_s))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        content = final.read_bytes()
        assert content in versions, f"kill {i} left {len(content)} bytes that are neither file"
        seen.add(versions[content])
        assert len(leftovers(tmp_path)) <= 2  # a model's and a sidecar's at most: those of earlier kills are gone
    assert killed > N_KILLS // 3 and seen == {"q8_0", "q4_0"}
    convert_model(source, final, type="q5_0", proof="tensors", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.bin.json"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; only root can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system of a chosen size cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(source: Path, small_disk: Path) -> None:
    with pytest.raises(OSError, match=r"\d MB are needed and \d.* MB are free") as caught:
        convert_model(source, small_disk / "out.bin", proof="tensors")
    assert caught.value.filename == str(small_disk / "out.bin")
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_on_the_command_line(source: Path, small_disk: Path) -> None:
    (small_disk / "out.bin").write_bytes(b"old")
    command = [sys.executable, "-m", "whisperq_edge", "convert", str(source), "-o", str(small_disk / "out.bin")]
    run = subprocess.run([*command, "--overwrite"], capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "are needed" in run.stderr and "Traceback" not in run.stderr
    assert [path.name for path in small_disk.iterdir()] == ["out.bin"]
    assert (small_disk / "out.bin").read_bytes() == b"old"


@posix_only
def test_ctrl_c(source: Path, tmp_path: Path) -> None:
    final = tmp_path / "out.bin"
    command = [sys.executable, "-m", "whisperq_edge", "convert", str(source), "-o", str(final), "-t", "q2_k"]
    run = start_interruptible(command)
    deadline = time.monotonic() + 60
    while not leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.name != "posix" or os.geteuid() == 0:
        folder = Path("/proc/self")  # which not even root can write to
        if not folder.exists():
            pytest.skip("everything is writable here")
    with pytest.raises(OSError) as caught:
        convert_model(source, folder / "out.bin", proof="tensors")
    assert caught.value.filename == str(folder.resolve() / "out.bin")


# ---- The means -------------------------------------------------------------------------------------------------------


@posix_only
def test_a_living_writer_keeps_its_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "one.txt") as one:
        one.write("1")
        with atomic_write(tmp_path / "two.txt") as two:
            two.write("2")
        assert len(leftovers(tmp_path)) == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"one.txt": "1", "two.txt": "2"}


@posix_only
def test_what_a_dead_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".whisperq-0123456789abcdef.part").write_bytes(b"half")
    (tmp_path / ".somebody-elses.part").write_bytes(b"theirs")
    with atomic_write(tmp_path / "one.txt") as one:
        one.write("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".somebody-elses.part", "one.txt"]


def test_a_temporary_file_is_gone_afterwards(tmp_path: Path) -> None:
    with pytest.raises(KeyError), temporary_beside(tmp_path / "model.bin") as path:
        Path(path).write_bytes(b"1234")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_space_is_taken_before_the_work(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file", "wb") as stream:
        reserve(stream, 1000, tmp_path / "file")
        stream.write(b"x" * 1000)
    assert (tmp_path / "file").read_bytes() == b"x" * 1000


def test_a_result_that_reads_back_otherwise_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that returns other bytes: simulated by changing the file between writing and reading back."""
    from whisperq_edge._convert import read_back

    def damage(file: IO[bytes], begin: int, end: int) -> None:
        with open(file.name, "r+b") as writable:
            writable.seek(end - 5)
            writable.write(b"\x55")

    monkeypatch.setattr(read_back, "_forget", damage)
    with pytest.raises(OSError, match="other bytes"):
        convert_model(source, tmp_path / "out.bin", proof="tensors")
    assert list(tmp_path.iterdir()) == []


def test_the_new_file_is_whole(source: Path, tmp_path: Path) -> None:
    report = convert_model(source, tmp_path / "out.bin", proof="tensors")
    assert read_model_file(report.path).file_bytes == report.destination["bytes"]
