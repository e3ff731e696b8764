"""Searches on a space whose architectures' scores are known, judged by these.

On a mini-space, trainings of architectures alone, for the verification and for a shortlist, are looked up in its table, by
validation data: there is no training but the search's own, about a minute each. Where the scores are of other trainings than
the run's, they are done. What was found is judged on validation and on test data. Every search is a run folder of its own,
`RUN/METHOD-seedS/`, and resumes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.constraints import SampleSize, Seed, Settings
from enas.errors import ConfigError, DataError, shown
from enas.evidence.agreement import top
from enas.evidence.halving import halve
from enas.evidence.methods import ASHA
from enas.evidence.nas_bench_201 import EXPORTED, read_cells
from enas.evidence.runs import (
    Stage,
    aligned,
    command_line,
    finish_or_diverge,
    picking_seconds,
    run_in,
    search_seconds,
)
from enas.evidence.statistics import (
    Floats,
    mean,
    mean_difference,
    median,
    probability_better_paired,
    random_equivalents,
)
from enas.evidence.tables.minispaces import mini_space, table_of
from enas.evidence.tables.named_settings import named_settings
from enas.evidence.tables.table import SPLITS, Split, Table, recipe_hash
from enas.paths import OptionalPath, UserPath
from enas.recipes import recipe
from enas.retrain import uniform_architectures
from enas.runtime.files import read_json, write_json
from enas.runtime.lock import folder_of_run
from enas.runtime.progress import say
from enas.runtime.records import record_in
from enas.runtime.seeding import derive_seed, generator
from enas.runtime.stop import Stopped, StopRequest
from enas.scores import percentile
from enas.stages import Run, derive, derive_by, search, verified

NAS_BENCH_201 = "nas-bench-201"
"""The name of the benchmark, whose table the user has, and whose cells a search trains itself."""
COMPARED = 100
"""Cells of it whose order by the shared weights is compared with the truth."""
SCORE = "score.json"
LONGEST_NAME = 200
"""Of a method, in bytes: a folder has its name and that of the seed."""
SAMPLES = 16
EQUIVALENTS = "picked_random_equivalents"
FIGURES = (
    "samples_percentile",
    "picked_percentile",
    EQUIVALENTS,
    "shared_weights_kendall",
    "corrected_kendall",
    "corrected_kendall_of_top",
)
"""What is reported of a method; the first two also in pairs of equal seeds. The last three are Kendall's tau with the truth:
of the shared weights' scores, and of those corrected by a verification, over all and within the best fifth."""


@dataclass(frozen=True)
class ScoreOptions(Settings):
    """Search a mini-space with several seeds and methods, and score what comes out against its table."""

    run: UserPath
    """Folder of the searches. What is finished there is not repeated."""
    methods: str = "independent,uniform"
    """Names of settings, with commas between; the first is compared with each of the others. A name is `default`, a
    controller, `paper`, `authors`, a variant of 'enas ablate' or SETTING=VALUE, or several of these joined by +. For
    nas-bench-201 also `asha`: random cells trained alone for as long as the first method's search and picking took."""
    seeds: SampleSize = 10
    """Searches of each method."""
    first_seed: Seed = 0
    """The seed of the first search; the others follow."""
    file: OptionalPath = None
    """A table.jsonl, by default the one that comes with the package; for nas-bench-201 the CSV file of its accuracies."""
    json: bool = False
    """Print JSON instead of sentences."""


@dataclass(frozen=True)
class ScoreRecord:
    """What score.json holds of a search: for each split, figures by their names."""

    valid: dict[str, float | None]
    test: dict[str, float | None]
    seconds: float


def score_methods(name: str, options: ScoreOptions) -> dict[str, Any]:
    """Every search of every method, and what they come to together."""
    truth, config = known_of(name, options.file)
    first, *others = options.methods.split(",")
    if ASHA in others and truth.table is not None:
        raise ConfigError(
            f"{ASHA} trains architectures, and on {name} their trainings are looked up; leave it out"
        )
    searches = [first, *(method for method in others if method != ASHA)]
    chosen = {method: named_settings(config, method) for method in searches}
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in (first, *others)}
    for parts in (Path(method).parts for method in found):
        if ".." in parts or max(len(os.fsencode(part)) for part in parts) > LONGEST_NAME:
            raise ConfigError(
                f"--methods: a folder cannot be called {shown('/'.join(parts))}, which is too long or has a part '..': "
                "name fewer settings at once, and paths from the root"
            )
    with folder_of_run(options.run), StopRequest() as stop:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for method, records in found.items():
                say(f"{name}: {method}, seed {seed}")
                settings = replace(chosen.get(method, chosen[first]), seed=seed)
                folder = options.run / f"{method}-seed{seed}"
                try:
                    if method in chosen:
                        records.append(score_search(settings, truth, folder, stop))
                    elif "diverged" in (ours := found[first][-1]):
                        records.append({"diverged": f"{first} of this seed, whose seconds it would be given"})
                    else:
                        records.append(score_halving(settings, truth, folder, ours["seconds"], stop))
                except Stopped as stopped:
                    command = f"{command_line(f'enas table score {name}', options)} --run"
                    raise stop.stopped(options.run, command) from stopped
    return summarise(found)


def known_of(name: str, file: Path | None) -> tuple[Truth, RunConfig]:
    """What is known of a space, and the settings of searches on it.

    Raises `ConfigError` for an unknown name, or where a table is needed and none is given.
    """
    if name != NAS_BENCH_201:
        return Truth.of(table_of(name, file)), mini_space(name).config()
    if file is None:
        raise ConfigError(f"{name} needs --file TABLE: {EXPORTED}")
    known = read_cells(file)
    cells = list(known.space.enumerate())
    scores: dict[Split, dict[Architecture, float]] = {
        "valid": dict(zip(cells, known.valid.tolist(), strict=True)),
        "test": dict(zip(cells, known.test.tolist(), strict=True)),
    }
    compared = random.Random(derive_seed(0, "table", name)).sample(cells, COMPARED)
    return Truth(scores, compared), recipe("nasbench201-default")


@dataclass(frozen=True)
class Truth:
    """What the architectures of a space score when they are trained alone."""

    scores: Mapping[Split, Mapping[Architecture, float]]
    """On the validation and on the test data, by architecture."""
    compared: Sequence[Architecture]
    """Those whose order by the shared weights is compared with the truth."""
    table: Table | None = None
    """Where a run's own trainings are looked up; None if they are done."""

    @classmethod
    def of(cls, table: Table) -> Truth:
        """What a table says. Raises `DataError` if it lacks architectures of its space."""
        if not table.complete:
            raise DataError(
                f"the table {table.name} lacks architectures of its space; let 'enas table build' finish it"
            )
        scores = {split: table.truth(split) for split in SPLITS}
        return cls(scores, list(scores["valid"]), table)

    def lookup(self, architectures: Sequence[Architecture]) -> list[float]:
        """What trainings come to on the validation data."""
        return [self.scores["valid"][architecture] for architecture in architectures]

    def losses(self, architectures: Sequence[Architecture]) -> list[float]:
        """The same, lower being better, as one is picked by."""
        return [-score for score in self.lookup(architectures)]


def score_search(config: RunConfig, truth: Truth, folder: Path, stop: StopRequest) -> dict[str, Any]:
    """Search with these settings and score the outcome; one that is done is not repeated. Where the shared weights
    diverge, the record has only `diverged`.

    Raises `DataError` if the table is not of this run's trainings, and `Stopped`, after saving, if a stop is requested.
    """
    if (record := score_in_folder(folder)) is not None:
        return record
    run = run_in(folder, config, ("search",))
    stages: list[Stage] = [search, derive]
    if truth.table is not None:
        check_fit(truth.table, config, run.data.hash)
        stages = [partial(search, train=truth.lookup), lambda run, stop: derive_by(run, truth.losses)]
    why = finish_or_diverge(run, stages, stop)
    if why is not None:
        return {"diverged": why}
    searched, derived = run.search_record(), run.derive_record()
    assert searched is not None  # just now
    assert derived is not None
    seconds = search_seconds(run, searched) + picking_seconds(run, derived)
    record = {**score_of(run, truth), "seconds": seconds}
    write_json(folder / SCORE, record)
    return record


def score_in_folder(folder: Path) -> dict[str, Any] | None:
    """The record of what is done; None if it is not. Raises `RunFolderError` if it is damaged."""
    path = folder / SCORE
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    record_in(path, record, ScoreRecord, "Delete it; the same command scores the search again")
    return record


def score_halving(
    config: RunConfig, truth: Truth, folder: Path, seconds: float, stop: StopRequest
) -> dict[str, Any]:
    """What successive halving of random architectures picks in so many seconds, by the truth. None of them is trained for
    longer than those of a shortlist. One that is done is not repeated."""
    if (record := score_in_folder(folder)) is not None:
        return record
    run = run_in(folder, config, ("retrain",))
    drawn = uniform_architectures(config.searched_space(), derive_seed(config.seed, ASHA))
    halved = halve(run, drawn, config.derive.shortlist_epochs, seconds, stop, "enas table score", None)
    if halved.architecture is None:
        return {"diverged": "all trainings"}
    record = {"picked": str(halved.architecture), "trained": halved.architectures, "seconds": halved.seconds}
    for split, known in truth.scores.items():
        record[split] = dict.fromkeys(FIGURES) | judged(known, halved.architecture)
    write_json(folder / SCORE, record)
    return record


def judged(known: Mapping[Architecture, float], picked: Architecture) -> dict[str, float]:
    """What a picked architecture is by the truth of a split."""
    all_ = np.array(list(known.values()))
    return {
        "picked_percentile": percentile([known[picked]], all_),
        EQUIVALENTS: random_equivalents(known[picked], all_),
        "picked": known[picked],
    }


def check_fit(table: Table, config: RunConfig, data_hash: str) -> None:
    """Raise `DataError` unless the table has the trainings of this run."""
    if recipe_hash(config) != recipe_hash(table.config):
        raise DataError(f"the table {table.name} is of trainings with other settings than this run's")
    if data_hash != table.data_hash:
        raise DataError(
            f"the table {table.name} is of other data (hash {table.data_hash}, here {data_hash}); the text of the "
            "standard library differs between versions of Python: build the table again with 'enas table build'"
        )


def score_of(run: Run, truth: Truth) -> dict[str, Any]:
    """How good a finished search is by the truth: its policy, what it picked, and its shared weights."""
    weights, controller = run.searched()
    sampled = controller.propose(SAMPLES, generator(run.config.seed, "score")).architectures(weights.space)
    mode, picked = weights.space.architecture(controller.mode()), run.architecture()
    shared_N = np.array(weights.scores(truth.compared))
    verification = verified(run, weights)
    corrected_N = None if verification is None else verification.predicted(truth.compared)
    record: dict[str, Any] = {"samples": SAMPLES, "mode": str(mode), "picked": str(picked)}
    for split, known in truth.scores.items():
        all_ = np.array(list(known.values()))
        known_N = np.array([known[a] for a in truth.compared])
        best = top(known_N)
        record[split] = {
            "samples_percentile": percentile([known[a] for a in sampled], all_),
            "mode_percentile": percentile([known[mode]], all_),
            **judged(known, picked),
            "shared_weights_kendall": tau(shared_N, known_N),
            "corrected_kendall": None if corrected_N is None else tau(corrected_N, known_N),
            "corrected_kendall_of_top": None
            if corrected_N is None
            else tau(corrected_N[best], known_N[best]),
        }
    return record


def tau(a_N: Floats, b_N: Floats) -> float | None:
    """Kendall's tau-b; None where all scores are equal. One that is no number, of weights that overflow, is the worst."""
    a_N, b_N = (
        scipy.stats.rankdata(np.nan_to_num(scores_N, nan=-np.inf, neginf=-np.inf)) for scores_N in (a_N, b_N)
    )
    if min(np.ptp(a_N), np.ptp(b_N)) == 0:
        return None
    return float(scipy.stats.kendalltau(a_N, b_N).statistic)


# ---- together ----------------------------------------------------------------------------------------------------------


def summarise(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Means over the seeds of each method with their intervals, of random equivalents the median, and of the first method
    against each other one in pairs of equal seeds.

    Searches that diverged are counted and left out. Raises `DataError` if all of a method did.
    """
    methods: dict[str, dict[str, Any]] = {}
    for method, records in found.items():
        whole = [record for record in records if "diverged" not in record]
        if not whole:
            raise DataError(f"all searches of {method} diverged: {records[0]['diverged']}")
        methods[method] = {
            split: {key: middle([record[split][key] for record in whole], key) for key in FIGURES}
            for split in SPLITS
        }
        methods[method] |= {
            "seeds": len(records),
            "diverged": len(records) - len(whole),
            "seconds": float(np.mean([record["seconds"] for record in whole])),
        }
    first, *others = found
    against: dict[str, dict[str, Any]] = {}
    for other in others:
        pairs = [
            (ours["test"], theirs["test"])
            for ours, theirs in zip(found[first], found[other], strict=True)
            if "diverged" not in ours and "diverged" not in theirs
        ]
        if len(pairs) > 1:
            known = [key for key in FIGURES[:2] if all(theirs[key] is not None for _, theirs in pairs)]
            against[other] = {key: compared(pairs, key) for key in known}
    return {"methods": methods, "first": first, "against": against, "searches": dict(found)}


def compared(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], key: str) -> dict[str, Any]:
    """One figure of two methods in pairs of equal seeds."""
    ours, theirs = ([pair[place][key] for pair in pairs] for place in range(2))
    return {
        "probability_better": asdict(probability_better_paired(ours, theirs)),
        "difference": asdict(mean_difference(ours, theirs, np.random.default_rng(0))),
    }


def middle(values: Sequence[float | None], key: str) -> dict[str, Any] | None:
    """The mean over the seeds; of random equivalents, which may be infinite, the median. With too few for an interval, its
    ends are None; with none, there is nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    try:
        return asdict(median(known) if key == EQUIVALENTS else mean(known, np.random.default_rng(0)))
    except DataError:
        value = float((np.median if key == EQUIVALENTS else np.mean)(known))
        return {"value": value, "low": None, "high": None, "level": None, "n": len(known)}


def describe(record: Mapping[str, Any]) -> str:
    """The summary in sentences."""

    def interval(found: Mapping[str, Any] | None, digits: int = 2) -> str:
        """A number with its interval, as far as there are any."""
        if found is None:
            return "-"
        value, low, high = (
            f"{found[end]:.{digits}f}" if found[end] is not None else "" for end in ("value", "low", "high")
        )
        return f"{value} [{low}, {high}]" if low else value

    rows = [("method", "seeds", "samples", "picked", "k*", "tau", "corrected tau", "of top", "s a search")]
    for method, said in record["methods"].items():
        cells = (interval(said["test"][key], 1 if key == EQUIVALENTS else 2) for key in FIGURES)
        lost = f" ({said['diverged']} diverged, left out)" if said["diverged"] else ""
        rows.append((method, f"{said['seeds']}{lost}", *cells, f"{said['seconds']:.1f}"))
    heading, *lines = aligned(rows)
    lines = [f"{heading}   (test data; 95 % intervals)", *lines]
    for other, found in record["against"].items():
        for key, name in zip(FIGURES, ("samples", "picks"), strict=False):
            if key not in found:
                continue
            better, gap = found[key]["probability_better"], found[key]["difference"]
            lines.append(
                f"{name} of {record['first']} against {other}: P(better) {interval(better)}, difference "
                f"{gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
            )
    return "\n".join(lines)
