"""Spaces with decisions that are not always asked: each architecture once, whatever stands where nothing is asked."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import scipy.stats

from enas.architecture import Architecture
from enas.errors import ArchitectureError
from enas.spaces.macro.space import MacroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from tests.conditional_space import SPACE, asked, probabilities, samples


def test_enumeration_gives_each_architecture_once_and_in_order() -> None:
    every = [architecture.choices for architecture in SPACE.enumerate()]
    assert every == sorted(probabilities())
    assert len(every) == SPACE.count() == 161
    assert len({architecture.id for architecture in SPACE.enumerate()}) == 161


def test_samples_have_the_probabilities_of_the_weights() -> None:
    drawn = Counter(architecture.choices for architecture in samples(20_000))
    assert drawn.keys() <= probabilities().keys()
    expected = [20_000 * p for p in probabilities().values()]
    assert scipy.stats.chisquare([drawn[c] for c in probabilities()], expected).pvalue > 1e-3


def test_what_is_active_is_what_the_description_asks() -> None:
    for architecture in SPACE.enumerate():
        assert SPACE.active(architecture.choices) == asked(architecture.choices)


def test_architectures_that_differ_only_where_nothing_is_asked_are_one() -> None:
    """Of all tuples of choices, those that can be taken come to the enumerated architectures."""
    found: Counter[Architecture] = Counter()
    for choices in itertools.product(*(range(len(d.options)) for d in SPACE.decisions)):
        if choices[0] == 0 and choices[-1] == 2:
            with pytest.raises(ArchitectureError, match=r"width: 4 cannot be taken .*only 1, 2"):
                SPACE.architecture(choices)
        else:
            found[SPACE.architecture(choices)] += 1
    assert found.keys() == set(SPACE.enumerate())
    for architecture, times in found.items():
        open_ = [
            len(d.options) for d, a in zip(SPACE.decisions, asked(architecture.choices), strict=True) if not a
        ]
        spellings = 1
        for options in open_:
            spellings *= options
        assert times == spellings
    one, other = (
        SPACE.architecture([0, 2, 1, 1, 1, 0, 0, 0, 1]),
        SPACE.architecture([0, 0, 0, 0, 0, 0, 0, 1, 1]),
    )
    assert one == other
    assert one.id == other.id
    assert hash(one) == hash(other)
    assert one.to_json()["choices"] == [0, 0, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("choices", [[0] * 8, [0, 3, 0, 0, 0, 0, 0, 1, 0]])
def test_choices_that_no_decision_has_are_refused_wherever_they_stand(choices: list[int]) -> None:
    with pytest.raises(ArchitectureError, match=r"8 choices given|kernel: choice 3 is not in 0\.\.2"):
        SPACE.architecture(choices)


@pytest.mark.parametrize("space", [RecurrentSpace(3), MacroSpace(3)])
def test_every_decision_of_a_product_is_asked_and_its_options_weigh_the_same(
    space: RecurrentSpace | MacroSpace,
) -> None:
    assert not space.conditional
    for architecture in space.enumerate():
        assert all(space.active(architecture.choices))
    for place, decision in enumerate(space.decisions):
        assert space.weights((0,) * place) == (1 / len(decision.options),) * len(decision.options)
