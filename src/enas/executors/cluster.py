"""Trainings on other machines: what the executors for clusters share.

A machine is told the name of a training's folder, which all machines see. It trains there, or goes on from the checkpoint
that is there, and leaves result.json. So a machine that is lost costs the steps since a checkpoint: its training goes on
elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from abc import abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from enas.errors import EnasError, RunFolderError
from enas.executors.work import Answer, train_in
from enas.retrain import METRICS
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.devices import set_threads
from enas.runtime.files import read_jsonl
from enas.runtime.memory import keep_freed_memory
from enas.runtime.progress import say
from enas.runtime.stop import StopRequest
from enas.trainings import JOB, LOG, Executor, Job, Outcome, outcome_of

AT_MOST = 1000
"""Jobs that are handed over at the same time. Slurm takes no more than 1001 together, if nothing else is set there."""
RETRIES = 3
"""How often in a row a training is begun again that was lost before it had saved anything new."""
PATIENCE = 120.0
"""Seconds to wait for the folder that a lost machine may still hold, and for a result that a file system shows late."""
LOOK_SECONDS = 2.0
"""How often to look how far the trainings are."""
WORKER_MIB = 700
"""MiB that a process takes beside its training."""

Handle = TypeVar("Handle")


@dataclass
class Losses:
    """How often in a row a job was lost without having saved anything new."""

    count: int = 0
    saved: int = 0

    def one_more(self, saved: int) -> bool:
        """Count a loss when this step was saved; returns whether to try again."""
        self.count = 1 if saved > self.saved else self.count + 1
        self.saved = saved
        return self.count <= RETRIES


class Cluster(Executor, Generic[Handle]):
    """Machines that see the run folder. A `Handle` stands for a job that was handed over."""

    def __init__(self, threads: int, workers: int | None) -> None:
        """Up to `workers` trainings at a time, each with so many `threads`."""
        self.threads = threads
        self.workers = AT_MOST if workers is None else workers

    # ---- what a kind of cluster does -----------------------------------------------------------------------------------

    @abstractmethod
    def connected(self, run: Path) -> contextlib.AbstractContextManager[None]:
        """Inside, jobs of a run can be handed over. Raises `ConfigError` if the cluster cannot be reached."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> list[Handle]:
        """Hand jobs over. Raises an `EnasError` if the cluster refuses them."""

    @abstractmethod
    def ended(self, handles: Sequence[Handle]) -> list[Handle]:
        """Wait a moment; those that have ended, however that was."""

    @abstractmethod
    def answer(self, handle: Handle) -> Answer:
        """How one went that has ended. Raises an `EnasError` that would meet every job."""

    @abstractmethod
    def cancel(self, handle: Handle) -> None:
        """Ask one to save and end, or not to begin."""

    # ---- what all do ---------------------------------------------------------------------------------------------------

    def run(
        self, jobs: Sequence[Job], stop: StopRequest, on_step: Callable[[Job, int], None]
    ) -> Iterator[Outcome]:
        waiting, losses = deque(jobs), defaultdict[Job, Losses](Losses)
        running: dict[Handle, Job] = {}
        failure: EnasError | None = None
        ending, looked = False, time.monotonic()
        with self.connected(jobs[0].run.absolute()):
            try:
                while True:
                    if (stop.requested or failure) and not ending:
                        ending = True
                        waiting.clear()
                        for handle in running:
                            self.cancel(handle)
                    next_ones = [
                        waiting.popleft() for _ in range(min(self.workers - len(running), len(waiting)))
                    ]
                    try:
                        if next_ones:
                            running |= zip(self.submit(next_ones), next_ones, strict=True)
                    except EnasError as error:
                        failure = error
                        continue
                    if not running:
                        break
                    for handle in self.ended(list(running)):
                        job = running.pop(handle)
                        if ending:
                            continue
                        try:
                            outcome = self.outcome(job, self.answer(handle), losses[job])
                        except EnasError as error:
                            failure = failure or error
                            continue
                        if outcome is None:
                            waiting.append(job)
                        else:
                            yield outcome
                    if time.monotonic() - looked >= LOOK_SECONDS:
                        looked = time.monotonic()
                        for job in running.values():
                            on_step(job, told_step(job))
            finally:
                for handle in running:
                    self.cancel(handle)
        if failure is not None:
            raise failure

    def outcome(self, job: Job, answer: Answer, losses: Losses) -> Outcome | None:
        """What an answer means for a job; None if it is to be handed over again. Raises `EnasError` for a failure."""
        match answer.kind:
            case "done":
                return outcome_of(job, late_result(job))
            case "failed":
                raise answer.error()
            case "broke":
                return Outcome(job, "died", {}, f"{answer.reason}; see {job.folder / LOG}")
        saved = saved_step(job)
        if not losses.one_more(saved):
            return Outcome(job, "died", {}, f"it was lost {RETRIES + 1} times in a row: {answer.reason}")
        say(f"{job.network} was lost at a worker ({answer.reason}); it goes on elsewhere from step {saved}")
        return None


def saved_step(job: Job) -> int:
    """The step of a job's newest checkpoint; 0 if there is none."""
    return max(CheckpointStore(job.folder / "checkpoints").steps(), default=0)


def told_step(job: Job) -> int:
    """How far a job is, as its folder tells: its newest checkpoint, or the last epoch that it has logged."""
    epoch = 0
    with contextlib.suppress(RunFolderError, LookupError):  # none yet, or it is just being written
        epoch = int(read_jsonl(job.folder / METRICS)[-1]["step"])
    return max(epoch, saved_step(job))


def late_result(job: Job) -> dict[str, Any]:
    """The result that another machine has left. Raises `RunFolderError` if it does not come to be seen here."""
    until = time.monotonic() + PATIENCE
    while (result := job.result()) is None:
        if time.monotonic() > until:
            raise RunFolderError(
                f"{job.network} was trained on another machine, but its result is not seen in {job.folder}. {SHARED}"
            )
        time.sleep(1)
        os.listdir(job.folder)  # a network file system then looks again
    return result


SHARED = "Put the run, by --run, into a folder that all machines share"

# ---- on the other machine ----------------------------------------------------------------------------------------------


def train_there(folder: str, here: str, threads: int, executor: str, stop: StopRequest) -> Answer:
    """Train the job of a folder in this process. `here` is the folder that the settings' relative paths begin at."""
    path = Path(folder)
    if not (path / JOB).exists():
        return Answer("failed", f"the machine {socket.gethostname()} does not see {path}. {SHARED}")
    keep_freed_memory()
    set_threads(threads)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # then paths are absolute, or what is missing is named
            held.enter_context(contextlib.chdir(here))
        try:
            return train_in(path, executor, stop, patience=PATIENCE)
        except Exception as error:
            return Answer("broke", f"{type(error).__name__}: {error}")
