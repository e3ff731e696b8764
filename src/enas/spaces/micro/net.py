"""The network of the micro space: a stem, layers of cells of which two halve the size, and a classifier.

`MicroSupernet` and `MicroChild` are the same `MicroNetwork`, with the weights of every architecture or of one. Whatever
differs between search and retraining in the authors' first code is a setting, so that both may run the same graph.

Shape letters: B images, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from enas.architecture import Architecture
from enas.constraints import Depth, PartialShare, PositiveFloat, Settings, SomeShare, Width
from enas.data.images import ImageShape
from enas.errors import ConfigError
from enas.plain import hooks_called
from enas.spaces.blocks import DenseConv, NormConfig, check_images, check_shape
from enas.spaces.image_network import ImageChild, ImageSupernet, Outputs
from enas.spaces.micro.cell import Candidates, MicroCell, candidates_of, drop_paths, path_of
from enas.spaces.micro.joined import POOL, AuxiliaryHead, JoinedClassifier, JoinedReduction, Layout, Parts
from enas.spaces.micro.space import Cell, MicroSpace


@dataclass(frozen=True)
class MicroNetConfig(Settings):
    """The network around the cells, and what the description of the cells leaves open."""

    filters: Width = 36
    """Channels of every node before the first reduction; each of the two reductions doubles them."""
    layers: Depth = 6
    """Normal cells; the two reduction cells are added, after a third and two thirds of them."""
    stem_multiplier: Depth = 3
    """Channels of the stem, as a multiple of the filters."""
    output: Literal["concat", "convolution"] = "concat"
    """What a cell hands on: its loose ends concatenated (paper, §2.4), or the norm of a 1×1 convolution of
    their ReLU, which has a block of weights for each node that may be loose (the first code's search)."""
    reduction: Literal["stride", "factorized"] = "stride"
    """How a reduction cell halves the size: by a stride of 2 in the operations on its inputs (paper, §2.4),
    or by a factorized reduction of the layer before, whose result is read beside that layer itself, by a
    cell whose operations all have stride 1 (the first code's search)."""
    base_convolution: bool = False
    """Whether the newer input of a cell always passes ReLU, a 1×1 convolution and a norm, after what fits
    it to the cell (the first code's final network)."""
    auxiliary: bool = False
    """Whether a second classifier reads the cell after the second reduction in training, to be trained as
    well; images need at least 17 pixels a side."""
    drop_path_keep: SomeShare = 1.0
    """Probability that the last cell keeps the output of an operation for an image, at the end of training:
    1 - keep grows linearly with the depth of the cell and with the steps done. Identity is always kept."""
    dropout: PartialShare = 0.1
    """The share of the pooled features that are dropped before the classifier in training."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance in every norm."""
    norm_decay: PartialShare = 0.9
    """How much of the moving statistics is kept at every training step."""

    @property
    def reductions(self) -> tuple[int, int]:
        """The numbers of the reduction cells among all cells, which are counted from 0."""
        return self.layers // 3, 2 * self.layers // 3 + 1

    def keep_at(self, number: int, progress: float) -> float:
        """Probability that cell `number` keeps the output of an operation, when this share of the steps is done."""
        return 1 - min(1.0, progress) * (number + 1) / (self.layers + 2) * (1 - self.drop_path_keep)


class MicroNetwork(nn.Module):
    """The network, with the weights of all that a normal and a reduction cell may compute."""

    def __init__(
        self,
        candidates: tuple[Candidates, Candidates],
        config: MicroNetConfig,
        shape: ImageShape,
        generator: torch.Generator,
    ) -> None:
        """`candidates` are those of the normal and of the reduction cell."""
        super().__init__()
        check_shape(shape, halvings=len(config.reductions))
        if config.auxiliary:
            check_auxiliary(shape, len(config.reductions))
        self.config = config
        self.shape = shape
        norm = NormConfig(config.norm_eps, config.norm_decay)
        channels = config.filters
        stem = Layout(("stem",), config.stem_multiplier * channels, 0)
        self.stem = DenseConv(shape.channels, stem.channels, 3, generator, norm)
        self.reductions = nn.ModuleDict()
        self.cells = nn.ModuleList()
        self.auxiliary: AuxiliaryHead | None = None
        older = newer = stem
        for number in range(config.layers + 2):
            reduces = number in config.reductions
            if reduces:
                channels *= 2
            if reduces and config.reduction == "factorized":
                self.reductions[str(number)] = JoinedReduction(newer, channels, generator, norm)
                older, newer = newer, Layout(("reduced",), channels, newer.halvings + 1)
            cell = MicroCell(
                candidates[int(reduces)],
                (older, newer),
                channels,
                generator,
                norm,
                stride=2 if reduces and config.reduction == "stride" else 1,
                base_convolution=config.base_convolution,
                output_convolution=config.output == "convolution",
            )
            self.cells.append(cell)
            older, newer = newer, cell.layout
            if config.auxiliary and number == config.reductions[-1] + 1:
                self.auxiliary = AuxiliaryHead(newer, shape.classes, generator, norm)
        self.classifier = JoinedClassifier(newer, shape.classes, config.dropout, generator)

    @hooks_called
    def forward(self, images_BCHW: Tensor, cells: tuple[Cell, Cell], progress: float = 1.0) -> Outputs:
        """The class scores of the network with this normal and this reduction cell.

        `progress` is the share of the training steps that are done.
        """
        check_images(images_BCHW, self.shape)
        older: Parts = {"stem": self.stem(images_BCHW)}
        newer = older
        auxiliary_BK = None
        path = [cells[int(number in self.config.reductions)] for number in range(len(self.cells))]
        progress = progress if self.training else 0.0
        keeps = [self.config.keep_at(number, progress) for number in range(len(path))]
        dropped = drop_paths(path, keeps, images_BCHW)
        for number, layer in enumerate(self.cells):
            if str(number) in self.reductions:
                older, newer = newer, {"reduced": self.reductions[str(number)](newer)}
            older, newer = newer, layer(older, newer, path[number], dropped[number])
            if self.training and self.auxiliary is not None and number == self.config.reductions[-1] + 1:
                auxiliary_BK = self.auxiliary(newer)
        return Outputs(self.classifier(newer), auxiliary_BK)


class MicroSupernet(ImageSupernet):
    """The shared weights of every pair of cells."""

    network: MicroNetwork

    def __init__(
        self, space: MicroSpace, config: MicroNetConfig, shape: ImageShape, generator: torch.Generator
    ) -> None:
        """Raises `ConfigError` if the images are too small."""
        super().__init__()
        self.space: MicroSpace = space
        self.config = config
        candidates = candidates_of(space)
        self.network = MicroNetwork((candidates, candidates), config, shape, generator)

    @property
    def auxiliary(self) -> AuxiliaryHead | None:
        """The auxiliary classifier, which a count of the network's parameters leaves out."""
        return self.network.auxiliary

    def forward(self, images_BCHW: Tensor, architecture: Architecture) -> Outputs:
        """The class scores [B, K] of one architecture."""
        outputs: Outputs = self.network(images_BCHW, self.space.cells(architecture), self.progress)
        return outputs


class MicroChild(ImageChild):
    """The network of one architecture, with weights of its own."""

    network: MicroNetwork
    of_training = frozenset({"dropout", "drop_path_keep"})

    def __init__(
        self,
        architecture: Architecture,
        config: MicroNetConfig,
        shape: ImageShape,
        generator: torch.Generator,
    ) -> None:
        """Raises `ConfigError` if the images are too small, or the architecture is not of the micro space."""
        super().__init__()
        self.architecture = architecture
        self.config = config
        self.cells = MicroSpace.of(architecture).cells(architecture)
        normal, reduction = self.cells
        self.network = MicroNetwork((path_of(normal), path_of(reduction)), config, shape, generator)

    @property
    def auxiliary(self) -> AuxiliaryHead | None:
        """The auxiliary classifier, which a count of the network's parameters leaves out."""
        return self.network.auxiliary

    def outputs(self, images_BCHW: Tensor) -> Outputs:
        """The class scores [B, K], with those of the auxiliary head in training."""
        outputs: Outputs = self.network(images_BCHW, self.cells, self.progress)
        return outputs


def check_auxiliary(shape: ImageShape, halvings: int) -> None:
    """Raise `ConfigError` if the auxiliary head has too few pixels to pool."""
    smallest = (POOL - 1) * 2**halvings + 1
    if min(shape.height, shape.width) < smallest:
        raise ConfigError(
            f"images of {shape.height}×{shape.width} pixels are too small for the auxiliary head, which needs at "
            f"least {smallest} pixels a side; set auxiliary to False"
        )
