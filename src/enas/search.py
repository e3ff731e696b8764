"""The search: train the shared weights ω, then the controller θ, and again (paper §2.2).

Works for any `SearchTask` and any `Controller`: random search, evolution and ENAS are this loop with another controller.
Letters: N proposals, L decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from enas.controllers.base import Controller
from enas.controllers.uniform import UniformController
from enas.errors import ConfigError, NotFiniteError
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import JsonlLog
from enas.runtime.metrics import Metrics
from enas.runtime.progress import estimate_line, progress, say
from enas.runtime.seeding import generator
from enas.runtime.stop import StopRequest
from enas.tasks.base import SearchTask

Phase = Literal["weights", "controller"]


@dataclass(frozen=True)
class SearchConfig:
    """How long the search is, and how its two phases alternate."""

    epochs: int = 150
    """Rounds of the two phases: a pass over the training data, then the controller's updates."""
    warmup: float = 0.0
    """Share of the epochs at the start in which architectures are sampled uniformly and the controller rests."""
    samples: int = 1
    """M: architectures sampled for a training step, whose gradients are averaged (paper, eq. 1)."""
    explore: float = 0.0
    """Share of the training steps after the warm-up whose architectures are sampled uniformly."""
    updates: int = 2000
    """Controller updates after a pass."""
    proposals: int = 1
    """Architectures rewarded for one controller update."""
    same_minibatch: bool = True
    """Whether the proposals of an update are rewarded on the same validation minibatch, which takes the minibatch's own
    difficulty out of their comparison, or each on one of its own (paper, authors)."""
    checkpoint_every: int = 200
    """Steps (of either phase) between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    log_every: int = 20
    """Training steps that share one record in metrics.jsonl, their mean."""

    def __post_init__(self) -> None:
        for name in ("epochs", "samples", "proposals", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"search.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("warmup", "explore"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"search.{name} is a share in [0, 1], not {getattr(self, name)}")

    @property
    def warmup_epochs(self) -> int:
        """Epochs without controller updates."""
        return round(self.warmup * self.epochs)


class Place(NamedTuple):
    """Where a search is: the step that comes next."""

    epoch: int
    phase: Phase
    step: int


@dataclass
class Search:
    """The resumable state of a search, and its two kinds of step."""

    config: SearchConfig
    task: SearchTask
    controller: Controller
    seed: int
    metrics: Metrics
    archive: JsonlLog

    def __post_init__(self) -> None:
        self.uniform = UniformController(self.task.space)
        self.running: dict[str, float] = {}
        self.running_steps = 0

    # ---- one step each ---------------------------------------------------------------------------------------------

    def train_weights(self, epoch: int, step: int) -> dict[str, float]:
        """Sample M architectures and train their weights on the next minibatch."""
        draw = generator(self.seed, "weights", epoch, step)
        explores = (
            epoch < self.config.warmup_epochs or float(torch.rand((), generator=draw)) < self.config.explore
        )
        sampler = self.uniform if explores else self.controller
        with torch.no_grad():
            proposals = sampler.propose(self.config.samples, draw)
        return self.task.train_step(epoch, step, proposals.architectures(self.task.space))

    def train_controller(self, epoch: int, step: int) -> dict[str, float]:
        """Propose N architectures, reward them on validation minibatches, and let the controller learn."""
        proposals = self.controller.propose(
            self.config.proposals, generator(self.seed, "proposals", epoch, step)
        )
        architectures = proposals.architectures(self.task.space)
        update = epoch * self.config.updates + step
        if self.config.same_minibatch:
            rewards_N = self.task.rewards(architectures, "controller", update)
        else:
            draws = range(update * len(architectures), (update + 1) * len(architectures))
            singles = zip(architectures, draws, strict=True)
            rewards_N = torch.cat([self.task.rewards([one], "controller", draw) for one, draw in singles])
        learnt = self.controller.feedback(proposals, rewards_N)
        for architecture, reward in zip(architectures, rewards_N.tolist(), strict=True):
            self.archive.append(
                {"epoch": epoch, "step": step, "choices": list(architecture.choices), "reward": reward}
            )
        return {**learnt, **self.task.describe_reward(float(rewards_N.mean()))}

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
        return {"reward": result["reward"]}

    # ---- the order of the steps ------------------------------------------------------------------------------------

    def phase_steps(self, epoch: int, phase: Phase) -> int:
        """How many steps a phase of an epoch has."""
        if phase == "weights":
            return self.task.steps(epoch)
        return 0 if epoch < self.config.warmup_epochs else self.config.updates

    def places(self, start: Place) -> Iterator[tuple[Place, Place]]:
        """Every step from `start` on, with the one that comes after it."""
        order = [
            Place(epoch, phase, step)
            for epoch in range(start.epoch, self.config.epochs)
            for phase in ("weights", "controller")
            for step in range(self.phase_steps(epoch, phase))
        ]
        order = order[order.index(start) :] if start in order else []
        end = Place(self.config.epochs, "weights", 0)
        return zip(order, [*order, end][1:], strict=True)

    def total_steps(self) -> int:
        """Steps of both phases of the whole search."""
        epochs = range(self.config.epochs)
        return sum(
            self.phase_steps(epoch, "weights") + self.phase_steps(epoch, "controller") for epoch in epochs
        )

    def estimate(self) -> str:
        """One line: how long the search will take and how much memory it needs."""
        train_seconds, reward_seconds, memory = self.task.estimate()
        epochs = range(self.config.epochs)
        train = sum(self.task.steps(epoch) for epoch in epochs) * self.config.samples * train_seconds
        updates = sum(self.phase_steps(epoch, "controller") for epoch in epochs)
        return estimate_line("search", train + updates * self.config.proposals * reward_seconds, memory)

    # ---- state -----------------------------------------------------------------------------------------------------

    def state_dict(self, place: Place) -> dict[str, Any]:
        """All that resuming needs. Random numbers follow from the seed and the place, so none of them is here."""
        return {
            "place": list(place),
            "task": self.task.state_dict(),
            "controller": self.controller.state_dict(),
            "running": dict(self.running),
            "running_steps": self.running_steps,
            "metrics": dict(self.metrics.state()),
            "archive": self.archive.position(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Place:
        """Take over what `state_dict` returned, logs included; returns the place to go on from."""
        self.task.load_state_dict(state["task"])
        self.controller.load_state_dict(state["controller"])
        self.running, self.running_steps = dict(state["running"]), state["running_steps"]
        self.metrics.restore(state["metrics"])
        self.archive.rewind(state["archive"])
        epoch, phase, step = state["place"]
        return Place(epoch, phase, step)

    def clear_logs(self) -> None:
        """Drop what an earlier start without a checkpoint has logged."""
        self.metrics.restore({"position": 0, "seconds": 0.0})
        self.archive.rewind(0)

    def log_weights(self, number: int, place: Place, result: dict[str, float], last: bool) -> None:
        """Collect the results of training steps and write their mean every `log_every` steps."""
        for key, value in result.items():
            self.running[key] = self.running.get(key, 0.0) + value
        self.running_steps += 1
        if self.running_steps == self.config.log_every or last:
            mean = {key: value / self.running_steps for key, value in self.running.items()}
            self.metrics.record("search/weights", number, epoch=place.epoch, **mean)
            self.running, self.running_steps = {}, 0


def run_search(search: Search, checkpoints: CheckpointStore, stop: StopRequest, run: Path) -> None:
    """Run a search to its end, from its newest checkpoint if there is one.

    Raises `Stopped` after saving if a stop is requested, and `NotFiniteError`, keeping the last good checkpoint, if a
    loss or reward is not finite.
    """
    found = checkpoints.load_newest()
    if found is None:
        done, start = 0, Place(0, "weights", 0)
        search.clear_logs()
        say(search.estimate())
        checkpoints.save(done, search.state_dict(start))
    else:
        done, start = found[0], search.load_state_dict(found[1])
        say(f"search: going on after step {done} of {search.total_steps()}")
    with progress("search", search.total_steps(), "steps", done=done) as bar:
        for place, following in search.places(start):
            try:
                shown = search.step(place, following, done + 1)
            except NotFiniteError as error:
                raise NotFiniteError(
                    f"search stopped in epoch {place.epoch}, {place.phase} step {place.step}: {error}. The checkpoint "
                    f"after step {checkpoints.steps()[-1]} is kept. Search again into a new folder with a lower "
                    "learning rate or clipping bound"
                ) from error
            done += 1
            bar.advance(1, epoch=place.epoch + 1, **shown)
            at_end = following.epoch == search.config.epochs
            if stop.requested or at_end or done % search.config.checkpoint_every == 0:
                checkpoints.save(done, search.state_dict(following))
            if stop.requested and not at_end:
                raise stop.stopped(run)
