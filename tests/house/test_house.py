"""The rules of the house that a machine can check: arrows of includes and imports, errors, versions, symbols."""

from __future__ import annotations

import ast
import functools
import inspect as python_inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import whisperq_edge
from whisperq_edge import _core, _errors
from whisperq_edge._system.native import build_info, check_version, load_ggml

from tests.support.paths import ROOT

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


# ---- Floors of the Python package ------------------------------------------------------------------------------------

# Rooms (a folder, or a file beside the folders) from the top floor to the bottom. A file imports from its own room and
# from lower floors only. Rooms on one floor do not know each other. docs/architecture.md draws it.
FLOORS = (
    {"__init__", "__main__"},
    {"cli", "compat", "_workers"},
    {"_study"},
    {"_bench", "_eval"},
    {"_model"},
    {"_store"},
    {"_convert"},
    {"_convert.readers", "_engines"},
    {"_audio"},
    {"_options"},
    {"_vad_options", "_writers"},
    {"_whisper"},
    {"_system"},
    {"_errors"},
    {"_result", "_version", "_core", "_ggml"},
)
FLOOR_OF = {room: len(FLOORS) - index for index, rooms in enumerate(FLOORS) for room in rooms}

# Files that import ours inside of functions, and why.
LATE_IMPORTS = {
    "_store.converter": "most calls convert nothing, and `import whisperq_edge` is a fifth faster without it",
    "_bench.peers": "the graphs of other runtimes need packages that may not be installed",
}

needs_package = pytest.mark.skipif(not (PACKAGE / "_system").is_dir(), reason="the sources are not here")


class Import(NamedTuple):
    """An import of ours: a file by its dotted name below the package, and where the statement stands."""

    target: str
    line: int
    is_in_function: bool


@functools.cache
def package_files() -> dict[str, Path]:
    """Return the files of the package by their dotted names; a folder's ``__init__.py`` has the folder's name."""
    names = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    return {name[: -len(".__init__")] if name.endswith(".__init__") else name: path for path, name in names.items()}


@functools.cache
def imports(file: str) -> list[Import]:
    """Return each import of ours in a file, those inside functions and those for type checkers included."""
    path = package_files()[file]
    package = path.relative_to(PACKAGE).parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    within = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [Import(target, node.lineno, id(node) in within) for target in targets(node, package)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "whisperq_edge"]
            found += [Import(name.partition(".")[2], node.lineno, id(node) in within) for name in names]
    return found


def targets(node: ast.ImportFrom, package: tuple[str, ...]) -> list[str]:
    """Return the files that an import statement in ``package`` loads names from."""
    module = node.module.split(".") if node.module else []
    if node.level == 0:
        if module[:1] != ["whisperq_edge"]:
            return []
        base = module[1:]
    else:
        base = [*package[: len(package) - node.level + 1], *module]
    files = {*package_files(), "_core", "_ggml"}
    of_names = [".".join([*base, alias.name]) for alias in node.names]
    return [name if name in files else ".".join(base) or "__init__" for name in of_names]


def room_of(file: str) -> str:
    """Return the innermost room of a file."""
    parts = file.split(".")
    rooms = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((room for room in rooms if room in FLOOR_OF), file)


@needs_package
def test_every_file_has_a_floor() -> None:
    assert sorted({room_of(file) for file in package_files()} - {*FLOOR_OF}) == []


@needs_package
def test_imports_go_down() -> None:
    wrong = []
    for file in package_files():
        room = room_of(file)
        for each in imports(file):
            target = room_of(each.target)
            if target != room and FLOOR_OF.get(target, 99) >= FLOOR_OF.get(room, 99):
                wrong.append(f"{file}:{each.line} imports {each.target}")
    assert wrong == []


@needs_package
def test_no_files_import_each_other_in_a_circle() -> None:
    assert in_circles({file: {each.target for each in imports(file)} for file in package_files()}) == set()


def in_circles(graph: dict[str, set[str]]) -> set[str]:
    """Return the nodes that can be reached from themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [*graph[start]]
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += graph.get(node, ())
        return seen

    return {node for node in graph if node in reached(node)}


def test_a_circle_is_found() -> None:
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}


@needs_package
def test_imports_of_ours_stand_at_the_top_of_files() -> None:
    assert {file for file in package_files() for each in imports(file) if each.is_in_function} == {*LATE_IMPORTS}


@needs_package
def test_nobody_imports_the_mains_of_subprocesses_or_the_late_extension() -> None:
    wrong = [
        f"{file}:{each.line} imports {each.target}"
        for file in package_files()
        for each in imports(file)
        if each.target == "_ggml" or (room_of(each.target) == "_workers" and room_of(file) != "_workers")
    ]
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
        "import sys, whisperq_edge; heavy = {'soundfile', 'soxr', 'rich', 'click', 'av', 'whisperq_edge._ggml',"
        " 'whisperq_edge._convert'};"
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
