"""How often the 95 % intervals of ``whisperq-edge eval`` hold the truth, in simulated sets whose errors come in clumps.

    python scripts/measure_intervals.py

Prints the table of docs/benchmarks.md; ten seconds or so.
"""

from __future__ import annotations

import numpy as np
from whisperq_edge._eval.statistics import bootstrap_rate

SETS, RESAMPLES = 1000, 1000
UTTERANCES = (10, 20, 50, 130, 400)
RATES = (0.15, 0.04)


def covered(n: int, rate: float) -> tuple[float, float]:
    """Shares of the sets whose bootstrap interval, and whose binomial interval, holds ``rate``.

    Each utterance has a rate of its own from a beta distribution, which makes errors within it correlated by 0.5.
    """
    rng = np.random.default_rng(1)
    by_bootstrap = by_binomial = 0
    for seed in range(SETS):
        words = rng.integers(1, 13, n)
        errors = rng.binomial(words, rng.beta(rate, 1 - rate, n))
        by_bootstrap += rate in bootstrap_rate(errors, words, resamples=RESAMPLES, seed=seed)
        seen = errors.sum() / words.sum()
        by_binomial += abs(seen - rate) <= 1.96 * np.sqrt(seen * (1 - seen) / words.sum())
    return by_bootstrap / SETS, by_binomial / SETS


def main() -> None:
    print("| utterances | true rate | bootstrap interval | binomial interval |\n| --- | --- | --- | --- |")
    for rate in RATES:
        for n in UTTERANCES:
            ours, binomial = covered(n, rate)
            print(f"| {n} | {100 * rate:.0f} % | {100 * ours:.1f} % | {100 * binomial:.1f} % |")


if __name__ == "__main__":
    main()
