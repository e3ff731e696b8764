"""A controller whose policy learns by REINFORCE: the second phase of paper §2.2."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from enas.constraints import (
    InnerShare,
    LearningRate,
    PartialShare,
    PositiveFloat,
    PositiveInt,
    Settings,
    Weight,
)
from enas.controllers.base import Controller, Policy, Proposals, check_rewards, reward_and_entropy
from enas.controllers.categorical import sample, uniform_logits
from enas.controllers.reinforce import (
    ema_baseline,
    leave_one_out_baseline,
    normalise,
    policy_gradient_loss,
    rank_advantages,
    skip_penalty,
    taken_action_entropy,
)
from enas.errors import ConfigError, NotFiniteError, RunFolderError
from enas.health import attainable_probabilities, gradient_power, relative_probabilities


@dataclass(frozen=True)
class ReinforceConfig(Settings):
    """How a policy learns from rewards: REINFORCE. The defaults are careful ones, for any policy."""

    learning_rate: LearningRate = 0.05
    """Of the optimiser."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Adam; or plain steps along the gradient, which move what a reward was about and nothing else."""
    betas: tuple[PartialShare, PartialShare] = (0.9, 0.999)
    """Adam's decay rates of the gradient's mean and square."""
    eps: PositiveFloat = 1e-8
    """Adam's epsilon."""
    baseline: Literal["leave-one-out", "ema", "ranks"] = "leave-one-out"
    """What is subtracted from a reward: the mean of the update's other rewards, or a moving average; or the advantage is
    the reward's place among the last `window` ones, whatever their distances."""
    window: PositiveInt = 32
    """Rewards among which one is ranked, those of the update included (baseline 'ranks')."""
    decay: PartialShare = 0.99
    """Share of the moving average kept at each reward (baseline 'ema')."""
    baseline_start: Literal["zero", "first-reward"] = "first-reward"
    """Where the moving average starts (baseline 'ema'). From zero, early advantages are all positive."""
    normalise_advantages: bool = True
    """Scale the advantages of an update to a root mean square of 1: the scale of rewards stops mattering."""
    entropy_weight: Weight = 0.1
    """Weight of the entropy (nats), which keeps the policy from collapsing early."""
    entropy: Literal["regulariser", "reward", "taken-action-in-reward"] = "regulariser"
    """Where the entropy enters: the loss, with gradient; the reward (paper); or the reward, where only the
    taken option's p log(1/p) counts (authors' recurrent and macro codes)."""
    skip_weight: Weight = 0.0
    """Weight of the skip penalty: the KL divergence (nats) of the probability of each skip connection from
    `skip_rate`, summed over the bits of a layer, averaged over the layers. For spaces with skip decisions."""
    skip_rate: InnerShare = 0.4
    """ρ: the probability of a skip connection at which the penalty is 0."""
    skip_penalty: Literal["regulariser", "reward"] = "regulariser"
    """Where the skip penalty enters: the loss, with gradient (authors' code); or the reward (paper), where it
    can only favour the paths on which it is small, so that an independent policy learns nothing from it."""
    max_grad_norm: PositiveFloat | None = None
    """Clip the gradient to this norm; None does not clip."""


class PolicyGradientController(Controller):
    """Proposes from `policy` and moves it up the gradient of the expected reward, a step a `feedback`."""

    def __init__(self, policy: Policy, config: ReinforceConfig) -> None:
        """Raises `ConfigError` if the settings weight a skip penalty and the space has no skip decisions."""
        self.space = policy.space
        self.has_skips = any(decision.kind == "skip" for decision in self.space.decisions)
        if config.skip_weight and not self.has_skips:
            raise ConfigError(
                f"The {self.space.name} space has no skip connections to penalise; set skip_weight to 0, "
                f"not {config.skip_weight}."
            )
        self.policy = policy
        self.config = config
        self.moving_average: float | None = None
        """The baseline 'ema' after the last reward; None before the first, and for other baselines."""
        self.recent_W = torch.zeros(0, dtype=torch.float64)
        """The last `window` rewards (baseline 'ranks'); none for other baselines."""
        self.optimiser: torch.optim.Optimizer
        if config.optimiser == "sgd":
            self.optimiser = torch.optim.SGD(policy.parameters(), lr=config.learning_rate)
        else:
            self.optimiser = torch.optim.Adam(
                policy.parameters(), lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True
            )

    def propose(self, n: int, generator: torch.Generator) -> Proposals:
        """Raises `NotFiniteError` if the policy has no probabilities any more."""
        return self._checked(self.policy.sample(n, generator))

    @torch.enable_grad()
    def feedback(self, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
        """One REINFORCE step; proposals made without gradient are scored again.

        Also logs `baseline` (mean), `advantage` (mean, before normalising; about 0 in health), `loss`,
        `grad_norm` (before clipping), `gradient_signal` and `gradient_noise` (of two proposals or more; see
        `enas.health.gradient_power`) and, where the space has skip connections, `skip_penalty` (nats, mean over
        the proposals, unweighted). Raises `NotFiniteError` if the gradient is not finite; nothing has been
        learnt then.
        """
        check_rewards(self.space, proposals, rewards_N)
        if not proposals.log_prob_NL.requires_grad:
            proposals = self.policy.score(proposals.choices_NL)
        log_prob_N, entropy_N = proposals.log_prob_N, proposals.entropy_N
        penalty_N = skip_penalty(self.space, proposals, self.config.skip_rate)
        weight, skip_weight = self.config.entropy_weight, self.config.skip_weight

        reward_N = rewards_N.cpu().double()
        if self.config.entropy == "reward":
            reward_N = reward_N + weight * entropy_N.detach().cpu()
        elif self.config.entropy == "taken-action-in-reward":
            reward_N = reward_N + weight * taken_action_entropy(proposals.log_prob_NL).detach().cpu()
        if self.config.skip_penalty == "reward":
            reward_N = reward_N - skip_weight * penalty_N.detach().cpu()

        recent_W = self.recent_W
        if self.config.baseline == "ranks":
            recent_W = torch.cat((recent_W, reward_N))[-max(self.config.window, len(reward_N)) :]
            baseline_N = recent_W.median().expand(len(reward_N))
            advantage_N = rank_advantages(reward_N, recent_W)
        else:
            baseline_N = self._baseline(reward_N)
            advantage_N = reward_N - baseline_N
        scaled_N = normalise(advantage_N) if self.config.normalise_advantages else advantage_N
        loss = policy_gradient_loss(log_prob_N, scaled_N)
        if self.config.entropy == "regulariser":
            loss = loss - weight * entropy_N.mean()
        if self.config.skip_penalty == "regulariser":
            loss = loss + skip_weight * penalty_N.mean()

        with torch.no_grad():  # of the policy that made the proposals
            logits_NLK = self.policy.logits(proposals.choices_NL) if len(proposals) > 1 else None
        grad_norm = self._descend(loss)
        self.recent_W = recent_W
        if self.config.baseline == "ema":
            self.moving_average = float(baseline_N[-1])
        learnt = {
            **reward_and_entropy(self.space, proposals, rewards_N),
            "baseline": float(baseline_N.mean()),
            "advantage": float(advantage_N.mean()),
            "loss": float(loss.detach()),
            "grad_norm": grad_norm,
        }
        if logits_NLK is not None:
            signal, noise = gradient_power(logits_NLK, proposals.choices_NL, reward_N)
            learnt |= {"gradient_signal": signal, "gradient_noise": noise}
        if self.has_skips:
            learnt["skip_penalty"] = float(penalty_N.detach().mean())
        return learnt

    @torch.no_grad()
    def prior(self, generator: torch.Generator) -> dict[str, float]:
        """Along 64 uniformly random paths, which reach options that the policy itself would rarely take."""
        choices_NL, uniform_NLK = sample(self.space, uniform_logits(self.space), 64, generator)
        smallest, largest = relative_probabilities(
            self.policy.logits(choices_NL.to(self.device)), uniform_NLK
        )
        low_LK, high_LK = self.policy.logit_bounds()
        possible_NLK = uniform_NLK > -math.inf
        high_NLK = (high_LK + uniform_NLK).masked_fill(~possible_NLK, -math.inf)
        attainable_NLK = attainable_probabilities(low_LK + uniform_NLK, high_NLK)
        return {
            "initial_smallest": smallest,
            "initial_largest": largest,
            "attainable": float(attainable_NLK[possible_NLK].min()),
        }

    def mode(self) -> tuple[int, ...]:
        """Raises `NotFiniteError` if the policy has no probabilities any more."""
        choices = self.policy.mode()
        with torch.no_grad():
            self._checked(self.policy.score(torch.tensor([choices], device=self.device)))
        return choices

    def state_dict(self) -> dict[str, Any]:
        """Parameters, optimiser and earlier rewards; the generator that draws proposals is the caller's."""
        return {
            "policy": {name: tensor.clone() for name, tensor in self.policy.state_dict().items()},
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
            "moving_average": self.moving_average,
            "recent": self.recent_W.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            self.policy.load_state_dict(state["policy"])
            self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
            self.moving_average = state["moving_average"]
            self.recent_W = state["recent"].clone()
        except (KeyError, RuntimeError, ValueError) as error:
            raise RunFolderError(
                f"The saved state of the controller does not fit the {type(self.policy).__name__} of this "
                f"{self.space.name} space; resume with the controller and the space of that run."
            ) from error

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        return next(self.policy.parameters()).device

    def _checked(self, proposals: Proposals) -> Proposals:
        if not proposals.log_prob_NL.isfinite().all():
            raise NotFiniteError(
                "the policy's probabilities are no numbers any more; lower the controller's learning rate or init_range",
                advised=True,
            )
        return proposals

    def _baseline(self, rewards_N: Tensor) -> Tensor:
        if self.config.baseline == "leave-one-out":
            return leave_one_out_baseline(rewards_N)
        previous = self.moving_average
        if previous is None:
            previous = 0.0 if self.config.baseline_start == "zero" else float(rewards_N[0])
        return ema_baseline(rewards_N, previous, self.config.decay)

    def _descend(self, loss: Tensor) -> float:
        """One step down the loss; return the gradient's norm before clipping."""
        self.optimiser.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.isfinite():
            raise NotFiniteError(
                f"the gradient of the controller has the norm {float(norm)}; it learnt nothing. Lower the controller's "
                "learning rate",
                advised=True,
            )
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.policy.parameters(), self.config.max_grad_norm, norm)
        self.optimiser.step()
        return float(norm)
