"""The settings within those of a run of a user's own network. They are classes of their own for the sake of their defaults:
`NetworkSearchConfig(epochs=20)` has those for such networks, and a plain `SearchConfig` is refused, as it has others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from enas.constraints import (
    Count,
    Epochs,
    PartialShare,
    PositiveInt,
    SampleCount,
    SampleSize,
    Settings,
    Share,
    Weight,
)
from enas.derive import DeriveConfig, Order
from enas.norms import NormStatistics
from enas.phases import SearchConfig
from enas.recipes.common import shortlisted, verifying
from enas.retrain import RetrainConfig
from enas.tasks.training_settings import Training
from enas.verification import VerifyConfig

EPOCHS = 30
"""Of a training from scratch, from which those of shorter ones follow."""
_VERIFYING, _SHORTLISTED = verifying(EPOCHS), shortlisted(EPOCHS)


@dataclass(frozen=True)
class NetworkSearchConfig(SearchConfig):
    """How long the search is, and how its two phases alternate."""

    epochs: Epochs = 40
    warmup: Share = 0.5
    explore: Share = 1.0
    updates: Count = 20
    proposals: SampleSize = 8
    percentile_every: PositiveInt | None = 10


@dataclass(frozen=True)
class NetworkVerifyConfig(VerifyConfig):
    """Which architectures are trained alone during the search, and what for."""

    trainings: SampleCount = _VERIFYING.trainings
    rounds: PositiveInt = _VERIFYING.rounds
    epochs: Epochs = _VERIFYING.epochs


@dataclass(frozen=True)
class NetworkDeriveConfig(DeriveConfig):
    """How an architecture is picked from the trained policy."""

    samples: PositiveInt = _SHORTLISTED.samples
    minibatches: PositiveInt = _SHORTLISTED.minibatches
    shortlist: SampleSize = _SHORTLISTED.shortlist
    shortlist_epochs: Epochs = _SHORTLISTED.shortlist_epochs
    shortlist_order: Order = _SHORTLISTED.shortlist_order
    corrected_weight: Weight = _SHORTLISTED.corrected_weight


@dataclass(frozen=True)
class NetworkRewardConfig(Settings):
    """How architectures are rewarded with the shared weights."""

    statistics: NormStatistics = "batch"
    """What batch norms normalise by: the minibatch's own statistics; the moving averages of the training; or means over a
    few training batches, gathered for the architecture."""
    recalibration_batches: PositiveInt = 4
    """Training batches for `recalibrated` statistics."""


@dataclass(frozen=True)
class NetworkSharedConfig(Settings):
    """How the shared weights are trained, and what they reward."""

    training: Training | None = None
    """The recipe; None is the task's own."""
    reward: NetworkRewardConfig = field(default_factory=NetworkRewardConfig)
    """The reward."""
    average: PartialShare = 0.99
    """Share of a moving average of the weights, with which rewards are computed, that is kept at every step; 0 for the
    weights themselves."""


@dataclass(frozen=True)
class NetworkChildConfig(Settings):
    """How a network is trained from scratch."""

    epochs: Epochs = EPOCHS
    """Passes over the training data."""
    training: Training | None = None
    """The recipe; None is the task's own."""
    statistics: NormStatistics = "moving"
    """What batch norms normalise by in an evaluation; `recalibrated` is gathered before every one."""
    recalibration_batches: PositiveInt = 4
    """Training batches for `recalibrated` statistics."""


@dataclass(frozen=True)
class NetworkRetrainConfig(RetrainConfig):
    """How the found network is trained from scratch, and what is trained beside it."""

    child: NetworkChildConfig = field(default_factory=NetworkChildConfig)
    """The recipe, the same for every network."""
    short_schedule: Literal["cut", "squeezed"] = "squeezed"
    """The learning rate of a training that is shorter than the recipe's, for a shortlist or a verification: the recipe's
    schedule `cut` off, or `squeezed` into the shorter time."""
