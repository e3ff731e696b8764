"""The graph neural networks of NAS-Bench-Graph (Qin et al. 2022, arXiv:2206.09166).

A network has four nodes. One of nine structures says what each node reads, the input (0) or an earlier node (1, 2, 3);
one of nine operations says what it computes. Nodes that no other one reads go to the output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from enas.architecture import Architecture, Decision, Graph, GraphNode, Space
from enas.errors import ArchitectureError, shortened, shown

STRUCTURES = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")
"""What nodes 1 to 4 read, in the package's order."""

OPERATIONS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
"""In the package's order; "fc" ignores the graph, and "skip" is the identity."""


@dataclass(frozen=True)
class GraphSpace(Space):
    """All pairs of a structure and four operations: 59,049, of which 59,040 are the 26,206 networks."""

    name: ClassVar[str] = "graph"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        nodes = [Decision(f"node {k} operation", "operation", k, OPERATIONS) for k in range(1, 5)]
        return (Decision("structure", "structure", 0, STRUCTURES), *nodes)

    def format(self, architecture: Architecture) -> str:
        """For example `gcn(0) gin(1) fc(2) cheb(1)`: each node's operation, with what it reads."""
        return " ".join(f"{name}({source})" for name, source in self._nodes(architecture))

    def parse(self, text: str) -> Architecture:
        """Read `format`'s notation. Raises `ArchitectureError` naming what is wrong."""
        words = text.split()
        pairs = [re.fullmatch(r"(\w+)\((\d)\)", word) for word in words]
        if len(words) != 4 or None in pairs:
            raise ArchitectureError(
                f"{shown(text)} is not four nodes of the form operation(source), as in 'gcn(0) gin(1) fc(2) skip(2)'"
            )
        found = [pair.groups() for pair in pairs if pair is not None]
        structure = "".join(source for _, source in found)
        if structure not in STRUCTURES:
            raise ArchitectureError(
                f"nodes that read {', '.join(structure)} are none of the structures {', '.join(STRUCTURES)}"
            )
        unknown = next((name for name, _ in found if name not in OPERATIONS), None)
        if unknown is not None:
            raise ArchitectureError(f"operation {shortened(unknown)} is none of {', '.join(OPERATIONS)}")
        return self.architecture(
            [STRUCTURES.index(structure), *(OPERATIONS.index(name) for name, _ in found)]
        )

    def graph(self, architecture: Architecture) -> Graph:
        """Nodes that no other one reads go to the output."""
        nodes = self._nodes(architecture)
        read = {source for _, source in nodes}
        edges = [(str(source), str(k)) for k, (_, source) in enumerate(nodes, start=1)]
        edges += [(str(k), "out") for k in range(1, 5) if k not in read]
        boxes = [GraphNode(str(k), f"{k} {name}", "node", name) for k, (name, _) in enumerate(nodes, start=1)]
        ends = (GraphNode("0", "0 input", "input"), GraphNode("out", "output", "output"))
        return Graph(f"graph neural network {architecture.id}", (ends[0], *boxes, ends[1]), tuple(edges))

    def _nodes(self, architecture: Architecture) -> list[tuple[str, int]]:
        """The operation of nodes 1 to 4, and what each reads."""
        structure, *operations = architecture.choices
        sources = map(int, STRUCTURES[structure])
        return [
            (OPERATIONS[operation], source) for operation, source in zip(operations, sources, strict=True)
        ]
