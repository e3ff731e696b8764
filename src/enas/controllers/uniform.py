"""All architectures alike, whatever the rewards: the specification of a controller, and random search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from enas.architecture import Space
from enas.controllers.base import Controller, Proposals, check_rewards
from enas.controllers.categorical import gumbel_noise, maximum_entropy, uniform_logits
from enas.errors import RunFolderError


class UniformController(Controller):
    """Draws every decision uniformly among its options and learns nothing."""

    def __init__(self, space: Space, device: torch.device | str = "cpu") -> None:
        self.space = space
        self._logits_LK = uniform_logits(space).to(device)

    def propose(self, n: int, generator: torch.Generator) -> Proposals:
        noise_NLK = gumbel_noise((n, *self._logits_LK.shape), generator, like=self._logits_LK)
        return Proposals.from_logits((self._logits_LK + noise_NLK).argmax(-1), self._logits_LK.unsqueeze(0))

    def feedback(self, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
        check_rewards(self.space, proposals, rewards_N)
        entropy = maximum_entropy(self.space)
        return {"reward": float(rewards_N.mean()), "entropy": entropy, "entropy_share": 1.0}

    def mode(self) -> tuple[int, ...]:
        """The first option of every decision: all architectures are equally probable, so any would do."""
        return (0,) * len(self.space.decisions)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise RunFolderError(
                "The saved state of a learning controller does not fit the uniform one; "
                "resume with the controller of that run."
            )
