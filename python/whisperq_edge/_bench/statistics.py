"""Intervals of times that assume nothing about how times are distributed, but that rounds are alike. numpy only.

Times have long tails: something else runs for a moment, and a round takes twice as long. So medians are shown and
ranks are compared, never means.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from .._system.arrays import Doubles

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "fastest_of_blocks",
    "least_rounds",
    "median_of",
    "ratio_of_pairs",
    "ratio_of_runs",
]

CONFIDENCE = 0.95

Counts = npt.NDArray[np.object_]  # whole numbers of any size


class Estimate(NamedTuple):
    """A value and its interval; ``low`` and ``high`` are None where the rounds are too few for one."""

    value: float
    low: Optional[float]
    high: Optional[float]


def median_of(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """The median, and the interval between two of the values: how many lie below the true median is binomial, whatever
    the distribution. 95 % takes six values or more."""
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    if n == 0:
        raise ValueError("a value is needed")
    cut = _outside(np.array([math.comb(n, k) for k in range(n + 1)], object), confidence)
    ends = (None, None) if cut == 0 else (float(ordered[cut - 1]), float(ordered[n - cut]))
    return Estimate(float(np.median(ordered)), *ends)


def ratio_of_pairs(values: npt.ArrayLike, baseline: npt.ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Median of the ratios of each round, for two systems of the same run: a round in which the machine was slow was
    slow for both."""
    return median_of(np.asarray(values, np.float64) / np.asarray(baseline, np.float64), confidence)


def ratio_of_runs(now: npt.ArrayLike, then: npt.ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """How much longer one run takes than another one at another time, whose rounds have nothing to do with each other.

    Hodges and Lehmann's estimate on the logarithms, with the interval that belongs to the rank-sum test: when both runs
    are alike it misses the ratio 1 with no more than ``1 - confidence``, whatever the distribution.

    Args:
        now, then: ``[n]`` and ``[m]``, positive. 95 % takes four each, more confidence takes more.
    """
    later, earlier = np.log(np.asarray(now, np.float64)), np.log(np.asarray(then, np.float64))
    ratios = np.sort((later[:, None] - earlier[None, :]).ravel())
    cut = _outside(_rank_sums(len(later), len(earlier)), confidence)
    ends = (None, None) if cut == 0 else (math.exp(ratios[cut - 1]), math.exp(ratios[len(ratios) - cut]))
    return Estimate(math.exp(float(np.median(ratios))), *ends)


def fastest_of_blocks(values: npt.ArrayLike, n_blocks: int) -> Doubles:
    """The least of each of ``n_blocks`` stretches of rounds that follow each other, or all where there are no more.

    What disturbs a machine only ever makes it slower, and lasts for several rounds: the least of a stretch is nearly
    free of the first, and stretches are more nearly independent of each other than rounds are.
    """
    times = np.asarray(values, np.float64)
    return np.array([block.min() for block in np.array_split(times, min(n_blocks, len(times)))])


def least_rounds(confidence: float) -> int:
    """Rounds that two runs need, each, for :func:`ratio_of_runs` to have an interval."""
    n = 1
    while 2 / math.comb(2 * n, n) > 1 - confidence:
        n += 1
    return n


def _outside(ways: Counts, confidence: float) -> int:
    """How many of the outcomes 0, 1, … of a symmetric count lie outside of the interval on either side."""
    tail = np.cumsum((ways / ways.sum()).astype(np.float64))
    return int(np.searchsorted(tail, (1 - confidence) / 2 * (1 + 1e-12), side="right"))


@functools.cache
def _rank_sums(n: int, m: int) -> Counts:
    """Count the orders of n and m values in which exactly u of the n * m pairs have the later value below.

    These are the coefficients of the Gaussian binomial, the product of (1 - q^(m+i)) / (1 - q^i) for i from 1 to n, in
    whole numbers, because the differences would cancel in floats. Work grows as n^3 and not as n^4.

    Returns:
        ``[n * m + 1]``, u from 0.
    """
    n, m = min(n, m), max(n, m)
    n_half = n * m // 2 + 1  # the other half is its mirror image
    ways = np.zeros(n_half, object)
    ways[0] = 1
    for i in range(1, n + 1):
        ways[m + i :] -= ways[: max(n_half - m - i, 0)].copy()
        ways = _over_one_less_power(ways, i)
    return np.concatenate([ways, ways[: n * m + 1 - n_half][::-1]])


def _over_one_less_power(series: Counts, i: int) -> Counts:
    """Divide a power series by 1 - q^i: each coefficient adds to all those i, 2i, … behind it."""
    n_rows = -(-len(series) // i)
    rows = np.zeros(n_rows * i, object)
    rows[: len(series)] = series
    return np.add.accumulate(rows.reshape(n_rows, i), axis=0).ravel()[: len(series)]
