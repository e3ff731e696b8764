"""Trainings on a Slurm cluster, each as one job, by submitit.

What a job asks for follows from the estimate of its training. Where it runs is said by Slurm's own variables, such as
SBATCH_PARTITION and SBATCH_ACCOUNT, which win over that.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import ClassVar

import submitit
import torch
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError

from enas.config import RunConfig
from enas.errors import ConfigError, RunFolderError, shortened
from enas.executors.cluster import WORKER_MIB, Cluster, train_there
from enas.executors.work import Answer
from enas.runtime.devices import pick_device
from enas.runtime.stop import StopRequest
from enas.trainings import Job

WAIT_SECONDS = 1.0
"""How long a request to stop may wait to be noticed."""
SPARE = 2.0
"""A job asks for so many times the memory and the time of the estimate: beyond either, Slurm ends it."""
LEAST_MINUTES = 30
"""A job's shortest time limit. One that is ended by it is queued again, and goes on from its checkpoint."""


class SlurmExecutor(Cluster["submitit.Job[Answer]"]):
    """A Slurm cluster, from one of its machines that may submit jobs."""

    cluster: ClassVar[str] = "slurm"
    """Submitit's name of it."""

    def __init__(self, threads: int, device: torch.device, workers: int | None = None) -> None:
        """A training takes so many `threads`, and a GPU if `device` is one."""
        super().__init__(threads, workers)
        self.parameters = {
            "name": "enas",
            "cpus_per_task": threads,
            "gpus_per_node": int(device.type == "cuda"),
        }
        self.submitter: submitit.AutoExecutor

    @classmethod
    def for_run(cls, config: RunConfig, workers: int | None = None) -> SlurmExecutor:
        """For trainings of a run, with its number of threads, or one each. Raises `ConfigError` where Slurm's programs are
        not."""
        if cls.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise ConfigError(
                "--executor slurm needs Slurm's programs sbatch and srun: run this on a machine that may submit jobs"
            )
        return cls(config.threads or 1, pick_device(config.device), workers)

    @property
    def at_once(self) -> int:
        return self.workers

    def room(self, seconds: float, mib: float) -> int:
        self.parameters["timeout_min"] = max(LEAST_MINUTES, math.ceil(SPARE * seconds / 60))
        self.parameters["mem_gb"] = math.ceil((WORKER_MIB + SPARE * mib) / 1024)
        return self.at_once

    # ---- the cluster ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connected(self, run: Path) -> Iterator[None]:
        # Submitit keeps pickles there, which may run code when they are read: so nobody else has put any.
        try:
            folder = tempfile.mkdtemp(prefix="slurm-", dir=run)
        except OSError as error:
            raise RunFolderError(f"cannot make a folder in {run}: {error.strerror}") from error
        self.submitter = submitit.AutoExecutor(folder, self.cluster, slurm_max_num_timeout=1000)
        self.submitter.update_parameters(
            **self.parameters,
            slurm_array_parallelism=self.workers,
            slurm_additional_parameters={"requeue": True},
        )
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def submit(self, jobs: Sequence[Job]) -> list[submitit.Job[Answer]]:
        folders = [str(job.folder.absolute()) for job in jobs]
        try:
            return self.submitter.map_array(Training(os.getcwd(), self.threads), folders)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            said = shortened(" ".join(str(error).split()), 300)
            raise ConfigError(f"Slurm does not take the jobs: {said}") from error

    def ended(self, handles: Sequence[submitit.Job[Answer]]) -> list[submitit.Job[Answer]]:
        time.sleep(WAIT_SECONDS)
        return [handle for handle in handles if handle.done()]

    def answer(self, handle: submitit.Job[Answer]) -> Answer:
        try:
            return handle.result()
        except FailedJobError as error:
            return Answer("broke", str(error).strip().splitlines()[-1])
        except UncompletedJobError:
            return Answer("lost", f"Slurm job {handle.job_id} is {handle.state}")

    def cancel(self, handle: submitit.Job[Answer]) -> None:
        handle.cancel(check=False)


# ---- on a worker -------------------------------------------------------------------------------------------------------


class Training:
    """What a job does. It saves and ends when it is cancelled. Before a time limit, and before it makes room for others, it
    saves and is queued again."""

    def __init__(self, here: str, threads: int) -> None:
        self.here = here
        self.threads = threads

    def __call__(self, folder: str) -> Answer:
        """Train the job of a folder, or go on with it."""
        queue_again = signal.getsignal(signal.SIGUSR2)  # submitit's, which ends the process it is called in
        warned = False

        def warn(number: int, frame: FrameType | None) -> None:
            nonlocal warned
            warned = True
            stop.request(signal.Signals(number).name)

        with StopRequest() as stop:
            signal.signal(signal.SIGUSR2, warn)
            answer = train_there(folder, self.here, self.threads, "slurm", stop)
        if warned and answer.kind == "stopped" and callable(queue_again):
            queue_again(signal.SIGUSR2, None)
        return answer

    def checkpoint(self, folder: str) -> DelayedSubmission:
        """What submitit asks for when it queues a job again: the same, as all that it needs is in its folder."""
        return DelayedSubmission(self, folder)
