"""Kernels that read every feature map once and write every result once: sums, pooling, statistics.

Each works plane by plane. A plane is the P = H · W pixels of one channel of one image; it stays in the nearest cache from
the first step to the last. Sums over a plane are kept for each plane and added up afterwards in a fixed order, so that
results do not depend on the number of threads.

Loops run over all pixels of a plane and not row by row, as rows are short. A neighbour to the left or right comes from the
plane shifted by one pixel, and a table says where it belongs to another row. z, act(z) and low are those of
`enas.cpu.rows`; `numbers` has scale, shift and low of every channel.

Shape letters: B images, C channels, P pixels of a plane, R = B · C planes, n parts of a sum.
"""

import numpy as np

from enas.cpu.compiler import inlined, kernel, parallel_with_scratch
from enas.cpu.rows import act, act_backward, add_act, whole_gradient, write_sums
from enas.cpu.simd import floats_at

f32 = np.float32
_ZERO, _ONE, _TWO, _LOWEST = f32(0), f32(1), f32(2), f32(-np.inf)


@parallel_with_scratch
def plane_statistics(first, last, x_RP, sums_B2C):
    """The sum of every plane and of its squared deviations from its own mean."""
    C = sums_B2C.shape[2]
    for r in range(first, last):
        write_sums(x_RP[r], sums_B2C[r // C], r % C)


@parallel_with_scratch
def norm_backward(first, last, dy_RP, x_RP, ab_2C, dx_RP):
    """dx = dy + a + b · x, with (a, b) by channel."""
    C = ab_2C.shape[1]
    for r in range(first, last):
        whole_gradient(dy_RP[r], x_RP[r], ab_2C[0, r % C], ab_2C[1, r % C], dx_RP[r])


@kernel
def over_images(sums_nBC, total_nC):
    """The sums of all planes of a channel, added up in double precision."""
    n, B, C = sums_nBC.shape
    for j in range(n):
        for c in range(C):
            total = 0.0
            for b in range(B):
                total += sums_nBC[j, b, c]
            total_nC[j, c] = total


# ---- sums of feature maps ----------------------------------------------------------------------------------------------


@inlined
def _plane(address, plane, P):
    """A plane of the feature maps at an address."""
    return floats_at(address + 4 * plane * P, (P,))


@parallel_with_scratch
def total(first, last, parts_n, numbers_nC3, factor_nB, y_RP):
    """y = Σ factor · act(z) over n parts, given by their addresses; `factor_nB` has no columns if all factors are 1."""
    n, C, _ = numbers_nC3.shape
    P = y_RP.shape[1]
    for r in range(first, last):
        b, c = r // C, r % C
        y, written = y_RP[r], False
        for j in range(n):
            factor = factor_nB[j, b] if factor_nB.shape[1] > 0 else _ONE
            if factor != _ZERO:
                z = _plane(parts_n[j], r, P)
                scale, shift, low = numbers_nC3[j, c]
                if written:
                    add_act(z, scale, shift, low, factor, y)
                else:
                    act(z, factor * scale, factor * shift, low, y)
                    written = True
        if not written:
            y[:] = _ZERO


@parallel_with_scratch
def total_backward(first, last, dy_RP, parts_n, gradients_n, numbers_nC3, factor_nB, sums_2nR):
    """The gradients of n parts of a sum; `parts_n` and `gradients_n` are addresses.

    `sums_2nR` gets what every plane adds to the gradients of the parts' scale and shift.
    """
    n, C, _ = numbers_nC3.shape
    P = dy_RP.shape[1]
    for r in range(first, last):
        b, c = r // C, r % C
        for j in range(n):
            factor = factor_nB[j, b] if factor_nB.shape[1] > 0 else _ONE
            dz = _plane(gradients_n[j], r, P)
            if factor != _ZERO:
                scale, shift, low = numbers_nC3[j, c]
                sums = act_backward(dy_RP[r], _plane(parts_n[j], r, P), scale, shift, low, factor, dz)
                sums_2nR[0, j, r], sums_2nR[1, j, r] = sums
            else:
                dz[:] = _ZERO
                sums_2nR[0, j, r] = sums_2nR[1, j, r] = _ZERO


# ---- pooling: planes in scratch memory ---------------------------------------------------------------------------------


@inlined
def _padded(P, pad, value):
    """Scratch memory for a plane, with `pad` numbers of this value at both ends."""
    scratch = np.empty(P + 2 * pad, f32)
    scratch[:pad] = value
    scratch[P + pad :] = value
    return scratch


# ---- average pooling 3×3 -----------------------------------------------------------------------------------------------


@inlined
def _box(s, W, left, right, factor, v, y):
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
def _product(x, y, out):
    for i in range(len(x)):
        out[i] = x[i] * y[i]


@parallel_with_scratch
def average_pool(first, last, z_RP, numbers_C3, W, table_4P, y_RP):
    """The mean of act(z) over 3×3 pixels, those beyond the border left out.

    The table is that of `enas.cpu.maps`.
    """
    P, C = z_RP.shape[1], len(numbers_C3)
    s, v = _padded(P, W, _ZERO), _padded(P, 1, _ZERO)
    for r in range(first, last):
        scale, shift, low = numbers_C3[r % C]
        act(z_RP[r], scale, shift, low, s[W : W + P])
        _box(s, W, table_4P[0], table_4P[1], table_4P[2], v, y_RP[r])


@parallel_with_scratch
def average_pool_backward(first, last, dy_RP, z_RP, numbers_C3, W, table_4P, dz_RP, sums_2R):
    """dz, and what every plane adds to the gradients of scale and shift; z is empty if nothing was to be done to it."""
    P, C, pending = dz_RP.shape[1], len(numbers_C3), len(z_RP) > 0
    s, v, dx = _padded(P, W, _ZERO), _padded(P, 1, _ZERO), np.empty(P, f32)
    whole, share = s[W : W + P], table_4P[2]
    for r in range(first, last):
        _product(dy_RP[r], share, whole)
        _box(s, W, table_4P[0], table_4P[1], table_4P[3], v, dx if pending else dz_RP[r])
        if pending:
            scale, shift, low = numbers_C3[r % C]
            sums_2R[0, r], sums_2R[1, r] = act_backward(dx, z_RP[r], scale, shift, low, _ONE, dz_RP[r])


# ---- max pooling 3×3 ---------------------------------------------------------------------------------------------------


@inlined
def _higher(x, y):
    """Whether y takes the place of x: torch's rule, by which the first of equal pixels stays, and NaN always wins."""
    return (y > x) | (y != y)


@inlined
def _highest_of_row(s, left, right, h, which):
    """The largest of three pixels side by side, and its number: 0, 1 or 2; s and `which` have one more at both ends."""
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
def _which_of_column(h, W, which):
    """The number of the largest of three pixels, one above the other; h and `which` have a row more at both ends."""
    P = len(h) - 2 * W
    above, here, below, chosen = h[:P], h[W : W + P], h[2 * W : 2 * W + P], which[W : W + P]
    for i in range(P):
        m, x = above[i], here[i]
        take = _higher(m, x)
        m, k = (x if take else m), (_ONE if take else _ZERO)
        chosen[i] = _TWO if _higher(m, below[i]) else k


@inlined
def _to_chosen(d, which, step, dx):
    """The gradient of pixels, of which `which` chose one of three that lie `step` apart. d and `which` have `step` more at
    both ends."""
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
def _row_maximum(s, left, right, h):
    P = len(h)
    before, here, after = s[:P], s[1 : P + 1], s[2 : P + 2]
    for i in range(P):
        x, m, z = before[i], here[i], after[i]
        x = x if left[i] > _ZERO else _LOWEST
        z = z if right[i] > _ZERO else _LOWEST
        m = x if _higher(m, x) else m
        h[i] = z if _higher(m, z) else m


@inlined
def _column_maximum(h, W, y):
    P = len(y)
    above, here, below = h[:P], h[W : W + P], h[2 * W : 2 * W + P]
    for i in range(P):
        x, m, z = above[i], here[i], below[i]
        m = x if _higher(m, x) else m
        y[i] = z if _higher(m, z) else m


@parallel_with_scratch
def max_pool(first, last, z_RP, numbers_C3, W, table_4P, y_RP):
    """The largest of 3×3 pixels of act(z); the table likewise."""
    P, C = z_RP.shape[1], len(numbers_C3)
    s, h = _padded(P, 1, _LOWEST), _padded(P, W, _LOWEST)
    for r in range(first, last):
        scale, shift, low = numbers_C3[r % C]
        act(z_RP[r], scale, shift, low, s[1 : P + 1])
        _row_maximum(s, table_4P[0], table_4P[1], h[W : W + P])
        _column_maximum(h, W, y_RP[r])


@parallel_with_scratch
def max_pool_backward(first, last, dy_RP, z_RP, numbers_C3, W, table_4P, dz_RP, sums_2R):
    """dz, and what every plane adds to the gradients of scale and shift.

    Which pixels were the largest is found again from z.
    """
    P, C = z_RP.shape[1], len(numbers_C3)
    s, h, dx = _padded(P, 1, _LOWEST), _padded(P, W, _LOWEST), np.empty(P, f32)
    in_row, in_column = _padded(P, 1, -_ONE), _padded(P, W, -_ONE)
    d, d_row = _padded(P, W, _ZERO), _padded(P, 1, _ZERO)
    for r in range(first, last):
        scale, shift, low = numbers_C3[r % C]
        act(z_RP[r], scale, shift, low, s[1 : P + 1])
        _highest_of_row(s, table_4P[0], table_4P[1], h[W : W + P], in_row)
        _which_of_column(h, W, in_column)
        d[W : W + P] = dy_RP[r]
        _to_chosen(d, in_column, W, d_row[1 : P + 1])
        _to_chosen(d_row, in_row, 1, dx)
        sums_2R[0, r], sums_2R[1, r] = act_backward(dx, z_RP[r], scale, shift, low, _ONE, dz_RP[r])
