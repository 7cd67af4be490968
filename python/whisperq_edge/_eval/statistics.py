"""Intervals, tests and verdicts about word errors. numpy only; the same seed gives the same figures.

Errors come in clumps: who mishears one word of an utterance tends to mishear the next. So utterances (or speakers) are
what is drawn again in the bootstrap and what changes sides in the test, never words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Optional

import numpy as np
import numpy.typing as npt

from .._system.arrays import Doubles

__all__ = [
    "CONFIDENCE",
    "FEW",
    "Detectable",
    "Difference",
    "Interval",
    "bootstrap_rate",
    "by_cluster",
    "compare",
    "detectable_difference",
    "few_errors_interval",
    "holm",
    "is_claimed",
    "permutation_p",
    "rate_interval",
    "signed_points",
    "verdict",
]

CONFIDENCE = 0.95
"""Of every interval; one minus it is where the tests draw their line."""

FEW = 20.0
"""Errors that count for fewer independent ones get :func:`few_errors_interval`."""

RESAMPLES = 10_000
_DRAWS_AT_ONCE = 2_000_000
_POWER = 0.8
_SHARE_THAT_CHANGES, _CORRELATION = 0.02, 0.1
"""What :func:`detectable_difference` takes for granted before anything was heard: two types of one model get another
outcome on 2 % of the words, and within an utterance these outcomes are correlated by 0.1."""

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a share: 0.1 is ten points."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


# ---- The bootstrap ---------------------------------------------------------------------------------------------------


def rate_interval(
    errors: npt.ArrayLike, words: npt.ArrayLike, *, signed: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Interval of ``sum(errors) / sum(words)`` when other utterances had been recorded.

    Where errors are many, the bootstrap's (:func:`bootstrap_rate`); where they count for few independent ones, the
    bootstrap does not know what it has not seen and is too narrow, and :func:`few_errors_interval` answers.

    Args:
        errors: ``[n]``, of each utterance.
        words: ``[n]``, of each reference, none negative, not all 0.
        signed: the errors are differences of two systems, so that the rate may be negative.
        resamples: how often.
        seed: of the draws.
    """
    e, w = _checked(errors, words)
    sides = (np.maximum(e, 0), np.maximum(-e, 0)) if signed else (e,)
    if any(0 < _independent_errors(each, w) < FEW for each in sides):
        return few_errors_interval(e, w, signed=signed)
    return bootstrap_rate(e, w, signed=signed, resamples=resamples, seed=seed)


def bootstrap_rate(
    errors: npt.ArrayLike, words: npt.ArrayLike, *, signed: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """:func:`rate_interval` by the bootstrap, however few the errors.

    Utterances are drawn with replacement, and the interval is the bias-corrected and accelerated one (Efron 1987), with
    its tails moved out as far as Student's t moves them for as many utterances: without that, intervals of small sets
    are too narrow. When all utterances have the same rate, nothing varies, and :func:`_unseen` answers.
    """
    e, w = _checked(errors, words)
    rate = float(e.sum() / w.sum())
    if np.all(e * w.sum() == w * e.sum()):  # integers in float64: exact
        return _unseen(rate, len(e), signed)
    drawn = _drawn_rates(e, w, resamples, np.random.default_rng(seed))
    low, high = np.quantile(drawn, _bca_levels(drawn, rate, e, w))
    return Interval(float(low), float(high))


def few_errors_interval(errors: npt.ArrayLike, words: npt.ArrayLike, *, signed: bool = False) -> Interval:
    """:func:`rate_interval` where few utterances have errors: Poisson limits with weights (Fay and Feuer 1997).

    An utterance with errors is an event that weighs as much as it has errors. The weights' mean square over their mean
    is the size of a clump, and errors over that the number of independent ones; what is no more than an utterance's
    share of the common rate, because errors are everywhere, does not count. The upper limit allows for one more event:
    as heavy as an average utterance when none was seen, and the more are seen, the more as the heaviest of those. So it
    holds the truth at least as often as it says, and more often where errors are so few that the limits jump.

    Signed errors are events of two kinds, for the worse and for the better, whose limits are put together as Zou and
    Donner (2008) do.
    """
    e, w = _checked(errors, words)
    unseen, all_words = _unseen_event(np.abs(e), w), float(w.sum())
    if not signed:
        return Interval(*(limit / all_words for limit in _poisson_limits(e, w, unseen)))
    worse, better = np.maximum(e, 0), np.maximum(-e, 0)
    (low_w, high_w), (low_b, high_b) = (_poisson_limits(each, w, unseen) for each in (worse, better))
    n_worse, n_better = float(worse.sum()), float(better.sum())
    difference = n_worse - n_better
    return Interval(
        (difference - math.hypot(n_worse - low_w, high_b - n_better)) / all_words,
        (difference + math.hypot(high_w - n_worse, n_better - low_b)) / all_words,
    )


def _checked(errors: npt.ArrayLike, words: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    e, w = np.asarray(errors, np.float64), np.asarray(words, np.float64)
    if e.ndim != 1 or e.shape != w.shape or not w.sum() > 0:
        raise ValueError(f"errors {e.shape} and words {w.shape} of the same utterances are needed, and a word in them")
    return e, w


def _poisson_limits(e: Doubles, w: Doubles, unseen: float) -> tuple[float, float]:
    """Of the expected number of errors, with one more event of that weight above."""
    total, squares = _clumps(e, w)
    half = (1 - CONFIDENCE) / 2
    low = 0.0 if total == 0 else _gamma_quantile(half, total**2 / squares) * squares / total
    more, squares = total + unseen, squares + unseen**2
    return low, _gamma_quantile(1 - half, more**2 / squares) * squares / more


def _unseen_event(e: Doubles, w: Doubles) -> float:
    n_events, average = _independent_errors(e, w), float(w.mean())
    heaviest = float(_deviations(e, w).max())
    return (n_events * heaviest + max(heaviest, average)) / (n_events + 1)


def _independent_errors(e: Doubles, w: Doubles) -> float:
    total, squares = _clumps(e, w)
    return total**2 / squares if total else 0.0


def _clumps(e: Doubles, w: Doubles) -> tuple[float, float]:
    """Errors, and the sum of the squared deviations of utterances from the common rate."""
    deviations, n, total = _deviations(e, w), len(e), float(e.sum())
    return total, max(float(deviations @ deviations) * n / max(n - 1, 1), 1e-12 * total)


def _deviations(e: Doubles, w: Doubles) -> Doubles:
    deviations: Doubles = e - w * (e.sum() / w.sum())
    return deviations


def _gamma_quantile(level: float, shape: float) -> float:
    """Of the gamma distribution of scale 1, by bisection."""
    low, high = 0.0, shape + 12 * math.sqrt(shape) + 30
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _gamma_cdf(middle, shape) < level else (low, middle)
    return (low + high) / 2


def _gamma_cdf(x: float, shape: float) -> float:
    """The regularised lower incomplete gamma function by its series, whose terms are all positive."""
    if x <= 0:
        return 0.0
    term = total = 1 / shape
    n = shape
    while term > total * 1e-15:
        n += 1
        term *= x / n
        total += term
    return min(1.0, math.exp(shape * math.log(x) - x - math.lgamma(shape) + math.log(total)))


def _unseen(rate: float, n: int, signed: bool) -> Interval:
    """When every utterance is alike, as with no errors at all: up to this share of utterances could be another way,
    altogether, without one of them among ``n`` (with the confidence of the interval)."""
    share = 1 - ((1 - CONFIDENCE) / 2) ** (1 / n)
    return Interval(rate - share if signed else max(rate - share, 0.0), rate + share)


def _drawn_rates(e: Doubles, w: Doubles, resamples: int, rng: np.random.Generator) -> Doubles:
    n = len(e)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    rates = []
    for first in range(0, resamples, at_once):
        drawn = rng.integers(0, n, (min(at_once, resamples - first), n))
        sums = w[drawn].sum(axis=1)
        kept = sums > 0  # a draw of nothing but silent utterances has no rate
        rates.append(e[drawn[kept]].sum(axis=1) / sums[kept])
    return np.concatenate(rates)


def _bca_levels(drawn: Doubles, rate: float, e: Doubles, w: Doubles) -> list[float]:
    """The quantiles of the drawn rates between which the interval lies."""
    below = (np.sum(drawn < rate) + 0.5 * np.sum(drawn == rate)) / len(drawn)
    bias = _NORMAL.inv_cdf(min(max(float(below), 1 / len(drawn)), 1 - 1 / len(drawn)))
    left_out = w.sum() - w
    usable = left_out > 0
    jackknife = (e.sum() - e[usable]) / left_out[usable]
    spread = jackknife.mean() - jackknife
    squares = float(np.sum(spread**2))
    acceleration = float(np.sum(spread**3)) / (6 * squares**1.5) if squares > 0 else 0.0
    levels = []
    for sign in (-1, 1):
        shifted = bias + sign * _tail(len(e))
        levels.append(_NORMAL.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-9)))
    return levels


def _tail(n: int) -> float:
    """Student's t quantile with n - 1 degrees of freedom by its first expansion term, times the factor by which the
    spread of n draws with replacement is too small (Hesterberg 2015)."""
    z = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
    if n < 2:
        return z
    return math.sqrt(n / (n - 1)) * (z + (z**3 + z) / (4 * (n - 1)))


def by_cluster(values: npt.ArrayLike, clusters: npt.ArrayLike) -> Doubles:
    """Sums of ``values`` over the utterances of each cluster (speaker), in order of the clusters' names."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums: Doubles = np.bincount(index.reshape(-1), weights=np.asarray(values, np.float64)).astype(np.float64)
    return sums


# ---- The test --------------------------------------------------------------------------------------------------------


def permutation_p(differences: npt.ArrayLike) -> float:
    """Two-sided p of the paired permutation test: were the two systems alike, each difference could as well have had
    the other sign. All sign patterns are counted, not drawn, so that the value is exact and needs no seed.

    Args:
        differences: ``[n]`` whole numbers, errors of the one minus errors of the other, by utterance or by speaker.
    """
    d = np.asarray(differences, np.float64)
    sizes = np.abs(d[d != 0]).astype(np.int64)
    if not len(sizes):
        return 1.0
    # probability[i]: that the positive ones among the differences add up to i. Built up one difference at a time.
    total = int(sizes.sum())
    probability = np.zeros(total + 1)
    probability[0] = 1.0
    reach = 0
    for size in sizes.tolist():
        probability[size : reach + size + 1] += probability[: reach + 1].copy()
        reach += size
        probability[: reach + 1] *= 0.5
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(probability[np.abs(sums) >= abs(int(d.sum()))].sum()))


def holm(ps: npt.ArrayLike) -> Doubles:
    """The p values corrected for their number (Holm 1979): below 0.05 are those that hold together."""
    p = np.asarray(ps, np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


# ---- Two systems on the same utterances ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One system against the baseline, in shares of the words; positive means more errors.

    Attributes:
        rate: the difference of the two error rates.
        interval: of it, utterances drawn anew.
        speaker_interval: speakers drawn anew; None where fewer than two are known.
        p: of the permutation test by utterance.
        speaker_p: by speaker.
        n_changed: utterances in which the number of errors differs.
        n_words: of the references.
    """

    rate: float
    interval: Interval
    speaker_interval: Optional[Interval]
    p: float
    speaker_p: Optional[float]
    n_changed: int
    n_words: int


def compare(
    errors: npt.ArrayLike,
    baseline_errors: npt.ArrayLike,
    words: npt.ArrayLike,
    speakers: Optional[npt.ArrayLike] = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Two systems on the same utterances, ``[n]`` each. ``speakers``: their names, or None where one is not known."""
    w = np.asarray(words, np.float64)
    d = np.asarray(errors, np.float64) - np.asarray(baseline_errors, np.float64)
    interval, p = rate_interval(d, w, signed=True, resamples=resamples, seed=seed), permutation_p(d)
    speaker_interval, speaker_p = None, None
    if speakers is not None and len(np.unique(np.asarray(speakers))) > 1:
        of_speakers = by_cluster(d, speakers)
        of_words = by_cluster(w, speakers)
        speaker_interval = rate_interval(of_speakers, of_words, signed=True, resamples=resamples, seed=seed)
        speaker_p = permutation_p(of_speakers)
    rate = float(d.sum() / w.sum())
    return Difference(rate, interval, speaker_interval, p, speaker_p, int(np.count_nonzero(d)), int(w.sum()))


def verdict(name: str, difference: Difference, corrected_p: float, n_comparisons: int = 1) -> str:
    """A sentence. A difference is claimed when both the corrected test and the interval say so; that it is more than a
    matter of who happened to speak, when the interval by speaker does, too."""
    line = f"{name}: {_points_and_interval(difference.rate, difference.interval)}"
    if not is_claimed(difference, corrected_p):
        same = ", the number of errors is the same in every utterance" if difference.n_changed == 0 else ""
        return f"{line}: no difference can be claimed from {difference.n_words} words{same}"
    corrected = f" after correction for {n_comparisons} comparisons" if n_comparisons > 1 else ""
    line = f"{line}: {'more' if difference.rate > 0 else 'fewer'} errors (p = {corrected_p:.2g}{corrected})"
    by_speaker = difference.speaker_interval
    if by_speaker is not None and 0.0 in by_speaker:
        bounds = f"{signed_points(by_speaker.low)} to {signed_points(by_speaker.high)}"
        line += f"; for these speakers only: with others it is {bounds}"
    return line


def is_claimed(difference: Difference, corrected_p: float) -> bool:
    """Whether the corrected test and the interval agree that there is a difference."""
    return corrected_p < 1 - CONFIDENCE and 0.0 not in difference.interval


def _points_and_interval(rate: float, interval: Interval) -> str:
    return f"{signed_points(rate)} points, interval {signed_points(interval.low)} to {signed_points(interval.high)}"


def signed_points(share: float) -> str:
    """A difference in points with its sign: ``+0.3``; what rounds to zero has none."""
    rounded = round(100 * share, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


# ---- Before the run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detectable:
    """How small a difference a set can show, in shares of its words.

    Attributes:
        rate: a true difference of this size is found four times out of five.
        floor: below this none can be found at all: so few errors, even if all point the same way, may be chance.
        n_words, n_utterances: of the set.
    """

    rate: float
    floor: float
    n_words: int
    n_utterances: int

    def __str__(self) -> str:
        what = f"{self.n_words} words in {self.n_utterances} utterances can show"
        if self.rate <= self.floor:
            return f"{what} no difference below {100 * self.floor:.1f} points"
        return (
            f"{what} differences from about {100 * self.rate:.1f} points on (four times out of five), and none below"
            f" {100 * self.floor:.1f}"
        )


def detectable_difference(
    words: npt.ArrayLike,
    n_comparisons: int = 1,
    *,
    share_that_changes: float = _SHARE_THAT_CHANGES,
    correlation: float = _CORRELATION,
) -> Detectable:
    """What can be known from the size of a set alone, before anything is heard.

    Args:
        words: ``[n]``, of each reference.
        n_comparisons: with the baseline; the strictest of Holm's lines is taken.
        share_that_changes: of the words on which two systems get another outcome.
        correlation: of these outcomes within an utterance.
    """
    w = np.asarray(words, np.float64)
    total = float(w.sum())
    if not total > 0:
        raise ValueError("a word is needed")
    line = (1 - CONFIDENCE) / n_comparisons
    in_clumps = 1 + max(float(np.sum(w * w)) / total - 1, 0.0) * correlation
    deviation = math.sqrt(share_that_changes * in_clumps / total)
    rate = (_NORMAL.inv_cdf(1 - line / 2) + _NORMAL.inv_cdf(_POWER)) * deviation
    one_sided = math.ceil(math.log2(2 / line))  # so many single errors that all point one way are no chance
    floor = one_sided / total
    return Detectable(max(rate, floor), floor, int(total), len(w))
