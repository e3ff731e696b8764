"""Tables of trainings: what is in them, in which order, that they rebuild bit for bit, and what their numbers mean."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from enas import cli
from enas.errors import ConfigError, DataError, RunFolderError
from enas.evidence.runs import run_in
from enas.evidence.tables.minispaces import (
    MINI_SPACES,
    BuildOptions,
    MiniSpace,
    build,
    mini_space,
    table_for,
    table_of,
)
from enas.evidence.tables.table import SPLITS, Row, Table, ceiling, figures, read_table, recipe_hash
from enas.executors.local import LocalExecutor
from enas.phases import SearchConfig
from enas.recipes.mini import cells, convolutional, recurrent
from enas.retrain import Network
from enas.runs.images import ImageRunConfig
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.environment import environment
from enas.runtime.stop import EXIT_STOPPED, StopRequest
from enas.stages import Run
from enas.trainings import Job
from tests import tiny
from tests.test_trainings import InThisProcess

SPACES = sorted(MINI_SPACES)
SAME_BITS = ("torch", "numpy", "numba", "cpu", "cpu_capability")
"""What of an environment must agree for a training to come out the same bit for bit."""


def train_row(run: Run, network: Network) -> Row:
    """One row of a table, trained in this process in the run's folder."""
    result = Job(run.folder, "table", network, test=True).perform(run, StopRequest(), lambda training: None)
    assert network.architecture is not None
    return Row.of(network.architecture.choices, run.config.metric.name, result)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> MiniSpace:
    text = tiny.write_text(tmp_path_factory.mktemp("data") / "text")
    config = tiny.config(text, "--space.nodes", "1", "--retrain.child.training.sgd.learning-rate", "1.0")
    return MiniSpace("toy", lambda: config, 2)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())


# ---- the mini-spaces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"), [("recurrent", 4**3 * 2), ("convolutional", 3**3 * 2**3), ("cells", (2 * 5) ** 2)]
)
def test_a_plan_has_every_architecture_once_and_a_third_again(name: str, count: int) -> None:
    space = MINI_SPACES[name]
    plan = space.plan()
    everything = set(space.config().searched_space().enumerate())
    first, *again = ([n.architecture for n in plan if n.seed == seed] for seed in range(space.seeds))
    assert len(everything) == len(first) == count
    assert set(first) == everything
    assert again == [first[: space.repeated]] * (space.seeds - 1)
    assert len(plan) == sum(map(len, [first, *again]))
    assert space.repeated >= count / 3
    assert space.seeds >= 2
    assert plan == space.plan()
    assert [n.seed for n in plan] == sorted(
        n.seed for n in plan
    )  # any first rows have as many architectures as can be
    assert first != list(space.config().searched_space().enumerate())


@pytest.mark.parametrize("name", SPACES)
def test_a_training_of_a_plan_validates_and_is_no_other_mini_spaces(name: str) -> None:
    config = MINI_SPACES[name].config()
    assert config.threads == 1  # so that tables do not depend on the machine's number of cores
    if isinstance(config, ImageRunConfig):
        assert config.retrain.child.train_on == "train"
    others = [MINI_SPACES[other].config() for other in SPACES if other != name]
    assert recipe_hash(config) not in {recipe_hash(other) for other in others}


def test_unknown_mini_space_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'recurrent'"):
        mini_space("recurent")


@pytest.mark.parametrize("make", [recurrent, convolutional, cells])
def test_hash_is_of_what_a_training_depends_on_only(make: Callable[[], Any]) -> None:
    config: Any = make()
    searched_otherwise = replace(config, search=SearchConfig(epochs=3), seed=5, threads=2)
    assert recipe_hash(searched_otherwise) == recipe_hash(config)
    child = replace(config.retrain.child, epochs=3)
    assert recipe_hash(replace(config, retrain=replace(config.retrain, child=child))) != recipe_hash(config)
    assert recipe_hash(replace(config, precision="bf16")) != recipe_hash(config)


def test_sharing_of_weights_leaves_trainings_as_they_are() -> None:
    config = recurrent()
    assert recipe_hash(replace(config, cell=replace(config.cell, sharing="function-source"))) == recipe_hash(
        config
    )
    assert recipe_hash(replace(config, cell=replace(config.cell, output="all"))) != recipe_hash(config)


# ---- building ----------------------------------------------------------------------------------------------------------


def rows_without_seconds(table: Table) -> list[Any]:
    return [replace(row, seconds=None) for row in table.rows]


@pytest.mark.usefixtures("in_this_process")
def test_a_table_grows_row_by_row_and_repeats_none(
    toy: MiniSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = build(toy, BuildOptions(tmp_path / "a", first=2))
    assert len(begun.rows) == 2
    trained: list[str] = []
    train = Run.train

    def counted(self: Run, network: Any, *more: Any) -> Any:
        trained.append(network.id)
        return train(self, network, *more)

    monkeypatch.setattr(Run, "train", counted)
    whole = build(toy, BuildOptions(tmp_path / "a"))
    assert len(trained) == len(set(trained)) == 4
    assert [(whole.architecture(r), r.seed) for r in whole.rows] == [
        (n.architecture, n.seed) for n in toy.plan()
    ]
    assert whole.rows[:2] == begun.rows  # seconds too
    assert whole.complete
    assert not begun.complete
    assert read_table(tmp_path / "a" / "table.jsonl", toy.config()) == whole
    assert build(toy, BuildOptions(tmp_path / "a", first=1)) == whole
    again = build(toy, BuildOptions(tmp_path / "b", first=3))
    assert rows_without_seconds(again) == rows_without_seconds(whole)[:3]


def test_rows_stand_in_the_order_of_the_plan_whichever_training_ends_first(
    toy: MiniSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backwards(InThisProcess):
        def run(self, jobs: Sequence[Job], *others: Any) -> Iterator[Any]:
            return super().run(jobs[::-1], *others)

    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: Backwards())
    table = build(toy, BuildOptions(tmp_path, first=3))
    assert [table.architecture(row) for row in table.rows] == toy.order()[:3]


@pytest.mark.slow
def test_a_build_in_processes_equals_one_in_this_process(toy: MiniSpace, tmp_path: Path) -> None:
    table = build(toy, BuildOptions(tmp_path / "table", first=3, workers=2))
    alone = Run.create(tmp_path / "alone", toy.config(), ("retrain",))
    rows = [train_row(alone, network) for network in toy.plan()[:3]]
    assert rows_without_seconds(table) == [replace(row, seconds=None) for row in rows]
    assert all(row.test is not None and row.test > 1 for row in table.rows)
    assert table.environment["threads"] == 1


@pytest.mark.parametrize("name", SPACES)
def test_first_row_of_a_mini_space_is_the_same_in_every_build(name: str, tmp_path: Path) -> None:
    space = MINI_SPACES[name]
    config: Any = space.config()  # one epoch of it
    child = replace(config.retrain.child, epochs=1)
    short: Any = replace(config, retrain=replace(config.retrain, child=child))
    if isinstance(short, RecurrentConfig):  # and a part of the text
        data = replace(short.data, max_train_tokens=5_000, max_valid_tokens=2_000, max_test_tokens=2_000)
        short = replace(short, data=data)
    runs = [Run.create(tmp_path / folder, short, ("retrain",)) for folder in "ab"]
    first, second = (train_row(run, space.plan()[0]) for run in runs)
    assert replace(first, seconds=None) == replace(second, seconds=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_first_row_of_the_shipped_table_is_what_training_gives_here(name: str, tmp_path: Path) -> None:
    space = MINI_SPACES[name]
    table, run = table_of(name), Run.create(tmp_path / "run", space.config(), ("retrain",))
    data_hash = run.data.hash
    if data_hash != table.data_hash:
        pytest.skip("the table was made with other data, as the text of another version of Python")
    row = train_row(run, space.plan()[0])
    if all(environment()[key] == table.environment.get(key) for key in SAME_BITS):
        assert replace(row, seconds=None) == replace(table.rows[0], seconds=None)
        return
    # Elsewhere sums round differently, which training amplifies to about what another seed does.
    for split in SPLITS:
        between_seeds = ceiling(table, split)
        assert between_seeds is not None
        difference = abs(table.score(row, split) - table.score(table.rows[0], split))
        assert difference < 6 * between_seeds["spread_of_seeds"]


@pytest.mark.parametrize("name", SPACES)
def test_shipped_tables_are_of_their_mini_space(name: str) -> None:
    space = MINI_SPACES[name]
    table = table_of(name)
    assert recipe_hash(table.config) == recipe_hash(space.config())
    assert [(table.architecture(r), r.seed) for r in table.rows] == [
        (n.architecture, n.seed) for n in space.plan()
    ]
    assert table.complete
    assert table_for(space.config(), table.data_hash) == table


def test_a_row_has_the_seconds_of_work(toy: MiniSpace) -> None:
    scores = {"seed": 0, "valid_ppl": 9.0, "valid_loss": 2.2, "test": {"test_ppl": 9.5}, "best_epoch": 1}
    row = Row.of((0,), "ppl", {**scores, "seconds": 5.0, "work": 2.0})
    assert row.seconds == 2.0  # beside others on the same cores it took longer by the clock


def test_a_setting_that_a_run_has_measured_is_no_other_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = MINI_SPACES["cells"].config()
    measured = replace(config, channels_last=True)
    monkeypatch.setattr(type(config), "settled", lambda self: measured)  # as on a GPU
    for _ in range(2):
        assert run_in(tmp_path, config, ("retrain",)).config == measured
    with pytest.raises(RunFolderError, match="holds a run of other settings"):
        run_in(tmp_path, replace(config, channels_last=False), ("retrain",))


@pytest.mark.usefixtures("in_this_process")
def test_another_tables_folder_is_refused(toy: MiniSpace, tmp_path: Path) -> None:
    build(toy, BuildOptions(tmp_path, first=1))
    other = MiniSpace("toy", lambda: replace(toy.config(), precision="bf16"), 2)
    with pytest.raises(RunFolderError, match="other settings"):
        build(other, BuildOptions(tmp_path, first=1))


# ---- the file ----------------------------------------------------------------------------------------------------------


def made(toy: MiniSpace, values: Sequence[float | None], again: Sequence[float] = ()) -> Table:
    """A table with these perplexities."""
    order = toy.order()
    rows = [
        Row(a.choices, 0, None, None, None, None, None, "nan")
        if value is None
        else Row(a.choices, 0, value, math.log(value), value + 1, 1, 2.0)
        for a, value in zip(order, values, strict=False)
    ]
    rows += [
        Row(a.choices, 1, value, math.log(value), value + 1, 1, 2.0)
        for a, value in zip(order, again, strict=False)
    ]
    return Table("toy", toy.config(), "abc", environment(), tuple(rows))


def test_a_table_survives_its_file(toy: MiniSpace, tmp_path: Path) -> None:
    table = made(toy, [9.5, None, 11.25, 10.0], [9.0, 12.0])
    table.write(tmp_path / "t.jsonl")
    assert read_table(tmp_path / "t.jsonl", toy.config()) == table


def edited(lines: list[str], number: int, **changes: Any) -> list[str]:
    record = json.loads(lines[number - 1])
    for key, value in changes.items():
        record.pop(key) if value is None else record.update({key: value})
    return [*lines[: number - 1], json.dumps(record), *lines[number:]]


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (3, {"choices": [9]}, "line 3: no row of the table .*choice 9 is not in 0..3"),
        (3, {"choices": [0, 0]}, "line 3: no row"),
        (3, {"valid": None}, "line 3: no row of the table .*valid"),
        (
            3,
            {"test": "good"},
            "line 3: no row of the table .*test must be a number or None, not .good.",
        ),
        (1, {"data_hash": None}, "line 1: no head of a table, it lacks data_hash"),
        (1, {"recipe_hash": "0" * 12}, "is of trainings with other settings than this version"),
        (1, {"environment": []}, "line 1: no head of a table .environment must be an object, not "),
        (3, {"valid": 0.5}, "line 3: no row of the table .a number of it is null or impossible"),
        (3, {"test": -2.0}, "line 3: no row of the table .a number of it is null or impossible"),
        (3, {"seconds": 1e300}, "line 3: no row of the table .a number of it is null or impossible"),
    ],
)
def test_a_wrong_line_is_named(
    toy: MiniSpace, tmp_path: Path, number: int, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    made(toy, [9.5, 12.0, 11.0, 10.0]).write(path)
    path.write_text("\n".join(edited(path.read_text().splitlines(), number, **changes)) + "\n")
    with pytest.raises(DataError, match=message):
        read_table(path, toy.config())


def test_a_row_that_stands_there_twice_is_refused(toy: MiniSpace, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    made(toy, [9.5, 12.0]).write(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(DataError, match=r"line 4: .* with seed 0 is there already"):
        read_table(path, toy.config())


# ---- what it says ------------------------------------------------------------------------------------------------------


def test_scores_are_higher_where_better_and_last_where_diverged(toy: MiniSpace) -> None:
    table = made(toy, [9.5, None, 11.25, 10.0], [9.0])
    order = toy.order()
    scores = table.scores(0)
    assert [order.index(a) for a in sorted(scores, key=scores.__getitem__)] == [1, 2, 3, 0]
    assert scores[order[3]] == -math.log(10.0)
    assert all(math.isfinite(score) for score in scores.values())
    assert table.scores(0, "test")[order[3]] == -math.log(11.0)
    assert table.truth()[order[0]] == -(math.log(9.5) + math.log(9.0)) / 2
    assert table.truth()[order[3]] == scores[order[3]]


def test_ceiling_is_that_of_scipy_and_spreads_are_recovered() -> None:
    rng = np.random.default_rng(0)
    space = MINI_SPACES["recurrent"]
    order, config = space.order(), space.config()
    true_N = 5 + 0.3 * rng.standard_normal(len(order))
    rows = [
        Row(a.choices, seed, math.exp(loss), loss, math.exp(loss), 1, 1.0)
        for seed in (0, 1)
        for a, loss in zip(order, true_N + 0.1 * rng.standard_normal(len(order)), strict=True)
    ]
    table = Table("recurrent", config, "abc", {}, tuple(rows))
    found = ceiling(table, "valid")
    assert found is not None
    first, second = table.pairs()
    assert found["kendall"]["value"] == pytest.approx(scipy.stats.kendalltau(first, second).statistic)
    assert found["spread_of_architectures"] == pytest.approx(0.3, rel=0.2)
    assert found["spread_of_seeds"] == pytest.approx(0.1, rel=0.2)
    said = figures(table)
    assert said["architectures"] == said["space"] == 128
    assert said["best"] == str(max(order, key=lambda a: table.scores(0)[a]))


def test_a_table_without_second_seeds_has_no_ceiling(toy: MiniSpace) -> None:
    assert ceiling(made(toy, [9.5, 10.0, 11.0, 12.0]), "valid") is None
    assert ceiling(made(toy, [9.5, 10.0, 11.0, 12.0], [9.0, 10.0]), "valid") is None


def test_a_table_fits_runs_of_its_trainings_on_its_data(toy: MiniSpace) -> None:
    table = made(toy, [9.5])
    assert table.fits(replace(toy.config(), seed=3), "abc")
    assert not table.fits(toy.config(), "abd")
    assert not table.fits(recurrent(), "abc")


# ---- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy_is_known(toy: MiniSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MINI_SPACES, "toy", toy)


@pytest.mark.usefixtures("in_this_process", "toy_is_known")
def test_commands_build_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", "build", "toy", "--run", str(tmp_path)]) == 0
    built = capsys.readouterr().out
    assert "table toy: 4 of 4 architectures, 6 trainings" in built
    assert cli.main(["table", "show", "toy", "--file", str(tmp_path / "table.jsonl")]) == 0
    assert capsys.readouterr().out == built
    assert cli.main(["table", "show", "toy", "--file", str(tmp_path / "table.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6


@pytest.mark.usefixtures("toy_is_known")
def test_a_stopped_build_ends_with_its_code_and_goes_on_with_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopping(InThisProcess):
        def run(self, jobs: Any, stop: Any, on_step: Any) -> Iterator[Any]:
            for number, outcome in enumerate(super().run(jobs, stop, on_step)):
                if number == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield outcome

    command = ["table", "build", "toy", "--first=4", "--run", str(tmp_path)]
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: Stopping())
    assert cli.main(command) == EXIT_STOPPED
    assert f"Continue with: enas {' '.join(command)}" in capsys.readouterr().err
    assert len(list(tmp_path.glob("table/*/result.json"))) == 2
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())
    assert cli.main(command) == 0
    assert len(table_of("toy", tmp_path / "table.jsonl").rows) == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table"], "name a task: show, build, score"),
        (["table", "build", "recurrent"], "--run"),
        (["table", "build", "nowhere", "--run", "x"], "no mini-space 'nowhere'"),
        (["table", "build", "recurrent", "--run", "x", "--first", "0"], "--first must be at least 1"),
        (["table", "show", "recurrent", "--frist", "1"], "no flag --frist"),
        (["table", "build", "recurrent", "--run", __file__], "cannot make the folder"),
        (["table", "build", "recurrent", "--run", "x" * 300], "cannot make the folder"),
        (["table", "score", "recurrent", "--run", __file__], "cannot make the folder"),
        (["ablate", "recurrent-quick", "--variant", "random", "--run", __file__], "cannot make the folder"),
    ],
)
def test_wrong_commands_say_what_is_wrong(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == cli.EXIT_USAGE
    assert message in capsys.readouterr().err


def test_local_processes_take_the_threads_of_the_recipe() -> None:
    executor = LocalExecutor.for_run(recurrent())
    assert executor.threads == 1
    assert executor.at_once >= 1
