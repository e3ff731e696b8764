"""Elementary functions in kernels: one name for every type of number, straight-line code that becomes vector instructions.

Kernels see bfloat16 as uint16: `widen` reads and `narrow` rounds an element, and both do nothing to float32 and float64,
so that every kernel is written once. NaN passes through the approximations of exp and tanh.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from enas.cpu.compiler import by_type, inlined

f32 = np.float32


@intrinsic
def _bits(_context, _x):
    """The 32 bits of a float32 as an int32."""

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(_context, _x):
    """The float32 of these 32 bits."""

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@by_type
def widen(x):
    """An element as a floating-point number."""

    def from_bfloat16(x):
        return _from_bits(types.int32(types.uint32(x) << types.uint32(16)))

    def unchanged(x):
        return x

    return from_bfloat16 if x == types.uint16 else unchanged


@by_type
def narrow(x, target):
    """A number as an element of the array `target`; to bfloat16 it is rounded to nearest, ties to even."""

    def to_bfloat16(x, target):
        bits = types.uint32(_bits(x))
        even = types.uint32(0x7FFF) + ((bits >> types.uint32(16)) & types.uint32(1))
        return types.uint16(types.uint32(bits + even) >> types.uint32(16))

    def unchanged(x, target):
        return x

    return to_bfloat16 if target.dtype == types.uint16 else unchanged


@by_type
def exp(x):
    """e^x."""

    def exp64(x):
        return math.exp(x)

    def exp32(x):
        # x = n ln2 + r; e^r by a polynomial (Cephes), 2^n by its bits. Adding and taking away 1.5 * 2^23 rounds to n.
        x = f32(-87.0) if x < f32(-87.0) else x
        x = f32(88.0) if x > f32(88.0) else x
        shifted = x * f32(1.4426950408889634) + f32(12582912.0)
        n = shifted - f32(12582912.0)
        r = x - n * f32(0.693359375)
        r = r - n * f32(-2.12194440e-4)
        p = f32(1.9875691500e-4)
        p = p * r + f32(1.3981999507e-3)
        p = p * r + f32(8.3334519073e-3)
        p = p * r + f32(4.1665795894e-2)
        p = p * r + f32(1.6666665459e-1)
        p = p * r + f32(5.0000001201e-1)
        p = p * (r * r) + r + f32(1.0)
        exponent = types.int32(_bits(shifted) - types.int32(0x4B400000 - 127))
        return p * _from_bits(types.int32(exponent << types.int32(23)))

    return exp64 if x == types.float64 else exp32


@by_type
def tanh(x):
    """tanh x."""

    def tanh64(x):
        return math.tanh(x)

    def tanh32(x):
        # Rational approximation x P(x^2) / Q(x^2) as in Eigen, within 2.4e-7 of tanh x; constant beyond the clamp.
        x = f32(-7.90531110763549805) if x < f32(-7.90531110763549805) else x
        x = f32(7.90531110763549805) if x > f32(7.90531110763549805) else x
        x2 = x * x
        p = f32(-2.76076847742355e-16)
        p = p * x2 + f32(2.00018790482477e-13)
        p = p * x2 + f32(-8.60467152213735e-11)
        p = p * x2 + f32(5.12229709037114e-08)
        p = p * x2 + f32(1.48572235717979e-05)
        p = p * x2 + f32(6.37261928875436e-04)
        p = p * x2 + f32(4.89352455891786e-03)
        q = f32(1.19825839466702e-06)
        q = q * x2 + f32(1.18534705686654e-04)
        q = q * x2 + f32(2.26843463243900e-03)
        q = q * x2 + f32(4.89352518554385e-03)
        return x * p / q

    return tanh64 if x == types.float64 else tanh32


@by_type
def sigmoid(x):
    """1 / (1 + e^-x)."""

    def sigmoid64(x):
        return 1.0 / (1.0 + math.exp(-x))

    def sigmoid32(x):
        return f32(1.0) / (f32(1.0) + exp(-x))

    return sigmoid64 if x == types.float64 else sigmoid32


@by_type
def relu(x):
    """max(x, 0)."""
    zero = x(0)

    def maximum(x):
        return zero if x < zero else x

    return maximum


@inlined
def identity(x):
    """x."""
    return x


# Gradients of the functions: y is the function's value, dy its gradient; the gradient of its argument is returned.


@inlined
def tanh_gradient(y, dy):
    """Of tanh."""
    return dy - dy * y * y


@inlined
def sigmoid_gradient(y, dy):
    """Of sigmoid."""
    return dy * (y - y * y)


@by_type
def relu_gradient(y, dy):
    """Of relu: dy where y is positive, else 0."""
    zero = y(0)

    def where_positive(y, dy):
        return dy if y > zero else zero

    return where_positive


@inlined
def identity_gradient(y, dy):
    """Of identity."""
    return dy
