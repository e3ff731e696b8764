"""Searching a network of the user's own, with choices in it, for a task of their own."""

from __future__ import annotations

import copy
import inspect
import random
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from enas.architecture import Architecture, Space
from enas.child_training import ChildTraining
from enas.choices import space_of
from enas.config import NO_SETTING, AnyController, Given, Metric, RunConfig
from enas.costs import parameter_count
from enas.data.batches import TrainingBatches, examples_in, moved
from enas.data.fingerprint import BatchData
from enas.errors import ConfigError, shown
from enas.norms import NormStatistics
from enas.recipes.common import PATIENT
from enas.retrain import Network
from enas.runs.layout import channels_last_pays
from enas.runs.network_settings import (
    NetworkDeriveConfig,
    NetworkRetrainConfig,
    NetworkSearchConfig,
    NetworkSharedConfig,
    NetworkVerifyConfig,
)
from enas.runtime.progress import say
from enas.runtime.seeding import derive_seed, global_seed
from enas.runtime.whose import hands_over
from enas.searchable import Searchable, WithChoices, searchable
from enas.shared_weights import SharedWeights
from enas.tasks.batches import BatchTask
from enas.tasks.own import Task, inputs_of
from enas.tasks.training_settings import Training

Net = nn.Module | Callable[[], nn.Module]
"""A network with choices, or by the contract of `enas.searchable`; or what builds one, such as its class."""
OfTask = Task | Callable[[], Task]
"""A task, or what makes one."""


@dataclass(frozen=True)
class NetworkConfig(RunConfig):
    """Searching a network of one's own.

        def recipe() -> NetworkConfig:
            return NetworkConfig(network=Net, task=task)

    A `network` that is built by a function starts from weights that follow from the seed; one that is given as a module
    starts every search from the weights that it has. A child's weights are drawn anew, but for frozen ones.

    The settings in it, such as `NetworkSearchConfig(epochs=20)` for `search`, have defaults for networks of one's own.
    """

    kind: ClassVar[str] = "network"
    describable: ClassVar[bool] = False
    measured: ClassVar[tuple[str, ...]] = ("channels_last",)
    schedule_follows_length: ClassVar[bool] = True

    network: Given[Net | None] = field(
        default=None, compare=False, repr=False, kw_only=True, metadata=NO_SETTING
    )
    """What is searched. No setting: a run folder does not hold it."""
    task: Given[OfTask | None] = field(
        default=None, compare=False, repr=False, kw_only=True, metadata=NO_SETTING
    )
    """What it is trained for. No setting either."""
    search: NetworkSearchConfig = field(default_factory=NetworkSearchConfig)
    """Length and rhythm of the search."""
    controller: AnyController = PATIENT
    """What proposes architectures, and how it learns."""
    verify: NetworkVerifyConfig = field(default_factory=NetworkVerifyConfig)
    """Which architectures are trained alone during the search, and how that corrects its rewards."""
    derive: NetworkDeriveConfig = field(default_factory=NetworkDeriveConfig)
    """How an architecture is picked at the end of the search."""
    retrain: NetworkRetrainConfig = field(default_factory=NetworkRetrainConfig)
    """How the found network, and what it is compared with, are trained from scratch."""
    shared: NetworkSharedConfig = field(default_factory=NetworkSharedConfig)
    """The shared weights and the reward."""
    channels_last: bool | None = None
    """Whether images and filters lie in memory with their channels together, with which convolutions are often faster. None
    tries it when a run begins, and config.json then says what was found."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task is not None:  # which is not there yet where settings are read from a file
            training, retrain = self.own_task.training, self.retrain
            if self.shared.training is None:
                object.__setattr__(self, "shared", replace(self.shared, training=training))
            if retrain.child.training is None:
                child = replace(retrain.child, training=training)
                object.__setattr__(self, "retrain", replace(retrain, child=child))

    @property
    def metric(self) -> Metric:
        return Metric("score", not self.own_task.higher_is_better, of_task=True)

    @property
    def has_test(self) -> bool:
        return self.own_task.test is not None

    @property
    def own_task(self) -> Task:
        """The task, made once by its function. Raises `ConfigError` if there is none."""
        if self.task is None:
            raise ConfigError("a run of a network needs its task: NetworkConfig(network=..., task=...)")
        return self.task if isinstance(self.task, Task) else task_of(self.task)

    @hands_over
    def supernet(self) -> nn.Module:
        """The network, by the contract of `enas.searchable`: a new one, or a copy of the one that was given. Raises
        `ConfigError` if there is none."""
        if self.network is None:
            raise ConfigError("a run of a network needs the network: NetworkConfig(network=..., task=...)")
        if isinstance(self.network, nn.Module):
            return searchable(copy.deepcopy(self.network))
        with self.told():
            made = self.network()
        return searchable(made)

    # ---- the task of a run, and its networks ---------------------------------------------------------------------------

    @cached_property
    def batches(self) -> BatchData:
        """The data, looked at once."""
        task = self.own_task
        steps = TrainingBatches(task.training_source, task.steps, self.seed).steps
        return BatchData(task.training_source, steps, task.valid_batches)

    def load(self) -> BatchData:
        with self.told():
            return self.batches

    @cached_property
    def untrained(self) -> Searchable:
        """A network to read things off, made once: what may be chosen, and how large children are."""
        return cast(Searchable, self.supernet())

    @property
    def space(self) -> Space:
        """What may be chosen."""
        return self.untrained.space

    def searched_space(self) -> Space:
        return self.space

    def shared_weights(self) -> SharedWeights:
        shared, reward = self.shared, self.shared.reward
        with global_seed(derive_seed(self.seed, "shared weights")):
            supernet = self.supernet()
        task = self.trained_for(
            shared.training, self.search.epochs, self.seed, reward.statistics, reward.recalibration_batches
        )
        return SharedWeights(supernet, cast(Searchable, supernet).space, task, shared.average)

    def model(self, network: Network) -> nn.Module:
        if network.architecture is None:
            raise ConfigError(f"{network} is no network of the run: it has no architecture")
        with global_seed(derive_seed(network.seed, "child weights")):
            return cast(Searchable, self.supernet()).child(network.architecture)

    def child_training(self, network: Network, epochs: int | None = None) -> ChildTraining:
        child, short = self.retrain.child, epochs is not None and self.retrain.short_schedule == "squeezed"
        length = child.epochs if epochs is None else epochs
        training = child.training or self.own_task.training
        training = self.retrain.scheduled(training, epochs, child.epochs)
        scheduled = length if short else max(length, child.epochs)
        task = self.trained_for(
            training, scheduled, network.seed, child.statistics, child.recalibration_batches
        )
        return ChildTraining(self.model(network), task, length)

    def trained_for(
        self,
        training: Training | None,
        epochs: int,
        seed: int,
        statistics: NormStatistics,
        recalibration: int,
    ) -> BatchTask:
        """The task, for networks that are trained by this recipe with a schedule of so many epochs."""
        return BatchTask(
            self.own_task,
            training=training,
            epochs=epochs,
            seed=seed,
            statistics=statistics,
            recalibration_batches=recalibration,
            channels_last=bool(self.channels_last),
            **self.hardware,
        )

    def settled(self) -> Self:
        if self.channels_last is not None:
            return self
        with self.told():
            pays = channels_last_pays(
                lambda channels_last: replace(self, channels_last=channels_last).shared_weights()
            )
        return replace(self, channels_last=pays)

    def tried(self) -> None:
        """One step of the shared weights, one reward, one step of a child; and all options of each choice. What the user's
        code makes of a batch that cannot be trained or compared is an `EnasError`; a choice that is never called is said."""
        with self.told():
            weights = self.shared_weights()
            if weights.space.count() == 1:
                raise ConfigError(
                    "there is only one architecture in this network, so nothing to search: a Choice needs two options"
                )
            sampled = weights.space.sample(random.Random(0))
            batch = weights.task.minibatch(0, 0)
            supernet = weights.trainer.model
            if isinstance(supernet, WithChoices):
                positional, named = inputs_of(batch.batch, self.own_task.target)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    space_of(supernet.network, named or positional)
                for warning in caught:
                    say(str(warning.message))
            weights.trainer.add_gradients(batch, 0, 0, [sampled])
            weights.rewards([sampled], "estimate", 0)
            training = self.child_training(Network("found", sampled, self.seed))
            training.trainer.add_gradients(training.task.minibatch(0, 0), 0, 0)

    def example(self, model: nn.Module) -> tuple[Tensor, ...]:
        """Of the first validation batch."""
        batch = moved(self.own_task.valid_batches.kept()[0], torch.device("cpu"))
        positional, named = inputs_of(batch, self.own_task.target)
        given = [*positional, *named.values()]
        if not all(isinstance(x, Tensor) and x.ndim and len(x) == examples_in(batch) for x in given):
            kinds = ", ".join(
                f"{type(x).__name__} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                for x in given
            )
            raise ConfigError(
                f"only networks whose inputs are tensors, with the batch as their first axis, are exported; those of this "
                f"run get {kinds}"
            )
        bound = inspect.signature(model.forward).bind(*positional, **named)
        if bound.kwargs:
            raise ConfigError(
                f"forward gets {', '.join(bound.kwargs)} by name, and what is exported gets its inputs in a row: put these "
                "parameters of forward first"
            )
        return bound.args

    # ---- what networks cost, and are like ------------------------------------------------------------------------------

    def costs(self, architecture: Architecture) -> tuple[float, ...]:
        """Its parameters."""
        with global_seed(self.seed):  # a child's weights are drawn
            child = self.untrained.child(architecture)
        return (float(parameter_count(child)),)

    def child_settings(self) -> dict[str, Any]:
        return asdict(self.retrain.child)


_made: dict[object, tuple[Callable[[], Task], Task]] = {}
"""Functions that make tasks, and what each has made: by the function, or by its number where it has no hash."""


@hands_over
def task_of(function: Callable[[], Task]) -> Task:
    """The task that a function makes, once in this process. Raises `ConfigError` if it is none."""
    key: object = function if getattr(function, "__hash__", None) else id(function)
    if key not in _made:
        made: object = function()
        if not isinstance(made, Task):
            raise ConfigError(f"{shown(function)} returned {shown(made)}, which is no enas.Task")
        _made[key] = function, made
    return _made[key][1]
