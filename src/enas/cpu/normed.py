"""The algebra of a batch norm whose statistics are summed by the kernel that writes its input.

Forward: for every unit of images, the kernel leaves the sum of each channel and its squared deviations from the unit's own
mean. From them `with_norm` computes the scale and shift that the readers of y apply. Backward: the readers return the
gradients of scale and shift. From these `output_gradient` computes those of weight and bias, and the numbers (a, b) with
which the whole gradient of y is dy + a + b · y.

An autograd function begins its arguments with weight, bias and eps, ends its forward pass with `with_norm`, and begins its
backward pass with `output_gradient`; `normalised` calls it.

Shape letters: U units of images, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

from enas.cpu.compiler import array, kernel
from enas.cpu.deferred import Deferred, apply

BUCKETS = 16
"""Ranges of units with gradient buffers of their own. Their number is fixed, so that sums do not depend on the threads."""


def normalised(function: type[Function], norm: nn.BatchNorm2d, *arguments: Any) -> Deferred:
    """norm(y) of the maps y that the function returns; in training, the moving averages are moved."""
    outputs = apply(function, norm.weight, norm.bias, norm.eps, *arguments)
    y_BCHW, scale_C, shift_C, mean_C, variance_C = outputs
    if not norm.training:
        return averaged(y_BCHW, norm)
    if norm.track_running_stats:
        update_averages(norm, mean_C, variance_C, y_BCHW.numel() // y_BCHW.shape[1])
    return Deferred(y_BCHW, scale_C, shift_C)


def averaged(y_BCHW: Tensor, norm: nn.BatchNorm2d) -> Deferred:
    """norm(y) by the moving averages."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return Deferred(y_BCHW, scale_C, norm.bias - norm.running_mean * scale_C)


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
def _combine(sums_U2C, unit, count, weight_C, bias_C, eps, out_4C, exact_2C):
    """Mean and variance over all units, in double precision, and the scale and shift by them.

    A unit has `unit` values a channel, the last one the rest of `count`.
    """
    U, _, C = sums_U2C.shape
    for c in range(C):
        total = 0.0
        for u in range(U):
            total += sums_U2C[u, 0, c]
        mean = total / count
        squares = 0.0
        for u in range(U):
            values = unit if u + 1 < U else count - unit * (U - 1)
            deviation = sums_U2C[u, 0, c] / values - mean
            squares += sums_U2C[u, 1, c] + values * deviation * deviation
        variance = squares / count
        scale = weight_C[c] / np.sqrt(variance + eps)
        out_4C[0, c] = scale
        out_4C[1, c] = bias_C[c] - mean * scale
        out_4C[2, c] = exact_2C[0, c] = mean
        out_4C[3, c] = exact_2C[1, c] = variance


def with_norm(
    ctx: Any,
    y_BCHW: Tensor,
    sums_U2C: Tensor,
    images: int,
    weight_C: Tensor,
    bias_C: Tensor,
    eps: float,
    *saved: Tensor | None,
) -> tuple[Tensor, ...]:
    """What an autograd function returns, (y, scale, shift, mean, variance); no gradient flows back from the last two.

    `sums_U2C` has each unit's sums, and its squared deviations from its own means. A unit has `images` images, the last one
    the rest. `ctx` keeps what `output_gradient` needs, and the `saved` tensors.
    """
    B, C, H, W = y_BCHW.shape
    out_4C, exact_2C = y_BCHW.new_empty(4, C), y_BCHW.new_empty(2, C, dtype=torch.float64)
    arrays = (array(weight_C), array(bias_C), eps, array(out_4C), array(exact_2C))
    _combine(array(sums_U2C), float(images * H * W), float(B * H * W), *arrays)
    scale_C, shift_C, mean_C, variance_C = out_4C.unbind()
    ctx.save_for_backward(y_BCHW, weight_C, exact_2C, *saved)
    ctx.eps = eps
    ctx.mark_non_differentiable(mean_C, variance_C)
    return y_BCHW, scale_C, shift_C, mean_C, variance_C


@kernel
def _gradient(d_scale_C, d_shift_C, statistics_2C, weight_C, eps, count, out_4C):
    """Gradients of weight and bias, and (a, b), as mean and variance depend on y.

    With r = (variance + eps)^-1/2, scale = weight · r and shift = bias - mean · scale; `count` values a channel.
    """
    for c in range(len(weight_C)):
        mean, r = statistics_2C[0, c], 1 / np.sqrt(statistics_2C[1, c] + eps)
        along = d_scale_C[c] - mean * d_shift_C[c]
        b = -along * weight_C[c] * r * r * r / count
        out_4C[0, c] = along * r
        out_4C[1, c] = d_shift_C[c]
        out_4C[2, c] = -d_shift_C[c] * weight_C[c] * r / count - b * mean
        out_4C[3, c] = b


class OutputGradient(NamedTuple):
    """The gradients of maps y and of the norm after them; the whole gradient of y is dy + a + b · y."""

    y_BCHW: Tensor
    dy_BCHW: Tensor
    """Contiguous."""
    ab_2C: Tensor
    norm: tuple[Tensor | None, ...]
    """Gradients of weight, bias and eps."""


def output_gradient(ctx: Any, gradients: Sequence[Tensor]) -> tuple[OutputGradient, list[Any]]:
    """From the gradients of what `with_norm` returned; and the tensors saved there."""
    dy_BCHW, d_scale_C, d_shift_C, *_ = (gradient.contiguous() for gradient in gradients)
    y_BCHW, weight_C, statistics_2C, *saved = ctx.saved_tensors
    out_4C = y_BCHW.new_empty(4, len(weight_C))
    count = y_BCHW.numel() // y_BCHW.shape[1]
    arrays = (array(statistics_2C), array(weight_C), ctx.eps, count, array(out_4C))
    _gradient(array(d_scale_C), array(d_shift_C), *arrays)
    return OutputGradient(y_BCHW, dy_BCHW, out_4C[2:], (out_4C[0], out_4C[1], None)), saved
