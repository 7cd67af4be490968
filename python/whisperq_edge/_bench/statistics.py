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

Doubles = npt.NDArray[np.float64]


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
    cut = _outside(np.array([math.comb(n, k) for k in range(n + 1)], np.float64), confidence)
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


def _outside(ways: Doubles, confidence: float) -> int:
    """How many of the outcomes 0, 1, … of a symmetric count lie outside of the interval on either side."""
    tail = np.cumsum(ways / ways.sum())
    return int(np.searchsorted(tail, (1 - confidence) / 2 * (1 + 1e-12), side="right"))


@functools.cache
def _rank_sums(n: int, m: int) -> Doubles:
    """In how many orders of n and m values exactly u of the n * m pairs have the later value below: ``[n * m + 1]``,
    u from 0. Built up one value at a time: ``ways[k, s]``, k ranks out of those so far that add up to s."""
    most = n * (n + m)
    ways = np.zeros((n + 1, most + 1))
    ways[0, 0] = 1.0
    for rank in range(1, n + m + 1):
        for k in range(min(rank, n), 0, -1):
            ways[k, rank:] += ways[k - 1, : most + 1 - rank]
    least = n * (n + 1) // 2
    return ways[n, least : least + n * m + 1].copy()
