"""Ranking: whether the shared weights of a search order architectures as training them alone does.

Architectures drawn uniformly from the run's space are scored twice, with the shared weights on the whole validation data
and trained from scratch. A second training of some, with another seed, gives the ceiling: how far a score that knows the
truth could agree with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from enas.architecture import Architecture
from enas.constraints import LARGEST_SAMPLE, Epochs, SampleCount
from enas.errors import ConfigError, DataError
from enas.evidence.agreement import RankAgreement, agreement_if_any, top
from enas.evidence.pictures import scatter_svg
from enas.evidence.runs import aligned, command_line, last_if_diverged, train_networks
from enas.evidence.statistics import Interval
from enas.evidence.tables.minispaces import table_for
from enas.executors import SideBySide
from enas.executors.local import refuse_import_by_worker
from enas.retrain import Network, random_architectures
from enas.runtime.files import write_atomic, write_json
from enas.runtime.progress import say
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.stages import Run

PART, RECORD, PICTURE = "rank", "rank.json", "rank.svg"

COMPARED = {
    "all": "shared weights and trainings",
    "top fifth": "shared weights and trainings within the top fifth",
    "ceiling": "two trainings of an architecture",
    "ceiling, top fifth": "two trainings of an architecture within the top fifth",
}
"""What is compared, by its name in the record."""


@dataclass(frozen=True)
class RankConfig(SideBySide):
    """Compare the order that a search's shared weights give architectures with what they reach trained alone."""

    architectures: Annotated[int, Field(ge=5, le=LARGEST_SAMPLE)] = 40
    """Architectures drawn uniformly from the space. Where a table has their trainings, all of the space are taken."""
    repeats: SampleCount = 20
    """How many of them are trained with a second seed, for the ceiling."""
    epochs: Epochs | None = None
    """Trains for fewer epochs than the recipe does."""
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
    run.config = config.applied(run.config)
    weights, _ = run.searched()
    table = None if config.epochs is not None else table_for(run.config, run.data.hash)
    if table is not None and table.complete:
        first, *more = (table.scores(seed) for seed in table.seeds)
        truth = Truth(first, more[0] if more else {}, f"the table {table.name}")
    else:
        truth = trained(run, config)
    architectures = list(truth.first)
    say(f"rank: scoring {len(architectures)} architectures with the shared weights")
    shared = last_if_diverged(dict(zip(architectures, weights.scores(architectures), strict=True)))
    record = compare(shared, truth, run.config.metric.score_name, run.config.seed)
    write_json(run.folder / RECORD, record)
    write_atomic(run.folder / PICTURE, picture(record), own=True)
    return record


def trained(run: Run, config: RankConfig) -> Truth:
    """Train random architectures alone, side by side. Those whose process died are left out."""
    space, seed = run.config.searched_space(), run.config.seed
    drawn = random_architectures(
        space, min(config.architectures, space.count()), derive_seed(seed, PART), set()
    )
    epochs = config.epochs if config.epochs is not None else run.config.epochs_with_validation()
    once, again = (
        [Network("random", architecture, seed + number) for architecture in drawn[:count]]
        for number, count in enumerate((None, config.repeats))
    )
    command = command_line("enas rank", config)
    with StopRequest() as stop:
        results = train_networks(
            run, PART, [*once, *again], stop, command, workers=config.workers, epochs=epochs
        )

    def scores(networks: Sequence[Network]) -> dict[Architecture, float]:
        known = {
            network.architecture: run.config.metric.score(results[network])
            for network in networks
            if network in results and network.architecture is not None
        }
        return last_if_diverged(known)

    return Truth(scores(once), scores(again), f"trainings under {run.folder / PART}")


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
    best_N, best_M = top(first_N), top(once_M)
    pairs = {
        "all": (shared_N, first_N),
        "top fifth": (shared_N[best_N], first_N[best_N]),
        "ceiling": (again_M, once_M),
        "ceiling, top fifth": (again_M[best_M], once_M[best_M]),
    }
    found = {
        name: agreement_if_any(*scores, np.random.default_rng(derive_seed(seed, "bootstrap")))
        for name, scores in pairs.items()
    }
    return {
        "score": score_name,
        "truth": truth.source,
        "architectures": len(architectures),
        "repeats": len(repeated),
        "agreement": {name: None if one is None else asdict(one) for name, one in found.items()},
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


def warnings(found: Mapping[str, RankAgreement | None]) -> list[str]:
    """What the data do not carry."""
    said = []
    for key, name in COMPARED.items():
        one = found[key]
        if one is None:
            said.append(f"too few architectures, or too few that differ, to compare {name}")
        elif one.kendall.holds(0):
            said.append(f"no agreement of {name} is shown: Kendall tau {one.kendall}, n = {one.kendall.n}")
    return said


def describe(record: Mapping[str, Any]) -> str:
    """The record in sentences."""
    rows = [("", "Kendall tau", "Spearman", "top-k hit rate", "k", "n")]
    for name, one in record["agreement"].items():
        if one is not None:
            numbers = (str(Interval(**one[key])) for key in ("kendall", "spearman", "hit_rate"))
            rows.append((name, *numbers, str(one["k"]), str(one["kendall"]["n"])))
    counts = f"{record['architectures']} architectures, {record['repeats']} of them with a second seed"
    return "\n".join(
        [
            f"{counts}; score: {record['score']}; truth: {record['truth']}",
            *aligned(rows),
            *(f"warning: {warning}" for warning in record["warnings"]),
        ]
    )


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
        set(top(trained).tolist()),
    )
