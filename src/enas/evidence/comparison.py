"""Methods compared at equal budget: from what their runs came to, to numbers. The runs are made by `enas.evidence.compare`.

A run is one search, with the architecture that it picked trained alone. Runs of two methods are paired by their seeds.
The method `sampling` is another thing: architectures drawn at random and trained alike, each a run by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field

from enas.config import Metric, RunConfig
from enas.costs.settings import CostMeasure, asked, said
from enas.errors import DataError
from enas.evidence.methods import ASHA, BY_PROXY, own_name
from enas.evidence.runs import aligned
from enas.evidence.statistics import (
    LARGEST,
    Floats,
    Interval,
    Verdict,
    best_of_k,
    claim_better,
    mean_difference,
    probability_better,
    probability_better_paired,
    random_equivalents,
    seeds_needed,
    verdict_of,
)
from enas.runtime.progress import duration
from enas.runtime.seeding import derive_seed
from enas.scores import decimals, front

SAMPLING = "sampling"
"""The method whose runs are random architectures."""

RANDOM_SEARCH = "random-search"
"""The method that trains random architectures alone and picks the best of them by its validation score."""

WITHOUT_SHARED_WEIGHTS = (*BY_PROXY, ASHA, RANDOM_SEARCH)
"""Rivals that a search has to beat to be worth the shared weights."""

TOLERANCE = 0.1
"""By what share of it a budget may differ and still count as equal."""


Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


@dataclass(frozen=True)
class Record:
    """What one run of one method came to."""

    method: str
    seed: int
    architecture: str
    score: Number | None
    """By the metric of the comparison; None if the training diverged, which is worse than any score."""
    evaluations: int
    """Architectures rewarded, each time on one minibatch; of a method without shared weights, architectures trained."""
    search_seconds: Number = 0.0
    validate_seconds: Number = 0.0
    """Of picking one architecture, such as training a shortlist."""
    final_seconds: Number = 0.0
    """Of training the picked one."""
    costs: dict[CostMeasure, Number] = field(default_factory=dict)
    """Of the picked one: counts, bytes, milliseconds, as far as they are known."""

    @property
    def seconds(self) -> float:
        """Of all three."""
        return self.search_seconds + self.validate_seconds + self.final_seconds


@dataclass(frozen=True)
class MethodSummary:
    """One method by itself: means over its runs, those of the score over the runs that did not diverge."""

    method: str
    runs: int
    diverged: int
    score: float | None
    worst: float | None
    best: float | None
    evaluations: float
    seconds: float
    end_to_end_seconds: float
    """Of all its runs and one final training: k · (T_search + T_validate) + T_final (Lindauer & Hutter 2019)."""
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
    """Whether evaluations or seconds were equal, within 10 %."""
    verdict: Verdict
    """Whether the method is shown to be better than the rival, or worse."""
    claim: str
    """What the numbers carry, in words."""


@dataclass(frozen=True)
class Front:
    """Networks that were trained alike, by what they cost and score."""

    measure: CostMeasure
    networks: tuple[tuple[float, float, str], ...]
    """The cost, the score and the method of each."""
    best: tuple[tuple[float, float], ...]
    """Costs and scores, cheapest first, that no network of at most the same cost surpasses."""


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
    same_cost: str = ""
    """What all random architectures cost, in words, if the run asks for a cost."""
    front: Front | None = None
    """Score against cost; None if what networks cost is not known, or is the same for all."""

    def __str__(self) -> str:
        return describe(self)


def compare(
    records: Sequence[Record],
    method: str,
    metric: Metric,
    seed: int = 0,
    measure: CostMeasure | None = None,
    same_cost: str = "",
) -> Comparison:
    """The numbers of `method` against every other method of the records; `seed` is the bootstrap's. `measure` and
    `same_cost` say by which costs networks were searched, and what the random ones cost.

    Raises `DataError` if there is no other method, fewer than two runs of one, two of one seed, or no pairs with a rival.
    """
    by_method = _grouped(records)
    if method not in by_method:
        raise DataError(f"there is no run of {method!r}; there are runs of {', '.join(by_method)}")
    if len(by_method) < 2:
        raise DataError(f"there are only runs of {method}, and none to compare them with")
    sign = -1.0 if metric.lower_is_better else 1.0
    sampled = by_method.get(SAMPLING, [])
    sampled_N = sign * _scores(sampled)
    # What diverged counts as the worst: without it the expected best would look better than it is.
    if len(sampled_N):
        sampled_N = np.concatenate((sampled_N, np.full(len(sampled) - len(sampled_N), sampled_N.min())))
    # How many are trained in the seconds of one run of the method.
    training = [record.final_seconds for record in sampled if record.score is not None]
    return Comparison(
        metric=metric.name,
        lower_is_better=metric.lower_is_better,
        method=method,
        summaries=tuple(_summary(name, runs, sign, sampled_N) for name, runs in by_method.items()),
        contests=tuple(
            _contest(
                by_method[method], runs, sign, np.random.default_rng(derive_seed(seed, "bootstrap", rival))
            )
            for rival, runs in by_method.items()
            if rival != method
        ),
        best_of_random=tuple(sign * best_of_k(sampled_N, k) for k in range(1, len(sampled_N) + 1)),
        random_in_budget=mean(by_method[method], "seconds") / float(np.mean(training))
        if sum(training)
        else None,
        same_cost=same_cost,
        front=front_of(records, metric, measure),
    )


def compared(records: Sequence[Record], config: RunConfig) -> Comparison:
    """The numbers of the own method of a run against the others'. Raises as `compare`."""
    said_cost = asked(config.cost, config.limit)
    return compare(records, own_name(config), config.metric, config.seed, config.cost.measure, said_cost)


USUAL_COSTS: tuple[CostMeasure, ...] = ("multiply_adds", "parameters")
"""What scores are set against if the run asks for nothing else."""


def front_of(records: Sequence[Record], metric: Metric, asked_for: CostMeasure | None) -> Front | None:
    """Score against the cost that is asked for, or else the first that differs between networks and all of them have."""
    trained = [one for one in records if one.score is not None and one.method != RANDOM_SEARCH]
    for measure in USUAL_COSTS if asked_for is None else (asked_for,):
        known = [
            (one.costs[measure], one.score, one.method)
            for one in trained
            if measure in one.costs and one.score is not None
        ]
        if len(known) == len(trained) and len({cost for cost, _, _ in known}) > 1:
            best = front([(cost, score) for cost, score, _ in known], metric.better)
            return Front(measure, tuple(sorted(known)), tuple(best))
    return None


def mean(runs: Sequence[Record], what: str) -> float:
    """The mean over runs of one of their numbers."""
    return float(np.mean([getattr(run, what) for run in runs]))


def _grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
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


def _scores(runs: Sequence[Record]) -> Floats:
    """The scores of the runs that did not diverge."""
    return np.array([run.score for run in runs if run.score is not None], dtype=np.float64)


def _summary(name: str, runs: Sequence[Record], sign: float, sampled_N: Floats) -> MethodSummary:
    score_N = sign * _scores(runs)
    known = len(score_N) > 0
    equivalents = (
        random_equivalents(float(score_N.mean()), sampled_N) if known and len(sampled_N) else math.inf
    )
    choosing = mean(runs, "search_seconds") + mean(runs, "validate_seconds")
    return MethodSummary(
        method=name,
        runs=len(runs),
        diverged=len(runs) - len(score_N),
        score=sign * float(score_N.mean()) if known else None,
        worst=sign * float(score_N.min()) if known else None,
        best=sign * float(score_N.max()) if known else None,
        evaluations=mean(runs, "evaluations"),
        seconds=mean(runs, "seconds"),
        end_to_end_seconds=len(runs) * choosing + mean(runs, "final_seconds"),
        random_equivalents=equivalents if equivalents < math.inf else None,
    )


def _contest(
    ours: Sequence[Record], theirs: Sequence[Record], sign: float, rng: np.random.Generator
) -> Contest:
    method, rival = ours[0].method, theirs[0].method
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
    ranked = np.maximum(score_N, floor), np.maximum(rival_M, floor)  # what diverged is worse than any score
    better = probability_better_paired(*ranked) if paired else probability_better(*ranked)
    difference = None
    if paired and (both := (score_N > floor) & (rival_M > floor)).sum() > 1:
        difference = mean_difference(score_N[both], rival_M[both], rng)

    def ratio(what: str) -> float | None:
        """The rival's mean over the method's, where the method has any."""
        own = mean(ours, what)
        return mean(theirs, what) / own if own else None

    evaluations = None if rival in (SAMPLING, RANDOM_SEARCH, ASHA) else ratio("evaluations")
    ratios = [one for one in (evaluations, ratio("seconds")) if one is not None]
    # What picks by a proxy had as many architectures as it was worth, or all that there are.
    excuses = [] if rival in BY_PROXY else ratios
    excuse = budget_excuse(better, rival, excuses) if paired else None
    needed = seeds_needed(better.value)
    return Contest(
        rival=rival,
        paired=paired,
        better=better,
        difference=difference,
        seeds_needed=needed if needed < math.inf else None,
        evaluations_ratio=evaluations,
        seconds_ratio=ratio("seconds"),
        equal_budget=any(abs(one - 1) <= TOLERANCE for one in ratios),
        verdict=verdict_of(better) if excuse is None else "not shown",
        claim=claim_better(better, rival, paired=paired) if excuse is None else excuse,
    )


def budget_excuse(better: Interval, rival: str, ratios: Sequence[float]) -> str | None:
    """Why nothing may be said, whatever P(better) shows: whoever came out worse had clearly less budget by every count. None
    if that is not so.

    `ratios` are the rival's budget over the method's: of evaluations, of seconds, as far as they are known.
    """
    verdict = verdict_of(better)
    if ratios and verdict == "better" and max(ratios) < 1 - TOLERANCE:
        return f"no claim against {rival}, which had {max(ratios):.2f} times the budget at most: P = {better}"
    if ratios and verdict == "worse" and min(ratios) > 1 + TOLERANCE:
        return (
            f"no claim against {rival}, which had {min(ratios):.2f} times the budget at least: P = {better}"
        )
    return None


# ---- text --------------------------------------------------------------------------------------------------------------

CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""The numbers of random architectures whose expected best is shown."""


def describe(comparison: Comparison) -> str:
    """The methods, what random architectures reach, and what may be said of each pair of methods."""
    method, curve = comparison.method, comparison.best_of_random
    places = decimals([score for one in comparison.summaries for score in (one.score, one.best, one.worst)])
    heading = ("method", "runs", comparison.metric, "best", "worst", "evaluations", "a run", "in all", "k*")
    lines = aligned([heading, *(_cells(summary, places) for summary in comparison.summaries)])
    if curve:
        shown = [f"{k}: {curve[k - 1]:.{places}f}" for k in CURVE if k <= len(curve)]
        lines.append(f"expected best {comparison.metric} of k random architectures: {', '.join(shown)}")
    if comparison.random_in_budget is not None:
        count = f"{comparison.random_in_budget:.1f} random architectures are trained"
        lines.append(f"in the seconds of one run of {method} {count}")
    if comparison.same_cost:
        lines.append(f"all random architectures cost what was asked: {comparison.same_cost}")
    if (found := comparison.front) is not None:
        shown = [f"{score:.{places}f} with {said(cost, found.measure)}" for cost, score in found.best]
        lines.append(f"best {comparison.metric} of all trained networks by cost: {'; '.join(shown)}")
    for contest in comparison.contests:
        lines.append(f"{method}: {contest.claim}")
        if (gap := contest.difference) is not None:
            lines.append(
                f"  mean difference {gap.text(places)} over {gap.n} pairs, above 0 where {method} is better"
            )
        ratios = {"evaluations": contest.evaluations_ratio, "seconds": contest.seconds_ratio}
        times = [f"{ratio:.2f} times the {what}" for what, ratio in ratios.items() if ratio is not None]
        had = f"{contest.rival} had {' and '.join(times) or 'a budget that is too small to be compared'}"
        lines.append(f"  {had}" if contest.equal_budget else f"  at another budget: {had}")
    return "\n".join([*lines, *verdict(comparison)])


def verdict(comparison: Comparison) -> list[str]:
    """Whether the search was worth its shared weights: a line, or none if nothing without them was compared with."""
    contests = [one for one in comparison.contests if one.rival in WITHOUT_SHARED_WEIGHTS]
    missing = ", ".join(one.rival for one in contests if one.verdict != "better")
    if missing:
        return [f"{comparison.method} is not shown to beat what needs no shared weights: {missing}"]
    beaten = ", ".join(one.rival for one in contests)
    return [f"{comparison.method} beats what needs no shared weights: {beaten}"] if beaten else []


def _cells(summary: MethodSummary, places: int) -> tuple[str, ...]:
    scores = (summary.score, summary.best, summary.worst)
    return (
        summary.method,
        f"{summary.runs} ({summary.diverged} diverged)" if summary.diverged else str(summary.runs),
        *("-" if score is None else f"{score:.{places}f}" for score in scores),
        f"{summary.evaluations:,.0f}",
        duration(summary.seconds),
        duration(summary.end_to_end_seconds),
        "-" if summary.random_equivalents is None else f"{summary.random_equivalents:,.0f}",
    )
