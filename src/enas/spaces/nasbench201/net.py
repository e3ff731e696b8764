"""The network around the cells of NAS-Bench-201 (Dong and Yang 2020, §2.1): a stem, three stages of a cell, a classifier.

Between two stages a residual block halves the size and doubles the channels. The classifier has no bias, as elsewhere in
this package, so that a network has ten parameters fewer than the benchmark's.

Shape letters: B images, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas import ops
from enas.architecture import Architecture
from enas.constraints import Depth, PartialShare, PositiveFloat, Settings, Width
from enas.data.images import ImageShape
from enas.ops import Maps
from enas.plain import hooks_called
from enas.spaces.blocks import (
    DenseConv,
    NormConfig,
    check_images,
    check_shape,
    class_scores,
    convolution,
    linear,
)
from enas.spaces.image_network import ImageChild, ImageSupernet, Outputs
from enas.spaces.nasbench201.space import CONV_1, CONV_3, OUTPUT, PAIRS, POOL, SKIP, Edge, NASBench201Space

STAGES = 3
WIDTHS = {CONV_1: 1, CONV_3: 3}
"""The widths of the convolutions; each is done as ReLU, convolution, norm."""
EVERY_EDGE = tuple(Edge(*pair, operation) for pair in PAIRS for operation in WIDTHS)
"""What a supernet has weights for."""


@dataclass(frozen=True)
class NASBench201NetConfig(Settings):
    """The network around the cells."""

    filters: Width = 16
    """Channels of the first stage; each of the two residual blocks doubles them."""
    cells: Depth = 5
    """N, the cells of a stage."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance in every norm."""
    norm_decay: PartialShare = 0.9
    """How much of the moving statistics is kept at every training step."""


def key_of(edge: Edge) -> str:
    """The name of an edge's weights."""
    return f"{edge.target}-{edge.source}-{edge.operation}"


class Cell(nn.Module):
    """One cell, with the weights of all edges that it may compute."""

    def __init__(
        self, candidates: Iterable[Edge], channels: int, generator: torch.Generator, norm: NormConfig
    ) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(
            {
                key_of(edge): DenseConv(channels, channels, WIDTHS[edge.operation], generator, norm)
                for edge in candidates
                if edge.operation in WIDTHS
            }
        )

    def forward(self, x: Maps, edges: Iterable[Edge]) -> Maps:
        """Node 3 [B, C, H, W]; zeros if no edge leads to it."""
        nodes: dict[int, Maps] = {0: x}
        for target in range(1, OUTPUT + 1):
            terms = [self.value(edge, nodes[edge.source]) for edge in edges if edge.target == target]
            if terms:
                nodes[target] = terms[0] if len(terms) == 1 else ops.total(terms)
        return nodes[OUTPUT] if OUTPUT in nodes else torch.zeros_like(ops.computed(x))

    def value(self, edge: Edge, x: Maps) -> Maps:
        """What an operation makes of its source."""
        if edge.operation == SKIP:
            return x
        if edge.operation == POOL:
            return ops.average_pool(x)
        y: Maps = self.operations[key_of(edge)](ops.relu(x))
        return y


class Residual(nn.Module):
    """Half the size, twice the channels: two convolutions beside the mean of 2×2 pixels, which a 1×1 one widens."""

    def __init__(self, channels: int, generator: torch.Generator, norm: NormConfig) -> None:
        super().__init__()
        self.first = DenseConv(channels, 2 * channels, 3, generator, norm, stride=2)
        self.second = DenseConv(2 * channels, 2 * channels, 3, generator, norm)
        self.shortcut = convolution(channels, 2 * channels, 1, generator)

    def forward(self, x: Maps) -> Maps:
        """[B, 2 C, H / 2, W / 2], sizes rounded up."""
        y = self.second(ops.relu(self.first(ops.relu(x))))
        halved = F.avg_pool2d(ops.computed(x), 2, ceil_mode=True, count_include_pad=False)
        return ops.total([self.shortcut(halved), y])


class NASBench201Network(nn.Module):
    """The network, with the weights of all edges that its cells may compute."""

    def __init__(
        self,
        candidates: Iterable[Edge],
        config: NASBench201NetConfig,
        shape: ImageShape,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_shape(shape, halvings=STAGES - 1)
        self.shape = shape
        norm = NormConfig(config.norm_eps, config.norm_decay)
        channels, edges = config.filters, tuple(candidates)
        self.stem = DenseConv(shape.channels, channels, 3, generator, norm)
        self.layers = nn.ModuleList()
        for stage in range(STAGES):
            if stage:
                self.layers.append(Residual(channels, generator, norm))
                channels *= 2
            self.layers.extend(Cell(edges, channels, generator, norm) for _ in range(config.cells))
        self.norm = norm.build(channels)
        self.classifier = linear(channels, shape.classes, generator)

    @hooks_called
    def forward(self, images_BCHW: Tensor, edges: tuple[Edge, ...]) -> Outputs:
        """The class scores of the network whose cells compute these edges."""
        check_images(images_BCHW, self.shape)
        x: Maps = self.stem(images_BCHW)
        for layer in self.layers:
            x = layer(x, edges) if isinstance(layer, Cell) else layer(x)
        features_BC = ops.global_average(ops.relu(ops.batch_norm(x, self.norm)))
        return Outputs(class_scores(features_BC, self.classifier))


class NASBench201Supernet(ImageSupernet):
    """The shared weights of every cell."""

    network: NASBench201Network

    def __init__(
        self,
        space: NASBench201Space,
        config: NASBench201NetConfig,
        shape: ImageShape,
        generator: torch.Generator,
    ) -> None:
        """Raises `ConfigError` if the images are too small."""
        super().__init__()
        self.space: NASBench201Space = space
        self.config = config
        self.network = NASBench201Network(EVERY_EDGE, config, shape, generator)

    def forward(self, images_BCHW: Tensor, architecture: Architecture) -> Outputs:
        """The class scores [B, K] of one architecture."""
        outputs: Outputs = self.network(images_BCHW, self.space.edges(architecture))
        return outputs


class NASBench201Child(ImageChild):
    """The network of one architecture, with weights of its own."""

    network: NASBench201Network

    def __init__(
        self,
        architecture: Architecture,
        config: NASBench201NetConfig,
        shape: ImageShape,
        generator: torch.Generator,
    ) -> None:
        """Raises `ConfigError` if the images are too small, or the architecture is not of this space."""
        super().__init__()
        self.architecture = architecture
        self.config = config
        self.edges = NASBench201Space.of(architecture).edges(architecture)
        self.network = NASBench201Network(self.edges, config, shape, generator)

    def outputs(self, images_BCHW: Tensor) -> Outputs:
        """The class scores [B, K]."""
        outputs: Outputs = self.network(images_BCHW, self.edges)
        return outputs
