"""Trainings side by side: many networks trained from scratch, resumable one by one, wherever an `Executor` runs them.

A `Job` is one training of a run. All that a worker needs is in files: the run's config.json and the job.json in the
folder of the training, `RUN/PART/ID-seedS/`. So a training comes out the same, bit for bit, whoever does it: this
process (the stage `retrain`), a process beside it, or a machine that sees the same folder (`enas.executors`). What is done
is recognised by its result.json and never repeated; what was stopped or killed goes on from its own checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from enas.child_training import ChildTraining
from enas.errors import RunFolderError
from enas.retrain import Network, network_from_json, read_result
from enas.run import Run
from enas.runtime.checkpoint import check_still_there
from enas.runtime.compiling import compiling_told
from enas.runtime.device_memory import memory_line, release
from enas.runtime.files import write_json
from enas.runtime.progress import estimate_line, progress, say
from enas.runtime.records import read_record
from enas.runtime.stop import StopRequest

JOB, LOG, WORKER = "job.json", "log.txt", "worker.json"
"""In the folder of a training: what is to be done, what was said, and where it was done last."""

Ending = Literal["trained", "diverged", "died"]
"""How a training ended: with scores; with a loss that was not finite; without a result, as its process died."""


@dataclass(frozen=True)
class JobRecord:
    """What job.json holds."""

    network: dict[str, Any]
    epochs: int | None
    test: bool


@dataclass(frozen=True)
class Job:
    """One training of a run: the network, and under which part of the run folder it is kept."""

    run: Path
    """The run folder, whose config.json has the recipe."""
    part: str
    """The subfolder of the run that the training is kept under, such as `rank`."""
    network: Network
    """What is trained: architecture and seed."""
    epochs: int | None = None
    """Shortens the training; None for the recipe's own length."""
    test: bool = False
    """Whether the trained network is also measured on the test data."""

    @property
    def folder(self) -> Path:
        """The folder of the training."""
        return self.run / self.part / self.network.id

    def put(self) -> None:
        """Write job.json. Raises `RunFolderError` if the folder holds a training of another length."""
        path = self.folder / JOB
        check_still_there(self.run / "config.json")
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            then = Job.read(self.folder)  # what was drawn at random then may be what is found now
            if (then.epochs, then.test) != (self.epochs, self.test):
                raise RunFolderError(
                    f"{path} is of another training than the one asked for; choose another --run, or delete {self.folder}"
                )
        write_json(path, {"network": self.network.to_json(), "epochs": self.epochs, "test": self.test})

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job that was put into this folder."""
        path = folder / JOB
        record = read_record(path, JobRecord, "Delete it; the same command writes it again")
        network = network_from_json(record.network, path)
        return cls(folder.parent.parent, folder.parent.name, network, record.epochs, record.test)

    def result(self, run: Run | None = None) -> dict[str, Any] | None:
        """What the training came to; None if it is not finished, its test included.

        With the run, raises `RunFolderError` if it was made with other settings than config.json has now.
        """
        if run is None:
            result = read_result(self.folder)
        else:
            result = run.result(self.network, self.part, self.epochs)
        complete = result is not None and (not self.test or "test" in result or "diverged" in result)
        return result if complete else None

    def perform(
        self, run: Run, stop: StopRequest, after_step: Callable[[ChildTraining], None]
    ) -> dict[str, Any]:
        """Train in this process, as the stage `retrain` does, from the training's own checkpoint if there is one.

        Raises `Stopped`, after saving, if a stop is requested.
        """
        run.config.set_arithmetic()
        result = run.train(self.network, self.part, stop, self.epochs, after_step)
        return run.measure(self.network, self.part, self.epochs) if self.test else result


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    ending: Ending
    result: dict[str, Any]
    """result.json; empty if the process died, whose training goes on when it is asked for again."""
    reason: str = ""
    """Why it diverged or died."""


def outcome_of(job: Job, result: dict[str, Any]) -> Outcome:
    """The outcome that a finished training's result.json tells."""
    if "diverged" in result:
        return Outcome(job, "diverged", result, result["diverged"])
    return Outcome(job, "trained", result)


class Executor(ABC):
    """Where jobs are trained: in processes of this machine, or on other machines, which are handed the folders of the jobs
    (`enas.executors`)."""

    here: ClassVar[bool] = False
    """Whether they take the memory of this machine."""

    @property
    @abstractmethod
    def at_once(self) -> int:
        """How many trainings run at the same time."""

    @property
    def sharing(self) -> int:
        """How many of them share one device."""
        return self.at_once

    @property
    def where(self) -> str:
        """On which devices they are, in words, if that is worth telling."""
        return ""

    def room(self, seconds: float, mib: float) -> int:
        """How many of the trainings that come next run at the same time; each takes about so long here, and so much memory.

        Raises `ConfigError` if there is nowhere room for one.
        """
        return self.at_once

    @abstractmethod
    def run(
        self, jobs: Sequence[Job], stop: StopRequest, on_step: Callable[[Job, int], None]
    ) -> Iterator[Outcome]:
        """Train jobs that were put into their folders; their outcomes as they come.

        `on_step` is called now and then with the number of steps that a job has done. After a stop request no training is
        begun, those under way are saved, and the iteration ends. Raises an `EnasError` that would meet every training, such
        as a full disk, after the others have been saved.
        """


def train_all(
    run: Run,
    jobs: Sequence[Job],
    executor: Executor,
    stop: StopRequest,
    stage: str,
    command: str = "enas resume",
) -> Iterator[Outcome]:
    """Train jobs of one run, and show their progress as one; the outcomes as they come, those finished before first.

    Raises `Stopped`, after all that is under way has been saved, if a stop is requested: `command`, followed by the
    run folder, goes on from there.
    """
    results = {job: job.result(run) for job in jobs}
    finished = {job: result for job, result in results.items() if result is not None}
    yield from (outcome_of(job, result) for job, result in finished.items())
    missing = [job for job in jobs if job not in finished]
    if not missing:
        return
    for job in missing:
        job.put()
    steps = dict.fromkeys(missing, 0)
    example = run.child_training(missing[0].network, missing[0].epochs)
    each = example.total_steps  # other lengths are near enough for a bar
    with compiling_told(stop, run.folder, command):
        seconds, memory = example.estimate()
    device = example.task.device
    del example
    release(device)  # what the processes need
    at_once = min(executor.room(seconds * each, memory), len(missing))
    say(
        f"{stage}: {len(finished)} of {len(jobs)} trainings are done; {at_once} at a time{executor.where} for the others. "
        + estimate_line(
            "time left",
            seconds * each * len(missing) / at_once,
            memory_line(memory * min(executor.sharing, at_once), device, here=executor.here),
        )
    )
    ended = len(finished)
    with progress(stage, each * len(jobs), "steps", done=each * len(finished)) as bar:

        def move(job: Job, done: int) -> None:
            done = min(done, each)
            bar.advance(done - steps[job], trainings=ended)
            steps[job] = done

        for outcome in executor.run(missing, stop, move):
            ended += 1
            move(outcome.job, each)
            if outcome.ending != "trained":
                say(f"{outcome.job.network} {outcome.ending}: {outcome.reason}")
            yield outcome
    if stop.requested and ended < len(jobs):
        raise stop.stopped(run.folder, command)
