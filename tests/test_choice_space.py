"""The space of a network with choices: exact counts by three ways, uniform sets of tensors, strings, JSON, bad input."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import scipy.stats
import torch
from torch import nn

from enas.architecture import Architecture
from enas.choices import Choice, Inputs, SharedDecision, space_of
from enas.controllers import EvolutionConfig, IndependentConfig, LSTMConfig, UniformConfig, build_controller
from enas.errors import ArchitectureError, ConfigError
from enas.report.drawing import text_for
from enas.spaces import architecture_from_json, space_from_json
from enas.spaces.choices.space import ChoiceSpace, OneOf, SomeOf

NESTED = ChoiceSpace(
    (
        OneOf("mix", ("conv3", "block", "idle"), parameter_free=("idle",)),
        OneOf("mix.block.act", ("relu", "more"), when=((("mix", "block"),),)),
        OneOf(
            "deep", ("a", "b", "c"), when=((("mix", "block"), ("mix.block.act", "more")), (("mix", "idle"),))
        ),
        SomeOf("skip", 3, 1, 2, when=((("mix", "conv3"),),)),
    )
)
"""conv3 with C(3,1) + C(3,2) = 6 sets; block with relu, or with more and 3; idle with 3."""


# ---- random networks against what asks in them -----------------------------------------------------------------------


class RandomNets:
    """Small networks whose choices are nested, and share decisions."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.handles: dict[object, list[SharedDecision]] = {}

    def decision(self, key: object) -> SharedDecision:
        """A decision of its own, or now and then one of a question of the same kind."""
        known = self.handles.setdefault(key, [])
        if known and self.rng.random() < 0.3:
            return self.rng.choice(known)
        known.append(SharedDecision())
        return known[-1]

    def block(self, depth: int) -> nn.Module:
        if depth == 0 or self.rng.random() < 0.2:
            return nn.Identity()
        kind = self.rng.choice(["choice", "choice", "inputs", "row"])
        if kind == "row":
            return nn.Sequential(*(self.block(depth - 1) for _ in range(self.rng.randint(1, 3))))
        if kind == "choice":
            names = "abc"[: self.rng.randint(1, 3)]
            return Choice({name: self.block(depth - 1) for name in names}, self.decision(names))
        n = self.rng.randint(1, 3)
        low = self.rng.randint(0, n)
        high = self.rng.randint(low, n)
        return Inputs(n, at_least=low, at_most=high, decision=self.decision((n, low, high)))

    def net(self) -> nn.Module:
        return nn.Sequential(*(self.block(3) for _ in range(3)))


def answers(module: Choice | Inputs) -> list[object]:
    """What a module may answer, in its own terms."""
    if isinstance(module, Choice):
        return [name for name, _ in module.named_children()]
    sizes = range(module.at_least, module.at_most + 1)
    return [part for size in sizes for part in itertools.combinations(range(module.n), size)]


def asked(module: nn.Module, given: dict[SharedDecision, object]) -> Iterator[tuple[SharedDecision, object]]:
    """What is asked on the path of these answers."""
    if isinstance(module, Choice | Inputs):
        yield module.decision, given[module.decision]
    inner = [getattr(module, given[module.decision])] if isinstance(module, Choice) else module.children()
    for child in inner:
        yield from asked(child, given)


def brute_force(net: nn.Module) -> int:
    """All combinations of answers, without those that differ only in what is not asked."""
    modules = {m.decision: m for m in net.modules() if isinstance(m, Choice | Inputs)}
    combinations = itertools.product(*(answers(module) for module in modules.values()))
    return len({frozenset(asked(net, dict(zip(modules, each, strict=True)))) for each in combinations})


def size(net: nn.Module) -> int:
    modules = {m.decision: m for m in net.modules() if isinstance(m, Choice | Inputs)}
    return math.prod(len(answers(module)) for module in modules.values())


def random_spaces() -> Iterator[tuple[nn.Module, ChoiceSpace]]:
    for seed in range(400):
        net = RandomNets(seed).net()
        if 1 < size(net) <= 600:
            with contextlib.suppress(ConfigError):  # shared decisions that are nested in each other
                yield net, space_of(net)


def test_count_enumeration_and_brute_force_agree_on_random_networks() -> None:
    tried = nested = shared = 0
    for net, space in random_spaces():
        every = list(space.enumerate())
        assert space.count() == len(every) == len(set(every)) == brute_force(net), space
        tried += 1
        nested += any(len(pairs) > 1 for question in space.questions for pairs in question.when)
        shared += any(len(question.when) > 1 for question in space.questions)
    assert tried > 150
    assert nested > 30
    assert shared > 5


def test_weights_sum_to_one_and_active_decisions_are_those_that_are_open() -> None:
    rng = random.Random(0)
    for _, space in itertools.islice(random_spaces(), 60):
        for _ in range(5):
            architecture = space.sample(rng)
            for place, active in enumerate(space.active(architecture.choices)):
                weights = space.weights(architecture.choices[:place])
                assert math.isclose(sum(weights), 1, abs_tol=1e-12)
                assert min(weights) >= 0
                if space.conditional:
                    assert active == (sum(weight > 0 for weight in weights) > 1)


def test_strings_and_json_of_random_networks_read_back() -> None:
    rng = random.Random(0)
    for _, space in itertools.islice(random_spaces(), 60):
        assert space_from_json(json.loads(json.dumps(space.to_json()))) == space
        for _ in range(5):
            architecture = space.sample(rng)
            assert space.parse(str(architecture)) == architecture
            again = architecture_from_json(json.loads(json.dumps(architecture.to_json())))
            assert (again, again.id) == (architecture, architecture.id)


def test_every_controller_proposes_architectures_of_random_networks_and_learns() -> None:
    configs = (
        UniformConfig(),
        EvolutionConfig(population=4, tournament=2),
        IndependentConfig(),
        LSTMConfig(hidden=8),
    )
    generator = torch.Generator().manual_seed(0)
    for (_, space), config in itertools.product(itertools.islice(random_spaces(), 15), configs):
        controller = build_controller(config, space, seed=0)
        for _ in range(2):
            proposals = controller.propose(6, generator)
            for choices, architecture in zip(
                proposals.choices_NL.tolist(), proposals.architectures(space), strict=True
            ):
                assert architecture.choices == tuple(choices)  # nothing that is not asked
            controller.feedback(proposals, torch.rand(6, generator=generator))
        assert space.architecture(controller.mode()).choices == tuple(controller.mode())


# ---- one space by hand -----------------------------------------------------------------------------------------------


def test_the_count_by_hand() -> None:
    assert NESTED.count() == 6 + (1 + 3) + 3
    assert NESTED.conditional
    assert len(set(NESTED.enumerate())) == 13


def test_a_count_that_nobody_could_enumerate() -> None:
    """Twenty cells one after another, each 1 + 2·(1 + 2^10 − 1) ways; and one more that depends on all of them."""
    questions: list[OneOf | SomeOf] = []
    for cell in range(20):
        questions += [
            OneOf(f"c{cell}", ("none", "a", "b")),
            SomeOf(f"c{cell}.in", 10, 0, 10, when=(((f"c{cell}", "a"),), ((f"c{cell}", "b"),))),
        ]
    questions.append(OneOf("end", ("x", "y"), when=tuple(((f"c{cell}", "a"),) for cell in range(20))))
    without = (1 + 2**10) ** 20  # no cell takes a: the end is not asked
    assert ChoiceSpace(tuple(questions)).count() == 2 * (1 + 2 * 2**10) ** 20 - without


def test_a_space_without_conditions_is_the_product() -> None:
    space = ChoiceSpace((OneOf("a", ("x", "y")), SomeOf("s", 3, 0, 3)))
    assert not space.conditional
    assert space.count() == 16 == len(set(space.enumerate()))


def test_choices_that_are_not_asked_are_no_part_of_an_architecture() -> None:
    idle = [NESTED.architecture([2, act, 1, *skips]) for act in (0, 1) for skips in ((0, 0, 0), (1, 0, 1))]
    assert len(set(idle)) == len({architecture.id for architecture in idle}) == 1
    assert str(idle[0]) == "mix=idle deep=b"
    assert NESTED.active(idle[0].choices) == (True, False, True, False, False, False)


def test_every_set_of_tensors_is_equally_probable() -> None:
    for low, high in ((0, 4), (1, 4), (2, 3), (2, 2), (0, 1)):
        space = ChoiceSpace((SomeOf("s", 4, low, high),))
        rng = random.Random(3)
        drawn = Counter(space.sample(rng) for _ in range(50 * space.count()))
        observed = [drawn[architecture] for architecture in space.enumerate()]
        assert sum(observed) == 50 * space.count()
        assert scipy.stats.chisquare(observed).pvalue > 1e-3
        for architecture in space.enumerate():  # and exactly
            choices = architecture.choices
            chance = math.prod(space.weights(choices[:i])[choice] for i, choice in enumerate(choices))
            assert math.isclose(chance, 1 / space.count())


def test_options_without_parameters_are_known() -> None:
    mix, act, *_ = NESTED.decisions
    assert NESTED.parameter_free(mix) == ("idle",)
    assert NESTED.parameter_free(act) == NESTED.parameter_free(NESTED.decisions[-1]) == ()


def test_the_drawing_is_the_tree_of_what_is_asked() -> None:
    architecture = NESTED.parse("mix=block mix.block.act=more deep=c")
    graph = architecture.graph()
    assert [node.label for node in graph.nodes] == ["network", "mix: block", "mix.block.act: more", "deep: c"]
    assert graph.edges == (("=", "mix"), ("mix", "mix.block.act"), ("mix.block.act", "deep"))
    assert "deep: c" in text_for(graph)
    skips = NESTED.parse("mix=conv3 skip.0=yes skip.1=no skip.2=yes").graph()
    assert [node.label for node in skips.nodes] == ["network", "mix: conv3", "skip: 0, 2"]


def test_words_may_stand_in_any_order_and_forced_ones_may_be_given() -> None:
    forced = NESTED.parse("skip.2=no skip.1=yes mix=conv3 skip.0=yes")
    assert str(forced) == "mix=conv3 skip.0=yes skip.1=yes"
    assert forced == NESTED.parse(str(forced))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "mix is missing"),
        ("mix", "'mix' is no decision and its option"),
        ("mix=conv9", "mix has no option 'conv9'"),
        ("mix=conv", "did you mean 'conv3'"),
        ("mux=conv3", "did you mean 'mix'"),
        ("mix=conv3 mix=idle", "given twice"),
        ("mix=block", "mix.block.act is missing"),
        ("mix=idle deep=a mix.block.act=more", "leave it out"),
        ("mix=conv3 skip.0=no skip.1=no skip.2=no", "it can only be yes"),
    ],
)
def test_a_wrong_string_says_what_is_wrong(text: str, named: str) -> None:
    with pytest.raises(ArchitectureError, match=named.replace(".", r"\.")):
        NESTED.parse(text)


def test_an_impossible_set_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"skip\.2"):
        Architecture(ChoiceSpace((SomeOf("skip", 3, 1, 2),)), (1, 1, 0)).space.parse(
            "skip.0=yes skip.1=yes skip.2=yes"
        )


@pytest.mark.parametrize(
    ("questions", "named"),
    [
        ((), "at least one question"),
        ((OneOf("a b", ("x",)),), "word without spaces"),
        ((OneOf("a", ("x=y",)),), "word without spaces"),
        ((OneOf("a", ()),), "at least one"),
        ((OneOf("a", ("x", "x")),), "distinct"),
        ((OneOf("a", ("x",)), OneOf("a", ("y",))), "two decisions have the name 'a'"),
        ((OneOf("s.1", ("x",)), SomeOf("s", 2, 0, 2)), r"two decisions have the name 's\.1'"),
        ((SomeOf("s", 2, 2, 1),), "cannot be taken"),
        ((SomeOf("s", 2, 0, 3),), "cannot be taken"),
        ((OneOf("a", ("x",), when=((("b", "y"),),)),), "nothing asked before it"),
        ((OneOf("b", ("x",)), OneOf("a", ("x",), when=((("b", "y"),),))), "nothing asked before it"),
    ],
)
def test_questions_that_make_no_sense_are_refused(questions: tuple[OneOf | SomeOf, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ChoiceSpace(questions)


@pytest.mark.parametrize(
    "change",
    [
        {"questions": []},
        {"questions": [{"name": "a"}]},
        {"questions": [{"name": "s", "inputs": 10**9, "at_least": 0, "at_most": 1}]},
        {"questions": [{"name": "a", "options": ["x", "y"], "when": [[["b", "x"]]]}]},
        {"questions": [{"name": "a", "options": ["x", "y"], "more": 1}]},
        {"questions": "a"},
    ],
)
def test_wrong_json_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArchitectureError, match="choices space"):
        space_from_json(NESTED.to_json() | change)
