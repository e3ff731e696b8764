"""REINFORCE (Williams 1992; paper §2.2) as pure functions: baselines, advantages, entropies, the loss.

The gradient of the expected reward is E[∇ log π(a) · (R(a) - b)] for every b that does not depend on a.
Rewards, baselines and advantages are plain numbers, without gradient, in float64 on the CPU.

Shape letter: N proposals of one update.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

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
