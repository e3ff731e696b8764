"""The folder of a run: its settings, its data, and what its stages have left.

    runs/NAME/
      config.json environment.json    settings and stages; versions, hardware, hash of the data
      metrics.jsonl archive.jsonl     the search's numbers; every rewarded architecture
      checkpoints/                    the search's newest few
      candidates.json effects.json derive.json architecture.json architecture.svg
      derive/ID-seedS/ retrain/ID-seedS/   one training each: weights.safetensors, model.json, result.json
      comparison.json                 what came out, network by network

A stage that is done is recognised by its files and not repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from enas import parallel
from enas.architecture import Architecture
from enas.child_training import ChildTraining, evaluate
from enas.config import Data, RunConfig
from enas.controllers import Controller, build_controller
from enas.costs.bounds import bounded
from enas.costs.goals import CostGoals
from enas.effects import ArchiveRecord
from enas.errors import MissingDataError, NotFiniteError, RunFolderError, enas_command, shortened, shown
from enas.executors import executor_for
from enas.feasible import check_stages
from enas.phases import SearchState
from enas.recipes.files import no_run_in
from enas.retrain import (
    Network,
    check_weights,
    concerning,
    load_weights,
    networks_to_train,
    read_result,
    train_network,
    write_result,
)
from enas.run_records import DeriveRecord, EnvironmentRecord, SearchRecord
from enas.runs.models import describe, describe_later
from enas.runtime.checkpoint import CheckpointStore, fitting
from enas.runtime.devices import check_precision, pick_device
from enas.runtime.environment import environment
from enas.runtime.files import digest_of_file, read_json, write_json
from enas.runtime.progress import say
from enas.runtime.records import check_settings, read_record, read_records, validated
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.settings import config_from_json, config_to_json, limits_left_out, settings_for
from enas.shared_weights import SharedWeights
from enas.spaces import architecture_in

StageName = Literal["search", "derive", "retrain", "test"]
ALL_STAGES: tuple[StageName, ...] = get_args(StageName)

VERSIONS = ("enas", "torch", "numba")
"""What of an environment may change the last digits of what is computed."""


@dataclass
class Run:
    """A run folder that this process holds, with its settings; data are loaded when a stage first needs them."""

    folder: Path
    config: RunConfig
    stages: tuple[StageName, ...]

    @classmethod
    def create(cls, folder: Path, config: RunConfig, stages: Sequence[StageName]) -> Run:
        """Start a new run. Raises `RunFolderError` if the folder already holds one.

        Device, executor, threads, data and what the stages work with are tried first: settings that cannot work leave no run
        behind.
        """
        if (folder / "config.json").exists():
            raise RunFolderError(
                f"{folder} already holds a run. Continue it with {enas_command('resume', folder)!r}, or choose another "
                "--run."
            )
        check_precision(pick_device(config.device), config.precision, config.allow_slow)
        executor_for(config)
        config.set_process()
        run = cls(folder, config, tuple(stages))
        data = vars(run)["data"] = config.load()
        say(f"data: {data}")
        check_stages(config, stages)
        with config.refusals_explained("search"):
            run.config = config.settled()
        folder.mkdir(parents=True, exist_ok=True)
        run.write_environment(data)
        run.write_config()
        return run

    @classmethod
    def open(cls, folder: Path, changed_file_ok: bool = False, recipe: RunConfig | None = None) -> Run:
        """An existing run. **If its recipe is in a file, that is run.** Raises `RunFolderError` if there is none.

        So is a file that has changed, or one that it imports beside it. If that is `changed_file_ok`, the run goes on with
        the files as they are now, which config.json then names. A `recipe` stands in for that of config.json, which is then
        not looked for; the settings are those of config.json in any case.
        """
        path = folder / "config.json"
        if not os.path.exists(path):
            raise RunFolderError(f"{shortened(str(folder), 200)} is not a run folder: {no_run_in(folder)}")
        record = read_json(path)
        config = config_from_json(record, changed_file_ok, recipe, folder)
        stages = record.get("stages")
        if not isinstance(stages, list) or not stages or any(stage not in ALL_STAGES for stage in stages):
            raise RunFolderError(
                f"{path}: 'stages' must name some of {', '.join(ALL_STAGES)}, not {shown(stages)}"
            )
        run = cls(folder, config, tuple(stages))
        if config.origin is not None and changed_file_ok:
            run.write_config()
        return run

    @property
    def run_file(self) -> Path:
        """The file that makes the folder a run's: once it is gone, nothing more is written."""
        return self.folder / "config.json"

    def command(self, name: str) -> str:
        """A command on this run for a message, in quotes."""
        return repr(enas_command(name, self.folder))

    @cached_property
    def data(self) -> Data:
        """The data. Says so if a version is another than at the start.

        Raises `RunFolderError` if the data are not those that the run began with.
        """
        try:
            data = self.config.load()
        except MissingDataError as error:
            if not self.run_file.exists():
                raise
            raise MissingDataError(
                f"{error} If the data have moved, change the setting data.source in {self.run_file} to where they are."
            ) from error
        path = self.folder / "environment.json"
        if not path.exists():
            say(f"{path} is missing and written again; whether the data have changed is unknown")
            self.write_environment(data)
        then = read_record(path, EnvironmentRecord, "Put the original back, or begin a new run")
        if then.data_hash != data.hash:
            raise RunFolderError(
                f"the data have changed since {self.folder} was begun, or the settings of the data in config.json ({path} "
                "has the hash and the versions of then); restore them, or begin a new run"
            )
        now = environment()
        differ = [name for name in VERSIONS if vars(then)[name] != now[name]]
        others = [f"{name} {vars(then)[name]}, now {now[name]}" for name in differ]
        if others:
            say(
                f"{self.folder} was begun with {'; '.join(others)}: the last digits of what is computed from here on may "
                "differ"
            )
        return data

    def write_config(self) -> None:
        """Write config.json."""
        write_json(self.run_file, {"stages": list(self.stages), **config_to_json(self.config)})

    def write_environment(self, data: Data) -> None:
        """Note the data and where the run was begun."""
        made = {**environment(), "data": str(data), "data_hash": data.hash}
        write_json(self.folder / "environment.json", made)

    def shared_weights(self) -> SharedWeights:
        """The supernet with its task, untrained."""
        _ = self.data  # which are compared with those of the start
        return self.config.shared_weights()

    def child_training(self, network: Network, epochs: int | None = None) -> ChildTraining:
        """A network's training from scratch, at its start; `epochs` shortens it."""
        _ = self.data
        return self.config.child_training(network, epochs)

    @cached_property
    def goals(self) -> CostGoals:
        """What the run asks of the costs of its networks."""
        return CostGoals(self.config, self.folder)

    # ---- what the search has left --------------------------------------------------------------------------------------

    def search_controller(self) -> Controller:
        """The controller at the start of the search, within the run's limits."""
        config = self.config
        seed = derive_seed(config.seed, "controller")
        made = build_controller(config.controller, config.searched_space(), seed)
        return bounded(made, self.goals.limits)

    def search_checkpoints(self, going_on: bool = False) -> CheckpointStore:
        """Where the search saves itself. While it is `going_on`, the recipe of the trainings that verify it must stay."""
        search, settings = self.config.search, limits_left_out(settings_for("search", self.config))
        if going_on and self.config.verify.trainings:
            settings |= self.training_settings(self.config.verify.epochs)
        return CheckpointStore(
            self.folder / "checkpoints", search.keep_checkpoints, say, settings, self.run_file, search.rhythm
        )

    def search_end(self) -> tuple[Path, SearchState] | None:
        """The checkpoint at the end of the search; None if it is not finished, or that checkpoint is damaged."""
        checkpoints = self.search_checkpoints()
        newest = checkpoints.load_newest()
        if newest is None:
            return None
        path = checkpoints.path(newest[0])
        with fitting(path):
            state = validated(SearchState, newest[1], strict=False)
        return (path, state) if state.place[0] == self.config.search.epochs else None

    def search_record(self) -> SearchRecord | None:
        """What search.json says; None if the search is not finished.

        Raises `RunFolderError` if it was made with other settings than config.json has now.
        """
        path = self.folder / "search.json"
        if not path.exists():
            return None
        record = read_record(path, SearchRecord, f"Delete it, then run {self.command('resume')}")
        now, what = settings_for("search", self.config), self.folder / "checkpoints"
        check_settings(record.settings, now, what, "begin a new run with --run")
        return record

    def derive_record(self) -> DeriveRecord | None:
        """What derive.json says; None if there is none."""
        path = self.folder / "derive.json"
        advice = f"Delete it and architecture.json, then run {self.command('derive')}"
        return read_record(path, DeriveRecord, advice) if path.exists() else None

    def searched(self) -> tuple[SharedWeights, Controller]:
        """The shared weights and the controller at the end of the search.

        Raises `RunFolderError` if the search is not finished.
        """
        end = self.search_end()
        if end is None:
            raise RunFolderError(
                f"the search of {self.folder} is not finished; run {self.command('resume')} first"
            )
        weights, controller, (path, state) = self.shared_weights(), self.search_controller(), end
        with fitting(path):
            weights.load_state_dict(state.weights)
            controller.load_state_dict(state.controller)
        return weights, controller

    def archive(self) -> list[ArchiveRecord]:
        """The rewarded architectures of the finished search.

        Raises `RunFolderError` if archive.jsonl is not what the search left, or holds something else.
        """
        path, record = self.folder / "archive.jsonl", self.search_record()
        advice = "Put the original back, or begin a new run"
        if record is not None and digest_of_file(path) != record.archive:
            raise RunFolderError(f"{path} has changed since the search. {advice}")
        return read_records(path, ArchiveRecord, advice)

    def architecture(self) -> Architecture:
        """The derived architecture. Raises `RunFolderError` if there is none yet, or it is of another space."""
        path = self.folder / "architecture.json"
        if not path.exists():
            stage = "derive" if (self.folder / "search.json").exists() else "resume"
            raise RunFolderError(f"{self.folder} has no architecture yet; run {self.command(stage)} first")
        architecture = architecture_in(path)
        if architecture.space != self.config.searched_space():
            raise RunFolderError(
                f"{path} is of another space than config.json; delete it, then run {self.command('derive')}"
            )
        return architecture

    # ---- trainings -----------------------------------------------------------------------------------------------------

    def train(
        self,
        network: Network,
        part: str,
        stop: StopRequest,
        epochs: int | None = None,
        after_step: Callable[[ChildTraining], None] = lambda training: None,
    ) -> dict[str, Any]:
        """Train a network in its folder under `part`; one that is finished is not trained again.

        If another network than the found one diverges, the run continues and records `diverged`.
        """
        folder = self.folder / part / network.id
        finished = self.result(network, part, epochs)
        if finished is not None:
            describe_later(folder, self.config, partial(self.child_training, network, epochs), finished)
            return finished
        training, rhythm = self.child_training(network, epochs), self.config.retrain.rhythm
        settings = self.training_settings(epochs)
        parallel.check_norms(training.model)
        of_all = (network.role, network.architecture, network.seed), epochs
        try:
            with (
                concerning(network),
                self.config.refusals_explained("training"),
                parallel.shared(training.trainer, "training", *of_all),
            ):
                result = train_network(
                    network, training, folder, rhythm, stop, self.folder, after_step, settings, self.run_file
                )
        except NotFiniteError as error:
            if network.role == "found":
                raise
            say(f"{error}. It counts as diverged, and the run goes on.")
            result = {**network.to_json(), **training.size(), "diverged": str(error)}
            return write_result(folder, result, settings)
        describe(folder, self.config, training, result)
        return result

    def training_settings(self, epochs: int | None = None) -> dict[str, Any]:
        """The settings that a training depends on, its length among them if that is not the recipe's."""
        settings = settings_for("training", self.config)
        if epochs is None:
            return settings
        length, whole = (
            {"retrain.child.epochs": epochs},
            {"retrain.child.epochs (the whole length)": self.config.child_epochs},
        )
        return {**settings, **length, **(whole if self.config.short_follows_whole else {})}

    def result(self, network: Network, part: str, epochs: int | None = None) -> dict[str, Any] | None:
        """What a training under `part` came to; None if it is not finished.

        Raises `RunFolderError` if it was made with other settings than config.json has now.
        """
        folder = self.folder / part / network.id
        found = read_result(folder)
        if found is None:
            return None
        otherwise = f"delete {folder} to train the network again"
        check_settings(found.get("settings"), self.training_settings(epochs), folder, otherwise)
        return {**found, "role": network.role}  # it may have been trained as something else

    def measure(self, network: Network, part: str, epochs: int | None = None) -> dict[str, Any]:
        """The result of a finished training under `part` with `test`, what its network does on the test data, read once.

        Raises `RunFolderError` if its weights are not those that the training left.
        """
        folder, result = self.folder / part / network.id, self.result(network, part, epochs)
        assert result is not None  # it is finished
        if "test" in result or "diverged" in result:
            return result
        weights = check_weights(folder, result)
        with concerning(network):
            training = self.child_training(network, epochs)
            load_weights(training.model, weights)
            score = evaluate(training.model, training.task, "test") or {}
        result["test"] = {f"test_{name}": value for name, value in score.items()}
        return write_result(folder, result)

    def found_model(self) -> nn.Module:
        """The found architecture as an ordinary module, with the weights of its retraining.

        Raises `RunFolderError` if it is not retrained yet.
        """
        network, result = self.found_result()
        weights = check_weights(self.folder / "retrain" / network.id, result)
        _ = self.data
        model = self.config.model(network)
        load_weights(model, weights)
        return model.eval()

    def found_result(self) -> tuple[Network, dict[str, Any]]:
        """The found architecture as a network, and what its retraining came to. Raises as `found_model`."""
        network = Network("found", self.architecture(), self.config.seed)
        result = self.result(network, "retrain")
        if result is None:
            raise RunFolderError(f"{network} is not retrained yet; run {self.command('retrain')} first")
        return network, result

    def networks(self) -> list[Network]:
        """The networks to train from scratch: the found architecture first, then what it is compared with."""
        config, found = self.config, self.architecture()
        allowed = self.goals.comparable
        return networks_to_train(config.retrain, found, config.references(), config.seed, allowed)

    def results(self) -> list[dict[str, Any]]:
        """The results of the finished retrainings of `networks`, without the settings; none before there is an architecture.

        What an earlier architecture, or earlier settings, left in the folder is no result of this run as it is.
        """
        if not (self.folder / "architecture.json").exists():
            return []
        order = ("found", "lstm", "random")
        networks = sorted(self.networks(), key=lambda network: (order.index(network.role), network.id))
        found = [self.result(network, "retrain") for network in networks]
        return [{k: v for k, v in one.items() if k != "settings"} for one in found if one is not None]
