"""A controller whose policy learns by REINFORCE with Adam: the second phase of paper §2.2."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from enas.controllers.base import Controller, Policy, Proposals, check_rewards
from enas.controllers.categorical import maximum_entropy, uniform_logits
from enas.controllers.config import ReinforceConfig
from enas.controllers.reinforce import (
    ema_baseline,
    leave_one_out_baseline,
    normalise,
    policy_gradient_loss,
    skip_penalty,
    taken_action_entropy,
)
from enas.controllers.uniform import UniformController
from enas.errors import ConfigError, NotFiniteError, RunFolderError
from enas.health import attainable_probabilities, gradient_power, relative_probabilities


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
        if self.config.baseline == "ema":
            self.moving_average = float(baseline_N[-1])
        entropy, largest = float(entropy_N.detach().mean()), maximum_entropy(self.space)
        skips = {"skip_penalty": float(penalty_N.detach().mean())} if self.has_skips else {}
        power = {}
        if logits_NLK is not None:
            signal, noise = gradient_power(logits_NLK, proposals.choices_NL, reward_N)
            power = {"gradient_signal": signal, "gradient_noise": noise}
        return {
            "reward": float(rewards_N.mean()),
            "baseline": float(baseline_N.mean()),
            "advantage": float(advantage_N.mean()),
            "entropy": entropy,
            "entropy_share": entropy / largest if largest else 1.0,
            "loss": float(loss.detach()),
            "grad_norm": grad_norm,
            **power,
            **skips,
        }

    @torch.no_grad()
    def prior(self, generator: torch.Generator) -> dict[str, float]:
        """Along 64 uniformly random paths, which reach options that the policy itself would rarely take."""
        choices_NL = UniformController(self.space).propose(64, generator).choices_NL
        logits_NLK = self.policy.logits(choices_NL.to(self.device))
        smallest, largest = relative_probabilities(self.space, logits_NLK)
        attainable_LK = attainable_probabilities(*self.policy.logit_bounds())
        exists_LK = uniform_logits(self.space) == 0
        return {
            "initial_smallest": smallest,
            "initial_largest": largest,
            "attainable": float(attainable_LK[exists_LK].min()),
        }

    def mode(self) -> tuple[int, ...]:
        """Raises `NotFiniteError` if the policy has no probabilities any more."""
        choices = self.policy.mode()
        with torch.no_grad():
            self._checked(self.policy.score(torch.tensor([choices], device=self.device)))
        return choices

    def state_dict(self) -> dict[str, Any]:
        """Parameters, optimiser and moving average; the generator that draws proposals is the caller's."""
        return {
            "policy": {name: tensor.clone() for name, tensor in self.policy.state_dict().items()},
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
            "moving_average": self.moving_average,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            self.policy.load_state_dict(state["policy"])
            self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
            self.moving_average = state["moving_average"]
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
                "the policy's probabilities are no numbers any more; lower the controller's learning rate or init_range"
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
        """One Adam step down the loss; return the gradient's norm before clipping."""
        self.optimiser.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.isfinite():
            raise NotFiniteError(
                f"The gradient of the controller has the norm {float(norm)}; it learnt nothing. "
                "Lower the learning rate of the controller."
            )
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.policy.parameters(), self.config.max_grad_norm, norm)
        self.optimiser.step()
        return float(norm)
