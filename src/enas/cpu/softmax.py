"""Cross-entropy of a softmax whose weights are the embedding, without ever holding all logits.

Shape letters: N rows (time x batch), D hidden, V vocabulary, R rows of one chunk.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from enas.cpu.compiler import array, inlined, parallel_with_scratch, team
from enas.cpu.elementary import exp, narrow, widen
from enas.cpu.products import linear
from enas.cpu.registry import operand_type, takes_over, takes_products

CHUNK_ROWS = 320
"""Rows whose logits exist at once: few enough to stay in cache, enough for fast products."""

_LANES = 64


@takes_over("tied_cross_entropy")
def tied_cross_entropy(hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor) -> Tensor | None:
    """With a gradient, which is made in the same sweep."""
    if not _differentiates(hidden_ND, embedding_VD) or not takes_products(hidden_ND, embedding_VD):
        return None
    dtype = operand_type(hidden_ND.dtype)
    with torch.autocast("cpu", enabled=False):  # the products inside have their types already
        loss: Tensor = _TiedCrossEntropy.apply(hidden_ND, embedding_VD, targets_N, dtype)
    return loss


@takes_over("tied_nll")
def tied_nll(hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor) -> Tensor | None:
    """Without a gradient: for evaluation and rewards."""
    if _differentiates(hidden_ND, embedding_VD) or not takes_products(hidden_ND, embedding_VD):
        return None
    dtype = operand_type(hidden_ND.dtype)
    with torch.autocast("cpu", enabled=False):
        return _forward(hidden_ND, embedding_VD, targets_N, dtype, (False, False))[0]


def _differentiates(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


# Sums and maxima run in independent lanes, which the compiler turns into vectors without reordering anything.


@inlined
def _highest(x_V, lanes):
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
def _exps(x_V, highest, lanes, exps_V):
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


@parallel_with_scratch
def _nll_rows(first, last, logits_RV, targets_R, scale, nll_R):
    """nll = log sum exp(logits) - logits[target] of every row.

    Unless `scale` is None, overwrites the logits with the gradient of `scale` times the sum of the nll.
    """
    V = logits_RV.shape[1]
    lanes = np.empty(_LANES, nll_R.dtype)
    exps = np.empty(V, nll_R.dtype)
    for r in range(first, last):
        logits, target = logits_RV[r], targets_R[r]
        highest = _highest(logits, lanes)
        total = _exps(logits, highest, lanes, exps)
        nll_R[r] = np.log(total) + highest - widen(logits[target])
        if scale is not None:
            share = scale / total
            for v in range(V):
                logits[v] = narrow(exps[v] * share, logits)
            logits[target] = narrow(exps[target] * share - scale, logits)


def _forward(
    hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, needed: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The nll of every row; the gradient of its mean with respect to hidden and to embedding, where needed.

    Gradients are made in the same sweep, while a chunk's logits are in cache.
    """
    hidden_ND, embedding_VD, targets_N = hidden_ND.detach(), embedding_VD.detach(), targets_N.contiguous()
    operand_ND = hidden_ND.to(dtype)
    N, V = len(hidden_ND), len(embedding_VD)
    chunks = -(-N // CHUNK_ROWS)
    rows = -(-N // chunks)
    d_hidden_of = linear(embedding_VD.T, dtype, rows, chunks) if needed[0] else None
    logits_of = linear(embedding_VD, dtype, rows, chunks)
    nll_N = hidden_ND.new_empty(N)
    d_hidden_ND = torch.empty_like(hidden_ND) if needed[0] else None
    d_embedding_VD = torch.empty_like(embedding_VD) if needed[1] else None
    for start in range(0, N, rows):
        chunk = slice(start, start + rows)
        logits_RV, nll = logits_of(operand_ND[chunk]), array(nll_N[chunk])
        scale = nll.dtype.type(1 / N) if any(needed) else None
        _nll_rows(team(rows * V), len(nll), array(logits_RV), array(targets_N[chunk]), scale, nll)
        if d_hidden_ND is not None and d_hidden_of is not None:
            d_hidden_ND[chunk] = d_hidden_of(logits_RV)
        if d_embedding_VD is not None:
            _add_product(d_embedding_VD, logits_RV.T, operand_ND[chunk], first=start == 0)
    return nll_N, d_hidden_ND, d_embedding_VD


def _add_product(sum_VD: Tensor, x_VR: Tensor, y_RD: Tensor, *, first: bool) -> None:
    """sum += x y, or sum = x y at first; the sum may be of higher precision than the product."""
    if sum_VD.dtype == x_VR.dtype:
        torch.addmm(sum_VD, x_VR, y_RD, beta=0.0 if first else 1.0, out=sum_VD)
    elif first:
        sum_VD.copy_(x_VR @ y_RD)
    else:
        sum_VD += x_VR @ y_RD


class _TiedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(hidden_ND, embedding_VD, targets_N)
        ctx.dtype = dtype
        nll_N, *ctx.gradients = _forward(hidden_ND, embedding_VD, targets_N, dtype, ctx.needs_input_grad[:2])
        return nll_N.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second pass backward through the same graph: the first gave them away
            hidden_ND, embedding_VD, targets_N = ctx.saved_tensors
            gradients = _forward(hidden_ND, embedding_VD, targets_N, ctx.dtype, ctx.needs_input_grad[:2])[1:]
        if d_loss != 1:
            gradients = [None if gradient is None else gradient.mul_(d_loss) for gradient in gradients]
        return *gradients, None, None
