"""The instruction sets that we have kernels for, and which of them this CPU runs.

Every test that runs one of them by its name asks here, so that it is skipped, with the reason, where the CPU lacks it.
tests/native/test_instruction_sets.py holds all other tests to that.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from whisperq_edge import CpuError, _core

__all__ = ["each_isa", "isa_names", "needs_isa", "report_lines", "runnable_isas", "why_not"]


def isa_names() -> list[str]:
    """Return every name that ``WHISPERQ_ISA`` knows, for all families of CPUs."""
    return [row["name"] for row in _core.isas()]


def runnable_isas() -> list[str]:
    """Return the instruction sets that this build has and this CPU runs, slowest first."""
    return [row["name"] for row in _core.isas() if row["built"] and row["supported"]]


def why_not(isa: str) -> str:
    """Return why this build or this CPU cannot run ``isa``, or an empty string where it can."""
    if isa in runnable_isas():
        return ""
    try:
        _core.self_test(isa)
    except CpuError as error:
        return str(error).partition("; ")[0]
    return f"the ISA is {isa}, which _core.isas() does not list as built and supported"


def needs_isa(*names: str) -> pytest.MarkDecorator:
    """Return the mark of a test that runs these instruction sets."""
    reasons = [reason for reason in map(why_not, names) if reason]
    return pytest.mark.skipif(bool(reasons), reason="; ".join(reasons) or "all of them run here")


def each_isa() -> list[Any]:
    """Return the instruction sets of this build as parameters of a test; those that the CPU lacks are skipped."""
    built = [row["name"] for row in _core.isas() if row["built"]]
    return [pytest.param(name, id=name, marks=needs_isa(name)) for name in built]


def report_lines() -> list[str]:
    """Return the lines on instruction sets in the header of a run: what is tried here, and what is not."""
    missing = [reason for reason in map(why_not, isa_names()) if reason]
    emulators = [name for name in ("qemu-x86_64", "qemu-aarch64") if shutil.which(name)]
    return [
        f"instruction sets: {' '.join(runnable_isas())} on {_core.cpu_name() or _core.cpu_family()}",
        *(f"not on this CPU: {reason}" for reason in missing),
        f"emulators of other CPUs: {' '.join(emulators) or 'none'}",
    ]
