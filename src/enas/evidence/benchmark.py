"""Controllers against random search on tables of known scores: searches, the numbers they come to, and those as text.

Letters: S seeds, T tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tyro

from enas.constraints import PositiveInt, SampleSize, Settings, Several
from enas.controllers import ControllerConfig, IndependentConfig, ReinforceConfig, UniformConfig
from enas.errors import ConfigError, did_you_mean, shown
from enas.evidence.known_scores import KnownScores, Trial, search_known
from enas.evidence.nas_bench_201 import EXPORTED, read_tables
from enas.evidence.nas_bench_graph import SHA256, load_table
from enas.evidence.runs import aligned
from enas.evidence.statistics import (
    Floats,
    Interval,
    claim_better,
    claim_difference,
    mean_difference,
    probability_better_paired,
    random_equivalents,
)
from enas.paths import OptionalPath
from enas.recipes import named_controllers
from enas.runtime.files import append_jsonl
from enas.runtime.progress import progress
from enas.runtime.seeding import derive_seed

RANDOM = "uniform"
"""The controller that is random search."""
ALL = "all"
"""The name of the row of all tables together."""
POINTS = 100.0
"""Scores are shares; differences are shown in points."""
LOADERS = {"nas-bench-graph": (tuple(SHA256), load_table)}
"""Benchmarks of packages: the names of the tables, and what reads one."""
OF_FILES = {"nas-bench-201": (EXPORTED, read_tables)}
"""Benchmarks of files that users have: what such a file is, and what reads its tables."""

RANKED = IndependentConfig(
    ReinforceConfig(
        learning_rate=1.5,
        optimiser="sgd",
        baseline="ranks",
        window=32,
        normalise_advantages=False,
        entropy_weight=0.15,
    )
)
"""For a few hundred rewards that do not change, 4 an update: a gain among the best ones, which are close together, counts as
much as one among the worst. Shared weights change, and what they said 30 rewards ago is of other weights."""

NAMED = {**named_controllers("graph"), "independent-ranks": RANKED}
"""The controllers by name; on a table, `lstm` has the settings of the paper's recurrent search."""


@dataclass(frozen=True)
class BenchmarkConfig(Settings):
    """Which searches are made."""

    name: tyro.conf.Positional[str]
    """The benchmark: nas-bench-graph, or nas-bench-201, which needs a file."""
    file: OptionalPath = None
    """Of nas-bench-201: a CSV file (or .csv.xz) with the accuracies of all cells."""
    controllers: tuple[str, ...] = ("independent-ranks", "evolution", "independent", "lstm")
    """Compared with `uniform`, which is random search and always there."""
    tables: tuple[str, ...] = ()
    """Data sets of the benchmark; all of them if none is named."""
    evaluations: PositiveInt = 300
    """Architectures that a search may look up."""
    repeats: bool = False
    """Look up, and count, once more what a search has looked up already, as with shared weights. By default it is drawn
    again, whatever the controller: its score is known."""
    proposals: SampleSize = 4
    """Architectures rewarded for one update."""
    seeds: Several = 50
    """Searches of every controller on every table, with seeds from 0 on."""
    records: OptionalPath = None
    """Also append every search to this file, as a line of JSON."""
    json: bool = False
    """Print one line of JSON a table instead of text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        benchmarks = (*LOADERS, *OF_FILES)
        if self.name not in benchmarks:
            raise ConfigError(
                f"there is no benchmark {shown(self.name)}; {did_you_mean(self.name, benchmarks)}there are "
                f"{', '.join(benchmarks)}"
            )
        check_known("controller", self.controllers, NAMED)
        if self.name in LOADERS:
            check_known("table", self.tables, LOADERS[self.name][0])
            if self.file is not None:
                raise ConfigError(
                    f"--file {shown(str(self.file))} means nothing to {self.name}, whose tables are those of a package"
                )
        elif self.file is None:
            raise ConfigError(
                f"{self.name} does not come with enas; name a table by --file, {OF_FILES[self.name][0]}"
            )
        if self.proposals < 2 and "independent" in self.controllers:
            raise ConfigError(
                f"proposals must be at least 2 for the baseline of independent, not {self.proposals}"
            )

    def load(self) -> list[KnownScores]:
        """The tables. Raises `DataError` if they are not there, or not what they should be."""
        if self.name in LOADERS:
            known, load = LOADERS[self.name]
            return [load(table) for table in dict.fromkeys(self.tables or known)]
        assert self.file is not None
        tables = OF_FILES[self.name][1](self.file)
        check_known("table", self.tables, tables)
        return [tables[table] for table in dict.fromkeys(self.tables or tables)]


def check_known(what: str, given: Sequence[str], known: Collection[str]) -> None:
    """Raise `ConfigError` for the first of the given words that is not known."""
    unknown = next((word for word in given if word not in known), None)
    if unknown is not None:
        raise ConfigError(
            f"there is no {what} {shown(unknown)}; {did_you_mean(unknown, known)}there are {', '.join(known)}"
        )


@dataclass(frozen=True)
class Standing:
    """How one controller did on one table, or on all of them."""

    table: str
    controller: str
    best_valid: float
    """Mean over the seeds of the best validation score found."""
    best_test: float
    """Mean test score of the architectures that had it."""
    better: Interval
    """P(a better validation score than random search), over pairs of equal seeds."""
    first_better: Interval | None
    """P(the first controller that was named finds a better validation score than this one), over pairs of equal seeds;
    None for that one itself, and for random search."""
    policy_gain: Interval
    """By how many points samples of the final policy exceed the mean of the space, which is what uniform ones have."""
    equivalents: float | None
    """Different random architectures whose expected best is `best_valid`; None for all tables together."""
    seconds: float
    """Mean of a search."""


def benchmark(config: BenchmarkConfig) -> list[Standing]:
    """Make all searches, on the CPU, and return the numbers that they come to."""
    tables = config.load()
    controllers = {name: NAMED[name] for name in (RANDOM, *config.controllers)}
    trials = []
    with progress("benchmark", len(tables) * len(controllers) * config.seeds, "searches") as bar:
        for trial in searches(
            tables, controllers, config.evaluations, config.proposals, config.seeds, not config.repeats
        ):
            trials.append(trial)
            if config.records is not None:
                append_jsonl(config.records, asdict(trial))
            bar.advance()
    return standings(trials, tables)


def searches(
    tables: Sequence[KnownScores],
    controllers: Mapping[str, ControllerConfig],
    evaluations: int,
    proposals: int,
    seeds: int,
    distinct: bool,
) -> Iterator[Trial]:
    """Searches of every table with random search and every controller, seeds 0 .. S-1, one after the other."""
    for table in tables:
        for name, config in {RANDOM: UniformConfig(), **controllers}.items():
            for seed in range(seeds):
                yield search_known(table, name, config, evaluations, proposals, seed, distinct)


def standings(trials: Sequence[Trial], tables: Sequence[KnownScores]) -> list[Standing]:
    """The numbers that the searches come to: table by table, then all together, and controller by controller.

    Of all tables together, P(better) is over the pairs of all tables, and a seed's policy gain is its mean over them.
    """
    names = list(dict.fromkeys(trial.controller for trial in trials))
    first = first_named(names)
    ordered = sorted(trials, key=lambda trial: trial.seed)

    def standing(name: str, part: Sequence[KnownScores], controller: str) -> Standing:
        def values(what: str, of: str = controller) -> Floats:
            """One number a search [T, S], in the order of the seeds."""
            found = [
                [getattr(one, what) for one in ordered if (one.table, one.controller) == (table.name, of)]
                for table in part
            ]
            return np.array(found)

        best_TS = values("best_valid")
        mean_T1 = np.array([[table.valid.mean()] for table in part])
        gain_S = POINTS * (values("policy_valid") - mean_T1).mean(0)
        first_better = None
        if controller not in (RANDOM, first):
            first_better = probability_better_paired(values("best_valid", first).ravel(), best_TS.ravel())
        rng = np.random.default_rng(derive_seed(0, "bootstrap", name, controller))
        return Standing(
            table=name,
            controller=controller,
            best_valid=float(best_TS.mean()),
            best_test=float(values("best_test").mean()),
            better=probability_better_paired(best_TS.ravel(), values("best_valid", RANDOM).ravel()),
            first_better=first_better,
            policy_gain=mean_difference(gain_S, np.zeros_like(gain_S), rng),
            equivalents=random_equivalents(float(best_TS.mean()), part[0].valid) if len(part) == 1 else None,
            seconds=float(values("seconds").mean()),
        )

    parts = [(table.name, [table]) for table in tables]
    if len(tables) > 1:
        parts.append((ALL, list(tables)))
    return [standing(name, part, controller) for name, part in parts for controller in names]


def first_named(controllers: Sequence[str]) -> str:
    """The one that the others are compared with: the first besides random search, or that if there is no other."""
    return next((name for name in controllers if name != RANDOM), RANDOM)


# ---- text --------------------------------------------------------------------------------------------------------------


def as_json(found: Sequence[Standing]) -> list[dict[str, Any]]:
    """One record a table: its name, and what is known of every controller."""
    records: dict[str, dict[str, Any]] = {}
    for standing in found:
        values = asdict(standing)
        table, controller = values.pop("table"), values.pop("controller")
        records.setdefault(table, {"table": table, "controllers": {}})["controllers"][controller] = values
    return list(records.values())


def as_text(found: Sequence[Standing]) -> str:
    """The numbers as a table to read, and what may be said of all."""
    rows = [("", "controller", "best valid", "its test", "P(better)", "policy gain", "k*", "seconds")]
    for place, one in enumerate(found):
        rows.append(
            (
                "" if place and one.table == found[place - 1].table else one.table,
                one.controller,
                f"{POINTS * one.best_valid:.2f}",
                f"{POINTS * one.best_test:.2f}",
                "" if one.controller == RANDOM else str(one.better),
                str(one.policy_gain),
                "" if one.equivalents is None else f"{one.equivalents:,.0f}",
                f"{one.seconds:.2f}",
            )
        )
    return "\n".join([*aligned(rows), "", *claims(found)])


def claims(found: Sequence[Standing]) -> list[str]:
    """One sentence a controller about the last table, which is all together where there are several, and one about the
    first controller against each other."""
    last = [standing for standing in found if standing.table == found[-1].table]
    first = first_named([standing.controller for standing in last])
    said = [
        f"{one.controller}, {one.table}: best validation score {claim_better(one.better, 'random search')}; policy "
        f"{claim_difference(one.policy_gain, 'the mean of the space')}"
        for one in last
        if one.controller != RANDOM
    ]
    return said + [
        f"{first}, {one.table}: best validation score {claim_better(one.first_better, one.controller)}"
        for one in last
        if one.first_better is not None
    ]
