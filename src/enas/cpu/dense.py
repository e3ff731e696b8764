"""A dense convolution of a concatenation of `Deferred`s, and the statistics of the norm after it, in one compiled pass.

The plain form is in `enas.ops`.

Shape letters: B images, C channels in (of all parts), O channels out, H rows, W columns, k the width of a filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from enas.cpu.deferred import Deferred
from enas.cpu.dense_kernels import dense_backward, dense_forward
from enas.cpu.kernels import array, kernel
from enas.cpu.node import apply
from enas.cpu.normed import BUCKETS, NormInputs, counts, normalised, output_gradient, with_norm
from enas.cpu.parts import Parts, addresses
from enas.cpu.scratch import geometry, units
from enas.cpu.simd import multiplies_bfloat16
from enas.cpu.threads import team
from enas.cpu.tiles import pack, tap_offsets


def dense_norm(
    xs: Sequence[Deferred], weight_OCkk: Tensor, norm: nn.BatchNorm2d, dtype: torch.dtype = torch.float32
) -> Deferred:
    """norm(convolution of the concatenation of xs), stride 1, odd k, by the compiled kernels.

    Products are of bfloat16 if `dtype` says so and the processor multiplies it.
    """
    parts = Parts.of(xs)
    inputs = NormInputs.of(norm)
    if not multiplies_bfloat16():
        dtype = torch.float32
    outputs = apply(_DenseNorm, parts, dtype, weight_OCkk, *inputs, *parts.tensors(xs))
    return normalised(norm, outputs)


@kernel
def _pack(matrix_RK: Any, packed: Any) -> None:
    pack(matrix_RK, packed)


def packed_filters(
    weight_OCT: Tensor, channels: Sequence[int], dtype: torch.dtype, turned: bool = False
) -> np.ndarray[Any, Any]:
    """The filters part by part as the kernels read them: [O, C · taps], or turned round for the gradient, [C, O · taps].

    For bfloat16, a number holds the weights of two neighbouring channels.
    """
    packed = []
    for part_OCT in weight_OCT.split(list(channels), 1):
        rows_RCT = part_OCT.transpose(0, 1).flip(2) if turned else part_OCT
        R, C, taps = rows_RCT.shape
        if dtype is torch.bfloat16:
            even_RCT = F.pad(rows_RCT, (0, 0, 0, C % 2)).to(dtype)
            pairs_RCT2 = even_RCT.view(R, -1, 2, taps).transpose(2, 3).contiguous()
            matrix_RK = pairs_RCT2.view(torch.uint16).numpy().view(np.uint32).reshape(R, -1)
        else:
            matrix_RK = array(rows_RCT.reshape(R, C * taps).contiguous())
        packed.append(np.empty(matrix_RK.size, matrix_RK.dtype))
        _pack(matrix_RK, packed[-1])
    return packed[0] if len(packed) == 1 else np.concatenate(packed)


def terms(channels: int, dtype: torch.dtype) -> int:
    """Planes of so many channels as operands."""
    return -(-channels // 2) if dtype is torch.bfloat16 else channels


class _DenseNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        parts: Parts,
        dtype: torch.dtype,
        weight_OCkk: Tensor,
        *arguments: Any,
    ) -> Any:
        norm, maps = NormInputs.split(arguments)
        count = len(parts.channels)
        zs = [z.contiguous() for z in maps[:count]]
        affine_2C = parts.affine_2C(maps[count:])
        B, _, H, W = zs[0].shape
        O, C, k, _ = weight_OCkk.shape
        places = geometry(B, max(O, *parts.channels), H, W, k // 2)
        y_BOHW = zs[0].new_empty(B, O, H, W)
        sums_U2O = torch.empty(units(B, places), 2, O)
        weight_OCT = weight_OCkk.detach().reshape(O, C, k * k)
        dense_forward[dtype](
            team(y_BOHW.numel()),
            len(sums_U2O),
            B,
            addresses(zs),
            parts.channels_P,
            affine_2C,
            parts.low_P,
            packed_filters(weight_OCT, parts.channels, dtype),
            O,
            tap_offsets(terms(max(parts.channels), dtype), k, places.plane, places.row),
            k * k,
            places,
            array(y_BOHW.view(B, O, places.height, places.width)),
            array(sums_U2O),
        )
        ctx.parts, ctx.dtype, ctx.places, ctx.affine_2C = parts, dtype, places, affine_2C
        count_U = counts(B, places.images, H * W)
        return with_norm(ctx, y_BOHW, sums_U2O, count_U, norm, weight_OCkk, *zs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        out, (weight_OCkk, *zs) = output_gradient(ctx, gradients)
        parts, places = ctx.parts, ctx.places
        B, O = out.y_BCHW.shape[:2]
        _, C, k, _ = weight_OCkk.shape
        first = 8  # arguments of forward before the maps
        dzs = [
            torch.empty_like(z) if needed else None
            for z, needed in zip(zs, ctx.needs_input_grad[first:], strict=False)
        ]
        weight_OCT = weight_OCkk.detach().reshape(O, C, k * k)
        d_weight_NOK = torch.empty(BUCKETS, O * C * k * k)
        sums_N2C = torch.empty(BUCKETS, 2, C)
        shape = (B, O, places.height, places.width)
        dense_backward[ctx.dtype](
            team(out.y_BCHW.numel()),
            BUCKETS,
            BUCKETS,
            B,
            addresses(zs),
            parts.channels_P,
            ctx.affine_2C,
            parts.low_P,
            packed_filters(weight_OCT, parts.channels, ctx.dtype, turned=True),
            tap_offsets(max(parts.channels), k, places.plane, places.row),
            tap_offsets(terms(O, ctx.dtype), k, places.plane, places.row),
            k * k,
            places,
            array(out.y_BCHW.view(shape)),
            array(out.dy_BCHW.view(shape)),
            array(out.ab_2C),
            addresses(dzs),
            array(d_weight_NOK),
            array(sums_N2C),
        )
        blocks = d_weight_NOK.sum(0).split([O * c * k * k for c in parts.channels])
        d_weight_OCkk = torch.cat(
            [block.view(O, c, k, k) for block, c in zip(blocks, parts.channels, strict=True)], 1
        )
        d_affine_2C = sums_N2C.sum(0)
        return (
            None,
            None,
            d_weight_OCkk,
            *out.norm,
            *dzs,
            *parts.affine_gradients(d_affine_2C),
        )
