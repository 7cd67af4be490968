"""How often the 95 % intervals of ``whisperq-edge eval`` hold the truth, in simulated sets.

    python scripts/measure_intervals.py

Prints the tables of docs/benchmarks.md; half a minute or so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from whisperq_edge._eval.statistics import bootstrap_rate, rate_interval

SETS, RESAMPLES = 1000, 1000
KINDS = ("words", "clumps", "wholly wrong")
SIZES_AND_RATES = (
    *((30, 0.026), (30, 0.15), (50, 0.04), (130, 0.0036), (130, 0.012), (130, 0.04), (130, 0.15)),
    *((400, 0.0023), (400, 0.04), (400, 0.15)),
)

Doubles = npt.NDArray[np.float64]


def draw(kind: str, rng: np.random.Generator, n: int, rate: float) -> tuple[Doubles, Doubles]:
    """Errors and words of ``n`` utterances. ``words``: each word for itself. ``clumps``: an utterance has a rate of its
    own from a beta distribution, which makes its errors correlated by 0.5. ``wholly wrong``: all words or none."""
    words = rng.integers(1, 13, n)
    if kind == "words":
        errors = rng.binomial(words, rate)
    elif kind == "clumps":
        errors = rng.binomial(words, rng.beta(rate, 1 - rate, n))
    else:
        errors = words * (rng.random(n) < rate)
    return errors.astype(float), words.astype(float)


def covered(kind: str, n: int, rate: float) -> list[float]:
    """Mean number of errors, and the shares of the sets whose interval holds ``rate``: ours, the bootstrap's alone, the
    binomial one."""
    rng = np.random.default_rng(1)
    sums = np.zeros(4)
    for seed in range(SETS):
        errors, words = draw(kind, rng, n, rate)
        seen = errors.sum() / words.sum()
        binomial = abs(seen - rate) <= 1.96 * np.sqrt(seen * (1 - seen) / words.sum())
        given: dict[str, Any] = {"resamples": RESAMPLES, "seed": seed}
        by_us, by_bootstrap = (each(errors, words, **given) for each in (rate_interval, bootstrap_rate))
        sums += errors.sum(), rate in by_us, rate in by_bootstrap, binomial
    return [float(each) / SETS for each in sums]


def covered_difference(kind: str, n: int, rate: float) -> tuple[float, float, float]:
    """Of two systems: changed utterances on average, and the shares of the sets whose interval holds the difference,
    ours and the bootstrap's. Two changes of three are for the worse."""
    rng = np.random.default_rng(2)
    sums = np.zeros(3)
    for seed in range(SETS):
        changes, words = draw(kind, rng, n, rate)
        changes *= np.where(rng.random(n) < 2 / 3, 1, -1)
        given: dict[str, Any] = {"resamples": RESAMPLES, "seed": seed, "signed": True}
        by_us, by_bootstrap = (each(changes, words, **given) for each in (rate_interval, bootstrap_rate))
        sums += np.count_nonzero(changes), rate / 3 in by_us, rate / 3 in by_bootstrap
    n_changed, ours, bootstrap = (float(each) / SETS for each in sums)
    return n_changed, ours, bootstrap


def main() -> None:
    print("| errors | utterances | true rate | errors on average | our interval | bootstrap alone | binomial |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        for n, rate in SIZES_AND_RATES:
            errors, *shares = covered(kind, n, rate)
            print(
                f"| {kind} | {n} | {100 * rate:g} % | {errors:.1f} | {' | '.join(f'{100 * s:.1f} %' for s in shares)} |"
            )
    print("\n| changes | utterances | words that change | changed utterances | our interval | bootstrap alone |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        for n, rate in ((30, 0.026), (130, 0.004), (130, 0.02), (400, 0.02)):
            n_changed, *shares = covered_difference(kind, n, rate)
            shown = " | ".join(f"{100 * s:.1f} %" for s in shares)
            print(f"| {kind} | {n} | {100 * rate:g} % | {n_changed:.1f} | {shown} |")


if __name__ == "__main__":
    main()
