"""``whisperq-edge tune``: its choice by simulation, the profile it keeps, who goes by it, and one small real run."""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from whisperq_edge import OptionError, WhisperModel, _core
from whisperq_edge._bench.random_model import random_dims, write_random
from whisperq_edge._bench.run import measure
from whisperq_edge._bench.statistics import ratio_of_pairs
from whisperq_edge._bench.tune import (
    Candidate,
    _groups,
    _system,
    candidates,
    choose,
    explain,
    finalists,
    thread_counts,
    tune,
)
from whisperq_edge._engines.memory import Available
from whisperq_edge._store import profile as _profile
from whisperq_edge._store.cache import clear_cache
from whisperq_edge._store.locate import locate_model
from whisperq_edge._store.profile import (
    Profile,
    Setting,
    find_profile,
    load_profiles,
    machine_key,
    shape_key,
    store_profile,
)
from whisperq_edge._system.folders import cache_folder
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.make_model import write_random_model

ACCURATE = ("f16", "q8_0")


@pytest.fixture(autouse=True)
def _own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPERQ_CACHE", str(tmp_path / "cache"))
    _profile._said.clear()


# ---- The choice ------------------------------------------------------------------------------------------------------


def simulated_grid(rng: np.random.Generator) -> dict[Candidate, float]:
    """True times of a machine: how types compare, how well threads help, and where more of them hurt."""
    speed = {"f16": rng.uniform(1.2, 2.5), "q8_0": 1.0, "q5_0": rng.uniform(0.7, 1.2), "q4_0": rng.uniform(0.6, 1.1)}
    serial, cost = rng.uniform(0.02, 0.3), rng.uniform(0.0, 0.05)
    return {
        each: 800 * speed[each.type] * (serial + (1 - serial) / each.n_threads + cost * each.n_threads)
        for each in candidates(list(speed), [1, 2, 4, 8], ["auto"])
    }


def simulated_rounds(rng: np.random.Generator, grid: dict[Candidate, float], n: int) -> dict[Candidate, list[float]]:
    """As in test_bench.py: rounds that are slow for all, noise of each, and now and then half as long again."""
    slow = np.exp(0.03 * rng.standard_normal(n))
    return {
        each: list(ms * slow * np.exp(0.02 * rng.standard_normal(n)) * np.where(rng.random(n) < 0.05, 1.5, 1.0))
        for each, ms in grid.items()
    }


@pytest.mark.parametrize("allowed", [ACCURATE, ("f16", "q8_0", "q5_0", "q4_0")])
def test_the_choice_is_within_5_percent_of_the_best(allowed: tuple[str, ...]) -> None:
    rng = np.random.default_rng(5)
    losses = []
    for _ in range(300):
        grid = simulated_grid(rng)
        final = finalists(simulated_rounds(rng, grid, 3), allowed)
        chosen = choose(simulated_rounds(rng, {each: grid[each] for each in final}, 7), allowed)
        assert chosen.type in allowed
        losses.append(grid[chosen] / min(ms for each, ms in grid.items() if each.type in allowed) - 1)
    assert np.mean(np.asarray(losses) <= 0.05) >= 0.99 and np.max(losses) < 0.1


def test_the_best_is_always_among_the_finalists() -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        grid = simulated_grid(rng)
        best = min((each for each in grid if each.type in ACCURATE), key=lambda each: grid[each])
        assert best in finalists(simulated_rounds(rng, grid, 3), ACCURATE)


def test_of_what_is_alike_the_frugal_one_is_chosen() -> None:
    one, two = Candidate("q8_0", 1), Candidate("q8_0", 2)
    assert choose({one: [101, 101, 101], two: [100, 100, 100]}, ACCURATE) == one
    assert choose({one: [104, 104, 104], two: [100, 100, 100]}, ACCURATE) == two
    f16 = Candidate("f16", 2)
    assert choose({two: [100, 100, 100], f16: [101, 100, 101]}, ACCURATE) == f16
    fast = Candidate("q4_0", 1)
    assert choose({two: [100, 100, 100], fast: [50, 50, 50]}, ACCURATE) == two
    assert choose({two: [100, 100, 100], fast: [50, 50, 50]}, ("q4_0", "q8_0")) == fast


def test_the_grid() -> None:
    assert thread_counts(1) == [1] and thread_counts(2) == [1, 2] and thread_counts(4) == [1, 2, 3, 4]
    assert thread_counts(8) == [1, 2, 4, 6, 8] and thread_counts(12) == [1, 2, 4, 8, 9, 12]
    assert candidates(["f16", "q8_0"], [1, 2], ["avx2"])[0] == ("f16", 1, "avx2")


def setting(type: str, n_threads: int, window_s: float, isa: str = "auto") -> Setting:
    return Setting(type, n_threads, isa, window_s)


def test_the_choice_is_explained_in_a_line() -> None:
    chosen = setting("q8_0", 2, 0.41)
    others = [chosen, setting("q8_0", 1, 0.44), setting("f16", 2, 0.8)]
    line = explain(chosen, others, ACCURATE)
    assert line == "q8_0 with 2 threads: 0.41 s a window of 30 s, 7 % faster than q8_0 with 1 thread"
    line = explain(chosen, [chosen, setting("f16", 4, 0.412), setting("q4_0", 2, 0.3, "avx2")], ACCURATE)
    assert "as fast as f16 with 4 threads" in line
    assert line.endswith("(q4_0 with 2 threads on avx2 would take 0.30 s, at a price in accuracy: --allow q4_0)")
    assert explain(chosen, [chosen], ACCURATE).endswith("0.41 s a window of 30 s")


# ---- The profile -----------------------------------------------------------------------------------------------------

MICRO = "64x1+64x1"


def profile_of(
    chosen: Setting, *others: Setting, shape: str = MICRO, machine: Optional[dict[str, Any]] = None
) -> Profile:
    return Profile(shape, machine or machine_key(), ACCURATE, chosen, (chosen, *others), f"{chosen.name}: because")


def test_a_profile_is_kept_and_found(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="whisperq_edge")
    hparams = {"n_audio_state": 64, "n_audio_layer": 1, "n_text_state": 64, "n_text_layer": 1}
    assert find_profile(hparams) is None and not caplog.records
    profile = profile_of(setting("q8_0", 1, 0.1), setting("f16", 2, 0.2), setting("f16", 1, 0.3))
    path = store_profile(profile_of(setting("f16", 2, 0.2)))
    store_profile(profile)
    assert path == cache_folder() / "tune.json"
    assert find_profile(hparams) == profile and len(load_profiles()) == 1
    assert find_profile({**hparams, "n_text_layer": 2}) is None
    assert profile.for_type("f16") == setting("f16", 2, 0.2) and profile.for_type("q4_0") is None
    find_profile(hparams)
    assert [record.getMessage() for record in caplog.records] == ["tuned: q8_0 with 1 thread: because"]
    assert path in [removed.path for removed in clear_cache()] and load_profiles() == []


def test_two_tunes_at_once_lose_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    read = _profile.load_profiles

    def read_slowly() -> list[Profile]:
        found = read()
        time.sleep(0.2)  # the other one would write meanwhile
        return found

    monkeypatch.setattr(_profile, "load_profiles", read_slowly)
    shapes = [MICRO, "128x2+128x2", "192x3+192x3"]
    made = [profile_of(setting("q8_0", 1, 0.1), shape=shape) for shape in shapes]
    with ThreadPoolExecutor(len(made)) as pool:
        list(pool.map(store_profile, made))
    assert sorted(each.shape for each in read()) == sorted(shapes)


@pytest.mark.parametrize(
    ("name", "then"),
    [("cpu", "another"), ("isa", "neon"), ("cpus", 77), ("quota", 1.5), ("affinity", "5"), ("version", "0.0.1")],
)
def test_a_profile_of_another_machine_is_not_used_and_a_line_says_why(
    name: str, then: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="whisperq_edge")
    store_profile(profile_of(setting("q8_0", 1, 0.1), machine={**machine_key(), name: then}))
    hparams = {"n_audio_state": 64, "n_audio_layer": 1, "n_text_state": 64, "n_text_layer": 1}
    assert find_profile(hparams) is None and find_profile(hparams) is None
    [line] = [record.getMessage() for record in caplog.records]
    assert f"{name} is {machine_key()[name]!r}, was {then!r}: tune again" in line
    store_profile(profile_of(setting("q8_0", 2, 0.1)))
    assert len(load_profiles()) == 2 and find_profile(hparams) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"profiles": 3}', '{"profiles": [{"shape": "x"}, 5]}'])
def test_a_damaged_profile_is_none(text: str) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / "tune.json").write_text(text)
    assert load_profiles() == []


# ---- Who goes by it --------------------------------------------------------------------------------------------------


def test_auto_takes_the_type_and_no_threads_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_random_model(tmp_path / "micro.bin", "micro", "f16")
    n_cpus = _core.usable_cpus()

    def opened(**options: Any) -> tuple[str, int]:
        with WhisperModel(path, device="cpu", engine="edge", **options) as model:
            return model.compute_type, model.cpu_threads

    assert opened(compute_type="auto") == ("f16", n_cpus)
    store_profile(profile_of(setting("q8_0", 3, 0.1), setting("f16", 4, 0.2)))
    assert opened(compute_type="auto") == ("q8_0", 3)
    assert opened() == ("f16", 4)
    assert opened(compute_type="auto", cpu_threads=1) == ("q8_0", 1)
    assert opened(compute_type="q4_0") == ("q4_0", n_cpus)
    monkeypatch.setenv("WHISPERQ_COMPUTE_TYPE", "q5_0")
    assert opened(compute_type="auto")[0] == "q5_0"


def test_auto_uses_the_kernels_that_were_the_fastest(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "micro.bin", "micro", "f16")
    store_profile(profile_of(setting("f16", 1, 0.1, isa="scalar")))
    with WhisperModel(path, device="cpu", engine="edge", compute_type="auto") as model:
        assert model._engine._native.isa == "scalar"  # type: ignore[union-attr]


@pytest.mark.parametrize("held", ["q8_0", "q4_0"])
def test_auto_leaves_a_quantised_file_as_it_is(tmp_path: Path, held: str) -> None:
    path = write_random_model(tmp_path / "micro.bin", "micro", held)
    store_profile(profile_of(setting("q8_0", 1, 0.1)))
    assert locate_model(path, "auto") == path
    store_profile(profile_of(setting("q4_0", 1, 0.1)))
    assert locate_model(path, "auto") == path


def test_auto_of_a_checkpoint(tmp_path: Path) -> None:
    micro = write_random_model(tmp_path / "m.bin", "micro", "f16")
    result = cli_runner().invoke(main, ["convert", str(micro), "--to", "openai", "-o", str(tmp_path / "m.pt")])
    assert result.exit_code == 0, result.stderr
    assert _core.read_model_file(locate_model(tmp_path / "m.pt", "auto")).ftype == "f16"
    store_profile(profile_of(setting("q8_0", 1, 0.1)))
    assert _core.read_model_file(locate_model(tmp_path / "m.pt", "auto")).ftype == "q8_0"
    assert _core.read_model_file(locate_model(tmp_path / "m.pt")).ftype == "f16"


# ---- whisperq-edge tune ----------------------------------------------------------------------------------------------


def test_a_real_run_chooses_what_measured_again_is_as_good_as_the_best(tmp_path: Path) -> None:
    """Measured again, in turn with what was the fastest of the grid: the interval of the ratio must not lie above
    5 %. A busy machine is given three tries."""
    n = min(2, _core.usable_cpus())
    arguments = ["nano", "--types", "f16,q8_0", "--threads", ",".join(map(str, range(1, n + 1))), "--json"]
    estimates = []
    for _ in range(3):
        result = cli_runner().invoke(main, ["tune", *arguments, "--tokens", "5", "--rounds", "5"])
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        found = Profile.from_dict(report)
        dims = random_dims("nano")
        assert found == find_profile(dims._asdict()) and found.shape == shape_key(dims._asdict())
        assert found is not None and len(found.measured) == 2 * n and found.chosen in found.measured
        assert all(each.window_s > 0 for each in found.measured)
        best = min(found.measured, key=lambda each: each.window_s)
        systems = []
        for i, each in enumerate((found.chosen, best)):
            path = tmp_path / f"{i}.bin"
            write_random(path, "nano", each.type)
            systems.append(_system(Candidate(each.type, each.n_threads), path, dims))
        noise = np.random.default_rng(0).standard_normal(480000, np.float32) * np.float32(0.1)
        options = {"language": "en", "beam_size": 1, "temperature": 0.0, "drop_silence": False}
        again = measure(systems, noise, {**options, "no_speech_threshold": None}, n_tokens=5, rounds=8)
        estimates.append(ratio_of_pairs(again.systems[0].total_ms, again.systems[1].total_ms))
        low = estimates[-1].low
        if low is not None and low <= 1.05:
            return
    pytest.fail(f"the choice takes {estimates} of the best")


def test_tune_prints_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = profile_of(setting("q8_0", 2, 0.41), setting("q4_0", 2, 0.3), setting("f16", 2, 0.8))
    asked = []

    def fake(*arguments: Any, **options: Any) -> Profile:
        asked.append(arguments)
        return profile

    monkeypatch.setattr("whisperq_edge.cli.tune.tune", fake)
    result = cli_runner().invoke(main, ["tune", "tiny", "--threads", "1,2", "--allow", "int5"])
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[1][:2] == ["q4_0", "2"] and rows[1][-1] == "--allow" and rows[2][-1] == "chosen"
    assert result.stdout.splitlines()[-1] == profile.reason and "tune.json" in result.stderr
    _, types, threads, isas, allowed = asked[0]
    assert (types, threads, isas) == (["f16", "q8_0", "q5_0", "q4_0"], [1, 2], ["auto"])
    assert allowed == ["f16", "q8_0", "q5_0"]
    cli_runner().invoke(main, ["tune", "tiny", "--smallest", "--all", "--types", "q4_0,f16"])
    assert asked[1][4] == ["q4_0", "f16"] and "scalar" in asked[1][3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "nothing"),
        (["tiny", "--types", "q4_k"], "--types q4_k is"),
        (["tiny", "--types", "f16,f16"], "each once"),
        (["tiny", "--threads", "0"], "--threads 0 is"),
        (["tiny", "--threads", "x"], "--threads x is"),
        (["tiny", "--types", "q4_0"], "at least one of those that may be chosen"),
    ],
)
def test_tune_refuses(arguments: list[str], says: str) -> None:
    result = cli_runner().invoke(main, ["tune", *arguments])
    assert result.exit_code == 2 and says in result.stderr, result.stderr


def test_what_does_not_fit_side_by_side_is_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(n_bytes: int) -> None:
        for module in ("_engines.memory", "_bench.tune"):
            monkeypatch.setattr(f"whisperq_edge.{module}.available_memory", lambda: Available(n_bytes, "a limit"))

    grid = candidates(["f16", "q8_0"], [1, 2], ["auto"])
    leave(10**10)
    assert _groups(random_dims("base"), grid) == [grid]
    leave(600 * 10**6)
    assert _groups(random_dims("base"), grid) == [grid[:2], grid[2:]]
    leave(10**9)
    with pytest.raises(MemoryError, match="a process that measures f16 needs"):
        tune(random_dims("medium"), ["f16", "q8_0"], [1, 2], ["auto"], ["f16"])
    with pytest.raises(OptionError, match="may be chosen"):
        tune(random_dims("medium"), ["q4_0"], [1], ["auto"], ["f16"])
