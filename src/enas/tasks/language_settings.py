"""The settings of language modelling: dropout, training, rewards."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from enas.constraints import (
    Count,
    Epochs,
    PartialShare,
    PositiveFloat,
    PositiveInt,
    Settings,
    Several,
    SomeShare,
    Weight,
    Width,
)


@dataclass(frozen=True)
class DropoutConfig(Settings):
    """Shares that are dropped. Every mask is drawn once a window and is the same at every time step (Gal &
    Ghahramani 2016), scaled by 1/(1 - rate), and off outside training."""

    words: PartialShare = 0.0
    """Words whose embedding becomes zero wherever they stand, on the input side."""
    words_per: Literal["batch", "sequence"] = "batch"
    """Whether the dropped words are the same for the whole batch (the authors' corrected code: rows of the
    embedding) or each sequence has its own (their first code)."""
    embeddings: PartialShare = 0.0
    """Components of the looked-up embeddings, per sequence."""
    cell_input: PartialShare = 0.0
    """Components of x_t at the input node, per sequence; multiplies with `embeddings`."""
    state: PartialShare = 0.0
    """Components of every state that enters a product inside the cell; the highway carry is never masked."""
    output: PartialShare = 0.0
    """Components of h_t before the softmax; the carried state is not masked."""


@dataclass(frozen=True)
class RegularisationConfig(Settings):
    """What keeps a language model from overfitting."""

    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    """Variational dropout, place by place."""
    l2: Weight = 1e-7
    """Weight c of c·Σw² over the weights that the step uses (PyTorch's weight_decay would be 2c)."""
    activation: Weight = 0.0
    """Weight of mean(h_t²): activation regularisation (Merity et al. 2017)."""
    slowness: Weight = 0.0
    """Weight of mean((h_t - h_{t-1})²) within a window: slowness, or temporal activation regularisation."""


@dataclass(frozen=True)
class SGDConfig(Settings):
    """Plain SGD with a clipped gradient."""

    learning_rate: PositiveFloat = 20.0
    """Multiplies the gradient of the mean loss per token; with random window lengths also multiplied by
    length/bptt."""
    decay: SomeShare = 0.96
    """Factor on the learning rate after every epoch, from `decay_from` on; 1 keeps it constant."""
    decay_from: Count = 15
    """The first epoch, counted from 1, after which the learning rate is decayed."""
    clip: PositiveFloat = 0.25
    """Bound on the global norm of the gradient."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch counted from 0."""
        return self.learning_rate * self.decay ** max(0, epoch + 1 - self.decay_from)


@dataclass(frozen=True)
class WindowConfig(Settings):
    """How the training text is cut."""

    batch: PositiveInt = 64
    """Rows the text is cut into, read side by side."""
    bptt: Several = 35
    """Time steps the gradient goes back through; the state is carried from window to window."""
    random_length: bool = False
    """Whether window lengths vary around `bptt` as in the authors' corrected code, rather than all being
    `bptt`."""


@dataclass(frozen=True)
class LanguageTrainingConfig(Settings):
    """A whole recipe of training: text windows, optimiser, regularisation."""

    windows: WindowConfig = field(default_factory=WindowConfig)
    """How the training text is cut."""
    sgd: SGDConfig = field(default_factory=SGDConfig)
    """The optimiser."""
    regularisation: RegularisationConfig = field(default_factory=RegularisationConfig)
    """Dropout, L2, activation and slowness terms."""
    init_range: PositiveFloat = 0.04
    """Weights start as U(-init_range, init_range)."""

    def stretched(self, factor: float) -> LanguageTrainingConfig:
        """The recipe with a learning rate that decays `factor` times as late and as slowly."""
        sgd = self.sgd
        later = replace(sgd, decay=sgd.decay ** (1 / factor), decay_from=round(factor * sgd.decay_from))
        return replace(self, sgd=later)


@dataclass(frozen=True)
class RewardConfig(Settings):
    """How a cell is rewarded."""

    scale: PositiveFloat = 80.0
    """The c of c / perplexity."""
    batch: PositiveInt = 64
    """Rows of the validation minibatch."""
    bptt: PositiveInt = 35
    """Time steps of the validation minibatch; its state starts at zero and is not carried."""
    windows: Literal["random", "sequential"] = "random"
    """Where the minibatch of an update is taken from: anywhere (first released code), or the next window in
    order (corrected code)."""
    statistics: Literal["batch", "moving"] = "batch"
    """Which statistics the supernet's batch norm uses for rewards; without batch norm it makes no
    difference."""


@dataclass(frozen=True)
class SharedConfig(Settings):
    """How the shared weights are built, trained and used for rewards."""

    hidden: Width = 200
    """Width of the cell and of the tied embedding."""
    training: LanguageTrainingConfig = field(default_factory=LanguageTrainingConfig)
    """The recipe of the shared weights' steps."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The controller's reward."""
    average: PartialShare = 0.0
    """Share of a moving average of the shared weights that is kept at every training step. Rewards are computed with the
    average; 0 computes them with the weights themselves (paper, authors)."""


@dataclass(frozen=True)
class AveragingConfig(Settings):
    """Averaged SGD: the mean of the weights over the last steps is what is evaluated and kept."""

    enabled: bool = False
    """Whether the weights are averaged at all."""
    patience: Count = 10
    """Averaging starts once an epoch's validation loss is worse than the best of all but the last `patience` epochs
    (authors' corrected code; Merity et al. 2017)."""

    def starts(self, valid_losses: list[float]) -> bool:
        """Whether the last of these validation losses triggers the averaging."""
        earlier = valid_losses[: -1 - self.patience]
        return self.enabled and bool(earlier) and valid_losses[-1] > min(earlier)


@dataclass(frozen=True)
class ChildTrainingConfig(Settings):
    """The recipe that a network is trained with from scratch."""

    hidden: Width = 200
    """Width of the cell and of the tied embedding."""
    epochs: Epochs = 150
    """Passes over the training text."""
    training: LanguageTrainingConfig = field(default_factory=LanguageTrainingConfig)
    """Text windows, optimiser, regularisation."""
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    """Averaged SGD."""
    eval_batch: PositiveInt = 64
    """Rows of the validation text, read side by side after every epoch."""

    def reading(self) -> RewardConfig:
        """How the validation text is read."""
        return RewardConfig(batch=self.eval_batch, bptt=self.training.windows.bptt)
