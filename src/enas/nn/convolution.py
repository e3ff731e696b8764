"""Convolutions followed by a batch norm: what every block of the convolutional spaces is made of.

Each takes `Activation`s and returns one, so that norm and ReLU are done where the next operation reads (see
`enas.nn.activation`). Padding keeps the size; a stride of 2 halves it, rounded up.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of a filter.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from enas.nn import recurrence
from enas.nn.activation import Activation, ChannelNorm, Statistics


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
    if stride == 1 and kernels_take([x], dtype):
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
    if stride <= 2 and kernels_take(x, depthwise_C1kk, pointwise_OC11):
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
    if kernels_take(xs, dtype):
        from enas.nn.dense import dense_norm

        return dense_norm(xs, torch.cat(list(weights_OC11), 1), norm, statistics)
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
    if kernels_take([x], dtype):
        from enas.nn.reduction import reduction_norm

        return reduction_norm(x, even_PC11.flatten(1), odd_QC11.flatten(1), norm, statistics)
    x_BCHW = x.value()
    shifted_BCHW = F.pad(x_BCHW, (0, 1, 0, 1))[:, :, 1:, 1:]
    parts = [_convolve(x_BCHW, even_PC11, 2, 1, dtype), _convolve(shifted_BCHW, odd_QC11, 2, 1, dtype)]
    return norm.forward(torch.cat(parts, 1), statistics)


def kernels_take(xs: Sequence[Activation], dtype: torch.dtype) -> bool:
    """Whether there are compiled kernels for these maps: for float32 on a CPU, if numba is installed."""
    return all(x.z_BCHW.dtype is torch.float32 and recurrence.kernels_take(x.z_BCHW, dtype) for x in xs)


def total(xs: Sequence[Activation]) -> Tensor:
    """The sum of feature maps of one shape."""
    return torch.stack([x.value() for x in xs]).sum(0) if len(xs) > 1 else xs[0].value()


def average_pool(x_BCHW: Tensor, stride: int = 1) -> Tensor:
    """Mean over 3×3 pixels, those beyond the border left out."""
    return F.avg_pool2d(x_BCHW, 3, stride, padding=1, count_include_pad=False)


def max_pool(x_BCHW: Tensor, stride: int = 1) -> Tensor:
    """Largest of 3×3 pixels."""
    return F.max_pool2d(x_BCHW, 3, stride, padding=1)


def global_average(x: Activation) -> Tensor:
    """Mean over all pixels [B, C]."""
    return x.value().mean((2, 3))


def kernels_take(x: Activation, *weights: Tensor) -> bool:
    """Whether there are compiled kernels for such feature maps and weights.

    There are for contiguous float32 on a CPU, if numba is installed.
    """
    if not x.z_BCHW.is_contiguous() or not x.z_BCHW.numel():
        return False
    tensors = [tensor for tensor in (x.z_BCHW, x.scale_C, x.shift_C, *weights) if tensor is not None]
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in tensors):
        return False
    try:
        importlib.import_module("numba")  # here, as it takes its time
    except ImportError:  # numba follows new versions of Python months later
        return False
    return True


def _convolve(x_BCHW: Tensor, weight: Tensor, stride: int, groups: int, dtype: torch.dtype) -> Tensor:
    z_BOHW = F.conv2d(
        x_BCHW.to(dtype), weight.to(dtype), None, stride, padding=weight.shape[-1] // 2, groups=groups
    )
    return z_BOHW.to(x_BCHW.dtype)
