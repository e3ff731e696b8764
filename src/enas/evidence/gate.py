"""Is B better than A? Their runs in pairs of equal seeds, by the arithmetic of `enas compare`.

A side is a run folder, a folder of run folders that differ in their seeds, or a file of scores. A run folder that `enas
compare` has worked on has a run of its own method for every seed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from enas.config import Metric
from enas.errors import DataError, RunFolderError, enas_command, shown
from enas.evidence.compare import PART, RECORDS, found_by, record_of
from enas.evidence.comparison import Contest, Record, compare, mean
from enas.evidence.methods import own_name
from enas.evidence.random_search import test_score
from enas.evidence.runs import seconds_of
from enas.evidence.statistics import Verdict
from enas.paths import near_folder
from enas.run_records import EnvironmentRecord
from enas.runtime.json_text import parse_json
from enas.runtime.records import read_record, read_records
from enas.stages import Run

EXIT: Mapping[Verdict, int] = {"better": 0, "not shown": 3, "worse": 4}
"""What a script reads."""


@dataclass(frozen=True)
class Side:
    """One of the two."""

    source: Path
    runs: Sequence[Record]
    metric: Metric | None
    """None for scores from a file, which do not say what they are."""
    data: frozenset[str] = frozenset()
    """Hashes of the data that the runs were tested on."""


@dataclass(frozen=True)
class Gate:
    """What two sides come to."""

    a: str
    b: str
    metric: str
    lower_is_better: bool
    verdict: Verdict
    """Whether B is shown to be better than A, or worse."""
    pairs: int
    """Seeds, or lines of files, that both sides have."""
    mean_a: float | None
    mean_b: float | None
    """Over the runs of the pairs that did not diverge; None if none did not."""
    more_seeds: int | None
    """About how many further pairs would show a P(better) of this size; 0 where it is shown. None if no number would: P is
    one half, or the better side had the larger budget."""
    contest: Contest
    """Of B against A: P(better) and the mean difference with their intervals, budgets, and the claim in words."""

    @property
    def exit_code(self) -> int:
        """0 better, 3 not shown, 4 worse."""
        return EXIT[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def gate(a: Path, b: Path, lower_is_better: bool | None = None) -> Gate:
    """Put B to the test against A; `lower_is_better` is for scores from files.

    Raises `DataError` if the sides cannot be compared: other metrics, other data, fewer than two seeds in common.
    """
    sides = side("A", a), side("B", b)
    metric = metric_of(sides, lower_is_better)
    if len(set().union(*(one.data for one in sides))) > 1:
        raise DataError(f"{a} and {b} were tested on different data, so that their scores are no pairs")
    seeds = {record.seed for record in sides[0].runs} & {record.seed for record in sides[1].runs}
    if len(seeds) < 2:
        raise DataError(
            f"{a} and {b} need at least 2 seeds in common, and have {len(seeds)}; give folders of runs with several seeds, "
            "or runs that 'enas compare' has worked on"
        )
    paired = [record for one in sides for record in one.runs if record.seed in seeds]
    contest = compare(paired, "B", metric).contests[0]
    pairs, more = contest.better.n, None
    if contest.verdict != "not shown":
        more = 0
    elif contest.seeds_needed is not None and contest.better.holds(0.5):
        more = max(math.ceil(contest.seeds_needed), pairs + 1) - pairs
    return Gate(
        a=str(a),
        b=str(b),
        metric=metric.name,
        lower_is_better=metric.lower_is_better,
        verdict=contest.verdict,
        pairs=pairs,
        mean_a=mean_score(paired, "A"),
        mean_b=mean_score(paired, "B"),
        more_seeds=more,
        contest=contest,
    )


def describe(found: Gate) -> str:
    """The answer in sentences."""
    order = "lower" if found.lower_is_better else "higher"
    lines = [
        f"{name}: {source}, mean {found.metric} {'-' if score is None else f'{score:.4g}'} over {found.pairs} pairs"
        for name, source, score in (("A", found.a, found.mean_a), ("B", found.b, found.mean_b))
    ]
    lines.append(f"B: {found.contest.claim} ({order} is better)")
    if (gap := found.contest.difference) is not None:
        lines.append(f"mean difference {gap} over {gap.n} pairs, above 0 where B is better")
    if found.more_seeds:
        lines.append(f"a difference of this size would show with about {found.more_seeds:,} more seeds")
    return "\n".join([*lines, f"verdict: {found.verdict}"])


def mean_score(runs: Sequence[Record], side: str) -> float | None:
    """Of the runs of a side that did not diverge."""
    whole = [run for run in runs if run.method == side and run.score is not None]
    return mean(whole, "score") if whole else None


def metric_of(sides: Sequence[Side], lower_is_better: bool | None) -> Metric:
    """What both sides are compared by. Raises `DataError` if they have different metrics."""
    known = {one.metric for one in sides if one.metric is not None}
    if len(known) > 1:
        raise DataError(f"{sides[0].source} and {sides[1].source} are compared by different metrics")
    if known and lower_is_better is not None:
        raise DataError("--lower-is-better is for files of scores; a run says itself what is better")
    return known.pop() if known else Metric("score", bool(lower_is_better))


# ---- sides -------------------------------------------------------------------------------------------------------------


def side(name: str, source: Path) -> Side:
    """The runs of a side, each called `name`. Raises `DataError` or `RunFolderError` if there is none."""
    if os.path.isfile(source):  # which says no to a name that is too long
        return Side(
            source, [Record(name, seed, "", score, 0) for seed, score in scores_in(source).items()], None
        )
    folders = [source]
    if not os.path.exists(source / "config.json"):
        folders = sorted(p.parent for p in source.glob("*/config.json")) if os.path.isdir(source) else []
    if not folders:
        raise DataError(
            f"{source} is no run folder, no folder of run folders, and no file of scores; {near_folder(source)}"
        )
    runs = [Run.open(folder) for folder in folders]
    metrics = {run.config.metric for run in runs}
    if len(metrics) > 1:
        raise DataError(f"the runs in {source} are compared by different metrics")
    hashes = frozenset(data_hash(run) for run in runs)
    records = [replace(record, method=name) for run in runs for record in records_of(run)]
    return Side(source, records, metrics.pop(), hashes)


def data_hash(run: Run) -> str:
    """Of the data that a run was begun with."""
    path = run.folder / "environment.json"
    return read_record(path, EnvironmentRecord, "Put the original back, or begin a new run").data_hash


def records_of(run: Run) -> list[Record]:
    """What `enas compare` has noted of the run's own method; without it, what the run alone came to.

    Raises `RunFolderError` if the run has no tested network.
    """
    own, path = own_name(run.config), run.folder / PART / RECORDS
    if path.exists():
        advice = "Run 'enas compare' again"
        return [record for record in read_records(path, Record, advice) if record.method == own]
    found = next((result for result in run.results() if result["role"] == "found"), None)
    if found is None or not {"test", "diverged"} & found.keys():
        raise RunFolderError(
            f"{run.folder} has no tested network yet; run {enas_command('resume', run.folder)!r} first"
        )
    if run.search_record() is None:  # an architecture from elsewhere
        score, text = test_score(run.config, found), found["architecture"]["text"]
        return [Record(own, run.config.seed, text, score, 0, final_seconds=seconds_of(found))]
    return [record_of(run, found_by(run, own), found)]


def scores_in(path: Path) -> dict[int, float | None]:
    """Scores of a file by seed: one number a line, or JSON, a list of numbers or an object of seeds and numbers.

    In JSON, null stands for a run that diverged. Without seeds, the places in the file are the pairs, from 0. Raises
    `DataError` for anything else.
    """
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    if not text.startswith(("[", "{")):
        return {seed: finite(path, seed, line) for seed, line in enumerate(text.splitlines())}
    try:
        values = parse_json(text.encode())
        pairs = (
            enumerate(values) if isinstance(values, list) else ((int(seed), v) for seed, v in values.items())
        )
        found = dict(pairs)
    except ValueError as error:
        raise DataError(
            f"{path}: {error}. Write a number a line, a JSON list, or an object of seeds and numbers"
        ) from error
    return {seed: None if value is None else finite(path, seed, value) for seed, value in found.items()}


def finite(path: Path, place: int, value: object) -> float:
    """A score of a file. Raises `DataError`, naming its place, if it is no finite number."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        if not math.isfinite(score := float(value)):
            raise ValueError
    except (OverflowError, ValueError):
        raise DataError(f"{path}, score {place}: {shown(value)} is no finite number") from None
    return score
