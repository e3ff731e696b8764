"""The two passes of a depthwise-separable convolution over its feature maps; compiled by numba.

A *unit* is a few images, so few that a core's cache holds all that is computed of them. The input is staged, scaled and
rectified, into planes with zeros around them.

Sums over images in the backward pass go to a fixed number of *buckets*, contiguous ranges of units, which are added in order
afterwards: results do not depend on the number of threads.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of the filter, L lanes of a vector,
U units, D buckets.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from enas.cpu.compiler import inlined, parallel_with_scratch
from enas.cpu.depthwise import correlation, filter_gradient
from enas.cpu.planes import AFFINE_LANES, prefetch, stage, unstage
from enas.cpu.rows import whole_gradient
from enas.cpu.simd import LANES, sum_of, sum_of_squares
from enas.cpu.tiles import add_outer, pack, product

f32 = np.float32


@inlined
def _copy_and_total(x_S, out_S):
    for s in range(len(x_S)):
        out_S[s] = x_S[s]
    return sum_of(x_S)


@inlined
def _zeros(size):
    """Zeros that begin where a cache line does."""
    memory = np.zeros(size + LANES, np.float32)
    first = (-(memory.ctypes.data // 4)) % LANES
    return memory[first : first + size]


@inlined
def _plane_sizes(images, rows, columns, width):
    """(first pixel, image, row, whole): offsets in an array of images with zeros around them, and its length."""
    border = width // 2
    row = columns + border
    image = (rows + border) * row
    first = (border * row + border + LANES - 1) // LANES * LANES
    size = first + images * image + border * row + 2 * LANES
    return first, image, row, (size + LANES - 1) // LANES * LANES + LANES


# The two kernels call these; `parallel_with_scratch` binds the functions for a filter's widths in their place.
def _correlate(*_arguments):
    """Placeholder for a correlation of `enas.cpu.depthwise`."""


def _add_filter_gradient(*_arguments):
    """Placeholder for a filter gradient of `enas.cpu.depthwise`."""


def _forward(first, last, z_BCHW, numbers_C3, images, columns, k, lanes, w_Ckk, w_OC, y_BOHW, sums_U2O):
    B, C, H, W = z_BCHW.shape
    O, taps = y_BOHW.shape[1], k * k
    x_first, x_image, x_row, x_plane = _plane_sizes(images, H, columns, k)
    image = H * columns
    most = (images * image + LANES - 1) // LANES * LANES
    apart = most + LANES  # rows a power of 2 apart would meet in few sets of the cache
    x, t, y = _zeros(x_plane), _zeros(C * apart), _zeros(O * apart)
    all_z, numbers, weights = z_BCHW.reshape(-1), numbers_C3.reshape(-1), w_Ckk.reshape(-1)
    packed = np.empty(O * C, np.float32)
    pack(w_OC, packed)
    offset_C = np.arange(C) * apart
    for unit in range(first, last):
        b = unit * images
        N = min(images, B - b)
        S = (N * image + LANES - 1) // LANES * LANES
        for c in range(C):
            for n in range(N):
                z_at = ((b + n) * C + c) * H * W
                stage(numbers, 3 * c, all_z, z_at, H, W, x, x_first + n * x_image, x_row)
            _correlate(
                k, lanes, weights, c * taps, x, x_first, x_image, x_row, N, H, columns, t, c * apart, image, columns
            )  # fmt: skip
        product(packed, O, C, t, 0, offset_C, S, y, 0, apart, 0)
        count = f32(N * H * W)
        for o in range(O):
            total = squares = f32(0)
            for n in range(N):
                at = o * apart + n * image
                if columns == W:
                    total += _copy_and_total(y[at : at + image], y_BOHW[b + n, o].reshape(-1))
                else:
                    for h in range(H):
                        row = at + h * columns
                        total += _copy_and_total(y[row : row + W], y_BOHW[b + n, o, h])
            for n in range(N):
                squares += sum_of_squares(y_BOHW[b + n, o].reshape(-1), total / count)
            sums_U2O[unit, 0, o] = total
            sums_U2O[unit, 1, o] = squares


def _backward(
    first, last, z_BCHW, numbers_C3, images, columns, k, lanes, w_Ckk, w_OC, y_BOHW, dy_BOHW, ab_2O, to_z, dz_BCHW,
    d_w_DCkk, d_w_DOC, d_affine_D2C,
):  # fmt: skip
    B, C, H, W = z_BCHW.shape
    O, taps, D = y_BOHW.shape[1], k * k, len(d_w_DOC)
    units = (B + images - 1) // images
    x_first, x_image, x_row, x_plane = _plane_sizes(images, H, columns, k)
    image = H * columns
    most = (images * image + LANES - 1) // LANES * LANES
    apart = most + LANES
    x, t, d = _zeros(C * x_plane), _zeros(C * apart), _zeros(O * apart)
    dt, dx = _zeros(x_plane), _zeros(apart)
    d_weights, d_affine = _zeros(C * taps * lanes), _zeros(C * 2 * AFFINE_LANES)
    all_z, all_dz = z_BCHW.reshape(-1), dz_BCHW.reshape(-1)
    all_y, all_dy = y_BOHW.reshape(-1), dy_BOHW.reshape(-1)
    numbers, weights = numbers_C3.reshape(-1), w_Ckk.reshape(-1)
    flipped = np.empty(C * taps, np.float32)
    for c in range(C):
        for tap in range(taps):
            flipped[c * taps + tap] = weights[(c + 1) * taps - 1 - tap]
    packed = np.empty(C * O, np.float32)
    pack(w_OC.T, packed)
    unchanged = np.array([1, 0, -np.inf], np.float32)
    offset_C, offset_O = np.arange(C) * apart, np.arange(O) * apart
    for bucket in range(first, last):
        d_weights[:] = 0
        d_affine[:] = 0
        for unit in range(bucket * units // D, (bucket + 1) * units // D):
            b = unit * images
            N = min(images, B - b)
            S = (N * image + LANES - 1) // LANES * LANES
            if images > N:
                dt[:] = 0  # what the unit before left where there are no images now
            for c in range(C):
                x_c = c * x_plane + x_first
                for n in range(N):
                    z_at = ((b + n) * C + c) * H * W
                    prefetch(all_z, z_at + H * W, z_at + 2 * H * W)
                    stage(numbers, 3 * c, all_z, z_at, H, W, x, x_c + n * x_image, x_row)
                _correlate(
                    k, lanes, weights, c * taps, x, x_c, x_image, x_row, N, H, columns, t, c * apart, image, columns
                )  # fmt: skip
                for n in range(N):
                    if c < O:
                        at = ((b + n) * O + c) * H * W
                        prefetch(all_y, at, at + H * W)
                        prefetch(all_dy, at, at + H * W)
            for o in range(O):
                a, b_o = ab_2O[0, o], ab_2O[1, o]
                for n in range(N):
                    at = o * apart + n * image
                    dy, y = dy_BOHW[b + n, o], y_BOHW[b + n, o]
                    if columns == W:
                        whole_gradient(dy.reshape(-1), y.reshape(-1), a, b_o, d[at : at + image])
                    else:
                        for h in range(H):
                            row = at + h * columns
                            whole_gradient(dy[h], y[h], a, b_o, d[row : row + W])
                d[o * apart + N * image : o * apart + S] = 0
            add_outer(d, 0, apart, O, t, 0, offset_C, C, S, d_w_DOC[bucket])
            product(packed, C, O, d, 0, offset_O, S, t, 0, apart, 0)
            for c in range(C):
                x_c = c * x_plane + x_first
                for n in range(N):
                    t_at = c * apart + n * image
                    stage(unchanged, 0, t, t_at, H, columns, dt, x_first + n * x_image, x_row)
                _add_filter_gradient(
                    k, lanes, dt, x_first, x_image, x_row, x, x_c, x_image, x_row, N, H, columns, d_weights,
                    c * taps * lanes,
                )  # fmt: skip
                if to_z:
                    _correlate(
                        k, lanes, flipped, c * taps, dt, x_first, x_image, x_row, N, H, columns, dx, 0, image, columns
                    )  # fmt: skip
                    for n in range(N):
                        z_at = ((b + n) * C + c) * H * W
                        unstage(
                            numbers, 3 * c, dx, n * image, columns, x, x_c + n * x_image, x_row, all_z, z_at, H, W, all_dz,
                            z_at, d_affine, 2 * AFFINE_LANES * c,
                        )  # fmt: skip
        d_w = d_w_DCkk[bucket].reshape(-1)
        for tap in range(C * taps):
            d_w[tap] = sum_of(d_weights[tap * lanes : (tap + 1) * lanes])
        for c in range(C):
            for i in range(2):
                at = (2 * c + i) * AFFINE_LANES
                d_affine_D2C[bucket, i, c] = sum_of(d_affine[at : at + AFFINE_LANES])


_USUAL = (1, 3, 5)
"""Widths that share one compiled kernel; each other one has its own."""


Pass = Callable[..., None]


def passes(width: int) -> tuple[Pass, Pass]:
    """The forward pass of all units and the backward pass of all buckets, for filters of this width."""
    return _passes(*(_USUAL if width in _USUAL else (width,)))


@cache
def _passes(*widths: int) -> tuple[Pass, Pass]:
    correlate, add_filter_gradient = correlation(*widths), filter_gradient(*widths)
    return (
        parallel_with_scratch(_forward, _correlate=correlate),
        parallel_with_scratch(_backward, _correlate=correlate, _add_filter_gradient=add_filter_gradient),
    )
