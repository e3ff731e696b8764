"""The settings of every controller, and the values of paper, authors and this package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from enas.constraints import (
    InnerShare,
    LearningRate,
    PartialShare,
    PositiveFloat,
    SampleSize,
    Settings,
    Weight,
    Width,
)
from enas.errors import ConfigError


@dataclass(frozen=True)
class ReinforceConfig(Settings):
    """How a policy learns from rewards: REINFORCE with Adam. The defaults are careful ones, for any policy."""

    learning_rate: LearningRate = 0.05
    """Adam's learning rate."""
    betas: tuple[PartialShare, PartialShare] = (0.9, 0.999)
    """Adam's decay rates of the gradient's mean and square."""
    eps: PositiveFloat = 1e-8
    """Adam's epsilon."""
    baseline: Literal["leave-one-out", "ema"] = "leave-one-out"
    """What is subtracted from a reward: the mean of the update's other rewards, or a moving average."""
    decay: PartialShare = 0.99
    """Share of the moving average kept at each reward (baseline 'ema')."""
    baseline_start: Literal["zero", "first-reward"] = "first-reward"
    """Where the moving average starts (baseline 'ema'). From zero, early advantages are all positive."""
    normalise_advantages: bool = True
    """Scale the advantages of an update to a root mean square of 1: the scale of rewards stops mattering."""
    entropy_weight: Weight = 0.1
    """Weight of the entropy (nats), which keeps the policy from collapsing early."""
    entropy: Literal["regulariser", "reward", "taken-action-in-reward"] = "regulariser"
    """Where the entropy enters: the loss, with gradient; the reward (paper); or the reward, where only the
    taken option's p log(1/p) counts (authors' recurrent and macro codes)."""
    skip_weight: Weight = 0.0
    """Weight of the skip penalty: the KL divergence (nats) of the probability of each skip connection from
    `skip_rate`, summed over the bits of a layer, averaged over the layers. For spaces with skip decisions."""
    skip_rate: InnerShare = 0.4
    """ρ: the probability of a skip connection at which the penalty is 0."""
    skip_penalty: Literal["regulariser", "reward"] = "regulariser"
    """Where the skip penalty enters: the loss, with gradient (authors' code); or the reward (paper), where it
    can only favour the paths on which it is small, so that an independent policy learns nothing from it."""
    max_grad_norm: PositiveFloat | None = None
    """Clip the gradient to this norm; None does not clip."""


INDEPENDENT_REINFORCE = ReinforceConfig(learning_rate=0.2, entropy_weight=0.15)
"""For independent decisions: learns within a few dozen updates, and keeps part of the entropy in long searches."""

PATIENT_REINFORCE = ReinforceConfig(learning_rate=0.05, entropy_weight=0.1)
"""For independent decisions in searches of several hundred updates, whose rewards change with the shared weights: takes
the mean over some hundred updates, where a faster policy would settle on what the weights favour at the moment."""

PAPER_REINFORCE = ReinforceConfig(
    learning_rate=3.5e-4,
    baseline="ema",
    decay=0.99,
    baseline_start="zero",
    normalise_advantages=False,
    entropy_weight=1e-4,
    entropy="reward",
)
"""The paper's; where it is silent (decay and start of the moving average) the first released code's."""

AUTHORS_REINFORCE = ReinforceConfig(
    learning_rate=5e-5,
    baseline="ema",
    decay=0.999,
    baseline_start="zero",
    normalise_advantages=False,
    entropy_weight=1e-5,
    entropy="taken-action-in-reward",
)
"""The authors' corrected recurrent code's; it makes an update of 10 proposals."""

AUTHORS_CONVOLUTIONAL_REINFORCE = replace(
    PAPER_REINFORCE, learning_rate=3.5e-3, betas=(0.0, 0.999), eps=1e-3, entropy_weight=1e-4
)
"""The first released code's for convolutional cells."""


@dataclass(frozen=True)
class UniformConfig(Settings):
    """Random architectures, whatever the rewards."""


@dataclass(frozen=True)
class EvolutionConfig(Settings):
    """Regularised evolution (Real et al. 2019)."""

    population: SampleSize = 50
    """Architectures alive; so many are drawn uniformly at first."""
    tournament: SampleSize = 10
    """Members drawn, with replacement, of which the best is mutated."""


@dataclass(frozen=True)
class IndependentConfig(Settings):
    """One distribution per decision, independent of the other decisions."""

    reinforce: ReinforceConfig = INDEPENDENT_REINFORCE
    """How the policy learns from rewards."""


@dataclass(frozen=True)
class LSTMConfig(Settings):
    """The paper's controller: an LSTM that decides node after node. The defaults are the paper's.

    A setting that means nothing in a space is refused there unless it is at its default.
    """

    hidden: Width = 100
    """Units of the LSTM."""
    init_range: PositiveFloat = 0.1
    """All weights start uniform in ± this."""
    temperature: PositiveFloat | None = 5.0
    """Divides the logits, before the tanh; None does not."""
    tanh_constant: PositiveFloat | None = 2.5
    """Logits become this constant times their tanh, so none leaves ± the constant; None does not."""
    distance_prior: bool = False
    """Subtract (k - j)²/6 from the logit of node k reading node j, as the authors' recurrent codes do
    (recurrent space)."""
    tied_softmax: bool = False
    """Use the embeddings of functions or operations as their softmax weights too, as the authors' corrected
    code does."""
    operation_tanh_reduce: PositiveFloat = 1.0
    """Divides the tanh constant of operations (micro space)."""
    operation_prior: Literal["none", "authors"] = "none"
    """Favour separable convolutions at the start as much as the first released code does, by biases that are
    added after the tanh and learn (micro space)."""
    reinforce: ReinforceConfig = PAPER_REINFORCE
    """How the policy learns from rewards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        reduce = self.operation_tanh_reduce
        if reduce != 1 and self.tanh_constant is None:
            raise ConfigError(f"operation_tanh_reduce must be 1 where tanh_constant is None, not {reduce}")


ControllerConfig = UniformConfig | EvolutionConfig | IndependentConfig | LSTMConfig

DEFAULT = IndependentConfig()
"""What works by today's evidence; meant for 4 to 8 proposals an update."""

PAPER = LSTMConfig()
"""The paper's recurrent search (appendix A)."""

PAPER_MACRO = LSTMConfig(
    reinforce=replace(PAPER_REINFORCE, entropy_weight=0.1, skip_weight=0.8, skip_penalty="reward")
)
"""The paper's search for a whole convolutional network (§3.2)."""

PAPER_MICRO = LSTMConfig(reinforce=replace(PAPER_REINFORCE, entropy_weight=0.1))
"""The paper's search for convolutional cells (§3.2)."""

AUTHORS = LSTMConfig(
    hidden=64,
    init_range=0.01,
    temperature=5.0,
    tanh_constant=2.25,
    distance_prior=True,
    tied_softmax=True,
    reinforce=AUTHORS_REINFORCE,
)
"""The authors' corrected recurrent search."""

AUTHORS_MACRO = LSTMConfig(
    hidden=64,
    temperature=None,
    tanh_constant=1.5,
    reinforce=replace(
        AUTHORS_CONVOLUTIONAL_REINFORCE,
        learning_rate=1e-3,
        entropy="taken-action-in-reward",
        skip_weight=0.8,
        skip_penalty="regulariser",
    ),
)
"""The authors' first released code's search for a whole network; it makes an update of 20 proposals."""

AUTHORS_MICRO = LSTMConfig(
    hidden=64,
    temperature=None,
    tanh_constant=1.10,
    operation_tanh_reduce=2.5,
    operation_prior="authors",
    reinforce=AUTHORS_CONVOLUTIONAL_REINFORCE,
)
"""The authors' first released code's search for cells; it makes an update of 10 proposals."""
