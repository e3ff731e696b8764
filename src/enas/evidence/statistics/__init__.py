"""How good a search was, in numbers that say how sure they are: pure functions on NumPy arrays.

A score is better the higher it is. Randomness is an argument, a `numpy.random.Generator`.
"""

from enas.evidence.statistics.agreement import RankAgreement, rank_agreement, top
from enas.evidence.statistics.interval import Interval
from enas.evidence.statistics.random_search import (
    best_of_k,
    best_of_k_draws,
    end_to_end_cost,
    percentile,
    random_equivalents,
)
from enas.evidence.statistics.runs import (
    claim_better,
    claim_better_unpaired,
    claim_difference,
    mean,
    mean_difference,
    median,
    probability_better,
    probability_better_paired,
    seeds_needed,
)

__all__ = [
    "Interval",
    "RankAgreement",
    "best_of_k",
    "best_of_k_draws",
    "claim_better",
    "claim_better_unpaired",
    "claim_difference",
    "end_to_end_cost",
    "mean",
    "mean_difference",
    "median",
    "percentile",
    "probability_better",
    "probability_better_paired",
    "random_equivalents",
    "rank_agreement",
    "seeds_needed",
    "top",
]
