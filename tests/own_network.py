"""A tiny network of one's own with choices, and a tiny task: 60 digits, a step of 10."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from enas import Choice, Inputs, NetworkConfig, Task

SMALL: dict[str, object] = {
    "search.epochs": 2,
    "search.updates": 3,
    "search.proposals": 3,
    "search.checkpoint_every": 3,
    "search.log_every": 2,
    "verify.trainings": 0,
    "derive.samples": 4,
    "derive.minibatches": 1,
    "derive.shortlist": 2,
    "derive.shortlist_epochs": 1,
    "retrain.child.epochs": 2,
    "retrain.checkpoint_every": 3,
    "threads": 1,
}
"""6 steps a pass, 15 of search."""
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def layer(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), activation())


class Net(nn.Module):
    """12 architectures of 18: what is inside `more` is asked only where that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 8)
        self.mix = Choice({"relu": layer(nn.ReLU), "tanh": layer(nn.Tanh), "idle": nn.Identity()})
        inner = Choice({"narrow": nn.Linear(8, 8), "wide": nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))})
        self.more = Choice({"deep": nn.Sequential(inner, nn.ReLU()), "idle": nn.Identity()})
        self.skip = Inputs(2, at_least=1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.drop(self.more(self.skip([self.mix(x), x]))))


def digits(first: int, end: int) -> tuple[Tensor, Tensor]:
    x_ND, y_N = load_digits(return_X_y=True)
    return torch.tensor(x_ND[first:end]).float() / 16, torch.tensor(y_N[first:end])


def loss(output: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(output, batch[1])


def score(output: Tensor, batch: Any) -> Tensor:
    return (output.argmax(1) == batch[1]).float().mean()


def task() -> Task:
    return Task(digits(0, 60), digits(60, 100), digits(100, 140), batch=10, loss=loss, score=score)


def recipe() -> NetworkConfig:
    """A tiny search."""
    return NetworkConfig(network=Net, task=task)


def without_norms() -> NetworkConfig:
    """A search of a network that computes each example by itself, and drops nothing."""

    def net() -> Net:
        made = Net()
        for name, module in list(made.named_modules()):
            if isinstance(module, nn.BatchNorm1d | nn.Dropout):
                made.set_submodule(name, nn.Identity())
        return made

    return NetworkConfig(network=net, task=task)
