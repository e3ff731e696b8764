"""Spaces so small that every architecture of them is trained: the truth that a search is measured against.

    enas table build recurrent --run runs/table-recurrent
    enas table show recurrent

Their recipes are in `enas.recipes.mini`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.constraints import PositiveInt
from enas.errors import ConfigError, did_you_mean, shown
from enas.evidence.runs import command_line, run_in, train_networks
from enas.evidence.tables.table import Row, Table, read_table
from enas.executors import SideBySide
from enas.paths import UserPath
from enas.recipes.mini import MINI_RECIPES
from enas.retrain import Network
from enas.runtime.files import read_json
from enas.runtime.lock import folder_of_run
from enas.runtime.progress import say
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.trainings import Job

TABLE, PART = "table.jsonl", "table"


@dataclass(frozen=True)
class MiniSpace:
    """A space and the recipe that all of its architectures are trained with."""

    name: str
    config: Callable[[], RunConfig]
    """The settings, those of a search on the space among them."""
    repeated: int
    """How many architectures are trained more than once, at least a third."""
    seeds: int = 2
    """With how many seeds these are trained."""

    def order(self) -> list[Architecture]:
        """Every architecture once, shuffled, the same at all times."""
        architectures = list(self.config().searched_space().enumerate())
        random.Random(derive_seed(0, "table", self.name)).shuffle(architectures)
        return architectures

    def plan(self) -> list[Network]:
        """The trainings in the order of the rows: every architecture once, then the first ones again."""
        order = self.order()
        again = [(a, seed) for seed in range(1, self.seeds) for a in order[: self.repeated]]
        return [Network("table", a, seed) for a, seed in [*((a, 0) for a in order), *again]]


REPEATED = {"recurrent": (64, 2), "convolutional": (108, 2), "cells": (100, 4)}
"""Of each: how many architectures are trained with how many seeds."""

MINI_SPACES = {name: MiniSpace(name, make, *REPEATED[name]) for name, make in MINI_RECIPES.items()}


def mini_space(name: str) -> MiniSpace:
    """The mini-space of this name. Raises `ConfigError`, suggesting the nearest, if there is none."""
    if name not in MINI_SPACES:
        raise ConfigError(
            f"there is no mini-space {shown(name)}; {did_you_mean(name, MINI_SPACES)}they are {', '.join(MINI_SPACES)}"
        )
    return MINI_SPACES[name]


def table_of(name: str, file: Path | None = None) -> Table:
    """The table of a mini-space: of a file, or the one that comes with the package. Raises `DataError` if it is none."""
    shipped = Path(__file__).parent / f"{name}.jsonl"
    return read_table(shipped if file is None else file, mini_space(name).config())


def table_for(config: RunConfig, data_hash: str) -> Table | None:
    """The shipped table whose trainings are those of this run, if there is one."""
    tables = (table_of(name) for name in MINI_RECIPES)
    return next((table for table in tables if table.fits(config, data_hash)), None)


# ---- building ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildOptions(SideBySide):
    """Train the architectures of a mini-space, and write their table.jsonl into the run folder."""

    run: UserPath
    """Folder of the trainings. What is finished there is not repeated."""
    first: PositiveInt | None = None
    """Train only this many rows, from the first on. Rows that the folder has stay in the table."""


def build(space: MiniSpace, options: BuildOptions) -> Table:
    """Train the rows of a mini-space's table that the run folder lacks, and write the table of those it has.

    Raises `Stopped`, after saving, on SIGTERM or Ctrl-C, and `RunFolderError` if the folder is of other trainings.
    """
    with folder_of_run(options.run), StopRequest() as stop:
        run = run_in(options.run, options.applied(space.config()), ("retrain",))
        every = space.plan()
        first = len(every) if options.first is None else options.first
        had = (Job(run.folder, PART, network, test=True).result() is not None for network in every[first:])
        plan = [*every[:first], *itertools.compress(every[first:], had)]
        command = f"{command_line(f'enas table build {space.name}', options)} --run"
        results = train_networks(run, PART, plan, stop, command, workers=options.workers, test=True)
        rows = [
            Row.of(network.architecture.choices, run.config.metric.name, results[network])
            for network in plan
            if network in results and network.architecture is not None
        ]
        # The threads of this process are not those of the workers.
        made = {**read_json(run.folder / "environment.json"), "threads": run.config.threads}
        table = Table(space.name, run.config, run.data.hash, made, tuple(rows))
        table.write(run.folder / TABLE)
    missing = len(plan) - len(table.rows)
    if missing:
        say(f"{missing} trainings died and are not in the table; the same command takes them up again")
    return table
