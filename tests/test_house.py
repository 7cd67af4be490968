"""The rules of the house that a machine can check: arrows of includes and imports, errors, versions, symbols."""

from __future__ import annotations

import ast
import inspect as python_inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import whisperq_edge
from whisperq_edge import _core, _errors
from whisperq_edge._native import build_info, check_version, load_ggml

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "whisperq_edge"

# What each folder of csrc may include, itself aside (docs/architecture.md draws it).
MAY_INCLUDE = {
    "core": set(),
    "binding": {"core"},
    "audio": {"core"},
    "model": {"core"},
    "kernels": {"core"},
    "edge": {"kernels", "model", "core"},
    "vad": {"kernels", "model", "core"},
    "decoding": {"edge", "audio", "model", "core"},
    "dispatch": {"decoding", "audio", "kernels", "core"},
    "ggml": {"binding", "core"},
    "python": {"binding", "dispatch", "decoding", "edge", "vad", "audio", "kernels", "model", "core"},
}
UPSTREAM_HEADERS = re.compile(r"^(whisper|ggml|gguf)[\w-]*\.(h|cpp)$")

needs_sources = pytest.mark.skipif(not CSRC.is_dir(), reason="the sources are not here")


def sources() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp"))


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), re.MULTILINE)


@needs_sources
def test_includes_run_one_way() -> None:
    wrong = []
    for path in sources():
        folder = path.relative_to(CSRC).parts[0]
        for include in includes(path):
            target = include.split("/")[0]
            if "/" in include and target in MAY_INCLUDE and target not in MAY_INCLUDE[folder] | {folder}:
                wrong.append(f"{path.relative_to(ROOT)} includes {include}")
    assert wrong == []


@needs_sources
def test_only_the_ggml_folder_sees_upstream() -> None:
    wrong = []
    for path in sources():
        folder = path.relative_to(CSRC).parts[0]
        for include in includes(path):
            if folder != "ggml" and UPSTREAM_HEADERS.match(include):
                wrong.append(f"{path.relative_to(ROOT)} includes {include}")
    assert wrong == []


def compiled(tmp_path: Path, code: str, *sources: str) -> subprocess.CompletedProcess[str]:
    """Compile a program of the headers in csrc and of some of its sources, and run it where it compiles."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    (tmp_path / "program.cpp").write_text(code, encoding="utf-8")
    only_check = [] if sources else ["-fsyntax-only"]
    command = [compiler, "-std=c++17", f"-I{CSRC}", *only_check, "program.cpp", *(str(CSRC / name) for name in sources)]
    done = subprocess.run([*command, "-o", "program"], cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode or not sources:
        return done
    return subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=False)


ISA_TABLES = ["kernels::kScalarTable", "audio::kFramesBaseline", "decoding::kRowMathBaseline"]


@needs_sources
@pytest.mark.parametrize("n_tables", [1, 2, 3])
def test_an_instruction_set_without_one_of_its_tables_does_not_compile(tmp_path: Path, n_tables: int) -> None:
    tables = ", ".join(ISA_TABLES[:n_tables])
    code = (
        '#include "dispatch/isas.h"\n#include "kernels/tables.h"\nusing namespace whisperq;\n'
        f"constexpr dispatch::Isa kIsa{{{tables}}};\nint main() {{ return kIsa.name() == nullptr; }}\n"
    )
    done = compiled(tmp_path, code)
    assert (done.returncode == 0) == (n_tables == len(ISA_TABLES)), done.stderr


@needs_sources
def test_the_cpu_is_asked_once(tmp_path: Path) -> None:
    code = (
        '#include "core/cpu_features.h"\nusing whisperq::cpu_features;\n'
        "int main() { return &cpu_features() == &cpu_features() ? 0 : 1; }\n"
    )
    done = compiled(tmp_path, code, "core/cpu_features.cpp")
    assert done.returncode == 0, done.stderr


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, as paths below the package."""
    package = ("whisperq_edge", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join((*package[: len(package) - node.level + 1], *([node.module] if node.module else [])))
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.skipif(not PACKAGE.is_dir(), reason="the sources are not here")
def test_imports_run_one_way() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        top = path.relative_to(PACKAGE).parts[0]
        for module in imports(path):
            outer = module.startswith(("whisperq_edge.cli", "whisperq_edge.compat"))
            if outer and top not in ("cli", "compat", "__main__.py"):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
            measures = module.startswith(("whisperq_edge._eval", "whisperq_edge._bench", "whisperq_edge._study"))
            counts_words = top == "_study" and module.startswith("whisperq_edge._eval")  # a study is a run of `eval`
            if measures and not counts_words and top not in ("cli", module.split(".")[1]):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}: what runs does not need what measures it")
            if module == "whisperq_edge._ggml":
                wrong.append(f"{path.relative_to(ROOT)} imports _ggml before the CPU was asked")
    assert wrong == []


def test_every_status_has_an_error_class() -> None:
    table = _core.error_table()
    assert set(table.values()) <= {*_errors.__all__, "MemoryError", "ValueError"}
    header = CSRC / "core" / "status.h"
    if header.is_file():
        body = re.search(r"enum class Status \{(.*?)\}", header.read_text(encoding="utf-8"), re.DOTALL)
        assert body is not None
        names = re.sub(r"//.*", "", body.group(1))
        assert sorted(table) == sorted(re.findall(r"\w+", names))


def test_the_error_tree() -> None:
    for name in _errors.__all__:
        assert issubclass(getattr(_errors, name), _errors.WhisperqError)
        assert getattr(whisperq_edge, name) is getattr(_errors, name)
    assert issubclass(_errors.AudioError, ValueError) and issubclass(_errors.OptionError, ValueError)
    assert issubclass(_errors.ModelNotFoundError, FileNotFoundError)
    assert issubclass(_errors.InterruptedByUser, KeyboardInterrupt)


def test_public_names_exist_and_are_documented() -> None:
    for name in whisperq_edge.__all__:
        thing = getattr(whisperq_edge, name)
        assert name == "__version__" or python_inspect.getdoc(thing)


def test_versions_are_one() -> None:
    assert _core.__version__ == load_ggml().__version__ == build_info().version == whisperq_edge.__version__


def test_another_version_of_an_extension_is_noticed() -> None:
    class Stale:
        __name__, __version__ = "whisperq_edge._core", "0.0.1"

    with pytest.raises(_errors.InternalError, match=r"0\.0\.1"):
        check_version(Stale)


def test_a_cpu_that_lacks_something_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    features = dict.fromkeys(_core.cpu_features(), False)
    load_ggml.cache_clear()
    monkeypatch.setattr(_core, "cpu_features", lambda: features)
    try:
        if build_info().ggml_requires:
            with pytest.raises(_errors.IsaNotSupportedError, match=build_info().ggml_requires[0]):
                load_ggml()
    finally:
        load_ggml.cache_clear()


def test_import_is_light() -> None:
    code = (
        "import sys, whisperq_edge; heavy = {'soundfile', 'soxr', 'rich', 'click', 'whisperq_edge._ggml', 'av'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(shutil.which("nm") is None or sys.platform != "linux", reason="needs nm on Linux")
@pytest.mark.parametrize("module", ["_core", "_ggml"])
def test_an_extension_exports_its_entry_point_only(module: str) -> None:
    path = _core.__file__ if module == "_core" else load_ggml().__file__
    listing = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    ours = [line.split()[-1] for line in listing.splitlines() if line.split()[1] in "TBDR"]
    assert ours == [f"PyInit_{module}"]


@pytest.mark.skipif(shutil.which("readelf") is None or sys.platform != "linux", reason="needs readelf on Linux")
def test_no_openmp() -> None:
    for path in (_core.__file__, load_ggml().__file__):
        needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
        assert "gomp" not in needed and "libomp" not in needed
