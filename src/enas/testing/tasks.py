"""The contract of a task: `enas.Task`, or a `BaseTask` that was written for itself."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import torch
from torch import nn

from enas.architecture import Architecture
from enas.child_training import evaluate
from enas.errors import shortened, shown
from enas.masks import masks_from
from enas.runtime.seeding import generator, global_seed
from enas.searchable import searchable
from enas.shared_weights import SharedWeights
from enas.task import BaseTask, Loss, Score, Split
from enas.tasks.batches import BatchTask, Task
from enas.testing.networks import child_in, space_in
from enas.testing.rules import disturb, rule, same, through_a_file
from enas.trainer import OWN, Trainer

Paths = Sequence[Architecture | None]


@global_seed(0)
def check_task(task: Task | BaseTask, net: nn.Module) -> None:
    """Check that a task keeps its contract, with a network to be searched or one with choices.

    Minibatches, rewards and scores follow from the seed and the place alone; the loss has a gradient; and a training that is
    stopped goes on bit for bit. A few steps are trained, with a copy of the network, and the validation and test data are
    evaluated on. Raises `ContractError`.
    """
    whose = type(task).__name__
    with rule(whose, "the network must be one that can be searched", "Call enas.testing.check_network on it"):
        model = searchable(copy.deepcopy(net))
        rng, space = random.Random(0), space_in(model)
        sampled = [space.sample(rng) for _ in range(2)]
        child = child_in(model, sampled[0])
    with rule(whose, "it must be an enas.Task, or a BaseTask", "Derive it from enas.task.BaseTask") as holds:
        holds(isinstance(task, Task | BaseTask), f"it is {shown(task)}")
    with rule(whose, "its training data must be batches", "See enas.Task"):
        found, again = opened(task), opened(task)
        before = copy.deepcopy(found.state_dict())
    check_places(whose, found)
    check_pace(whose, found, model)
    check_loss(whose, found, copy.deepcopy(model), sampled[0])
    check_rewards(whose, found, copy.deepcopy(model), sampled)

    def score(split: Split) -> Score | None:
        """Along a path of shared weights."""
        with weights.evaluating("check") as ready:
            return found.evaluate(ready(sampled[0]), split, sampled[0])

    weights = SharedWeights(copy.deepcopy(model), space, found)
    check_scores(whose, found, weights.trainer.model, score)
    check_resuming(whose, found, again, model, sampled)
    with_child, child = f"{whose}, with a child of {type(net).__name__}", child.to(found.device)
    check_scores(with_child, found, child, partial(evaluate, child, found))
    check_resuming(with_child, found, again, child, OWN)
    check_size(with_child, found, child)
    found.load_state_dict(before)


def opened(task: Task | BaseTask) -> BaseTask:
    """The task that is trained: of a user's data for two epochs on the CPU."""
    if isinstance(task, BaseTask):
        return task
    return BatchTask(task, epochs=2, seed=0, device=torch.device("cpu"), dtype=torch.float32)


def places(task: BaseTask) -> list[tuple[int, int]]:
    """The first steps of two epochs."""
    return [(epoch, step) for epoch in range(2) for step in range(min(2, task.steps(epoch)))]


def check_places(whose: str, task: BaseTask) -> None:
    """Minibatches."""
    with rule(
        whose, "steps(epoch) must be a whole number of at least 1, always the same", "Count minibatches"
    ) as holds:
        for epoch in (0, 1, 0):
            steps = task.steps(epoch)
            holds(type(steps) is int and steps >= 1, f"that of epoch {epoch} is {shown(steps)}")
            holds(
                task.steps(epoch) == steps,
                f"that of epoch {epoch} is {steps}, and another one when asked again",
            )
    with rule(
        whose,
        "minibatch(epoch, step) must follow from the seed, the epoch and the step alone",
        "Draw what is random from enas.runtime.seeding.generator(self.seed, 'batches', epoch, step)",
    ) as holds:
        disturb(1)
        first = {place: copy.deepcopy(task.minibatch(*place)) for place in places(task)}
        disturb(2)
        for place, minibatch in reversed(first.items()):
            holds(same(task.minibatch(*place), minibatch), f"that of {place} is another one when read again")


def check_pace(whose: str, task: BaseTask, model: nn.Module) -> None:
    """Optimiser and learning rates."""
    with rule(
        whose,
        "optimizer must make an optimiser of one group of parameters",
        "Give all parameters in one list",
    ) as holds:
        made = task.optimizer(model.parameters())
        holds(isinstance(made, torch.optim.Optimizer), f"it made {shown(made)}")
        holds(len(made.param_groups) == 1, f"it made one of {len(made.param_groups)} groups")
    with rule(whose, "learning rates must be finite and at least 0", "Correct rate or rate_factor") as holds:
        for epoch, step in places(task):
            rate, factor = task.rate(epoch), task.rate_factor(task.minibatch(epoch, step))
            holds(0 <= rate * factor < math.inf, f"that of {(epoch, step)} is {rate} · {factor}")


def check_loss(whose: str, task: BaseTask, model: nn.Module, architecture: Architecture) -> None:
    """One loss."""
    with rule(
        whose,
        "loss must be a Loss: a finite scalar with a gradient, and what is logged of it",
        "Compute it by torch from the network's output, and take the mean over the minibatch",
    ) as holds:
        before, minibatch = copy.deepcopy(task.state_dict()), task.minibatch(0, 0)
        model.to(task.device).train()

        def loss() -> Loss:
            task.load_state_dict(copy.deepcopy(before))
            with masks_from(generator(task.seed, "masks")), task.autocast():
                return task.loss(model, minibatch, architecture, 0)

        disturb(1)
        found = loss()
        holds(found.total.ndim == 0, f"its shape is {list(found.total.shape)}")
        total = found.total.item()
        holds(math.isfinite(total), f"it is {total}")
        holds(found.total.requires_grad, f"it is {total:.6g}, without one")
        found.backward(1.0)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        holds(bool(gradients), "none of the network's parameters gets one")
        bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        holds(not bad, f"{shortened(', '.join(bad))} gets one that is not finite")
        log = task.described({name: value.item() for name, value in found.logged.items()})
        missing = {"loss", task.watched, *task.reported} - log.keys()
        holds(not missing, f"{', '.join(sorted(missing))} is not logged, only {', '.join(log)}")
    with rule(
        whose,
        "the loss of a minibatch must be the same whatever was drawn before",
        "Draw dropout masks by enas.masks, or begin from a seed of the minibatch's own (enas.runtime.seeding.global_seed)",
    ) as holds:
        disturb(2)
        again = loss().total.item()
        holds(again == total, f"it is {total:.6g}, and then {again:.6g}")
        task.load_state_dict(before)


def check_rewards(whose: str, task: BaseTask, model: nn.Module, sampled: list[Architecture]) -> None:
    """Rewards."""
    with rule(
        whose,
        "reward_minibatch(purpose, draw) must follow from the seed, the purpose and the draw alone",
        "Draw it by enas.runtime.seeding.generator(self.seed, 'reward', purpose, draw)",
    ) as holds:
        disturb(1)
        first = copy.deepcopy(task.reward_minibatch("check", 0))
        task.reward_minibatch("check", 1)
        disturb(2)
        holds(
            same(task.reward_minibatch("check", 0), first),
            "that of ('check', 0) is another one when read again",
        )
    with rule(
        whose,
        "measure and rewards_from must give one finite reward for every architecture, always the same, and change no weight",
        "Compute it from the minibatch and the network's output alone",
    ) as holds:
        weights = SharedWeights(model, space_in(model), task)
        before = copy.deepcopy(model.state_dict())
        disturb(1)
        rewards_N = weights.rewards(sampled, "check", 0)
        disturb(2)
        again_N = weights.rewards(sampled, "check", 0)
        holds(rewards_N.shape == (len(sampled),), f"the rewards are of shape {list(rewards_N.shape)}")
        holds(bool(rewards_N.isfinite().all()), f"the rewards are {rewards_N.tolist()}")
        holds(same(rewards_N, again_N), f"the rewards are {rewards_N.tolist()}, and then {again_N.tolist()}")
        holds(same(model.state_dict(), before), "weights or buffers have changed")
        told = task.describe_reward(float(rewards_N[0]))
        holds(all(isinstance(value, float) for value in told.values()), f"describe_reward says {shown(told)}")


def check_scores(
    whose: str, task: BaseTask, model: nn.Module, score: Callable[[Split], Score | None]
) -> None:
    """Scores of whole splits."""
    with rule(
        whose,
        "evaluate must give finite scores by name, 'loss' and the metric among them, always the same, and change no weight",
        "Compute them from the split and the network's output alone, each example once",
    ) as holds:
        before = copy.deepcopy(model.state_dict())
        for split in get_args(Split):
            disturb(1)
            found = score(split)
            disturb(2)
            again = score(split)
            holds(found == again, f"those of {split} are {shown(found)}, and then {shown(again)}")
            if found is None:
                continue
            missing = {"loss", task.metric, *task.shown} - found.keys()
            holds(not missing, f"{', '.join(sorted(missing))} is not among {', '.join(found)}")
            holds(all(map(math.isfinite, found.values())), f"those of {split} are {shown(found)}")
            key = task.sort_key(found)
            holds(len(key) > 0 and all(map(math.isfinite, key)), f"sort_key makes {shown(key)} of them")
        holds(same(model.state_dict(), before), "weights or buffers have changed")


def check_resuming(whose: str, task: BaseTask, again: BaseTask, model: nn.Module, paths: Paths) -> None:
    """That all that goes from one minibatch to the next is in the task's state."""
    with rule(
        whose,
        "a training that loads its state, read from a file by weights_only=True, must go on bit for bit",
        "Put what goes from one minibatch to the next into state_dict, and let all else follow from the seed and the place",
    ) as holds:
        first, *rest = places(task)
        disturb(1)
        whole = Trainer(copy.deepcopy(model), task)
        whole.step(*first, paths)
        saved = through_a_file(whole.state_dict())
        logs = [whole.step(*place, paths) for place in rest]
        expected = copy.deepcopy(whole.state_dict())
        disturb(2)
        resumed = Trainer(copy.deepcopy(model), again)
        resumed.load_state_dict(saved)
        for place, log in zip(rest, logs, strict=True):
            found = resumed.step(*place, paths)
            holds(found == log, f"at {place} it logged {shown(found, 120)}, not {shown(log, 120)}")
        holds(same(resumed.state_dict(), expected), "its state_dict is another one in the end")


def check_size(whose: str, task: BaseTask, child: nn.Module) -> None:
    """What there is to know."""
    with rule(
        whose, "size(child) and data_bytes must say numbers, 'parameters' among the sizes", "Count them"
    ) as holds:
        size = task.size(copy.deepcopy(child))
        holds(isinstance(size.get("parameters"), int), f"the sizes are {shown(size)}")
        holds(isinstance(task.data_bytes, int), f"data_bytes is {shown(task.data_bytes)}")
