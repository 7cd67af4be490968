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
CACHE = Path(tempfile.gettempdir()) / f"whisperq-quantize-tool-{os.getuid() if hasattr(os, 'getuid') else 0}"

# Only what quantising needs, without the backends. ggml-quants.c, the arithmetic, is always compiled as upstream does.
_PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(upstream_quantize LANGUAGES C CXX)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_C_FLAGS "${OPTIMISATION} -DNDEBUG -ffunction-sections -fdata-sections")
set(CMAKE_CXX_FLAGS "${CMAKE_C_FLAGS}")
set(ggml ${UPSTREAM}/ggml/src)
set_source_files_properties(${ggml}/ggml-quants.c PROPERTIES COMPILE_OPTIONS -O3)
file(WRITE ${CMAKE_BINARY_DIR}/no_backends.cpp "extern \\"C\\" void ggml_backend_load_all(void) {}\n")
add_executable(quantize
    ${ggml}/ggml-quants.c ${UPSTREAM}/examples/common-ggml.cpp ${UPSTREAM}/examples/quantize/quantize.cpp
    ${ggml}/ggml.c ${ggml}/ggml.cpp ${ggml}/ggml-threading.cpp ${CMAKE_BINARY_DIR}/no_backends.cpp)
target_include_directories(quantize PRIVATE ${UPSTREAM}/ggml/include ${ggml} ${UPSTREAM}/examples)
target_compile_definitions(quantize PRIVATE GGML_VERSION="" GGML_COMMIT="")
find_package(Threads REQUIRED)
if(APPLE)
    target_link_options(quantize PRIVATE -Wl,-dead_strip)
else()
    target_link_options(quantize PRIVATE -Wl,--gc-sections)
endif()
target_link_libraries(quantize PRIVATE Threads::Threads m)
"""


@functools.cache
def build_upstream_quantize(optimisation: str = "-O1") -> Optional[Path]:
    """Build the program once a machine; return None where it cannot be built (no upstream, no CMake, no compiler).

    Bytes are the same with every `optimisation`; whoever measures its speed builds all of it as upstream does, -O3.
    """
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not (UPSTREAM / "examples" / "quantize" / "quantize.cpp").is_file() or cmake is None:
        return None
    build = CACHE / f"build{optimisation}"
    CACHE.mkdir(exist_ok=True)
    ccache = shutil.which("ccache")
    launchers = [f"-DCMAKE_{language}_COMPILER_LAUNCHER={ccache}" for language in ("C", "CXX")] if ccache else []
    configure = [cmake, "-S", str(CACHE), "-B", str(build), f"-DUPSTREAM={UPSTREAM}", f"-DOPTIMISATION={optimisation}"]
    configure += launchers
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
