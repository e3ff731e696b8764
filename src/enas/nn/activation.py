"""Feature maps that still have a batch norm or a ReLU to come.

A batch norm is two steps: the statistics of what a convolution returns, and then scale·z + shift, a number each per
channel. The second step and the ReLU after it cost a pass over memory each, unless whoever reads z next does them while
reading. So a convolution returns `z` with what is still to be done to it, and its reader takes an `Activation`.

Shape letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from enas.nn.usable import kernels_usable

Statistics = Literal["batch", "moving"]
"""What normalises: the minibatch's own mean and variance, or moving averages of earlier ones."""


class Activation(NamedTuple):
    """The feature maps scale_C · z_BCHW + shift_C, rectified if `rectified`, of which z is what is in memory."""

    z_BCHW: Tensor
    scale_C: Tensor | None = None
    shift_C: Tensor | None = None
    rectified: bool = False

    def relu(self) -> Activation:
        """The same, rectified."""
        return self._replace(rectified=True)

    def value(self) -> Tensor:
        """The feature maps themselves [B, C, H, W]."""
        x_BCHW = self.z_BCHW
        if (self.scale_C is not None or self.rectified) and kernels_take(x_BCHW):
            from enas.nn import maps

            return maps.total([self], [None])
        if self.scale_C is not None and self.shift_C is not None:
            x_BCHW = torch.addcmul(self.shift_C[:, None, None], x_BCHW, self.scale_C[:, None, None])
        return torch.relu(x_BCHW) if self.rectified else x_BCHW


def kernels_take(*maps_BCHW: Tensor) -> bool:
    """Whether there are compiled kernels for such feature maps.

    There are on a CPU, for float32 in the order B, C, H, W, where kernels can be used now.
    """
    return (
        all(x.is_cpu and x.dtype == torch.float32 and x.is_contiguous() and x.numel() > 0 for x in maps_BCHW)
        and kernels_usable()
    )


class ChannelNorm(nn.Module):
    """Batch norm over the channels of feature maps (Ioffe & Szegedy 2015), which leaves its affine step to the reader."""

    mean_C: Tensor
    variance_C: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, decay: float = 0.9) -> None:
        """`decay` is the share of the moving averages kept at each minibatch in training mode."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.decay = decay
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("variance_C", torch.ones(channels))

    def affine(self, mean_C: Tensor, variance_C: Tensor) -> tuple[Tensor, Tensor]:
        """(scale_C, shift_C) that normalise feature maps of this mean and (biased) variance."""
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        return scale_C, self.bias - mean_C * scale_C

    def moving(self) -> tuple[Tensor, Tensor]:
        """(scale_C, shift_C) by the moving averages."""
        return self.affine(self.mean_C, self.variance_C)

    @torch.no_grad()
    def update(self, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
        """Take a minibatch's statistics, over `count` values a channel, into the moving averages (variance unbiased)."""
        self.mean_C.lerp_(mean_C.detach(), 1 - self.decay)
        self.variance_C.lerp_(variance_C.detach() * (count / max(count - 1, 1)), 1 - self.decay)

    def forward(self, z_BCHW: Tensor, statistics: Statistics = "batch") -> Activation:
        """The normalised feature maps; in training mode, batch statistics are taken into the moving averages."""
        if statistics == "moving":
            return Activation(z_BCHW, *self.moving())
        if kernels_take(z_BCHW):
            from enas.nn import maps

            return maps.batch_norm(z_BCHW, self)
        variance_C, mean_C = torch.var_mean(z_BCHW, dim=(0, 2, 3), correction=0)
        if self.training:
            self.update(mean_C, variance_C, z_BCHW.numel() // z_BCHW.shape[1])
        return Activation(z_BCHW, *self.affine(mean_C, variance_C))
