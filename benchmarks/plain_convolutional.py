"""The networks of the convolutional spaces as a person would write them first: modules of the library, one path each.

These are what `benchmarks/convolutional.py` compares the package with. They compute what the package's supernets compute
for one architecture: the search graphs of the authors' first code, and the macro graph that joins skip connections by a
1×1 convolution. Dropout is left out.

Shape letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.spaces.micro.space import Cell

CLASSES = 10
POOLS = ("avg3x3", "max3x3")


def convolution(inputs: int, outputs: int, width: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size, or divides it by the stride."""
    return nn.Conv2d(inputs, outputs, width, stride, padding=width // 2, groups=groups, bias=False)


def separable(channels: int, width: int) -> list[nn.Module]:
    """A depthwise convolution, and a 1×1 convolution of what it returns."""
    return [convolution(channels, channels, width, groups=channels), convolution(channels, channels)]


def pool(operation: str) -> nn.Module:
    """Average or largest of 3×3 pixels; beyond the border there are none."""
    if operation == "avg3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.MaxPool2d(3, stride=1, padding=1)


class FactorizedReduction(nn.Module):
    """Halves the size: half of the channels from the even pixels, half from the odd ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = convolution(inputs, outputs // 2, stride=2)
        self.odd = convolution(inputs, outputs - outputs // 2, stride=2)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.norm(torch.cat([self.even(x_BCHW), self.odd(x_BCHW[:, :, 1:, 1:])], 1))


# ---- macro -------------------------------------------------------------------------------------------------------------

Unit = Callable[..., nn.Sequential]
"""Puts ReLU and norm around filters that count as one convolution."""


def conv_norm_relu(channels: int, *filters: nn.Module) -> nn.Sequential:
    """The order of the first code's search."""
    return nn.Sequential(*filters, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def relu_conv_norm(channels: int, *filters: nn.Module) -> nn.Sequential:
    """The paper's order."""
    return nn.Sequential(nn.ReLU(), *filters, nn.BatchNorm2d(channels))


def macro_operation(operation: str, channels: int, unit: Unit) -> nn.Sequential:
    """A 1×1 convolution, then the operation."""
    entry = unit(channels, convolution(channels, channels))
    if operation in POOLS:
        return nn.Sequential(entry, pool(operation))
    width = int(operation[-1])
    filters = (
        separable(channels, width)
        if operation.startswith("sep")
        else [convolution(channels, channels, width)]
    )
    return nn.Sequential(entry, unit(channels, *filters))


class PlainMacro(nn.Module):
    """A macro network; layer i runs `operations[i]` and takes the tensors `skips[i]`: 0 the stem, j layer j − 1's output.

    Merge "sum" adds them to the operation's output, followed by a norm, in the order of the first code's search; "concat"
    joins them by a 1×1 convolution, in the paper's order.
    """

    def __init__(
        self,
        operations: Sequence[str],
        skips: Sequence[Sequence[int]],
        channels: int,
        merge: Literal["sum", "concat"],
    ) -> None:
        super().__init__()
        self.skips, self.merge = skips, merge
        unit = conv_norm_relu if merge == "sum" else relu_conv_norm
        self.stem = nn.Sequential(convolution(3, channels, 3), nn.BatchNorm2d(channels))
        self.operations = nn.ModuleList(macro_operation(name, channels, unit) for name in operations)
        self.merges = nn.ModuleList(
            nn.BatchNorm2d(channels)
            if merge == "sum"
            else unit(channels, convolution((len(taken) + 1) * channels, channels))
            for taken in skips[1:]
        )
        layers = len(operations)
        self.read_later = {
            layer: sorted({layer + 1, *(j for taken in skips[layer + 1 :] for j in taken if j <= layer)})
            for layer in (layers // 3 - 1, 2 * layers // 3 - 1)
        }
        self.reductions = nn.ModuleDict(
            {
                f"{layer}-{j}": FactorizedReduction(channels, channels)
                for layer, tensors in self.read_later.items()
                for j in tensors
            }
        )
        self.classifier = nn.Linear(channels, CLASSES, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        tensors = {0: self.stem(images_BCHW)}
        for layer, operation in enumerate(self.operations):
            x_BCHW = operation(tensors[layer])
            taken = [tensors[j] for j in self.skips[layer]]
            if layer > 0:
                joined = sum(taken, x_BCHW) if self.merge == "sum" else torch.cat([*taken, x_BCHW], 1)
                x_BCHW = self.merges[layer - 1](joined)
            tensors[layer + 1] = x_BCHW
            if layer in self.read_later:
                tensors = {j: self.reductions[f"{layer}-{j}"](tensors[j]) for j in self.read_later[layer]}
        return self.classifier(tensors[len(self.operations)].mean((2, 3)))

    def loss(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(self(images_BCHW), labels_B)


# ---- micro -------------------------------------------------------------------------------------------------------------


def micro_operation(operation: str, channels: int) -> nn.Module:
    """A separable convolution is ReLU, separable, norm, twice over."""
    if operation == "identity":
        return nn.Identity()
    if operation in POOLS:
        return pool(operation)
    width = int(operation[-1])
    once = [nn.ReLU(), *separable(channels, width), nn.BatchNorm2d(channels)]
    return nn.Sequential(*once, nn.ReLU(inplace=True), *separable(channels, width), nn.BatchNorm2d(channels))


class Calibration(nn.Sequential):
    """ReLU, 1×1 convolution and norm to change the number of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.ReLU(), convolution(inputs, outputs), nn.BatchNorm2d(outputs))


class PlainCell(nn.Module):
    """A cell whose loose ends are joined by ReLU, 1×1 convolution and norm."""

    def __init__(self, cell: Cell, channels: int, entry_0: nn.Module, entry_1: nn.Module) -> None:
        super().__init__()
        self.entries = nn.ModuleList([entry_0, entry_1])
        self.sources = [(node.source_1, node.source_2) for node in cell.nodes]
        self.operations = nn.ModuleList(
            nn.ModuleList(micro_operation(name, channels) for name in (node.operation_1, node.operation_2))
            for node in cell.nodes
        )
        self.loose_ends = cell.loose_ends
        self.output = nn.Sequential(
            nn.ReLU(inplace=True),
            convolution(len(self.loose_ends) * channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, older_BCHW: Tensor, newer_BCHW: Tensor) -> Tensor:
        nodes = [self.entries[0](older_BCHW), self.entries[1](newer_BCHW)]
        for (source_1, source_2), (operation_1, operation_2) in zip(
            self.sources, self.operations, strict=True
        ):
            nodes.append(operation_1(nodes[source_1]) + operation_2(nodes[source_2]))
        return self.output(torch.cat([nodes[n] for n in self.loose_ends], 1))


class AuxiliaryHead(nn.Module):
    """Class scores from feature maps in the middle of the network (of 8×8 pixels), to train it by."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3),
            convolution(channels, 128),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(768, CLASSES, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.classifier(self.layers(x_BCHW).mean((2, 3)))


class PlainMicro(nn.Module):
    """A micro network of `layers` normal cells and two reductions, as it is searched.

    A reduction halves the previous output first, by a factorized reduction, and its cell reads the previous output and
    that; the cell after it reads the reduced output as its older input.
    """

    def __init__(self, normal: Cell, reduction: Cell, layers: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, 3 * channels, 3), nn.BatchNorm2d(3 * channels))
        self.reduced_at = (layers // 3, 2 * (layers // 3) + 1)
        older = newer = 3 * channels
        cells: list[nn.Module] = []
        halvings: list[nn.Module] = []
        for position in range(layers + 2):
            if position in self.reduced_at:
                halvings.append(FactorizedReduction(newer, 2 * channels))
                entry_0 = nn.Sequential(nn.ReLU(), FactorizedReduction(newer, 2 * channels))
                channels *= 2
                cells.append(PlainCell(reduction, channels, entry_0, nn.Identity()))
                older = channels
            else:
                entries = [
                    nn.Identity() if inputs == channels else Calibration(inputs, channels)
                    for inputs in (older, newer)
                ]
                cells.append(PlainCell(normal, channels, *entries))
                older = newer
            newer = channels
        self.cells = nn.ModuleList(cells)
        self.halvings = nn.ModuleList(halvings)
        self.auxiliary = AuxiliaryHead(channels)
        self.classifier = nn.Linear(channels, CLASSES, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self._outputs(images_BCHW)[0]

    def _outputs(self, images_BCHW: Tensor, auxiliary: bool = False) -> tuple[Tensor, Tensor | None]:
        """Class scores, and those of the auxiliary head if asked for."""
        older_BCHW = newer_BCHW = self.stem(images_BCHW)
        halvings = iter(self.halvings)
        auxiliary_BK = None
        for position, cell in enumerate(self.cells):
            if position in self.reduced_at:
                older_BCHW, newer_BCHW = newer_BCHW, next(halvings)(newer_BCHW)
            older_BCHW, newer_BCHW = newer_BCHW, cell(older_BCHW, newer_BCHW)
            if auxiliary and position == self.reduced_at[1] + 1:
                auxiliary_BK = self.auxiliary(newer_BCHW)
        return self.classifier(torch.relu(newer_BCHW).mean((2, 3))), auxiliary_BK

    def loss(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Mean cross-entropy, plus 0.4 times that of the auxiliary head."""
        logits_BK, auxiliary_BK = self._outputs(images_BCHW, auxiliary=True)
        return F.cross_entropy(logits_BK, labels_B) + 0.4 * F.cross_entropy(auxiliary_BK, labels_B)


# ---- what they convolve ------------------------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """One convolution, as far as its time depends on it."""

    input_BCHW: tuple[int, ...]
    weight_OCkk: tuple[int, ...]
    stride: int
    padding: int
    groups: int
    input_gradient: bool
    """Whether training needs the gradient of what goes in; the stem does not."""

    @property
    def output_BOHW(self) -> tuple[int, ...]:
        """The shape of what comes out."""
        images, _, height, width = self.input_BCHW
        outputs, _, filter_width, _ = self.weight_OCkk
        sizes = ((size + 2 * self.padding - filter_width) // self.stride + 1 for size in (height, width))
        return (images, outputs, *sizes)


def convolutions_of(build: Callable[[], nn.Module], run: Callable[[Any], object]) -> Counter[Convolution]:
    """The convolutions that `run` does with the network that `build` builds, and how often; nothing is computed."""
    counted: Counter[Convolution] = Counter()

    def count(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, nn.Conv2d)
        (x_BCHW,) = inputs
        (stride, _), (padding, _) = module.stride, module.padding
        shapes = tuple(x_BCHW.shape), tuple(module.weight.shape)
        counted[Convolution(*shapes, stride, int(padding), module.groups, x_BCHW.requires_grad)] += 1

    with torch.device("meta"):
        network = build()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(count)
        run(network)
    return counted
