"""Comparing: a run's method against random sampling, random search, random search with weight sharing, and evolution.

All parts are kept below the run folder, each recognised by its files and never repeated:

    RUN/compare/METHOD-seedS/     a search and what it picked, an ordinary run folder; that of the run's own seed is RUN
    RUN/compare/ID-seedS/         one training from scratch each, of what was picked and of random architectures
    RUN/compare/records.jsonl     what every run of every method came to
    RUN/compare/comparison.json comparison.svg

Every architecture is trained alike. What is picked is picked by validation data and judged by test data.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from enas.architecture import Architecture
from enas.compare import RANDOM_SEARCH, SAMPLING, Comparison, Record, compare
from enas.config import RunConfig
from enas.constraints import Epochs, SampleSize, Settings, Several, Threads
from enas.effects import ArchiveRecord
from enas.errors import ConfigError, NotFiniteError, RunFolderError, enas_command, shown
from enas.methods import RIVALS, Spent, own_name, rivals, spent_by
from enas.report.comparison_picture import comparison_svg
from enas.retrain import RESULT, Network, random_architectures, read_result, score_in
from enas.runtime.checkpoint import check_still_there
from enas.runtime.files import write_atomic, write_json
from enas.runtime.metrics import MetricsRecord
from enas.runtime.progress import duration, say
from enas.runtime.records import read_records
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import Stopped, StopRequest
from enas.stages import Run, derive, search
from enas.trainings import Job, train_all
from enas.workers import LocalExecutor, refuse_import_by_worker

PART, RECORDS, NUMBERS, PICTURE = "compare", "records.jsonl", "comparison.json", "comparison.svg"
DIVERGED = "diverged.json"
"""In the folder of a search whose shared weights diverged."""


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Compare a run's method with random sampling, random search, random search with weight sharing, and evolution."""

    seeds: Several = 6
    """Runs of each method, with the run's seed and those after it. Fewer than 6 pairs cannot show that one method is
    better than another."""
    samples: SampleSize = 24
    """Random architectures that are trained alone. Random search has an equal part of them for each seed."""
    rivals: str = ",".join(RIVALS)
    """The searches on shared weights to compare with, with commas between, or `none`. Random search and sampling are
    always there: they take no more than the random architectures."""
    epochs: Epochs | None = None
    """Trains every architecture for fewer epochs than the recipe does."""
    workers: Threads | None = None
    """Processes that train at the same time; by default as many as there are cores for."""
    json: bool = False
    """Print comparison.json instead of sentences."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < self.seeds:
            raise ConfigError(
                f"--samples must be at least --seeds, {self.seeds}, not {self.samples}: random search needs one a seed"
            )
        unknown = [name for name in self.chosen if name not in RIVALS]
        if unknown:
            raise ConfigError(
                f"--rivals are some of {', '.join(RIVALS)}, with commas between, or none, not {shown(unknown[0])}"
            )

    @property
    def chosen(self) -> list[str]:
        """The names of `rivals`."""
        return [] if self.rivals == "none" else self.rivals.split(",")

    def rivals_of(self, config: RunConfig) -> Mapping[str, Callable[[RunConfig, Spent], RunConfig]]:
        """The chosen ones; a run's own method is none."""
        return {name: settings for name, settings in rivals(config).items() if name in self.chosen}


@dataclass(frozen=True)
class Found:
    """What one search came to."""

    method: str
    seed: int
    architecture: Architecture | None
    """None if the shared weights diverged."""
    spent: Spent
    search_seconds: float
    validate_seconds: float


def compare_run(run: Run, config: CompareConfig) -> Comparison:
    """Search, train and compare; leaves its files in RUN/compare, and returns the numbers.

    Raises `RunFolderError` if the run's search is not finished, and `Stopped`, after saving, on SIGTERM or Ctrl-C.
    """
    refuse_import_by_worker()
    if run.search_record() is None:
        raise RunFolderError(
            f"the search of {run.folder} is not finished; run {enas_command('resume', run.folder)!r} first"
        )
    space = run.config.searched_space()
    if space.count() < config.samples:
        raise ConfigError(f"--samples is {config.samples}, but the space has {space.count()} architectures")
    drawn = random_architectures(space, config.samples, derive_seed(run.config.seed, PART), set())
    with StopRequest() as stop:
        try:
            found = searches(run, config, stop)
            records = train(run, config, found, drawn, stop)
        except Stopped as stopped:
            raise stop.stopped(run.folder, command(config)) from stopped
    comparison = compare(records, own_name(run.config), run.config.metric, run.config.seed)
    folder, lines = run.folder / PART, (json.dumps(asdict(record)) + "\n" for record in records)
    write_atomic(folder / RECORDS, "".join(lines), own=True)
    write_json(folder / NUMBERS, comparison.to_json())
    write_atomic(folder / PICTURE, comparison_svg(comparison, records), own=True)
    return comparison


def command(config: CompareConfig) -> str:
    """The command that goes on after a stop, up to the run folder."""
    default = CompareConfig()
    changed = {
        name: value
        for name, value in vars(config).items()
        if value != getattr(default, name) and name != "json"
    }
    return shlex.join(["enas", "compare", *(f"--{name}={value}" for name, value in changed.items())])


# ---- searches ---------------------------------------------------------------------------------------------------------


def searches(run: Run, config: CompareConfig, stop: StopRequest) -> list[Found]:
    """Search with every seed: by the run's own method, and then by its rivals on what it has spent."""
    own = own_name(run.config)
    first = finish(run, own, stop)
    say(plan(run, config, first))
    found = [first]
    for seed in range(run.config.seed, run.config.seed + config.seeds):
        seeded = replace(run.config, seed=seed)
        model = first if seed == run.config.seed else search_in(run, own, seeded, stop)
        budget = (first if model.architecture is None else model).spent
        found += [] if model is first else [model]
        found += [
            search_in(run, name, settings(seeded, budget), stop)
            for name, settings in config.rivals_of(run.config).items()
        ]
    return found


def search_in(run: Run, method: str, config: RunConfig, stop: StopRequest) -> Found:
    """Search in the folder of a method and a seed, from where it was.

    Raises `RunFolderError` if it holds a search of other settings.
    """
    folder = run.folder / PART / f"{method}-seed{config.seed}"
    if (folder / DIVERGED).exists():
        return diverged(folder, method, config.seed)
    begun = (folder / "config.json").exists()
    if not begun:
        check_still_there(run.run_file)
        say(f"compare: {method}, seed {config.seed}")
    searching = Run.open(folder) if begun else Run.create(folder, config, ("search", "derive"))
    if searching.config != config:
        raise RunFolderError(f"{folder} holds a search of other settings than {run.folder} has; delete it")
    try:
        return finish(searching, method, stop)
    except NotFiniteError as error:
        say(f"{error}. It counts as diverged, and the comparison goes on.")
        write_json(folder / DIVERGED, {"diverged": str(error)})
        return diverged(folder, method, config.seed)


def finish(run: Run, method: str, stop: StopRequest) -> Found:
    """Search and derive, from where the run was, and say what it came to."""
    for stage in (search, derive):
        stage(run, stop)
        if stop.requested:
            raise stop.stopped(run.folder)
    shortlist = (read_result(path.parent) or {} for path in (run.folder / "derive").glob(f"*/{RESULT}"))
    record = run.search_record()
    assert record is not None  # the search has just been finished, if it was not before
    return Found(
        method,
        run.config.seed,
        run.architecture(),
        spent_by(run),
        record.seconds,
        scoring_seconds(run) + sum(result.get("seconds", 0.0) for result in shortlist),
    )


def scoring_seconds(run: Run) -> float:
    """What it took to score the candidates; said to be unknown if the architecture was derived before that was noted."""
    record = run.derive_record()
    if record is not None:
        return record.seconds
    say(
        f"compare: {run.folder / 'derive.json'} is missing, so that the time of scoring the candidates there is not counted"
    )
    return 0.0


def diverged(folder: Path, method: str, seed: int) -> Found:
    """A search whose shared weights diverged: a result too, which cost what it had spent."""
    path = folder / "metrics.jsonl"
    advice = f"Delete {folder} to search again"
    times = [record.time for record in read_records(path, MetricsRecord, advice)] if path.exists() else []
    rewarded = folder / "archive.jsonl"
    spent = Spent(len(read_records(rewarded, ArchiveRecord, advice)) if rewarded.exists() else 0, 0)
    return Found(method, seed, None, spent, max(times, default=0.0), 0.0)


def plan(run: Run, config: CompareConfig, first: Found) -> str:
    """What is missing, and about how long it takes: a search as long as the run's own took, a training as estimated."""
    names = (own_name(run.config), *config.rivals_of(run.config))
    folders = [
        run.folder / PART / f"{name}-seed{seed}"
        for name in names
        for seed in range(run.config.seed, run.config.seed + config.seeds)
        if (name, seed) != (first.method, first.seed)
    ]
    ended = ("architecture.json", DIVERGED)
    missing = sum(not any((folder / name).exists() for name in ended) for folder in folders)
    trained = len(list((run.folder / PART).glob(f"*-seed*/{RESULT}")))
    trainings = max(0, len(names) * config.seeds + config.samples - trained)
    assert first.architecture is not None  # the run's own search is finished
    network = Network("candidate", first.architecture, first.seed)
    example = run.child_training(network, training_epochs(run, config))
    each = example.estimate()[0] * example.total_steps
    at_once = max(1, min(LocalExecutor.for_run(run.config, config.workers).at_once, trainings))
    seconds = missing * (first.search_seconds + first.validate_seconds) + trainings * each / at_once
    return (
        f"compare: {', '.join(names)} with {config.seeds} seeds, {config.samples} random architectures; {missing} searches "
        f"and at most {trainings} trainings are missing: about {duration(seconds)} in all"
    )


# ---- trainings --------------------------------------------------------------------------------------------------------


def training_epochs(run: Run, config: CompareConfig) -> int | None:
    """The length of all trainings; None for the recipe's, which has validation scores."""
    return config.epochs if config.epochs is not None else run.config.validated_epochs()


def train(
    run: Run, config: CompareConfig, found: Sequence[Found], drawn: Sequence[Architecture], stop: StopRequest
) -> list[Record]:
    """Train what was picked and the random architectures, each once, and put together what every method came to.

    Raises `RunFolderError` if a training's process died.
    """
    sampled = [Network("candidate", a, run.config.seed + number) for number, a in enumerate(drawn)]
    picked = {
        one: Network("candidate", one.architecture, one.seed) for one in found if one.architecture is not None
    }
    results = trained_by_the_run(run, config)
    wanted = [network for network in dict.fromkeys([*picked.values(), *sampled]) if network not in results]
    jobs = [Job(run.folder, PART, network, training_epochs(run, config), test=True) for network in wanted]
    executor = LocalExecutor.for_run(run.config, config.workers)
    outcomes = list(train_all(run, jobs, executor, stop, PART, command(config)))
    died = sum(outcome.ending == "died" for outcome in outcomes)
    if died:
        raise RunFolderError(
            f"{died} of {len(jobs)} trainings under {run.folder / PART} died; the same command takes them up again"
        )
    results |= {outcome.job.network: outcome.result for outcome in outcomes}
    records = [
        record_of(run.config, one, results.get(picked[one]) if one in picked else None) for one in found
    ]
    own = [record for record in records if record.method == own_name(run.config)]
    return [
        *records,
        *random_searches(run.config, own, [results[network] for network in sampled]),
        *(sample_of(run.config, network, results[network]) for network in sampled),
    ]


def trained_by_the_run(run: Run, config: CompareConfig) -> dict[Network, dict[str, Any]]:
    """What the run's stage retrain has done already, if it did as the other trainings are done."""
    network = Network("candidate", run.architecture(), run.config.seed)
    result = run.result(network, "retrain")
    if training_epochs(run, config) is None and result is not None and "test" in result:
        return {network: result}
    return {}


def test_score(config: RunConfig, result: Mapping[str, Any]) -> float | None:
    """By the run's metric; None if the training diverged."""
    return None if "diverged" in result else score_in(result, f"test_{config.metric.name}")


def record_of(config: RunConfig, one: Found, result: Mapping[str, Any] | None) -> Record:
    """What a search came to, with the training of what it picked."""
    return Record(
        method=one.method,
        seed=one.seed,
        architecture="" if one.architecture is None else str(one.architecture),
        score=None if result is None else test_score(config, result),
        evaluations=one.spent.evaluations,
        search_seconds=one.search_seconds,
        validate_seconds=one.validate_seconds,
        final_seconds=0.0 if result is None else float(result.get("seconds", 0.0)),
    )


def sample_of(config: RunConfig, network: Network, result: Mapping[str, Any]) -> Record:
    """A random architecture: a run by itself."""
    seconds = float(result.get("seconds", 0.0))
    text = str(network.architecture)
    return Record(SAMPLING, network.seed, text, test_score(config, result), 1, 0.0, 0.0, seconds)


def random_searches(
    config: RunConfig, own: Sequence[Record], sampled: Sequence[Mapping[str, Any]]
) -> list[Record]:
    """Random search with every seed of the own method, resolved from the sampled trainings: nothing is trained for it.

    A random search trains so many architectures, rounded up, as take the seconds of a run of the own method, its final
    training included, and takes the one of the best validation score. Each has architectures of its own, the next ones of
    those drawn, so that searches of different seeds are independent. Where there are too few, all have fewer.
    """
    costs = [result["seconds"] for result in sampled if "seconds" in result]
    budget = float(np.mean([record.seconds for record in own]))
    wanted = math.ceil(budget / float(np.mean(costs))) if sum(costs) else 1  # too short to be timed
    each = min(max(1, wanted), len(sampled) // len(own))
    if each < wanted:
        say(
            f"compare: random search has {each} trainings a seed, not the {wanted} that take as long as a run of "
            f"{own[0].method}; for those, --samples {wanted * len(own)}"
        )
    parts = [sampled[place * each : (place + 1) * each] for place in range(len(own))]
    return [random_search(config, record.seed, part) for record, part in zip(own, parts, strict=True)]


def random_search(config: RunConfig, seed: int, trained: Sequence[Mapping[str, Any]]) -> Record:
    """The best of these trainings by its validation score. All of them are what picking it costs."""
    whole = [result for result in trained if "diverged" not in result]
    best = max(whole, key=config.metric.score, default=None)
    return Record(
        method=RANDOM_SEARCH,
        seed=seed,
        architecture="" if best is None else best["architecture"]["text"],
        score=None if best is None else test_score(config, best),
        evaluations=len(trained),
        search_seconds=0.0,
        validate_seconds=sum(result.get("seconds", 0.0) for result in trained),
        final_seconds=0.0,
    )
