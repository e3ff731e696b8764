"""What random architectures reach: the measure of every search.

Letters: n scores of random or of all architectures, k architectures that a random search tries.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from enas.errors import DataError
from enas.evidence.statistics.interval import Floats, checked

ROUNDING = 1e-12
"""Relative error of an expected best; a result that close below one has reached it."""


def percentile(scores: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The mean share of the reference that lies below a score, ties counted half.

    Scores drawn from the reference have 0.5 on average, whatever its distribution.
    """
    score_N, sorted_R = checked("scores", scores), np.sort(checked("reference", reference))
    below_N, not_above_N = (np.searchsorted(sorted_R, score_N, side) for side in ("left", "right"))
    return float((below_N + not_above_N).mean() / (2 * len(sorted_R)))


def best_of_k(scores: npt.ArrayLike, k: int) -> float:
    """The expected best of `k` different ones of these n, drawn uniformly (without replacement); 1 <= k <= n.

    Σ_i s_(i) C(i-1, k-1) / C(n, k). Of the scores of a whole space: what a random search that repeats nothing
    reaches, exactly. Of a random sample of a space: the unbiased estimate of what the best of k random ones is
    (Tang et al. 2020, arXiv:2004.00588; drawing with replacement from the sample would underestimate it).
    Raises `DataError` unless 1 <= k <= n.
    """
    sorted_N = np.sort(checked("scores", scores))
    n = len(sorted_N)
    if not 1 <= k <= n:
        raise DataError(f"the best of {k} different ones out of {n} is not defined; k must be from 1 to {n}")
    place_M = np.arange(k, n + 1, dtype=np.float64)  # the best of k is at least the k-th from below
    log_share_M = _log_choose(place_M - 1, k - 1) - _log_choose(float(n), k)
    return float(np.exp(log_share_M) @ sorted_N[k - 1 :])


def best_of_k_draws(scores: npt.ArrayLike, k: int) -> float:
    """The expected best of `k` independent draws from these n (with replacement): Σ_i s_(i) ((i/n)^k - ((i-1)/n)^k).

    Of the scores of a whole space: what a random search that may draw an architecture twice reaches, exactly.
    Raises `DataError` if k is below 1.
    """
    sorted_N = np.sort(checked("scores", scores))
    if k < 1:
        raise DataError(f"the best of {k} draws is not defined; k must be 1 or more")
    not_above_N = (np.arange(len(sorted_N) + 1) / len(sorted_N)) ** k
    return float(np.diff(not_above_N) @ sorted_N)


def random_equivalents(result: float, scores: npt.ArrayLike) -> float:
    """k*: the smallest k for which `best_of_k` of random scores reaches the result; infinite if it exceeds them all.

    A result at or below their mean is worth one random architecture.
    """
    score_N = checked("scores", scores)
    if result > score_N.max():
        return math.inf
    reached = result - ROUNDING * float(np.abs(score_N).max())
    low, high = 1, len(score_N)  # the expected best never falls with k, and that of all n is the largest
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if best_of_k(score_N, middle) >= reached else (middle + 1, high)
    return float(low)


def end_to_end_cost(runs: int, search: float, validate: float, final: float) -> float:
    """What a result cost, all runs counted: k · (T_search + T_validate) + T_final (Lindauer & Hutter 2019).

    `search` and `validate` are of one of `runs` searches, `final` is the training of what was picked; any one unit.
    """
    return runs * (search + validate) + final


def _log_choose(n: Floats | float, k: int) -> Floats:
    """log C(n, k)."""
    return np.asarray(
        gammaln(np.add(n, 1)) - gammaln(k + 1) - gammaln(np.subtract(n, k) + 1), dtype=np.float64
    )
