"""What the supernet and the children of a convolutional space have in common: images in, class scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from enas.architecture import Architecture, Space


class Outputs(NamedTuple):
    """Class scores [B, K] before the softmax; those of the auxiliary head are there in training, if it has one."""

    logits_BK: Tensor
    auxiliary_BK: Tensor | None = None


class ImageSupernet(nn.Module, ABC):
    """The shared weights of a convolutional space; each call computes one architecture with its part of them."""

    space: Space

    @abstractmethod
    def forward(self, images_BCHW: Tensor, architecture: Architecture) -> Outputs:
        """The class scores of one architecture."""


class ImageChild(nn.Module, ABC):
    """The network of one architecture, with weights of its own."""

    architecture: Architecture
    progress: float = 1.0
    """The share of the training steps that are done, which sets the rate of drop-path."""

    @property
    def auxiliary(self) -> nn.Module | None:
        """The classifier that serves the training alone, if there is one; counts of parameters leave it out."""
        return None

    @abstractmethod
    def outputs(self, images_BCHW: Tensor) -> Outputs:
        """The class scores, with those of the auxiliary head in training."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores [B, K] of normalised images: what an ordinary module returns."""
        return self.outputs(images_BCHW).logits_BK
