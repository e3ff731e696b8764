"""What a search needs of a task: passes over training data, and rewards on validation data."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from enas.architecture import Architecture, Space
from enas.errors import ConfigError


class SearchTask(ABC):
    """A supernet, the data it is trained and rewarded on, and one step of each.

    Whatever is random in a step follows from the run's seed and the step's place (epoch, step), so that a
    resumed task needs only `state_dict`.
    """

    space: Space

    @abstractmethod
    def steps(self, epoch: int) -> int:
        """How many training steps the pass of this epoch has."""

    @abstractmethod
    def train_step(self, epoch: int, step: int, architectures: Sequence[Architecture]) -> dict[str, float]:
        """Train the shared weights on the next minibatch, by the mean gradient of the architectures (paper,
        eq. 1).

        Returns what to log, `loss` among it. Raises `NotFiniteError`, with the weights untouched, if the loss
        is NaN.
        """

    @abstractmethod
    def rewards(self, architectures: Sequence[Architecture], purpose: str, draw: int) -> Tensor:
        """The rewards [N] of the architectures, all on the same validation minibatch, without gradient.

        `purpose` and `draw` say which minibatch; higher rewards are better.
        """

    @abstractmethod
    def scores(self, architectures: Sequence[Architecture]) -> list[float]:
        """The scores of architectures with the shared weights as they are, on all validation data; higher is better.

        Accuracy in percent, or -loss in nats a token, with the batch norms and the minibatch size of the rewards.
        """

    def class_probabilities(
        self,
        architectures: Sequence[Architecture],
        split: Literal["valid", "test"],
        batch: int,
        statistics: Literal["batch", "moving", "recalibrated"],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each architecture with the shared weights: the class probabilities [N, K] of a split, and its labels [N].

        `batch` inputs are computed at once; `statistics` is what the batch norms normalise by. Raises `ConfigError` if the
        networks do not classify.
        """
        raise ConfigError(
            f"the networks of the {self.space.name} space do not classify; ensembles are of those that do"
        )

    @abstractmethod
    def describe_reward(self, reward: float) -> dict[str, float]:
        """The reward in the task's own metric, for the log."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs: weights, optimiser, carried state."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""

    @contextlib.contextmanager
    def finetuned(self, architecture: Architecture, minibatches: int, epoch: int) -> Iterator[None]:
        """Inside, the shared weights have been trained on so many minibatches by this architecture alone.

        They are the first of `epoch`, whose learning rate they have too. Where rewards are computed with an average of the
        weights, that is what is trained. Afterwards everything is as it was, bit for
        bit. Raises `NotFiniteError`, with everything as it was, if the loss is NaN.
        """
        before = copy.deepcopy(self.state_dict())
        try:
            with self.from_average():
                for step in range(minibatches):
                    self.train_step(epoch, step % self.steps(epoch), [architecture])
                yield
        finally:
            self.load_state_dict(before)

    def from_average(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the weights that are trained begin with those that rewards are computed with, and rewards follow them;
        they may be left as they are. Nothing to do where these are the same anyway."""
        return contextlib.nullcontext()

    @abstractmethod
    def estimate(self) -> tuple[float, float, float]:
        """(seconds of a training step, seconds of one architecture's reward, MiB of memory), measured on
        throw-away steps that change nothing."""


class ChildTraining(ABC):
    """One network being trained from scratch: resumable, one step at a time.

    The best weights by the validation data are kept on the side as training goes on, so that the end of the
    training need not be its best moment.
    """

    shown: ClassVar[tuple[str, ...]] = ()
    """Keys of what `end_epoch` returns that are shown beside the progress."""

    total_steps: int
    done: int

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Train on the next minibatch; returns what to show.

        Raises `NotFiniteError`, with the weights untouched, if the loss is NaN or infinite.
        """

    @abstractmethod
    def at_epoch_end(self) -> bool:
        """Whether a pass over the training data has just been completed."""

    @abstractmethod
    def end_epoch(self) -> dict[str, float]:
        """Evaluate on the validation data; returns what to log, `best` = 1 if these are the best weights so
        far."""

    @abstractmethod
    def best_weights(self) -> dict[str, Tensor]:
        """The weights to keep, as they are right after an `end_epoch` that said `best`."""

    @abstractmethod
    def size(self) -> dict[str, Any]:
        """What there is to say about the network before it is trained: `parameters`, `epochs` of the training, …"""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """`size`, and what there is to say about the network once it is trained."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""

    @abstractmethod
    def estimate(self) -> tuple[float, float]:
        """(seconds of a step, MiB of memory), measured on a throw-away step that changes nothing."""
