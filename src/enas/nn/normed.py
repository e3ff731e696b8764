"""The algebra of a batch norm whose statistics are summed by the kernel that writes its input.

Forward: the kernel leaves, for every unit of images, the sum of each channel and the squared deviations from the unit's own
mean; `normalisation` makes of them what the readers apply, scale · y + shift. Backward: the readers return the gradients of
scale and shift, and `norm_gradient` makes of these the gradients of weight and bias, and the numbers (a, b) with which the
whole gradient of y is dy + a + b · y.

Shape letters: U units of images, C channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from enas.nn.activation import Activation, ChannelNorm, Statistics
from enas.nn.kernels import array, kernel

BUCKETS = 16
"""Ranges of units that have gradient buffers of their own: fixed, so that sums do not depend on the number of threads."""


class Normalisation(NamedTuple):
    """What normalises feature maps: scale · y + shift, from these statistics."""

    scale_C: Tensor
    shift_C: Tensor
    mean_C: Tensor
    variance_C: Tensor


class NormInputs(NamedTuple):
    """What an autograd function needs of a norm: weight and bias to learn, and statistics if they are given."""

    weight_C: Tensor
    bias_C: Tensor
    eps: float
    given_mean_C: Tensor | None
    given_variance_C: Tensor | None

    @classmethod
    def of(cls, norm: ChannelNorm, statistics: Statistics) -> NormInputs:
        """A norm's, with its moving averages where these normalise."""
        if statistics == "moving":
            return cls(norm.weight, norm.bias, norm.eps, norm.mean_C, norm.variance_C)
        return cls(norm.weight, norm.bias, norm.eps, None, None)


def normalised(norm: ChannelNorm, statistics: Statistics, outputs: tuple[Tensor, ...]) -> Activation:
    """The feature maps (y, scale, shift, mean, variance) of an autograd function, whose norm is still to come.

    In training mode, batch statistics are taken into the moving averages.
    """
    y_BCHW, scale_C, shift_C, mean_C, variance_C = outputs
    if statistics == "batch" and norm.training:
        norm.update(mean_C, variance_C, y_BCHW.numel() // y_BCHW.shape[1])
    return Activation(y_BCHW, scale_C, shift_C)


@kernel
def _combine(sums_U2C: Any, count_U: Any, weight_C: Any, bias_C: Any, eps: Any, out_4C: Any) -> None:
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
        out_4C[2, c] = mean
        out_4C[3, c] = variance


def normalisation(sums_U2C: Tensor, count_U: Tensor, norm: NormInputs) -> Normalisation:
    """From each unit's sum and squared deviations from its own mean, over count_U values a channel (float64).

    Raises nothing; given statistics are taken as they are.
    """
    if norm.given_mean_C is not None and norm.given_variance_C is not None:
        mean_C, variance_C = norm.given_mean_C, norm.given_variance_C
        scale_C = norm.weight_C * torch.rsqrt(variance_C + norm.eps)
        return Normalisation(scale_C, norm.bias_C - mean_C * scale_C, mean_C.clone(), variance_C.clone())
    out_4C = torch.empty(4, len(norm.weight_C))
    _combine(
        array(sums_U2C), array(count_U), array(norm.weight_C), array(norm.bias_C), norm.eps, array(out_4C)
    )
    return Normalisation(*out_4C)


@kernel
def _gradient(
    d_scale_C: Any,
    d_shift_C: Any,
    mean_C: Any,
    variance_C: Any,
    weight_C: Any,
    eps: Any,
    count: Any,
    out_4C: Any,
) -> None:
    for c in range(len(weight_C)):
        mean, r = np.float64(mean_C[c]), 1 / np.sqrt(variance_C[c] + eps)
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


def norm_gradient(
    d_scale_C: Tensor | None,
    d_shift_C: Tensor | None,
    mean_C: Tensor,
    variance_C: Tensor,
    weight_C: Tensor,
    eps: float,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight and bias, and (a, b) [2, C].

    `count` is the number of values a channel, or 0 where the statistics were given and do not depend on y.
    """
    out_4C = torch.empty(4, len(weight_C))
    zeros_C = torch.zeros(len(weight_C)) if d_scale_C is None or d_shift_C is None else None
    d_scale_C = zeros_C if d_scale_C is None else d_scale_C
    d_shift_C = zeros_C if d_shift_C is None else d_shift_C
    assert d_scale_C is not None
    assert d_shift_C is not None
    _gradient(
        array(d_scale_C.contiguous()),
        array(d_shift_C.contiguous()),
        array(mean_C),
        array(variance_C),
        array(weight_C),
        eps,
        count,
        array(out_4C),
    )
    return out_4C[0], out_4C[1], out_4C[2:]
