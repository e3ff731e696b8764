"""Feature maps that still have a batch norm or a ReLU to come.

A batch norm is two steps: the statistics of what a convolution returns, and then scale·z + shift, a number each per
channel. The second step and the ReLU after it cost a pass over memory each, unless whoever reads z next does them while
reading. So a kernel returns `z` with what is still to be done to it.

Shape letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Deferred(NamedTuple):
    """The feature maps scale_C · z_BCHW + shift_C, rectified if `rectified`, of which z is what is in memory."""

    z_BCHW: Tensor
    scale_C: Tensor | None = None
    shift_C: Tensor | None = None
    rectified: bool = False

    @property
    def shape(self) -> torch.Size:
        """Of the maps [B, C, H, W]."""
        return self.z_BCHW.shape

    @property
    def device(self) -> torch.device:
        """Where the maps are."""
        return self.z_BCHW.device

    def relu(self) -> Deferred:
        """The same, rectified."""
        return self._replace(rectified=True)

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale_C, shift_C): 1 and 0 where there are none."""
        if self.scale_C is None or self.shift_C is None:
            channels = self.z_BCHW.shape[1]
            return self.z_BCHW.new_ones(channels), self.z_BCHW.new_zeros(channels)
        return self.scale_C, self.shift_C

    def computed(self) -> Tensor:
        """The feature maps themselves [B, C, H, W]."""
        if self.scale_C is None and not self.rectified:
            return self.z_BCHW
        from enas.cpu import maps

        return maps.summed([self], [None])


def deferred(x: Tensor | Deferred) -> Deferred:
    """Maps as a kernel reads them."""
    return x if isinstance(x, Deferred) else Deferred(x)
