"""Vectors of 16 numbers for kernels whose registers the compiler does not find by itself.

numba vectorises simple loops, but does not keep a block of sums in registers over a long loop. What needs that is written
here instruction by instruction, with llvmlite: a `Tile` is a block of sums, and the functions made from it are called from
compiled kernels like any other.

Shape letters: O outputs, K terms of a sum, S positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from enas.cpu.kernels import inlined
from enas.cpu.usable import instructions

LANES = 16
"""Sums of a vector: 512 bits of float32. A processor with narrower registers takes several for it."""

_WORD = ir.IntType(64)
_FLOAT = ir.FloatType()
_SUMS = ir.VectorType(_FLOAT, LANES)


class _Brain(ir.Type):
    """bfloat16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Brain)

    def __hash__(self) -> int:
        return hash(_Brain)


@dataclass(frozen=True)
class Operands:
    """What the vectors that are multiplied hold: one float32 to a sum, or two bfloat16."""

    element: ir.Type
    lanes: int

    @property
    def vector(self) -> ir.VectorType:
        """A register full."""
        return ir.VectorType(self.element, self.lanes)


FLOATS = Operands(_FLOAT, LANES)
PAIRS = Operands(ir.IntType(32), LANES)
"""Two bfloat16 terms of a sum in one number of 32 bits."""
HALVES = Operands(ir.IntType(16), 2 * LANES)
"""bfloat16 one after the other, of which two neighbours belong to one sum."""


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies pairs of bfloat16 and adds them up in float32, in one instruction."""
    return "avx512bf16" in instructions()


@dataclass
class Vectors:
    """Writes vector instructions where an IR builder stands."""

    builder: ir.IRBuilder
    operands: Operands = FLOATS

    def sums(self, count: int) -> list[Any]:
        """So many vectors of zeros that live in registers."""
        places = [cgutils.alloca_once(self.builder, _SUMS) for _ in range(count)]
        for place in places:
            self.builder.store(ir.Constant(_SUMS, None), place)
        return places

    def index(self, at: Any, by: int) -> Any:
        """at + by."""
        return self.builder.add(at, ir.Constant(_WORD, by)) if by else at

    def load(self, pointer: Any, at: Any) -> Any:
        """The operands from `pointer[at]` on, wherever they lie."""
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), self.operands.vector.as_pointer())
        return self.builder.load(place, align=1)

    def spread(self, pointer: Any, at: Any) -> Any:
        """`pointer[at]` in every lane."""
        number = self.builder.load(self.builder.gep(pointer, [at]))
        undefined = ir.Constant(self.operands.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, undefined, _lanes([0] * self.operands.lanes))

    def add_product(self, sums: Any, x: Any, y: Any) -> None:
        """sums += x · y: rounded once for float32; for bfloat16 the sum of a pair's two products."""
        terms = [x, y]
        if self.operands is FLOATS:
            name, vector, terms = f"llvm.fma.v{LANES}f32", _SUMS, [x, y, self.builder.load(sums)]
        else:
            name, vector = f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}", ir.VectorType(_Brain(), 2 * LANES)
            terms = [self.builder.load(sums), *(self.builder.bitcast(term, vector) for term in terms)]
        kind = ir.FunctionType(_SUMS, [term.type for term in terms])
        instruction = cgutils.get_or_insert_function(self.builder.module, kind, name)
        self.builder.store(self.builder.call(instruction, terms), sums)

    def read_sums(self, sums: Any, pointer: Any, at: Any) -> None:
        """The 16 sums begin as the numbers from `pointer[at]` on."""
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), _SUMS.as_pointer())
        self.builder.store(self.builder.load(place, align=4), sums)

    def write_sums(self, sums: Any, pointer: Any, at: Any) -> None:
        """pointer[at], … = the 16 sums."""
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), _SUMS.as_pointer())
        self.builder.store(self.builder.load(sums), place, align=4)

    def add_total(self, sums: Any, pointer: Any, at: Any) -> None:
        """pointer[at] += the total of the 16 sums, added up by halves."""
        vector, lanes = self.builder.load(sums), LANES
        while lanes > 1:
            lanes //= 2
            halves = [
                self.builder.shuffle_vector(vector, vector, _lanes(range(start, start + lanes)))
                for start in (0, lanes)
            ]
            vector = self.builder.fadd(*halves)
        total = self.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))
        place = self.builder.gep(pointer, [at])
        self.builder.store(self.builder.fadd(self.builder.load(place), total), place)


def _lanes(numbers: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))


def pointers(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> list[Any]:
    """The arguments of an intrinsic: addresses of the first element for arrays, whole numbers as they are."""
    out = []
    for kind, value in zip(signature.args, values, strict=True):
        if isinstance(kind, types.Array):
            out.append(context.make_array(kind)(context, builder, value).data)
        else:
            out.append(value)
    return out


def _signature(arguments: Sequence[Any]) -> Any:
    return types.void(*(a if isinstance(a, types.Array) else types.intp for a in arguments))


def _each_size(builder: ir.IRBuilder, rows: Any, columns: Any, most: tuple[int, int], write: Any) -> None:
    """Run what `write(r, c)` emits for the r and c that equal `rows` and `columns`, from 1 to `most`."""
    wide = most[1] + 1
    which = builder.add(builder.mul(rows, ir.Constant(_WORD, wide)), columns)
    done = builder.append_basic_block("done")
    switch = builder.switch(which, done)
    for r in range(1, most[0] + 1):
        for c in range(1, most[1] + 1):
            block = builder.append_basic_block(f"tile_{r}_{c}")
            switch.add_case(ir.Constant(_WORD, r * wide + c), block)
            builder.position_at_end(block)
            write(r, c)
            builder.branch(done)
    builder.position_at_end(done)


PRODUCT_TILE = (6, 4)
"""Most outputs and vectors of `product_tile`: 24 sums, 4 operands, and the rest of 32 registers for weights."""


def _product_tile(operands: Operands) -> Any:
    @intrinsic
    def tile(
        _typing: Any,
        outputs: Any,
        vectors: Any,
        w: Any,
        w_at: Any,
        x: Any,
        x_at: Any,
        offset_K: Any,
        K: Any,
        y: Any,
        y_at: Any,
        y_stride: Any,
        adds: Any,
    ) -> Any:
        signature = _signature((outputs, vectors, w, w_at, x, x_at, offset_K, K, y, y_at, y_stride, adds))

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            outputs, vectors, w, w_at, x, x_at, offset_K, K, y, y_at, y_stride, adds = pointers(
                context, builder, signature, values
            )
            adds = builder.icmp_unsigned("!=", adds, ir.Constant(_WORD, 0))
            emit = Vectors(builder, operands)
            x_base, w_base = builder.gep(x, [x_at]), builder.gep(w, [w_at])

            def write(rows: int, columns: int) -> None:
                sums = emit.sums(rows * columns)
                y_rows = [builder.gep(y, [y_at])]
                for _ in range(rows - 1):
                    y_rows.append(builder.gep(y_rows[-1], [y_stride]))
                places = [(row, ir.Constant(_WORD, LANES * v)) for row in y_rows for v in range(columns)]
                with builder.if_then(adds):
                    for sum_, place in zip(sums, places, strict=True):
                        emit.read_sums(sum_, *place)
                with cgutils.for_range(builder, K) as loop:
                    at = builder.load(builder.gep(offset_K, [loop.index]))
                    w_k = builder.mul(loop.index, ir.Constant(_WORD, rows))
                    xs = [emit.load(x_base, emit.index(at, LANES * v)) for v in range(columns)]
                    for o in range(rows):
                        weight = emit.spread(w_base, emit.index(w_k, o))
                        for v in range(columns):
                            emit.add_product(sums[o * columns + v], weight, xs[v])
                for sum_, place in zip(sums, places, strict=True):
                    emit.write_sums(sum_, *place)

            _each_size(builder, outputs, vectors, PRODUCT_TILE, write)
            return context.get_dummy_value()

        return signature, generate

    return tile


product_tile, pairs_product_tile = _product_tile(FLOATS), _product_tile(PAIRS)
"""y[o, s] = Σ_k w[k, o] · x[offset[k] + s] for `outputs` o and 16 · `vectors` s, the sums in registers.

They are added to y if `adds` is not 0.

w is packed as [K, outputs] from w[w_at] on; x[offset[k] + s] is the flat array's x[x_at + offset_K[k] + s]; the rows of y
begin at y[y_at] and lie y_stride apart. y is float32, offsets int64; w and x are float32, or uint32 that hold two terms
each.
"""

OUTER_TILE = (4, 6)
"""Most outputs and terms of `outer_tile`."""


def _outer_tile(operands: Operands) -> Any:
    @intrinsic
    def tile(
        _typing: Any,
        outputs: Any,
        terms: Any,
        dy: Any,
        dy_at: Any,
        dy_stride: Any,
        x: Any,
        x_at: Any,
        offset_K: Any,
        k_at: Any,
        S: Any,
        dw: Any,
        dw_at: Any,
        dw_stride: Any,
    ) -> Any:
        signature = _signature(
            (outputs, terms, dy, dy_at, dy_stride, x, x_at, offset_K, k_at, S, dw, dw_at, dw_stride)
        )

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            outputs, terms, dy, dy_at, dy_stride, x, x_at, offset_K, k_at, S, dw, dw_at, dw_stride = pointers(
                context, builder, signature, values
            )
            emit = Vectors(builder, operands)
            lanes = ir.Constant(_WORD, operands.lanes)
            steps = builder.udiv(S, lanes)

            def write(rows: int, columns: int) -> None:
                sums = emit.sums(rows * columns)
                dys = [builder.gep(dy, [dy_at])]
                for _ in range(rows - 1):
                    dys.append(builder.gep(dys[-1], [dy_stride]))
                xs = []
                for k in range(columns):
                    offset = builder.load(builder.gep(offset_K, [emit.index(k_at, k)]))
                    xs.append(builder.gep(x, [builder.add(x_at, offset)]))
                with cgutils.for_range(builder, steps) as loop:
                    s = builder.mul(loop.index, lanes)
                    dy_s = [emit.load(row, s) for row in dys]
                    for k in range(columns):
                        x_k = emit.load(xs[k], s)
                        for o in range(rows):
                            emit.add_product(sums[o * columns + k], dy_s[o], x_k)
                row = dw_at
                for o in range(rows):
                    for k in range(columns):
                        emit.add_total(sums[o * columns + k], dw, emit.index(row, k))
                    row = builder.add(row, dw_stride)

            _each_size(builder, outputs, terms, OUTER_TILE, write)
            return context.get_dummy_value()

        return signature, generate

    return tile


outer_tile, halves_outer_tile = _outer_tile(FLOATS), _outer_tile(HALVES)
"""dw[o, k] += Σ_s dy[o, s] · x[offset[k] + s] for `outputs` o and `terms` k, over S positions, whole vectors.

The offsets are those from offset_K[k_at] on; the rows of dy and dw begin at dy_at and dw_at and lie their strides apart.
dw is float32; dy and x are float32 (a vector is 16 positions), or bfloat16 seen as uint16 (32 positions).
"""


def _pairs(builder: ir.IRBuilder, at: Any, pairs: Any, write: Any) -> Any:
    """Run what `write(lanes, pair)` emits over whole groups of 16 pairs, then of 8; returns how many are done."""
    done = cgutils.alloca_once_value(builder, ir.Constant(_WORD, 0))
    for lanes in (LANES, LANES // 2):
        width = ir.Constant(_WORD, lanes)
        groups = builder.udiv(builder.sub(pairs, builder.load(done)), width)
        with cgutils.for_range(builder, groups):
            write(lanes, builder.load(done))
            builder.store(builder.add(builder.load(done), width), done)
    return builder.load(done)


def _at(builder: ir.IRBuilder, pointer: Any, index: Any, lanes: int) -> Any:
    vector = ir.VectorType(_FLOAT, lanes).as_pointer()
    return builder.bitcast(builder.gep(pointer, [index]), vector)


def _second(odd: int) -> Any:
    @intrinsic
    def take(_typing: Any, source: Any, at: Any, pairs: Any, out: Any, out_at: Any) -> Any:
        signature = types.intp(*_signature((source, at, pairs, out, out_at)).args)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            source, at, pairs, out, out_at = pointers(context, builder, signature, values)

            def write(lanes: int, pair: Any) -> None:
                begin = builder.add(at, builder.add(pair, pair))
                low = builder.load(_at(builder, source, begin, lanes), align=4)
                middle = builder.add(begin, ir.Constant(_WORD, lanes))
                high = builder.load(_at(builder, source, middle, lanes), align=4)
                taken = builder.shuffle_vector(low, high, _lanes(range(odd, 2 * lanes, 2)))
                builder.store(taken, _at(builder, out, builder.add(out_at, pair), lanes), align=4)

            return _pairs(builder, at, pairs, write)

        return signature, generate

    return take


def _spread_out(odd: int) -> Any:
    @intrinsic
    def put(_typing: Any, source: Any, at: Any, pairs: Any, out: Any, out_at: Any) -> Any:
        signature = types.intp(*_signature((source, at, pairs, out, out_at)).args)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            source, at, pairs, out, out_at = pointers(context, builder, signature, values)

            def write(lanes: int, pair: Any) -> None:
                taken = builder.load(_at(builder, source, builder.add(at, pair), lanes), align=4)
                zeros = ir.Constant(ir.VectorType(_FLOAT, lanes), None)
                begin = builder.add(out_at, builder.add(pair, pair))
                for half in range(2):
                    first = half * lanes // 2
                    order = [(first + i // 2) if i % 2 == odd else lanes for i in range(lanes)]
                    mixed = builder.shuffle_vector(taken, zeros, _lanes(order))
                    place = builder.add(begin, ir.Constant(_WORD, half * lanes))
                    builder.store(mixed, _at(builder, out, place, lanes), align=4)

            return _pairs(builder, at, pairs, write)

        return signature, generate

    return put


take_even, take_odd = _second(0), _second(1)
"""out[out_at + i] = source[at + 2i], or source[at + 2i + 1], for the first `pairs` i or a few less; returns how many.

Arrays are flat float32; neither reads nor writes beyond the pairs."""

put_even, put_odd = _spread_out(0), _spread_out(1)
"""out[out_at + 2i] = source[at + i] and the number beside it 0, or the other way round, likewise."""


def _narrowed(builder: ir.IRBuilder, pointer: Any, at: Any) -> Any:
    """The 16 float32 from `pointer[at]` on as bfloat16, 16 bits each, rounded to nearest, ties to even."""
    kind = ir.FunctionType(ir.VectorType(_Brain(), LANES), [_SUMS])
    instruction = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * LANES}"
    )
    rounded = builder.call(instruction, [builder.load(_at(builder, pointer, at, LANES), align=4)])
    return builder.bitcast(rounded, ir.VectorType(ir.IntType(16), LANES))


def _groups(builder: ir.IRBuilder, count: Any, write: Any) -> Any:
    """Run what `write(at)` emits for whole groups of 16; returns how many numbers they have."""
    lanes = ir.Constant(_WORD, LANES)
    groups = builder.udiv(count, lanes)
    with cgutils.for_range(builder, groups) as loop:
        write(builder.mul(loop.index, lanes))
    return builder.mul(groups, lanes)


@intrinsic
def narrow_halves(_typing: Any, x: Any, x_at: Any, count: Any, out: Any, out_at: Any) -> Any:
    """out[out_at + i] = x[x_at + i] as bfloat16, for whole groups of 16 of the first `count` i; returns how many."""
    signature = types.intp(*_signature((x, x_at, count, out, out_at)).args)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, x_at, count, out, out_at = pointers(context, builder, signature, values)

        def write(at: Any) -> None:
            value = _narrowed(builder, x, builder.add(x_at, at))
            place = builder.gep(out, [builder.add(out_at, at)])
            builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=2)

        return _groups(builder, count, write)

    return signature, generate


@intrinsic
def narrow_pairs(_typing: Any, x: Any, low_at: Any, high_at: Any, count: Any, out: Any, out_at: Any) -> Any:
    """out[out_at + i] = x[low_at + i] and, in the upper 16 bits, x[high_at + i] as bfloat16; likewise."""
    signature = types.intp(*_signature((x, low_at, high_at, count, out, out_at)).args)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, low_at, high_at, count, out, out_at = pointers(context, builder, signature, values)
        wide = ir.VectorType(ir.IntType(32), LANES)

        def write(at: Any) -> None:
            low, high = (
                builder.zext(_narrowed(builder, x, builder.add(first, at)), wide)
                for first in (low_at, high_at)
            )
            value = builder.or_(low, builder.shl(high, ir.Constant(wide, [16] * LANES)))
            place = builder.gep(out, [builder.add(out_at, at)])
            builder.store(value, builder.bitcast(place, wide.as_pointer()), align=4)

        return _groups(builder, count, write)

    return signature, generate


@intrinsic
def _pointer(_typing: Any, address: Any) -> Any:
    """An address as a pointer to float32."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(types.CPointer(types.float32)))

    return types.CPointer(types.float32)(types.int64), generate


@inlined
def floats_at(address: Any, shape: Any) -> Any:
    """The float32 array [*shape] that begins at an address, so that a kernel takes any number of arrays."""
    return carray(_pointer(address), shape)


@inlined
def borrowed(array: Any) -> Any:
    """The same float32 array [...] without its count of references.

    Threads that slice one array would otherwise wait for each other at every slice, to count it.
    """
    return carray(_pointer(array.ctypes.data), array.shape)


Term = Callable[[ir.IRBuilder, Any, Any, Any, Any, Any], Any]
"""Writes one term of a sum: of a number (or a vector) each of two arrays, and of three numbers."""


def _sum_of(term: Term) -> Any:
    """A function (x, y, count, a, b, c) -> Σ term(x[i], y[i], a, b, c), in one order, whichever kernel it is a part of."""

    @intrinsic
    def total(_typing: Any, x: Any, y: Any, count: Any, a: Any, b: Any, c: Any) -> Any:
        signature = types.float32(x, y, types.intp, types.float32, types.float32, types.float32)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, y, count, *numbers = pointers(context, builder, signature, values)
            emit = Vectors(builder)
            (sums,) = emit.sums(1)
            rest = cgutils.alloca_once_value(builder, ir.Constant(_FLOAT, 0))
            zeros = _lanes([0] * LANES)
            spread = [
                builder.shuffle_vector(
                    builder.insert_element(
                        ir.Constant(_SUMS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0)
                    ),
                    ir.Constant(_SUMS, ir.Undefined),
                    zeros,
                )
                for number in numbers
            ]
            lanes = ir.Constant(_WORD, LANES)
            groups = builder.udiv(count, lanes)
            with cgutils.for_range(builder, groups) as loop:
                at = builder.mul(loop.index, lanes)
                value = term(builder, emit.load(x, at), emit.load(y, at), *spread)
                builder.store(builder.fadd(builder.load(sums), value), sums)
            whole = builder.mul(groups, lanes)
            with cgutils.for_range(builder, builder.sub(count, whole)) as loop:
                at = builder.add(whole, loop.index)
                pair = (builder.load(builder.gep(array, [at])) for array in (x, y))
                value = term(builder, *pair, *numbers)
                builder.store(builder.fadd(builder.load(rest), value), rest)
            place = cgutils.alloca_once_value(builder, builder.load(rest))
            emit.add_total(sums, place, ir.Constant(_WORD, 0))
            return builder.load(place)

        return signature, generate

    return total


def _squared_deviation(builder: ir.IRBuilder, x: Any, _y: Any, mean: Any, _b: Any, _c: Any) -> Any:
    deviation = builder.fsub(x, mean)
    return builder.fmul(deviation, deviation)


def _activated(builder: ir.IRBuilder, x: Any, _y: Any, scale: Any, shift: Any, low: Any) -> Any:
    value = builder.fadd(builder.fmul(x, scale), shift)
    return builder.select(builder.fcmp_ordered("<", value, low), low, value)


_sum_x = _sum_of(lambda builder, x, y, a, b, c: x)
_sum_products = _sum_of(lambda builder, x, y, a, b, c: builder.fmul(x, y))
_sum_squares = _sum_of(_squared_deviation)
_sum_activated = _sum_of(_activated)

_NONE = np.float32(0)


@inlined
def sum_of(x: Any) -> Any:
    """Σ x."""
    return _sum_x(x, x, len(x), _NONE, _NONE, _NONE)


@inlined
def sum_of_products(x: Any, y: Any) -> Any:
    """Σ x · y."""
    return _sum_products(x, y, len(x), _NONE, _NONE, _NONE)


@inlined
def sum_of_squares(x: Any, mean: Any) -> Any:
    """Σ (x - mean)²."""
    return _sum_squares(x, x, len(x), np.float32(mean), _NONE, _NONE)


@inlined
def sum_of_activated(x: Any, scale: Any, shift: Any, low: Any) -> Any:
    """Σ max(scale · x + shift, low)."""
    return _sum_activated(x, x, len(x), np.float32(scale), np.float32(shift), np.float32(low))
