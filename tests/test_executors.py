"""Where trainings run: the choice of an executor, what a cluster does with what its workers answer, and what is refused."""

import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enas import stages
from enas.cli import main, parse
from enas.errors import ConfigError, EnasError, RunFolderError
from enas.evidence.compare import CompareConfig
from enas.evidence.runs import command_line, run_in
from enas.executors import cluster, executor_for
from enas.executors.cluster import (
    RETRIES,
    WORKER_MIB,
    Cluster,
    Losses,
    late_result,
    saved_step,
    told_step,
    train_there,
)
from enas.executors.ray import RayExecutor, check_answers, described, share_of_gpu, slots_of
from enas.executors.slurm import SlurmExecutor
from enas.executors.work import Answer
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.files import JsonlLog, read_json
from enas.runtime.lock import run_lock
from enas.runtime.stop import StopRequest
from enas.settings import settings_for
from enas.stages import Run
from enas.trainings import Job, Outcome
from tests.test_trainings import InThisProcess, config, content, expected, finish, jobs_of, run

__all__ = ["config", "run"]  # fixtures

# ---- which -------------------------------------------------------------------------------------------------------------


def test_an_executor_is_a_setting_that_may_change_at_any_time(
    config: RecurrentConfig, tmp_path: Path
) -> None:
    elsewhere = replace(config, executor="ray", ray_address="head:6379")
    assert settings_for("search", elsewhere) == settings_for("search", config)
    assert settings_for("training", elsewhere) == settings_for("training", config)
    begun = run_in(tmp_path / "run", config, ("retrain",))
    again = run_in(begun.folder, elsewhere, ("retrain",))
    assert (again.config.executor, again.config.ray_address) == ("ray", "head:6379")
    assert read_json(begun.run_file)["settings"]["executor"] == "local"
    with pytest.raises(RunFolderError, match="other settings"):
        run_in(begun.folder, replace(elsewhere, seed=1), ("retrain",))


@pytest.mark.parametrize(
    "words", ["compare r", "rank r", "table build recurrent --run r", "retrain r", "resume r"]
)
def test_commands_that_train_take_an_executor(words: str) -> None:
    command: Any = parse([*words.split(), "--executor", "ray", "--ray-address", "head:6379"])
    options = getattr(command, "settings", command)
    assert (options.executor, options.ray_address) == ("ray", "head:6379")


def test_a_stopped_command_says_its_executor_again() -> None:
    options = CompareConfig(executor="ray", ray_address="head:6379", workers=3)
    assert command_line("enas compare", options) == (
        "enas compare --executor=ray --ray-address=head:6379 --workers=3"
    )


@pytest.mark.parametrize(
    "words", ["compare r", "rank r", "table build recurrent", "retrain r", "resume r", "run macro-quick"]
)
def test_an_executor_that_there_is_not_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "--executor", "kubernetes"]) == 2
    assert "--executor must be one of local, ray, slurm, not 'kubernetes'; " in capsys.readouterr().err


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_is_named_with_its_command(
    name: Any, package: str, config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"enas.executors.{name}")
    with pytest.raises(ConfigError) as caught:
        Run.create(tmp_path / "run", replace(config, executor=name), ("retrain",))
    assert str(caught.value) == (
        f"--executor {name} needs {package}, which is not installed: pip install 'enas[{name}]'"
    )
    assert not (tmp_path / "run").exists()


def test_a_device_of_this_machine_is_none_of_a_cluster(config: RecurrentConfig) -> None:
    with pytest.raises(ConfigError, match=r"'cuda:1' is one of this machine; with --executor ray"):
        executor_for(replace(config, executor="ray", device="cuda:1"))


def test_slurm_is_used_where_its_programs_are(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs Slurm's programs sbatch and srun"):
        executor_for(replace(config, executor="slurm"))


def test_stages_train_on_a_cluster_whatever_their_threads(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[Job] = []

    class Watched(InThisProcess):
        at_once = 2

        def run(self, jobs: Sequence[Job], *others: Any) -> Iterator[Outcome]:
            handed.extend(jobs)
            return super().run(jobs, *others)

    monkeypatch.setattr(stages, "WORTH_PROCESSES", -1.0)
    monkeypatch.setattr(RayExecutor, "for_run", lambda config, workers=None: Watched())
    run = Run.create(tmp_path / "run", replace(config, threads=None, executor="ray"), ("retrain",))
    drawn = [job.network for job in jobs_of(run, 2)]
    results = stages.train_missing(run, "verify", drawn, StopRequest(), 1)
    assert [job.network for job in handed] == drawn
    assert [result["id"] for result in results] == [network.id for network in drawn]


def test_retrain_notes_where_it_trains(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayExecutor, "for_run", lambda config, workers=None: InThisProcess())
    (job,) = jobs_of(run, 1)
    stages.put_architecture(run.folder, job.network.architecture)
    assert main(["retrain", str(run.folder), "--executor", "ray"]) == 0
    assert read_json(run.run_file)["settings"]["executor"] == "ray"


# ---- what a cluster does with answers ----------------------------------------------------------------------------------


class Scripted(Cluster[int]):
    """A cluster whose every hand-over ends as a script says: by training here, or otherwise."""

    at_once = 2

    def __init__(self, script: Sequence[Callable[[Job], Answer]], workers: int | None = None) -> None:
        super().__init__(1, workers)
        self.script = list(script)
        self.handed: list[Job] = []
        self.cancelled: list[int] = []
        self.most = 0
        self.under_way: set[int] = set()

    @contextmanager
    def connected(self, run: Path) -> Iterator[None]:
        yield

    def submit(self, jobs: Sequence[Job]) -> list[int]:
        handles = [len(self.handed) + place for place in range(len(jobs))]
        self.handed += jobs
        self.under_way |= set(handles)
        self.most = max(self.most, len(self.under_way))
        return handles

    def ended(self, handles: Sequence[int]) -> list[int]:
        return list(handles[:1])

    def answer(self, handle: int) -> Answer:
        self.under_way.discard(handle)
        return self.script[handle](self.handed[handle])

    def cancel(self, handle: int) -> None:
        self.cancelled.append(handle)


def trains(job: Job) -> Answer:
    return train_there(str(job.folder.absolute()), os.getcwd(), 1, "slurm", StopRequest())


def lost(job: Job) -> Answer:
    return Answer("lost", "the node is gone")


def stopped_after(steps: int) -> Callable[[Job], Answer]:
    """Trains until so many steps are done, and then is shut down."""

    def train(job: Job) -> Answer:
        stop = StopRequest()

        def look(training: Any) -> None:
            if training.done == steps:
                stop.request("SIGTERM")

        return cluster.train_in(job.folder, "slurm", stop, look)

    return train


def test_what_is_lost_goes_on_elsewhere(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = jobs_of(run, 2)
    script = [stopped_after(7), lost, stopped_after(12), trains, trains]
    outcomes = finish(run, jobs, executor := Scripted(script, workers=1))
    assert executor.handed == [jobs[0], jobs[1], jobs[0], jobs[1], jobs[0]]
    assert executor.most == 1
    assert [(outcome.job, outcome.ending) for outcome in outcomes] == [
        (jobs[1], "trained"),
        (jobs[0], "trained"),
    ]
    said = capsys.readouterr().err
    assert f"{jobs[0].network} was lost at a worker (SIGTERM); it goes on elsewhere from step 7" in said
    assert (
        f"{jobs[1].network} was lost at a worker (the node is gone); it goes on elsewhere from step 0" in said
    )
    for job in jobs:
        assert content(job.folder) == expected(run, job, tmp_path / job.network.id)
        assert read_json(job.folder / "worker.json")["executor"] == "slurm"


def test_what_is_lost_again_and_again_is_given_up(run: Run) -> None:
    jobs = jobs_of(run, 1)
    (outcome,) = finish(run, jobs, executor := Scripted([lost] * (RETRIES + 1)))
    assert len(executor.handed) == RETRIES + 1
    assert (outcome.ending, outcome.reason) == ("died", "it was lost 4 times in a row: the node is gone")


def test_losses_count_in_a_row_without_progress() -> None:
    losses = Losses()
    assert all(losses.one_more(step) for step in (0, 0, 5, 5, 5, 8, 8, 8))
    assert not losses.one_more(8)


def test_an_error_in_the_program_is_not_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: Job, *_: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Job, "perform", broken)
    (job,) = jobs_of(run, 1)
    (outcome,) = finish(run, [job], Scripted([trains]))
    assert outcome.ending == "died"
    assert outcome.reason == f"ZeroDivisionError: by zero; see {job.folder / 'log.txt'}"
    assert "ZeroDivisionError" in (job.folder / "log.txt").read_text()


def test_an_error_of_the_run_ends_all(run: Run) -> None:
    jobs = jobs_of(run, 3)
    executor = Scripted([lambda job: Answer("failed", "the disk is full"), trains, trains], workers=2)
    with pytest.raises(EnasError, match="the disk is full"):
        finish(run, jobs, executor)
    assert executor.handed == jobs[:2]
    assert executor.cancelled == [1]


def test_jobs_that_a_cluster_refuses_end_all(run: Run) -> None:
    class Refusing(Scripted):
        def submit(self, jobs: Sequence[Job]) -> list[int]:
            if self.handed:
                raise ConfigError("no node has room")
            return super().submit(jobs)

    executor = Refusing([trains], workers=1)
    with pytest.raises(ConfigError, match="no node has room"):
        finish(run, jobs_of(run, 2), executor)


def test_who_goes_away_leaves_no_job(run: Run) -> None:
    jobs = jobs_of(run, 2)
    for job in jobs:
        job.put()
    outcomes = (executor := Scripted([trains, trains])).run(jobs, StopRequest(), lambda job, step: None)
    assert next(outcomes).job == jobs[0]
    assert isinstance(outcomes, Generator)
    outcomes.close()
    assert executor.cancelled == [1]


# ---- on a worker -------------------------------------------------------------------------------------------------------


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    folder = str(tmp_path / "run" / "many" / "x")
    answer = train_there(folder, os.getcwd(), 1, "ray", StopRequest())
    assert answer.kind == "failed"
    assert answer.reason == (
        f"the machine {socket.gethostname()} does not see {folder}. Put the run, by --run, into a folder that all machines "
        "share"
    )


def test_a_result_that_does_not_come_to_be_seen_is_an_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.0)
    (job,) = jobs_of(run, 1)
    job.put()
    with pytest.raises(RunFolderError, match="was trained on another machine, but its result is not seen in"):
        late_result(job)


def test_relative_paths_of_settings_begin_where_the_command_was_given(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(config.data.source or "")
    monkeypatch.chdir(text.parent)
    run = Run.create(
        tmp_path / "run", replace(config, data=replace(config.data, source=text.name)), ("retrain",)
    )
    (job,) = jobs_of(run, 1, epochs=1)
    job.put()
    monkeypatch.chdir(tmp_path)
    assert train_there(str(job.folder), str(text.parent), 1, "ray", StopRequest()) == Answer("done")
    assert Path.cwd() == tmp_path
    assert saved_step(job) == run.child_training(job.network, 1).total_steps


def test_a_worker_that_is_kept_trains_by_the_settings_of_now(run: Run) -> None:
    first, second = jobs_of(run, 2, epochs=1)
    for job in (first, second):
        job.put()
    assert trains(first) == Answer("done")
    child = replace(run.config.retrain.child, hidden=4)
    run.config = replace(run.config, retrain=replace(run.config.retrain, child=child))
    run.write_config()
    assert trains(second) == Answer("done")
    assert second.result(run) is not None


def test_a_folder_that_a_lost_machine_still_holds_is_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    (job,) = jobs_of(run, 1)
    job.put()
    with run_lock(job.folder):
        answer = trains(job)
    assert answer.kind == "failed"
    assert f"{job.folder} is in use by process {os.getpid()}" in answer.reason
    assert trains(job) == Answer("done")


def test_progress_is_that_of_the_last_epoch_or_of_a_checkpoint_after_it(run: Run) -> None:
    (job,) = jobs_of(run, 1, epochs=2)
    job.put()
    assert told_step(job) == 0
    assert trains(job) == Answer("done")
    total = run.child_training(job.network, 2).total_steps
    assert told_step(job) == saved_step(job) == total
    shutil.rmtree(job.folder / "checkpoints")
    assert saved_step(job) == 0
    assert told_step(job) == total
    log = job.folder / "metrics.jsonl"
    log.write_text(log.read_text().splitlines()[0] + '\n{"sta')  # the second epoch is being written
    assert told_step(job) == total // 2


def test_progress_is_told_while_trainings_are_under_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.0)
    jobs = jobs_of(run, 2, epochs=1)
    for job in jobs:
        job.put()
    JsonlLog(jobs[1].folder / "metrics.jsonl").append({"stage": "retrain", "step": 3})
    told: list[tuple[Job, int]] = []
    outcomes = Scripted([trains, trains]).run(jobs, StopRequest(), lambda job, step: told.append((job, step)))
    assert [outcome.ending for outcome in outcomes] == ["trained"] * 2
    assert told == [(jobs[1], 3)]


# ---- Ray ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["", "head", "head:", ":6379", "ray://head:10001", "head:port"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--ray-address is HOST:PORT"):
        check_answers(address)


def test_an_address_that_nobody_answers_is_named_at_once(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address} .*ray start --head"):
            Run.create(tmp_path, replace(config, executor="ray", ray_address=address), ("retrain",))
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address}"):
            executor_for(replace(config, executor="ray"))


def test_the_last_cluster_of_this_machine_is_named_at_once_if_it_is_gone(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would try its address for a minute."""
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)  # those of other tests
    monkeypatch.setattr("ray.init", lambda *given, **options: pytest.fail("tried to join it"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "")
    check_answers("auto")  # there never was one, says Ray
    (tmp_path / "ray").mkdir()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
        with pytest.raises(ConfigError, match=rf"^no Ray cluster answers at \S+:{port} .*ray start --head"):
            executor_for(replace(config, executor="ray"))


def test_what_a_training_takes_of_a_node() -> None:
    needs = {"CPU": 2, "memory": 2**30, "GPU": 1 / 3}
    assert slots_of({"CPU": 16, "memory": 7 * 2**30, "GPU": 2}, needs) == 6
    assert slots_of({"CPU": 16, "memory": 5 * 2**30, "GPU": 2}, needs) == 5
    assert slots_of({"CPU": 5, "memory": 7 * 2**30, "GPU": 2}, needs) == 2
    assert slots_of({"CPU": 16, "memory": 7 * 2**30}, needs) == 0
    assert described(needs) == "2 CPU, 1.0 GiB of memory, 0.333 GPU"


def test_a_training_that_no_node_has_room_for_is_refused() -> None:
    executor = RayExecutor("head:6379", 2, torch.device("cpu"), workers=5)
    executor.nodes = [
        {"CPU": 1, "memory": 2**30},
        {"CPU": 8, "memory": 4 * 2**30},
        {"CPU": 1, "memory": 2**30},
    ]
    assert executor.at_once == 4
    assert executor.room(seconds=1, mib=1024 - WORKER_MIB) == 4
    assert executor.room(seconds=1, mib=2048 - WORKER_MIB) == 2
    with pytest.raises(ConfigError) as caught:
        executor.room(seconds=1, mib=5120 - WORKER_MIB)
    assert str(caught.value) == (
        "no node of the Ray cluster at head:6379 has 2 CPU, 5.0 GiB of memory, which a training takes; they have 1 CPU, 1.0 "
        "GiB of memory; 8 CPU, 4.0 GiB of memory. Add a node, or take fewer --threads"
    )


def test_a_gpu_is_shared_as_far_as_its_memory_goes() -> None:
    assert share_of_gpu(mib=7_400, total=24_000) == 1 / 3
    assert share_of_gpu(mib=30_000, total=24_000) == 1


def test_a_gpu_is_asked_for_where_the_run_computes_on_one() -> None:
    assert RayExecutor("head:6379", 2, torch.device("cpu")).needs == {"CPU": 2}
    assert RayExecutor("head:6379", 2, torch.device("cuda")).needs == {"CPU": 2, "GPU": 1.0}


# ---- Slurm -------------------------------------------------------------------------------------------------------------


def test_a_job_asks_slurm_for_twice_the_estimate(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for Slurm keeps the script that it is given."""
    for name, does in (("sbatch", f'cp "$1" {tmp_path}/script; echo Submitted batch job 17'), ("srun", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    executor = SlurmExecutor.for_run(replace(run.config, executor="slurm", threads=3), workers=2)
    assert executor.room(seconds=7200, mib=1024) == 2
    jobs = jobs_of(run, 3)
    with executor.connected(run.folder.absolute()):
        handles = executor.submit(jobs)
        assert [handle.job_id for handle in handles] == ["17_0", "17_1", "17_2"]
        (folder,) = run.folder.glob("slurm-*")
        assert folder.stat().st_mode & 0o077 == 0  # its pickles are nobody else's
    assert not folder.exists()
    asked = set((tmp_path / "script").read_text().splitlines())
    wanted = (
        "--time=240 --mem=3GB --cpus-per-task=3 --gpus-per-node=0 --array=0-2%2 --requeue --signal=USR2@90"
    )
    assert {f"#SBATCH {flag}" for flag in wanted.split()} <= asked


def test_jobs_that_slurm_does_not_take_are_an_error_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    executor = SlurmExecutor.for_run(replace(run.config, executor="slurm"))
    with pytest.raises(ConfigError, match=r"Slurm does not take the jobs: .*invalid partition") as caught:
        finish(run, jobs_of(run, 1), executor)
    assert "\n" not in str(caught.value)
