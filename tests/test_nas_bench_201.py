"""Tables of NAS-Bench-201 that users have: what is read, and what is refused. All accuracies here are made up."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enas.cli import main
from enas.errors import DataError, NotFiniteError
from enas.evidence.known_scores import rows_of
from enas.evidence.nas_bench_201 import LARGEST, read_cells, read_tables
from enas.evidence.tables import score
from enas.executors.local import LocalExecutor
from enas.run import Run
from enas.runtime.stop import StopRequest
from enas.scores import percentile
from enas.spaces.nasbench201.space import NASBench201Space
from enas.stages import search
from tests import tiny
from tests.test_compare_command import InThisProcess

SPACE = NASBench201Space()
HEAD = "architecture,cifar10_valid,cifar10_test"
CONV = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"


def made_up(choices: tuple[int, ...]) -> float:
    """More for every convolution, and a little that tells all cells apart."""
    return 50 + 5 * sum(choice in (2, 3) for choice in choices) + round(sum(choices) / 100, 2)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """All cells in a random order."""
    found = [f"{a},{made_up(a.choices):.2f},{made_up(a.choices) - 1:.2f}" for a in SPACE.enumerate()]
    random.Random(0).shuffle(found)
    return found


def written(folder: Path, lines: list[str]) -> Path:
    path = folder / "cells.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("form", ["csv", "csv.xz"])
def test_scores_stand_in_the_order_of_the_enumeration(form: str, tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / f"cells.{form}"
    content = "\ufeff" * (form == "csv") + "\r\n".join([HEAD, *lines, ""])
    path.write_bytes(lzma.compress(content.encode()) if form == "csv.xz" else content.encode())
    table = read_cells(path)
    expected = np.array([made_up(a.choices) for a in SPACE.enumerate()])
    np.testing.assert_allclose(table.valid, expected / 100)
    np.testing.assert_allclose(table.test, (expected - 1) / 100)
    assert (table.name, table.space) == ("cifar10", SPACE)


def test_rows_are_the_order_of_the_enumeration() -> None:
    assert rows_of(SPACE, [a.choices for a in SPACE.enumerate()]).tolist() == list(range(5**6))


def test_data_sets_are_pairs_of_columns_in_any_order(tmp_path: Path, lines: list[str]) -> None:
    head = "cifar10_test,ImageNet16-120_valid,architecture,cifar10_valid,ImageNet16-120_test"
    swapped = [",".join((test, "1", cell, valid, "2")) for cell, valid, test in (x.split(",") for x in lines)]
    tables = read_tables(written(tmp_path, [head, *swapped]))
    assert list(tables) == ["cifar10", "ImageNet16-120"]
    assert (tables["cifar10"].valid > tables["cifar10"].test).all()
    assert (set(tables["ImageNet16-120"].valid), set(tables["ImageNet16-120"].test)) == ({0.01}, {0.02})
    with pytest.raises(DataError, match=r"no data set 'cifar100'; it has cifar10, ImageNet16-120$"):
        read_cells(tmp_path / "cells.csv", "cifar100")


@pytest.mark.parametrize(
    ("head", "rows", "says"),
    [
        (HEAD, ["x,1,2"], "line 2: 'x' is no cell of NAS-Bench-201"),
        (HEAD, [CONV.replace("3x3", "5x5") + ",1,2"], "line 2: .*nor_conv_5x5"),
        (HEAD, [f"{CONV},1,2", "", f"{CONV},1,2"], f"line 4: the cell {CONV} is in line 2 already"),
        (HEAD, [f"{CONV},high,2"], "line 2: cifar10_valid is 'high', no accuracy in percent"),
        (HEAD, [f"{CONV},1,nan"], "line 2: cifar10_test is 'nan', no accuracy in percent"),
        (HEAD, [f"{CONV},1,100.5"], "line 2: cifar10_test is '100.5'"),
        (HEAD, [f"{CONV},-1,1"], "line 2: cifar10_valid is '-1'"),
        (HEAD, [f"{CONV},1"], "line 2: 2 values for 3 columns"),
        (HEAD, [f'"{CONV},1,2'], "no CSV"),
        (HEAD, [f"{'9' * 200_000},1,2"], "line 2: no CSV"),
        (HEAD, [f"{CONV},1,2"], "has 1 of the 15,625 cells; .* for example, is missing"),
        (f"{HEAD},seed", [], "line 1: the column 'seed' is none of a table's; a table is a CSV file"),
        (f"{HEAD},cifar10_test", [], "line 1: the column 'cifar10_test' is there twice"),
        ("architecture,cifar10_valid", [], "line 1: the column cifar10_test is missing"),
        ("cifar10_valid,cifar10_test", [], "line 1: the column architecture is missing"),
        ("architecture", [], "line 1: the column cifar10_valid is missing"),
        ("", [], "line 1: the column architecture is missing; .* export from Dong and Yang's NAS-Bench-201"),
    ],
)
def test_a_file_that_is_no_table_is_refused(head: str, rows: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says.replace("|", r"\|").replace("+", r"\+")) as refused:
        read_cells(written(tmp_path, [head, *rows]))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        read_cells(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_cells(tmp_path)
    path, content = tmp_path / "cells.csv.xz", lzma.compress("\n".join([HEAD, *lines]).encode())
    for wrong, says in (
        (content[:-100], "cut off"),
        (content + content, "more than one file of xz"),
        (content[:1000] + bytes(100) + content[1100:], "damaged"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=says):
            read_cells(path)


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv.xz"
    path.write_bytes(lzma.compress(bytes(LARGEST + 1)))
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match="holds more than 16 MiB"):
        read_cells(path)
    path.write_bytes(b"," * (LARGEST + 1))
    with pytest.raises(DataError, match="holds more than 16 MiB"):
        read_cells(path)
    greedy = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**28}]
    path.write_bytes(lzma.compress(b"architecture", filters=greedy))
    with pytest.raises(DataError, match=r"Memory usage limit"):
        read_cells(path)


def test_the_command_searches_the_tables_of_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, lines: list[str]
) -> None:
    path = str(written(tmp_path, [HEAD, *lines]))
    few = ["--controllers", "independent-ranks", "--seeds", "2", "--evaluations", "100"]
    assert main(["benchmark", "nas-bench-201", "--file", path, *few]) == 0
    assert "cifar10  uniform" in capsys.readouterr().out
    for words, says in (
        (["nas-bench-201"], "nas-bench-201 does not come with enas; name a table by --file, a CSV file"),
        (["nas-bench-graph", "--file", path], "means nothing to nas-bench-graph"),
        (
            ["nas-bench-201", "--file", path, "--tables", "cifar1"],
            "no table 'cifar1'; did you mean 'cifar10'",
        ),
        (["nas-bench-201", "--file", path + "x"], "cannot be read (No such file"),
    ):
        assert main(["benchmark", *words]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert says in said[0]


# ---- searches that are judged by it -------------------------------------------------------------------------------------


def test_a_search_trains_its_cells_itself_and_is_judged_by_the_table(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verify = ("--verify.trainings", "5", "--verify.rounds", "1", "--verify.epochs", "1")
    config = tiny.image_config("nasbench201", *verify, "--derive.shortlist-order", "corrected")
    monkeypatch.setattr("enas.evidence.tables.score.recipe", lambda name: config)
    table, searches = written(tmp_path, [HEAD, *lines]), tmp_path / "searches"
    command = ["table", "score", "nas-bench-201", "--file", str(table), "--methods=default", "--seeds=1"]
    assert main([*command, "--run", str(searches), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["searches"]["default"][0]
    folder = searches / "default-seed0"
    assert len(list((folder / "verify").glob("*/result.json"))) == 5
    assert len(list((folder / "derive").glob("*/result.json"))) == config.derive.shortlist
    picked = SPACE.parse(record["picked"])
    assert Run.open(folder).architecture() == picked
    truth = {a: made_up(a.choices) for a in SPACE.enumerate()}
    assert record["valid"]["picked"] == pytest.approx(truth[picked] / 100)
    assert record["test"]["picked"] == pytest.approx((truth[picked] - 1) / 100)
    assert record["valid"]["picked_percentile"] == pytest.approx(
        percentile([truth[picked]], list(truth.values()))
    )
    assert -1 <= record["valid"]["corrected_kendall"] <= 1


def test_halving_is_given_the_seconds_of_the_search_or_left_out(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the search of a seed diverged, there are no seconds to compare at."""
    given: list[float] = []
    halving = score.score_halving

    def noted(*arguments: Any) -> dict[str, Any]:
        given.append(arguments[3])
        return halving(*arguments[:3], 0.0, *arguments[4:])  # of which one training is done

    def diverging(run: Run, stop: StopRequest) -> None:
        if run.config.seed == 1:
            raise NotFiniteError("the loss is nan")
        search(run, stop)

    monkeypatch.setattr(score, "score_halving", noted)
    monkeypatch.setattr(score, "search", diverging)
    monkeypatch.setattr(score, "recipe", lambda name: tiny.image_config("nasbench201"))
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())
    table = written(tmp_path, [HEAD, *lines])
    command = ["table", "score", "nas-bench-201", "--file", str(table), "--methods=default,asha", "--seeds=2"]
    assert main([*command, "--run", str(tmp_path / "searches"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ours, halved = found["searches"]["default"], found["searches"]["asha"]
    assert given == [ours[0]["seconds"]]
    picked = SPACE.parse(halved[0]["picked"])
    assert halved[0]["valid"]["picked"] == pytest.approx(made_up(picked.choices) / 100)
    assert halved[0]["trained"] == 1
    assert ours[1] == {"diverged": "the loss is nan"}
    assert halved[1] == {"diverged": "default of this seed, whose seconds it would be given"}
    assert not (tmp_path / "searches" / "asha-seed1").exists()
    assert {name: said["diverged"] for name, said in found["methods"].items()} == {"default": 1, "asha": 1}


def test_a_search_on_it_needs_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["table", "score", "nas-bench-201", "--run", str(tmp_path / "x")]) == 2
    assert "nas-bench-201 needs --file TABLE: a CSV file" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
