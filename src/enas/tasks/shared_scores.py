"""What the shared weights make of whole architectures: a score on all validation data, not on one minibatch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import torch

from enas.architecture import Architecture
from enas.runtime.seeding import generator
from enas.tasks.base import SearchTask
from enas.tasks.images import ImageSearchTask
from enas.tasks.language import LanguageSearchTask
from enas.tasks.language_training import evaluate


@singledispatch
def shared_scores(task: SearchTask, architectures: Sequence[Architecture]) -> list[float]:
    """The scores of architectures with the shared weights as they are, higher ones better, in the batch-norm mode and
    with the minibatch size of the rewards: accuracy in percent, or -loss in nats a token."""
    raise TypeError(f"no shared scores are defined for a {type(task).__name__}")


@shared_scores.register
def _(task: ImageSearchTask, architectures: Sequence[Architecture]) -> list[float]:
    reward = task.config.reward
    draw = generator(task.seed, "recalibration", "rank")
    with torch.no_grad(), task.evaluating(reward.statistics, draw) as forward_of:
        return [task.valid.score(forward_of(a), reward.batch).accuracy for a in architectures]


@shared_scores.register
def _(task: LanguageSearchTask, architectures: Sequence[Architecture]) -> list[float]:
    # The state is carried along each row, as when a trained network is evaluated.
    reward, tokens = task.config.reward, task.valid_TB.t().flatten()
    with task.evaluating() as model, task.products():
        return [
            -evaluate(model, tokens, reward.batch, reward.bptt, architecture=architecture)
            for architecture in architectures
        ]
