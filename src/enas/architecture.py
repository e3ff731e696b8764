"""Decisions, spaces and architectures: the values that travel between the stages. No torch in here.

A `Space` is an ordered tuple of `Decision`s. Where a decision's options never depend on earlier choices, a space is the
product of its decisions: counting, enumerating and sampling need nothing else. In a *conditional* space they may depend:
`weights` says what can be taken after the choices before, and how probable uniform sampling makes it. A decision of which
only one option can be taken is *inactive*: it says nothing, and every architecture carries that option there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import operator
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

from enas.errors import ArchitectureError, ConfigError, shortened, shown

Kind = Literal["source", "function", "operation", "skip", "structure"]
"""What a decision asks: an earlier node to read; a node's function or operation; whether to take one skip connection; or
which of several graphs joins all nodes."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One question an architecture answers.

    A decision of kind `source` offers nodes 0, 1, ... in order, so that its choice is the number of the node.
    """

    name: str
    kind: Kind
    node: int
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A box of a drawing."""

    key: str
    label: str
    role: Literal["input", "node", "sum", "output"]
    """A `sum` adds what it reads; a `node` computes something of its own."""
    kind: str = ""
    """Its function or operation, which a drawing gives a colour."""
    group: str = ""
    """What part of the drawing it belongs to, in words: one of several cells, or a stage of a network."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What an architecture computes, as boxes and arrows (source key, target key): all that a drawing needs."""

    title: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Space(ABC):
    """What may be chosen. Subclasses are frozen dataclasses whose fields are the space's JSON form.

    A subclass says how an architecture is written and read; everything countable is defined here, once.
    """

    name: ClassVar[str]

    @classmethod
    def of(cls, architecture: Architecture) -> Self:
        """The space of an architecture. Raises `ConfigError` if it is not a space of this class."""
        if not isinstance(architecture.space, cls):
            raise ConfigError(
                f"an architecture of the {cls.name} space is needed here, not one of the {architecture.space.name} space"
            )
        return architecture.space

    @property
    @abstractmethod
    def decisions(self) -> tuple[Decision, ...]:
        """The questions, in the order a controller answers them."""

    @abstractmethod
    def format(self, architecture: Architecture) -> str:
        """The architecture as one line that `parse` reads back."""

    @abstractmethod
    def parse(self, text: str) -> Architecture:
        """Read an architecture written by `format`, or in one of the authors' notations.

        Raises `ArchitectureError` naming the part that is wrong.
        """

    @abstractmethod
    def graph(self, architecture: Architecture) -> Graph:
        """The architecture as boxes and arrows."""

    def to_json(self) -> dict[str, Any]:
        """The space as plain values; `enas.spaces.space_from_json` reads it back."""
        values = asdict(self).items()
        return {"name": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in values}

    def parameter_free(self, decision: Decision) -> tuple[str, ...]:
        """The options of a decision that have no weights to train, such as identity and pooling; none by default.

        Shared weights favour them early, as there is nothing in them to learn; a policy that takes little else has
        collapsed (Zela et al. 2020; Liang et al. 2019, "DARTS+").
        """
        return ()

    @property
    def conditional(self) -> bool:
        """Whether what can be taken depends on the choices before it. Such a space has `weights` and `count` of its own."""
        return False

    def weights(self, before: Sequence[int]) -> tuple[float, ...]:
        """How probable uniform sampling makes each option of decision number len(before), given the choices before it.

        Never negative, and their sum is 1; 0 for an option that cannot be taken.
        """
        count = len(self.decisions[len(before)].options)
        return (1 / count,) * count

    def active(self, choices: Sequence[int]) -> tuple[bool, ...]:
        """Which decisions of an architecture with these choices are asked: all, unless the space is conditional."""
        if not self.conditional:
            return (True,) * len(choices)
        return tuple(
            sum(weight > 0 for weight in self.weights(choices[:place])) > 1 for place in range(len(choices))
        )

    def reduced(self, architecture: Architecture) -> Architecture:
        """The architecture without what has no part in its output: itself, unless the space says otherwise."""
        return architecture

    def count(self) -> int:
        """The exact number of architectures: the product of the numbers of options.

        A conditional space has to count for itself; raises `NotImplementedError` if it does not.
        """
        if self.conditional:
            raise NotImplementedError(f"{type(self).__name__} is conditional: it needs a count() of its own")
        return math.prod(len(decision.options) for decision in self.decisions)

    def architecture(self, choices: Sequence[int]) -> Architecture:
        """The architecture of these choices, whole numbers, one a decision.

        Raises `ArchitectureError` if they are not in the space.
        """
        return Architecture(self, tuple(_whole(choice) for choice in choices))

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture once, the last decision varying fastest. Meant for spaces that are small."""
        if self.conditional:
            return self._paths()
        options = (range(len(decision.options)) for decision in self.decisions)
        return (Architecture(self, choices) for choices in itertools.product(*options))

    def _paths(self) -> Iterator[Architecture]:
        """Every path through the decisions along options of some weight."""
        begun: list[tuple[int, ...]] = [()]
        while begun:
            before = begun.pop()
            if len(before) == len(self.decisions):
                yield Architecture(self, before)
            else:
                possible = [choice for choice, weight in enumerate(self.weights(before)) if weight > 0]
                begun += [(*before, choice) for choice in reversed(possible)]

    def sample(self, rng: random.Random) -> Architecture:
        """One architecture, uniformly: every decision drawn uniformly among its options; in a conditional space one
        decision after another by `weights`."""
        if not self.conditional:
            return Architecture(
                self, tuple(rng.randrange(len(decision.options)) for decision in self.decisions)
            )
        choices: list[int] = []
        for decision in self.decisions:
            choices += rng.choices(range(len(decision.options)), self.weights(choices))
        return Architecture(self, tuple(choices))


def _whole(choice: Any) -> int:
    """A whole number of any type as a plain `int`."""
    try:
        if not isinstance(choice, bool):
            return operator.index(choice)
    except TypeError:
        pass
    raise ArchitectureError(f"the choice {shown(choice)} is no whole number")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One full, valid set of choices: `choices[i]` is the option taken at `space.decisions[i]`.

    At an inactive decision it is the only one possible, whatever was given: architectures that differ only there are equal.
    """

    space: Space
    choices: tuple[int, ...]

    def __post_init__(self) -> None:
        decisions = self.space.decisions
        if len(self.choices) != len(decisions):
            raise ArchitectureError(
                f"{len(self.choices)} choices given, but the {self.space.name} space has {len(decisions)} decisions"
            )
        for choice, decision in zip(self.choices, decisions, strict=True):
            if not 0 <= choice < len(decision.options):
                last, options = len(decision.options) - 1, shortened(", ".join(decision.options), 120)
                raise ArchitectureError(
                    f"{decision.name}: choice {shown(choice)} is not in 0..{last} ({options})"
                )
        if self.space.conditional:
            object.__setattr__(self, "choices", self._along_weights())

    def _along_weights(self) -> tuple[int, ...]:
        """The choices, with the only possible one at inactive decisions.

        Raises `ArchitectureError` where one cannot be taken after those before it.
        """
        taken: tuple[int, ...] = ()
        for choice, decision in zip(self.choices, self.space.decisions, strict=True):
            possible = [option for option, weight in enumerate(self.space.weights(taken)) if weight > 0]
            if len(possible) > 1 and choice not in possible:
                names = shortened(", ".join(decision.options[option] for option in possible), 120)
                raise ArchitectureError(
                    f"{decision.name}: {decision.options[choice]} cannot be taken after the choices before it, only {names}"
                )
            taken += (choice if len(possible) > 1 else possible[0],)
        return taken

    def __str__(self) -> str:
        return self.space.format(self)

    @property
    def id(self) -> str:
        """Eight hexadecimal digits that name this architecture in file names and tables."""
        canonical = json.dumps([self.space.to_json(), self.choices], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    def graph(self) -> Graph:
        """The architecture as boxes and arrows."""
        return self.space.graph(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the space, the choices, and the same in words for a person."""
        return {
            "id": self.id,
            "space": self.space.to_json(),
            "choices": list(self.choices),
            "text": str(self),
        }
