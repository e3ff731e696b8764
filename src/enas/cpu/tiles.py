"""Products over rows of feature maps, with a block of sums in registers; on one thread, from compiled kernels.

Feature maps of a few images lie in a scratch array, channel by channel. A convolution is then a product over K terms, each
of which is a row of that array from an offset of its own.

Shape letters: O outputs, K terms of a sum, S positions.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils

from enas.cpu.compiler import inlined
from enas.cpu.simd import LANES, Registers, each_case, emitted, word

_PRODUCT = (6, 4)
"""Most outputs and vectors of a tile. Of 32 registers, 24 hold sums, 4 operands, and the rest weights."""
_OUTER = (4, 6)
"""Most outputs and terms of a tile."""


def _sizes(most: tuple[int, int]) -> list[tuple[int, int]]:
    return [(r, c) for r in range(1, most[0] + 1) for c in range(1, most[1] + 1)]


def _rows(builder: Any, pointer: Any, at: Any, stride: Any, count: int) -> list[Any]:
    """Pointers to `count` rows that lie `stride` apart."""
    rows = [builder.gep(pointer, [at])]
    for _ in range(count - 1):
        rows.append(builder.gep(rows[-1], [stride]))
    return rows


@emitted
def _product_tile(builder, outputs, vectors, w, w_at, x, x_at, offset_K, K, y, y_at, y_stride, adds):
    registers = Registers(builder)
    adds = builder.icmp_unsigned("!=", adds, word(0))
    x, w = builder.gep(x, [x_at]), builder.gep(w, [w_at])

    def write(rows: int, columns: int) -> None:
        sums = registers.variables(rows * columns)
        places = [
            (row, word(LANES * v)) for row in _rows(builder, y, y_at, y_stride, rows) for v in range(columns)
        ]
        with builder.if_then(adds):
            for sum_, place in zip(sums, places, strict=True):
                builder.store(registers.load(*place), sum_)
        with cgutils.for_range(builder, K) as loop:
            at = builder.load(builder.gep(offset_K, [loop.index]))
            w_k = builder.mul(loop.index, word(rows))
            xs = [registers.load(x, builder.add(at, word(LANES * v))) for v in range(columns)]
            for o in range(rows):
                weight = registers.spread(w, builder.add(w_k, word(o)))
                for v in range(columns):
                    registers.add_product(sums[o * columns + v], weight, xs[v])
        for sum_, place in zip(sums, places, strict=True):
            registers.store(builder.load(sum_), *place)

    each_case(builder, outputs, vectors, _sizes(_PRODUCT), write)


@emitted
def _outer_tile(
    builder, outputs, terms, dy, dy_at, dy_stride, x, x_at, offset_K, k_at, S, dw, dw_at, dw_stride
):
    registers = Registers(builder)
    steps = builder.udiv(S, word(LANES))

    def write(rows: int, columns: int) -> None:
        sums = registers.variables(rows * columns)
        dys = _rows(builder, dy, dy_at, dy_stride, rows)
        xs = []
        for k in range(columns):
            offset = builder.load(builder.gep(offset_K, [builder.add(k_at, word(k))]))
            xs.append(builder.gep(x, [builder.add(x_at, offset)]))
        with cgutils.for_range(builder, steps) as loop:
            s = builder.mul(loop.index, word(LANES))
            dy_s = [registers.load(row, s) for row in dys]
            for k in range(columns):
                x_k = registers.load(xs[k], s)
                for o in range(rows):
                    registers.add_product(sums[o * columns + k], dy_s[o], x_k)
        for o, row in enumerate(_rows(builder, dw, dw_at, dw_stride, rows)):
            for k in range(columns):
                place = builder.gep(row, [word(k)])
                total = builder.fadd(builder.load(place), registers.total(sums[o * columns + k]))
                builder.store(total, place)

    each_case(builder, outputs, terms, _sizes(_OUTER), write)


@inlined
def pack(w_OK, packed):
    """The weights in the order in which `product` reads them: blocks of outputs, each [K, outputs of the block]."""
    O, K = w_OK.shape
    at = 0
    for o in range(0, O, _PRODUCT[0]):
        rows = min(_PRODUCT[0], O - o)
        for k in range(K):
            for r in range(rows):
                packed[at] = w_OK[o + r, k]
                at += 1


@inlined
def product(packed, O, K, x, x_at, offset_K, S, y, y_at, y_stride, adds):
    """y[o, s] = Σ_k w[o, k] · x[offset[k] + s] for s < S rounded up to a multiple of 16; added to y if `adds` is not 0.

    `packed` has O · K weights from `pack`; x and y are flat: x[x_at + offset_K[k] + s], y[y_at + o · y_stride + s].
    """
    step = LANES * _PRODUCT[1]
    for s in range(0, S, step):
        vectors = min(_PRODUCT[1], (S - s + LANES - 1) // LANES)
        for o in range(0, O, _PRODUCT[0]):
            rows = min(_PRODUCT[0], O - o)
            y_o = y_at + o * y_stride + s
            _product_tile(rows, vectors, packed, o * K, x, x_at + s, offset_K, K, y, y_o, y_stride, adds)


@inlined
def add_outer(dy, dy_at, dy_stride, O, x, x_at, offset_K, K, S, dw_OK):
    """dw[o, k] += Σ_s dy[o, s] · x[offset[k] + s] over s < S, a multiple of 16; dw is contiguous.

    dy and x are flat: dy[dy_at + o · dy_stride + s], x[x_at + offset_K[k] + s].
    """
    dw = dw_OK.reshape(-1)
    for k in range(0, K, _OUTER[1]):
        terms = min(_OUTER[1], K - k)
        for o in range(0, O, _OUTER[0]):
            rows, at = min(_OUTER[0], O - o), dy_at + o * dy_stride
            _outer_tile(rows, terms, dy, at, dy_stride, x, x_at, offset_K, k, S, dw, o * K + k, K)
