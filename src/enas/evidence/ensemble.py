"""Ensembles of a search: many architectures of its policy, each with the shared weights, classify together (paper §3.2).

With a controller that never learnt (`--search.updates 0`, or `--controller uniform`) this is the paper's ablation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from enas.constraints import PositiveInt, SampleSize, Settings
from enas.errors import ConfigError
from enas.runtime.files import write_json
from enas.runtime.seeding import generator
from enas.stages import Run


@dataclass(frozen=True)
class EnsembleConfig(Settings):
    """How many architectures, and how they are evaluated."""

    samples: SampleSize = 250
    """Architectures sampled from the policy at the end of the search."""
    split: Literal["valid", "test"] = "test"
    """The images that are classified."""
    statistics: Literal["batch", "moving", "recalibrated"] = "batch"
    """What the batch norms normalise by."""
    batch: PositiveInt = 500
    """Images that are evaluated at once."""
    json: bool = False
    """Print the record of ensemble.json instead of a sentence."""


@dataclass(frozen=True)
class EnsembleRecord:
    """What ensemble.json holds of an ensemble's score."""

    samples: int
    accuracy: float
    mean_accuracy_of_members: float


def ensemble(run: Run, config: EnsembleConfig) -> dict[str, Any]:
    """Score an ensemble of a finished search, and write ensemble.json.

    Raises `RunFolderError` if the search is not finished, and `ConfigError` if its networks do not classify.
    """
    weights, controller = run.searched()
    labels_N = weights.task.labels(config.split)
    with torch.no_grad():
        proposals = controller.propose(config.samples, generator(run.config.seed, "ensemble"))
    members = proposals.architectures(weights.space)
    probabilities = weights.class_probabilities(members, config.split, config.batch, config.statistics)
    together, alone = accuracies(probabilities, labels_N)
    record = {
        "split": config.split,
        "statistics": config.statistics,
        "samples": config.samples,
        "accuracy": together,
        "mean_accuracy_of_members": sum(alone) / len(alone),
        "worst_member": min(alone),
        "best_member": max(alone),
    }
    write_json(run.folder / "ensemble.json", record)
    return record


def accuracies(members: Iterable[Tensor], labels_N: Tensor) -> tuple[float, list[float]]:
    """In percent: of the mean of the members' class probabilities [N, K], and of each member alone.

    Raises `ConfigError` if there are no members.
    """
    total_NK = torch.zeros((), dtype=torch.float64)
    alone = []
    for probabilities_NK in members:
        total_NK = total_NK + probabilities_NK
        alone.append(percent_right(probabilities_NK, labels_N))
    if not alone:
        raise ConfigError("an ensemble needs at least one architecture")
    return percent_right(total_NK, labels_N), alone


def percent_right(scores_NK: Tensor, labels_N: Tensor) -> float:
    """Percent of the inputs whose highest class score is the right one's."""
    right_N = (scores_NK.argmax(1) == labels_N) & ~scores_NK.isnan().any(1)
    return 100 * int(right_N.sum()) / len(labels_N)
