"""The depthwise-separable convolution and the statistics of its norm in one pass over memory, and its gradient in another.

Between the passes only the input z, the output y and the weights are kept: what lies between is computed again. The kernels
are in `enas.cpu.separable_kernels`.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of the filter, P planes of a channel
(1, or 4 for a stride of 2), U units, D buckets.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from enas.cpu import separable_kernels
from enas.cpu.deferred import Deferred
from enas.cpu.kernels import array
from enas.cpu.node import apply
from enas.cpu.normed import BUCKETS, NormInputs, counts, normalised, output_gradient, with_norm
from enas.cpu.threads import team

_POSITIONS = 1200
_NUMBERS = 44_000
"""Most positions of a unit, and most numbers of its input or output: so few that a core's cache holds what is computed."""


def fused_separable_norm(
    x: Deferred, depthwise_C1kk: Tensor, pointwise_OC11: Tensor, norm: nn.BatchNorm2d, stride: int
) -> Deferred:
    """`enas.ops.separable_norm`, for contiguous float32 on a CPU and a stride of 1 or 2."""
    outputs = apply(_SeparableNorm, *x, depthwise_C1kk, pointwise_OC11, stride, *NormInputs.of(norm))
    return normalised(norm, outputs)


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
        stride: int,
        *norm: Any,
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
        ctx.rectified, ctx.layout = rectified, layout
        count_U = counts(layout.B, layout.images, layout.rows * layout.wide)
        saved = (z_BCHW, scale_C, shift_C, depthwise_C1kk, pointwise_OC11)
        return with_norm(ctx, y_BOHW, sums_U2O, count_U, NormInputs(*norm), *saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        out, (z_BCHW, scale_C, shift_C, depthwise_C1kk, pointwise_OC11) = output_gradient(ctx, gradients)
        layout: _Layout = ctx.layout
        dz_BCHW = torch.empty_like(z_BCHW)
        d_planes_DCP = z_BCHW.new_empty(BUCKETS, *layout.planes(depthwise_C1kk).shape)
        d_pointwise_DOC = z_BCHW.new_zeros(BUCKETS, layout.O, layout.C)
        d_affine_D2C = z_BCHW.new_zeros(BUCKETS, 2, layout.C)
        kernel = separable_kernels.backward(layout.width)
        kernel(
            team(z_BCHW.numel()),
            BUCKETS,
            *_staging(z_BCHW, scale_C, shift_C, ctx.rectified),
            *layout.sizes,
            array(layout.planes(depthwise_C1kk)),
            array(pointwise_OC11.flatten(1).contiguous()),
            array(out.y_BCHW),
            array(out.dy_BCHW),
            array(out.ab_2C),
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
            None,
            *out.norm,
        )


def _staging(
    z_BCHW: Tensor, scale_C: Tensor | None, shift_C: Tensor | None, rectified: bool
) -> tuple[Any, ...]:
    """What a kernel reads its input by: z; and scale, shift and the least value that is let through."""
    numbers_C3 = np.empty((z_BCHW.shape[1], 3), np.float32)
    numbers_C3[:, 0] = 1 if scale_C is None else array(scale_C)
    numbers_C3[:, 1] = 0 if shift_C is None else array(shift_C)
    numbers_C3[:, 2] = 0 if rectified else -math.inf
    return array(z_BCHW), numbers_C3


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
        if self.stride == 1:
            return depthwise_C1kk.detach().flatten(1)
        filters = depthwise_C1kk.new_zeros(self.C, self.stride**2 * self.width**2)
        filters[:, _places(self.k, self.stride, self.width)] = depthwise_C1kk.detach().flatten(1)
        return filters

    def taps(self, planes_CP: Tensor) -> Tensor:
        """The filter [C, k²] of the planes' filters."""
        return planes_CP[:, _places(self.k, self.stride, self.width)]


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
