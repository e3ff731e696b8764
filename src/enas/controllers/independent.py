"""One categorical distribution per decision, none depending on another: the default policy (as in TuNAS).

Its logits start at zero (uniform) and are the parameters themselves: no caps, no priors. Probabilities, mode
and entropy are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from enas.architecture import Space
from enas.controllers.base import Policy, Proposals
from enas.controllers.categorical import gumbel_noise, uniform_logits


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
        return self.table().expand(len(choices_NL), -1, -1)

    def sample(self, n: int, generator: torch.Generator) -> Proposals:
        logits_LK = self.table()
        noise_NLK = gumbel_noise((n, *logits_LK.shape), generator, like=logits_LK)
        return Proposals.from_logits((logits_LK.detach() + noise_NLK).argmax(-1), logits_LK.unsqueeze(0))

    def score(self, choices_NL: Tensor) -> Proposals:
        return Proposals.from_logits(choices_NL, self.table().unsqueeze(0))

    def mode(self) -> tuple[int, ...]:
        """The most probable architecture, exactly."""
        return tuple(self.table().argmax(-1).tolist())
