"""REINFORCE (Williams 1992; paper §2.2) as pure functions: baselines, advantages, entropies, penalty, the loss.

The gradient of the expected reward is E[∇ log π(a) · (R(a) - b)] for every b that does not depend on a.
Rewards, baselines and advantages are plain numbers, without gradient, in float64 on the CPU.

Shape letters: N proposals of one update, L decisions, M those of them that are skip connections.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor

from enas.architecture import Space
from enas.controllers.base import Proposals
from enas.errors import ConfigError


def leave_one_out_baseline(rewards_N: Tensor) -> Tensor:
    """b_i = the mean reward of the other proposals: unbiased, and no state to keep (Kool et al. 2019).

    Raises `ConfigError` for fewer than 2 proposals.
    """
    n = len(rewards_N)
    if n < 2:
        raise ConfigError(
            f"The leave-one-out baseline needs at least 2 proposals an update, not {n}; "
            "raise the number of proposals or choose the baseline 'ema'."
        )
    rewards_N = rewards_N.double()
    return (rewards_N.sum() - rewards_N) / (n - 1)


def ema_baseline(rewards_N: Tensor, previous: float, decay: float) -> Tensor:
    """The moving average b ← b - (1 - decay)(b - R) after each reward in turn, from `previous` on.

    Entry i is what the authors' code subtracts from R_i: the average that already holds R_i. That advantage
    is `decay` times the one of the average before R_i: the estimate is unbiased up to this factor.
    """
    averages = accumulate(
        rewards_N.tolist(), lambda b, reward: b - (1 - decay) * (b - reward), initial=previous
    )
    return torch.tensor(list(averages)[1:], dtype=torch.float64)


def rank_advantages(rewards_N: Tensor, recent_W: Tensor) -> Tensor:
    """The place of each reward among the recent ones, these included: √12 (the share below it, equal ones half, - ½).

    Over rewards without ties the mean is 0 and the root mean square nearly 1, however the rewards themselves are spread.
    """
    below_N = (recent_W < rewards_N[:, None]).double().mean(1)
    above_N = (recent_W > rewards_N[:, None]).double().mean(1)
    return math.sqrt(12) * (below_N - above_N) / 2


def normalise(advantage_N: Tensor, smallest: float = 1e-6) -> Tensor:
    """The advantages scaled to a root mean square of 1, signs kept.

    Below a root mean square of `smallest` they are rounding errors of equal rewards, not to be blown up.
    """
    return advantage_N / advantage_N.square().mean().sqrt().clamp(min=smallest)


def policy_gradient_loss(log_prob_N: Tensor, advantage_N: Tensor) -> Tensor:
    """The scalar -mean(log π(a) · advantage), whose gradient is the REINFORCE estimate of -∇ E[R]."""
    return -(log_prob_N * advantage_N.detach().to(log_prob_N)).mean()


def taken_action_entropy(log_prob_NL: Tensor) -> Tensor:
    """What the authors' recurrent code calls entropy [N]: Σ over decisions of -p log p of the taken option.

    It is no estimate of the entropy: its mean over samples is Σ p² (-log p), not Σ p (-log p).
    """
    return -(log_prob_NL * log_prob_NL.exp()).sum(-1)


def skip_penalty(space: Space, proposals: Proposals, rate: float) -> Tensor:
    """How far each proposal's skip connections are from the prior belief `rate` in nats [N] (paper §3.2).

    The mean over the layers that decide skips of the sum over their bits of KL(q ‖ rate), q being the
    probability of "yes" that the bit was drawn with, given the decisions before it. (The first released code
    takes σ(z) for q but draws with σ(2z): there the penalty is least at a probability of 0.308, not of 0.4.)
    Zero where the space has no skip connections, and for a bit that is inactive.
    """
    skips = [position for position, decision in enumerate(space.decisions) if decision.kind == "skip"]
    layers = {space.decisions[position].node for position in skips}
    taken_NM = proposals.log_prob_NL[:, skips].exp()
    q_NM = torch.where(proposals.choices_NL[:, skips] == 1, taken_NM, 1 - taken_NM)
    cross_entropy_NM = -q_NM * math.log(rate) - (1 - q_NM) * math.log(1 - rate)
    divergence_NM = cross_entropy_NM - proposals.entropy_NL[:, skips]
    if space.conditional:
        active_NL = torch.tensor([space.active(choices) for choices in proposals.choices_NL.tolist()])
        divergence_NM = divergence_NM * active_NL[:, skips].to(divergence_NM)
    return divergence_NM.sum(1) / max(len(layers), 1)
