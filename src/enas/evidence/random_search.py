"""Random search, resolved from trainings that are there already: nothing is trained for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from enas.config import RunConfig
from enas.evidence.comparison import RANDOM_SEARCH, TOLERANCE, Record, mean
from enas.evidence.runs import seconds_of
from enas.retrain import score_in
from enas.runtime.progress import say

Result = Mapping[str, Any]
"""What result.json says of a training."""


def test_score(config: RunConfig, result: Result | None) -> float | None:
    """By the run's metric; None if the training diverged, or there is none."""
    if result is None or "diverged" in result:
        return None
    return score_in(result, f"test_{config.metric.name}")


def random_searches(config: RunConfig, own: Sequence[Record], sampled: Sequence[Result]) -> list[Record]:
    """Random search with every seed of the own method, resolved from the sampled trainings: nothing is trained for it.

    A random search trains so many architectures, rounded up, as take the seconds of a run of the own method, its final
    training included, and takes the one of the best validation score. Each has architectures of its own, the next ones of
    those drawn, so that searches of different seeds are independent. Where there are too few, all have fewer; that is said
    unless what they have still counts as an equal budget.
    """
    costs = [seconds_of(result) for result in sampled if "seconds" in result]
    worth = 1.0  # if the trainings are too short to be timed
    if sum(costs):
        worth = mean(own, "seconds") / float(np.mean(costs))
    wanted = math.ceil(worth)
    each = min(max(1, wanted), len(sampled) // len(own))
    if each < (1 - TOLERANCE) * worth:
        say(
            f"compare: random search has {each} trainings a seed, not the {wanted} that take as long as a run of "
            f"{own[0].method}; for those, --samples {wanted * len(own)}"
        )
    parts = [sampled[place * each : (place + 1) * each] for place in range(len(own))]
    return [random_search(config, record.seed, part) for record, part in zip(own, parts, strict=True)]


def random_search(config: RunConfig, seed: int, trained: Sequence[Result]) -> Record:
    """The best of these trainings by its validation score. All of them are what picking it costs."""
    whole = [result for result in trained if "diverged" not in result]
    best = max(whole, key=config.metric.score, default=None)
    return Record(
        method=RANDOM_SEARCH,
        seed=seed,
        architecture="" if best is None else best["architecture"]["text"],
        score=test_score(config, best),
        evaluations=len(trained),
        validate_seconds=sum(map(seconds_of, trained)),
    )
