"""Recurrent cells on a GPU: three launches a node and step for the whole step of training, whatever the cell.

* The architecture is data (`enas.gpu.passes`), so that all cells of as many nodes are one sequence of launches, which can be
  recorded once and repeated (`enas.gpu.graphs`).
* The weights of the sampled cell are brought together once a window, in the type of products.
* The backward pass is by hand. It leaves the gradients of all products in memory, so that those of all weights are one
  batched product over all T B rows.
* Several architectures side by side are batched products: as many launches as one.

Letters as in `enas.gpu.window`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from enas.cell_plan import ACTIVATIONS, CellPlan, OutputNorm, Recurrence
from enas.gpu.graphs import GRAPHS, Lease
from enas.gpu.window import Inputs, Layout
from enas.runtime.devices import as_they_are
from enas.runtime.transfers import sent

T = TypeVar("T")


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
    """As `enas.ops.recurrence`."""
    found = recurrences(
        [projected_TBE],
        state_BD,
        [recurrent_weight_DE],
        [node_weights_DE],
        [plan],
        state_mask_BD=state_mask_BD,
        norm=norm,
    )
    return None if found is None else found[0]


def recurrences(
    projected_TBE: Sequence[Tensor],
    state_BD: Tensor,
    recurrent_weights_DE: Sequence[Tensor],
    node_weights_DE: Sequence[Sequence[Tensor]],
    plans: Sequence[CellPlan],
    *,
    state_mask_BD: Tensor | None = None,
    norm: OutputNorm | None = None,
) -> list[Recurrence] | None:
    """As `enas.ops.recurrences`. Takes cells of as many nodes whose tensors are all of one type, float32 or float64."""
    (B, D), nodes = state_BD.shape, {len(plan.functions) for plan in plans}
    if len(nodes) > 1:
        return None
    of_norm = [] if norm is None else [norm.weight_D, norm.bias_D]
    by_node = [recurrent_weights_DE, *zip(*node_weights_DE, strict=True)]
    weights = [weight_DE for of_architectures in by_node for weight_DE in of_architectures]
    types = {x.dtype for x in (*projected_TBE, state_BD, *of_norm, *weights)}
    if len(types) > 1 or not types <= {torch.float32, torch.float64}:
        return None
    shared_input = all(one is projected_TBE[0] for one in projected_TBE)
    projected_TABE = projected_TBE[0].unsqueeze(1) if shared_input else torch.stack(list(projected_TBE), 1)
    tensors = [projected_TABE, state_BD, *of_norm, *weights]
    layout = Layout(
        T=len(projected_TABE),
        A=len(plans),
        N=nodes.pop(),
        B=B,
        D=D,
        real=state_BD.dtype,
        operand=type_of_products(state_BD),
        device=state_BD.device,
        shared_input=shared_input,
        masked=state_mask_BD is not None,
        norm="none" if norm is None else "batch" if norm.mean_D is None else "given",
        eps=0.0 if norm is None else norm.eps,
        keep=torch.is_grad_enabled() and any(x.requires_grad for x in tensors),
    )
    mask_BD = None if state_mask_BD is None else state_mask_BD.to(state_BD.dtype).expand(B, D).contiguous()
    statistics = (None, None) if norm is None else (norm.mean_D, norm.variance_D)
    fixed = Fixed(layout, codes(plans, state_BD.device), mask_BD, *statistics)
    output_TABD, statistics_T2AD = _Recurrences.apply(fixed, *tensors)
    outputs = [output_TABD.squeeze(1)] if len(plans) == 1 else output_TABD.unbind(1)
    if statistics_T2AD is None:
        return [Recurrence(output_TBD) for output_TBD in outputs]
    return [
        Recurrence(output_TBD, statistics_T2AD[:, 0, a], statistics_T2AD[:, 1, a])
        for a, output_TBD in enumerate(outputs)
    ]


def codes(plans: Sequence[CellPlan], device: torch.device) -> Tensor:
    """The architectures as data [A, N, 3], as `enas.gpu.passes` reads them."""
    numbers = list(ACTIVATIONS)
    rows = [
        [
            (source, numbers.index(function), len(plan.outputs) if node in plan.outputs else 0)
            for node, (source, function) in enumerate(zip((0, *plan.sources), plan.functions, strict=True))
        ]
        for plan in plans
    ]
    return sent(torch.tensor(rows, dtype=torch.int32), device)


def type_of_products(x: Tensor) -> torch.dtype:
    """The type of the operands of products: autocast's if it is on, else their own. float64 stays."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Fixed(NamedTuple):
    """What a window depends on beside the tensors that get a gradient."""

    layout: Layout
    codes_AN3: Tensor
    mask_BD: Tensor | None
    mean_D: Tensor | None
    """Of the norm, where it is given, as the next one."""
    variance_D: Tensor | None

    def split(self, xs: Sequence[T]) -> tuple[T, T, Sequence[T], Sequence[T]]:
        """Projected input; state; weight and bias of the norm if there is one; weights of all cells, node by node."""
        weights = 2 if self.layout.norm == "none" else 4
        return xs[0], xs[1], xs[2:weights], xs[weights:]


class _Recurrences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fixed: Fixed, *tensors: Tensor) -> Any:
        ctx.fixed = fixed
        ctx.save_for_backward(*tensors)
        lease = computed(fixed, tensors)
        ctx.lease = lease if fixed.layout.keep else None
        output_TABD, statistics_T2AD = lease.results()
        if statistics_T2AD is not None:
            ctx.mark_non_differentiable(statistics_T2AD)
        return output_TABD, statistics_T2AD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output_TABD: Tensor, *_: Tensor) -> Any:
        # What the forward pass left is used up by a first pass backward, or by another window in the same memory.
        lease = ctx.lease if ctx.lease and ctx.lease.valid else computed(ctx.fixed, ctx.saved_tensors)
        ctx.lease = None
        return None, *gradients(ctx.fixed, lease, d_output_TABD, ctx.needs_input_grad[1:])


def computed(fixed: Fixed, tensors: Sequence[Tensor]) -> Lease:
    """A window that was computed."""
    layout = fixed.layout
    projected_TABE, state_BD, norm, weights = fixed.split([x.detach().contiguous() for x in tensors])
    state_ABD = state_BD.expand(layout.A, layout.B, layout.D).contiguous()
    weight_D, bias_D = norm or (None, None)
    inputs = Inputs(
        projected_TABE,
        state_ABD,
        fixed.codes_AN3,
        fixed.mask_BD,
        weight_D,
        bias_D,
        fixed.mean_D,
        fixed.variance_D,
    )
    return GRAPHS.computed(layout, inputs, weights)


def gradients(
    fixed: Fixed, lease: Lease, d_output_TABD: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the tensors of a window, None where not needed; uses up what the forward pass left."""
    layout, window = fixed.layout, lease.backward(d_output_TABD)
    projected_needed, state_needed, norm_needed, weights_needed = fixed.split(needed)
    found: list[Tensor | None] = [None, None, *(None for _ in norm_needed), *(None for _ in weights_needed)]
    if projected_needed:
        d_TABE = window.saved_NSABE[0].to(layout.real, copy=True)
        found[0] = d_TABE.sum(1, keepdim=True) if layout.shared_input and layout.A > 1 else d_TABE
    if state_needed:
        d_operand_ABD = window.d_operands_NABD[0].to(layout.real)
        masked_ABD = d_operand_ABD if fixed.mask_BD is None else d_operand_ABD * fixed.mask_BD
        found[1] = (window.carries_NABD[0] + masked_ABD).sum(0)
    if window.d_norm_S2AD is not None:
        found[2:4] = window.d_norm_S2AD.sum((0, 2)).unbind(0)
    if any(weights_needed):
        # For one architecture these are views: all steps of a node lie together.
        operands, d_products = (
            x_NSA.transpose(1, 2).flatten(2, 3).flatten(0, 1)
            for x_NSA in (window.operands_NSABD, window.saved_NSABE)
        )
        with as_they_are(layout.device):
            d_weights = torch.bmm(operands.mT, d_products).to(layout.real)
        first = len(found) - len(weights_needed)
        for place, need in enumerate(weights_needed):
            found[first + place] = d_weights[place] if need else None
    return found
