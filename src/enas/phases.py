"""The search: train the shared weights ω, then the controller θ, and again (paper §2.2).

Works for any task and any `Controller`: random search, evolution and ENAS are this loop with another controller. A `Watcher`
(`enas.watch`) reports how it is doing. A `Verifier` (`enas.verification`), if there is one, trains some architectures alone
between the two, and corrects rewards by what they come to. Letters: N proposals, L decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch

from enas.architecture import Architecture
from enas.constraints import Count, Epochs, PositiveFloat, PositiveInt, SampleSize, Settings, Share
from enas.controllers.base import Controller
from enas.costs.bounds import CostBounds, bounded_sampler
from enas.costs.reward import CostTarget
from enas.runtime.checkpoint import Rhythm
from enas.runtime.files import Digest, JsonlLog
from enas.runtime.metrics import Metrics, MetricsState
from enas.runtime.records import validated
from enas.runtime.seeding import generator
from enas.samplers import EXPLORERS, Exploration
from enas.shared_weights import SharedWeights
from enas.step_logs import StepLog

Phase = Literal["weights", "verification", "controller"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order that an epoch has them."""


@dataclass(frozen=True)
class SearchConfig(Settings):
    """How long the search is, and how its two phases alternate."""

    epochs: Epochs = 150
    """Rounds of the two phases: a pass over the training data, then the controller's updates."""
    warmup: Share = 0.0
    """Share of the epochs at the start in which the controller rests and architectures are sampled without it."""
    samples: SampleSize = 1
    """M: architectures sampled for a training step, whose gradients are averaged (paper, eq. 1)."""
    same_path: bool = False
    """How several processes share a training step: each computes architectures of its own, of the M, with norm statistics of
    its own; or all compute the same ones, each on a part of the minibatch. One process takes no notice."""
    explore: Share = 0.0
    """Share of the training steps after the warm-up whose architectures are sampled without the controller."""
    exploration: Exploration = "uniform"
    """How architectures are sampled without the controller: each decision `uniform`ly, or `fair`ly, so that the options
    of a decision take turns and are trained equally often."""
    updates: Count = 2000
    """Controller updates after a pass."""
    proposals: SampleSize = 1
    """Architectures rewarded for one controller update."""
    stop_entropy: Share | None = None
    """When the entropy falls to this share of the largest possible, the controller stops learning; the shared weights keep
    training. A policy that is trained to certainty picks worse than one that is stopped early; None goes on to the end."""
    same_minibatch: bool = True
    """Whether the proposals of an update are rewarded on the same validation minibatch, which takes the minibatch's own
    difficulty out of their comparison, or each on one of its own (paper, authors)."""
    checkpoint_minutes: PositiveFloat = 5.0
    """Minutes between checkpoints: what a process that is killed loses at most."""
    checkpoint_every: PositiveInt | None = None
    """Steps (of either phase) between further checkpoints, which `derive.checkpoints` reads; None for none."""
    keep_checkpoints: PositiveInt = 2
    """How many of the newest checkpoints stay; with the last one, so many of those by steps do too."""
    log_every: PositiveInt = 20
    """Training steps that share one record in metrics.jsonl, their mean."""
    percentile_every: PositiveInt | None = None
    """Epochs between measurements of where the policy's samples stand among random architectures, by their reward with
    the shared weights; also at the last update's epoch. None never measures it."""
    percentile_samples: SampleSize = 16
    """Samples of the policy, and as many random architectures, that are rewarded for such a measurement."""
    collapse_share: Share = 0.8
    """Share of parameter-free options in the policy's mode from which on a collapse is reported."""

    @property
    def warmup_epochs(self) -> int:
        """Epochs without controller updates."""
        return round(self.warmup * self.epochs)

    @property
    def rhythm(self) -> Rhythm:
        """When a checkpoint is due."""
        return Rhythm(self.checkpoint_minutes, self.checkpoint_every)


class Place(NamedTuple):
    """Where a search is: the step that comes next."""

    epoch: int
    phase: Phase
    step: int


START = Place(0, "weights", 0)


class Watcher(Protocol):
    """Looks on and reports how a search is doing; the search does not depend on it."""

    metrics: Metrics
    """Where it logs."""

    def trained(self, number: int, epoch: int, log: StepLog, *, last: bool) -> None:
        """A training step was taken, the `number`-th step of the search and the `last` training step of its epoch."""

    def verified(self, number: int, epoch: int, log: dict[str, float]) -> None:
        """Architectures were trained alone."""

    def learnt(self, number: int, epoch: int, log: dict[str, float], *, last: bool, ended: bool) -> None:
        """The controller was updated, for the `last` time in this epoch; `ended` if for good."""

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""


class Verifier(Protocol):
    """Trains some architectures alone, and says what that makes of rewards with the shared weights."""

    def rounds(self, epoch: int) -> int:
        """How many rounds of trainings follow the weight steps of an epoch."""

    def verify(self, epoch: int) -> dict[str, float]:
        """One round of trainings; returns what to log."""

    def corrected(self, architectures: list[Architecture], rewards_N: torch.Tensor) -> torch.Tensor:
        """The rewards [N] that the controller gets."""

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""


class Search:
    """The kinds of step, and the order that they are taken in."""

    def __init__(
        self,
        config: SearchConfig,
        weights: SharedWeights,
        controller: Controller,
        seed: int,
        archive: JsonlLog,
        watcher: Watcher,
        verifier: Verifier | None = None,
        bounds: CostBounds | None = None,
        target: CostTarget | None = None,
    ) -> None:
        """`archive` gets every rewarded architecture, with its reward as the shared weights have it.

        All architectures are drawn within the `bounds`, those of the `controller` by itself. With a `target` the controller
        is rewarded for what they cost, too.
        """
        self.config = config
        self.weights = weights
        self.controller = controller
        self.seed = seed
        self.archive = archive
        self.explorer = bounded_sampler(EXPLORERS[config.exploration](weights.space, seed), bounds)
        self.watcher = watcher
        self.verifier = verifier
        self.bounds = bounds
        self.target = target
        self.updates_end: tuple[int, int] | None = None
        """Epoch and step of the last controller update, once the entropy has ended them."""

    # ---- the two phases ------------------------------------------------------------------------------------------------

    def train_weights(self, epoch: int, step: int) -> StepLog:
        """Train the weights of M paths on the next minibatch (paper, eq. 1)."""
        return self.weights.train_step(epoch, step, self.paths(epoch, step))

    def paths(self, epoch: int, step: int) -> list[Architecture]:
        """The M architectures whose weights are trained next.

        In the warm-up, and in a share `explore` of the later steps, they are sampled without the controller. Otherwise the
        controller samples them.
        """
        draw = generator(self.seed, "weights", epoch, step)
        warms_up = epoch < self.config.warmup_epochs
        if warms_up or float(torch.rand((), generator=draw)) < self.config.explore:
            return self.explorer.sample(self.config.samples, draw)
        with torch.no_grad():
            proposals = self.controller.propose(self.config.samples, draw)
        return proposals.architectures(self.weights.space)

    def train_controller(self, epoch: int, step: int) -> dict[str, float]:
        """Propose N architectures, reward them on validation minibatches, and let the controller learn."""
        draw = generator(self.seed, "proposals", epoch, step)
        proposals = self.controller.propose(self.config.proposals, draw)
        architectures = proposals.architectures(self.weights.space)
        rewards_N = self.rewards(architectures, update=epoch * self.config.updates + step)
        corrected_N = (
            rewards_N if self.verifier is None else self.verifier.corrected(architectures, rewards_N)
        )
        paid: dict[str, float] = {}
        if self.target is not None:
            corrected_N, paid = self.target.rewarded(architectures, corrected_N)
        log = {**self.controller.feedback(proposals, corrected_N), **paid}
        if self.config.stop_entropy is not None and log["entropy_share"] <= self.config.stop_entropy:
            self.updates_end = (epoch, step)
        for architecture, reward in zip(architectures, rewards_N.tolist(), strict=True):
            self.archive.append(
                {"epoch": epoch, "step": step, "choices": list(architecture.choices), "reward": reward}
            )
        return {**log, **self.weights.task.describe_reward(float(rewards_N.mean()))}

    def rewards(self, architectures: list[Architecture], update: int) -> torch.Tensor:
        """The rewards [N] of an update's proposals, on one validation minibatch or on one each."""
        if self.config.same_minibatch:
            return self.weights.rewards(architectures, "controller", update)
        first = update * len(architectures)
        alone = [self.weights.rewards([a], "controller", draw) for draw, a in enumerate(architectures, first)]
        return torch.cat(alone)

    def step(self, place: Place, following: Place, number: int) -> StepLog:
        """Take the step of a place, the `number`-th of the search; returns what it logs."""
        epoch, phase, step = place
        before = None if self.bounds is None else self.bounds.state_dict()
        if phase == "weights":
            trained = self.train_weights(epoch, step)
            if self.bounds is not None:
                trained = {**trained, **self.rejected(before)}
            self.watcher.trained(number, epoch, trained, last=following[:2] != place[:2])
            return trained
        if phase == "verification":
            assert self.verifier is not None  # or it would have no rounds
            log = {**self.verifier.verify(epoch), **self.rejected(before)}
            self.watcher.verified(number, epoch, log)
        else:
            log = {**self.train_controller(epoch, step), **self.rejected(before)}
            last = self.resolved(following).epoch != epoch
            self.watcher.learnt(number, epoch, log, last=last, ended=self.updates_end is not None)
        return log

    def rejected(self, before: dict[str, int] | None) -> dict[str, float]:
        """The share of the architectures drawn since then that were out of bounds, to be logged; nothing without bounds."""
        if self.bounds is None or before is None:
            return {}
        drawn, rejected = (count - before[name] for name, count in self.bounds.state_dict().items())
        return {"rejected": rejected / drawn if drawn else 0.0}

    # ---- their schedule ------------------------------------------------------------------------------------------------

    def phase_steps(self, epoch: int, phase: Phase) -> int:
        """How many steps a phase of an epoch has."""
        if phase == "weights":
            return self.weights.steps(epoch)
        if phase == "verification":
            return 0 if self.verifier is None else self.verifier.rounds(epoch)
        if epoch < self.config.warmup_epochs:
            return 0
        if self.updates_end is None or epoch < self.updates_end[0]:
            return self.config.updates
        return self.updates_end[1] + 1 if epoch == self.updates_end[0] else 0

    def resolved(self, place: Place) -> Place:
        """The place itself if it is a step, otherwise the first step after it, or the end."""
        while place.epoch < self.config.epochs and place.step >= self.phase_steps(place.epoch, place.phase):
            *others, last = PHASES
            if place.phase == last:
                place = Place(place.epoch + 1, PHASES[0], 0)
            else:
                place = Place(place.epoch, PHASES[others.index(place.phase) + 1], 0)
        return place

    def places(self, start: Place) -> Iterator[tuple[Place, Place]]:
        """Every step from `start` on, paired with the step that is expected next. That may change: a low entropy can end the
        controller's updates early."""
        place = self.resolved(start)
        while place.epoch < self.config.epochs:
            following = self.resolved(place._replace(step=place.step + 1))
            yield place, following
            place = self.resolved(following)

    def total_steps(self) -> int:
        """Steps of all phases of the whole search."""
        return sum(self.phase_steps(epoch, phase) for epoch in range(self.config.epochs) for phase in PHASES)

    # ---- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self, place: Place) -> dict[str, Any]:
        """All that resuming needs. Random numbers follow from the seed and the place, so none of them is here."""
        return {
            "place": list(place),
            "weights": self.weights.state_dict(),
            "controller": self.controller.state_dict(),
            "explorer": self.explorer.state_dict(),
            "updates_end": None if self.updates_end is None else list(self.updates_end),
            "watcher": self.watcher.state_dict(),
            "metrics": asdict(self.watcher.metrics.state()),
            "verifier": None if self.verifier is None else self.verifier.state_dict(),
            "bounds": None if self.bounds is None else self.bounds.state_dict(),
            "target": None if self.target is None else self.target.state_dict(),
            "archive": asdict(self.archive.digest()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Place:
        """Take over what `state_dict` returned, logs included; returns the place to go on from.

        Raises `WrongRecord` if it is another kind of state, and `RunFolderError` if the logs are not those it was saved
        with.
        """
        read = validated(SearchState, state, strict=False)
        self.weights.load_state_dict(read.weights)
        self.controller.load_state_dict(read.controller)
        self.explorer.load_state_dict(read.explorer)
        self.updates_end = read.updates_end
        self.watcher.load_state_dict(read.watcher)
        self.watcher.metrics.restore(read.metrics)
        if self.verifier is not None and read.verifier is not None:
            self.verifier.load_state_dict(read.verifier)
        if self.bounds is not None and read.bounds is not None:
            self.bounds.load_state_dict(read.bounds)
        if self.target is not None and read.target is not None:
            self.target.load_state_dict(read.target)
        self.archive.rewind(read.archive.bytes, read.archive.sha256)
        return Place(*read.place)


@dataclass(frozen=True)
class SearchState:
    """What a checkpoint of a search holds."""

    place: tuple[int, Phase, int]
    weights: dict[str, Any]
    controller: dict[str, Any]
    explorer: dict[str, Any]
    updates_end: tuple[int, int] | None
    watcher: dict[str, Any]
    metrics: MetricsState
    verifier: dict[str, Any] | None
    archive: Digest
    """Of archive.jsonl up to here."""
    bounds: dict[str, int] | None = None
    target: dict[str, Any] | None = None
