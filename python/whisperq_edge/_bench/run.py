"""Rounds over all systems in turn, each in a process of its own that stays loaded: what disturbs the machine disturbs
all of them. Every other round goes backwards, so that nobody always runs in the wake of the same neighbour."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from .._audio import Floats
from .card import Watch
from .systems import BenchSystem
from .worker import Worker

__all__ = ["Measured", "SystemRounds", "measure"]

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
    rounds: int = 10,
    warm_up: int = 1,
    on_progress: Optional[OnProgress] = None,
) -> Measured:
    """Loads every system and lets each transcribe once a round.

    Args:
        systems: of ``choose_bench_systems``.
        samples: float32, 16 kHz mono; decoded once, so that no decoder of files is measured.
        options: of ``transcribe``.
        n_tokens: that each window is forced to have; None: as many as the model says.
        rounds: that count.
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
        watch = Watch()
        for i in range(rounds):
            for entry, worker in running if i % 2 == 0 else reversed(running):
                entry.rounds.append(worker.turn())
            tell("rounds", (i + 1) / rounds)
        conditions = watch.conditions()
    entries = [entry for entry, _ in running]
    for entry in entries:
        entry.peak_rss_bytes = max((each["peak_rss_bytes"] or 0 for each in entry.rounds), default=0) or None
    return Measured(entries[:-1], entries[-1], conditions)


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
