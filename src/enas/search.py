"""The search: train the shared weights ω, then the controller θ, and again (paper §2.2).

Works for any task and any `Controller`: random search, evolution and ENAS are this loop with another controller.
Letters: N proposals, L decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from enas.constraints import Count, Epochs, PositiveInt, SampleSize, Settings, Share
from enas.controllers.base import Controller, check_rewards
from enas.controllers.uniform import UniformController
from enas.errors import NotFiniteError
from enas.evidence.statistics import percentile
from enas.health import collapse_warning, collapsed, parameter_free
from enas.runtime.checkpoint import CheckpointStore, fitting
from enas.runtime.compiling import compiling_told
from enas.runtime.files import Digest, JsonlLog
from enas.runtime.metrics import Metrics, MetricsState
from enas.runtime.progress import estimate_line, progress, say
from enas.runtime.records import validated
from enas.runtime.seeding import generator
from enas.runtime.stop import StopRequest
from enas.samplers import EXPLORERS, Exploration, FromController, Mixture
from enas.shared_weights import SharedWeights

Phase = Literal["weights", "controller"]


@dataclass(frozen=True)
class SearchConfig(Settings):
    """How long the search is, and how its two phases alternate."""

    epochs: Epochs = 150
    """Rounds of the two phases: a pass over the training data, then the controller's updates."""
    warmup: Share = 0.0
    """Share of the epochs at the start in which the controller rests and architectures are sampled without it."""
    samples: SampleSize = 1
    """M: architectures sampled for a training step, whose gradients are averaged (paper, eq. 1)."""
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
    """Share of the largest possible entropy at which the controller's updates end; the shared weights are trained on.
    A policy that is trained to certainty picks worse than one that is stopped early; None goes on to the end."""
    same_minibatch: bool = True
    """Whether the proposals of an update are rewarded on the same validation minibatch, which takes the minibatch's own
    difficulty out of their comparison, or each on one of its own (paper, authors)."""
    checkpoint_every: PositiveInt = 200
    """Steps (of either phase) between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """How many of the newest checkpoints stay."""
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


class Place(NamedTuple):
    """Where a search is: the step that comes next."""

    epoch: int
    phase: Phase
    step: int


@dataclass(frozen=True)
class SearchState:
    """What a checkpoint of a search holds."""

    place: tuple[int, Phase, int]
    weights: dict[str, Any]
    controller: dict[str, Any]
    running: dict[str, float]
    running_steps: int
    running_power: dict[str, float]
    samplers: dict[str, Any]
    updates_end: tuple[int, int] | None
    warned: bool
    metrics: MetricsState
    archive: Digest | int
    """Of archive.jsonl up to here; an earlier version kept its length alone."""


@dataclass
class Search:
    """The resumable state of a search, and its two kinds of step."""

    config: SearchConfig
    weights: SharedWeights
    controller: Controller
    seed: int
    metrics: Metrics
    archive: JsonlLog

    def __post_init__(self) -> None:
        self.uniform = UniformController(self.weights.space)
        self.explorer = EXPLORERS[self.config.exploration](self.weights.space, self.seed)
        self.mixture = Mixture(self.config.explore, self.explorer, FromController(self.controller))
        self.running: dict[str, float] = {}
        self.running_steps = 0
        self.running_power = {"gradient_signal": 0.0, "gradient_noise": 0.0}
        """Sums over the updates of the epoch."""
        self.updates_end: tuple[int, int] | None = None
        """Epoch and step of the last controller update, once the entropy has ended them."""
        self.warned = False
        """Whether a collapse has been reported."""

    # ---- one step each ---------------------------------------------------------------------------------------------

    def train_weights(self, epoch: int, step: int) -> dict[str, float]:
        """Sample M architectures and train their weights on the next minibatch."""
        sampler = self.explorer if epoch < self.config.warmup_epochs else self.mixture
        architectures = sampler.sample(self.config.samples, generator(self.seed, "weights", epoch, step))
        return self.weights.train_step(epoch, step, architectures)

    def train_controller(self, epoch: int, step: int) -> dict[str, float]:
        """Propose N architectures, reward them on validation minibatches, and let the controller learn."""
        proposals = self.controller.propose(
            self.config.proposals, generator(self.seed, "proposals", epoch, step)
        )
        architectures = proposals.architectures(self.weights.space)
        update = epoch * self.config.updates + step
        if self.config.same_minibatch:
            rewards_N = self.weights.rewards(architectures, "controller", update)
        else:
            draws = range(update * len(architectures), (update + 1) * len(architectures))
            singles = zip(architectures, draws, strict=True)
            rewards_N = torch.cat([self.weights.rewards([one], "controller", draw) for one, draw in singles])
        learnt = self.controller.feedback(proposals, rewards_N)
        for key in self.running_power:
            self.running_power[key] += learnt.get(key, 0.0)
        if self.config.stop_entropy is not None and learnt["entropy_share"] <= self.config.stop_entropy:
            self.updates_end = (epoch, step)
            say(
                f"search: the policy's entropy is {100 * learnt['entropy_share']:.1f} % of the largest possible after "
                f"{self.updates_done(epoch, step)} updates; it learns no more, the shared weights go on"
            )
        for architecture, reward in zip(architectures, rewards_N.tolist(), strict=True):
            self.archive.append(
                {"epoch": epoch, "step": step, "choices": list(architecture.choices), "reward": reward}
            )
        return {**learnt, **self.weights.task.describe_reward(float(rewards_N.mean()))}

    def step(self, place: Place, following: Place, number: int) -> dict[str, float]:
        """Do the step of a place, the `number`-th of the search, and log it; returns what a progress bar shows."""
        if place.phase == "weights":
            result = self.train_weights(place.epoch, place.step)
            self.log_weights(
                number, place, result, last=(following.epoch, following.phase) != (place.epoch, place.phase)
            )
            return {"ppl": result["ppl"]} if "ppl" in result else {"loss": result["loss"]}
        result = self.train_controller(place.epoch, place.step)
        self.metrics.record("search/controller", number, epoch=place.epoch, **result)
        if self.resolved(following).epoch != place.epoch:
            self.log_health(number, place.epoch)
        return {"reward": result["reward"], "entropy_share": result["entropy_share"]}

    # ---- how the policy is doing -----------------------------------------------------------------------------------

    def log_prior(self) -> None:
        """Log and say what the controller favours before any reward."""
        prior = self.controller.prior(generator(self.seed, "prior"))
        if prior:
            self.metrics.record("search/start", 0, epoch=0, **prior)
            say(
                f"policy: an option starts at {prior['initial_smallest']:.2f} to {prior['initial_largest']:.2f} times its "
                f"uniform probability; training can raise any of them to {prior['attainable']:.2f}"
            )

    def log_health(self, number: int, epoch: int) -> None:
        """Log how the policy stands after the updates of an epoch; warn, once, if it has collapsed."""
        health: dict[str, float] = {}
        signal, noise = self.running_power.values()
        if noise > 0:
            health["gradient_snr"] = signal / noise
        self.running_power = dict.fromkeys(self.running_power, 0.0)
        free = parameter_free(self.weights.space, self.controller.mode())
        if free is not None:
            alarm = collapsed(free, self.config.collapse_share)
            health |= {
                "parameter_free": free.share,
                "parameter_free_of_random": free.expected / free.asked,
                "collapsed": float(alarm),
            }
            if alarm and not self.warned:
                say(collapse_warning(free))
                self.warned = True
        if self.measures_percentile(epoch):
            health["percentile"] = self.policy_percentile(epoch)
        if health:
            self.metrics.record("search/health", number, epoch=epoch, **health)

    def measures_percentile(self, epoch: int) -> bool:
        """Whether the policy's samples are compared with random architectures after an epoch's updates."""
        every = self.config.percentile_every
        last = epoch == self.config.epochs - 1 or self.updates_end is not None
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
        rewards = self.weights.rewards(architectures, "percentile", epoch)
        own_N, random_N = rewards.split(count)
        for proposals, rewards_N in zip(drawn, (own_N, random_N), strict=True):
            check_rewards(space, proposals, rewards_N)
        return percentile(own_N.cpu().numpy(), random_N.cpu().numpy())

    # ---- the order of the steps ------------------------------------------------------------------------------------

    def phase_steps(self, epoch: int, phase: Phase) -> int:
        """How many steps a phase of an epoch has."""
        if phase == "weights":
            return self.weights.steps(epoch)
        if epoch < self.config.warmup_epochs:
            return 0
        if self.updates_end is None or epoch < self.updates_end[0]:
            return self.config.updates
        return self.updates_end[1] + 1 if epoch == self.updates_end[0] else 0

    def updates_done(self, epoch: int, step: int) -> int:
        """The number of controller updates up to and including one."""
        return (epoch - self.config.warmup_epochs) * self.config.updates + step + 1

    def resolved(self, place: Place) -> Place:
        """The place itself if it is a step, otherwise the first step after it, or the end."""
        while place.epoch < self.config.epochs and place.step >= self.phase_steps(place.epoch, place.phase):
            weights = place.phase == "weights"
            place = Place(place.epoch, "controller", 0) if weights else Place(place.epoch + 1, "weights", 0)
        return place

    def places(self, start: Place) -> Iterator[tuple[Place, Place]]:
        """Every step from `start` on, with the one that comes after it as far as can be told before it is done: the
        entropy may end the controller's updates at any of them."""
        place = self.resolved(start)
        while place.epoch < self.config.epochs:
            following = self.resolved(place._replace(step=place.step + 1))
            yield place, following
            place = self.resolved(following)

    def total_steps(self) -> int:
        """Steps of both phases of the whole search."""
        epochs = range(self.config.epochs)
        return sum(
            self.phase_steps(epoch, "weights") + self.phase_steps(epoch, "controller") for epoch in epochs
        )

    def estimate(self) -> str:
        """One line: how long the search will take and how much memory it needs."""
        step, reward_seconds = self.weights.estimate()
        epochs = range(self.config.epochs)
        train = sum(self.weights.steps(epoch) for epoch in epochs) * self.config.samples * step.seconds
        updates = [self.phase_steps(epoch, "controller") for epoch in epochs]
        measured = sum(1 for epoch in epochs if updates[epoch] and self.measures_percentile(epoch))
        rewards = sum(updates) * self.config.proposals + 2 * measured * self.config.percentile_samples
        return estimate_line("search", train + rewards * reward_seconds, step.mib)

    # ---- state -----------------------------------------------------------------------------------------------------

    def state_dict(self, place: Place) -> dict[str, Any]:
        """All that resuming needs. Random numbers follow from the seed and the place, so none of them is here."""
        return {
            "place": list(place),
            "weights": self.weights.state_dict(),
            "controller": self.controller.state_dict(),
            "running": dict(self.running),
            "running_steps": self.running_steps,
            "running_power": dict(self.running_power),
            "samplers": self.mixture.state_dict(),
            "updates_end": None if self.updates_end is None else list(self.updates_end),
            "warned": self.warned,
            "metrics": asdict(self.metrics.state()),
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
        self.running, self.running_steps = dict(read.running), read.running_steps
        self.running_power = dict(read.running_power)
        self.mixture.load_state_dict(read.samplers)
        self.updates_end = read.updates_end
        self.warned = read.warned
        self.metrics.restore(read.metrics)
        if isinstance(read.archive, int):
            self.archive.rewind(read.archive)
        else:
            self.archive.rewind(read.archive.bytes, read.archive.sha256)
        return Place(*read.place)

    def clear_logs(self) -> None:
        """Drop what an earlier start without a checkpoint has logged."""
        self.metrics.restore(MetricsState())
        self.archive.rewind(0)

    def log_weights(self, number: int, place: Place, result: dict[str, float], last: bool) -> None:
        """Collect the results of training steps and write their mean every `log_every` steps."""
        for key, value in result.items():
            self.running[key] = self.running.get(key, 0.0) + value
        self.running_steps += 1
        if self.running_steps >= self.config.log_every or last:
            mean = {key: value / self.running_steps for key, value in self.running.items()}
            self.metrics.record("search/weights", number, epoch=place.epoch, **mean)
            self.running, self.running_steps = {}, 0


def run_search(search: Search, checkpoints: CheckpointStore, stop: StopRequest, run: Path) -> None:
    """Run a search to its end, from its newest checkpoint if there is one.

    Raises `Stopped` after saving if a stop is requested, and `NotFiniteError`, keeping the last good checkpoint, if a
    loss or reward is not finite.
    """
    found = checkpoints.load_newest()
    checkpoints.prune()
    if found is None:
        done, start = 0, Place(0, "weights", 0)
        search.clear_logs()
        with compiling_told(stop, run):
            estimated = search.estimate()
        say(estimated)
        search.log_prior()
        checkpoints.save(done, search.state_dict(start))
    else:
        with fitting(checkpoints.path(found[0])):
            done, start = found[0], search.load_state_dict(found[1])
        say(f"search: going on after step {done} of {search.total_steps()}")
    with progress("search", search.total_steps(), "steps", done=done) as bar:
        for place, following in search.places(start):
            try:
                shown = search.step(place, following, done + 1)
            except NotFiniteError as error:
                raise NotFiniteError(
                    f"search stopped in epoch {place.epoch}, {place.phase} step {place.step}: {error}."
                    f"{checkpoints.said_kept()} Search again into a new folder with a lower learning rate or clipping bound"
                ) from error
            done += 1
            following = search.resolved(following)
            if search.updates_end == (place.epoch, place.step):  # there are fewer steps than it seemed
                bar.total = search.total_steps()
            bar.advance(1, epoch=place.epoch + 1, **shown)
            at_end = following.epoch == search.config.epochs
            if stop.requested or at_end or done % search.config.checkpoint_every == 0:
                checkpoints.save(done, search.state_dict(following))
            if stop.requested and not at_end:
                raise stop.stopped(run)
