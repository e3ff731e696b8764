"""Searches scored against a table: what the numbers mean, that no training is done, and that none is searched twice."""

import functools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from enas import cli
from enas.controllers import LSTMConfig, UniformConfig, build_controller
from enas.derive import candidates
from enas.errors import ConfigError, DataError, NotFiniteError, RunFolderError
from enas.evidence.tables import score as scoring
from enas.evidence.tables.minispaces import MINI_SPACES, MiniSpace
from enas.evidence.tables.named_settings import named_settings, pieces
from enas.evidence.tables.score import (
    SAMPLES,
    ScoreOptions,
    Truth,
    describe,
    score_methods,
    score_of,
    score_search,
    summarise,
    tau,
)
from enas.evidence.tables.table import SPLITS, Row, Table, recipe_hash
from enas.recipes import named_controllers, recipe
from enas.runtime.environment import environment
from enas.runtime.seeding import generator
from enas.runtime.stop import EXIT_STOPPED, Stopped, StopRequest
from enas.settings import config_from_json, config_to_json
from enas.stages import Run, logged_effects
from enas.verification import Train
from tests import tiny


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> MiniSpace:
    text = tiny.write_text(tmp_path_factory.mktemp("data") / "text")
    config = tiny.config(text, "--space.nodes", "2")
    return MiniSpace("toy", lambda: config, 6)


@pytest.fixture(scope="module")
def table(toy: MiniSpace) -> Table:
    """A made-up truth about the 16 cells of the space."""
    rng = np.random.default_rng(0)
    rows = [
        Row(a.choices, 0, value, math.log(value), value + rng.uniform(), 1, 1.0)
        for a, value in zip(toy.order(), rng.uniform(5, 20, 16), strict=True)
    ]
    return Table("toy", toy.config(), toy.config().load().hash, environment(), tuple(rows))


@pytest.fixture
def known(toy: MiniSpace, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the table, of a mini-space that the commands know."""
    monkeypatch.setitem(MINI_SPACES, "toy", toy)
    table.write(tmp_path / "table.jsonl")
    return tmp_path / "table.jsonl"


def test_a_score_is_what_the_table_says_of_policy_pick_and_shared_weights(
    toy: MiniSpace, table: Table, tmp_path: Path
) -> None:
    record = score_search(toy.config(), Truth.of(table), tmp_path / "run", StopRequest())
    run = Run.open(tmp_path / "run")
    assert not list((tmp_path / "run").glob("*/*/result.json"))  # nothing was trained
    weights, controller = run.searched()
    drawn = controller.propose(SAMPLES, generator(run.config.seed, "score")).architectures(weights.space)
    everything = list(toy.order())
    shared = weights.scores(everything)
    asked, effects = run.config.derive, logged_effects(run)
    assert (asked.rule, asked.shortlist_order, asked.ridge_candidate) == ("shortlist", "drawn", True)
    shortlist = candidates(weights, controller, asked, run.config.seed, effects=effects)[: asked.shortlist]
    best = max((one.architecture for one in shortlist), key=lambda a: table.truth("valid")[a])
    assert record["picked"] == str(best)
    for split in SPLITS:
        truth = table.truth(split)
        places = scipy.stats.rankdata(list(truth.values()))
        share = dict(zip(truth, (places - 0.5) / len(places), strict=True))
        said = record[split]
        assert said["samples_percentile"] == pytest.approx(np.mean([share[a] for a in drawn]))
        assert said["picked_percentile"] == pytest.approx(share[best])
        assert said["shared_weights_kendall"] == pytest.approx(
            scipy.stats.kendalltau(shared, [truth[a] for a in everything]).statistic
        )
        assert said["picked_random_equivalents"] >= 1


def test_a_finished_search_is_not_repeated(
    toy: MiniSpace, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score_search(toy.config(), Truth.of(table), tmp_path / "run", StopRequest())

    def forbidden(*_: Any) -> None:
        raise AssertionError("searched twice")

    monkeypatch.setattr(scoring, "search", forbidden)
    assert score_search(toy.config(), Truth.of(table), tmp_path / "run", StopRequest()) == first


def test_a_stopped_search_goes_on_and_scores_the_same(toy: MiniSpace, table: Table, tmp_path: Path) -> None:
    stop = StopRequest()
    stop.request("SIGTERM")
    with pytest.raises(Stopped):
        score_search(toy.config(), Truth.of(table), tmp_path / "stopped", stop)
    records = [
        score_search(toy.config(), Truth.of(table), tmp_path / name, StopRequest())
        for name in ("stopped", "whole")
    ]
    assert records[0] | {"seconds": 0} == records[1] | {"seconds": 0}


def test_a_table_of_other_trainings_or_data_is_refused(toy: MiniSpace, table: Table, tmp_path: Path) -> None:
    config: Any = toy.config()
    other = replace(config, precision="bf16", allow_slow=True)
    with pytest.raises(DataError, match="other settings"):
        score_search(other, Truth.of(table), tmp_path / "a", StopRequest())
    with pytest.raises(DataError, match="other data"):
        score_search(config, Truth.of(replace(table, data_hash="0" * 12)), tmp_path / "b", StopRequest())
    with pytest.raises(DataError, match="lacks architectures"):
        Truth.of(replace(table, rows=table.rows[:9]))
    score_search(config, Truth.of(table), tmp_path / "d", StopRequest())
    (tmp_path / "d" / "score.json").unlink()
    with pytest.raises(RunFolderError, match="other settings"):
        score_search(
            replace(config, controller=UniformConfig()), Truth.of(table), tmp_path / "d", StopRequest()
        )


def test_samples_of_a_uniform_policy_are_at_one_half_on_average(
    toy: MiniSpace, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(toy.config(), controller=UniformConfig())
    score_search(config, Truth.of(table), tmp_path / "run", StopRequest())
    found = []
    for seed in range(10):
        run = Run.open(tmp_path / "run")
        draw = functools.partial(generator, seed)  # other samples of the same policy
        monkeypatch.setattr("enas.evidence.tables.score.generator", lambda _, *use, draw=draw: draw(*use))
        found.append(score_of(run, Truth.of(table))["test"]["samples_percentile"])
    # A mean of 10 · 16 draws with standard deviation 0.29: within 4.5 standard errors.
    assert np.mean(found) == pytest.approx(0.5, abs=0.103)


def test_methods_are_compared_in_pairs_of_equal_seeds() -> None:
    def record(percentile: float, picked: float, equivalents: float) -> dict[str, Any]:
        one = {
            "samples_percentile": percentile,
            "picked_percentile": picked,
            "picked_random_equivalents": equivalents,
            "shared_weights_kendall": None,
            "corrected_kendall": None,
            "corrected_kendall_of_top": None,
        }
        return {"valid": one, "test": one, "seconds": 2.0}

    ours = [record(0.8 + 0.01 * seed, 0.7, float(k)) for seed, k in enumerate([4, 8, math.inf, 6])]
    theirs = [record(0.5 + 0.01 * seed, 0.6 + 0.1 * seed, 1.0) for seed in range(4)]
    said = summarise({"a": ours, "b": theirs})
    test = said["methods"]["a"]["test"]
    assert test["samples_percentile"]["value"] == pytest.approx(0.815)
    assert 0.8 <= test["samples_percentile"]["low"] < 0.815 < test["samples_percentile"]["high"] < 0.831
    # The median, as one is infinite; four are too few for an interval of it.
    assert test["picked_random_equivalents"] == {"value": 7, "low": None, "high": None, "level": None, "n": 4}
    assert said["methods"]["a"]["test"]["shared_weights_kendall"] is None
    against = said["against"]["b"]
    assert against["samples_percentile"]["difference"]["value"] == pytest.approx(0.3)
    assert against["samples_percentile"]["probability_better"]["value"] == 1
    assert against["picked_percentile"]["difference"]["value"] == pytest.approx(-0.05)
    assert against["picked_percentile"]["probability_better"]["value"] == (1 + 0.5 + 0 + 0) / 4
    assert summarise({"a": ours[:1], "b": theirs[:1]})["against"] == {}


def test_command_searches_every_method_and_seed_and_resumes(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["table", "score", "toy", "--methods=independent,uniform", "--seeds=2", "--first-seed=3"]
    argv += [f"--file={known}", "--run", str(tmp_path / "searches")]
    searched: list[str] = []
    search = scoring.search

    def stopping(run: Run, stop: StopRequest, train: Train) -> None:
        searched.append(run.folder.name)
        if len(searched) == 3:
            stop.request("SIGTERM")
        search(run, stop, train)

    monkeypatch.setattr(scoring, "search", stopping)
    assert cli.main(argv) == EXIT_STOPPED
    again = [word for word in argv if not word.startswith("--methods")]  # which are the usual ones
    assert f"Continue with: enas {' '.join(again)}" in capsys.readouterr().err
    assert cli.main(argv) == 0
    assert searched == [
        "independent-seed3",
        "uniform-seed3",
        "independent-seed4",
        "independent-seed4",
        "uniform-seed4",
    ]
    said = capsys.readouterr().out
    assert "samples of independent against uniform: P(better)" in said
    assert "picks of independent against uniform: P(better)" in said
    assert cli.main([*argv, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["methods"]["uniform"]["seeds"] == 2
    assert len(searched) == 5


@pytest.mark.parametrize("space", list(MINI_SPACES))
def test_every_name_is_a_search_whose_trainings_the_table_has(space: str) -> None:
    config = MINI_SPACES[space].config()
    assert named_settings(config, "default") == config
    for name, change in pieces(config).items():
        if name == "baseline-leave-one-out" and config.search.proposals == 1:
            continue
        changed = change(config)
        assert recipe_hash(changed) == recipe_hash(config), name
        assert config_from_json(json.loads(json.dumps(config_to_json(changed)))) == changed
        build_controller(changed.controller, changed.searched_space(), 0)


@pytest.mark.parametrize("name", ["paper", "authors"])
@pytest.mark.parametrize(
    ("space", "kind"), [("recurrent", "recurrent"), ("convolutional", "macro"), ("cells", "micro")]
)
def test_search_of_a_recipe_has_its_rhythm_and_the_mini_spaces_budget(
    space: str, kind: str, name: str
) -> None:
    config, source = MINI_SPACES[space].config(), recipe(f"{kind}-{name}")
    changed = named_settings(config, name)
    assert changed.controller == source.controller
    search, own = changed.search, config.search
    assert (search.warmup, search.explore, search.same_minibatch) == (
        source.search.warmup,
        source.search.explore,
        source.search.same_minibatch,
    )
    budget = own.updates * own.proposals * (own.epochs - own.warmup_epochs)
    assert search.epochs == own.epochs
    assert search.updates * search.proposals * (search.epochs - search.warmup_epochs) == budget
    assert search.proposals <= source.search.proposals
    made: list[Any] = [changed, source, config]
    rewards = [one.shared.reward for one in made]
    assert rewards[0].statistics == rewards[1].statistics
    assert rewards[0].batch == rewards[2].batch
    assert (changed.derive, changed.retrain) == (config.derive, config.retrain)


def test_names_are_joined_from_left_to_right(toy: MiniSpace) -> None:
    config = toy.config()
    changed = named_settings(config, "lstm+no-warmup+search.updates=7+controller.hidden=12+derive.rule=mode")
    lstm = named_controllers(config.searched_space().name)["lstm"]
    assert isinstance(lstm, LSTMConfig)
    assert changed == replace(
        config,
        controller=replace(lstm, hidden=12),
        search=replace(config.search, warmup=0.0, updates=7),
        derive=replace(config.derive, rule="mode"),
    )
    assert named_settings(config, "search.updates=7+search.updates=8").search.updates == 8


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lstm+no-warmupp", "did you mean 'no-warmup'"),
        ("search.update=3", "there is no setting 'search.update'"),
        ("search=3", "search=3: search must be a SearchConfig, not 3"),
        ("a.b.c=3", "there is no setting 'a.b.c'"),
        ("search.updates=many", "search.updates=many: updates must be a whole number, not 'many'"),
        ("search.warmup=2", "search.warmup=2: warmup must be at most 1, not 2"),
        ("", "--methods are some of default, independent"),
        ("search.updates=" + "1" * 5000, "updates must be a whole number, not '111"),
        ("search.updates=" + "[" * 100_000, "updates must be a whole number, not '[[["),
    ],
)
def test_a_name_that_is_none_is_refused(toy: MiniSpace, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        named_settings(toy.config(), name)


def test_settings_of_all_names_are_scored_in_one_command(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["default", "paper", "lstm+no-warmup+search.updates=2"]
    argv = ["table", "score", "toy", f"--methods={','.join(names)}", "--seeds=2", f"--file={known}"]
    assert cli.main([*argv, "--run", str(tmp_path / "searches")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said[1:4]] == [[name, "2"] for name in names]
    assert "samples of default against paper: P(better)" in said[4]
    for name in names:
        run = Run.open(tmp_path / "searches" / f"{name}-seed1")
        assert run.config == replace(named_settings(MINI_SPACES["toy"].config(), name), seed=1)


@pytest.mark.parametrize("method", ["+".join(["search.updates=2"] * 13), "data.source=../../../outside"])
def test_a_method_that_no_folder_in_the_run_can_be_called_is_refused(
    known: Path, tmp_path: Path, method: str
) -> None:
    with pytest.raises(ConfigError, match="--methods: a folder cannot be called"):
        score_methods("toy", ScoreOptions(tmp_path / "x", methods=method, file=known))
    assert not (tmp_path / "x").exists()


def test_unknown_method_suggests_the_nearest(known: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'uniform'"):
        score_methods("toy", ScoreOptions(tmp_path / "x", methods="unifrom", file=known))


def test_a_search_that_diverges_is_counted_and_not_repeated(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []
    search = scoring.search

    def diverging(run: Run, stop: StopRequest, train: Train) -> None:
        begun.append(run.folder.name)
        if run.folder.name in ("default-seed1", "uniform-seed3"):
            raise NotFiniteError("the loss is nan")
        search(run, stop, train)

    monkeypatch.setattr(scoring, "search", diverging)
    options = ScoreOptions(tmp_path / "x", methods="default,uniform", seeds=4, file=known)
    record = score_methods("toy", options)
    assert [said["diverged"] for said in record["methods"].values()] == [1, 1]
    assert record["against"]["uniform"]["samples_percentile"]["probability_better"]["n"] == 2
    assert "1 diverged, left out" in describe(record)
    assert score_methods("toy", options) == record
    assert len(begun) == 8
    lost = {"diverged": "the loss is nan"}
    with pytest.raises(DataError, match="all searches of a diverged: the loss is nan"):
        summarise({"a": [lost, lost], "b": [lost, lost]})


def test_score_of_a_run_can_be_taken_again(toy: MiniSpace, table: Table, tmp_path: Path) -> None:
    record = score_search(toy.config(), Truth.of(table), tmp_path / "run", StopRequest())
    assert {**score_of(Run.open(tmp_path / "run"), Truth.of(table)), "seconds": record["seconds"]} == record


def test_architectures_whose_shared_score_is_no_number_count_as_the_worst() -> None:
    truth = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    finite = np.array([-7.0, -9.0, 2.0, 1.0, 3.0])
    broken = np.array([np.nan, np.nan, 2.0, 1.0, 3.0])
    assert tau(finite, truth) == scipy.stats.kendalltau(finite, truth).statistic
    assert tau(broken, truth) == scipy.stats.kendalltau([0.0, 0.0, 2.0, 1.0, 3.0], truth).statistic
    assert tau(np.array([np.nan, -np.inf, 2.0, 1.0, 3.0]), truth) == tau(broken, truth)
    assert tau(np.full(5, np.nan), truth) is None
