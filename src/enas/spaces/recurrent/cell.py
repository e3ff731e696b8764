"""The contract of a recurrent cell that a language model can be built around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from enas.architecture import Architecture


class Cell(nn.Module):
    """Maps inputs [T, B, D] and a state to outputs [T, B, D] and the state to carry.

    Called as `cell(inputs_TBD, state, state_mask_BD=...)`; a supernet's cell also takes an architecture.
    """

    hidden: int
    """The width D."""

    def outputs_of(
        self, inputs_TBD: Tensor, state: Any, architectures: Sequence[Architecture]
    ) -> list[Tensor]:
        """Outputs [T, B, D] by each of several architectures, all from one state; nothing is dropped."""
        return [self(inputs_TBD, state, architecture=one)[0] for one in architectures]

    def initial_state(self, batch: int) -> Any:
        """The state before the first word of a text, for `batch` rows: zeros [B, D], unless a cell has another."""
        return next(self.parameters()).new_zeros(batch, self.hidden)
