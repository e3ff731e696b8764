"""A factorized reduction of an `Deferred`, and the statistics of the norm after it, in one compiled pass.

The plain form is in `enas.ops`.

Shape letters: B images, C channels in, O channels out, of which the first E read the even pixels, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from enas.cpu.deferred import Deferred
from enas.cpu.kernels import array, kernel
from enas.cpu.node import apply
from enas.cpu.normed import BUCKETS, NormInputs, counts, normalised, output_gradient, with_norm
from enas.cpu.parts import Parts
from enas.cpu.reduction_kernels import reduction_backward, reduction_forward
from enas.cpu.scratch import geometry, units
from enas.cpu.threads import team
from enas.cpu.tiles import pack, tap_offsets


def fused_reduction_norm(x: Deferred, even_EC: Tensor, odd_OC: Tensor, norm: nn.BatchNorm2d) -> Deferred:
    """norm(1×1 convolution of the even pixels of x beside one of the odd ones), by the compiled kernels."""
    parts = Parts.of([x])
    weight_OC = torch.cat([even_EC, odd_OC])
    inputs = NormInputs.of(norm)
    outputs = apply(_ReductionNorm, parts, len(even_EC), weight_OC, *inputs, *parts.tensors([x]))
    return normalised(norm, outputs)


@kernel
def _pack_halves(weight_OC: Any, E: int, packed: Any) -> None:
    """The filters of either half as `reduction_forward` reads them."""
    C = weight_OC.shape[1]
    pack(weight_OC[:E], packed)
    pack(weight_OC[E:], packed[E * C :])


@kernel
def _pack_halves_transposed(weight_OC: Any, E: int, packed: Any) -> None:
    """The transposed filters of either half as `reduction_backward` reads them."""
    C = weight_OC.shape[1]
    pack(weight_OC[:E].T, packed)
    pack(weight_OC[E:].T, packed[E * C :])


class _ReductionNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        parts: Parts,
        E: int,
        weight_OC: Tensor,
        *arguments: Any,
    ) -> Any:
        norm, (z_BCHW, *affine) = NormInputs.split(arguments)
        z_BCHW = z_BCHW.contiguous()
        affine_2C = parts.affine_2C(affine)
        B, C, H, W = z_BCHW.shape
        O, (high, wide) = len(weight_OC), ((H + 1) // 2, (W + 1) // 2)
        places = geometry(B, max(O, 2 * C), high, wide, 0)
        y_BOHW = z_BCHW.new_empty(B, O, high, wide)
        sums_U2O = torch.empty(units(B, places), 2, O)
        packed = torch.empty(O * C)
        _pack_halves(array(weight_OC), E, array(packed))
        reduction_forward(
            team(y_BOHW.numel()),
            len(sums_U2O),
            array(z_BCHW),
            affine_2C,
            parts.low_P[0],
            array(packed),
            E,
            tap_offsets(C, 1, places.plane, places.row),
            places,
            array(y_BOHW.view(B, O, places.height, places.width)),
            array(sums_U2O),
        )
        ctx.parts, ctx.E, ctx.places, ctx.affine_2C = parts, E, places, affine_2C
        count_U = counts(B, places.images, high * wide)
        return with_norm(ctx, y_BOHW, sums_U2O, count_U, norm, weight_OC, z_BCHW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        out, (weight_OC, z_BCHW) = output_gradient(ctx, gradients)
        places = ctx.places
        O, C = weight_OC.shape
        packed = torch.empty(O * C)
        _pack_halves_transposed(array(weight_OC), ctx.E, array(packed))
        dz_BCHW = torch.empty_like(z_BCHW)
        d_weight_NOC = torch.empty(BUCKETS, O, C)
        sums_N2C = torch.empty(BUCKETS, 2, C)
        shape = (len(z_BCHW), O, places.height, places.width)
        reduction_backward(
            team(z_BCHW.numel()),
            BUCKETS,
            BUCKETS,
            array(z_BCHW),
            ctx.affine_2C,
            ctx.parts.low_P[0],
            array(packed),
            ctx.E,
            tap_offsets(C, 1, places.plane, places.row),
            tap_offsets(O, 1, places.plane, places.row),
            places,
            array(out.y_BCHW.view(shape)),
            array(out.dy_BCHW.view(shape)),
            array(out.ab_2C),
            array(dz_BCHW),
            array(d_weight_NOC),
            array(sums_N2C),
        )
        return (
            None,
            None,
            d_weight_NOC.sum(0),
            *out.norm,
            dz_BCHW,
            *ctx.parts.affine_gradients(sums_N2C.sum(0)),
        )
