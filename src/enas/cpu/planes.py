"""Feature maps into planes with zeros around them and back, by vectors, with the affine step and ReLU on the way.

With a stride of 2 an image becomes four planes: those of its even and odd rows, and of their even and odd columns. Plane
2 · (row mod 2) + (column mod 2) has the pixel at [row // 2, column // 2].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from enas.cpu.simd import Registers, emitted, word

AFFINE_LANES = 8
"""Numbers that a sum for scale or shift stands as."""
_LINE = 16
"""Numbers of a cache line."""


@emitted
def prefetch(builder, x, first, last):
    """Ask for x[first:last] of a flat array to be brought into the cache; harmless where there is no such memory."""
    byte_pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte_pointer, *[number] * 3])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    how = [ir.Constant(number, value) for value in (0, 3, 1)]  # to be read; into the nearest cache; data
    lines = builder.udiv(builder.sub(last, first), word(_LINE))
    with cgutils.for_range(builder, lines) as loop:
        place = builder.gep(x, [builder.add(first, builder.mul(loop.index, word(_LINE)))])
        builder.call(function, [builder.bitcast(place, byte_pointer), *how])


Step = Callable[[Registers, Sequence[Any], Sequence[Sequence[Any]]], None]
"""`step(registers, image_at, planes_at)`: where a step's vectors lie in the image, and where in each array of planes."""


def _each_vector(
    builder: Any, stride: Any, H: Any, W: Any, layouts: Sequence[tuple[Any, Any]], step: Step
) -> None:
    """Emit `step` for all pixels of an image: by vectors, and one at a time for what is left of a row.

    `layouts` has the distances (between planes, between rows) of arrays of planes. For a stride of 1 a step has one vector.
    For a stride of 2 it has two: 2 · lanes neighbours of the image are lanes of an even and of an odd plane in turn.
    """
    one, wide = Registers(builder, 1), Registers(builder, AFFINE_LANES)

    def along(count: Any, visit: Callable[[Any], None]) -> None:
        with cgutils.for_range(builder, count) as loop:
            visit(loop.index)

    def whole(line: Any) -> None:
        image = builder.mul(line, W)
        rows = [builder.mul(line, row) for _, row in layouts]
        full = builder.udiv(W, word(AFFINE_LANES))
        done = builder.mul(full, word(AFFINE_LANES))

        def at(registers: Registers, column: Any) -> None:
            step(registers, [builder.add(image, column)], [[builder.add(row, column)] for row in rows])

        along(full, lambda i: at(wide, builder.mul(i, word(AFFINE_LANES))))
        along(builder.sub(W, done), lambda i: at(one, builder.add(done, i)))

    def halved(line: Any) -> None:
        image = builder.mul(line, W)
        half, odd = builder.lshr(line, word(1)), builder.and_(line, word(1))
        rows = [
            builder.add(builder.mul(half, row), builder.mul(builder.mul(odd, word(2)), plane))
            for plane, row in layouts
        ]
        full = builder.udiv(W, word(2 * AFFINE_LANES))
        done = builder.mul(full, word(2 * AFFINE_LANES))

        def two(i: Any) -> None:
            first = builder.add(image, builder.mul(i, word(2 * AFFINE_LANES)))
            even = [builder.add(row, builder.mul(i, word(AFFINE_LANES))) for row in rows]
            planes_at = [[at, builder.add(at, plane)] for at, (plane, _) in zip(even, layouts, strict=True)]
            step(wide, [first, builder.add(first, word(AFFINE_LANES))], planes_at)

        def single(i: Any) -> None:
            column = builder.add(done, i)
            half, odd = builder.lshr(column, word(1)), builder.and_(column, word(1))
            planes_at = [
                [builder.add(builder.add(row, half), builder.mul(odd, plane))]
                for row, (plane, _) in zip(rows, layouts, strict=True)
            ]
            step(one, [builder.add(image, column)], planes_at)

        along(full, two)
        along(builder.sub(W, done), single)

    with builder.if_else(builder.icmp_unsigned("==", stride, word(1))) as (by_one, by_two):
        with by_one:
            along(H, whole)
        with by_two:
            along(H, halved)


_EVEN_AND_ODD = [range(odd, 2 * AFFINE_LANES, 2) for odd in (0, 1)]
"""Lanes of two vectors of an image's neighbours that are columns of the even plane, and of the odd one."""
_IN_TURN = [
    [lane + odd * AFFINE_LANES for lane in range(begin, begin + AFFINE_LANES // 2) for odd in (0, 1)]
    for begin in (0, AFFINE_LANES // 2)
]
"""Lanes of a vector each of the even and of the odd plane that are neighbours in the image."""


def _rearranged(
    registers: Registers, vectors: Sequence[Any], orders: Sequence[Sequence[int]]
) -> Sequence[Any]:
    return [registers.mixed(vectors, order) for order in orders] if len(vectors) == 2 else vectors


@emitted
def stage(builder, stride, numbers, numbers_at, z, z_at, H, W, x, x_at, x_plane, x_row):
    """max(scale · z + shift, lowest) of one image [H, W] into its planes; `numbers` has scale, shift and lowest."""
    z, x, numbers = builder.gep(z, [z_at]), builder.gep(x, [x_at]), builder.gep(numbers, [numbers_at])

    def step(registers: Registers, image_at: Sequence[Any], planes_at: Sequence[Sequence[Any]]) -> None:
        scale, shift, lowest = (registers.spread(numbers, word(i)) for i in range(3))
        values = []
        for at in image_at:
            value = registers.fused(registers.load(z, at), scale, shift)
            values.append(builder.select(builder.fcmp_ordered("<", value, lowest), lowest, value))
        for value, at in zip(_rearranged(registers, values, _EVEN_AND_ODD), planes_at[0], strict=True):
            registers.store(value, x, at)

    _each_vector(builder, stride, H, W, [(x_plane, x_row)], step)


@emitted
def unstage(
    builder, stride, numbers, numbers_at, dx, dx_at, dx_plane, dx_row, x, x_at, x_plane, x_row, z, z_at, H, W, dz, dz_at,
    sums, sums_at,
):  # fmt: skip
    """The gradient dz of one image by that of its planes.

    Adds Σ dx · z and Σ dx, where x is above `lowest`, to `sums` [2, 8], to be added up over the lanes.
    """
    z, dz, x, dx = (builder.gep(p, [at]) for p, at in ((z, z_at), (dz, dz_at), (x, x_at), (dx, dx_at)))
    numbers, sums = builder.gep(numbers, [numbers_at]), builder.gep(sums, [sums_at])
    wide = Registers(builder, AFFINE_LANES)
    totals = {registers.lanes: registers.variables(2) for registers in (Registers(builder, 1), wide)}

    def step(registers: Registers, image_at: Sequence[Any], planes_at: Sequence[Sequence[Any]]) -> None:
        scale, lowest = (registers.spread(numbers, word(i)) for i in (0, 2))
        masked = []
        for x_at, dx_at in zip(*planes_at, strict=True):
            above = builder.fcmp_ordered(">", registers.load(x, x_at), lowest)
            masked.append(builder.select(above, registers.load(dx, dx_at), registers.zero))
        d_scale, d_shift = totals[registers.lanes]
        for d, at in zip(_rearranged(registers, masked, _IN_TURN), image_at, strict=True):
            registers.store(builder.fmul(d, scale), dz, at)
            registers.add_product(d_scale, d, registers.load(z, at))
            registers.add(d_shift, d)

    _each_vector(builder, stride, H, W, [(x_plane, x_row), (dx_plane, dx_row)], step)
    first = ir.Constant(ir.IntType(32), 0)
    for i in range(2):
        single = builder.extract_element(builder.load(totals[1][i]), first)
        extra = builder.insert_element(wide.zero, single, first)
        total = builder.fadd(builder.load(totals[AFFINE_LANES][i]), extra)
        at = word(i * AFFINE_LANES)
        wide.store(builder.fadd(wide.load(sums, at), total), sums, at)
