"""A task of a user's own: any data, loss and score.

    task = Task(train_loader, valid_loader, loss=loss, score=score)

    def loss(output, batch):
        return F.cross_entropy(output, batch[-1])

    def score(output, batch):
        return (output.argmax(1) == batch[-1]).float().mean()

Regression, several labels, sequences: what a network returns and what the two functions make of it are the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from enas.constraints import LARGEST_COUNT
from enas.data.batches import Batch, EvaluationBatches, Source, source_of
from enas.errors import ConfigError, shown
from enas.tasks.training_settings import Training

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
        """Raises `ConfigError` if a function is none, a name is taken, or a number is none; and if the score is the loss, of
        which a higher one would be better."""
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
        if self.score is self.loss and self.higher_is_better:
            raise ConfigError("the score is the loss, and a lower loss is better: add higher_is_better=False")
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


def target_of(batch: Batch, target: str = "target") -> Any:
    """What the network does not get of a batch; None for a batch of one part."""
    if isinstance(batch, Mapping):
        return batch.get(target)
    return batch[-1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
