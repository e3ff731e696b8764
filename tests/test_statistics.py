"""Statistics against scipy, closed forms, enumerations and simulations."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from enas.errors import ConfigError, DataError
from enas.evidence.agreement import kendall_taus, rank_agreement, spearman_rhos, top, top_hit_rates
from enas.evidence.statistics import (
    Interval,
    best_of_k,
    claim_better,
    claim_difference,
    mean,
    mean_difference,
    median,
    probability_better,
    probability_better_paired,
    random_equivalents,
    seeds_needed,
)
from enas.scores import percentile

TABLE = np.array([0.3, 0.9, 0.1, 0.5, 0.5, 0.7])


def numbers(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- random architectures ----------------------------------------------------------------------------------------------


def test_percentile_is_scipys_mean_percentile() -> None:
    scores, reference = numbers().integers(0, 9, 30), numbers(1).integers(0, 9, 200)
    expected = np.mean([stats.percentileofscore(reference, score, kind="mean") for score in scores]) / 100
    assert percentile(scores, reference) == pytest.approx(expected, abs=1e-12)


def test_percentile_is_the_probability_of_beating_a_random_one() -> None:
    scores, others = numbers(3).integers(0, 6, 9), numbers(4).integers(0, 6, 14)
    u = stats.mannwhitneyu(scores, others).statistic
    assert percentile(scores, others) == pytest.approx(u / (9 * 14), abs=1e-12)
    assert percentile(np.full(3, 2.0), np.ones(5)) == 1


@pytest.mark.parametrize("reference", [TABLE, [1.0, 1.0, 1.0], [1.0, 2.0, 2.0, 8.0]])
def test_percentile_of_the_reference_itself_is_a_half(reference: list[float]) -> None:
    assert percentile(reference, reference) == pytest.approx(0.5)


@pytest.mark.parametrize("k", range(1, 7))
def test_best_of_k_is_the_mean_over_all_subsets(k: int) -> None:
    expected = np.mean([max(subset) for subset in itertools.combinations(TABLE, k)])
    assert best_of_k(TABLE, k) == pytest.approx(expected, abs=1e-12)


def test_best_of_uniform_scores_has_its_closed_form() -> None:
    """Of 1 .. n: k (n + 1) / (k + 1); at any size of the table."""
    n = 26_206
    table = np.arange(1, n + 1)
    for k in (1, 2, 16, 300, n):
        assert best_of_k(table, k) == pytest.approx(k * (n + 1) / (k + 1), rel=1e-8)


def test_best_of_k_of_a_sample_is_unbiased() -> None:
    samples = numbers(3).random((4000, 20))
    estimates = np.array([best_of_k(sample, 8) for sample in samples])
    assert abs(estimates.mean() - 8 / 9) < 4 * estimates.std() / math.sqrt(len(samples))


@pytest.mark.parametrize(
    ("result", "expected"), [(0.0, 1), (0.5, 1), (0.51, 2), (0.9, 6), (0.90001, math.inf)]
)
def test_random_equivalents_of_a_small_table(result: float, expected: float) -> None:
    assert random_equivalents(result, TABLE) == expected


@pytest.mark.parametrize("n", [651, 768, 793, 15_625])
def test_equal_scores_are_worth_one_random_architecture(n: int) -> None:
    scores = np.full(n, 90.0)
    assert random_equivalents(90.0, scores) == 1
    assert best_of_k(scores, n // 3) == pytest.approx(90.0, rel=1e-13)


def test_random_equivalents_inverts_the_curve() -> None:
    table = numbers(4).normal(size=128)
    curve = [best_of_k(table, k) for k in range(1, 129)]
    assert (np.diff(curve) > 0).all()
    for k in (1, 2, 7, 64, 128):
        assert random_equivalents(curve[k - 1], table) == k
    for k in (2, 7, 64):
        assert random_equivalents((curve[k - 2] + curve[k - 1]) / 2, table) == k


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: best_of_k(TABLE, 7), "k must be from 1 to 6"),
        (lambda: best_of_k(TABLE, 0), "k must be from 1 to 6"),
        (lambda: percentile([], TABLE), "scores must be a row of at least 1 numbers"),
        (lambda: percentile([math.nan], TABLE), "scores must be finite numbers; nan is among them"),
        (lambda: percentile(TABLE, [[1.0, 2.0]]), r"reference must be a row .* shape \(1, 2\)"),
        (lambda: probability_better_paired(TABLE, TABLE[1:]), "are pairs, but there are 6 of the one and 5"),
        (lambda: probability_better([1.0], TABLE), "a must be a row of at least 2 numbers"),
        (lambda: mean_difference([1.0], [2.0], numbers()), "at least 2 numbers"),
        (lambda: rank_agreement(TABLE, TABLE, 6, numbers()), "k must be from 1 to 5"),
        (lambda: rank_agreement(TABLE, np.ones(6), 2, numbers()), "no order to agree on"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        call()


# ---- two methods -------------------------------------------------------------------------------------------------------


def test_paired_probability_counts_ties_half_and_has_scipys_exact_interval() -> None:
    a, b = np.zeros(50), np.concatenate((-np.ones(41), np.ones(9)))
    better = probability_better_paired(a, b)
    exact = stats.binomtest(41, 50).proportion_ci(0.95, method="exact")
    assert (better.value, better.n, better.level) == (0.82, 50, 0.95)
    assert (better.low, better.high) == pytest.approx((exact.low, exact.high))
    assert probability_better_paired([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 3.0, 5.0]).value == 0.5


@pytest.mark.parametrize("n", [5, 10])
def test_winning_every_pair_leaves_room_for_doubt(n: int) -> None:
    better = probability_better_paired(np.ones(n), np.zeros(n))
    assert (better.value, better.high) == (1.0, 1.0)
    assert better.low == pytest.approx(0.025 ** (1 / n))
    worse = probability_better_paired(np.zeros(n), np.ones(n))
    assert (worse.low, worse.high) == pytest.approx((0.0, 1 - better.low))


def test_unpaired_probability_is_mann_whitneys_statistic() -> None:
    a, b = numbers().integers(0, 9, 20), numbers(1).integers(0, 9, 15)
    u = stats.mannwhitneyu(a, b).statistic
    better, worse = probability_better(a, b), probability_better(b, a)
    assert better.value == pytest.approx(u / 300)
    assert better.low < better.value < better.high
    assert (worse.value, worse.low, worse.high) == pytest.approx(
        (1 - better.value, 1 - better.high, 1 - better.low)
    )
    assert better.n == 15


def test_complete_separation_leaves_room_for_doubt() -> None:
    better = probability_better(np.arange(10) + 10.0, np.arange(10))
    assert (better.value, better.high) == (1.0, 1.0)
    assert 0.6 < better.low < 0.95


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_intervals_of_probabilities_hold_the_truth_as_often_as_they_say(shift: float) -> None:
    """Of 600 each; a normal shift has P(better) = Φ(shift / √2). The paired one is known to hold it more often."""
    truth, rng = stats.norm.cdf(shift / math.sqrt(2)), numbers(5)
    a, b = rng.normal(shift, 1, (600, 20)), rng.normal(0, 1, (600, 20))
    paired = [probability_better_paired(*runs).holds(truth) for runs in zip(a, b, strict=True)]
    unpaired = [probability_better(*runs).holds(truth) for runs in zip(a, b, strict=True)]
    assert np.mean(paired) > 0.93
    assert 0.925 < np.mean(unpaired) < 0.985


def test_mean_difference_has_scipys_interval() -> None:
    a, b = numbers().gamma(2.0, size=25), numbers(1).gamma(1.0, size=25)
    found = mean_difference(a, b, numbers(2), level=0.9)
    expanded = 2 * stats.norm.cdf(math.sqrt(25 / 24) * stats.t.ppf(0.95, 24)) - 1
    expected = stats.bootstrap(
        (a, b), lambda x, y, axis: (x - y).mean(axis), paired=True, confidence_level=expanded, rng=numbers(2)
    ).confidence_interval
    assert found.value == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    assert found.n == 25
    assert mean_difference(a, b, numbers(2)) == mean_difference(a, b, numbers(2))


@pytest.mark.parametrize(("n", "least"), [(6, 0.88), (10, 0.91), (40, 0.91)])
def test_mean_difference_holds_the_truth_as_often_as_it_says(
    n: int, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 samples of n differences of normal variables with means 2 and 1, and unequal spread."""
    monkeypatch.setattr("enas.evidence.statistics.RESAMPLES", 999)
    rng = numbers(6)
    held = [mean_difference(rng.normal(2, 2, n), rng.normal(1, 1, n), rng).holds(1.0) for _ in range(400)]
    assert least < np.mean(held) < 0.98


@pytest.mark.parametrize("n", [2, 3])
def test_few_pairs_have_an_interval_within_their_differences(n: int) -> None:
    found = mean_difference(np.arange(n), np.zeros(n), numbers())
    assert 0 <= found.low < found.value < found.high <= n - 1


def test_equal_differences_have_an_interval_without_width() -> None:
    assert mean_difference([3.0, 4.0], [1.0, 2.0], numbers()) == Interval(2.0, 2.0, 2.0, 0.95, 2)


def test_mean_is_the_mean_difference_from_zero() -> None:
    a = numbers().gamma(2.0, size=12)
    assert mean(a, numbers(1)) == mean_difference(a, np.zeros(12), numbers(1))


@pytest.mark.parametrize("n", [6, 10, 25])
def test_interval_of_a_median_is_between_the_runs_that_a_sign_test_leaves_open(n: int) -> None:
    values = numbers(n).exponential(size=n)
    ordered = np.sort(values)
    # Run number r from below, counted from 0, is above the median if at most r of n fair coins fall on one side.
    rank = max(r for r in range(n // 2) if 2 * stats.binom.cdf(r, n, 0.5) <= 0.05)
    found = median(values)
    assert (found.value, found.low, found.high) == (np.median(values), ordered[rank], ordered[n - 1 - rank])
    assert median([*values[:-1], math.inf]).value >= found.value


def test_medians_of_few_runs_have_no_interval() -> None:
    with pytest.raises(
        DataError, match=r"5 runs are too few for an interval of their median at a level of 0\.95"
    ):
        median(range(5))


@pytest.mark.parametrize(("p", "seeds"), [(0.75, 21), (0.65, 59), (0.87, 10), (0.35, 59), (0.5, math.inf)])
def test_seeds_needed_are_those_of_noether(p: float, seeds: float) -> None:
    assert seeds_needed(p) == seeds


def test_so_many_seeds_have_the_power() -> None:
    """2,000 experiments of 59 runs each, of normal scores whose P(better) is 0.65."""
    rng, n = numbers(7), int(seeds_needed(0.65))
    a = rng.normal(math.sqrt(2) * stats.norm.ppf(0.65), 1, (2000, n))
    p_values = stats.mannwhitneyu(a, rng.normal(0, 1, (2000, n)), axis=1).pvalue
    assert np.mean(p_values < 0.05) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("arguments", [(1.2,), (0.7, 1.0), (0.7, 0.95, 0.0)])
def test_seeds_needed_wants_probabilities(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="must be probabilities"):
        seeds_needed(*arguments)


# ---- what may be said --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "says"),
    [
        (
            Interval(0.82, 0.70, 0.91, 0.95, 50),
            "better than random search in 41 of 50 pairs, P = 0.82 [0.70, 0.91]",
        ),
        (
            Interval(0.15, 0.05, 0.32, 0.95, 10),
            "worse than random search in 8.5 of 10 pairs, P = 0.15 [0.05, 0.32]",
        ),
        (
            Interval(0.65, 0.34, 0.88, 0.95, 10),
            "no difference from random search shown: P = 0.65 [0.34, 0.88] over 10 pairs; about 59 seeds would be "
            "needed",
        ),
        (
            Interval(0.5, 0.2, 0.8, 0.95, 10),
            "no difference from random search shown: P = 0.50 [0.20, 0.80] over 10 pairs; neither is ahead",
        ),
    ],
)
def test_a_claim_is_what_the_interval_carries(better: Interval, says: str) -> None:
    assert claim_better(better, "random search") == says


@pytest.mark.parametrize("wins", range(11))
def test_ten_pairs_carry_a_claim_from_nine_wins_on(wins: int) -> None:
    outcome = np.where(np.arange(10) < wins, 1.0, -1.0)
    said = claim_better(probability_better_paired(outcome, np.zeros(10)), "it")
    assert said.startswith("better") == (wins >= 9)
    assert said.startswith("worse") == (wins <= 1)


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        (Interval(2.5, 2.0, 3.1, 0.95, 50), "2.50 [2.00, 3.10] above uniform on average over 50 pairs"),
        (Interval(-2.5, -3.1, -2.0, 0.95, 50), "2.50 [2.00, 3.10] below uniform on average over 50 pairs"),
        (
            Interval(0.1, -0.2, 0.4, 0.95, 9),
            "no difference from uniform shown: 0.10 [-0.20, 0.40] on average over 9 pairs",
        ),
        (
            Interval(0.3, 0.2, 0.4, 0.95, 5),
            "no difference from uniform shown: 0.30 [0.20, 0.40] on average over 5 pairs",
        ),
        (Interval(0.3, 0.2, 0.4, 0.95, 6), "0.30 [0.20, 0.40] above uniform on average over 6 pairs"),
    ],
)
def test_a_difference_is_claimed_only_if_the_interval_leaves_out_zero(
    difference: Interval, says: str
) -> None:
    assert claim_difference(difference, "uniform") == says


def test_an_interval_is_plain_values() -> None:
    interval = Interval(0.5, 0.25, 0.75, 0.95, 8)
    assert Interval(**json.loads(json.dumps(asdict(interval)))) == interval


# ---- agreement ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [6, 1000])
def test_correlations_of_resamples_are_scipys(high: int) -> None:
    """With many ties and with few."""
    x, y = numbers().integers(0, high, 30).astype(float), numbers(1).integers(0, high, 30).astype(float)
    places = numbers(8).integers(0, 30, (20, 30))  # drawn with replacement
    x, y = x[places], y[places]
    for a, b, tau, rho in zip(x, y, kendall_taus(x, y), spearman_rhos(x, y), strict=True):
        assert tau == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
        assert rho == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_hit_rate_without_ties_is_the_share_of_common_places() -> None:
    x, y = numbers().normal(size=40), numbers(1).normal(size=40)
    for k in (1, 5, 39):
        common = set(np.argsort(-x)[:k]) & set(np.argsort(-y)[:k])
        assert top_hit_rates(x, y, k) == pytest.approx(len(common) / k)


def test_hit_rate_of_ties_is_the_mean_over_their_orders() -> None:
    """Every way to order ties, of each score by itself."""
    x, y, k = np.array([3.0, 2.0, 2.0, 2.0, 1.0]), np.array([1.0, 1.0, 0.0, 1.0, 5.0]), 2

    def choices(values: np.ndarray) -> list[set[int]]:
        return [
            set(sorted(range(5), key=lambda i: (-values[i], order[i]))[:k])
            for order in itertools.permutations(range(5))
        ]

    expected = np.mean([len(a & b) / k for a in choices(x) for b in choices(y)])
    assert top_hit_rates(x, y, k) == pytest.approx(expected)


def test_a_resample_of_one_architecture_shows_no_order() -> None:
    drawn = TABLE[[0, 0, 0]]
    assert kendall_taus(drawn, drawn) == spearman_rhos(drawn, drawn) == 0.0


def test_agreement_has_the_observed_values_in_intervals_that_narrow() -> None:
    x = numbers().normal(size=400)
    y = x + numbers(1).normal(size=400)
    wide, narrow = (rank_agreement(x[:n], y[:n], n // 10, numbers(2)) for n in (40, 400))
    assert narrow.kendall.value == pytest.approx(stats.kendalltau(x, y).statistic)
    assert narrow.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    for few, many in (
        (wide.kendall, narrow.kendall),
        (wide.spearman, narrow.spearman),
        (wide.hit_rate, narrow.hit_rate),
    ):
        assert many.low < many.value < many.high
        assert many.high - many.low < few.high - few.low
    assert (narrow.kendall.n, narrow.k, narrow.hit_rate_by_chance) == (400, 40, 0.1)


def test_the_interval_of_tau_holds_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal scores of correlation r have tau = 2/π arcsin r."""
    monkeypatch.setattr("enas.evidence.agreement.RESAMPLES", 400)
    rng, r, held = numbers(9), 0.6, []
    for _ in range(200):
        x, noise = rng.normal(size=(2, 60))
        found = rank_agreement(x, r * x + math.sqrt(1 - r**2) * noise, 6, rng).kendall
        held.append(found.holds(2 / math.pi * math.asin(r)))
    assert 0.9 < np.mean(held) < 0.99


def test_the_top_fifth_are_the_best_places_rounded_up() -> None:
    assert top([5.0, 1.0, 9.0, 9.0, 2.0]).tolist() == [2]
    assert top([5.0, 1.0, 9.0, 9.0, 2.0, 0.0]).tolist() == [2, 3]
    assert top(TABLE, 0.5).tolist() == [1, 5, 3]
    assert len(top(np.arange(100.0))) == 20
