"""A run as one complete, typed value: every setting, and how to build what the stages work with.

A recipe (`enas.recipes`) is a function that returns one of these. The stages know only `RunConfig`.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
)

import torch
from pydantic import PlainValidator
from torch import nn
from tyro.conf import Fixed, Suppress

from enas.architecture import Architecture, Space
from enas.child_training import ChildTraining
from enas.constraints import Seed, Settings, Threads
from enas.controllers import ControllerConfig, IndependentConfig
from enas.costs.latency import LatencyConfig
from enas.costs.settings import CostConfig, LimitConfig
from enas.derive import DeriveConfig
from enas.errors import ConfigError, SettingError, shown
from enas.executors import ExecutorName
from enas.phases import SearchConfig
from enas.recipes.origin import Origin
from enas.registry import Registry
from enas.retrain import Network, RetrainConfig, score_in
from enas.runtime.device_memory import refusals_explained
from enas.runtime.devices import Precision, pick_device, set_arithmetic, set_threads
from enas.runtime.records import WrongRecord, validated
from enas.shared_weights import SharedWeights
from enas.verification import VerifyConfig

if TYPE_CHECKING:
    from enas.runs.models import Model


class Metric(NamedTuple):
    """What networks are compared by: the keys of a result are `valid_NAME` and, of its test, `test_NAME`."""

    name: str
    lower_is_better: bool
    of_task: bool = False
    """Whether it is the score of a user's task, which then decides alone, and not the loss."""

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`."""
        return a < b if self.lower_is_better else a > b

    @property
    def score_name(self) -> str:
        """What `score` is, for people."""
        if self.of_task:
            return f"-{self.name}" if self.lower_is_better else self.name
        return "-loss, nats a token" if self.lower_is_better else f"{self.name}, %"

    def score(self, result: Mapping[str, Any]) -> float:
        """The validation score of a training's result, as `SharedWeights.scores` has it; -infinity if it diverged."""
        if "diverged" in result:
            return -math.inf
        if self.of_task:
            value = score_in(result, f"valid_{self.name}")
            return -value if self.lower_is_better else value
        if self.lower_is_better:
            return -score_in(result, "valid_loss")
        return score_in(result, f"valid_{self.name}")

    def shortlisted_by(self, result: Mapping[str, Any]) -> float:
        """What one of a shortlist is picked by, lower is better: its validation loss; infinity if it diverged."""
        if "diverged" in result:
            return math.inf
        return -self.score(result) if self.of_task else score_in(result, "valid_loss")


class Data(Protocol):
    """The data of a run; `str` describes them."""

    @property
    def hash(self) -> str:
        """Hexadecimal, the same for the same data."""


class Hardware(TypedDict):
    """Where a task computes, and in which precision."""

    device: torch.device
    dtype: torch.dtype


CONTROLLER_KINDS: Registry[type[ControllerConfig]] = Registry(
    "controller",
    "enas.controllers",
    {
        "uniform": "enas.controllers:UniformConfig",
        "evolution": "enas.controllers:EvolutionConfig",
        "independent": "enas.controllers:IndependentConfig",
        "lstm": "enas.controllers:LSTMConfig",
    },
    ControllerConfig,
    "kind",
)
"""The settings of controllers, by their `kind`."""


def controller_of(values: object) -> ControllerConfig:
    """The settings of a controller, or what config.json has of them. Raises `SettingError` saying what is wrong."""
    if isinstance(values, ControllerConfig):
        return values
    if not isinstance(values, Mapping):
        raise SettingError(f"must be an object, not {shown(values)}")
    if "kind" not in values:
        raise SettingError("kind is missing")
    kind = values["kind"]
    found = CONTROLLER_KINDS.find(kind) if isinstance(kind, str) else None
    if found is None:
        known = ", ".join(map(repr, CONTROLLER_KINDS.names))
        raise SettingError(f"kind must be one of {known}, not {shown(kind)}")
    try:
        return validated(found, values, closed=True)
    except WrongRecord as error:
        raise SettingError(str(error)) from error


AnyController = Annotated[ControllerConfig, PlainValidator(controller_of)]
"""The settings of a controller of any kind, also of one that another package or the user's file adds."""


def given(value: object) -> object:
    """What only a recipe can give, and so nothing that JSON has."""
    if isinstance(value, str | int | float | list | dict):
        raise ValueError("it is no setting, only a recipe gives it")
    return value


T = TypeVar("T")
Given = Annotated[T, Fixed, Suppress, PlainValidator(given)]
"""A field of a config that is no setting: no flag, not in config.json. The recipe gives it anew when a run is opened."""
TakesMemory = Literal["search", "training"]
"""What of a run takes memory by settings of its own."""
NO_SETTING = {"setting": False}
"""The metadata of such a field."""

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class RunConfig(Settings, ABC):
    """What every run has, whatever its space and task."""

    kind: ClassVar[str]
    """The name of this kind of run in config.json, and of its entry point in the group `enas.runs`."""
    describable: ClassVar[bool] = True
    """Whether model.json can say how to build a network again; not if only the user's own code can."""
    on_own_data: ClassVar[str] = ""
    """A command that runs the quick recipe on data of one's own, and what those are, as a comment."""
    of_size: ClassVar[Mapping[TakesMemory, tuple[str, ...]]] = {}
    """The settings that memory depends on most, of the shared weights and of a training."""
    schedule_follows_length: ClassVar[bool] = False
    """Whether the recipe's learning rate depends on its number of epochs."""
    same_shapes: ClassVar[bool] = False
    """Whether all minibatches of training images have one shape, so that it is worth trying algorithms of convolutions."""
    measured: ClassVar[tuple[str, ...]] = ()
    """The settings that `settled` finds where they are None."""
    paper: ClassVar[Mapping[str, str]] = {}
    """What the paper states of variants of the recipe, by the names that `enas ablate` gives them."""

    seed: Seed = 0
    """Every random number of the run follows from it."""
    device: str = "auto"
    """`auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, …, `mps`."""
    threads: Threads | None = None
    """Threads of the CPU that are used; None leaves the choice to PyTorch."""
    precision: Precision = "fp32"
    """Type of the operands of convolutions and large matrix products: `fp32`; `tf32`, to which newer NVIDIA GPUs round them;
    or `bf16`. Weights, states and sums stay fp32."""
    allow_slow: bool = False
    """Take bf16 also where the processor would emulate it, many times slower than fp32."""
    deterministic: bool = False
    """Have a GPU compute the same every time, bit for bit, more slowly; an operation that cannot is refused. A CPU always
    does."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard (needs `pip install enas[tensorboard]`)."""
    executor: ExecutorName = "local"
    """Where trainings run that are done side by side: in processes of this machine (local), on a Ray cluster (needs
    `pip install enas[ray]`) or on a Slurm cluster (`pip install enas[slurm]`), whose machines all see the run folder."""
    ray_address: str = "auto"
    """HOST:PORT of the Ray cluster; `auto` is the one in the variable RAY_ADDRESS, or that this machine belongs to."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """Length and rhythm of the search."""
    controller: AnyController = field(default_factory=IndependentConfig)
    """What proposes architectures, and how it learns."""
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    """Which architectures are trained alone during the search, and how that corrects its rewards."""
    derive: DeriveConfig = field(default_factory=DeriveConfig)
    """How an architecture is picked at the end of the search."""
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    """How the found architecture, and what it is compared with, are trained from scratch."""
    cost: CostConfig = field(default_factory=CostConfig)
    """What the found network shall cost."""
    limit: LimitConfig = field(default_factory=LimitConfig)
    """What no network may cost more than."""
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    """How latencies are measured, where the cost or a limit is one."""
    origin: Given[Origin | None] = field(
        default=None, compare=False, repr=False, kw_only=True, metadata=NO_SETTING
    )
    """Where the recipe is; None for those of this package."""

    def __post_init__(self) -> None:
        super().__post_init__()
        asked, kept = self.derive.checkpoints, self.search.keep_checkpoints
        if asked > kept:
            raise ConfigError(
                f"derive.checkpoints = {asked} needs as many kept: raise search.keep_checkpoints, which is {kept}"
            )
        if asked > 1 and self.search.checkpoint_every is None:
            raise ConfigError(
                f"derive.checkpoints = {asked} reads checkpoints by steps: set search.checkpoint_every, such as 200"
            )

    def told(self) -> contextlib.AbstractContextManager[None]:
        """Inside, an error of the user's code is said in a line, if that is in a file."""
        return contextlib.nullcontext() if self.origin is None else self.origin.told()

    def told_later(self, run: Path) -> contextlib.AbstractContextManager[None]:
        """Inside, in the middle of a run in this folder, such an error is a `UserCodeError`."""
        return contextlib.nullcontext() if self.origin is None else self.origin.told_later(run)

    # ---- the task of a run, and its networks ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """What networks are compared by."""

    @abstractmethod
    def load(self) -> Data:
        """The data, loaded once by this config."""

    @abstractmethod
    def searched_space(self) -> Space:
        """What may be chosen."""

    @abstractmethod
    def shared_weights(self) -> SharedWeights:
        """The supernet with its task, untrained."""

    @abstractmethod
    def model(self, network: Network) -> nn.Module:
        """A network of its own, untrained."""

    @abstractmethod
    def child_training(self, network: Network, epochs: int | None = None) -> ChildTraining:
        """A network's training from scratch, at its start. `epochs` shortens it, and keeps the validation data out of what
        is trained on."""

    def tried(self) -> None:
        """Compute once what code of the user's computes. Raises an `EnasError` for whatever a run could only fail with."""

    def settled(self) -> Self:
        """These settings with those that are found by measuring, once, before a run begins."""
        return self

    def described(self, training: ChildTraining) -> Model:
        """The network of a training, as model.json has it: how to build it again without the data.

        Raises `ConfigError` if it is not `describable`.
        """
        raise ConfigError("only the code that made this network can build it again")

    def example(self, model: nn.Module) -> tuple[torch.Tensor, ...]:
        """What a trained network gets of a batch of the data, as its `forward` takes it; the batch is the first axis.

        Raises `ConfigError` if that is not tensors alone, and for what is `describable`, which needs no data.
        """
        raise ConfigError("this network is described without its data")

    def costs(self, architecture: Architecture) -> Sequence[float]:
        """What a network of an architecture costs, of which its score may depend; by default nothing that differs."""
        return ()

    @property
    def has_test(self) -> bool:
        """Whether there are test data."""
        return True

    def check_test(self) -> None:
        """Raise `ConfigError` if there are no test data."""
        if not self.has_test:
            raise ConfigError(
                "networks are compared by their scores on test data: give the task a third split"
            )

    def references(self) -> list[Network]:
        """Networks of another kind than the space's that the found architecture is compared with: none by default."""
        return []

    @property
    def child_epochs(self) -> int:
        """The length of a training from scratch."""
        own: Any = self.retrain
        epochs: int = own.child.epochs
        return epochs

    @property
    def short_follows_whole(self) -> bool:
        """Whether what a training comes to that is shorter than the recipe's depends on the recipe's length."""
        return self.schedule_follows_length or self.retrain.short_schedule == "squeezed"

    def with_epochs(self, search: int, child: int) -> Self:
        """These settings with a search and trainings from scratch of other lengths, and schedules that stretch with them."""
        settings: Any = self  # of every task, `shared` and `retrain.child` have a recipe of training
        shared, own = settings.shared, settings.retrain.child
        of_shared = shared.training.stretched(search / self.search.epochs)
        of_child = own.training.stretched(child / own.epochs)
        changed: Self = replace(
            settings,
            search=replace(self.search, epochs=search),
            shared=replace(shared, training=of_shared),
            retrain=replace(settings.retrain, child=replace(own, epochs=child, training=of_child)),
        )
        return changed

    def alone(self) -> Self:
        """These settings without networks that the found one is compared with."""
        return replace(self, retrain=replace(self.retrain, random=0))

    def child_settings(self) -> dict[str, Any]:
        """What the network around an architecture is like when it is trained alone, as plain values; by default all
        settings, as any of them may matter."""
        return asdict(self)

    def epochs_with_validation(self) -> int | None:
        """The length of a training that keeps the validation data out; None if the recipe's does so by itself."""
        return None

    def as_large(self, architecture: Architecture, reference: Architecture) -> Self:
        """These settings with the width at which `architecture` has as nearly as possible the parameters of `reference`.

        Raises `ConfigError` if networks of this kind have no width to choose.
        """
        raise ConfigError(f"{type(self).__name__} has no width that could make two networks alike")

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of `precision`."""
        return DTYPES[self.precision]

    @property
    def hardware(self) -> Hardware:
        """Where a task computes, and in which precision."""
        return {"device": pick_device(self.device), "dtype": self.dtype}

    def refusals_explained(self, work: TakesMemory) -> contextlib.AbstractContextManager[None]:
        """Inside, what the device refuses is said in one line. Raises `ConfigError`, which names what takes less memory."""
        return refusals_explained(self.hardware["device"], self.smaller(work))

    def smaller(self, work: TakesMemory) -> str:
        """What to lower where memory does not suffice: settings, with their values, or else what they stand for."""
        named = [f"{name} ({attrgetter(name)(self)})" for name in self.of_size.get(work, ())]
        return " or ".join(named) or "the size of the minibatches or the width of the network"

    def set_arithmetic(self) -> None:
        """Let this process compute as precisely, and as repeatably, as the settings say."""
        set_arithmetic(
            pick_device(self.device),
            self.precision,
            deterministic=self.deterministic,
            same_shapes=self.same_shapes,
        )

    def set_process(self) -> None:
        """The same, with as many threads as they say."""
        set_threads(self.threads)
        self.set_arithmetic()
