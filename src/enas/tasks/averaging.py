"""An exponential moving average of the shared weights, which rewards can be computed with.

At a learning rate that shared weights are trained fast with, they jump about, and what they make of an architecture jumps
with them: their average over the last steps orders architectures better (docs/results.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

M = TypeVar("M", bound=nn.Module)


class AveragedWeights(Generic[M]):
    """A model that is being trained, and the model to reward with: one of averaged weights, or itself without averaging.

    The average starts as the weights after the first step. Moving statistics of norms are not averaged: they are those of
    the model that is trained.
    """

    def __init__(self, trained: M, keep: float) -> None:
        """`keep` is the share of the average that is kept at every step; 0 does without."""
        self.trained = trained
        self.average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(keep)) if keep else None

    @property
    def model(self) -> M:
        """What rewards are computed with."""
        if self.average is None:
            return self.trained
        return cast(M, self.average.module)

    @property
    def mib(self) -> float:
        """MiB that the average takes."""
        weights = [] if self.average is None else list(self.average.module.parameters())
        return sum(weight.numel() * weight.element_size() for weight in weights) / 2**20

    def update(self) -> None:
        """Take a step's weights into the average."""
        if self.average is not None:
            self.average.update_parameters(self.trained)

    @contextlib.contextmanager
    def adopted(self) -> Iterator[None]:
        """Inside, the model that is trained has the averaged weights to begin with, and is the one to reward with.

        Its own weights are not put back afterwards.
        """
        average = self.average
        if average is not None:
            pairs = zip(self.trained.parameters(), average.module.parameters(), strict=True)
            with torch.no_grad():
                for own, averaged in pairs:
                    own.copy_(averaged)
        self.average = None
        try:
            yield
        finally:
            self.average = average

    def state_dict(self) -> dict[str, Any]:
        """The average, if there is one; the weights that are trained are the caller's."""
        return {} if self.average is None else {"average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, out of a state that may hold more."""
        if self.average is not None:
            self.average.load_state_dict(state["average"])
