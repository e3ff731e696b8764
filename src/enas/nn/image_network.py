"""What the supernet and the children of a convolutional space have in common: images in, class scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from enas.architecture import Architecture, Space
from enas.nn.activation import Statistics


class ImageShape(NamedTuple):
    """What a network is built for."""

    channels: int
    height: int
    width: int
    classes: int


class Outputs(NamedTuple):
    """Class scores [B, K] before the softmax; those of the auxiliary head are there in training, if it has one."""

    logits_BK: Tensor
    auxiliary_BK: Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """How a minibatch goes through a network. Dropout and drop-path happen in training mode only."""

    statistics: Statistics = "batch"
    """What the batch norms normalise by."""
    dtype: torch.dtype = torch.float32
    """Type of the operands of the convolutions for which that is faster; all else is float32."""
    draw: torch.Generator | None = None
    """Where dropout and drop-path draw their masks from (a CPU generator); None is torch's own generator."""
    progress: float = 1.0
    """The share of the training steps that are done, which sets the rate of drop-path."""


class ImageSupernet(nn.Module, ABC):
    """The shared weights of a convolutional space; each call computes one architecture with its part of them."""

    space: Space

    @abstractmethod
    def forward(self, images_BCHW: Tensor, architecture: Architecture, how: Pass) -> Outputs:
        """The class scores of one architecture."""


class ImageChild(nn.Module, ABC):
    """The network of one architecture, with weights of its own."""

    architecture: Architecture

    @property
    def auxiliary(self) -> nn.Module | None:
        """The classifier that serves the training alone, if there is one; counts of parameters leave it out."""
        return None

    @abstractmethod
    def outputs(self, images_BCHW: Tensor, how: Pass) -> Outputs:
        """The class scores, with those of the auxiliary head in training."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores [B, K] of normalised images: what an ordinary module returns."""
        how = Pass("batch" if self.training else "moving")
        return self.outputs(images_BCHW, how).logits_BK
