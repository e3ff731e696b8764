"""Compiled dense convolutions of a concatenation, between the pending norms of its parts and its own.

Each map is read once forward and once backward, and what is written is summed for the norm on the way. The parts of a
concatenation are given by the addresses of their memory, as their number differs from call to call.

Products are of float32 or of bfloat16, which the processor multiplies in pairs: of neighbouring channels forward and in the
input gradient, of neighbouring positions in the weight gradient. Everything else is float32.

Shape letters: B images, P parts, C channels in, O channels out, K terms = C · k² (of a part), S positions of a unit,
U units, N buckets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from enas.cpu.kernels import inlined, narrow, parallel_with_scratch
from enas.cpu.scratch import emit, emit_gradient, floats_at, positions, stage, stage_gradient
from enas.cpu.simd import borrowed, narrow_halves, narrow_pairs
from enas.cpu.tiles import add_halves_outer, add_outer, pairs_product, product

# How staged maps become the operands of a product: for bfloat16, others are bound in the place of these names.


@inlined
def _same_scratch(x: Any, _size: int) -> Any:
    return x


@inlined
def _same(_x: Any, _C: int, _plane: int, _operands: Any) -> None:
    pass


@inlined
def _one_each(C: int) -> int:
    return C


@inlined
def _pairs_scratch(_x: Any, size: int) -> Any:
    return np.empty(size, np.uint32)


@inlined
def _halves_scratch(_x: Any, size: int) -> Any:
    return np.empty(size, np.uint16)


@inlined
def _to_pairs(x: Any, C: int, plane: int, pairs: Any) -> None:
    """Two neighbouring channels in one plane; a missing last one is zeros."""
    like = np.empty(1, np.uint16)
    for c in range(0, C, 2):
        low, high, out = c * plane, (c + 1) * plane, c // 2 * plane
        if c + 1 < C:
            done: int = narrow_pairs(x, low, high, plane, pairs, out)
            for s in range(done, plane):
                upper = np.uint32(narrow(x[high + s], like)) << np.uint32(16)
                pairs[out + s] = np.uint32(narrow(x[low + s], like)) | upper
        else:
            for s in range(plane):
                pairs[out + s] = np.uint32(narrow(x[low + s], like))


@inlined
def _to_halves(x: Any, C: int, plane: int, halves: Any) -> None:
    done: int = narrow_halves(x, 0, C * plane, halves, 0)
    for s in range(done, C * plane):
        halves[s] = narrow(x[s], halves)


@inlined
def _two_each(C: int) -> int:
    return (C + 1) // 2


_paired_scratch, _paired, _terms, _product = _same_scratch, _same, _one_each, product
_halved_scratch, _halved, _outer = _same_scratch, _same, add_outer


def _dense_forward(
    first: int,
    last: int,
    images: int,
    address_P: Any,
    channels_P: Any,
    affine_2C: Any,
    low_P: Any,
    packed: Any,
    O: int,
    offset_K: Any,
    taps: int,
    places: Any,
    y_BOHW: Any,
    sums_U2O: Any,
) -> None:
    y_BOHW = borrowed(y_BOHW)
    most = channels_P.max()
    x = np.zeros(most * places.plane, np.float32)
    operands = _paired_scratch(x, most * places.plane)
    stride = positions(places, places.images)
    y = np.empty(O * stride, np.float32)
    for u in range(first, last):
        begin, end = u * places.images, min((u + 1) * places.images, images)
        S = positions(places, end - begin)
        channel = weight = 0
        for p in range(len(address_P)):
            C = channels_P[p]
            K = _terms(C) * taps
            z_BCHW = floats_at(address_P[p], (images, C, places.height, places.width))
            affine = affine_2C[:, channel : channel + C]
            stage(z_BCHW, begin, end, affine[0], affine[1], low_P[p], places, x)
            _paired(x, C, places.plane, operands)
            _product(packed[weight : weight + O * K], O, K, operands, 0, offset_K, S, y, 0, stride, p)
            channel += C
            weight += O * K
        emit(y, stride, 0, O, begin, end, places, y_BOHW, sums_U2O[u])


def _dense_backward(
    first: int,
    last: int,
    buckets: int,
    images: int,
    address_P: Any,
    channels_P: Any,
    affine_2C: Any,
    low_P: Any,
    packed: Any,
    offset_K: Any,
    offset_L: Any,
    taps: int,
    places: Any,
    y_BOHW: Any,
    dy_BOHW: Any,
    ab_2O: Any,
    d_address_P: Any,
    d_weight_NOK: Any,
    sums_N2C: Any,
) -> None:
    y_BOHW, dy_BOHW = borrowed(y_BOHW), borrowed(dy_BOHW)
    O = y_BOHW.shape[1]
    L = _terms(O) * taps
    most = channels_P.max()
    x = np.zeros(most * places.plane, np.float32)
    d = np.zeros(O * places.plane, np.float32)
    halved_x, halved_d = _halved_scratch(x, most * places.plane), _halved_scratch(d, O * places.plane)
    paired_d = _paired_scratch(d, O * places.plane)
    stride = positions(places, places.images)
    dx = np.empty(most * stride, np.float32)
    units = (images + places.images - 1) // places.images
    for n in range(first, last):
        d_weight, sums_2C = d_weight_NOK[n], sums_N2C[n]
        d_weight[:] = 0
        sums_2C[:] = 0
        for u in range(units * n // buckets, units * (n + 1) // buckets):
            begin, end = u * places.images, min((u + 1) * places.images, images)
            S = positions(places, end - begin)
            stage_gradient(dy_BOHW, y_BOHW, begin, end, ab_2O, places, d)
            _halved(d, O, places.plane, halved_d)
            _paired(d, O, places.plane, paired_d)
            channel = weight = 0
            for p in range(len(address_P)):
                C = channels_P[p]
                K = C * taps
                z_BCHW = floats_at(address_P[p], (images, C, places.height, places.width))
                affine = affine_2C[:, channel : channel + C]
                stage(z_BCHW, begin, end, affine[0], affine[1], low_P[p], places, x)
                _halved(x, C, places.plane, halved_x)
                d_part = d_weight[O * channel * taps : O * (channel + C) * taps].reshape(O, K)
                _outer(halved_d, places.lead, places.plane, O, halved_x, 0, offset_K, K, S, d_part)
                if d_address_P[p] != 0:
                    _product(
                        packed[weight : weight + C * L], C, L, paired_d, 0, offset_L, S, dx, 0, stride, 0
                    )
                    dz_BCHW = floats_at(d_address_P[p], (images, C, places.height, places.width))
                    emit_gradient(
                        dx,
                        stride,
                        z_BCHW,
                        begin,
                        end,
                        affine[0],
                        affine[1],
                        low_P[p],
                        places,
                        dz_BCHW,
                        sums_2C[:, channel : channel + C],
                    )
                channel += C
                weight += C * L


_BRAIN = {
    "_paired_scratch": _pairs_scratch,
    "_paired": _to_pairs,
    "_terms": _two_each,
    "_product": pairs_product,
}
_BRAIN_BACKWARD = {
    **_BRAIN,
    "_halved_scratch": _halves_scratch,
    "_halved": _to_halves,
    "_outer": add_halves_outer,
}

dense_forward = {
    torch.float32: parallel_with_scratch(_dense_forward),
    torch.bfloat16: parallel_with_scratch(_dense_forward, **_BRAIN),
}
"""By type of the products: y = convolution of the parts' max(scale · z + shift, low); its rows are the units.

`packed` holds the filters part by part; offset_K the offsets of the part with the most channels.
"""

dense_backward = {
    torch.float32: parallel_with_scratch(_dense_backward),
    torch.bfloat16: parallel_with_scratch(_dense_backward, **_BRAIN_BACKWARD),
}
"""By type of the products: the gradients of every part's z (where d_address_P is not 0), scale and shift, and of
the filters.

Its rows are the buckets. `packed` holds, part by part, the filters turned round, [C, O · taps]; offset_L are the offsets
of the O channels. d_weight_NOK holds the filters part by part, [O, K of the part] each.
"""
