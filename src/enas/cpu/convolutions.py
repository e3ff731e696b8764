"""Which convolutions kernels take, as `enas.ops` has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from enas.cpu.deferred import Deferred, deferred
from enas.cpu.dense import dense_norm
from enas.cpu.maps import concatenation
from enas.cpu.reduction import fused_reduction_norm
from enas.cpu.registry import operand_type, takes, takes_over
from enas.cpu.separable import fused_separable_norm

Maps = Tensor | Deferred


def known(conv: nn.Conv2d, groups: int = 1, widest_stride: int = 1) -> bool:
    """Whether kernels compute such a convolution: of odd width, with zeros around, as large as its input over the stride."""
    (k, _), (stride, _) = conv.kernel_size, conv.stride
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return (
        shape == ((k, k), (stride, stride), (k // 2, k // 2), (1, 1))
        and (k % 2, conv.groups, conv.padding_mode) == (1, groups, "zeros")
        and conv.bias is None
        and stride <= widest_stride
    )


def fits(xs: Sequence[Maps], channels: Sequence[int], out: int, norm: nn.BatchNorm2d) -> bool:
    """Whether maps, filters and norm have the channels of each other: kernels read memory without asking."""
    return [x.shape[1] for x in xs] == list(channels) and norm.num_features == out


@takes_over("conv_norm")
def conv_norm(x: Maps, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Deferred | None:
    """A dense convolution of stride 1."""
    fitting = known(conv) and fits([x], [conv.in_channels], conv.out_channels, norm)
    if not fitting or not takes(x, weights=(conv.weight, norm.weight)):
        return None
    return dense_norm([deferred(x)], conv.weight, norm, operand_type())


@takes_over("separable_norm")
def separable_norm(
    x: Maps, depthwise: nn.Conv2d, pointwise: nn.Conv2d, norm: nn.BatchNorm2d
) -> Deferred | None:
    """A stride of 1 or 2."""
    C = depthwise.out_channels
    filters = known(depthwise, C, widest_stride=2) and known(pointwise) and pointwise.kernel_size == (1, 1)
    fitting = fits([x], [C], pointwise.out_channels, norm) and pointwise.in_channels == C
    if not (filters and fitting) or not takes(x, weights=(depthwise.weight, pointwise.weight, norm.weight)):
        return None
    return fused_separable_norm(deferred(x), depthwise.weight, pointwise.weight, norm, depthwise.stride[0])


@takes_over("joined_norm")
def joined_norm(xs: Sequence[Maps], convs: Sequence[nn.Conv2d], norm: nn.BatchNorm2d) -> Deferred | None:
    """1×1 convolutions of any number of parts."""
    weights = tuple(conv.weight for conv in convs)
    fitting = fits(xs, [conv.in_channels for conv in convs], convs[0].out_channels, norm)
    if not fitting or not takes(*xs, weights=(*weights, norm.weight)):
        return None
    return dense_norm(list(map(deferred, xs)), torch.cat(weights, 1), norm, operand_type())


@takes_over("reduction_norm")
def reduction_norm(
    xs: Sequence[Maps], evens: Sequence[nn.Conv2d], odds: Sequence[nn.Conv2d], norm: nn.BatchNorm2d
) -> Deferred | None:
    """Either half of the pixels by 1×1 convolutions."""
    weights = tuple(conv.weight for conv in (*evens, *odds))
    fitting = all(
        fits(xs, [conv.in_channels for conv in convs], evens[0].out_channels + odds[0].out_channels, norm)
        for convs in (evens, odds)
    )
    if not fitting or not takes(*xs, weights=(*weights, norm.weight)):
        return None
    even_PC, odd_QC = (torch.cat([conv.weight.flatten(1) for conv in convs], 1) for convs in (evens, odds))
    x = concatenation(xs)
    if x is None:
        return None
    return fused_reduction_norm(deferred(x), even_PC, odd_QC, norm)
