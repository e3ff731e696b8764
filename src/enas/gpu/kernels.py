"""The passes of `enas.gpu.passes` as Triton kernels: each is one launch, and reads and writes every number once.

Not run on a GPU yet. Triton's interpreter runs them on the CPU (tests/test_gpu_kernels.py).

A program of a node has a part of one row [D] of one architecture, so that the codes say the same for all its numbers. A
program of an output has a few columns of one architecture, with the whole batch.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256
"""Columns of a program of a node: enough programs for a GPU at 64 rows of 1000."""
COLUMNS, TILE = 16, 4096
"""Columns of a program of an output, and numbers of a program, of which there are fewer columns where the batch is large."""


# ---- functions of nodes, by their places in `ACTIVATIONS` --------------------------------------------------------------


@triton.jit
def _tanh(x):
    # Near 0 the quotient has no digits left: the series then.
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    square = x * x
    series = 17 / 315 - square * (62 / 2835)
    near = x * (1 - square * (1 / 3 - square * (2 / 15 - square * series)))
    return tl.where(tl.abs(x) < 0.2, near, tl.where(x < 0, -far, far))


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _function(x, number):
    if number == 0:
        y = _tanh(x)
    elif number == 1:
        y = tl.where(x < 0, 0.0, x)  # what is no number stays so
    elif number == 2:
        y = _sigmoid(x)
    else:
        y = x
    return y


@triton.jit
def _gradient(c, d, number):
    if number == 0:
        y = d * (1 - c * c)
    elif number == 1:
        y = tl.where(c > 0, d, 0.0)
    elif number == 2:
        y = d * c * (1 - c)
    else:
        y = d
    return y


# ---- nodes -------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["node"])
def _node_forward(
    product_p, projected_p, h_p, states_p, saved_p, operand_p, mask_p, codes_p, node, N, B, D,
    FIRST: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, d = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < D
    a, b = row // B, row % B
    here = row * D + d
    slab = tl.num_programs(0) * D
    real = states_p.dtype.element_ty
    code = codes_p + (a * N + node) * 3
    if FIRST:
        source = tl.load(h_p + here, mask=inside, other=0)
    else:
        source = tl.load(states_p + tl.load(code) * slab + here, mask=inside, other=0)
    pair = row * 2 * D + d
    x = tl.load(product_p + pair, mask=inside, other=0).to(real)
    g = tl.load(product_p + pair + D, mask=inside, other=0).to(real)
    if projected_p is not None:
        added = pair
        if SHARED:
            added = b * 2 * D + d
        x += tl.load(projected_p + added, mask=inside, other=0)
        g += tl.load(projected_p + added + D, mask=inside, other=0)
    c = _function(x, tl.load(code + 1))
    z = _sigmoid(g)
    state = source + z * (c - source)
    tl.store(states_p + node * slab + here, state, mask=inside)
    if saved_p is not None:
        kept = saved_p.dtype.element_ty
        tl.store(saved_p + pair, c.to(kept), mask=inside)
        tl.store(saved_p + pair + D, z.to(kept), mask=inside)
    if operand_p is not None:
        following = tl.load(code + 3)
        if following == node:
            entering = state
        else:
            entering = tl.load(states_p + following * slab + here, mask=inside, other=0)
        if mask_p is not None:
            entering *= tl.load(mask_p + b * D + d, mask=inside, other=0)
        tl.store(operand_p + here, entering.to(operand_p.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["node"])
def _node_backward(
    d_mean_p, carries_p, d_operands_p, h_p, states_p, saved_p, mask_p, codes_p, node, N, B, D,
    FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, d = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < D
    a, b = row // B, row % B
    here = row * D + d
    slab = tl.num_programs(0) * D
    real = states_p.dtype.element_ty
    code = codes_p + (a * N + node) * 3
    total = tl.zeros([BLOCK], real)
    outputs = tl.load(code + 2)
    if outputs > 0:
        total += tl.load(d_mean_p + here, mask=inside, other=0) / outputs
    for reader in range(1, N):  # only later nodes read this one
        if tl.load(codes_p + (a * N + reader) * 3) == node:
            place = reader * slab + here
            d_operand = tl.load(d_operands_p + place, mask=inside, other=0).to(real)
            if mask_p is not None:
                d_operand *= tl.load(mask_p + b * D + d, mask=inside, other=0)
            total += tl.load(carries_p + place, mask=inside, other=0) + d_operand
    if FIRST:
        source = tl.load(h_p + here, mask=inside, other=0)
    else:
        source = tl.load(states_p + tl.load(code) * slab + here, mask=inside, other=0)
    pair = row * 2 * D + d
    c = tl.load(saved_p + pair, mask=inside, other=0).to(real)
    z = tl.load(saved_p + pair + D, mask=inside, other=0).to(real)
    gated = total * z
    tl.store(carries_p + node * slab + here, total - gated, mask=inside)
    kept = saved_p.dtype.element_ty
    tl.store(saved_p + pair, _gradient(c, gated, tl.load(code + 1)).to(kept), mask=inside)
    tl.store(saved_p + pair + D, ((c - source) * (gated - gated * z)).to(kept), mask=inside)


# ---- outputs -----------------------------------------------------------------------------------------------------------


@triton.jit
def _output_forward(
    states_p, weight_p, bias_p, mean_p, variance_p, h_p, operand_p, normal_p, statistics_p, mask_p, codes_p, eps, N, B, D,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    a, d = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    b = tl.arange(0, ROWS)
    column, tile = d < D, (b < B)[:, None] & (d < D)[None, :]
    place = b[:, None] * D + d[None, :]
    here = a * B * D + place
    slab = tl.num_programs(0) * B * D
    real = states_p.dtype.element_ty
    h = tl.zeros([ROWS, COLUMNS], real)
    for node in range(N):
        outputs = tl.load(codes_p + (a * N + node) * 3 + 2)
        if outputs > 0:
            h += tl.load(states_p + node * slab + here, mask=tile, other=0) / outputs
    if weight_p is not None:
        if mean_p is not None:
            mean = tl.load(mean_p + d, mask=column, other=0)
            variance = tl.load(variance_p + d, mask=column, other=0)
        else:
            mean = tl.sum(h, 0) / B  # rows beyond the batch are 0
            from_mean = tl.where(tile, h - mean[None, :], 0.0)
            variance = tl.sum(from_mean * from_mean, 0) / B
            if statistics_p is not None:
                tl.store(statistics_p + a * D + d, mean, mask=column)
                tl.store(statistics_p + (tl.num_programs(0) + a) * D + d, variance, mask=column)
        normal = (h - mean[None, :]) / tl.sqrt(variance + eps)[None, :]
        if normal_p is not None:
            tl.store(normal_p + here, normal.to(real), mask=tile)
        weight = tl.load(weight_p + d, mask=column, other=0)
        h = normal * weight[None, :] + tl.load(bias_p + d, mask=column, other=0)[None, :]
    tl.store(h_p + here, h.to(real), mask=tile)
    if operand_p is not None:
        if mask_p is not None:
            h *= tl.load(mask_p + place, mask=tile, other=0)
        tl.store(operand_p + here, h.to(operand_p.dtype.element_ty), mask=tile)


@triton.jit
def _output_backward(
    d_output_p, carries_p, d_operands_p, weight_p, variance_p, normal_p, d_norm_p, d_mean_p, mask_p, eps, B, D,
    BY_BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    a, d = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    b = tl.arange(0, ROWS)
    column, tile = d < D, (b < B)[:, None] & (d < D)[None, :]
    place = b[:, None] * D + d[None, :]
    here = a * B * D + place
    real = d_mean_p.dtype.element_ty
    dy = tl.load(d_output_p + here, mask=tile, other=0)
    if carries_p is not None:
        d_operand = tl.load(d_operands_p + here, mask=tile, other=0).to(real)
        if mask_p is not None:
            d_operand *= tl.load(mask_p + place, mask=tile, other=0)
        dy += tl.load(carries_p + here, mask=tile, other=0) + d_operand
    if weight_p is not None:
        normal = tl.load(normal_p + here, mask=tile, other=0)
        total, dot = tl.sum(dy, 0), tl.sum(dy * normal, 0)
        tl.store(d_norm_p + a * D + d, dot, mask=column)
        tl.store(d_norm_p + (tl.num_programs(0) + a) * D + d, total, mask=column)
        own = d
        if BY_BATCH:
            own = a * D + d
            dy = dy - (total / B)[None, :] - normal * (dot / B)[None, :]
        scale = tl.load(weight_p + d, mask=column, other=0)
        scale = scale / tl.sqrt(tl.load(variance_p + own, mask=column, other=1) + eps)
        dy = dy * scale[None, :]
    tl.store(d_mean_p + here, dy.to(real), mask=tile)


# ---- their launches ----------------------------------------------------------------------------------------------------


def node_forward(
    product_ABE: Tensor,
    projected_ABE: Tensor | None,
    h_ABD: Tensor,
    states_NABD: Tensor,
    saved_ABE: Tensor | None,
    operand_ABD: Tensor | None,
    mask_BD: Tensor | None,
    codes_AN3: Tensor,
    node: int,
) -> None:
    """As `enas.gpu.passes.node_forward`. All tensors are contiguous, as those of the others are."""
    N, A, B, D = states_NABD.shape
    shared = projected_ABE is not None and len(projected_ABE) == 1  # by all architectures
    _node_forward[A * B, triton.cdiv(D, BLOCK)](
        product_ABE, projected_ABE, h_ABD, states_NABD, saved_ABE, operand_ABD, mask_BD, codes_AN3, node, N, B, D,
        FIRST=node == 0, SHARED=shared, BLOCK=BLOCK, num_warps=2,
    )  # fmt: skip


def node_backward(
    d_mean_ABD: Tensor,
    carries_NABD: Tensor,
    d_operands_NABD: Tensor,
    h_ABD: Tensor,
    states_NABD: Tensor,
    saved_ABE: Tensor,
    mask_BD: Tensor | None,
    codes_AN3: Tensor,
    node: int,
) -> None:
    """As `enas.gpu.passes.node_backward`."""
    N, A, B, D = states_NABD.shape
    _node_backward[A * B, triton.cdiv(D, BLOCK)](
        d_mean_ABD, carries_NABD, d_operands_NABD, h_ABD, states_NABD, saved_ABE, mask_BD, codes_AN3, node, N, B, D,
        FIRST=node == 0, BLOCK=BLOCK, num_warps=2,
    )  # fmt: skip


def output_forward(
    states_NABD: Tensor,
    weight_D: Tensor | None,
    bias_D: Tensor | None,
    mean_D: Tensor | None,
    variance_D: Tensor | None,
    h_ABD: Tensor,
    operand_ABD: Tensor | None,
    normal_ABD: Tensor | None,
    statistics_2AD: Tensor | None,
    mask_BD: Tensor | None,
    codes_AN3: Tensor,
    eps: float,
) -> None:
    """As `enas.gpu.passes.output_forward`."""
    N, A, B, D = states_NABD.shape
    rows, columns = _tile(B)
    _output_forward[A, triton.cdiv(D, columns)](
        states_NABD, weight_D, bias_D, mean_D, variance_D, h_ABD, operand_ABD, normal_ABD, statistics_2AD, mask_BD,
        codes_AN3, eps, N, B, D, ROWS=rows, COLUMNS=columns,
    )  # fmt: skip


def output_backward(
    d_output_ABD: Tensor,
    carries_NABD: Tensor | None,
    d_operands_NABD: Tensor | None,
    weight_D: Tensor | None,
    variance_AD: Tensor | None,
    normal_ABD: Tensor | None,
    d_norm_2AD: Tensor | None,
    d_mean_ABD: Tensor,
    mask_BD: Tensor | None,
    by_batch: bool,
    eps: float,
) -> None:
    """As `enas.gpu.passes.output_backward`."""
    A, B, D = d_mean_ABD.shape
    rows, columns = _tile(B)
    _output_backward[A, triton.cdiv(D, columns)](
        d_output_ABD, carries_NABD, d_operands_NABD, weight_D, variance_AD, normal_ABD, d_norm_2AD, d_mean_ABD, mask_BD, eps,
        B, D, BY_BATCH=by_batch, ROWS=rows, COLUMNS=columns,
    )  # fmt: skip


def _tile(batch: int) -> tuple[int, int]:
    """Rows and columns of a program of an output."""
    rows = triton.next_power_of_2(batch)
    return rows, max(1, min(COLUMNS, TILE // rows))
