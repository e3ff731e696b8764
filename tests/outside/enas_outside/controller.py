"""A controller that is as simple as can be: it proposes around the best architecture that it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from tyro.conf import Suppress

from enas.architecture import Space
from enas.constraints import SomeShare
from enas.controllers.base import (
    Controller,
    ControllerConfig,
    Proposals,
    check_rewards,
    reward_and_entropy,
)
from enas.errors import RunFolderError


@dataclass(frozen=True)
class FirstConfig(ControllerConfig):
    """Proposes the best so far, with some decisions drawn anew."""

    kind: Suppress[Literal["first"]] = field(default="first", kw_only=True)

    change: SomeShare = 0.5
    """The probability that a decision is drawn anew."""

    def build(self, space: Space, seed: int, device: torch.device | str = "cpu") -> FirstController:
        return FirstController(space, self)


class FirstController(Controller):
    """Every decision is that of the best, but for a share of them."""

    def __init__(self, space: Space, config: FirstConfig) -> None:
        self.space = space
        self.config = config
        self.best = [0] * len(space.decisions)
        self.reward = float("-inf")

    def logits(self) -> Tensor:
        """Of every option [L, K]; -inf where there is none."""
        counts = [len(decision.options) for decision in self.space.decisions]
        p_LK = torch.zeros(len(counts), max(counts))
        for row, (count, best) in enumerate(zip(counts, self.best, strict=True)):
            p_LK[row, :count] = self.config.change / count
            p_LK[row, best] += 1 - self.config.change
        return p_LK.log()

    def propose(self, n: int, generator: torch.Generator) -> Proposals:
        logits_LK = self.logits()
        choices_LN = torch.multinomial(logits_LK.exp(), n, replacement=True, generator=generator)
        return Proposals.from_logits(choices_LN.T, logits_LK.unsqueeze(0))

    def feedback(self, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
        check_rewards(self.space, proposals, rewards_N)
        best = int(rewards_N.argmax())
        if float(rewards_N[best]) > self.reward:
            self.reward, self.best = float(rewards_N[best]), proposals.choices_NL[best].tolist()
        return reward_and_entropy(self.space, proposals, rewards_N)

    def mode(self) -> tuple[int, ...]:
        return tuple(self.best)

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.best), "reward": self.reward}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if len(state.get("best", [])) != len(self.best):
            raise RunFolderError("the saved state is of another controller")
        self.best, self.reward = list(state["best"]), state["reward"]
