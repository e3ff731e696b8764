"""Verifying a search: some architectures are trained alone while it goes on, to see what shared weights' rewards are worth.

Trainings say how far the shared weights order architectures as training does. They also correct the rewards, by a model of
what an architecture scores alone (`enas.correction`), which is fitted again after every round of trainings. Where shared
weights mislead, the policy then follows the trainings, and where they inform, both.

Letters: N architectures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from enas.architecture import Architecture
from enas.constraints import Epochs, PositiveInt, SampleCount, Settings, Share
from enas.controllers.base import Controller
from enas.controllers.uniform import UniformController
from enas.correction import Correction, Costs, Features, Floats, normal_scores, predicted_from_others
from enas.costs.bounds import CostBounds, bounded, bounded_sampler
from enas.evidence.agreement import agreement_if_any
from enas.evidence.statistics import Interval
from enas.phases import SearchConfig
from enas.runtime.progress import say
from enas.runtime.records import validated
from enas.runtime.seeding import derive_seed, generator
from enas.runtime.work import Clock, processor_seconds
from enas.samplers import fair
from enas.scores import percentile
from enas.shared_weights import SharedWeights

Train = Callable[[Sequence[Architecture]], Sequence[float]]
"""Trains architectures alone for a short while; returns their scores, -infinity where one diverged."""

POOL = 64
"""Samples of the policy, and as many uniform ones, that a round picks from."""
WORSE = 0.4
"""A mean percentile that samples of no policy rarely have by chance: two standard errors below 0.5."""
LEAST = 4
"""Fewest trainings that a model is fitted to."""


@dataclass(frozen=True)
class VerifyConfig(Settings):
    """Which architectures are trained alone during the search, and what for."""

    trainings: SampleCount = 0
    """Architectures that are trained alone during the search. With 0, rewards are those of the shared weights (paper)."""
    rounds: PositiveInt = 4
    """The trainings are done in this many rounds of equal size: the first after the warm-up, the others at equal distances
    in the rest of the search."""
    epochs: Epochs = 4
    """Epochs of each, with the recipe of the retraining."""
    score: Literal["training", "validation"] = "training"
    """What is asked of a training: its mean loss over the last epoch, or its score on the validation data. A short training
    is best known by how fast it learns (Ru et al. 2021, arXiv:2006.04492)."""
    explore: Share = 0.25
    """Share of the trainings after the first round that go to uniform samples, which say how far shared weights can be
    trusted. The first round's are all uniform. The others are those that the model holds promising."""
    minibatches: PositiveInt = 2
    """Validation minibatches that a trained architecture is rewarded on with the shared weights."""
    correct: bool = True
    """Whether the policy is rewarded by the model. Otherwise the trainings only say how good the shared weights are."""

    def plan(self, search: SearchConfig) -> dict[int, int]:
        """How many architectures are trained after the weight steps of each epoch."""
        warmup, rounds = search.warmup_epochs, self.rounds
        learning = search.epochs - warmup
        found: dict[int, int] = {}
        for number in range(rounds if learning else 0):
            count = self.trainings * (number + 1) // rounds - self.trainings * number // rounds
            epoch = warmup + number * learning // rounds
            found[epoch] = found.get(epoch, 0) + count
        return {epoch: count for epoch, count in found.items() if count}


@dataclass(frozen=True)
class Verified:
    """An architecture that was trained alone."""

    choices: tuple[int, ...]
    uniform: bool
    """Whether it was drawn uniformly, and not picked by what was known."""
    score: float | None
    """What its training came to, as `VerifyConfig.score` has it; None if it diverged."""


class Verification:
    """The trainings of a search so far, and the model that was fitted to them."""

    def __init__(
        self,
        config: VerifyConfig,
        weights: SharedWeights,
        costs: Costs,
        seed: int,
        bounds: CostBounds | None = None,
    ) -> None:
        """Random architectures are drawn within the `bounds`."""
        self.config = config
        self.weights = weights
        self.costs = costs
        self.seed = seed
        self.space = weights.space
        self.bounds = bounds
        self.uniform = bounded(UniformController(self.space), bounds)
        self.records: list[Verified] = []
        self.correction: Correction | None = None

    @cached_property
    def features(self) -> Features:
        """What the model sees of an architecture."""
        return Features(self.space, self.costs, self.seed)

    @property
    def architectures(self) -> list[Architecture]:
        """Those that were trained, in order."""
        return [self.space.architecture(record.choices) for record in self.records]

    @property
    def trained_N(self) -> Floats:
        """Their scores, -infinity where a training diverged."""
        return np.array([-math.inf if record.score is None else record.score for record in self.records])

    def shared_scores(self, architectures: Sequence[Architecture]) -> Floats:
        """Mean rewards [N] with the shared weights as they are, always on the same validation minibatches."""
        draws = range(self.config.minibatches)
        rewards = [self.weights.rewards(architectures, "verification", draw) for draw in draws]
        found: Floats = torch.stack(rewards).double().mean(0).numpy()
        return found

    def predicted(self, architectures: Sequence[Architecture]) -> Floats:
        """The corrected scores [N]: of those that were trained, with their own training; without a model, shared scores."""
        shared_N = self.shared_scores(architectures)
        if self.correction is None:
            return shared_N
        trained, reduced = self.architectures, self.space.reduced
        own_N = self.correction.posterior(trained, self.shared_scores(trained), self.trained_N)
        own = dict(zip(map(reduced, trained), own_N.tolist(), strict=True))
        predicted_N = self.correction.predict(architectures, shared_N).tolist()
        return np.array([own.get(reduced(a), p) for a, p in zip(architectures, predicted_N, strict=True)])

    def standing(self, architectures: Sequence[Architecture], epoch: int) -> float:
        """The mean percentile of these among random architectures, by corrected score."""
        random = sampled(self.uniform, generator(self.seed, "standing", epoch))
        predicted_N = self.predicted([*architectures, *random])
        return percentile(predicted_N[: len(architectures)], predicted_N[len(architectures) :])

    def corrected(self, architectures: Sequence[Architecture], rewards_N: Tensor) -> Tensor:
        """The rewards [N] for the policy, of architectures that the shared weights gave these rewards."""
        if self.correction is None or not self.config.correct:
            return rewards_N
        predicted_N = self.correction.predict(architectures, rewards_N.double().numpy())
        return torch.from_numpy(predicted_N).to(rewards_N.dtype)

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs. The model is kept as numbers: the weights that it was fitted with change."""
        return {
            "records": [asdict(record) for record in self.records],
            "correction": None if self.correction is None else self.correction.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.records = [validated(Verified, record, strict=False) for record in state["records"]]
        kept = state["correction"]
        self.correction = None if kept is None else Correction.from_state(self.features, kept)


class Verifying(Verification):
    """A verification that goes on: it trains architectures, round by round."""

    def __init__(
        self,
        config: VerifyConfig,
        search: SearchConfig,
        weights: SharedWeights,
        controller: Controller,
        costs: Costs,
        train: Train,
        seed: int,
        bounds: CostBounds | None = None,
        worked: Clock = processor_seconds,
    ) -> None:
        """`worked` counts the seconds of work of the search itself."""
        super().__init__(config, weights, costs, seed, bounds)
        self.plan = config.plan(search)
        self.controller = controller
        self.untrained = controller.state_dict()
        """The controller's state before it has learnt anything."""
        self.train = train
        self.worked = worked

    def rounds(self, epoch: int) -> int:
        """Rounds after the weight steps of an epoch: one or none."""
        return int(epoch in self.plan)

    def verify(self, epoch: int) -> dict[str, float]:
        """Train the architectures of an epoch's round and fit the model again; returns what to log."""
        chosen = self.choose(epoch, self.plan[epoch])
        began, work_before = time.monotonic(), self.worked()
        scores = self.train(list(chosen))
        seconds, work = time.monotonic() - began, self.worked() - work_before
        took = {"seconds": round(seconds, 3), "round_work": round(work, 3)}
        for (architecture, uniform), score in zip(chosen.items(), scores, strict=True):
            self.records.append(
                Verified(architecture.choices, uniform, score if math.isfinite(score) else None)
            )
        return {**took, **self.fit(), **self.restarted(epoch)}

    # ---- what is trained -----------------------------------------------------------------------------------------------

    def choose(self, epoch: int, count: int) -> dict[Architecture, bool]:
        """The next architectures to train, and whether each is drawn uniformly; fewer if the space has no more."""
        chosen: dict[Architecture, bool] = {}
        known = set(map(self.space.reduced, self.architectures))

        def first_new(architectures: Iterable[Architecture], uniform: bool) -> None:
            for architecture in architectures:
                if self.space.reduced(architecture) not in known:
                    known.add(self.space.reduced(architecture))
                    chosen[architecture] = uniform
                    return

        if self.correction is not None:
            draw = generator(self.seed, "verification", epoch)
            pool = [*sampled(self.controller, draw), *sampled(self.uniform, draw)]
            inputs_ND = self.correction.inputs(pool, self.shared_scores(pool))
            rng = np.random.default_rng(derive_seed(self.seed, "verification", epoch))
            for _ in range(count - math.ceil(self.config.explore * count)):
                order = np.argsort(-self.correction.drawn(inputs_ND, rng), kind="stable")
                first_new((pool[place] for place in order), uniform=False)
        sampler = bounded_sampler(
            fair(self.space, derive_seed(self.seed, "verification", epoch)), self.bounds
        )
        for _ in range(count - len(chosen)):
            first_new(sampler.sample(POOL, generator(0)), uniform=True)
        return chosen

    # ---- what the trainings say ----------------------------------------------------------------------------------------

    def fit(self) -> dict[str, float]:
        """Fit the model to all trainings and the shared weights as they are; returns, and says, what they are worth."""
        architectures, trained_N = self.architectures, self.trained_N
        log = {"trained": float(len(architectures))}
        if len(architectures) < LEAST or (trained_N == trained_N[0]).all():
            return log
        shared_N = self.shared_scores(architectures)
        self.correction = Correction.fit(self.features, architectures, shared_N, trained_N)
        predicted_N = predicted_from_others(self.features, architectures, shared_N, trained_N)
        log["shared_weight"] = self.correction.shared_weight
        shared, corrected = (kendall(scores_N, trained_N) for scores_N in (shared_N, predicted_N))
        for name, tau in (("shared", shared), ("corrected", corrected)):
            if tau is not None:
                ends = {"": tau.value, "_low": tau.low, "_high": tau.high}
                log |= {f"{name}_kendall{end}": value for end, value in ends.items()}
        say(
            f"verification: {len(architectures)} architectures trained alone for {self.config.epochs} epochs. Kendall tau "
            f"of their order: {shared or '-'} with the shared weights, {corrected or '-'} with the corrected score. "
            f"{verdict(shared)}"
        )
        return log

    def policy_standing(self, epoch: int) -> float:
        """That of samples of the policy."""
        return self.standing(sampled(self.controller, generator(self.seed, "restart", epoch)), epoch)

    def bears_out(self, epoch: int) -> bool:
        """Whether the trainings hold the policy better than random: its mode, or its samples by more than chance."""
        if self.correction is None:
            return False
        mode = self.space.architecture(self.controller.mode())
        return self.standing([mode], epoch) > 0.5 or self.policy_standing(epoch) > 1 - WORSE

    def restarted(self, epoch: int) -> dict[str, float]:
        """Let the policy begin anew if by the model its samples are worse than random ones."""
        if self.correction is None or not self.config.correct:
            return {}
        place = self.policy_standing(epoch)
        restarts = place < WORSE and epoch > min(self.plan)
        if restarts:
            self.controller.load_state_dict(self.untrained)
            say(
                f"verification: the trainings put the policy's samples at percentile {100 * place:.0f} of random ones. The "
                "policy begins anew"
            )
        return {"policy_percentile": place, "policy_restarted": float(restarts)}


def sampled(controller: Controller, draw: torch.Generator) -> list[Architecture]:
    """Some architectures of a controller."""
    with torch.no_grad():
        return controller.propose(POOL, draw).architectures(controller.space)


def kendall(scores_N: Floats, trained_N: Floats) -> Interval | None:
    """Kendall's tau of the two orders; None if all are equal in one."""
    found = agreement_if_any(scores_N, normal_scores(trained_N), np.random.default_rng(0))
    return None if found is None else found.kendall


def verdict(tau: Interval | None) -> str:
    """What a tau of the shared weights says about them."""
    if tau is None or tau.holds(0.0):
        return "The shared weights are not shown to know better than chance"
    return "The shared weights inform" if tau.value > 0 else "The shared weights mislead"
