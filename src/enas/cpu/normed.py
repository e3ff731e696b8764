"""The algebra of a batch norm whose statistics are summed by the kernel that writes its input.

Forward: the kernel leaves, for every unit of images, the sum of each channel and the squared deviations from the unit's own
mean; `with_norm` makes of them what the readers apply, scale · y + shift. Backward: the readers return the gradients of
scale and shift, and `output_gradient` makes of these the gradients of weight and bias, and the numbers (a, b) with which the
whole gradient of y is dy + a + b · y.

An autograd function takes the fields of `NormInputs` among its arguments, ends its forward pass with `with_norm`, and begins
its backward pass with `output_gradient`; what it returns becomes an `Deferred` by `normalised`.

Shape letters: U units of images, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from enas.cpu.deferred import Deferred
from enas.cpu.kernels import array, kernel

BUCKETS = 16
"""Ranges of units that have gradient buffers of their own: fixed, so that sums do not depend on the number of threads."""


class NormInputs(NamedTuple):
    """What an autograd function needs of a norm: weight and bias to learn, and statistics if they are given."""

    weight_C: Tensor
    bias_C: Tensor
    eps: float
    given_mean_C: Tensor | None
    given_variance_C: Tensor | None

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> NormInputs:
        """A norm's, with its moving averages where these normalise: in evaluation mode."""
        if norm.training:
            return cls(norm.weight, norm.bias, norm.eps, None, None)
        return cls(norm.weight, norm.bias, norm.eps, norm.running_mean, norm.running_var)

    @classmethod
    def split(cls, arguments: Sequence[Any]) -> tuple[NormInputs, Sequence[Any]]:
        """The fields of a norm, which are the first of these arguments, and the arguments after them."""
        size = len(cls._fields)
        return cls(*arguments[:size]), arguments[size:]


def normalised(norm: nn.BatchNorm2d, outputs: tuple[Tensor, ...]) -> Deferred:
    """The feature maps (y, scale, shift, mean, variance) of an autograd function, whose norm is still to come.

    In training mode, batch statistics are taken into the moving averages, as torch's own forward pass does.
    """
    y_BCHW, scale_C, shift_C, mean_C, variance_C = outputs
    if norm.training and norm.track_running_stats:
        update_averages(norm, mean_C, variance_C, y_BCHW.numel() // y_BCHW.shape[1])
    return Deferred(y_BCHW, scale_C, shift_C)


@torch.no_grad()
def update_averages(norm: nn.BatchNorm2d, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
    """Take a minibatch's statistics, over `count` values a channel, into the moving averages (variance unbiased)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean_C.detach(), share)
    norm.running_var.lerp_(variance_C.detach() * (count / max(count - 1, 1)), share)


@kernel
def _combine(
    sums_U2C: Any, count_U: Any, weight_C: Any, bias_C: Any, eps: Any, out_4C: Any, exact_2C: Any
) -> None:
    """Mean and variance over all units, in double precision, and the scale and shift by them."""
    U, _, C = sums_U2C.shape
    count = 0.0
    for u in range(U):
        count += count_U[u]
    for c in range(C):
        total = 0.0
        for u in range(U):
            total += sums_U2C[u, 0, c]
        mean = total / count
        squares = 0.0
        for u in range(U):
            deviation = sums_U2C[u, 0, c] / count_U[u] - mean
            squares += sums_U2C[u, 1, c] + count_U[u] * deviation * deviation
        variance = squares / count
        scale = weight_C[c] / np.sqrt(variance + eps)
        out_4C[0, c] = scale
        out_4C[1, c] = bias_C[c] - mean * scale
        out_4C[2, c] = exact_2C[0, c] = mean
        out_4C[3, c] = exact_2C[1, c] = variance


@lru_cache(maxsize=64)
def counts(images: int, unit: int, pixels: int) -> np.ndarray[Any, Any]:
    """Values a channel of every unit [U], where so many images make units of `unit` images, the last of the rest."""
    count_U = np.full(-(-images // unit), unit * pixels, np.float64)
    count_U[-1] = images * pixels - count_U[:-1].sum()
    return count_U


def _normalisation(
    sums_U2C: Tensor, count_U: np.ndarray[Any, Any], norm: NormInputs
) -> tuple[Tensor, Tensor]:
    """(scale, shift, mean, variance) [4, C] from the sums, or by the given statistics; the last two in float64 [2, C]."""
    if norm.given_mean_C is not None and norm.given_variance_C is not None:
        mean_C, variance_C = norm.given_mean_C, norm.given_variance_C
        scale_C = norm.weight_C * torch.rsqrt(variance_C + norm.eps)
        out_4C = torch.stack([scale_C, norm.bias_C - mean_C * scale_C, mean_C, variance_C])
        return out_4C, out_4C[2:].double()
    out_4C = torch.empty(4, len(norm.weight_C))
    exact_2C = torch.empty(2, len(norm.weight_C), dtype=torch.float64)
    _combine(
        array(sums_U2C),
        count_U,
        array(norm.weight_C),
        array(norm.bias_C),
        norm.eps,
        array(out_4C),
        array(exact_2C),
    )
    return out_4C, exact_2C


def with_norm(
    ctx: Any,
    y_BCHW: Tensor,
    sums_U2C: Tensor,
    count_U: np.ndarray[Any, Any],
    norm: NormInputs,
    *saved: Tensor | None,
) -> tuple[Tensor, ...]:
    """What an autograd function returns, (y, scale, shift, mean, variance); no gradient flows back from the last two.

    Takes each unit's sum, and its squared deviations from its own mean, over count_U values a channel; where statistics are
    given, the sums are not read. Keeps in `ctx` what `output_gradient` needs, and the `saved` tensors.
    """
    out_4C, exact_2C = _normalisation(sums_U2C, count_U, norm)
    scale_C, shift_C, mean_C, variance_C = out_4C.unbind()
    ctx.save_for_backward(y_BCHW, norm.weight_C, exact_2C, *saved)
    ctx.eps = norm.eps
    ctx.values = 0 if norm.given_mean_C is not None else y_BCHW.numel() // y_BCHW.shape[1]
    ctx.mark_non_differentiable(mean_C, variance_C)
    ctx.set_materialize_grads(False)
    return y_BCHW, scale_C, shift_C, mean_C, variance_C


@kernel
def _gradient(
    d_scale_C: Any,
    d_shift_C: Any,
    statistics_2C: Any,
    weight_C: Any,
    eps: Any,
    count: Any,
    out_4C: Any,
) -> None:
    """Gradients of weight and bias, and (a, b), which bring in that mean and variance depend on y.

    With r = (variance + eps)^-1/2, scale = weight · r and shift = bias - mean · scale. `count` is the number of values a
    channel, or 0 where the statistics were given and do not depend on y.
    """
    for c in range(len(weight_C)):
        mean, r = statistics_2C[0, c], 1 / np.sqrt(statistics_2C[1, c] + eps)
        along = d_scale_C[c] - mean * d_shift_C[c]
        out_4C[0, c] = along * r
        out_4C[1, c] = d_shift_C[c]
        if count > 0:
            b = -along * weight_C[c] * r * r * r / count
            out_4C[2, c] = -d_shift_C[c] * weight_C[c] * r / count - b * mean
            out_4C[3, c] = b
        else:
            out_4C[2, c] = 0
            out_4C[3, c] = 0


class OutputGradient(NamedTuple):
    """The gradients of maps y and of the norm after them; the whole gradient of y is dy + a + b · y."""

    y_BCHW: Tensor
    dy_BCHW: Tensor
    """Contiguous."""
    ab_2C: Tensor
    norm: tuple[Tensor | None, ...]
    """Gradients of the fields of `NormInputs`."""


def output_gradient(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[OutputGradient, list[Any]]:
    """From the gradients of what `with_norm` returned; and the tensors saved there."""
    dy_BCHW, d_scale_C, d_shift_C, *_ = gradients
    y_BCHW, weight_C, statistics_2C, *saved = ctx.saved_tensors
    out_4C = torch.empty(4, len(weight_C))
    zeros_C = torch.zeros(len(weight_C)) if d_scale_C is None or d_shift_C is None else weight_C
    _gradient(
        array((zeros_C if d_scale_C is None else d_scale_C).contiguous()),
        array((zeros_C if d_shift_C is None else d_shift_C).contiguous()),
        array(statistics_2C),
        array(weight_C),
        ctx.eps,
        ctx.values,
        array(out_4C),
    )
    dy_BCHW = torch.zeros_like(y_BCHW) if dy_BCHW is None else dy_BCHW.contiguous()
    norm = (out_4C[0], out_4C[1], None, None, None)
    return OutputGradient(y_BCHW, dy_BCHW, out_4C[2:], norm), saved
