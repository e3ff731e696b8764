"""On a device that takes work ahead, a loss that is no number is said a step later, with its place, and changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from enas import parallel
from enas.architecture import Architecture
from enas.errors import NotFiniteError
from enas.retrain import Network
from enas.run import Run
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.stop import StopRequest
from enas.search_loop import run_search
from enas.stages import search_of
from enas.step_logs import StepLog
from enas.task import Loss
from enas.tasks import images
from tests import tiny
from tests.device.pretended import There, pretended

pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run on the pretended device, with two steps of weights between checkpoints."""
    config = tiny.image_config("nasbench201", "--search.checkpoint-every", "2", "--search.samples", "2")
    with pretended(monkeypatch):
        yield Run.create(tmp_path / "run", config, ("search", "retrain"))


def poison(patch: pytest.MonkeyPatch, call: int, factor: float = torch.nan) -> None:
    """Multiply the loss of this call, counted from 0, by a factor."""
    real, calls = images.classification_loss, iter(range(10_000))

    def loss(*args: Any) -> Loss:
        found = real(*args)
        if next(calls) == call:
            found.total = found.total * factor
        return found

    patch.setattr(images, "classification_loss", loss)


def bits(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """The parameters of a network on the pretended device; norms have seen what they have seen."""
    return {
        name: value.held.numpy().tobytes()
        for name, value in weights.items()
        if isinstance(value, There) and "running" not in name
    }


@pytest.mark.parametrize(("slot", "factor"), [(0, torch.nan), (1, torch.inf)])
def test_the_step_and_the_architecture_are_named_and_no_weight_changes(
    run: Run, slot: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = run.shared_weights()
    pair = [weights.space.architecture([choice] * 6) for choice in (1, 2)]
    for step in range(2):
        weights.train_step(0, step, pair)
    before = bits(copy.deepcopy(weights.state_dict()["model"]))
    poison(monkeypatch, slot, factor)
    weights.train_step(0, 2, pair)  # it is not known yet
    with pytest.raises(NotFiniteError) as caught:
        weights.train_step(0, 3, pair)
    assert caught.value.place == (0, 2)
    assert str(caught.value) == f"the loss of architecture '{pair[slot]}' is {factor}"
    assert bits(weights.trainer.model.state_dict()) == before


def test_steps_that_processes_share_are_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has to know whether the losses of all are finite."""
    trainer = run.shared_weights().trainer
    assert trainer.works_ahead
    monkeypatch.setattr(parallel, "division", lambda: (0, 2))
    assert not trainer.works_ahead


@pytest.mark.parametrize("reader", ["state_dict", "rewards", "settle"])
def test_whatever_reads_the_weights_says_it_first(
    run: Run, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = run.shared_weights()
    architecture = weights.space.architecture([1] * 6)
    read = {
        "state_dict": weights.state_dict,
        "rewards": lambda: weights.rewards([architecture], "test", 0),
        "settle": weights.trainer.settle,
    }
    poison(monkeypatch, 0)
    weights.train_step(0, 0, [architecture])
    with pytest.raises(NotFiniteError):
        read[reader]()


def test_a_gradient_that_is_no_number_is_said_too(run: Run) -> None:
    weights = run.shared_weights()
    architecture = weights.space.architecture([1] * 6)
    parameter = next(weights.trainer.model.parameters())
    parameter.register_hook(lambda gradient: gradient * torch.inf)
    before = bits(copy.deepcopy(weights.trainer.model.state_dict()))
    weights.train_step(0, 0, [architecture])
    with pytest.raises(NotFiniteError, match=r"the gradient's norm is (nan|inf)"):
        weights.trainer.settle()
    assert bits(weights.trainer.model.state_dict()) == before


def test_after_taking_over_a_state_steps_are_taken_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = run.shared_weights()
    architecture = weights.space.architecture([1] * 6)
    state = copy.deepcopy(weights.state_dict())
    before = bits(state["model"])
    poison(monkeypatch, 0)
    weights.train_step(0, 0, [architecture])
    with pytest.raises(NotFiniteError):
        weights.trainer.settle()
    weights.load_state_dict(state)
    weights.train_step(0, 0, [architecture])
    weights.trainer.settle()
    assert bits(weights.trainer.model.state_dict()) != before


@pytest.mark.parametrize("step", [1, 2])
def test_a_search_stops_at_the_last_good_checkpoint(
    run: Run, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    searching, watch = search_of(run, lambda architectures: [])
    checkpoints = CheckpointStore(run.folder / "checkpoints", rhythm=searching.config.rhythm)
    real = searching.weights.train_step

    def train_step(epoch: int, number: int, architectures: Sequence[Architecture]) -> StepLog:
        if (epoch, number) == (0, step):
            poison(monkeypatch, 1)
        return real(epoch, number, architectures)

    monkeypatch.setattr(searching.weights, "train_step", train_step)
    with StopRequest() as stop, pytest.raises(NotFiniteError) as caught:
        run_search(searching, watch, checkpoints, stop, run.folder)
    assert f"search stopped in epoch 0, weights step {step}: the loss of architecture" in str(caught.value)
    assert checkpoints.steps() == ([0] if step == 1 else [0, 2])


def test_a_training_says_the_number_of_its_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = run.config.searched_space().architecture([1] * 6)
    training = run.child_training(Network("found", architecture, 0), None)
    steps = training.task.steps(0)
    for _ in range(steps):
        training.step()
    training.end_epoch()
    poison(monkeypatch, 0)
    training.step()
    with pytest.raises(NotFiniteError, match="the loss is nan") as caught:
        training.state_dict()
    assert training.number(caught.value.place) == steps
