"""The sanitizers are at work where scripts/test_sanitized.py asks for them: else a run without findings is empty."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from whisperq_edge import _core
from whisperq_edge._system.native import load_ggml

from tests.support.sanitizers import FLAGS, SANITIZERS, TOOLS

pytestmark = pytest.mark.skipif(not SANITIZERS, reason="an ordinary run")

COMPILER = os.environ.get("CXX") or shutil.which("c++")
WRONG = {
    "address": ("int main(int n, char**) { int* p = new int[n]; return p[n]; }", "AddressSanitizer"),
    "undefined": ("int main(int n, char**) { return (n << 30) * 2 == 0; }", "signed integer overflow"),
    "float-cast-overflow": ("int main(int n, char**) { return int(n * 1e10f) == 0; }", "outside the range"),
    "thread": (
        "#include <thread>\nint n; int main() { std::thread t([] { ++n; }); ++n; t.join(); return n == 0; }",
        "data race",
    ),
}


@pytest.mark.parametrize("module", ["_core", "_ggml"])
def test_the_extensions_are_built_with_them(module: str) -> None:
    path = _core.__file__ if module == "_core" else load_ggml().__file__
    listing = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    for name, symbol in (("address", "__asan_init"), ("undefined", "__ubsan_handle"), ("thread", "__tsan_init")):
        assert (symbol in listing) == (name in SANITIZERS.split(",")), symbol


@pytest.mark.parametrize("name", SANITIZERS.split(","))
def test_each_tells_what_it_is_there_for(name: str, tmp_path: Path) -> None:
    program, expected = WRONG[name]
    source = tmp_path / "wrong.cpp"
    source.write_text(program, encoding="utf-8")
    command = [str(COMPILER), *FLAGS, "-pthread", str(source), "-o", str(tmp_path / "wrong")]
    subprocess.run(command, env=TOOLS, check=True)
    # Its report is for this test alone.
    options = {
        variable: ":".join(option for option in os.environ.get(variable, "").split(":") if "log_path" not in option)
        for variable in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS")
    }
    done = subprocess.run([tmp_path / "wrong"], env={**os.environ, **options}, capture_output=True, text=True)
    assert done.returncode != 0 and expected in done.stderr
