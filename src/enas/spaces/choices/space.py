"""What may be chosen in a network of the user's own: the questions that its modules ask (`enas.choices`). No torch in here.

A question is one decision (`OneOf`), or it asks which of n tensors to take and is n decisions (`SomeOf`). A question inside
an option is asked only where that option is taken.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate
from typing import Any, ClassVar, Literal

from enas.architecture import Architecture, Decision, Graph, GraphNode, Space
from enas.constraints import Depth, Settings
from enas.errors import ArchitectureError, ConfigError, did_you_mean, shortened, shown

When = tuple[tuple[tuple[str, str], ...], ...]
"""When a question is asked: where of any of these lists of (question, option), the outermost first, all are taken."""
ALWAYS: When = ((),)

Literals = frozenset[tuple[int, int]]
"""(decision, choice) pairs that must all hold."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """A question with one answer."""

    name: str
    options: tuple[str, ...]
    when: When = ALWAYS
    kind: Literal["operation", "source"] = "operation"
    """Whether it asks for an option of a module, or for one of several tensors, which are numbered from 0."""
    parameter_free: tuple[str, ...] = ()
    """Options that have no weights to train."""

    @property
    def decisions(self) -> tuple[str, ...]:
        """Their names."""
        return (self.name,)

    @property
    def ways(self) -> int:
        """How many answers there are."""
        return len(self.options)


@dataclass(frozen=True, slots=True)
class SomeOf:
    """A question for a part of `inputs` tensors, at least and at most so many of them. Each is a decision, no or yes."""

    name: str
    inputs: Depth
    at_least: int
    at_most: int
    when: When = ALWAYS

    options: ClassVar[tuple[str, ...]] = ("no", "yes")
    kind: ClassVar[Literal["skip"]] = "skip"

    @property
    def decisions(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"{self.name}.{number}" for number in range(self.inputs))

    @property
    def ways(self) -> int:
        """How many answers there are."""
        return self.ways_after(0, 0)

    def ways_after(self, answered: int, taken: int) -> int:
        """How many answers there are once so many of the tensors were answered, and so many of them taken."""
        return subsets(self.inputs - answered, self.at_least - taken, self.at_most - taken)


Question = OneOf | SomeOf


@dataclass(frozen=True)
class ChoiceSpace(Space, Settings):
    """All architectures of a network with choices, as `enas.choices.space_of` reads it off the network.

    Uniform sampling takes every option of a question alike, and every possible set of tensors alike.
    """

    name: ClassVar[str] = "choices"

    questions: tuple[Question, ...]
    """Each after those that it depends on."""

    def __post_init__(self) -> None:
        """Raises `ConfigError` naming the question that makes no sense."""
        super().__post_init__()
        if not self.questions:
            raise ConfigError("a space needs at least one question")
        earlier: dict[str, Question] = {}
        names: set[str] = set()
        for question in self.questions:
            check_question(question, earlier)
            twice = names & {question.name, *question.decisions}
            if twice:
                raise ConfigError(
                    f"two decisions have the name {shown(min(twice))}; every name must be its own"
                )
            names |= {question.name, *question.decisions}
            earlier[question.name] = question

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(
            Decision(name, question.kind, number, question.options)
            for number, question in enumerate(self.questions)
            for name in question.decisions
        )

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """The number of the first decision of every question."""
        counts = [len(question.decisions) for question in self.questions]
        return tuple(accumulate(counts[:-1], initial=0))

    @cached_property
    def _whens(self) -> tuple[frozenset[Literals], ...]:
        """When each question is asked, by the numbers of decisions and options."""
        place = {
            question.name: (first, question.options)
            for question, first in zip(self.questions, self.firsts, strict=True)
        }

        def literal(name: str, option: str) -> tuple[int, int]:
            first, options = place[name]
            return first, options.index(option)

        return tuple(
            frozenset(frozenset(literal(*pair) for pair in pairs) for pairs in question.when)
            for question in self.questions
        )

    @cached_property
    def conditional(self) -> bool:
        """Whether a question depends on another one, or a set of tensors has bounds."""
        return any(
            question.when != ALWAYS or (isinstance(question, SomeOf) and question.ways < 2**question.inputs)
            for question in self.questions
        )

    def asked(self, number: int, choices: Sequence[int]) -> bool:
        """Whether question `number` is asked where these are the choices before it, or all of them."""
        return any(all(choices[d] == o for d, o in literals) for literals in self._whens[number])

    def weights(self, before: Sequence[int]) -> tuple[float, ...]:
        """How probable uniform sampling makes each option of the next decision, after these choices."""
        decision = self.decisions[len(before)]
        question = self.questions[decision.node]
        if not self.asked(decision.node, before):
            return (1.0, *(0.0 for _ in question.options[1:]))
        if isinstance(question, OneOf):
            return (1 / question.ways,) * question.ways
        answered = len(before) - self.firsts[decision.node]
        taken = sum(before[len(before) - answered :])
        ways = [question.ways_after(answered + 1, taken + more) for more in (0, 1)]
        return tuple(one / sum(ways) for one in ways)

    def count(self) -> int:
        """The exact number of architectures, without enumerating them.

        The questions are answered in their order. Answers that leave the same to be asked are counted together.
        """
        dependent: dict[int, list[int]] = {}
        for number, when in enumerate(self._whens):
            for decision in {decision for literals in when for decision, _ in literals}:
                dependent.setdefault(decision, []).append(number)
        # What is known about later questions, of those that depend on an answer that was given -> in how many ways.
        counts: Counter[frozenset[tuple[int, frozenset[Literals]]]] = Counter({frozenset(): 1})
        for number, (question, first) in enumerate(zip(self.questions, self.firsts, strict=True)):
            following: Counter[frozenset[tuple[int, frozenset[Literals]]]] = Counter()
            for known, ways in counts.items():
                whens = dict(known)
                asked = frozenset() in whens.pop(number, self._whens[number])
                if isinstance(question, SomeOf):
                    following[frozenset(whens.items())] += ways * (question.ways if asked else 1)
                    continue
                for option in range(question.ways if asked else 1):
                    narrowed = {
                        later: after(whens.get(later, self._whens[later]), first, option)
                        for later in dependent.get(first, ())
                    }
                    following[frozenset((whens | narrowed).items())] += ways
            counts = following
        return counts.total()

    def parameter_free(self, decision: Decision) -> tuple[str, ...]:
        question = self.questions[decision.node]
        return question.parameter_free if isinstance(question, OneOf) else ()

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(json.dumps(super().to_json()))  # lists, not tuples, at any depth
        return values

    def asks_as(self, other: ChoiceSpace) -> bool:
        """Whether both ask the same. A network that is a part of another one, as of an average, has shorter names."""
        if self == other:
            return True
        pairs = list(zip(self.questions, other.questions, strict=False))
        return (
            len(self.questions) == len(other.questions)
            and self._whens == other._whens
            and all(replace(a, name="", when=()) == replace(b, name="", when=()) for a, b in pairs)
            and all(
                f".{a.name}".endswith(f".{b.name}") or f".{b.name}".endswith(f".{a.name}") for a, b in pairs
            )
        )

    def format(self, architecture: Architecture) -> str:
        """The decisions that are open, with what is taken, as in `mix=conv3 skip.0=yes`."""
        return " ".join(
            f"{decision.name}={decision.options[choice]}"
            for decision, choice, active in zip(
                self.decisions, architecture.choices, self.active(architecture.choices), strict=True
            )
            if active
        )

    def parse(self, text: str) -> Architecture:
        """Read `format`'s notation, in any order. Raises `ArchitectureError` naming the word that is wrong."""
        given = self._words(text)
        choices: list[int] = []
        for decision in self.decisions:
            possible = [option for option, weight in enumerate(self.weights(choices)) if weight > 0]
            option = given.get(decision.name, decision.options[possible[0]] if len(possible) == 1 else None)
            if option is None:
                raise ArchitectureError(
                    f"{decision.name} is missing: give one of {', '.join(decision.options)}"
                )
            if option not in decision.options:
                raise ArchitectureError(
                    f"{did_you_mean(option, decision.options)}{decision.name} has no option {shown(option)}; it has "
                    f"{shortened(', '.join(decision.options), 120)}"
                )
            choice = decision.options.index(option)
            if choice not in possible:
                only = decision.options[possible[0]]
                raise ArchitectureError(
                    f"{decision.name}={option} is not possible after {self._said(choices) or 'nothing'}: "
                    + ("leave it out" if not self.asked(decision.node, choices) else f"it can only be {only}")
                )
            choices.append(choice)
        return self.architecture(choices)

    def _words(self, text: str) -> dict[str, str]:
        """The option of every decision that is given."""
        known = [decision.name for decision in self.decisions]
        given: dict[str, str] = {}
        for word in text.split():
            name, equals, option = word.partition("=")
            if not equals:
                raise ArchitectureError(
                    f"{shown(word)} is no decision and its option, as in '{known[0]}=...'"
                )
            if name not in known:
                raise ArchitectureError(
                    f"{did_you_mean(name, known)}{shown(name)} is no decision of this network; it has "
                    f"{shortened(', '.join(known), 120)}"
                )
            if name in given:
                raise ArchitectureError(f"{name} is given twice")
            given[name] = option
        return given

    def _said(self, choices: Sequence[int]) -> str:
        """The last choices in words, for a message."""
        pairs = list(zip(self.decisions, choices, strict=False))[-3:]
        return " ".join(f"{decision.name}={decision.options[choice]}" for decision, choice in pairs)

    def graph(self, architecture: Architecture) -> Graph:
        """A tree: a box for every question that is asked, with its answer, below the option that asks it."""
        choices, root = architecture.choices, "="  # what no name has in it
        boxes, arrows = [GraphNode(root, "network", "input")], []
        taken = {
            (question.name, question.options[choices[first]])
            for question, first in zip(self.questions, self.firsts, strict=True)
        }
        for number, (question, first) in enumerate(zip(self.questions, self.firsts, strict=True)):
            if self.asked(number, choices):
                answer = answer_of(question, choices[first : first + len(question.decisions)])
                boxes.append(GraphNode(question.name, f"{question.name}: {answer}", "node", answer))
                askers = [pairs for pairs in question.when if taken.issuperset(pairs)]
                arrows += [(pairs[-1][0] if pairs else root, question.name) for pairs in askers]
        return Graph(f"network {architecture.id}", tuple(boxes), tuple(dict.fromkeys(arrows)))


@cache
def subsets(size: int, at_least: int, at_most: int) -> int:
    """How many subsets of so many things have a size within the bounds."""
    return sum(math.comb(size, taken) for taken in range(max(at_least, 0), min(at_most, size) + 1))


def answer_of(question: Question, choices: Sequence[int]) -> str:
    """What is taken, in words."""
    if isinstance(question, OneOf):
        return question.options[choices[0]]
    return ", ".join(str(number) for number, taken in enumerate(choices) if taken) or "none"


def after(when: Iterable[Literals], decision: int, choice: int) -> frozenset[Literals]:
    """What is left of a condition once a decision is made: `{{}}` if it holds, `{}` if it cannot hold any more."""
    left = frozenset(
        frozenset(pair for pair in literals if pair[0] != decision)
        for literals in when
        if all(pair[0] != decision or pair[1] == choice for pair in literals)
    )
    return frozenset({frozenset()}) if frozenset() in left else left


def check_question(question: Question, earlier: Mapping[str, Question]) -> None:
    """Raise `ConfigError` for a question that makes no sense after the earlier ones."""
    check_word("the name of a decision", question.name)
    if isinstance(question, OneOf):
        if not question.options or len(set(question.options)) < len(question.options):
            raise ConfigError(
                f"{question.name}: the options must be distinct, at least one; got {question.options}"
            )
        for option in question.options:
            check_word(f"{question.name}: an option", option)
    elif not (question.inputs >= 1 and 0 <= question.at_least <= question.at_most <= question.inputs):
        raise ConfigError(
            f"{question.name}: of {question.inputs} inputs, at least {question.at_least} and at most "
            f"{question.at_most} cannot be taken; the bounds must be in 0..{question.inputs}"
        )
    for name, option in (pair for pairs in question.when for pair in pairs):
        if not isinstance(asking := earlier.get(name), OneOf) or option not in asking.options:
            raise ConfigError(
                f"{question.name} is asked after {shown(name)}={option}, which is nothing asked before it"
            )


def check_word(what: str, word: object) -> None:
    """Raise `ConfigError` unless this can stand in an architecture's line."""
    if not isinstance(word, str) or "=" in word or word.split() != [word]:
        raise ConfigError(f"{what} must be a word without spaces and without '='; got {shown(word)}")
