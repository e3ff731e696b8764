"""Image classification as a task (paper, §3.2). The reward of an architecture is its accuracy on a minibatch of the
validation images.

Shape letters: B images of a minibatch, N images of a split or architectures, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture
from enas.costs import multiply_adds, parameter_count
from enas.data.images import ImageData
from enas.norms import Norms, recalibrate
from enas.runtime.seeding import generator
from enas.spaces.image_network import ImageChild, ImageModel, Outputs
from enas.task import BaseTask, Example, Loss, Score, Split
from enas.tasks.image_data import EvaluationImages, Minibatch, TrainingImages, is_right
from enas.tasks.image_settings import ImageRewardConfig, ImageTrainingConfig


class ImageTask(BaseTask):
    """Telling the classes of images."""

    reported: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    metric: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "image"

    def __init__(
        self,
        data: ImageData,
        training: ImageTrainingConfig,
        reading: ImageRewardConfig,
        *,
        train_on: Literal["train", "all"] = "train",
        epochs: int = 1,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool = False,
    ) -> None:
        """`reading` says how images are evaluated; with `train_on` all of them, no validation images are left. Drop-path
        grows over so many `epochs`. With `channels_last`, images and filters lie in memory with their channels together."""
        super().__init__(seed=seed, device=device, dtype=dtype, statistics=reading.statistics)
        self.memory_format = torch.channels_last if channels_last else None
        self.data = data
        self.training = training
        self.reading = reading
        self.train_on = train_on
        self.epochs = epochs
        self.clip = training.momentum.clip
        images = data.joined() if train_on == "all" else data.train
        self.train = TrainingImages(images, images.normalisation, training, seed, device)

    @cached_property
    def valid(self) -> EvaluationImages:
        """The validation images."""
        return EvaluationImages(self.data.valid, self.train.normalisation, self.device)

    @cached_property
    def test(self) -> EvaluationImages:
        """The test images."""
        return EvaluationImages(self.data.test, self.train.normalisation, self.device)

    def images(self, split: Split) -> EvaluationImages:
        """The images of a split."""
        return self.valid if split == "valid" else self.test

    # ---- training ------------------------------------------------------------------------------------------------------

    def steps(self, epoch: int) -> int:
        return self.train.steps

    def minibatch(self, epoch: int, step: int) -> Minibatch:
        (done,) = self.mask_place(epoch, step)
        progress = (done + 1) / (self.epochs * self.train.steps)
        return self.train.minibatch(epoch, step)._replace(progress=progress)

    def part(self, minibatch: Minibatch) -> Minibatch:
        return Minibatch(minibatch.images_BCHW[:8], minibatch.labels_B[:8])

    def shard(self, minibatch: Minibatch, part: int, parts: int) -> tuple[Minibatch, float]:
        images_BCHW, labels_B = minibatch.images_BCHW, minibatch.labels_B
        chosen_B = labels_B.tensor_split(parts)[part]
        shard = minibatch._replace(images_BCHW=images_BCHW.tensor_split(parts)[part], labels_B=chosen_B)
        return shard, len(chosen_B) / len(labels_B)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        config = self.training.momentum
        return torch.optim.SGD(
            parameters,
            self.training.cosine.high,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=True,
            foreach=not self.fused,
            fused=self.fused,
        )

    def rate(self, epoch: int) -> float:
        return self.training.cosine.rate(epoch)

    def mask_place(self, epoch: int, step: int) -> tuple[int, ...]:
        return (epoch * self.train.steps + step,)

    def described(self, log: dict[str, float]) -> dict[str, float]:
        return {**log, "accuracy": 100 * log["accuracy"]}

    def loss(
        self, model: nn.Module, minibatch: Minibatch, architecture: Architecture | None, slot: int
    ) -> Loss:
        if isinstance(model, ImageModel):
            model.progress = minibatch.progress
        outputs = outputs_of(model, self.laid_out(minibatch.images_BCHW), architecture)
        return classification_loss(outputs, minibatch.labels_B, self.training.auxiliary_weight)

    # ---- evaluation ----------------------------------------------------------------------------------------------------

    def reward_minibatch(self, purpose: str, draw: int) -> Minibatch:
        return self.valid.sample(self.reading.batch, generator(self.seed, "reward", purpose, draw))

    def measure(self, model: nn.Module, minibatch: Minibatch, architecture: Architecture) -> Tensor:
        scores_BK = self.scores_of(model, architecture)(minibatch.images_BCHW)
        return is_right(scores_BK, minibatch.labels_B).float().mean()

    def rewards_from(self, measured_N: Tensor) -> Tensor:
        return measured_N

    def describe_reward(self, reward: float) -> dict[str, float]:
        return {"valid_accuracy": 100 * reward, "valid_error": 100 * (1 - reward)}

    def evaluate(
        self, model: nn.Module, split: Split, architecture: Architecture | None = None
    ) -> Score | None:
        if split == "valid" and self.train_on == "all":
            return None
        loss, accuracy = self.images(split).score(self.scores_of(model, architecture), self.reading.batch)
        return {"loss": loss, "accuracy": accuracy}

    def sort_key(self, score: Score) -> tuple[float, ...]:
        return score["accuracy"], -score["loss"]

    def calibrate(
        self, model: nn.Module, norms: Norms, architecture: Architecture | None, *purpose: str | int
    ) -> None:
        draw = generator(self.seed, "recalibration", *purpose)
        minibatches = self.train.samples(self.reading.recalibration_batches, draw)
        recalibrate(norms, minibatches, self.scores_of(model, architecture))

    def class_probabilities(
        self, model: nn.Module, split: Split, architecture: Architecture, batch: int
    ) -> Tensor:
        return self.images(split).class_scores(self.scores_of(model, architecture), batch).softmax(1)

    def inputs(self, minibatch: Minibatch) -> Tensor:
        return minibatch.images_BCHW

    def labels(self, split: Split) -> Tensor:
        return self.images(split).labels_N

    def scores_of(self, model: nn.Module, architecture: Architecture | None) -> Callable[[Tensor], Tensor]:
        """The network as a function from normalised images to class scores [B, K]."""
        return lambda images_BCHW: outputs_of(model, self.laid_out(images_BCHW), architecture).logits_BK

    # ---- what there is to know -----------------------------------------------------------------------------------------

    def parameters(self, model: nn.Module) -> int:
        """Without an auxiliary head, which serves the training only."""
        auxiliary = model.auxiliary if isinstance(model, ImageChild) else None
        return parameter_count(model) - (0 if auxiliary is None else parameter_count(auxiliary))

    def size(self, model: nn.Module) -> dict[str, int]:
        return {
            "parameters": self.parameters(model),
            "multiply_adds": multiply_adds(model, self.data.shape),
        }

    def example(self, batch: int | None = None) -> Example:
        """One image, or `batch` images, of random pixels."""
        count, shape = batch or 1, self.data.shape
        drawn = torch.randn(
            count, shape.channels, shape.height, shape.width, generator=generator(0, "example"), device="cpu"
        )
        return Example((drawn.to(self.device),), {}, count, count)

    @property
    def data_bytes(self) -> int:
        valid = 0 if self.train_on == "all" else self.valid.images.images_NCHW.nbytes
        return self.train.images.images_NCHW.nbytes + valid


def outputs_of(model: nn.Module, images_BCHW: Tensor, architecture: Architecture | None) -> Outputs:
    """What a supernet, along a path, or a network of its own makes of images, the auxiliary head's scores among it."""
    outputs: Outputs = (
        model.outputs(images_BCHW) if isinstance(model, ImageChild) else model(images_BCHW, architecture)
    )
    return outputs


def classification_loss(outputs: Outputs, labels_B: Tensor, auxiliary_weight: float) -> Loss:
    """The cross-entropy of the class scores, that of the auxiliary head added; logged are those of the main head alone."""
    loss = F.cross_entropy(outputs.logits_BK, labels_B)
    total = loss
    if outputs.auxiliary_BK is not None:
        total = loss + auxiliary_weight * F.cross_entropy(outputs.auxiliary_BK, labels_B)
    right = (outputs.logits_BK.detach().argmax(1) == labels_B).float().mean()
    return Loss(total, {"loss": loss.detach(), "accuracy": right})
