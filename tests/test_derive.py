"""Deriving: candidates are scored alike, and each rule picks what a direct computation picks."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from enas.architecture import Architecture
from enas.controllers import Controller, IndependentConfig, UniformConfig, build_controller
from enas.derive import Candidate, DeriveConfig, candidates, pick, ranks
from enas.effects import Effects, fit_effects
from enas.errors import ConfigError, NotFiniteError, RunFolderError
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import read_json, read_jsonl, write_json
from enas.runtime.seeding import generator
from enas.shared_weights import SharedWeights
from enas.stages import Run, earlier_weights, execute
from tests import tiny

SAMPLES, MINIBATCHES, SEED = 40, 3, 5


@pytest.fixture
def config(tmp_path: Path) -> RecurrentConfig:
    flags = ("--space.nodes", "2", "--shared.average", "0", "--derive.ridge-candidate", "False")
    return tiny.config(tiny.write_text(tmp_path / "text"), *flags)


@pytest.fixture
def weights(config: RecurrentConfig) -> SharedWeights:
    return config.shared_weights()


@pytest.fixture
def controller(weights: SharedWeights) -> Controller:
    """A policy that prefers some architectures."""
    made = build_controller(IndependentConfig(), weights.space, 0)
    state = made.state_dict()
    noise = torch.randn(state["policy"]["logits_LK"].shape, generator=torch.Generator().manual_seed(1))
    state["policy"]["logits_LK"] += noise
    made.load_state_dict(state)
    return made


@pytest.fixture
def found(weights: SharedWeights, controller: Controller) -> list[Candidate]:
    return candidates(weights, controller, DeriveConfig(samples=SAMPLES, minibatches=MINIBATCHES), SEED)


def sampled(weights: SharedWeights, controller: Controller) -> list[Architecture]:
    with torch.no_grad():
        return controller.propose(SAMPLES, generator(SEED, "derive")).architectures(weights.space)


def no_training(architectures: Sequence[Architecture]) -> list[float]:
    raise AssertionError(f"{architectures} must not be trained")


def test_candidates_are_the_mode_then_distinct_samples_in_the_order_drawn(
    found: list[Candidate], weights: SharedWeights, controller: Controller
) -> None:
    architectures = [candidate.architecture for candidate in found]
    drawn = sampled(weights, controller)
    assert architectures[0].choices == controller.mode()
    assert len(set(architectures)) == len(architectures) < len(drawn)  # some are drawn twice
    others = [architecture for architecture in drawn if architecture != architectures[0]]
    assert architectures[1:] == sorted(set(others), key=others.index)
    assert [candidate.is_mode for candidate in found] == [True] + [False] * (len(found) - 1)


def test_candidates_carry_their_log_probability_and_the_mode_none_if_it_was_not_drawn(
    found: list[Candidate], weights: SharedWeights, controller: Controller
) -> None:
    drawn = sampled(weights, controller)
    with torch.no_grad():
        proposals = controller.propose(SAMPLES, generator(SEED, "derive"))
    expected = dict(zip(drawn, proposals.log_prob_N.tolist(), strict=True))
    assert {c.architecture: c.log_prob for c in found if c.architecture in expected} == expected
    unlucky = candidates(weights, controller, DeriveConfig(samples=1), SEED + 1)
    for candidate in unlucky:
        in_sample = candidate.architecture in controller.propose(
            1, generator(SEED + 1, "derive")
        ).architectures(weights.space)
        assert (candidate.log_prob is not None) == in_sample


def test_every_candidate_is_scored_on_the_same_minibatches(
    found: list[Candidate], weights: SharedWeights
) -> None:
    for candidate in found:
        rewards = [weights.rewards([candidate.architecture], "derive", draw) for draw in range(MINIBATCHES)]
        assert candidate.reward == pytest.approx(float(torch.cat(rewards).mean()), rel=1e-6)
    assert len({candidate.reward for candidate in found}) > 1


def test_rule_mode_picks_the_most_probable(found: list[Candidate], controller: Controller) -> None:
    picked = pick(found, DeriveConfig("mode"), no_training)
    assert picked.architecture.choices == controller.mode()


def test_rule_reward_picks_the_best_sample(
    found: list[Candidate], weights: SharedWeights, controller: Controller
) -> None:
    picked = pick(found, DeriveConfig("reward"), no_training)
    scores = {
        a: sum(weights.rewards([a], "derive", draw).item() for draw in range(MINIBATCHES))
        for a in sampled(weights, controller)
    }
    assert scores[picked.architecture] == pytest.approx(max(scores.values()), rel=1e-6)


def test_rule_reward_passes_over_a_mode_that_was_not_sampled(weights: SharedWeights) -> None:
    architectures = list(weights.space.enumerate())[:3]
    listed = [
        Candidate(architectures[0], True, None, 9.0),
        Candidate(architectures[1], False, -1.0, 1.0),
        Candidate(architectures[2], False, -1.0, 2.0),
    ]
    assert pick(listed, DeriveConfig("reward"), no_training) is listed[2]


def test_rule_shortlist_trains_the_first_and_picks_the_lowest_loss(found: list[Candidate]) -> None:
    trained: list[Architecture] = []

    def train(architectures: Sequence[Architecture]) -> list[float]:
        trained.extend(architectures)
        return [abs(number - 3.0) for number in range(1, len(architectures) + 1)]  # the third is best

    picked = pick(found, DeriveConfig("shortlist", shortlist=4), train)
    assert trained == [candidate.architecture for candidate in found[:4]]
    assert picked is found[2]
    assert [candidate.trained_loss for candidate in found[:5]] == [2.0, 1.0, 0.0, 1.0, None]


def test_shortlist_may_be_longer_than_the_candidates(found: list[Candidate]) -> None:
    picked = pick(
        found,
        DeriveConfig("shortlist", shortlist=10_000),
        lambda architectures: [-sum(a.choices) for a in architectures],
    )
    assert sum(picked.architecture.choices) == max(sum(c.architecture.choices) for c in found)


def test_uniform_controller_has_candidates_too(weights: SharedWeights) -> None:
    controller = build_controller(UniformConfig(), weights.space, 0)
    listed = candidates(weights, controller, DeriveConfig(samples=5), SEED)
    drawn = controller.propose(5, generator(SEED, "derive")).architectures(weights.space)
    assert {candidate.architecture for candidate in listed} >= set(drawn)


# ---- ridge regression as a collector, an order and a rule ---------------------------------------------------------------


@pytest.fixture
def effects(weights: SharedWeights) -> Effects:
    """Of rewards that favour the last options."""
    everything = [a.choices for a in weights.space.enumerate()] * 3
    choices_NL = np.array(everything)
    reward_N = choices_NL.sum(1) + np.random.default_rng(0).normal(size=len(everything)) * 0.01
    found = fit_effects(
        weights.space,
        choices_NL,
        reward_N,
        np.random.default_rng(1).permutation(len(everything)) // 8,
        "update",
    )
    assert found is not None
    return found


def test_best_by_ridge_joins_the_candidates_after_the_mode(
    weights: SharedWeights, controller: Controller, effects: Effects
) -> None:
    config = DeriveConfig(samples=3, ridge_candidate=True)
    listed = candidates(weights, controller, config, SEED, effects=effects)
    best = max(weights.space.enumerate(), key=lambda architecture: sum(architecture.choices))
    plain = candidates(weights, controller, DeriveConfig(samples=3), SEED)
    assert [c.architecture for c in listed] == [
        plain[0].architecture,
        best,
        *(c.architecture for c in plain[1:] if c.architecture != best),
    ]
    assert listed[1].log_prob is None or best in [c.architecture for c in plain]
    for candidate in listed:
        assert candidate.predicted == effects.predict(candidate.architecture)
    assert all(candidate.predicted is None for candidate in plain)


def test_rule_ridge_and_order_ridge_follow_the_prediction(
    weights: SharedWeights, controller: Controller, effects: Effects
) -> None:
    config = DeriveConfig("ridge", samples=SAMPLES, ridge_candidate=True)
    listed = candidates(weights, controller, config, SEED, effects=effects)
    picked = pick(listed, config, no_training)
    assert sum(picked.architecture.choices) == max(sum(a.choices) for a in weights.space.enumerate())
    trained: list[Architecture] = []

    def train(architectures: Sequence[Architecture]) -> list[float]:
        trained.extend(architectures)
        return [float(number) for number in range(len(architectures))]

    pick(listed, DeriveConfig("shortlist", shortlist=4, shortlist_order="ridge"), train)
    expected = sorted((c.architecture for c in listed), key=lambda a: -effects.predict(a))[:4]
    assert trained == expected


def test_order_reward_trains_those_with_the_highest_rewards(found: list[Candidate]) -> None:
    trained: list[Architecture] = []

    def train(architectures: Sequence[Architecture]) -> list[float]:
        trained.extend(architectures)
        return [0.0] * len(architectures)

    pick(found, DeriveConfig("shortlist", shortlist=3, shortlist_order="reward"), train)
    assert trained == [c.architecture for c in sorted(found, key=lambda c: -c.reward)[:3]]


def test_order_corrected_takes_turns_and_is_as_drawn_without_trainings(found: list[Candidate]) -> None:
    trained: list[Architecture] = []

    def train(architectures: Sequence[Architecture]) -> list[float]:
        trained.extend(architectures)
        return [0.0] * len(architectures)

    config = DeriveConfig("shortlist", shortlist=5, shortlist_order="corrected")
    pick(found, config, train)
    assert trained == [c.architecture for c in found[:5]]
    trained.clear()
    last, third, fifth = found[-1], found[2], found[4]
    last.corrected, third.corrected, found[0].corrected = 2.0, 1.0, 0.0
    last.verified, fifth.verified, third.verified = 0.3, 0.9, 0.5
    pick(found, config, train)
    expected = [found[0], last, fifth, found[1], third]
    assert trained == [c.architecture for c in expected]


def test_corrected_scores_count_beside_trainings_as_much_as_is_asked(found: list[Candidate]) -> None:
    """Losses 1, 2, 3 are 1.22, 0, -1.22 standard deviations better than their mean; corrected scores 0, 3, 3 are -1.41,
    0.71, 0.71. So the first has 1.22 - 1.41 w and the second 0.71 w: they change places at w = 0.577."""
    shortlist = found[:4]
    losses = [1.0, 2.0, 3.0, math.inf]
    for candidate, corrected in zip(shortlist, [0.0, 3.0, 3.0, 100.0], strict=True):
        candidate.corrected = corrected

    def picked(weight: float, losses: Sequence[float] = losses) -> Candidate:
        config = DeriveConfig("shortlist", shortlist=4, corrected_weight=weight)
        return pick(found, config, lambda architectures: losses)

    assert picked(0.0) is picked(0.57) is shortlist[0]
    assert picked(0.58) is picked(100.0) is shortlist[1]
    assert picked(0.5, [2.0, 2.0, 2.0, 2.0]) is shortlist[3]  # equally well trained
    assert picked(0.5, 4 * [math.inf]) is shortlist[0]
    shortlist[1].corrected = None  # of a search without a verification
    assert picked(100.0) is shortlist[0]


# ---- several checkpoints ------------------------------------------------------------------------------------------------


def test_ranks_are_scipys_with_the_highest_score_first() -> None:
    scores = np.random.default_rng(0).integers(0, 8, size=30).astype(float)
    expected = stats.rankdata(-scores, method="average")
    assert ranks(torch.tensor(scores)).tolist() == expected.tolist()


def test_candidates_are_compared_by_their_mean_rank_over_checkpoints(
    weights: SharedWeights, controller: Controller
) -> None:
    states = []
    for step in range(3):  # the newest last
        weights.train_step(0, step, [weights.space.architecture(controller.mode())])
        states.append(copy.deepcopy(weights.state_dict()))
    config = DeriveConfig("reward", samples=SAMPLES, minibatches=2, checkpoints=3)
    listed = candidates(weights, controller, config, SEED, earlier=[states[1], states[0]])
    architectures = [candidate.architecture for candidate in listed]
    rewards, places = [], []
    for state in states:
        weights.load_state_dict(state)
        reward_N = torch.stack([weights.rewards(architectures, "derive", draw) for draw in range(2)]).mean(0)
        rewards.append(reward_N)
        places.append(stats.rankdata(-reward_N.numpy(), method="average"))
    mean_rank = np.mean(places, axis=0)
    assert [candidate.rank for candidate in listed] == pytest.approx(mean_rank.tolist())
    assert [candidate.reward for candidate in listed] == pytest.approx(torch.stack(rewards).mean(0).tolist())
    sampled_ones = [i for i, candidate in enumerate(listed) if candidate.log_prob is not None]
    best = min(sampled_ones, key=lambda i: mean_rank[i])
    assert pick(listed, config, no_training) is listed[best]


def test_derive_reads_the_late_checkpoints_of_a_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny.write_text(tmp_path / "t")
    more = ("--search.keep-checkpoints", "9", "--derive.checkpoints", "3", "--derive.rule", "reward")
    run = Run.create(tmp_path / "run", tiny.config(text, *more), ("search", "derive"))
    execute(run, ("search",))
    store = CheckpointStore(tmp_path / "run" / "checkpoints", 9)
    assert store.steps() == [0, 5, 10, 15, 20, 24]
    earlier = [state["place"] for _, state in list(store.whole())[1:3]]
    weights = run.shared_weights()
    given = list(earlier_weights(run, 2))
    assert len(given) == 2
    for state, (step, whole) in zip(given, list(store.whole())[1:3], strict=True):
        assert tiny.plain(state) == tiny.plain(whole["weights"]), step
        weights.load_state_dict(state)
    assert earlier == [[1, "controller", 0], [1, "weights", 5]]
    execute(run, ("derive",))
    assert all(record["rank"] >= 1 for record in read_json(run.folder / "candidates.json"))
    capsys.readouterr()
    assert len(list(earlier_weights(run, 7))) == 4  # the one before the first step is none
    assert "the search left 4 checkpoints by steps before its end, not 7" in capsys.readouterr().err


def test_more_checkpoints_than_are_kept_are_refused(config: RecurrentConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"derive\.checkpoints = 3 needs as many kept: raise search\.keep_checkpoints"
    ):
        replace(config, derive=DeriveConfig(checkpoints=3))


# ---- fine-tuning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["recurrent", "macro", "micro"])
def test_finetuned_weights_are_trained_and_put_back_bit_for_bit(space: str, tmp_path: Path) -> None:
    if space == "recurrent":
        config = tiny.config(tiny.write_text(tmp_path / "text"), "--shared.average", "0")
        weights: SharedWeights = config.shared_weights()
    else:
        weights = tiny.image_config(space, "--shared.average", "0").shared_weights()
    architecture, other = (weights.space.architecture([0] * len(weights.space.decisions)) for _ in range(2))
    other = next(a for a in weights.space.enumerate() if a.choices[-1] == 1)
    weights.train_step(0, 0, [other])
    before, reward = (
        tiny.plain(copy.deepcopy(weights.state_dict())),
        weights.rewards([architecture], "derive", 0),
    )
    with weights.finetuned(architecture, 3, 1):
        inside = tiny.plain(copy.deepcopy(weights.state_dict()))
        tuned = weights.rewards([architecture], "derive", 0)
    assert tiny.plain(weights.state_dict()) == before
    assert inside != before
    assert torch.equal(weights.rewards([architecture], "derive", 0), reward)
    for step in range(3):  # the same by hand
        weights.train_step(1, step, [architecture])
    assert tiny.plain(weights.state_dict()) == inside
    assert torch.equal(weights.rewards([architecture], "derive", 0), tuned)


def test_search_goes_on_after_a_finetuning_as_if_there_had_been_none(weights: SharedWeights) -> None:
    architecture = weights.space.architecture([0] * len(weights.space.decisions))
    for step in range(2):
        weights.train_step(0, step, [architecture])
    state = copy.deepcopy(weights.state_dict())
    weights.train_step(0, 2, [architecture])
    expected = tiny.plain(copy.deepcopy(weights.state_dict()))
    weights.load_state_dict(state)
    with weights.finetuned(architecture, 5, 0):
        pass
    weights.train_step(0, 2, [architecture])
    assert tiny.plain(weights.state_dict()) == expected


def test_finetuning_longer_than_a_pass_begins_it_again(weights: SharedWeights) -> None:
    architecture = weights.space.architecture([0] * len(weights.space.decisions))
    steps = weights.steps(0)
    with weights.finetuned(architecture, steps + 1, 0):
        inside = tiny.plain(copy.deepcopy(weights.state_dict()))
    for step in (*range(steps), 0):
        weights.train_step(0, step, [architecture])
    assert tiny.plain(weights.state_dict()) == inside


def test_weights_are_put_back_when_a_finetuning_fails(weights: SharedWeights) -> None:
    architecture = weights.space.architecture([0] * len(weights.space.decisions))
    before, real = tiny.plain(copy.deepcopy(weights.state_dict())), weights.train_step

    def train_step(epoch: int, step: int, architectures: Any) -> dict[str, float]:
        if step == 2:
            raise NotFiniteError("the loss is nan")
        return real(epoch, step, architectures)

    weights.train_step = train_step
    with pytest.raises(NotFiniteError), weights.finetuned(architecture, 5, 0):
        raise AssertionError("never inside")
    assert tiny.plain(weights.state_dict()) == before


def test_each_candidate_is_finetuned_alone_before_it_is_scored(
    weights: SharedWeights, controller: Controller
) -> None:
    config = DeriveConfig(samples=5, minibatches=2, finetune=2)
    listed = candidates(weights, controller, config, SEED, epoch=1)
    before = copy.deepcopy(weights.state_dict())
    for candidate in listed:
        for step in range(2):
            weights.train_step(1, step, [candidate.architecture])
        rewards = [weights.rewards([candidate.architecture], "derive", draw) for draw in range(2)]
        assert candidate.reward == pytest.approx(float(torch.cat(rewards).mean()), rel=1e-6)
        weights.load_state_dict(before)
    assert [c.reward for c in listed] != [
        c.reward for c in candidates(weights, controller, DeriveConfig(samples=5, minibatches=2), SEED)
    ]


# ---- as a stage ---------------------------------------------------------------------------------------------------------


def test_stage_prints_and_keeps_the_effects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tiny.write_text(tmp_path / "t")
    more = ("--derive.rule", "ridge", "--derive.ridge-candidate", "True", "--derive.finetune", "1")
    run = Run.create(tmp_path / "run", tiny.config(text, *more), ("search", "derive"))
    execute(run, ("search", "derive"))
    assert "effects of single decisions" in capsys.readouterr().err
    record = read_json(run.folder / "effects.json")
    archive = read_jsonl(run.folder / "archive.jsonl")
    assert record["records"] == len(archive) == 12
    assert (record["groups"], record["within"]) == (4, "update")
    assert record["mean_reward"] == pytest.approx(sum(r["reward"] for r in archive) / 12, rel=1e-5)
    listed = read_json(run.folder / "candidates.json")
    best = max(listed, key=lambda candidate: candidate["predicted"])
    assert read_json(run.folder / "architecture.json") == best["architecture"]
    written = ("effects.json", "candidates.json", "search.json")
    records = [read_json(run.folder / name) for name in written]
    records[-1]["settings"] = None  # their names are those of the flags
    keys = set().union(*map(tiny.keys, records))
    assert keys - tiny.documented() == set()


def test_ridge_without_rewards_is_refused_and_not_needed_otherwise(tmp_path: Path) -> None:
    text = tiny.write_text(tmp_path / "t")
    more = ("--search.updates", "0", "--derive.rule")
    config = tiny.config(text, *more, "ridge")
    with pytest.raises(ConfigError, match="needs rewards to compare, and this search gives none"):
        Run.create(tmp_path / "a", config, ("search", "derive"))
    run = Run.create(tmp_path / "a", tiny.config(text, *more, "mode"), ("search", "derive"))
    run.config = config
    with pytest.raises(RunFolderError, match="no rewards that differ on one minibatch"):
        execute(run, ("search", "derive"))
    assert not (run.folder / "architecture.json").exists()
    plain = Run.create(tmp_path / "b", tiny.config(text, *more, "mode"), ("search", "derive"))
    execute(plain, ("search", "derive"))
    assert not (plain.folder / "effects.json").exists()
    assert all(record["predicted"] is None for record in read_json(plain.folder / "candidates.json"))


def test_candidate_is_plain_json(tmp_path: Path, found: list[Candidate]) -> None:
    found[0].trained_loss = math.inf
    write_json(tmp_path / "c.json", [candidate.to_json() for candidate in found])
    assert read_json(tmp_path / "c.json")[0]["trained_loss"] is None


@pytest.mark.parametrize("name", ["samples", "minibatches", "shortlist", "shortlist_epochs", "checkpoints"])
def test_counts_below_one_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be at least 1, not 0$"):
        DeriveConfig(**{name: 0})


def test_finetuning_by_fewer_minibatches_than_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^finetune must be at least 0, not -1$"):
        DeriveConfig(finetune=-1)
