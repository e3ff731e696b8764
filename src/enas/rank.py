"""Ranking: whether the shared weights of a search order architectures as training them alone does.

Architectures drawn uniformly from the run's space are scored twice, with the shared weights on the whole validation data
and trained from scratch. A second training of some, with another seed, gives the ceiling: how far a score that knows the
truth could agree with it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.constraints import LARGEST_SAMPLE, Epochs, SampleCount, Settings, Threads
from enas.errors import ConfigError, DataError
from enas.ground_truth.minispaces import table_for
from enas.ground_truth.table import last_if_diverged
from enas.report.scatter import scatter_svg
from enas.retrain import Network, random_architectures, score_in
from enas.runs.images import ImageRunConfig
from enas.runtime.files import write_atomic, write_json
from enas.runtime.progress import say
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.stages import Run
from enas.statistics import RankAgreement, rank_agreement, top
from enas.tasks.shared_scores import shared_scores
from enas.trainings import Job, train_all
from enas.workers import LocalExecutor, refuse_import_by_worker

PART, RECORD, PICTURE = "rank", "rank.json", "rank.svg"

TOP_SHARE = 0.2


@dataclass(frozen=True)
class RankConfig(Settings):
    """Compare the order that a search's shared weights give architectures with what they reach trained alone."""

    architectures: Annotated[int, Field(ge=5, le=LARGEST_SAMPLE)] = 40
    """Architectures drawn uniformly from the space. Where a table has their trainings, all of the space are taken."""
    repeats: SampleCount = 20
    """How many of them are trained with a second seed, for the ceiling."""
    epochs: Epochs | None = None
    """Trains for fewer epochs than the recipe does."""
    workers: Threads | None = None
    """Processes that train at the same time; by default as many as there are cores for."""
    json: bool = False
    """Print the record of rank.json instead of sentences."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats > self.architectures:
            raise ConfigError(
                f"repeats is how many of the {self.architectures} architectures are trained again, not {self.repeats}"
            )


class Truth(NamedTuple):
    """What architectures reach when they are trained alone; scores are better the higher they are."""

    first: Mapping[Architecture, float]
    second: Mapping[Architecture, float]
    """With another seed, for some of them."""
    source: str
    """Where the scores are from, in words."""


def rank(run: Run, config: RankConfig) -> dict[str, Any]:
    """Score, train and compare; leaves rank.json and rank.svg in the run folder, and returns the former.

    Raises `RunFolderError` if the search is not finished, and `Stopped`, after saving, on SIGTERM or Ctrl-C.
    """
    refuse_import_by_worker()
    task, _ = run.searched()
    space = task.space
    table = None if config.epochs is not None else table_for(run.config, run.workshop.data_hash)
    with StopRequest() as stop:
        if table is not None and table.complete:
            first, *more = (table.scores(seed) for seed in table.seeds)
            truth = Truth(first, more[0] if more else {}, f"the table {table.name}")
        else:
            seed = derive_seed(run.config.seed, PART)
            drawn = random_architectures(space, min(config.architectures, space.count()), seed, set())
            truth = train(run, drawn, config, stop)
    architectures = list(truth.first)
    say(f"rank: scoring {len(architectures)} architectures with the shared weights")
    shared = dict(zip(architectures, shared_scores(task, architectures), strict=True))
    record = compare(shared, truth, score_name(run.config), run.config.seed)
    write_json(run.folder / RECORD, record)
    write_atomic(run.folder / PICTURE, picture(record), own=True)
    return record


def train(run: Run, architectures: Sequence[Architecture], config: RankConfig, stop: StopRequest) -> Truth:
    """Train architectures alone, side by side. Those whose process died are left out."""
    epochs = config.epochs if config.epochs is not None else epochs_with_validation(run.config)
    seeds = (run.config.seed, run.config.seed + 1)
    jobs = [
        Job(run.folder, PART, Network("random", architecture, seed), epochs)
        for seed, count in zip(seeds, (len(architectures), config.repeats), strict=True)
        for architecture in architectures[:count]
    ]
    executor = LocalExecutor.for_run(run.config, config.workers)
    scores: tuple[dict[Architecture, float], dict[Architecture, float]] = ({}, {})
    for outcome in train_all(run, jobs, executor, stop, PART, command(config)):
        network = outcome.job.network
        if outcome.ending != "died" and network.architecture is not None:
            found = -math.inf if outcome.ending == "diverged" else score(run.config, outcome.result)
            scores[seeds.index(network.seed)][network.architecture] = found
    first, second = (last_if_diverged({a: known[a] for a in architectures if a in known}) for known in scores)
    return Truth(first, second, f"trainings under {run.folder / PART}")


def command(config: RankConfig) -> str:
    """The command that goes on after a stop, up to the run folder."""
    default = RankConfig()
    changed = {
        name: value
        for name, value in vars(config).items()
        if value != getattr(default, name) and name != "json"
    }
    return shlex.join(["enas", "rank", *(f"--{name}={value}" for name, value in changed.items())])


def epochs_with_validation(config: RunConfig) -> int | None:
    """The length of a training that keeps the validation images out; None if the recipe's does so by itself."""
    if isinstance(config, ImageRunConfig) and config.retrain.child.train_on == "all":
        return config.retrain.child.epochs
    return None


def score_name(config: RunConfig) -> str:
    """What the scores are, for people."""
    return "-loss, nats a token" if config.metric.lower_is_better else f"{config.metric.name}, %"


def score(config: RunConfig, result: Mapping[str, Any]) -> float:
    """The validation score of a training's result: accuracy in percent, or -loss in nats a token."""
    lower = config.metric.lower_is_better
    return -score_in(result, "valid_loss") if lower else score_in(result, f"valid_{config.metric.name}")


# ---- numbers -----------------------------------------------------------------------------------------------------------


def compare(shared: Mapping[Architecture, float], truth: Truth, score_name: str, seed: int) -> dict[str, Any]:
    """The record of rank.json. Raises `DataError` if fewer than five architectures have both scores."""
    architectures = list(truth.first)
    if len(architectures) < 5:
        raise DataError(f"only {len(architectures)} trainings came to an end; a ranking needs at least 5")
    shared_N = np.array([shared[a] for a in architectures])
    first_N = np.array([truth.first[a] for a in architectures])
    repeated = [a for a in architectures if a in truth.second]
    once_M, again_M = (np.array([scores[a] for a in repeated]) for scores in (truth.first, truth.second))
    found = {
        "all": agreement(shared_N, first_N, seed),
        "top fifth": agreement_at_top(shared_N, first_N, seed),
        "ceiling": agreement(again_M, once_M, seed),
        "ceiling, top fifth": agreement_at_top(again_M, once_M, seed),
    }
    return {
        "score": score_name,
        "truth": truth.source,
        "architectures": len(architectures),
        "repeats": len(repeated),
        "agreement": {name: None if one is None else to_json(one) for name, one in found.items()},
        "warnings": warnings(found),
        "scores": [
            {
                "id": a.id,
                "choices": list(a.choices),
                "text": str(a),
                "shared": shared[a],
                "trained": truth.first[a],
                "trained_again": truth.second.get(a),
            }
            for a in architectures
        ],
    }


def agreement(shared_N: Any, trained_N: Any, seed: int) -> RankAgreement | None:
    """How far two scores agree, with the hit rate of the best fifth; None where too few differ to tell."""
    n = len(trained_N)
    if n < 3 or np.ptp(shared_N) == 0 or np.ptp(trained_N) == 0:
        return None
    k = math.ceil(TOP_SHARE * n)
    return rank_agreement(shared_N, trained_N, k, np.random.default_rng(derive_seed(seed, "bootstrap")))


def agreement_at_top(shared_N: Any, trained_N: Any, seed: int) -> RankAgreement | None:
    """How far two scores agree about the order within the fifth that is best when trained alone."""
    if len(trained_N) == 0:
        return None
    best = top(trained_N, TOP_SHARE)
    return agreement(shared_N[best], trained_N[best], seed)


def to_json(one: RankAgreement) -> dict[str, Any]:
    """Plain values."""
    return {
        "kendall": one.kendall.to_json(),
        "spearman": one.spearman.to_json(),
        "hit_rate": one.hit_rate.to_json(),
        "k": one.k,
        "hit_rate_by_chance": one.chance(),
    }


def warnings(found: Mapping[str, RankAgreement | None]) -> list[str]:
    """What the data do not carry."""
    said = []
    names = {
        "all": "shared weights and trainings",
        "top fifth": "shared weights and trainings within the top fifth",
        "ceiling": "two trainings of an architecture",
        "ceiling, top fifth": "two trainings of an architecture within the top fifth",
    }
    for key, name in names.items():
        one = found[key]
        if one is None:
            said.append(f"too few architectures, or too few that differ, to compare {name}")
        elif one.kendall.holds(0):
            said.append(f"no agreement of {name} is shown: Kendall tau {one.kendall}, n = {one.kendall.n}")
    return said


def describe(record: Mapping[str, Any]) -> str:
    """The record in sentences."""
    lines = [
        f"{record['architectures']} architectures, {record['repeats']} of them with a second seed; "
        f"score: {record['score']}; truth: {record['truth']}",
        f"{'':<20}{'Kendall tau':<22}{'Spearman':<22}{'top-k hit rate':<22}{'k':>3}{'n':>5}",
    ]
    for name, one in record["agreement"].items():
        if one is not None:
            cells = [
                f"{one[key]['value']:.2f} [{one[key]['low']:.2f}, {one[key]['high']:.2f}]"
                for key in ("kendall", "spearman", "hit_rate")
            ]
            lines.append(
                f"{name:<20}"
                + "".join(f"{cell:<22}" for cell in cells)
                + f"{one['k']:>3}{one['kendall']['n']:>5}"
            )
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    return "\n".join(lines)


# ---- picture -----------------------------------------------------------------------------------------------------------


def picture(record: Mapping[str, Any]) -> str:
    """The scatter plot of the scores, the best fifth by training in another colour."""
    scores = record["scores"]
    shared, trained = ([one[key] for one in scores] for key in ("shared", "trained"))
    whole = record["agreement"]["all"]
    tau = "undefined" if whole is None else f"{whole['kendall']['value']:.2f}"
    return scatter_svg(
        f"{len(scores)} architectures, Kendall tau {tau}",
        (f"with shared weights ({record['score']})", shared),
        (f"trained alone ({record['score']})", trained),
        [one["text"] for one in scores],
        set(top(trained, TOP_SHARE).tolist()),
    )
