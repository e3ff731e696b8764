"""The contract of a recurrent cell that a language model can be built around."""

from __future__ import annotations

from typing import Any

from torch import nn


class Cell(nn.Module):
    """Maps inputs [T, B, D] and a state to outputs [T, B, D] and the state to carry.

    Called as `cell(inputs_TBD, state, state_mask_BD=...)`; a supernet's cell also takes an architecture.
    """

    hidden: int
    """The width D."""

    def initial_state(self, batch: int) -> Any:
        """The state before the first word of a text, for `batch` rows: zeros [B, D], unless a cell has another."""
        return next(self.parameters()).new_zeros(batch, self.hidden)
