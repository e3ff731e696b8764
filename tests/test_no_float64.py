"""On a device that has no float64, as the GPUs of Macs, search, pick, training and what compares them never ask for it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from enas import NetworkConfig, Task
from enas.api import changed
from enas.config import RunConfig
from enas.derive import ranks
from enas.retrain import Network
from enas.stages import Run, search_of
from tests import own_network, tiny
from tests.device.pretended import pretended


def loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return own_network.loss(output, (batch[0], batch[1].long()))


def task() -> Task:
    """That of tests/own_network.py with labels as numbers of float64, as they come from NumPy."""
    x_ND, y_N = own_network.digits(0, 60)
    given = x_ND, y_N.double()
    return Task(given, given, batch=10, loss=loss, score=lambda output, batch: -loss(output, batch))


def config_of(kind: str, folder: Path) -> RunConfig:
    """With averaged weights, and norms whose statistics are gathered anew."""
    if kind == "recurrent":
        averaged = ("--retrain.child.averaging.enabled", "True", "--shared.average", "0.9")
        return tiny.config(tiny.write_text(folder / "text"), *averaged)
    if kind == "network":
        return changed(NetworkConfig(network=own_network.Net, task=task), own_network.SMALL)
    return tiny.image_config(kind, "--shared.average", "0.9", "--shared.reward.statistics", "recalibrated")


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("kind", ["recurrent", "macro", "micro", "nasbench201", "network"])
def test_a_search_and_a_training(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(kind, tmp_path)
    with pretended(monkeypatch, float64=False):
        run = Run.create(tmp_path / "run", config, ("search",))
        search, _ = search_of(run, lambda architectures: [])
        search.train_weights(0, 0)
        assert math.isfinite(search.train_controller(1, 0)["reward"])
        mode = search.weights.space.architecture(search.controller.mode())
        rewards = search.weights.rewards([mode, mode], "derive", 0)
        assert ranks(rewards).tolist() == [1.5, 1.5]
        assert search.weights.scores([mode])[0] != 0
        training = run.child_training(Network("found", mode, 0), None)
        training.estimate()
        while not training.at_epoch_end():
            training.step()
        assert training.end_epoch()["valid_loss"] > 0
        training.step()
        if kind != "recurrent":
            (found_NK,) = search.weights.class_probabilities([mode], "valid", 20, "batch")
            assert found_NK.is_cpu
