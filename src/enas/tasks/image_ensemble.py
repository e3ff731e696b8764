"""Ensembles of children that share weights: the class probabilities of n sampled architectures, averaged.

Paper §3.2's ablation: 250 architectures of a search whose controller is not trained, each with the shared weights, are
together far better than one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from enas.architecture import Architecture
from enas.errors import ConfigError
from enas.runtime.seeding import generator
from enas.tasks.image_training import EvaluationImages, NormStatistics, is_right
from enas.tasks.images import ImageSearchTask


class EnsembleScore(NamedTuple):
    """How well an ensemble classifies, in percent of the images."""

    accuracy: float
    """By the mean of the members' class probabilities."""
    accuracy_of_members: tuple[float, ...]
    """Of each architecture alone."""

    @property
    def mean_accuracy(self) -> float:
        """Of an architecture alone, on average."""
        return sum(self.accuracy_of_members) / len(self.accuracy_of_members)


@torch.no_grad()
def ensemble_score(
    task: ImageSearchTask,
    architectures: Iterable[Architecture],
    images: EvaluationImages,
    batch: int,
    statistics: NormStatistics = "batch",
) -> EnsembleScore:
    """Score the architectures with the shared weights, together and each alone, on a whole split, `batch` images at once.

    Raises `ConfigError` if there are no architectures.
    """
    total_NK = torch.zeros((), dtype=torch.float64)
    alone = []
    with task.evaluating(statistics, generator(task.seed, "recalibration", "ensemble")) as forward_of:
        for architecture in architectures:
            probabilities_NK = images.class_scores(forward_of(architecture), batch).softmax(1)
            total_NK = total_NK + probabilities_NK
            alone.append(percent_right(probabilities_NK, images.labels_N))
    if not alone:
        raise ConfigError("an ensemble needs at least one architecture")
    return EnsembleScore(percent_right(total_NK, images.labels_N), tuple(alone))


def percent_right(scores_NK: Tensor, labels_N: Tensor) -> float:
    """Percent of the images whose highest class score is the right one's."""
    return 100 * int(is_right(scores_NK, labels_N).sum()) / len(labels_N)
