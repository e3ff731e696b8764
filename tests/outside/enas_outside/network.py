"""What an architecture of the space computes: with shared weights and alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from enas.architecture import Architecture
from enas_outside.space import WIDTHS, OutsideSpace

FEATURES, CLASSES, WIDEST = 4, 2, max(map(int, WIDTHS))
FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh, "none": lambda x: x}


class Layer(nn.Module):
    """A linear layer, of which a narrower one takes the first rows and columns."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, width: int, activation: str) -> Tensor:
        weight, bias = self.linear.weight[:width, : x.shape[1]], self.linear.bias[:width]
        return FUNCTIONS[activation](nn.functional.linear(x, weight, bias))


class Supernet(nn.Module):
    """By the contract of `enas.searchable`."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.space = OutsideSpace(layers)
        self.layers = nn.ModuleList(Layer(WIDEST if layer else FEATURES, WIDEST) for layer in range(layers))
        self.head = Layer(WIDEST, CLASSES)

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        words = self.space.words(architecture)
        for layer, width, activation in zip(self.layers, words[::2], words[1::2], strict=True):
            x = layer(x, int(width), activation)
        return self.head(x, CLASSES, "none")

    def child(self, architecture: Architecture) -> nn.Module:
        words = self.space.words(architecture)
        widths = [FEATURES, *map(int, words[::2])]
        modules: list[nn.Module] = []
        for inputs, outputs, activation in zip(widths, widths[1:], words[1::2], strict=False):
            function = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}[activation]
            modules += [nn.Linear(inputs, outputs), function()]
        return nn.Sequential(*modules, nn.Linear(widths[-1], CLASSES))
