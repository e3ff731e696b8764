"""The contract of every controller: propose architectures, then learn from their rewards.

Shape letters: N proposals, L decisions of the space, K options.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from tyro.conf import Suppress

from enas.architecture import Architecture, Space
from enas.constraints import Settings
from enas.controllers.categorical import entropies, largest_entropy, log_probs, uniform_logits
from enas.errors import ConfigError, NotFiniteError


@dataclass(frozen=True, eq=False)
class Proposals:
    """N architectures of a policy. Under autograd, log-probabilities and entropies carry its gradient."""

    choices_NL: Tensor
    """The options taken, int64: row n is one architecture."""
    log_prob_NL: Tensor
    """log p of each option taken, given the ones before it."""
    entropy_NL: Tensor
    """The entropy in nats of the distribution that each decision was drawn from."""

    @classmethod
    def from_logits(cls, choices_NL: Tensor, logits_NLK: Tensor) -> Proposals:
        """Proposals whose decisions have these logits; one row of logits may stand for all N."""
        entropy_NL = entropies(logits_NLK).expand(len(choices_NL), -1)
        return cls(choices_NL, log_probs(logits_NLK, choices_NL), entropy_NL)

    def __len__(self) -> int:
        return len(self.choices_NL)

    def rows(self, rows: Sequence[int]) -> Proposals:
        """Some of the proposals, in this order."""
        taken = list(rows)
        return Proposals(self.choices_NL[taken], self.log_prob_NL[taken], self.entropy_NL[taken])

    @cached_property
    def log_prob_N(self) -> Tensor:
        """log π(a) of each architecture."""
        return self.log_prob_NL.sum(-1)

    @cached_property
    def entropy_N(self) -> Tensor:
        """Σ of the entropies of each path's decisions: an unbiased estimate of the entropy of π.

        Where no decision depends on another it is the entropy of π itself.
        """
        return self.entropy_NL.sum(-1)

    def architectures(self, space: Space) -> list[Architecture]:
        """The proposals as architectures of `space`."""
        return [space.architecture(choices) for choices in self.choices_NL.tolist()]


class Controller(ABC):
    """Proposes architectures of `space` and learns from their rewards."""

    space: Space

    @abstractmethod
    def propose(self, n: int, generator: torch.Generator) -> Proposals:
        """`n` architectures. The same state and the same state of the generator give the same architectures.

        Differentiable under autograd; call it under `torch.no_grad()` if `feedback` will not follow.
        """

    @abstractmethod
    def feedback(self, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
        """Learn from one reward per proposal, higher is better; return what to log.

        Every controller logs `reward` (mean), `entropy` (nats, mean over the proposals) and `entropy_share`, of the largest
        that is possible along the paths of the proposals. Raises `ConfigError` unless there is one reward per proposal, and
        `NotFiniteError` if one is NaN or infinite; nothing has been learnt then.
        """

    @abstractmethod
    def mode(self) -> tuple[int, ...]:
        """The choices the controller believes in most."""

    def prior(self, generator: torch.Generator) -> dict[str, float]:
        """What it favours before any reward and how far it can be moved, to be logged at the start of a search.

        `initial_smallest` and `initial_largest`: over all options of all decisions, the probability of an option times
        the number of options; 1 is uniform. `attainable`: the probability that every option, even the one that is
        hardest to prefer, can be brought to. Nothing for a controller without a policy. `generator` draws the paths
        along which the probabilities are taken, where they depend on earlier decisions.
        """
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs, as tensors and plain values, free of references to the live state."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`. Raises `RunFolderError` if another controller or space wrote it."""


@dataclass(frozen=True)
class ControllerConfig(Settings, ABC):
    """The settings of a controller. Subclasses are frozen dataclasses with a `kind` of their own."""

    kind: Suppress[str] = field(default="", kw_only=True)
    """The name in config.json, after `--controller`, and of the entry point in the group `enas.controllers`."""

    @abstractmethod
    def build(self, space: Space, seed: int, device: torch.device | str = "cpu") -> Controller:
        """The controller of these settings for this space, its weights drawn from `seed` alike on every device.

        Raises `ConfigError` if the controller cannot decide the space, or has settings that mean nothing there.
        """


class Policy(nn.Module, ABC):
    """A differentiable distribution π over the architectures of `space`."""

    space: Space

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Proposals:
        """`n` independent architectures."""

    @abstractmethod
    def score(self, choices_NL: Tensor) -> Proposals:
        """These architectures, with their log-probabilities and entropies under the policy as it is now."""

    @abstractmethod
    def mode(self) -> tuple[int, ...]:
        """The most probable choices, as far as the policy can tell."""

    @abstractmethod
    def logits(self, choices_NL: Tensor) -> Tensor:
        """The logits of all options of all decisions along these paths [N, L, K]; -inf where there is no such option."""

    def logit_bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest logit [L, K] that training can give each option; -inf twice where there is none.

        Without bounds unless a policy has some.
        """
        exists_LK = uniform_logits(self.space) == 0
        low_LK = torch.full(exists_LK.shape, -math.inf)
        return low_LK, torch.where(exists_LK, math.inf, low_LK)


def check_rewards(space: Space, proposals: Proposals, rewards_N: Tensor) -> None:
    """Raise `ConfigError` unless each proposal has its reward, `NotFiniteError` if one is NaN or infinite."""
    if rewards_N.shape != (len(proposals),):
        raise ConfigError(
            f"{len(proposals)} proposals need a tensor of {len(proposals)} rewards, one each; "
            f"its shape is {tuple(rewards_N.shape)}"
        )
    for choices, reward in zip(proposals.choices_NL.tolist(), rewards_N.tolist(), strict=True):
        if not math.isfinite(reward):
            raise NotFiniteError(
                f"the reward of {space.architecture(choices)} is {reward}; the controller learnt nothing"
            )


def reward_and_entropy(space: Space, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
    """What every controller logs: see `Controller.feedback`."""
    entropy = float(proposals.entropy_N.detach().mean())
    largest = largest_entropy(space, proposals.choices_NL)
    return {
        "reward": float(rewards_N.mean()),
        "entropy": entropy,
        "entropy_share": entropy / largest if largest else 1.0,
    }
