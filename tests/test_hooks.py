"""Hooks on the modules of a network are called, though kernels and operations of several modules call none."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from enas.data.images import ImageShape
from enas.spaces.image_network import ImageChild
from enas.spaces.macro.net import MacroChild, MacroNetConfig
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.net import MicroChild, MicroNetConfig
from enas.spaces.micro.space import MicroSpace
from enas.spaces.nasbench201.net import NASBench201Child, NASBench201NetConfig
from enas.spaces.nasbench201.space import NASBench201Space

SHAPE = ImageShape(3, 16, 16, 10)
CHILDREN: dict[str, tuple[Any, Any, Any]] = {
    "macro": (MacroSpace(layers=4), MacroChild, MacroNetConfig(filters=4, dropout=0.0)),
    "micro": (MicroSpace(nodes=3), MicroChild, MicroNetConfig(filters=4, layers=3, dropout=0.0)),
    "nasbench201": (NASBench201Space(), NASBench201Child, NASBench201NetConfig(filters=4, cells=1)),
}


@pytest.fixture(params=CHILDREN)
def child(request: pytest.FixtureRequest) -> ImageChild:
    """A random network of a space."""
    space, make, config = CHILDREN[request.param]
    architecture = space.sample(random.Random(3))
    made: ImageChild = make(architecture, config, SHAPE, torch.Generator().manual_seed(0))
    return made


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)


def layers(child: ImageChild) -> dict[str, Any]:
    """The layers that compute something, by their names: those whose weights get a gradient."""
    child(images()).square().sum().backward()
    named = {name: module for name, module in child.named_modules() if isinstance(module, LAYERS)}
    found = {name: module for name, module in named.items() if module.weight.grad is not None}
    child.zero_grad()
    return found


def tensors(value: Any) -> list[Any]:
    """What a module returns, one after the other."""
    return list(value.values()) if isinstance(value, dict) else [value]


def test_every_hook_is_called_and_gets_tensors(child: ImageChild) -> None:
    used = layers(child)
    child.eval()
    expected = child(images())
    seen: dict[str, Any] = {}

    def remember(name: str) -> Any:
        return lambda module, inputs, output: seen.setdefault(name, output)

    handles = [
        module.register_forward_hook(remember(name)) for name, module in child.network.named_modules() if name
    ]
    torch.testing.assert_close(child(images()), expected)
    assert {f"network.{name}" for name in seen} >= used.keys()
    assert all(isinstance(one, Tensor) for output in seen.values() for one in tensors(output))
    for handle in handles:
        handle.remove()
    assert torch.equal(child(images()), expected)


def test_a_pruned_network_is_trained(child: ImageChild) -> None:
    """Pruning makes weights anew by a hook before each call: of `weight_orig`, which is what is trained, and a mask."""
    plain = copy.deepcopy(child)
    pruned = [name for name, module in layers(child).items() if not isinstance(module, nn.BatchNorm2d)]
    for number, name in enumerate(pruned):
        torch.manual_seed(number)
        prune.random_unstructured(child.get_submodule(name), "weight", amount=0.4)
    masks = {name: child.get_submodule(name).get_buffer("weight_mask") for name in pruned}
    for step in range(2):
        with torch.no_grad():
            for name, mask in masks.items():
                plain.get_submodule(name).get_parameter("weight").mul_(mask)
        for one in (child, plain):
            one.zero_grad()
            one(images(step)).square().mean().backward()
        for name, mask in masks.items():
            found = child.get_submodule(name).get_parameter("weight_orig")
            expected = plain.get_submodule(name).get_parameter("weight")
            assert found.grad is not None
            assert expected.grad is not None
            torch.testing.assert_close(found.grad, expected.grad * mask, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            for one in (child, plain):
                for weight in one.parameters():
                    if weight.grad is not None:
                        weight -= 0.1 * weight.grad
