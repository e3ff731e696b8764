"""Convolutions followed by a batch norm: what every block of the convolutional spaces is made of.

Each takes `Activation`s and returns one, so that norm and ReLU are done where the next operation reads (see
`enas.nn.activation`). Padding keeps the size; a stride of 2 halves it, rounded up.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of a filter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from enas.nn.activation import Activation, ChannelNorm, Statistics, kernels_take
from enas.nn.products import operand_type


def conv_norm(
    x: Activation,
    weight_OCkk: Tensor,
    norm: ChannelNorm,
    *,
    stride: int = 1,
    statistics: Statistics = "batch",
    dtype: torch.dtype = torch.float32,
) -> Activation:
    """norm(convolution(x)), dense, for odd k; `dtype` is the type of the operands where that is faster."""
    if stride == 1 and kernels_take(x.z_BCHW):
        from enas.nn.dense import dense_norm

        return dense_norm([x], weight_OCkk, norm, statistics, dtype)
    return norm.forward(_convolve(x.value(), weight_OCkk, stride, 1, dtype), statistics)


def separable_norm(
    x: Activation,
    depthwise_C1kk: Tensor,
    pointwise_OC11: Tensor,
    norm: ChannelNorm,
    *,
    stride: int = 1,
    statistics: Statistics = "batch",
    dtype: torch.dtype = torch.float32,
) -> Activation:
    """norm(pointwise(depthwise(x))): a depthwise-separable convolution, the stride in its depthwise part."""
    if stride <= 2 and kernels_take(x.z_BCHW):
        from enas.nn.separable import fused_separable_norm

        return fused_separable_norm(
            x, depthwise_C1kk, pointwise_OC11, norm, stride=stride, statistics=statistics
        )
    y_BCHW = _convolve(x.value(), depthwise_C1kk, stride, len(depthwise_C1kk), torch.float32)
    return norm.forward(_convolve(y_BCHW, pointwise_OC11, 1, 1, dtype), statistics)


def joined_conv_norm(
    xs: Sequence[Activation],
    weights_OC11: Sequence[Tensor],
    norm: ChannelNorm,
    *,
    statistics: Statistics = "batch",
    dtype: torch.dtype = torch.float32,
) -> Activation:
    """norm of a 1×1 convolution of the concatenation of `xs`, whose filter has one block of columns for each of them."""
    if kernels_take(*(x.z_BCHW for x in xs)):
        from enas.nn.dense import dense_norm

        return dense_norm(xs, torch.cat(list(weights_OC11), 1), norm, statistics, dtype)
    x_BCHW = torch.cat([x.value() for x in xs], 1)
    return norm.forward(_convolve(x_BCHW, torch.cat(list(weights_OC11), 1), 1, 1, dtype), statistics)


def factorized_reduction_norm(
    x: Activation,
    even_PC11: Tensor,
    odd_QC11: Tensor,
    norm: ChannelNorm,
    *,
    statistics: Statistics = "batch",
    dtype: torch.dtype = torch.float32,
) -> Activation:
    """Halve the size: a 1×1 convolution of the even rows and columns beside one of the odd ones, P + Q channels.

    For an odd size the image is continued by one row and column of zeros.
    """
    if kernels_take(x.z_BCHW):
        from enas.nn.reduction import reduction_norm

        return reduction_norm(x, even_PC11.flatten(1), odd_QC11.flatten(1), norm, statistics)
    x_BCHW = x.value()
    shifted_BCHW = F.pad(x_BCHW, (0, 1, 0, 1))[:, :, 1:, 1:]
    parts = [_convolve(x_BCHW, even_PC11, 2, 1, dtype), _convolve(shifted_BCHW, odd_QC11, 2, 1, dtype)]
    return norm.forward(torch.cat(parts, 1), statistics)


def total(xs: Sequence[Activation], kept_B: Sequence[Tensor | None] | None = None) -> Tensor:
    """The sum of feature maps of one shape; `kept_B` has a factor of at least 0 for each image of a part, or None for 1."""
    kept = [None] * len(xs) if kept_B is None else list(kept_B)
    itself = len(xs) == 1 and kept[0] is None
    if not itself and kernels_take(*(x.z_BCHW for x in xs)):
        from enas.nn import maps

        return maps.total(xs, kept)
    values = [
        x.value() if factor_B is None else x.value() * factor_B[:, None, None, None]
        for x, factor_B in zip(xs, kept, strict=True)
    ]
    return values[0] if len(values) == 1 else torch.stack(values).sum(0)


def total_norm(xs: Sequence[Activation], norm: ChannelNorm, statistics: Statistics = "batch") -> Activation:
    """norm(Σ xs)."""
    if statistics == "batch" and kernels_take(*(x.z_BCHW for x in xs)):
        from enas.nn import maps

        return maps.total_norm(xs, norm)
    return norm.forward(total(xs), statistics)


def average_pool(x: Activation, stride: int = 1) -> Tensor:
    """Mean over 3×3 pixels, those beyond the border left out."""
    if kernels_take(x.z_BCHW):
        from enas.nn import maps

        return maps.average_pool(x, stride)
    return F.avg_pool2d(x.value(), 3, stride, padding=1, count_include_pad=False)


def max_pool(x: Activation, stride: int = 1) -> Tensor:
    """Largest of 3×3 pixels."""
    if kernels_take(x.z_BCHW):
        from enas.nn import maps

        return maps.max_pool(x, stride)
    return F.max_pool2d(x.value(), 3, stride, padding=1)


def global_average(x: Activation) -> Tensor:
    """Mean over all pixels [B, C]."""
    if kernels_take(x.z_BCHW):
        from enas.nn import maps

        return maps.global_average(x)
    return x.value().mean((2, 3))


def _convolve(x_BCHW: Tensor, weight: Tensor, stride: int, groups: int, dtype: torch.dtype) -> Tensor:
    dtype = operand_type(x_BCHW.dtype, dtype)
    z_BOHW = F.conv2d(
        x_BCHW.to(dtype), weight.to(dtype), None, stride, padding=weight.shape[-1] // 2, groups=groups
    )
    return z_BOHW.to(x_BCHW.dtype)
