"""The settings of every controller, and the values of paper, authors and this package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from enas.errors import ConfigError


def _require(holds: bool, setting: str, value: object, needs: str) -> None:
    if not holds:
        raise ConfigError(f"{setting} must be {needs}, not {value}")


@dataclass(frozen=True)
class ReinforceConfig:
    """How a policy learns from rewards: REINFORCE with Adam. The defaults are careful ones, for any policy."""

    learning_rate: float = 0.05
    """Adam's learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the gradient's mean and square."""
    eps: float = 1e-8
    """Adam's epsilon."""
    baseline: Literal["leave-one-out", "ema"] = "leave-one-out"
    """What is subtracted from a reward: the mean of the update's other rewards, or a moving average."""
    decay: float = 0.99
    """Share of the moving average kept at each reward (baseline 'ema')."""
    baseline_start: Literal["zero", "first-reward"] = "first-reward"
    """Where the moving average starts (baseline 'ema'). From zero, early advantages are all positive."""
    normalise_advantages: bool = True
    """Scale the advantages of an update to a root mean square of 1: the scale of rewards stops mattering."""
    entropy_weight: float = 0.1
    """Weight of the entropy (nats), which keeps the policy from collapsing early."""
    entropy: Literal["regulariser", "reward", "taken-action-in-reward"] = "regulariser"
    """Where the entropy enters: the loss, with gradient; the reward (paper); or the reward, where only the
    taken option's p log(1/p) counts (authors' recurrent and macro codes)."""
    skip_weight: float = 0.0
    """Weight of the skip penalty: the KL divergence (nats) of the probability of each skip connection from
    `skip_rate`, summed over the bits of a layer, averaged over the layers. For spaces with skip decisions."""
    skip_rate: float = 0.4
    """ρ: the probability of a skip connection at which the penalty is 0."""
    skip_penalty: Literal["regulariser", "reward"] = "regulariser"
    """Where the skip penalty enters: the loss, with gradient (authors' code); or the reward (paper), where it
    can only favour the paths on which it is small, so that an independent policy learns nothing from it."""
    max_grad_norm: float | None = None
    """Clip the gradient to this norm; None does not clip."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(
            all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers from 0 to below 1"
        )
        _require(self.eps > 0, "eps", self.eps, "above 0")
        _require(0 <= self.decay < 1, "decay", self.decay, "from 0 to below 1")
        _require(self.entropy_weight >= 0, "entropy_weight", self.entropy_weight, "0 or more")
        _require(self.skip_weight >= 0, "skip_weight", self.skip_weight, "0 or more")
        _require(0 < self.skip_rate < 1, "skip_rate", self.skip_rate, "above 0 and below 1")
        clip = self.max_grad_norm
        _require(clip is None or clip > 0, "max_grad_norm", clip, "above 0, or None")


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
class UniformConfig:
    """Random architectures, whatever the rewards."""


@dataclass(frozen=True)
class EvolutionConfig:
    """Regularised evolution (Real et al. 2019)."""

    population: int = 50
    """Architectures alive; so many are drawn uniformly at first."""
    tournament: int = 10
    """Members drawn, with replacement, of which the best is mutated."""

    def __post_init__(self) -> None:
        _require(self.population >= 1, "population", self.population, "1 or more")
        _require(self.tournament >= 1, "tournament", self.tournament, "1 or more")


@dataclass(frozen=True)
class IndependentConfig:
    """One distribution per decision, independent of the other decisions."""

    reinforce: ReinforceConfig = INDEPENDENT_REINFORCE
    """How the policy learns from rewards."""


@dataclass(frozen=True)
class LSTMConfig:
    """The paper's controller: an LSTM that decides node after node. The defaults are the paper's.

    A setting that means nothing in a space is refused there unless it is at its default.
    """

    hidden: int = 100
    """Units of the LSTM."""
    init_range: float = 0.1
    """All weights start uniform in ± this."""
    temperature: float | None = 5.0
    """Divides the logits, before the tanh; None does not."""
    tanh_constant: float | None = 2.5
    """Logits become this constant times their tanh, so none leaves ± the constant; None does not."""
    distance_prior: bool = False
    """Subtract (k - j)²/6 from the logit of node k reading node j, as the authors' recurrent codes do
    (recurrent space)."""
    tied_softmax: bool = False
    """Use the embeddings of functions or operations as their softmax weights too, as the authors' corrected
    code does."""
    operation_tanh_reduce: float = 1.0
    """Divides the tanh constant of operations (micro space)."""
    operation_prior: Literal["none", "authors"] = "none"
    """Favour separable convolutions at the start as much as the first released code does, by biases that are
    added after the tanh and learn (micro space)."""
    reinforce: ReinforceConfig = PAPER_REINFORCE
    """How the policy learns from rewards."""

    def __post_init__(self) -> None:
        _require(self.hidden >= 1, "hidden", self.hidden, "1 or more")
        _require(self.init_range > 0, "init_range", self.init_range, "above 0")
        for setting in ("temperature", "tanh_constant"):
            value = getattr(self, setting)
            _require(value is None or value > 0, setting, value, "above 0, or None")
        reduce = self.operation_tanh_reduce
        _require(reduce > 0, "operation_tanh_reduce", reduce, "above 0")
        _require(
            reduce == 1 or self.tanh_constant is not None,
            "operation_tanh_reduce",
            reduce,
            "1 where tanh_constant is None",
        )


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
