"""Samplers of the weight steps: fair counts are exactly equal, mixtures and the rest are what they say."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy import stats

from enas.architecture import Architecture, Space
from enas.controllers import IndependentConfig
from enas.controllers.uniform import UniformController
from enas.phases import SearchConfig
from enas.runtime.seeding import generator
from enas.samplers import Fair, FairWhereAsked, Uniform, fair
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from tests import conditional_space
from tests.test_search import PlantedWeights, calls_of, search_of

UNUSED = torch.Generator()


def counts(drawn: list[Architecture], position: int) -> list[int]:
    counter = Counter(architecture.choices[position] for architecture in drawn)
    options = len(drawn[0].space.decisions[position].options)
    return [counter[option] for option in range(options)]


@pytest.mark.parametrize("space", [RecurrentSpace(6), MacroSpace(4), MicroSpace(3)])
def test_fair_counts_are_equal_after_every_turn_and_never_differ_by_more_than_one(space: Space) -> None:
    drawn: list[Architecture] = []
    sampler = Fair(space, 0)
    for n in (1, 3, 7, 24, 25, 60):
        drawn += sampler.sample(n, UNUSED)
        for position, decision in enumerate(space.decisions):
            options = len(decision.options)
            taken = counts(drawn, position)
            assert max(taken) - min(taken) <= 1
            whole = (
                counts(drawn[: len(drawn) // options * options], position) if len(drawn) >= options else [0]
            )
            assert len(set(whole)) == 1
    assert len(drawn) == 120
    assert all(set(counts(drawn, p)) == {120 // len(d.options)} for p, d in enumerate(space.decisions))


def test_fair_orders_differ_between_decisions_turns_and_seeds() -> None:
    space = MicroSpace(2)
    first, second = (Fair(space, seed).sample(30, UNUSED) for seed in (0, 1))
    columns = [
        tuple(a.choices[p] for a in first) for p, d in enumerate(space.decisions) if d.kind == "operation"
    ]
    assert len(set(columns)) == len(columns)
    assert len({columns[0][start : start + 5] for start in range(0, 30, 5)}) > 3
    assert first != second
    assert first == Fair(space, 0).sample(30, UNUSED)


def test_fair_sampling_is_uniform_for_every_sample() -> None:
    space = RecurrentSpace(2, functions=("tanh", "relu", "identity"))
    seen = Counter(Fair(space, seed).sample(5, UNUSED)[4].choices for seed in range(900))
    assert len(seen) == space.count() == 9
    assert stats.chisquare(list(seen.values())).pvalue > 1e-4


def test_fair_goes_on_from_its_state() -> None:
    space = MicroSpace(2)
    whole = Fair(space, 3).sample(40, UNUSED)
    for split in (0, 1, 13, 20):
        first, second = Fair(space, 3), Fair(space, 3)
        begun = first.sample(split, UNUSED)
        second.load_state_dict(first.state_dict())
        assert begun + second.sample(40 - split, UNUSED) == whole


def test_uniform_sampler_is_what_the_uniform_controller_proposes() -> None:
    space = MicroSpace(2)
    expected = UniformController(space).propose(7, generator(1, "x")).architectures(space)
    assert Uniform(space, 0).sample(7, generator(1, "x")) == expected


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_steps_explore_their_share_and_follow_the_policy_otherwise(tmp_path: Path, share: float) -> None:
    config = SearchConfig(epochs=1, explore=share, samples=2, exploration="fair")
    search = search_of(tmp_path, config, PlantedWeights((1000,)), IndependentConfig())
    assert isinstance(search.explorer, Fair)
    for step in range(1000):
        before, paths = search.explorer.sampled, search.paths(0, step)
        if search.explorer.sampled == before:
            draw = generator(0, "weights", 0, step)
            torch.rand((), generator=draw)  # which of the two it is
            assert paths == search.controller.propose(2, draw).architectures(search.weights.space)
    assert abs(search.explorer.sampled / 2000 - share) < 0.06 if 0 < share < 1 else True
    assert share not in (0, 1) or search.explorer.sampled == 2000 * share


def test_fair_warm_up_trains_every_option_equally_often(tmp_path: Path) -> None:
    steps, epochs, samples = 15, 4, 2  # 120 architectures
    config = SearchConfig(epochs=epochs, warmup=1.0, updates=1, samples=samples, exploration="fair")
    search = search_of(tmp_path, config, PlantedWeights((steps,)))
    for epoch in range(epochs):
        for step in range(steps):
            search.train_weights(epoch, step)
    drawn = [a for kind, _, _, architectures in calls_of(search) if kind == "weights" for a in architectures]
    for position, decision in enumerate(search.weights.space.decisions):
        assert counts(drawn, position) == [120 // len(decision.options)] * len(decision.options)


def test_fair_counts_of_decisions_that_are_asked_never_differ_by_more_than_one() -> None:
    space = conditional_space.SPACE
    sampler = fair(space, 0)
    assert isinstance(sampler, FairWhereAsked)
    assert isinstance(fair(MicroSpace(2), 0), Fair)
    drawn = sampler.sample(400, UNUSED)
    for n in (1, 2, 7, 50, 399, 400):
        for position, decision in enumerate(space.decisions[:-1]):
            asking = [a for a in drawn[:n] if conditional_space.asked(a.choices)[position]]
            taken = counts(asking, position) if asking else [0] * len(decision.options)
            assert max(taken) - min(taken) <= 1
            assert n < 50 or min(taken) > 0
    widths = counts(
        drawn, len(space.decisions) - 1
    )  # one of three is not to be had with a third of the blocks
    assert max(widths) - min(widths) <= 3


def test_fair_orders_of_a_conditional_space_differ_and_go_on_from_their_state() -> None:
    space = conditional_space.SPACE
    whole = fair(space, 3).sample(60, UNUSED)
    assert whole != fair(space, 4).sample(60, UNUSED)
    assert len({tuple(a.choices[0] for a in whole[start : start + 3]) for start in range(0, 60, 3)}) > 3
    for split in (0, 1, 13, 20):
        first, second = fair(space, 3), fair(space, 3)
        begun = first.sample(split, UNUSED)
        state = first.state_dict()
        second.load_state_dict(state)
        first.sample(5, UNUSED)  # leaves the state alone
        assert begun + second.sample(60 - split, UNUSED) == whole
        third = fair(space, 3)
        third.load_state_dict(state)
        assert begun + third.sample(60 - split, UNUSED) == whole
