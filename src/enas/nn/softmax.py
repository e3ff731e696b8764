"""Cross-entropy of a softmax whose weights are the embedding, without ever holding all logits.

Shape letters: N rows (time x batch), D hidden, V vocabulary, R rows of one chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from enas.errors import ConfigError, DataError
from enas.nn.products import operand_type
from enas.nn.recurrence import kernels_take

CHUNK_ROWS = 320
"""Rows whose logits exist at once: few enough to stay in cache, enough for fast products."""


def tied_cross_entropy(
    hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Mean negative log-likelihood (nats a token) of `targets_N` under softmax(hidden embeddingᵀ).

    Args:
        dtype: precision of the operands of the matrix products, see `operand_type`; the loss has the dtype of `hidden_ND`.

    Raises:
        ConfigError: shapes do not fit together.
        DataError: a target is not in the vocabulary.
    """
    if not torch.is_grad_enabled() or not (hidden_ND.requires_grad or embedding_VD.requires_grad):
        return tied_nll(hidden_ND, embedding_VD, targets_N, dtype=dtype).mean()
    _check(hidden_ND, embedding_VD, targets_N)
    dtype = operand_type(hidden_ND.dtype, dtype)
    if not kernels_take(hidden_ND, dtype):
        return tied_nll_reference(hidden_ND, embedding_VD, targets_N, dtype=dtype).mean()
    loss: Tensor = _TiedCrossEntropy.apply(hidden_ND, embedding_VD, targets_N, dtype)
    return loss


@torch.no_grad()
def tied_nll(
    hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Negative log-likelihood (nats) of every row [N], without gradient: for evaluation and rewards.

    Raises:
        ConfigError: shapes do not fit together.
        DataError: a target is not in the vocabulary.
    """
    _check(hidden_ND, embedding_VD, targets_N)
    dtype = operand_type(hidden_ND.dtype, dtype)
    if not kernels_take(hidden_ND, dtype):
        return tied_nll_reference(hidden_ND, embedding_VD, targets_N, dtype=dtype)
    return _forward(hidden_ND, embedding_VD, targets_N, dtype, (False, False))[0]


def tied_nll_reference(
    hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The specification: negative log-likelihood (nats) of every row [N], in plain autograd; any device."""
    logits_NV = (hidden_ND.to(dtype) @ embedding_VD.to(dtype).T).to(hidden_ND.dtype)
    return F.cross_entropy(logits_NV, targets_N, reduction="none")


def _check(hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor) -> None:
    (N, D), V = hidden_ND.shape, len(embedding_VD)
    if embedding_VD.shape != (V, D) or targets_N.shape != (N,):
        raise ConfigError(
            f"Hidden states {[N, D]} need an embedding [V, {D}] and {N} targets, not {list(embedding_VD.shape)} and "
            f"{list(targets_N.shape)}."
        )
    if N == 0:
        raise DataError("There are no targets: give at least one row.")
    if not 0 <= int(targets_N.min()) <= int(targets_N.max()) < V:
        raise DataError(
            f"Targets must be words 0 to {V - 1} of the vocabulary; they reach from {int(targets_N.min())} "
            f"to {int(targets_N.max())}."
        )


def _forward(
    hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, needed: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The nll of every row; the gradient of its mean with respect to hidden and to embedding, where needed.

    Gradients are made in the same sweep, while a chunk's logits are in cache.
    """
    from enas.nn import kernels
    from enas.nn.products import linear, side_by_side
    from enas.nn.threads import team

    hidden_ND, embedding_VD, targets_N = hidden_ND.detach(), embedding_VD.detach(), targets_N.contiguous()
    operand_ND = hidden_ND.to(dtype)
    N, V = len(hidden_ND), len(embedding_VD)
    chunks = -(-N // CHUNK_ROWS)
    rows = -(-N // chunks)
    threads = team(rows * V)
    d_hidden_of = side_by_side([embedding_VD], dtype, rows, chunks) if needed[0] else None
    logits_of = linear(embedding_VD, dtype, rows, chunks)
    nll_N = hidden_ND.new_empty(N)
    d_hidden_ND = torch.empty_like(hidden_ND) if needed[0] else None
    d_embedding_VD = torch.empty_like(embedding_VD) if needed[1] else None
    for start in range(0, N, rows):
        chunk = slice(start, start + rows)
        logits_RV = logits_of(operand_ND[chunk])
        targets, nll = kernels.array(targets_N[chunk]), kernels.array(nll_N[chunk])
        if not any(needed):
            kernels.nll_rows(threads, len(nll), kernels.array(logits_RV), targets, nll)
            continue
        kernels.nll_rows_with_gradient(
            threads, len(nll), kernels.array(logits_RV), targets, nll.dtype.type(1 / N), nll
        )
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
