"""Settings that the recipes of both convolutional spaces share."""

from __future__ import annotations

from dataclasses import replace

from enas.data.augmentation import AugmentConfig
from enas.recipes.common import PAPER_REINFORCE
from enas.runs.images import ImageRetrainConfig
from enas.tasks.image_settings import CosineConfig, ImageChildConfig, ImageTrainingConfig, MomentumConfig

FIRST_CODE_REINFORCE = replace(PAPER_REINFORCE, learning_rate=3.5e-3, betas=(0.0, 0.999), eps=1e-3)
"""The first code's for convolutional cells."""


def training(
    batch: int, high: float, low: float, period: int = 10, decay: float = 1e-4, cutout: int = 0
) -> ImageTrainingConfig:
    """Nesterov momentum with a cosine from `high` to `low`, first of `period` epochs, and a weight decay."""
    return ImageTrainingConfig(
        batch=batch,
        cosine=CosineConfig(high, low, first_period=period),
        momentum=MomentumConfig(weight_decay=decay),
        augmentation=AugmentConfig(cutout=cutout),
    )


def on_digits(epochs: int) -> ImageTrainingConfig:
    """One cosine over `epochs`; digits have a side, so none is flipped."""
    augmentation = AugmentConfig(pad=1, flip=False)
    return replace(training(64, 0.1, 0.001, epochs), augmentation=augmentation)


def retraining(epochs: int, training: ImageTrainingConfig) -> ImageRetrainConfig:
    """On the validation images too, as published results are; the found network alone."""
    return ImageRetrainConfig(child=ImageChildConfig(epochs, training, train_on="all"))
