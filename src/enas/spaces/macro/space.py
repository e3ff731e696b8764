"""Whole convolutional networks, paper §2.3: every layer picks an operation and the earlier tensors that it takes.

Tensors are numbered as in the authors' code: T[0] is the output of the stem, T[j] that of layer j-1. Layer i always
reads T[i], the one just before it; skip bit j of layer i, for j = 0 .. i-1, says whether it takes T[j] as well.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from enas.architecture import Architecture, Decision, Graph, GraphNode, Space
from enas.constraints import Depth, Settings
from enas.errors import ArchitectureError, shown
from enas.spaces.notation import check_operations, number_in, numbers_in, operation_name, operation_number

OPERATIONS = ("conv3x3", "sep3x3", "conv5x5", "sep5x5", "avg3x3", "max3x3")
"""Convolutions, separable convolutions and pooling (paper §2.3); their places are their numbers in the authors' strings."""
PARAMETER_FREE = ("avg3x3", "max3x3")
"""Those of them with nothing to learn; the 1×1 convolution before them is before every operation alike."""
SIZES = ("full size", "half size", "quarter size")
"""What height and width are in the three stages, whatever those of the images."""


def reduction_layers(layers: int) -> tuple[int, ...]:
    """The layers after which height and width are halved: the last ones of the first and of the second third, rounded
    down. None in fewer than three layers."""
    return (layers // 3 - 1, 2 * layers // 3 - 1) if layers >= len(SIZES) else ()


@dataclass(frozen=True)
class MacroSpace(Space, Settings):
    """Networks of `layers` layers: K^L · 2^(L(L-1)/2) of them with K operations.

    With six operations and 12 layers that is 160,618,186,625,454,535,808,756,219,904; the paper states 1.6 · 10^29.
    """

    name: ClassVar[str] = "macro"

    layers: Depth = 12
    """Layers of a network."""
    operations: tuple[str, ...] = OPERATIONS
    """The operations that a layer may have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_operations(self.operations, OPERATIONS)

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        decisions: list[Decision] = []
        for layer in range(self.layers):
            decisions.append(Decision(f"layer {layer} operation", "operation", layer, self.operations))
            decisions += [
                Decision(f"layer {layer} skip {tensor}", "skip", layer, ("no", "yes"))
                for tensor in range(layer)
            ]
        return tuple(decisions)

    def parameter_free(self, decision: Decision) -> tuple[str, ...]:
        return tuple(option for option in decision.options if option in PARAMETER_FREE)

    def operations_of(self, architecture: Architecture) -> tuple[str, ...]:
        """The operation of every layer."""
        return tuple(self.operations[row[0]] for row in self._rows(architecture.choices))

    def skips_of(self, architecture: Architecture) -> tuple[tuple[int, ...], ...]:
        """For every layer, the numbers of the tensors that it takes besides the one before it, ascending."""
        return tuple(
            tuple(tensor for tensor, taken in enumerate(row[1:]) if taken)
            for row in self._rows(architecture.choices)
        )

    def build(self, operations: Sequence[str], skips: Sequence[Iterable[int]]) -> Architecture:
        """The architecture with these operations and skips, layer after layer.

        Raises `ArchitectureError` for an operation or a tensor that a layer cannot take.
        """
        if not len(operations) == len(skips) == self.layers:
            raise ArchitectureError(
                f"{len(operations)} operations and {len(skips)} sets of skips given for {self.layers} layers"
            )
        choices: list[int] = []
        for layer, (operation, tensors) in enumerate(zip(operations, map(set, skips), strict=True)):
            impossible = sorted(tensors - set(range(layer)))
            if impossible:
                raise ArchitectureError(f"layer {layer} cannot take tensor {impossible[0]}; {_takes(layer)}")
            choices.append(operation_number(operation, self.operations))
            choices += [int(tensor in tensors) for tensor in range(layer)]
        return self.architecture(choices)

    def format(self, architecture: Architecture) -> str:
        """For example `conv3x3 sep5x5 conv3x3(0) conv5x5(0,2)`: each layer's operation, with the tensors it takes by
        skip connections."""
        layers = zip(self.operations_of(architecture), self.skips_of(architecture), strict=True)
        return " ".join(f"{name}({','.join(map(str, skips))})" if skips else name for name, skips in layers)

    def parse(self, text: str) -> Architecture:
        """Read `format`'s notation, or the authors' numbers: layer after layer the operation, then one 0 or 1 for
        each tensor T[0], T[1], ... before.

        Raises `ArchitectureError` naming the word that is wrong.
        """
        numbers = numbers_in(text)
        if numbers is not None:
            return self._parse_numbers(numbers)
        words = split_layers(text)
        if not words:
            raise ArchitectureError("the architecture string is empty")
        if len(words) != self.layers:
            raise ArchitectureError(
                f"{len(words)} layers given, {shown(words[0])} to {shown(words[-1])}; this space has {self.layers}"
            )
        operations, skips = [], []
        for layer, word in enumerate(words):
            match = re.fullmatch(r"(\w+)(?:\(([\d\s,]*)\))?", word)
            if match is None:
                raise ArchitectureError(
                    f"{shown(word)} is not of the form operation or operation(tensors), as in 'conv3x3 sep5x5 conv3x3(0)'"
                )
            tensors = [number_in(number) for number in (match[2] or "").replace(",", " ").split()]
            if len(set(tensors)) < len(tensors) or any(tensor >= layer for tensor in tensors):
                raise ArchitectureError(f"{shown(word)} is layer {layer}; {_takes(layer)}, each once")
            operations.append(match[1])
            skips.append(tensors)
        return self.build(operations, skips)

    def _parse_numbers(self, numbers: list[int]) -> Architecture:
        expected = self.layers * (self.layers + 1) // 2
        if len(numbers) != expected:
            raise ArchitectureError(
                f"{len(numbers)} numbers given; a network of {self.layers} layers is written with {expected} "
                "(for each layer its operation, then one 0 or 1 for each tensor that it could take)"
            )
        operations, skips = [], []
        for layer, (operation, *bits) in enumerate(self._rows(numbers)):
            wrong = next((bit for bit in bits if bit > 1), None)
            if wrong is not None:
                raise ArchitectureError(f"layer {layer}: a skip is 0 or 1, not {wrong}")
            operations.append(operation_name(operation, OPERATIONS))
            skips.append([tensor for tensor, bit in enumerate(bits) if bit])
        return self.build(operations, skips)

    def tokens(self, architecture: Architecture) -> tuple[int, ...]:
        """The architecture as the numbers of the authors' strings; the inverse of `parse` for numbers."""
        pairs = zip(architecture.choices, self.decisions, strict=True)
        return tuple(c if d.kind == "skip" else OPERATIONS.index(self.operations[c]) for c, d in pairs)

    def graph(self, architecture: Architecture) -> Graph:
        """Boxes have the numbers of their tensors, so that layer i is box i + 1."""
        nodes = [GraphNode("0", "0 stem", "input", group=SIZES[0])]
        for layer, operation in enumerate(self.operations_of(architecture)):
            size = SIZES[sum(layer > reduction for reduction in reduction_layers(self.layers))]
            nodes.append(GraphNode(f"{layer + 1}", f"{layer + 1} {operation}", "node", operation, size))
        nodes.append(GraphNode("out", "classifier", "output", group=nodes[-1].group))
        edges = [(str(tensor), str(tensor + 1)) for tensor in range(self.layers)]
        for layer, tensors in enumerate(self.skips_of(architecture)):
            edges += [(str(tensor), str(layer + 1)) for tensor in tensors]
        edges.append((str(self.layers), "out"))
        return Graph(f"macro network {architecture.id}", tuple(nodes), tuple(edges))

    def _rows(self, values: Sequence[int]) -> list[Sequence[int]]:
        """Values in the order of the decisions, cut into one row a layer: operation, then skip bits."""
        starts = [layer * (layer + 1) // 2 for layer in range(self.layers + 1)]
        return [values[start:end] for start, end in itertools.pairwise(starts)]


def split_layers(text: str) -> list[str]:
    """The words of `MacroSpace.format`'s notation, one a layer; spaces and commas in brackets part no words."""
    return re.findall(r"[^\s(,]*\([^)]*\)?|[^\s(,]+", text)


def _takes(layer: int) -> str:
    """What the skip connections of a layer can take, in words."""
    return f"it can take tensors 0 to {layer - 1}" if layer else "there is nothing before it to take"
