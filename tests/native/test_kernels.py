"""The kernels of every ISA, by tests/cpp/check_kernels: built here for this CPU, and for ARM under qemu."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from whisperq_edge import _core

from tests.support.native_programs import (
    EMULATED,
    QEMU_ARM,
    QEMU_X86,
    SOURCE,
    answer,
    as_cpu,
    build,
    listed,
    needs_arm,
    needs_qemu_x86,
    not_under_qemu,
    run,
    supported,
)
from tests.support.paths import ROOT
from tests.support.sanitizers import not_with_sanitizers

KERNELS = {"quantize_strip", "multiply_float", "half_to_float", "layer_norm", "gelu", "attention", "attention exact"}
KERNELS |= {f"multiply_strip {name}" for name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")}

# What the flags of an ISA in cmake/Kernels.cmake let the compiler use: ISA -> features, slowest ISA first.
AVX2 = ["avx2", "fma", "f16c", "bmi2"]
AVX512VNNI = [*AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"]
X86 = {"scalar": [], "avx2": AVX2, "avx512vnni": AVX512VNNI, "avx512bf16": [*AVX512VNNI, "avx512bf16"]}
ARM = {"scalar": [], "neon": ["neon"], "neon_dotprod": ["neon", "dotprod"], "neon_i8mm": ["neon", "dotprod", "i8mm"]}

pytestmark = [
    pytest.mark.skipif(not (SOURCE / "check_kernels.cpp").is_file(), reason="the sources are not here"),
    pytest.mark.skipif(sys.platform == "win32", reason="check_kernels maps its memory as POSIX has it"),
]


def assert_proven(result: dict[str, Any], isa: str) -> None:
    checks = {check["kernel"]: check for check in result["checks"] if check["isa"] == isa}
    assert KERNELS <= set(checks)
    for check in checks.values():
        assert check["count"] > 500 and check["failures"] == 0 and check["worst"] <= 1, check


def test_every_isa_of_this_machine_is_right() -> None:
    result = answer(build("host") / "check_kernels")
    print("chosen:", result["chosen"])
    expected = ARM if _core.cpu_family() == "aarch64" else X86 if _core.cpu_family() == "x86_64" else {"scalar": []}
    features = _core.cpu_features()
    assert supported(result) == [isa for isa, needs in expected.items() if all(features[name] for name in needs)]
    assert result["chosen"] == supported(result)[-1]
    assert {isa["name"] for isa in result["isas"]} == {*X86, *ARM}
    assert {isa["name"] for isa in result["isas"] if isa["built"]} == set(expected)
    for isa in supported(result):
        assert_proven(result, isa)
    assert {check["isa"] for check in result["checks"]} == set(supported(result))


@not_under_qemu
@needs_arm
@pytest.mark.parametrize(("cpu", "isa"), [("cortex-a53", "neon"), ("cortex-a76", "neon_dotprod"), ("max", "neon_i8mm")])
def test_arm_chooses_its_best_and_is_right(cpu: str, isa: str) -> None:
    result = answer(QEMU_ARM, "-cpu", cpu, build("aarch64") / "check_kernels", "--quick", "--isa=auto")
    print("chosen:", result["chosen"])
    assert result["chosen"] == isa
    assert supported(result) == list(ARM)[: list(ARM).index(isa) + 1]
    assert_proven(result, isa)


@not_under_qemu
@needs_arm
def test_scalar_is_right_on_arm_where_it_is_asked_for() -> None:
    command = (QEMU_ARM, "-cpu", "cortex-a53", build("aarch64") / "check_kernels", "--quick", "--isa=auto")
    result = answer(*command, isa="scalar")
    assert result["chosen"] == "scalar"
    assert_proven(result, "scalar")


@not_under_qemu
@needs_qemu_x86
@pytest.mark.parametrize(
    ("cpu", "isa"), [("max", "avx2"), ("Nehalem", "scalar"), *((f"max,-{name}", "scalar") for name in AVX2)]
)
def test_each_feature_is_asked_for(cpu: str, isa: str) -> None:
    """qemu 7.2 and later has AVX2 and no AVX-512."""
    as_cpu("Haswell", Path())  # skips where it has not
    assert listed([QEMU_X86, "-cpu", cpu])["chosen"] == isa


@not_under_qemu
@needs_qemu_x86
@pytest.mark.parametrize("cpu", EMULATED)
def test_a_cpu_without_avx512_and_one_without_avx_are_right(cpu: str) -> None:
    command = as_cpu(cpu, build("host") / "check_kernels")
    result = answer(*command, "--quick", "--readable-guards", "--isa=auto")
    best = EMULATED[cpu]
    assert result["chosen"] == best and supported(result) == list(X86)[: list(X86).index(best) + 1]
    assert_proven(result, best)


@not_under_qemu
@needs_qemu_x86
@pytest.mark.parametrize("cpu", EMULATED)
@pytest.mark.parametrize(
    ("program", "arguments"), [("check_kernels", ["--isa={}", "--list"]), ("check_self_test", ["{}"])]
)
def test_a_program_refuses_what_the_cpu_lacks(cpu: str, program: str, arguments: list[str]) -> None:
    for isa in list(X86)[list(X86).index(EMULATED[cpu]) + 1 :]:
        done = run(*as_cpu(cpu, build("host") / program), *(each.format(isa) for each in arguments))
        assert done.returncode == 2 and done.stdout == ""
        assert f"the ISA is {isa}, but this CPU (or its OS) lacks " in done.stderr


def assert_lists_the_choices(message: str, usable: list[str]) -> None:
    assert f"built and supported here: auto {' '.join(usable)} (" in message
    assert all(isa in message for isa in (*X86, *ARM))


def test_the_variable_chooses_among_what_is_built_and_supported() -> None:
    program = build("host") / "check_kernels"
    usable = supported(answer(program, "--list"))
    for isa in usable:
        assert answer(program, "--list", isa=isa)["chosen"] == isa
    for isa in ("", "auto"):
        assert answer(program, "--list", isa=isa)["chosen"] == usable[-1]

    unknown = run(program, "--list", isa="sse9")
    assert unknown.returncode == 2 and unknown.stderr.startswith("WHISPERQ_ISA is 'sse9', which is no ISA of ours; ")
    assert_lists_the_choices(unknown.stderr, usable)

    foreign = "avx2" if _core.cpu_family() == "aarch64" else "neon"
    not_built = run(program, "--list", isa=foreign)
    assert not_built.returncode == 2 and f"{foreign}, which this build does not contain; " in not_built.stderr
    assert_lists_the_choices(not_built.stderr, usable)


@not_under_qemu
@needs_arm
def test_an_isa_that_the_cpu_lacks_is_an_error() -> None:
    command = (QEMU_ARM, "-cpu", "cortex-a53", build("aarch64") / "check_kernels", "--list")
    lacking = run(*command, isa="neon_i8mm")
    assert lacking.returncode == 2
    assert lacking.stderr.startswith("WHISPERQ_ISA is neon_i8mm, but this CPU (or its OS) lacks dotprod i8mm; ")
    assert_lists_the_choices(lacking.stderr, ["scalar", "neon"])


@not_with_sanitizers("looks at the symbols of what is shipped")
@pytest.mark.skipif(shutil.which("nm") is None or sys.platform != "linux", reason="needs nm on Linux")
@pytest.mark.parametrize("target", ["host", pytest.param("aarch64", marks=needs_arm)])
def test_an_isa_object_shares_nothing_but_its_table(target: str) -> None:
    """Weak code compiled for one ISA could be the copy that the linker takes for all."""
    nm = "nm" if target == "host" else "aarch64-linux-gnu-nm"
    objects = [
        path for path in build(target).rglob("kernels/*/*.cpp.o") if path.parent.name in ("scalar", "x86", "arm")
    ]
    assert len({path.name for path in objects}) == 1 + len(
        re.findall(r"^ +whisperq_kernels\(", kernels_of(target), re.MULTILINE)
    )
    for path in objects:
        listing = subprocess.run([nm, "-P", str(path)], capture_output=True, text=True, check=True).stdout
        symbols = [line.split()[:2] for line in listing.splitlines()]
        exported = [name for name, kind in symbols if kind.isupper() and kind != "U"]
        assert len(exported) == 1 and re.search(r"whisperq7kernels\d+k\w+Table", exported[0]), f"{path}: {exported}"
        assert [name for name, kind in symbols if kind in "WwVvu"] == [], path
        # What is called is C: nothing of C++ that allocates, throws or could be instantiated elsewhere.
        assert [name for name, kind in symbols if kind == "U" and name.startswith(("_Z", "malloc"))] == [], path


def kernels_of(target: str) -> str:
    """The rows of cmake/Kernels.cmake for the CPUs of a target."""
    table = (ROOT / "cmake" / "Kernels.cmake").read_text(encoding="utf-8")
    family = "aarch64" if target == "aarch64" else _core.cpu_family()
    return next(part for part in re.split(r"if\(CMAKE_SYSTEM_PROCESSOR MATCHES", table) if part[:60].find(family) >= 0)
