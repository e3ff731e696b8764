"""Feature maps into planes with zeros around them and back, by vectors, with the affine step and ReLU on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from enas.cpu.simd import Registers, emitted, word

AFFINE_LANES = 8
"""A sum for scale or shift is kept as this many numbers, one a lane."""
_LINE = 16
"""Numbers of a cache line."""


@emitted
def prefetch(builder, x, first, last):
    """Ask for x[first:last] of a flat array to be brought into the cache; harmless where the array has ended."""
    byte_pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte_pointer, *[number] * 3])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    how = [ir.Constant(number, value) for value in (0, 3, 1)]  # to be read; into the nearest cache; data
    lines = builder.udiv(builder.sub(last, first), word(_LINE))
    with cgutils.for_range(builder, lines) as loop:
        place = builder.gep(x, [builder.add(first, builder.mul(loop.index, word(_LINE)))])
        builder.call(function, [builder.bitcast(place, byte_pointer), *how])


def _each_vector(builder: Any, H: Any, W: Any, rows: list[Any], step: Callable[..., None]) -> None:
    """Emit `step(registers, image_at, *planes_at)` for all pixels of an image: by vectors, then one by one in each row.

    The offsets are those of the numbers in the image, and in planes whose rows lie `rows` apart.
    """

    def along(registers: Registers, line: Any, first: Any, count: Any) -> None:
        with cgutils.for_range(builder, count) as loop:
            column = builder.add(first, builder.mul(loop.index, word(registers.lanes)))
            step(registers, *(builder.add(builder.mul(line, row), column) for row in (W, *rows)))

    full = builder.udiv(W, word(AFFINE_LANES))
    done = builder.mul(full, word(AFFINE_LANES))
    with cgutils.for_range(builder, H) as loop:
        along(Registers(builder, AFFINE_LANES), loop.index, word(0), full)
        along(Registers(builder, 1), loop.index, done, builder.sub(W, done))


@emitted
def stage(builder, numbers, numbers_at, z, z_at, H, W, x, x_at, x_row):
    """max(scale · z + shift, lowest) of one image [H, W] into its plane; `numbers` has scale, shift and lowest."""
    z, x, numbers = builder.gep(z, [z_at]), builder.gep(x, [x_at]), builder.gep(numbers, [numbers_at])

    def step(registers: Registers, image_at: Any, plane_at: Any) -> None:
        scale, shift, lowest = (registers.spread(numbers, word(i)) for i in range(3))
        value = registers.fused(registers.load(z, image_at), scale, shift)
        low = builder.fcmp_ordered("<", value, lowest)
        registers.store(builder.select(low, lowest, value), x, plane_at)

    _each_vector(builder, H, W, [x_row], step)


@emitted
def unstage(
    builder, numbers, numbers_at, dx, dx_at, dx_row, x, x_at, x_row, z, z_at, H, W, dz, dz_at, sums, sums_at
):  # fmt: skip
    """The gradient dz of one image from that of its plane.

    Adds Σ dx · z and Σ dx, where x is above `lowest`, to `sums` [2, 8], whose lanes are still to be added up.
    """
    z, dz, x, dx = (builder.gep(p, [at]) for p, at in ((z, z_at), (dz, dz_at), (x, x_at), (dx, dx_at)))
    numbers, sums = builder.gep(numbers, [numbers_at]), builder.gep(sums, [sums_at])
    wide = Registers(builder, AFFINE_LANES)
    totals = {registers.lanes: registers.variables(2) for registers in (Registers(builder, 1), wide)}

    def step(registers: Registers, image_at: Any, x_at: Any, dx_at: Any) -> None:
        scale, lowest = (registers.spread(numbers, word(i)) for i in (0, 2))
        above = builder.fcmp_ordered(">", registers.load(x, x_at), lowest)
        d = builder.select(above, registers.load(dx, dx_at), registers.zero)
        d_scale, d_shift = totals[registers.lanes]
        registers.store(builder.fmul(d, scale), dz, image_at)
        registers.add_product(d_scale, d, registers.load(z, image_at))
        registers.add(d_shift, d)

    _each_vector(builder, H, W, [x_row, dx_row], step)
    first = ir.Constant(ir.IntType(32), 0)
    for i in range(2):
        single = builder.extract_element(builder.load(totals[1][i]), first)
        extra = builder.insert_element(wide.zero, single, first)
        total = builder.fadd(builder.load(totals[AFFINE_LANES][i]), extra)
        at = word(i * AFFINE_LANES)
        wide.store(builder.fadd(wide.load(sums, at), total), sums, at)
