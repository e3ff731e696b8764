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
    every pair of nodes and function) are visited equally often in expectation only, as under uniform sampling. Decisions of
    different numbers of options are each fair over their own number of samples. For spaces that are not conditional.
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


class FairWhereAsked(Sampler):
    """Each option of a decision equally often among the architectures that ask it, in a conditional space.

    Decisions are answered in order. One that is active takes, of the options that can be taken after the choices before,
    the one that it has taken least often; of several, a random one. So the counts of a decision's options differ by at most
    1, if all of them can be taken whenever it is active; one that sometimes cannot be taken catches up when it can. A
    decision inside an option is active as often as that option is taken, so options that nest deeply are trained rarely, as
    under uniform sampling.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.seed = seed
        self.taken = [[0] * len(decision.options) for decision in space.decisions]
        """How often each option has been taken while its decision was active."""

    def sample(self, n: int, draw: torch.Generator) -> list[Architecture]:
        return [self._next() for _ in range(n)]

    def _next(self) -> Architecture:
        choices: list[int] = []
        for position, taken in enumerate(self.taken):
            possible = [choice for choice, weight in enumerate(self.space.weights(choices)) if weight > 0]
            choice = possible[0]
            if len(possible) > 1:
                least = min(taken[option] for option in possible)
                rarest = [option for option in possible if taken[option] == least]
                draw = generator(self.seed, "fair", position, sum(taken))
                choice = rarest[int(torch.randint(len(rarest), (), generator=draw))]
                taken[choice] += 1
            choices.append(choice)
        return self.space.architecture(choices)

    def state_dict(self) -> dict[str, Any]:
        return {"taken": [list(taken) for taken in self.taken]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = [list(taken) for taken in state["taken"]]


def fair(space: Space, seed: int) -> Sampler:
    """The fair sampler of a space."""
    return (FairWhereAsked if space.conditional else Fair)(space, seed)


Exploration = Literal["uniform", "fair"]

EXPLORERS: dict[Exploration, Callable[[Space, int], Sampler]] = {"uniform": Uniform, "fair": fair}
"""Samplers by the name of the setting; made of a space and a seed."""
