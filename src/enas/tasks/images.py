"""Searching a network that classifies images: the shared weights, one minibatch at a time.

Paper §2.2 and §3.2. The reward of an architecture is its accuracy on a minibatch of the validation images.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from enas.architecture import Architecture, Space
from enas.constraints import PartialShare, PositiveInt, Settings
from enas.data.images import ImageData
from enas.errors import NotFiniteError
from enas.masks import masks_from
from enas.norms import batch_statistics, kept_statistics, norms_of, recalibrate
from enas.runtime.devices import products_in
from enas.runtime.seeding import derive_seed, generator
from enas.spaces.image_network import ImageSupernet
from enas.tasks.averaging import AveragedWeights
from enas.tasks.base import SearchTask
from enas.tasks.image_training import (
    EvaluationImages,
    ImageTrainingConfig,
    Minibatch,
    NormStatistics,
    TrainingImages,
    accumulate_gradient,
    descend,
    is_right,
    memory_mb,
    saved_bytes,
    synchronize,
)


@dataclass(frozen=True)
class ImageRewardConfig(Settings):
    """How an architecture is rewarded: by its accuracy on a minibatch of validation images, nothing dropped."""

    batch: PositiveInt = 128
    """Images of the validation minibatch, drawn anew for every reward."""
    statistics: NormStatistics = "batch"
    """What the batch norms normalise by. The moving averages are of whatever architectures were trained last."""
    recalibration_batches: PositiveInt = 4
    """Training minibatches, not augmented, that `recalibrated` takes its means over."""


@dataclass(frozen=True)
class ImageSharedConfig(Settings):
    """How the shared weights are trained and used for rewards."""

    training: ImageTrainingConfig = field(default_factory=ImageTrainingConfig)
    """The recipe of the shared weights' steps."""
    reward: ImageRewardConfig = field(default_factory=ImageRewardConfig)
    """The controller's reward."""
    average: PartialShare = 0.0
    """Share of a moving average of the shared weights that is kept at every training step. Rewards are computed with the
    average; 0 computes them with the weights themselves (paper, authors)."""


class ImageSearchTask(SearchTask):
    """The supernet of a convolutional space on images."""

    def __init__(
        self,
        supernet: ImageSupernet,
        data: ImageData,
        config: ImageSharedConfig,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.space = supernet.space
        self.supernet = supernet.to(device)
        self.averaged = AveragedWeights(self.supernet, config.average)
        averaging = () if self.averaged.average is None else (self.averaged.model,)
        self._norms = {model: norms_of(model) for model in (self.supernet, *averaging)}
        self.config = config
        self.seed = seed
        self.dtype = dtype
        self.optimizer = config.training.optimizer(self.supernet.parameters())
        normalisation = data.train.normalisation
        self.train = TrainingImages(data.train, normalisation, config.training, seed, device)
        self.data = data
        self.valid = EvaluationImages(data.valid, normalisation, device)

    def steps(self, epoch: int) -> int:
        return self.train.steps

    def train_step(self, epoch: int, step: int, architectures: Sequence[Architecture]) -> dict[str, float]:
        config = self.config.training
        set_mode(self.supernet, training=True)
        log = self._backward(self.train.minibatch(epoch, step), architectures, epoch, step)
        rate = config.cosine.rate(epoch)
        norm = descend(self.optimizer, rate, config.momentum.clip)
        self.averaged.update()
        return {**log, "gradient_norm": norm, "learning_rate": rate}

    def _backward(
        self, minibatch: Minibatch, architectures: Sequence[Architecture], epoch: int, step: int
    ) -> dict[str, float]:
        """Accumulate the mean gradient over the architectures; returns their mean loss and accuracy."""
        share = 1 / len(architectures)
        loss = accuracy = 0.0
        for slot, architecture in enumerate(architectures):
            with masks_from(generator(self.seed, "masks", epoch, step, slot)), self._products():
                outputs = self.supernet(minibatch.images_BCHW, architecture)
            try:
                score = accumulate_gradient(
                    outputs,
                    minibatch.labels_B,
                    self.config.training.auxiliary_weight,
                    share=share,
                    whose=f" of architecture '{architecture}'",
                )
            except NotFiniteError:
                self.optimizer.zero_grad()  # of the architectures before
                raise
            loss += score.loss * share
            accuracy += score.accuracy * share
        return {"loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def rewards(self, architectures: Sequence[Architecture], purpose: str, draw: int) -> Tensor:
        config = self.config.reward
        minibatch = self.valid.sample(config.batch, generator(self.seed, "reward", purpose, draw))
        calibration = generator(self.seed, "recalibration", purpose, draw)
        shares = []
        with self.evaluating(config.statistics, calibration) as forward_of:
            for architecture in architectures:
                scores_BK = forward_of(architecture)(minibatch.images_BCHW)
                shares.append(is_right(scores_BK, minibatch.labels_B).float().mean())
        return torch.stack(shares).cpu()

    @torch.no_grad()
    def scores(self, architectures: Sequence[Architecture]) -> list[float]:
        reward, draw = self.config.reward, generator(self.seed, "recalibration", "rank")
        with self.evaluating(reward.statistics, draw) as forward_of:
            return [self.valid.score(forward_of(a), reward.batch).accuracy for a in architectures]

    @torch.no_grad()
    def class_probabilities(
        self,
        architectures: Sequence[Architecture],
        split: Literal["valid", "test"],
        batch: int,
        statistics: NormStatistics,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        images = self.valid
        if split == "test":
            images = EvaluationImages(self.data.test, self.data.train.normalisation, self.train.device)
        with self.evaluating(statistics, generator(self.seed, "recalibration", "ensemble")) as forward_of:
            for architecture in architectures:
                yield images.class_scores(forward_of(architecture), batch).softmax(1), images.labels_N

    @contextlib.contextmanager
    def evaluating(
        self, statistics: NormStatistics, draw: torch.Generator
    ) -> Iterator[Callable[[Architecture], Callable[[Tensor], Tensor]]]:
        """Inside, the function given makes of an architecture what computes its class scores with the shared weights.

        Nothing is dropped, and the supernet is left as it was. `recalibrated` draws its training minibatches, the same
        for every architecture, from `draw`; its class scores hold until the next architecture.
        """
        model = self.averaged.model
        set_mode(model, training=False)
        norms = self._norms[model]

        def scores_of(architecture: Architecture) -> Callable[[Tensor], Tensor]:
            def scores(images_BCHW: Tensor) -> Tensor:
                with self._products():
                    scores_BK: Tensor = model(images_BCHW, architecture).logits_BK
                return scores_BK

            return scores

        if statistics == "moving":
            yield scores_of
            return
        if statistics == "batch":
            with batch_statistics(norms):
                yield scores_of
            return
        minibatches = self.train.samples(self.config.reward.recalibration_batches, draw)

        def recalibrated(architecture: Architecture) -> Callable[[Tensor], Tensor]:
            recalibrate(norms, minibatches, scores_of(architecture))
            return scores_of(architecture)

        with kept_statistics(norms):
            yield recalibrated

    def _products(self) -> contextlib.AbstractContextManager[object]:
        """Inside, convolutions and products take operands of the run's precision."""
        return products_in(self.dtype, self.train.device)

    def describe_reward(self, reward: float) -> dict[str, float]:
        return {"valid_accuracy": 100 * reward, "valid_error": 100 * (1 - reward)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.averaged.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged.load_state_dict(state)

    def from_average(self) -> contextlib.AbstractContextManager[None]:
        return self.averaged.adopted()

    def estimate(self) -> tuple[float, float, float]:
        architecture = self.space.sample(random.Random(derive_seed(self.seed, "estimate")))
        minibatch = self.train.minibatch(0, 0)
        few = Minibatch(minibatch.images_BCHW[:8], minibatch.labels_B[:8])
        with kept_statistics(self._norms[self.supernet]):
            for other in with_every_operation(
                self.space, random.Random(0)
            ):  # compiles what there is to compile
                set_mode(self.supernet, training=True)
                self._backward(few, [other], 0, 0)
                self.optimizer.zero_grad()
            with saved_bytes() as saved:
                self._throw_away(minibatch, architecture)
            train_seconds, reward_seconds = self._throw_away(minibatch, architecture)
        memory = memory_mb(self.supernet, saved(), self.train.images, self.valid.images) + self.averaged.mib
        return train_seconds, reward_seconds, memory

    def _throw_away(self, minibatch: Minibatch, architecture: Architecture) -> tuple[float, float]:
        """Seconds of a step that is not taken, and of a reward that nobody gets."""
        set_mode(self.supernet, training=True)
        began = time.perf_counter()
        self._backward(minibatch, [architecture], 0, 0)
        self.optimizer.zero_grad()
        synchronize(minibatch.images_BCHW.device)
        middle = time.perf_counter()
        self.rewards([architecture], "estimate", 0)
        return middle - began, time.perf_counter() - middle


def with_every_operation(space: Space, rng: random.Random) -> list[Architecture]:
    """Random architectures, a few, of which each has an operation or function that those before it lack; all are there."""
    missing = {
        option
        for decision in space.decisions
        if decision.kind in ("operation", "function")
        for option in decision.options
    }
    found = []
    while missing:
        architecture = space.sample(rng)
        taken = {d.options[choice] for d, choice in zip(space.decisions, architecture.choices, strict=True)}
        if missing & taken:
            found.append(architecture)
            missing -= taken
    return found


def set_mode(model: nn.Module, training: bool) -> None:
    """Set a supernet's mode, which takes a while for thousands of modules, if it has another."""
    if model.training is not training:
        model.train(training)
