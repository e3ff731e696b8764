"""Handwritten digits, by layers whose inputs, kernels and activation are chosen.

Command:  enas run examples/digits.py   (under a minute on one core)
or        python examples/digits.py   (the same, and what the found network makes of the first test images)
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import enas
from enas import Choice, Inputs, NetworkConfig, SharedDecision, Task

CHANNELS, LAYERS = 16, 4


def convolution(kernel: int) -> nn.Module:
    """A convolution that keeps the size, and its norm."""
    filters = nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(filters, nn.BatchNorm2d(CHANNELS))


class Layer(nn.Module):
    """Reads some of the maps before it, at least one."""

    def __init__(self, before: int, activation: SharedDecision) -> None:
        super().__init__()
        self.inputs = Inputs(before, at_least=1)
        self.kernel = Choice({"conv1": convolution(1), "conv3": convolution(3), "conv5": convolution(5)})
        self.activation = Choice({"relu": nn.ReLU(), "silu": nn.SiLU(), "tanh": nn.Tanh()}, activation)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.activation(self.kernel(self.inputs(maps)))


class Net(nn.Module):
    """Layers with one activation for all, and the mean of the last one's maps."""

    def __init__(self) -> None:
        super().__init__()
        activation = SharedDecision("activation")
        self.stem = nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(Layer(1 + number, activation) for number in range(LAYERS))
        self.head = nn.Linear(CHANNELS, 10)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        maps = [self.stem(images_B1HW)]
        for layer in self.layers:
            maps.append(layer(maps))
        return self.head(maps[-1].mean((2, 3)))


def loss(scores_BK: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cross-entropy."""
    return F.cross_entropy(scores_BK, batch[1])


def accuracy(scores_BK: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The share of images whose class has the highest score."""
    return (scores_BK.argmax(1) == batch[1]).float().mean()


def task() -> Task:
    """Telling ten digits: 1,197 images to train on, 300 to choose by, 300 to test on."""
    images, labels = load_digits(return_X_y=True)
    images_N1HW = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels_N = torch.tensor(labels)
    order_N = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0))
    splits = [(images_N1HW[part], labels_N[part]) for part in order_N.split((1197, 300, 300))]
    return Task(*splits, batch=64, loss=loss, score=accuracy)


def recipe() -> NetworkConfig:
    """What `enas run` reads."""
    return NetworkConfig(network=Net, task=task)


def main(folder: str = "runs/digits", **settings: object) -> None:
    """Search, train what was found beside three random networks, and use it."""
    found = enas.search(Net, task, folder, **settings)
    print(f"{found.space.count():,} networks; found: {found.architecture}")
    model = enas.train(found, random=3)
    images_N1HW, labels_N = task().test
    with torch.no_grad():
        print("read ", *model(images_N1HW[:10]).argmax(1).tolist())
    print("right", *labels_N[:10].tolist())


if __name__ == "__main__":
    main()
