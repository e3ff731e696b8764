"""Deriving: from the trained policy and shared weights to one architecture (paper §2.2, "Deriving Architectures")."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from enas.architecture import Architecture
from enas.controllers.base import Controller
from enas.errors import ConfigError
from enas.runtime.seeding import generator
from enas.tasks.base import SearchTask

Rule = Literal["reward", "mode", "shortlist"]


@dataclass(frozen=True)
class DeriveConfig:
    """How an architecture is picked from the trained policy."""

    rule: Rule = "shortlist"
    """`reward`: the sample with the highest reward on validation minibatches, with the shared weights (paper);
    `mode`: the policy's most probable architecture; `shortlist`: the mode and the first samples are trained from
    scratch for a short while, and the best of them on the validation data is taken."""
    samples: int = 10
    """Architectures sampled from the policy and scored with the shared weights."""
    minibatches: int = 1
    """Validation minibatches a sample is scored on, the same for all."""
    shortlist: int = 4
    """Architectures of the shortlist, the mode among them."""
    shortlist_epochs: int = 2
    """Epochs each of the shortlist is trained for, with the recipe of the retraining."""

    def __post_init__(self) -> None:
        for name in ("samples", "minibatches", "shortlist", "shortlist_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"derive.{name} must be at least 1, not {getattr(self, name)}")


@dataclass
class Candidate:
    """An architecture that may be picked, and what is known of it."""

    architecture: Architecture
    is_mode: bool
    """Whether it is the policy's most probable architecture."""
    log_prob: float | None
    """log π if it was sampled; None for a mode that was not."""
    reward: float
    """Mean reward with the shared weights."""
    trained_loss: float | None = None
    """Validation loss after the short training, if it had one; lower is better, infinite if the training diverged."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        loss = self.trained_loss
        finite = None if loss is None or math.isinf(loss) else loss  # JSON has no infinity
        return {**vars(self), "architecture": self.architecture.to_json(), "trained_loss": finite}


@torch.no_grad()
def candidates(task: SearchTask, controller: Controller, config: DeriveConfig, seed: int) -> list[Candidate]:
    """The policy's mode, then distinct samples of it in the order drawn, each with its mean reward."""
    proposals = controller.propose(config.samples, generator(seed, "derive"))
    sampled = dict(zip(proposals.architectures(task.space), proposals.log_prob_N.tolist(), strict=True))
    mode = task.space.architecture(controller.mode())
    architectures = list(dict.fromkeys([mode, *sampled]))
    draws = range(config.minibatches)
    reward_N = torch.stack([task.rewards(architectures, "derive", draw) for draw in draws]).mean(0)
    return [
        Candidate(architecture, architecture == mode, sampled.get(architecture), reward)
        for architecture, reward in zip(architectures, reward_N.tolist(), strict=True)
    ]


def pick(
    found: Sequence[Candidate], config: DeriveConfig, train: Callable[[Architecture], float]
) -> Candidate:
    """The candidate that the rule picks. `train` trains an architecture briefly and returns its validation loss."""
    if config.rule == "mode":
        return next(candidate for candidate in found if candidate.is_mode)
    if config.rule == "reward":
        return max((c for c in found if c.log_prob is not None), key=lambda candidate: candidate.reward)
    shortlist = found[: config.shortlist]  # in the order drawn: the shared weights misjudge the best ones
    losses = [train(candidate.architecture) for candidate in shortlist]
    for candidate, loss in zip(shortlist, losses, strict=True):
        candidate.trained_loss = loss
    return shortlist[losses.index(min(losses))]
