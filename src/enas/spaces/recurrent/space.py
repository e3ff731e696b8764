"""The recurrent cells of paper §2.1: every node reads one earlier node and applies one function.

Node 0 is the input node; it reads the word x_t and the state h_{t-1}. In the paper its function is searched and it is
called node 1; in the authors' corrected code it is always tanh, comes before the searched nodes and is called node 0.
`first_label` keeps both ways of counting, so that a cell reads as in its source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import ClassVar

from enas.architecture import Architecture, Decision, Graph, GraphNode, Space
from enas.constraints import Depth, Settings
from enas.errors import ArchitectureError, ConfigError, shortened, shown
from enas.spaces.notation import number_in

FUNCTIONS = ("tanh", "relu", "identity", "sigmoid")
"""The four functions of the paper, in the order of the first released code."""
FUNCTIONS_OF_ODD_STRINGS = ("tanh", "relu", "identity", "sigmoid")
"""Function numbers in strings `f (prev f)*` of the first released code: 2N-1 tokens, as the first node has no source."""
FUNCTIONS_OF_EVEN_STRINGS = ("tanh", "relu", "sigmoid", "identity")
"""Function numbers in strings `(prev f)*` of the corrected code: 2N tokens, node 0 is a fixed tanh."""


@dataclass(frozen=True)
class RecurrentSpace(Space, Settings):
    """Cells of `nodes` searched nodes.

    With `input_function=None` (paper) the input node is the first searched node: 4^N·(N-1)! cells. With a fixed
    `input_function` (authors: tanh) it stands before them: 4^N·N! cells. The paper states its count as 4^N·N! and
    "approximately 10^15" for N = 12; what its controller samples is 4^12·11! = 669,692,775,628,800.
    """

    name: ClassVar[str] = "recurrent"

    nodes: Depth = 12
    """Searched nodes of a cell."""
    functions: tuple[str, ...] = FUNCTIONS
    """The functions that a node may have."""
    input_function: str | None = None
    """The function of an input node that stands before the searched ones; None searches the input node's too (paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [f for f in (*self.functions, self.input_function or "tanh") if f not in FUNCTIONS]
        if unknown or not self.functions or len(set(self.functions)) != len(self.functions):
            raise ConfigError(
                f"functions must be distinct names out of {', '.join(FUNCTIONS)}; "
                f"got {shortened(', '.join(self.functions))}"
                + (f" and the input function {shown(self.input_function)}" if self.input_function else "")
            )

    @property
    def total_nodes(self) -> int:
        """Nodes a cell computes, the input node included."""
        return self.nodes + (self.input_function is not None)

    @property
    def first_label(self) -> int:
        """What the input node is called: 1 in the paper, 0 in the authors' corrected code."""
        return 1 if self.input_function is None else 0

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        decisions: list[Decision] = []
        for node in range(self.total_nodes):
            label = node + self.first_label
            if node > 0:
                sources = tuple(str(j + self.first_label) for j in range(node))
                decisions.append(Decision(f"node {label} source", "source", node, sources))
            if node > 0 or self.input_function is None:
                decisions.append(Decision(f"node {label} function", "function", node, self.functions))
        return tuple(decisions)

    def sources(self, architecture: Architecture) -> tuple[int, ...]:
        """The source of nodes 1, 2, ..., as numbers counted from 0."""
        pairs = zip(architecture.choices, self.decisions, strict=True)
        return tuple(choice for choice, decision in pairs if decision.kind == "source")

    def node_functions(self, architecture: Architecture) -> tuple[str, ...]:
        """The function of every node, the input node first."""
        pairs = zip(architecture.choices, self.decisions, strict=True)
        chosen = tuple(self.functions[choice] for choice, decision in pairs if decision.kind == "function")
        return chosen if self.input_function is None else (self.input_function, *chosen)

    def loose_ends(self, architecture: Architecture) -> tuple[int, ...]:
        """Nodes that no other node reads, counted from 0 (paper §2.1, step 5)."""
        read = set(self.sources(architecture))
        return tuple(node for node in range(self.total_nodes) if node not in read)

    def build(self, sources: tuple[int, ...], functions: tuple[str, ...]) -> Architecture:
        """The architecture with these sources (nodes 1, 2, ...) and functions (searched ones only, in node order)."""
        unknown = sorted(set(functions) - set(self.functions))
        if unknown:
            raise ArchitectureError(
                f"function {shortened(', '.join(unknown))} is not in this space; it has {', '.join(self.functions)}"
            )
        if (len(sources), len(functions)) != (self.total_nodes - 1, self.nodes):
            amount = "many" if len(functions) > self.nodes else "few"
            raise ArchitectureError(f"too {amount} nodes for a space of {self.nodes} searched nodes")
        numbers = [self.functions.index(function) for function in functions]
        of_input = self.nodes - len(sources)  # whether the input node's function is among them
        pairs = zip(sources, numbers[of_input:], strict=True)
        return self.architecture([*numbers[:of_input], *chain.from_iterable(pairs)])

    def format(self, architecture: Architecture) -> str:
        """For example `tanh tanh(1) relu(2)`: each node's function, with the label of the node it reads."""
        first, *functions = self.node_functions(architecture)
        pairs = zip(functions, self.sources(architecture), strict=True)
        return " ".join([first, *(f"{f}({j + self.first_label})" for f, j in pairs)])

    def parse(self, text: str) -> Architecture:
        """Read `format`'s notation, or the authors' numbers: `f (prev f)*` or, with a fixed input node, `(prev f)*`.

        Raises `ArchitectureError` naming the word that is wrong.
        """
        words = text.replace(",", " ").split()
        if not words:
            raise ArchitectureError("the architecture string is empty")
        no_numbers = [word for word in words if not word.isdecimal()]
        if not no_numbers:
            return self._parse_numbers([number_in(word) for word in words])
        first, *rest = words
        if first.isdecimal():
            raise ArchitectureError(f"{shown(no_numbers[0])} is not a number, but the string begins with one")
        sources, functions = [], [first]
        for node, word in enumerate(rest, start=1):
            match = re.fullmatch(r"(\w+)\((\d+)\)", word)
            if match is None:
                raise ArchitectureError(
                    f"{shown(word)} is not of the form function(node), as in 'tanh tanh(1) relu(2)'"
                )
            source = number_in(match[2]) - self.first_label
            if not 0 <= source < node:
                raise ArchitectureError(
                    f"{shown(word)} is node {node + self.first_label}; it can read nodes "
                    f"{self.first_label} to {node - 1 + self.first_label} only"
                )
            functions.append(match[1])
            sources.append(source)
        if self.input_function is not None:
            if first != self.input_function:
                raise ArchitectureError(
                    f"the input node is {self.input_function} in this space, not {shown(first)}"
                )
            functions = functions[1:]
        return self.build(tuple(sources), tuple(functions))

    def _parse_numbers(self, tokens: list[int]) -> Architecture:
        odd = self.input_function is None
        expected = 2 * self.nodes - odd
        if len(tokens) != expected:
            order = "function, then source and function of each further node"
            raise ArchitectureError(
                f"{len(tokens)} numbers given; a cell of {self.nodes} searched nodes is written with {expected} numbers "
                f"({order if odd else 'source and function of each node'})"
            )
        names = FUNCTIONS_OF_ODD_STRINGS if odd else FUNCTIONS_OF_EVEN_STRINGS
        numbers, sources = (tokens[0::2], tokens[1::2]) if odd else (tokens[1::2], tokens[0::2])
        for number in numbers:
            if number >= len(names):
                raise ArchitectureError(
                    f"function number {number} is not in 0..{len(names) - 1} ({', '.join(names)})"
                )
        return self.build(tuple(sources), tuple(names[number] for number in numbers))

    def tokens(self, architecture: Architecture) -> tuple[int, ...]:
        """The architecture as the numbers of the authors' strings; the inverse of `parse` for numbers."""
        names = FUNCTIONS_OF_ODD_STRINGS if self.input_function is None else FUNCTIONS_OF_EVEN_STRINGS
        pairs = zip(architecture.choices, self.decisions, strict=True)
        return tuple(c if d.kind == "source" else names.index(self.functions[c]) for c, d in pairs)

    def graph(self, architecture: Architecture) -> Graph:
        functions = enumerate(self.node_functions(architecture))
        ends = self.loose_ends(architecture)
        nodes = (
            GraphNode("x", "x[t]", "input"),
            GraphNode("h", "h[t-1]", "input"),
            *(GraphNode(str(k), f"{k + self.first_label} {f}", "node", f) for k, f in functions),
            GraphNode("out", "h[t]" if len(ends) == 1 else "mean → h[t]", "output"),
        )
        edges = [("x", "0"), ("h", "0")]
        edges += [(str(j), str(k)) for k, j in enumerate(self.sources(architecture), start=1)]
        edges += [(str(end), "out") for end in ends]
        return Graph(f"recurrent cell {architecture.id}", nodes, tuple(edges))


def read_authors_string(text: str) -> Architecture:
    """A cell in the authors' numbers: an odd count of numbers is of the first released code, an even one of the corrected
    code. Raises `ArchitectureError` if it is neither."""
    count = len(text.replace(",", " ").split())
    input_function = None if count % 2 else "tanh"
    return RecurrentSpace(max(1, (count + 1) // 2), FUNCTIONS, input_function).parse(text)
