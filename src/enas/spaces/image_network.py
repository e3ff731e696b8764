"""What the supernet and the children of a convolutional space have in common: images in, class scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from enas.architecture import Architecture, Space
from enas.constraints import Settings
from enas.errors import ConfigError


class Outputs(NamedTuple):
    """Class scores [B, K] before the softmax, and in training those of the auxiliary head, if the network has one."""

    logits_BK: Tensor
    auxiliary_BK: Tensor | None = None


class ImageModel(nn.Module, ABC):
    """What both hold."""

    config: Settings
    network: nn.Module
    progress: float = 1.0
    """The share of the training steps that are done, which sets the rate of drop-path."""


class ImageSupernet(ImageModel):
    """The shared weights ω of a convolutional space; each call computes one architecture with its part of them.

    Each weight is a parameter of its own, so that those off the sampled path get no gradient and no optimiser work.
    """

    space: Space

    @abstractmethod
    def forward(self, images_BCHW: Tensor, architecture: Architecture) -> Outputs:
        """The class scores of one architecture."""


class ImageChild(ImageModel):
    """The network of one architecture, with weights of its own."""

    architecture: Architecture
    of_training: ClassVar[frozenset[str]] = frozenset({"dropout"})
    """Settings of `config` that do not change the network that is evaluated."""

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

    @torch.no_grad()
    def load_slice(self, supernet: ImageSupernet) -> None:
        """Copy the weights and moving statistics that the supernet holds for this architecture.

        Raises `ConfigError` if the two do not run the same graph.
        """
        pairs: dict[str, tuple[object, object]] = {
            "space": (self.architecture.space, supernet.space),
            "image shape": (self.network.shape, supernet.network.shape),
        }
        for name, value in vars(self.config).items():
            if name not in self.of_training:
                pairs[name] = value, getattr(supernet.config, name)
        for name, (own, shared) in pairs.items():
            if own != shared:
                raise ConfigError(f"the child's {name} is {own}, the supernet's is {shared}; they must agree")
        weights = supernet.state_dict()
        self.load_state_dict({name: weights[name] for name in self.state_dict()})
