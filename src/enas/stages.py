"""The stages of a run, in order: search, derive, retrain, test. Each reads only files that the one before wrote.

    runs/NAME/
      config.json environment.json    settings and stages; versions, hardware, hash of the data
      metrics.jsonl archive.jsonl     the search's numbers; every rewarded architecture
      checkpoints/                    the search's newest few
      candidates.json effects.json derive.json architecture.json architecture.svg
      derive/ID-seedS/ retrain/ID-seedS/   one training each: weights.safetensors, result.json
      comparison.json                 what came out, network by network

A stage that is done is recognised by its files and not repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from enas.architecture import Architecture
from enas.config import RunConfig, Workshop
from enas.controllers import Controller, build_controller
from enas.derive import candidates, pick
from enas.effects import Effects, Groups, archive_effects
from enas.errors import EnasError, NotFiniteError, RunFolderError
from enas.report.drawing import write_svg
from enas.retrain import (
    RESULT,
    WEIGHTS,
    Network,
    network_from_json,
    networks_to_train,
    read_result,
    record_diverged,
    train_network,
)
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.devices import check_precision, pick_device, set_threads
from enas.runtime.environment import environment
from enas.runtime.files import JsonlLog, read_json, read_jsonl, write_json
from enas.runtime.metrics import Metrics
from enas.runtime.progress import say
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.runtime.tensorboard import tensorboard_writer
from enas.search import Search, run_search
from enas.settings import config_from_json, config_to_json
from enas.spaces import architecture_from_json
from enas.tasks.base import ChildTraining, SearchTask

StageName = Literal["search", "derive", "retrain", "test"]
ALL_STAGES: tuple[StageName, ...] = get_args(StageName)


@dataclass
class Run:
    """A run folder that this process holds, with its settings; data are loaded when a stage first needs them."""

    folder: Path
    config: RunConfig
    stages: tuple[StageName, ...]

    @classmethod
    def create(cls, folder: Path, config: RunConfig, stages: Sequence[StageName]) -> Run:
        """Start a new run. Raises `RunFolderError` if the folder already holds one.

        Device, threads, data, controller and shared weights are tried first: settings that cannot work leave no run
        behind.
        """
        if (folder / "config.json").exists():
            raise RunFolderError(
                f"{folder} already holds a run. Continue it with 'enas resume {folder}', or choose another --run."
            )
        check_precision(pick_device(config.device), config.precision, config.allow_slow)
        set_threads(config.threads)
        (folder / "environment.json").unlink(missing_ok=True)  # of a start that was killed right here
        run = cls(folder, config, tuple(stages))
        say(f"data: {run.workshop.description}")
        if "search" in stages:
            task = run.workshop.search_task()
            build_controller(config.controller, task.space, config.seed)
        write_json(folder / "config.json", {"stages": list(stages), **config_to_json(config)})
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run. Raises `RunFolderError` if there is none."""
        if not (folder / "config.json").exists():
            raise RunFolderError(f"{folder} is not a run folder: it has no config.json. Check the path.")
        record = read_json(folder / "config.json")
        config = config_from_json(record)
        stages = tuple(record.get("stages", ()))
        if not stages or not set(stages) <= set(ALL_STAGES):
            raise RunFolderError(
                f"{folder / 'config.json'}: 'stages' must name some of {', '.join(ALL_STAGES)}, not {list(stages)}"
            )
        return cls(folder, config, stages)

    @cached_property
    def workshop(self) -> Workshop:
        """The data and what builds models on them.

        Raises `RunFolderError` if the data are not those that the run began with.
        """
        workshop = self.config.load()
        path = self.folder / "environment.json"
        if not path.exists():
            write_json(path, {**environment(), "data": workshop.description, "data_hash": workshop.data_hash})
        elif read_json(path)["data_hash"] != workshop.data_hash:
            raise RunFolderError(
                f"the data have changed since {self.folder} was begun ({path} has their hash and the versions of then); "
                "restore them, or begin a new run"
            )
        return workshop

    def search(self, *, board: bool = False) -> Search:
        """The search of this run, at its start."""
        config = self.config
        task = self.workshop.search_task()
        controller = build_controller(config.controller, task.space, derive_seed(config.seed, "controller"))
        writer = tensorboard_writer(self.folder / "tensorboard") if board and config.tensorboard else None
        metrics = Metrics(JsonlLog(self.folder / "metrics.jsonl"), writer)
        return Search(
            config.search, task, controller, config.seed, metrics, JsonlLog(self.folder / "archive.jsonl")
        )

    def search_checkpoints(self) -> CheckpointStore:
        """Where the search saves itself."""
        return CheckpointStore(self.folder / "checkpoints", self.config.search.keep_checkpoints, say)

    def search_end(self) -> dict[str, Any] | None:
        """The state at the end of the search; None if it is not finished, or that checkpoint is damaged."""
        newest = self.search_checkpoints().load_newest()
        at_end = newest is not None and newest[1]["place"][0] == self.config.search.epochs
        return newest[1] if newest is not None and at_end else None

    def searched(self) -> tuple[SearchTask, Controller]:
        """The shared weights and the controller at the end of the search.

        Raises `RunFolderError` if the search is not finished.
        """
        end = self.search_end()
        if end is None:
            raise RunFolderError(
                f"the search of {self.folder} is not finished; run 'enas resume {self.folder}' first"
            )
        search = self.search()
        search.task.load_state_dict(end["task"])
        search.controller.load_state_dict(end["controller"])
        return search.task, search.controller

    def earlier_tasks(self, count: int) -> Iterator[dict[str, Any]]:
        """States of the search's task at so many checkpoints before the newest, one at a time, the latest first.

        Says so if there are fewer; one from before the first step is none.
        """
        earlier = (
            state["task"] for step, state in islice(self.search_checkpoints().whole(), 1, None) if step
        )
        read = 0
        for state in islice(earlier, count):
            read += 1
            yield state
        if read < count:
            say(
                f"derive: the search left {read} checkpoints before the newest, not {count}; candidates are ranked by those"
            )

    def effects(self) -> Effects | None:
        """What the logged rewards say each option is worth; None if there are none to compare."""
        path, config = self.folder / "archive.jsonl", self.config.search
        within: Groups = "update" if config.same_minibatch and config.proposals > 1 else "epoch"
        return archive_effects(self.config.searched_space(), read_jsonl(path), within)

    def architecture(self) -> Architecture:
        """The derived architecture. Raises `RunFolderError` if there is none yet."""
        path = self.folder / "architecture.json"
        if not path.exists():
            raise RunFolderError(
                f"{self.folder} has no architecture yet; run 'enas derive {self.folder}' first"
            )
        return architecture_from_json(read_json(path))

    def train(
        self,
        network: Network,
        part: str,
        stop: StopRequest,
        epochs: int | None = None,
        after_step: Callable[[ChildTraining], None] = lambda training: None,
    ) -> dict[str, Any]:
        """Train a network in its folder under `part`; one that is finished is not trained again.

        That another network than the found one diverges is a result, recorded as `diverged`.
        """
        folder = self.folder / part / network.id
        finished = read_result(folder)
        if finished is not None:
            return finished
        training, every = self.workshop.child_training(network, epochs), self.config.retrain.checkpoint_every
        try:
            return train_network(network, training, folder, every, stop, self.folder, after_step)
        except NotFiniteError as error:
            if network.role == "found":
                raise
            say(f"{error}. It counts as diverged, and the run goes on.")
            return record_diverged(network, training, folder, error)

    def measure(self, result: dict[str, Any], part: str) -> dict[str, Any]:
        """The result of a training under `part` with `test`, what its network does on the test data, read once."""
        if "test" in result or "diverged" in result:
            return result
        folder = self.folder / part / result["id"]
        measured = {**result, "test": self.workshop.test(network_from_json(result), folder / WEIGHTS)}
        write_json(folder / RESULT, measured)
        return measured

    def found_model(self) -> nn.Module:
        """The found architecture as an ordinary module, with the weights of its retraining.

        Raises `RunFolderError` if it is not retrained yet.
        """
        network = Network("found", self.architecture(), self.config.seed)
        folder = self.folder / "retrain" / network.id
        if read_result(folder) is None:
            raise RunFolderError(f"{network} is not retrained yet; run 'enas retrain {self.folder}' first")
        return self.workshop.trained(network, folder / WEIGHTS)

    def results(self) -> list[dict[str, Any]]:
        """The results of the finished retrainings, the found architecture first."""
        found = [read_json(path) for path in (self.folder / "retrain").glob(f"*/{RESULT}")]
        order = ("found", "lstm", "random")
        return sorted(found, key=lambda result: (order.index(result["role"]), result["id"]))


def search(run: Run, stop: StopRequest) -> None:
    """Train the shared weights and the controller (paper §2.2)."""
    # Once an architecture is derived, nothing reads the search's checkpoint any more.
    derived = (run.folder / "architecture.json").exists()
    if (run.folder / "search.json").exists() and (derived or run.search_end() is not None):
        return
    searching = run.search(board=True)
    run_search(searching, run.search_checkpoints(), stop, run.folder)
    write_json(
        run.folder / "search.json",
        {
            "steps": searching.total_steps(),
            "updates_end": searching.updates_end,
            "seconds": round(searching.metrics.seconds(), 1),
        },
    )


def derive(run: Run, stop: StopRequest) -> None:
    """Pick an architecture from the trained policy."""
    if (run.folder / "architecture.json").exists():
        return

    def train(architecture: Architecture) -> float:
        network = Network("candidate", architecture, run.config.seed)
        result = run.train(network, "derive", stop, run.config.derive.shortlist_epochs)
        return float(result.get("valid_loss", math.inf))

    derive_by(run, train)


def derive_by(run: Run, train: Callable[[Architecture], float]) -> None:
    """Pick an architecture; `train` says what the short training of one comes to, its validation loss."""
    task, controller = run.searched()
    config = run.config.derive
    effects = run.effects()
    if effects is not None:
        say(effects.table())
    elif config.needs_ridge:
        raise RunFolderError(
            f"{run.folder} has no rewards that differ on one minibatch, which the ridge regression needs; choose another "
            "derive.rule and derive.shortlist_order, and no derive.ridge_candidate"
        )
    began = time.monotonic()
    found = candidates(
        task,
        controller,
        config,
        run.config.seed,
        effects=effects,
        earlier=run.earlier_tasks(config.checkpoints - 1),
        epoch=run.config.search.epochs - 1,
    )
    seconds = time.monotonic() - began
    del task  # its memory is needed for the shortlist's trainings
    picked = pick(found, config, train).architecture
    write_json(run.folder / "candidates.json", [candidate.to_json() for candidate in found])
    if effects is not None:
        write_json(run.folder / "effects.json", effects.to_json())
    write_json(run.folder / "derive.json", {"candidates": len(found), "seconds": round(seconds, 3)})
    put_architecture(run.folder, picked)


def put_architecture(folder: Path, architecture: Architecture) -> None:
    """Write the architecture of a run, as values and as a picture."""
    try:
        write_svg(architecture.graph(), folder / "architecture.svg")
    except EnasError as error:  # the picture is a convenience: its library may be missing
        say(f"no architecture.svg: {error}")
    write_json(folder / "architecture.json", architecture.to_json())


def retrain(run: Run, stop: StopRequest) -> None:
    """Train the found architecture from scratch, and what it is compared with."""
    config = run.config
    networks = networks_to_train(config.retrain, run.architecture(), config.references(), config.seed)
    for network in networks:
        run.train(network, "retrain", stop)


def test(run: Run, stop: StopRequest) -> None:
    """Read the test data, once for every retrained network."""
    if not run.results():
        raise RunFolderError(
            f"{run.folder} has no retrained network yet; run 'enas retrain {run.folder}' first"
        )
    for result in run.results():
        if "test" not in result and "diverged" not in result:
            say(f"test {result['role']} {result['id']}: reading the test data")
            run.measure(result, "retrain")
        if stop.requested:
            raise stop.stopped(run.folder)
    write_json(run.folder / "comparison.json", run.results())


STAGES: dict[StageName, Callable[[Run, StopRequest], None]] = {
    "search": search,
    "derive": derive,
    "retrain": retrain,
    "test": test,
}


def execute(run: Run, stages: Sequence[StageName]) -> None:
    """Run these stages in order, each from where it was. Raises `Stopped`, after saving, on SIGTERM or Ctrl-C."""
    set_threads(run.config.threads)
    with StopRequest() as stop:
        for stage in stages:
            STAGES[stage](run, stop)
            if stop.requested and stage != stages[-1]:
                raise stop.stopped(run.folder)
