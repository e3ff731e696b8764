"""Dense convolutions of a concatenation between the norms of its parts and its own, in one pass over memory each way.

Each map is read once forward and once backward, and the output is summed for its norm while it is written. A unit is a few
images, so few that a core's cache holds what is computed of them. Sums over images in the backward pass go to a fixed number
of buckets, contiguous ranges of units. The parts are given by the addresses of their memory, as their number differs from
call to call.

In scratch memory, each channel has a plane of its own. Its rows of pixels, and its images, follow each other with a border
of zeros between them: the zeros right of a row are those left of the next one. So each tap of a filter reads at one fixed
distance from every position, and the positions of a unit are contiguous.

Shape letters: B images, C channels in (of all parts, or of one), O channels out, H rows, W columns, k the width of a filter,
K = C · k² terms, L = O · k², n parts, U units, D buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from enas.cpu.compiler import array, inlined, parallel_with_scratch, team
from enas.cpu.deferred import (
    Deferred,
    Maps,
    addresses,
    affine_gradients,
    apply,
    deferred,
    numbers,
    rectified,
    tensors,
)
from enas.cpu.normed import BUCKETS, normalised, output_gradient, with_norm
from enas.cpu.registry import few_enough, fits, known, takes, takes_over, wide_filters_pay
from enas.cpu.rows import act, act_backward, whole_gradient
from enas.cpu.simd import LANES, borrowed, floats_at, sum_of, sum_of_squares
from enas.cpu.tiles import add_outer, pack, product

_UNIT = 40_000
"""Most numbers of a unit's input or output: three such arrays fit a second-level cache of 1 MB, with room for filters."""


@takes_over("conv_norm")
def conv_norm(x: Maps, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Deferred | None:
    """A stride of 1."""
    return joined_norm([x], [conv], norm)


@takes_over("joined_norm")
def joined_norm(xs: Sequence[Maps], convs: Sequence[nn.Conv2d], norm: nn.BatchNorm2d) -> Deferred | None:
    """Any number of parts, where this is faster than the library."""
    weights, (k, _) = tuple(conv.weight for conv in convs), convs[0].kernel_size
    alike = all(known(conv) and conv.kernel_size == (k, k) for conv in convs)
    if not alike or not fits(xs, [conv.in_channels for conv in convs], convs[0].out_channels, norm):
        return None
    widest = max(weights[0].shape[0], *(weight.shape[1] for weight in weights))
    if not few_enough(k * widest, xs[0].shape) or (k > 1 and not wide_filters_pay()):
        return None
    if not takes(*xs, weights=(*weights, norm.weight)):
        return None
    parts = list(map(deferred, xs))
    return normalised(_DenseNorm, norm, torch.cat(weights, 1), rectified(parts), *tensors(parts))


@takes_over("reduction_norm")
def reduction_norm(
    xs: Sequence[Maps], evens: Sequence[nn.Conv2d], odds: Sequence[nn.Conv2d], norm: nn.BatchNorm2d
) -> Deferred | None:
    """For maps of even height and width: one 1×1 convolution of the even pixels beside the odd ones.

    Its filters are 0 where an output does not read the pixels.
    """
    even_PC, odd_QC = (torch.cat([conv.weight for conv in convs], 1) for convs in (evens, odds))
    channels, (B, _, H, W) = [x.shape[1] for x in xs], xs[0].shape
    fitting = all(
        fits(xs, [conv.in_channels for conv in convs], len(even_PC) + len(odd_QC), norm)
        for convs in (evens, odds)
    )
    few = few_enough(max(norm.num_features, *channels), (B, 0, H // 2, W // 2))
    if not (fitting and few) or H % 2 or W % 2 or not takes(*xs, weights=(even_PC, odd_QC, norm.weight)):
        return None
    weight_OC = torch.cat(
        [F.pad(even_PC, (0, 0) * 2 + (0, sum(channels))), F.pad(odd_QC, (0, 0) * 2 + (sum(channels), 0))]
    )
    halves = [(deferred(x), apply(_Halves, deferred(x).z_BCHW)) for x in xs]
    parts = [x._replace(z_BCHW=half[odd]) for odd in (0, 1) for x, half in halves]
    return normalised(_DenseNorm, norm, weight_OC, rectified(parts), *tensors(parts))


# ---- compiled ----------------------------------------------------------------------------------------------------------


class Places(NamedTuple):
    """Where pixels lie in scratch memory; whole numbers only, so that kernels can take it."""

    height: int
    width: int
    row: int
    """From a pixel to the one below it."""
    image: int
    """From an image to the next one."""
    lead: int
    """From the beginning of a plane to the first pixel."""
    plane: int
    """From a channel to the next one, in bordered arrays."""
    images: int
    """Of a unit."""

    @classmethod
    def of(cls, images: int, channels: int, height: int, width: int, border: int) -> Places:
        """For maps of at most `channels` channels, with a border of zeros around each image. Without a border, the pixels of
        an image are one row."""
        if border == 0:
            height, width = 1, height * width
        row = width + border
        image = (height + border) * row
        unit = min(images, max(1, _UNIT // (channels * image)))
        lead = border * row + border
        return cls(height, width, row, image, lead, lead + unit * image + lead + 4 * LANES, unit)


@cache
def _offsets(channels: int, k: int, plane: int, row: int) -> Any:
    """The offsets of the channels · k² taps of a filter in a scratch array whose channels lie `plane` apart, rows `row`."""
    c, ky, kx = np.meshgrid(np.arange(channels), np.arange(k), np.arange(k), indexing="ij")
    return (c * plane + ky * row + kx).astype(np.int64).reshape(-1)


@inlined
def _positions(places, images):
    """The number of positions that images of a unit take, rounded up to whole vectors."""
    return (images * places.image + LANES - 1) // LANES * LANES


@inlined
def _stage(z_BCHW, begin, end, numbers_C3, places, x):
    """act(z) of images begin .. end - 1 between the zeros of x [C · plane]."""
    for c in range(len(numbers_C3)):
        scale, shift, low = numbers_C3[c, 0], numbers_C3[c, 1], numbers_C3[c, 2]
        for b in range(begin, end):
            at = c * places.plane + places.lead + (b - begin) * places.image
            for h in range(places.height):
                act(z_BCHW[b, c, h], scale, shift, low, x[at : at + places.width])
                at += places.row


@inlined
def _stage_gradient(dy_BOHW, y_BOHW, begin, end, ab_2O, places, d):
    """dy + a + b · y of images begin .. end - 1 between the zeros of d [O · plane]; zeros to the end of the last vector."""
    last = places.lead + (end - begin) * places.image
    for o in range(len(ab_2O[0])):
        for b in range(begin, end):
            at = o * places.plane + places.lead + (b - begin) * places.image
            for h in range(places.height):
                out = d[at : at + places.width]
                whole_gradient(dy_BOHW[b, o, h], y_BOHW[b, o, h], ab_2O[0, o], ab_2O[1, o], out)
                at += places.row
        d[o * places.plane + last : o * places.plane + last + LANES] = 0


@inlined
def _emit(y, stride, begin, end, places, y_BOHW, sums_2O):
    """The unbordered y [O · stride] as images begin .. end - 1.

    sums_2O gets each channel's sum, and its squared deviations from the mean of these images.
    """
    W = places.width
    count = np.float32((end - begin) * places.height * W)
    for o in range(y_BOHW.shape[1]):
        total = squares = np.float32(0)
        for b in range(begin, end):
            at = o * stride + (b - begin) * places.image
            for h in range(places.height):
                row, out = y[at : at + W], y_BOHW[b, o, h]
                for w in range(W):
                    out[w] = row[w]
                total += sum_of(row)
                at += places.row
        for b in range(begin, end):
            at = o * stride + (b - begin) * places.image
            for _ in range(places.height):
                squares += sum_of_squares(y[at : at + W], total / count)
                at += places.row
        sums_2O[0, o] = total
        sums_2O[1, o] = squares


@inlined
def _emit_gradient(dx, stride, z_BCHW, begin, end, numbers_C3, places, dz_BCHW, d_affine_2C):
    """The gradient of z from that of act(z), unbordered in dx [C · stride]; adds those of scale and shift."""
    W, one = places.width, np.float32(1)
    for c in range(len(numbers_C3)):
        scale, shift, low = numbers_C3[c, 0], numbers_C3[c, 1], numbers_C3[c, 2]
        d_scale = d_shift = np.float32(0)
        for b in range(begin, end):
            at = c * stride + (b - begin) * places.image
            for h in range(places.height):
                dz = dz_BCHW[b, c, h]
                more = act_backward(dx[at : at + W], z_BCHW[b, c, h], scale, shift, low, one, dz)
                d_scale += more[0]
                d_shift += more[1]
                at += places.row
        d_affine_2C[0, c] += d_scale
        d_affine_2C[1, c] += d_shift


@parallel_with_scratch
def _forward(first, last, places, taps, address_n, channels_n, numbers_C3, offset_K, w_OK, y_BOHW, sums_U2O):
    """The convolution; its rows are the units."""
    y_BOHW = borrowed(y_BOHW)
    B, O, H, W = y_BOHW.shape
    stride = _positions(places, places.images)
    x, y = np.zeros(channels_n.max() * places.plane, np.float32), np.empty(O * stride, np.float32)
    packed = np.empty(w_OK.size, np.float32)
    c = 0
    for C in channels_n:
        pack(w_OK[:, c * taps : (c + C) * taps], packed[O * c * taps :])
        c += C
    for u in range(first, last):
        begin, end = u * places.images, min((u + 1) * places.images, B)
        S = _positions(places, end - begin)
        c = 0
        for p in range(len(address_n)):
            C = channels_n[p]
            _stage(floats_at(address_n[p], (B, C, H, W)), begin, end, numbers_C3[c : c + C], places, x)
            product(packed[O * c * taps :], O, C * taps, x, 0, offset_K, S, y, 0, stride, p)
            c += C
        _emit(y, stride, begin, end, places, y_BOHW, sums_U2O[u])


@parallel_with_scratch
def _backward(
    first, last, places, taps, address_n, channels_n, numbers_C3, offset_K, offset_L, w_CL, y_BOHW, dy_BOHW, ab_2O,
    d_address_n, d_w_DK, d_affine_D2C,
):  # fmt: skip
    """The gradients of z, scale, shift and filters; its rows are the buckets. `w_CL` are the filters, mirrored.

    A part whose address in `d_address_n` is 0 gets no gradient. `d_w_DK` gets those of the filters, one [O, K] a part.
    """
    y_BOHW, dy_BOHW = borrowed(y_BOHW), borrowed(dy_BOHW)
    B, O, H, W = y_BOHW.shape
    L, most, stride = O * taps, channels_n.max(), _positions(places, places.images)
    x, d = np.zeros(most * places.plane, np.float32), np.zeros(O * places.plane, np.float32)
    dx, packed = np.empty(most * stride, np.float32), np.empty(w_CL.size, np.float32)
    c = 0
    for C in channels_n:
        pack(w_CL[c : c + C], packed[c * L :])
        c += C
    units, D = (B + places.images - 1) // places.images, len(d_w_DK)
    for bucket in range(first, last):
        d_w, d_affine_2C = d_w_DK[bucket], d_affine_D2C[bucket]
        d_w[:] = 0
        d_affine_2C[:] = 0
        for u in range(units * bucket // D, units * (bucket + 1) // D):
            begin, end = u * places.images, min((u + 1) * places.images, B)
            S = _positions(places, end - begin)
            _stage_gradient(dy_BOHW, y_BOHW, begin, end, ab_2O, places, d)
            c = 0
            for p in range(len(address_n)):
                C = channels_n[p]
                z_BCHW, own_C3 = floats_at(address_n[p], (B, C, H, W)), numbers_C3[c : c + C]
                _stage(z_BCHW, begin, end, own_C3, places, x)
                d_part = d_w[c * L : (c + C) * L].reshape(O, C * taps)
                add_outer(d, places.lead, places.plane, O, x, 0, offset_K, C * taps, S, d_part)
                if d_address_n[p] != 0:
                    product(packed[c * L :], C, L, d, 0, offset_L, S, dx, 0, stride, 0)
                    dz_BCHW = floats_at(d_address_n[p], (B, C, H, W))
                    d_own_2C = d_affine_2C[:, c : c + C]
                    _emit_gradient(dx, stride, z_BCHW, begin, end, own_C3, places, dz_BCHW, d_own_2C)
                c += C


# ---- in autograd's graph -----------------------------------------------------------------------------------------------


class _Halves(torch.autograd.Function):
    """The pixels of even rows and columns, and those of odd ones."""

    @staticmethod
    def forward(ctx: Any, z_BCHW: Tensor) -> tuple[Tensor, ...]:
        return tuple(z_BCHW[:, :, odd::2, odd::2].contiguous() for odd in (0, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        B, C, H, W = gradients[0].shape
        dz_BCHW = gradients[0].new_zeros(B, C, 2 * H, 2 * W)
        for odd, gradient in enumerate(gradients):
            dz_BCHW[:, :, odd::2, odd::2] = gradient
        return dz_BCHW


class _DenseNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_O: Tensor, bias_O: Tensor, eps: float, weight_OCkk: Tensor, rectified: tuple[bool, ...],
        *given: Any,
    ) -> Any:  # fmt: skip
        zs, (B, _, H, W), (O, _, k, _) = given[: len(rectified)], given[0].shape, weight_OCkk.shape
        channels_n = np.array([z.shape[1] for z in zs], np.int64)
        most = int(channels_n.max())
        places = Places.of(B, max(O, most), H, W, k // 2)
        y_BOHW = zs[0].new_empty(B, O, H, W)
        sums_U2O = y_BOHW.new_empty(-(-B // places.images), 2, O)
        ctx.places = places
        ctx.given = channels_n, numbers(rectified, given), _offsets(most, k, places.plane, places.row)
        y, w_OK = array(y_BOHW.view(B, O, places.height, places.width)), array(weight_OCkk.flatten(1))
        layout = (places, k * k, addresses(zs), *ctx.given)
        _forward(team(y.size), len(sums_U2O), *layout, w_OK, y, array(sums_U2O))
        return with_norm(ctx, y_BOHW, sums_U2O, places.images, weight_O, bias_O, eps, weight_OCkk, *zs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        out, (weight_OCkk, *zs) = output_gradient(ctx, gradients)
        (O, C, k, _), places = weight_OCkk.shape, ctx.places
        needed, channels = ctx.needs_input_grad[5:], [z.shape[1] for z in zs]
        dzs = [torch.empty_like(z) if wanted else None for z, wanted in zip(zs, needed, strict=False)]
        d_w_DK, d_affine_D2C = (out.ab_2C.new_empty(BUCKETS, *shape) for shape in ((O * C * k * k,), (2, C)))
        w_CL = array(weight_OCkk.detach().transpose(0, 1).flip(2, 3).reshape(C, -1))
        shape = (len(out.y_BCHW), O, places.height, places.width)
        y, dy = array(out.y_BCHW.view(shape)), array(out.dy_BCHW.view(shape))
        layout = (places, k * k, addresses(zs), *ctx.given)  # where torch has put the maps since
        _backward(
            team(y.size), BUCKETS, *layout, _offsets(O, k, places.plane, places.row), w_CL, y, dy, array(out.ab_2C),
            addresses(dzs), array(d_w_DK), array(d_affine_D2C),
        )  # fmt: skip
        blocks = d_w_DK.sum(0).split([O * part * k * k for part in channels])
        d_weight_OCkk = torch.cat([block.view(O, -1, k, k) for block in blocks], 1)
        affine = affine_gradients(d_affine_D2C.sum(0), channels, needed[len(zs) :])
        return *out.norm, d_weight_OCkk, None, *dzs, *affine
