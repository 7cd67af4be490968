"""``whisperq-edge bench``: its statistics by simulation, and small real runs, one of them with a sleep put in."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import OptionError, _core
from whisperq_edge._bench.card import machine_card
from whisperq_edge._bench.random_model import write_random
from whisperq_edge._bench.report import STAGE_LABELS, check_comparable, compare_reports, load_report
from whisperq_edge._bench.statistics import (
    _rank_sums,
    fastest_of_blocks,
    least_rounds,
    median_of,
    ratio_of_pairs,
    ratio_of_runs,
)
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner

Doubles = npt.NDArray[np.float64]
FAIL_OVER = 0.05


# --- statistics -------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_median_lies_between_two_of_the_values() -> None:
    assert median_of([3, 1, 2, 5, 4, 6]) == (3.5, 1.0, 6.0)  # 2 / 2**6 < 0.05
    assert median_of([1, 2, 3, 4, 5]) == (3.0, None, None)  # 2 / 2**5 is more
    assert median_of(range(1, 11)) == (5.5, 2.0, 9.0)
    assert ratio_of_pairs([2, 4, 6, 8, 10, 12], [1, 2, 3, 4, 5, 6]) == (2.0, 2.0, 2.0)


def test_the_interval_of_a_median_covers_it() -> None:
    rng = np.random.default_rng(1)
    runs = np.exp(rng.standard_normal((2000, 10)))  # skewed as times are; its median is 1
    covered = np.mean([low <= 1 <= high for low, high in (_ends(median_of(run)) for run in runs)])
    assert covered >= 0.95


def _ends(estimate: Any) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def test_the_interval_between_runs_is_that_of_the_rank_sum_test() -> None:
    # Critical values of Mann and Whitney's U at 5 %, two-sided: 4 and 4: 0, 5 and 5: 2, 10 and 10: 23.
    for n, critical in ((4, 0), (5, 2), (10, 23)):
        now, then = np.exp(np.arange(n) * 0.01), np.exp(-np.arange(n) * 0.0001)
        ratios = np.sort(np.divide.outer(now, then).ravel())
        assert _ends(ratio_of_runs(now, then)) == pytest.approx((ratios[critical], ratios[-1 - critical]))
    assert ratio_of_runs([1, 2, 3], [1, 2, 3]).low is None
    assert least_rounds(0.95) == 4 and least_rounds(1 - 0.05 / 8) == 6


def slowly_counted(n: int, m: int) -> list[int]:
    """Count rank sums value by value: the last of n and m values is above all, or below none of the m."""
    if n == 0 or m == 0:
        return [1]
    counts = [0] * (n * m + 1)
    for u, ways in enumerate(slowly_counted(n, m - 1)):
        counts[u] += ways
    for u, ways in enumerate(slowly_counted(n - 1, m)):
        counts[u + m] += ways
    return counts


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (6, 1), (4, 4), (5, 3), (3, 5), (7, 6)])
def test_rank_sums_are_counted_exactly(n: int, m: int) -> None:
    assert list(_rank_sums(n, m)) == slowly_counted(n, m)


def test_rank_sums_of_200_rounds_are_exact() -> None:
    """Against Euler's recurrence for the same polynomial, modulo a prime, and the number of all orders."""
    n, prime = 200, 2**31 - 1
    ways = _rank_sums(n, n)
    assert sum(ways) == math.comb(2 * n, n) and list(ways) == list(ways[::-1])
    n_first = 700
    sigma = [0] * n_first
    for d in range(1, 2 * n + 1):
        for k in range(d, n_first, d):
            sigma[k] += d if d <= n else -d
    counts = [1]
    for u in range(1, n_first):
        counts.append(sum(sigma[k] * counts[u - k] for k in range(1, u + 1)) * pow(u, -1, prime) % prime)
    assert [way % prime for way in ways[:n_first]] == counts


def test_as_many_rounds_as_there_may_be_have_intervals() -> None:
    """More than a float can count the orders of."""
    times = 1 + np.arange(1100) / 1e4
    assert _ends(median_of(times))[0] < median_of(times).value


def simulated(rng: np.random.Generator, slowdown: float = 1.0, n_systems: int = 2, rounds: int = 10) -> dict[str, Any]:
    """A run with what disturbs real ones: a machine that is faster or slower that day, a drift and rounds that are slow
    for all, noise of each, and now and then something that takes half as long again."""
    day = math.exp(0.05 * rng.standard_normal())
    drift = np.exp(0.05 * rng.standard_normal() * np.linspace(-1, 1, rounds))
    slow = drift * np.exp(0.03 * np.abs(rng.standard_normal(rounds)))

    def times(ms: float) -> list[float]:
        noise = np.exp(0.02 * rng.standard_normal(rounds)) * np.where(rng.random(rounds) < 0.05, 1.5, 1.0)
        return [float(value) for value in ms * day * slow * noise]

    systems = [
        {
            **{
                "name": str(i),
                "kind": "whisperq-edge",
                "engine": "edge",
                "type": str(i),
                "threads": 1,
                "shape": "base",
            },
            "rounds": [{"total_ms": ms} for ms in times(100.0 * slowdown)],
        }
        for i in range(n_systems)
    ]
    return {"systems": systems, "yardstick_ms": times(50.0)}


def share_that_alarms(slowdown: float, fail_over: float, rounds: int = 10, n: int = 400) -> float:
    rng = np.random.default_rng(2)
    alarms = []
    for _ in range(n):
        now, then = simulated(rng, slowdown, rounds=rounds), simulated(rng, rounds=rounds)
        alarms.append(any(each.is_slower for each in compare_reports(now, then, fail_over)))
    return float(np.mean(alarms))


def test_runs_that_are_alike_raise_no_alarm() -> None:
    assert share_that_alarms(1.0, 0.0) < 0.05  # not even without the 5 % that are allowed
    assert share_that_alarms(1.0, FAIL_OVER) < 0.01


def test_ten_percent_are_found() -> None:
    assert share_that_alarms(1.10, 0.0) > 0.9
    assert share_that_alarms(1.10, FAIL_OVER, rounds=60) > 0.95
    assert share_that_alarms(1.10, FAIL_OVER) > 0.8  # fewer rounds leave more doubt, and doubt is no alarm
    assert share_that_alarms(1.03, FAIL_OVER, rounds=60) < 0.05  # what is allowed is no alarm


def test_stretches_of_rounds() -> None:
    assert fastest_of_blocks([3, 1, 2, 5, 4, 9, 7], 3).tolist() == [1, 4, 7]
    assert fastest_of_blocks([3, 1], 10).tolist() == [3, 1]


# --- judging only what can be judged ----------------------------------------------------------------------------------


def test_another_machine_is_refused() -> None:
    card, settings = machine_card(), {"model": "nano", "audio_sha256": "a", "n_tokens": 5}
    then = {"card": {**card, "cpu": "Another 9000", "governor": "powersave"}, "settings": {**settings, "n_tokens": 6}}
    with pytest.raises(OptionError, match=r"Another 9000.*powersave.*n_tokens is 5, then 6"):
        check_comparable(card, settings, then, "then.json")
    check_comparable(card, settings, {"card": {**card, "whisperq_edge": "0"}, "settings": settings}, "then.json")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"whisperq_edge_bench": 2}', '{"whisperq_edge_bench": 1, "systems": []}']
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "then.json").write_text(content, encoding="utf-8")
    with pytest.raises(OptionError, match="bench --save"):
        load_report(tmp_path / "then.json")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--engines", "edge,what"], "one of auto, edge, ggml"),
        (["--random", "huge"], "large-v3-turbo"),
        (["--threads", "1,1"], "each one once"),
        (["--fail-over", "a lot"], "a percentage such as 5%"),
        (["--vs", "siri"], "faster-whisper"),
        (["--save", "nowhere/b.json"], "a folder that exists"),
        (["--json", "--markdown"], "not together"),
    ],
)
def test_what_is_not_possible(arguments: list[str], says: str) -> None:
    result = cli_runner().invoke(main, ["bench", *arguments])
    assert result.exit_code == 2 and says in result.stderr


# --- random weights ---------------------------------------------------------------------------------------------------


def test_a_random_model_is_whole_and_the_same_every_time(tmp_path: Path) -> None:
    for name, n_threads in (("a", 1), ("b", 2)):
        write_random(tmp_path / name, "nano", "q4_0", n_threads=n_threads)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    file = _core.read_model_file(tmp_path / "a")
    assert file.ftype == "q4_0" and file.hparams["n_audio_state"] == 192


# --- real runs --------------------------------------------------------------------------------------------------------

TINY = ["--random", "nano", "--tokens", "7", "--threads", "1", "--types", "q8_0"]


def bench(*arguments: Any) -> Any:
    return cli_runner().invoke(main, ["bench", *TINY, *map(str, arguments)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("bench") / "then.json"
    return path, bench("--engines", "edge,ggml", "--rounds", 5, "--save", path, "--json")


def test_a_run(saved: tuple[Path, Any]) -> None:
    path, result = saved
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == load_report(path)
    assert [each["name"] for each in report["systems"]] == ["q8_0 edge", "q8_0 ggml"]
    assert list(STAGE_LABELS) == ["Load", "Mel", "Sample", "Encode", "Decode", "Batchd", "Prompt", "Total"]
    for each in report["systems"]:
        assert each["n_tokens"] == 7 and each["threads"] == 1 and len(each["rounds"]) == 5
        assert each["stages"]["Encode"]["runs"] == 1 and each["stages"]["Encode"]["value"] > 0
        assert sum(row["value"] for name, row in each["stages"].items() if name not in ("Load", "Total")) > 0
        assert each["total_ms"]["value"] == pytest.approx(np.median([row["total_ms"] for row in each["rounds"]]), 1e-3)
        assert each["rtf"]["value"] == pytest.approx(each["total_ms"]["value"] / 1000 / 10.4487, rel=1e-3)
        assert each["peak_rss_bytes"] is None or each["peak_rss_bytes"] > each["bytes"]
        assert each["tokens_per_s"]["value"] > 0
    assert len(report["yardstick_ms"]) == 5 and min(report["yardstick_ms"]) > 0
    assert report["card"]["edge_isa"] == _core.chosen_isa()
    assert any("too few for an interval" in note for note in report["notes"])


def test_a_run_is_no_slower_than_itself(saved: tuple[Path, Any]) -> None:
    report = load_report(saved[0])
    assert [(each.ratio.value, each.is_slower) for each in compare_reports(report, report, 0.0)] == [(1.0, False)] * 2


def test_a_sleep_is_found(saved: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python runs sitecustomize.py when it starts, so that the workers sleep without a hook in them."""
    slowest_ms = max(row["total_ms"] for each in load_report(saved[0])["systems"] for row in each["rounds"])
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import time
from whisperq_edge._engines import edge
real = edge.EdgeEngine.transcribe
def late(self, *arguments, **named):
    time.sleep({max(2 * slowest_ms / 1000, 0.2)})
    return real(self, *arguments, **named)
edge.EdgeEngine.transcribe = late
""",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = bench("--engines", "edge", "--rounds", 5, "--compare", saved[0])
    assert result.exit_code == 1, result.output
    assert "q8_0: " in result.stdout and "slower by more than 5 %" in result.stdout


def test_another_task_is_refused_before_it_is_run(saved: tuple[Path, Any]) -> None:
    result = bench("--tokens", 8, "--compare", saved[0])
    assert result.exit_code == 2 and "n_tokens is 8, then 7" in result.stderr


def test_markdown_a_picture_and_peers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = ["--plot", tmp_path / "stages.png"]
    result = bench(
        "--engines", "edge", "--rounds", 1, "--warm-up", 0, "--vs", "openvino", "--beam-size", 2, "--markdown", *picture
    )
    assert result.exit_code == 0, result.output
    assert "| Stage | q8_0 ms | q8_0 runs | q8_0 ms/run |" in result.stdout and "| Batchd |" in result.stdout
    assert "openvino is left out: " in result.stderr  # not installed, or because of the beams
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")
