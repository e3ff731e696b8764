"""Element-wise work between two matrix products of the recurrence, each in one pass over memory; compiled by numba.

Arrays are numpy views of tensors. bfloat16 is seen as uint16: `widen` reads and `narrow` rounds an element, and both do
nothing to float32 and float64, so that every kernel is written once. The approximations of exp and tanh are
straight-line code that the compiler turns into vector instructions; NaN passes through them.
"""

import math
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, cast

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from enas.cpu.kept import KernelCache
from enas.cpu.threads import split_rows

# Fused multiply-adds are allowed, reordering of sums only where a kernel says so; division must not check for zero,
# as the check keeps the compiler from vectorising.
_OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy"}

# Threads that count references to the same array, as they do at every row they take of it, wait for each other: up to
# half the time of a kernel of few rows. Code that counts none cannot make arrays.
_UNCOUNTED: dict[str, Any] = _OPTIONS | {"_nrt": False}


def inlined(function: Callable[..., Any], options: Mapping[str, Any] = _OPTIONS) -> Any:
    """A function that kernels call; it becomes a part of each of them.

    Otherwise it would be compiled twice, for itself and within the kernel, and a process that compiles the kernel would
    run the first and one that reads the kernel from the disk the second: the two may round differently.
    """
    return numba.njit(forceinline=True, **options)(function)


def kernel(function: Callable[..., None], options: Mapping[str, Any] = _OPTIONS) -> Callable[..., None]:
    """Compile at the first call for each combination of types; kept on disk for the next process if it can be."""
    compiled = numba.njit(nogil=True, **options)(function)
    compiled._cache = KernelCache(function)
    return cast(Callable[..., None], compiled)


def parallel(body: Callable[..., None]) -> Callable[..., None]:
    """Compile `body(first_row, last_row, *arguments)` into `kernel(team, rows, *arguments)`; it cannot make arrays."""
    return _split(body, _UNCOUNTED)


def parallel_with_scratch(body: Callable[..., None], **bound: Callable[..., Any]) -> Callable[..., None]:
    """As `parallel`, for a body that makes arrays for itself; `bound` replaces global functions that the body calls."""
    name = "_".join([body.__name__, *(f.__name__ for f in bound.values())])
    return _split(_with_globals(body, name, **bound), _OPTIONS)


def _split(body: Callable[..., None], options: Mapping[str, Any]) -> Callable[..., None]:
    return kernel(_with_globals(_whole, body.__name__, _part=inlined(body, options)), options)


def _with_globals(function: Any, name: str, **globals_: Any) -> FunctionType:
    # Not a closure: numba's cache on disk does not recognise closures again.
    copy = FunctionType(function.__code__, function.__globals__ | globals_, name)
    copy.__qualname__ = name
    return copy


def _part(_first: int, _last: int, *_arguments: Any) -> None:
    """Placeholder for the body that `parallel` binds."""


def _whole(team: Any, rows: int, *arguments: Any) -> None:
    split_rows(team, rows, _part, arguments)


f32 = np.float32


def array(x: torch.Tensor) -> Any:
    """The tensor's memory as a kernel sees it."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


@intrinsic
def _bits(_context: Any, _x: Any) -> Any:
    """The 32 bits of a float32 as an int32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(_context: Any, _x: Any) -> Any:
    """The float32 of these 32 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _by_type(stub: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an implementation that is chosen by the numba types of its arguments."""
    return overload(stub, jit_options=_OPTIONS | {"forceinline": True}, inline="never")


def widen(x: Any) -> Any:
    """An element as a floating-point number."""


def narrow(x: Any, target: Any) -> Any:
    """A number as an element of the array `target`; to bfloat16 it is rounded to nearest, ties to even."""


def exp(x: Any) -> Any:
    """e^x."""


def tanh(x: Any) -> Any:
    """tanh x."""


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""


def relu(x: Any) -> Any:
    """max(x, 0)."""


def identity(x: Any) -> Any:
    """x."""


@_by_type(widen)
def _widen(x: Any) -> Callable[..., Any]:
    def from_bfloat16(x: Any) -> Any:
        return _from_bits(types.int32(types.uint32(x) << types.uint32(16)))

    def unchanged(x: Any) -> Any:
        return x

    return from_bfloat16 if x == types.uint16 else unchanged


@_by_type(narrow)
def _narrow(x: Any, target: Any) -> Callable[..., Any]:
    def to_bfloat16(x: Any, target: Any) -> Any:
        bits = types.uint32(_bits(x))
        even = types.uint32(0x7FFF) + ((bits >> types.uint32(16)) & types.uint32(1))
        return types.uint16(types.uint32(bits + even) >> types.uint32(16))

    def unchanged(x: Any, target: Any) -> Any:
        return x

    return to_bfloat16 if target.dtype == types.uint16 else unchanged


@_by_type(exp)
def _exp(x: Any) -> Callable[..., Any]:
    def exp64(x: Any) -> Any:
        return math.exp(x)

    def exp32(x: Any) -> Any:
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


@_by_type(tanh)
def _tanh(x: Any) -> Callable[..., Any]:
    def tanh64(x: Any) -> Any:
        return math.tanh(x)

    def tanh32(x: Any) -> Any:
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


@_by_type(sigmoid)
def _sigmoid(x: Any) -> Callable[..., Any]:
    def sigmoid64(x: Any) -> Any:
        return 1.0 / (1.0 + math.exp(-x))

    def sigmoid32(x: Any) -> Any:
        return f32(1.0) / (f32(1.0) + exp(-x))

    return sigmoid64 if x == types.float64 else sigmoid32


@_by_type(relu)
def _relu(x: Any) -> Callable[..., Any]:
    zero = x(0)

    def maximum(x: Any) -> Any:
        return zero if x < zero else x

    return maximum


@_by_type(identity)
def _identity(x: Any) -> Callable[..., Any]:
    def unchanged(x: Any) -> Any:
        return x

    return unchanged


_FUNCTIONS = {"tanh": tanh, "relu": relu, "sigmoid": sigmoid, "identity": identity}


# Gradients of the functions: y is the function's value, dy its gradient; the gradient of its argument is returned.


@inlined
def _tanh_gradient(y: Any, dy: Any) -> Any:
    return dy - dy * y * y


@inlined
def _sigmoid_gradient(y: Any, dy: Any) -> Any:
    return dy * (y - y * y)


@inlined
def _identity_gradient(_y: Any, dy: Any) -> Any:
    return dy


def relu_gradient(y: Any, dy: Any) -> Any:
    """dy where y is positive, else 0."""


@_by_type(relu_gradient)
def _relu_gradient(y: Any, dy: Any) -> Callable[..., Any]:
    zero = y(0)

    def where_positive(y: Any, dy: Any) -> Any:
        return dy if y > zero else zero

    return where_positive


_GRADIENTS = {
    "tanh": _tanh_gradient,
    "relu": relu_gradient,
    "sigmoid": _sigmoid_gradient,
    "identity": _identity_gradient,
}


# The work of one row of one node; `_for_function` binds the node's function in the place of these two.
_function: Callable[..., Any] = identity
_gradient: Callable[..., Any] = _identity_gradient


def _row_forward(
    product_2D: Any, projected_2D: Any, source_D: Any, candidate_D: Any, gate_D: Any, state_D: Any
) -> None:
    a_D, g_D = product_2D[0], product_2D[1]
    for d in range(len(state_D)):
        if projected_2D is None:
            c = _function(widen(a_D[d]))
            z = sigmoid(widen(g_D[d]))
        else:
            c = _function(widen(a_D[d]) + widen(projected_2D[0, d]))
            z = sigmoid(widen(g_D[d]) + widen(projected_2D[1, d]))
        state_D[d] = source_D[d] + z * (c - source_D[d])
        candidate_D[d] = narrow(c, candidate_D)
        gate_D[d] = narrow(z, gate_D)


def _row_backward(d_state_D: Any, source_D: Any, candidate_D: Any, gate_D: Any, d_source_D: Any) -> None:
    for d in range(len(d_state_D)):
        ds = d_state_D[d]
        c = widen(candidate_D[d])
        z = widen(gate_D[d])
        ds_z = ds * z
        candidate_D[d] = narrow(_gradient(c, ds_z), candidate_D)
        gate_D[d] = narrow((c - widen(source_D[d])) * (ds_z - ds_z * z), gate_D)
        d_source_D[d] += ds - ds_z


def _for_function(row: Callable[..., None], name: str, function: str, **bound: Callable[..., Any]) -> Any:
    return inlined(_with_globals(row, f"{name}_{function}", **bound), _UNCOUNTED)


FUNCTIONS = tuple(_FUNCTIONS)
"""Functions of nodes; kernels know them by their number here."""

_tanh_forward, _relu_forward, _sigmoid_forward, _identity_forward = (
    _for_function(_row_forward, "row_forward", name, _function=_FUNCTIONS[name]) for name in FUNCTIONS
)
_tanh_backward, _relu_backward, _sigmoid_backward, _identity_backward = (
    _for_function(_row_backward, "row_backward", name, _gradient=_GRADIENTS[name]) for name in FUNCTIONS
)


@parallel
def nodes_forward(
    first: int,
    last: int,
    product_Bm2D: Any,
    projected_B2D: Any,
    readers_m2: Any,
    j: Any,
    now: Any,
    s: Any,
    mask_BD: Any,
    saved_SBm2D: Any,
    states_MSBD: Any,
    rounded_MSBD: Any,
    is_read_M: Any,
    operand_MBD: Any,
) -> None:
    """`s_k = s_j + sigmoid(g) * (f(a) - s_j)` for all m readers k of state j, whose products (a, g) are given.

    `readers_m2` holds k and the number of f. `projected_B2D` is added to the product unless None. Writes candidate and
    gate to step `s` of what is kept, the state to step `now` of the states, its rounded copy to step `s` unless None,
    and, where it is read, the masked state, the operand of the next product.
    """
    D = mask_BD.shape[1]
    for b in range(first, last):
        source, mask = states_MSBD[j, now, b], mask_BD[b]
        for i in range(len(readers_m2)):
            k, function = readers_m2[i]
            product, state = product_Bm2D[b, i], states_MSBD[k, now, b]
            projected = None if projected_B2D is None else projected_B2D[b]
            candidate, gate = saved_SBm2D[s, b, i, 0], saved_SBm2D[s, b, i, 1]
            if function == 0:
                _tanh_forward(product, projected, source, candidate, gate, state)
            elif function == 1:
                _relu_forward(product, projected, source, candidate, gate, state)
            elif function == 2:
                _sigmoid_forward(product, projected, source, candidate, gate, state)
            else:
                _identity_forward(product, projected, source, candidate, gate, state)
            if rounded_MSBD is not None:
                rounded = rounded_MSBD[k, s, b]
                for d in range(D):
                    rounded[d] = narrow(state[d], rounded)
            if is_read_M[k]:
                operand = operand_MBD[k, b]
                for d in range(D):
                    operand[d] = narrow(state[d] * mask[d], operand)


@parallel
def nodes_backward(
    first: int,
    last: int,
    d_operand_BD: Any,
    mask_BD: Any,
    d_h_BD: Any,
    shares_M: Any,
    readers_n3: Any,
    j: Any,
    t: Any,
    states_MSBD: Any,
    saved_SBm2D: Any,
    d_states_MBD: Any,
) -> None:
    """The gradient of `nodes_forward` for n readers k of state j whose own readers, if any, are done.

    `readers_n3` holds k, its slot among the readers of j, and the number of f. The gradient of state k is what its
    readers left in `d_states_MBD`, which is set to zero for the step before; its share of the gradient of h; and the
    gradient of its masked copy, unless None. Overwrites candidate and gate with the gradients of (a, g); adds to the
    gradient of state j what the highway carries back.
    """
    D = mask_BD.shape[1]
    for b in range(first, last):
        source, d_source = states_MSBD[j, t, b], d_states_MBD[j, b]
        for i in range(len(readers_n3)):
            k, slot, function = readers_n3[i]
            d_state = d_states_MBD[k, b]
            if shares_M[k] != 0:
                d_h, share = d_h_BD[b], shares_M[k]
                for d in range(D):
                    d_state[d] += share * d_h[d]
            if d_operand_BD is not None:
                d_operand, mask = d_operand_BD[b], mask_BD[b]
                for d in range(D):
                    d_state[d] += widen(d_operand[d]) * mask[d]
            candidate, gate = saved_SBm2D[t, b, slot, 0], saved_SBm2D[t, b, slot, 1]
            if function == 0:
                _tanh_backward(d_state, source, candidate, gate, d_source)
            elif function == 1:
                _relu_backward(d_state, source, candidate, gate, d_source)
            elif function == 2:
                _sigmoid_backward(d_state, source, candidate, gate, d_source)
            else:
                _identity_backward(d_state, source, candidate, gate, d_source)
            d_state[:] = 0


@parallel
def enter_state(
    first: int, last: int, h_BD: Any, mask_BD: Any, state_BD: Any, rounded_BD: Any, operand_BD: Any
) -> None:
    """h as state 0 of the next step: itself, its rounded copy unless None, and masked as an operand."""
    D = state_BD.shape[1]
    for b in range(first, last):
        h, mask, state, operand = h_BD[b], mask_BD[b], state_BD[b], operand_BD[b]
        if rounded_BD is not None:
            rounded = rounded_BD[b]
        for d in range(D):
            state[d] = h[d]
            if rounded_BD is not None:
                rounded[d] = narrow(h[d], rounded)
            operand[d] = narrow(h[d] * mask[d], operand)


@parallel
def mean_forward(
    first: int, last: int, states_MSBD: Any, s: int, outputs: Any, share: Any, h_BD: Any
) -> None:
    """h = `share` times the sum of the states that are outputs."""
    D = h_BD.shape[1]
    for b in range(first, last):
        h, state = h_BD[b], states_MSBD[outputs[0], s, b]
        for d in range(D):
            h[d] = state[d]
        for i in range(1, len(outputs)):
            state = states_MSBD[outputs[i], s, b]
            for d in range(D):
                h[d] += state[d]
        for d in range(D):
            h[d] *= share


@parallel
def state_backward(
    first: int, last: int, d_output_BD: Any, d_operand_BD: Any, mask_BD: Any, d_state_BD: Any, d_h_BD: Any
) -> None:
    """The gradient of h: as an output, and as state 0 of the next step, with its masked copy unless None.

    The gradient of state 0 is then set to zero for the step before.
    """
    D = d_h_BD.shape[1]
    for b in range(first, last):
        d_output, d_state, d_h = d_output_BD[b], d_state_BD[b], d_h_BD[b]
        for d in range(D):
            d_h[d] = d_output[d] + d_state[d]
        if d_operand_BD is not None:
            d_operand, mask = d_operand_BD[b], mask_BD[b]
            for d in range(D):
                d_h[d] += widen(d_operand[d]) * mask[d]
        d_state[:] = 0


@parallel
def operand_backward(first: int, last: int, d_operand_BD: Any, mask_BD: Any, d_state_BD: Any) -> None:
    """Add to a state's gradient that of its masked copy."""
    D = d_state_BD.shape[1]
    for b in range(first, last):
        d_operand, mask, d_state = d_operand_BD[b], mask_BD[b], d_state_BD[b]
        for d in range(D):
            d_state[d] += widen(d_operand[d]) * mask[d]


@kernel
def batch_statistics(x_BD: Any, share: Any, mean_D: Any, variance_D: Any) -> None:
    """Mean and biased variance over the batch; `share` = 1 / B."""
    B, D = x_BD.shape
    mean_D[:] = 0
    variance_D[:] = 0
    for b in range(B):
        x = x_BD[b]
        for d in range(D):
            mean_D[d] += x[d] * share
    for b in range(B):
        x = x_BD[b]
        for d in range(D):
            deviation = x[d] - mean_D[d]
            variance_D[d] += deviation * deviation * share


@kernel
def norm_forward(
    x_BD: Any,
    mean_D: Any,
    variance_D: Any,
    eps: Any,
    weight_D: Any,
    bias_D: Any,
    scale_D: Any,
    normal_BD: Any,
) -> None:
    """In place `x = normal * weight + bias`, `normal = (x - mean) / scale`, `scale = sqrt(variance + eps)`."""
    B, D = x_BD.shape
    for d in range(D):
        scale_D[d] = np.sqrt(variance_D[d] + eps)
    for b in range(B):
        x, normal = x_BD[b], normal_BD[b]
        for d in range(D):
            n = (x[d] - mean_D[d]) / scale_D[d]
            normal[d] = n
            x[d] = n * weight_D[d] + bias_D[d]


@kernel
def norm_backward(
    d_BD: Any,
    normal_BD: Any,
    scale_D: Any,
    weight_D: Any,
    share: Any,
    sum_D: Any,
    dot_D: Any,
    d_weight_D: Any,
    d_bias_D: Any,
) -> None:
    """In place the gradient of `norm_forward`; adds to those of weight and bias.

    `share` is 1 / B when mean and variance came from the batch, 0 when they were given.
    """
    B, D = d_BD.shape
    sum_D[:] = 0
    dot_D[:] = 0
    for b in range(B):
        dy, normal = d_BD[b], normal_BD[b]
        for d in range(D):
            sum_D[d] += dy[d]
            dot_D[d] += dy[d] * normal[d]
    for d in range(D):
        d_bias_D[d] += sum_D[d]
        d_weight_D[d] += dot_D[d]
        sum_D[d] *= share
        dot_D[d] *= share
    for b in range(B):
        dy, normal = d_BD[b], normal_BD[b]
        for d in range(D):
            dy[d] = (dy[d] - sum_D[d] - normal[d] * dot_D[d]) * weight_D[d] / scale_D[d]


@parallel
def mask_steps(first: int, last: int, x_TBD: Any, mask_BD: Any) -> None:
    """In place the operands of a product over all steps, `x * mask` at every step; its rows are the steps."""
    _, B, D = x_TBD.shape
    for t in range(first, last):
        for b in range(B):
            x, mask = x_TBD[t, b], mask_BD[b]
            for d in range(D):
                x[d] = narrow(widen(x[d]) * mask[d], x)


_TILE = 16


def transpose_rows(columns: int) -> int:
    """What `transpose` counts as rows, for an x of this many columns."""
    return -(-columns // _TILE)


@parallel_with_scratch
def transpose(first: int, last: int, x_RC: Any, y_CR: Any) -> None:
    """y = xᵀ in the type of y, tile by tile; its rows are the bands of tiles in y."""
    R, C = x_RC.shape
    tile = np.empty((_TILE, _TILE), x_RC.dtype)
    for c in range(first * _TILE, min(last * _TILE, C), _TILE):
        for r in range(0, R, _TILE):
            if r + _TILE <= R and c + _TILE <= C:
                for i in range(_TILE):
                    for j in range(_TILE):
                        tile[j, i] = x_RC[r + i, c + j]
                for j in range(_TILE):
                    y_R = y_CR[c + j]
                    for i in range(_TILE):
                        y_R[r + i] = narrow(tile[j, i], y_CR)
            else:
                for j in range(c, min(c + _TILE, C)):
                    for i in range(r, min(r + _TILE, R)):
                        y_CR[j, i] = narrow(x_RC[i, j], y_CR)


_LANES = 64


# Sums and maxima run in independent lanes, which the compiler turns into vectors without reordering anything.


@inlined
def _highest(x_V: Any, lanes: Any) -> Any:
    whole = len(x_V) // _LANES * _LANES
    lanes[:] = -np.inf
    for start in range(0, whole, _LANES):
        x = x_V[start : start + _LANES]
        for i in range(_LANES):
            lanes[i] = max(lanes[i], widen(x[i]))
    for v in range(whole, len(x_V)):
        lanes[0] = max(lanes[0], widen(x_V[v]))
    return lanes.max()


@inlined
def _exps(x_V: Any, highest: Any, lanes: Any, exps_V: Any) -> Any:
    whole = len(x_V) // _LANES * _LANES
    lanes[:] = 0
    for start in range(0, whole, _LANES):
        x, exps = x_V[start : start + _LANES], exps_V[start : start + _LANES]
        for i in range(_LANES):
            e = exp(widen(x[i]) - highest)
            exps[i] = e
            lanes[i] += e
    for v in range(whole, len(x_V)):
        exps_V[v] = exp(widen(x_V[v]) - highest)
        lanes[0] += exps_V[v]
    return lanes.sum()


@inlined
def _sum_exp(x_V: Any, highest: Any, lanes: Any) -> Any:
    whole = len(x_V) // _LANES * _LANES
    lanes[:] = 0
    for start in range(0, whole, _LANES):
        x = x_V[start : start + _LANES]
        for i in range(_LANES):
            lanes[i] += exp(widen(x[i]) - highest)
    for v in range(whole, len(x_V)):
        lanes[0] += exp(widen(x_V[v]) - highest)
    return lanes.sum()


@parallel_with_scratch
def nll_rows(first: int, last: int, logits_RV: Any, targets_R: Any, nll_R: Any) -> None:
    """nll = log sum exp(logits) - logits[target] of every row."""
    lanes = np.empty(_LANES, nll_R.dtype)
    for r in range(first, last):
        logits = logits_RV[r]
        highest = _highest(logits, lanes)
        total = _sum_exp(logits, highest, lanes)
        nll_R[r] = np.log(total) + highest - widen(logits[targets_R[r]])


@parallel_with_scratch
def nll_rows_with_gradient(
    first: int, last: int, logits_RV: Any, targets_R: Any, scale: Any, nll_R: Any
) -> None:
    """As `nll_rows`; overwrites the logits with the gradient of `scale` times the sum of the nll."""
    V = logits_RV.shape[1]
    lanes = np.empty(_LANES, nll_R.dtype)
    exps = np.empty(V, nll_R.dtype)
    for r in range(first, last):
        logits, target = logits_RV[r], targets_R[r]
        highest = _highest(logits, lanes)
        total = _exps(logits, highest, lanes, exps)
        nll_R[r] = np.log(total) + highest - widen(logits[target])
        share = scale / total
        for v in range(V):
            logits[v] = narrow(exps[v] * share, logits)
        logits[target] = narrow(exps[target] * share - scale, logits)
