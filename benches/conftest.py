from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tests.support
from tests.support.real_fixtures import jfk_path, real_base_path, real_model, real_tiny_en_path  # noqa: F401


@pytest.fixture(autouse=True)
def says_what_it_measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """A figure without these is one that nobody can compare with another."""
    benchmark = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    yield
    if benchmark is not None:
        from interleave import ABOUT

        missing = [name for name in ABOUT if name not in benchmark.extra_info]
        assert missing == [], f"the benchmark's extra_info lacks {', '.join(missing)}"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    from whisperq_edge.cli.info import collect

    report = collect()
    machine_info["whisperq_edge"] = report
    machine_info["python"] = platform.python_version()


def pytest_report_header(config: pytest.Config) -> str:
    from whisperq_edge import _core

    found = [name for name, is_found in _core.cpu_features().items() if is_found]
    avx512 = (
        "" if any(name.startswith("avx512") for name in found) or _core.cpu_family() != "x86_64" else " (no AVX-512)"
    )
    return f"CPU: {_core.cpu_name()}, {_core.usable_cpus()} threads, {' '.join(found)}{avx512}"
