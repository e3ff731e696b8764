"""The settings of image classification: training, rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from enas.constraints import Epochs, InnerShare, PartialShare, PositiveFloat, PositiveInt, Settings, Weight
from enas.data.augmentation import AugmentConfig
from enas.errors import ConfigError
from enas.norms import NormStatistics


@dataclass(frozen=True)
class CosineConfig(Settings):
    """A learning rate that falls as half a cosine within a period and then starts again (Loshchilov & Hutter 2017).

    With the paper's periods of 10, 20, 40, … epochs it starts again in epochs 10, 30, 70, 150, 310 and 630.
    """

    high: PositiveFloat = 0.05
    """The rate in the first epoch of a period."""
    low: PositiveFloat = 0.001
    """What the rate falls to; the period ends one epoch before it is reached."""
    first_period: PositiveInt = 10
    """Epochs of the first period; as many as the training has give one fall without a restart."""
    period_factor: PositiveInt = 2
    """How many times longer each period is than the one before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ConfigError(f"low must be at most high, which is {self.high}, not {self.low}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch counted from 0, the same for all of its steps."""
        since, period = epoch, self.first_period
        while since >= period:
            since -= period
            period *= self.period_factor
        return self.low + (self.high - self.low) * (1 + math.cos(math.pi * since / period)) / 2


@dataclass(frozen=True)
class MomentumConfig(Settings):
    """SGD with Nesterov momentum: v ← m·v + g, w ← w - rate·(g + m·v), only where there is a gradient."""

    momentum: InnerShare = 0.9
    """m, the share of the earlier steps that is kept."""
    weight_decay: Weight = 1e-4
    """d in g = gradient of the loss + d·w: half of it is the weight of Σw² in the loss."""
    clip: PositiveFloat | None = None
    """Bound on the global norm of the gradient, before the weight decay; None for no bound."""


@dataclass(frozen=True)
class ImageTrainingConfig(Settings):
    """A whole recipe of training: minibatches, learning rate, optimiser, augmentation."""

    batch: PositiveInt = 128
    """Images a step."""
    drop_last: bool = False
    """Whether a pass leaves out the images that do not fill a minibatch, rather than taking a smaller one."""
    cosine: CosineConfig = field(default_factory=CosineConfig)
    """The learning rate, epoch by epoch."""
    momentum: MomentumConfig = field(default_factory=MomentumConfig)
    """The optimiser."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """How training images are varied."""
    auxiliary_weight: Weight = 0.4
    """Weight of the auxiliary head's cross-entropy, for networks that have one."""

    def stretched(self, factor: float) -> ImageTrainingConfig:
        """The recipe with periods of the learning rate that are `factor` times as long."""
        period = max(1, round(factor * self.cosine.first_period))
        return replace(self, cosine=replace(self.cosine, first_period=period))


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

    def reading(self) -> ImageRewardConfig:
        """How the validation images are read."""
        return ImageRewardConfig(self.eval_batch, self.evaluation, self.recalibration_batches)
