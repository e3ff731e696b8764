"""Retraining: networks trained from scratch with one recipe, each in a folder of its own, resumable one by one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from enas import parallel
from enas.architecture import Architecture, Space
from enas.child_training import ChildTraining
from enas.constraints import PositiveFloat, PositiveInt, SampleCount, Settings
from enas.errors import ArchitectureError, ConfigError, NotFiniteError, RunFolderError
from enas.runtime.checkpoint import CheckpointStore, Rhythm, check_still_there, fitting
from enas.runtime.compiling import compiling_told
from enas.runtime.device_memory import memory_line
from enas.runtime.files import (
    Digest,
    JsonlLog,
    digest_of,
    digest_of_file,
    read_json,
    write_atomic,
    write_json,
)
from enas.runtime.metrics import Metrics, MetricsState
from enas.runtime.progress import estimate_line, in_passing, progress, say
from enas.runtime.records import record_in, validated
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.runtime.whose import noted
from enas.runtime.work import work_clock
from enas.spaces import architecture_from_json

Role = Literal["found", "candidate", "random", "lstm", "table"]

WEIGHTS, MODEL, RESULT, METRICS = "weights.safetensors", "model.json", "result.json", "metrics.jsonl"


class Stretchable(Protocol):
    """A recipe of training whose schedule can be made longer or shorter."""

    def stretched(self, factor: float) -> Self:
        """With a schedule that takes `factor` times as long."""


Schedule = TypeVar("Schedule", bound=Stretchable)


@dataclass(frozen=True)
class RetrainConfig(Settings):
    """Which networks are trained beside the found one, and how often a training is saved.

    Every task adds the recipe that they are all trained with.
    """

    random: SampleCount = 0
    """Also train this many uniformly random architectures of the space."""
    checkpoint_minutes: PositiveFloat = 5.0
    """Minutes between checkpoints of a training: what a process that is killed loses at most."""
    checkpoint_every: PositiveInt | None = None
    """Training steps between further checkpoints; None for none."""
    short_schedule: Literal["cut", "squeezed"] = "cut"
    """The learning rate of a training that is shorter than the recipe's, for a shortlist or a verification: the recipe's
    schedule `cut` off, or `squeezed` into the shorter time."""

    def scheduled(self, training: Schedule, epochs: int | None, whole: int) -> Schedule:
        """The recipe of a training of `epochs`, None for the `whole` length."""
        if epochs is None or self.short_schedule == "cut":
            return training
        return training.stretched(epochs / whole)

    @property
    def rhythm(self) -> Rhythm:
        """When a checkpoint is due."""
        return Rhythm(self.checkpoint_minutes, self.checkpoint_every)


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


@dataclass(frozen=True)
class NetworkRecord:
    """What `Network.to_json` writes."""

    role: Role
    id: str
    seed: int
    architecture: dict[str, Any] | None


def network_from_json(record: object, path: Path) -> Network:
    """The network written by `Network.to_json`, which the file `path` holds in a folder of the network's id.

    Raises `RunFolderError` if it is none, or of another id than its folder: no name of a file is ever made of what a record
    says.
    """
    advice = f"Delete {path.parent} to train the network again"
    read = record_in(path, record, NetworkRecord, advice)
    try:
        architecture = None if read.architecture is None else architecture_from_json(read.architecture)
    except ArchitectureError as error:
        raise RunFolderError(f"{path}: architecture: {error}. {advice}") from error
    network = Network(read.role, architecture, read.seed)
    if not read.id == network.id == path.parent.name:
        raise RunFolderError(f"{path} is of {network.id}, not of {path.parent.name}. {advice}")
    return network


Allowed = Callable[[Architecture], bool]
"""Whether an architecture may be drawn."""
TRIES = 1000
"""Architectures that are drawn for each that may be."""


def every_one(architecture: Architecture) -> bool:
    """Allows all architectures."""
    return True


def networks_to_train(
    config: RetrainConfig,
    found: Architecture,
    references: Sequence[Network],
    seed: int,
    allowed: Allowed = every_one,
) -> list[Network]:
    """The found architecture, then what it is compared with: networks of another kind, and uniformly random ones of the
    architectures that are allowed."""
    drawn = random_architectures(found.space, config.random, seed, {found}, allowed)
    return [Network("found", found, seed), *references, *(Network("random", one, seed) for one in drawn)]


def random_architectures(
    space: Space, count: int, seed: int, excluded: set[Architecture], allowed: Allowed = every_one
) -> list[Architecture]:
    """Distinct uniformly random ones of the architectures that are allowed, the same for the same seed. Raises `ConfigError`
    if there are not so many."""
    if count > space.count() - len(excluded):
        raise ConfigError(
            f"{count} random architectures are asked for, but the space has {space.count()} in all"
        )
    drawn = islice(uniform_architectures(space, seed, excluded), TRIES * count)
    found = list(islice(filter(allowed, drawn), count))
    if len(found) < count:
        raise ConfigError(
            f"{count} random architectures of a cost that --cost and --limit allow are asked for, but only {len(found)} "
            "were found"
        )
    return found


def uniform_architectures(
    space: Space, seed: int, excluded: Collection[Architecture] = ()
) -> Iterator[Architecture]:
    """Distinct uniformly random architectures, the same for the same seed, until there are no more."""
    rng = random.Random(derive_seed(seed, "random architectures"))
    seen, count = set(excluded), space.count()
    while len(seen) < count:
        architecture = space.sample(rng)
        if architecture not in seen:
            seen.add(architecture)
            yield architecture


def train_network(
    network: Network,
    training: ChildTraining,
    folder: Path,
    rhythm: Rhythm,
    stop: StopRequest,
    run: Path,
    after_step: Callable[[ChildTraining], None] = lambda training: None,
    settings: Mapping[str, Any] | None = None,
    run_file: Path | None = None,
) -> dict[str, Any]:
    """Train a network to the end, from its newest checkpoint if there is one; `after_step` may look on.

    Leaves in `folder`: weights.safetensors (of the best epoch on the validation data), metrics.jsonl, and result.json,
    which is returned. The `settings` that the training depends on are kept with checkpoints and result. Raises `Stopped`
    after saving if a stop is requested, `NotFiniteError` if the loss is not finite, and `RunFolderError` if a checkpoint was
    saved with other settings, or if `run_file`, which every run has, is gone.
    """
    check_still_there(run_file)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointStore(folder / "checkpoints", 2, say, settings, run_file, rhythm)
    worked = work_clock(training.task.device, parallel.division()[1])
    metrics = Metrics(JsonlLog(folder / METRICS), worked=worked)
    found = checkpoints.load_newest()
    checkpoints.prune()
    weights: Digest | None = None
    best: dict[str, Tensor] | None = None  # of which there is no file until the next checkpoint
    training_of = f"{folder.parent.name} {network}"  # RUN/verify/ID-seedS: a training of the verification
    if found is None:
        metrics.restore(MetricsState())  # drops what a start without a checkpoint has logged
        with compiling_told(stop, run):
            seconds, memory = training.estimate()
        line = memory_line(memory, training.task.device)
        in_passing(estimate_line(training_of, seconds * training.total_steps, line))
    else:
        with fitting(checkpoints.path(found[0])):
            state = validated(TrainingState, found[1], strict=False)
            training.load_state_dict(state.training)
            metrics.restore(state.metrics)
            weights = state.weights
        say(f"{training_of}: going on after step {training.done} of {training.total_steps}")
    with progress(training_of, training.total_steps, "steps", done=training.done) as bar:
        while training.done < training.total_steps:
            with told_where(network, training, checkpoints):
                shown = training.step()
                record = training.end_epoch() if training.at_epoch_end() else None
                if record is not None:
                    metrics.record(f"retrain/{network.id}", training.done, **record)
                    told = {f"valid_{name}" for name in training.task.shown}
                    shown |= {key: value for key, value in record.items() if key in told}
                    if record["best"]:
                        of_epoch = training.best_weights()
                        best = {name: weight.to("cpu", copy=True) for name, weight in of_epoch.items()}
                bar.advance(1, **shown)
                after_step(training)
                at_end = training.done == training.total_steps  # from where a longer training may go on
                stops = stop.requested
                if stops or at_end or checkpoints.due(training.done):
                    left = training.state_dict()
                    if best is not None:
                        weights, best = write_weights(folder / WEIGHTS, best), None
                    checkpoints.save(
                        training.done,
                        {
                            "training": left,
                            "metrics": asdict(metrics.state()),
                            "weights": None if weights is None else asdict(weights),
                        },
                    )
                if stops:
                    raise stop.stopped(run)
    result = {
        **network.to_json(),
        **training.result(),
        "seconds": round(metrics.seconds(), 3),
        "work": round(metrics.work(), 3),
    }
    assert weights is not None  # an epoch was the best so far
    result["weights"] = asdict(weights)
    return write_result(folder, result, settings)


def concerning(network: Network) -> contextlib.AbstractContextManager[None]:
    """Inside, an error gets a note of the network."""
    return noted(f"with architecture {network.architecture or 'LSTM'}, {network}")


@contextlib.contextmanager
def told_where(network: Network, training: ChildTraining, checkpoints: CheckpointStore) -> Iterator[None]:
    """Inside, a `NotFiniteError` is said with the network and the number of its step, and with what can be done."""
    try:
        with noted(f"in step {training.done} of its training"):
            yield
    except NotFiniteError as error:
        advice = "" if error.advised else " Lower the learning rate or the clipping bound of the retraining"
        raise NotFiniteError(
            f"retraining {network} ({network.architecture or 'LSTM'}) stopped in step {training.number(error.place)}: "
            f"{error}.{checkpoints.said_kept()}{advice}"
        ) from error


def write_result(
    folder: Path, result: dict[str, Any], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write result.json, with the settings that the training depends on; returns what it says."""
    whole = result if settings is None else {**result, "settings": dict(settings)}
    write_json(folder / RESULT, whole)
    return whole


# ---- read back ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint of a training holds."""

    training: dict[str, Any]
    metrics: MetricsState
    weights: Digest | None = None
    """Of weights.safetensors, if it had been written."""


@dataclass(frozen=True)
class ResultRecord:
    """What result.json holds beside the network. Which scores there are depends on the task."""

    parameters: int
    epochs: int
    train_loss: float | None = None
    best_epoch: int | None = None
    valid_loss: float | None = None
    valid_ppl: float | None = None
    valid_accuracy: float | None = None
    seconds: float | None = None
    work: float | None = None
    diverged: str | None = None
    test: dict[str, float] | None = None
    weights: Digest | None = None
    settings: dict[str, Any] | None = None
    """None for a training that belongs to no run."""


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a training that is finished; None otherwise.

    Raises `RunFolderError` if it is not that of the network whose folder it is, or a field is missing or wrong.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    network = network_from_json(result, path)
    advice = f"Delete {folder} to train the network again"
    read = record_in(path, result, ResultRecord, advice)
    needed = ("best_epoch", "seconds", "weights") if read.diverged is None else ()
    for name in (*needed, *({"diverged", "test"} & result.keys())):
        if vars(read)[name] is None:
            raise RunFolderError(f"{path}: {name} is missing. {advice}")
    return {**result, **network.to_json()}


def score_in(result: Mapping[str, Any], key: str) -> float:
    """A number of a result that did not diverge, those of the test as `test_…`. Raises `RunFolderError` if it is missing."""
    numbers = result.get("test", {}) if key.startswith("test_") else result
    if numbers.get(key) is None:
        raise RunFolderError(
            f"the {RESULT} of {result['id']} has no {key}; delete the folder of that name to train the network again"
        )
    return float(numbers[key])


# ---- weights -----------------------------------------------------------------------------------------------------------


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> Digest:
    """Write the weights of a network into a folder that is there; returns what the file then holds. Weights that share their
    memory are written once for each name."""
    own = {name: weight.clone().contiguous() for name, weight in weights.items()}
    data = safetensors.torch.save(own)
    write_atomic(path, data, own=True)
    return digest_of(data)


def check_weights(folder: Path, result: Mapping[str, Any]) -> Path:
    """The weights of a finished training. Raises `RunFolderError` if they are not those that its result was made with."""
    path = folder / WEIGHTS
    if not path.exists():
        raise RunFolderError(f"{path} is missing. Delete {folder} to train the network again")
    expected, found = validated(Digest, result["weights"]), digest_of_file(path)
    if found != expected:
        bytes_ = f"{found.bytes:,} bytes where there were {expected.bytes:,}"
        raise RunFolderError(
            f"{path} has changed since the training ({bytes_ if found.bytes != expected.bytes else 'other bytes'}). Put the "
            f"original back, or delete {folder} to train the network again"
        )
    return path


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the weights of a file into a model. Raises `RunFolderError` if it is damaged, or of another network."""
    try:
        model.load_state_dict(safetensors.torch.load(path.read_bytes()))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunFolderError(
            f"{path} cannot be loaded ({reason}). Put the original back, or delete {path.parent} to train the network again"
        ) from error
