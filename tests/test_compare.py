"""Comparisons: numbers worked out by hand, what diverged runs count as, JSON, and words that the numbers carry."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from enas.config import Metric
from enas.errors import DataError
from enas.evidence.comparison import (
    RANDOM_SEARCH,
    SAMPLING,
    Comparison,
    Contest,
    Record,
    compare,
    describe,
)
from enas.evidence.statistics import best_of_k, mean_difference, probability_better
from enas.runtime.records import validated

ACCURACY = Metric("accuracy", lower_is_better=False)
PERPLEXITY = Metric("ppl", lower_is_better=True)


def runs(method: str, scores: list[float | None], evaluations: int = 100) -> list[Record]:
    """A run a score, seeds from 0 on: 10 s of search, 2 s of validation, 5 s of training."""
    return [
        Record(method, seed, f"{method}-{seed}", score, evaluations, 10.0, 2.0, 5.0)
        for seed, score in enumerate(scores)
    ]


RANDOM = runs(SAMPLING, [50.0, 40.0, 60.0, 70.0], evaluations=0)
RECORDS = [*runs("enas", [62.0, 64.0, 66.0]), *runs("evolution", [60.0, 65.0, 60.0], 110), *RANDOM]


def test_a_comparison_has_the_numbers_worked_out_by_hand() -> None:
    found = compare(RECORDS, "enas", ACCURACY)
    enas, evolution, sampling = found.summaries
    assert (enas.method, enas.runs, enas.score, enas.worst, enas.best) == ("enas", 3, 64.0, 62.0, 66.0)
    assert (enas.evaluations, enas.seconds, enas.end_to_end_seconds) == (100.0, 17.0, 3 * 12 + 5)
    assert (sampling.score, sampling.runs, evolution.evaluations) == (55.0, 4, 110.0)
    against, random = found.contests
    assert (against.rival, against.paired, against.better.value, against.better.n) == (
        "evolution",
        True,
        2 / 3,
        3,
    )
    assert against.difference is not None
    assert against.difference.value == pytest.approx(7 / 3)
    assert against.evaluations_ratio == pytest.approx(1.1)
    assert (random.rival, random.paired, random.difference) == (SAMPLING, False, None)
    assert random.better == probability_better([62.0, 64.0, 66.0], [50.0, 40.0, 60.0, 70.0])
    curve = [best_of_k([50.0, 40.0, 60.0, 70.0], k) for k in (1, 2, 3, 4)]
    assert found.best_of_random == tuple(curve)
    assert enas.random_equivalents == next(k for k, best in enumerate(curve, start=1) if best >= 64.0)


def test_differences_are_between_equal_seeds() -> None:
    """In whatever order the records come; seeds of one method alone are left out."""
    shuffled = [*RECORDS[::-1], replace(RECORDS[0], seed=9, score=1000.0)]
    contest = compare(shuffled, "enas", ACCURACY).contests[-1]
    assert contest.rival == "evolution"
    assert contest.better.n == 3
    assert contest.difference is not None
    assert contest.difference.value == pytest.approx(7 / 3)


def test_where_lower_is_better_all_is_the_mirror_image() -> None:
    mirrored = [replace(record, score=-record.score) for record in RECORDS if record.score is not None]
    up, down = compare(RECORDS, "enas", ACCURACY), compare(mirrored, "enas", PERPLEXITY)
    assert down.best_of_random == tuple(-best for best in up.best_of_random)
    for above, below in zip(up.summaries, down.summaries, strict=True):
        assert below.score == -above.score
        assert (below.best, below.worst) == (-above.best, -above.worst)
        assert below.random_equivalents == above.random_equivalents
    for above, below in zip(up.contests, down.contests, strict=True):
        assert replace(below, seconds_ratio=above.seconds_ratio) == above


def test_a_diverged_run_is_worse_than_any_score() -> None:
    records = [*runs("enas", [1.0, None, 3.0, None]), *runs("rival", [None, 5.0, 2.0, None])]
    found = compare(records, "enas", ACCURACY)
    contest = found.contests[0]
    assert contest.better.value == 2.5 / 4  # better, worse, better, both diverged
    assert contest.difference is None  # of one pair only
    assert [(s.diverged, s.score) for s in found.summaries] == [(2, 2.0), (2, 3.5)]
    sampled = compare([*runs("enas", [1.0, 2.0]), *runs(SAMPLING, [1.0, None, 3.0])], "enas", ACCURACY)
    assert sampled.best_of_random == tuple(best_of_k([1.0, 1.0, 3.0], k) for k in (1, 2, 3))


def test_trainings_too_short_to_be_timed_have_no_ratio() -> None:
    timeless = {"search_seconds": 0.0, "validate_seconds": 0.0, "final_seconds": 0.0}
    records = [*runs("enas", [1.0, 2.0]), *runs("rival", [1.0, 3.0]), *runs(SAMPLING, [1.0, 2.0])]
    found = compare([replace(record, **timeless) for record in records], "enas", ACCURACY)
    assert [contest.seconds_ratio for contest in found.contests] == [None, None]
    assert found.random_in_budget is None
    text = describe(found)
    assert "rival had 1.00 times the evaluations" in text
    assert "too small to be compared" in text


def test_methods_that_diverge_altogether_have_no_score() -> None:
    found = compare([*runs("enas", [None, None]), *runs("rival", [None, None])], "enas", ACCURACY)
    assert found.summaries[0].score is None
    assert found.contests[0].better.value == 0.5
    assert found.contests[0].seeds_needed is None
    assert "no difference from rival shown" in describe(found)


def test_a_result_above_all_random_ones_has_no_equivalents() -> None:
    found = compare([*runs("enas", [99.0, 98.0]), *RANDOM], "enas", ACCURACY)
    assert found.summaries[0].random_equivalents is None


def test_the_interval_is_that_of_the_paired_bootstrap_and_follows_from_the_seed() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1, 1, 12).tolist(), rng.normal(0, 1, 12).tolist()
    records = [*runs("enas", ours), *runs("rival", theirs)]
    first, second = (compare(records, "enas", ACCURACY, seed=1).contests[0].difference for _ in range(2))
    assert first is not None
    assert first == second
    independent = mean_difference(ours, theirs, np.random.default_rng(5))
    assert (first.low, first.high) == pytest.approx((independent.low, independent.high), abs=0.05)


def test_json_there_and_back() -> None:
    found = compare(RECORDS, "enas", ACCURACY)
    text = json.dumps(asdict(found), allow_nan=False)
    assert validated(Comparison, json.loads(text), closed=True) == found
    assert validated(Record, json.loads(json.dumps(asdict(RECORDS[0]))), closed=True) == RECORDS[0]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (RANDOM, "there is no run of 'enas'; there are runs of sampling"),
        (runs("enas", [1.0, 2.0]), "there are only runs of enas, and none to compare them with"),
        (runs("enas", [1.0]), "one run of enas shows no spread"),
        ([*runs("enas", [1.0, 2.0]), *runs("enas", [1.0])], "two runs of enas have the same seed"),
        (
            [*runs("enas", [1.0, 2.0]), *(replace(r, seed=r.seed + 1) for r in runs("rival", [1.0, 2.0]))],
            "enas and rival have 1 seeds in common",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(records: list[Record], says: str) -> None:
    with pytest.raises(DataError, match=says):
        compare(records, "enas", ACCURACY)


def test_the_text_says_what_the_numbers_carry() -> None:
    text = describe(compare(RECORDS, "enas", ACCURACY))
    rows = [line.split() for line in text.splitlines()]
    assert ["enas", "3", "64.00", "66.00", "62.00", "100", "17", "s", "41", "s", "3"] in rows
    assert "expected best accuracy of k random architectures: 1: 55.00, 2: 63.33, 4: 70.00" in text
    assert (
        "enas: no difference from evolution shown: P = 0.67 [0.09, 0.99] over 3 pairs; about 48 seeds" in text
    )
    assert "  evolution had 1.10 times the evaluations and 1.00 times the seconds" in text
    assert "  sampling had 1.00 times the seconds" in text
    assert "in the seconds of one run of enas 3.4 random architectures are trained" in text
    clear = compare([*runs("enas", [5.0] * 10), *runs("rival", [4.0] * 10)], "enas", ACCURACY)
    words = describe(clear)
    assert "enas: better than rival in 10 of 10 pairs, P = 1.00 [0.69, 1.00]" in words
    assert "mean difference 1.00 [1.00, 1.00] over 10 pairs, above 0 where enas is better" in words
    assert "at another budget" not in words


def test_the_table_has_no_lines_that_the_terminal_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    text = describe(compare(RECORDS, "enas", ACCURACY))
    assert text.isascii()


def at_budget(
    score: float, evaluations: int, seconds: float, method: str = "rival", ours: float = 5.0
) -> Contest:
    """Ten runs of a rival with this budget against ten with 100 evaluations in 17 s."""
    theirs = [
        replace(record, search_seconds=seconds - 7, evaluations=evaluations)
        for record in runs(method, [score] * 10)
    ]
    return compare([*runs("enas", [ours] * 10), *theirs], "enas", ACCURACY).contests[0]


def test_no_claim_where_the_loser_had_less_by_both_counts() -> None:
    assert at_budget(4.0, 50, 8.0).claim == (
        "no claim against rival, which had 0.50 times the budget at most: P = 1.00 [0.69, 1.00]"
    )
    assert at_budget(6.0, 150, 34.0).claim == (
        "no claim against rival, which had 1.50 times the budget at least: P = 0.00 [0.00, 0.31]"
    )
    assert not at_budget(4.0, 50, 8.0).equal_budget
    # Less of it is no excuse for the winner, and as much by one of the two counts is enough.
    assert at_budget(6.0, 50, 8.0).claim.startswith("worse than rival in 10 of 10 pairs")
    assert at_budget(4.0, 150, 34.0).claim.startswith("better than rival in 10 of 10 pairs")
    for evaluations, seconds in ((100, 34.0), (50, 17.0), (100, 8.0)):
        assert at_budget(4.0, evaluations, seconds).equal_budget
        assert at_budget(4.0, evaluations, seconds).claim.startswith("better than rival")


def test_of_trainings_alone_only_the_seconds_count() -> None:
    assert at_budget(4.0, 100, 8.0, RANDOM_SEARCH).claim.startswith(
        "no claim against random-search, which had 0.47"
    )
    contest = at_budget(4.0, 1, 17.0, RANDOM_SEARCH)
    assert (contest.evaluations_ratio, contest.equal_budget) == (None, True)
    assert contest.claim.startswith("better than random-search")
