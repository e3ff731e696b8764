"""What a macro architecture computes: with shared weights (`MacroSupernet`) or its own (`MacroChild`).

Both hold one `MacroNetwork`, which runs a path: the supernet's has every weight of the space, a child's those of its
architecture, under the same names. T[0] is the stem and T[i + 1] the output of layer i; layer i reads T[i] and joins its
output with those of T[0] .. T[i - 1] that it has skip connections to (paper, §2.3).

Shape letters: B images, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from enas.architecture import Architecture
from enas.data.images import ImageShape
from enas.errors import ConfigError
from enas.ops import Maps
from enas.plain import hooks_called
from enas.spaces.blocks import Classifier, DenseConv, FactorizedReduction, check_images, check_shape
from enas.spaces.image_network import ImageChild, ImageSupernet, Outputs
from enas.spaces.macro.layer import Layer, MacroNetConfig
from enas.spaces.macro.space import MacroSpace, reduction_layers

__all__ = ["MacroChild", "MacroNetConfig", "MacroSupernet"]


class Path(NamedTuple):
    """What a network runs, layer by layer."""

    operations: Sequence[str]
    skips: Sequence[Sequence[int]]
    """The numbers j of the tensors T[j] that each layer takes besides its input, ascending."""

    @classmethod
    def of(cls, architecture: Architecture) -> Path:
        """The path of an architecture. Raises `ConfigError` if it is not of the macro space."""
        space = MacroSpace.of(architecture)
        return cls(space.operations_of(architecture), space.skips_of(architecture))

    def last_readers(self) -> list[int]:
        """For each tensor, the last layer that reads it; for the output of the last layer, the number of layers."""
        last = list(range(len(self.skips) + 1))
        for layer, sources in enumerate(self.skips):
            for source in sources:
                last[source] = layer
        return last


class MacroNetwork(nn.Module):
    """Stem, layers, reductions and classifier, with the weights of every operation and source that may be asked for."""

    def __init__(
        self,
        operations: Sequence[Sequence[str]],
        sources: Sequence[Sequence[int]],
        config: MacroNetConfig,
        shape: ImageShape,
        generator: torch.Generator,
    ) -> None:
        """Layer by layer, the operations that may be asked for and the tensors that may be skipped from."""
        super().__init__()
        self.halving = reduction_layers(len(operations))
        if not self.halving:
            raise ConfigError(
                f"a macro network has three stages and so needs at least 3 layers, not {len(operations)}"
            )
        check_shape(shape, halvings=len(self.halving))
        self.shape = shape
        channels = config.filters
        self.stem = DenseConv(shape.channels, channels, 3, generator, config.norm)
        self.layers = nn.ModuleList()
        self.reductions = nn.ModuleDict()
        for i, (named, numbered) in enumerate(zip(operations, sources, strict=True)):
            self.layers.append(Layer(named, numbered, i == 0, channels, config, generator))
            if i in self.halving:
                wider = 2 * channels if config.double_channels else channels
                for j in range(i + 2):
                    self.reductions[f"{i}-{j}"] = FactorizedReduction(channels, wider, generator, config.norm)
                channels = wider
        self.classifier = Classifier(channels, shape.classes, config.dropout, generator)

    @hooks_called
    def forward(self, images_BCHW: Tensor, path: Path) -> Outputs:
        """The class scores [B, K] by one path; of the tensors, only those still to be read are kept and halved."""
        check_images(images_BCHW, self.shape)
        last = path.last_readers()
        tensors: dict[int, Maps] = {0: self.stem(images_BCHW)}
        for i, layer in enumerate(self.layers):
            skips = {str(j): tensors[j] for j in path.skips[i]}
            tensors[i + 1] = layer(tensors[i], skips, path.operations[i])
            tensors = {j: x for j, x in tensors.items() if last[j] > i}
            if i in self.halving:
                tensors = {j: self.reductions[f"{i}-{j}"](x) for j, x in tensors.items()}
        return Outputs(self.classifier(tensors[len(self.layers)]))


class MacroSupernet(ImageSupernet):
    """The shared weights of every operation of every layer, and of every skip connection."""

    def __init__(
        self, space: MacroSpace, config: MacroNetConfig, shape: ImageShape, generator: torch.Generator
    ) -> None:
        """Raises `ConfigError` if such images, or so few layers, cannot be halved twice."""
        super().__init__()
        self.space = space
        self.config = config
        operations = [space.operations] * space.layers
        sources = [range(i) for i in range(space.layers)]
        self.network = MacroNetwork(operations, sources, config, shape, generator)

    def forward(self, images_BCHW: Tensor, architecture: Architecture) -> Outputs:
        """The class scores of one architecture. Raises `ConfigError` if it is of another space."""
        if architecture.space != self.space:
            raise ConfigError(f"the architecture {architecture} is of another space than the supernet")
        outputs: Outputs = self.network(images_BCHW, Path.of(architecture))
        return outputs


class MacroChild(ImageChild):
    """One architecture with weights of its own, all reductions of the authors' network among them."""

    def __init__(
        self,
        architecture: Architecture,
        config: MacroNetConfig,
        shape: ImageShape,
        generator: torch.Generator,
    ) -> None:
        """Raises `ConfigError` if such images, or so few layers, cannot be halved twice."""
        super().__init__()
        self.architecture = architecture
        self.config = config
        self.path = Path.of(architecture)
        operations = [[operation] for operation in self.path.operations]
        self.network = MacroNetwork(operations, self.path.skips, config, shape, generator)

    def outputs(self, images_BCHW: Tensor) -> Outputs:
        """The class scores."""
        outputs: Outputs = self.network(images_BCHW, self.path)
        return outputs
