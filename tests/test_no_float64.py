"""On a device that has no float64, as the GPUs of Macs, search and training never ask for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from enas.derive import ranks
from enas.retrain import Network
from enas.stages import Run, search_of
from tests import tiny

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
@pytest.mark.parametrize("space", ["recurrent", "macro"])
def test_a_search_and_a_training(space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = (
        tiny.config(tiny.write_text(tmp_path / "text")) if space == "recurrent" else tiny.image_config(space)
    )
    monkeypatch.setattr("torch.accelerator.synchronize", lambda device: None)
    for module in ("config", "run"):
        monkeypatch.setattr(f"enas.{module}.pick_device", lambda name: DEVICE)
    with Pretended():
        run = Run.create(tmp_path / "run", config, ("search",))
        search, _ = search_of(run, lambda architectures: [])
        search.train_weights(0, 0)
        assert search.train_controller(1, 0)["reward"] > 0
        mode = search.weights.space.architecture(search.controller.mode())
        rewards = search.weights.rewards([mode, mode], "derive", 0)
        assert ranks(rewards).tolist() == [1.5, 1.5]
        training = run.child_training(Network("found", mode, 0), None)
        training.estimate()
        training.step()
        assert training.end_epoch()["valid_loss"] > 0
