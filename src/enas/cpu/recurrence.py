"""The recurrence with a backward pass by hand: on a CPU hardly slower than its matrix products alone.

* Nodes with the same source share one wider product: their weights stand side by side, [D, m E].
* Everything between two products is one pass over memory (`recurrence_kernels`).
* The backward pass overwrites candidates and gates with the gradients of the products that they came from. Then the
  gradient of each weight is one product over all T B rows.
* With bfloat16 products the states are float32; only what the backward pass reads again is kept in bfloat16.

The states of a step are numbered 0 = h of the step before, k = node k - 1 of the plan, so that the input node is a node
like the others.

Shape letters as in `enas.ops.recurrence`; M = N + 1 states, m nodes with the same source, S steps that are kept (T, or 1
where no gradient is needed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from enas.cell_plan import CellPlan, OutputNorm, Recurrence
from enas.cpu import recurrence_kernels as kernels
from enas.cpu.compiler import array, team
from enas.cpu.products import linear
from enas.cpu.registry import operand_type, takes_over, takes_products


@takes_over("recurrence")
def recurrence(
    projected_TBE: Tensor,
    state_BD: Tensor,
    recurrent_weight_DE: Tensor,
    node_weights_DE: Sequence[Tensor],
    plan: CellPlan,
    *,
    state_mask_BD: Tensor | None = None,
    norm: OutputNorm | None = None,
) -> Recurrence | None:
    """Any cell whose states and weights are of one type."""
    if not takes_products(state_BD, projected_TBE, recurrent_weight_DE, *node_weights_DE):
        return None
    fixed = _Fixed(plan, operand_type(state_BD.dtype), state_mask_BD, norm)
    norm_parameters = () if norm is None else (norm.weight_D, norm.bias_D)
    tensors = (projected_TBE, state_BD, *norm_parameters, recurrent_weight_DE, *node_weights_DE)
    with torch.autocast("cpu", enabled=False):  # the products inside have their types already
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return Recurrence(*_FusedRecurrence.apply(fixed, *tensors))
        return _forward(fixed, tensors, keep=False)[0]


class _FusedRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fixed: _Fixed, *tensors: Tensor) -> Any:
        result, ctx.kept = _forward(fixed, tensors, keep=True)
        ctx.fixed = fixed
        ctx.save_for_backward(*tensors)
        if not fixed.batch_statistics:
            return (result.output_TBD,)
        ctx.mark_non_differentiable(result.mean_TD, result.variance_TD)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output_TBD: Tensor, *_: Tensor) -> Any:
        # A second pass backward through the same graph finds what was kept used up, and computes it again.
        kept = ctx.kept or _forward(ctx.fixed, ctx.saved_tensors, keep=True)[1]
        ctx.kept = None
        return None, *_backward(ctx.fixed, ctx.saved_tensors, kept, d_output_TBD, ctx.needs_input_grad[1:])


@dataclass(frozen=True)
class _Fixed:
    """What a recurrence depends on beside the tensors that get a gradient."""

    plan: CellPlan
    dtype: torch.dtype
    mask_BD: Tensor | None
    norm: OutputNorm | None
    """Only `eps`, `mean_D` and `variance_D` are read; weight and bias are among the tensors that get a gradient."""

    @property
    def batch_statistics(self) -> bool:
        return self.norm is not None and self.norm.mean_D is None

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """Of the states 1 .. N."""
        return 0, *(source + 1 for source in self.plan.sources)

    @property
    def outputs(self) -> list[int]:
        return [node + 1 for node in self.plan.outputs]

    @cached_property
    def readers(self) -> dict[int, Any]:
        """The readers of each state, in ascending order of states: arrays [m, 3] of reader, slot, number of its function."""
        rows: dict[int, list[tuple[int, int, int]]] = {source: [] for source in sorted(set(self.sources))}
        for state, source in enumerate(self.sources, start=1):
            function = kernels.FUNCTIONS.index(self.plan.functions[state - 1])
            rows[source].append((state, len(rows[source]), function))
        return {source: np.array(found) for source, found in rows.items()}

    def weights_of(self, weights: Sequence[Tensor]) -> dict[int, list[Tensor]]:
        """The weights by the state that they multiply; most readers first: packing wide ones frees memory for others."""
        by_width = sorted(self.readers.items(), key=lambda item: -len(item[1]))
        return {source: [weights[state - 1] for state in rows[:, 0]] for source, rows in by_width}

    def mask_like(self, state_BD: Tensor) -> Any:
        if self.mask_BD is None:
            return array(torch.ones_like(state_BD))
        return array(self.mask_BD.to(state_BD.dtype).expand_as(state_BD).contiguous())

    def split(self, xs: Sequence[Any]) -> tuple[Any, Any, Sequence[Any], Sequence[Any]]:
        """Projected input; state; weight and bias of the norm if there is one; weights of the states 1 .. N."""
        weights = 2 if self.norm is None else 4
        return xs[0], xs[1], xs[2:weights], xs[weights:]


@dataclass
class _Kept:
    """What the forward pass leaves for the backward pass."""

    states_MSBD: Tensor
    """In the dtype of the products."""
    saved_SBmE: dict[int, Tensor]
    """Candidates and gates of the readers of every state; the backward pass puts the products' gradients there."""
    normal_SBD: Tensor
    """The normalised mean of the outputs, before weight and bias."""
    scale_SD: Tensor
    """What the mean of the outputs was divided by, sqrt(variance + eps)."""

    @classmethod
    def empty(cls, fixed: _Fixed, state_BD: Tensor, E: int, S: int) -> _Kept:
        """Memory for S steps."""
        (B, D), dtype, normed = state_BD.shape, fixed.dtype, 0 if fixed.norm is None else S
        saved = {j: state_BD.new_empty(S, B, len(rows), E, dtype=dtype) for j, rows in fixed.readers.items()}
        states_MSBD = state_BD.new_empty(len(fixed.sources) + 1, S, B, D, dtype=dtype)
        return cls(states_MSBD, saved, state_BD.new_empty(normed, B, D), state_BD.new_empty(normed, D))

    def arrays(self) -> tuple[dict[int, Any], Any, Any]:
        """Candidates and gates [S, B, m, 2, D], and the last two, as kernels see them."""
        saved = {j: array(x.view(*x.shape[:3], 2, -1)) for j, x in self.saved_SBmE.items()}
        return saved, array(self.normal_SBD), array(self.scale_SD)


def _forward(fixed: _Fixed, tensors: Sequence[Tensor], *, keep: bool) -> tuple[Recurrence, _Kept]:
    projected_TBE, state_BD, norm_parameters, weights_DE = fixed.split([x.detach() for x in tensors])
    (T, B, E), D, M = projected_TBE.shape, state_BD.shape[1], len(weights_DE) + 1
    dtype, norm = fixed.dtype, fixed.norm
    kept = _Kept.empty(fixed, state_BD, E, T if keep else 1)
    # x -> [x W_1 | ... | x W_m], by the weights that multiply the same state
    products = {
        j: linear(torch.cat([w.to(dtype).T for w in ws]), dtype, B, T)
        for j, ws in fixed.weights_of(weights_DE).items()
    }
    output_TBD = state_BD.new_empty(T, B, D)

    # Arrays from here on. States are rounded for keeping only if the products are of lower precision.
    threads = team(B * D)
    rounds = dtype != state_BD.dtype
    states = array(state_BD.new_empty(M, 1, B, D) if rounds else kept.states_MSBD)
    rounded = array(kept.states_MSBD) if rounds else None
    saved, normal, scale = kept.arrays()
    mask = fixed.mask_like(state_BD)
    operand_MBD = state_BD.new_empty(M, B, D, dtype=dtype)
    operands_BD, operand = list(operand_MBD), array(operand_MBD)
    is_read = np.isin(np.arange(M), list(fixed.readers))
    projected = array(projected_TBE.contiguous().view(T, B, 2, D))
    output, h = array(output_TBD), array(state_BD.contiguous())
    real = output.dtype.type
    outputs, share = np.array(fixed.outputs), real(1 / len(fixed.outputs))
    if norm is not None:
        weight, bias = (array(x.contiguous()) for x in norm_parameters)
        if norm.mean_D is None or norm.variance_D is None:
            statistics_2TD = state_BD.new_empty(2, T, D)
        else:
            statistics_2TD = torch.stack([norm.mean_D, norm.variance_D])[:, None].expand(2, T, D)
        mean, variance = array(statistics_2TD)

    for t in range(T):
        s = t if keep else 0
        now = 0 if rounds else s
        rounded_0 = None if rounded is None else rounded[0, s]
        kernels.enter_state(threads, B, h, mask, states[0, now], rounded_0, operand[0])
        for j, readers in fixed.readers.items():
            product = array(products[j](operands_BD[j]).view(B, len(readers), 2, D))
            kernels.nodes_forward(
                threads, B, product, projected[t] if j == 0 else None, readers, j, now, s, mask, saved[j], states,
                rounded, is_read, operand,
            )  # fmt: skip
        h = output[t]
        kernels.mean_forward(threads, B, states, now, outputs, share, h)
        if norm is not None:
            if fixed.batch_statistics:
                kernels.batch_statistics(h, real(1 / B), mean[t], variance[t])
            kernels.norm_forward(h, mean[t], variance[t], real(norm.eps), weight, bias, scale[s], normal[s])

    return Recurrence(output_TBD, *(statistics_2TD if fixed.batch_statistics else ())), kept


def _backward(
    fixed: _Fixed, tensors: Sequence[Tensor], kept: _Kept, d_output_TBD: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of `tensors`, None where not needed; uses up `kept`."""
    projected_TBE, state_BD, norm_parameters, weights_DE = fixed.split([x.detach() for x in tensors])
    projected_needed, state_needed, norm_needed, weights_needed = fixed.split(needed)
    (T, B, _), D, M = projected_TBE.shape, state_BD.shape[1], len(weights_DE) + 1
    dtype, norm = fixed.dtype, fixed.norm
    # [y_1 | ... | y_m] -> y_1 W_1ᵀ + ... + y_m W_mᵀ
    products = {
        j: linear(torch.cat([w.to(dtype) for w in ws], 1), dtype, B, T)
        for j, ws in fixed.weights_of(weights_DE).items()
    }
    d_states_MBD = state_BD.new_zeros(M, B, D)
    d_norm_2D = state_BD.new_zeros(2, D)

    threads = team(B * D)
    states, d_states = array(kept.states_MSBD), array(d_states_MBD)
    saved, normal, scale = kept.arrays()
    mask = fixed.mask_like(state_BD)
    d_h_BD = torch.empty_like(state_BD, memory_format=torch.contiguous_format)
    d_output, d_h = array(d_output_TBD.contiguous()), array(d_h_BD)
    real = d_h.dtype.type
    shares = np.isin(np.arange(M), fixed.outputs) * real(1 / len(fixed.outputs))
    ends = {
        j: rows[~np.isin(rows[:, 0], list(fixed.readers))] for j, rows in fixed.readers.items()
    }  # not read
    own = {int(row[0]): row[None] for rows in fixed.readers.values() for row in rows}
    if norm is not None:
        weight, (d_weight, d_bias) = array(norm_parameters[0]), array(d_norm_2D)
        sums, dots = array(torch.empty_like(d_norm_2D))
        batch_share = real(1 / B if fixed.batch_statistics else 0)

    def backward_nodes(t: int, source: int, nodes: Any, d_operand: Any) -> None:
        kernels.nodes_backward(
            threads, B, d_operand, mask, d_h, shares, nodes, source, t, states, saved[source], d_states
        )

    d_operand = None
    for t in reversed(range(T)):
        kernels.state_backward(threads, B, d_output[t], d_operand, mask, d_states[0], d_h)
        if norm is not None:
            kernels.norm_backward(d_h, normal[t], scale[t], weight, batch_share, sums, dots, d_weight, d_bias)
        for j in reversed(fixed.readers):
            if len(ends[j]) > 0:
                backward_nodes(t, j, ends[j], None)
            if j > 0 or t > 0 or state_needed:
                d_operand = array(products[j](kept.saved_SBmE[j][t].flatten(1)))
            if j > 0:
                backward_nodes(t, fixed.sources[j - 1], own[j], d_operand)
    if state_needed:  # h before the window is no output
        no_output = array(torch.zeros_like(state_BD))
        kernels.state_backward(threads, B, no_output, d_operand, mask, d_states[0], d_h)
    products.clear()  # the gradients of the weights take the memory of the packed weights

    d_weights: list[Tensor | None] = [None] * (M - 1)
    for j, readers in fixed.readers.items():
        wanted = [(int(k), slot) for k, slot, _ in readers if weights_needed[k - 1]]
        if wanted and fixed.mask_BD is not None:
            kept.states_MSBD[j].mul_(fixed.mask_BD.to(state_BD.dtype))
        operand_RD, d_product_RmE = kept.states_MSBD[j].flatten(0, 1), kept.saved_SBmE[j].flatten(0, 1)
        for k, slot in wanted:
            d_weights[k - 1] = (operand_RD.T @ d_product_RmE[:, slot]).to(weights_DE[k - 1].dtype)
    return [
        kept.saved_SBmE[0].flatten(2).to(projected_TBE.dtype) if projected_needed else None,
        d_h_BD if state_needed else None,
        *(d_D.clone() if need else None for need, d_D in zip(norm_needed, d_norm_2D, strict=False)),
        *d_weights,
    ]
