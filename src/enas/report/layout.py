"""What drawings as text and as pictures have in common: the places of nodes, their colours, and groups."""

from __future__ import annotations

import graphlib
from collections import Counter
from dataclasses import dataclass

from enas.architecture import Graph, GraphNode
from enas.errors import EnasError

_COLOURS = {
    "tanh": ("#56B4E9", "cyan"),
    "relu": ("#E69F00", "yellow"),
    "sigmoid": ("#009E73", "green"),
    "identity": ("#CC79A7", "magenta"),
    "conv3x3": ("#0072B2", "blue"),
    "sep3x3": ("#56B4E9", "cyan"),
    "conv5x5": ("#D55E00", "red"),
    "sep5x5": ("#E69F00", "yellow"),
    "avg3x3": ("#009E73", "green"),
    "max3x3": ("#8DB600", "bright_green"),
}
"""The colour of a function or operation in a picture and in a terminal. The palette is that of Okabe and Ito, which the
colour-blind can tell apart, and one more green. Convolutions of 3×3 are blue, of 5×5 orange, and lighter if separable."""
_MORE_COLOURS = (
    *(("#0072B2", "bright_blue"), ("#D55E00", "red")),
    *(("#F0E442", "bright_yellow"), ("#999999", "white")),
)
"""For other functions and operations, in the order in which they appear in the graph."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a node. `parent`, the node that it is drawn below, is the deepest one that it reads."""

    node: GraphNode
    depth: int
    """The number of arrows on the longest path to it from a node that reads nothing."""
    reads: tuple[str, ...]
    """Keys of all nodes that it reads, in the graph's order."""
    parent: str | None
    children: tuple[str, ...]
    """Keys of the nodes drawn below it, in the graph's order."""

    @property
    def others(self) -> tuple[str, ...]:
        """What it reads besides its parent."""
        return tuple(source for source in self.reads if source != self.parent)


@dataclass(frozen=True, slots=True)
class Layout:
    """All that a drawing shows: every node is in `places`, every arrow in the `reads` of its target."""

    title: str
    places: dict[str, Place]
    """By key, in the graph's order."""
    output: str | None
    """The node that the rail of a text drawing leads to: the only output, if no other node reads it."""

    @property
    def chain(self) -> tuple[Place, ...]:
        """All nodes from first to last if each reads the one before it; else empty."""
        by_depth = sorted(self.places.values(), key=lambda place: place.depth)
        follows = all(place.depth == number for number, place in enumerate(by_depth))
        return tuple(by_depth) if follows else ()

    @property
    def skips(self) -> dict[str, tuple[str, ...]]:
        """For every node of a chain, what it reads besides the one before it."""
        return {place.node.key: place.others for place in self.chain}

    @property
    def sources(self) -> list[str]:
        """The nodes of a chain that others than the next one read."""
        read = {source for others in self.skips.values() for source in others}
        return [key for key in self.skips if key in read]

    @property
    def terms(self) -> dict[str, tuple[Place, ...]]:
        """The operations that each sum adds; empty if there are operations or outputs elsewhere."""
        sums = {
            key: tuple(self.places[source] for source in place.reads)
            for key, place in self.places.items()
            if place.node.role == "sum"
        }
        added = [term for terms in sums.values() for term in terms]
        readers = Counter(source for place in self.places.values() for source in place.reads)
        apart = all(term.node.role == "node" and readers[term.node.key] == 1 for term in added)
        operations = sum(place.node.role == "node" for place in self.places.values())
        outputs = {key for key, place in self.places.items() if place.node.role == "output"}
        return sums if apart and len(added) == operations and outputs <= {self.output} else {}


def layout(graph: Graph) -> Layout:
    """Place every node.

    Raises `EnasError` if an arrow leads nowhere, two nodes have one key, or arrows form a circle.
    """
    order = {node.key: number for number, node in enumerate(graph.nodes)}
    if len(order) < len(graph.nodes):
        twice = [key for key, count in Counter(node.key for node in graph.nodes).items() if count > 1]
        raise EnasError(f"cannot draw {graph.title!r}: several nodes have the key {', '.join(twice)}")
    reads: dict[str, list[str]] = {key: [] for key in order}
    for source, target in sorted(dict.fromkeys(graph.edges), key=lambda edge: order.get(edge[0], -1)):
        if source not in order or target not in order:
            raise EnasError(
                f"cannot draw {graph.title!r}: the arrow {source} -> {target} has an end that is no node"
            )
        reads[target].append(source)

    depth: dict[str, int] = {}
    try:
        for key in graphlib.TopologicalSorter(reads).static_order():
            depth[key] = 1 + max((depth[source] for source in reads[key]), default=-1)
    except graphlib.CycleError as error:
        raise EnasError(
            f"cannot draw {graph.title!r}: arrows form a circle, {' -> '.join(error.args[1])}"
        ) from None

    sinks = order.keys() - {source for source, _ in graph.edges}
    outputs = [node.key for node in graph.nodes if node.role == "output"]
    output = outputs[0] if len(outputs) == 1 and outputs[0] in sinks and reads[outputs[0]] else None

    parent = {
        key: max(reads[key], key=lambda source: (depth[source], order[source]), default=None) for key in order
    }
    places = {
        node.key: Place(
            node,
            depth[node.key],
            tuple(reads[node.key]),
            parent[node.key],
            tuple(key for key in order if parent[key] == node.key and key != output),
        )
        for node in graph.nodes
    }
    return Layout(graph.title, places, output)


def colours(graph: Graph) -> dict[str, tuple[str, str]]:
    """The colour of every function or operation in the graph: for a picture, and for a terminal."""
    kinds = dict.fromkeys(node.kind for node in graph.nodes if node.kind)
    more = [kind for kind in kinds if kind not in _COLOURS]
    return _COLOURS | {kind: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, kind in enumerate(more)}


def parts(graph: Graph) -> tuple[Graph, ...]:
    """The groups of the graph, titled by their names, if no arrow leads from one to another; else the graph alone."""
    group = {node.key: node.group for node in graph.nodes}
    names = dict.fromkeys(group.values())
    if len(names) < 2 or any(group.get(source) != group.get(target) for source, target in graph.edges):
        return (graph,)
    return tuple(
        Graph(
            name,
            tuple(node for node in graph.nodes if node.group == name),
            tuple(edge for edge in graph.edges if group[edge[0]] == name),
        )
        for name in names
    )
