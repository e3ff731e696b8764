"""The recurrent cell over a window of time: one architecture, T steps, a forward and a backward pass.

Paper, appendix A, equations 2-5. Shape letters: T time, B batch, D hidden, E = 2D (candidate columns, then gate columns).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from enas.errors import ConfigError
from enas.nn.products import operand_type
from enas.nn.usable import kernels_usable

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class CellPlan:
    """One recurrent architecture in the kernel's terms; node 0 is the input node.

    Raises ConfigError for a source that is not an earlier node, an unknown function, or outputs that are empty,
    repeated or not nodes.
    """

    sources: tuple[int, ...]
    """`sources[k - 1]` is the predecessor j < k of node k = 1 .. N-1."""
    functions: tuple[str, ...]
    """Functions of nodes 0 .. N-1, each a key of `ACTIVATIONS`."""
    outputs: tuple[int, ...]
    """Nodes whose mean is the output: the loose ends (paper), or all searched nodes (authors)."""

    def __post_init__(self) -> None:
        n = len(self.functions)
        if len(self.sources) != n - 1:
            raise ConfigError(
                f"A cell of {n} functions needs {n - 1} sources, one for every node but the first; "
                f"there are {len(self.sources)}."
            )
        for k, j in enumerate(self.sources, start=1):
            if not 0 <= j < k:
                raise ConfigError(f"Node {k} reads node {j}; it can read the nodes 0 to {k - 1} only.")
        for f in self.functions:
            if f not in ACTIVATIONS:
                raise ConfigError(f"Unknown function {f!r}; choose among {', '.join(ACTIVATIONS)}.")
        if (
            not self.outputs
            or len(set(self.outputs)) < len(self.outputs)
            or not set(self.outputs) <= set(range(n))
        ):
            raise ConfigError(
                f"The outputs {self.outputs} must be distinct nodes among 0 to {n - 1}, at least one."
            )


@dataclass(frozen=True)
class OutputNorm:
    """Batch normalisation of the mean of the outputs, over the batch at each time step.

    Without `mean_D` and `variance_D` the statistics of the batch are used (biased variance), else the given ones, as
    constants.
    """

    weight_D: Tensor
    bias_D: Tensor
    eps: float
    mean_D: Tensor | None = None
    variance_D: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.mean_D is None) != (self.variance_D is None):
            raise ConfigError("Give the norm both mean and variance, or neither to use the batch's.")


class Recurrence(NamedTuple):
    """What a window of time returns; the last output is the state to carry into the next window."""

    output_TBD: Tensor
    mean_TD: Tensor | None = None
    """The batch's mean at every step, without gradient; None unless the norm used batch statistics."""
    variance_TD: Tensor | None = None
    """The batch's biased variance at every step; likewise."""


def recurrence_reference(
    projected_TBE: Tensor,
    state_BD: Tensor,
    recurrent_weight_DE: Tensor,
    node_weights_DE: Sequence[Tensor],
    plan: CellPlan,
    *,
    state_mask_BD: Tensor | None = None,
    norm: OutputNorm | None = None,
    dtype: torch.dtype = torch.float32,
) -> Recurrence:
    """The specification of `recurrence`, in plain autograd; any device."""

    def product(s_BD: Tensor, weight_DE: Tensor) -> Tensor:
        masked_BD = s_BD if state_mask_BD is None else s_BD * state_mask_BD
        return (masked_BD.to(dtype) @ weight_DE.to(dtype)).to(s_BD.dtype)

    def highway(s_BD: Tensor, product_BE: Tensor, function: str) -> Tensor:
        candidate_BD, gate_BD = product_BE.chunk(2, dim=-1)
        return s_BD + torch.sigmoid(gate_BD) * (ACTIVATIONS[function](candidate_BD) - s_BD)

    outputs, means, variances = [], [], []
    for projected_BE in projected_TBE:
        nodes = [highway(state_BD, projected_BE + product(state_BD, recurrent_weight_DE), plan.functions[0])]
        for source, function, weight_DE in zip(
            plan.sources, plan.functions[1:], node_weights_DE, strict=True
        ):
            nodes.append(highway(nodes[source], product(nodes[source], weight_DE), function))
        state_BD = torch.stack([nodes[k] for k in plan.outputs]).mean(0)
        if norm is not None:
            if norm.mean_D is None or norm.variance_D is None:
                variance_D, mean_D = torch.var_mean(state_BD, dim=0, correction=0)
                means.append(mean_D.detach())
                variances.append(variance_D.detach())
            else:
                mean_D, variance_D = norm.mean_D.detach(), norm.variance_D.detach()
            state_BD = (state_BD - mean_D) * torch.rsqrt(variance_D + norm.eps) * norm.weight_D + norm.bias_D
        outputs.append(state_BD)
    if means:
        return Recurrence(torch.stack(outputs), torch.stack(means), torch.stack(variances))
    return Recurrence(torch.stack(outputs))


def recurrence(
    projected_TBE: Tensor,
    state_BD: Tensor,
    recurrent_weight_DE: Tensor,
    node_weights_DE: Sequence[Tensor],
    plan: CellPlan,
    *,
    state_mask_BD: Tensor | None = None,
    norm: OutputNorm | None = None,
    dtype: torch.dtype = torch.float32,
) -> Recurrence:
    """Run the cell over T steps.

    Node 0: `(a, g) = projected_t + (m * h_{t-1}) W_h`, `s_0 = h_{t-1} + sigmoid(g) * (f_0(a) - h_{t-1})`;
    node k with source j: `(a, g) = (m * s_j) W_k`, `s_k = s_j + sigmoid(g) * (f_k(a) - s_j)`;
    `h_t` is the mean of `s` over the plan's outputs, normalised if there is a `norm`.

    Args:
        projected_TBE: input times input weight at every step, `x_t W_x`.
        state_BD: h before the first step.
        recurrent_weight_DE: W_h; columns of the candidate, then of the gate.
        node_weights_DE: W_k of nodes 1 .. N-1.
        state_mask_BD: dropout mask m, already scaled, the same at every step; it multiplies only what enters a product.
        norm: batch norm applied to the mean of the outputs; its result is the output and the next state.
        dtype: precision of the operands of the matrix products, see `operand_type`; states keep the dtype of `state_BD`.

    Raises:
        ConfigError: shapes do not fit together or with the plan.
    """
    _check_shapes(projected_TBE, state_BD, recurrent_weight_DE, node_weights_DE, plan, norm)
    dtype = operand_type(state_BD.dtype, dtype)
    if kernels_take(state_BD, dtype):
        from enas.nn.recurrence_fused import fused_recurrence as run
    else:
        run = recurrence_reference
    return run(
        projected_TBE,
        state_BD,
        recurrent_weight_DE,
        node_weights_DE,
        plan,
        state_mask_BD=state_mask_BD,
        norm=norm,
        dtype=dtype,
    )


def kernels_take(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether there are compiled kernels for activations like `x` with matrix products in `dtype`.

    There are on a CPU, for products in the dtype of x, or in bfloat16 with float32 activations, where kernels can be used
    now.
    """
    compiled = (
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.float64),
    )
    return x.device.type == "cpu" and (x.dtype, dtype) in compiled and kernels_usable()


def _check_shapes(
    projected_TBE: Tensor,
    state_BD: Tensor,
    recurrent_weight_DE: Tensor,
    node_weights_DE: Sequence[Tensor],
    plan: CellPlan,
    norm: OutputNorm | None,
) -> None:
    B, D = state_BD.shape
    if projected_TBE.shape[1:] != (B, 2 * D):
        raise ConfigError(
            f"A state of shape {[B, D]} needs a projected input of shape [T, {B}, {2 * D}], not "
            f"{list(projected_TBE.shape)}."
        )
    if len(node_weights_DE) != len(plan.sources):
        raise ConfigError(
            f"The plan has {len(plan.sources)} nodes with weights; {len(node_weights_DE)} were given."
        )
    for k, weight_DE in enumerate([recurrent_weight_DE, *node_weights_DE]):
        if weight_DE.shape != (D, 2 * D):
            raise ConfigError(f"The weight of node {k} must be [{D}, {2 * D}], not {list(weight_DE.shape)}.")
    vectors = [] if norm is None else [norm.weight_D, norm.bias_D, norm.mean_D, norm.variance_D]
    if any(x is not None and x.shape != (D,) for x in vectors):
        raise ConfigError(f"Weight, bias, mean and variance of the norm must be of length {D}.")
