"""Proxies without training: what an untrained network is taken to reach, by its size or by how it computes.

A search that picks no better than such a number has not earned its time. Each proxy scores as many random architectures as
the search made evaluations, and picks the best. Higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.errors import ConfigError, EnasError, shortened
from enas.evidence.methods import MOST_MULTIPLY_ADDS, MOST_PARAMETERS, NASWOT, SYNFLOW
from enas.proxies import naswot, synflow
from enas.retrain import Network
from enas.runtime.checkpoint import check_still_there
from enas.runtime.files import write_json
from enas.runtime.progress import progress
from enas.runtime.records import check_settings, read_record
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.runtime.work import work_clock
from enas.stages import Run
from enas.task import BaseTask

SCORES = "scores.json"

# ---- of an architecture of a run ---------------------------------------------------------------------------------------

Proxy = Callable[[RunConfig, BaseTask, Network], float]
"""What an untrained network of a run scores. Raises `ConfigError` if the proxy is not for networks of this task."""


def parameters(config: RunConfig, task: BaseTask, network: Network) -> float:
    """Their number."""
    with torch.device("meta"):
        return task.parameters(config.model(network))


def multiply_adds(config: RunConfig, task: BaseTask, network: Network) -> float:
    """Of one input."""
    with torch.device("meta"):
        size = task.size(config.model(network))
    if "multiply_adds" not in size:
        raise ConfigError("networks of this task have no count of multiply-adds")
    return size["multiply_adds"]


def naswot_of(config: RunConfig, task: BaseTask, network: Network) -> float:
    """On the first training minibatch."""
    inputs = task.inputs(task.minibatch(0, 0))
    return naswot(config.model(network).to(task.device), inputs)


def synflow_of(config: RunConfig, task: BaseTask, network: Network) -> float:
    """For an input as large as those of the training."""
    inputs = task.inputs(task.minibatch(0, 0))
    return synflow(config.model(network), inputs.shape[1:])


PROXIES: Mapping[str, Proxy] = {
    MOST_PARAMETERS: parameters,
    MOST_MULTIPLY_ADDS: multiply_adds,
    NASWOT: naswot_of,
    SYNFLOW: synflow_of,
}
"""The proxies, by the names of the rivals that pick by them."""


# ---- the best of many --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoresRecord:
    """What scores.json holds: what the first architectures of those drawn score."""

    scores: list[float | None]
    """None for -infinity."""
    seconds: float
    """Of work, that scoring them took."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class Ranked:
    """Random architectures in the order they were drawn, what they score, and how long scoring took."""

    architectures: Sequence[Architecture]
    scores: Sequence[float]
    seconds: float

    @property
    def best(self) -> Architecture:
        """The one of the highest score, of equal ones the first."""
        return self.architectures[max(range(len(self.scores)), key=self.scores.__getitem__)]

    @property
    def tells_apart(self) -> bool:
        """Whether there is any difference between the scores."""
        return len(set(self.scores)) > 1


def scored_by(proxy: Proxy, config: RunConfig, task: BaseTask, network: Network) -> float:
    """The score of a network, -infinity if it is no number. Raises `ConfigError` also if a network of the user's own cannot
    be computed so."""
    try:
        score = proxy(config, task, network)
    except EnasError:
        raise
    except Exception as error:  # of the user's code, on what it is not made for
        said = shortened(" ".join(str(error).split()), 200)
        raise ConfigError(f"it does not fit these networks: {said}") from error
    return score if math.isfinite(score) else -math.inf  # as it is kept


def rank_by(
    run: Run, name: str, folder: Path, seed: int, count: int, seconds: float, stop: StopRequest
) -> Ranked:
    """Score `count` random architectures by a proxy, or all there are; fewer, but at least one, if they take longer than
    `seconds`.

    Leaves scores.json in `folder`, from which it goes on. Raises `ConfigError` if the proxy is not for the run's task, and
    `Stopped`, after saving, if a stop is requested.
    """
    config, proxy = run.config, PROXIES[name]
    drawn = list(islice(run.goals.random(derive_seed(seed, "proxies")), count))
    networks = [Network("candidate", architecture, seed) for architecture in drawn]
    path, settings = folder / SCORES, run.training_settings()
    scores, spent = [], 0.0
    if path.exists():
        advice = f"Delete {folder} to score the architectures again"
        record = read_record(path, ScoresRecord, advice)
        check_settings(record.settings, settings, path, advice)
        scores = [-math.inf if score is None else score for score in record.scores]
        spent = record.seconds
    if len(scores) < len(networks) and (not scores or spent < seconds):
        task = run.child_training(networks[0]).task
        worked = work_clock(task.device)
        began = worked() - spent
        with progress(
            f"compare: {name}, seed {seed}", len(networks), "architectures", done=len(scores)
        ) as bar:
            for network in networks[len(scores) :]:
                scores.append(scored_by(proxy, config, task, network))
                spent = worked() - began
                bar.advance(1)
                if stop.requested or spent >= seconds:
                    break
        check_still_there(run.run_file)
        folder.mkdir(parents=True, exist_ok=True)
        spent = round(spent, 3)  # as it is read again
        said = [score if math.isfinite(score) else None for score in scores]
        write_json(path, {"scores": said, "seconds": spent, "settings": settings})
        if stop.requested:
            raise stop.stopped(run.folder)
    return Ranked(drawn[: len(scores)], scores, spent)
