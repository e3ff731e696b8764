"""How a policy is doing while it learns: pure functions on tensors, logged by the search.

Shape letters: N proposals of one update, L decisions, K options of the decision that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from enas.architecture import Space
from enas.errors import ConfigError


class GradientPower(NamedTuple):
    """Unbiased estimates of two squared lengths; that of the signal may by chance fall below 0."""

    signal: float
    """Of the true gradient ∇J."""
    noise: float
    """Of what an update's gradient differs from it by, on average: the trace of its covariance."""


def gradient_power(logits_NLK: Tensor, choices_NL: Tensor, reward_N: Tensor) -> GradientPower:
    """Signal and noise in the policy gradient of one update, in the space of the logits along each path.

    `signal / noise` is |G|² / (tr Σ / N), the signal-to-noise ratio whose inverse is N times smaller than the "simple
    noise scale" of McCandlish et al. 2018 ("An Empirical Model of Large-Batch Training", §2.2), as there estimated from
    sums over updates, not from one of them. G is the gradient of E[R], and a proposal's estimate of it
    ∇ log π(a) · (R - the mean reward of the others), whatever baseline the controller itself subtracts. Through that
    baseline two proposals' estimates are correlated: the mean of their inner products is (1 + 1/(N-1)²) |G|², which is
    divided out. Logits are the parameters of an independent policy; for another, the ones along its paths stand for them.

    Raises `ConfigError` for fewer than 2 proposals, which show no noise.
    """
    n = len(choices_NL)
    if n < 2:
        raise ConfigError(f"the noise of a gradient needs at least 2 proposals, not {n}")
    if bool((reward_N == reward_N[0]).all()):
        return GradientPower(0.0, 0.0)  # and not what rounding their mean leaves
    probability_NLK = logits_NLK.detach().cpu().double().softmax(-1)
    taken_NLK = torch.nn.functional.one_hot(choices_NL.cpu(), probability_NLK.shape[-1])
    reward_N = reward_N.to(probability_NLK)
    advantage_N = (reward_N - reward_N.mean()) * (n / (n - 1))
    estimate_ND = ((taken_NLK - probability_NLK) * advantage_N[:, None, None]).flatten(1)
    of_mean = float(estimate_ND.mean(0).square().sum())
    of_each = float(estimate_ND.square().sum(1).mean())
    between_two = (n * of_mean - of_each) / (n - 1)
    signal = between_two / (1 + 1 / (n - 1) ** 2)
    return GradientPower(signal, of_mean - signal)


def relative_probabilities(logits_NLK: Tensor, uniform_NLK: Tensor) -> tuple[float, float]:
    """The smallest and the largest probability of any option along these paths, in units of the one that uniform sampling
    gives it: 1 is uniform. `uniform_NLK` are the logits of uniform sampling along the same paths, or one row for all."""
    possible_NLK = uniform_NLK > -torch.inf
    counts_NL1 = possible_NLK.sum(-1, keepdim=True)
    relative_NLK = (
        logits_NLK.detach().cpu().double().softmax(-1) * counts_NL1 / uniform_NLK.cpu().double().exp()
    )
    found = relative_NLK[possible_NLK.expand_as(relative_NLK)]
    return float(found.min()), float(found.max())


def attainable_probabilities(low_LK: Tensor, high_LK: Tensor) -> Tensor:
    """The largest probability [..., L, K] that each option can have where logits lie in [low, high]; 0 where there is none.

    That is 1 / (1 + Σ over the other options of exp(their low - its high)): its limit, not a maximum, as a tanh never
    reaches 1.
    """
    low_LK, high_LK = low_LK.double(), high_LK.double()
    exists_LK = ~high_LK.isneginf()
    over_LKK = (
        low_LK[..., None, :] - high_LK[..., None]
    )  # of every other option (last), seen from each (middle)
    itself_KK = torch.eye(low_LK.shape[-1], dtype=torch.bool)
    over_LKK = over_LKK.masked_fill(itself_KK | ~exists_LK[..., None, :], -torch.inf)
    return torch.where(exists_LK, 1 / (1 + over_LKK.exp().sum(-1)), 0.0)


class ParameterFree(NamedTuple):
    """How many parameter-free options an architecture takes."""

    taken: int
    asked: int
    """Decisions that offer one and are active."""
    expected: float
    """How many a uniformly random architecture takes on average, at the same decisions after the same choices."""
    chance: float
    """The probability that such an architecture takes at least as many."""

    @property
    def share(self) -> float:
        """Of the decisions that offer one."""
        return self.taken / self.asked


def parameter_free(space: Space, choices: Sequence[int]) -> ParameterFree | None:
    """The parameter-free options among these choices; None where no active decision offers one."""
    taken, distribution, expected = 0, [1.0], 0.0  # distribution[n]: of n taken by a random architecture
    asked_L = space.active(choices)
    for place, (choice, decision) in enumerate(zip(choices, space.decisions, strict=True)):
        free = space.parameter_free(decision)
        if not free or not asked_L[place]:
            continue
        taken += decision.options[choice] in free
        p = len(free) / len(decision.options)
        if space.conditional:
            weights = zip(decision.options, space.weights(choices[:place]), strict=True)
            p = sum(weight for option, weight in weights if option in free)
        expected += p
        kept, more = [*distribution, 0.0], [0.0, *distribution]
        distribution = [(1 - p) * a + p * b for a, b in zip(kept, more, strict=True)]
    asked = len(distribution) - 1
    return ParameterFree(taken, asked, expected, sum(distribution[taken:])) if asked else None


UNUSUAL = 0.05
"""What fewer than one in twenty random architectures have is not put down to chance."""


def collapsed(found: ParameterFree, share: float) -> bool:
    """Whether at least this share of the choices is parameter-free, and random architectures rarely take as many."""
    return found.share >= share and found.chance < UNUSUAL


def collapse_warning(found: ParameterFree) -> str:
    """What to tell a person, in one line."""
    return (
        f"warning: the policy's mode takes parameter-free options at {found.taken} of the {found.asked} decisions that "
        f"offer one (a random architecture: {found.expected:.1f}). The policy may have collapsed: shared weights favour "
        "what has nothing to learn. A longer --search.warmup, --search.explore above 0, or a larger "
        "--controller.reinforce.entropy-weight counter it"
    )
