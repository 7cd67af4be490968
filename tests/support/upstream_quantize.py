"""whisper.cpp's own quantize tool, built from the vendored source: the yardstick for bytes and for speed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional

from whisperq_edge import _core
from whisperq_edge._system.locks import locked

from tests.support.paths import ROOT
from tests.support.sanitizers import TOOLS

__all__ = ["build_upstream_quantize"]

UPSTREAM = ROOT / "third_party" / "whisper.cpp" / "upstream"
CACHE = Path(tempfile.gettempdir()) / f"whisperq-upstream-quantize-{os.getuid() if hasattr(os, 'getuid') else 0}"

_PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(upstream_quantize LANGUAGES C CXX)
set(CMAKE_BUILD_TYPE Release)
set(CMAKE_CXX_STANDARD 17)
set(BUILD_SHARED_LIBS OFF)
foreach(option GGML_OPENMP GGML_BUILD_TESTS GGML_BUILD_EXAMPLES GGML_CCACHE)
    set(${option} OFF CACHE BOOL "" FORCE)
endforeach()
add_subdirectory(${UPSTREAM}/ggml ggml EXCLUDE_FROM_ALL)
add_executable(quantize
    ${UPSTREAM}/examples/quantize/quantize.cpp ${UPSTREAM}/examples/common.cpp ${UPSTREAM}/examples/common-ggml.cpp)
target_include_directories(quantize PRIVATE ${UPSTREAM}/examples)
target_link_libraries(quantize PRIVATE ggml)
"""


@functools.cache
def build_upstream_quantize() -> Optional[Path]:
    """The program, or None where it cannot be built (no upstream, no CMake, no compiler). Built once a machine."""
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not (UPSTREAM / "examples" / "quantize" / "quantize.cpp").is_file() or cmake is None:
        return None
    build = CACHE / "build"
    CACHE.mkdir(exist_ok=True)
    ccache = shutil.which("ccache")
    launchers = [f"-DCMAKE_{language}_COMPILER_LAUNCHER={ccache}" for language in ("C", "CXX")] if ccache else []
    configure = [cmake, "-S", str(CACHE), "-B", str(build), f"-DUPSTREAM={UPSTREAM}", *launchers]
    compile = [cmake, "--build", str(build), "--target", "quantize", "--parallel", str(_core.usable_cpus())]
    with locked(CACHE / "build.lock"):  # several processes of pytest-xdist want it at once
        project = CACHE / "CMakeLists.txt"
        if not project.is_file() or project.read_text(encoding="utf-8") != _PROJECT:
            project.write_text(_PROJECT, encoding="utf-8")
        for command in (configure, compile):
            if subprocess.run(command, capture_output=True, env=TOOLS, check=False).returncode != 0:
                return None
    program = build / "quantize"
    return program if program.is_file() else None
