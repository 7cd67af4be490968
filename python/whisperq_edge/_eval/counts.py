"""Verdicts where only totals are known: so many errors in so many words, as a table of a paper has it.

Which words were wrong, and whether they were the same ones, is not known then. Words are taken as independent and the
two systems as heard on different words: exact binomial intervals (Clopper and Pearson 1934), Newcombe's interval of the
difference (1998), Fisher's exact test. Errors in clumps make the true intervals wider, so that "no difference" stands.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Callable, Optional, Union

import numpy as np
import numpy.typing as npt

from .._errors import DatasetError, OptionError
from .statistics import CONFIDENCE, Interval, detectable_difference, holm, signed_points

__all__ = ["Counts", "binomial_interval", "compare_counts", "difference_interval", "fisher_p", "read_counts"]

_COLUMNS = ("name", "errors", "words")
_MOST_WORDS = 10**8


@dataclass(frozen=True)
class Counts:
    """A row of a table: ``errors`` of ``words`` were wrong."""

    name: str
    errors: int
    words: int

    @property
    def rate(self) -> float:
        return self.errors / self.words


def read_counts(path: Union[str, os.PathLike[str]]) -> list[Counts]:
    """Rows of a csv file with the columns name, errors, words; further columns do not matter.

    Raises:
        DatasetError: with the line, where a row is not what it must be.
    """
    name = os.fspath(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DatasetError(name, None, "there is no such file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DatasetError(name, None, f"it cannot be read: {error}") from error
    try:
        rows = csv.DictReader(lines, strict=True)
        missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise DatasetError(name, 1, f"the column {missing[0]!r} is missing; needed: {', '.join(_COLUMNS)}")
        counts = [_checked(row, name, rows.line_num) for row in rows]
    except csv.Error as error:
        raise DatasetError(name, None, f"no csv: {error}") from error
    if not counts:
        raise DatasetError(name, None, "there is no row in it")
    for i, each in enumerate(counts):
        if each.name in [earlier.name for earlier in counts[:i]]:
            raise DatasetError(name, None, f"the name {each.name!r} stands there twice")
    return counts


def _checked(row: dict[str, Any], path: str, line: int) -> Counts:
    try:
        errors, words = int(row["errors"]), int(row["words"])
    except (TypeError, ValueError):
        found = f"errors={row['errors']!r}, words={row['words']!r}"
        raise DatasetError(path, line, f"{found}: whole numbers are needed") from None
    if not (row["name"] or "").strip():
        raise DatasetError(path, line, "the name is empty")
    if not 0 <= errors <= words <= _MOST_WORDS or words == 0:
        raise DatasetError(
            path,
            line,
            f"errors={errors}, words={words}: 0 to as many errors as words are possible here. Where insertions make"
            " more, totals do not tell enough: measure by utterance",
        )
    return Counts(row["name"].strip(), errors, words)


# ---- Exact statistics ------------------------------------------------------------------------------------------------


def binomial_interval(errors: int, words: int) -> Interval:
    """Clopper and Pearson's: no share outside it would give so few, or so many, errors in one case of forty."""
    half = (1 - CONFIDENCE) / 2
    low = 0.0 if errors == 0 else _root(lambda share: 1 - _binomial_cdf(errors - 1, words, share) - half)
    high = 1.0 if errors == words else _root(lambda share: half - _binomial_cdf(errors, words, share))
    return Interval(low, high)


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _binomial_cdf(errors: int, words: int, share: float) -> float:
    if share <= 0 or share >= 1:
        return 1.0 if share <= 0 or errors >= words else 0.0
    k = np.arange(errors + 1)
    logs = _log_choose(words, k) + k * math.log(share) + (words - k) * math.log1p(-share)
    return float(np.exp(logs).sum())


def _log_choose(n: int, k: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k.tolist()])


def fisher_p(a: Counts, b: Counts) -> float:
    """Two-sided p of Fisher's exact test: all tables with these totals that are no likelier than this one."""
    errors, words = a.errors + b.errors, a.words + b.words
    k = np.arange(max(0, errors - b.words), min(errors, a.words) + 1)
    logs = _log_choose(a.words, k) + _log_choose(b.words, errors - k) - _log_choose(words, np.array([errors]))
    probability = np.exp(logs)
    seen = probability[a.errors - int(k[0])]
    return min(1.0, float(probability[probability <= seen * (1 + 1e-7)].sum()))


def difference_interval(a: Counts, b: Counts) -> Interval:
    """Newcombe's interval of ``a.rate - b.rate``, from the score intervals (Wilson) of both."""
    (low_a, high_a), (low_b, high_b) = _wilson(a), _wilson(b)
    difference = a.rate - b.rate
    return Interval(
        difference - math.hypot(a.rate - low_a, high_b - b.rate),
        difference + math.hypot(high_a - a.rate, b.rate - low_b),
    )


def _wilson(counts: Counts) -> tuple[float, float]:
    z, n, rate = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2), counts.words, counts.rate
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


# ---- The verdict -----------------------------------------------------------------------------------------------------


def compare_counts(counts: Sequence[Counts], baseline: Optional[str] = None) -> dict[str, Any]:
    """Every row against the baseline (the first one unless named), as data with verdicts in words.

    Raises:
        OptionError: there is no row of the baseline's name.
    """
    names = [each.name for each in counts]
    if baseline is not None and baseline not in names:
        raise OptionError("baseline", baseline, f"one of {', '.join(names)}")
    base = counts[names.index(baseline)] if baseline is not None else counts[0]
    others = [each for each in counts if each is not base]
    corrected = holm([fisher_p(each, base) for each in others]).tolist()
    comparisons = [_comparison(each, base, p, len(others)) for each, p in zip(others, corrected)]
    words = min(each.words for each in counts)
    detectable = detectable_difference(np.ones(words), max(len(others), 1))
    return {
        "systems": [
            {**asdict(each), "rate": each.rate, "interval": _pair(binomial_interval(each.errors, each.words))}
            for each in counts
        ],
        "baseline": base.name,
        "comparisons": comparisons,
        "fewest_errors_that_could_show": round(detectable.floor * words),
        "verdict": _summary(comparisons, base, words),
    }


def _comparison(each: Counts, base: Counts, corrected_p: float, n_comparisons: int) -> dict[str, Any]:
    interval = difference_interval(each, base)
    is_claimed = corrected_p < 1 - CONFIDENCE and 0.0 not in interval
    difference = each.rate - base.rate
    bounds = f"{signed_points(interval.low)} to {signed_points(interval.high)}"
    line = f"{each.name}: {signed_points(difference)} points, interval {bounds}"
    if is_claimed:
        corrected = f" after correction for {n_comparisons} comparisons" if n_comparisons > 1 else ""
        line += f": {'more' if difference > 0 else 'fewer'} errors (p = {corrected_p:.2g}{corrected})"
    else:
        line += f": no difference can be claimed from {each.words} words"
    return {
        "name": each.name,
        "difference": difference,
        "interval": _pair(interval),
        "p_corrected": corrected_p,
        "is_claimed": is_claimed,
        "verdict": line,
    }


def _summary(comparisons: Sequence[dict[str, Any]], base: Counts, words: int) -> str:
    claimed = [each["name"] for each in comparisons if each["is_claimed"]]
    if not comparisons:
        return f"{base.name} stands alone: there is nothing to compare it with."
    if claimed:
        return f"{', '.join(claimed)}: another error rate than {base.name}'s can be claimed."
    return f"Nothing differs from {base.name}: no difference can be claimed from {words} words."


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]
