"""Trainings side by side: the same as the stage's bit for bit, none repeated, and every way to end one."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import pytest

from enas import stages
from enas.child_training import ChildTraining, evaluate
from enas.errors import ConfigError, EnasError, NotFiniteError, RunFolderError
from enas.executors import local
from enas.executors.local import LocalExecutor, share_cores, work
from enas.executors.work import Answer, train_in
from enas.retrain import Network, load_weights, random_architectures
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import read_json, write_json
from enas.runtime.stop import EXIT_STOPPED, Stopped, StopRequest
from enas.stages import Run
from enas.tasks.images import ImageTask
from enas.trainings import Executor, Job, Outcome, outcome_of, train_all
from tests import tiny


class InThisProcess(Executor):
    """One job after the other, here: what every executor must do, in the fewest words."""

    at_once = 1

    def run(
        self, jobs: Sequence[Job], stop: StopRequest, on_step: Callable[[Job, int], None]
    ) -> Iterator[Outcome]:
        for job in jobs:
            try:
                result = job.perform(Run.open(job.run), stop, lambda t, job=job: on_step(job, t.done))
            except Stopped:
                return
            yield outcome_of(job, result)


class Forbidden(Executor):
    """For jobs that are done."""

    at_once = 1

    def run(self, jobs: Sequence[Job], *_: Any) -> Iterator[Outcome]:
        raise AssertionError(f"{len(jobs)} trainings would be repeated")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RecurrentConfig:
    text = tiny.write_text(tmp_path_factory.mktemp("data") / "text")
    # At this rate there are no two equal losses among the epochs.
    more = "--retrain.child.training.sgd.learning-rate 1.0 --retrain.checkpoint-every 10"
    return tiny.config(text, *more.split())


@pytest.fixture
def run(config: RecurrentConfig, tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", config, ("retrain",))


def jobs_of(run: Run, count: int, **settings: Any) -> list[Job]:
    drawn = random_architectures(run.config.searched_space(), count, 0, set())
    return [Job(run.folder, "many", Network("random", a, 3), **settings) for a in drawn]


def finish(run: Run, jobs: Sequence[Job], executor: Executor) -> list[Outcome]:
    return list(train_all(run, jobs, executor, StopRequest(), "trainings", "enas again"))


def content(folder: Path) -> dict[str, Any]:
    """All that a training has computed."""
    return {
        name: value
        for name, value in tiny.content(folder).items()
        if name not in ("job.json", "log.txt", "worker.json")
    }


def expected(run: Run, job: Job, elsewhere: Path) -> dict[str, Any]:
    """What the same training leaves when the stage `retrain` does it, in this process and another run folder."""
    alone = Run.create(elsewhere, run.config, ("retrain",))
    alone.train(job.network, "retrain", StopRequest(), job.epochs)
    if job.test:
        alone.measure(job.network, "retrain", job.epochs)
    return content(elsewhere / "retrain" / job.network.id)


# ---- trainings that wait to be disturbed -------------------------------------------------------------------------------

EPOCHS = 3
HELD_AT = 14
"""The step that a training waits after: in its second epoch, with a checkpoint behind it."""
GO = "go"
"""The file of a run folder that lets trainings go on."""
PATIENCE = 60
"""Seconds after which a training has not been disturbed."""


@contextlib.contextmanager
def waiting(folder: Path, stop: StopRequest) -> Iterator[None]:
    """Inside, a training that begins waits in its second epoch until it is asked to stop, is killed or may go on."""
    do_step, begins = ChildTraining.step, not CheckpointStore(folder / "checkpoints").steps()

    def step(self: ChildTraining) -> dict[str, float]:
        until = time.monotonic() + PATIENCE
        while begins and self.done == HELD_AT and not (stop.requested or (folder.parents[1] / GO).exists()):
            assert time.monotonic() < until, "nobody has disturbed this training"
            time.sleep(0.02)
        return do_step(self)

    with patch.object(ChildTraining, "step", step):
        yield


def train_held(folder: Path, executor: str, stop: StopRequest, *more: Any, **others: Any) -> Answer:
    """What a worker process does for a training here."""
    with waiting(folder, stop):
        return train_in(folder, executor, stop, *more, **others)


def work_held(*arguments: Any) -> None:
    """What a worker process does here."""
    with patch.object(local, "train_in", train_held):
        work(*arguments)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers whose trainings wait."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # where workers find this module
    monkeypatch.setattr(local, "work", work_held)


# ---- the same as the stage's -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("space", ["recurrent", "macro"])
def test_trainings_in_processes_equal_those_of_the_stage_bit_for_bit(
    space: str, config: RecurrentConfig, tmp_path: Path
) -> None:
    settings = config if space == "recurrent" else tiny.image_config("macro")
    run = Run.create(tmp_path / "run", settings, ("retrain",))
    jobs = jobs_of(run, 3, test=True)
    outcomes = finish(run, jobs, LocalExecutor.for_run(run.config, workers=2))
    assert {outcome.job for outcome in outcomes} == set(jobs)
    assert all(outcome.ending == "trained" for outcome in outcomes)
    for number, job in enumerate(jobs):
        assert content(job.folder) == expected(run, job, tmp_path / f"alone-{number}")
        assert job.result() == read_json(job.folder / "result.json")
    assert finish(run, jobs, Forbidden()) == [outcome_of(job, job.result() or {}) for job in jobs]


@pytest.mark.parametrize(("threads", "worth"), [(1, -1.0), (1, 1e9), (None, -1.0)])
def test_a_stage_trains_side_by_side_what_takes_long(
    threads: int | None,
    worth: float,
    config: RecurrentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stages, "WORTH_PROCESSES", worth)
    handed: list[str] = []

    class Watched(InThisProcess):
        at_once = 2

        def run(self, jobs: Sequence[Job], *others: Any) -> Iterator[Outcome]:
            handed.extend(job.network.id for job in jobs)
            return super().run(jobs, *others)

    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: Watched())
    run = Run.create(tmp_path / "run", replace(config, threads=threads), ("retrain", "test"))
    stages.put_architecture(run.folder, run.config.space.sample(random.Random(1)))
    first, *others = run.networks()
    run.train(first, "retrain", StopRequest())
    stages.retrain(run, StopRequest())
    side_by_side = threads is not None and worth < 0 and len(others) > 1
    assert handed == ([network.id for network in others] if side_by_side else [])
    assert [result["id"] for result in run.results()] == [network.id for network in (first, *others)]
    for network in others:
        job = Job(run.folder, "retrain", network)
        assert content(job.folder) == expected(run, job, tmp_path / network.id)


def test_what_is_finished_comes_first_and_is_not_repeated(run: Run) -> None:
    jobs = jobs_of(run, 3)
    (second,) = finish(run, jobs[1:2], InThisProcess())
    outcomes = finish(run, jobs, InThisProcess())
    assert outcomes[0] == second
    assert [outcome.job for outcome in outcomes] == [jobs[1], jobs[0], jobs[2]]


def test_a_result_without_its_test_is_not_finished(run: Run) -> None:
    (job,) = jobs_of(run, 1)
    finish(run, [job], InThisProcess())
    assert job.result() is not None
    with_test = replace(job, test=True)
    assert with_test.result() is None
    # The folder is of a training that was asked for in another way.
    with pytest.raises(RunFolderError, match="another training"):
        with_test.put()
    with_test.folder.joinpath("job.json").unlink()
    weights = (job.folder / "weights.safetensors").read_bytes()
    (outcome,) = finish(run, [with_test], InThisProcess())
    assert outcome.result["test"]["test_ppl"] > 1
    assert (job.folder / "weights.safetensors").read_bytes() == weights


def test_a_training_is_the_same_whatever_it_is_asked_for(run: Run) -> None:
    (job,) = jobs_of(run, 1)
    job.put()
    found = replace(job, network=replace(job.network, role="found"))
    found.put()
    assert Job.read(job.folder) == found


def test_a_shortened_training_is_tested_as_it_was_trained(tmp_path: Path) -> None:
    run = Run.create(
        tmp_path / "run", tiny.image_config("micro", "--retrain.child.train-on", "all"), ("retrain",)
    )
    (job,) = jobs_of(run, 1, epochs=1, test=True)
    (outcome,) = finish(run, [job], InThisProcess())
    training, whole = (run.child_training(job.network, epochs) for epochs in (1, None))
    load_weights(training.model, job.folder / "weights.safetensors")
    expected = evaluate(training.model, training.task, "test") or {}
    assert outcome.result["test"] == {f"test_{name}": value for name, value in expected.items()}
    assert (
        cast(ImageTask, training.task).train.normalisation != cast(ImageTask, whole.task).train.normalisation
    )


@pytest.mark.parametrize("schedule", ["cut", "squeezed"])
def test_a_shorter_training_is_tied_to_the_whole_length_if_its_schedule_is(
    schedule: Literal["cut", "squeezed"], config: RecurrentConfig, tmp_path: Path
) -> None:
    config = replace(config, retrain=replace(config.retrain, short_schedule=schedule))
    run = Run.create(tmp_path / "run", config, ("retrain",))
    (job,) = jobs_of(run, 1, epochs=1)
    finish(run, [job], InThisProcess())
    longer = replace(config.retrain.child, epochs=config.retrain.child.epochs + 1)
    run.config = replace(config, retrain=replace(config.retrain, child=longer))
    if schedule == "cut":
        assert job.result(run) is not None
    else:
        with pytest.raises(RunFolderError, match=r"retrain\.child\.epochs \(the whole length\) is 3 in"):
            job.result(run)


def test_a_training_that_diverges_is_a_result_with_a_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_of(run, 3, test=True)
    do_step = ChildTraining.step

    def step(self: ChildTraining) -> dict[str, float]:
        if self.model.cell.architecture == jobs[1].network.architecture and self.done == 2:
            raise NotFiniteError("the loss is nan")
        return do_step(self)

    monkeypatch.setattr(ChildTraining, "step", step)
    outcomes = finish(run, jobs, InThisProcess())
    assert [outcome.ending for outcome in outcomes] == ["trained", "diverged", "trained"]
    assert "the loss is nan" in outcomes[1].reason
    assert {outcome.ending for outcome in finish(run, jobs, Forbidden())} == {"trained", "diverged"}


@pytest.mark.slow
@pytest.mark.usefixtures("held")
def test_a_killed_worker_is_a_result_with_a_name_and_its_training_goes_on_later(
    config: RecurrentConfig, tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "run", config, ("retrain",))
    jobs = [*jobs_of(run, 1, epochs=EPOCHS), jobs_of(run, 2)[1]]
    victims: list[Job] = []

    class Murderous(LocalExecutor):
        def run(
            self, jobs: Sequence[Job], stop: StopRequest, on_step: Callable[[Job, int], None]
        ) -> Iterator[Outcome]:
            def kill(job: Job, done: int) -> None:
                on_step(job, done)
                if not victims:
                    victims.append(job)
                    while not CheckpointStore(job.folder / "checkpoints").steps():
                        time.sleep(0.02)
                    (process,) = multiprocessing.active_children()
                    process.kill()
                    process.join()
                    (run.folder / GO).touch()

            return super().run(jobs, stop, kill)

    first, second = finish(run, jobs, Murderous(workers=1, threads=1))
    assert victims == [jobs[0]] == [first.job]
    assert first.ending == "died"
    assert "SIGKILL" in first.reason
    assert str(jobs[0].folder / "log.txt") in first.reason
    assert (second.job, second.ending) == (jobs[1], "trained")  # by a worker that took its place
    assert CheckpointStore(jobs[0].folder / "checkpoints").steps()
    assert jobs[0].result() is None
    again = finish(run, jobs, InThisProcess())
    assert {outcome.ending for outcome in again} == {"trained"}
    assert content(jobs[0].folder) == expected(run, jobs[0], tmp_path / "alone")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.usefixtures("held")
def test_a_stop_saves_what_is_under_way_and_says_how_to_go_on(
    config: RecurrentConfig, tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "run", config, ("retrain",))
    jobs = jobs_of(run, 3, epochs=EPOCHS)
    stop = StopRequest()

    class Interrupted(LocalExecutor):
        def run(
            self, jobs: Sequence[Job], stop: StopRequest, on_step: Callable[[Job, int], None]
        ) -> Iterator[Outcome]:
            def ask(job: Job, done: int) -> None:
                on_step(job, done)
                for process in multiprocessing.active_children():
                    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's meet the workers too
                        os.kill(process.pid or 0, number)
                stop.request("SIGINT")

            return super().run(jobs, stop, ask)

    with pytest.raises(
        Stopped, match=r"Stopped by SIGINT after saving\. Continue with: enas again "
    ) as caught:
        list(train_all(run, jobs, Interrupted(workers=2, threads=1), stop, "trainings", "enas again"))
    assert caught.value.exit_code == EXIT_STOPPED
    assert [job.result() for job in jobs] == [None] * 3
    assert CheckpointStore(jobs[0].folder / "checkpoints").steps()
    assert not (jobs[2].folder / "checkpoints").exists()
    assert multiprocessing.active_children() == []
    finish(run, jobs[:1], InThisProcess())
    assert content(jobs[0].folder) == expected(run, jobs[0], tmp_path / "alone")


def test_an_error_that_would_meet_every_training_ends_them_all(run: Run) -> None:
    jobs = jobs_of(run, 2)
    environment = run.folder / "environment.json"
    environment.write_text(environment.read_text().replace(run.data.hash, "0" * 12))
    with pytest.raises(EnasError, match="the data have changed"):
        finish(run, jobs, LocalExecutor(workers=1, threads=1))
    assert multiprocessing.active_children() == []


SCRIPT = """
from pathlib import Path
from enas.errors import ConfigError
from enas.retrain import Network
from enas.runtime.stop import StopRequest
from enas.trainings import Job
from enas.executors.local import LocalExecutor
try:
    print(list(LocalExecutor(1, 1).run([Job(Path(), "p", Network("lstm", None, 0))], StopRequest(), print)))
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stdout == (
        "the processes that train import the script that they were started from, and came to the same call: put it under "
        "`if __name__ == '__main__':`\n"
    )
    assert ended.stderr == ""


@pytest.mark.parametrize("gone", ["config.json", ""])
def test_a_job_is_not_put_into_a_run_that_is_gone(run: Run, gone: str) -> None:
    (job,) = jobs_of(run, 1)
    shutil.rmtree(run.folder) if not gone else (run.folder / gone).unlink()
    with pytest.raises(RunFolderError, match=r"config\.json is gone"):
        job.put()
    assert not job.folder.exists()


def test_a_job_that_is_none_or_of_another_folder_is_refused(run: Run) -> None:
    first, second = jobs_of(run, 2)
    first.put()
    record = read_json(first.folder / "job.json")
    wrong: list[Any] = [
        {},
        [1],
        {**record, "epochs": "2"},
        {**record, "network": {**record["network"], "role": "x"}},
    ]
    wrong.append({**record, "network": {**record["network"], "id": "../../x"}})
    wrong.append({**record, "network": second.network.to_json()})
    for values in wrong:
        write_json(first.folder / "job.json", values)
        with pytest.raises(RunFolderError, match=r"job\.json"):
            Job.read(first.folder)


def test_a_finished_training_of_other_settings_is_named(run: Run) -> None:
    (job,) = jobs_of(run, 1)
    finish(run, [job], InThisProcess())
    child = run.config.retrain.child
    edited = replace(run.config, retrain=replace(run.config.retrain, child=replace(child, epochs=7)))
    with pytest.raises(
        RunFolderError, match=r"retrain\.child\.epochs is 7 in config\.json, but .* was made with 2"
    ):
        finish(Run(run.folder, edited, run.stages), [job], Forbidden())


def test_progress_counts_the_steps_of_all_trainings(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = jobs_of(run, 3)
    finish(run, jobs[:1], InThisProcess())
    capsys.readouterr()
    finish(run, jobs, InThisProcess())
    lines = capsys.readouterr().err.splitlines()
    steps = run.child_training(jobs[0].network).total_steps
    assert lines[0].startswith(
        "trainings: 1 of 3 trainings are done; 1 at a time for the others. time left: "
    )
    assert [line for line in lines if line.startswith("trainings: ")][-1].startswith(
        f"trainings: {3 * steps}/{3 * steps} steps"
    )


def test_jobs_survive_their_file(run: Run) -> None:
    first, second = jobs_of(run, 2)
    for job in (first, replace(second, epochs=1, test=True)):
        job.put()
        assert Job.read(job.folder) == job
        job.put()  # again


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "shared"),
    [
        (None, None, 8, (8, 1)),
        (None, 2, 8, (4, 2)),
        (None, 3, 8, (2, 3)),
        (None, 16, 8, (1, 16)),
        (3, None, 8, (3, 2)),
        (16, None, 8, (16, 1)),
        (2, 1, 8, (2, 1)),
    ],
)
def test_cores_are_shared_out(
    workers: int | None, threads: int | None, cores: int, shared: tuple[int, int]
) -> None:
    assert share_cores(workers, threads, cores) == shared


@pytest.mark.parametrize(("workers", "threads"), [(0, None), (None, 0)])
def test_no_workers_or_threads_are_refused(workers: int | None, threads: int | None) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        share_cores(workers, threads, 4)


def test_the_hook_sees_every_step_of_the_training(run: Run) -> None:
    (job,) = jobs_of(run, 1)
    seen: list[int] = []

    def look(training: ChildTraining) -> None:
        seen.append(training.done)

    run.train(job.network, "many", StopRequest(), None, look)
    assert seen == list(range(1, run.child_training(job.network).total_steps + 1))
