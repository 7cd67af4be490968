from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings
from whisperq_edge import WhisperModel
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._system.native import data_file

from tests.support.instruction_sets import report_lines
from tests.support.make_model import write_random_model
from tests.support.real_fixtures import jfk_path, real_base_path, real_model, real_tiny_en_path  # noqa: F401

# How long an example takes says more of what else the machine does.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

SPEECH_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes or many GB of disk")


def pytest_report_header() -> list[str]:
    return report_lines()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end how many tests each reason skipped, the most first."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        terminalreporter.section("skipped, and why")
    for reason, n_tests in reasons.most_common():
        terminalreporter.line(f"{n_tests:4}  {reason}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and not item.config.getoption("--slow"):
        pytest.skip("takes minutes or many GB of disk: run with --slow")
    if item.get_closest_marker("data") and not SPEECH_DATA.is_dir():
        pytest.skip("the speech corpora are not beside this checkout")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither see nor fill the caches of whoever runs them, heed no preferences, and ask no real hub."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "WL_"))]:
            patch.delenv(variable)
        for variable in ("WHISPERQ_COMPUTE_TYPE", "WHISPERQ_MODEL", "TRANSFORMERS_OFFLINE"):
            patch.delenv(variable, raising=False)
        patch.setenv("WHISPERQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="session")
def speech_data() -> Path:
    return SPEECH_DATA


@pytest.fixture(scope="session")
def sample_path() -> Path:
    return data_file("assets/sample.flac")


@pytest.fixture(scope="session")
def sample_pcm(sample_path: Path) -> npt.NDArray[np.float32]:
    return to_pcm(sample_path).samples


@pytest.fixture(scope="session")
def sample_text() -> str:
    return data_file("assets/sample.txt").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="session", params=["edge", "ggml"])
def nano(request: pytest.FixtureRequest) -> Iterator[WhisperModel]:
    """Our model on each engine. Threads of ggml wait for each other at full load, which other tests would feel."""
    n_threads = 1 if request.param == "ggml" else 0
    with WhisperModel("nano", device="cpu", engine=request.param, cpu_threads=n_threads) as model:
        yield model


@pytest.fixture(scope="module")
def nano_edge() -> Iterator[WhisperModel]:
    with WhisperModel("nano", device="cpu", engine="edge", cpu_threads=2) as model:
        yield model


@pytest.fixture(scope="session")
def multilingual_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the multilingual vocabulary and random weights: it speaks nonsense in 99 languages."""
    return write_random_model(tmp_path_factory.mktemp("models") / "micro.bin", "micro", "f16")


@pytest.fixture(scope="session")
def micro_en_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the English vocabulary and random weights."""
    return write_random_model(tmp_path_factory.mktemp("models") / "ggml-micro.en.bin", "micro.en", "f16")


@pytest.fixture(scope="module")
def micro_edge(multilingual_path: Path) -> Iterator[WhisperModel]:
    with WhisperModel(multilingual_path, device="cpu", engine="edge", cpu_threads=2) as model:
        yield model
