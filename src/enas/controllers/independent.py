"""One categorical distribution per decision, none depending on another: the default policy (as in TuNAS).

Its logits start at zero (uniform) and are the parameters themselves: no caps, no priors. Probabilities, mode
and entropy are exact. In a conditional space what can be taken depends on the choices before, and nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from tyro.conf import Suppress

from enas.architecture import Space
from enas.controllers.base import ControllerConfig, Policy, Proposals
from enas.controllers.categorical import along, largest, sample, uniform_logits
from enas.controllers.policy_gradient import PolicyGradientController, ReinforceConfig
from enas.errors import ConfigError


@dataclass(frozen=True)
class IndependentConfig(ControllerConfig):
    """One distribution per decision, independent of the other decisions; meant for 4 to 8 proposals an update."""

    kind: Suppress[Literal["independent"]] = field(default="independent", kw_only=True)

    reinforce: ReinforceConfig = field(
        default_factory=lambda: ReinforceConfig(learning_rate=0.2, entropy_weight=0.15)
    )
    """How the policy learns from rewards: within a few dozen updates, part of the entropy kept in long searches."""

    def build(self, space: Space, seed: int, device: torch.device | str = "cpu") -> PolicyGradientController:
        if self.reinforce.skip_weight and self.reinforce.skip_penalty == "reward":
            raise ConfigError(
                "The skip penalty of an independent policy is the same for every proposal, so as part of the "
                "reward it teaches nothing; set skip_penalty to regulariser."
            )
        return PolicyGradientController(IndependentPolicy(space).to(device), self.reinforce)


class IndependentPolicy(Policy):
    """π(a) = Π over decisions of softmax(logits)[choice]."""

    _missing_LK: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        missing_LK = uniform_logits(space)
        self.logits_LK = nn.Parameter(torch.zeros_like(missing_LK))
        self.register_buffer("_missing_LK", missing_LK, persistent=False)

    def table(self) -> Tensor:
        """The logits of every decision [L, K], whatever the others; -inf where a decision has no such option."""
        return self.logits_LK + self._missing_LK

    def logits(self, choices_NL: Tensor) -> Tensor:
        return along(self.space, self.table(), choices_NL).expand(len(choices_NL), -1, -1)

    def sample(self, n: int, generator: torch.Generator) -> Proposals:
        return Proposals.from_logits(*sample(self.space, self.table(), n, generator))

    def score(self, choices_NL: Tensor) -> Proposals:
        return Proposals.from_logits(choices_NL, along(self.space, self.table(), choices_NL))

    def mode(self) -> tuple[int, ...]:
        """The most probable architecture, exactly. In a conditional space the most probable option at each step."""
        table_LK = self.table()
        choices_NL, _ = largest(self.space, table_LK, torch.zeros_like(table_LK).unsqueeze(0))
        return tuple(choices_NL[0].tolist())
