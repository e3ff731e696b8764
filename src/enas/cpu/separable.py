"""The depthwise-separable convolution and the statistics of its norm in one pass over memory, and its gradient in another.

Between the passes only the input z, the output y and the weights are kept; the rest is computed again. The kernels are in
`enas.cpu.separable_kernels`.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of the filter, U units, D buckets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from enas.cpu.compiler import array, team
from enas.cpu.deferred import Deferred, Maps, affine_gradients, deferred, numbers
from enas.cpu.normed import BUCKETS, normalised, output_gradient, with_norm
from enas.cpu.registry import few_enough, fits, known, takes, takes_over
from enas.cpu.separable_kernels import passes

_POSITIONS = 1200
"""Most positions of a unit, so few that a core's cache holds all that is computed of them."""
_NUMBERS = 44_000
"""Most numbers of a unit's input or output, likewise."""


@takes_over("separable_norm")
def separable_norm(
    x: Maps, depthwise: nn.Conv2d, pointwise: nn.Conv2d, norm: nn.BatchNorm2d
) -> Deferred | None:
    """A stride of 1, where this is faster than the library."""
    C, O = depthwise.out_channels, pointwise.out_channels
    filters = known(depthwise, C) and known(pointwise) and pointwise.kernel_size == (1, 1)
    fitting = fits([x], [C], O, norm) and pointwise.in_channels == C and few_enough(max(C, O), x.shape)
    if not (filters and fitting) or not takes(x, weights=(depthwise.weight, pointwise.weight, norm.weight)):
        return None
    z, scale, shift, is_rectified = deferred(x)
    return normalised(_SeparableNorm, norm, depthwise.weight, pointwise.weight, is_rectified, z, scale, shift)


def _layout(z_BCHW: Tensor, O: int, k: int) -> tuple[int, int, int, int]:
    """Images of a unit; columns, rounded up to a multiple of 8; k; lanes of the longest vectors that fit the columns."""
    B, C, H, W = z_BCHW.shape
    columns = -(-W // 8) * 8
    positions = min(_POSITIONS, _NUMBERS // max(C, O))
    return max(1, min(B, positions // (H * columns))), columns, k, 8 if columns % 16 else 16


class _SeparableNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_O: Tensor, bias_O: Tensor, eps: float, depthwise_C1kk: Tensor, pointwise_OC11: Tensor,
        rectified: bool, z_BCHW: Tensor, *affine: Any,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        (B, _, H, W), O, k = z_BCHW.shape, len(pointwise_OC11), depthwise_C1kk.shape[-1]
        ctx.layout = _layout(z_BCHW, O, k)
        ctx.numbers_C3 = numbers([rectified], [z_BCHW, *affine])
        y_BOHW, sums_U2O = z_BCHW.new_empty(B, O, H, W), z_BCHW.new_empty(-(-B // ctx.layout[0]), 2, O)
        forward, _ = passes(k)
        forward(
            team(z_BCHW.numel()), len(sums_U2O), array(z_BCHW), ctx.numbers_C3, *ctx.layout,
            array(depthwise_C1kk.contiguous()), array(pointwise_OC11.flatten(1)), array(y_BOHW), array(sums_U2O),
        )  # fmt: skip
        saved = (z_BCHW, depthwise_C1kk, pointwise_OC11)
        return with_norm(ctx, y_BOHW, sums_U2O, ctx.layout[0], weight_O, bias_O, eps, *saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        out, (z_BCHW, depthwise_C1kk, pointwise_OC11) = output_gradient(ctx, gradients)
        to_z, *to_affine = ctx.needs_input_grad[6:]
        dz_BCHW = torch.empty_like(z_BCHW)
        d_depthwise_DC1kk = z_BCHW.new_empty(BUCKETS, *depthwise_C1kk.shape)
        d_pointwise_DOC = z_BCHW.new_zeros(BUCKETS, *pointwise_OC11.shape[:2])
        d_affine_D2C = z_BCHW.new_zeros(BUCKETS, 2, z_BCHW.shape[1])
        _, backward = passes(depthwise_C1kk.shape[-1])
        backward(
            team(z_BCHW.numel()), BUCKETS, array(z_BCHW), ctx.numbers_C3, *ctx.layout, array(depthwise_C1kk.contiguous()),
            array(pointwise_OC11.flatten(1)), array(out.y_BCHW), array(out.dy_BCHW), array(out.ab_2C),
            to_z or any(to_affine), array(dz_BCHW), array(d_depthwise_DC1kk), array(d_pointwise_DOC),
            array(d_affine_D2C),
        )  # fmt: skip
        d_depthwise_C1kk, d_pointwise_OC, d_affine_2C = (
            buckets.sum(0, dtype=torch.float64).float()
            for buckets in (d_depthwise_DC1kk, d_pointwise_DOC, d_affine_D2C)
        )
        return (
            *out.norm,
            d_depthwise_C1kk,
            d_pointwise_OC.view_as(pointwise_OC11),
            None,
            dz_BCHW if to_z else None,
            *affine_gradients(d_affine_2C, [z_BCHW.shape[1]], to_affine),
        )
