"""The two passes of a depthwise-separable convolution over its feature maps; compiled by numba.

A *unit* is a few images, so few that all that is computed of them on the way stays in a core's cache. The input is staged,
scaled and rectified, into planes with zeros around them; with a stride of 2 there are four, of the even and odd rows and
columns, each of the output's size and with a filter of its own, so that all below is written for a stride of 1.

What the backward pass sums over images goes to one of a fixed number of *buckets*, contiguous ranges of units, which are
added in order afterwards: results do not depend on the number of threads.

Shape letters: B images, C channels in, O channels out, H rows and W columns of the input, P planes of a channel, k the
width of a plane's filter, L lanes of a vector, U units, D buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from enas.nn.depthwise import correlation, filter_gradient
from enas.nn.kernels import _OPTIONS, f32, parallel
from enas.nn.tiles import add_outer, add_product, inlined, pack

_reordering = numba.njit(fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")

LANES = 16
"""What the products over channels count positions in."""


@_reordering
def _total(x_S: Any) -> Any:
    total = f32(0)
    for s in range(len(x_S)):
        total += x_S[s]
    return total


@_reordering
def _squares_about(x_S: Any, mean: Any) -> Any:
    total = f32(0)
    for s in range(len(x_S)):
        total += (x_S[s] - mean) * (x_S[s] - mean)
    return total


@inlined
def _zeros(size: int) -> Any:
    """Zeros that begin where a cache line does."""
    memory = np.zeros(size + LANES, np.float32)
    first = (-(memory.ctypes.data // 4)) % LANES
    return memory[first : first + size]


@inlined
def _plane_sizes(images: int, rows: int, columns: int, width: int) -> Any:
    """(first pixel, image, row, whole): offsets in an array of images with zeros around them, and its length."""
    border = width // 2
    row = columns + border
    image = (rows + border) * row
    first = (border * row + border + LANES - 1) // LANES * LANES
    size = first + images * image + border * row + 2 * LANES
    return first, image, row, (size + LANES - 1) // LANES * LANES + LANES


@inlined
def _stage(z_HW: Any, scale: Any, shift: Any, lowest: Any, stride: int, x: Any, x_at: Any, plane: int, row: int) -> None:
    """max(scale · z + shift, lowest) of one image into its planes, which lie `plane` apart."""
    H, W = z_HW.shape
    if stride == 1:
        for h in range(H):
            z, out = z_HW[h], x[x_at + h * row : x_at + h * row + W]
            for w in range(W):
                v = z[w] * scale + shift
                out[w] = lowest if v < lowest else v
        return
    for h in range(H):
        z = z_HW[h]
        for odd in range(2):
            at = x_at + (2 * (h % 2) + odd) * plane + h // 2 * row
            columns = (W + 1 - odd) // 2
            out = x[at : at + columns]
            for w in range(columns):
                v = z[2 * w + odd] * scale + shift
                out[w] = lowest if v < lowest else v


@inlined
def _unstage(
    d_HW: Any, z_HW: Any, scale: Any, lowest: Any, stride: int,
    x: Any, x_at: int, plane: int, row: int, dx: Any, dx_at: int, dx_plane: int, dx_row: int, masked: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """The gradient of z for one image from that of its planes, and its sums for scale and shift."""
    H, W = d_HW.shape
    for h in range(H):
        out = masked[h * W : (h + 1) * W]
        if stride == 1:
            at, dx_from = x_at + h * row, dx_at + h * dx_row
            staged, given = x[at : at + W], dx[dx_from : dx_from + W]
            for w in range(W):
                out[w] = given[w] if staged[w] > lowest else f32(0)
        else:
            for odd in range(2):
                number = 2 * (h % 2) + odd
                at, dx_from = x_at + number * plane + h // 2 * row, dx_at + number * dx_plane + h // 2 * dx_row
                for w in range((W + 1 - odd) // 2):
                    out[2 * w + odd] = dx[dx_from + w] if x[at + w] > lowest else f32(0)
    d, z = d_HW.reshape(-1), z_HW.reshape(-1)
    for s in range(H * W):
        d[s] = masked[s] * scale
    return _dot(masked, z), _total(masked)


@_reordering
def _dot(x_S: Any, y_S: Any) -> Any:
    total = f32(0)
    for s in range(len(x_S)):
        total += x_S[s] * y_S[s]
    return total


# What the two kernels call; `parallel` binds the functions for a width and a vector length in their place.
_correlate: Callable[..., None]
_add_filter_gradient: Callable[..., None]


def _forward(
    first: int,
    last: int,
    z_BCHW: Any,
    scale_C: Any,
    shift_C: Any,
    lowest: Any,
    stride: int,
    images: int,
    columns: int,
    width: int,
    w_CPkk: Any,
    w_OC: Any,
    y_BOHW: Any,
    sums_U2O: Any,
) -> None:
    B, C = z_BCHW.shape[:2]
    _, O, rows, wide = y_BOHW.shape
    P, taps = stride * stride, width * width
    x_first, x_image, x_row, x_plane = _plane_sizes(images, rows, columns, width)
    image = rows * columns
    most = (images * image + LANES - 1) // LANES * LANES
    apart = most + LANES  # rows a power of 2 apart would meet in few sets of the cache
    x, t, y = _zeros(P * x_plane), _zeros(C * apart), _zeros(O * apart)
    weights, packed = w_CPkk.reshape(-1), np.empty(O * C, np.float32)
    pack(w_OC, packed)
    offset_C = np.arange(C) * apart
    for unit in range(first, last):
        b = unit * images
        N = min(images, B - b)
        S = (N * image + LANES - 1) // LANES * LANES
        for c in range(C):
            for n in range(N):
                _stage(
                    z_BCHW[b + n, c], scale_C[c], shift_C[c], lowest, stride,
                    x, x_first + n * x_image, x_plane, x_row,
                )  # fmt: skip
            for p in range(P):
                _correlate(
                    p, weights, (c * P + p) * taps, x, p * x_plane + x_first, x_image, x_row,
                    N, rows, columns, t, c * apart, image, columns,
                )  # fmt: skip
        y[:] = 0
        add_product(packed, O, C, t, 0, offset_C, S, y, 0, apart)
        for o in range(O):
            total = squares = f32(0)
            if columns == wide:
                run = y[o * apart : o * apart + N * image]
                total = _total(run)
                squares = _squares_about(run, total / f32(N * image))
                for n in range(N):
                    out = y_BOHW[b + n, o].reshape(-1)
                    source = run[n * image : (n + 1) * image]
                    for s in range(image):
                        out[s] = source[s]
            else:
                for n in range(N):
                    for h in range(rows):
                        at = o * apart + n * image + h * columns
                        source, out = y[at : at + wide], y_BOHW[b + n, o, h]
                        for s in range(wide):
                            out[s] = source[s]
                        total += _total(source)
                mean = total / f32(N * rows * wide)
                for n in range(N):
                    for h in range(rows):
                        squares += _squares_about(y_BOHW[b + n, o, h], mean)
            sums_U2O[unit, 0, o] = total
            sums_U2O[unit, 1, o] = squares


def _backward(
    first: int,
    last: int,
    z_BCHW: Any,
    scale_C: Any,
    shift_C: Any,
    lowest: Any,
    stride: int,
    images: int,
    columns: int,
    width: int,
    lanes: int,
    w_CPkk: Any,
    w_OC: Any,
    y_BOHW: Any,
    dy_BOHW: Any,
    a_O: Any,
    b_O: Any,
    to_z: bool,
    dz_BCHW: Any,
    d_w_DCPkk: Any,
    d_w_DOC: Any,
    d_affine_D2C: Any,
) -> None:
    B, C, H, W = z_BCHW.shape
    _, O, rows, wide = y_BOHW.shape
    P, taps = stride * stride, width * width
    D = len(d_w_DOC)
    units = (B + images - 1) // images
    x_first, x_image, x_row, x_plane = _plane_sizes(images, rows, columns, width)
    image = rows * columns
    most = (images * image + LANES - 1) // LANES * LANES
    apart = most + LANES
    x, t, d = _zeros(C * P * x_plane), _zeros(C * apart), _zeros(O * apart)
    dt, dx = _zeros(x_plane), _zeros(P * apart)
    partial = _zeros(C * P * taps * lanes)
    masked = np.empty(H * W, np.float32)
    weights, flipped = w_CPkk.reshape(-1), np.empty(C * P * taps, np.float32)
    for c in range(C * P):
        for tap in range(taps):
            flipped[c * taps + tap] = weights[(c + 1) * taps - 1 - tap]
    packed = np.empty(C * O, np.float32)
    pack(w_OC.T, packed)
    offset_C, offset_O = np.arange(C) * apart, np.arange(O) * apart
    for bucket in range(first, last):
        partial[:] = 0
        for unit in range(bucket * units // D, (bucket + 1) * units // D):
            b = unit * images
            N = min(images, B - b)
            S = (N * image + LANES - 1) // LANES * LANES
            if N < images:
                dt[:] = 0  # what the unit before left where there are no images now
            for c in range(C):
                x_c = c * P * x_plane + x_first
                for n in range(N):
                    _stage(
                        z_BCHW[b + n, c], scale_C[c], shift_C[c], lowest, stride,
                        x, x_c + n * x_image, x_plane, x_row,
                    )  # fmt: skip
                for p in range(P):
                    _correlate(
                        p, weights, (c * P + p) * taps, x, x_c + p * x_plane, x_image, x_row,
                        N, rows, columns, t, c * apart, image, columns,
                    )  # fmt: skip
            for o in range(O):
                a_o, b_o = a_O[o], b_O[o]
                for n in range(N):
                    at = o * apart + n * image
                    if columns == wide:
                        dy, y, out = dy_BOHW[b + n, o].reshape(-1), y_BOHW[b + n, o].reshape(-1), d[at : at + image]
                        for s in range(image):
                            out[s] = dy[s] + a_o + b_o * y[s]
                    else:
                        for h in range(rows):
                            dy, y = dy_BOHW[b + n, o, h], y_BOHW[b + n, o, h]
                            out = d[at + h * columns : at + h * columns + wide]
                            for s in range(wide):
                                out[s] = dy[s] + a_o + b_o * y[s]
                d[o * apart + N * image : o * apart + S] = 0
            add_outer(d, 0, apart, O, t, 0, offset_C, C, S, d_w_DOC[bucket])
            t[:] = 0
            add_product(packed, C, O, d, 0, offset_O, S, t, 0, apart)
            for c in range(C):
                x_c = c * P * x_plane + x_first
                for n in range(N):
                    for h in range(rows):
                        at, dt_at = c * apart + n * image + h * columns, x_first + n * x_image + h * x_row
                        source, out = t[at : at + columns], dt[dt_at : dt_at + columns]
                        for s in range(columns):
                            out[s] = source[s]
                for p in range(P):
                    _add_filter_gradient(
                        dt, x_first, x_image, x_row, x, x_c + p * x_plane, x_image, x_row,
                        N, rows, columns, partial, (c * P + p) * taps * lanes,
                    )  # fmt: skip
                if to_z:
                    for p in range(P):
                        _correlate(
                            0, flipped, (c * P + p) * taps, dt, x_first, x_image, x_row,
                            N, rows, columns, dx, p * apart, image, columns,
                        )  # fmt: skip
                    for n in range(N):
                        d_scale, d_shift = _unstage(
                            dz_BCHW[b + n, c], z_BCHW[b + n, c], scale_C[c], lowest, stride,
                            x, x_c + n * x_image, x_plane, x_row, dx, n * image, apart, columns, masked,
                        )  # fmt: skip
                        d_affine_D2C[bucket, 0, c] += d_scale
                        d_affine_D2C[bucket, 1, c] += d_shift
        d_w = d_w_DCPkk[bucket].reshape(-1)
        for tap in range(C * P * taps):
            d_w[tap] = _total(partial[tap * lanes : (tap + 1) * lanes])


@cache
def forward(width: int, lanes: int) -> Callable[..., None]:
    """The forward pass of all units, for plane filters of this width and vectors of this length."""
    return parallel(_forward, _correlate=correlation(width, lanes))


@cache
def backward(width: int, lanes: int) -> Callable[..., None]:
    """The backward pass of all buckets, likewise."""
    return parallel(
        _backward, _correlate=correlation(width, lanes), _add_filter_gradient=filter_gradient(width, lanes)
    )
