"""The cells of NAS-Bench-201 (Dong and Yang 2020) as choices, in 40 lines of torch's own modules; here on the digits.

All cells ask the same six decisions, so that there are 5^6 = 15,625 networks.

Command:  enas run examples/nas_bench_201.py   (about two minutes on one core; less with --budget 1m)
or        python examples/nas_bench_201.py   (the same, and a picture of what was chosen)
"""

import torch
from digits import task
from torch import Tensor, nn

import enas
from enas import Choice, NetworkConfig, SharedDecision
from enas.report.drawing import write_svg

CHANNELS, CELLS = 16, 1


def convolution(inputs: int, outputs: int, width: int, stride: int = 1) -> nn.Module:
    """ReLU, convolution, norm."""
    filters = nn.Conv2d(inputs, outputs, width, stride, width // 2, bias=False)
    return nn.Sequential(nn.ReLU(), filters, nn.BatchNorm2d(outputs))


class Zero(nn.Module):
    """No connection."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Cell(nn.Module):
    """Node 0 is the input; each other node is the sum of what its edges make of the nodes before it."""

    def __init__(self, channels: int, decisions: dict[str, SharedDecision]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({pair: self.edge(channels, asked) for pair, asked in decisions.items()})

    def edge(self, channels: int, decision: SharedDecision) -> nn.Module:
        """The five operations between two nodes."""
        pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        convolutions = {f"conv{width}": convolution(channels, channels, width) for width in (1, 3)}
        return Choice({"none": Zero(), "skip": nn.Identity(), **convolutions, "pool": pool}, decision)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            nodes.append(sum(self.edges[f"{source}-{target}"](nodes[source]) for source in range(target)))
        return nodes[3]


class Residual(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        halved, same = convolution(channels, 2 * channels, 3, 2), convolution(2 * channels, 2 * channels, 3)
        self.main = nn.Sequential(halved, same)
        self.short = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.short(x)


class Net(nn.Sequential):
    """A stem, three stages of cells with residual blocks between them, a classifier."""

    def __init__(self) -> None:
        c, asked = (
            CHANNELS,
            {pair: SharedDecision(pair) for pair in ("0-1", "0-2", "1-2", "0-3", "1-3", "2-3")},
        )
        super().__init__(nn.Conv2d(1, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))
        for stage in range(3):
            self.extend([Residual(c << stage - 1)] if stage else [])
            self.extend(Cell(c << stage, asked) for _ in range(CELLS))
        self.extend([nn.BatchNorm2d(4 * c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
        self.append(nn.Linear(4 * c, 10))


def recipe() -> NetworkConfig:
    """What `enas run` reads."""
    return NetworkConfig(network=Net, task=task)


def main(folder: str = "runs/nas_bench_201", **settings: object) -> None:
    """Search, draw what was found, and train it beside three random networks."""
    found = enas.search(Net, task, folder, **settings)
    write_svg(found.architecture.graph(), f"{folder}/found.svg")
    enas.train(found, random=3)


if __name__ == "__main__":
    main()
