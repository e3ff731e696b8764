"""What kernels do to one row of pixels: the deferred step of a norm, its gradient, and statistics.

z is what is in memory; act(z) = max(scale · z + shift, low) is what an operation sees (see `enas.cpu.deferred`); low is 0
for maps that are rectified, else -infinity.
"""

import numpy as np

from enas.cpu.compiler import inlined
from enas.cpu.simd import sum_of, sum_of_products, sum_of_squares

f32 = np.float32


@inlined
def act(z, scale, shift, low, x):
    """x = act(z)."""
    for i in range(len(z)):
        value = scale * z[i] + shift
        x[i] = low if value < low else value


@inlined
def add_act(z, scale, shift, low, factor, x):
    """x += factor · act(z)."""
    for i in range(len(z)):
        value = scale * z[i] + shift
        x[i] += factor * (low if value < low else value)


@inlined
def act_backward(dx, z, scale, shift, low, factor, dz):
    """dz of x = factor · act(z), and what the row adds to the gradients of scale and shift."""
    for i in range(len(z)):
        dz[i] = f32(0) if scale * z[i] + shift <= low else dx[i]
    d_scale, d_shift = sum_of_products(dz, z), sum_of(dz)
    share = scale * factor
    for i in range(len(z)):
        dz[i] *= share
    return d_scale * factor, d_shift * factor


@inlined
def whole_gradient(dy, y, a, b, d):
    """d = dy + a + b · y: the gradient of y that has a norm after it (see `enas.cpu.normed`)."""
    for i in range(len(y)):
        d[i] = dy[i] + (a + b * y[i])


@inlined
def write_sums(x, sums_2C, c):
    """A row's sum, and its squared deviations from its own mean."""
    total = sum_of(x)
    sums_2C[0, c] = total
    sums_2C[1, c] = sum_of_squares(x, total / f32(len(x)))
