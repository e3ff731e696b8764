"""Bounds on what architectures cost, kept by rejection: one that is out of bounds is dropped, and another one drawn.

What is left has the distribution of whatever draws, given that the bounds are kept: of uniform draws, all that are left
are alike. REINFORCE on it needs no correction where the advantages of an update sum to 0, as with the leave-one-out
baseline: the probability to be within the bounds is the same factor in every proposal's probability, and its gradient
cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from enas.architecture import Architecture
from enas.controllers.base import Controller, Proposals
from enas.costs.settings import WORDS, CostMeasure, said
from enas.errors import ConfigError
from enas.runtime.seeding import generator
from enas.samplers import Sampler

CostOf = Callable[[CostMeasure, Architecture], float]
"""What an architecture's own network costs: a count, bytes, or milliseconds."""

TRIES = 1000
"""Architectures in a row that are out of bounds, after which no other is waited for."""
POOL = 16
"""Samples of a policy whose most probable one stands for a mode that is out of bounds."""


class Range(NamedTuple):
    """From where to where a cost may be, both ends included."""

    low: float
    high: float


class CostBounds:
    """The ranges that the costs of architectures are kept in, and how many were drawn and rejected."""

    def __init__(
        self, ranges: Mapping[CostMeasure, Range], cost_of: CostOf, advice: Callable[[], str] | None = None
    ) -> None:
        """`advice` says what to do where no other is waited for."""
        self.ranges = ranges
        self.cost_of = cost_of
        self.advice = advice
        self.drawn = 0
        self.rejected = 0
        self._in_a_row: list[Architecture] = []
        """Those that were rejected since the last that was not."""

    def hold(self, architecture: Architecture) -> bool:
        """Whether the architecture costs neither too much nor too little."""
        return all(
            low <= self.cost_of(name, architecture) <= high for name, (low, high) in self.ranges.items()
        )

    def kept(self, drawn: Sequence[Architecture]) -> list[int]:
        """The places of those that are within the bounds; the others count as rejected.

        Raises `ConfigError`, saying what was found, when so many in a row are rejected that there seem to be no others.
        """
        places = []
        for place, architecture in enumerate(drawn):
            self.drawn += 1
            if self.hold(architecture):
                places.append(place)
                self._in_a_row = []
                continue
            self.rejected += 1
            self._in_a_row.append(architecture)
            if len(self._in_a_row) == TRIES:
                missed, self._in_a_row = self._in_a_row, []
                raise ConfigError(self.missed(missed))
        return places

    def missed(self, found: Iterable[Architecture]) -> str:
        """What to say where all that were found are out of bounds."""
        architectures = list(found)
        parts = []
        for name, (low, high) in self.ranges.items():
            costs = [self.cost_of(name, one) for one in architectures]
            missing = sum(not low <= cost <= high for cost in costs)
            least, most = WORDS[name]
            wanted = f"at most {said(high, name)}" if low == 0 else f"{said(low, name)} to {said(high, name)}"
            parts.append(
                f"{wanted} are asked for, and the {least} found has {said(min(costs), name)}, "
                f"the {most} {said(max(costs), name)}{f' ({missing:,} miss it)' if len(self.ranges) > 1 else ''}"
            )
        return (
            f"none of {len(architectures):,} architectures that were drawn costs what --cost and --limit ask: "
            f"{'; '.join(parts)}. {'Ask for what there is' if self.advice is None else self.advice()}"
        )

    def state_dict(self) -> dict[str, int]:
        """How many were drawn and rejected."""
        return {"drawn": self.drawn, "rejected": self.rejected}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take over what `state_dict` returned."""
        self.drawn, self.rejected = state["drawn"], state["rejected"]


class BoundedController(Controller):
    """A controller whose proposals are within bounds: it proposes again for each that is not."""

    def __init__(self, inner: Controller, bounds: CostBounds) -> None:
        self.space = inner.space
        self.inner = inner
        self.bounds = bounds

    def propose(self, n: int, generator: torch.Generator) -> Proposals:
        """Raises `ConfigError` if there seem to be none within the bounds. Log-probabilities are those of the unbounded
        policy."""
        parts: list[Proposals] = []
        while (missing := n - sum(map(len, parts))) > 0:
            proposals = self.inner.propose(missing, generator)
            parts.append(proposals.rows(self.bounds.kept(proposals.architectures(self.space))))
        columns = zip(*((one.choices_NL, one.log_prob_NL, one.entropy_NL) for one in parts), strict=True)
        return Proposals(*(torch.cat(column) for column in columns))

    def feedback(self, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
        return self.inner.feedback(proposals, rewards_N)

    def mode(self) -> tuple[int, ...]:
        """The most probable of some proposals if the policy's own mode is out of bounds."""
        mode = self.inner.mode()
        if self.bounds.hold(self.space.architecture(mode)):
            return mode
        with torch.no_grad():
            proposals = self.propose(POOL, generator(0, "mode"))
        return tuple(proposals.choices_NL[int(proposals.log_prob_N.argmax())].tolist())

    def prior(self, generator: torch.Generator) -> dict[str, float]:
        return self.inner.prior(generator)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)


class BoundedSampler(Sampler):
    """A sampler that samples again for each architecture that is out of bounds."""

    def __init__(self, inner: Sampler, bounds: CostBounds) -> None:
        self.inner = inner
        self.bounds = bounds

    def sample(self, n: int, draw: torch.Generator) -> list[Architecture]:
        """Raises `ConfigError` if there seem to be none within the bounds."""
        found: list[Architecture] = []
        while len(found) < n:
            sampled = self.inner.sample(n - len(found), draw)
            found += [sampled[place] for place in self.bounds.kept(sampled)]
        return found

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


def bounded(controller: Controller, bounds: CostBounds | None) -> Controller:
    """The controller within the bounds, if there are any."""
    return controller if bounds is None else BoundedController(controller, bounds)


def bounded_sampler(sampler: Sampler, bounds: CostBounds | None) -> Sampler:
    """The sampler within the bounds, if there are any."""
    return sampler if bounds is None else BoundedSampler(sampler, bounds)
