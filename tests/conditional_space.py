"""A small space whose decisions depend on earlier choices, and its architectures listed apart from the package."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from enas.architecture import Architecture, Decision, Graph, Space
from enas.errors import ArchitectureError


@dataclass(frozen=True)
class NestedSpace(Space):
    """One block of three kinds, which tensors are added after it, and how wide it all is.

    * Block b asks for a kernel, and kernel 5 for an activation; block c reads at least one of two inputs.
    * At least one of three tensors is added after the block.
    * The largest width is not to be had with block a.
    """

    name: ClassVar[str] = "nested"

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return DECISIONS

    @property
    def conditional(self) -> bool:
        return True

    def weights(self, before: Sequence[int]) -> tuple[float, ...]:
        match len(before), *before[:2]:
            case 1, 1:
                return (1 / 3, 1 / 3, 1 / 3)
            case 1, _:
                return (1.0, 0.0, 0.0)
            case 2, 1, 1:
                return (0.5, 0.5)
            case (3 | 4, 2, _):
                return at_least_one(2, before[3:])
            case (2 | 3 | 4, *_):
                return (1.0, 0.0)
            case (5 | 6 | 7, *_):
                return at_least_one(3, before[5:])
            case 8, 0, _:
                return (0.5, 0.5, 0.0)
        return (1 / 3, 1 / 3, 1 / 3)

    def count(self) -> int:
        """Blocks a, b and c with what belongs to them, and their widths; times the subsets of tensors."""
        return (1 * 2 + 4 * 3 + 3 * 3) * 7

    def format(self, architecture: Architecture) -> str:
        return " ".join(map(str, architecture.choices))

    def parse(self, text: str) -> Architecture:
        if not text.replace(" ", "").isdecimal():
            raise ArchitectureError(f"{text!r} is no row of numbers")
        return self.architecture([int(word) for word in text.split()])

    def graph(self, architecture: Architecture) -> Graph:
        return Graph("nested", (), ())

    def parameter_free(self, decision: Decision) -> tuple[str, ...]:
        return ("a",) if decision.name == "block" else ("relu",) if decision.name == "activation" else ()


DECISIONS = (
    Decision("block", "operation", 0, ("a", "b", "c")),
    Decision("kernel", "operation", 1, ("3", "5", "7")),
    Decision("activation", "function", 2, ("tanh", "relu")),
    Decision("input 0", "skip", 3, ("no", "yes")),
    Decision("input 1", "skip", 3, ("no", "yes")),
    Decision("added 0", "skip", 4, ("no", "yes")),
    Decision("added 1", "skip", 4, ("no", "yes")),
    Decision("added 2", "skip", 4, ("no", "yes")),
    Decision("width", "structure", 5, ("1", "2", "4")),
)

SPACE = NestedSpace()


def at_least_one(tensors: int, bits: Sequence[int]) -> tuple[float, float]:
    """(no, yes) for the tensor after these bits, all subsets with at least one of the tensors equally probable."""
    after = 2 ** (tensors - len(bits) - 1)  # subsets of those that are left
    no = after if any(bits) else after - 1
    return no / (no + after), after / (no + after)


def probabilities() -> dict[tuple[int, ...], float]:
    """Every architecture's choices with its probability under uniform sampling, written down from the description."""
    blocks: list[tuple[tuple[int, ...], float]] = [((0, 0, 0, 0, 0), 1 / 3)]
    blocks += [((1, 0, 0, 0, 0), 1 / 9), ((1, 2, 0, 0, 0), 1 / 9)]
    blocks += [((1, 1, activation, 0, 0), 1 / 18) for activation in (0, 1)]
    blocks += [((2, 0, 0, *bits), 1 / 9) for bits in ((0, 1), (1, 0), (1, 1))]
    added = [bits for bits in itertools.product((0, 1), repeat=3) if any(bits)]
    return {
        (*block, *bits, width): share / 7 / (2 if block[0] == 0 else 3)
        for block, share in blocks
        for bits in added
        for width in range(2 if block[0] == 0 else 3)
    }


def asked(choices: Sequence[int]) -> tuple[bool, ...]:
    """Which decisions the description asks of an architecture with these choices."""
    block, kernel, _, input_0, _, added_0, added_1, *_ = choices
    c, some = block == 2, bool(added_0 or added_1)
    return True, block == 1, block == 1 and kernel == 1, c, c and bool(input_0), True, True, some, True


def samples(count: int, seed: int = 0) -> list[Architecture]:
    """Uniformly sampled architectures."""
    rng = random.Random(seed)
    return [SPACE.sample(rng) for _ in range(count)]


def ways(listed: set[tuple[int, ...]], path: tuple[int, ...]) -> int:
    """How many options the listed architectures have at each step of one of them, multiplied."""
    options = [
        {other[place] for other in listed if other[:place] == path[:place]} for place in range(len(path))
    ]
    return math.prod(map(len, options))
