"""What samples the architectures of weight steps without the controller: uniformly, or fairly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch

from enas.architecture import Architecture, Space
from enas.controllers.uniform import UniformController
from enas.runtime.seeding import generator


class Sampler(ABC):
    """Samples architectures whose weights are trained next."""

    @abstractmethod
    def sample(self, n: int, draw: torch.Generator) -> list[Architecture]:
        """`n` architectures; what is random comes from `draw`, or follows from a seed and what was sampled before."""

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs, as plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        assert not state


class Uniform(Sampler):
    """All architectures alike."""

    def __init__(self, space: Space, seed: int) -> None:
        self.controller = UniformController(space)

    def sample(self, n: int, draw: torch.Generator) -> list[Architecture]:
        return self.controller.propose(n, draw).architectures(self.controller.space)


class Fair(Sampler):
    """Each option of every decision equally often (after the strict fairness of FairNAS, Chu et al. 2021).

    A decision of K options takes them in a random order, each once, then in another order, and so on: after any multiple
    of K samples all its options have been taken equally often, and after any number their counts differ by at most 1.
    Orders of different decisions are independent, so every architecture is as probable as any other.

    Fair is each option by itself, not each combination: weights that belong to several decisions at once (a block for
    every pair of nodes and function) are visited equally often in expectation only, as under uniform sampling. In every
    space of this package an architecture answers all decisions, whatever it answers; were a decision not asked for some
    architectures, its options would be offered equally often, and trained equally often in expectation. Decisions of
    different numbers of options are each fair over their own number of samples.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.seed = seed
        self.sampled = 0
        """How many architectures there have been."""
        self._orders: dict[int, tuple[int, list[int]]] = {}

    def sample(self, n: int, draw: torch.Generator) -> list[Architecture]:
        return [self._next() for _ in range(n)]

    def _next(self) -> Architecture:
        choices = []
        for position, decision in enumerate(self.space.decisions):
            turn, place = divmod(self.sampled, len(decision.options))
            choices.append(self._order(position, turn, len(decision.options))[place])
        self.sampled += 1
        return self.space.architecture(choices)

    def _order(self, position: int, turn: int, options: int) -> list[int]:
        """The order in which a decision takes its options for the `turn`-th time, kept until the next."""
        kept = self._orders.get(position)
        if kept is None or kept[0] != turn:
            draw = generator(self.seed, "fair", position, turn)
            kept = self._orders[position] = (turn, torch.randperm(options, generator=draw).tolist())
        return kept[1]

    def state_dict(self) -> dict[str, Any]:
        return {"sampled": self.sampled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampled = state["sampled"]


Exploration = Literal["uniform", "fair"]

EXPLORERS: dict[Exploration, Callable[[Space, int], Sampler]] = {"uniform": Uniform, "fair": Fair}
"""Samplers by the name of the setting; made of a space and a seed."""
