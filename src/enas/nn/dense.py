"""A dense convolution of a concatenation of `Activation`s, and the statistics of the norm after it, in one compiled pass.

The plain form is in `enas.nn.convolution`, which decides who computes.

Shape letters: B images, C channels in (of all parts), O channels out, H rows, W columns, k the width of a filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from enas.nn.activation import Activation, ChannelNorm, Statistics
from enas.nn.dense_kernels import dense_backward, dense_forward
from enas.nn.kernels import array, kernel
from enas.nn.normed import BUCKETS, NormInputs, norm_gradient, normalisation, normalised
from enas.nn.scratch import Geometry, geometry, units
from enas.nn.simd import multiplies_bfloat16
from enas.nn.threads import team
from enas.nn.tiles import pack, tap_offsets


def dense_norm(
    xs: Sequence[Activation],
    weight_OCkk: Tensor,
    norm: ChannelNorm,
    statistics: Statistics,
    dtype: torch.dtype = torch.float32,
) -> Activation:
    """norm(convolution of the concatenation of xs), stride 1, odd k, by the compiled kernels.

    Products are of bfloat16 if `dtype` says so and that is faster: for filters wider than 1, on a processor that
    multiplies it.
    """
    parts = Parts.of(xs)
    inputs = NormInputs.of(norm, statistics)
    if weight_OCkk.shape[-1] == 1 or not multiplies_bfloat16():
        dtype = torch.float32
    outputs = _DenseNorm.apply(parts, dtype, weight_OCkk, *inputs, *parts.tensors(xs))
    return normalised(norm, statistics, outputs)


class Parts:
    """The parts of a concatenation, apart from their values."""

    def __init__(self, channels: Sequence[int], affine: Sequence[bool], rectified: Sequence[bool]) -> None:
        self.channels = channels
        self.affine = affine
        self.low_P = np.array([0 if r else -np.inf for r in rectified], np.float32)
        self.channels_P = np.array(channels, np.int64)

    @classmethod
    def of(cls, xs: Sequence[Activation]) -> Parts:
        """Those of these activations."""
        return cls(
            [x.z_BCHW.shape[1] for x in xs],
            [x.scale_C is not None for x in xs],
            [x.rectified for x in xs],
        )

    def tensors(self, xs: Sequence[Activation]) -> list[Tensor]:
        """Every z, then scale and shift of those that have them."""
        maps = [x.z_BCHW for x in xs]
        for x in xs:
            if x.scale_C is not None and x.shift_C is not None:
                maps += [x.scale_C, x.shift_C]
        return maps

    def affine_2C(self, scales: Sequence[Tensor]) -> Tensor:
        """Scale and shift of every channel of the concatenation: 1 and 0 where there are none."""
        affine_2C = torch.empty(2, sum(self.channels))
        channel = given = 0
        for channels, pending in zip(self.channels, self.affine, strict=True):
            for row, without in enumerate((1.0, 0.0)):
                part_C = affine_2C[row, channel : channel + channels]
                if pending:
                    part_C.copy_(scales[given + row])
                else:
                    part_C.fill_(without)
            given += 2 * pending
            channel += channels
        return affine_2C

    def affine_gradients(self, d_affine_2C: Tensor) -> list[Tensor]:
        """The gradients of scale and shift of those parts that have them, in the order of `tensors`."""
        gradients: list[Tensor] = []
        for part_2C, pending in zip(d_affine_2C.split(list(self.channels), 1), self.affine, strict=True):
            if pending:
                gradients += [part_2C[0], part_2C[1]]
        return gradients


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


def _addresses(maps: Sequence[Tensor | None]) -> np.ndarray[Any, Any]:
    return np.array([0 if x is None else x.data_ptr() for x in maps], np.int64)


def counts(images: int, places: Geometry) -> Tensor:
    """Values a channel of every unit."""
    pixels = places.height * places.width
    whole, rest = divmod(images, places.images)
    return torch.tensor([places.images * pixels] * whole + [rest * pixels] * (rest > 0), dtype=torch.float64)


class _DenseNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        parts: Parts,
        dtype: torch.dtype,
        weight_OCkk: Tensor,
        norm_weight_O: Tensor,
        norm_bias_O: Tensor,
        eps: float,
        given_mean_O: Tensor | None,
        given_variance_O: Tensor | None,
        *maps: Tensor,
    ) -> Any:
        count = len(parts.channels)
        zs = [z.contiguous() for z in maps[:count]]
        affine_2C = parts.affine_2C(maps[count:])
        B, _, H, W = zs[0].shape
        O, C, k, _ = weight_OCkk.shape
        norm = NormInputs(norm_weight_O, norm_bias_O, eps, given_mean_O, given_variance_O)
        places = geometry(B, max(O, *parts.channels), H, W, k // 2)
        y_BOHW = zs[0].new_empty(B, O, H, W)
        sums_U2O = torch.empty(units(B, places), 2, O)
        weight_OCT = weight_OCkk.detach().reshape(O, C, k * k)
        dense_forward[dtype](
            team(y_BOHW.numel()),
            len(sums_U2O),
            B,
            _addresses(zs),
            parts.channels_P,
            array(affine_2C),
            parts.low_P,
            packed_filters(weight_OCT, parts.channels, dtype),
            O,
            tap_offsets(terms(max(parts.channels), dtype), k, places.plane, places.row),
            k * k,
            places,
            array(y_BOHW.view(B, O, places.height, places.width)),
            array(sums_U2O),
        )
        result = normalisation(sums_U2O, counts(B, places), norm)
        ctx.save_for_backward(
            weight_OCkk, norm_weight_O, y_BOHW, result.mean_C, result.variance_C, affine_2C, *zs
        )
        ctx.parts, ctx.dtype, ctx.places, ctx.eps = parts, dtype, places, eps
        ctx.values = 0 if given_mean_O is not None else B * H * W
        ctx.mark_non_differentiable(result.mean_C, result.variance_C)
        ctx.set_materialize_grads(False)
        return y_BOHW, *result

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy_BOHW: Tensor | None, d_scale_O: Tensor | None, d_shift_O: Tensor | None, *_: Any
    ) -> Any:
        weight_OCkk, norm_weight_O, y_BOHW, mean_O, variance_O, affine_2C, *zs = ctx.saved_tensors
        parts, places = ctx.parts, ctx.places
        B, O = y_BOHW.shape[:2]
        _, C, k, _ = weight_OCkk.shape
        d_norm_weight_O, d_norm_bias_O, ab_2O = norm_gradient(
            d_scale_O, d_shift_O, mean_O, variance_O, norm_weight_O, ctx.eps, ctx.values
        )
        dy_BOHW = torch.zeros_like(y_BOHW) if dy_BOHW is None else dy_BOHW.contiguous()
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
            team(y_BOHW.numel()),
            BUCKETS,
            BUCKETS,
            B,
            _addresses(zs),
            parts.channels_P,
            array(affine_2C),
            parts.low_P,
            packed_filters(weight_OCT, parts.channels, ctx.dtype, turned=True),
            tap_offsets(max(parts.channels), k, places.plane, places.row),
            tap_offsets(terms(O, ctx.dtype), k, places.plane, places.row),
            k * k,
            places,
            array(y_BOHW.view(shape)),
            array(dy_BOHW.view(shape)),
            array(ab_2O),
            _addresses(dzs),
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
            d_norm_weight_O,
            d_norm_bias_O,
            None,
            None,
            None,
            *dzs,
            *parts.affine_gradients(d_affine_2C),
        )
