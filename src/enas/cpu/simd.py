"""Instructions on vectors, for sums that have to stay in registers.

numba vectorises simple loops, but does not keep a block of sums in registers over a long loop. Such code is written
instruction by instruction, with llvmlite, in functions that compiled kernels call like any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from enas.cpu.compiler import inlined

LANES = 16
"""Numbers of a vector: 512 bits of float32. A processor with narrower registers takes several for it."""

_WORD, _FLOAT, _NUMBER = ir.IntType(64), ir.FloatType(), ir.IntType(32)


def word(value: int) -> Any:
    """A constant offset or count."""
    return ir.Constant(_WORD, value)


def _place(lane: int) -> Any:
    return ir.Constant(_NUMBER, lane)


def _lanes(numbers: Iterable[int]) -> Any:
    places = list(numbers)
    return ir.Constant(ir.VectorType(_NUMBER, len(places)), places)


class Registers:
    """Instructions on vectors of `lanes` float32, written at the position of an IR builder."""

    def __init__(self, builder: Any, lanes: int = LANES) -> None:
        self.builder, self.lanes = builder, lanes
        self.type = ir.VectorType(_FLOAT, lanes)
        self.zero = ir.Constant(self.type, None)

    def variables(self, count: int) -> list[Any]:
        """`count` vectors that can be changed, zeros at first."""
        places = [cgutils.alloca_once(self.builder, self.type) for _ in range(count)]
        for place in places:
            self.builder.store(self.zero, place)
        return places

    def load(self, pointer: Any, at: Any) -> Any:
        """The numbers from `pointer[at]` on, wherever they lie."""
        return self.builder.load(self._vector(pointer, at), align=4)

    def store(self, vector: Any, pointer: Any, at: Any) -> None:
        """Write the numbers to `pointer[at]` and on."""
        self.builder.store(vector, self._vector(pointer, at), align=4)

    def spread(self, pointer: Any, at: Any) -> Any:
        """`pointer[at]` in every lane."""
        return self.everywhere(self.builder.load(self.builder.gep(pointer, [at]), align=4))

    def everywhere(self, number: Any) -> Any:
        """A number in every lane."""
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, number, _place(0))
        return self.builder.shuffle_vector(first, undefined, _lanes([0] * self.lanes))

    def mixed(self, vectors: Sequence[Any], lanes: Iterable[int]) -> Any:
        """These lanes of two vectors; those of the second one are numbered after those of the first."""
        return self.builder.shuffle_vector(*vectors, _lanes(lanes))

    def fused(self, x: Any, y: Any, z: Any) -> Any:
        """x · y + z, rounded once."""
        kind = ir.FunctionType(self.type, [self.type] * 3)
        name = f"llvm.fma.v{self.lanes}f32"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [x, y, z])

    def add_product(self, variable: Any, x: Any, y: Any) -> None:
        """variable += x · y, rounded once."""
        self.builder.store(self.fused(x, y, self.builder.load(variable)), variable)

    def add(self, variable: Any, x: Any) -> None:
        """variable += x."""
        self.builder.store(self.builder.fadd(self.builder.load(variable), x), variable)

    def total(self, variable: Any) -> Any:
        """The total of the numbers, added up by halves."""
        vector, lanes = self.builder.load(variable), self.lanes
        while lanes > 1:
            lanes //= 2
            halves = [self.mixed([vector, vector], range(at, at + lanes)) for at in (0, lanes)]
            vector = self.builder.fadd(*halves)
        return self.builder.extract_element(vector, _place(0))

    def shift(self, variables: Sequence[Any]) -> None:
        """Each takes the value of the one before; the first keeps its own."""
        for target, source in reversed(list(zip(variables[1:], variables, strict=False))):
            self.builder.store(self.builder.load(source), target)

    def _vector(self, pointer: Any, at: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(pointer, [at]), self.type.as_pointer())


def _arguments(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> list[Any]:
    """Addresses of the first element for arrays, numbers as they are."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, values, strict=True)
    ]


def emitted(write: Callable[..., None]) -> Any:
    """A function of arrays and whole numbers, for kernels to call; `write(builder, ...)` writes its instructions."""

    def typed(_typing: Any, *arguments: Any) -> Any:
        kinds = (a if isinstance(a, types.Array) else types.intp for a in arguments)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            write(builder, *_arguments(context, builder, signature, values))
            return context.get_dummy_value()

        return types.void(*kinds), generate

    typed.__name__ = write.__name__
    vars(typed)["__signature__"] = inspect.signature(write)
    return intrinsic(typed)


def each_case(
    builder: Any, first: Any, second: Any, cases: Iterable[tuple[int, int]], write: Callable[[int, int], None]
) -> None:
    """Emit a switch: if (first, second) is one of the cases, what `write(*case)` emits is run. `second` is below 32."""
    done = builder.append_basic_block("done")
    switch = builder.switch(builder.add(builder.mul(first, word(32)), second), done)
    for a, b in cases:
        block = builder.append_basic_block(f"case_{a}_{b}")
        switch.add_case(word(32 * a + b), block)
        builder.position_at_end(block)
        write(a, b)
        builder.branch(done)
    builder.position_at_end(done)


# ---- arrays at addresses -----------------------------------------------------------------------------------------------


@intrinsic
def _pointer(_typing: Any, address: Any) -> Any:
    """An address as a pointer to float32."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(types.CPointer(types.float32)))

    return types.CPointer(types.float32)(types.int64), generate


@inlined
def floats_at(address: Any, shape: Any) -> Any:
    """The float32 array [*shape] at an address: a kernel can take any number of addresses."""
    return carray(_pointer(address), shape)


@inlined
def borrowed(array: Any) -> Any:
    """The same float32 array [...] without its count of references.

    Threads that slice one array would otherwise wait for each other at every slice, to count it.
    """
    return carray(_pointer(array.ctypes.data), array.shape)


# ---- sums --------------------------------------------------------------------------------------------------------------

Term = Callable[[Any, Any, Any, Any], Any]
"""Writes one term of a sum: takes a builder, an element (or a vector) of each of two arrays, and one number."""


def _sum_of(term: Term) -> Any:
    """A function (x, y, count, a) -> Σ term(x[i], y[i], a), summed in the same order in every kernel."""

    @intrinsic
    def total(_typing: Any, x: Any, y: Any, count: Any, a: Any) -> Any:
        signature = types.float32(x, y, types.intp, types.float32)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, y, count, a = _arguments(context, builder, signature, values)
            registers = Registers(builder)
            (sums,) = registers.variables(1)
            rest = cgutils.alloca_once_value(builder, ir.Constant(_FLOAT, 0))
            spread = registers.everywhere(a)
            groups = builder.udiv(count, word(LANES))
            with cgutils.for_range(builder, groups) as loop:
                at = builder.mul(loop.index, word(LANES))
                registers.add(sums, term(builder, registers.load(x, at), registers.load(y, at), spread))
            whole = builder.mul(groups, word(LANES))
            with cgutils.for_range(builder, builder.sub(count, whole)) as loop:
                at = builder.add(whole, loop.index)
                pair = (builder.load(builder.gep(array, [at])) for array in (x, y))
                registers.add(rest, term(builder, *pair, a))
            return builder.fadd(builder.load(rest), registers.total(sums))

        return signature, generate

    return total


def _squared_deviation(builder: Any, x: Any, _y: Any, mean: Any) -> Any:
    deviation = builder.fsub(x, mean)
    return builder.fmul(deviation, deviation)


_sum_x = _sum_of(lambda builder, x, y, a: x)
_sum_products = _sum_of(lambda builder, x, y, a: builder.fmul(x, y))
_sum_squares = _sum_of(_squared_deviation)
_NONE = np.float32(0)


@inlined
def sum_of(x: Any) -> Any:
    """Σ x."""
    return _sum_x(x, x, len(x), _NONE)


@inlined
def sum_of_products(x: Any, y: Any) -> Any:
    """Σ x · y."""
    return _sum_products(x, y, len(x), _NONE)


@inlined
def sum_of_squares(x: Any, mean: Any) -> Any:
    """Σ (x - mean)²."""
    return _sum_squares(x, x, len(x), np.float32(mean))
