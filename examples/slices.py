"""A space and a network by the contract, without choices: layers whose widths are parts of one matrix.

The options of a `Choice` are modules with weights of their own. Here all widths of a layer share theirs: a narrow one has
the first rows of a wide one. Such a network says itself what may be chosen. It needs a `space`, a `forward` that is told the
architecture, and a `child`.

Command:  enas run examples/slices.py   (a quarter of a minute on one core)
or        python examples/slices.py   (the same, and the found network)
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from digits import task
from torch import Tensor, nn
from torch.nn import functional as F

import enas
from enas import Architecture, Decision, NetworkConfig, Space
from enas.architecture import Graph, GraphNode
from enas.errors import ArchitectureError

PIXELS, CLASSES = 64, 10


@dataclass(frozen=True)
class WidthSpace(Space):
    """A width for every hidden layer. Written as in 8-64-16."""

    name: ClassVar[str] = "widths"

    layers: int = 3
    widths: tuple[int, ...] = (8, 16, 32, 64)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        options = tuple(map(str, self.widths))
        return tuple(Decision(f"layer{n}", "operation", n, options) for n in range(self.layers))

    def taken(self, architecture: Architecture) -> list[int]:
        """The widths of the layers."""
        return [self.widths[choice] for choice in architecture.choices]

    def format(self, architecture: Architecture) -> str:
        return "-".join(map(str, self.taken(architecture)))

    def parse(self, text: str) -> Architecture:
        known = {str(width): choice for choice, width in enumerate(self.widths)}
        words = text.split("-")
        if len(words) != self.layers or not set(words) <= set(known):
            raise ArchitectureError(
                f"{text!r} is not {self.layers} of the widths {', '.join(known)}, as in 8-64-16"
            )
        return self.architecture([known[word] for word in words])

    def graph(self, architecture: Architecture) -> Graph:
        layers = [
            GraphNode(str(n), f"{n} linear {width}", "node")
            for n, width in enumerate(self.taken(architecture))
        ]
        nodes = (GraphNode("in", "pixels", "input"), *layers, GraphNode("out", "classes", "output"))
        keys = [node.key for node in nodes]
        return Graph(f"widths {architecture}", nodes, tuple(pairwise(keys)))


class Net(nn.Module):
    """Layers as wide as can be, of which an architecture uses the first rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.space = WidthSpace()
        sizes = [PIXELS, *[max(self.space.widths)] * self.space.layers, CLASSES]
        self.layers = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))

    def forward(self, images_B1HW: Tensor, architecture: Architecture) -> Tensor:
        x = images_B1HW.flatten(1)
        for layer, width in zip(self.layers[:-1], self.space.taken(architecture), strict=True):
            x = F.relu(F.linear(x, layer.weight[:width, : x.shape[1]], layer.bias[:width]))
        return F.linear(x, self.layers[-1].weight[:, : x.shape[1]], self.layers[-1].bias)

    def child(self, architecture: Architecture, weights: str = "fresh") -> nn.Module:
        """A network of its own: `fresh` weights are drawn, `shared` ones copied."""
        sizes = [PIXELS, *self.space.taken(architecture), CLASSES]
        layers = list(map(nn.Linear, sizes, sizes[1:]))
        if weights == "shared":
            with torch.no_grad():
                for own, layer in zip(layers, self.layers, strict=True):
                    own.weight.copy_(layer.weight[: own.out_features, : own.in_features])
                    own.bias.copy_(layer.bias[: own.out_features])
        return nn.Sequential(
            nn.Flatten(), *(m for layer in layers[:-1] for m in (layer, nn.ReLU())), layers[-1]
        )


def recipe() -> NetworkConfig:
    """What `enas run` reads."""
    return NetworkConfig(network=Net, task=task)


def main(folder: str = "runs/slices", **settings: object) -> None:
    """Search, train what was found beside three random networks, and print it."""
    found = enas.search(Net, task, folder, **settings)
    print(f"{found.space.count()} networks; found: {found.architecture}")
    print(enas.train(found, random=3))


if __name__ == "__main__":
    main()
