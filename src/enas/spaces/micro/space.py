"""Convolutional cells, paper §2.4: a normal and a reduction cell, whose nodes add two operations on earlier nodes; or one
cell that serves as both.

Nodes 0 and 1 of a cell are the outputs of the two layers before it, 0 the older and 1 the newer; the computed nodes
follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from enas.architecture import Architecture, Decision, Graph, GraphNode, Space
from enas.constraints import Depth, Settings
from enas.errors import ArchitectureError, shown
from enas.spaces.notation import check_operations, number_in, numbers_in, operation_name, operation_number

OPERATIONS = ("sep3x3", "sep5x5", "avg3x3", "max3x3", "identity")
"""Separable convolutions, pooling and identity (paper §2.4); their places are their numbers in the authors' strings."""
PARAMETER_FREE = ("avg3x3", "max3x3", "identity")
"""Those of them with nothing to learn."""
CELLS = ("normal", "reduction")
"""What the cells of a pair are called, in the order of their decisions."""
ONE_CELL = "cell"
"""What a cell that serves as both is called."""
INPUTS = 2


def titled(name: str) -> str:
    """A cell's name in a sentence: the normal cell, or the cell."""
    return name if name == ONE_CELL else f"{name} cell"


@dataclass(frozen=True, slots=True)
class Node:
    """A computed node: operation 1 of source 1, plus operation 2 of source 2."""

    source_1: int
    operation_1: str
    source_2: int
    operation_2: str

    @property
    def terms(self) -> tuple[tuple[int, str], tuple[int, str]]:
        """The two sources, each with its operation."""
        return (self.source_1, self.operation_1), (self.source_2, self.operation_2)

    def __str__(self) -> str:
        return "+".join(f"{operation}({source})" for source, operation in self.terms)


@dataclass(frozen=True, slots=True)
class Cell:
    """The computed nodes of a cell, numbers 2, 3, ...; 0 and 1 are its inputs."""

    nodes: tuple[Node, ...]

    @property
    def loose_ends(self) -> tuple[int, ...]:
        """The nodes that no other reads, an input included, ascending: what the cell's output is made of."""
        read = {source for node in self.nodes for source, _ in node.terms}
        return tuple(number for number in range(len(self.nodes) + INPUTS) if number not in read)

    def __str__(self) -> str:
        return " ".join(map(str, self.nodes))


@dataclass(frozen=True)
class MicroSpace(Space, Settings):
    """Pairs of cells of `nodes` computed nodes each (the paper's B is two more, as it counts the inputs).

    Node number n has (K·n)^2 choices with K operations. With five operations and five nodes that is
    5,062,500,000,000 a cell, and its square, 2.56 · 10^25, a pair. The paper states 1.3 · 10^11 for both cells together
    by (5·(B-2)!)^4, a formula that does not match its own description of what is sampled.

    With `one_cell` it is a space of single cells: the same cell, with weights of its own at every place, is the normal and
    the reduction cell of the network. One node and five operations make 100 of them.
    """

    name: ClassVar[str] = "micro"

    nodes: Depth = 5
    """Computed nodes of a cell."""
    operations: tuple[str, ...] = OPERATIONS
    """The operations that a node may add."""
    one_cell: bool = False
    """Whether one cell is both the normal and the reduction cell; else two are searched (paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_operations(self.operations, OPERATIONS)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """What the cells that are decided are called, in the order of their decisions."""
        return (ONE_CELL,) if self.one_cell else CELLS

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        decisions: list[Decision] = []
        for cell in self.cell_names:
            for node in range(INPUTS, INPUTS + self.nodes):
                sources = tuple(map(str, range(node)))
                decisions += [
                    Decision(f"{cell} {node} source 1", "source", node, sources),
                    Decision(f"{cell} {node} source 2", "source", node, sources),
                    Decision(f"{cell} {node} operation 1", "operation", node, self.operations),
                    Decision(f"{cell} {node} operation 2", "operation", node, self.operations),
                ]
        return tuple(decisions)

    def parameter_free(self, decision: Decision) -> tuple[str, ...]:
        return tuple(option for option in decision.options if option in PARAMETER_FREE)

    def decided(self, architecture: Architecture) -> tuple[Cell, ...]:
        """The cells that were decided, named `cell_names`."""
        quads = zip(*[iter(architecture.choices)] * 4, strict=True)
        nodes = tuple(Node(j, self.operations[f], k, self.operations[g]) for j, k, f, g in quads)
        return tuple(Cell(nodes[first : first + self.nodes]) for first in range(0, len(nodes), self.nodes))

    def cells(self, architecture: Architecture) -> tuple[Cell, Cell]:
        """The normal and the reduction cell."""
        decided = self.decided(architecture)
        return decided[0], decided[-1]

    def build(self, *cells: Cell) -> Architecture:
        """The architecture of these cells, one for each of `cell_names`.

        Raises `ArchitectureError` for what is not in this space.
        """
        choices: list[int] = []
        if len(cells) != len(self.cell_names):
            raise ArchitectureError(f"{self._needed}; cells given: {len(cells)}")
        for name, cell in zip(self.cell_names, cells, strict=True):
            if len(cell.nodes) != self.nodes:
                raise ArchitectureError(
                    f"the {titled(name)} has {len(cell.nodes)} nodes; this space has {self.nodes} a cell"
                )
            for number, node in enumerate(cell.nodes, start=INPUTS):
                if any(not 0 <= source < number for source, _ in node.terms):
                    raise ArchitectureError(
                        f"{shown(str(node))} is node {number} of the {titled(name)}; it can read nodes 0 to "
                        f"{number - 1} only"
                    )
                choices += [source for source, _ in node.terms]
                choices += [operation_number(operation, self.operations) for _, operation in node.terms]
        return self.architecture(choices)

    def format(self, architecture: Architecture) -> str:
        """For example `normal: sep3x3(0)+avg3x3(1) identity(1)+sep5x5(2) | reduction: ...`, or `cell: ...`: for each node
        its two operations, with the nodes that they read."""
        return " | ".join(
            f"{name}: {cell}" for name, cell in zip(self.cell_names, self.decided(architecture), strict=True)
        )

    def parse(self, text: str) -> Architecture:
        """Read `format`'s notation, or the authors' numbers: for each node source 1, operation 1, source 2,
        operation 2; the cells parted by `|`, `;` or a new line, or in a row.

        Raises `ArchitectureError` naming the word that is wrong.
        """
        names = self.cell_names
        parts = split_cells(text, lines=len(names) > 1)
        if not parts:
            raise ArchitectureError("the architecture string is empty")
        parted = len(parts) == len(names)
        numbers = numbers_in(" ".join(parts))
        if numbers is not None and parted:
            return self._parse_numbers([numbers_in(part) or [] for part in parts])
        if numbers is not None:  # in a row; the last cell has what is left
            size, last = 4 * self.nodes, len(names) - 1
            rows = [numbers[i * size :][:size] for i in range(last)]
            return self._parse_numbers([*rows, numbers[last * size :]])
        if not parted:
            raise ArchitectureError(f"{self._needed}; the string has parts: {len(parts)}")
        return self.build(*(self._parse_cell(name, part) for name, part in zip(names, parts, strict=True)))

    @property
    def _needed(self) -> str:
        return (
            "one cell is needed"
            if self.one_cell
            else "a normal and a reduction cell are needed, with '|' between them"
        )

    def _parse_cell(self, name: str, text: str) -> Cell:
        label, colon, rest = text.partition(":")
        if colon and label.strip() != name:
            raise ArchitectureError(f"{shown(label.strip())} stands where the {titled(name)} is expected")
        words = re.sub(r" ?\+ ?", "+", " ".join((rest if colon else text).split())).replace(",", " ").split()
        nodes = []
        for word in words:
            match = re.fullmatch(r"(\w+)\((\d+)\)\+(\w+)\((\d+)\)", word)
            if match is None:
                raise ArchitectureError(
                    f"{shown(word)} in the {titled(name)} is not of the form operation(node)+operation(node), "
                    "as in 'sep3x3(0)+avg3x3(1)'"
                )
            nodes.append(Node(number_in(match[2]), match[1], number_in(match[4]), match[3]))
        return Cell(tuple(nodes))

    def _parse_numbers(self, cells: Iterable[list[int]]) -> Architecture:
        read = []
        for name, numbers in zip(self.cell_names, cells, strict=True):
            if len(numbers) != 4 * self.nodes:
                raise ArchitectureError(
                    f"{len(numbers)} numbers for the {titled(name)}; a cell of {self.nodes} computed nodes is written "
                    f"with {4 * self.nodes} (for each node source, operation, source, operation)"
                )
            nodes = [
                Node(j, operation_name(f, OPERATIONS), k, operation_name(g, OPERATIONS))
                for j, f, k, g in zip(*[iter(numbers)] * 4, strict=True)
            ]
            read.append(Cell(tuple(nodes)))
        return self.build(*read)

    def tokens(self, architecture: Architecture) -> tuple[int, ...]:
        """The architecture as the numbers of the authors' strings, the normal cell first; the inverse of `parse` for
        numbers. A node is written as source 1, operation 1, source 2, operation 2, though both sources are decided
        before the operations."""
        return tuple(
            number
            for cell in self.decided(architecture)
            for node in cell.nodes
            for source, operation in node.terms
            for number in (source, OPERATIONS.index(operation))
        )

    def graph(self, architecture: Architecture) -> Graph:
        """The cells side by side; in each, a box for every operation and one for every sum of two."""
        nodes: list[GraphNode] = []
        edges: list[tuple[str, str]] = []
        for name, cell in zip(self.cell_names, self.decided(architecture), strict=True):
            group = titled(name)
            inputs = enumerate(("0 older input", "1 newer input"))
            nodes += [GraphNode(f"{name} {n}", label, "input", group=group) for n, label in inputs]
            for number, node in enumerate(cell.nodes, start=INPUTS):
                key = f"{name} {number}"
                for slot, (source, operation) in enumerate(node.terms, start=1):
                    term = f"{key} operation {slot}"
                    nodes.append(GraphNode(term, operation, "node", operation, group))
                    edges += [(f"{name} {source}", term), (term, key)]
                nodes.append(GraphNode(key, f"{number} add", "sum", group=group))
            nodes.append(GraphNode(f"{name} output", "concat", "output", group=group))
            edges += [(f"{name} {end}", f"{name} output") for end in cell.loose_ends]
        return Graph(
            f"micro {'cell' if self.one_cell else 'cells'} {architecture.id}", tuple(nodes), tuple(edges)
        )

    def to_json(self) -> dict[str, Any]:
        record = super().to_json()
        if not self.one_cell:
            del record[
                "one_cell"
            ]  # so that the ids of pairs stay what they were before there were single cells
        return record


def split_cells(text: str, lines: bool = True) -> list[str]:
    """The parts of a string between `|` and `;`, or else, with `lines`, between new lines, empty ones left out: one a
    cell."""
    parts = re.split(r"\n" if lines and not re.search(r"[|;]", text) else r"[|;]", text)
    return [part.strip() for part in parts if part.strip(" \t\r\n[],")]
