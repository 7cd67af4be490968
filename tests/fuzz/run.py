"""Fuzzes every reader for some seconds: ``python tests/fuzz/run.py [--seconds 60] [TARGET ...]``; ``make fuzz``.

Prints a line for each target. Exit status 1: something was found; the input is kept and printed.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

HERE = Path(__file__).resolve().parent
WORK = HERE.parent.parent / "build" / "fuzz"
NATIVE = "model_file"
PYTHON = ("pickle", "torch_zip", "openai", "safetensors", "huggingface", "ctranslate2", "open_source")

# What one input may cost. The native reader holds a vocabulary and no weights; Python comes with numpy.
_SLOWEST_S = 10
_NATIVE_LIMITS = ("-rss_limit_mb=512", "-malloc_limit_mb=64", "-max_len=512")
_PYTHON_LIMITS = ("-rss_limit_mb=512",)
_MOST_PRINTED_BYTES = 8192


# ---- What can be run -------------------------------------------------------------------------------------------------


def _tool(name: str) -> Optional[str]:
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def build_native() -> Optional[Path]:
    """The C++ target, with libFuzzer where there is clang; None, and a line that says so, where it cannot be built."""
    cmake, folder = _tool("cmake"), WORK / "native"
    if cmake is None:
        print(f"{NATIVE}: skipped, there is no CMake")
        return None
    clang = _tool("clang++")
    compiler = [f"-DCMAKE_CXX_COMPILER={clang}"] if clang else []
    for command in ([cmake, "-S", str(HERE), "-B", str(folder), *compiler], [cmake, "--build", str(folder)]):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = re.findall(r"(?i).*error.*\n?.*", made.stdout + made.stderr)
            print(f"{NATIVE}: skipped, it cannot be built: {' '.join(' '.join(reason[:3]).split())}")
            return None
        engine = re.search(r"is built with (.*)", made.stdout)
        if engine:
            print(f"{NATIVE}: {engine.group(1)}")
    return folder / "fuzz_model_file"


def commands(targets: Sequence[str]) -> dict[str, list[str]]:
    """Target -> how to run it, without the options that all share."""
    found: dict[str, list[str]] = {}
    native = build_native() if NATIVE in targets else None
    if native is not None:
        found[NATIVE] = [str(native), *_NATIVE_LIMITS]
    wanted = [target for target in PYTHON if target in targets]
    if wanted and importlib.util.find_spec("atheris") is None:
        print(f"{', '.join(wanted)}: skipped, atheris is not installed (tests/house/test_fuzz.py runs their corpus)")
        return found
    for target in wanted:
        found[target] = [sys.executable, str(HERE / "fuzz_python.py"), target, *_PYTHON_LIMITS]
    return found


# ---- Running it ------------------------------------------------------------------------------------------------------


def _environment(scratch: str) -> dict[str, str]:
    """Temporary files in ``scratch``. Leaks are not looked for: that needs rights which containers may not have."""
    return {**os.environ, "TMPDIR": scratch, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def _memory_folder() -> Optional[str]:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def fuzz(target: str, command: Sequence[str], seconds: int) -> bool:
    """Whether nothing was found. What was, is kept in build/fuzz/findings."""
    grown, findings = WORK / target, WORK / "findings" / target
    for folder in (grown, findings):
        folder.mkdir(parents=True, exist_ok=True)
    known = set(findings.iterdir())
    options = [f"-max_total_time={seconds}", f"-timeout={_SLOWEST_S}", f"-artifact_prefix={findings}/"]
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as scratch:
        run = subprocess.run(
            [*command, *options, "-print_final_stats=1", str(grown), str(HERE / "corpus" / target)],
            env=_environment(scratch),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    log = run.stdout.decode("utf-8", "replace")
    count = re.search(r"number_of_executed_units: *(\d+)", log)
    n_runs = int(count.group(1)) if count else 0
    if run.returncode == 0:
        print(f"{target}: {n_runs} executions in {seconds} s, no finding", flush=True)
        return True
    kept = sorted(set(findings.iterdir()) - known)
    what = "FINDING" if kept else "FAILED"
    lines = [f"{target}: {what} (exit status {run.returncode}) after {n_runs} executions", *log.splitlines()[-60:]]
    for path in kept:
        data = path.read_bytes()
        lines.append(f"kept as {path}, {len(data)} bytes")
        if len(data) <= _MOST_PRINTED_BYTES:
            lines.append(f"base64: {base64.b64encode(data).decode()}")
    print("\n".join(lines), flush=True)
    return False


def merge(target: str, command: Sequence[str]) -> None:
    """Adds to the committed corpus what was found to reach code that it does not."""
    corpus, grown = HERE / "corpus" / target, WORK / target
    before = set(corpus.iterdir())
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as scratch:
        options = ["-set_cover_merge=1", "-use_counters=0", f"-timeout={_SLOWEST_S}", str(corpus), str(grown)]
        subprocess.run([*command, *options], env=_environment(scratch), capture_output=True, check=True)
    print(f"{target}: {len(set(corpus.iterdir()) - before)} inputs added to {len(before)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers of models.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join((NATIVE, *PYTHON))}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--merge", action="store_true", help="keep in the corpus what earlier runs found")
    options = parser.parse_args()
    targets = options.targets or [NATIVE, *PYTHON]
    unknown = [target for target in targets if target not in (NATIVE, *PYTHON)]
    if unknown:
        parser.error(f"there is no target {unknown[0]}")
    to_run = commands(targets)
    if options.merge:
        for target, command in to_run.items():
            merge(target, command)
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda item: fuzz(item[0], item[1], options.seconds), to_run.items()))
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
