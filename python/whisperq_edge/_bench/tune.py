"""Types x threads (x kernels) on this machine: measured in turn, and one of them chosen. Behind ``whisperq-edge tune``.

The whole grid runs a few rounds, part by part where it does not fit into memory. What is clearly slower than the
fastest that may be chosen is measured no further; the rest runs on, side by side, and the medians decide.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from .. import _core
from .._engines.memory import available_memory, check_fits, plan_memory
from .._errors import OptionError
from .._store.profile import Profile, Setting, machine_key, shape_key
from .._whisper.dims import Dims
from .._whisper.types import TYPES
from .._whisper.units import WINDOW_SAMPLES
from .random_model import write_random
from .run import SystemRounds, measure
from .systems import BenchSystem

__all__ = ["Candidate", "Rounds", "candidates", "choose", "finalists", "thread_counts", "tune"]

_FIRST_ROUNDS = 3
_CLEARLY_SLOWER = 1.3  # in its best round than the fastest in the median one
_ALIKE = 1.02
_PROCESS_BYTES = 60_000_000  # before it loads anything: Python and numpy

OnProgress = Callable[[str, float], None]


class Candidate(NamedTuple):
    """A way to run a model."""

    type: str
    n_threads: int
    isa: str = "auto"


Rounds = Mapping[Candidate, Sequence[float]]
"""Milliseconds of every round, in the order of the rounds."""


def thread_counts(n_cpus: int) -> list[int]:
    """All up to 4 CPUs; of more, powers of two, three quarters and all."""
    if n_cpus <= 4:
        return list(range(1, n_cpus + 1))
    powers = [2**i for i in range(n_cpus.bit_length()) if 2**i < n_cpus]
    return sorted({*powers, n_cpus * 3 // 4, n_cpus})


def candidates(types: Sequence[str], threads: Sequence[int], isas: Sequence[str]) -> list[Candidate]:
    return [Candidate(type, n, isa) for isa in isas for type in types for n in threads]


# ---- The choice ------------------------------------------------------------------------------------------------------


def finalists(rounds: Rounds, allowed: Sequence[str]) -> list[Candidate]:
    """What may be chosen and is not clearly slower than the fastest."""
    may = [each for each in rounds if each.type in allowed]
    limit = _CLEARLY_SLOWER * min(float(np.median(rounds[each])) for each in may)
    return [each for each in may if min(rounds[each]) <= limit]


def choose(rounds: Rounds, allowed: Sequence[str]) -> Candidate:
    """The fastest, by medians. Of those that are as fast, to 2 %, the one with the fewest threads, then the most bits:
    it costs less power and less accuracy.

    Args:
        rounds: that all of them took part in.
        allowed: types that may be chosen.
    """
    medians = {each: float(np.median(times)) for each, times in rounds.items() if each.type in allowed}
    fastest = min(medians, key=lambda each: medians[each])
    alike = [each for each in medians if _ratio(rounds[each], rounds[fastest]) <= _ALIKE]
    return min(alike, key=lambda each: (each.n_threads, -TYPES[each.type].bits_per_value, medians[each]))


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """A round that was slow was slow for both."""
    return float(np.median(np.asarray(times) / np.asarray(others)))


def explain(chosen: Setting, measured: Sequence[Setting], allowed: Sequence[str]) -> str:
    """The choice in a line: how much faster it is than the next best, and what would be if more were allowed."""
    line = f"{chosen.name}: {chosen.window_s:.2f} s a window of 30 s"
    others = [each for each in measured if each.type in allowed and each != chosen]
    if others:
        line += f", {_compared(chosen, min(others, key=lambda each: each.window_s))}"
    forbidden = [each for each in measured if each.type not in allowed]
    best = min(forbidden, key=lambda each: each.window_s, default=chosen)
    if best.window_s * 1.05 < chosen.window_s:
        line += f" ({best.name} would take {best.window_s:.2f} s, at a price in accuracy: --allow {best.type})"
    return line


def _compared(chosen: Setting, other: Setting) -> str:
    faster = other.window_s / chosen.window_s - 1
    return f"as fast as {other.name}" if faster < _ALIKE - 1 else f"{100 * faster:.0f} % faster than {other.name}"


# ---- The measurement -------------------------------------------------------------------------------------------------


def tune(
    dims: Dims,
    types: Sequence[str],
    threads: Sequence[int],
    isas: Sequence[str],
    allowed: Sequence[str],
    *,
    n_tokens: int = 50,
    rounds: int = 7,
    on_progress: Optional[OnProgress] = None,
) -> Profile:
    """Measures a window of 30 s with ``n_tokens`` of text in every setting, on random weights, and chooses.

    Args:
        dims: of the model.
        types, threads, isas: the grid.
        allowed: types that may be chosen.
        n_tokens: that the window is forced to have.
        rounds: of the finalists, beside the first three of all.
        on_progress: told (stage, fraction).

    Raises:
        OptionError: none of the types is allowed.
        OutOfMemoryError: one of the models does not fit into memory.
        InferenceError: a process died.
    """
    if not set(types) & set(allowed):
        raise OptionError("types", ",".join(types), f"at least one of those that may be chosen: {', '.join(allowed)}")
    tell = on_progress or (lambda stage, fraction: None)
    grid = candidates(types, threads, isas)
    groups = _groups(dims, grid)
    with tempfile.TemporaryDirectory(prefix="whisperq-tune-") as folder:
        models = {}
        for i, type in enumerate(types):
            models[type] = Path(folder, f"{type}.bin")
            write_random(models[type], dims, type)
            tell("preparing", (i + 1) / len(types))
        times: dict[Candidate, list[float]] = {}
        for i, group in enumerate(groups):
            name = "all" if len(groups) == 1 else f"all, part {i + 1} of {len(groups)}"
            times.update(_measured(group, models, dims, n_tokens, _FIRST_ROUNDS, _told(tell, name)))
        best_first = sorted(finalists(times, allowed), key=lambda each: float(np.median(times[each])))
        final = {each: times[each] for each in _groups(dims, best_first)[0]}
        if len(final) > 1:
            final = _measured([*final], models, dims, n_tokens, rounds, _told(tell, "the fastest"))
    chosen = choose(final, allowed)
    times.update(final)
    settings = {each: Setting(*each, window_s=round(float(np.median(times[each])) / 1000, 5)) for each in times}
    measured = tuple(settings.values())
    reason = explain(settings[chosen], measured, allowed)
    return Profile(shape_key(dims._asdict()), machine_key(), tuple(allowed), settings[chosen], measured, reason)


def _told(tell: OnProgress, name: str) -> OnProgress:
    """Progress of a part of the work; loading models is not told."""
    return lambda stage, fraction: tell(name, fraction) if stage == "rounds" else None


def _groups(dims: Dims, grid: Sequence[Candidate]) -> list[list[Candidate]]:
    """What is measured side by side, in order: as many as fit into memory, each in a process of its own."""
    available = available_memory()
    groups: list[list[Candidate]] = [[]]
    taken = 0
    for each in grid:
        plan = plan_memory(_core.describe_model(dims._asdict(), each.type), n_threads=each.n_threads)
        n_bytes = plan.total + _PROCESS_BYTES
        check_fits(f"a process that measures {each.type}", n_bytes, available)
        if available is not None and groups[-1] and taken + n_bytes > available.n_bytes:
            groups.append([])
            taken = 0
        groups[-1].append(each)
        taken += n_bytes
    return groups


def _measured(
    grid: Sequence[Candidate],
    models: Mapping[str, Path],
    dims: Dims,
    n_tokens: int,
    rounds: int,
    on_progress: OnProgress,
) -> dict[Candidate, list[float]]:
    noise = np.random.default_rng(0).standard_normal(WINDOW_SAMPLES, np.float32) * np.float32(0.1)
    options = {
        "language": "en",
        "beam_size": 1,
        "temperature": 0.0,
        "no_speech_threshold": None,
        "drop_silence": False,
    }
    systems = [_system(each, models[each.type], dims) for each in grid]
    found = measure(systems, noise, options, n_tokens=n_tokens, rounds=rounds, on_progress=on_progress)
    return {each: _times(entry) for each, entry in zip(grid, found.systems)}


def _times(entry: SystemRounds) -> list[float]:
    return entry.total_ms


def _system(candidate: Candidate, model: Path, dims: Dims) -> BenchSystem:
    return BenchSystem(
        name=" ".join(map(str, candidate)),
        kind="whisperq-edge",
        version="",
        model=model,
        engine="edge",
        type=candidate.type,
        n_threads=candidate.n_threads,
        n_bytes=model.stat().st_size,
        n_vocab=dims.n_vocab,
        shape="",
        isa=candidate.isa,
    )
