"""The depthwise-separable convolution and the statistics of its norm in one pass over memory, and its gradient in another.

Between the passes only the input z, the output y and the weights are kept: what lies between is computed again. The kernels
are in `enas.cpu.separable_kernels`.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of the filter, P planes of a channel
(1, or 4 for a stride of 2), U units, D buckets.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from enas.cpu import separable_kernels
from enas.cpu.compiler import array, team
from enas.cpu.deferred import Deferred, affine_gradients, deferred, numbers
from enas.cpu.normed import BUCKETS, normalised, output_gradient, with_norm
from enas.cpu.registry import fits, known, takes, takes_over

_POSITIONS = 1200
_NUMBERS = 44_000
"""Most positions of a unit, and most numbers of its input or output: so few that a core's cache holds what is computed."""


@takes_over("separable_norm")
def separable_norm(
    x: Tensor | Deferred, depthwise: nn.Conv2d, pointwise: nn.Conv2d, norm: nn.BatchNorm2d
) -> Deferred | None:
    """A stride of 1 or 2."""
    C = depthwise.out_channels
    filters = known(depthwise, C, widest_stride=2) and known(pointwise) and pointwise.kernel_size == (1, 1)
    fitting = fits([x], [C], pointwise.out_channels, norm) and pointwise.in_channels == C
    if not (filters and fitting) or not takes(x, weights=(depthwise.weight, pointwise.weight, norm.weight)):
        return None
    z, scale, shift, is_rectified = deferred(x)
    weights = (depthwise.weight, pointwise.weight)
    return normalised(_SeparableNorm, norm, *weights, depthwise.stride[0], is_rectified, z, scale, shift)


class _SeparableNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_O: Tensor, bias_O: Tensor, eps: float, depthwise_C1kk: Tensor, pointwise_OC11: Tensor,
        stride: int, rectified: bool, z_BCHW: Tensor, *affine: Any,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        layout = _Layout.of(z_BCHW, depthwise_C1kk, pointwise_OC11, stride)
        y_BOHW = z_BCHW.new_empty(layout.B, layout.O, layout.rows, layout.wide)
        sums_U2O = z_BCHW.new_empty(layout.units, 2, layout.O)
        numbers_C3 = numbers([rectified], [z_BCHW, *affine])
        weights = _weights(layout, depthwise_C1kk, pointwise_OC11)
        separable_kernels.forward(layout.width)(
            team(z_BCHW.numel()), layout.units, array(z_BCHW), numbers_C3, *layout.sizes, *weights, array(y_BOHW),
            array(sums_U2O),
        )  # fmt: skip
        ctx.numbers_C3, ctx.layout = numbers_C3, layout
        saved = (z_BCHW, depthwise_C1kk, pointwise_OC11)
        return with_norm(ctx, y_BOHW, sums_U2O, layout.images, weight_O, bias_O, eps, *saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        out, (z_BCHW, depthwise_C1kk, pointwise_OC11) = output_gradient(ctx, gradients)
        layout: _Layout = ctx.layout
        to_z, *to_affine = ctx.needs_input_grad[7:]
        dz_BCHW = torch.empty_like(z_BCHW)
        d_planes_DCP = z_BCHW.new_empty(BUCKETS, *layout.planes(depthwise_C1kk).shape)
        d_pointwise_DOC = z_BCHW.new_zeros(BUCKETS, layout.O, layout.C)
        d_affine_D2C = z_BCHW.new_zeros(BUCKETS, 2, layout.C)
        separable_kernels.backward(layout.width)(
            team(z_BCHW.numel()), BUCKETS, array(z_BCHW), ctx.numbers_C3, *layout.sizes,
            *_weights(layout, depthwise_C1kk, pointwise_OC11), array(out.y_BCHW), array(out.dy_BCHW), array(out.ab_2C),
            to_z or any(to_affine), array(dz_BCHW), array(d_planes_DCP), array(d_pointwise_DOC), array(d_affine_D2C),
        )  # fmt: skip
        d_planes_CP, d_pointwise_OC, d_affine_2C = (
            buckets.sum(0, dtype=torch.float64).float()
            for buckets in (d_planes_DCP, d_pointwise_DOC, d_affine_D2C)
        )
        return (
            *out.norm,
            layout.taps(d_planes_CP).view_as(depthwise_C1kk),
            d_pointwise_OC.view_as(pointwise_OC11),
            None,
            None,
            dz_BCHW if to_z else None,
            *affine_gradients(d_affine_2C, [layout.C], to_affine),
        )


def _weights(layout: _Layout, depthwise_C1kk: Tensor, pointwise_OC11: Tensor) -> tuple[Any, Any]:
    """The filters as kernels read them."""
    return array(layout.planes(depthwise_C1kk)), array(pointwise_OC11.flatten(1).contiguous())


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
