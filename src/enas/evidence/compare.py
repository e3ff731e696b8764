"""Comparing: a run's method against random ones, other searches on shared weights, and what needs no shared weights.

All parts are kept below the run folder, each recognised by its files and never repeated:

    RUN/compare/METHOD-seedS/     a search and what it picked, an ordinary run folder; that of the run's own seed is RUN
    RUN/compare/PROXY-seedS/      what random architectures score without training
    RUN/compare/asha-seedS/       trainings of random architectures, the best of them longer
    RUN/compare/ID-seedS/         one training from scratch each, of what was picked and of random architectures
    RUN/compare/records.jsonl     what every run of every method came to
    RUN/compare/comparison.json comparison.svg

Every architecture is trained alike. What is picked is picked by validation data and judged by test data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.constraints import Epochs, SampleSize, Several
from enas.effects import ArchiveRecord
from enas.errors import ConfigError, RunFolderError, enas_command, shown
from enas.evidence.comparison import SAMPLING, Comparison, Record, compared
from enas.evidence.halving import halve
from enas.evidence.methods import ASHA, BY_PROXY, RIVALS, Method, Spent, own_name, rivals
from enas.evidence.pictures import comparison_svg
from enas.evidence.proxies import rank_by
from enas.evidence.random_search import Result, random_searches, test_score
from enas.evidence.runs import (
    DIVERGED,
    command_line,
    complete,
    finish,
    finish_or_diverge,
    picking_seconds,
    run_in,
    search_seconds,
    seconds_of,
    train_networks,
)
from enas.executors import SideBySide, executor_for
from enas.executors.local import refuse_import_by_worker
from enas.retrain import RESULT, Network, random_architectures
from enas.runtime.checkpoint import check_still_there
from enas.runtime.devices import pick_device
from enas.runtime.files import write_atomic, write_json
from enas.runtime.metrics import MetricsRecord
from enas.runtime.progress import duration, say
from enas.runtime.records import read_records
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import Stopped, StopRequest
from enas.runtime.work import work_of
from enas.stages import Run, derive, put_architecture, search

PART, RECORDS, NUMBERS, PICTURE = "compare", "records.jsonl", "comparison.json", "comparison.svg"

ALL_RIVALS = (*RIVALS, *BY_PROXY, ASHA)


@dataclass(frozen=True)
class CompareConfig(SideBySide):
    """Compare a run's method with random ones, other searches on shared weights, and what needs no shared weights."""

    seeds: Several = 6
    """Runs of each method, with the run's seed and those after it. Fewer than 6 pairs cannot show that one method is
    better than another."""
    samples: SampleSize = 24
    """Random architectures that are trained alone. Random search has an equal part of them for each seed."""
    rivals: str = ",".join((*RIVALS, *BY_PROXY))
    """What to compare with, some of shared-random, evolution, most-parameters, most-multiply-adds, naswot, synflow and
    asha, with commas between, or `none`. Random search and sampling are always there: they take no more than the
    random architectures. asha trains random architectures for as long as a search takes."""
    epochs: Epochs | None = None
    """Trains every architecture for fewer epochs than the recipe does."""
    json: bool = False
    """Print comparison.json instead of sentences."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < self.seeds:
            raise ConfigError(
                f"--samples must be at least --seeds, {self.seeds}, not {self.samples}: random search needs one a seed"
            )
        known = ", ".join(ALL_RIVALS)
        for name in self.rivals.split(","):
            if name not in ALL_RIVALS and self.rivals != "none":
                raise ConfigError(
                    f"--rivals are some of {known}, with commas between, or none, not {shown(name)}"
                )

    @property
    def chosen(self) -> Sequence[str]:
        """The names of the rivals, in their usual order."""
        return [name for name in ALL_RIVALS if name in self.rivals.split(",")]

    def rivals_of(self, config: RunConfig) -> Mapping[str, Method]:
        """The chosen searches on shared weights; a run's own method is none."""
        return {name: method for name, method in rivals(config).items() if name in self.chosen}

    def training_epochs(self, config: RunConfig) -> int | None:
        """The length of all trainings; None for the recipe's, which has validation scores."""
        return self.epochs if self.epochs is not None else config.epochs_with_validation()


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

    @property
    def seconds(self) -> float:
        """The work of searching and picking."""
        return self.search_seconds + self.validate_seconds

    @property
    def network(self) -> Network:
        """What is trained of it."""
        return Network("candidate", self.architecture, self.seed)


def compare_run(run: Run, config: CompareConfig) -> Comparison:
    """Search, train and compare; leaves its files in RUN/compare, and returns the numbers.

    Raises `RunFolderError` if the run's search is not finished, and `Stopped`, after saving, on SIGTERM or Ctrl-C.
    """
    refuse_import_by_worker()
    run.config = config.applied(run.config)
    if run.search_record() is None:
        raise RunFolderError(
            f"the search of {run.folder} is not finished; run {enas_command('resume', run.folder)!r} first"
        )
    run.config.check_test()
    space = run.config.searched_space()
    if space.count() < config.samples:
        raise ConfigError(f"--samples is {config.samples}, but the space has {space.count()} architectures")
    seed = derive_seed(run.config.seed, PART)
    drawn = random_architectures(space, config.samples, seed, set(), run.goals.comparable)
    with StopRequest() as stop:
        try:
            found = searches(run, config, stop)
            records = train(run, config, found, drawn, stop)
        except Stopped as stopped:
            raise stop.stopped(run.folder, command_line("enas compare", config)) from stopped
    comparison = compared(records, run.config)
    folder, lines = run.folder / PART, (json.dumps(asdict(record)) + "\n" for record in records)
    write_atomic(folder / RECORDS, "".join(lines), own=True)
    write_json(folder / NUMBERS, asdict(comparison))
    write_atomic(folder / PICTURE, comparison_svg(comparison, records), own=True)
    return comparison


# ---- searches ----------------------------------------------------------------------------------------------------------


def searches(run: Run, config: CompareConfig, stop: StopRequest) -> list[Found]:
    """Search with every seed: by the run's own method, and then by its rivals on what it has spent."""
    own = own_name(run.config)
    finish(run, (search, derive), stop)
    first = found_by(run, own)
    say(plan(run, config, first))
    if not counts_work(run):
        say(
            "compare: the search of the run is from before seconds of work were counted, and its budget is its seconds by "
            "the clock. If it had more than one thread, or something else computed meanwhile, search again for a fair one"
        )
    proxies = [name for name in config.chosen if name in BY_PROXY]
    found = []
    for seed in range(run.config.seed, run.config.seed + config.seeds):
        seeded = replace(run.config, seed=seed)
        model = first if seed == run.config.seed else search_in(run, own, seeded, stop)
        found.append(model)
        budget = first if model.architecture is None else model
        for name, method in config.rivals_of(run.config).items():
            found.append(search_in(run, name, method(seeded, budget.spent), stop))
        for name in [*proxies]:
            picked = pick_by(run, name, seed, budget, stop)
            if picked is None:  # as it may be of a later seed, which draws other architectures
                proxies.remove(name)
                found = [one for one in found if one.method != name]
            else:
                found.append(picked)
        if ASHA in config.chosen:
            found.append(halve_in(run, config, seeded, budget, stop))
    return found


def folder_of(run: Run, method: str, seed: int) -> Path:
    """Where a method with a seed keeps what it does."""
    return run.folder / PART / f"{method}-seed{seed}"


def pick_by(run: Run, proxy: str, seed: int, budget: Found, stop: StopRequest) -> Found | None:
    """The best by a proxy among as many random architectures as there were evaluations, and in no more seconds.

    None, and why is said, if the proxy is not for this task, or the first seed shows that it tells nothing apart.
    """
    folder, count, seconds = folder_of(run, proxy, seed), budget.spent.evaluations, budget.seconds
    try:
        ranked = rank_by(run, proxy, folder, seed, count, seconds, stop)
    except ConfigError as error:
        say(f"compare: without {proxy}: {error}")
        return None
    scored = len(ranked.scores)
    if seed == run.config.seed and not ranked.tells_apart:
        say(f"compare: without {proxy}: all of {scored} architectures have the same score")
        return None
    say(f"compare: {proxy}, seed {seed}: the best of {scored} architectures, in {duration(ranked.seconds)}")
    return Found(proxy, seed, ranked.best, Spent(scored, 0), ranked.seconds, 0.0)


def halve_in(run: Run, config: CompareConfig, seeded: RunConfig, budget: Found, stop: StopRequest) -> Found:
    """Successive halving of random architectures, in the seconds that a search and its picking took."""
    folder, seed = folder_of(run, ASHA, seeded.seed), seeded.seed
    if not (folder / "config.json").exists():
        check_still_there(run.run_file)
        say(f"compare: {ASHA}, seed {seed}")
    halving = run_in(folder, seeded, ("retrain",))
    epochs = config.training_epochs(seeded)
    whole = halving.child_training(budget.network).epochs if epochs is None else epochs
    drawn = run.goals.random(derive_seed(seed, ASHA))
    command = command_line("enas compare", config)
    halved = halve(halving, drawn, whole, budget.seconds, stop, command, config.workers)
    if halved.architecture is not None:
        put_architecture(folder, halved.architecture)
    return Found(ASHA, seed, halved.architecture, Spent(halved.architectures, 0), halved.seconds, 0.0)


def search_in(run: Run, method: str, config: RunConfig, stop: StopRequest) -> Found:
    """Search in the folder of a method and a seed, from where it was."""
    folder = folder_of(run, method, config.seed)
    if not (folder / "config.json").exists():
        check_still_there(run.run_file)
        say(f"compare: {method}, seed {config.seed}")
    searching = run_in(folder, config, ("search", "derive"), latencies=run.goals.file)
    if finish_or_diverge(searching, (search, derive), stop) is None:
        return found_by(searching, method)
    # The shared weights diverged: the search cost what it had spent until then.
    advice = f"Delete {folder} to search again"
    metrics, archive = folder / "metrics.jsonl", folder / "archive.jsonl"
    logged = read_records(metrics, MetricsRecord, advice) if metrics.exists() else []
    rewarded = read_records(archive, ArchiveRecord, advice) if archive.exists() else []
    seconds = max((work_of({"seconds": record.time, "work": record.work}) for record in logged), default=0.0)
    return Found(method, config.seed, None, Spent(len(rewarded), 0), seconds, 0.0)


def found_by(run: Run, method: str) -> Found:
    """What a search came to that is finished and has derived an architecture.

    Raises `RunFolderError` if it has not noted what that took.
    """
    searched, derived, config = run.search_record(), run.derive_record(), run.config.derive
    if searched is None or derived is None:
        missing = run.folder / ("search.json" if searched is None else "derive.json")
        raise RunFolderError(
            f"{missing} is missing: what the search took is not known. Delete architecture.json there, and derive again"
        )
    spent = Spent(len(run.archive()), derived.candidates * config.minibatches * config.checkpoints)
    seconds = search_seconds(run, searched), picking_seconds(run, derived)
    return Found(method, run.config.seed, run.architecture(), spent, *seconds)


def plan(run: Run, config: CompareConfig, first: Found) -> str:
    """What is missing, and about how long it takes: a search as long as the run's own took, a training as estimated."""
    names = [first.method, *(name for name in config.chosen if name != first.method)]
    folders = [
        folder_of(run, name, seed)
        for name in names
        for seed in range(first.seed, first.seed + config.seeds)
        if (name, seed) != (first.method, first.seed) and name not in BY_PROXY
    ]
    ended = ("architecture.json", DIVERGED)
    missing = sum(not any((folder / name).exists() for name in ended) for folder in folders)
    trained = len(list((run.folder / PART).glob(f"*-seed*/{RESULT}")))
    trainings = max(0, len(names) * config.seeds + config.samples - trained)
    step = (example := run.child_training(first.network, config.training_epochs(run.config))).estimate()
    each = step.seconds * example.total_steps
    at_once = max(1, min(executor_for(run.config, config.workers).room(each, step.mib), trainings))
    on_cpu = pick_device(run.config.device).type == "cpu"
    cores = (run.config.threads or torch.get_num_threads()) if on_cpu else 1
    seconds = missing * first.seconds / cores + trainings * each / at_once
    budgets = (
        " of the processor, so that other programs may run meanwhile"
        if on_cpu
        else " by the clock: let nothing else compute on this machine meanwhile"
    )
    return (
        f"compare: {', '.join(names)} with {config.seeds} seeds, {config.samples} random architectures; {missing} searches "
        f"and at most {trainings} trainings are missing: about {duration(seconds)} in all. Budgets are in "
        f"seconds{budgets}"
    )


def counts_work(run: Run) -> bool:
    """Whether the records of a run's search tell its work, or only its seconds by the clock."""
    return all(one is None or one.work is not None for one in (run.search_record(), run.derive_record()))


# ---- trainings ---------------------------------------------------------------------------------------------------------


def train(
    run: Run, config: CompareConfig, found: Sequence[Found], drawn: Sequence[Architecture], stop: StopRequest
) -> list[Record]:
    """Train what was picked and the random architectures, each once, and put together what every method came to.

    Raises `RunFolderError` if a training's process died.
    """
    epochs = config.training_epochs(run.config)
    results: dict[Network, Result] = {}
    if epochs is None:  # then the stage retrain may have trained what the run found alike
        done = run.result(found[0].network, "retrain")
        results |= {found[0].network: done} if done is not None and "test" in done else {}
    picked = [one.network for one in found if one.architecture is not None]
    sampled = [Network("candidate", a, run.config.seed + number) for number, a in enumerate(drawn)]
    wanted = [network for network in dict.fromkeys([*picked, *sampled]) if network not in results]
    command, workers = command_line("enas compare", config), config.workers
    trained = train_networks(run, PART, wanted, stop, command, workers=workers, epochs=epochs, test=True)
    results |= complete(trained, wanted, run.folder / PART)
    run.goals.measure_trained(results)
    records = [record_of(run, one, results.get(one.network)) for one in found]
    samples = [results[network] for network in sampled]
    return [
        *records,
        *random_searches(run.config, [one for one in records if one.method == found[0].method], samples),
        *(
            Record(
                method=SAMPLING,
                seed=network.seed,
                architecture=str(network.architecture),
                score=test_score(run.config, result),
                evaluations=1,
                final_seconds=seconds_of(result),
                costs=run.goals.paid(result),
            )
            for network, result in zip(sampled, samples, strict=True)
        ),
    ]


def record_of(run: Run, one: Found, result: Result | None) -> Record:
    """What a search came to, with the training of what it picked."""
    return Record(
        method=one.method,
        seed=one.seed,
        architecture="" if one.architecture is None else str(one.architecture),
        score=test_score(run.config, result),
        evaluations=one.spent.evaluations,
        search_seconds=one.search_seconds,
        validate_seconds=one.validate_seconds,
        final_seconds=seconds_of(result),
        costs=run.goals.paid(result),
    )
