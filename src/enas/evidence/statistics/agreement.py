"""Whether shared weights order architectures as training them alone does.

Every statistic has a percentile bootstrap interval over architectures. A resample is a row of counts, how often each
architecture was drawn; one in which all are tied shows no order and counts as 0.

Letters: N architectures, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enas.errors import DataError
from enas.evidence.statistics.interval import Floats, Interval, checked_pairs

RESAMPLES = 2000

Statistic = Callable[[Floats, Floats, Floats], Floats]
"""Of the N shared scores, the N trained ones and the counts [R, N] of R resamples: the values [R]."""


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

    def chance(self) -> float:
        """The hit rate of scores that know nothing."""
        return self.k / self.kendall.n


def rank_agreement(
    shared: npt.ArrayLike, trained: npt.ArrayLike, k: int, rng: np.random.Generator, level: float = 0.95
) -> RankAgreement:
    """The agreement of the scores with shared weights and of those after training alone.

    Raises `DataError` for fewer than two architectures, scores that are all equal, or a k that is not below N.
    """
    shared_N, trained_N = checked_pairs(("shared scores", "trained scores"), shared, trained)
    n = len(shared_N)
    if not 1 <= k < n:
        raise DataError(f"the {k} best of {n} architectures are no choice; k must be from 1 to {n - 1}")
    if np.ptp(shared_N) == 0 or np.ptp(trained_N) == 0:
        raise DataError(f"all {n} architectures have the same score, so there is no order to agree on")
    count_RN = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    count_RN = np.concatenate((np.ones((1, n)), count_RN))  # the first row is what was observed

    def interval(statistic: Statistic) -> Interval:
        value, *resampled = statistic(shared_N, trained_N, count_RN).tolist()
        low, high = np.quantile(resampled, ((1 - level) / 2, (1 + level) / 2)).tolist()
        return Interval(value, low, high, level, n)

    def hit_rate(shared_N: Floats, trained_N: Floats, count_RN: Floats) -> Floats:
        return top_hit_rates(shared_N, trained_N, count_RN, k)

    return RankAgreement(interval(kendall_taus), interval(spearman_rhos), interval(hit_rate), k)


def top(scores: npt.ArrayLike, share: float = 0.2) -> npt.NDArray[np.int64]:
    """The places of the best `share` of the scores, rounded up, best first; of ties the earlier ones."""
    score_N = np.asarray(scores, dtype=np.float64)
    return np.argsort(-score_N, kind="stable")[: math.ceil(share * len(score_N) - 1e-9)]


def kendall_taus(x_N: Floats, y_N: Floats, count_RN: Floats) -> Floats:
    """Kendall's tau-b of each resample [R]; two draws of one architecture are tied."""
    x_NN, y_NN = np.sign(x_N[:, None] - x_N), np.sign(y_N[:, None] - y_N)
    agreeing_R, x_R, y_R = (
        np.einsum("rn,rn->r", count_RN @ sign_NN, count_RN) for sign_NN in (x_NN * y_NN, x_NN**2, y_NN**2)
    )
    return _ratio(agreeing_R, np.sqrt(x_R * y_R))


def spearman_rhos(x_N: Floats, y_N: Floats, count_RN: Floats) -> Floats:
    """Spearman's rho of each resample [R]: Pearson's correlation of the ranks, ties sharing their mean rank."""
    x_RN, y_RN = (_ranks(values_N, count_RN) for values_N in (x_N, y_N))
    centre = (count_RN[0].sum() + 1) / 2
    covariance_R, x_R, y_R = (
        (count_RN * (u_RN - centre) * (v_RN - centre)).sum(1)
        for u_RN, v_RN in ((x_RN, y_RN), (x_RN, x_RN), (y_RN, y_RN))
    )
    return _ratio(covariance_R, np.sqrt(x_R * y_R))


def top_hit_rates(x_N: Floats, y_N: Floats, count_RN: Floats, k: int) -> Floats:
    """Share of the k best by y that are among the k best by x, of each resample [R]; of ties, the expected share."""
    x_RN, y_RN = (_shares_in_top(values_N, count_RN, k) for values_N in (x_N, y_N))
    return np.asarray((count_RN * x_RN * y_RN).sum(1) / k)


def _ranks(values_N: Floats, count_RN: Floats) -> Floats:
    """The rank from below of a draw of each architecture in each resample [R, N]."""
    below_RN, tied_RN = _below_and_tied(values_N, count_RN)
    return below_RN + (tied_RN + 1) / 2


def _shares_in_top(values_N: Floats, count_RN: Floats, k: int) -> Floats:
    """The probability that a draw of each architecture is among the k highest, ties in random order [R, N]."""
    below_RN, tied_RN = _below_and_tied(values_N, count_RN)
    above_RN = count_RN.sum(1, keepdims=True) - below_RN - tied_RN
    return np.asarray(np.clip((k - above_RN) / np.maximum(tied_RN, 1), 0, 1))


def _below_and_tied(values_N: Floats, count_RN: Floats) -> tuple[Floats, Floats]:
    """How many draws of each resample have a lower value than each architecture, and how many the same [R, N]."""
    return count_RN @ (values_N[:, None] < values_N), count_RN @ (values_N[:, None] == values_N)


def _ratio(above_R: Floats, below_R: Floats) -> Floats:
    """above / below, and 0 where below is 0."""
    return np.divide(above_R, below_R, out=np.zeros_like(above_R), where=below_R > 0)
