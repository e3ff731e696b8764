"""The cells of NAS-Bench-201 (Dong and Yang 2020, arXiv:2001.00326): four nodes, and one of five operations between any two.

Node 0 is the input of a cell and node 3 its output; a node is the sum of what its operations make of the nodes before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from enas.architecture import Architecture, Decision, Graph, GraphNode, Space
from enas.constraints import Settings
from enas.errors import ArchitectureError, shown
from enas.spaces.notation import operation_number

NONE, SKIP, CONV_1, CONV_3, POOL = OPERATIONS = (
    "none",
    "skip_connect",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "avg_pool_3x3",
)
"""By the benchmark's names, in its order."""
PARAMETER_FREE = (NONE, SKIP, POOL)
OUTPUT = 3


class Edge(NamedTuple):
    """An operation between two nodes."""

    source: int
    target: int
    operation: str


PAIRS = tuple((source, target) for target in range(1, OUTPUT + 1) for source in range(target))
"""The (source, target) of every edge, in the order of the decisions."""


@dataclass(frozen=True)
class NASBench201Space(Space, Settings):
    """All 5^6 = 15,625 cells. Many compute the same: `reduced` leaves 9,445, which are still not all different."""

    name: ClassVar[str] = "nasbench201"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(
            Decision(f"{source} to {target}", "operation", target, OPERATIONS) for source, target in PAIRS
        )

    def parameter_free(self, decision: Decision) -> tuple[str, ...]:
        return PARAMETER_FREE

    def edges(self, architecture: Architecture) -> tuple[Edge, ...]:
        """The edges that compute something: those of a path from the input to the output without a `none`."""
        edges = [
            Edge(*pair, OPERATIONS[choice])
            for pair, choice in zip(PAIRS, architecture.choices, strict=True)
            if OPERATIONS[choice] != NONE
        ]
        reached, needed = {0}, {OUTPUT}
        for edge in edges:
            if edge.source in reached:
                reached.add(edge.target)
        for edge in sorted(edges, key=lambda edge: -edge.target):
            if edge.target in needed:
                needed.add(edge.source)
        return tuple(edge for edge in edges if edge.source in reached and edge.target in needed)

    def reduced(self, architecture: Architecture) -> Architecture:
        """With `none` at every edge that is on no path from the input to the output."""
        taken = {(edge.source, edge.target): edge.operation for edge in self.edges(architecture)}
        return self.architecture([OPERATIONS.index(taken.get(pair, NONE)) for pair in PAIRS])

    def format(self, architecture: Architecture) -> str:
        """The benchmark's string, such as `|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|`."""
        words = [
            f"{OPERATIONS[choice]}~{source}"
            for (source, _), choice in zip(PAIRS, architecture.choices, strict=True)
        ]
        nodes = (words[0:1], words[1:3], words[3:6])
        return "+".join(f"|{'|'.join(node)}|" for node in nodes)

    def parse(self, text: str) -> Architecture:
        """Read the benchmark's string. Raises `ArchitectureError` naming what is wrong."""
        nodes = [
            [word.strip().rpartition("~") for word in node.split("|") if word.strip()]
            for node in text.split("+")
        ]
        if [[source for *_, source in node] for node in nodes] != [["0"], ["0", "1"], ["0", "1", "2"]]:
            raise ArchitectureError(
                f"{shown(text)} is no cell of NAS-Bench-201, which is written as in '|nor_conv_3x3~0|+|none~0|none~1|+"
                "|skip_connect~0|none~1|none~2|'"
            )
        return self.architecture([operation_number(name, OPERATIONS) for node in nodes for name, *_ in node])

    def graph(self, architecture: Architecture) -> Graph:
        """A box for every operation that computes something, and one for every node."""
        edges = self.edges(architecture)
        used = {0, OUTPUT} | {node for edge in edges for node in edge[:2]}
        labels = {
            0: GraphNode("0", "0 input", "input"),
            OUTPUT: GraphNode(str(OUTPUT), f"{OUTPUT} output", "output"),
        }
        nodes = [labels.get(node, GraphNode(str(node), f"{node} sum", "sum")) for node in sorted(used)]
        arrows = []
        for source, target, operation in edges:
            key = f"{source}-{target}"
            nodes.append(GraphNode(key, operation, "node", operation))
            arrows += [(str(source), key), (key, str(target))]
        return Graph(f"NAS-Bench-201 cell {architecture.id}", tuple(nodes), tuple(arrows))
