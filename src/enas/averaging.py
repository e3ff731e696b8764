"""The average of a network's weights over the steps of its training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

COUNT = "n_averaged"
"""What a state calls the steps so far, as torch's `AveragedModel` does."""


class Average:
    """A copy of a network with the average of its weights. The moving statistics of its norms are the network's own."""

    def __init__(self, model: nn.Module, share: Callable[[int], float]) -> None:
        """`share` says which share of the average the new weights get after so many steps; after none it is all."""
        self.module = copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})
        self.share = share
        self.steps = 0
        # Of thousands of parameters, the search for them takes longer than their average.
        self._averages: list[Tensor] = list(self.module.parameters())
        self._weights: list[Tensor] = list(model.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        if self.steps == 0:
            torch._foreach_copy_(self._averages, self._weights)
        else:
            torch._foreach_lerp_(self._averages, self._weights, self.share(self.steps))
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""
        averages = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return {COUNT: torch.tensor(self.steps), **averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.steps = int(state[COUNT])
        self.module.load_state_dict(
            {name.removeprefix("module."): value for name, value in state.items() if name != COUNT}
        )


def moving(kept: float) -> Callable[[int], float]:
    """The rule of an exponential moving average that keeps this share of itself at every step."""
    return lambda steps: 1 - kept


def mean(steps: int) -> float:
    """The rule of the plain mean of the weights after all steps so far."""
    return 1 / (steps + 1)
