"""Everything between two matrix products of a recurrent cell, one operator each: here in plain torch, the specification.

Torch knows them as `torch.ops.enas.NAME`. On a GPU each is one launch of a Triton kernel (`kernels`), where Triton is there;
it comes with a torch that is built for CUDA or ROCm.

The architecture is data: `codes_AN3` holds, for every node, the node that it reads, the number of its function, and for an
output how many outputs there are, else 0. What is launched is the same for all cells with as many nodes. Node 0 reads the h
of the step before, and its first code means nothing.

Shape letters: A architectures side by side, N nodes, B batch, D hidden, E = 2D (candidate, then gate). States, norms and
what the backward pass carries have the type of the weights; products, operands, candidates and gates that of products.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from enas.cell_plan import ACTIVATIONS

_GRADIENTS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda c, d: d * (1 - c * c),
    lambda c, d: d * (c > 0),
    lambda c, d: d * c * (1 - c),
    lambda c, d: d,
)
"""From the value c of a function and its gradient to that of its argument, in the order of `ACTIVATIONS`."""


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
    """`s_k = s_j + sigmoid(g) (f(a) - s_j)` of one node k, (a, g) its product and what is projected, which node 0 alone has.

    Writes the state; candidate and gate unless None; and, unless it is the last, the masked state that the next node reads.
    """
    source_ABD = h_ABD if node == 0 else _read(states_NABD, codes_AN3, node)
    sum_ABE = product_ABE.to(h_ABD.dtype)
    sum_ABE = sum_ABE if projected_ABE is None else sum_ABE + projected_ABE
    a_ABD, g_ABD = sum_ABE.chunk(2, -1)
    candidate_ABD = _chosen([f(a_ABD) for f in ACTIVATIONS.values()], codes_AN3[:, node, 1])
    gate_ABD = g_ABD.sigmoid()
    states_NABD[node] = source_ABD + gate_ABD * (candidate_ABD - source_ABD)
    if saved_ABE is not None:
        saved_ABE.copy_(torch.cat([candidate_ABD, gate_ABD], -1))
    if operand_ABD is not None:
        operand_ABD.copy_(_masked(_read(states_NABD, codes_AN3, node + 1), mask_BD))


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
    """h: the mean of the outputs, normalised where there is a weight, by the batch's statistics unless they are given.

    Writes h; its masked copy for the next step, what is normal before weight and bias, and the batch's mean and variance,
    each unless None.
    """
    shares_NA = _shares(codes_AN3[:, :, 2].T, h_ABD.dtype)
    mean_ABD = (states_NABD * shares_NA[:, :, None, None]).sum(0)
    if weight_D is not None and bias_D is not None:
        if mean_D is None or variance_D is None:
            variance_AD, mean_AD = torch.var_mean(mean_ABD, dim=1, correction=0)
            if statistics_2AD is not None:
                statistics_2AD.copy_(torch.stack([mean_AD, variance_AD]))
        else:
            variance_AD, mean_AD = variance_D[None], mean_D[None]
        normalised_ABD = (mean_ABD - mean_AD[:, None]) / (variance_AD[:, None] + eps).sqrt()
        if normal_ABD is not None:
            normal_ABD.copy_(normalised_ABD)
        mean_ABD = normalised_ABD * weight_D + bias_D
    h_ABD.copy_(mean_ABD)
    if operand_ABD is not None:
        operand_ABD.copy_(_masked(mean_ABD, mask_BD))


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
    """The gradient of `output_forward`, that of h being what the output gets and, but in the last step, what node 0 of the
    next step left. Writes those of weight and bias in this step, if there is a norm, and that of the mean of the outputs.

    `by_batch` says that the statistics were the batch's, and so depend on it.
    """
    d_ABD = d_output_ABD
    if carries_NABD is not None and d_operands_NABD is not None:
        d_ABD = d_ABD + carries_NABD[0] + _masked(d_operands_NABD[0].to(d_ABD.dtype), mask_BD)
    if weight_D is not None and variance_AD is not None and normal_ABD is not None:
        dot_ABD = d_ABD * normal_ABD
        if d_norm_2AD is not None:
            d_norm_2AD.copy_(torch.stack([dot_ABD.sum(1), d_ABD.sum(1)]))
        if by_batch:
            d_ABD = d_ABD - d_ABD.mean(1, keepdim=True) - normal_ABD * dot_ABD.mean(1, keepdim=True)
        d_ABD = d_ABD * weight_D / (variance_AD[:, None] + eps).sqrt()
    d_mean_ABD.copy_(d_ABD)


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
    """The gradient of `node_forward` of one node, whose readers are done.

    That of its state is its share of the output's, and what each of its readers left: what the highway carries, and the
    gradient of its masked copy. Overwrites candidate and gate with the gradient of the product; writes what is carried on.
    """
    d_ABD = d_mean_ABD * _shares(codes_AN3[:, node, 2], d_mean_ABD.dtype)[:, None, None]
    for reader in range(node + 1, len(states_NABD)):
        reads_A = codes_AN3[:, reader, 0] == node
        left_ABD = carries_NABD[reader] + _masked(d_operands_NABD[reader].to(d_ABD.dtype), mask_BD)
        d_ABD = d_ABD + torch.where(reads_A[:, None, None], left_ABD, 0)
    source_ABD = h_ABD if node == 0 else _read(states_NABD, codes_AN3, node)
    candidate_ABD, gate_ABD = saved_ABE.to(d_ABD.dtype).chunk(2, -1)
    gated_ABD = d_ABD * gate_ABD
    carries_NABD[node] = d_ABD - gated_ABD
    d_a_ABD = _chosen([f(candidate_ABD, gated_ABD) for f in _GRADIENTS], codes_AN3[:, node, 1])
    d_g_ABD = (candidate_ABD - source_ABD) * (gated_ABD - gated_ABD * gate_ABD)
    saved_ABE.copy_(torch.cat([d_a_ABD, d_g_ABD], -1))


def _chosen(values: list[Tensor], numbers_A: Tensor) -> Tensor:
    """For each architecture the value of its number."""
    return torch.stack(values)[numbers_A.long(), torch.arange(len(numbers_A), device=numbers_A.device)]


def _read(states_NABD: Tensor, codes_AN3: Tensor, node: int) -> Tensor:
    """The state that a node reads."""
    sources_A = codes_AN3[:, node, 0]
    return states_NABD[sources_A.long(), torch.arange(len(sources_A), device=sources_A.device)]


def _shares(outputs: Tensor, dtype: torch.dtype) -> Tensor:
    """What each output has in the mean, of the number of outputs; 0 for what is none."""
    return torch.where(outputs > 0, 1 / outputs.to(dtype), 0)


def _masked(x_ABD: Tensor, mask_BD: Tensor | None) -> Tensor:
    return x_ABD if mask_BD is None else x_ABD * mask_BD


# ---- as operators of torch ---------------------------------------------------------------------------------------------

PASSES = {
    node_forward: "(Tensor product, Tensor? projected, Tensor h, Tensor(a!) states, Tensor(b!)? saved, Tensor(c!)? operand, "
    "Tensor? mask, Tensor codes, int node) -> ()",
    output_forward: "(Tensor states, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? variance, Tensor(a!) h, "
    "Tensor(b!)? operand, Tensor(c!)? normal, Tensor(d!)? statistics, Tensor? mask, Tensor codes, float eps) -> ()",
    output_backward: "(Tensor d_output, Tensor? carries, Tensor? d_operands, Tensor? weight, Tensor? variance, "
    "Tensor? normal, Tensor(a!)? d_norm, Tensor(b!) d_mean, Tensor? mask, bool by_batch, float eps) -> ()",
    node_backward: "(Tensor d_mean, Tensor(a!) carries, Tensor d_operands, Tensor h, Tensor states, Tensor(b!) saved, "
    "Tensor? mask, Tensor codes, int node) -> ()",
}
"""The passes and their signatures."""


def _register() -> torch.library.Library:
    library = torch.library.Library("enas", "DEF")
    for function, signature in PASSES.items():
        library.define(f"{function.__name__}{signature}")
        library.impl(function.__name__, function, "CompositeExplicitAutograd")
        library.impl(function.__name__, lambda *arguments: None, "Meta")  # nothing but what is written
    if importlib.util.find_spec("triton") is not None and torch.cuda.is_available():
        from enas.gpu import kernels

        for function in PASSES:
            library.impl(function.__name__, getattr(kernels, function.__name__), "CUDA")
    return library


LIBRARY = _register()
"""Keeps the operators, which are gone when it is."""
