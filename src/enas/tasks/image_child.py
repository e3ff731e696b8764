"""Training one image classifier from scratch: the found network, or a random one that it is compared with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from enas.constraints import Epochs, PositiveInt, Settings
from enas.costs import multiply_adds, parameter_count
from enas.data.images import ImageData, ImageSet
from enas.errors import NotFiniteError
from enas.masks import masks_from
from enas.norms import batch_statistics, kept_statistics, norms_of, recalibrate
from enas.runtime.devices import products_in
from enas.runtime.seeding import generator
from enas.spaces.image_network import ImageChild
from enas.tasks.base import ChildTraining
from enas.tasks.image_training import (
    EvaluationImages,
    ImageTrainingConfig,
    Minibatch,
    NormStatistics,
    Score,
    TrainingImages,
    accumulate_gradient,
    descend,
    memory_mb,
    saved_bytes,
    synchronize,
)


@dataclass(frozen=True)
class ImageChildConfig(Settings):
    """The recipe that a network is trained with from scratch."""

    epochs: Epochs = 310
    """Passes over the training images."""
    training: ImageTrainingConfig = field(default_factory=ImageTrainingConfig)
    """Minibatches, learning rate, optimiser, augmentation."""
    train_on: Literal["train", "all"] = "train"
    """`train`: the validation images stay out, score every epoch, and the best epoch's weights are kept; `all`: they
    are trained on too, and the last epoch's weights are kept."""
    evaluation: NormStatistics = "moving"
    """What the batch norms normalise by when the network is evaluated; `recalibrated` replaces the moving averages that
    are kept with the weights."""
    recalibration_batches: PositiveInt = 16
    """Training minibatches, not augmented, that `recalibrated` takes its means over."""
    eval_batch: PositiveInt = 500
    """Images that are evaluated at once."""


class ImageChildTraining(ChildTraining):
    """A network and its training on images.

    Random numbers follow from the seed and the step's place (epoch, step). The best epoch is the one of the highest
    validation accuracy, of equal ones the one of the lowest loss; without validation images it is the last.
    """

    shown = ("valid_accuracy",)

    def __init__(
        self,
        model: ImageChild,
        data: ImageData,
        config: ImageChildConfig,
        *,
        epochs: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.epochs = epochs
        self.model = model.to(device)
        self.norms = norms_of(model)
        self.config = config
        self.seed = seed
        self.dtype = dtype
        self.optimizer = config.training.optimizer(self.model.parameters())
        self.shape = data.shape
        images = trained_on(data, config)
        self.train = TrainingImages(images, images.normalisation, config.training, seed, device)
        self.valid: EvaluationImages | None = None
        if config.train_on == "train":
            self.valid = EvaluationImages(data.valid, images.normalisation, device)
        self.total_steps = epochs * self.train.steps
        self.done = 0
        self.epoch = 0
        self.loss_sum = self.accuracy_sum = 0.0
        self.valid_scores: list[Score] = []

    def step(self) -> dict[str, float]:
        config = self.config.training
        if not self.model.training:
            self.model.train()
        minibatch = self.train.minibatch(self.epoch, self.done - self.epoch * self.train.steps)
        score = self._backward(minibatch)
        descend(self.optimizer, config.cosine.rate(self.epoch), config.momentum.clip)
        self.done += 1
        self.loss_sum += score.loss
        self.accuracy_sum += score.accuracy
        return {"epoch": self.epoch + 1, "loss": score.loss}

    def _backward(self, minibatch: Minibatch) -> Score:
        """Compute the gradient of a minibatch; returns its score."""
        progress = (self.done + 1) / self.total_steps  # drop-path counts the step under way
        self.model.progress = progress
        with masks_from(generator(self.seed, "masks", self.done)), products_in(self.dtype, self.train.device):
            outputs = self.model.outputs(minibatch.images_BCHW)
        return accumulate_gradient(outputs, minibatch.labels_B, self.config.training.auxiliary_weight)

    def at_epoch_end(self) -> bool:
        return self.done == (self.epoch + 1) * self.train.steps

    def end_epoch(self) -> dict[str, float]:
        record = {
            "epoch": self.epoch,
            "loss": self.loss_sum / self.train.steps,
            "accuracy": self.accuracy_sum / self.train.steps,
            "learning_rate": self.config.training.cosine.rate(self.epoch),
        }
        if self.config.evaluation == "recalibrated":
            draw = generator(self.seed, "recalibration", self.epoch)
            minibatches = self.train.samples(self.config.recalibration_batches, draw)
            # The moving averages play no part in the training, so they may as well stay.
            recalibrate(self.norms, minibatches, class_scores(self.model.eval(), self.dtype))
        self.epoch += 1
        self.loss_sum = self.accuracy_sum = 0.0
        if self.valid is None:
            return {**record, "best": float(self.epoch == self.epochs)}
        score = evaluate_child(self.model, self.valid, self.config, self.dtype)
        self.valid_scores.append(score)
        best = self._best_epoch() == len(self.valid_scores)
        return {**record, "valid_loss": score.loss, "valid_accuracy": score.accuracy, "best": float(best)}

    def _best_epoch(self) -> int:
        """Counted from 1."""
        scores = self.valid_scores
        return 1 + max(range(len(scores)), key=lambda epoch: (scores[epoch].accuracy, -scores[epoch].loss))

    def best_weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def size(self) -> dict[str, Any]:
        return {
            "parameters": self._parameters(),
            "multiply_adds": multiply_adds(self.model, self.shape),
            "epochs": self.epochs,
        }

    def _parameters(self) -> int:
        """Without an auxiliary head, which serves the training only."""
        auxiliary = self.model.auxiliary
        return parameter_count(self.model) - (0 if auxiliary is None else parameter_count(auxiliary))

    def result(self) -> dict[str, Any]:
        if not self.valid_scores:
            return {**self.size(), "best_epoch": self.epochs}
        best = self._best_epoch()
        score = self.valid_scores[best - 1]
        return {
            **self.size(),
            "best_epoch": best,
            "valid_loss": score.loss,
            "valid_accuracy": score.accuracy,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_sum": self.loss_sum,
            "accuracy_sum": self.accuracy_sum,
            "valid_scores": [list(score) for score in self.valid_scores],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done, self.epoch = state["done"], state["epoch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss_sum, self.accuracy_sum = state["loss_sum"], state["accuracy_sum"]
        self.valid_scores = [Score(*score) for score in state["valid_scores"]]

    def estimate(self) -> tuple[float, float]:
        self.model.train()
        minibatch = self.train.minibatch(0, 0)
        images = [self.train.images] if self.valid is None else [self.train.images, self.valid.images]
        with kept_statistics(self.norms):
            with saved_bytes() as saved:  # and the kernels warm up
                self._throw_away(minibatch)
            began = time.perf_counter()
            self._throw_away(minibatch)
            seconds = time.perf_counter() - began
        return seconds, memory_mb(self.model, saved(), *images)

    def _throw_away(self, minibatch: Minibatch) -> None:
        """A step that is not taken."""
        self._backward(minibatch)
        self.optimizer.zero_grad()
        synchronize(minibatch.images_BCHW.device)


def trained_on(data: ImageData, config: ImageChildConfig) -> ImageSet:
    """The images that the recipe trains on, and normalises by."""
    return data.joined() if config.train_on == "all" else data.train


def class_scores(model: ImageChild, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The network as a function of normalised images, as its mode has it."""

    def scores(images_BCHW: Tensor) -> Tensor:
        with products_in(dtype, images_BCHW.device):
            scores_BK: Tensor = model(images_BCHW)
        return scores_BK

    return scores


def evaluate_child(
    model: ImageChild, images: EvaluationImages, config: ImageChildConfig, dtype: torch.dtype
) -> Score:
    """The score on a whole split. Recalibrated averages are expected to be in the network already.

    Raises `NotFiniteError` if the loss is NaN or infinite.
    """
    model.eval()
    with batch_statistics(norms_of(model) if config.evaluation == "batch" else []):
        score = images.score(class_scores(model, dtype), config.eval_batch)
    if not math.isfinite(score.loss):
        raise NotFiniteError(f"the loss on images that it was not trained on is {score.loss}")
    return score


def score_on_test(
    model: ImageChild, data: ImageData, config: ImageChildConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """A trained network's `test_loss` (nats an image) and `test_accuracy` (percent). The network moves to the device."""
    images = EvaluationImages(data.test, trained_on(data, config).normalisation, device)
    score = evaluate_child(model.to(device), images, config, dtype)
    return {"test_loss": score.loss, "test_accuracy": score.accuracy}
