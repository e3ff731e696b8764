"""Depthwise filters in registers: a correlation and the gradient of its filter, for each width and vector length.

Both go down a strip of columns row by row. At each row the k shifted views of the input are loaded once and meet everything
that they are multiplied with: the k sums of output rows that are still open, or the k rows of the output's gradient
around it. So k loads serve k · k products, and nothing leaves the registers in between.

Feature maps are flat float32 arrays. A row is followed by at least k // 2 zeros, which are also what lies left of the next
one; before the first row of an array there are as many.

Shape letters: N images, H rows, W columns (a multiple of the vector's length), k the width of a filter, m = k // 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from enas.nn.simd import pointers

_WORD = ir.IntType(64)


class _Registers:
    """Vectors of so many float32, written where an IR builder stands."""

    def __init__(self, builder: Any, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.type = ir.VectorType(ir.FloatType(), lanes)
        self.zero = ir.Constant(self.type, None)

    def variables(self, count: int) -> list[Any]:
        return [cgutils.alloca_once(self.builder, self.type) for _ in range(count)]

    def place(self, pointer: Any, at: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(pointer, [at]), self.type.as_pointer())

    def load(self, pointer: Any, at: Any) -> Any:
        return self.builder.load(self.place(pointer, at), align=4)

    def store(self, vector: Any, pointer: Any, at: Any) -> None:
        self.builder.store(vector, self.place(pointer, at), align=4)

    def spread(self, pointer: Any, at: Any) -> Any:
        """`pointer[at]` in every lane."""
        number = self.builder.load(self.builder.gep(pointer, [at]), align=4)
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def add_product(self, variable: Any, x: Any, y: Any) -> None:
        """variable += x · y, rounded once."""
        fma = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(self.type, [self.type] * 3), f"llvm.fma.v{self.lanes}f32"
        )
        self.builder.store(self.builder.call(fma, [x, y, self.builder.load(variable)]), variable)

    def shift(self, variables: Sequence[Any]) -> None:
        """Each takes the value of the one before; the first keeps its own."""
        for target, source in reversed(list(zip(variables[1:], variables, strict=False))):
            self.builder.store(self.builder.load(source), target)


def _word(value: int) -> Any:
    return ir.Constant(_WORD, value)


def _signature(arguments: Sequence[Any]) -> Any:
    return types.void(*(a if isinstance(a, types.Array) else types.intp for a in arguments))


@cache
def correlation(width: int, lanes: int) -> Any:
    """The function that correlates with a filter of this odd width, by vectors of this many numbers.

    `correlate(adds, w, w_at, x, x_at, x_image, x_row, N, H, W, y, y_at, y_image, y_row)` computes
    y[n, h, w] = Σ_ab w[a, b] · x[n, h + a - m, w + b - m], with rows of x outside 0 .. H - 1 taken as zeros; it adds that to
    y if `adds` is not 0. Arrays begin at their `_at`, images and rows lie `_image` and `_row` apart.
    """
    m = width // 2

    def correlate(
        _typing: Any,
        adds: Any,
        w: Any,
        w_at: Any,
        x: Any,
        x_at: Any,
        x_image: Any,
        x_row: Any,
        N: Any,
        H: Any,
        W: Any,
        y: Any,
        y_at: Any,
        y_image: Any,
        y_row: Any,
    ) -> Any:
        signature = _signature(
            (adds, w, w_at, x, x_at, x_image, x_row, N, H, W, y, y_at, y_image, y_row)
        )  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            adds, w, w_at, x, x_at, x_image, x_row, N, H, W, y, y_at, y_image, y_row = pointers(
                context, builder, signature, values
            )
            registers = _Registers(builder, lanes)
            w = builder.gep(w, [w_at])
            weights = [[registers.spread(w, _word(a * width + b)) for b in range(width)] for a in range(width)]
            sums = registers.variables(width)  # of the output rows i + m, .., i - m at row i of the input
            adds = builder.icmp_unsigned("!=", adds, _word(0))

            def finish(out: Any, row: Any) -> None:
                """Write the sum of the oldest row if there is such a row, and open a new one."""
                with builder.if_then(builder.icmp_unsigned("<", row, H), likely=True):
                    at, value = builder.mul(row, y_row), builder.load(sums[-1])
                    with builder.if_else(adds) as (added, written):
                        with added:
                            registers.store(builder.fadd(value, registers.load(out, at)), out, at)
                        with written:
                            registers.store(value, out, at)
                registers.shift(sums)
                builder.store(registers.zero, sums[0])

            strips = builder.udiv(W, _word(lanes))
            with cgutils.for_range(builder, N) as image, cgutils.for_range(builder, strips) as strip:
                column = builder.mul(strip.index, _word(lanes))
                x_first = builder.add(builder.add(x_at, builder.mul(image.index, x_image)), column)
                y_first = builder.add(builder.add(y_at, builder.mul(image.index, y_image)), column)
                source = builder.gep(x, [builder.sub(x_first, _word(m))])
                out = builder.gep(y, [y_first])
                for variable in sums:
                    builder.store(registers.zero, variable)
                with cgutils.for_range(builder, H) as row:
                    at = builder.mul(row.index, x_row)
                    for b in range(width):
                        x_b = registers.load(source, builder.add(at, _word(b)))
                        for a in range(width):
                            registers.add_product(sums[a], weights[a][b], x_b)
                    finish(out, builder.sub(row.index, _word(m)))
                for after in range(m):
                    finish(out, builder.sub(H, _word(m - after)))
            return context.get_dummy_value()

        return signature, generate

    correlate.__name__ = f"correlate_{width}_{lanes}"
    return intrinsic(correlate)


@cache
def filter_gradient(width: int, lanes: int) -> Any:
    """The function that computes the gradient of `correlation`'s filter.

    `add_filter_gradient(dy, dy_at, dy_image, dy_row, x, x_at, x_image, x_row, N, H, W, dw, dw_at)` adds
    Σ_nhw dy[n, h, w] · x[n, h + a - m, w + b - m] to dw[a, b], which stands there as `lanes` numbers that are still to be
    added up, so dw is [k, k, lanes]. The images of dy have m rows of zeros between them, before the first and after the last.
    """
    m = width // 2

    def add_filter_gradient(
        _typing: Any,
        dy: Any,
        dy_at: Any,
        dy_image: Any,
        dy_row: Any,
        x: Any,
        x_at: Any,
        x_image: Any,
        x_row: Any,
        N: Any,
        H: Any,
        W: Any,
        dw: Any,
        dw_at: Any,
    ) -> Any:
        signature = _signature((dy, dy_at, dy_image, dy_row, x, x_at, x_image, x_row, N, H, W, dw, dw_at))

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            dy, dy_at, dy_image, dy_row, x, x_at, x_image, x_row, N, H, W, dw, dw_at = pointers(
                context, builder, signature, values
            )
            registers = _Registers(builder, lanes)
            dw = builder.gep(dw, [dw_at])
            sums = registers.variables(width * width)
            for tap, variable in enumerate(sums):
                builder.store(registers.load(dw, _word(tap * lanes)), variable)
            rows = registers.variables(width)  # the rows i + m, .., i - m of dy at row i of the input

            strips = builder.udiv(W, _word(lanes))
            with cgutils.for_range(builder, N) as image, cgutils.for_range(builder, strips) as strip:
                column = builder.mul(strip.index, _word(lanes))
                x_first = builder.add(builder.add(x_at, builder.mul(image.index, x_image)), column)
                dy_first = builder.add(builder.add(dy_at, builder.mul(image.index, dy_image)), column)
                source = builder.gep(x, [builder.sub(x_first, _word(m))])
                gradient = builder.gep(dy, [dy_first])
                for a, variable in enumerate(rows[:-1]):  # as if they stood at row -1
                    at = builder.mul(dy_row, _word(m - 1 - a))
                    builder.store(registers.load(gradient, at), variable)
                with cgutils.for_range(builder, H) as row:
                    registers.shift(rows)
                    at = builder.mul(builder.add(row.index, _word(m)), dy_row)
                    builder.store(registers.load(gradient, at), rows[0])
                    at = builder.mul(row.index, x_row)
                    for b in range(width):
                        x_b = registers.load(source, builder.add(at, _word(b)))
                        for a in range(width):
                            registers.add_product(sums[a * width + b], builder.load(rows[a]), x_b)
            for tap, variable in enumerate(sums):
                registers.store(builder.load(variable), dw, _word(tap * lanes))
            return context.get_dummy_value()

        return signature, generate

    add_filter_gradient.__name__ = f"add_filter_gradient_{width}_{lanes}"
    return intrinsic(add_filter_gradient)
