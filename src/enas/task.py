"""What a network is trained for: data, a loss, a score, and how fast it is trained.

A task knows no search and no retraining: `enas.trainer` takes one step of its training, with a path of shared weights
(`enas.shared_weights`) and with a network of its own (`enas.child_training`) alike. Language and images are in `enas.tasks`.
Whatever is random follows from the seed and the place (epoch, step), so that no generator is ever saved.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from enas.architecture import Architecture
from enas.data.batches import joined, mapped
from enas.errors import ConfigError
from enas.norms import Norms, NormStatistics, batch_statistics, kept_statistics, with_counters_on_the_cpu
from enas.runtime.devices import products_in
from enas.runtime.transfers import queues
from enas.runtime.whose import hands_over

Minibatch = Any
"""Whatever a task's loss and score are computed from."""
Split = Literal["valid", "test"]
Score = dict[str, float]
"""How good a network is on a split, by name: `loss` (nats), and the task's own metric."""


class Loss:
    """The loss of a network on a minibatch, with its graph."""

    def __init__(self, total: Tensor, logged: dict[str, Tensor]) -> None:
        self.total = total
        """What is descended, with every regulariser that is computed from the minibatch."""
        self.logged = logged
        """What is logged of it, without gradient; `loss`, the loss alone, is among it."""

    @hands_over
    def backward(self, share: float) -> None:
        """Add `share` times the gradient to the parameters."""
        (self.total * share).backward()


@dataclass(frozen=True)
class Example:
    """What a network of its own is called with in an evaluation: `model(*inputs, **named)`."""

    inputs: tuple[Any, ...]
    named: Mapping[str, Any]
    batch: int
    """Inputs side by side."""
    count: int
    """How many images, words or other examples there are in it: of each, costs are said."""


class BaseTask(ABC):
    """Data on a device, the loss of a network on a minibatch of them, and its score on a split.

    `architecture` is the path of shared weights that a network computes, None for a network of its own. State that goes from
    one minibatch to the next, as a recurrent network's, is the task's own business.
    """

    watched: ClassVar[str] = "loss"
    """The key of what a step logs that is shown beside the progress."""
    reported: ClassVar[tuple[str, ...]] = ("loss",)
    """Logged keys whose mean over an epoch is reported."""
    metric: ClassVar[str]
    """The key of the score that networks are compared by."""
    unit: ClassVar[str] = "example"
    """What costs are counted for one of."""
    clip: float | None
    """Bound on the global norm of the gradient."""
    l2: float = 0.0
    """Weight c of c·Σw² over the weights that a step uses; unlike the optimiser's weight decay it is clipped too."""

    def __init__(
        self, *, seed: int, device: torch.device, dtype: torch.dtype, statistics: NormStatistics = "moving"
    ) -> None:
        self.seed = seed
        self.device = device
        self.dtype = dtype
        """Of the operands of large products; weights and sums stay float32."""
        self.memory_format: torch.memory_format | None = None
        """How images and the filters of convolutions lie in memory; None leaves them as they are."""
        self.statistics: NormStatistics = statistics
        """What the batch norms of an evaluated network normalise by."""
        self.states: dict[int, Any] = {}
        """What each slot carries into the next minibatch, if anything: tensors with a row for each example."""

    # ---- training ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def steps(self, epoch: int) -> int:
        """How many minibatches the pass of this epoch has."""

    @abstractmethod
    def minibatch(self, epoch: int, step: int) -> Minibatch:
        """The training minibatch of a step."""

    @abstractmethod
    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of one group of parameters."""

    @property
    def fused(self) -> Literal[True] | None:
        """Whether an optimiser takes all parameters in one launch, which can leave a step out; None leaves it to torch."""
        return True if queues(self.device) else None

    @abstractmethod
    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch counted from 0."""

    def rate_factor(self, minibatch: Minibatch) -> float:
        """What the learning rate is multiplied by for this minibatch."""
        return 1.0

    @abstractmethod
    def loss(
        self, model: nn.Module, minibatch: Minibatch, architecture: Architecture | None, slot: int
    ) -> Loss:
        """The loss on a training minibatch. `slot` tells the architectures of one step apart, which have states of their
        own."""

    @abstractmethod
    def mask_place(self, epoch: int, step: int) -> tuple[int, ...]:
        """What the dropout masks of a network of its own are drawn by, different for every step."""

    def described(self, log: dict[str, float]) -> dict[str, float]:
        """What a step logs, with what follows from it."""
        return log

    def part(self, minibatch: Minibatch) -> Minibatch:
        """A small part of a minibatch, to compile kernels with."""
        return minibatch

    # ---- several processes ---------------------------------------------------------------------------------------------

    def shard(self, minibatch: Minibatch, part: int, parts: int) -> tuple[Minibatch, float]:
        """A part of a minibatch, counted from 0, and its share of the examples, which may be 0. The loss is to be a mean
        over examples. Raises `ConfigError` where minibatches cannot be parted."""
        raise ConfigError("the minibatches of this task cannot be parted: start one process, or no same_path")

    def carry(self, slot: int, parts: Sequence[Any]) -> None:
        """Let a slot carry what it does in the processes that computed it, each of which had a part of its examples."""
        self.states[slot] = mapped(lambda part: part.to(self.device), joined(parts))

    # ---- evaluation ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def evaluate(
        self, model: nn.Module, split: Split, architecture: Architecture | None = None
    ) -> Score | None:
        """The score on a whole split; None if there is no such split. To be called inside `evaluating`."""

    @abstractmethod
    def sort_key(self, score: Score) -> tuple[float, ...]:
        """What scores are compared by, higher is better; rankings show its first number."""

    @abstractmethod
    def reward_minibatch(self, purpose: str, draw: int) -> Minibatch:
        """A validation minibatch: which one follows from `purpose` and `draw`."""

    @abstractmethod
    def measure(self, model: nn.Module, minibatch: Minibatch, architecture: Architecture) -> Tensor:
        """What the reward of an architecture is computed from, a scalar."""

    @property
    def at_once(self) -> int:
        """How many architectures are measured together at most."""
        return 1

    def measure_each(
        self,
        ready: Callable[[Architecture], nn.Module],
        minibatch: Minibatch,
        architectures: Sequence[Architecture],
    ) -> list[Tensor]:
        """`measure` of each architecture; `ready` returns the network for one, until its next call."""
        return [self.measure(ready(one), minibatch, one) for one in architectures]

    @abstractmethod
    def rewards_from(self, measured_N: Tensor) -> Tensor:
        """The rewards [N] of what was measured; higher ones are better."""

    @abstractmethod
    def describe_reward(self, reward: float) -> dict[str, float]:
        """The reward in the task's own metric, for the log."""

    def calibrate(
        self, model: nn.Module, norms: Norms, architecture: Architecture | None, *purpose: str | int
    ) -> None:
        """Gather the norms' averages anew for this network; `purpose` says on which training minibatches. Raises
        `ConfigError` where that cannot be done."""
        raise ConfigError("there are no norms to recalibrate here")

    def class_probabilities(
        self, model: nn.Module, split: Split, architecture: Architecture, batch: int
    ) -> Tensor:
        """Probabilities [N, K] of the classes of a whole split, in float64. Raises `ConfigError` if there are no classes."""
        raise ConfigError("there are no classes here; ensembles are of classifiers")

    def inputs(self, minibatch: Minibatch) -> Tensor:
        """What a network of its own maps to class scores, `model(inputs)` [B, K]. Raises `ConfigError` if there are no
        classes."""
        raise ConfigError("it is for networks that map an input to class scores")

    def labels(self, split: Split) -> Tensor:
        """The classes [N] of a split. Raises `ConfigError` if there are none."""
        raise ConfigError("there are no classes here; ensembles are of classifiers")

    @contextlib.contextmanager
    def evaluating(
        self, model: nn.Module, norms: Norms, statistics: NormStatistics | None = None
    ) -> Iterator[None]:
        """Inside, the network drops nothing, its norms normalise by `statistics` (by default the task's), products have
        the run's precision, and there is no gradient. What `calibrate` gathers inside is forgotten afterwards."""
        set_mode(model, training=False)
        chosen = self.statistics if statistics is None else statistics
        modes = {"batch": batch_statistics, "recalibrated": kept_statistics, "moving": _as_they_are}[chosen]
        with torch.no_grad(), self.autocast(), modes(norms):
            yield

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Inside, convolutions and products take operands of the run's precision."""
        return products_in(self.dtype, self.device)

    def placed(self, model: nn.Module) -> nn.Module:
        """The network on the task's device, its filters in the task's memory format. Those of one pixel lie alike in both;
        they are left as they are, or else they would give their format to what a convolution returns."""
        model = with_counters_on_the_cpu(model.to(self.device))
        if self.memory_format is not None:
            for parameter in model.parameters():
                if parameter.ndim == 4 and parameter.shape[2:] != (1, 1):
                    parameter.data = parameter.data.to(memory_format=self.memory_format)
        return model

    def laid_out(self, value: Any) -> Any:
        """A tensor of a minibatch as networks take it: images [B, C, H, W] in the task's memory format."""
        if self.memory_format is None or not isinstance(value, Tensor) or value.ndim != 4:
            return value
        return value.contiguous(memory_format=self.memory_format)

    # ---- what there is to know -----------------------------------------------------------------------------------------

    @property
    def shown(self) -> tuple[str, ...]:
        """The keys of the score that are shown beside the progress."""
        return (self.metric,)

    def parameters(self, model: nn.Module) -> int:
        """How many trained values a network has."""
        return sum(parameter.numel() for parameter in model.parameters())

    @abstractmethod
    def size(self, model: nn.Module) -> dict[str, int]:
        """What there is to say about a network before it is trained: `parameters`, …"""

    def example(self, batch: int | None = None) -> Example:
        """What a network's latency is measured with: `batch` inputs side by side, None for the usual number.

        Raises `ConfigError` if there are not so many, or networks of this task have no latency.
        """
        raise ConfigError("networks of this task have no example to be measured with")

    def smallest_example(self) -> Example:
        """The smallest input that costs can be counted with."""
        return self.example()

    @property
    @abstractmethod
    def data_bytes(self) -> int:
        """Bytes that the data take on the device."""

    def kept_bytes(self, model: nn.Module, minibatch: Minibatch, saved: int) -> int:
        """Bytes that a forward pass keeps for the backward pass, of which autograd has `saved`."""
        return saved

    def state_dict(self) -> dict[str, Any]:
        """What goes from one minibatch to the next."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        assert not state


def _as_they_are(norms: Norms) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def set_mode(model: nn.Module, training: bool) -> None:
    """Switch between training and evaluation, only if needed: the switch is slow for thousands of modules."""
    if model.training is not training:
        model.train(training)
