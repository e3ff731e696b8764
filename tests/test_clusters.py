"""Trainings on clusters: equal to the stage's bit for bit, whatever is lost or stopped, and no process left behind.

Ray is a cluster of its own on this machine, with nodes of one core each. Slurm's jobs are done by submitit's local executor.
"""

import contextlib
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from ray.cluster_utils import Cluster as RayCluster
from submitit.local.local import LocalJob

from enas.errors import ConfigError, RunFolderError
from enas.executors import cluster, executor_for, ray, slurm
from enas.executors.slurm import SlurmExecutor
from enas.executors.work import Answer
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import read_json
from enas.runtime.stop import Stopped, StopRequest
from enas.stages import Run
from enas.trainings import Executor, Job, train_all
from tests.test_trainings import GO, InThisProcess, config, content, expected, finish, jobs_of, waiting

__all__ = ["config"]  # a fixture

pytestmark = pytest.mark.slow

EPOCHS = 2
PRINT = print
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}

Look = Callable[[Job, int], None]
"""Told a job and the step that it has saved."""


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((cluster, "LOOK_SECONDS"), (ray, "WAIT_SECONDS"), (slurm, "WAIT_SECONDS")):
        monkeypatch.setattr(module, name, 0.1)


def watched(monkeypatch: pytest.MonkeyPatch, executor: Executor, look: Look) -> Executor:
    """The executor, which tells someone else how far its jobs are too."""
    run = executor.run

    def watched_run(jobs: Sequence[Job], stop: StopRequest, on_step: Look) -> Iterator[object]:
        def both(job: Job, told: int) -> None:
            on_step(job, told)
            look(job, cluster.saved_step(job))  # an epoch is told before it is saved

        return run(jobs, stop, both)

    monkeypatch.setattr(executor, "run", watched_run)
    return executor


def assert_as_alone(run: Run, jobs: Sequence[Job], elsewhere: Path) -> None:
    """The trainings are those of the stage `retrain`, in this process."""
    for job in jobs:
        assert content(job.folder) == expected(run, job, elsewhere / job.network.id)
        worker = read_json(job.folder / "worker.json")
        assert worker["executor"] == run.config.executor
        assert worker["host"] == platform.node()


def process_of(job: Job) -> psutil.Process | None:
    """The process that trains a job; None if it has just ended."""
    with contextlib.suppress(RunFolderError, psutil.NoSuchProcess):
        return psutil.Process(read_json(job.folder / ".lock-owner.json")["pid"])
    return None


def left(word: str) -> list[str]:
    """What this process has started that has the word in its command line, and has not ended some seconds later."""
    until = time.monotonic() + 20
    while True:
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends just now
                found.append(" ".join(process.cmdline()))
        found = [command for command in found if word in command]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.2)


# ---- trainings that wait to be disturbed -------------------------------------------------------------------------------


def held(folder: str, here: str, threads: int, executor: str, stop: StopRequest) -> Answer:
    """What a job does here, and waits."""
    with waiting(Path(folder), stop):
        return cluster.train_there(folder, here, threads, executor, stop)


def train_held(folder: str, here: str, threads: int) -> Answer:
    """What a task of Ray does here."""
    with patch.object(ray, "train_there", held):
        return ray.train(folder, here, threads)


class TrainingHeld(slurm.Training):
    """What a job of Slurm does here."""

    def __call__(self, folder: str) -> Answer:
        with patch.object(slurm, "train_there", held):
            return super().__call__(folder)


# ---- Ray ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayCluster]:
    """A cluster whose head has one core."""
    made = RayCluster(initialize_head=True, head_node_args=NODE)
    yield made
    made.shutdown()


@pytest.fixture
def on_ray(config: RecurrentConfig, nodes: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RecurrentConfig:
    monkeypatch.setattr(ray, "train", train_held)
    return replace(config, executor="ray", ray_address=nodes.address)


def test_a_node_that_is_killed_costs_the_steps_since_a_checkpoint(
    on_ray: RecurrentConfig,
    nodes: RayCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = Run.create(tmp_path / "run", on_ray, ("retrain",))
    jobs = jobs_of(run, 2, epochs=EPOCHS)
    second = nodes.add_node(**NODE)
    (raylet,) = second.all_processes["raylet"]

    def kill(job: Job, step: int) -> None:
        alive = second in nodes.list_all_nodes()
        if step and alive and (process := process_of(job)) and process.ppid() == raylet.process.pid:
            nodes.remove_node(second, allow_graceful=False)
            process.wait(60)
            (run.folder / GO).touch()

    executor = executor_for(run.config)
    assert executor.at_once == 2
    outcomes = finish(run, jobs, watched(monkeypatch, executor, kill))
    assert {outcome.ending for outcome in outcomes} == {"trained"}
    assert len(outcomes) == 2
    assert "was lost" in capfd.readouterr().err
    assert_as_alone(run, jobs, tmp_path)
    assert print is PRINT  # Ray would put one of its own in its place


def test_a_signal_stops_trainings_on_ray_after_saving(
    on_ray: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", on_ray, ("retrain",))
    jobs = jobs_of(run, 2, epochs=EPOCHS)

    def interrupt(job: Job, step: int) -> None:
        if step and not stop.requested:
            os.kill(os.getpid(), signal.SIGTERM)

    executor = watched(monkeypatch, executor_for(run.config), interrupt)
    with StopRequest() as stop, pytest.raises(Stopped, match=r"SIGTERM after saving\. Continue with: enas"):
        list(train_all(run, jobs, executor, stop, "trainings"))
    assert [job.result() for job in jobs] == [None, None]
    (begun,) = [job for job in jobs if CheckpointStore(job.folder / "checkpoints").steps()]  # on one core
    assert left("ray::train") == []
    finish(run, [begun], InThisProcess())
    assert content(begun.folder) == expected(run, begun, tmp_path / "alone")


def test_a_training_that_no_node_has_room_for_is_refused(on_ray: RecurrentConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no node .* has 64 CPU, which a training takes; they have 1 CPU"):
        Run.create(tmp_path / "run", replace(on_ray, threads=64), ("retrain",))
    assert not (tmp_path / "run").exists()


# ---- Slurm, by submitit's local executor -------------------------------------------------------------------------------


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Processes that are started take SIGINT, by which submitit cancels, also where the tests run in the background of a
    shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def on_slurm(config: RecurrentConfig, interrupts: None, monkeypatch: pytest.MonkeyPatch) -> RecurrentConfig:
    monkeypatch.setattr(SlurmExecutor, "cluster", "local")
    monkeypatch.setattr(LocalJob, "_results_timeout_s", 0)  # of a process that left no result
    monkeypatch.setattr(slurm, "Training", TrainingHeld)
    return replace(config, executor="slurm")


def test_jobs_that_make_room_or_are_lost_go_on_from_their_checkpoints(
    on_slurm: RecurrentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = Run.create(tmp_path / "run", on_slurm, ("retrain",))
    jobs = jobs_of(run, 2, epochs=EPOCHS)
    signals = {jobs[0]: signal.SIGUSR2, jobs[1]: signal.SIGKILL}
    submitted: list[int] = []

    def disturb(job: Job, step: int) -> None:
        if step and job in signals and (process := process_of(job)):
            process.send_signal(signals.pop(job))

    class Counting(SlurmExecutor):
        def submit(self, jobs: Sequence[Job]) -> list[Any]:
            submitted.append(len(jobs))
            return super().submit(jobs)

    executor = Counting.for_run(run.config)
    outcomes = finish(run, jobs, watched(monkeypatch, executor, disturb))
    assert [outcome.ending for outcome in outcomes] == ["trained"] * 2
    assert submitted == [2, 1]  # one again, as it was lost; the one that made room was queued by itself
    assert capfd.readouterr().err.count("was lost") == 1
    for job in jobs:
        assert "going on after step" in (job.folder / "log.txt").read_text()
    assert_as_alone(run, jobs, tmp_path)
    assert not list(run.folder.glob("slurm-*"))
    assert left("submitit") == []


def test_a_stop_cancels_jobs_of_slurm_after_saving(
    on_slurm: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", on_slurm, ("retrain",))
    jobs = jobs_of(run, 2, epochs=EPOCHS)
    stop = StopRequest()
    executor = watched(
        monkeypatch,
        executor_for(run.config, workers=1),
        lambda job, step: stop.request("SIGINT") if step else None,
    )
    with pytest.raises(Stopped, match="SIGINT after saving"):
        list(train_all(run, jobs, executor, stop, "trainings"))
    assert [job.result() for job in jobs] == [None, None]
    assert CheckpointStore(jobs[0].folder / "checkpoints").steps()
    assert not (jobs[1].folder / "checkpoints").exists()
    assert left("submitit") == []
    finish(run, jobs[:1], InThisProcess())
    assert content(jobs[0].folder) == expected(run, jobs[0], tmp_path / "alone")
