"""A user's task, as networks are trained and rewarded by it.

Letters: B examples of a batch, N architectures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from enas.architecture import Architecture
from enas.costs import OperationCounter, parameter_count
from enas.data.batches import (
    Batch,
    EvaluationBatches,
    TrainingBatches,
    bytes_in,
    copied,
    examples_in,
    joined,
    mapped,
    moved,
    structure,
)
from enas.errors import ConfigError, DataError, shown
from enas.norms import Norms, NormStatistics, recalibrate
from enas.runtime.devices import check_channels_last
from enas.runtime.seeding import derive_seed, generator, global_seed
from enas.runtime.whose import hands_over, noted
from enas.task import BaseTask, Example, Loss, Score, Split, set_mode
from enas.tasks.measures import called, checked, of, scalar
from enas.tasks.own import Measure, Task, inputs_of, target_of
from enas.tasks.training_settings import Training

__all__ = ["BatchTask", "Minibatch", "Task"]

CPU = torch.device("cpu")


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
        channels_last: bool = False,
    ) -> None:
        """`epochs` is the length of the schedule; `training` stands in for the task's own; with `channels_last`, images and
        filters lie in memory with their channels together. Raises `DataError` and
        `ConfigError` if the training data cannot be used."""
        super().__init__(seed=seed, device=device, dtype=dtype, statistics=statistics)
        self.memory_format = torch.channels_last if channels_last else None
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

    def shard(self, minibatch: Minibatch, part: int, parts: int) -> tuple[Minibatch, float]:
        """Of every tensor with a row for each example, the rows of a part; other tensors and values are whole."""
        examples = examples_in(minibatch.batch)
        chosen_B = torch.arange(examples).tensor_split(parts)[part]

        def rows(value: Any) -> Any:
            whole = not isinstance(value, Tensor) or value.ndim == 0 or len(value) != examples
            return value if whole else value.tensor_split(parts)[part]

        shard = minibatch._replace(
            batch=mapped(rows, minibatch.batch), seed=derive_seed(minibatch.seed, "part", part)
        )
        return shard, len(chosen_B) / examples

    @hands_over
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
            betas = momentum, 0.999
            return torch.optim.AdamW(own, rate, betas=betas, weight_decay=decay, fused=self.fused)
        nesterov = self.training.nesterov and momentum > 0
        return torch.optim.SGD(
            own,
            rate,
            momentum=momentum,
            weight_decay=decay,
            nesterov=nesterov,
            foreach=not self.fused,
            fused=self.fused,
        )

    @hands_over
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
            total = called("loss", self.task.loss, output, minibatch.batch)
        if isinstance(total, Tensor) and total.ndim:
            raise ConfigError(f"the loss must be a scalar, such as a mean; its shape is {list(total.shape)}")
        if not isinstance(total, Tensor) or not total.requires_grad:
            found = "a tensor" if isinstance(total, Tensor) else shown(total)
            raise ConfigError(
                f"the loss{of(architecture)} is {found} without a gradient: torch must compute it from the network's output"
            )
        return Loss(total, {"loss": total.detach()})

    def placed(self, model: nn.Module) -> nn.Module:
        """Raises `ConfigError` where channels that lie together would destroy what is in memory."""
        if self.memory_format is not None:
            check_channels_last(model, self.device)
        return super().placed(model)

    @hands_over
    def output(self, model: nn.Module, batch: Batch, architecture: Architecture | None) -> Any:
        """What a network makes of a batch, which stays as it is. Raises `DataError` if a norm needs more than one value a
        channel."""
        path: dict[str, Any] = {} if architecture is None else {"architecture": architecture}
        positional, named = mapped(self.laid_out, copied(inputs_of(batch, self.task.target)))
        try:
            return model(*positional, **named, **path)
        except TypeError as error:
            if "argument" in str(error):
                rest = repr(self.task.target) if isinstance(batch, Mapping) else "the last"
                error.add_note(
                    f"(the network is called with all parts of a batch but {rest}: {structure(batch)})"
                )
            raise
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
        with global_seed(minibatch.seed, self.device), noted("with architecture", architecture):
            output = self.output(model, minibatch.batch, architecture)
            found = self._measured(measures, output, minibatch.batch)
        checked(found, architecture, output)
        return torch.tensor(found["score"])

    def rewards_from(self, measured_N: Tensor) -> Tensor:
        return measured_N if self.task.higher_is_better else -measured_N

    def describe_reward(self, reward: float) -> dict[str, float]:
        return {"valid_score": reward if self.task.higher_is_better else -reward}

    def evaluate(
        self, model: nn.Module, split: Split, architecture: Architecture | None = None
    ) -> Score | None:
        """The means over all examples. Raises `NotFiniteError` if the score or a metric is NaN or infinite."""
        batches = self._of(split)
        if batches is None:
            return None
        by_example: dict[str, Measure] = {"loss": self.task.loss}
        measures = {"score": self.task.score, **self.task.metrics}
        by_example |= {} if self.task.whole_split else measures
        sums, examples, kept = dict.fromkeys(by_example, 0.0), 0, []
        seed = derive_seed(self.seed, "evaluation")
        with global_seed(seed, self.device), noted("with architecture", architecture):
            for batch in batches:
                size, there = examples_in(batch), moved(batch, self.device)
                output = self.output(model, there, architecture)
                found = self._measured(by_example, output, there)
                checked({name: found[name] for name in found if name != "loss"}, architecture, output)
                sums = {name: total + size * found[name] for name, total in sums.items()}
                examples += size
                if self.task.whole_split:
                    kept.append((moved(output, CPU), moved(batch, CPU)))
            score = {name: total / examples for name, total in sums.items()}
            if kept:
                try:
                    output, batch = joined(kept)
                except RuntimeError as error:
                    raise DataError(
                        f"whole_split joins the outputs and the batches of {split}, and their shapes do not fit "
                        f"({error}): give all batches the same, or leave whole_split out"
                    ) from error
                found = self._measured(measures, output, batch)
                checked(found, architecture, output)
                score |= found
        return score

    def _of(self, split: Split) -> EvaluationBatches | None:
        return self.task.valid_batches if split == "valid" else self.task.test_batches

    def class_probabilities(
        self, model: nn.Module, split: Split, architecture: Architecture, batch: int
    ) -> Tensor:
        """Of networks that map a batch to class scores [B, K]. The batches are the task's, whatever `batch` says."""
        found = []
        for own in self._of(split) or ():
            scores_BK = self.output(model, moved(own, self.device), architecture)
            if not isinstance(scores_BK, Tensor) or scores_BK.ndim != 2:
                raise ConfigError(
                    "ensembles are of classifiers, whose output is a tensor of class scores [B, K]"
                )
            found.append(scores_BK.float().cpu().double().softmax(1))
        return torch.cat(found)

    def labels(self, split: Split) -> Tensor:
        """The last parts of the batches, which must be whole numbers [B]."""
        targets = [target_of(batch, self.task.target) for batch in self._of(split) or ()]
        if not targets:
            raise ConfigError(f"the task has no {split} data")
        if any(not isinstance(one, Tensor) or one.ndim != 1 or one.is_floating_point() for one in targets):
            raise ConfigError("ensembles are of classifiers, whose targets are the numbers of classes [B]")
        return torch.cat(targets).cpu()

    def _measured(self, measures: Mapping[str, Measure], output: Any, batch: Batch) -> dict[str, float]:
        """All measures of a batch, in one transfer from the device."""
        found = [
            scalar(name, called(name, measure, output, batch)).to(self.device)
            for name, measure in measures.items()
        ]
        return dict(zip(measures, torch.stack(found).tolist(), strict=True))

    def sort_key(self, score: Score) -> tuple[float, ...]:
        return (score["score"] if self.task.higher_is_better else -score["score"]), -score["loss"]

    def calibrate(
        self, model: nn.Module, norms: Norms, architecture: Architecture | None, *purpose: str | int
    ) -> None:
        """Always on the same training batches. A network without norms stays as it is."""
        if norms:
            batches = (moved(batch, self.device) for batch in self._calibration)
            seed = derive_seed(self.seed, "recalibration")
            with global_seed(seed, self.device), noted("with architecture", architecture):
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

    def example(self, batch: int | None = None) -> Example:
        """The first validation batch, or its first `batch` examples. Raises `ConfigError` if it has not so many."""
        with torch.device("cpu"):  # also where networks are without memory
            first = self.task.valid_batches.kept()[0]
        there = examples_in(first)
        if batch is not None and batch > there:
            raise ConfigError(f"a validation batch has {there} examples, not {batch}: ask for fewer")
        count = there if batch is None else batch

        def some(value: Any) -> Any:
            rows = isinstance(value, Tensor) and value.ndim > 0 and len(value) == there
            return self.laid_out(value[:count] if rows else value)

        positional, named = inputs_of(copied(moved(mapped(some, first), self.device)), self.task.target)
        return Example(positional, named, count, count)

    @property
    def shown(self) -> tuple[str, ...]:
        return self.metric, *self.task.metrics

    @property
    def data_bytes(self) -> int:
        """Of the batch that is trained on: the rest is not on the device."""
        return bytes_in(self.train.batch(0, 0))
