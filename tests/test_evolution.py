"""Regularised evolution against the description: tournaments played out, mutations enumerated, who dies."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch

from enas.architecture import Space
from enas.controllers import EvolutionConfig
from enas.controllers.evolution import EvolutionController
from enas.errors import ConfigError, RunFolderError
from enas.spaces.macro.space import MacroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from tests import conditional_space

NESTED = conditional_space.SPACE
SPACES = [RecurrentSpace(3), MacroSpace(3, ("conv3x3", "sep5x5", "max3x3")), NESTED]
"""The first has a decision with one option only, the source of its second node."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grown(space: Space, config: EvolutionConfig, rewards: list[float]) -> EvolutionController:
    """An evolution whose first architectures, drawn uniformly, had these rewards."""
    controller = EvolutionController(space, config)
    controller.feedback(controller.propose(len(rewards), seeded(0)), torch.tensor(rewards))
    return controller


def mutants(space: Space, parent: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """Every mutant of an architecture with its probability."""
    if space.conditional:
        return nested_mutants(parent)
    counts = [len(decision.options) for decision in space.decisions]
    places = [place for place, count in enumerate(counts) if count > 1]
    return {
        (*parent[:place], option, *parent[place + 1 :]): 1 / len(places) / (counts[place] - 1)
        for place in places
        for option in range(counts[place])
        if option != parent[place]
    }


def nested_mutants(parent: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """The same in the conditional space, from the description: all that a mutation can come to, decision by decision."""
    asked, found = conditional_space.asked(parent), Counter[tuple[int, ...]]()
    for place in [place for place, is_asked in enumerate(asked) if is_asked]:
        weights = NESTED.weights(parent[:place])
        others = {k: w for k, w in enumerate(weights) if w and k != parent[place]}
        begun = {(*parent[:place], k): w / sum(others.values()) / sum(asked) for k, w in others.items()}
        for later in range(place + 1, len(parent)):
            further = Counter[tuple[int, ...]]()
            for before, probability in begun.items():
                weights = NESTED.weights(before)
                if asked[later] and weights[parent[later]]:
                    further[(*before, parent[later])] += probability
                else:
                    for option, weight in enumerate(weights):
                        further[(*before, option)] += probability * weight
            begun = further
        for mutant, probability in begun.items():
            found[mutant] += probability
    return {mutant: probability for mutant, probability in found.items() if probability}


def exact(controller: EvolutionController) -> dict[tuple[int, ...], float]:
    """The probability of every proposal, by enumeration of parents and mutations."""
    found: Counter[tuple[int, ...]] = Counter()
    for choices, weight in zip(
        controller.choices_PL.tolist(), controller.parent_probabilities().tolist(), strict=True
    ):
        for mutant, probability in mutants(controller.space, tuple(choices)).items():
            found[mutant] += weight * probability
    return found


@pytest.mark.parametrize("rewards", [[3.0, 1.0, 2.0, 5.0, 4.0], [1.0, 2.0, 2.0, 2.0, 0.0], [1.0] * 5])
def test_parents_win_as_often_as_in_tournaments_played_out(rewards: list[float]) -> None:
    controller = grown(SPACES[0], EvolutionConfig(5, 3), rewards)
    probability_P = controller.parent_probabilities().numpy()
    assert probability_P.sum() == pytest.approx(1.0)
    rng, played = np.random.default_rng(0), 20_000
    drawn = rng.integers(0, 5, (played, 3))
    key = np.array(rewards) + 1e-6 * rng.random((played, 5))  # ties are broken at random
    winner = drawn[np.arange(played), np.take_along_axis(key, drawn, 1).argmax(1)]
    expected = probability_P * played
    counts = np.bincount(winner, minlength=5)
    keep = expected > 0
    assert counts[~keep].sum() == 0
    assert scipy.stats.chisquare(counts[keep], expected[keep]).pvalue > 1e-3


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_mutants_have_the_probabilities_that_enumeration_gives_them(space: Space) -> None:
    controller = grown(space, EvolutionConfig(4, 2), [0.1, 0.4, 0.4, 0.2])
    expected = exact(controller)
    draws = 20_000
    proposals = controller.propose(draws, seeded(1))
    counts = Counter(map(tuple, proposals.choices_NL.tolist()))
    assert counts.keys() <= expected.keys()
    observed = np.array([counts[choices] for choices in expected])
    frequencies = np.array(list(expected.values())) * draws
    assert frequencies.sum() == pytest.approx(draws)
    assert scipy.stats.chisquare(observed, frequencies).pvalue > 1e-3
    log_probs = [math.log(expected[tuple(choices)]) for choices in proposals.choices_NL[:200].tolist()]
    assert proposals.log_prob_N[:200].tolist() == pytest.approx(log_probs)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_the_mean_path_entropy_is_the_entropy(space: Space) -> None:
    controller = grown(space, EvolutionConfig(4, 2), [0.1, 0.4, 0.4, 0.2])
    probabilities = exact(controller)
    entropy = -sum(p * math.log(p) for p in probabilities.values())
    every_NL = torch.tensor(list(probabilities))
    logits_NLK = controller._logits(every_NL)
    entropies_N = -(logits_NLK.softmax(-1) * logits_NLK.log_softmax(-1).nan_to_num(neginf=0.0)).sum((1, 2))
    mean = sum(p * e for p, e in zip(probabilities.values(), entropies_N.tolist(), strict=True))
    assert mean == pytest.approx(entropy)
    assert controller.propose(4000, seeded(2)).entropy_N.mean().item() == pytest.approx(entropy, rel=0.02)


def test_architectures_are_uniform_until_the_population_is_full() -> None:
    space = SPACES[1]
    controller = EvolutionController(space, EvolutionConfig(10, 3))
    for _ in range(2):
        proposals = controller.propose(5, seeded(0))
        assert proposals.log_prob_N.tolist() == pytest.approx([-math.log(space.count())] * 5)
        controller.feedback(proposals, torch.rand(5, generator=seeded(1)))
    assert controller.propose(5, seeded(0)).entropy_N.max() < 0.9 * math.log(space.count())


def test_the_oldest_die_however_good_they_were() -> None:
    space = SPACES[0]
    controller = grown(space, EvolutionConfig(4, 2), [9.0, 1.0, 2.0, 3.0])
    first_PL = controller.choices_PL.clone()
    assert controller.mode() == tuple(first_PL[0].tolist())
    proposals = controller.propose(2, seeded(3))
    logged = controller.feedback(proposals, torch.tensor([0.5, 0.25]))
    assert controller.rewards_P.tolist() == [2.0, 3.0, 0.5, 0.25]
    assert torch.equal(controller.choices_PL, torch.cat((first_PL[2:], proposals.choices_NL)))
    assert controller.mode() == tuple(first_PL[3].tolist())
    assert logged["best_reward"] == 3.0


def test_a_planted_best_architecture_is_found() -> None:
    """Of 1,536; the reward is the share of right decisions."""
    space = RecurrentSpace(4)
    planted = torch.tensor((1, 0, 1, 0, 2, 0, 3))
    controller, generator = EvolutionController(space, EvolutionConfig(20, 5)), seeded(4)
    for _ in range(60):
        proposals = controller.propose(4, generator)
        controller.feedback(proposals, (proposals.choices_NL == planted).double().mean(1))
    assert controller.mode() == tuple(planted.tolist())


def test_a_population_of_another_space_is_refused() -> None:
    saved = grown(RecurrentSpace(3), EvolutionConfig(4, 2), [1.0] * 4).state_dict()
    for other in (RecurrentSpace(4), RecurrentSpace(3, ("tanh",))):
        with pytest.raises(RunFolderError, match="does not fit"):
            EvolutionController(other, EvolutionConfig(4, 2)).load_state_dict(saved)


@pytest.mark.parametrize("setting", ["population", "tournament"])
def test_a_setting_that_makes_no_sense_is_named(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} must be at least 1, not 0"):
        EvolutionConfig(**{setting: 0})


def test_a_space_of_one_architecture_has_no_mutants() -> None:
    space = RecurrentSpace(1, ("tanh",))
    controller = grown(space, EvolutionConfig(2, 2), [1.0, 1.0])
    assert controller.propose(3, seeded(0)).choices_NL.unique().tolist() == [0]


def test_mutants_of_every_nested_architecture_are_other_architectures_of_the_space() -> None:
    every = conditional_space.probabilities()
    for parent in every:
        controller = EvolutionController(NESTED, EvolutionConfig(1, 1))
        controller.load_state_dict({"choices": torch.tensor([parent]), "rewards": torch.ones(1).double()})
        expected = mutants(NESTED, parent)
        assert expected.keys() <= every.keys() - {parent}
        assert sum(expected.values()) == pytest.approx(1.0)
        proposals = controller.propose(20, seeded(0))
        drawn = [tuple(choices) for choices in proposals.choices_NL.tolist()]
        assert proposals.log_prob_N.exp().tolist() == pytest.approx([expected[choices] for choices in drawn])


def test_a_population_with_choices_that_cannot_be_taken_is_refused() -> None:
    controller = grown(NESTED, EvolutionConfig(2, 2), [1.0, 2.0])
    for choices in (
        [0, 0, 0, 0, 0, 0, 0, 1, 2],
        [0, 1, 0, 0, 0, 0, 0, 1, 0],
    ):  # a width, and a kernel not asked for
        state = {"choices": torch.tensor([choices]), "rewards": torch.ones(1).double()}
        with pytest.raises(RunFolderError, match="does not fit"):
            controller.load_state_dict(state)
