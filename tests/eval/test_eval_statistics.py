"""Intervals, tests and verdicts: against what can be counted by hand, and in simulations where the truth is known."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import DatasetError, OptionError
from whisperq_edge._eval.counts import (
    Counts,
    binomial_interval,
    compare_counts,
    difference_interval,
    fisher_p,
    read_counts,
)
from whisperq_edge._eval.report import _summary
from whisperq_edge._eval.statistics import (
    Difference,
    Interval,
    bootstrap_rate,
    by_cluster,
    compare,
    detectable_difference,
    few_errors_interval,
    holm,
    permutation_p,
    rate_interval,
    verdict,
)

from tests.support.paths import ROOT

TABLE_3 = ROOT / "docs" / "data" / "table3-2503.09905.csv"

Doubles = npt.NDArray[np.float64]


def clumped_errors(rng: np.random.Generator, n: int, rate: float) -> tuple[Doubles, Doubles]:
    """Errors and words of ``n`` utterances whose own rates differ so much that errors come in clumps."""
    words = rng.integers(1, 13, n)
    return rng.binomial(words, rng.beta(rate, 1 - rate, n)).astype(float), words.astype(float)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_intervals_cover_the_truth_and_binomial_ones_would_not() -> None:
    rng, rate, trials = np.random.default_rng(7), 0.15, 1200
    covered = covered_by_binomial = 0
    for trial in range(trials):
        errors, words = clumped_errors(rng, 130, rate)
        covered += rate in bootstrap_rate(errors, words, resamples=800, seed=trial)
        seen, n = errors.sum() / words.sum(), words.sum()
        covered_by_binomial += abs(seen - rate) <= 1.96 * math.sqrt(seen * (1 - seen) / n)
    assert 0.93 <= covered / trials <= 0.97
    assert covered_by_binomial / trials < 0.8


def wrong_as_a_whole(rng: np.random.Generator, n: int, rate: float) -> tuple[Doubles, Doubles]:
    words = rng.integers(1, 13, n).astype(float)
    return words * (rng.random(n) < rate), words


def wrong_word_by_word(rng: np.random.Generator, n: int, rate: float) -> tuple[Doubles, Doubles]:
    words = rng.integers(1, 13, n)
    return rng.binomial(words, rate).astype(float), words.astype(float)


@pytest.mark.parametrize("draw", [clumped_errors, wrong_as_a_whole, wrong_word_by_word])
@pytest.mark.parametrize(("n", "rate"), [(30, 0.026), (30, 0.15), (130, 0.0036), (130, 0.012)])
def test_intervals_cover_the_truth_where_errors_are_few(draw: Any, n: int, rate: float) -> None:
    """Three, five and ten errors, and thirty utterances. Limits jump from one error to the next, so that 95 % is not
    to be had exactly: at least that many are wanted, less what 400 draws leave open."""
    rng, trials = np.random.default_rng(11), 400
    sets = [draw(rng, n, rate) for _ in range(trials)]
    covered = sum(rate in rate_interval(*each, resamples=300) for each in sets)
    assert covered / trials >= 0.93


@pytest.mark.parametrize("draw", [clumped_errors, wrong_as_a_whole, wrong_word_by_word])
def test_intervals_of_few_changes_cover_the_truth(draw: Any) -> None:
    rng, trials, rate = np.random.default_rng(12), 400, 0.012
    covered = 0
    for _ in range(trials):
        changes, words = draw(rng, 130, rate)
        changes = changes * np.where(rng.random(130) < 2 / 3, 1, -1)
        covered += rate / 3 in rate_interval(changes, words, signed=True, resamples=300)
    assert covered / trials >= 0.93


def test_few_equal_errors_have_poisson_limits() -> None:
    """Ten single errors among very many words: nearly Garwood's exact limits of a count of ten."""
    errors, words = np.zeros(5000), np.ones(5000)
    errors[:10] = 1
    interval = few_errors_interval(errors, words)
    assert interval.low * 5000 == pytest.approx(4.795, rel=2e-3)
    assert interval.high * 5000 == pytest.approx(18.39, rel=2e-3)
    assert few_errors_interval(errors, words, signed=True).low > 0


def test_few_errors_and_many_meet() -> None:
    rng = np.random.default_rng(13)
    errors, words = clumped_errors(rng, 400, 0.15)
    assert rate_interval(errors, words, seed=1) == bootstrap_rate(errors, words, seed=1)
    one_error = np.eye(1, 400)[0]
    assert rate_interval(one_error, words) == few_errors_interval(one_error, words)
    assert rate_interval(one_error, words).low < 1 / words.sum() < rate_interval(one_error, words).high


def test_intervals_of_differences_cover_the_truth() -> None:
    rng, trials = np.random.default_rng(8), 600
    covered = 0
    for trial in range(trials):
        errors, words = clumped_errors(rng, 100, 0.2)
        new = rng.binomial((words - errors).astype(int), 0.05)  # a twentieth of what was right goes wrong: 4 points
        difference = compare(errors + new, errors, words, resamples=800, seed=trial)
        covered += 0.04 in difference.interval
    assert 0.93 <= covered / trials <= 0.97


def test_the_same_seed_gives_the_same_interval() -> None:
    errors, words = clumped_errors(np.random.default_rng(1), 50, 0.2)
    assert bootstrap_rate(errors, words, seed=3) == bootstrap_rate(errors, words, seed=3)
    assert bootstrap_rate(errors, words, seed=3) != bootstrap_rate(errors, words, seed=4)


def test_no_error_seen_is_not_no_error_possible() -> None:
    interval = bootstrap_rate([0] * 50, [5] * 50)
    assert interval.low == 0
    assert (1 - interval.high) ** 50 == pytest.approx(0.025)


def test_no_difference_seen_leaves_room_on_both_sides() -> None:
    difference = compare([2, 0, 1], [2, 0, 1], [5, 5, 5])
    assert difference.interval.low == -difference.interval.high < 0
    assert difference.p == 1 and difference.n_changed == 0


def test_silent_utterances_do_not_disturb() -> None:
    interval = bootstrap_rate([0, 1, 0, 2, 1, 0], [0, 5, 0, 6, 5, 4])
    assert 0 <= interval.low < 4 / 20 < interval.high


@pytest.mark.parametrize(("errors", "words"), [([], []), ([1], [0]), ([1, 2], [3]), ([[1]], [[2]])])
def test_what_is_no_set_is_refused(errors: list[int], words: list[int]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        bootstrap_rate(errors, words)


def test_speakers_are_drawn_as_a_whole() -> None:
    rng = np.random.default_rng(2)
    speakers = [f"s{i // 20}" for i in range(200)]
    of_speaker = np.repeat(rng.random(10) < 0.5, 20)  # half of the speakers are always misheard
    words = np.full(200, 4.0)
    by_utterance = bootstrap_rate(of_speaker * 4.0, words)
    by_speaker = bootstrap_rate(by_cluster(of_speaker * 4.0, speakers), by_cluster(words, speakers))
    assert by_speaker.high - by_speaker.low > 3 * (by_utterance.high - by_utterance.low)
    assert by_cluster([1, 2, 3], ["b", "a", "b"]).tolist() == [2, 4]


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("differences", [[1], [1, 1, 1, 1, 1, 1], [3, -1, 2, 0, -1, 1], [5, -5, 2], [0, 0], [7, 1, 1]])
def test_permutation_counts_all_patterns_of_signs(differences: list[int]) -> None:
    patterns = [
        sum(s * d for s, d in zip(signs, differences)) for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    extreme = sum(abs(total) >= abs(sum(differences)) for total in patterns)
    assert permutation_p(differences) == pytest.approx(extreme / len(patterns))


def test_p_is_uniform_where_nothing_differs() -> None:
    rng, trials = np.random.default_rng(3), 2000
    ps = np.array([permutation_p(rng.integers(-15, 16, 40)) for _ in range(trials)])
    for level in (0.01, 0.05, 0.1, 0.25, 0.5, 0.75):
        noise = 3.5 * math.sqrt(level * (1 - level) / trials)
        assert level - noise - 0.02 <= np.mean(ps <= level) <= level + noise


def test_large_sets_are_fine() -> None:
    rng = np.random.default_rng(4)
    assert 0 < permutation_p(rng.integers(-3, 4, 5000) + (rng.random(5000) < 0.02)) <= 1


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).tolist() == [] and holm([0.9, 0.8]).tolist() == [1, 1]


# --- verdicts ---------------------------------------------------------------------------------------------------------


def difference(rate: float, low: float, high: float, p: float, speakers: bool = False) -> Difference:
    by_speaker = Interval(-0.001, high) if speakers else None
    return Difference(rate, Interval(low, high), by_speaker, p, p if speakers else None, 9, 773)


def test_the_verdict_in_words() -> None:
    small = difference(0.003, -0.004, 0.011, 0.5)
    assert verdict("q4_0", small, 0.5) == (
        "q4_0: +0.3 points, interval -0.4 to +1.1: no difference can be claimed from 773 words"
    )
    large = difference(0.041, 0.02, 0.063, 0.0001)
    assert verdict("q2_k", large, 0.0003, 3) == (
        "q2_k: +4.1 points, interval +2.0 to +6.3: more errors (p = 0.0003 after correction for 3 comparisons)"
    )
    assert "for these speakers only" in verdict("q2_k", difference(0.041, 0.02, 0.063, 0.001, speakers=True), 0.001)


def test_a_test_that_fails_correction_claims_nothing() -> None:
    assert "no difference can be claimed" in verdict("q3_k", difference(0.02, 0.001, 0.04, 0.03), 0.09, 3)


def test_what_is_there_is_found_and_what_is_not_is_not() -> None:
    rng = np.random.default_rng(5)
    errors, words = clumped_errors(rng, 300, 0.2)
    worse = errors + rng.binomial((words - errors).astype(int), 0.1)
    found = compare(worse, errors, words)
    assert "more errors" in verdict("worse", found, found.p)
    better = compare(errors, worse, words)
    assert "fewer errors" in verdict("better", better, better.p)
    assert better.rate == -found.rate and better.p == found.p


def test_what_a_set_can_show_is_found_four_times_out_of_five() -> None:
    rng, n = np.random.default_rng(6), 400
    words = np.full(n, 8.0)
    can_show = detectable_difference(words, correlation=0.0)
    changed = 0.02  # the share of words that change; so many more of them for the worse that the difference is right
    worse = changed / 2 + can_show.rate / 2
    found = 0
    for _ in range(400):
        draws = rng.random((n, 8))
        d = (draws < worse).sum(axis=1) - ((draws >= worse) & (draws < changed)).sum(axis=1)
        found += permutation_p(d) < 0.05
    assert 0.7 <= found / 400 <= 0.9


def test_what_a_set_cannot_show_at_all() -> None:
    can_show = detectable_difference([7] * 20)
    assert can_show.floor == 6 / 140
    assert permutation_p([1] * 5) > 0.05 > permutation_p([1] * 6)
    assert detectable_difference([7] * 20, n_comparisons=4).floor == 8 / 140
    assert "140 words in 20 utterances" in str(can_show)


# --- totals only ------------------------------------------------------------------------------------------------------


def test_binomial_intervals_are_exact() -> None:
    interval = binomial_interval(5, 251)

    def at_most(errors: int, share: float) -> float:
        return sum(math.comb(251, k) * share**k * (1 - share) ** (251 - k) for k in range(errors + 1))

    assert at_most(5, interval.high) == pytest.approx(0.025)
    assert 1 - at_most(4, interval.low) == pytest.approx(0.025)
    assert binomial_interval(0, 10) == Interval(0.0, pytest.approx(1 - 0.025**0.1))
    assert binomial_interval(10, 10).high == 1


def test_fisher_and_newcombe() -> None:
    assert fisher_p(Counts("a", 3, 4), Counts("b", 1, 4)) == pytest.approx(34 / 70)  # Fisher's own, of the tea
    assert fisher_p(Counts("a", 0, 5), Counts("b", 0, 9)) == 1
    interval = difference_interval(Counts("a", 56, 70), Counts("b", 48, 80))  # Newcombe 1998, table II, method 10
    assert (interval.low, interval.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


@pytest.mark.skipif(not TABLE_3.is_file(), reason="the docs are not here")
def test_table_3_of_the_paper_shows_no_difference() -> None:
    report = compare_counts(read_counts(TABLE_3))
    assert [(each["name"], each["errors"], each["words"]) for each in report["systems"]] == [
        ("base", 5, 251), ("int5", 5, 251), ("int4", 4, 251), ("int8", 5, 251)
    ]  # fmt: skip
    assert not any(each["is_claimed"] for each in report["comparisons"])
    assert report["verdict"] == "Nothing differs from base: no difference can be claimed from 251 words."
    assert report["comparisons"][1]["verdict"] == (
        "int4: -0.4 points, interval -3.2 to +2.3: no difference can be claimed from 251 words"
    )


def test_counts_that_differ_are_told_apart() -> None:
    report = compare_counts([Counts("a", 10, 1000), Counts("b", 11, 1000), Counts("c", 60, 1000)], baseline="b")
    assert [each["is_claimed"] for each in report["comparisons"]] == [False, True]
    assert "more errors" in report["comparisons"][1]["verdict"]
    with pytest.raises(OptionError, match="one of a, b"):
        compare_counts([Counts("a", 1, 2), Counts("b", 1, 2)], baseline="c")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "column 'name'"),
        ("name,errors\na,1\n", 1, "column 'words'"),
        ("name,errors,words\n", None, "no row"),
        ("name,errors,words\na,1,2\nb,x,2\n", 3, "whole numbers"),
        ("name,errors,words\na,1\n", 2, "whole numbers"),
        ("name,errors,words\n,1,2\n", 2, "name is empty"),
        ("name,errors,words\na,3,2\n", 2, "insertions"),
        ("name,errors,words\na,-1,2\n", 2, "0 to as many"),
        ("name,errors,words\na,0,0\n", 2, "0 to as many"),
        ("name,errors,words\na,1,2\na,1,2\n", None, "twice"),
        ('name,errors,words\n"a,1,2\n', None, "no csv"),
    ],
)
def test_tables_of_counts_that_are_wrong(tmp_path: Path, text: str, line: object, reason: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=reason) as caught:
        read_counts(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)


def test_no_table_of_counts(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_counts(tmp_path / "counts.csv")


def test_names_in_the_summary_stay_as_they_are() -> None:
    rows = [{"name": "base.en Q8_0", "is_claimed": True, "difference": 0.1}]
    assert _summary(rows, "Tiny F16", 10) == "More errors than Tiny F16: base.en Q8_0."
