"""A tiny space with its network, written by the contract, and the data sources that it is trained from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from enas import Task, Training
from enas.architecture import Architecture, Decision, Graph, Space
from enas.errors import ArchitectureError
from enas.tasks.batches import BatchTask

CPU = torch.device("cpu")
FEATURES, WIDTH, TRAIN, VALID, BATCH = 4, 6, 22, 12, 5
OPTIONS = ("tanh", "relu", "idle")


@dataclass(frozen=True)
class ToySpace(Space):
    """Two layers, each of one of three kinds."""

    name: ClassVar[str] = "toy"

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(Decision(f"layer.{index}", "operation", index, OPTIONS) for index in range(2))

    def format(self, architecture: Architecture) -> str:
        return " ".join(OPTIONS[choice] for choice in architecture.choices)

    def parse(self, text: str) -> Architecture:
        if unknown := set(text.split()) - set(OPTIONS):
            raise ArchitectureError(f"{unknown} is none of {OPTIONS}")
        return self.architecture([OPTIONS.index(word) for word in text.split()])

    def graph(self, architecture: Architecture) -> Graph:
        return Graph(str(architecture), (), ())


SPACE = ToySpace()


def option(name: str) -> nn.Module:
    """An option's layer: with batch norm, with dropout, or nothing."""
    return {
        "tanh": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh()),
        "relu": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.5)),
        "idle": nn.Identity,
    }[name]()


class Supernet(nn.Module):
    """All layers of all architectures."""

    space = SPACE

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, WIDTH)
        self.layers = nn.ModuleList(nn.ModuleList(map(option, OPTIONS)) for _ in range(2))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        x = self.stem(x)
        for layer, choice in zip(self.layers, architecture.choices, strict=True):
            x = layer[choice](x)
        return self.head(x)

    def child(self, architecture: Architecture) -> nn.Module:
        layers = [option(OPTIONS[choice]) for choice in architecture.choices]
        return nn.Sequential(nn.Linear(FEATURES, WIDTH), *layers, nn.Linear(WIDTH, 2))


def supernet(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    return Supernet()


def table(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points, and on which side of the origin their sum is."""
    x_NF = torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(seed))
    return x_NF, (x_NF.sum(1) > 0).long()


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(output, batch["target"] if isinstance(batch, dict) else batch[1])


def accuracy(output: Tensor, batch: Any) -> Tensor:
    return (output.argmax(1) == (batch["target"] if isinstance(batch, dict) else batch[1])).float().mean()


# ---- data sources ------------------------------------------------------------------------------------------------------


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Examples with noise from each of the global generators."""

    def __init__(self, rows: int, seed: int, noise: float = 0.1) -> None:
        self.x_NF, self.y_N = table(rows, seed)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.x_NF)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        drawn = float(torch.rand(())) + random.random() + np.random.random()
        return self.x_NF[index] + self.noise * drawn, self.y_N[index]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """The same as a stream, in an order of its own."""

    def __init__(self, rows: int, seed: int, noise: float = 0.1) -> None:
        self.examples = Noisy(rows, seed, noise)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.examples[index] for index in torch.randperm(len(self.examples)).tolist())


def batches(rows: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """A list of batches, the last one smaller."""
    x_NF, y_N = table(rows, seed)
    return list(zip(x_NF.split(BATCH), y_N.split(BATCH), strict=True))


def dicts(rows: int, seed: int) -> list[dict[str, Tensor]]:
    """The same as dicts."""
    return [{"x": x_BF, "target": y_B} for x_BF, y_B in batches(rows, seed)]


def generating(rows: int, seed: int) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """A function that is a generator, in an order of its own."""

    def generate() -> Iterator[tuple[Tensor, Tensor]]:
        listed = batches(rows, seed)
        random.shuffle(listed)
        yield from listed

    return generate


def loader(rows: int, seed: int, **settings: Any) -> Any:
    return DataLoader(Noisy(rows, seed), BATCH, shuffle=True, **settings)


SOURCES: dict[str, Callable[[], dict[str, Any]]] = {
    "tensors": lambda: {"train": table(TRAIN, 1), "valid": table(VALID, 2), "batch": BATCH},
    "list": lambda: {"train": batches(TRAIN, 1), "valid": batches(VALID, 2)},
    "dicts": lambda: {"train": dicts(TRAIN, 1), "valid": dicts(VALID, 2)},
    "loader": lambda: {"train": loader(TRAIN, 1), "valid": loader(VALID, 2)},
    "workers": lambda: {
        "train": loader(TRAIN, 1, num_workers=2, generator=torch.Generator()),
        "valid": loader(VALID, 2, num_workers=1),
    },
    "dataset": lambda: {"train": Noisy(TRAIN, 1), "valid": Noisy(VALID, 2), "batch": BATCH},
    "stream": lambda: {
        "train": DataLoader(Stream(TRAIN, 1), BATCH),
        "valid": DataLoader(Stream(VALID, 2), BATCH),
        "steps": 5,
    },
    "function": lambda: {"train": generating(TRAIN, 1), "valid": generating(VALID, 2), "steps": 5},
}
"""Each makes the splits anew, as another process would. All have five batches."""


def task_of(source: str = "tensors", **more: Any) -> Task:
    training = more.pop("training", Training(learning_rate=0.1, warmup=0.5, clip=1.0))
    functions = {"loss": cross_entropy, "score": accuracy}
    return Task(**{**SOURCES[source](), **functions, "training": training, **more})


def batch_task(task: Task, epochs: int = 2, **more: Any) -> BatchTask:
    return BatchTask(task, **{"epochs": epochs, "seed": 3, "device": CPU, "dtype": torch.float32, **more})
