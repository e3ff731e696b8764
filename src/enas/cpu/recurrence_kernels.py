"""Element-wise work between two matrix products of the recurrence, each in one pass over memory; compiled by numba.

Shape letters: B batch, D hidden, M states, S kept steps, m n readers of a state.
"""

from typing import Any

import numpy as np

from enas.cpu import elementary
from enas.cpu.compiler import UNCOUNTED, inlined, kernel, parallel, with_globals
from enas.cpu.elementary import identity, identity_gradient, narrow, sigmoid, widen

FUNCTIONS = ("tanh", "relu", "sigmoid", "identity")
"""Functions of nodes; kernels take their numbers in this order."""

# The work of one row of one node; `_for_function` binds the node's function in the place of these two.
_function, _gradient = identity, identity_gradient


def _row_forward(product_2D, projected_2D, source_D, candidate_D, gate_D, state_D):
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


def _row_backward(d_state_D, source_D, candidate_D, gate_D, d_source_D):
    for d in range(len(d_state_D)):
        ds = d_state_D[d]
        c = widen(candidate_D[d])
        z = widen(gate_D[d])
        ds_z = ds * z
        candidate_D[d] = narrow(_gradient(c, ds_z), candidate_D)
        gate_D[d] = narrow((c - widen(source_D[d])) * (ds_z - ds_z * z), gate_D)
        d_source_D[d] += ds - ds_z


def _for_function(row: Any, name: str) -> Any:
    bound = {
        "_function": getattr(elementary, name),
        "_gradient": getattr(elementary, f"{name}_gradient"),
    }
    return inlined(with_globals(row, f"{row.__name__}_{name}", **bound), UNCOUNTED)


_tanh_forward, _relu_forward, _sigmoid_forward, _identity_forward = (
    _for_function(_row_forward, name) for name in FUNCTIONS
)
_tanh_backward, _relu_backward, _sigmoid_backward, _identity_backward = (
    _for_function(_row_backward, name) for name in FUNCTIONS
)


@parallel
def nodes_forward(
    first, last, product_Bm2D, projected_B2D, readers_m3, j, now, s, mask_BD, saved_SBm2D, states_MSBD, rounded_MSBD,
    is_read_M, operand_MBD,
):  # fmt: skip
    """`s_k = s_j + sigmoid(g) * (f(a) - s_j)` for all m readers k of state j, whose products (a, g) are given.

    `readers_m3` holds k, its slot among them, and the number of f. `projected_B2D` is added to the product unless None.
    Writes candidate and gate to step `s` of what is kept, the state to step `now` of the states, its rounded copy to step
    `s` unless None, and, where it is read, the masked state, the operand of the next product.
    """
    D = mask_BD.shape[1]
    for b in range(first, last):
        source, mask = states_MSBD[j, now, b], mask_BD[b]
        for i in range(len(readers_m3)):
            k, slot, function = readers_m3[i]
            product, state = product_Bm2D[b, slot], states_MSBD[k, now, b]
            projected = None if projected_B2D is None else projected_B2D[b]
            candidate, gate = saved_SBm2D[s, b, slot, 0], saved_SBm2D[s, b, slot, 1]
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
    first, last, d_operand_BD, mask_BD, d_h_BD, shares_M, readers_n3, j, t, states_MSBD, saved_SBm2D, d_states_MBD
):  # fmt: skip
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
def enter_state(first, last, h_BD, mask_BD, state_BD, rounded_BD, operand_BD):
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
def mean_forward(first, last, states_MSBD, s, outputs, share, h_BD):
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
def state_backward(first, last, d_output_BD, d_operand_BD, mask_BD, d_state_BD, d_h_BD):
    """The gradient of h: as an output, as state 0 of the next step, and as its masked copy unless None.

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


@kernel
def batch_statistics(x_BD, share, mean_D, variance_D):
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
def norm_forward(x_BD, mean_D, variance_D, eps, weight_D, bias_D, scale_D, normal_BD):
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
def norm_backward(d_BD, normal_BD, scale_D, weight_D, share, sum_D, dot_D, d_weight_D, d_bias_D):
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
