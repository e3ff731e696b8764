"""Searches on a mini-space, scored against the truth: no training but the search's own, about a minute each.

A shortlist is not trained: what its trainings come to is looked up in the table, by validation data. What was found is
then judged on validation and on test data. Every search is a run folder of its own, `RUN/METHOD-seedS/`, and resumes.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from enas.config import RunConfig
from enas.constraints import SampleSize, Seed, Settings
from enas.errors import ConfigError, DataError, NotFiniteError
from enas.ground_truth.minispaces import mini_space, table_of
from enas.ground_truth.named_settings import named_settings
from enas.ground_truth.table import Split, Table, recipe_hash
from enas.paths import OptionalPath, UserPath
from enas.runtime.files import read_json, write_json
from enas.runtime.lock import run_lock
from enas.runtime.progress import say
from enas.runtime.records import record_in
from enas.runtime.seeding import generator
from enas.runtime.stop import Stopped, StopRequest
from enas.stages import Run, derive_by, search
from enas.statistics import (
    mean,
    mean_difference,
    median,
    percentile,
    probability_better_paired,
    random_equivalents,
)

SCORE = "score.json"
SAMPLES = 16
SPLITS: tuple[Split, ...] = ("valid", "test")

COMPARED = {"samples_percentile": "samples", "picked_percentile": "picks"}
"""By what methods are compared in pairs of equal seeds, and what it is called."""


@dataclass(frozen=True)
class ScoreOptions(Settings):
    """Search a mini-space with several seeds and methods, and score what comes out against its table."""

    run: UserPath
    """Folder of the searches. What is finished there is not repeated."""
    methods: str = "independent,uniform"
    """Names of settings, with commas between; the first is compared with each of the others. A name is `default`, a
    controller, `paper`, `authors`, a variant of 'enas ablate' or SETTING=VALUE, or several of these joined by +."""
    seeds: SampleSize = 10
    """Searches of each method."""
    first_seed: Seed = 0
    """The seed of the first search; the others follow."""
    file: OptionalPath = None
    """A table.jsonl; by default the one that comes with the package."""
    json: bool = False
    """Print JSON instead of sentences."""

    def names(self) -> list[str]:
        """The methods, as a list."""
        return self.methods.split(",")


@dataclass(frozen=True)
class ScoreRecord:
    """What score.json holds of a search: for each split, figures by their names."""

    valid: dict[str, float | None]
    test: dict[str, float | None]
    seconds: float


@dataclass(frozen=True)
class DivergedRecord:
    """What it holds of one whose shared weights diverged."""

    diverged: str


def score_search(config: RunConfig, table: Table, folder: Path, stop: StopRequest) -> dict[str, Any]:
    """Search with these settings and score the outcome; one that is done is not repeated. Where the shared weights
    diverge, the record has only `diverged`.

    Raises `DataError` if the table is not of this run's trainings, and `Stopped`, after saving, if a stop is requested.
    """
    if (folder / SCORE).exists():
        record: dict[str, Any] = read_json(folder / SCORE)
        advice = "Delete it; the same command scores the search again"
        record_in(folder / SCORE, record, DivergedRecord if "diverged" in record else ScoreRecord, advice)
        return record
    folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / "config.json").exists()
    run = Run.open(folder) if begun else Run.create(folder, config, ("search",))
    if run.config != config:
        raise ConfigError(f"{folder} holds a search with other settings; choose another --run")
    check_fit(table, config, run.data.hash)
    try:
        search(run, stop)
    except NotFiniteError as error:
        say(f"{error}. It counts as diverged, and the others go on.")
        write_json(folder / SCORE, {"diverged": str(error)})
        return {"diverged": str(error)}
    if stop.requested:
        raise stop.stopped(folder)
    searched = run.search_record()
    assert searched is not None  # just now
    record = {**score_of(run, table), "seconds": searched.seconds}
    write_json(folder / SCORE, record)
    return record


def check_fit(table: Table, config: RunConfig, data_hash: str) -> None:
    """Raise `DataError` unless the table has the trainings of this run, all of them."""
    if not table.complete:
        raise DataError(
            f"the table {table.name} lacks architectures of its space; let 'enas table build' finish it"
        )
    if recipe_hash(config) != recipe_hash(table.config):
        raise DataError(f"the table {table.name} is of trainings with other settings than this run's")
    if data_hash != table.data_hash:
        raise DataError(
            f"the table {table.name} is of other data (hash {table.data_hash}, here {data_hash}); the text of the "
            "standard library differs between versions of Python: build the table again with 'enas table build'"
        )


def score_of(run: Run, table: Table) -> dict[str, Any]:
    """How good a finished search is by the table: its policy, what it picks, and its shared weights."""
    weights, controller = run.searched()
    seed = run.config.seed
    truth = {split: table.truth(split) for split in SPLITS}
    proposals = controller.propose(SAMPLES, generator(seed, "score"))
    sampled = proposals.architectures(weights.space)
    mode = weights.space.architecture(controller.mode())
    derive_by(run, lambda architecture: -truth["valid"][architecture])
    picked = run.architecture()
    everything = list(truth["valid"])
    shared_N = np.array(weights.scores(everything))
    record: dict[str, Any] = {"samples": SAMPLES, "mode": str(mode), "picked": str(picked)}
    for split, known in truth.items():
        known_N = np.array([known[a] for a in everything])
        record[split] = {
            "samples_percentile": percentile([known[a] for a in sampled], known_N),
            "mode_percentile": percentile([known[mode]], known_N),
            "picked_percentile": percentile([known[picked]], known_N),
            "picked_random_equivalents": random_equivalents(known[picked], known_N),
            "shared_weights_kendall": tau(shared_N, known_N),
        }
    return record


def tau(a_N: Any, b_N: Any) -> float | None:
    """Kendall's tau-b; None where all scores are equal. One that is no number, of weights that overflow, is the worst."""
    a_N, b_N = (
        stats.rankdata(np.nan_to_num(scores_N, nan=-np.inf, neginf=-np.inf)) for scores_N in (a_N, b_N)
    )
    if min(np.ptp(a_N), np.ptp(b_N)) == 0:
        return None
    return float(stats.kendalltau(a_N, b_N).statistic)


def score_methods(name: str, options: ScoreOptions) -> dict[str, Any]:
    """Every search of every method, and what they come to together."""
    space = mini_space(name)
    table = table_of(name, options.file)
    config = space.config()
    chosen = {method: named_settings(config, method) for method in options.names()}
    options.run.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in options.names()}
    with run_lock(options.run), StopRequest() as stop:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for method, records in found.items():
                folder = options.run / f"{method}-seed{seed}"
                settings = replace(chosen[method], seed=seed)
                say(f"{name}: {method}, seed {seed}")
                try:
                    records.append(score_search(settings, table, folder, stop))
                except Stopped as stopped:
                    raise stop.stopped(options.run, command(name, options)) from stopped
    return summarise(found)


def command(name: str, options: ScoreOptions) -> str:
    """The command that goes on after a stop, up to the run folder."""
    flags = [f"--methods={options.methods}", f"--seeds={options.seeds}", f"--first-seed={options.first_seed}"]
    flags += [] if options.file is None else [f"--file={options.file}"]
    return shlex.join(["enas", "table", "score", name, *flags, "--run"])


def summarise(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Means over the seeds of each method with their intervals, of random equivalents the median, and of the first method
    against each other one in pairs of equal seeds.

    Searches that diverged are counted and left out. Raises `DataError` if all of a method did.
    """
    for method, records in found.items():
        if all("diverged" in record for record in records):
            raise DataError(f"all searches of {method} diverged: {records[0]['diverged']}")
    first, *others = found
    keys = ("samples_percentile", "picked_percentile", "picked_random_equivalents", "shared_weights_kendall")
    methods = {
        method: {
            split: {key: middle([record[split][key] for record in whole(records)], key) for key in keys}
            for split in SPLITS
        }
        | {
            "seeds": len(records),
            "diverged": len(records) - len(whole(records)),
            "seconds": float(np.mean([record["seconds"] for record in whole(records)])),
        }
        for method, records in found.items()
    }
    against: dict[str, dict[str, Any]] = {}
    for other in others:
        pairs = [
            pair for pair in zip(found[first], found[other], strict=True) if len(whole(pair)) == len(pair)
        ]
        for key in COMPARED if len(pairs) > 1 else ():
            ours, theirs = ([pair[place]["test"][key] for pair in pairs] for place in range(2))
            against.setdefault(other, {})[key] = {
                "probability_better": probability_better_paired(ours, theirs).to_json(),
                "difference": mean_difference(ours, theirs, np.random.default_rng(0)).to_json(),
            }
    return {"methods": methods, "first": first, "against": against, "searches": dict(found)}


def whole(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of searches that did not diverge."""
    return [record for record in records if "diverged" not in record]


def middle(values: Sequence[float | None], key: str) -> dict[str, Any] | None:
    """The mean over the seeds; of random equivalents, which may be infinite, the median. With too few for an interval, its
    ends are None; with none, there is nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    equivalents = key == "picked_random_equivalents"
    try:
        found = median(known) if equivalents else mean(known, np.random.default_rng(0))
    except DataError:
        value = float(np.median(known) if equivalents else np.mean(known))
        return {"value": value, "low": None, "high": None, "level": None, "n": len(known)}
    return found.to_json()


def interval_text(found: Mapping[str, Any] | None, digits: int) -> str:
    """A number with its interval, as far as there are any."""
    if found is None:
        return "-"
    value = f"{found['value']:.{digits}f}"
    return (
        value if found["low"] is None else f"{value} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    )


def describe(record: Mapping[str, Any]) -> str:
    """The summary in sentences."""
    width = max(16, *(len(method) + 2 for method in record["methods"]))
    lines = [
        f"{'method':<{width}}{'seeds':>6}{'samples':>20}{'picked':>20}{'k*':>20}{'tau':>22}{'s a search':>12}   "
        "(test data; 95 % intervals)"
    ]
    for method, said in record["methods"].items():
        test = said["test"]
        lines.append(
            f"{method:<{width}}{said['seeds']:>6}{interval_text(test['samples_percentile'], 2):>20}"
            f"{interval_text(test['picked_percentile'], 2):>20}"
            f"{interval_text(test['picked_random_equivalents'], 1):>20}"
            f"{interval_text(test['shared_weights_kendall'], 2):>22}{said['seconds']:>12.1f}"
        )
        if said["diverged"]:
            lines[-1] += f"   {said['diverged']} diverged, left out"
    for other, compared in record["against"].items():
        for key, said in compared.items():
            better, difference = said["probability_better"], said["difference"]
            lines.append(
                f"{COMPARED[key]} of {record['first']} against {other}: P(better) {interval_text(better, 2)}, difference "
                f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
            )
    return "\n".join(lines)
