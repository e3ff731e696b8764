"""The shared weights ω of a search: trained along sampled paths, and used to reward and to score architectures."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from enas import collective, parallel
from enas.architecture import Architecture, Space
from enas.averaging import moving
from enas.norms import NormStatistics
from enas.runtime.seeding import derive_seed
from enas.step_logs import StepLog
from enas.task import BaseTask, Split
from enas.trainer import Estimate, Trainer

TRIES = 200
"""Random architectures in a row that add nothing, after which what is left is too deep inside other options to wait for."""


class SharedWeights:
    """A supernet and its training.

    Whatever is random in a step follows from the run's seed and the step's place (epoch, step), so that resuming needs only
    `state_dict`.
    """

    def __init__(self, supernet: nn.Module, space: Space, task: BaseTask, average: float = 0.0) -> None:
        """`average` is the share of a moving average of the weights that is kept at every step: rewards are computed with
        the average, and with the weights themselves if it is 0.

        At a learning rate that trains fast, weights jump about, and what they make of an architecture jumps with them: their
        average orders architectures better (docs/results.md).
        """
        self.space = space
        self.task = task
        self.trainer = Trainer(supernet, task)
        if average:
            self.trainer.start_average(moving(average))

    def steps(self, epoch: int) -> int:
        """How many training steps the pass of this epoch has."""
        return self.task.steps(epoch)

    @parallel.repeated
    def train_step(self, epoch: int, step: int, architectures: Sequence[Architecture]) -> StepLog:
        """Train on the next minibatch, by the mean gradient of the architectures; returns what to log, `loss` among it.

        Raises `NotFiniteError`, with the weights untouched, if a loss is NaN or infinite; on a GPU as `Trainer.step` does.
        Raises `ProcessError` if after an epoch the weights are not the same in all processes.
        """
        log = self.trainer.step(epoch, step, architectures)
        if step + 1 == self.steps(epoch):
            collective.check_alike(self.trainer.model.parameters(), f"after epoch {epoch + 1}")
        return log

    @parallel.repeated
    def rewards(self, architectures: Sequence[Architecture], purpose: str, draw: int) -> Tensor:
        """The rewards [N] of the architectures, all on the same validation minibatch; higher ones are better.

        `purpose` and `draw` say which minibatch. The weights are left as they are.
        """
        minibatch = self.task.reward_minibatch(purpose, draw)
        if self.task.statistics == "moving":
            collective.as_in_first(buffer for norm in self.trainer.norms() for buffer in norm.buffers())
        with self.evaluating(purpose, draw) as ready:
            measured = collective.spread(
                self.groups(architectures), lambda group: self.task.measure_each(ready, minibatch, group)
            )
        return self.task.rewards_from(torch.stack([one for group in measured for one in group]).cpu())

    def groups(self, architectures: Sequence[Architecture]) -> list[Sequence[Architecture]]:
        """Those that are measured together: as many as the task takes, if that leaves none of the processes without."""
        size = max(1, min(self.task.at_once, -(-len(architectures) // parallel.division()[1])))
        return [architectures[first : first + size] for first in range(0, len(architectures), size)]

    def scores(self, architectures: Sequence[Architecture]) -> list[float]:
        """The scores of architectures on all validation data, higher ones better, with the norms and the size of minibatch
        that rewards have: what a ranking compares."""
        with self.evaluating("rank") as ready:
            found = [self.task.evaluate(ready(one), "valid", one) for one in architectures]
        return [self.task.sort_key(score)[0] for score in found if score is not None]

    def class_probabilities(
        self, architectures: Iterable[Architecture], split: Split, batch: int, statistics: NormStatistics
    ) -> Iterator[Tensor]:
        """The class probabilities [N, K] of a whole split by each architecture, `batch` examples at once, in float64.

        Raises `ConfigError` if the task has no classes.
        """
        for architecture in architectures:
            with self.evaluating("ensemble", statistics=statistics) as ready:
                found = self.task.class_probabilities(ready(architecture), split, architecture, batch)
            yield found

    @contextlib.contextmanager
    def evaluating(
        self, *purpose: str | int, statistics: NormStatistics | None = None
    ) -> Iterator[Callable[[Architecture], nn.Module]]:
        """Yields a function. Called with an architecture, it returns the network, ready to evaluate it until the next call.

        On exit the network is as it was. `purpose` says on which minibatches norms are recalibrated.
        """
        self.trainer.settle()
        model, norms = self.trainer.evaluation_model, self.trainer.norms()
        chosen = self.task.statistics if statistics is None else statistics

        def ready(architecture: Architecture) -> nn.Module:
            if chosen == "recalibrated":
                self.task.calibrate(model, norms, architecture, *purpose)
            return model

        with self.task.evaluating(model, norms, chosen):
            yield ready

    @contextlib.contextmanager
    def finetuned(self, architecture: Architecture, minibatches: int, epoch: int) -> Iterator[None]:
        """Inside, the weights have been trained further, for this architecture alone, on the first `minibatches` of `epoch`,
        at that epoch's learning rate.

        Training starts from the averaged weights; the originals are restored afterwards, bit for bit. Raises
        `NotFiniteError`, with everything as it was, if the loss is NaN.
        """
        before, averaged = copy.deepcopy(self.state_dict()), self.trainer.averaged
        try:
            if averaged is not None:
                pairs = zip(self.trainer.model.parameters(), averaged.module.parameters(), strict=True)
                with torch.no_grad():
                    for own, average in pairs:
                        own.copy_(average)
                self.trainer.averaged = None
            for step in range(minibatches):
                self.train_step(epoch, step % self.steps(epoch), [architecture])
            yield
        finally:
            self.trainer.averaged = averaged
            self.load_state_dict(before)

    def estimate(self) -> tuple[Estimate, float]:
        """(what a training step of one architecture costs, seconds of its reward), measured without changing anything."""
        architecture = self.space.sample(random.Random(derive_seed(self.task.seed, "estimate")))
        step = self.trainer.estimate(architecture, with_every_operation(self.space, random.Random(0)))
        self.rewards([architecture], "estimate", 0)
        began = time.perf_counter()
        self.rewards([architecture], "estimate", 0)
        return step, time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""
        return self.trainer.state_dict()

    @parallel.repeated
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.trainer.load_state_dict(state)


def with_every_operation(space: Space, rng: random.Random) -> list[Architecture]:
    """A few random architectures that together use every operation and function. Each adds at least one.

    In a conditional space those of active decisions are looked for, until none is new in `TRIES` samples.
    """
    missing = {
        option
        for decision in space.decisions
        if decision.kind in ("operation", "function")
        for option in decision.options
    }
    found: list[Architecture] = []
    tries = 0
    while missing and not (space.conditional and tries == TRIES):
        architecture = space.sample(rng)
        choices = architecture.choices
        answers = zip(space.decisions, choices, space.active(choices), strict=True)
        taken = {decision.options[choice] for decision, choice, active in answers if active}
        tries += 1
        if missing & taken:
            found.append(architecture)
            missing -= taken
            tries = 0
    return found
