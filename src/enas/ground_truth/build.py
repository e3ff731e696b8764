"""Building a table: every training of a mini-space's plan, side by side, resumable; and what a table says."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enas.constraints import PositiveInt, Settings, Threads
from enas.errors import RunFolderError
from enas.ground_truth.minispaces import MiniSpace
from enas.ground_truth.table import Row, Split, Table, recipe_hash
from enas.paths import OptionalPath, UserPath
from enas.retrain import Network
from enas.runtime.files import read_json
from enas.runtime.lock import run_lock
from enas.runtime.progress import duration, say
from enas.runtime.stop import StopRequest
from enas.stages import Run
from enas.statistics import rank_agreement
from enas.trainings import Job, Outcome, train_all
from enas.workers import LocalExecutor

TABLE = "table.jsonl"
PART = "table"


@dataclass(frozen=True)
class BuildOptions(Settings):
    """Train the architectures of a mini-space, and write their table.jsonl into the run folder."""

    run: UserPath
    """Folder of the trainings. What is finished there is not repeated."""
    first: PositiveInt | None = None
    """Only so many of the first rows."""
    workers: Threads | None = None
    """Processes that train at the same time; by default as many as there are cores for."""


def build(space: MiniSpace, options: BuildOptions) -> Table:
    """Train the rows of a mini-space's table that the run folder lacks, and write the table of those it has.

    Raises `Stopped`, after saving, on SIGTERM or Ctrl-C, and `RunFolderError` if the folder is of other trainings.
    """
    options.run.mkdir(parents=True, exist_ok=True)
    with run_lock(options.run), StopRequest() as stop:
        run = _run(space, options.run)
        executor = LocalExecutor.for_run(run.config, options.workers)
        plan = space.plan()[: options.first]
        jobs = [Job(run.folder, PART, network, test=True) for network in plan]
        command = " ".join(["enas table build", shlex.quote(space.name), *_flags(options), "--run"])
        outcomes = {outcome.job: outcome for outcome in train_all(run, jobs, executor, stop, PART, command)}
        table = collected(space, run, [outcomes[job] for job in jobs])
        table.write(run.folder / TABLE)
    missing = len(plan) - len(table.rows)
    if missing:
        say(f"{missing} trainings died and are not in the table; the same command takes them up again")
    return table


def _flags(options: BuildOptions) -> list[str]:
    given = {"--first": options.first, "--workers": options.workers}
    return [f"{flag} {value}" for flag, value in given.items() if value is not None]


def _run(space: MiniSpace, folder: Path) -> Run:
    """The run of a table's trainings, which may be there already."""
    config = space.config()
    if not (folder / "config.json").exists():
        return Run.create(folder, config, ("retrain",))
    run = Run.open(folder)
    if run.config != config:
        raise RunFolderError(
            f"{folder} holds a run with other settings than those of the {space.name} table; choose another --run"
        )
    return run


def collected(space: MiniSpace, run: Run, outcomes: Sequence[Outcome]) -> Table:
    """The table of these trainings, without those whose process died."""
    rows = []
    for outcome in outcomes:
        architecture = outcome.job.network.architecture
        if outcome.ending != "died" and architecture is not None:
            rows.append(Row.of(architecture, run.config.metric.name, outcome.result))
    where = read_json(run.folder / "environment.json")
    # The threads of this process are not those of the workers.
    made = {**where, "threads": run.config.threads}
    return Table(space.name, run.config, run.data.hash, made, tuple(rows))


def train_row(config_run: Run, network: Network) -> Row:
    """One row of a table, trained in this process in the run's folder."""
    job = Job(config_run.folder, PART, network, test=True)
    result = job.perform(config_run, StopRequest(), lambda training: None)
    assert network.architecture is not None
    return Row.of(network.architecture, config_run.config.metric.name, result)


# ---- what a table says -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShowOptions(Settings):
    """Say what a table holds, and how well two trainings of an architecture agree."""

    file: OptionalPath = None
    """A table.jsonl of the mini-space; by default the one that comes with the package."""
    json: bool = False
    """Print JSON."""


def figures(table: Table) -> dict[str, Any]:
    """The numbers of a table: how many, how they are spread, and how far a second seed agrees with the first."""
    space = table.config.searched_space()
    metric = table.config.metric
    first = [row for row in table.rows if row.seed == table.seeds[0] and row.valid is not None]
    seconds = [row.seconds for row in table.rows if row.seconds is not None]
    return {
        "table": table.name,
        "architectures": len(table.by_architecture),
        "space": space.count(),
        "rows": len(table.rows),
        "diverged": sum(row.diverged is not None for row in table.rows),
        "metric": metric.name,
        "valid": _spread([row.valid for row in first if row.valid is not None]),
        "test": _spread([row.test for row in first if row.test is not None]),
        "ceiling": {split: ceiling(table, split) for split in ("valid", "test")},
        "seconds_of_a_training": sum(seconds) / len(seconds) if seconds else None,
        "seconds": sum(seconds),
        "recipe_hash": recipe_hash(table.config),
        "data_hash": table.data_hash,
        "environment": dict(table.environment),
        "best": str(max(first, key=table.score).architecture) if first else None,
        "worst": str(min(first, key=table.score).architecture) if first else None,
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return dict(zip(("lowest", "quarter", "median", "three_quarters", "highest"), quantiles, strict=True))


def ceiling(table: Table, split: Split) -> dict[str, Any] | None:
    """How far the scores of two seeds agree, the most that any other score of architectures can reach; None without
    three architectures that have both. Spreads are of scores: points of accuracy, or nats a token."""
    pair_2N = table.pairs(split)
    n = pair_2N.shape[1]
    if n < 3 or np.ptp(pair_2N, axis=1).min() == 0:
        return None
    within = math.sqrt(float(((pair_2N[0] - pair_2N[1]) ** 2).mean() / 2))
    between = math.sqrt(max(0.0, float(pair_2N.mean(0).var(ddof=1)) - within**2 / 2))
    one_N, other_N = pair_2N
    agreement = rank_agreement(one_N, other_N, math.ceil(n / 5), np.random.default_rng(0))
    return {
        "architectures": n,
        "spread_of_architectures": between,
        "spread_of_seeds": within,
        "kendall": agreement.kendall.to_json(),
        "spearman": agreement.spearman.to_json(),
    }


def describe(table: Table) -> str:
    """`figures` in sentences."""
    said = figures(table)
    lines = [
        f"table {table.name}: {said['architectures']} of {said['space']} architectures, {said['rows']} trainings"
        + (f", {said['diverged']} of them diverged" if said["diverged"] else "")
    ]
    name = said["metric"]
    for split in ("valid", "test"):
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
