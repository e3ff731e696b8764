"""The scores of all architectures of a space, and searches that take their rewards from them."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from enas.architecture import Space
from enas.controllers import ControllerConfig, build_controller
from enas.errors import ConfigError, DataError
from enas.runtime.seeding import derive_seed, generator

DRAWS = 20
"""A policy is asked for this many times the proposals of an update, of which the first new ones are taken."""
SAMPLES = 16
"""Architectures drawn from a policy at the end of a search, to say where it has gone."""


@dataclass(frozen=True, eq=False)
class KnownScores:
    """What every architecture of a space scores when trained alone; higher is better."""

    name: str
    space: Space
    valid: npt.NDArray[np.float64]
    """Validation scores in the order of `space.enumerate()`."""
    test: npt.NDArray[np.float64]
    """Test scores, likewise."""

    def __post_init__(self) -> None:
        for name, scores in (("validation", self.valid), ("test", self.test)):
            if scores.shape != (self.space.count(),) or not np.isfinite(scores).all():
                raise DataError(
                    f"{self.name} needs a finite {name} score of each of the {self.space.count()} architectures of the "
                    f"{self.space.name} space; it has {np.isfinite(scores).sum()} in an array of {scores.shape}"
                )

    def rows(self, choices_NL: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The rows of these architectures [N]: their places in the enumeration."""
        return rows_of(self.space, choices_NL)


def rows_of(space: Space, choices_NL: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The places of these architectures in the enumeration of their space [N]."""
    counts = [len(decision.options) for decision in space.decisions]
    steps_L = [math.prod(counts[place + 1 :]) for place in range(len(counts))]
    return np.asarray(choices_NL, dtype=np.int64) @ np.array(steps_L, dtype=np.int64)


@dataclass(frozen=True)
class Trial:
    """What one search on a table found."""

    table: str
    controller: str
    seed: int
    evaluations: int
    """Rewards looked up; an architecture that is looked up again counts again."""
    best_valid: float
    """The best validation score seen."""
    best_test: float
    """The test score of the architecture that had it, the first if there are several."""
    policy_valid: float
    """Mean validation score of `SAMPLES` samples of the policy at the end."""
    seconds: float
    trajectory: tuple[float, ...]
    """The best validation score after each evaluation."""


def search_known(
    table: KnownScores,
    name: str,
    config: ControllerConfig,
    evaluations: int,
    proposals: int,
    seed: int,
    distinct: bool = False,
) -> Trial:
    """Search a table with a controller, called `name`, that is rewarded with validation scores.

    An update has `proposals` proposals, the last one those that are left; one proposal that is left alone is looked up,
    but nothing is learnt from it. If they are `distinct`, an architecture that has been looked up is drawn again, as long as
    the policy still has others. Runs of different names or seeds are independent of each other.
    Raises `ConfigError` unless there is at least one evaluation and one proposal an update.
    """
    if evaluations < 1 or proposals < 1:
        raise ConfigError(f"evaluations and proposals must be at least 1, not {evaluations} and {proposals}")
    started = time.perf_counter()
    controller = build_controller(config, table.space, derive_seed(seed, name, "controller"))
    seen: list[int] = []
    while len(seen) < evaluations:
        n = min(proposals, evaluations - len(seen))
        draw = generator(seed, name, "proposals", len(seen))
        proposed = controller.propose(DRAWS * n if distinct else n, draw)
        if distinct:
            proposed = proposed.rows(first_new(table.rows(proposed.choices_NL.numpy()).tolist(), seen, n))
        row_N = table.rows(proposed.choices_NL.numpy())
        seen += row_N.tolist()
        if n > 1 or proposals == 1:
            controller.feedback(proposed, torch.from_numpy(table.valid[row_N]))
    with torch.no_grad():
        samples_NL = controller.propose(SAMPLES, generator(seed, name, "samples")).choices_NL.numpy()
    scores = table.valid[seen]
    best = int(scores.argmax())
    return Trial(
        table=table.name,
        controller=name,
        seed=seed,
        evaluations=evaluations,
        best_valid=float(scores[best]),
        best_test=float(table.test[seen[best]]),
        policy_valid=float(table.valid[table.rows(samples_NL)].mean()),
        seconds=time.perf_counter() - started,
        trajectory=tuple(np.maximum.accumulate(scores).tolist()),
    )


def first_new(rows: Sequence[int], seen: Collection[int], n: int) -> list[int]:
    """The places in `rows` of its first `n` different ones that were not seen, filled up with its first others."""
    known, new, old = set(seen), list[int](), list[int]()
    for place, row in enumerate(rows):
        (old if row in known else new).append(place)
        known.add(row)
    return (new + old)[:n]
