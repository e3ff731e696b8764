"""A run planned within a time: the arithmetic of its parts, and lengths in the recipe's proportions."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enas import cli
from enas.budget import Costs, Lengths, measured, planned, seconds_needed, seconds_of, usual, with_lengths
from enas.config import RunConfig
from enas.errors import ConfigError
from enas.recipes import recipe
from enas.retrain import Network
from enas.run import Run
from enas.verification import VerifyConfig
from tests import tiny

COSTS = Costs(weights=10.0, reward=0.1, features=0.01, child=5.0, at_once=2)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172_800)]
)
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "30 m", "m", "-3m", "1h30", "nan", "0s", "9" * 400 + "d", "10001d", "٣m"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a budget is a time such as"):
        seconds_of(text)


def test_the_parts_of_a_run_add_up() -> None:
    config = recipe("micro-default")
    search = replace(
        config.search, epochs=10, warmup=0.5, updates=3, proposals=8, samples=2, percentile_every=None
    )
    derive = replace(config.derive, rule="shortlist", samples=4, minibatches=2, shortlist=3)
    verify = VerifyConfig(trainings=5, rounds=2)
    config = replace(config, search=search, derive=derive, verify=verify)
    lengths = Lengths(search=10, verify=2, shortlist=3, retrain=7)
    weights = 10 * 2 * 10.0
    # two rounds look at 128 architectures each to see how the policy is doing, and the second chooses from 128 more
    rewards = (5 * 3 * 8 + 4 * 2 + 2 * 3 * 128) * 0.1
    features = (128 + 3 * 128 + 5 * 3 * 8) * 0.01
    # side by side by two: 2 + 3 verifying trainings, 3 of the shortlist, 4 networks in the end
    trainings = (1 * 2 + 2 * 2 + 2 * 3 + 2 * 7) * 5.0
    assert seconds_needed(config, lengths, COSTS, 4) == pytest.approx(
        1.1 * (weights + rewards + features + trainings)
    )
    alone = replace(config, verify=VerifyConfig(), derive=replace(derive, rule="mode"))
    assert seconds_needed(alone, lengths, COSTS, 4) == pytest.approx(
        1.1 * (weights + 5 * 3 * 8 * 0.1 + 4 * 2 * 0.1 + 2 * 7 * 5.0)
    )


@pytest.mark.parametrize(
    "name", ["recurrent-default", "macro-default", "micro-default", "nasbench201-default"]
)
@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
def test_a_plan_uses_its_time_and_keeps_the_proportions(name: str, share: float) -> None:
    config = recipe(name)
    whole = seconds_needed(config, Lengths.of(config), COSTS, 4)
    found = planned(config, share * whole, COSTS, 4)
    lengths, before = Lengths.of(found), Lengths.of(config)
    needed = seconds_needed(found, lengths, COSTS, 4)
    assert 0.8 * share * whole < needed <= share * whole
    factor = lengths.search / before.search
    for now, then in zip(vars(lengths).values(), vars(before).values(), strict=True):
        assert now == 1 or abs(now - factor * then) <= 0.5 + then / before.search
    assert planned(config, 2 * whole, COSTS, 4) == config


def test_time_that_is_spent_already_counts() -> None:
    config = recipe("macro-default")
    whole = seconds_needed(config, Lengths.of(config), COSTS, 4)
    assert planned(config, whole / 2, COSTS, 4) == planned(config, whole, COSTS, 4, spent=whole / 2)


def test_too_little_time_is_refused_with_the_least() -> None:
    with pytest.raises(
        ConfigError, match=r"a budget of 3 s is too short: one epoch of each part takes about"
    ):
        planned(recipe("macro-default"), 3, COSTS, 4)


def rates(config: RunConfig, epochs: int) -> list[float]:
    own: Any = config.retrain
    task = own.child.training
    schedule = task.cosine if hasattr(task, "cosine") else task.sgd
    return [schedule.rate(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize("name", ["micro-quick", "recurrent-paper"])
def test_schedules_stretch_with_the_lengths(name: str) -> None:
    config = recipe(name)
    lengths = Lengths.of(config)
    half = with_lengths(config, replace(lengths, retrain=lengths.retrain // 2))
    full, shorter = rates(config, lengths.retrain), rates(half, lengths.retrain // 2)
    assert shorter[0] == pytest.approx(full[0])
    assert shorter[-1] == pytest.approx(full[-2], rel=0.1)


def test_a_budget_that_is_no_time_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "micro-quick", "--budget", "soon"]) == 2
    assert capsys.readouterr().err.endswith(
        "a budget is a time such as 90s, 30m or 1h30m, of at most 10,000 days, not 'soon'\n"
    )


def test_a_run_is_planned_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("enas.budget.measured", lambda config: Costs(1.0, 0.01, 0.0, 0.5, 1))
    flags = tiny.image_flags("micro", "--search.epochs", "40", "--retrain.child.epochs", "40")
    words = ["run", "micro-quick", *flags, "--budget", "20s", "--run", str(tmp_path / "run")]
    assert cli.main(words) == 0
    run = Run.open(tmp_path / "run")
    assert (run.config.search.epochs, run.config.child_epochs) == (
        8,
        8,
    )  # 8 + 0.4 + 2 · 0.5 + 2 · 8 · 0.5, and 10 %
    assert "budget 20 s: " in capsys.readouterr().err


def test_costs_are_measured_and_nothing_is_left_changed() -> None:
    config = tiny.image_config("micro")
    found = measured(config)
    assert min(found.weights, found.reward, found.features, found.child) > 0
    assert found.at_once >= 1
    assert config == tiny.image_config("micro")


def test_of_what_takes_its_time_the_first_take_is_left_out_and_the_median_counts() -> None:
    short, long = iter([9.0, 0.2, 0.1, 0.4]), iter([9.0, 3.0])
    assert usual([lambda: next(short)]) == 0.2
    assert usual([lambda: next(long)]) == 3.0
    assert usual([iter([9.0, 1.0]).__next__, iter([9.0, 2.0]).__next__]) == 1.5


@pytest.mark.parametrize("how", ["cut", "squeezed"])
def test_a_short_training_has_its_schedule_cut_or_squeezed(how: str) -> None:
    config = tiny.image_config("micro", "--retrain.short-schedule", how, "--retrain.child.epochs", "16")
    network = Network("candidate", config.searched_space().sample(random.Random(0)), 0)
    whole, short = config.child_training(network).task, config.child_training(network, 4).task
    expected = [whole.rate(epoch) for epoch in ((0, 1, 2, 3) if how == "cut" else (0, 4, 8, 12))]
    assert [short.rate(epoch) for epoch in range(4)] == pytest.approx(expected)
