"""A reward with a target for the cost: TuNAS's absolute reward (Bender et al. 2020, arXiv:2008.06120, §3).

    R = Q - |β| · |cost / target - 1|

An architecture that is too cheap loses as much as one that is too dear: what is not spent could have been score.

Shape letters: N architectures of an update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from enas.architecture import Architecture
from enas.costs.bounds import CostOf
from enas.costs.settings import CostConfig

FIRST = 64
"""Rewards from whose spread the weight follows."""
AS_MUCH = 0.1
"""How far off the target weighs as much as one standard deviation of the rewards."""


def absolute_reward(quality_N: Tensor, cost_N: Tensor, target: float, weight: float) -> Tensor:
    """Q - weight · |cost / target - 1|."""
    return quality_N - weight * (cost_N / target - 1).abs()


def spread(updates: Sequence[Sequence[float]]) -> float:
    """The standard deviation of rewards within their updates, as those of different ones may be of different minibatches;
    where no update has two, of all of them. 0 for fewer than two."""
    groups = (
        updates if any(len(one) > 1 for one in updates) else [[reward for one in updates for reward in one]]
    )
    squares = sum((reward - sum(one) / len(one)) ** 2 for one in groups for reward in one)
    return math.sqrt(squares / max(1, sum(len(one) - 1 for one in groups)))


class CostTarget:
    """The target of a search, and how much it weighs.

    A weight that is not given follows from the spread of the rewards so far until there are `FIRST` of them, and then stays.
    """

    def __init__(self, config: CostConfig, cost_of: CostOf) -> None:
        assert config.measure is not None
        self.measure = config.measure
        self.target = config.amount
        self.given = config.weight
        self.cost_of = cost_of
        self.updates: list[list[float]] = []
        """The first rewards, update by update."""

    @property
    def weight(self) -> float:
        """|β|. Where all rewards are alike, only the cost counts, with whatever weight: then it is 1."""
        return self.given if self.given is not None else spread(self.updates) / AS_MUCH or 1.0

    def rewarded(
        self, architectures: Sequence[Architecture], quality_N: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The rewards [N] of architectures whose networks score so well; and what to log."""
        if sum(map(len, self.updates)) < FIRST:
            self.updates.append(quality_N.tolist())
        cost_N = torch.tensor([self.cost_of(self.measure, one) for one in architectures], dtype=torch.float64)
        weight = self.weight
        reward_N = absolute_reward(quality_N.double().cpu(), cost_N, self.target, weight)
        return reward_N.to(quality_N), {"cost": float(cost_N.mean()), "cost_weight": weight}

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {"updates": [list(one) for one in self.updates]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.updates = [list(one) for one in state["updates"]]
