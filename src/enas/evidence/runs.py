"""Many runs and trainings below a folder, each kept and none repeated: what comparing, ranking and the like share."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.constraints import Settings
from enas.errors import NotFiniteError, RunFolderError
from enas.executors import executor_for
from enas.retrain import RESULT, Network, read_result
from enas.run_records import DeriveRecord, SearchRecord
from enas.runtime.files import write_atomic, write_json
from enas.runtime.lock import run_lock
from enas.runtime.progress import brief, say
from enas.runtime.records import read_record, read_records
from enas.runtime.stop import StopRequest
from enas.runtime.work import work_of
from enas.stages import Run, StageName
from enas.trainings import Job, train_all

DIVERGED = "diverged.json"
"""In the folder of a run whose weights diverged: why."""

Stage = Callable[[Run, StopRequest], None]


@dataclass(frozen=True)
class DivergedRecord:
    """What diverged.json holds."""

    diverged: str


def run_in(
    folder: Path, config: RunConfig, stages: Sequence[StageName], latencies: Path | None = None
) -> Run:
    """The run of these settings in a folder, begun if it is not there; with the model of `latencies` of another run, if that
    has one.

    Raises `RunFolderError` if the folder holds a run of other settings. Its trainings may run elsewhere than before.
    """
    new = not (folder / "config.json").exists()
    run = Run.create(folder, config, stages) if new else Run.open(folder, recipe=config)
    run.config = replace(run.config, executor=config.executor, ray_address=config.ray_address)
    found: dict[str, Any] = {
        name: vars(run.config).get(name) for name in config.measured if vars(config)[name] is None
    }
    if run.config != replace(config, **found) and not new:
        raise RunFolderError(f"{folder} holds a run of other settings; choose another --run, or delete it")
    if latencies is not None and latencies.exists() and not run.goals.file.exists():
        write_atomic(run.goals.file, latencies.read_bytes())
    return run


def diverged(folder: Path) -> str | None:
    """Why the weights of a run diverged, if they did."""
    path = folder / DIVERGED
    if not path.exists():
        return None
    return read_record(path, DivergedRecord, "Delete it to run the search again").diverged


def finish(run: Run, stages: Sequence[Stage], stop: StopRequest) -> None:
    """Do stages of a run from where they were. Raises `Stopped`, after saving, if a stop is requested."""
    for stage in stages:
        stage(run, stop)
        if stop.requested:
            raise stop.stopped(run.folder)


def finish_or_diverge(run: Run, stages: Sequence[Stage], stop: StopRequest) -> str | None:
    """The same for a run that picks an architecture, in a line. If the weights diverge, that is noted and not tried again;
    returns why."""
    if (why := diverged(run.folder)) is not None:
        return why
    done = (run.folder / "architecture.json").exists()
    try:
        with run_lock(run.folder), brief():  # somebody may type 'enas resume' there
            finish(run, stages, stop)
        if not done:
            say(f"{run.folder.name}: {run.architecture()}")
    except NotFiniteError as error:
        say(f"{error}. It counts as diverged, and the others go on.")
        write_json(run.folder / DIVERGED, {"diverged": str(error)})
        return str(error)
    return None


def train_networks(
    run: Run,
    part: str,
    networks: Sequence[Network],
    stop: StopRequest,
    command: str,
    *,
    workers: int | None,
    epochs: int | None = None,
    test: bool = False,
) -> dict[Network, dict[str, Any]]:
    """Train networks side by side under RUN/PART; returns the results, without those whose process died.

    `epochs` is another length than the recipe's; with `test` each is measured on the test data too. Raises `Stopped`, after
    saving, if a stop is requested: `command`, followed by the run folder, goes on.
    """
    jobs = [Job(run.folder, part, network, epochs, test) for network in networks]
    executor = executor_for(run.config, workers)
    outcomes = list(train_all(run, jobs, executor, stop, part, command))
    return {one.job.network: one.result for one in outcomes if one.ending != "died"}


def complete(
    results: dict[Network, dict[str, Any]], networks: Sequence[Network], folder: Path
) -> dict[Network, dict[str, Any]]:
    """The results of these networks, if none is missing. Raises `RunFolderError` if a training's process died."""
    if died := len(networks) - len(results):
        raise RunFolderError(
            f"{died} of {len(networks)} trainings under {folder} died; the same command takes them up again"
        )
    return results


@dataclass(frozen=True)
class VerificationTime:
    """What is read of a record of metrics.jsonl."""

    stage: str
    seconds: float = 0.0
    round_work: float | None = None


def search_seconds(run: Run, searched: SearchRecord) -> float:
    """The work of a finished search, in seconds: its verifying trainings count one by one, as they may have run side by
    side."""
    advice = "Put the original back, or begin a new run"
    logged = read_records(run.folder / "metrics.jsonl", VerificationTime, advice)
    waited = sum(
        record.seconds if record.round_work is None else record.round_work
        for record in logged
        if record.stage == "search/verification"
    )
    return work_of(vars(searched)) - waited + trained_seconds(run, "verify")


def picking_seconds(run: Run, derived: DeriveRecord) -> float:
    """The work of picking an architecture after a search, in seconds, short trainings included."""
    return work_of(vars(derived)) + trained_seconds(run, "derive")


def trained_seconds(run: Run, part: str) -> float:
    """The work of all trainings under RUN/PART, in seconds."""
    return sum(seconds_of(read_result(path.parent)) for path in (run.folder / part).glob(f"*/{RESULT}"))


def seconds_of(result: Mapping[str, Any] | None) -> float:
    """The work of a training, in seconds; 0 if it diverged, or there is none."""
    return 0.0 if result is None else work_of(result)


def command_line(command: str, options: Settings) -> str:
    """The command that goes on after a stop, up to the run folder: options that are not the default, as flags."""
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in vars(options).items()
        if name not in ("run", "json") and value != getattr(type(options), name, None)
    ]
    return f"{command} {shlex.join(flags)}".strip()


# ---- scores ------------------------------------------------------------------------------------------------------------


def last_if_diverged(scores: Mapping[Architecture, float]) -> dict[Architecture, float]:
    """The scores, with the next number below all others for -infinity, so that what diverged is last in any ranking."""
    finite = [score for score in scores.values() if math.isfinite(score)]
    worst = float(np.nextafter(min(finite), -math.inf)) if finite else 0.0
    return {a: score if math.isfinite(score) else worst for a, score in scores.items()}


# ---- text --------------------------------------------------------------------------------------------------------------


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, its cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
