"""A cell of the micro space as a module (paper, §2.4). A supernet's holds the weights of every cell that may be chosen, a
child's those of one.

Every use of an operation has weights of its own, named after the computed node, which of its two inputs this is, the
operation, and the node that is read: `2-1-sep3x3-0`. Weights off the computed path are not touched.

Shape letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from enas import ops
from enas.masks import masks
from enas.ops import Maps
from enas.spaces.blocks import DenseConv, FactorizedReduction, JoinedConv, NormConfig, SeparableConv
from enas.spaces.micro.joined import Calibration, Layout, Parts, rectified
from enas.spaces.micro.space import Cell, MicroSpace

OUTPUT = "output"
"""The name of the only part that a cell with an output convolution hands on."""
POOLS: dict[str, Callable[[Maps, int], Maps]] = {"avg3x3": ops.average_pool, "max3x3": ops.max_pool}
"""The operations without weights, identity apart."""
WIDTHS = {"sep3x3": 3, "sep5x5": 5}
"""The widths of the separable convolutions."""


class Edge(NamedTuple):
    """One of the two inputs of a computed node."""

    node: int
    slot: Literal[1, 2]
    operation: str
    source: int

    @property
    def key(self) -> str:
        """The name of its weights."""
        return f"{self.node}-{self.slot}-{self.operation}-{self.source}"


class Candidates(NamedTuple):
    """What a cell may compute, and so has weights for: everything in a supernet, one cell's own path in a child."""

    edges: tuple[Edge, ...]
    loose_ends: tuple[int, ...]


def edges_of(cell: Cell) -> list[tuple[Edge, Edge]]:
    """The two inputs of every computed node."""
    return [
        (Edge(number, 1, node.operation_1, node.source_1), Edge(number, 2, node.operation_2, node.source_2))
        for number, node in enumerate(cell.nodes, start=2)
    ]


def path_of(cell: Cell) -> Candidates:
    """What this cell computes."""
    return Candidates(tuple(edge for pair in edges_of(cell) for edge in pair), cell.loose_ends)


def candidates_of(space: MicroSpace) -> Candidates:
    """What any cell of the space computes."""
    nodes = space.nodes + 2
    edges = tuple(
        Edge(node, slot, operation, source)
        for node in range(2, nodes)
        for slot in (1, 2)
        for operation in space.operations
        for source in range(node)
    )
    return Candidates(edges, tuple(range(nodes)))


class SeparableTwice(nn.Module):
    """ReLU and separable convolution, twice; a stride is the first one's (paper, §2.4: applied twice)."""

    def __init__(
        self, channels: int, width: int, generator: torch.Generator, norm: NormConfig, stride: int
    ) -> None:
        super().__init__()
        self.first = SeparableConv(channels, channels, width, generator, norm, stride)
        self.second = SeparableConv(channels, channels, width, generator, norm)

    def forward(self, x: Maps) -> Maps:
        """[B, C, H / stride, W / stride]."""
        y: Maps = self.second(ops.relu(self.first(ops.relu(x))))
        return y


def drop_paths(cells: Sequence[Cell], keeps: Sequence[float], images_BCHW: Tensor) -> list[list[Tensor]]:
    """What drop-path multiplies by (Larsson et al. 2017): for each cell, a factor [B] for every operation but identity. It
    is 1 / keep with the cell's probability to keep an output, or else 0. Nothing is dropped where that is 1."""
    counts = [
        sum(edge.operation != "identity" for pair in edges_of(cell) for edge in pair) if keep < 1 else 0
        for cell, keep in zip(cells, keeps, strict=True)
    ]
    rates = [1 - keep for keep, count in zip(keeps, counts, strict=True) for _ in range(count)]
    factors = iter(masks(images_BCHW.shape[:1], rates, images_BCHW))
    return [list(islice(factors, count)) for count in counts]


class MicroCell(nn.Module):
    """One layer of the network: calibrated inputs, computed nodes, loose ends.

    With a stride of 2 it halves the size: by the operations on its inputs, and by factorized reductions where an
    identity, or nothing, reads an input.
    """

    def __init__(
        self,
        candidates: Candidates,
        inputs: tuple[Layout, Layout],
        channels: int,
        generator: torch.Generator,
        norm: NormConfig,
        *,
        stride: int = 1,
        base_convolution: bool = False,
        output_convolution: bool = False,
    ) -> None:
        """`inputs` are the older one, which may be of twice the size, and the newer one."""
        super().__init__()
        older, newer = inputs
        halve = older.halvings < newer.halvings
        self.stride = stride
        self.older = Calibration(older, channels, halve, generator, norm)
        self.newer = Calibration(newer, channels, False, generator, norm)
        self.base = DenseConv(channels, channels, 1, generator, norm) if base_convolution else None
        self.operations = nn.ModuleDict()
        for edge in candidates.edges:
            if edge.operation in WIDTHS:
                width, step = WIDTHS[edge.operation], self.stride_at(edge.source)
                self.operations[edge.key] = SeparableTwice(channels, width, generator, norm, step)
            elif edge.operation == "identity" and self.stride_at(edge.source) > 1:
                self.operations[edge.key] = FactorizedReduction(channels, channels, generator, norm)
        self.unread = nn.ModuleDict(
            {
                str(node): FactorizedReduction(channels, channels, generator, norm)
                for node in candidates.loose_ends
                if self.stride_at(node) > 1
            }
        )
        names = tuple(map(str, candidates.loose_ends))
        self.output = JoinedConv(names, channels, channels, generator, norm) if output_convolution else None
        self.layout = Layout(
            (OUTPUT,) if output_convolution else names, channels, newer.halvings + (1 if stride > 1 else 0)
        )

    def stride_at(self, source: int) -> int:
        """The stride of what reads a node: only the two inputs are of the size before the reduction."""
        return self.stride if source < 2 else 1

    def forward(self, older: Parts, newer: Parts, cell: Cell, dropped: Sequence[Tensor] = ()) -> Parts:
        """The cell's output. `dropped` are factors [B] of drop-path, for every operation but identity, or none."""
        factors_of = iter(dropped)
        nodes: list[Maps] = [self.older(older), self.newer(newer)]
        if self.base is not None:
            nodes[1] = self.base(ops.relu(nodes[1]))

        @cache  # the same pooling of the same node may be asked for twice
        def pooled(operation: str, source: int) -> Maps:
            return POOLS[operation](nodes[source], self.stride_at(source))

        def value(edge: Edge) -> tuple[Maps, Tensor | None]:
            if edge.operation == "identity":
                x = nodes[edge.source]
                return (x if self.stride_at(edge.source) == 1 else self.operations[edge.key](x)), None
            if edge.operation in POOLS:
                y = pooled(edge.operation, edge.source)
            else:
                y = self.operations[edge.key](nodes[edge.source])
            return y, next(factors_of, None)

        for pair in edges_of(cell):
            values, factors = zip(*map(value, pair), strict=True)
            nodes.append(ops.total(list(values), factors))
        loose: Parts = {}
        for node in cell.loose_ends:
            x = nodes[node]
            loose[str(node)] = self.unread[str(node)](x) if self.stride_at(node) > 1 else x
        return loose if self.output is None else {OUTPUT: self.output(rectified(loose))}
