"""No test runs an instruction set by its name without asking whether the CPU has it (support/instruction_sets.py)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from whisperq_edge import _core

from tests.support.instruction_sets import each_isa, isa_names, needs_isa, report_lines, runnable_isas, why_not
from tests.support.paths import TESTS

SCALAR = "scalar"  # which every CPU runs

# Names that are written down and never run on this CPU: "file: function or variable" -> the reason.
ONLY_NAMED = {
    "native/test_decoding.py: test_another_cpu_refuses_what_it_lacks": "an emulated CPU refuses it",
    "native/test_decoding.py: test_the_arithmetic_of_another_cpu_is_right": "an emulated CPU runs it",
    "native/test_instruction_sets.py: GUARDED": "examples for the check in this file",
    "native/test_instruction_sets.py: UNGUARDED": "examples for the check in this file",
    "native/test_instruction_sets.py: test_the_check_sees_what_is_named": "what the check finds in the examples",
    "native/test_instruction_sets.py: test_a_missing_instruction_set_skips_with_the_reason": "the CPU is made up",
    "native/test_kernels.py: ARM": "names and features to compare with",
    "native/test_kernels.py: AVX2": "features of a CPU",
    "native/test_kernels.py: AVX512VNNI": "features of a CPU",
    "support/native_programs.py: EMULATED": "for emulated CPUs",
    "native/test_kernels.py: X86": "names and features to compare with",
    "support/native_programs.py: as_cpu": "for emulated CPUs",
    "native/test_kernels.py: test_an_isa_that_the_cpu_lacks_is_an_error": "an emulated CPU refuses it",
    "native/test_kernels.py: test_arm_chooses_its_best_and_is_right": "emulated CPUs run it",
    "native/test_kernels.py: test_each_feature_is_asked_for": "emulated CPUs choose it",
    "native/test_kernels.py: test_the_variable_chooses_among_what_is_built_and_supported": "of another family: refused",
    "audio/test_mel.py: test_an_isa_exports_its_kernel_and_leaves_nothing_weak": "compiled, never run",
    "bench/test_tune.py: test_a_profile_of_another_machine_is_not_used_and_a_line_says_why": "a refused profile",
    "bench/test_tune.py: test_the_choice_is_explained_in_a_line": "words of a report",
    "bench/test_tune.py: test_the_grid": "a list of settings, none of which is tried",
}

GUARDED = """
@needs_isa("avx2")
def test_one():
    run("avx2")

@pytest.mark.parametrize("isa", ["scalar", pytest.param("avx512vnni", marks=needs_isa("avx512vnni"))])
def test_each(isa):
    run(isa)
"""

UNGUARDED = """
ALL = ("scalar", "avx2")

@needs_isa("avx2")
def test_another():
    run("avx512vnni")

def test_in_a_process():
    python("run(isa='neon')")

def test_described():
    \"\"\"On avx2.\"\"\"
    run("row_math_avx2", "-mavx2")
"""


def vectors() -> list[str]:
    return [name for name in isa_names() if name != SCALAR]


def named_in(node: ast.AST) -> set[str]:
    """Return the instruction sets in the strings below ``node``, each as a word of its own."""
    words = re.compile(rf"(?<![\w-])({'|'.join(sorted(vectors(), key=len, reverse=True))})(?![\w-])")
    return {
        name
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
        for name in words.findall(each.value)
    }


def without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if is_docstring else body


def asked_for(node: ast.AST) -> set[str]:
    """Return the names that calls of ``needs_isa`` below ``node`` have as arguments."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {
        name
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "needs_isa"
        for argument in call.args
        for name in named_in(argument)
    }


def unasked(source: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each function, class or variable that names instruction sets and does not ask for them; and which."""
    for node in without_docstring(ast.parse(source).body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name, asked = node.name, set().union(*map(asked_for, node.decorator_list))
            parts = [*node.decorator_list, *without_docstring(node.body)]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            name, asked, parts = ", ".join(map(ast.unparse, targets)), set(), [node]
        found = set().union(*map(named_in, parts)) - asked
        if found:
            yield name, found


def test_every_test_that_names_an_instruction_set_asks_whether_the_cpu_has_it() -> None:
    found = {
        f"{path.relative_to(TESTS).as_posix()}: {name}": names
        for path in sorted(TESTS.rglob("*.py"))
        for name, names in unasked(path.read_text(encoding="utf-8"))
    }
    assert {place: names for place, names in found.items() if place not in ONLY_NAMED} == {}
    assert set(ONLY_NAMED) <= set(found), "a reason for what is not there any more"


def test_the_check_sees_what_is_named() -> None:
    assert list(unasked(GUARDED)) == []
    assert list(unasked(UNGUARDED)) == [
        ("ALL", {"avx2"}),
        ("test_another", {"avx512vnni"}),
        ("test_in_a_process", {"neon"}),
    ]


def test_a_missing_instruction_set_skips_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = [{"name": name, "built": True, "supported": name != "avx512bf16"} for name in isa_names()]
    monkeypatch.setattr(_core, "isas", lambda: made_up)
    monkeypatch.setattr(_core, "self_test", lambda isa: None)
    assert needs_isa("scalar", "avx2").mark.args == (False,)
    mark = needs_isa("scalar", "avx512bf16").mark
    assert mark.args == (True,) and "avx512bf16" in mark.kwargs["reason"]
    assert runnable_isas() == [name for name in isa_names() if name != "avx512bf16"]
    skipped = [parameter.id for parameter in each_isa() if parameter.marks[0].args[0]]
    assert skipped == ["avx512bf16"]


def test_the_reason_is_the_programs() -> None:
    for name in isa_names():
        reason = why_not(name)
        assert (reason == "") == (name in runnable_isas())
        if reason:
            assert name in reason and ("lacks " in reason or "does not contain" in reason)


def test_the_header_says_what_is_tried_and_what_is_not() -> None:
    lines = report_lines()
    assert lines[0].startswith(f"instruction sets: {' '.join(runnable_isas())} on ")
    missing = [name for name in isa_names() if name not in runnable_isas()]
    assert [any(f" {name}, " in line for line in lines[1:-1]) for name in missing] == [True] * len(missing)
    assert lines[-1].startswith("emulators of other CPUs: ")
