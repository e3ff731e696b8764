"""Ensembles of a search: many architectures of its policy, each with the shared weights, classify together (paper §3.2).

With a controller that never learnt (`--search.updates 0`, or `--controller uniform`) this is the paper's ablation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from enas.constraints import PositiveInt, SampleSize, Settings
from enas.errors import ConfigError
from enas.norms import NormStatistics
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
    statistics: NormStatistics = "batch"
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

    Raises `RunFolderError` if the search is not finished, `ConfigError` if it is of networks that tell no classes.
    """
    weights, controller = run.searched()
    with torch.no_grad():
        proposals = controller.propose(config.samples, generator(run.config.seed, "ensemble"))
    labels_N = weights.task.labels(config.split)
    members = proposals.architectures(weights.space)
    score = ensemble_score(
        weights.class_probabilities(members, config.split, config.batch, config.statistics), labels_N
    )
    record = {
        "split": config.split,
        "statistics": config.statistics,
        "samples": config.samples,
        "accuracy": score.accuracy,
        "mean_accuracy_of_members": score.mean_accuracy,
        "worst_member": min(score.accuracy_of_members),
        "best_member": max(score.accuracy_of_members),
    }
    write_json(run.folder / "ensemble.json", record)
    return record


class EnsembleScore(NamedTuple):
    """How well an ensemble classifies, in percent of the examples."""

    accuracy: float
    """By the mean of the members' class probabilities."""
    accuracy_of_members: tuple[float, ...]
    """Of each architecture alone."""

    @property
    def mean_accuracy(self) -> float:
        """Of an architecture alone, on average."""
        return sum(self.accuracy_of_members) / len(self.accuracy_of_members)


def ensemble_score(probabilities: Iterable[Tensor], labels_N: Tensor) -> EnsembleScore:
    """The score of class probabilities [N, K] together and each alone. Raises `ConfigError` if there are none."""
    total_NK = torch.zeros((), dtype=torch.float64)
    alone = []
    for probabilities_NK in probabilities:
        total_NK = total_NK + probabilities_NK
        alone.append(percent_right(probabilities_NK, labels_N))
    if not alone:
        raise ConfigError("an ensemble needs at least one architecture")
    return EnsembleScore(percent_right(total_NK, labels_N), tuple(alone))


def percent_right(scores_NK: Tensor, labels_N: Tensor) -> float:
    """Percent of the examples whose highest score is the right class's; never where a score is not a number."""
    right_N = (scores_NK.argmax(1) == labels_N) & ~scores_NK.isnan().any(1)
    return 100 * int(right_N.sum()) / len(labels_N)
