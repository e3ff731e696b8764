"""What a page says of a run: everything that its folder holds, read once, as far as it is there.

Files are read while a search writes them, without its lock. What is not written yet is empty or None.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enas.architecture import Architecture
from enas.config import Metric, RunConfig
from enas.effects import ArchiveRecord
from enas.errors import RunFolderError
from enas.evidence.agreement import RankAgreement
from enas.evidence.compare import PART as COMPARE
from enas.evidence.compare import RECORDS
from enas.evidence.comparison import Comparison, Record, compared
from enas.evidence.rank import RECORD as RANK
from enas.evidence.statistics import LARGEST
from enas.recipes import RECIPES, recipe
from enas.retrain import METRICS, RESULT, read_result
from enas.runtime.files import read_json, read_jsonl
from enas.runtime.metrics import MetricsRecord
from enas.runtime.records import read_record, read_records, record_in
from enas.settings import config_to_json, flat
from enas.stages import Run

AGAIN = "Delete it, and run the command that wrote it again"


@dataclass(frozen=True)
class ScoredTwice:
    """An architecture of rank.json."""

    text: str
    shared: float
    trained: float
    trained_again: float | None = None


@dataclass(frozen=True)
class RankRecord:
    """What is read of rank.json."""

    score: str
    agreement: dict[str, RankAgreement | None]
    warnings: list[str]
    scores: list[ScoredTwice]


@dataclass(frozen=True)
class OptionRecord:
    """An option in effects.json."""

    option: str
    effect: float | None
    standard_error: float | None
    count: int


@dataclass(frozen=True)
class DecisionRecord:
    """A decision in effects.json."""

    decision: str
    options: list[OptionRecord]


@dataclass(frozen=True)
class EffectsRecord:
    """What is read of effects.json."""

    records: int
    groups: int
    within: str
    mean_reward: float
    explained: float
    decisions: list[DecisionRecord]


@dataclass(frozen=True)
class Trained:
    """A network that was trained alone."""

    part: str
    """The folder of the run that it is in, such as `retrain`."""
    role: str
    id: str
    architecture: str
    result: Mapping[str, Any]
    curve: Sequence[tuple[float, float]] = ()
    """Epochs, counted from 1, and validation scores by the run's metric."""
    latency_ms: float | None = None
    """What a pass of it takes, if that was measured."""

    @property
    def diverged(self) -> bool:
        """Whether there is no score."""
        return "diverged" in self.result

    def score(self, metric: Metric) -> tuple[str, float] | None:
        """On the test data if they were read, otherwise on the validation data, with what it is."""
        if (tested := self.tested(metric)) is not None:
            return f"test {metric.name}", tested
        value = as_number(self.result.get(f"valid_{metric.name}"))
        return None if value is None else (f"valid {metric.name}", value)

    def tested(self, metric: Metric) -> float | None:
        """The score on the test data."""
        return as_number((self.result.get("test") or {}).get(f"test_{metric.name}"))

    def cost(self, name: str) -> float | None:
        """Its `latency` in milliseconds, or a whole number of the result: `parameters` or `multiply_adds`."""
        if name == "latency":
            return self.latency_ms
        value = self.result.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Numbers:
    """One run."""

    run: Run
    metric: Metric
    architecture: Architecture | None
    trained: Sequence[Trained]
    """First those of the stage retrain, the found one before all others."""
    comparison: Comparison | None
    records: Sequence[Record]
    """Of the comparison."""
    rank: RankRecord | None
    archive: Sequence[ArchiveRecord]
    log: Mapping[str, Sequence[Mapping[str, Any]]]
    """The records of metrics.jsonl by their stage."""
    effects: EffectsRecord | None
    spent: Mapping[str, float]
    """Seconds by what they went into."""
    recipe: str | None
    """The nearest one of the same kind."""
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings that differ from that recipe's: its value, and the run's."""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.run.folder.resolve().name

    @property
    def order(self) -> str:
        """Which way is better, in words."""
        return "lower is better" if self.metric.lower_is_better else "higher is better"

    @property
    def finished(self) -> bool:
        """Whether all stages that the run was begun with are done."""
        folder, stages = self.run.folder, self.run.stages
        ends = {"search": "search.json", "derive": "architecture.json", "test": "comparison.json"}
        done = all((folder / ends[stage]).exists() for stage in stages if stage in ends)
        return done and ("retrain" not in stages or any(one.part == "retrain" for one in self.trained))

    def of_part(self, part: str) -> list[Trained]:
        """The networks trained in a part of the run."""
        return [one for one in self.trained if one.part == part]

    def over_time(self, stage: str, key: str) -> list[tuple[float, float]]:
        """Steps and values of a key of metrics.jsonl, where it has a number."""
        return [
            (record["step"], record[key])
            for record in self.log.get(stage, ())
            if as_number(record.get(key)) is not None
        ]


def as_number(value: object) -> float | None:
    """A value of a record that is a number, and not so large that it is nonsense."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        return None
    return float(value)


def numbers_of(run: Run) -> Numbers:
    """Read a run. Raises `RunFolderError` for a file that is damaged, or made with other settings than config.json has."""
    folder, config = run.folder, run.config
    rank, effects, path = folder / RANK, folder / "effects.json", folder / COMPARE / RECORDS
    records = read_records(path, Record, AGAIN) if path.exists() else []
    trained = [*retrained(run), *others(run)]
    log = logged(folder / METRICS)
    name, changed = nearest_recipe(run)
    environment = folder / "environment.json"
    return Numbers(
        run=run,
        metric=config.metric,
        architecture=run.architecture() if (folder / "architecture.json").exists() else None,
        trained=trained,
        comparison=compared(records, config) if records else None,
        records=records,
        rank=read_record(rank, RankRecord, AGAIN) if rank.exists() else None,
        archive=archive_of(run),
        log=log,
        effects=read_record(effects, EffectsRecord, AGAIN) if effects.exists() else None,
        spent=spent(run, log, trained),
        recipe=name,
        changed=changed,
        environment=record_in(environment, read_json(environment), dict[str, Any], AGAIN)
        if environment.exists()
        else {},
    )


def archive_of(run: Run) -> list[ArchiveRecord]:
    """The rewarded architectures. Raises `RunFolderError` for one that is not in the space."""
    path = run.folder / "archive.jsonl"
    found = run.archive() if path.exists() else []
    counts = [len(decision.options) for decision in run.config.searched_space().decisions]
    for number, record in enumerate(found, start=1):
        right = len(record.choices) == len(counts)
        if not right or not all(0 <= c < count for c, count in zip(record.choices, counts, strict=True)):
            raise RunFolderError(f"{path}, record {number}: its choices are not in the space. {AGAIN}")
    return found


# ---- trainings ---------------------------------------------------------------------------------------------------------


def retrained(run: Run) -> list[Trained]:
    """The networks of the stage retrain."""
    return [trained_in(run, run.folder / "retrain" / one["id"], one) for one in run.results()]


def others(run: Run) -> list[Trained]:
    """Networks that other parts of the run have trained: a shortlist, a verification, a comparison."""
    found = []
    for part in ("derive", "verify", COMPARE):
        for path in sorted((run.folder / part).glob(f"*/{RESULT}")):
            result = read_result(path.parent)
            if result is not None:
                found.append(
                    trained_in(run, path.parent, {k: v for k, v in result.items() if k != "settings"})
                )
    return found


def trained_in(run: Run, folder: Path, result: Mapping[str, Any]) -> Trained:
    """A trained network, with its curve if it was logged, and its latency if that was measured."""
    log, key = folder / METRICS, f"valid_{run.config.metric.name}"
    logged = read_jsonl(log) if log.exists() else []
    curve = [
        (epoch + 1, value)
        for record in logged
        if (epoch := as_number(record.get("epoch"))) is not None
        and (value := as_number(record.get(key))) is not None
    ]
    architecture = result["architecture"]
    text = result["role"].upper() if architecture is None else str(architecture["text"])
    latency_ms = run.goals.paid(result).get("latency")
    return Trained(folder.parent.name, result["role"], result["id"], text, result, curve, latency_ms)


# ---- time --------------------------------------------------------------------------------------------------------------


def logged(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of metrics.jsonl by their stage."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place, record in enumerate(read_jsonl(path) if path.exists() else [], start=1):
        stage = record_in(f"{path}, record {place}", record, MetricsRecord, AGAIN).stage
        found.setdefault(stage, []).append(record)
    return found


PARTS = {
    "search/start": "setting up",
    "search/weights": "shared weights",
    "search/controller": "controller",
    "search/verification": "verification",
    "search/health": "controller",
}
"""What the time up to a record of metrics.jsonl went into."""


def spent(
    run: Run, log: Mapping[str, Sequence[Mapping[str, Any]]], trained: Iterable[Trained]
) -> dict[str, float]:
    """Seconds by what they went into. Each record of a search is written at the end of what it is about."""
    found: dict[str, float] = {}
    records = sorted((r for stage in log.values() for r in stage), key=lambda r: (r["step"], r["time"]))
    start: Mapping[str, Any] = {"time": 0.0}
    for before, record in itertools.pairwise([start, *records]):
        part = PARTS.get(record["stage"])
        if part is not None:
            then, now = (as_number(one["time"]) or 0.0 for one in (before, record))
            found[part] = found.get(part, 0.0) + max(0.0, now - then)
    derived = run.derive_record()
    if derived is not None:
        found["candidates"] = derived.seconds
    names = {"derive": "shortlist", "retrain": "retraining", COMPARE: "comparison"}
    for one in trained:
        if one.part in names:
            found[names[one.part]] = found.get(names[one.part], 0.0) + (
                as_number(one.result.get("seconds")) or 0.0
            )
    return {part: round(seconds, 3) for part, seconds in found.items() if seconds > 0}


# ---- settings ----------------------------------------------------------------------------------------------------------


def nearest_recipe(run: Run) -> tuple[str | None, dict[str, tuple[Any, Any]]]:
    """The recipe of the same kind that differs in the fewest settings, and these: its value, and the run's."""
    own, best, fewest = plain(run.config), None, {}
    for name in RECIPES:
        config = recipe(name)
        if type(config) is not type(run.config):
            continue
        theirs = plain(config)
        changed = {
            key: (theirs.get(key), own.get(key))
            for key in {**theirs, **own}
            if theirs.get(key) != own.get(key)
        }
        if best is None or len(changed) < len(fewest):
            best, fewest = name, changed
    return best, fewest


def plain(config: RunConfig) -> dict[str, Any]:
    """Settings by one name with dots, as JSON has them."""
    settings: dict[str, Any] = json.loads(json.dumps(flat(config_to_json(config)["settings"]), default=str))
    return settings
