"""A space by the contract, without choices: how wide each of two layers is, and what follows it. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from enas.architecture import Architecture, Decision, Graph, GraphNode, Space
from enas.errors import ArchitectureError

WIDTHS, ACTIVATIONS = ("4", "8", "16"), ("relu", "tanh", "none")


@dataclass(frozen=True)
class OutsideSpace(Space):
    """Layers of one of three widths, each followed by one of three activations."""

    name: ClassVar[str] = "outside"

    layers: int = 2

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(
            Decision(f"{what}.{layer}", "operation", layer, options)
            for layer in range(self.layers)
            for what, options in (("width", WIDTHS), ("activation", ACTIVATIONS))
        )

    def parameter_free(self, decision: Decision) -> tuple[str, ...]:
        return ACTIVATIONS if decision.options == ACTIVATIONS else ()

    def words(self, architecture: Architecture) -> list[str]:
        """What each decision takes."""
        return [d.options[choice] for d, choice in zip(self.decisions, architecture.choices, strict=True)]

    def format(self, architecture: Architecture) -> str:
        return " ".join(self.words(architecture))

    def parse(self, text: str) -> Architecture:
        choices = []
        for decision, word in zip(self.decisions, text.split(), strict=False):
            if word not in decision.options:
                raise ArchitectureError(f"{decision.name}: {word!r} is none of {', '.join(decision.options)}")
            choices.append(decision.options.index(word))
        return self.architecture(choices)

    def graph(self, architecture: Architecture) -> Graph:
        words = self.words(architecture)
        nodes = [
            GraphNode(str(layer), f"{words[2 * layer]} {words[2 * layer + 1]}", "node", words[2 * layer + 1])
            for layer in range(self.layers)
        ]
        keys = ["input", *(node.key for node in nodes), "output"]
        ends = GraphNode("input", "input", "input"), GraphNode("output", "output", "output")
        return Graph("layers", (ends[0], *nodes, ends[1]), tuple(pairwise(keys)))
