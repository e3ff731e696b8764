"""All architectures alike, whatever the rewards: the specification of a controller, and random search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from tyro.conf import Suppress

from enas.architecture import Space
from enas.controllers.base import Controller, ControllerConfig, Proposals, check_rewards, reward_and_entropy
from enas.controllers.categorical import maximum_entropy, sample, uniform_logits
from enas.errors import RunFolderError


@dataclass(frozen=True)
class UniformConfig(ControllerConfig):
    """Random architectures, whatever the rewards."""

    kind: Suppress[Literal["uniform"]] = field(default="uniform", kw_only=True)

    def build(self, space: Space, seed: int, device: torch.device | str = "cpu") -> UniformController:
        return UniformController(space, device)


class UniformController(Controller):
    """Draws architectures as `Space.sample` does and learns nothing."""

    def __init__(self, space: Space, device: torch.device | str = "cpu") -> None:
        self.space = space
        self._logits_LK = uniform_logits(space).to(device)

    def propose(self, n: int, generator: torch.Generator) -> Proposals:
        return Proposals.from_logits(*sample(self.space, self._logits_LK, n, generator))

    def feedback(self, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
        check_rewards(self.space, proposals, rewards_N)
        if self.space.conditional:
            return reward_and_entropy(self.space, proposals, rewards_N)
        entropy = maximum_entropy(self.space)
        return {"reward": float(rewards_N.mean()), "entropy": entropy, "entropy_share": 1.0}

    def mode(self) -> tuple[int, ...]:
        """The space's first architecture: the controller knows of none that is better."""
        return next(self.space.enumerate()).choices

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise RunFolderError(
                "The saved state of a learning controller does not fit the uniform one; "
                "resume with the controller of that run."
            )
