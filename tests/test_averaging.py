"""Rewards with averaged shared weights: the average is the formula's, and a search with it resumes and fine-tunes."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from enas.architecture import Architecture
from enas.averaging import Average, mean, moving
from enas.errors import ConfigError
from enas.shared_weights import SharedWeights
from enas.task import BaseTask
from enas.trainer import Trainer
from tests import tiny
from tests.tiny import settings

KEEP = 0.75
SPACES = ("recurrent", "macro", "micro")


def make(space: str, folder: Path, average: float) -> SharedWeights:
    """The shared weights of a tiny run."""
    if space == "recurrent":
        text = folder / "text"
        config: Any = tiny.config(text if text.exists() else tiny.write_text(text))
    else:
        config = tiny.image_config(space)
    weights: SharedWeights = replace(config, shared=replace(config.shared, average=average)).shared_weights()
    return weights


def architectures(weights: SharedWeights) -> list[Architecture]:
    """Two that differ in every decision that has two options."""
    sizes = [len(decision.options) for decision in weights.space.decisions]
    return [weights.space.architecture([0] * len(sizes)), weights.space.architecture([n - 1 for n in sizes])]


class Nothing(BaseTask):
    """What a trainer needs to be made."""

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.SGD:
        return torch.optim.SGD(parameters, 0.1)


Nothing.__abstractmethods__ = frozenset()


def trainer_of(model: torch.nn.Module) -> Trainer:
    return Trainer(model, Nothing(seed=0, device=torch.device("cpu"), dtype=torch.float32))


def test_average_is_the_exponential_moving_average_of_the_weights_after_each_step() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).double()
    trainer = trainer_of(model)
    averaged = trainer.start_average(moving(KEEP))
    history = []
    for step in range(5):
        with torch.no_grad():
            model.weight += torch.randn(2, 3, dtype=torch.float64) * (step + 1)
        averaged.update()
        history.append(model.weight.detach().clone())
    weights = [KEEP**4, *(KEEP ** (4 - step) * (1 - KEEP) for step in range(1, 5))]
    assert sum(weights) == pytest.approx(1)
    expected = sum(weight * one for weight, one in zip(weights, history, strict=True))
    torch.testing.assert_close(trainer.evaluation_model.weight, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(model.weight, history[-1])


@pytest.mark.parametrize(
    ("share", "rule"), [(moving(KEEP), get_ema_multi_avg_fn(KEEP)), (mean, get_swa_multi_avg_fn())]
)
def test_average_is_torch_s_own_bit_for_bit(share: Any, rule: Any) -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    own, reference = Average(model, share), AveragedModel(model, multi_avg_fn=rule)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(6):
        model(torch.randn(7, 5)).square().sum().backward()
        optimizer.step()
        own.update()
        reference.update_parameters(model)
        if step == 2:  # and from a state on
            state, own = copy.deepcopy(own.state_dict()), Average(model, share)
            own.load_state_dict(state)
            reference.load_state_dict(copy.deepcopy(reference.state_dict()))
        assert tiny.plain(own.state_dict()) == tiny.plain(reference.state_dict())


def test_without_averaging_the_model_itself_is_rewarded_with() -> None:
    model = torch.nn.Linear(3, 2)
    trainer = trainer_of(model)
    assert trainer.evaluation_model is model
    assert "average" not in trainer.state_dict()


@pytest.mark.parametrize("space", SPACES)
def test_rewards_are_those_of_a_task_whose_weights_are_the_average(space: str, tmp_path: Path) -> None:
    weights, plain = make(space, tmp_path, KEEP), make(space, tmp_path, 0.0)
    pair = architectures(weights)
    for step in range(2):
        for one in (weights, plain):
            one.train_step(0, step, [pair[step]])
    assert (
        not torch.equal(weights.rewards(pair, "test", 0), plain.rewards(pair, "test", 0))
        or space != "recurrent"
    )
    trained = zip(weights.trainer.model.parameters(), plain.trainer.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in trained)  # averaging takes no part in the training
    plain.trainer.model.load_state_dict(weights.trainer.evaluation_model.state_dict())
    assert torch.equal(weights.rewards(pair, "test", 0), plain.rewards(pair, "test", 0))
    assert weights.scores(pair) == plain.scores(pair)


@pytest.mark.parametrize("space", SPACES)
def test_state_brings_the_average_back_bit_for_bit(space: str, tmp_path: Path) -> None:
    weights, other = make(space, tmp_path, KEEP), make(space, tmp_path, KEEP)
    pair = architectures(weights)
    weights.train_step(0, 0, [pair[0]])
    state = copy.deepcopy(weights.state_dict())
    weights.train_step(0, 1, [pair[1]])
    other.load_state_dict(state)
    other.train_step(0, 1, [pair[1]])
    assert tiny.plain(other.state_dict()) == tiny.plain(weights.state_dict())
    assert torch.equal(other.rewards(pair, "test", 0), weights.rewards(pair, "test", 0))


@pytest.mark.parametrize("space", SPACES)
def test_finetuning_trains_the_average_and_puts_everything_back(space: str, tmp_path: Path) -> None:
    weights, plain = make(space, tmp_path, KEEP), make(space, tmp_path, 0.0)
    pair = architectures(weights)
    for step in range(2):
        weights.train_step(0, step, [pair[step]])
    before, rewards = tiny.plain(copy.deepcopy(weights.state_dict())), weights.rewards(pair, "test", 0)
    # By hand: a weights without averaging, its weights the average, everything else the same.
    state = copy.deepcopy(weights.state_dict())
    del state["average"]
    plain.load_state_dict(state)
    plain.trainer.model.load_state_dict(weights.trainer.evaluation_model.state_dict())
    for step in range(2):
        plain.train_step(1, step, [pair[0]])
    with weights.finetuned(pair[0], 2, 1):
        assert torch.equal(weights.rewards(pair, "test", 0), plain.rewards(pair, "test", 0))
    assert tiny.plain(weights.state_dict()) == before
    assert torch.equal(weights.rewards(pair, "test", 0), rewards)


@pytest.mark.parametrize("average", [-0.1, 1.0])
@pytest.mark.parametrize("recipe", ["recurrent-quick", "macro-quick"])
def test_shares_that_are_none_are_refused(recipe: str, average: float) -> None:
    with pytest.raises(ConfigError, match=rf"--shared\.average must be (at least 0|below 1), not {average}"):
        settings(recipe, ["--shared.average", str(average)])
