"""Whole runs of the convolutional spaces, on digits: every stage, stops at any step, controllers, ensembles."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enas.child_training import ChildTraining
from enas.cli import main
from enas.controllers import Controller
from enas.data.images import ImageData
from enas.errors import ConfigError
from enas.evidence.ensemble import EnsembleConfig, ensemble
from enas.recipes import CONTROLLERS, named_controllers
from enas.report.summary import summary
from enas.retrain import Network
from enas.runtime.files import read_json
from enas.shared_weights import SharedWeights
from enas.stages import ALL_STAGES, Run, execute
from enas.tasks.images import ImageTask
from tests import tiny

SPACES = ("macro", "micro")


@pytest.fixture(scope="module", params=SPACES)
def space(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(space: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / space
    execute(Run.create(folder, tiny.image_config(space), ALL_STAGES), ALL_STAGES)
    return folder


def test_run_ends_with_a_drawing_and_tested_networks(whole: Path) -> None:
    run = Run.open(whole)
    results = read_json(whole / "comparison.json")
    assert [result["role"] for result in results] == ["found", "random"]
    for result in results:
        assert 0 <= result["test"]["test_accuracy"] <= 100
        assert result["parameters"] > 0
        assert result["multiply_adds"] > result["parameters"]
    assert (whole / "architecture.svg").read_text().count("<svg")
    said = summary(run)
    assert str(run.architecture()) in said
    assert "test accuracy" in said
    better = results[0]["test"]["test_accuracy"] > results[1]["test"]["test_accuracy"]
    assert f"better than {int(better)} of the 1 others" in said


def test_found_model_is_an_ordinary_module_with_the_tested_accuracy(whole: Path) -> None:
    run = Run.open(whole)
    data = run.data
    assert isinstance(data, ImageData)
    model, test, pixels = run.found_model(), data.test, data.train.normalisation
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in pixels)
    with torch.no_grad():
        scores_NK = model((test.images_NCHW / 255 - mean) / std)
    right = int((scores_NK.argmax(1) == test.labels_N).sum())
    assert 100 * right / len(test) == pytest.approx(run.results()[0]["test"]["test_accuracy"])


def interrupt(monkeypatch: pytest.MonkeyPatch, cls: type, name: str, call: int) -> None:
    """Let the n-th call of a method, counted from 0, be the moment of a sudden death."""
    real: Callable[..., Any] = getattr(cls, name)
    calls = itertools.count()

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(cls, name, method)


@pytest.mark.parametrize(
    ("cls", "name", "call"),
    [
        *((SharedWeights, "train_step", call) for call in (0, 3, 7)),
        *((SharedWeights, "rewards", call) for call in (1, 2, 3)),
        *((ChildTraining, "step", call) for call in (0, 5, 9, 11)),
        *((ChildTraining, "end_epoch", call) for call in (1, 3)),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    space: str,
    whole: Path,
    tmp_path: Path,
    cls: type,
    name: str,
    call: int,
) -> None:
    folder = tmp_path / "run"
    run = Run.create(folder, tiny.image_config(space), ALL_STAGES)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, cls, name, call)
        with pytest.raises(KeyboardInterrupt):
            execute(run, ALL_STAGES)
    execute(Run.open(folder), ALL_STAGES)
    assert tiny.content(folder) == tiny.content(whole)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_searches(space: str, tmp_path: Path, name: str) -> None:
    config = tiny.image_config(space)
    config = replace(config, controller=named_controllers(config.searched_space().name)[name])
    run = Run.create(tmp_path / "run", config, ("search", "derive"))
    execute(run, ("search", "derive"))
    assert run.architecture().space == config.searched_space()


def test_short_trainings_keep_the_validation_images_out(space: str) -> None:
    config = tiny.image_config(space, "--retrain.child.train-on", "all")
    found = config.searched_space().sample(random.Random(0))
    network = Network("found", found, 0)
    trainings = [config.child_training(network, epochs) for epochs in (None, 1)]
    whole, short = (training.task for training in trainings)
    assert isinstance(whole, ImageTask)
    assert isinstance(short, ImageTask)
    assert len(whole.train.images) == 60
    assert len(short.train.images) == 40
    assert (short.train_on, whole.train_on) == ("train", "all")
    assert trainings[0].result().keys().isdisjoint({"valid_accuracy", "valid_loss"})


def test_frozen_controller_keeps_its_policy(space: str, tmp_path: Path) -> None:
    config = tiny.image_config(space, "--search.updates", "0", "--search.warmup", "0.0")
    run = Run.create(tmp_path / "run", config, ("search",))
    before = run.search_controller()
    execute(run, ("search",))
    _, after = run.searched()
    assert tiny.plain(_policy(after)) == tiny.plain(_policy(before))


def _policy(controller: Controller) -> Any:
    return controller.state_dict()["policy"]


# ---- ensembles -----------------------------------------------------------------------------------------------------


def test_ensemble_of_one_is_that_architecture_and_is_written(whole: Path) -> None:
    record = ensemble(Run.open(whole), EnsembleConfig(samples=1, split="valid"))
    assert record["accuracy"] == record["best_member"] == record["worst_member"]
    assert read_json(whole / "ensemble.json") == record
    (whole / "ensemble.json").unlink()


def test_ensemble_command_prints_what_it_writes(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ensemble", str(whole), "--samples", "5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == read_json(whole / "ensemble.json")
    assert record["worst_member"] <= record["mean_accuracy_of_members"] <= record["best_member"]
    assert main(["ensemble", str(whole), "--samples", "5"]) == 0
    assert f"{record['accuracy']:.2f} %" in capsys.readouterr().out
    (whole / "ensemble.json").unlink()


def test_ensembles_are_of_images_and_of_at_least_one(tmp_path: Path) -> None:
    config = tiny.config(tiny.write_text(tmp_path / "text"))
    run = Run.create(tmp_path / "run", config, ("search",))
    execute(run, ("search",))
    with pytest.raises(ConfigError, match="ensembles are of classifiers"):
        ensemble(run, EnsembleConfig())
    with pytest.raises(ConfigError, match="samples must be at least 1, not 0"):
        EnsembleConfig(samples=0)


# ---- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--data.source", "cifar100"], "cifar10"),
        (["--space.operations", "conv3x3", "conv7x7"], "conv7x7"),
        (["--network.filters", "1"], "filters must be at least 2"),
        (["--data.source", "cifar10", "--data.folder", "nowhere"], "nowhere"),
        (["--controller", "lstm", "--controller.distance-prior", "True"], "distance_prior"),
    ],
)
def test_mistakes_are_said_in_one_line_and_leave_no_run(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["run", "macro-quick", *argv, "--run", str(folder)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("enas: ")]
    assert said in line
    assert not (folder / "config.json").exists()


def test_images_too_small_for_the_network_leave_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", "micro-quick", "--network.auxiliary", "True", "--run", str(tmp_path / "run")]
    assert main(argv) == 2
    assert "8×8 pixels are too small for the auxiliary head" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()
