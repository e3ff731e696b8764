"""A training step through choices in a user's own module, against the same path written by hand.

Command:  python benchmarks/choices.py      (about 5 minutes on 2 cores; --help for other sizes)
Prints:   one JSON line an architecture; the measured ones stand in docs/results.md with hardware and date.

The network is that of NAS-Bench-201, in torch's own modules: a stem, three stages of N equal cells with a residual block
between them, a classifier; 32×32 pixels. A step is forward, backward and an update by SGD with momentum, in float32. Four
forms of it are measured in turn in one process, in an order that is drawn anew for every turn. `times_...` are medians over
the turns: the seconds of that form divided by those of `hand`, so that more than 1 means slower.

hand           a network whose edges are the modules of this one architecture.
choices        the supernet, whose every edge is a `Choice` of five, inside `use`; the optimiser has all of its parameters.
child          what `child_of` makes of the supernet.
channels_last  `hand` with images and filters in channels_last.

`use_microseconds` is what entering and leaving `use` takes alone.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable

import torch
from convolution_floor import seconds_of
from recurrent import print_record
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture
from enas.choices import Choice, SharedDecision, child_of, space_of, use
from enas.runtime.memory import keep_freed_memory

PAIRS = ("0-1", "0-2", "1-2", "0-3", "1-3", "2-3")
ARCHITECTURES = {
    "five convolutions": ("conv3x3", "conv3x3", "conv3x3", "skip", "conv3x3", "conv3x3"),
    "two of each kind": ("conv3x3", "pool", "skip", "conv1x1", "conv3x3", "pool"),
    "no convolution": ("skip", "none", "pool", "skip", "pool", "skip"),
}
"""What stands at each edge."""

Edge = Callable[[str, int], nn.Module]
"""From the name of an edge and the number of channels to what computes it."""
Form = Callable[[], object]
"""One step."""


class Zero(nn.Module):
    """No connection."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.zeros_like(x_BCHW)


def convolution(inputs: int, outputs: int, width: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution, norm."""
    filters = nn.Conv2d(inputs, outputs, width, stride, width // 2, bias=False)
    return nn.Sequential(nn.ReLU(), filters, nn.BatchNorm2d(outputs))


def operation(name: str, channels: int) -> nn.Module:
    """One of the five operations."""
    if name.startswith("conv"):
        return convolution(channels, channels, int(name[-1]))
    if name == "pool":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Identity() if name == "skip" else Zero()


class Cell(nn.Module):
    """Four nodes; each is the sum of what its edges make of the nodes before it."""

    def __init__(self, channels: int, edge: Edge) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({pair: edge(pair, channels) for pair in PAIRS})

    def forward(self, x_BCHW: Tensor) -> Tensor:
        edges = self.edges
        one = edges["0-1"](x_BCHW)
        two = edges["0-2"](x_BCHW) + edges["1-2"](one)
        return edges["0-3"](x_BCHW) + edges["1-3"](one) + edges["2-3"](two)


class Residual(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            convolution(channels, 2 * channels, 3, 2), convolution(2 * channels, 2 * channels, 3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.main(x_BCHW) + self.shortcut(x_BCHW)


def network(channels: int, cells: int, edge: Edge) -> nn.Sequential:
    """The whole network."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
    for stage in range(3):
        if stage:
            layers.append(Residual(channels))
            channels *= 2
        layers += [Cell(channels, edge) for _ in range(cells)]
    end = (nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *end, nn.Linear(channels, 10))


def supernet(channels: int, cells: int) -> nn.Sequential:
    """Every cell asks the same six decisions."""
    decisions = {pair: SharedDecision(pair) for pair in PAIRS}
    names = ("none", "skip", "conv1x1", "conv3x3", "pool")

    def edge(pair: str, channels: int) -> Choice:
        return Choice({name: operation(name, channels) for name in names}, decisions[pair])

    return network(channels, cells, edge)


def step_of(
    model: nn.Module,
    images_BCHW: Tensor,
    labels_B: Tensor,
    shared: nn.Module | None = None,
    architecture: Architecture | None = None,
) -> Form:
    """One training step; of a path of `shared` if there is an architecture."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad()
        if shared is None or architecture is None:
            loss = F.cross_entropy(model(images_BCHW), labels_B)
        else:
            with use(shared, architecture):
                loss = F.cross_entropy(shared(images_BCHW), labels_B)
        loss.backward()
        optimizer.step()

    return step


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Print the figure of an architecture."""
    operations = dict(zip(PAIRS, ARCHITECTURES[name], strict=True))
    images_BCHW = torch.randn(arguments.batch, 3, 32, 32)
    labels_B = torch.randint(10, (arguments.batch,))
    shared = supernet(arguments.channels, arguments.cells)
    architecture = space_of(shared, images_BCHW[:2]).parse(
        " ".join("=".join(pair) for pair in operations.items())
    )

    def by_hand() -> nn.Module:
        return network(
            arguments.channels, arguments.cells, lambda pair, channels: operation(operations[pair], channels)
        )

    last = torch.channels_last
    forms = {
        "hand": step_of(by_hand(), images_BCHW, labels_B),
        "choices": step_of(shared, images_BCHW, labels_B, shared, architecture),
        "child": step_of(child_of(shared, architecture), images_BCHW, labels_B),
        "channels_last": step_of(
            by_hand().to(memory_format=last), images_BCHW.contiguous(memory_format=last), labels_B
        ),
    }

    def enter_and_leave() -> None:
        with use(shared, architecture):
            pass

    for form in forms.values():
        form()
    rng, turns = random.Random(0), []
    for _ in range(arguments.rounds):
        order = rng.sample(list(forms), len(forms))
        turns.append({form: seconds_of(forms[form]) for form in order})
    times = {
        f"times_{form}": statistics.median(turn[form] / turn["hand"] for turn in turns)
        for form in forms
        if form != "hand"
    }
    print_record(
        {
            "architecture": name,
            "channels": arguments.channels,
            "cells": arguments.cells,
            "batch": arguments.batch,
            "threads": torch.get_num_threads(),
            "seconds_hand": statistics.median(turn["hand"] for turn in turns),
            **times,
            "use_microseconds": 1e4 * seconds_of(lambda: [enter_and_leave() for _ in range(100)]),
        }
    )


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", choices=ARCHITECTURES, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=5, help="of a stage")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each architecture")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the command line does
    for name in arguments.architecture:
        measure(name, arguments)


if __name__ == "__main__":
    main()
