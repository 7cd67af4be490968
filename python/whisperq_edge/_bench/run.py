"""Rounds over all systems in turn, each in a process of its own that stays loaded: what disturbs the machine disturbs
all of them. Every other round goes backwards, so that nobody always runs in the wake of the same neighbour."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from .._system.arrays import Floats
from .card import Watch
from .systems import BenchSystem
from .worker import Worker

__all__ = ["LEAST_ROUNDS", "MOST_ROUNDS", "SECONDS_A_SYSTEM", "Measured", "SystemRounds", "measure"]

LEAST_ROUNDS, MOST_ROUNDS, SECONDS_A_SYSTEM = 10, 200, 25
"""How long a run is that is to be compared with another: with 25 s ten percent are found (docs/benchmarks.md)."""

OnProgress = Callable[[str, float], None]


@dataclass
class SystemRounds:
    """A system and what it answered in each round (``Worker.turn``).

    Attributes:
        system: None for the yardstick.
        load_ms: from the path to a model that is ready; once.
        rounds: of the rounds that count.
        peak_rss_bytes: of its process; None where the system does not tell.
    """

    system: Optional[BenchSystem]
    load_ms: float = 0.0
    rounds: list[dict[str, Any]] = field(default_factory=list)
    peak_rss_bytes: Optional[int] = None

    @property
    def total_ms(self) -> list[float]:
        return [float(each["total_ms"]) for each in self.rounds]


@dataclass(frozen=True)
class Measured:
    """All systems, the yardstick (``worker``: work that no version of ours changes), and what the machine did."""

    systems: list[SystemRounds]
    yardstick: SystemRounds
    conditions: dict[str, Any]


def measure(
    systems: Sequence[BenchSystem],
    samples: Floats,
    options: Mapping[str, Any],
    *,
    n_tokens: Optional[int] = None,
    rounds: Optional[int] = LEAST_ROUNDS,
    warm_up: int = 1,
    on_progress: Optional[OnProgress] = None,
) -> Measured:
    """Loads every system and lets each transcribe once a round.

    Args:
        systems: of ``choose_bench_systems``.
        samples: float32, 16 kHz mono; decoded once, so that no decoder of files is measured.
        options: of ``transcribe``.
        n_tokens: that each window is forced to have; None: as many as the model says.
        rounds: that count; None: as many as fit in :data:`SECONDS_A_SYSTEM` for each system, within
            :data:`LEAST_ROUNDS` and :data:`MOST_ROUNDS`.
        warm_up: rounds before, which do not.
        on_progress: told ("loading" or "rounds", fraction).

    Raises:
        OptionError, ModelError: a system cannot do this.
        InferenceError: a process died.
    """
    tell = on_progress or (lambda stage, fraction: None)
    with tempfile.TemporaryDirectory(prefix="whisperq-bench-") as folder, contextlib.ExitStack() as stack:
        heard = Path(folder, "samples.npy")
        np.save(heard, samples)
        running: list[tuple[SystemRounds, Worker]] = []
        for task, entry in _tasks(systems, options, n_tokens, heard):
            worker = stack.enter_context(Worker(task))
            entry.load_ms = worker.ready["load_ms"]
            running.append((entry, worker))
            tell("loading", len(running) / (len(systems) + 1))
        for _ in range(warm_up):
            for _, worker in running:
                worker.turn()
        watch, most_s = Watch(), SECONDS_A_SYSTEM * len(systems)
        began_s, done = time.perf_counter(), 0.0
        while done < 1:
            n = len(running[0][0].rounds)
            for entry, worker in running if n % 2 == 0 else reversed(running):
                entry.rounds.append(worker.turn())
            done = _share_done(n + 1, rounds, time.perf_counter() - began_s, most_s)
            tell("rounds", done)
        conditions = watch.conditions()
    entries = [entry for entry, _ in running]
    for entry in entries:
        entry.peak_rss_bytes = max((each["peak_rss_bytes"] or 0 for each in entry.rounds), default=0) or None
    return Measured(entries[:-1], entries[-1], conditions)


def _share_done(n: int, rounds: Optional[int], spent_s: float, most_s: float) -> float:
    """Of the rounds that are wanted; 1.0 ends them."""
    if rounds is not None:
        return n / rounds
    return min(max(n / MOST_ROUNDS, spent_s / most_s), n / LEAST_ROUNDS, 1.0)


def _tasks(
    systems: Sequence[BenchSystem], options: Mapping[str, Any], n_tokens: Optional[int], heard: Path
) -> list[tuple[dict[str, Any], SystemRounds]]:
    common = {"options": dict(options), "n_tokens": n_tokens, "samples": str(heard)}
    tasks = [
        {
            **common,
            "kind": each.kind,
            "model": str(each.model.resolve()),
            "engine": each.engine,
            "type": each.type,
            "n_threads": each.n_threads,
            "n_vocab": each.n_vocab,
            "isa": each.isa,
        }
        for each in systems
    ]
    yardstick = {"kind": "yardstick", "model": "yardstick", "n_threads": max(each.n_threads for each in systems)}
    entries = [SystemRounds(each) for each in systems]
    return [*zip(tasks, entries), (yardstick, SystemRounds(None))]
