"""Contestants timed in turn, A B C A B C, in one process: what disturbs the machine disturbs all of them.

Figures of one run are compared with each other, never with those of another: what is reported is the ratio of two
medians, and the interval in which it lies when the rounds are drawn again (bootstrap).
"""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import numpy.typing as npt
from whisperq_edge._system.process import settle

__all__ = ["ABOUT", "Contestant", "Outcome", "Ratio", "about", "interleave", "machine", "settle", "write_json"]

ABOUT = ("isa", "threads", "type", "model", "audio_s")
"""What the ``extra_info`` of every benchmark has, beside what is its own."""

RESAMPLES = 5000
CONFIDENCE = 0.95
BUSY_LOAD = 0.5  # processes that were waiting or running, on average of a minute, before we began

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Contestant:
    """Something to time.

    Attributes:
        name: unique in its run.
        run: does the work once. What it returns is its time in ms as it measured that itself; None: the wall clock of
            the call is taken.
        rounds: it takes part in the first so many rounds and is not warmed up; None: in all. For what is slow.
    """

    name: str
    run: Callable[[], Optional[float]]
    rounds: Optional[int] = None


class Ratio(NamedTuple):
    """Median of one contestant over that of another, and its bootstrap interval of 95 %."""

    value: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Outcome:
    """Milliseconds of every contestant by round.

    Attributes:
        times_ms: by name, in the order of the run.
        load_before: load average of the last minute when the run began, or None where the system has none.
        unsettled: turns that began although other threads of this process had not come to rest.
    """

    times_ms: dict[str, list[float]] = field(default_factory=dict)
    load_before: Optional[float] = None
    unsettled: int = 0

    def median(self, name: str) -> float:
        return float(np.median(self.times_ms[name]))

    def quartiles(self, name: str) -> tuple[float, float]:
        low, high = np.percentile(self.times_ms[name], [25, 75])
        return float(low), float(high)

    def runs(self, name: str) -> int:
        return len(self.times_ms[name])

    def fastest(self, names: Sequence[str]) -> str:
        """The one with the least median."""
        return min(names, key=self.median)

    def ratio(self, name: str, baseline: str) -> Ratio:
        """``name`` over ``baseline``, over the rounds that both took part in.

        Rounds are drawn whole: a round in which the machine was slow was slow for both.
        """
        rounds = min(self.runs(name), self.runs(baseline))
        ours, theirs = (np.array(self.times_ms[each][:rounds]) for each in (name, baseline))
        drawn = np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
        ratios: Doubles = np.median(ours[drawn], axis=1) / np.median(theirs[drawn], axis=1)
        low, high = np.percentile(ratios, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
        return Ratio(float(np.median(ours) / np.median(theirs)), float(low), float(high), rounds)

    @property
    def was_busy(self) -> bool:
        """Whether others used the machine already when the run began."""
        return self.load_before is not None and self.load_before > BUSY_LOAD

    def table(self, baseline: str) -> str:
        """A line for each contestant: median, quartiles, runs, ratio to the baseline and its interval."""
        width = max(map(len, self.times_ms))
        lines = [f"{'':<{width}}  median ms  quartiles ms       runs  x {baseline} [95 %]"]
        for name in self.times_ms:
            low, high = self.quartiles(name)
            quartiles = f"{low:.2f} to {high:.2f}"
            ratio = self.ratio(name, baseline)
            lines.append(f"{name:<{width}}  {self.median(name):9.2f}  {quartiles:<17}  {self.runs(name):4}  {ratio}")
        return "\n".join(lines)

    def as_dict(self, baseline: str) -> dict[str, Any]:
        """For JSON: every time, and what follows from them."""
        return {
            "baseline": baseline,
            "load_before": self.load_before,
            "was_busy": self.was_busy,
            "unsettled_turns": self.unsettled,
            "contestants": {
                name: {
                    "median_ms": self.median(name),
                    "quartiles_ms": self.quartiles(name),
                    "runs": self.runs(name),
                    "ratio_to_baseline": self.ratio(name, baseline)._asdict(),
                    "times_ms": times,
                }
                for name, times in self.times_ms.items()
            },
        }


def interleave(
    contestants: Sequence[Contestant], rounds: int, *, warm_up: int = 1, benchmark: Optional[Any] = None
) -> Outcome:
    """Times the contestants in turn.

    Args:
        contestants: in the order of a round.
        rounds: that are timed.
        warm_up: rounds before, whose times are thrown away.
        benchmark: pytest-benchmark's fixture; it then times the rounds as a whole, too, and decides on their number
            (one with ``--benchmark-disable``).
    """
    names = [each.name for each in contestants]
    if len(set(names)) != len(names) or rounds < 1 or warm_up < 0:
        raise ValueError(f"names must differ and rounds be 1 or more; got {names}, {rounds} rounds, {warm_up} warm-up")
    outcome = Outcome({name: [] for name in names}, _load_average())

    def one_round() -> None:
        for each in contestants:
            if each.rounds is None or outcome.runs(each.name) < each.rounds:
                outcome.unsettled += not settle()
                outcome.times_ms[each.name].append(_time_ms(each.run))

    with _no_collection():
        for _ in range(warm_up):
            for each in contestants:
                if each.rounds is None:
                    each.run()
        if benchmark is not None:
            benchmark.pedantic(one_round, rounds=rounds, iterations=1)
        else:
            for _ in range(rounds):
                one_round()
    return outcome


def _time_ms(run: Callable[[], Optional[float]]) -> float:
    began = time.perf_counter()
    own_ms = run()
    wall_ms = 1000 * (time.perf_counter() - began)
    return wall_ms if own_ms is None else own_ms


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector strikes between the turns of nobody."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _load_average() -> Optional[float]:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def about(model: str, type: str, n_threads: int, audio_s: float) -> dict[str, Any]:
    """For ``extra_info``: :data:`ABOUT`. Where several types take part, ``type`` names all of them; ``audio_s`` is 0
    where nothing is heard."""
    from whisperq_edge import _core

    return dict(zip(ABOUT, (_core.chosen_isa(), n_threads, type, model, audio_s)))


def machine(n_threads: int, packages: Sequence[str] = ()) -> dict[str, Any]:
    """What a figure has to be printed with: CPU, kernels in use, threads, versions of ours and of ``packages``."""
    from whisperq_edge import _core
    from whisperq_edge.cli.info import collect

    features = _core.cpu_features()
    versions = {"python": platform.python_version(), "numpy": metadata.version("numpy")}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _core.cpu_name() or _core.cpu_family(),
        "has_avx512": bool(features.get("avx512f", False)),
        "usable_cpus": _core.usable_cpus(),
        "isa": _core.chosen_isa(),
        "threads": n_threads,
        "versions": versions,
        "whisperq_edge": collect(),
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
