"""Deriving: candidates are scored alike, and each rule picks what a direct computation picks."""

from pathlib import Path

import pytest
import torch

from enas.architecture import Architecture
from enas.controllers import Controller, build_controller
from enas.controllers.config import IndependentConfig, UniformConfig
from enas.derive import Candidate, DeriveConfig, candidates, pick
from enas.errors import ConfigError
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.seeding import generator
from enas.tasks.base import SearchTask
from tests import tiny

SAMPLES, MINIBATCHES, SEED = 40, 3, 5


@pytest.fixture
def config(tmp_path: Path) -> RecurrentConfig:
    return tiny.config(tiny.write_text(tmp_path / "text"), "--space.nodes", "2")


@pytest.fixture
def task(config: RecurrentConfig) -> SearchTask:
    return config.load().search_task()


@pytest.fixture
def controller(task: SearchTask) -> Controller:
    """A policy that prefers some architectures."""
    made = build_controller(IndependentConfig(), task.space, 0)
    state = made.state_dict()
    noise = torch.randn(state["policy"]["logits_LK"].shape, generator=torch.Generator().manual_seed(1))
    state["policy"]["logits_LK"] += noise
    made.load_state_dict(state)
    return made


@pytest.fixture
def found(task: SearchTask, controller: Controller) -> list[Candidate]:
    return candidates(task, controller, DeriveConfig(samples=SAMPLES, minibatches=MINIBATCHES), SEED)


def sampled(task: SearchTask, controller: Controller) -> list[Architecture]:
    with torch.no_grad():
        return controller.propose(SAMPLES, generator(SEED, "derive")).architectures(task.space)


def no_training(architecture: Architecture) -> float:
    raise AssertionError(f"{architecture} must not be trained")


def test_candidates_are_the_mode_then_distinct_samples_in_the_order_drawn(
    found: list[Candidate], task: SearchTask, controller: Controller
) -> None:
    architectures = [candidate.architecture for candidate in found]
    drawn = sampled(task, controller)
    assert architectures[0].choices == controller.mode()
    assert len(set(architectures)) == len(architectures) < len(drawn)  # some are drawn twice
    others = [architecture for architecture in drawn if architecture != architectures[0]]
    assert architectures[1:] == sorted(set(others), key=others.index)
    assert [candidate.is_mode for candidate in found] == [True] + [False] * (len(found) - 1)


def test_candidates_carry_their_log_probability_and_the_mode_none_if_it_was_not_drawn(
    found: list[Candidate], task: SearchTask, controller: Controller
) -> None:
    drawn = sampled(task, controller)
    with torch.no_grad():
        proposals = controller.propose(SAMPLES, generator(SEED, "derive"))
    expected = dict(zip(drawn, proposals.log_prob_N.tolist(), strict=True))
    assert {c.architecture: c.log_prob for c in found if c.architecture in expected} == expected
    unlucky = candidates(task, controller, DeriveConfig(samples=1), SEED + 1)
    for candidate in unlucky:
        in_sample = candidate.architecture in controller.propose(
            1, generator(SEED + 1, "derive")
        ).architectures(task.space)
        assert (candidate.log_prob is not None) == in_sample


def test_every_candidate_is_scored_on_the_same_minibatches(found: list[Candidate], task: SearchTask) -> None:
    for candidate in found:
        rewards = [task.rewards([candidate.architecture], "derive", draw) for draw in range(MINIBATCHES)]
        assert candidate.reward == pytest.approx(float(torch.cat(rewards).mean()), rel=1e-6)
    assert len({candidate.reward for candidate in found}) > 1


def test_rule_mode_picks_the_most_probable(found: list[Candidate], controller: Controller) -> None:
    picked = pick(found, DeriveConfig("mode"), no_training)
    assert picked.architecture.choices == controller.mode()


def test_rule_reward_picks_the_best_sample(
    found: list[Candidate], task: SearchTask, controller: Controller
) -> None:
    picked = pick(found, DeriveConfig("reward"), no_training)
    scores = {
        a: sum(task.rewards([a], "derive", draw).item() for draw in range(MINIBATCHES))
        for a in sampled(task, controller)
    }
    assert scores[picked.architecture] == pytest.approx(max(scores.values()), rel=1e-6)


def test_rule_reward_passes_over_a_mode_that_was_not_sampled(task: SearchTask) -> None:
    architectures = list(task.space.enumerate())[:3]
    listed = [
        Candidate(architectures[0], True, None, 9.0),
        Candidate(architectures[1], False, -1.0, 1.0),
        Candidate(architectures[2], False, -1.0, 2.0),
    ]
    assert pick(listed, DeriveConfig("reward"), no_training) is listed[2]


def test_rule_shortlist_trains_the_first_and_picks_the_lowest_loss(found: list[Candidate]) -> None:
    trained: list[Architecture] = []

    def train(architecture: Architecture) -> float:
        trained.append(architecture)
        return abs(len(trained) - 3.0)  # the third is best

    picked = pick(found, DeriveConfig("shortlist", shortlist=4), train)
    assert trained == [candidate.architecture for candidate in found[:4]]
    assert picked is found[2]
    assert [candidate.trained_loss for candidate in found[:5]] == [2.0, 1.0, 0.0, 1.0, None]


def test_shortlist_may_be_longer_than_the_candidates(found: list[Candidate]) -> None:
    picked = pick(
        found, DeriveConfig("shortlist", shortlist=10_000), lambda architecture: -sum(architecture.choices)
    )
    assert sum(picked.architecture.choices) == max(sum(c.architecture.choices) for c in found)


def test_uniform_controller_has_candidates_too(task: SearchTask) -> None:
    controller = build_controller(UniformConfig(), task.space, 0)
    listed = candidates(task, controller, DeriveConfig(samples=5), SEED)
    drawn = controller.propose(5, generator(SEED, "derive")).architectures(task.space)
    assert {candidate.architecture for candidate in listed} >= set(drawn)


@pytest.mark.parametrize("name", ["samples", "minibatches", "shortlist", "shortlist_epochs"])
def test_counts_below_one_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"derive\.{name} must be at least 1, not 0"):
        DeriveConfig(**{name: 0})
