"""The native test programs of tests/cpp, built for this CPU and for ARM, and run as other CPUs."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Optional

import pytest
from whisperq_edge import _core
from whisperq_edge._system.locks import locked

from tests.support.paths import ROOT, TESTS
from tests.support.sanitizers import SANITIZERS, TOOLS, not_with_sanitizers

__all__ = [
    "EMULATED",
    "QEMU_ARM",
    "QEMU_X86",
    "SOURCE",
    "answer",
    "as_cpu",
    "build",
    "cmake",
    "listed",
    "needs_arm",
    "needs_qemu_x86",
    "not_under_qemu",
    "run",
    "supported",
]

SOURCE = TESTS / "cpp"
# As deep below the checkout as the extension's own build: ccache knows sources by their paths from there.
CACHE = ROOT / "build"
# What is built for another CPU is what runs there.
PROGRAMS = {"aarch64": ["check_kernels", "check_self_test"]}
PROGRAMS["host"] = [*PROGRAMS["aarch64"], "check_decoding"]

CROSS_COMPILER = shutil.which("aarch64-linux-gnu-g++")
QEMU_ARM = shutil.which("qemu-aarch64")
QEMU_X86 = shutil.which("qemu-x86_64")

# CPUs that qemu-x86_64 has -> the best ISA of ours on them: one with AVX2 and no AVX-512, and one without AVX.
EMULATED = {"Haswell": "avx2", "Nehalem": "scalar"}

needs_arm = pytest.mark.skipif(
    CROSS_COMPILER is None or QEMU_ARM is None, reason="needs g++-aarch64-linux-gnu and qemu-user"
)

needs_qemu_x86 = pytest.mark.skipif(
    QEMU_X86 is None or _core.cpu_family() != "x86_64", reason="needs qemu-x86_64 (qemu-user) on x86-64"
)

not_under_qemu = not_with_sanitizers("under qemu-user they do not get their part of the address space")


def compiler() -> Optional[str]:
    """Return the compiler that the extension was built with, or None for CMake's choice: ccache tells them apart."""
    named = os.environ.get("CXX") or ("" if SANITIZERS else sysconfig.get_config_var("CXX") or "")
    return shutil.which(named.split()[0]) if named.split() else None


def cmake() -> Optional[str]:
    return shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@functools.cache
def build(target: str) -> Path:
    """The folder where the native test programs were built, for "host" or "aarch64". Kept between runs of the tests."""
    program, folder = cmake(), CACHE / "-".join(["check", target, *SANITIZERS.split(",")]).rstrip("-")
    if program is None or not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "c++", "g++")):
        pytest.skip("needs cmake and a C++ compiler")
    configure = [program, "-S", str(SOURCE), "-B", str(folder)]
    if SANITIZERS:
        configure += [f"-DWHISPERQ_SANITIZE={SANITIZERS}", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g1"]
    if target == "host" and compiler():
        configure.append(f"-DCMAKE_CXX_COMPILER={compiler()}")
    if target != "host":
        configure.append(f"-DCMAKE_TOOLCHAIN_FILE={SOURCE / target}.cmake")
    ccache = shutil.which("ccache")
    if ccache:
        configure.append(f"-DCMAKE_CXX_COMPILER_LAUNCHER={ccache}")
    make = [program, "--build", str(folder), "--parallel", str(_core.usable_cpus()), "--target", *PROGRAMS[target]]
    CACHE.mkdir(exist_ok=True)
    with locked(folder.with_suffix(".lock")):  # several processes of pytest-xdist want it at once
        for command in (configure, make):
            done = subprocess.run(command, capture_output=True, text=True, env=TOOLS, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(*command: object, isa: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command with WHISPERQ_ISA set to `isa` ("": the best is chosen)."""
    environment = {**os.environ, "WHISPERQ_ISA": isa}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)


def as_cpu(cpu: str, program: Path) -> list[object]:
    """Return the command that runs a program as another x86-64 CPU; skip the test where this qemu has no AVX2."""
    if EMULATED.get(cpu) == "avx2" and supported(listed([QEMU_X86, "-cpu", "max"]))[-1] != "avx2":
        pytest.skip("this qemu has no AVX2")
    return [QEMU_X86, "-cpu", cpu, program]


def listed(emulator: list[object], isa: str = "") -> dict[str, Any]:
    """Return what check_kernels lists, run by an emulator or, where that is empty, by this CPU."""
    return answer(*emulator, build("host") / "check_kernels", "--list", isa=isa)


def answer(*command: object, isa: str = "") -> dict[str, Any]:
    """What a run of check_kernels found, when all was right."""
    done = run(*command, "--json", isa=isa)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def supported(result: dict[str, Any]) -> list[str]:
    return [isa["name"] for isa in result["isas"] if isa["supported"]]
