"""Rewards with averaged shared weights: the average is the formula's, and a search with it resumes and fine-tunes."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enas.architecture import Architecture
from enas.errors import ConfigError
from enas.tasks.averaging import AveragedWeights
from enas.tasks.base import SearchTask
from enas.tasks.shared_scores import shared_scores
from tests import tiny
from tests.tiny import settings

KEEP = 0.75
SPACES = ("recurrent", "macro", "micro")


def make(space: str, folder: Path, average: float) -> SearchTask:
    """The search task of a tiny run."""
    if space == "recurrent":
        text = folder / "text"
        config: Any = tiny.config(text if text.exists() else tiny.write_text(text))
    else:
        config = tiny.image_config(space)
    task: SearchTask = replace(config, shared=replace(config.shared, average=average)).load().search_task()
    return task


def parts(task: Any) -> AveragedWeights[Any]:
    """The two models of a task."""
    averaged: AveragedWeights[Any] = task.averaged
    return averaged


def architectures(task: SearchTask) -> list[Architecture]:
    """Two that differ in every decision that has two options."""
    sizes = [len(decision.options) for decision in task.space.decisions]
    return [task.space.architecture([0] * len(sizes)), task.space.architecture([size - 1 for size in sizes])]


def test_average_is_the_exponential_moving_average_of_the_weights_after_each_step() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).double()
    averaged = AveragedWeights(model, KEEP)
    history = []
    for step in range(5):
        with torch.no_grad():
            model.weight += torch.randn(2, 3, dtype=torch.float64) * (step + 1)
        averaged.update()
        history.append(model.weight.detach().clone())
    weights = [KEEP**4, *(KEEP ** (4 - step) * (1 - KEEP) for step in range(1, 5))]
    assert sum(weights) == pytest.approx(1)
    expected = sum(weight * one for weight, one in zip(weights, history, strict=True))
    torch.testing.assert_close(averaged.model.weight, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(model.weight, history[-1])


def test_without_averaging_the_model_itself_is_rewarded_with() -> None:
    model = torch.nn.Linear(3, 2)
    averaged = AveragedWeights(model, 0.0)
    averaged.update()
    assert averaged.model is model
    assert averaged.state_dict() == {}


@pytest.mark.parametrize("space", SPACES)
def test_rewards_are_those_of_a_task_whose_weights_are_the_average(space: str, tmp_path: Path) -> None:
    task, plain = make(space, tmp_path, KEEP), make(space, tmp_path, 0.0)
    pair = architectures(task)
    for step in range(2):
        for one in (task, plain):
            one.train_step(0, step, [pair[step]])
    assert (
        not torch.equal(task.rewards(pair, "test", 0), plain.rewards(pair, "test", 0)) or space != "recurrent"
    )
    trained = zip(parts(task).trained.parameters(), parts(plain).trained.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in trained)  # averaging takes no part in the training
    parts(plain).trained.load_state_dict(parts(task).model.state_dict())
    assert torch.equal(task.rewards(pair, "test", 0), plain.rewards(pair, "test", 0))
    assert shared_scores(task, pair) == shared_scores(plain, pair)


@pytest.mark.parametrize("space", SPACES)
def test_state_brings_the_average_back_bit_for_bit(space: str, tmp_path: Path) -> None:
    task, other = make(space, tmp_path, KEEP), make(space, tmp_path, KEEP)
    pair = architectures(task)
    task.train_step(0, 0, [pair[0]])
    state = copy.deepcopy(task.state_dict())
    task.train_step(0, 1, [pair[1]])
    other.load_state_dict(state)
    other.train_step(0, 1, [pair[1]])
    assert tiny.plain(other.state_dict()) == tiny.plain(task.state_dict())
    assert torch.equal(other.rewards(pair, "test", 0), task.rewards(pair, "test", 0))


@pytest.mark.parametrize("space", SPACES)
def test_finetuning_trains_the_average_and_puts_everything_back(space: str, tmp_path: Path) -> None:
    task, plain = make(space, tmp_path, KEEP), make(space, tmp_path, 0.0)
    pair = architectures(task)
    for step in range(2):
        task.train_step(0, step, [pair[step]])
    before, rewards = tiny.plain(copy.deepcopy(task.state_dict())), task.rewards(pair, "test", 0)
    # By hand: a task without averaging, its weights the average, everything else the same.
    state = copy.deepcopy(task.state_dict())
    del state["average"]
    plain.load_state_dict(state)
    parts(plain).trained.load_state_dict(parts(task).model.state_dict())
    for step in range(2):
        plain.train_step(1, step, [pair[0]])
    with task.finetuned(pair[0], 2, 1):
        assert torch.equal(task.rewards(pair, "test", 0), plain.rewards(pair, "test", 0))
    assert tiny.plain(task.state_dict()) == before
    assert torch.equal(task.rewards(pair, "test", 0), rewards)


@pytest.mark.parametrize("average", [-0.1, 1.0])
@pytest.mark.parametrize("recipe", ["recurrent-quick", "macro-quick"])
def test_shares_that_are_none_are_refused(recipe: str, average: float) -> None:
    with pytest.raises(ConfigError, match=rf"--shared\.average must be (at least 0|below 1), not {average}"):
        settings(recipe, ["--shared.average", str(average)])
