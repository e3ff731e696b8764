"""Ensembles of a search: many architectures of its policy, each with the shared weights, classify together (paper §3.2).

With a controller that never learnt (`--search.updates 0`, or `--controller uniform`) this is the paper's ablation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from enas.constraints import PositiveInt, SampleSize, Settings
from enas.errors import RunFolderError
from enas.runs.images import ImageWorkshop
from enas.runtime.files import write_json
from enas.runtime.seeding import generator
from enas.stages import Run
from enas.tasks.image_ensemble import ensemble_score
from enas.tasks.image_training import EvaluationImages, NormStatistics
from enas.tasks.images import ImageSearchTask


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


@torch.no_grad()
def ensemble(run: Run, config: EnsembleConfig) -> dict[str, Any]:
    """Score an ensemble of a finished search, and write ensemble.json.

    Raises `RunFolderError` if the search is not finished, or not one of networks for images.
    """
    workshop = run.workshop
    if not isinstance(workshop, ImageWorkshop):
        raise RunFolderError(f"{run.folder} searches no network for images; ensembles are of those")
    task, controller = run.searched()
    assert isinstance(task, ImageSearchTask)
    proposals = controller.propose(config.samples, generator(run.config.seed, "ensemble"))
    data = workshop.data
    split = data.valid if config.split == "valid" else data.test
    images = EvaluationImages(split, data.train.normalisation, workshop.device)
    score = ensemble_score(task, proposals.architectures(task.space), images, config.batch, config.statistics)
    members = score.accuracy_of_members
    record = {
        "split": config.split,
        "statistics": config.statistics,
        "samples": config.samples,
        "accuracy": score.accuracy,
        "mean_accuracy_of_members": score.mean_accuracy,
        "worst_member": min(members),
        "best_member": max(members),
    }
    write_json(run.folder / "ensemble.json", record)
    return record
