"""`enas gate A B`: the verdict is the comparison's own, and a script can read it from the exit code."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from enas.cli import main
from enas.config import Metric
from enas.errors import DataError, EnasError
from enas.evidence.comparison import Record, compare
from enas.evidence.gate import describe, gate, records_of, scores_in
from enas.evidence.statistics import probability_better_paired, seeds_needed
from enas.runtime.files import write_json
from enas.stages import ALL_STAGES, Run, execute
from tests import tiny

UP, DOWN = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def scores(path: Path, values: Sequence[float | None]) -> Path:
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def searched(folder: Path, text: Path, records: Sequence[Record]) -> Path:
    """A run as `enas compare` leaves it, without the work."""
    Run.create(folder, tiny.config(text), ("search",))
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
    (folder / "compare").mkdir()
    (folder / "compare" / "records.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("data") / "text")


# ---- the verdict -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "lower", "verdict", "code"),
    [
        (DOWN, UP, False, "better", 0),
        (UP, DOWN, False, "worse", 4),
        (DOWN, UP, True, "worse", 4),
        (UP, UP, False, "not shown", 3),
        (
            DOWN[:5],
            UP[:5],
            False,
            "not shown",
            3,
        ),  # 5 of 5: chance alone does that once in 16 times, on either side
    ],
)
def test_the_exit_code_says_what_the_interval_of_the_pairs_says(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    a: list[float],
    b: list[float],
    lower: bool,
    verdict: str,
    code: int,
) -> None:
    files = [str(scores(tmp_path / name, values)) for name, values in (("a", a), ("b", b))]
    flags = ["--lower-is-better"] if lower else []
    assert main(["gate", *files, *flags]) == code
    assert f"verdict: {verdict}\n" in capsys.readouterr().out
    assert main(["gate", *files, *flags, "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    sign = -1 if lower else 1
    better = probability_better_paired([sign * x for x in b], [sign * x for x in a])
    assert found["verdict"] == verdict
    assert found["contest"]["better"] == asdict(better)
    assert (better.low > 0.5, better.high < 0.5) == (verdict == "better", verdict == "worse")


def test_the_numbers_are_those_of_the_comparison(tmp_path: Path) -> None:
    a, b = [3.0, 5.0, 4.0, 9.0, 2.0, 6.0, 1.0], [4.0, 5.0, 6.0, 8.0, 3.0, 7.0, 2.0]
    found = gate(scores(tmp_path / "a", a), scores(tmp_path / "b", b))
    records = [
        Record(name, seed, "", s, 0) for name, side in (("A", a), ("B", b)) for seed, s in enumerate(side)
    ]
    assert found.contest == compare(records, "B", Metric("score", False)).contests[0]
    assert (found.mean_a, found.mean_b) == (pytest.approx(30 / 7), pytest.approx(35 / 7))
    assert found.contest.claim in describe(found)


def test_it_says_how_many_more_seeds_would_show_a_difference_of_this_size(tmp_path: Path) -> None:
    a, b = [1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 0.0]
    found = gate(scores(tmp_path / "a", a), scores(tmp_path / "b", b))
    assert found.more_seeds == seeds_needed(0.75) - 4
    assert f"about {found.more_seeds} more seeds" in describe(found)
    even = gate(scores(tmp_path / "a", [1.0, 2.0]), scores(tmp_path / "b", [2.0, 1.0]))
    assert even.more_seeds is None
    assert gate(scores(tmp_path / "a", DOWN), scores(tmp_path / "b", UP)).more_seeds == 0


def test_a_run_that_diverged_is_worse_than_any_score(tmp_path: Path) -> None:
    found = gate(
        scores(tmp_path / "a", [None] * 6), scores(tmp_path / "b", [-5.0, -6.0, -7.0, -8.0, -9.0, None])
    )
    assert found.contest.better.value == 5.5 / 6
    assert (found.mean_a, found.mean_b) == (None, -7.0)


def test_the_better_side_had_no_larger_budget_by_every_count(tmp_path: Path, text: Path) -> None:
    def runs(score: float, evaluations: int, seconds: float) -> list[Record]:
        return [Record("enas", seed, "x", score, evaluations, seconds) for seed in range(6)]

    a = searched(tmp_path / "a", text, runs(9.0, 100, 10.0))
    same = searched(tmp_path / "same", text, runs(8.0, 100, 10.0))
    double = searched(tmp_path / "double", text, runs(8.0, 200, 20.0))
    assert gate(a, same).verdict == "better"
    assert gate(a, double).verdict == "not shown"
    assert gate(a, double).more_seeds is None
    assert gate(double, a).verdict == "not shown"


# ---- what a side is ----------------------------------------------------------------------------------------------------


def test_scores_are_a_number_a_line_or_json(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("1.5\n-2\n 3e2 \n")
    (tmp_path / "seeds").write_text('{"7": 1.5, "3": null}')
    assert scores_in(tmp_path / "lines") == {0: 1.5, 1: -2.0, 2: 300.0}
    assert scores_in(scores(tmp_path / "list", [1, None])) == {0: 1.0, 1: None}
    assert scores_in(tmp_path / "seeds") == {7: 1.5, 3: None}


def test_pairs_are_of_equal_seeds_whatever_their_order(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text(json.dumps({str(seed): value for seed, value in enumerate(DOWN)}))
    b.write_text(
        json.dumps({str(seed): value for seed, value in [*reversed(list(enumerate(UP))), (99, -1e9)]})
    )
    found = gate(a, b)
    assert (found.pairs, found.verdict) == (6, "better")
    assert found.contest.difference is not None
    assert found.contest.difference.value == pytest.approx(0.5)


def test_a_compared_run_has_its_own_method_s_runs_and_a_folder_those_in_it(
    tmp_path: Path, text: Path
) -> None:
    own = [Record("enas", seed, "x", 10.0 + seed, 5) for seed in range(6)]
    rivals = [Record("evolution", seed, "x", 1.0, 5) for seed in range(6)]
    run = Run.open(searched(tmp_path / "run", text, [*own, *rivals]))
    assert records_of(run) == own
    several = tmp_path / "several"
    for seed in (0, 1):
        config = tiny.config(text, "--seed", str(seed), "--retrain.random", "0", "--search.epochs", "1")
        execute(Run.create(several / f"seed{seed}", config, ALL_STAGES), ALL_STAGES)
    found = gate(run.folder, several)
    assert found.pairs == 2
    assert found.metric == "ppl"
    tested = [Run.open(several / f"seed{seed}").results()[0]["test"]["test_ppl"] for seed in (0, 1)]
    assert found.mean_b == pytest.approx(math.fsum(tested) / 2)
    assert [len(records_of(Run.open(several / f"seed{seed}"))) for seed in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "at least 2 seeds in common, and have 0"),
        ("1\n", "and have 1; give"),
        ("1\ntwo\n", r"score 1: 'two' is no finite number"),
        ("1\nnan\n", "no finite number"),
        ("1\n\n2\n", "no finite number"),
        ("[1, true]", "True is no finite number"),
        ("[1, 2", "Write a number a line, a JSON list"),
        ('{"a": 1}', "Write a number a line, a JSON list"),
        ('["<script>", 1]', "no finite number"),
        ("[1, [2]]", "no finite number"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "a").write_text(content)
    with pytest.raises(DataError, match=complaint):
        gate(tmp_path / "a", scores(tmp_path / "b", UP))


def test_what_cannot_be_compared_is_refused_in_one_line(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [Record("enas", seed, "x", 10.0 + seed, 5) for seed in range(6)]
    run = searched(tmp_path / "run", text, own)
    other = searched(tmp_path / "other", tiny.write_text(tmp_path / "text", seed=1), own)
    with pytest.raises(DataError, match="different data"):
        gate(run, other)
    with pytest.raises(DataError, match="is for files of scores"):
        gate(run, run, lower_is_better=True)
    with pytest.raises(DataError, match="no run folder, no folder of run folders, and no file"):
        gate(run, tmp_path / "nothing")
    with pytest.raises(DataError, match="no run folder, no folder of run folders, and no file"):
        gate(run, tmp_path / ("long" * 100))
    untested = tmp_path / "untested"
    Run.create(untested, tiny.config(text), ("search",))
    with pytest.raises(EnasError, match=r"no tested network yet; run 'enas resume"):
        gate(run, untested)
    write_json(untested / "config.json", {"kind": "<b>"})
    capsys.readouterr()
    assert main(["gate", str(run), str(untested)]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("enas: config.json")
    assert complaint.count("\n") == 1
