"""Searching a network that classifies images: the settings of both convolutional spaces, and the models on a data set."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from enas.architecture import Architecture, Space
from enas.config import Metric, RunConfig, Workshop
from enas.data.image_sources import ImageConfig, load_images
from enas.data.images import ImageData, ImageShape
from enas.errors import ConfigError
from enas.retrain import Network, RetrainConfig, load_weights
from enas.runtime.devices import pick_device
from enas.runtime.seeding import generator
from enas.spaces.image_network import ImageChild, ImageSupernet
from enas.spaces.macro.net import MacroChild, MacroNetConfig, MacroSupernet
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.net import MicroChild, MicroNetConfig, MicroSupernet
from enas.spaces.micro.space import MicroSpace
from enas.tasks.image_child import ImageChildConfig, ImageChildTraining, score_on_test
from enas.tasks.images import ImageSearchTask, ImageSharedConfig


@dataclass(frozen=True)
class ImageRetrainConfig(RetrainConfig):
    """How the found network is trained from scratch, and what is trained beside it."""

    child: ImageChildConfig = field(default_factory=ImageChildConfig)
    """The recipe, the same for every network."""


@dataclass(frozen=True)
class ImageRunConfig(RunConfig):
    """What searches of both convolutional spaces have (paper §2.3, §2.4 and §3.2)."""

    metric: ClassVar[Metric] = Metric("accuracy", lower_is_better=False)

    retrain: ImageRetrainConfig = field(default_factory=ImageRetrainConfig)
    """How the found network, and what it is compared with, are trained from scratch."""
    data: ImageConfig = field(default_factory=ImageConfig)
    """The images."""
    shared: ImageSharedConfig = field(default_factory=ImageSharedConfig)
    """The shared weights and the reward."""

    @abstractmethod
    def supernet(self, shape: ImageShape, draw: torch.Generator) -> ImageSupernet:
        """The untrained shared weights, drawn from `draw`."""

    @abstractmethod
    def child(self, architecture: Architecture, shape: ImageShape, draw: torch.Generator) -> ImageChild:
        """The untrained network of an architecture, drawn from `draw`."""

    def load(self) -> ImageWorkshop:
        return ImageWorkshop(self)


@dataclass(frozen=True)
class MacroConfig(ImageRunConfig):
    """Searching a whole network, layer by layer (paper §2.3)."""

    on_own_data: ClassVar[str] = (
        "enas run macro-quick --data.source FOLDER   # class folders of pictures of your own"
    )

    space: MacroSpace = field(default_factory=MacroSpace)
    """The networks that may be chosen."""
    network: MacroNetConfig = field(default_factory=MacroNetConfig)
    """How the layers compute in the search."""
    child_network: MacroNetConfig = field(default_factory=MacroNetConfig)
    """How they do in a network that is trained from scratch."""

    def searched_space(self) -> Space:
        return self.space

    def supernet(self, shape: ImageShape, draw: torch.Generator) -> ImageSupernet:
        return MacroSupernet(self.space, self.network, shape, draw)

    def child(self, architecture: Architecture, shape: ImageShape, draw: torch.Generator) -> ImageChild:
        return MacroChild(architecture, self.child_network, shape, draw)


@dataclass(frozen=True)
class MicroConfig(ImageRunConfig):
    """Searching a normal and a reduction cell, of which a network is stacked (paper §2.4)."""

    on_own_data: ClassVar[str] = (
        "enas run micro-quick --data.source FOLDER   # class folders of pictures of your own"
    )

    space: MicroSpace = field(default_factory=MicroSpace)
    """The pairs of cells that may be chosen."""
    network: MicroNetConfig = field(default_factory=MicroNetConfig)
    """The network around the cells in the search."""
    child_network: MicroNetConfig = field(default_factory=MicroNetConfig)
    """The one that is trained from scratch: usually deeper and wider."""

    def searched_space(self) -> Space:
        return self.space

    def supernet(self, shape: ImageShape, draw: torch.Generator) -> ImageSupernet:
        return MicroSupernet(self.space, self.network, shape, draw)

    def child(self, architecture: Architecture, shape: ImageShape, draw: torch.Generator) -> ImageChild:
        return MicroChild(architecture, self.child_network, shape, draw)


class ImageWorkshop(Workshop):
    """The images of a run, and its models."""

    def __init__(self, config: ImageRunConfig) -> None:
        self.config = config
        self.data: ImageData = load_images(config.data)
        self.data_hash = self.data.hash
        self.description = str(self.data)

    @cached_property
    def device(self) -> torch.device:
        """The device that everything is on."""
        return pick_device(self.config.device)

    def search_task(self) -> ImageSearchTask:
        config = self.config
        return ImageSearchTask(
            config.supernet(self.data.shape, generator(config.seed, "shared weights")),
            self.data,
            config.shared,
            seed=config.seed,
            device=self.device,
            dtype=config.dtype,
        )

    def model(self, network: Network) -> ImageChild:
        """The untrained model of a network."""
        if network.architecture is None:
            raise ConfigError(f"{network} is not a network for images: it has no architecture")
        return self.config.child(
            network.architecture, self.data.shape, generator(network.seed, "child weights")
        )

    def child_training(self, network: Network, epochs: int | None = None) -> ImageChildTraining:
        config = self.config.retrain.child
        if epochs is not None:  # a short training is there to choose by: the validation images must stay out
            config = replace(config, epochs=epochs, train_on="train")
        return ImageChildTraining(
            self.model(network),
            self.data,
            config,
            epochs=config.epochs,
            seed=network.seed,
            device=self.device,
            dtype=self.config.dtype,
        )

    def trained(self, network: Network, weights: Path) -> ImageChild:
        model = self.model(network)
        load_weights(model, weights)
        return model.eval()

    def test(self, network: Network, weights: Path) -> dict[str, float]:
        model = self.trained(network, weights)
        return score_on_test(model, self.data, self.config.retrain.child, self.device, self.config.dtype)
