"""The depthwise-separable convolution and the statistics of its norm in one pass over memory, and its gradient in another.

Between the passes only the input z, the output y and the weights are kept: what lies between is computed again. The kernels
are in `enas.nn.separable_kernels`.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of the filter, P planes of a channel
(1, or 4 for a stride of 2), U units, D buckets.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from enas.nn import separable_kernels
from enas.nn.activation import Activation, ChannelNorm, Statistics
from enas.nn.kernels import array
from enas.nn.threads import team

_BUCKETS = 16
_POSITIONS = 1200
_NUMBERS = 44_000
"""Most positions of a unit, and most numbers of its input or output: so few that a core's cache holds what is computed."""


def fused_separable_norm(
    x: Activation,
    depthwise_C1kk: Tensor,
    pointwise_OC11: Tensor,
    norm: ChannelNorm,
    *,
    stride: int,
    statistics: Statistics,
) -> Activation:
    """`separable_norm`, for contiguous float32 on a CPU and a stride of 1 or 2."""
    given = (norm.mean_C, norm.variance_C) if statistics == "moving" else (None, None)
    y_BOHW, scale_O, shift_O, mean_O, variance_O = _SeparableNorm.apply(
        *x, depthwise_C1kk, pointwise_OC11, norm.weight, norm.bias, *given, norm.eps, stride
    )
    if norm.training and statistics == "batch":
        norm.update(mean_O, variance_O, y_BOHW.numel() // y_BOHW.shape[1])
    return Activation(y_BOHW, scale_O, shift_O)


class _SeparableNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_BCHW: Tensor,
        scale_C: Tensor | None,
        shift_C: Tensor | None,
        rectified: bool,
        depthwise_C1kk: Tensor,
        pointwise_OC11: Tensor,
        gamma_O: Tensor,
        beta_O: Tensor,
        given_mean_O: Tensor | None,
        given_variance_O: Tensor | None,
        eps: float,
        stride: int,
    ) -> tuple[Tensor, ...]:
        layout = _Layout.of(z_BCHW, depthwise_C1kk, pointwise_OC11, stride)
        y_BOHW = z_BCHW.new_empty(layout.B, layout.O, layout.rows, layout.wide)
        sums_U2O = z_BCHW.new_empty(layout.units, 2, layout.O)
        kernel = separable_kernels.forward(layout.width)
        kernel(
            team(z_BCHW.numel()),
            layout.units,
            *_staging(z_BCHW, scale_C, shift_C, rectified),
            *layout.sizes,
            array(layout.planes(depthwise_C1kk)),
            array(pointwise_OC11.flatten(1).contiguous()),
            array(y_BOHW),
            array(sums_U2O),
        )
        if given_mean_O is None or given_variance_O is None:
            mean_O, variance_O = layout.statistics(sums_U2O.double())
        else:
            mean_O, variance_O = given_mean_O.double(), given_variance_O.double()
        scale_O = gamma_O * torch.rsqrt(variance_O + eps)
        out = tuple(x_O.float() for x_O in (scale_O, beta_O - mean_O * scale_O, mean_O, variance_O))
        ctx.save_for_backward(
            z_BCHW, scale_C, shift_C, depthwise_C1kk, pointwise_OC11, gamma_O, mean_O, variance_O, y_BOHW
        )
        ctx.rectified, ctx.eps, ctx.layout, ctx.given = rectified, eps, layout, given_mean_O is not None
        ctx.mark_non_differentiable(*out[2:])
        return y_BOHW, *out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BOHW: Tensor, d_scale_O: Tensor, d_shift_O: Tensor, *_: Tensor) -> Any:
        z_BCHW, scale_C, shift_C, depthwise_C1kk, pointwise_OC11, gamma_O, mean_O, variance_O, y_BOHW = (
            ctx.saved_tensors
        )
        layout: _Layout = ctx.layout
        # The norm: scale = γ r and shift = β - mean γ r with r = 1 / sqrt(variance + eps).
        r_O = torch.rsqrt(variance_O + ctx.eps)
        d_beta_O = d_shift_O.double()
        d_r_O = d_scale_O.double() - mean_O * d_beta_O  # for γ = 1
        if ctx.given:
            a_O = b_O = torch.zeros_like(d_beta_O)
        else:
            count = layout.B * layout.rows * layout.wide
            b_O = -(r_O**3) * gamma_O * d_r_O / count
            a_O = -d_beta_O * gamma_O * r_O / count - b_O * mean_O
        # The convolution.
        dz_BCHW = torch.empty_like(z_BCHW)
        d_planes_DCP = z_BCHW.new_empty(_BUCKETS, *layout.planes(depthwise_C1kk).shape)
        d_pointwise_DOC = z_BCHW.new_zeros(_BUCKETS, layout.O, layout.C)
        d_affine_D2C = z_BCHW.new_zeros(_BUCKETS, 2, layout.C)
        kernel = separable_kernels.backward(layout.width)
        kernel(
            team(z_BCHW.numel()),
            _BUCKETS,
            *_staging(z_BCHW, scale_C, shift_C, ctx.rectified),
            *layout.sizes,
            array(layout.planes(depthwise_C1kk)),
            array(pointwise_OC11.flatten(1).contiguous()),
            array(y_BOHW),
            array(dy_BOHW.contiguous()),
            array(a_O.float()),
            array(b_O.float()),
            any(ctx.needs_input_grad[:3]),
            array(dz_BCHW),
            array(d_planes_DCP),
            array(d_pointwise_DOC),
            array(d_affine_D2C),
        )
        d_scale_C, d_shift_C = d_affine_D2C.sum(0, dtype=torch.float64).float()
        d_depthwise_CT = layout.taps(d_planes_DCP.sum(0, dtype=torch.float64).float())
        d_pointwise_OC = d_pointwise_DOC.sum(0, dtype=torch.float64).float()
        return (
            dz_BCHW if ctx.needs_input_grad[0] else None,
            None if scale_C is None else d_scale_C,
            None if shift_C is None else d_shift_C,
            None,
            d_depthwise_CT.view_as(depthwise_C1kk),
            d_pointwise_OC.view_as(pointwise_OC11),
            (d_r_O * r_O).float(),
            d_beta_O.float(),
            None,
            None,
            None,
            None,
        )


def _staging(
    z_BCHW: Tensor, scale_C: Tensor | None, shift_C: Tensor | None, rectified: bool
) -> tuple[Any, ...]:
    """What a kernel reads its input by: z; and scale, shift and the least value that is let through."""
    numbers_C3 = z_BCHW.new_empty(z_BCHW.shape[1], 3)
    numbers_C3[:, 0] = 1 if scale_C is None else scale_C
    numbers_C3[:, 1] = 0 if shift_C is None else shift_C
    numbers_C3[:, 2] = 0 if rectified else -math.inf
    return array(z_BCHW), array(numbers_C3)


class _Layout(NamedTuple):
    """How a convolution is laid out in units and planes."""

    B: int
    C: int
    O: int
    k: int
    stride: int
    rows: int
    """Of the output, and of each plane."""
    wide: int
    """Columns of the output, and of each plane."""

    @classmethod
    def of(cls, z_BCHW: Tensor, depthwise_C1kk: Tensor, pointwise_OC11: Tensor, stride: int) -> _Layout:
        """That of a convolution of these operands."""
        B, C, H, W = z_BCHW.shape
        O, k = len(pointwise_OC11), depthwise_C1kk.shape[-1]
        return cls(B, C, O, k, stride, -(-H // stride), -(-W // stride))

    @property
    def columns(self) -> int:
        """`wide`, rounded up to a multiple of the shortest vectors."""
        return -(-self.wide // 8) * 8

    @property
    def lanes(self) -> int:
        """Numbers of a vector that fits the rows."""
        return 8 if self.columns % 16 else 16

    @property
    def width(self) -> int:
        """Of a plane's filter."""
        return 2 * -(-(self.k // 2) // self.stride) + 1

    @property
    def images(self) -> int:
        """Of a unit."""
        positions = min(_POSITIONS, _NUMBERS // max(self.C, self.O))
        return max(1, min(self.B, positions // (self.rows * self.columns)))

    @property
    def units(self) -> int:
        """How many there are."""
        return -(-self.B // self.images)

    @property
    def sizes(self) -> tuple[int, ...]:
        """What both kernels take of this."""
        return self.stride, self.images, self.columns, self.width, self.lanes

    def planes(self, depthwise_C1kk: Tensor) -> Tensor:
        """The filter of each plane [C, P · width²], with zeros for what the filter does not see."""
        filters = depthwise_C1kk.new_zeros(self.C, self.stride**2 * self.width**2)
        filters[:, _places(self.k, self.stride, self.width)] = depthwise_C1kk.detach().flatten(1)
        return filters

    def taps(self, planes_CP: Tensor) -> Tensor:
        """The filter [C, k²] of the planes' filters."""
        return planes_CP[:, _places(self.k, self.stride, self.width)]

    def statistics(self, sums_U2O: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance [O] from each unit's sums and sums of squares about its own mean."""
        images_U1 = torch.full((self.units, 1), self.images, dtype=sums_U2O.dtype)
        images_U1[-1] = self.B - (self.units - 1) * self.images
        counts_U1 = images_U1 * (self.rows * self.wide)
        sums_UO, squares_UO = sums_U2O.unbind(1)
        mean_O = sums_UO.sum(0) / counts_U1.sum()
        between_UO = (sums_UO / counts_U1 - mean_O).square() * counts_U1
        return mean_O, (squares_UO + between_UO).sum(0) / counts_U1.sum()


@cache
def _places(k: int, stride: int, width: int) -> Tensor:
    """Where each tap [k²] of the filter stands among those of the planes' filters.

    A tap that looks t rows down from the pixel in the middle sees row t // stride of the plane of rows t mod stride.
    """
    places = []
    for a in range(k):
        down, row = divmod(a - k // 2, stride)
        for b in range(k):
            right, column = divmod(b - k // 2, stride)
            tap = (down + width // 2) * width + right + width // 2
            places.append((row * stride + column) * width**2 + tap)
    return torch.tensor(places)
