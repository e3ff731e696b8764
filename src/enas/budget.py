"""Planning a run within a time: the recipe with all its lengths scaled alike, so that its proportions stay.

What a step costs is measured on this machine before anything is trained. Lengths are epochs: of the search, of the trainings
that verify it, of the shortlist's, and of the retraining. Schedules that end with a training end with it again.
"""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec

from enas.architecture import Architecture
from enas.child_training import evaluate
from enas.config import RunConfig
from enas.correction import REFERENCES
from enas.errors import ConfigError, shown
from enas.executors import executor_for, in_stages
from enas.retrain import Network
from enas.runtime.progress import duration, say
from enas.runtime.seeding import derive_seed
from enas.trainer import Trainer
from enas.verification import POOL

P = ParamSpec("P")

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST = 10_000 * UNITS["d"]
"""The longest budget, in seconds."""
EXAMPLES = 3
"""Random architectures whose steps are timed."""
TAKES, ENOUGH = 5, 0.5
"""How often each is timed at most, and how many seconds are enough."""
OVERHEAD = 0.1
"""Share of the time for what is not counted: starting, saving, logging, testing."""


def seconds_of(text: str) -> float:
    """The seconds of a time such as `90s`, `30m`, `1h30m`. Raises `ConfigError` if it is none."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < seconds <= LONGEST:
        raise ConfigError(
            f"a budget is a time such as 90s, 30m or 1h30m, of at most 10,000 days, not {shown(text)}"
        )
    return seconds


@dataclass(frozen=True)
class Costs:
    """Seconds that a run's parts take on a machine."""

    weights: float
    """Of a pass of the shared weights over the training data."""
    reward: float
    """Of one reward."""
    features: float
    """Of what a verification's model is told of an architecture."""
    child: float
    """Of an epoch of a training alone, its evaluation included: the mean of some random architectures."""
    at_once: int
    """Trainings that run side by side."""


@dataclass(frozen=True)
class Lengths:
    """The epochs of a run's parts."""

    search: int
    verify: int
    shortlist: int
    retrain: int

    @classmethod
    def of(cls, config: RunConfig) -> Lengths:
        """Those of a recipe."""
        return cls(
            config.search.epochs,
            config.verify.epochs,
            config.derive.shortlist_epochs,
            config.child_epochs,
        )

    def scaled(self, factor: float) -> Lengths:
        """All lengths times `factor`, at least 1."""
        return Lengths(*(max(1, round(factor * epochs)) for epochs in vars(self).values()))


def seconds_needed(config: RunConfig, lengths: Lengths, costs: Costs, networks: int) -> float:
    """How long a run takes whose parts have these lengths. `networks` are retrained."""
    search, derive, verify = replace(config.search, epochs=lengths.search), config.derive, config.verify
    learning = search.epochs - search.warmup_epochs
    proposals = learning * search.updates * search.proposals
    rewards, described = proposals, 0
    if search.percentile_every is not None:
        rewards += 2 * search.percentile_samples * (learning // search.percentile_every)
    rewards += derive.samples * derive.minibatches
    alone = [(networks, lengths.retrain)]
    if verify.trainings:
        plan = verify.plan(search)
        alone += [(count, lengths.verify) for count in plan.values()]
        looked_at = 2 * POOL * (2 * len(plan) - 1)  # to choose from, and to see how the policy is doing
        rewards += verify.minibatches * looked_at
        described = REFERENCES + looked_at + (proposals if verify.correct else 0)
    if derive.rule == "shortlist":
        alone.append((derive.shortlist, lengths.shortlist))
    rounds = sum(-(-count // costs.at_once) * epochs for count, epochs in alone)
    work = search.epochs * search.samples * costs.weights + rewards * costs.reward
    work += described * costs.features + rounds * costs.child
    return work * (1 + OVERHEAD)


def planned(config: RunConfig, seconds: float, costs: Costs, networks: int, spent: float = 0.0) -> RunConfig:
    """The settings with the greatest lengths, in the recipe's proportions and at most the recipe's, that take this long
    with the seconds that are `spent` already.

    Raises `ConfigError` if even one epoch of each part takes longer.
    """
    recipe = Lengths.of(config)
    steps = sorted({factor for epochs in vars(recipe).values() for factor in _factors(epochs)}, reverse=True)
    for factor in steps:
        lengths = recipe.scaled(factor)
        if spent + seconds_needed(config, lengths, costs, networks) <= seconds:
            return with_lengths(config, lengths)
    least = spent + seconds_needed(config, recipe.scaled(0), costs, networks)
    raise ConfigError(
        f"a budget of {duration(seconds)} is too short: one epoch of each part takes about {duration(least)} here. Allow "
        "more, or take less data, fewer networks (--retrain.random, --verify.trainings) or smaller ones"
    )


def _factors(epochs: int) -> Sequence[float]:
    """The factors at which a length of the recipe changes."""
    return [1.0, *((count + 0.5) / epochs - 1e-9 for count in range(1, epochs))]


def with_lengths(config: RunConfig, lengths: Lengths) -> RunConfig:
    """The settings with these lengths."""
    changed = config.with_epochs(lengths.search, lengths.retrain)
    return replace(
        changed,
        verify=replace(config.verify, epochs=lengths.verify),
        derive=replace(config.derive, shortlist_epochs=lengths.shortlist),
    )


def measured(config: RunConfig) -> Costs:
    """What steps cost here, by a few that change nothing."""
    rng = random.Random(derive_seed(config.seed, "budget"))
    examples = [config.searched_space().sample(rng) for _ in range(EXAMPLES)]
    weights, reward = of_shared_weights(config, examples)
    child = statistics.fmean(of_an_epoch(config, one) for one in examples)
    at_once = executor_for(config).at_once if in_stages(config) else 1
    features = usual(partial(clocked, config.costs, one) for one in examples)
    return Costs(weights, reward, features, child, at_once)


def of_shared_weights(config: RunConfig, examples: Sequence[Architecture]) -> tuple[float, float]:
    """The seconds of a pass over the training data, and of a reward."""
    weights = config.shared_weights()
    weights.estimate()  # the kernels of every operation are compiled then
    step = usual(partial(seconds_of_step, weights.trainer, one) for one in examples)
    reward = usual(partial(clocked, weights.rewards, [one], "budget", 0) for one in examples)
    return step * weights.steps(0), reward


def of_an_epoch(config: RunConfig, architecture: Architecture) -> float:
    """The seconds of an epoch of a training alone, and of its evaluation."""
    training = config.child_training(Network("candidate", architecture, config.seed), 1)
    step = usual([partial(seconds_of_step, training.trainer)])
    return step * training.task.steps(0) + clocked(evaluate, training.model, training.task, "valid")


def seconds_of_step(trainer: Trainer, architecture: Architecture | None = None) -> float:
    """The seconds of a training step, which is taken back."""
    return trainer.estimate(architecture).seconds


def usual(takes: Iterable[Callable[[], float]]) -> float:
    """The mean of what these take, of each the median of several takes."""
    return statistics.fmean(statistics.median(several(take)) for take in takes)


def several(take: Callable[[], float]) -> Sequence[float]:
    """What some takes come to: more of them where they are short, as these differ more. The first makes ready."""
    take()
    found = [take()]
    while len(found) < TAKES and sum(found) < ENOUGH:
        found.append(take())
    return found


def clocked(call: Callable[P, object], *args: P.args, **named: P.kwargs) -> float:
    """The seconds of a call."""
    began = time.perf_counter()
    call(*args, **named)
    return time.perf_counter() - began


def within(config: RunConfig, budget: str) -> RunConfig:
    """The settings planned for a budget; says what they are."""
    began, seconds = time.monotonic(), seconds_of(budget)
    networks = 1 + config.retrain.random + len(config.references())
    costs = measured(config)
    found = planned(config, seconds, costs, networks, spent=time.monotonic() - began)
    lengths = Lengths.of(found)
    needed = duration(seconds_needed(config, lengths, costs, networks))
    parts = [f"{lengths.search} epochs of search", f"{lengths.retrain} of retraining"]
    if config.verify.trainings:
        parts.insert(1, f"{lengths.verify} of each verifying training")
    if config.derive.rule == "shortlist":
        parts.insert(-1, f"{lengths.shortlist} of each of the shortlist")
    say(f"budget {duration(seconds)}: {', '.join(parts)}; about {needed}")
    return found
