"""A task of a user's own: any data, loss and score.

    task = Task(train_loader, valid_loader, loss=loss, score=score)

    def loss(output, batch):
        return F.cross_entropy(output, batch[-1])

    def score(output, batch):
        return (output.argmax(1) == batch[-1]).float().mean()

Letters: B examples of a batch, N architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from enas.architecture import Architecture
from enas.constraints import LARGEST_COUNT
from enas.costs import OperationCounter, parameter_count
from enas.data.batches import (
    Batch,
    EvaluationBatches,
    Source,
    TrainingBatches,
    examples_in,
    joined,
    moved,
    source_of,
    tensors_in,
)
from enas.errors import ConfigError, DataError, NotFiniteError, shown
from enas.norms import Norms, NormStatistics, recalibrate
from enas.runtime.seeding import derive_seed, generator, global_seed
from enas.task import BaseTask, Loss, Score, Split, set_mode
from enas.tasks.training_settings import Training

CPU = torch.device("cpu")

Measure = Callable[[Any, Batch], Any]
"""A function of what a network returns and the batch on the device, to a number."""


@dataclass(frozen=True, eq=False)
class Task:
    """What networks are trained for: data, a loss, a score, and how they are trained.

    A split is a `DataLoader`, a list of batches, a tensor or a tuple or dict of tensors (one example a row, with `batch`), a
    `Dataset` of torch or Hugging Face (with `batch`), anything else that can be passed over again and again for its batches,
    or a function that returns one of these. A function that is a generator is called for every pass.

    A batch is a tensor, or a tuple, list or dict, and is moved to the device with all that is in it. A network gets all but
    its last part, or all but the key `target` of a dict, by name: `model(*inputs)`, and a supernet
    `model(*inputs, architecture=architecture)`. A batch of one part is the input. `loss` and `score` get the whole batch.

    Every epoch has an order of its own, which follows from the seed of the training, as all else that is random: training
    goes on after an interruption as if there had been none. Where that has limits: `enas.data.batches.Passed`.
    """

    train: Any = field(repr=False)
    """What weights are trained on."""
    valid: Any = field(repr=False)
    """What architectures are rewarded and chosen by. What it takes up to 1 GiB is kept in memory; of more, rewards use as
    many batches as that holds, evenly spaced."""
    test: Any = field(default=None, repr=False)
    """What is read once, after the retraining; None if there is none."""
    _: KW_ONLY
    loss: Measure
    """Of (output, batch), to a scalar with a gradient: the mean over the batch, as evaluation weights batches by B."""
    score: Measure
    """Of (output, batch), to the number that architectures are compared by: without `whole_split` a mean over the batch."""
    higher_is_better: bool = True
    """Whether a higher score is a better one."""
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    """Further measures, by name, that are logged beside the score."""
    training: Training = field(default_factory=Training)
    """How weights are trained, by settings."""
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None
    """Makes an optimiser of one group of parameters, in place of that of `training`. Its learning rate is the highest."""
    schedule: Callable[[int, int], float] | None = None
    """Of (epoch counted from 0, epochs), to what the highest learning rate is multiplied by, in place of the schedule of
    `training`."""
    batch: int | None = None
    """Examples of a step, for tensors and datasets of single examples."""
    steps: int | None = None
    """Batches of an epoch, by default all of a pass. Needed where their number is not known, as of a stream."""
    whole_split: bool = False
    """Whether the score and the metrics of a split are computed at once, of all outputs one below the other and all batches
    joined alike, as a correlation or an area under a curve needs it; otherwise batch by batch, and their mean."""
    target: str = "target"
    """The key of a dict that is kept from the network."""

    def __post_init__(self) -> None:
        """Raises `ConfigError` if a function is none, a name is taken, or a number is none."""
        functions = {
            "loss": self.loss,
            "score": self.score,
            **{f"metrics[{k!r}]": v for k, v in self.metrics.items()},
        }
        functions |= {
            name: made for name in ("optimizer", "schedule") if (made := getattr(self, name)) is not None
        }
        for name, function in functions.items():
            if not callable(function):
                raise ConfigError(f"{name} must be a function, not {shown(function)}")
        for taken in self.metrics.keys() & {"loss", "score"}:
            raise ConfigError(f"a metric cannot be called {taken!r}, which there is already")
        for name in ("batch", "steps"):
            number = getattr(self, name)
            if number is not None and not (isinstance(number, int) and 1 <= number <= LARGEST_COUNT):
                raise ConfigError(f"{name} must be a whole number of at least 1, not {shown(number)}")

    @cached_property
    def training_source(self) -> Source:
        """The training data, opened when first asked for."""
        return source_of("train", self.train, self.batch)

    @cached_property
    def valid_batches(self) -> EvaluationBatches:
        """The validation data."""
        return EvaluationBatches(source_of("valid", self.valid, self.batch))

    @cached_property
    def test_batches(self) -> EvaluationBatches | None:
        """The test data; None if there are none."""
        return None if self.test is None else EvaluationBatches(source_of("test", self.test, self.batch))


class Minibatch(NamedTuple):
    """A batch on the device."""

    batch: Batch
    seed: int
    """What is random in a network follows from it."""
    warmth: float = 1.0
    """What the warm-up multiplies the learning rate by."""


class BatchTask(BaseTask):
    """A user's task, as networks are trained and rewarded by it. The reward is the score, or its negative if lower is
    better."""

    metric: ClassVar[str] = "score"

    def __init__(
        self,
        task: Task,
        *,
        epochs: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        statistics: NormStatistics = "batch",
        recalibration_batches: int = 4,
        training: Training | None = None,
    ) -> None:
        """`epochs` is the length of the schedule; `training` stands in for the task's own. Raises `DataError` and
        `ConfigError` if the training data cannot be used."""
        super().__init__(seed=seed, device=device, dtype=dtype, statistics=statistics)
        self.task = task
        self.epochs = epochs
        self.training = task.training if training is None else training
        self.recalibration_batches = recalibration_batches
        if task.optimizer is not None and self.training.learning_rate is not None:
            raise ConfigError("the learning rate is given twice: leave it to the function `optimizer`")
        self.clip = self.training.clip
        self.highest_rate = self.training.rate
        self.train = TrainingBatches(task.training_source, task.steps, seed)

    # ---- training ------------------------------------------------------------------------------------------------------

    def steps(self, epoch: int) -> int:
        return self.train.steps

    def minibatch(self, epoch: int, step: int) -> Minibatch:
        batch = moved(self.train.batch(epoch, step), self.device)
        warmth = self.training.warmth(epoch * self.train.steps + step, self.train.steps)
        return Minibatch(batch, derive_seed(self.seed, "network", epoch, step), warmth)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Raises `ConfigError` if the task's own has several groups of parameters."""
        own, rate, decay = list(parameters), self.highest_rate, self.training.weight_decay
        momentum = self.training.momentum
        if self.task.optimizer is not None:
            made = self.task.optimizer(own)
            if len(made.param_groups) != 1:
                raise ConfigError(
                    f"the optimiser has {len(made.param_groups)} groups of parameters; give all in one"
                )
            self.highest_rate = float(made.param_groups[0]["lr"])
            return made
        if self.training.optimizer == "adamw":
            return torch.optim.AdamW(own, rate, betas=(momentum, 0.999), weight_decay=decay)
        nesterov = self.training.nesterov and momentum > 0
        return torch.optim.SGD(
            own, rate, momentum=momentum, weight_decay=decay, nesterov=nesterov, foreach=True
        )

    def rate(self, epoch: int) -> float:
        """Raises `ConfigError` if the task's schedule gives no number that a rate can be multiplied by."""
        if self.task.schedule is None:
            return self.highest_rate * self.training.factor(epoch, self.epochs)
        factor: Any = self.task.schedule(epoch, self.epochs)
        if not (isinstance(factor, int | float) and 0 <= factor < math.inf):
            raise ConfigError(
                f"schedule({epoch}, {self.epochs}) must be a number of at least 0, not {shown(factor)}"
            )
        return self.highest_rate * factor

    def rate_factor(self, minibatch: Minibatch) -> float:
        return minibatch.warmth

    def mask_place(self, epoch: int, step: int) -> tuple[int, ...]:
        return (epoch * self.train.steps + step,)

    def loss(
        self, model: nn.Module, minibatch: Minibatch, architecture: Architecture | None, slot: int
    ) -> Loss:
        """Raises `ConfigError` if the loss is no scalar, or has no gradient."""
        with global_seed(derive_seed(minibatch.seed, slot), self.device):
            output = self.output(model, minibatch.batch, architecture)
            total = self.task.loss(output, minibatch.batch)
        if isinstance(total, Tensor) and total.ndim:
            raise ConfigError(f"the loss must be a scalar, such as a mean; its shape is {list(total.shape)}")
        if not isinstance(total, Tensor) or not total.requires_grad:
            found = "a tensor" if isinstance(total, Tensor) else shown(total)
            raise ConfigError(
                f"the loss{of(architecture)} is {found} without a gradient: torch must compute it from the network's output"
            )
        return Loss(total, {"loss": total.detach()})

    def output(self, model: nn.Module, batch: Batch, architecture: Architecture | None) -> Any:
        """What a network makes of a batch. Raises `DataError` if a norm gets one value a channel, and needs more."""
        path: dict[str, Any] = {} if architecture is None else {"architecture": architecture}
        positional, named = inputs_of(batch, self.task.target)
        try:
            return model(*positional, **named, **path)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                "a batch of one example has no statistics that a batch norm could use: leave it out, as drop_last=True of a "
                "DataLoader does, or choose another batch size"
            ) from error

    # ---- evaluation ----------------------------------------------------------------------------------------------------

    def reward_minibatch(self, purpose: str, draw: int) -> Minibatch:
        place = (self.seed, "reward", purpose, draw)
        return Minibatch(
            moved(self.task.valid_batches.sample(generator(*place)), self.device), derive_seed(*place)
        )

    def measure(self, model: nn.Module, minibatch: Minibatch, architecture: Architecture) -> Tensor:
        """Raises `NotFiniteError` if the score is NaN or infinite."""
        measures = {"score": self.task.score}
        with global_seed(minibatch.seed, self.device):
            found = self._measured(
                measures, self.output(model, minibatch.batch, architecture), minibatch.batch
            )
        checked(found, architecture)
        return torch.tensor(found["score"])

    def rewards_from(self, measured_N: Tensor) -> Tensor:
        return measured_N if self.task.higher_is_better else -measured_N

    def describe_reward(self, reward: float) -> dict[str, float]:
        return {"valid_score": reward if self.task.higher_is_better else -reward}

    def evaluate(
        self, model: nn.Module, split: Split, architecture: Architecture | None = None
    ) -> Score | None:
        """The means over all examples. Raises `NotFiniteError` if the score or a metric is NaN or infinite."""
        batches = self.task.valid_batches if split == "valid" else self.task.test_batches
        if batches is None:
            return None
        by_example: dict[str, Measure] = {"loss": self.task.loss}
        measures = {"score": self.task.score, **self.task.metrics}
        by_example |= {} if self.task.whole_split else measures
        sums, examples, kept = dict.fromkeys(by_example, 0.0), 0, []
        with global_seed(derive_seed(self.seed, "evaluation"), self.device):
            for batch in batches:
                size, there = examples_in(batch), moved(batch, self.device)
                output = self.output(model, there, architecture)
                found = self._measured(by_example, output, there)
                sums = {name: total + size * found[name] for name, total in sums.items()}
                examples += size
                if self.task.whole_split:
                    kept.append((moved(output, CPU), moved(batch, CPU)))
            score = {name: total / examples for name, total in sums.items()}
            if kept:
                score |= self._measured(measures, *joined(kept))
        checked({name: number for name, number in score.items() if name != "loss"}, architecture)
        return score

    def _measured(self, measures: Mapping[str, Measure], output: Any, batch: Batch) -> dict[str, float]:
        """All measures of a batch, in one transfer from the device."""
        found = [scalar(name, measure(output, batch)).to(self.device) for name, measure in measures.items()]
        return dict(zip(measures, torch.stack(found).tolist(), strict=True))

    def sort_key(self, score: Score) -> tuple[float, ...]:
        return (score["score"] if self.task.higher_is_better else -score["score"]), -score["loss"]

    def calibrate(
        self, model: nn.Module, norms: Norms, architecture: Architecture | None, *purpose: str | int
    ) -> None:
        """Always on the same training batches. A network without norms stays as it is."""
        if norms:
            batches = (moved(batch, self.device) for batch in self._calibration)
            with global_seed(derive_seed(self.seed, "recalibration"), self.device):
                recalibrate(norms, batches, partial(self.output, model, architecture=architecture))

    @cached_property
    def _calibration(self) -> list[Batch]:
        batches = self.task.training_source.batches(derive_seed(self.seed, "recalibration"))
        return list(islice(batches, self.recalibration_batches))

    def inputs(self, minibatch: Minibatch) -> Tensor:
        positional, named = inputs_of(minibatch.batch, self.task.target)
        if len(positional) + len(named) != 1 or not isinstance(
            found := [*positional, *named.values()][0], Tensor
        ):
            raise ConfigError("it is for networks whose only input is a tensor")
        return found

    # ---- what there is to know -----------------------------------------------------------------------------------------

    def size(self, model: nn.Module) -> dict[str, int]:
        """`multiply_adds` are those of a validation batch, divided by its examples."""
        with torch.device("cpu"):  # also where networks are without memory
            batch = self.task.valid_batches.kept()[0]
        device = next((parameter.device for parameter in model.parameters()), self.device)
        set_mode(model, training=False)
        with torch.no_grad(), OperationCounter() as counter:
            self.output(model, moved(batch, device), None)
        return {
            "parameters": parameter_count(model),
            "multiply_adds": counter.operations // 2 // examples_in(batch),
        }

    @property
    def shown(self) -> tuple[str, ...]:
        return self.metric, *self.task.metrics

    @property
    def data_bytes(self) -> int:
        """Of the batch that is trained on: the rest is not on the device."""
        return sum(tensor.nbytes for tensor in tensors_in(self.train.batch(0, 0)))


def inputs_of(batch: Batch, target: str = "target") -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a network gets of a batch, by place and by name. Raises `ConfigError` if a dict has no key `target`."""
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        if target not in batch:
            raise ConfigError(
                f"a batch has no key {target!r}, only {', '.join(map(repr, batch))}: name it with target="
            )
        return (), {key: value for key, value in batch.items() if key != target}
    return tuple(batch[:-1] if len(batch) > 1 else batch), {}


def scalar(name: str, value: Any) -> Tensor:
    """A number, of a tensor or of Python, as a tensor []. Raises `ConfigError` if it is none."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().reshape(()).float()
    try:
        return torch.tensor(float(value))
    except (TypeError, ValueError, RuntimeError):
        found = f"of shape {list(value.shape)}" if isinstance(value, Tensor) else shown(value)
        raise ConfigError(
            f"the {name} must be a number, such as a mean over the batch; it is {found}"
        ) from None


def of(architecture: Architecture | None) -> str:
    """Whose something is, for a message; nothing for a network of its own."""
    return "" if architecture is None else f" of architecture '{architecture}'"


def checked(found: Mapping[str, float], architecture: Architecture | None) -> None:
    """Raise `NotFiniteError` if a number is NaN or infinite."""
    for name, value in found.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"the {name}{of(architecture)} on data that it was not trained on is {value}"
            )
