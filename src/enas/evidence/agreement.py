"""Whether two scores order architectures alike, such as shared weights and training alone.

Every statistic has a percentile bootstrap interval over architectures, by scipy. A resample in which all are tied shows
no order and counts as 0.

Letters: N architectures; statistics take any number of rows of them, [..., N].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from enas.errors import DataError
from enas.evidence.statistics import Floats, Interval, checked_pairs

RESAMPLES = 2000
TOP_SHARE = 0.2
"""Of the architectures: the best fifth."""
PAIRS_AT_ONCE = 1_000_000
"""Pairs of architectures that are compared at once, for the sake of memory."""


@dataclass(frozen=True)
class RankAgreement:
    """How far two scores of the same architectures agree about their order."""

    kendall: Interval
    """Kendall's tau-b: (pairs in the same order - pairs in opposite order) / pairs, ties accounted for."""
    spearman: Interval
    """The correlation of the ranks."""
    hit_rate: Interval
    """Share of the `k` best by one score that are among the `k` best by the other."""
    k: int
    hit_rate_by_chance: float
    """The hit rate of scores that know nothing."""


def rank_agreement(
    shared: npt.ArrayLike, trained: npt.ArrayLike, k: int, rng: np.random.Generator, level: float = 0.95
) -> RankAgreement:
    """The agreement of the scores with shared weights and of those after training alone.

    Raises `DataError` for fewer than two architectures, scores that are all equal, or a k that is not below N.
    """
    x_N, y_N = checked_pairs(("shared scores", "trained scores"), shared, trained)
    n = len(x_N)
    if not 1 <= k < n:
        raise DataError(f"the {k} best of {n} architectures are no choice; k must be from 1 to {n - 1}")
    if np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        raise DataError(f"all {n} architectures have the same score, so there is no order to agree on")

    def interval(statistic: Callable[[Floats, Floats], Floats]) -> Interval:
        found = scipy.stats.bootstrap(
            (x_N, y_N),
            lambda x, y, axis: statistic(x, y),  # always along the last
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, PAIRS_AT_ONCE // n**2),
            confidence_level=level,
            method="percentile",
            rng=rng,
        ).confidence_interval
        return Interval(float(statistic(x_N, y_N)), float(found.low), float(found.high), level, n)

    def hit_rate(x: Floats, y: Floats) -> Floats:
        return top_hit_rates(x, y, k)

    return RankAgreement(interval(kendall_taus), interval(spearman_rhos), interval(hit_rate), k, k / n)


def agreement_if_any(x_N: Floats, y_N: Floats, rng: np.random.Generator) -> RankAgreement | None:
    """The agreement, with the hit rate of the best fifth; None where too few architectures differ to tell."""
    n = len(x_N)
    if n < 3 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None
    return rank_agreement(x_N, y_N, math.ceil(TOP_SHARE * n), rng)


def top(scores: npt.ArrayLike, share: float = TOP_SHARE) -> npt.NDArray[np.int64]:
    """The places of the best `share` of the scores, rounded up, best first; of ties the earlier ones."""
    score_N = np.asarray(scores, dtype=np.float64)
    return np.argsort(-score_N, kind="stable")[: math.ceil(share * len(score_N) - 1e-9)]


def kendall_taus(x: Floats, y: Floats) -> Floats:
    """Kendall's tau-b of each row."""
    x_low, y_low, y_high = (
        compare(score[..., :, None], score[..., None, :])
        for compare, score in ((np.less, x), (np.less, y), (np.greater, y))
    )
    same, opposite, x_pairs, y_pairs = (
        np.count_nonzero(pairs, axis=(-2, -1)) for pairs in (x_low & y_low, x_low & y_high, x_low, y_low)
    )
    return _ratio(same - opposite, np.sqrt(1.0 * x_pairs * y_pairs))


def spearman_rhos(x: Floats, y: Floats) -> Floats:
    """Spearman's rho of each row: Pearson's correlation of the ranks, ties sharing their mean rank."""
    u, v = (scipy.stats.rankdata(score, axis=-1) - (score.shape[-1] + 1) / 2 for score in (x, y))
    return _ratio((u * v).sum(-1), np.sqrt((u * u).sum(-1) * (v * v).sum(-1)))


def top_hit_rates(x: Floats, y: Floats, k: int) -> Floats:
    """Share of the k best by y that are among the k best by x, of each row; of ties, the expected share."""
    shares = []
    for score in (x, y):
        lowest, highest = (scipy.stats.rankdata(-score, method, axis=-1) for method in ("min", "max"))
        # Among places lowest..highest, which a score shares with its ties, those up to k are in the top.
        shares.append(np.clip((k + 1 - lowest) / (highest + 1 - lowest), 0, 1))
    rate: Floats = (shares[0] * shares[1]).sum(-1) / k
    return rate


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros_like(np.asarray(above, dtype=np.float64)), where=below > 0)
