"""Compiled dense convolutions of a concatenation, between the pending norms of its parts and its own.

Each map is read once forward and once backward, and what is written is summed for the norm on the way. The parts of a
concatenation are given by the addresses of their memory, as their number differs from call to call.

Shape letters: B images, P parts, C channels in, O channels out, K terms = C · k² (of a part), S positions of a unit, U units,
N buckets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from enas.nn.kernels import parallel
from enas.nn.maps import emit, emit_gradient, floats_at, positions, stage, stage_gradient

from enas.nn.simd import borrowed
from enas.nn.tiles import add_outer, add_product


@parallel
def dense_forward(
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
    """y = convolution of the parts' max(scale · z + shift, low); its rows are the units.

    `packed` holds the filters part by part; offset_K the offsets of the part with the most channels.
    """
    y_BOHW = borrowed(y_BOHW)
    most = channels_P.max()
    x = np.zeros(most * places.plane, np.float32)
    stride = positions(places, places.images)
    y = np.empty(O * stride, np.float32)
    for u in range(first, last):
        begin, end = u * places.images, min((u + 1) * places.images, images)
        S = positions(places, end - begin)
        y[:] = 0
        channel = 0
        for p in range(len(address_P)):
            C = channels_P[p]
            z_BCHW = floats_at(address_P[p], (images, C, places.height, places.width))
            affine = affine_2C[:, channel : channel + C]
            stage(z_BCHW, begin, end, affine[0], affine[1], low_P[p], places, x)
            weights = packed[O * channel * taps : O * (channel + C) * taps]
            add_product(weights, O, C * taps, x, 0, offset_K, S, y, 0, stride)
            channel += C
        emit(y, stride, 0, O, begin, end, places, y_BOHW, sums_U2O[u])


@parallel
def dense_backward(
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
    """The gradients of every part's z (where d_address_P is not 0), scale and shift, and of the filters.

    Its rows are the buckets. `packed` holds, part by part, the filters turned round, [C, O · taps]; offset_L are the offsets of
    O channels. d_weight_NOK holds the filters part by part, [O, K of the part] each.
    """
    y_BOHW, dy_BOHW = borrowed(y_BOHW), borrowed(dy_BOHW)
    O = y_BOHW.shape[1]
    most = channels_P.max()
    x = np.zeros(most * places.plane, np.float32)
    d = np.zeros(O * places.plane, np.float32)
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
            channel = 0
            for p in range(len(address_P)):
                C = channels_P[p]
                K = C * taps
                z_BCHW = floats_at(address_P[p], (images, C, places.height, places.width))
                affine = affine_2C[:, channel : channel + C]
                stage(z_BCHW, begin, end, affine[0], affine[1], low_P[p], places, x)
                d_part = d_weight[O * channel * taps : O * (channel + C) * taps].reshape(O, K)
                add_outer(d, places.lead, places.plane, O, x, 0, offset_K, K, S, d_part)
                if d_address_P[p] != 0:
                    dx[: C * stride] = 0
                    weights = packed[O * channel * taps : O * (channel + C) * taps]
                    add_product(weights, C, O * taps, d, 0, offset_L, S, dx, 0, stride)
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



