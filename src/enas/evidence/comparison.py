"""Methods compared at equal budget: from what their runs came to, to numbers. The runs are made by `enas.evidence.compare`.

A run is one search, with the architecture that it picked trained alone. Runs of two methods are paired by their seeds.
The method `sampling` is another thing: architectures drawn at random and trained alike, each a run by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from enas.config import Metric
from enas.errors import DataError
from enas.evidence.statistics import (
    Interval,
    best_of_k,
    claim_better,
    claim_better_unpaired,
    end_to_end_cost,
    mean_difference,
    probability_better,
    probability_better_paired,
    random_equivalents,
    seeds_needed,
)
from enas.evidence.statistics.interval import Floats
from enas.runtime.records import WrongRecord, validated
from enas.runtime.seeding import derive_seed

SAMPLING = "sampling"
"""The method whose runs are random architectures."""

RANDOM_SEARCH = "random-search"
"""The method that trains random architectures alone and picks the best of them by its validation score."""

TOLERANCE = 0.1
"""By what share of it a budget may differ and still count as equal."""


@dataclass(frozen=True)
class Record:
    """What one run of one method came to."""

    method: str
    seed: int
    architecture: str
    score: float | None
    """By the metric of the comparison; None if the training diverged, which is worse than any score."""
    evaluations: int
    """Architectures rewarded, each time on one minibatch; of a method without shared weights, architectures trained."""
    search_seconds: float
    validate_seconds: float
    """Of picking one architecture, such as training a shortlist."""
    final_seconds: float
    """Of training the picked one."""

    @property
    def seconds(self) -> float:
        """Of all three."""
        return self.search_seconds + self.validate_seconds + self.final_seconds


@dataclass(frozen=True)
class MethodSummary:
    """One method by itself."""

    method: str
    runs: int
    diverged: int
    score: float | None
    """Mean over the runs that did not diverge."""
    worst: float | None
    best: float | None
    evaluations: float
    """Mean of a run."""
    seconds: float
    """Mean of a run."""
    end_to_end_seconds: float
    """Of all its runs and one final training: k · (T_search + T_validate) + T_final."""
    random_equivalents: float | None
    """Smallest k for which the expected best of k sampled architectures reaches the mean score; None if none does, or
    nothing was sampled."""


@dataclass(frozen=True)
class Contest:
    """The method that is put to the test against another one."""

    rival: str
    paired: bool
    """Whether runs of equal seeds were compared, or all with all."""
    better: Interval
    """P(better), ties and double divergence half."""
    difference: Interval | None
    """By how much better, mean over the pairs that did not diverge; None if there are fewer than two, or no pairs."""
    seeds_needed: float | None
    """Runs of each that show a P(better) of this size; None if it is 0.5."""
    evaluations_ratio: float | None
    """The rival's mean number of evaluations over the method's; None if that is 0, or if the rival's are trainings."""
    seconds_ratio: float | None
    """The same of seconds, those of the final training included; None where the method's were too few to be timed."""
    equal_budget: bool
    """Whether the rival had as much as the method by one of these two counts at least."""
    claim: str
    """What the numbers carry, in words."""


@dataclass(frozen=True)
class Comparison:
    """All numbers of a comparison."""

    metric: str
    lower_is_better: bool
    method: str
    summaries: tuple[MethodSummary, ...]
    contests: tuple[Contest, ...]
    best_of_random: tuple[float, ...]
    """Expected best of k = 1, 2, ... different sampled architectures; empty if there are none."""
    random_in_budget: float | None
    """Architectures that are trained in the seconds of one run of the method; None if nothing was sampled."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Comparison:
        """The comparison written by `to_json`. Raises `DataError` naming what is wrong."""
        comparison: Comparison = _read(cls, record)
        return comparison


def record_from_json(values: Mapping[str, Any]) -> Record:
    """The record whose fields these are. Raises `DataError` naming what is wrong."""
    record: Record = _read(Record, values)
    return record


def compare(records: Sequence[Record], method: str, metric: Metric, seed: int = 0) -> Comparison:
    """The numbers of `method` against every other method of the records; `seed` is the bootstrap's.

    Raises `DataError` if there are fewer than two runs of a method, two of one seed, or no pairs with a rival.
    """
    by_method = _grouped(records)
    if method not in by_method:
        raise DataError(f"there is no run of {method!r}; there are runs of {', '.join(by_method)}")
    sign = -1.0 if metric.lower_is_better else 1.0
    sampled_N = sign * _scores(by_method.get(SAMPLING, []))
    # Of diverged ones there is no score, and the expected best would look better than it is: they count as the worst.
    diverged = sum(record.score is None for record in by_method.get(SAMPLING, []))
    if len(sampled_N):
        sampled_N = np.concatenate((sampled_N, np.full(diverged, sampled_N.min())))
    contests = tuple(
        _contest(method, rival, by_method, sign, np.random.default_rng(derive_seed(seed, "bootstrap", rival)))
        for rival in by_method
        if rival != method
    )
    return Comparison(
        metric=metric.name,
        lower_is_better=metric.lower_is_better,
        method=method,
        summaries=tuple(_summary(name, runs, sign, sampled_N) for name, runs in by_method.items()),
        contests=contests,
        best_of_random=tuple(sign * best_of_k(sampled_N, k) for k in range(1, len(sampled_N) + 1)),
        random_in_budget=affordable(by_method[method], by_method.get(SAMPLING, [])),
    )


def affordable(runs: Iterable[Record], sampled: Sequence[Record]) -> float | None:
    """How many of the sampled architectures are trained in the seconds of one run, on average."""
    seconds = [record.final_seconds for record in sampled if record.score is not None]
    return _mean(run.seconds for run in runs) / _mean(seconds) if sum(seconds) else None


def _grouped(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The runs of each method by seed."""
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record.method, []).append(record)
    for name, runs in by_method.items():
        if len(runs) < 2:
            raise DataError(f"one run of {name} shows no spread; make at least 2")
        if name != SAMPLING and len({run.seed for run in runs}) < len(runs):
            raise DataError(f"two runs of {name} have the same seed, so that pairs are not clear")
        runs.sort(key=lambda run: run.seed)
    return by_method


def _scores(runs: Iterable[Record]) -> Floats:
    """The scores of the runs that did not diverge."""
    return np.array([run.score for run in runs if run.score is not None], dtype=np.float64)


def _summary(name: str, runs: Sequence[Record], sign: float, sampled_N: Floats) -> MethodSummary:
    score_N = sign * _scores(runs)
    mean = float(score_N.mean()) if len(score_N) else None
    equivalents = random_equivalents(mean, sampled_N) if mean is not None and len(sampled_N) else math.inf
    return MethodSummary(
        method=name,
        runs=len(runs),
        diverged=len(runs) - len(score_N),
        score=None if mean is None else sign * mean,
        worst=sign * float(score_N.min()) if len(score_N) else None,
        best=sign * float(score_N.max()) if len(score_N) else None,
        evaluations=_mean(run.evaluations for run in runs),
        seconds=_mean(run.seconds for run in runs),
        end_to_end_seconds=end_to_end_cost(
            len(runs),
            _mean(run.search_seconds for run in runs),
            _mean(run.validate_seconds for run in runs),
            _mean(run.final_seconds for run in runs),
        ),
        random_equivalents=equivalents if equivalents < math.inf else None,
    )


def _contest(
    method: str, rival: str, by_method: Mapping[str, list[Record]], sign: float, rng: np.random.Generator
) -> Contest:
    ours, theirs = by_method[method], by_method[rival]
    paired = SAMPLING not in (method, rival)
    if paired:
        seeds = {run.seed for run in ours} & {run.seed for run in theirs}
        if len(seeds) < 2:
            raise DataError(f"{method} and {rival} have {len(seeds)} seeds in common; make at least 2")
        ours, theirs = ([run for run in runs if run.seed in seeds] for runs in (ours, theirs))
    score_N, rival_M = (
        np.array([-math.inf if run.score is None else sign * run.score for run in runs])
        for runs in (ours, theirs)
    )
    floor = min([score for score in (*score_N, *rival_M) if score > -math.inf], default=0.0) - 1
    ranked_N, ranked_M = np.maximum(score_N, floor), np.maximum(rival_M, floor)
    difference = None
    if paired:
        better = probability_better_paired(ranked_N, ranked_M)
        both = (score_N > floor) & (rival_M > floor)
        if both.sum() > 1:
            difference = mean_difference(score_N[both], rival_M[both], rng)
    else:
        better = probability_better(ranked_N, ranked_M)
    needed = seeds_needed(better.value)
    evaluations = _mean(run.evaluations for run in ours)
    alike = evaluations > 0 and rival not in (SAMPLING, RANDOM_SEARCH)
    evaluations_ratio = _mean(run.evaluations for run in theirs) / evaluations if alike else None
    spent = _mean(run.seconds for run in ours)
    seconds_ratio = _mean(run.seconds for run in theirs) / spent if spent else None
    ratios = [ratio for ratio in (evaluations_ratio, seconds_ratio) if ratio is not None]
    equal = any(abs(ratio - 1) <= TOLERANCE for ratio in ratios)
    claim = (claim_better if paired else claim_better_unpaired)(better, rival)
    if paired:
        claim = at_equal_budget(claim, better, rival, ratios)
    return Contest(
        rival=rival,
        paired=paired,
        better=better,
        difference=difference,
        seeds_needed=needed if needed < math.inf else None,
        evaluations_ratio=evaluations_ratio,
        seconds_ratio=seconds_ratio,
        equal_budget=equal,
        claim=claim,
    )


def at_equal_budget(claim: str, better: Interval, rival: str, ratios: Sequence[float]) -> str:
    """The claim, unless by every count of the budget it is the one with less that came out worse.

    `ratios` are the rival's budget over the method's: of evaluations, of seconds, as far as they are known.
    """
    if not ratios:
        return claim
    if better.low > 0.5 and max(ratios) < 1 - TOLERANCE:
        return f"no claim against {rival}, which had {max(ratios):.2f} times the budget at most: P = {better}"
    if better.high < 0.5 and min(ratios) > 1 + TOLERANCE:
        return (
            f"no claim against {rival}, which had {min(ratios):.2f} times the budget at least: P = {better}"
        )
    return claim


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _read(cls: type, values: Any) -> Any:
    """A dataclass, and those in it, from plain values. Raises `DataError` for a wrong value or an unknown name."""
    try:
        return validated(cls, values, closed=True)
    except WrongRecord as error:
        raise DataError(f"{cls.__name__}, {error}") from error
