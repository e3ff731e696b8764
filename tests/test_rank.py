"""Ranking a search's shared weights: whole-split scores, numbers, warnings, picture, and that no training is repeated."""

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from enas import cli
from enas.architecture import Architecture
from enas.config import RunConfig
from enas.errors import ConfigError, RunFolderError
from enas.evidence import rank as ranking
from enas.evidence.pictures import axis, scatter_svg
from enas.evidence.rank import RankConfig, Truth, compare, picture, rank
from enas.evidence.runs import command_line
from enas.evidence.tables.table import Row, Table
from enas.executors.local import LocalExecutor
from enas.retrain import random_architectures
from enas.runs.images import ImageRunConfig, MacroConfig
from enas.runtime.files import read_json
from enas.runtime.seeding import derive_seed
from enas.shared_weights import SharedWeights
from enas.spaces.macro.net import MacroChild, MacroSupernet
from enas.spaces.macro.space import MacroSpace
from enas.spaces.recurrent.net import ChildCell, SupernetCell
from enas.spaces.recurrent.space import RecurrentSpace
from enas.stages import Run, execute
from enas.tasks.image_data import EvaluationImages
from enas.tasks.language import evaluate
from enas.tasks.language_model import LanguageModel
from tests import tiny
from tests.test_trainings import Forbidden, InThisProcess


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("data") / "text")


@pytest.fixture(scope="module", params=["recurrent", "macro"])
def searched(request: pytest.FixtureRequest, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search; not to be changed but by rankings."""
    config: RunConfig = tiny.config(text)
    if request.param == "macro":
        images = tiny.image_config("macro")
        assert isinstance(images, MacroConfig)
        config = replace(images, space=MacroSpace(3, ("conv3x3", "avg3x3")))
    folder = tmp_path_factory.mktemp("runs") / request.param
    execute(Run.create(folder, config, ("search",)), ("search",))
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())


# ---- shared scores -----------------------------------------------------------------------------------------------------


def test_shared_score_of_a_cell_is_the_loss_of_its_child_with_the_shared_weights(text: Path) -> None:
    config = tiny.config(text, "--cell.norm", "none")
    weights = config.shared_weights()
    shared = weights.trainer.model
    assert isinstance(shared, LanguageModel)
    supernet = shared.cell
    assert isinstance(supernet, SupernetCell)
    architectures = random_architectures(weights.space, 4, 0, set())
    for architecture, score in zip(architectures, weights.scores(architectures), strict=True):
        child = ChildCell(architecture, config.shared.hidden, config.cell, 0.1, torch.Generator())
        child.load_slice(supernet)
        model = LanguageModel(child, shared.vocabulary, 0.1, torch.Generator())
        model.load_state_dict({**model.state_dict(), "embedding.weight": shared.embedding.weight})
        reward = config.shared.reward
        assert -score == evaluate(model, config.corpus.valid, reward.batch, reward.bptt)


def test_shared_score_of_a_network_is_the_accuracy_of_its_child_with_the_shared_weights() -> None:
    config = tiny.image_config("macro", "--shared.reward.statistics", "moving")
    assert isinstance(config, MacroConfig)
    weights = config.shared_weights()
    supernet = weights.trainer.model
    assert isinstance(supernet, MacroSupernet)
    for step in range(4):  # so that moving averages are those of something
        weights.train_step(0, step, random_architectures(weights.space, 1, step, set()))
    images = EvaluationImages(config.images.valid, config.images.train.normalisation, torch.device("cpu"))
    architectures = random_architectures(weights.space, 4, 9, set())
    scores = weights.scores(architectures)
    assert len(set(scores)) > 1
    for architecture, score in zip(architectures, scores, strict=True):
        child = MacroChild(architecture, config.child_network, config.images.shape, torch.Generator())
        child.load_slice(supernet)
        _, accuracy = images.score(child.eval(), config.shared.reward.batch)
        assert score == accuracy


@pytest.mark.parametrize(
    ("kind", "statistics"),
    [
        *(("recurrent", statistics) for statistics in ("batch", "moving")),
        *(
            (kind, statistics)
            for kind in ("macro", "micro")
            for statistics in ("batch", "moving", "recalibrated")
        ),
    ],
)
def test_an_architecture_is_scored_and_rewarded_as_if_it_were_alone(
    kind: str, statistics: str, text: Path
) -> None:
    flags = ("--shared.reward.statistics", statistics)
    config = tiny.config(text, *flags) if kind == "recurrent" else tiny.image_config(kind, *flags)
    weights = config.shared_weights()
    for step in range(4):  # so that moving averages are far from a minibatch's statistics
        weights.train_step(0, step, random_architectures(weights.space, 1, step, set()))
    architectures = random_architectures(weights.space, 3, 9, set())
    alone = [weights.scores([architecture])[0] for architecture in architectures]
    assert weights.scores(architectures) == alone
    rewards = [weights.rewards([architecture], "derive", 0).item() for architecture in architectures]
    assert weights.rewards(architectures, "derive", 0).tolist() == rewards
    assert weights.scores(architectures[::-1]) == alone[::-1]


# ---- the stage ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_this_process")
def test_a_ranking_is_recorded_and_its_trainings_are_not_repeated(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(searched)
    config = RankConfig(architectures=7, repeats=3, epochs=1)
    record = rank(run, config)
    assert read_json(searched / "rank.json") == record
    assert (record["architectures"], record["repeats"]) == (7, 3)
    space = run.config.searched_space()
    drawn = random_architectures(space, 7, derive_seed(run.config.seed, "rank"), set())
    assert [one["choices"] for one in record["scores"]] == [list(a.choices) for a in drawn]
    results = {path.parent.name: read_json(path) for path in searched.glob("rank/*/result.json")}
    assert len(results) == 10
    lower = run.config.metric.lower_is_better
    for place, one in enumerate(record["scores"]):
        result = results[f"{one['id']}-seed{run.config.seed}"]
        expected = -result["valid_loss"] if lower else result["valid_accuracy"]
        assert one["trained"] == expected
        assert (one["trained_again"] is not None) == (place < 3)
    shared, trained = ([one[key] for one in record["scores"]] for key in ("shared", "trained"))
    if np.ptp(trained) > 0:
        found = record["agreement"]["all"]
        assert found["kendall"]["value"] == pytest.approx(scipy.stats.kendalltau(shared, trained).statistic)
        assert found["spearman"]["value"] == pytest.approx(scipy.stats.spearmanr(shared, trained).statistic)
    assert record["warnings"]  # of the fifth of 7 architectures there is nothing to say
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: Forbidden())
    assert rank(Run.open(searched), config) == record


@pytest.mark.usefixtures("in_this_process")
def test_command_prints_sentences_or_json(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["rank", str(searched), "--architectures", "7", "--repeats", "3", "--epochs", "1"]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert "7 architectures, 3 of them with a second seed" in said
    assert "Kendall tau" in said
    assert "warning: " in said
    assert cli.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(searched / "rank.json")
    assert ET.fromstring((searched / "rank.svg").read_text()).tag.endswith("svg")


def test_an_unfinished_search_is_refused(text: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path, tiny.config(text), ("search",))
    with pytest.raises(RunFolderError, match="is not finished"):
        rank(run, RankConfig())


def test_a_table_spares_the_trainings(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(searched)
    space, rng = run.config.searched_space(), np.random.default_rng(0)
    everything = list(space.enumerate())
    rows = [
        Row(a.choices, seed, value, math.log(value), value, 1, 1.0)
        for seed in (0, 1)
        for a, value in zip(everything, rng.uniform(1, 90, len(everything)), strict=True)
    ]
    table = Table("toy", run.config, run.data.hash, {}, tuple(rows))
    monkeypatch.setattr(ranking, "table_for", lambda config, data_hash: table)
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: Forbidden())
    monkeypatch.setattr(
        SharedWeights, "scores", lambda weights, architectures: [table.scores(0)[a] for a in architectures]
    )
    record = rank(run, RankConfig())
    assert record["architectures"] == record["repeats"] == space.count()
    assert record["truth"] == "the table toy"
    assert record["agreement"]["all"]["kendall"]["value"] == pytest.approx(1)
    assert abs(record["agreement"]["ceiling"]["kendall"]["value"]) < 0.3


def test_architectures_that_overflow_with_the_shared_weights_are_the_last(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(searched)
    everything = list(run.config.searched_space().enumerate())
    rows = (Row(a.choices, 0, 2.0 + n, 1.0, 2.0, 1, 1.0) for n, a in enumerate(everything))
    table = Table("toy", run.config, run.data.hash, {}, tuple(rows))
    monkeypatch.setattr(ranking, "table_for", lambda config, data_hash: table)
    broken = [math.nan, -math.inf, *(-float(n) for n in range(2, len(everything)))]
    monkeypatch.setattr(SharedWeights, "scores", lambda weights, architectures: broken)
    shared = [one["shared"] for one in rank(run, RankConfig())["scores"]]
    assert shared[2:] == broken[2:]
    assert shared[0] == shared[1] < min(shared[2:])


# ---- numbers -----------------------------------------------------------------------------------------------------------


def scores(count: int, noise: float, seed: int) -> tuple[dict[Architecture, float], Truth]:
    rng = np.random.default_rng(seed)
    architectures = list(RecurrentSpace(nodes=3).enumerate())[:count]
    truth_N = rng.standard_normal(count)
    shared, first, second = (
        dict(zip(architectures, (truth_N + spread * rng.standard_normal(count)).tolist(), strict=True))
        for spread in (noise, 0.1, 0.1)
    )
    return shared, Truth(first, second, "drawn")


def test_agreement_is_found_and_warned_of_where_there_is_none() -> None:
    good, bad = (compare(*scores(60, noise, 1), "score", 0) for noise in (0.3, 1e6))
    assert good["agreement"]["all"]["kendall"]["low"] > 0.5
    assert good["agreement"]["ceiling"]["kendall"]["value"] > good["agreement"]["all"]["kendall"]["value"]
    assert not [w for w in good["warnings"] if "shared weights and trainings:" in w]
    tau = bad["agreement"]["all"]["kendall"]
    assert tau["low"] <= 0 <= tau["high"]
    assert [w for w in bad["warnings"] if "no agreement of shared weights and trainings is shown" in w]


def test_top_fifth_is_of_the_best_by_training() -> None:
    shared, truth = scores(50, 0.5, 2)
    record = compare(shared, truth, "score", 0)
    best = sorted(truth.first, key=lambda a: -truth.first[a])[:10]
    pairs = [[one[a] for a in best] for one in (shared, truth.first)]
    found = record["agreement"]["top fifth"]
    assert found["kendall"]["value"] == pytest.approx(scipy.stats.kendalltau(*pairs).statistic)
    assert found["kendall"]["n"] == 10
    whole = record["agreement"]["all"]
    by_shared = sorted(shared, key=lambda a: -shared[a])[:10]
    assert whole["hit_rate"]["value"] == pytest.approx(len(set(best) & set(by_shared)) / 10)
    assert whole["hit_rate_by_chance"] == pytest.approx(0.2)


def test_recipes_without_validation_images_are_trained_with_them(text: Path) -> None:
    config = tiny.image_config("macro", "--retrain.child.train-on", "all")
    assert isinstance(config, ImageRunConfig)
    assert config.epochs_with_validation() == config.retrain.child.epochs
    assert tiny.image_config("macro").epochs_with_validation() is None
    assert tiny.config(text).epochs_with_validation() is None


def test_command_to_go_on_is_the_one_given() -> None:
    assert command_line("enas rank", RankConfig()) == "enas rank"
    again = command_line("enas rank", replace(RankConfig(), architectures=50, epochs=2, json=True))
    assert again == "enas rank --architectures=50 --epochs=2"


@pytest.mark.parametrize("wrong", [{"architectures": 4}, {"repeats": 41}, {"repeats": -1}, {"epochs": 0}])
def test_impossible_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        RankConfig(**wrong)


# ---- picture -----------------------------------------------------------------------------------------------------------


def test_picture_has_a_point_for_each_architecture_and_marks_the_best_fifth() -> None:
    shared, truth = scores(20, 0.5, 3)
    svg = ET.fromstring(picture(compare(shared, truth, "a < b", 0)))
    circles = [element for element in svg.iter() if element.tag.endswith("circle")]
    assert len(circles) == 20
    colours = [circle.get("fill") for circle in circles]
    values = list(truth.first.values())
    best = {colours[place] for place in np.argsort(values)[-4:]}
    assert len(best) == 1
    assert colours.count(best.pop()) == 4
    names = [element.text for element in svg.iter() if element.tag.endswith("title")]
    assert names == [str(a) for a in truth.first]


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.9],
        [3.0, 3.0],
        [-5000.0, 12345.0],
        [-1e-9, 1e-9],
        [96.1, 96.2, 96.3],
        [1e30, 1e30],
        [0.3, 0.1 + 0.2],
    ],
)
def test_axes_hold_their_values_with_a_few_round_ticks(values: list[float]) -> None:
    made = axis("x", values, (0, 1))
    assert made.ticks[0] <= min(values) <= max(values) <= made.ticks[-1]
    assert 3 <= len(made.ticks) <= 9
    steps = np.diff(made.ticks)
    assert steps == pytest.approx(np.full(len(steps), steps[0]))
    assert steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9) == pytest.approx(
        round(steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9))
    )
    assert made.at(made.ticks[0]) == 0
    assert made.at(made.ticks[-1]) == 1


def test_points_lie_where_their_values_are() -> None:
    svg = ET.fromstring(scatter_svg("t", ("x", [0.0, 1.0]), ("y", [0.0, 10.0]), ["low", "high"], {1}))
    low, high = (
        (float(c.get("cx", "")), float(c.get("cy", ""))) for c in svg.iter() if c.tag.endswith("circle")
    )
    assert low[0] < high[0]
    assert low[1] > high[1]  # y runs downwards in a picture
