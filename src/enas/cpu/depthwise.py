"""Depthwise filters in registers: a correlation and the gradient of its filter, for each width and vector length.

Both go down a strip of columns row by row. At each row, the k shifted views of the input are loaded once and multiplied with
all that needs them: for a correlation, into the sums of the k output rows that read this row; for the gradient, with the k
rows of the output's gradient around it. So k loads serve k · k products, and nothing leaves the registers in between.

Feature maps are flat float32 arrays. A row is followed by at least k // 2 zeros, which are also the border left of the next
row; as many come before the first row of an array.

Shape letters: N images, H rows, W columns (a multiple of the vector's length), k the width of a filter, m = k // 2.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numba.core import cgutils

from enas.cpu.simd import Registers, each_case, emitted, word

_LENGTHS = (8, 16)
"""Lengths of vectors that the functions here choose from."""


def _for_widths(write: Callable[..., None], widths: tuple[int, ...]) -> Any:
    """The function whose instructions `write(builder, width, lanes, ...)` writes for each width and length of vectors."""
    cases = [(width, lanes) for width in widths for lanes in _LENGTHS]

    def write_cases(builder: Any, width: Any, lanes: Any, *rest: Any) -> None:
        each_case(builder, width, lanes, cases, lambda *case: write(builder, *case, *rest))

    write_cases.__name__ = "_".join([write.__name__.removeprefix("_"), *map(str, widths)])
    vars(write_cases)["__signature__"] = inspect.signature(write)
    return emitted(write_cases)


def correlation(*widths: int) -> Any:
    """The function that correlates with a filter of one of these odd widths, by vectors of one of the lengths.

    `correlate(width, lanes, w, w_at, x, x_at, x_image, x_row, N, H, W, y, y_at, y_image, y_row)` computes
    y[n, h, w] = Σ_ab w[a, b] · x[n, h + a - m, w + b - m], with rows of x outside 0 .. H - 1 taken as zeros. Arrays begin at
    their `_at`, images and rows lie `_image` and `_row` apart.
    """
    return _for_widths(_correlate, widths)


def _correlate(
    builder, width, lanes, w, w_at, x, x_at, x_image, x_row, N, H, W, y, y_at, y_image, y_row
):  # fmt: skip
    m, registers = width // 2, Registers(builder, lanes)
    w = builder.gep(w, [w_at])
    weights = [[registers.spread(w, word(a * width + b)) for b in range(width)] for a in range(width)]
    strips = builder.udiv(W, word(lanes))

    def go_down(count: int, first: Any) -> None:
        """Compute `count` strips row by row, from strip `first` of all images on."""
        # of the output rows i + m, .., i - m at row i of the input, strip by strip
        sums = [registers.variables(width) for _ in range(count)]
        sources, outs = [], []
        for number in (builder.add(first, word(i)) for i in range(count)):
            image, strip = builder.udiv(number, strips), builder.urem(number, strips)
            column = builder.mul(strip, word(lanes))
            x_first = builder.add(builder.add(x_at, builder.mul(image, x_image)), column)
            y_first = builder.add(builder.add(y_at, builder.mul(image, y_image)), column)
            sources.append(builder.gep(x, [builder.sub(x_first, word(m))]))
            outs.append(builder.gep(y, [y_first]))

        def finish(row: Any) -> None:
            """Write the sums of the oldest row if there is such a row, and open a new one."""
            with builder.if_then(builder.icmp_unsigned("<", row, H), likely=True):
                at = builder.mul(row, y_row)
                for out, open_ in zip(outs, sums, strict=True):
                    registers.store(builder.load(open_[-1]), out, at)
            for open_ in sums:
                registers.shift(open_)
                builder.store(registers.zero, open_[0])

        with cgutils.for_range(builder, H) as row:
            at = builder.mul(row.index, x_row)
            for b in range(width):
                x_b = [registers.load(source, builder.add(at, word(b))) for source in sources]
                for a in range(width):
                    for open_, value in zip(sums, x_b, strict=True):
                        registers.add_product(open_[a], weights[a][b], value)
            finish(builder.sub(row.index, word(m)))
        for after in range(m):
            finish(builder.sub(H, word(m - after)))

    # Two strips at a time, as each product of one waits for the one before.
    every = builder.mul(N, strips)
    pairs = builder.lshr(every, word(1))
    with cgutils.for_range(builder, pairs) as pair:
        go_down(2, builder.shl(pair.index, word(1)))
    with builder.if_then(builder.icmp_unsigned("!=", builder.and_(every, word(1)), word(0))):
        go_down(1, builder.sub(every, word(1)))


def filter_gradient(*widths: int) -> Any:
    """The function that computes the gradient of `correlation`'s filter.

    `add_filter_gradient(width, lanes, dy, dy_at, dy_image, dy_row, x, x_at, x_image, x_row, N, H, W, dw, dw_at)` adds
    Σ_nhw dy[n, h, w] · x[n, h + a - m, w + b - m] to dw[a, b], kept as `lanes` numbers that are still to be added up, so dw
    is [k, k, lanes]. The images of dy have m rows of zeros between them, before the first and after the last.
    """
    return _for_widths(_add_filter_gradient, widths)


def _add_filter_gradient(
    builder, width, lanes, dy, dy_at, dy_image, dy_row, x, x_at, x_image, x_row, N, H, W, dw, dw_at
):  # fmt: skip
    m, registers = width // 2, Registers(builder, lanes)
    dw = builder.gep(dw, [dw_at])
    sums = registers.variables(width * width)
    for tap, variable in enumerate(sums):
        builder.store(registers.load(dw, word(tap * lanes)), variable)
    rows = registers.variables(width)  # the rows i + m, .., i - m of dy at row i of the input

    strips = builder.udiv(W, word(lanes))
    with cgutils.for_range(builder, N) as image, cgutils.for_range(builder, strips) as strip:
        column = builder.mul(strip.index, word(lanes))
        x_first = builder.add(builder.add(x_at, builder.mul(image.index, x_image)), column)
        dy_first = builder.add(builder.add(dy_at, builder.mul(image.index, dy_image)), column)
        source = builder.gep(x, [builder.sub(x_first, word(m))])
        gradient = builder.gep(dy, [dy_first])
        for a, variable in enumerate(rows[:-1]):  # as if they stood at row -1
            at = builder.mul(dy_row, word(m - 1 - a))
            builder.store(registers.load(gradient, at), variable)
        with cgutils.for_range(builder, H) as row:
            registers.shift(rows)
            at = builder.mul(builder.add(row.index, word(m)), dy_row)
            builder.store(registers.load(gradient, at), rows[0])
            at = builder.mul(row.index, x_row)
            for b in range(width):
                x_b = registers.load(source, builder.add(at, word(b)))
                for a in range(width):
                    registers.add_product(sums[a * width + b], builder.load(rows[a]), x_b)
    for tap, variable in enumerate(sums):
        registers.store(builder.load(variable), dw, word(tap * lanes))
