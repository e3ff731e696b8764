"""Retraining: networks trained from scratch with one recipe, each in a folder of its own, resumable one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch

from enas.architecture import Architecture, Space
from enas.errors import ConfigError, NotFiniteError
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.compiling import compiling_told
from enas.runtime.files import JsonlLog, read_json, write_atomic, write_json
from enas.runtime.metrics import Metrics
from enas.runtime.progress import estimate_line, progress, say
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.spaces import architecture_from_json
from enas.tasks.base import ChildTraining

Role = Literal["found", "candidate", "random", "lstm", "table"]

WEIGHTS, RESULT, METRICS = "weights.safetensors", "result.json", "metrics.jsonl"


@dataclass(frozen=True)
class RetrainConfig:
    """Which networks are trained beside the found one, and how often a training is saved.

    Every task adds the recipe that they are all trained with.
    """

    random: int = 0
    """Also train this many uniformly random architectures of the space."""
    checkpoint_every: int = 200
    """Training steps between checkpoints; there is one after every epoch too."""

    def __post_init__(self) -> None:
        if self.random < 0 or self.checkpoint_every < 1:
            raise ConfigError(
                f"retrain.random must be at least 0 and retrain.checkpoint_every at least 1, not {self.random} and "
                f"{self.checkpoint_every}"
            )


@dataclass(frozen=True)
class Network:
    """A network to train: its role, its architecture (None: an LSTM), its seed."""

    role: Role
    architecture: Architecture | None
    seed: int

    @property
    def id(self) -> str:
        """The name of its folder."""
        return f"{'lstm' if self.architecture is None else self.architecture.id}-seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.role} {self.id}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        architecture = None if self.architecture is None else self.architecture.to_json()
        return {"role": self.role, "id": self.id, "seed": self.seed, "architecture": architecture}


def network_from_json(record: dict[str, Any]) -> Network:
    """The network written by `Network.to_json`."""
    architecture = record["architecture"]
    return Network(
        record["role"], None if architecture is None else architecture_from_json(architecture), record["seed"]
    )


def networks_to_train(
    config: RetrainConfig, found: Architecture, references: Sequence[Network], seed: int
) -> list[Network]:
    """The found architecture, then what it is compared with: networks of another kind, and uniformly random
    architectures."""
    rivals = [
        Network("random", a, seed) for a in random_architectures(found.space, config.random, seed, {found})
    ]
    return [Network("found", found, seed), *references, *rivals]


def random_architectures(
    space: Space, count: int, seed: int, excluded: set[Architecture]
) -> list[Architecture]:
    """Distinct uniformly random architectures, the same for the same seed. Raises `ConfigError` if there are not so
    many."""
    if count > space.count() - len(excluded):
        raise ConfigError(
            f"{count} random architectures are asked for, but the space has {space.count()} in all"
        )
    rng = random.Random(derive_seed(seed, "random architectures"))
    drawn: dict[Architecture, None] = {}
    while len(drawn) < count:
        architecture = space.sample(rng)
        if architecture not in excluded:
            drawn[architecture] = None
    return list(drawn)


def train_network(
    network: Network,
    training: ChildTraining,
    folder: Path,
    checkpoint_every: int,
    stop: StopRequest,
    run: Path,
    after_step: Callable[[ChildTraining], None] = lambda training: None,
) -> dict[str, Any]:
    """Train a network to the end, from its newest checkpoint if there is one; `after_step` may look on.

    Leaves in `folder`: weights.safetensors (of the best epoch on the validation data), metrics.jsonl, and result.json,
    which is returned. Raises `Stopped` after saving if a stop is requested, and `NotFiniteError` if the loss is not
    finite.
    """
    checkpoints = CheckpointStore(folder / "checkpoints", keep=2, warn=say)
    metrics = Metrics(JsonlLog(folder / METRICS))
    found = checkpoints.load_newest()
    if found is None:
        metrics.restore({"position": 0, "seconds": 0.0})  # drops what a start without a checkpoint has logged
        with compiling_told(stop, run):
            seconds, memory = training.estimate()
        say(estimate_line(f"retrain {network}", seconds * training.total_steps, memory))
    else:
        training.load_state_dict(found[1]["training"])
        metrics.restore(found[1]["metrics"])
        say(f"retrain {network}: going on after step {training.done} of {training.total_steps}")
    with progress(f"retrain {network}", training.total_steps, "steps", done=training.done) as bar:
        while training.done < training.total_steps:
            try:
                shown = training.step()
                record = training.end_epoch() if training.at_epoch_end() else None
            except NotFiniteError as error:
                raise NotFiniteError(
                    f"retraining {network} ({network.architecture or 'LSTM'}) stopped in step {training.done}: {error}. "
                    "Its last checkpoint is kept. Lower the learning rate or the clipping bound of the retraining"
                ) from error
            if record is not None:
                metrics.record(f"retrain/{network.id}", training.done, **record)
                shown |= {key: record[key] for key in training.shown if key in record}
                if record["best"]:
                    weights = {name: weight.contiguous() for name, weight in training.best_weights().items()}
                    write_atomic(folder / WEIGHTS, safetensors.torch.save(weights))
            bar.advance(1, **shown)
            after_step(training)
            if stop.requested or record is not None or training.done % checkpoint_every == 0:
                state = {"training": training.state_dict(), "metrics": dict(metrics.state())}
                checkpoints.save(training.done, state)
            if stop.requested:
                raise stop.stopped(run)
    result = {**network.to_json(), **training.result(), "seconds": round(metrics.seconds(), 1)}
    write_json(folder / RESULT, result)
    return result


def record_diverged(
    network: Network, training: ChildTraining, folder: Path, error: NotFiniteError
) -> dict[str, Any]:
    """Leave the result of a training whose loss or gradient stopped being finite: what is known, and no scores."""
    result = {**network.to_json(), **training.size(), "diverged": str(error)}
    write_json(folder / RESULT, result)
    return result


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a training that is finished; None otherwise."""
    if not (folder / RESULT).exists():
        return None
    result: dict[str, Any] = read_json(folder / RESULT)
    return result
