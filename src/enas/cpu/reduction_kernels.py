"""A compiled factorized reduction: 1×1 convolutions of the even and of the odd pixels, side by side, between pending norms.

Even pixels are those of even rows and columns, odd ones those of odd rows and columns; half of the pixels are not read. For
an odd size the image is continued by a row and a column of zeros.

Shape letters: B images, C channels in, O channels out, of which the first E read the even pixels, H rows, W columns,
U units, N buckets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from enas.cpu.kernels import inlined, parallel_with_scratch
from enas.cpu.scratch import emit, gradient_row, positions, stage_gradient
from enas.cpu.simd import borrowed, put_even, put_odd, take_even, take_odd
from enas.cpu.tiles import add_outer, product


@inlined
def _take_row(z: Any, odd: int, out: Any) -> None:
    """The even or odd numbers of a row, and a 0 where an odd one is missing at its end."""
    W = len(z)
    done = take_odd(z, 0, W // 2, out, 0) if odd else take_even(z, 0, W // 2, out, 0)
    for w in range(done, len(out)):
        out[w] = z[2 * w + odd] if 2 * w + odd < W else np.float32(0)


@inlined
def _put_row(row: Any, odd: int, z: Any) -> None:
    """A row whose even or odd numbers are these, and the others 0."""
    W = len(z)
    done = put_odd(row, 0, W // 2, z, 0) if odd else put_even(row, 0, W // 2, z, 0)
    for w in range(2 * done, W):
        z[w] = row[w // 2] if w % 2 == odd else np.float32(0)


@inlined
def _stage_halves(
    z_BCHW: Any, first: int, last: int, scale_C: Any, shift_C: Any, low: Any, places: Any, x: Any
) -> None:
    """max(scale · z + shift, low) of the even pixels to the first half of x [2 · C · plane], of the odd ones to the
    other."""
    _, C, H, W = z_BCHW.shape
    wide, high = (W + 1) // 2, (H + 1) // 2
    for c in range(C):
        scale, shift = scale_C[c], shift_C[c]
        at = c * places.plane
        for b in range(first, last):
            for h in range(2 * high):  # rows in their order in memory
                odd = h % 2
                begin = at + odd * C * places.plane
                out = x[begin : begin + wide]
                if h < H:
                    _take_row(z_BCHW[b, c, h], odd, out)
                    for w in range((W - odd + 1) // 2):
                        value = out[w] * scale + shift
                        out[w] = low if value < low else value
                else:
                    out[:] = 0
                at += odd * wide


@inlined
def _emit_gradient(
    dx: Any,
    stride: int,
    z_BCHW: Any,
    first: int,
    last: int,
    scale_C: Any,
    shift_C: Any,
    low: Any,
    dz_BCHW: Any,
    sums_2C: Any,
) -> None:
    """The gradient of z from those of both halves of pixels, in dx [2 · C · stride]; the other pixels get 0."""
    _, C, H, W = z_BCHW.shape
    wide, high = (W + 1) // 2, (H + 1) // 2
    z = np.empty(wide, np.float32)
    for c in range(C):
        scale, shift = scale_C[c], shift_C[c]
        d_scale, d_shift = np.float32(0), np.float32(0)
        for b in range(first, last):
            at = c * stride + (b - first) * high * wide
            for h in range(H):
                odd = h % 2
                begin = at + odd * C * stride
                d = dx[begin : begin + wide]
                _take_row(z_BCHW[b, c, h], odd, z)
                count = (W - odd + 1) // 2
                more = gradient_row(d[:count], z[:count], scale, shift, low, d[:count])
                _put_row(d, odd, dz_BCHW[b, c, h])
                d_scale += more[0]
                d_shift += more[1]
                at += odd * wide
        sums_2C[0, c] += d_scale
        sums_2C[1, c] += d_shift


@parallel_with_scratch
def reduction_forward(
    first: int,
    last: int,
    z_BCHW: Any,
    affine_2C: Any,
    low: Any,
    packed: Any,
    E: int,
    offset_C: Any,
    places: Any,
    y_BOHW: Any,
    sums_U2O: Any,
) -> None:
    """y = both halves of the convolution of max(scale · z + shift, low); its rows are the units."""
    z_BCHW, y_BOHW = borrowed(z_BCHW), borrowed(y_BOHW)
    images, C = z_BCHW.shape[:2]
    O = y_BOHW.shape[1]
    x = np.zeros(2 * C * places.plane, np.float32)
    stride = positions(places, places.images)
    y = np.empty(O * stride, np.float32)
    for u in range(first, last):
        begin, end = u * places.images, min((u + 1) * places.images, images)
        S = positions(places, end - begin)
        _stage_halves(z_BCHW, begin, end, affine_2C[0], affine_2C[1], low, places, x)
        for odd in range(2):
            channel, outputs = (E, O - E) if odd else (0, E)
            half = odd * C * places.plane
            weights = packed[channel * C :]
            product(weights, outputs, C, x, half, offset_C, S, y, channel * stride, stride, 0)
        emit(y, stride, 0, O, begin, end, places, y_BOHW, sums_U2O[u])


@parallel_with_scratch
def reduction_backward(
    first: int,
    last: int,
    buckets: int,
    z_BCHW: Any,
    affine_2C: Any,
    low: Any,
    packed: Any,
    E: int,
    offset_C: Any,
    offset_O: Any,
    places: Any,
    y_BOHW: Any,
    dy_BOHW: Any,
    ab_2O: Any,
    dz_BCHW: Any,
    d_weight_NOC: Any,
    sums_N2C: Any,
) -> None:
    """The gradients of z, scale and shift, and of the filters; its rows are the buckets.

    `packed` holds the filters [C, E] of the even half and then [C, O - E] of the odd one.
    """
    z_BCHW, dz_BCHW = borrowed(z_BCHW), borrowed(dz_BCHW)
    y_BOHW, dy_BOHW = borrowed(y_BOHW), borrowed(dy_BOHW)
    images, C = z_BCHW.shape[:2]
    O = y_BOHW.shape[1]
    x = np.zeros(2 * C * places.plane, np.float32)
    d = np.zeros(O * places.plane, np.float32)
    stride = positions(places, places.images)
    dx = np.empty(2 * C * stride, np.float32)
    units = (images + places.images - 1) // places.images
    for n in range(first, last):
        d_weight_NOC[n] = 0
        sums_N2C[n] = 0
        for u in range(units * n // buckets, units * (n + 1) // buckets):
            begin, end = u * places.images, min((u + 1) * places.images, images)
            S = positions(places, end - begin)
            stage_gradient(dy_BOHW, y_BOHW, begin, end, ab_2O, places, d)
            _stage_halves(z_BCHW, begin, end, affine_2C[0], affine_2C[1], low, places, x)
            for odd in range(2):
                channel, outputs = (E, O - E) if odd else (0, E)
                at, half = channel * places.plane, odd * C * places.plane
                d_half = d_weight_NOC[n, channel : channel + outputs]
                add_outer(d, at, places.plane, outputs, x, half, offset_C, C, S, d_half)
                weights = packed[channel * C :]
                product(weights, C, outputs, d, at, offset_O, S, dx, odd * C * stride, stride, 0)
            _emit_gradient(
                dx, stride, z_BCHW, begin, end, affine_2C[0], affine_2C[1], low, dz_BCHW, sums_N2C[n]
            )
