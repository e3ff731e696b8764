"""What the networks of a run cost: counted, measured on the device at hand, and predicted by a model that is kept in the
run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from enas.architecture import Architecture
from enas.costs.counting import Costs, Work, WorkCounter
from enas.costs.latency import Clock, Latency, LatencyConfig, clock_for, measure_in_turn, using_threads
from enas.costs.model import LatencyModel, Predictor, PredictorName
from enas.data.batches import moved
from enas.errors import EnasError
from enas.retrain import Network, uniform_architectures
from enas.runtime.checkpoint import check_still_there
from enas.runtime.environment import environment
from enas.runtime.files import digest_of, write_json
from enas.runtime.progress import progress, say
from enas.runtime.records import check_settings, read_record
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.task import BaseTask, Example

if TYPE_CHECKING:
    from enas.config import RunConfig

LATENCY = "latency.json"
"""The file in a run's folder."""
HELD_BYTES = 2**30
"""Of the weights of networks that are measured in turns."""
KEPT = 10_000
"""Architectures whose costs are remembered."""
META = torch.device("meta")


@dataclass(frozen=True)
class SampleRecord:
    """A measured architecture of latency.json."""

    choices: list[int]
    latency: Latency


@dataclass(frozen=True)
class LatencyRecord:
    """What latency.json holds."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    """Where it was measured."""
    samples: list[SampleRecord]
    predictors: dict[PredictorName, Predictor] | None
    """The fitted model, once all samples are measured."""


class RunCosts:
    """What the networks of a run's architectures cost when they are trained alone."""

    def __init__(
        self, config: RunConfig, settings: LatencyConfig | None = None, clock: Clock | None = None
    ) -> None:
        """`settings` say how latencies are measured; `clock` returns seconds, None for `clock_for`."""
        self.config = config
        self.clock = clock
        self.settings = config.latency if settings is None else settings
        self._counted = lru_cache(KEPT)(self._count)
        self._without_memory = True

    @cached_property
    def task(self) -> BaseTask:
        """What the networks are trained for."""
        return self.config.child_training(self._network(next(self._random()))).task

    @cached_property
    def example(self) -> Example:
        """What latencies are measured with."""
        return self.task.example(self.settings.batch)

    # ---- counted -------------------------------------------------------------------------------------------------------

    def costs(self, architecture: Architecture) -> Costs:
        """Parameters, multiply-adds and activation bytes."""
        return self._counted(architecture)[0]

    def work(self, architecture: Architecture) -> Mapping[str, float]:
        """What a pass has to do, as features of a regression: calls, operations and bytes by kind of operation."""
        return self._counted(architecture)[1]

    def _count(self, architecture: Architecture) -> tuple[Costs, dict[str, float]]:
        """On "meta", where nothing is computed, unless the code of a user's network has to see values."""
        network = self._network(architecture)
        if self._without_memory:
            try:
                with META:
                    model = self.config.model(network)
                return self._count_of(model)
            except EnasError:
                raise
            except Exception:  # whatever their code raises where there are no values
                self._without_memory = False
        return self._count_of(self.config.model(network))

    def _count_of(self, model: nn.Module) -> tuple[Costs, dict[str, float]]:
        example, counter = self.task.smallest_example(), WorkCounter()
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        inputs, named = moved((example.inputs, dict(example.named)), device)
        with torch.no_grad(), counter:
            model.eval()(*inputs, **named)
        parameters, one = self.task.parameters(model), example.count
        written = sum(calls.written for calls in counter.work.values())
        return Costs(parameters, counter.operations // 2 // one, written // one), features_of(counter.work)

    # ---- measured ------------------------------------------------------------------------------------------------------

    def latencies(
        self, architectures: Sequence[Architecture], between: Callable[[], None] = lambda: None
    ) -> list[Latency]:
        """What passes take on the run's device with its threads, measured in turns as far as memory allows; `between` is
        called between two turns."""
        groups = self._together(architectures)
        return [latency for group in groups for latency in self._measured(group, between)]

    @cached_property
    def _conditions(self) -> tuple[str, int, int]:
        """Device, threads and batch that latencies are measured with."""
        with using_threads(self.config.threads):
            return str(self.task.device), torch.get_num_threads(), self.example.batch

    def measures_like(self, latency: Latency) -> bool:
        """Whether a latency was measured on the run's device with its threads and batch."""
        return (latency.device, latency.threads, latency.batch) == self._conditions

    def _together(self, architectures: Sequence[Architecture]) -> Iterator[list[Architecture]]:
        """Groups of architectures whose weights are held at the same time."""
        group: list[Architecture] = []
        held = 0
        for architecture in architectures:
            size = 4 * self.costs(architecture).parameters
            if group and held + size > HELD_BYTES:
                yield group
                group, held = [], 0
            group.append(architecture)
            held += size
        if group:
            yield group

    def _measured(self, architectures: Sequence[Architecture], between: Callable[[], None]) -> list[Latency]:
        task, example = self.task, self.example
        models = [task.placed(self.config.model(self._network(one))).eval() for one in architectures]
        passes = [partial(model, *example.inputs, **example.named) for model in models]
        with using_threads(self.config.threads), task.autocast():
            return measure_in_turn(passes, self.settings, task.device, example.batch, between, self.clock)

    # ---- predicted -----------------------------------------------------------------------------------------------------

    def latency_model(self, folder: Path, run_file: Path | None, stop: StopRequest) -> LatencyModel:
        """The model of the run's latencies that latency.json in `folder` holds, or else one of random architectures that are
        measured now, as many as the settings say.

        Goes on where a measurement was interrupted. A finished one is kept on any machine: it says for which one. Raises
        `RunFolderError` if it was made with other settings, or `run_file`, which every run has, is gone; and `Stopped`.
        """
        path, advice = folder / LATENCY, "Delete it to measure again"
        settings, machine = self._fingerprint(), self.machine()
        record = LatencyRecord(settings, machine, [], None)
        if path.exists():
            found = read_record(path, LatencyRecord, advice)
            check_settings(found.settings, settings, path, f"delete {path} to measure again")
            if found.machine == machine or found.predictors is not None:
                record = found
            if found.machine != machine:
                kept = "are kept" if found.predictors is not None else "are measured again"
                say(f"{path} has latencies of another machine, {found.machine['processor']}: they {kept}")
        if record.predictors is None:
            record = self._completed(record, path, run_file, stop)
        assert record.predictors is not None
        return LatencyModel(record.predictors, len(record.samples), self.work)

    def sampled(self) -> list[Architecture]:
        """The architectures that the model is fitted to."""
        return list(islice(self._random(), self.settings.samples))

    def _completed(
        self, record: LatencyRecord, path: Path, run_file: Path | None, stop: StopRequest
    ) -> LatencyRecord:
        """The record with all samples and the fitted model, saved after each group that is measured."""
        drawn = self.sampled()
        samples = list(record.samples)

        def stop_if_asked() -> None:
            if stop.requested:
                raise stop.stopped(path.parent)

        def saved(predictors: dict[PredictorName, Predictor] | None) -> LatencyRecord:
            made = LatencyRecord(record.settings, record.machine, samples, predictors)
            check_still_there(run_file)
            write_json(path, asdict(made))
            return made

        with progress("latency", len(drawn), "architectures", done=len(samples)) as bar:
            for group in self._together(drawn[len(samples) :]):
                measured = self._measured(group, stop_if_asked)
                samples += [
                    SampleRecord(list(one.choices), found) for one, found in zip(group, measured, strict=True)
                ]
                saved(None)
                bar.advance(len(group))
        model = LatencyModel.fit(drawn, [sample.latency.median_ms for sample in samples], self.work)
        errors, spearman = model.errors, model.errors.spearman
        order = "" if spearman is None else f", Spearman {spearman:.2f}"
        say(f"latency: predicted by a {model.best}, median error {errors.median_relative:.1%}{order}")
        return saved(model.predictors)

    def _fingerprint(self) -> dict[str, Any]:
        """What latencies depend on, besides the machine."""
        space = json.dumps(self.config.searched_space().to_json(), sort_keys=True)
        child = json.dumps(self.config.child_settings(), sort_keys=True, default=str)
        return {
            **{f"latency.{name}": value for name, value in asdict(self.settings).items()},
            "precision": self.config.precision,
            "space": digest_of(space.encode()).sha256,
            "child": digest_of(child.encode()).sha256,
        }

    def machine(self) -> dict[str, Any]:
        """Where latencies are measured."""
        here, device = environment(), self.task.device
        with using_threads(self.config.threads):
            threads, clock = torch.get_num_threads(), clock_for(device)
        return {
            "device": str(device),
            "processor": here["cpu"] if device.type == "cpu" else ", ".join(here["devices"]),
            "threads": threads,
            "clock": clock.__name__,
            "torch": here["torch"],
        }

    def _random(self) -> Iterator[Architecture]:
        return uniform_architectures(self.config.searched_space(), derive_seed(self.config.seed, "latency"))

    def _network(self, architecture: Architecture) -> Network:
        return Network("candidate", architecture, self.config.seed)


def features_of(work: Work) -> dict[str, float]:
    """Calls, operations and bytes by kind of operation, each by a name of its own."""
    return {
        f"{kind}, {what}": float(value)
        for kind, calls in work.items()
        for what, value in vars(calls).items()
        if value
    }
