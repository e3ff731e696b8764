"""Recipes of spaces so small that all of their networks are trained; `enas.evidence.tables` has what they reach.

Source: settings of this package, chosen by small samples so that a training takes seconds on one core and that two
trainings of an architecture with different seeds differ far less than those of two architectures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from enas.config import RunConfig
from enas.data.augmentation import AugmentConfig
from enas.data.images import ImageConfig
from enas.data.text import TextConfig
from enas.derive import DeriveConfig
from enas.recipes.macro import macro_quick
from enas.recipes.micro import micro_quick
from enas.recipes.recurrent import recurrent_quick
from enas.runs.images import ImageRetrainConfig, MacroConfig, MicroConfig
from enas.runs.recurrent import RecurrentConfig
from enas.spaces.macro.net import MacroNetConfig
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.image_settings import CosineConfig, ImageChildConfig, ImageTrainingConfig, MomentumConfig
from enas.verification import VerifyConfig

DERIVE = DeriveConfig("shortlist", samples=16, minibatches=4, shortlist=4)
"""How a search on a mini-space picks: the best of four by the table's validation scores."""
VERIFIED = VerifyConfig(trainings=12)
"""How many architectures a search on images looks up while it goes on."""


def recurrent() -> RecurrentConfig:
    """Cells of three searched nodes, 4^3 · 2! = 128 of them, on 2,000 words of Python's own standard library.

    The bound on the gradient is low, as cells without a tanh or a sigmoid otherwise diverge: 12 of 16 did within 80 steps
    at 0.25.
    """
    quick = recurrent_quick()
    child = quick.retrain.child
    sgd = replace(child.training.sgd, clip=0.05, decay_from=3)
    return replace(
        quick,
        data=TextConfig(
            "stdlib",
            max_vocabulary=2000,
            max_train_tokens=120_000,
            max_valid_tokens=20_000,
            max_test_tokens=20_000,
        ),
        space=RecurrentSpace(nodes=3),
        shared=replace(quick.shared, hidden=64),
        search=replace(quick.search, epochs=8),
        derive=DERIVE,
        retrain=replace(
            quick.retrain,
            child=replace(child, hidden=64, training=replace(child.training, sgd=sgd)),
            lstm=False,
            random=0,
        ),
    )


def convolutional() -> MacroConfig:
    """Networks of three layers with three operations, 3^3 · 2^3 = 216 of them, on 150 training digits.

    With more images, or longer trainings, all networks are alike. They are wide, as narrow ones differ more from seed to
    seed.
    """
    quick = macro_quick()
    return replace(
        quick,
        data=ImageConfig("digits", valid=800, test=847, max_train=950),
        space=MacroSpace(layers=3, operations=("conv3x3", "sep3x3", "avg3x3")),
        network=MacroNetConfig(filters=32, dropout=0.0),
        child_network=MacroNetConfig(filters=56, dropout=0.0),
        shared=replace(quick.shared, training=few_images(0.05, epochs=240)),
        search=replace(quick.search, epochs=240, updates=2),
        verify=VERIFIED,
        derive=replace(DERIVE, shortlist_order="corrected"),
        retrain=trained_alone(0.015, epochs=20),
    )


def cells() -> MicroConfig:
    """Cells of one node, each both the normal and the reduction cell, (2 · 5)^2 = 100 of them, on 300 training digits.

    Longer trainings, or more images, make cells alike. All are trained with four seeds, whose mean is a truth that a
    search's scores can agree with better than two trainings agree with each other.
    """
    quick = micro_quick()
    network = replace(quick.network, filters=16, layers=1)
    return replace(
        quick,
        data=ImageConfig("digits", valid=650, test=847, max_train=950),
        space=MicroSpace(nodes=1, one_cell=True),
        network=network,
        child_network=network,
        shared=replace(quick.shared, training=few_images(0.05, epochs=240)),
        search=replace(quick.search, epochs=240, updates=3),
        verify=VERIFIED,
        derive=replace(DERIVE, shortlist_order="corrected"),
        retrain=trained_alone(0.05, epochs=15),
    )


def trained_alone(rate: float, epochs: int) -> ImageRetrainConfig:
    """The training of a row, with norms of the whole training data in the end."""
    training = few_images(rate, epochs)
    child = ImageChildConfig(epochs=epochs, training=training, evaluation="recalibrated")
    return ImageRetrainConfig(random=0, child=child)


def few_images(rate: float, epochs: int) -> ImageTrainingConfig:
    """The recipe of shared and of own weights: the learning rate falls once over `epochs`."""
    return ImageTrainingConfig(
        batch=50,
        cosine=CosineConfig(rate, 0.001, first_period=epochs),
        momentum=MomentumConfig(weight_decay=1e-4),
        augmentation=AugmentConfig(pad=1, flip=False),
    )


MINI_RECIPES: dict[str, Callable[[], RunConfig]] = {
    "recurrent": recurrent,
    "convolutional": convolutional,
    "cells": cells,
}
