"""The arithmetic of ``interleave``: turns, medians, ratios, intervals."""

from __future__ import annotations

import threading
import time
from typing import Optional

import pytest
from interleave import Contestant, Outcome, interleave, settle


def test_turns_go_round_and_the_slow_one_leaves_early() -> None:
    turns: list[str] = []

    def contestant(name: str, ms: float, rounds: Optional[int] = None) -> Contestant:
        def run() -> float:
            turns.append(name)
            return ms

        return Contestant(name, run, rounds)

    outcome = interleave([contestant("a", 2.0), contestant("b", 8.0), contestant("slow", 90.0, 2)], 3)
    assert "".join(turn[0] for turn in turns) == "ab" + "abs" + "abs" + "ab"
    assert outcome.times_ms == {"a": [2.0] * 3, "b": [8.0] * 3, "slow": [90.0] * 2}
    assert outcome.ratio("slow", "a") == (45.0, 45.0, 45.0, 2)
    assert outcome.fastest(["b", "slow"]) == "b"
    assert outcome.as_dict("a")["contestants"]["b"]["ratio_to_baseline"]["value"] == 4.0
    assert "slow" in outcome.table("a")


def test_the_wall_clock_is_taken_where_no_time_is_given() -> None:
    outcome = interleave([Contestant("sleeps", lambda: time.sleep(0.02))], 2, warm_up=0)
    assert 20 <= outcome.median("sleeps") < 1000


def test_a_slow_round_is_slow_for_both() -> None:
    """Rounds are drawn whole, so noise that all share leaves the interval narrow."""
    noise = [1.0, 3.0, 1.1, 2.0, 5.0, 1.0, 1.7]
    shared = Outcome({"ours": noise, "theirs": [4 * ms for ms in noise]}).ratio("ours", "theirs")
    assert shared == (0.25, 0.25, 0.25, 7)
    own = Outcome({"ours": noise, "theirs": [4 * ms for ms in reversed(noise)]}).ratio("ours", "theirs")
    assert own.low < 0.25 < own.high


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="names must differ"):
        interleave([Contestant("a", lambda: 1.0)] * 2, 1)


def test_settle_waits_for_threads_that_spin() -> None:
    until = time.perf_counter() + 0.15

    def spin() -> None:
        while time.perf_counter() < until:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    settle()
    assert time.perf_counter() >= until
    thread.join()
