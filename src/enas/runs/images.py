"""Searching a network that classifies images: the settings of both convolutional spaces, and what is built of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self, cast

import torch

from enas.architecture import Architecture, Space
from enas.child_training import ChildTraining
from enas.config import Metric, RunConfig, TakesMemory
from enas.costs import parameter_count
from enas.data.images import ImageConfig, ImageData, ImageShape
from enas.data.sources import load_images
from enas.errors import ConfigError
from enas.proxies import flow, ones, passes_freely
from enas.retrain import Network, RetrainConfig
from enas.runs.layout import channels_last_pays
from enas.runs.models import MacroModel, MicroModel, Model, NASBench201Model, in_utf8
from enas.runtime.seeding import generator
from enas.shared_weights import SharedWeights
from enas.spaces.image_network import ImageChild, ImageSupernet
from enas.spaces.macro.net import MacroNetConfig, MacroSupernet
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.net import MicroNetConfig, MicroSupernet
from enas.spaces.micro.space import MicroSpace
from enas.spaces.nasbench201.net import NASBench201NetConfig, NASBench201Supernet
from enas.spaces.nasbench201.space import NASBench201Space
from enas.tasks.image_settings import ImageChildConfig, ImageSharedConfig
from enas.tasks.images import ImageTask

NARROW = 16
"""Filters at most of the networks whose costs are features of a verification's model."""


@dataclass(frozen=True)
class ImageRetrainConfig(RetrainConfig):
    """How the found network is trained from scratch, and what is trained beside it."""

    child: ImageChildConfig = field(default_factory=ImageChildConfig)
    """The recipe, the same for every network."""


@dataclass(frozen=True)
class ImageRunConfig(RunConfig):
    """What searches of both convolutional spaces have (paper §2.3, §2.4 and §3.2)."""

    metric: ClassVar[Metric] = Metric("accuracy", lower_is_better=False)
    of_size: ClassVar[Mapping[TakesMemory, tuple[str, ...]]] = {
        "search": ("shared.training.batch", "shared.reward.batch", "network.filters"),
        "training": ("retrain.child.training.batch", "child_network.filters"),
    }
    same_shapes: ClassVar[bool] = True
    measured: ClassVar[tuple[str, ...]] = ("channels_last",)
    model_kind: ClassVar[type[MacroModel | MicroModel | NASBench201Model]]
    """What model.json says of a trained network."""
    supernet_class: ClassVar[type[MacroSupernet | MicroSupernet | NASBench201Supernet]]
    """The shared weights."""

    retrain: ImageRetrainConfig = field(default_factory=ImageRetrainConfig)
    """How the found network, and what it is compared with, are trained from scratch."""
    data: ImageConfig = field(default_factory=ImageConfig)
    """The images."""
    shared: ImageSharedConfig = field(default_factory=ImageSharedConfig)
    """The shared weights and the reward."""
    channels_last: bool | None = None
    """Whether images and filters lie in memory with their channels together, which GPUs are often faster with. None tries it
    when a run begins on a GPU, and config.json then says what was found; the kernels for CPUs want them apart."""

    def settled(self) -> Self:
        if self.channels_last is not None or self.hardware["device"].type == "cpu":
            return self
        pays = channels_last_pays(lambda together: replace(self, channels_last=together).shared_weights())
        return replace(self, channels_last=pays)

    @property
    def own(self) -> Any:
        """These settings, of which every space has some of classes of its own: `space`, `network`, `child_network`."""
        return self

    def searched_space(self) -> Space:
        space: Space = self.own.space
        return space

    def supernet(self, shape: ImageShape, draw: torch.Generator) -> ImageSupernet:
        """The untrained shared weights, drawn from `draw`."""
        return self.supernet_class(self.own.space, self.own.network, shape, draw)

    def child(self, architecture: Architecture, shape: ImageShape, draw: torch.Generator) -> ImageChild:
        """The untrained network of an architecture, drawn from `draw`."""
        return self.model_kind.child_class(architecture, self.own.child_network, shape, draw)

    @cached_property
    def images(self) -> ImageData:
        """The images, loaded once."""
        return load_images(self.data)

    def load(self) -> ImageData:
        return self.images

    def shared_weights(self) -> SharedWeights:
        shared = self.shared
        supernet = self.supernet(self.images.shape, generator(self.seed, "shared weights"))
        task = ImageTask(
            self.images,
            shared.training,
            shared.reward,
            epochs=self.search.epochs,
            seed=self.seed,
            channels_last=bool(self.channels_last),
            **self.hardware,
        )
        return SharedWeights(supernet, supernet.space, task, shared.average)

    def model(self, network: Network) -> ImageChild:
        if network.architecture is None:
            raise ConfigError(f"{network} is not a network for images: it has no architecture")
        return self.child(network.architecture, self.images.shape, generator(network.seed, "child weights"))

    def child_training(self, network: Network, epochs: int | None = None) -> ChildTraining:
        child = self.retrain.child
        length = child.epochs if epochs is None else epochs
        # A short training is there to choose by: the validation images must stay out.
        train_on = child.train_on if epochs is None else "train"
        task = ImageTask(
            self.images,
            self.retrain.scheduled(child.training, epochs, child.epochs),
            child.reading(),
            train_on=train_on,
            epochs=length,
            seed=network.seed,
            channels_last=bool(self.channels_last),
            **self.hardware,
        )
        return ChildTraining(self.model(network), task, length)

    def described(self, training: ChildTraining) -> Model:
        child, task = cast(ImageChild, training.model), cast(ImageTask, training.task)
        return self.model_kind(
            child.architecture.to_json(),
            self.images.shape,
            in_utf8(self.images.classes),
            task.train.normalisation,
            self.own.child_network,
        )

    @cached_property
    def narrow_paths(self) -> ImageSupernet:
        """Networks as deep as those that are trained from scratch, of few filters: what is asked of all that a policy
        proposes must be quick, and no network is built for it."""
        network = self.own.child_network
        narrow = replace(self.own, network=replace(network, filters=min(NARROW, network.filters)))
        found: ImageSupernet = narrow.supernet(self.images.shape, generator(self.seed, "costs"))
        passes_freely(found)
        return found

    def costs(self, architecture: Architecture) -> tuple[float, ...]:
        """Parameters, which grow with multiply-adds, and SynFlow, both of a narrow network."""
        shape = self.images.shape
        paths = self.narrow_paths
        inputs = ones((shape.channels, shape.height, shape.width))
        passed = flow(paths, paths(inputs, architecture).logits_BK)
        return float(passed.parameters), passed.through

    def child_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = asdict(self)["child_network"]
        return settings

    def epochs_with_validation(self) -> int | None:
        child = self.retrain.child
        return child.epochs if child.train_on == "all" else None

    def as_large(self, architecture: Architecture, reference: Architecture) -> Self:
        """Of widths up to the present one."""
        shape, network = self.images.shape, self.own.child_network

        def with_filters(filters: int) -> Any:
            return replace(self.own, child_network=replace(network, filters=filters))

        def size(filters: int) -> int:
            return parameters(with_filters(filters), architecture, shape)

        target = parameters(self, reference, shape)
        widths = range(2, network.filters + 1)
        reached = bisect_left(widths, target, key=size)
        near = widths[max(reached - 1, 0) : reached + 1]
        nearest = min(near, key=lambda filters: abs(size(filters) - target))
        return cast(Self, with_filters(nearest))


def parameters(config: ImageRunConfig, architecture: Architecture, shape: ImageShape) -> int:
    """Of a child, without its memory."""
    with torch.device("meta"):
        return parameter_count(config.child(architecture, shape, torch.Generator()))


@dataclass(frozen=True)
class MacroConfig(ImageRunConfig):
    """Searching a whole network, layer by layer (paper §2.3)."""

    kind: ClassVar[str] = "macro"
    model_kind = MacroModel
    supernet_class = MacroSupernet
    on_own_data: ClassVar[str] = (
        "enas run macro-quick --data.source FOLDER   # class folders of pictures of your own"
    )
    paper: ClassVar[Mapping[str, str]] = {
        "random": "5.86 % error, found 4.23 %",
        "frozen": "8.92 % error of one, 5.49 % together; found 4.23 %",
        "plain-convolutions": "1.7 points more error",
    }

    space: MacroSpace = field(default_factory=MacroSpace)
    """The networks that may be chosen."""
    network: MacroNetConfig = field(default_factory=MacroNetConfig)
    """How the layers compute in the search."""
    child_network: MacroNetConfig = field(default_factory=MacroNetConfig)
    """How they do in a network that is trained from scratch."""


@dataclass(frozen=True)
class MicroConfig(ImageRunConfig):
    """Searching a normal and a reduction cell, of which a network is stacked (paper §2.4)."""

    kind: ClassVar[str] = "micro"
    model_kind = MicroModel
    supernet_class = MicroSupernet
    on_own_data: ClassVar[str] = (
        "enas run micro-quick --data.source FOLDER   # class folders of pictures of your own"
    )
    paper: ClassVar[Mapping[str, str]] = {
        "random": "6.77 % error, found 3.54 %",
        "random-connections": "2.1 points more error",
    }

    space: MicroSpace = field(default_factory=MicroSpace)
    """The pairs of cells that may be chosen."""
    network: MicroNetConfig = field(default_factory=MicroNetConfig)
    """The network around the cells in the search."""
    child_network: MicroNetConfig = field(default_factory=MicroNetConfig)
    """The one that is trained from scratch: usually deeper and wider."""


@dataclass(frozen=True)
class NASBench201Config(ImageRunConfig):
    """Searching a cell of NAS-Bench-201, whose accuracies on CIFAR-10 are known for every cell."""

    kind: ClassVar[str] = "nasbench201"
    model_kind = NASBench201Model
    supernet_class = NASBench201Supernet
    on_own_data: ClassVar[str] = (
        "enas run nasbench201-quick --data.source FOLDER   # class folders of pictures of your own"
    )

    space: NASBench201Space = field(default_factory=NASBench201Space)
    """The cells that may be chosen."""
    network: NASBench201NetConfig = field(default_factory=NASBench201NetConfig)
    """The network around the cells in the search."""
    child_network: NASBench201NetConfig = field(default_factory=NASBench201NetConfig)
    """The one that is trained from scratch."""
