"""A table of trainings: what architectures of a space reach, each trained from scratch, some with several seeds.

A file of JSON lines. The first says how all rows were made: the settings that a training depends on and their hash, the
data, the machine. Then a line a training. Tables of the package's own mini-spaces come with it; see
`enas.evidence.tables.minispaces`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.errors import ArchitectureError, DataError
from enas.evidence.agreement import agreement_if_any
from enas.evidence.runs import last_if_diverged
from enas.evidence.statistics import LARGEST, Floats
from enas.runtime.files import read_jsonl, write_atomic
from enas.runtime.progress import duration
from enas.runtime.records import WrongRecord, validated
from enas.runtime.work import work_of

Split = Literal["valid", "test"]
SPLITS: tuple[Split, ...] = ("valid", "test")


def training_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a stand-alone training depends on, data and hardware aside: a search on the same space may differ
    in all the others."""
    return {
        "space": config.searched_space().to_json(),
        "network": config.child_settings(),
        "precision": config.precision,
        "child": asdict(config.retrain).get("child"),
    }


def recipe_hash(config: RunConfig) -> str:
    """Twelve hexadecimal digits that two runs share if their stand-alone trainings are the same, on the same data."""
    canonical = json.dumps(training_settings(config), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Row:
    """One training."""

    choices: tuple[int, ...]
    """Of the architecture."""
    seed: int
    valid: float | None
    """The metric on the validation data, of the best epoch; None if the training diverged."""
    valid_loss: float | None
    """Nats a token or an image, likewise."""
    test: float | None
    """The metric on the test data, likewise."""
    best_epoch: int | None
    """Counted from 1."""
    seconds: float | None
    """Work of the training."""
    diverged: str | None = None
    """Why the training could not go on."""

    @classmethod
    def of(cls, choices: tuple[int, ...], metric: str, result: Mapping[str, Any]) -> Row:
        """The row of a training's result.json, tested."""
        seed = result["seed"]
        if "diverged" in result:
            return cls(choices, seed, None, None, None, None, None, str(result["diverged"]))
        return cls(
            choices,
            seed,
            result[f"valid_{metric}"],
            result["valid_loss"],
            result["test"][f"test_{metric}"],
            result["best_epoch"],
            work_of(result),
        )

    def value(self, split: Split) -> float | None:
        """The metric on a split."""
        return self.valid if split == "valid" else self.test


@dataclass(frozen=True)
class Table:
    """Trainings of one space with one recipe on the same data. Scores are better the higher they are."""

    name: str
    """Of the mini-space."""
    config: RunConfig
    """Settings of the trainings."""
    data_hash: str
    """Of the data that they were trained on."""
    environment: Mapping[str, Any]
    """Where they were trained, as in a run's environment.json."""
    rows: tuple[Row, ...]
    """In the order of the mini-space's plan."""

    @property
    def seeds(self) -> list[int]:
        """The seeds that there are."""
        return sorted({row.seed for row in self.rows})

    @property
    def complete(self) -> bool:
        """Whether every architecture of the space is there."""
        return len({row.choices for row in self.rows}) == self.config.searched_space().count()

    def fits(self, config: RunConfig, data_hash: str) -> bool:
        """Whether a stand-alone training of this run is one of the table's."""
        return recipe_hash(config) == recipe_hash(self.config) and data_hash == self.data_hash

    def architecture(self, row: Row) -> Architecture:
        """The architecture of a row."""
        return self.config.searched_space().architecture(row.choices)

    def score(self, row: Row, split: Split = "valid") -> float:
        """Accuracy in percent, or -log perplexity; -infinity if the training diverged."""
        value = row.value(split)
        if value is None:
            return -math.inf
        return -math.log(value) if self.config.metric.lower_is_better else value

    def scores(self, seed: int, split: Split = "valid") -> dict[Architecture, float]:
        """The score of every architecture that was trained with this seed, in the order of the rows. One whose training
        diverged gets the next number below all others, so that it is last in every ranking."""
        return last_if_diverged(
            {self.architecture(row): self.score(row, split) for row in self.rows if row.seed == seed}
        )

    def truth(self, split: Split = "valid") -> dict[Architecture, float]:
        """The score of every architecture, the mean over its seeds where there are several."""
        found: dict[Architecture, list[float]] = {}
        for seed in self.seeds:
            for architecture, score in self.scores(seed, split).items():
                found.setdefault(architecture, []).append(score)
        return {a: sum(scores) / len(scores) for a, scores in found.items()}

    def pairs(self, split: Split = "valid") -> Floats:
        """The scores [2, N] of the architectures that were trained with the first two seeds."""
        if len(self.seeds) < 2:
            return np.empty((2, 0))
        first, second = (self.scores(seed, split) for seed in self.seeds[:2])
        both = [a for a in first if a in second]
        return np.array([[scores[a] for a in both] for scores in (first, second)])

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        metric = self.config.metric
        head = {
            "table": self.name,
            "recipe_hash": recipe_hash(self.config),
            "data_hash": self.data_hash,
            "metric": {"name": metric.name, "lower_is_better": metric.lower_is_better},
            "training": training_settings(self.config),
            "environment": dict(self.environment),
        }
        records = [head]
        for row in self.rows:
            record = asdict(row) | {"text": str(self.architecture(row))}
            if row.diverged is None:
                del record["diverged"]
            records.append(record)
        write_atomic(path, "\n".join(json.dumps(record, allow_nan=False) for record in records) + "\n")


@dataclass(frozen=True)
class Head:
    """What is read of the first line of a table."""

    table: str
    recipe_hash: str
    data_hash: str
    environment: dict[str, Any]


def read_table(path: Path, config: RunConfig) -> Table:
    """A table that `Table.write` wrote of trainings with these settings.

    Raises `DataError` naming the line if one is no row of the space, stands there twice or lacks a number, or if it is of
    trainings with other settings; `RunFolderError` if the file is missing or not JSON lines.
    """
    first, *records = read_jsonl(path) or [{}]
    try:
        head = validated(Head, first)
    except WrongRecord as error:
        missing = ", ".join(field.name for field in fields(Head) if field.name not in first)
        why = f", it lacks {missing}" if missing else f" ({error})"
        raise DataError(f"{path}, line 1: no head of a table{why}") from error
    if recipe_hash(config) != head.recipe_hash:
        raise DataError(
            f"{path} is of trainings with other settings than this version's (hash {head.recipe_hash}, here "
            f"{recipe_hash(config)}); build it again"
        )
    space, rows = config.searched_space(), list[Row]()
    least = 1.0 if config.metric.lower_is_better else 0.0  # of a perplexity, and of an accuracy
    seen: set[tuple[tuple[int, ...], int]] = set()
    for number, record in enumerate(records, start=2):
        try:
            row = validated(Row, record)
            architecture = space.architecture(row.choices)
        except (WrongRecord, ArchitectureError) as error:
            raise DataError(f"{path}, line {number}: no row of the table ({error})") from error
        bounded = (
            *((row.valid, least), (row.test, least), (row.valid_loss, 0.0)),
            *((row.best_epoch, 1), (row.seconds, 0.0)),
        )
        if row.diverged is None and not all(n is not None and low <= n <= LARGEST for n, low in bounded):
            raise DataError(
                f"{path}, line {number}: no row of the table (a number of it is null or impossible)"
            )
        if (row.choices, row.seed) in seen:
            raise DataError(f"{path}, line {number}: {architecture} with seed {row.seed} is there already")
        seen.add((row.choices, row.seed))
        rows.append(row)
    return Table(head.table, config, head.data_hash, head.environment, tuple(rows))


# ---- what a table says -------------------------------------------------------------------------------------------------


def figures(table: Table) -> dict[str, Any]:
    """The numbers of a table: how many, how they are spread, and how far a second seed agrees with the first."""
    first = [row for row in table.rows if row.seed == table.seeds[0] and row.valid is not None]
    ranked = sorted(first, key=table.score)
    seconds = [row.seconds for row in table.rows if row.seconds is not None]
    return {
        "table": table.name,
        "architectures": len({row.choices for row in table.rows}),
        "space": table.config.searched_space().count(),
        "rows": len(table.rows),
        "diverged": sum(row.diverged is not None for row in table.rows),
        "metric": table.config.metric.name,
        **{split: _spread([row.value(split) for row in first]) for split in SPLITS},
        "ceiling": {split: ceiling(table, split) for split in SPLITS},
        "seconds_of_a_training": sum(seconds) / len(seconds) if seconds else None,
        "seconds": sum(seconds),
        "recipe_hash": recipe_hash(table.config),
        "data_hash": table.data_hash,
        "environment": dict(table.environment),
        "best": str(table.architecture(ranked[-1])) if first else None,
        "worst": str(table.architecture(ranked[0])) if first else None,
    }


def _spread(values: list[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    quantiles = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return dict(zip(("lowest", "quarter", "median", "three_quarters", "highest"), quantiles, strict=True))


def ceiling(table: Table, split: Split) -> dict[str, Any] | None:
    """How far the scores of two seeds agree, the most that any other score of architectures can reach; None without
    three architectures that have both. Spreads are of scores: points of accuracy, or nats a token."""
    pair_2N = table.pairs(split)
    agreement = agreement_if_any(pair_2N[0], pair_2N[1], np.random.default_rng(0))
    if agreement is None:
        return None
    within = math.sqrt(float(((pair_2N[0] - pair_2N[1]) ** 2).mean() / 2))
    between = math.sqrt(max(0.0, float(pair_2N.mean(0).var(ddof=1)) - within**2 / 2))
    return {
        "architectures": pair_2N.shape[1],
        "spread_of_architectures": between,
        "spread_of_seeds": within,
        "kendall": asdict(agreement.kendall),
        "spearman": asdict(agreement.spearman),
    }


def describe(table: Table) -> str:
    """`figures` in sentences."""
    said, name = figures(table), table.config.metric.name
    lines = [
        f"table {table.name}: {said['architectures']} of {said['space']} architectures, {said['rows']} trainings"
        + (f", {said['diverged']} of them diverged" if said["diverged"] else "")
    ]
    for split in SPLITS:
        if (spread := said[split]) is not None:
            lines.append(
                f"{split} {name}: {spread['lowest']:.2f} to {spread['highest']:.2f}, median {spread['median']:.2f}, "
                f"middle half {spread['quarter']:.2f} to {spread['three_quarters']:.2f}"
            )
    if said["best"] is not None:
        lines.append(f"best {said['best']}; worst {said['worst']} (validation, seed {table.seeds[0]})")
    for split, found in said["ceiling"].items():
        if found is not None:
            tau = found["kendall"]
            lines.append(
                f"two seeds, {split}, {found['architectures']} architectures: Kendall tau {tau['value']:.2f} "
                f"[{tau['low']:.2f}, {tau['high']:.2f}], Spearman {found['spearman']['value']:.2f}; spread between "
                f"architectures {found['spread_of_architectures']:.3g}, between seeds {found['spread_of_seeds']:.3g}"
            )
    if said["seconds_of_a_training"] is not None:
        each, total = said["seconds_of_a_training"], duration(said["seconds"])
        lines.append(f"a training takes {each:.1f} s, all of them {total} of work")
    where = table.environment
    lines.append(
        f"recipe {said['recipe_hash']}, data {table.data_hash}; torch {where.get('torch')}, numba {where.get('numba')}, "
        f"{where.get('cpu')} ({where.get('cpu_capability')}), {where.get('time')}"
    )
    return "\n".join(lines)
