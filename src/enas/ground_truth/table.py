"""A table of trainings: what architectures of a space reach, each trained from scratch, some with several seeds.

A file of JSON lines. The first says how all rows were made: the settings that a training depends on and their hash, the
data, the machine. Then a line a training. Tables of the package's own mini-spaces come with it; see
`enas.ground_truth.minispaces`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.errors import ArchitectureError, DataError
from enas.runtime.environment import environment
from enas.runtime.files import read_jsonl, write_atomic
from enas.runtime.records import WrongRecord, validated

Split = Literal["valid", "test"]

SAME_BITS = ("torch", "numpy", "numba", "cpu", "cpu_capability")
"""What of an environment must agree for a training to come out the same bit for bit."""


def training_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a stand-alone training depends on, data and hardware aside: a search on the same space may differ
    in all the others."""
    return {
        "space": config.searched_space().to_json(),
        "network": config.child_network_settings(),
        "precision": config.precision,
        "child": asdict(config)["retrain"]["child"],
    }


def recipe_hash(config: RunConfig) -> str:
    """Twelve hexadecimal digits that two runs share if their stand-alone trainings are the same, on the same data."""
    canonical = json.dumps(training_settings(config), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Row:
    """One training."""

    architecture: Architecture
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
    def of(cls, architecture: Architecture, metric: str, result: Mapping[str, Any]) -> Row:
        """The row of a training's result.json, tested."""
        seed = result["seed"]
        if "diverged" in result:
            return cls(architecture, seed, None, None, None, None, None, str(result["diverged"]))
        return cls(
            architecture,
            seed,
            result[f"valid_{metric}"],
            result["valid_loss"],
            result["test"][f"test_{metric}"],
            result["best_epoch"],
            result["seconds"],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; the architecture by its choices, and in words for a person."""
        own = {name: value for name, value in vars(self).items() if name not in ("architecture", "diverged")}
        end = {} if self.diverged is None else {"diverged": self.diverged}
        return {
            "choices": list(self.architecture.choices),
            **own,
            "text": str(self.architecture),
            **end,
        }

    def same_training(self, other: Row) -> bool:
        """Whether two rows agree bit for bit, apart from how long the training took."""
        pair = [{**row.to_json(), "seconds": None} for row in (self, other)]
        return pair[0] == pair[1]


@dataclass(frozen=True)
class RowRecord:
    """A row as the file has it."""

    choices: list[int]
    seed: int
    valid: float | None
    valid_loss: float | None
    test: float | None
    best_epoch: int | None
    seconds: float | None
    diverged: str | None = None


def last_if_diverged(scores: Mapping[Architecture, float]) -> dict[Architecture, float]:
    """The scores, with the next number below all others for -infinity, so that what diverged is last in any ranking."""
    finite = [score for score in scores.values() if math.isfinite(score)]
    worst = float(np.nextafter(min(finite), -math.inf)) if finite else 0.0
    return {a: score if math.isfinite(score) else worst for a, score in scores.items()}


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

    @cached_property
    def by_architecture(self) -> Mapping[Architecture, Mapping[int, Row]]:
        """The rows of each architecture, by seed."""
        found: dict[Architecture, dict[int, Row]] = {}
        for row in self.rows:
            found.setdefault(row.architecture, {})[row.seed] = row
        return found

    @property
    def complete(self) -> bool:
        """Whether every architecture of the space is there."""
        return len(self.by_architecture) == self.config.searched_space().count()

    def fits(self, config: RunConfig, data_hash: str) -> bool:
        """Whether a stand-alone training of this run is one of the table's."""
        return recipe_hash(config) == recipe_hash(self.config) and data_hash == self.data_hash

    def made_like_here(self, data_hash: str) -> bool:
        """Whether a training in this process must equal the table's bit for bit: same data, versions and instructions."""
        here = environment()
        return data_hash == self.data_hash and all(
            here[key] == self.environment.get(key) for key in SAME_BITS
        )

    def score(self, row: Row, split: Split = "valid") -> float:
        """Accuracy in percent, or -log perplexity; -infinity if the training diverged."""
        value = row.valid if split == "valid" else row.test
        if value is None:
            return -math.inf
        return -math.log(value) if self.config.metric.lower_is_better else value

    def scores(self, seed: int, split: Split = "valid") -> dict[Architecture, float]:
        """The score of every architecture that was trained with this seed, in the order of the rows. One whose training
        diverged gets the next number below all others, so that it is last in every ranking."""
        return last_if_diverged(
            {row.architecture: self.score(row, split) for row in self.rows if row.seed == seed}
        )

    def truth(self, split: Split = "valid") -> dict[Architecture, float]:
        """The score of every architecture, the mean over its seeds where there are several."""
        per_seed = [self.scores(seed, split) for seed in self.seeds]
        found = {a: [scores[a] for scores in per_seed if a in scores] for a in self.by_architecture}
        return {a: sum(scores) / len(scores) for a, scores in found.items()}

    @property
    def seeds(self) -> list[int]:
        """The seeds that there are."""
        return sorted({row.seed for row in self.rows})

    def pairs(self, split: Split = "valid") -> npt.NDArray[np.float64]:
        """The scores [2, N] of the architectures that were trained with the first two seeds."""
        if len(self.seeds) < 2:
            return np.empty((2, 0))
        first, second = (self.scores(seed, split) for seed in self.seeds[:2])
        both = [a for a in first if a in second]
        return np.array([[scores[a] for a in both] for scores in (first, second)])

    # ---- the file ------------------------------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        head = {
            "table": self.name,
            "recipe_hash": recipe_hash(self.config),
            "data_hash": self.data_hash,
            "metric": self.config.metric._asdict(),
            "training": training_settings(self.config),
            "environment": dict(self.environment),
        }
        lines = [json.dumps(record, allow_nan=False) for record in (head, *(r.to_json() for r in self.rows))]
        write_atomic(path, "\n".join(lines) + "\n")


def read_table(path: Path, config: RunConfig) -> Table:
    """A table that `Table.write` wrote of trainings with these settings.

    Raises `DataError` naming the line if one is no row of the space, stands there twice or lacks a number, or if it is of
    trainings with other settings; `RunFolderError` if the file is missing or not JSON lines.
    """
    head, *records = read_jsonl(path) or [{}]
    missing = [key for key in ("table", "recipe_hash", "data_hash", "environment") if key not in head]
    if missing:
        raise DataError(f"{path}, line 1: no head of a table, it lacks {', '.join(missing)}")
    if recipe_hash(config) != head["recipe_hash"]:
        raise DataError(
            f"{path} is of trainings with other settings than this version's (hash {head['recipe_hash']}, here "
            f"{recipe_hash(config)}); build it again"
        )
    rows: list[Row] = []
    seen: set[tuple[Architecture, int]] = set()
    for number, record in enumerate(records, start=2):
        try:
            row = _read_row(config, record)
        except (WrongRecord, TypeError, ArchitectureError) as error:
            raise DataError(
                f"{path}, line {number}: no row of the table ({type(error).__name__}: {error})"
            ) from error
        if (row.architecture, row.seed) in seen:
            raise DataError(
                f"{path}, line {number}: {row.architecture} with seed {row.seed} is there already"
            )
        seen.add((row.architecture, row.seed))
        rows.append(row)
    return Table(head["table"], config, head["data_hash"], head["environment"], tuple(rows))


def _read_row(config: RunConfig, record: Mapping[str, Any]) -> Row:
    read = validated(RowRecord, record)
    values = {
        name: value for name, value in vars(read).items() if name not in ("choices", "seed", "diverged")
    }
    if read.diverged is None and None in values.values():
        raise TypeError(f"{', '.join(values)} must be numbers")
    architecture = config.searched_space().architecture(read.choices)
    return Row(architecture, read.seed, **values, diverged=read.diverged)


def first_difference(a: Sequence[Row], b: Sequence[Row]) -> int | None:
    """The place of the first row in which two tables, as far as both go, are not the same bit for bit."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (mine, other) in pairs if not mine.same_training(other)), None)
