"""How feature maps of a few images stand in a kernel's scratch memory, and how they come and go.

A unit is a few images. In scratch, each channel has a plane of its own in which the rows of pixels, and the images, stand
one below the other with a border of zeros between them: the zeros right of a row are those left of the next one. So a
filter's tap sees the pixels of every position at one fixed distance, and all positions of a unit are one contiguous run.

Shape letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from enas.cpu.kernels import inlined
from enas.cpu.simd import LANES, floats_at, sum_of, sum_of_products, sum_of_squares

_UNIT_FLOATS = 40_000
"""Floats of a scratch array: three of them fit a second-level cache of 1 MB, with room for filters."""


class Geometry(NamedTuple):
    """Where pixels stand in scratch; plain whole numbers, so that kernels take it as it is."""

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


def geometry(images: int, channels: int, height: int, width: int, border: int) -> Geometry:
    """For maps of so many images and of at most so many channels, with so many zeros around them.

    Without a border, the pixels of an image are one row.
    """
    if border == 0:
        height, width = 1, height * width
    row = width + border
    image = (height + border) * row
    unit = min(images, max(1, _UNIT_FLOATS // (channels * image)))
    lead = border * row + border
    plane = lead + unit * image + lead + 4 * LANES
    return Geometry(height, width, row, image, lead, plane, unit)


def units(images: int, places: Geometry) -> int:
    """How many units so many images make."""
    return -(-images // places.images)


@inlined
def positions(places: Any, images: int) -> Any:
    """The contiguous positions of so many images of a unit, rounded up to whole vectors of bfloat16."""
    return (images * places.image + 2 * LANES - 1) // (2 * LANES) * (2 * LANES)


@inlined
def stage(
    z_BCHW: Any, first: int, last: int, scale_C: Any, shift_C: Any, low: Any, places: Any, x: Any
) -> None:
    """Write max(scale · z + shift, low) of images first .. last - 1 between the zeros of x [C · plane]."""
    C = z_BCHW.shape[1]
    W = places.width
    for c in range(C):
        scale, shift = scale_C[c], shift_C[c]
        for b in range(first, last):
            at = c * places.plane + places.lead + (b - first) * places.image
            for h in range(places.height):
                z, out = z_BCHW[b, c, h], x[at : at + W]
                for w in range(W):
                    value = z[w] * scale + shift
                    out[w] = low if value < low else value
                at += places.row


@inlined
def stage_gradient(dy_BCHW: Any, y_BCHW: Any, first: int, last: int, ab_2C: Any, places: Any, d: Any) -> None:
    """Write dy + a + b · y of images first .. last - 1 between the zeros of d [C · plane].

    Zeros follow to the end of the last vector.
    """
    C = y_BCHW.shape[1]
    W = places.width
    end = places.lead + (last - first) * places.image
    for c in range(C):
        a, b_c = ab_2C[0, c], ab_2C[1, c]
        for b in range(first, last):
            at = c * places.plane + places.lead + (b - first) * places.image
            for h in range(places.height):
                dy, y, out = dy_BCHW[b, c, h], y_BCHW[b, c, h], d[at : at + W]
                for w in range(W):
                    out[w] = dy[w] + (a + b_c * y[w])
                at += places.row
        d[c * places.plane + end : c * places.plane + end + 2 * LANES] = 0


@inlined
def emit(
    y: Any,
    stride: int,
    at_channel: int,
    C: int,
    first: int,
    last: int,
    places: Any,
    y_BCHW: Any,
    sums_2C: Any,
) -> None:
    """Write images first .. last - 1 of the unbordered y [C · stride] to channels at_channel and on of y_BCHW.

    sums_2C gets each channel's sum, and its squared deviations from the mean of these images.
    """
    W = places.width
    count = np.float32((last - first) * places.height * W)
    for c in range(C):
        total = np.float32(0)
        for b in range(first, last):
            at = c * stride + (b - first) * places.image
            for h in range(places.height):
                row, out = y[at : at + W], y_BCHW[b, at_channel + c, h]
                for w in range(W):
                    out[w] = row[w]
                total += sum_of(row)
                at += places.row
        mean = total / count
        squares = np.float32(0)
        for b in range(first, last):
            at = c * stride + (b - first) * places.image
            for _ in range(places.height):
                squares += sum_of_squares(y[at : at + W], mean)
                at += places.row
        sums_2C[0, at_channel + c] = total
        sums_2C[1, at_channel + c] = squares


@inlined
def gradient_row(dx: Any, z: Any, scale: Any, shift: Any, low: Any, dz: Any) -> Any:
    """dz of max(scale · z + shift, low), whose gradient is dx; returns the gradients of scale and shift."""
    for w in range(len(z)):
        dz[w] = np.float32(0) if z[w] * scale + shift <= low else dx[w]
    d_scale, d_shift = sum_of_products(dz, z), sum_of(dz)
    for w in range(len(z)):
        dz[w] *= scale
    return d_scale, d_shift


@inlined
def emit_gradient(
    dx: Any,
    stride: int,
    z_BCHW: Any,
    first: int,
    last: int,
    scale_C: Any,
    shift_C: Any,
    low: Any,
    places: Any,
    dz_BCHW: Any,
    sums_2C: Any,
) -> None:
    """The gradient of z from that of x = max(scale · z + shift, low), unbordered in dx [C · stride].

    Adds each channel's gradients of scale and shift to sums_2C.
    """
    C = z_BCHW.shape[1]
    W = places.width
    for c in range(C):
        scale, shift = scale_C[c], shift_C[c]
        d_scale, d_shift = np.float32(0), np.float32(0)
        for b in range(first, last):
            at = c * stride + (b - first) * places.image
            for h in range(places.height):
                more = gradient_row(dx[at : at + W], z_BCHW[b, c, h], scale, shift, low, dz_BCHW[b, c, h])
                d_scale += more[0]
                d_shift += more[1]
                at += places.row
        sums_2C[0, c] += d_scale
        sums_2C[1, c] += d_shift


__all__ = [
    "Geometry",
    "emit",
    "emit_gradient",
    "floats_at",
    "geometry",
    "positions",
    "stage",
    "stage_gradient",
    "units",
]
