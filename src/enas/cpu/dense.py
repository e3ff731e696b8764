"""1×1 convolutions of a concatenation between the norms of its parts and its own, in one pass over memory each way.

Each map is read once forward and once backward, and what is written is summed for the norm on the way. A unit is a few
images, so few that what is computed of them stays in a core's cache; what the backward pass sums over images goes to one
of a fixed number of buckets, contiguous ranges of units. The parts are given by the addresses of their memory, as their
number differs from call to call.

Shape letters: B images, C channels in (of all parts, or of one), O channels out, S pixels of an image, n parts, U units,
D buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from enas.cpu.compiler import array, inlined, parallel_with_scratch, team
from enas.cpu.deferred import (
    Deferred,
    addresses,
    affine_gradients,
    deferred,
    numbers,
    rectified,
    tensors,
)
from enas.cpu.normed import BUCKETS, normalised, output_gradient, with_norm
from enas.cpu.registry import fits, known, takes, takes_over
from enas.cpu.rows import act, act_backward, whole_gradient
from enas.cpu.simd import LANES, borrowed, floats_at, sum_of, sum_of_squares
from enas.cpu.tiles import add_outer, pack, product

Maps = Tensor | Deferred

_UNIT = 40_000
"""Most numbers of a unit's input or output: three such arrays fit a second-level cache of 1 MB, with room for filters."""


@takes_over("conv_norm")
def conv_norm(x: Maps, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Deferred | None:
    """A 1×1 convolution; wider filters are the library's."""
    return joined_norm([x], [conv], norm)


@takes_over("joined_norm")
def joined_norm(xs: Sequence[Maps], convs: Sequence[nn.Conv2d], norm: nn.BatchNorm2d) -> Deferred | None:
    """1×1 convolutions of any number of parts."""
    weights = tuple(conv.weight for conv in convs)
    fitting = fits(xs, [conv.in_channels for conv in convs], convs[0].out_channels, norm)
    pointwise = all(known(conv) and conv.kernel_size == (1, 1) for conv in convs)
    if not (fitting and pointwise) or not takes(*xs, weights=(*weights, norm.weight)):
        return None
    parts = list(map(deferred, xs))
    weight_OC = torch.cat(weights, 1).flatten(1)
    return normalised(_DenseNorm, norm, weight_OC, rectified(parts), *tensors(parts))


# ---- compiled ----------------------------------------------------------------------------------------------------------


@inlined
def _stage(z_BCS, begin, end, numbers_C3, plane, x):
    """act(z) of images begin .. end - 1 as rows of x, one a channel, `plane` apart."""
    S = z_BCS.shape[2]
    for c in range(len(numbers_C3)):
        for b in range(begin, end):
            at = c * plane + (b - begin) * S
            act(z_BCS[b, c], numbers_C3[c, 0], numbers_C3[c, 1], numbers_C3[c, 2], x[at : at + S])


@inlined
def _emit(y, plane, begin, end, y_BOS, sums_2O):
    """Rows of y as images begin .. end - 1; each channel's sum, and its squared deviations from the mean of these images."""
    _, O, S = y_BOS.shape
    count = np.float32((end - begin) * S)
    for o in range(O):
        total = squares = np.float32(0)
        for b in range(begin, end):
            at = o * plane + (b - begin) * S
            out = y_BOS[b, o]
            for s in range(S):
                out[s] = y[at + s]
            total += sum_of(y[at : at + S])
        for b in range(begin, end):
            at = o * plane + (b - begin) * S
            squares += sum_of_squares(y[at : at + S], total / count)
        sums_2O[0, o] = total
        sums_2O[1, o] = squares


@parallel_with_scratch
def _forward(first, last, images, address_n, channels_n, numbers_C3, w_OC, y_BOS, sums_U2O):
    y_BOS = borrowed(y_BOS)
    B, O, S = y_BOS.shape
    most = channels_n.max()
    plane = images * S + 4 * LANES
    x, y, packed = (
        np.zeros(most * plane, np.float32),
        np.empty(O * plane, np.float32),
        np.empty(w_OC.size, np.float32),
    )
    offset_C = np.arange(most) * plane
    c = 0
    for C in channels_n:
        pack(w_OC[:, c : c + C], packed[O * c :])
        c += C
    for u in range(first, last):
        begin, end = u * images, min((u + 1) * images, B)
        c = 0
        for p in range(len(address_n)):
            C = channels_n[p]
            z_BCS = floats_at(address_n[p], (B, C, S))
            _stage(z_BCS, begin, end, numbers_C3[c : c + C], plane, x)
            product(packed[O * c :], O, C, x, 0, offset_C, (end - begin) * S, y, 0, plane, p)
            c += C
        _emit(y, plane, begin, end, y_BOS, sums_U2O[u])


@parallel_with_scratch
def _backward(
    first, last, images, address_n, channels_n, numbers_C3, w_OC, y_BOS, dy_BOS, ab_2O, d_address_n, d_w_DK, d_affine_D2C
):  # fmt: skip
    """Its rows are the buckets. `d_w_DK` gets the gradients of the filters part by part, [O, C of the part] each.

    A part whose address in `d_address_n` is 0 gets no gradient.
    """
    y_BOS, dy_BOS = borrowed(y_BOS), borrowed(dy_BOS)
    B, O, S = y_BOS.shape
    most = channels_n.max()
    plane = images * S + 4 * LANES
    x, d = np.zeros(most * plane, np.float32), np.zeros(O * plane, np.float32)
    dx, packed = np.empty(most * plane, np.float32), np.empty(w_OC.size, np.float32)
    offset_C, offset_O = np.arange(most) * plane, np.arange(O) * plane
    c = 0
    for C in channels_n:
        pack(w_OC[:, c : c + C].T, packed[O * c :])
        c += C
    units, D = (B + images - 1) // images, len(d_w_DK)
    for bucket in range(first, last):
        d_w, d_affine_2C = d_w_DK[bucket], d_affine_D2C[bucket]
        d_w[:] = 0
        d_affine_2C[:] = 0
        for u in range(units * bucket // D, units * (bucket + 1) // D):
            begin, end = u * images, min((u + 1) * images, B)
            size = ((end - begin) * S + LANES - 1) // LANES * LANES
            for o in range(O):
                for b in range(begin, end):
                    at = o * plane + (b - begin) * S
                    whole_gradient(dy_BOS[b, o], y_BOS[b, o], ab_2O[0, o], ab_2O[1, o], d[at : at + S])
                d[o * plane + (end - begin) * S : o * plane + size] = 0
            c = 0
            for p in range(len(address_n)):
                C = channels_n[p]
                z_BCS, own_C3 = floats_at(address_n[p], (B, C, S)), numbers_C3[c : c + C]
                _stage(z_BCS, begin, end, own_C3, plane, x)
                add_outer(d, 0, plane, O, x, 0, offset_C, C, size, d_w[O * c : O * (c + C)].reshape(O, C))
                if d_address_n[p] != 0:
                    product(packed[O * c :], C, O, d, 0, offset_O, size, dx, 0, plane, 0)
                    dz_BCS = floats_at(d_address_n[p], (B, C, S))
                    for i in range(C):
                        scale, shift, low = own_C3[i]
                        d_scale = d_shift = np.float32(0)
                        for b in range(begin, end):
                            at = i * plane + (b - begin) * S
                            more = act_backward(
                                dx[at : at + S], z_BCS[b, i], scale, shift, low, np.float32(1), dz_BCS[b, i]
                            )
                            d_scale += more[0]
                            d_shift += more[1]
                        d_affine_2C[0, c + i] += d_scale
                        d_affine_2C[1, c + i] += d_shift
                c += C


# ---- in autograd's graph -----------------------------------------------------------------------------------------------


class _DenseNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_O: Tensor, bias_O: Tensor, eps: float, weight_OC: Tensor, rectified: tuple[bool, ...], *given: Any
    ) -> Any:  # fmt: skip
        zs, (B, _, H, W), O = given[: len(rectified)], given[0].shape, len(weight_OC)
        channels_n = np.array([z.shape[1] for z in zs], np.int64)
        numbers_C3 = numbers(rectified, given)
        y_BOHW = zs[0].new_empty(B, O, H, W)
        images = min(B, max(1, _UNIT // (max(O, *channels_n) * H * W)))
        sums_U2O = torch.empty(-(-B // images), 2, O)
        ctx.layout = (images, addresses(zs), channels_n, numbers_C3, array(weight_OC))
        _forward(
            team(y_BOHW.numel()), len(sums_U2O), *ctx.layout, array(y_BOHW.view(B, O, -1)), array(sums_U2O)
        )
        return with_norm(ctx, y_BOHW, sums_U2O, images, weight_O, bias_O, eps, weight_OC, *zs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        out, (weight_OC, *zs) = output_gradient(ctx, gradients)
        needed, channels = ctx.needs_input_grad[5:], [z.shape[1] for z in zs]
        dzs = [torch.empty_like(z) if wanted else None for z, wanted in zip(zs, needed, strict=False)]
        (B, O), C = out.y_BCHW.shape[:2], sum(channels)
        d_w_DK, d_affine_D2C = torch.empty(BUCKETS, O * C), torch.empty(BUCKETS, 2, C)
        y, dy = (array(maps.view(B, O, -1)) for maps in (out.y_BCHW, out.dy_BCHW))
        _backward(
            team(out.y_BCHW.numel()), BUCKETS, *ctx.layout, y, dy, array(out.ab_2C), addresses(dzs), array(d_w_DK),
            array(d_affine_D2C),
        )  # fmt: skip
        blocks = d_w_DK.sum(0).split([O * part for part in channels])
        d_weight_OC = torch.cat([block.view(O, -1) for block in blocks], 1)
        affine = affine_gradients(d_affine_D2C.sum(0), channels, needed[len(zs) :])
        return *out.norm, d_weight_OC, None, *dzs, *affine
