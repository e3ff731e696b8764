"""How a search is doing: its numbers for metrics.jsonl, its progress, and a warning if the policy has collapsed.

`Search` tells what it has done.
"""

from __future__ import annotations

from typing import Any

import torch

from enas.controllers.base import Controller, check_rewards
from enas.controllers.uniform import UniformController
from enas.costs.bounds import CostBounds, bounded
from enas.health import collapse_warning, collapsed, parameter_free
from enas.phases import SearchConfig
from enas.runtime.metrics import Metrics
from enas.runtime.progress import in_passing, say
from enas.runtime.seeding import generator
from enas.scores import percentile
from enas.shared_weights import SharedWeights
from enas.step_logs import StepLog, Sums, arrived
from enas.verification import Verifying

POWER = ("gradient_signal", "gradient_noise")


class Watch:
    """Looks on as a search goes."""

    def __init__(
        self,
        config: SearchConfig,
        weights: SharedWeights,
        controller: Controller,
        seed: int,
        metrics: Metrics,
        verification: Verifying | None = None,
        bounds: CostBounds | None = None,
    ) -> None:
        """Random architectures are drawn within the `bounds`. With a `verification`, a policy that its trainings hold better
        than random is not reported as collapsed."""
        self.config = config
        self.weights = weights
        self.controller = controller
        self.uniform = bounded(UniformController(weights.space), bounds)
        self.seed = seed
        self.metrics = metrics
        self.verification = verification
        self.sums = Sums()
        """Of what the training steps since the last record logged."""
        self.steps = 0
        """Of those sums."""
        self.power = dict.fromkeys(POWER, 0.0)
        """Sums over the updates of the epoch."""
        self.warned = False
        """Whether a collapse has been reported."""

    # ---- what the search tells -----------------------------------------------------------------------------------------

    def begins(self) -> None:
        """Log and say what the controller favours before any reward."""
        prior = self.controller.prior(generator(self.seed, "prior"))
        if prior:
            self.metrics.record("search/start", 0, epoch=0, **prior)
            keys = ("initial_smallest", "initial_largest", "attainable")
            smallest, largest, attainable = (f"{prior[key]:.2f}" for key in keys)
            if {smallest, largest, attainable} != {"1.00"}:
                in_passing(
                    f"policy: an option starts at {smallest} to {largest} times its uniform probability; training can raise "
                    f"any of them to {attainable}"
                )

    def trained(self, number: int, epoch: int, log: StepLog, *, last: bool) -> None:
        """The mean of every `log_every` training steps is logged."""
        self.sums.add(log)
        self.steps += 1
        if self.steps >= self.config.log_every or last:
            mean = {key: value / self.steps for key, value in self.sums.settled().items()}
            self.metrics.record("search/weights", number, epoch=epoch, **mean)
            self.sums.clear()
            self.steps = 0

    def verified(self, number: int, epoch: int, log: dict[str, float]) -> None:
        """Every round of trainings is logged."""
        self.metrics.record("search/verification", number, epoch=epoch, **log)

    def learnt(self, number: int, epoch: int, log: dict[str, float], *, last: bool, ended: bool) -> None:
        """Every update is logged, and after the last of an epoch how the policy is doing."""
        if ended:
            say(
                f"search: the policy's entropy is {100 * log['entropy_share']:.1f} % of the largest possible in epoch "
                f"{epoch + 1}; it learns no more, the shared weights go on"
            )
        self.metrics.record("search/controller", number, epoch=epoch, **log)
        for key in POWER:
            self.power[key] += log.get(key, 0.0)
        if not last:
            return
        health = self.health(epoch, ended)
        if health:
            self.metrics.record("search/health", number, epoch=epoch, **health)
        self.power = dict.fromkeys(POWER, 0.0)

    def shown(self, log: StepLog) -> dict[str, float]:
        """What of a step is shown beside the progress, or of the one before while a GPU has not done it. Of an update the
        reward is the one that the policy learns from."""
        known = log if arrived(log) else self.sums.newest
        corrected = self.verification is not None and self.verification.config.correct
        names = {"reward": "corrected_reward"} if corrected else {}
        of_update = ("reward", "cost", "entropy_share")
        keys = (*(of_update if "reward" in known else (self.weights.task.watched,)), "rejected")
        return {names.get(key, key): known[key] for key in keys if key in known}

    # ---- how the policy is doing ---------------------------------------------------------------------------------------

    def health(self, epoch: int, ended: bool) -> dict[str, float]:
        """How the policy is after the updates of an epoch; warns, once, if it has collapsed."""
        found: dict[str, float] = {}
        signal, noise = self.power.values()
        if noise > 0:
            found["gradient_snr"] = signal / noise
        free = parameter_free(self.weights.space, self.controller.mode())
        if free is not None:
            alarm = collapsed(free, self.config.collapse_share) and not (
                self.verification is not None and self.verification.bears_out(epoch)
            )
            found |= {
                "parameter_free": free.share,
                "parameter_free_of_random": free.expected / free.asked,
                "collapsed": float(alarm),
            }
            if alarm and not self.warned:
                say(collapse_warning(free))
                self.warned = True
        if self.measures_percentile(epoch, ended):
            found["percentile"] = self.policy_percentile(epoch)
        return found

    def measures_percentile(self, epoch: int, ended: bool) -> bool:
        """Whether the policy's samples are compared with random architectures after an epoch's updates."""
        every = self.config.percentile_every
        last = epoch == self.config.epochs - 1 or ended
        return every is not None and (last or (epoch + 1) % every == 0)

    def policy_percentile(self, epoch: int) -> float:
        """Where samples of the policy stand among random architectures, all rewarded on one minibatch.

        Raises `NotFiniteError` if a reward is NaN or infinite.
        """
        count, space = self.config.percentile_samples, self.weights.space
        draw = generator(self.seed, "percentile", epoch)
        with torch.no_grad():
            drawn = [controller.propose(count, draw) for controller in (self.controller, self.uniform)]
        architectures = [a for proposals in drawn for a in proposals.architectures(space)]
        own_N, random_N = self.weights.rewards(architectures, "percentile", epoch).split(count)
        for proposals, rewards_N in zip(drawn, (own_N, random_N), strict=True):
            check_rewards(space, proposals, rewards_N)
        return percentile(own_N.cpu().numpy(), random_N.cpu().numpy())

    # ---- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {
            "sums": self.sums.settled(),
            "steps": self.steps,
            "power": dict(self.power),
            "warned": self.warned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.sums, self.steps = Sums(state["sums"]), state["steps"]
        self.power, self.warned = dict(state["power"]), state["warned"]
