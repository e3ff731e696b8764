"""Kernels that read every feature map once and write every result once: sums, pooling, averages, statistics.

Each works plane by plane, a plane being the P = H · W pixels of one channel of one image, which stays in the nearest
cache from its first step to its last. What is summed over a plane is written down for it alone and added up afterwards
in a fixed order, so that results do not depend on the number of threads.

Loops run over all pixels of a plane and not row by row, as rows are short: a neighbour to the left or right comes from a
plane shifted by one pixel, and a table says where it belongs to another row. z is what is in memory, and
act(z) = scale · z + shift, rectified or not, is what the operation sees (see `enas.cpu.deferred`).

Shape letters: B images, C channels, P pixels of a plane, Q pixels of a plane after pooling, R = B · C planes, n parts of
a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from enas.cpu.kernels import inlined, kernel, parallel_with_scratch
from enas.cpu.simd import floats_at, sum_of, sum_of_activated, sum_of_products, sum_of_squares

f32 = np.float32
_ZERO, _ONE, _TWO, _LOWEST = f32(0), f32(1), f32(2), f32(-np.inf)


@inlined
def _plane(address: int, plane: int, P: int) -> Any:
    """A plane of the feature maps at an address."""
    return floats_at(address + 4 * plane * P, (P,))


# ---- one plane: the pending affine step and ReLU -----------------------------------------------------------------------


@inlined
def _act(z: Any, scale: Any, shift: Any, rectified: bool, x: Any) -> None:
    """x = act(z)."""
    if rectified:
        for i in range(len(z)):
            v = scale * z[i] + shift
            x[i] = _ZERO if v < _ZERO else v
    else:
        for i in range(len(z)):
            x[i] = scale * z[i] + shift


@inlined
def _add_act(z: Any, scale: Any, shift: Any, rectified: bool, kept: Any, x: Any) -> None:
    """x += kept · act(z)."""
    if rectified:
        for i in range(len(z)):
            v = scale * z[i] + shift
            x[i] += kept * (_ZERO if v < _ZERO else v)
    else:
        for i in range(len(z)):
            x[i] += kept * (scale * z[i] + shift)


@inlined
def _act_backward(dx: Any, z: Any, scale: Any, shift: Any, rectified: bool, kept: Any, dz: Any) -> Any:
    """dz of x = kept · act(z), and what the plane adds to the gradients of scale and shift."""
    if rectified:
        for i in range(len(z)):
            dz[i] = dx[i] if scale * z[i] + shift > _ZERO else _ZERO
    else:
        for i in range(len(z)):
            dz[i] = dx[i]
    d_scale, d_shift = sum_of_products(dz, z), sum_of(dz)
    factor = scale * kept
    for i in range(len(z)):
        dz[i] *= factor
    return d_scale * kept, d_shift * kept


@inlined
def _write_sums(x: Any, b: int, c: int, sums_B2C: Any) -> None:
    """What `enas.cpu.normed` takes: a plane's sum, and its squared deviations from its own mean."""
    total = sum_of(x)
    sums_B2C[b, 0, c] = total
    sums_B2C[b, 1, c] = sum_of_squares(x, total / f32(len(x)))


@parallel_with_scratch
def plane_statistics(first: int, last: int, x_RP: Any, sums_B2C: Any) -> None:
    """The sum of every plane and of its squared deviations from its own mean."""
    C = sums_B2C.shape[2]
    for r in range(first, last):
        _write_sums(x_RP[r], r // C, r % C, sums_B2C)


@inlined
def _whole_gradient(dy: Any, x: Any, a: Any, b: Any, dx: Any) -> None:
    for i in range(len(dy)):
        dx[i] = dy[i] + (a + b * x[i])


@parallel_with_scratch
def whole_gradient(first: int, last: int, dy_RP: Any, x_RP: Any, ab_2C: Any, dx_RP: Any) -> None:
    """dx = dy + a + b · x, with (a, b) by channel."""
    C = ab_2C.shape[1]
    for r in range(first, last):
        _whole_gradient(dy_RP[r], x_RP[r], ab_2C[0, r % C], ab_2C[1, r % C], dx_RP[r])


@kernel
def over_images(sums_nBC: Any, total_nC: Any) -> None:
    """The sums of all planes of a channel, added up in double precision."""
    n, B, C = sums_nBC.shape
    for j in range(n):
        for c in range(C):
            total = 0.0
            for b in range(B):
                total += sums_nBC[j, b, c]
            total_nC[j, c] = total


# ---- sums of feature maps ----------------------------------------------------------------------------------------------


@parallel_with_scratch
def total(
    first: int,
    last: int,
    parts_n: Any,
    scale_nC: Any,
    shift_nC: Any,
    rectified_n: Any,
    kept_nB: Any,
    y_RP: Any,
    sums_B2C: Any,
) -> None:
    """y = Σ kept · act(z) over n parts, given by their addresses; the statistics of every plane of y.

    `kept_nB` has a factor for every part and image, or no columns for 1 everywhere; `sums_B2C` is empty where no statistics
    are needed.
    """
    n, C = scale_nC.shape
    P = y_RP.shape[1]
    for r in range(first, last):
        b, c = r // C, r % C
        y, written = y_RP[r], False
        for j in range(n):
            kept = kept_nB[j, b] if kept_nB.shape[1] > 0 else _ONE
            if kept != _ZERO:
                z = _plane(parts_n[j], r, P)
                scale, shift = scale_nC[j, c], shift_nC[j, c]
                if written:
                    _add_act(z, scale, shift, rectified_n[j], kept, y)
                else:
                    _act(z, kept * scale, kept * shift, rectified_n[j], y)
                    written = True
        if not written:
            y[:] = _ZERO
        if len(sums_B2C) > 0:
            _write_sums(y, b, c, sums_B2C)


@parallel_with_scratch
def total_backward(
    first: int,
    last: int,
    dy_RP: Any,
    y_RP: Any,
    ab_2C: Any,
    parts_n: Any,
    gradients_n: Any,
    scale_nC: Any,
    shift_nC: Any,
    rectified_n: Any,
    kept_nB: Any,
    d_RP: Any,
    sums_n2R: Any,
) -> None:
    """The gradients of n parts of a sum, given by their addresses, written to those of `gradients_n`.

    The sum's own gradient is dy, or dy + a + b · y if `ab_2C` has the columns (a, b); it is written to `d_RP` unless that
    is empty. `sums_n2R` gets what every plane adds to the gradients of the parts' scale and shift.
    """
    n, C = scale_nC.shape
    P = dy_RP.shape[1]
    room = np.empty(P, f32)
    for r in range(first, last):
        b, c = r // C, r % C
        d = dy_RP[r]
        if ab_2C.shape[1] > 0:
            whole = d_RP[r] if d_RP.shape[0] > 0 else room
            _whole_gradient(d, y_RP[r], ab_2C[0, c], ab_2C[1, c], whole)
            d = whole
        for j in range(n):
            kept = kept_nB[j, b] if kept_nB.shape[1] > 0 else _ONE
            dz = _plane(gradients_n[j], r, P)
            if kept != _ZERO:
                sums = _act_backward(
                    d, _plane(parts_n[j], r, P), scale_nC[j, c], shift_nC[j, c], rectified_n[j], kept, dz
                )
                sums_n2R[j, 0, r], sums_n2R[j, 1, r] = sums
            else:
                dz[:] = _ZERO
                sums_n2R[j, 0, r] = sums_n2R[j, 1, r] = _ZERO


# ---- averages over all pixels --------------------------------------------------------------------------------------------


@inlined
def _mean_act(z: Any, scale: Any, shift: Any, rectified: bool) -> Any:
    return sum_of_activated(z, scale, shift, _ZERO if rectified else _LOWEST) / f32(len(z))


@inlined
def _constant_backward(d: Any, z: Any, scale: Any, shift: Any, rectified: bool, dz: Any) -> Any:
    """`_act_backward` where the gradient is the same at every pixel."""
    for i in range(len(z)):
        dz[i] = d if not rectified or scale * z[i] + shift > _ZERO else _ZERO
    d_scale, d_shift = sum_of_products(dz, z), sum_of(dz)
    for i in range(len(z)):
        dz[i] *= scale
    return d_scale, d_shift


@parallel_with_scratch
def global_average(
    first: int, last: int, z_RP: Any, scale_C: Any, shift_C: Any, rectified: bool, mean_R: Any
) -> None:
    """The mean of act(z) over every plane."""
    C = len(scale_C)
    for r in range(first, last):
        mean_R[r] = _mean_act(z_RP[r], scale_C[r % C], shift_C[r % C], rectified)


@parallel_with_scratch
def global_average_backward(
    first: int,
    last: int,
    d_mean_R: Any,
    z_RP: Any,
    scale_C: Any,
    shift_C: Any,
    rectified: bool,
    dz_RP: Any,
    sums_2R: Any,
) -> None:
    """dz, and what every plane adds to the gradients of scale and shift."""
    C = len(scale_C)
    for r in range(first, last):
        z = z_RP[r]
        d = d_mean_R[r] / f32(len(z))
        sums = _constant_backward(d, z, scale_C[r % C], shift_C[r % C], rectified, dz_RP[r])
        sums_2R[0, r], sums_2R[1, r] = sums


# ---- pooling: planes in scratch memory ---------------------------------------------------------------------------------


@inlined
def _padded(P: int, pad: int, value: Any) -> Any:
    """Scratch memory for a plane, with so many constant numbers at both ends."""
    scratch = np.empty(P + 2 * pad, f32)
    scratch[:pad] = value
    scratch[P + pad :] = value
    return scratch


@inlined
def _pick(x: Any, W: int, stride: int, y: Any) -> None:
    """Every `stride`-th row and column of a plane of width W."""
    columns = (W + stride - 1) // stride
    for q in range(0, len(y), columns):
        start = q // columns * stride * W
        for column in range(columns):
            y[q + column] = x[start + column * stride]


@inlined
def _put(y: Any, W: int, stride: int, x: Any) -> None:
    """The converse of `_pick`: x is y at the pixels that are picked, and 0 elsewhere."""
    if stride == 1:
        x[:] = y
        return
    columns = (W + stride - 1) // stride
    x[:] = _ZERO
    for q in range(0, len(y), columns):
        start = q // columns * stride * W
        for column in range(columns):
            x[start + column * stride] = y[q + column]


# ---- average pooling 3×3 -----------------------------------------------------------------------------------------------


@inlined
def _box(s: Any, W: int, left: Any, right: Any, factor: Any, v: Any, y: Any) -> None:
    """y = factor · the sum over 3×3 pixels of s, which has W zeros at both ends; v is scratch with one."""
    P = len(y)
    above, here, below, column = s[:P], s[W : W + P], s[2 * W : 2 * W + P], v[1 : P + 1]
    for i in range(P):
        column[i] = above[i] + here[i] + below[i]
    before, after = v[:P], v[2 : P + 2]
    for i in range(P):
        x, z = before[i], after[i]
        x = x if left[i] > _ZERO else _ZERO
        z = z if right[i] > _ZERO else _ZERO
        y[i] = factor[i] * (x + column[i] + z)


@inlined
def _product(x: Any, y: Any, out: Any) -> None:
    for i in range(len(x)):
        out[i] = x[i] * y[i]


@parallel_with_scratch
def average_pool(
    first: int,
    last: int,
    z_RP: Any,
    scale_C: Any,
    shift_C: Any,
    rectified: bool,
    W: int,
    stride: int,
    table_4P: Any,
    y_RQ: Any,
) -> None:
    """The mean of act(z) over 3×3 pixels, those beyond the border left out.

    The table has 1 where there is a pixel to the left, and to the right; 1 / how many of the 3×3 pixels there are; and 1.
    """
    P, C = z_RP.shape[1], len(scale_C)
    s, v, whole = _padded(P, W, _ZERO), _padded(P, 1, _ZERO), np.empty(P, f32)
    for r in range(first, last):
        _act(z_RP[r], scale_C[r % C], shift_C[r % C], rectified, s[W : W + P])
        if stride == 1:
            _box(s, W, table_4P[0], table_4P[1], table_4P[2], v, y_RQ[r])
        else:
            _box(s, W, table_4P[0], table_4P[1], table_4P[2], v, whole)
            _pick(whole, W, stride, y_RQ[r])


@parallel_with_scratch
def average_pool_backward(
    first: int,
    last: int,
    dy_RQ: Any,
    z_RP: Any,
    scale_C: Any,
    shift_C: Any,
    pending: bool,
    rectified: bool,
    W: int,
    stride: int,
    table_4P: Any,
    dz_RP: Any,
    sums_2R: Any,
) -> None:
    """dz, and what every plane adds to the gradients of scale and shift; z is read if anything is `pending` on it."""
    P, C = dz_RP.shape[1], len(scale_C)
    s, v, dx = _padded(P, W, _ZERO), _padded(P, 1, _ZERO), np.empty(P, f32)
    whole, share = s[W : W + P], table_4P[2]
    for r in range(first, last):
        if stride == 1:
            _product(dy_RQ[r], share, whole)
        else:
            _put(dy_RQ[r], W, stride, whole)
            _product(whole, share, whole)
        _box(s, W, table_4P[0], table_4P[1], table_4P[3], v, dx if pending else dz_RP[r])
        if pending:
            sums = _act_backward(dx, z_RP[r], scale_C[r % C], shift_C[r % C], rectified, _ONE, dz_RP[r])
            sums_2R[0, r], sums_2R[1, r] = sums


# ---- max pooling 3×3 ---------------------------------------------------------------------------------------------------


@inlined
def _higher(x: Any, y: Any) -> Any:
    """Whether y takes the place of x: torch's rule, by which the first of equal pixels stays, and NaN always wins."""
    return (y > x) | (y != y)


@inlined
def _highest_of_row(s: Any, left: Any, right: Any, h: Any, which: Any) -> None:
    """The largest of three pixels side by side, and which it is: 0, 1 or 2; s and `which` have one more at both ends."""
    P = len(h)
    before, here, after, chosen = s[:P], s[1 : P + 1], s[2 : P + 2], which[1 : P + 1]
    for i in range(P):
        x, y, z = before[i], here[i], after[i]
        inside = left[i] > _ZERO
        z = z if right[i] > _ZERO else _LOWEST
        take = _higher(x, y) | (not inside)
        m, k = (y if take else x), (_ONE if take else _ZERO)
        take = _higher(m, z)
        h[i] = z if take else m
        chosen[i] = _TWO if take else k


@inlined
def _which_of_column(h: Any, W: int, which: Any) -> None:
    """Which of three pixels one above the other is the largest. h and `which` have a row more at both ends."""
    P = len(h) - 2 * W
    above, here, below, chosen = h[:P], h[W : W + P], h[2 * W : 2 * W + P], which[W : W + P]
    for i in range(P):
        m, x = above[i], here[i]
        take = _higher(m, x)
        m, k = (x if take else m), (_ONE if take else _ZERO)
        chosen[i] = _TWO if _higher(m, below[i]) else k


@inlined
def _to_chosen(d: Any, which: Any, step: int, dx: Any) -> None:
    """The gradient of pixels `step` apart of which one each was chosen; d and `which` have `step` more at both ends."""
    P = len(dx)
    d_before, d_here, d_after = d[:P], d[step : step + P], d[2 * step : 2 * step + P]
    before, here, after = which[:P], which[step : step + P], which[2 * step : 2 * step + P]
    for i in range(P):
        x, y, z = d_before[i], d_here[i], d_after[i]
        x = x if before[i] == _TWO else _ZERO
        y = y if here[i] == _ONE else _ZERO
        z = z if after[i] == _ZERO else _ZERO
        dx[i] = x + y + z


@inlined
def _row_maximum(s: Any, left: Any, right: Any, h: Any) -> None:
    P = len(h)
    before, here, after = s[:P], s[1 : P + 1], s[2 : P + 2]
    for i in range(P):
        x, m, z = before[i], here[i], after[i]
        x = x if left[i] > _ZERO else _LOWEST
        z = z if right[i] > _ZERO else _LOWEST
        m = x if _higher(m, x) else m
        h[i] = z if _higher(m, z) else m


@inlined
def _column_maximum(h: Any, W: int, y: Any) -> None:
    P = len(y)
    above, here, below = h[:P], h[W : W + P], h[2 * W : 2 * W + P]
    for i in range(P):
        x, m, z = above[i], here[i], below[i]
        m = x if _higher(m, x) else m
        y[i] = z if _higher(m, z) else m


@parallel_with_scratch
def max_pool(
    first: int,
    last: int,
    z_RP: Any,
    scale_C: Any,
    shift_C: Any,
    rectified: bool,
    W: int,
    stride: int,
    table_4P: Any,
    y_RQ: Any,
) -> None:
    """The largest of 3×3 pixels of act(z); the table is that of `average_pool`."""
    P, C = z_RP.shape[1], len(scale_C)
    s, h, whole = _padded(P, 1, _LOWEST), _padded(P, W, _LOWEST), np.empty(P, f32)
    for r in range(first, last):
        _act(z_RP[r], scale_C[r % C], shift_C[r % C], rectified, s[1 : P + 1])
        _row_maximum(s, table_4P[0], table_4P[1], h[W : W + P])
        if stride == 1:
            _column_maximum(h, W, y_RQ[r])
        else:
            _column_maximum(h, W, whole)
            _pick(whole, W, stride, y_RQ[r])


@parallel_with_scratch
def max_pool_backward(
    first: int,
    last: int,
    dy_RQ: Any,
    z_RP: Any,
    scale_C: Any,
    shift_C: Any,
    pending: bool,
    rectified: bool,
    W: int,
    stride: int,
    table_4P: Any,
    dz_RP: Any,
    sums_2R: Any,
) -> None:
    """dz, and what every plane adds to the gradients of scale and shift if they are `pending`.

    Which pixels were the largest is found again from z.
    """
    P, C = z_RP.shape[1], len(scale_C)
    s, h, dx = _padded(P, 1, _LOWEST), _padded(P, W, _LOWEST), np.empty(P, f32)
    in_row, in_column = _padded(P, 1, -_ONE), _padded(P, W, -_ONE)
    d, d_row = _padded(P, W, _ZERO), _padded(P, 1, _ZERO)
    for r in range(first, last):
        z, scale, shift = z_RP[r], scale_C[r % C], shift_C[r % C]
        _act(z, scale, shift, rectified, s[1 : P + 1])
        _highest_of_row(s, table_4P[0], table_4P[1], h[W : W + P], in_row)
        _which_of_column(h, W, in_column)
        _put(dy_RQ[r], W, stride, d[W : W + P])
        _to_chosen(d, in_column, W, d_row[1 : P + 1])
        _to_chosen(d_row, in_row, 1, dx if pending else dz_RP[r])
        if pending:
            sums = _act_backward(dx, z, scale, shift, rectified, _ONE, dz_RP[r])
            sums_2R[0, r], sums_2R[1, r] = sums
