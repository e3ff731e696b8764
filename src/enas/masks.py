"""Dropout whose masks follow from a generator that the caller chooses.

Inside `masks_from(generator)` every mask comes from that generator, which is one of the CPU: the same masks whatever the
device, and the same after resuming. Outside, these modules are torch's own dropout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from enas.runtime.transfers import sent

_SOURCE: ContextVar[torch.Generator | None] = ContextVar("masks", default=None)


@contextlib.contextmanager
def masks_from(generator: torch.Generator) -> Iterator[None]:
    """Inside, masks are drawn from this generator (of the CPU)."""
    token = _SOURCE.set(generator)
    try:
        yield
    finally:
        _SOURCE.reset(token)


def mask(shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
    """0 with probability `rate`, else 1 / (1 - rate), each independently; type and device of `like`."""
    source = _SOURCE.get()
    device = like.device if source is None else source.device
    kept = torch.rand(tuple(shape), generator=source, device=device) >= rate
    return sent(kept.to(like.dtype) / (1 - rate), like.device)


def masks(shape: Sequence[int], rates: Sequence[float], like: Tensor) -> list[Tensor]:
    """`mask` for each of the rates, one after the other; they are copied to the device together."""
    if not rates:
        return []
    source = _SOURCE.get()
    device = like.device if source is None else source.device
    drawn = torch.rand(len(rates), *shape, generator=source, device=device)
    rate, kept_share = (
        sent(torch.tensor(shares).view(-1, *[1] * len(shape)), device)
        for shares in (rates, [1 - rate for rate in rates])
    )
    return list(sent((drawn >= rate).to(like.dtype) / kept_share, like.device))


class Dropout(nn.Dropout):
    """torch's dropout, with masks as this module has them."""

    def forward(self, input: Tensor) -> Tensor:
        """The input, in training mode with a share `p` of its elements dropped and the rest scaled up."""
        if not self.training or self.p == 0 or _SOURCE.get() is None:
            return super().forward(input)
        return input * mask(input.shape, self.p, input)
