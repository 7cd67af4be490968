"""Speed of ``convert`` against whisper.cpp's quantize tool: commands in turn, the same source, the same bytes out.

Both are run as processes of their own. The figure of interest is the ratio of the medians, printed and kept as
``extra_info`` of the benchmark. Ours hashes the source and the result, measures every tensor's error and reads the file
back from the disk; theirs does none of that.

    make bench                                         base.en shapes
    WHISPERQ_BENCH_LARGE=1 python -m pytest benches/test_convert.py      large-v3 too (8 GB of disk, minutes)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from interleave import about
from whisperq_edge import _core
from whisperq_edge._convert.convert import convert_model

from tests.support.make_model import PRESETS, write_random_model
from tests.support.upstream_quantize import build_upstream_quantize

ROUNDS = {"base.en": 7, "large-v3": 3}
SHAPES = ["base.en", *(["large-v3"] if os.environ.get("WHISPERQ_BENCH_LARGE") else [])]

_OURS = (
    "import sys; from whisperq_edge._convert.convert import convert_model;"
    "convert_model(sys.argv[1], sys.argv[2], type=sys.argv[3], proof='tensors', overwrite=True)"
)


@pytest.fixture(scope="module", params=SHAPES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("source") / f"{request.param}.bin"
    write_random_model(path, PRESETS[request.param], "f16")
    return request.param, path


def timed_s(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


@pytest.mark.parametrize("type_name", ["q8_0", "q5_0", "q4_0", "q4_k"])
def test_convert_beside_the_quantize_tool(
    benchmark: Any, source: tuple[str, Path], type_name: str, tmp_path: Path
) -> None:
    shape, path = source
    tool = build_upstream_quantize("-O3")
    if tool is None:
        pytest.skip("whisper.cpp's quantize tool cannot be built here")
    ours, theirs = tmp_path / "ours.bin", tmp_path / "theirs.bin"
    their_command = [str(tool), str(path), str(theirs), type_name]
    command_s: list[float] = []
    their_s: list[float] = []

    def convert() -> None:
        their_s.append(timed_s(their_command))
        command_s.append(timed_s([sys.executable, "-c", _OURS, str(path), str(ours), type_name]))

    convert()  # the first of each finds nothing in the cache
    command_s.clear()
    their_s.clear()
    work_s = [_convert_here(path, ours, type_name) for _ in range(ROUNDS[shape])]
    benchmark.pedantic(convert, rounds=ROUNDS[shape], iterations=1)
    assert ours.read_bytes() == theirs.read_bytes()
    command, work, upstream = (statistics.median(times) for times in (command_s, work_s, their_s))
    benchmark.extra_info.update(
        **about(f"{shape} shapes, random weights", type_name, _core.usable_cpus(), 0),
        shape=shape,
        rounds=ROUNDS[shape],
        command_s=command,
        convert_s=work,
        quantize_tool_s=upstream,
        ratio_of_commands=upstream / command,
        ratio=upstream / work,
        mb_per_s=path.stat().st_size / 1e6 / work,
    )
    print(
        f"\n{shape} {type_name}: quantize tool {upstream:.3f} s; convert {work:.3f} s, {upstream / work:.2f} times as"
        f" fast ({path.stat().st_size / 1e6 / work:.0f} MB/s); with the start of Python {command:.3f} s,"
        f" {upstream / command:.2f} times; medians of {ROUNDS[shape]}"
    )


def _convert_here(path: Path, destination: Path, type_name: str) -> float:
    """Seconds of the conversion in this process: all of it but the start of Python."""
    began = time.perf_counter()
    convert_model(path, destination, type=type_name, proof="tensors", overwrite=True)
    return time.perf_counter() - began
