"""On a device that has no float64, as the GPUs of Macs, search and training never ask for it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from enas import NetworkConfig, Task
from enas.api import changed
from enas.config import RunConfig
from enas.derive import ranks
from enas.retrain import Network
from enas.stages import Run, search_of
from tests import own_network, tiny

DEVICE, CPU = torch.device("meta"), torch.device("cpu")  # autograd knows no device that is absent but meta


class There(torch.Tensor):
    """Says that it is on DEVICE, and holds a tensor of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type, x: torch.Tensor) -> Any:
        if x.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return torch.Tensor._make_wrapper_subclass(cls, x.shape, x.stride(), dtype=x.dtype, device=DEVICE)

    def __init__(self, x: torch.Tensor) -> None:
        self.held = x

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of the mode")

    def tolist(self) -> Any:
        return self.cpu().tolist()


def loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return own_network.loss(output, (batch[0], batch[1].long()))


def task() -> Task:
    """That of tests/own_network.py with labels as numbers of float64, as they come from NumPy."""
    x_ND, y_N = own_network.digits(0, 60)
    given = x_ND, y_N.double()
    return Task(given, given, batch=10, loss=loss, score=lambda output, batch: -loss(output, batch))


class Pretended(TorchDispatchMode):
    """Inside, what is sent to DEVICE is computed on the CPU, and refused where it is float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, spec = tree_flatten((args, kwargs or {}))
        there = {id(x.held): x for x in flat if isinstance(x, There)}
        to = next((x for x in flat if isinstance(x, torch.device)), DEVICE if there else CPU)
        if there and to == CPU and torch.float64 in flat:
            raise TypeError("this device has no float64")  # copies convert before they leave
        bare = [x.held if isinstance(x, There) else CPU if isinstance(x, torch.device) else x for x in flat]
        args, kwargs = tree_unflatten(bare, spec)

        def wrap(x: Any) -> Any:
            if id(x) in there:
                return there[id(x)]
            return There(x) if to == DEVICE and isinstance(x, torch.Tensor) else x

        return tree_map(wrap, func(*args, **kwargs))


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("kind", ["recurrent", "macro", "micro", "nasbench201", "network"])
def test_a_search_and_a_training(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: RunConfig
    if kind == "recurrent":
        averaged = ("--retrain.child.averaging.enabled", "True", "--shared.average", "0.9")
        config = tiny.config(tiny.write_text(tmp_path / "text"), *averaged)
    elif kind == "network":  # whose labels are numbers of float64
        config = changed(NetworkConfig(network=own_network.Net, task=task), own_network.SMALL)
    else:
        config = tiny.image_config(
            kind, "--shared.average", "0.9", "--shared.reward.statistics", "recalibrated"
        )
    monkeypatch.setattr("torch.accelerator.synchronize", lambda device: None)
    for module in ("config", "run"):
        monkeypatch.setattr(f"enas.{module}.pick_device", lambda name: DEVICE)
    with Pretended():
        run = Run.create(tmp_path / "run", config, ("search",))
        search, _ = search_of(run, lambda architectures: [])
        search.train_weights(0, 0)
        assert math.isfinite(search.train_controller(1, 0)["reward"])
        mode = search.weights.space.architecture(search.controller.mode())
        rewards = search.weights.rewards([mode, mode], "derive", 0)
        assert ranks(rewards).tolist() == [1.5, 1.5]
        training = run.child_training(Network("found", mode, 0), None)
        assert search.weights.scores([mode])[0] != 0
        training.estimate()
        while not training.at_epoch_end():
            training.step()
        assert training.end_epoch()["valid_loss"] > 0
        training.step()
        if kind != "recurrent":
            (found_NK,) = search.weights.class_probabilities([mode], "valid", 20, "batch")
            assert found_NK.device == CPU
