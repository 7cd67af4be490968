"""The test suite on a build with sanitizers, each file in a process of its own:

    python scripts/test_sanitized.py address [TEST FILE ...]    ASan and UBSan; all files where none is named
    python scripts/test_sanitized.py thread [TEST FILE ...]     TSan; the files that use threads where none is named

Builds both extensions with GCC into build/sanitize-NAME, puts a package together there and runs pytest with the runtime
preloaded. Logs and the sanitizers' reports lie beside it. Exit status 1: a test failed, or a sanitizer reported
something, in whichever process. Needs pybind11, cmake, ninja and tests/requirements.txt. CONTRIBUTING.md says what is
left out and why.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
FLAGS = "-O1 -g1"
COUNTS = ("passed", "skipped", "failed")


@dataclass(frozen=True)
class Mode:
    """What one of the two runs is made of. ``options``: the runtime's, by the variable that it reads."""

    sanitizers: str
    runtime: str
    options: dict[str, dict[str, object]]
    files: Sequence[str]


MODES = {
    "address": Mode(
        "address,undefined,float-cast-overflow",
        "libasan.so",
        {
            # CPython and its extensions keep memory to the end on purpose.
            "ASAN_OPTIONS": {
                "detect_leaks": 0,
                "allocator_may_return_null": 1,
                "malloc_context_size": 12,
            },
            "UBSAN_OPTIONS": {"print_stacktrace": 1},
        },
        ("*/test_*.py",),
    ),
    "thread": Mode(
        "thread",
        "libtsan.so",
        {
            "TSAN_OPTIONS": {
                # Our pools start threads anew in a forked child, which is what the tests of forking look at.
                "die_after_fork": 0,
                "halt_on_error": 0,
                "history_size": 4,
                "second_deadlock_stack": 1,
                "suppressions": TESTS / "tsan.supp",
            },
        },
        (
            "house/test_sanitizers.py",
            "native/test_thread_pool.py",
            "engines/test_edge_survives.py",
            "engines/test_edge_decoding.py",
            "engines/test_edge_encoder.py",
            "engines/test_edge_engine.py",
            "audio/test_mel.py",
            "face/test_transcribe.py",
            "audio/test_vad_network.py",
            "audio/test_window_mel.py",
        ),
    ),
}


def run(command: Sequence[object]) -> str:
    """What the command wrote. Ends the program where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-8000:]}{done.stderr[-8000:]}")
    return done.stdout


def tool(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    return found or sys.exit(f"there is no {name}: pip install -r tests/requirements.txt")


def compiler() -> str:
    """GCC: another compiler's runtime lies elsewhere, and goes by other names."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None or "Free Software Foundation" not in run([name, "--version"]):
        sys.exit(f"{name} is not GCC, which this needs: set CXX")
    return name


# ---- Build -----------------------------------------------------------------------------------------------------------


def build(mode: Mode, folder: Path) -> Path:
    """Builds into ``folder`` and returns the folder to have on PYTHONPATH."""
    cxx, cmake, package = compiler(), tool("cmake"), folder / "package"
    configure = {
        "CMAKE_BUILD_TYPE": "None",
        "CMAKE_C_COMPILER": cxx.replace("g++", "gcc"),
        "CMAKE_CXX_COMPILER": cxx,
        "CMAKE_C_FLAGS": FLAGS,
        "CMAKE_CXX_FLAGS": FLAGS,
        "Python_EXECUTABLE": sys.executable,
        "WHISPERQ_SANITIZE": mode.sanitizers,
        "pybind11_DIR": run([sys.executable, "-m", "pybind11", "--cmakedir"]).strip(),
    }
    settings = [f"-D{name}={value}" for name, value in configure.items()]
    run([cmake, "-S", ROOT, "-B", folder / "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", *settings])
    run([cmake, "--build", folder / "cmake"])
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(
        ROOT / "python" / "whisperq_edge",
        package / "whisperq_edge",
        ignore=shutil.ignore_patterns("__pycache__", "*.so", "_build.json"),
    )
    run([cmake, "--install", folder / "cmake", "--prefix", package, "--component", "whisperq_edge"])
    return package


# ---- Run -------------------------------------------------------------------------------------------------------------


def environment(mode: Mode, folder: Path, package: Path) -> dict[str, str]:
    """Of the tests: the runtime comes first in every process, and tells what it finds in a file below ``folder``."""
    cxx = compiler()
    # With libstdc++, or the runtime would not know how exceptions are thrown where C++ is loaded later only.
    preload = [run([cxx, f"-print-file-name={name}"]).strip() for name in (mode.runtime, "libstdc++.so.6")]
    options = {
        variable: ":".join(f"{name}={value}" for name, value in {**given, "log_path": folder / "reports" / "r"}.items())
        for variable, given in mode.options.items()
    }
    return {
        **os.environ,
        **options,
        "CXX": cxx,
        "LD_PRELOAD": " ".join(preload),
        "OMP_NUM_THREADS": "1",
        "PYTHONMALLOC": "malloc",  # each object an allocation of its own, so that a step beyond it is seen
        "PYTHONPATH": str(package),
        "WHISPERQ_SANITIZE": mode.sanitizers,
    }


def run_file(path: Path, folder: Path, variables: dict[str, str], more: Sequence[str]) -> dict[str, int]:
    """Runs one file of tests and prints a line about it. How many passed, were skipped and failed."""
    log, results = folder / "logs" / f"{path.stem}.log", folder / "logs" / f"{path.stem}.xml"
    results.unlink(missing_ok=True)
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        command = [sys.executable, "-m", "pytest", "-q", "--durations=5", f"--junitxml={results}", *more, str(path)]
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=out, stderr=subprocess.STDOUT, check=False)
    counts = read_counts(results) if results.is_file() else dict.fromkeys(COUNTS, 0)
    if done.returncode not in (0, 5) and counts["failed"] == 0:  # 5: no test in the file
        counts["failed"] = 1  # the process died
    text = ", ".join(f"{counts[name]} {name}" for name in COUNTS)
    print(f"{path.name}: {text}, {time.monotonic() - began:.0f} s", flush=True)
    if counts["failed"]:
        print(f"    see {log}", flush=True)
    return counts


def read_counts(results: Path) -> dict[str, int]:
    suite = ElementTree.parse(results).getroot().find("testsuite")
    assert suite is not None
    total, skipped, failures, errors = (int(suite.get(name, 0)) for name in ("tests", "skipped", "failures", "errors"))
    return {"passed": total - skipped - failures - errors, "skipped": skipped, "failed": failures + errors}


def files_of(mode: Mode, named: Sequence[str]) -> list[Path]:
    if named:
        return [path for name in named for path in TESTS.rglob(Path(name).name)]
    return sorted(path for pattern in mode.files for path in TESTS.glob(pattern))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests on a build with sanitizers.")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("files", nargs="*", metavar="TEST FILE", help="of tests/")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only the tests that pytest's -k chooses")
    parser.add_argument("--no-build", action="store_true", help="run what was built last")
    options = parser.parse_intermixed_args()
    mode, folder = MODES[options.mode], ROOT / "build" / f"sanitize-{options.mode}"
    for name in ("logs", "reports"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for old in (folder / "reports").iterdir():
        old.unlink()
    began = time.monotonic()
    package = folder / "package" if options.no_build else build(mode, folder)
    print(f"build: {time.monotonic() - began:.0f} s", flush=True)
    variables = environment(mode, folder, package)
    more = ["-k", options.k] if options.k else []
    outcomes = [run_file(path, folder, variables, more) for path in files_of(mode, options.files)]
    totals = {name: sum(counts[name] for counts in outcomes) for name in COUNTS}
    reports = sorted((folder / "reports").iterdir())
    print(
        f"{mode.sanitizers}: {', '.join(f'{totals[name]} {name}' for name in COUNTS)}, {len(reports)} reports", end=""
    )
    print(f", {time.monotonic() - began:.0f} s")
    for report in reports:
        print(f"    see {report}")
    return 1 if totals["failed"] or reports else 0


if __name__ == "__main__":
    sys.exit(main())
