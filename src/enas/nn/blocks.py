"""The blocks that convolutional networks are built of: weights and a norm each, from one explicit generator.

Every block reads `Activation`s and returns one whose norm is still to come; `Pass` says which statistics normalise and
in which type the products are taken. No block rectifies: where the ReLU stands is the network's business.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of a filter, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.errors import ConfigError
from enas.nn.activation import Activation, ChannelNorm
from enas.nn.convolution import (
    conv_norm,
    factorized_reduction_norm,
    global_average,
    joined_conv_norm,
    separable_norm,
)
from enas.nn.image_network import ImageShape, Pass

TRUNCATED_STD = 0.8796256610342398
"""Standard deviation of a standard normal that is cut off at ±2."""


class NormConfig(NamedTuple):
    """How the norms of a network are made."""

    eps: float = 1e-5
    decay: float = 0.9

    def build(self, channels: int) -> ChannelNorm:
        """A norm of its own for so many channels."""
        return ChannelNorm(channels, self.eps, self.decay)


def he_normal(shape: Sequence[int], generator: torch.Generator, fan_in: int | None = None) -> nn.Parameter:
    """A new filter [O, C, k, k] or matrix [O, C], drawn from N(0, 2 / fan_in) cut off at two standard deviations.

    He et al. 2015, truncated as the authors' code has it. The fan-in is that of one output, C·k·k for a filter (so k·k
    for a depthwise one), unless the filter is a part of a wider one and `fan_in` says so.
    """
    std = math.sqrt(2 / (fan_in or math.prod(shape[1:]))) / TRUNCATED_STD
    weight = torch.empty(tuple(shape))
    return nn.Parameter(nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std, generator))


class DenseConv(nn.Module):
    """A convolution of odd width k over all channels, and its norm."""

    def __init__(
        self, channels: int, out: int, width: int, generator: torch.Generator, norm: NormConfig
    ) -> None:
        super().__init__()
        self.weight = he_normal((out, channels, width, width), generator)
        self.norm = norm.build(out)

    def forward(self, x: Activation, how: Pass, stride: int = 1) -> Activation:
        """norm(conv(x)) [B, O, H / stride, W / stride]."""
        return conv_norm(x, self.weight, self.norm, stride=stride, statistics=how.statistics, dtype=how.dtype)


class SeparableConv(nn.Module):
    """A depthwise convolution of odd width k, then a 1×1 one, and a norm after both."""

    def __init__(
        self, channels: int, out: int, width: int, generator: torch.Generator, norm: NormConfig
    ) -> None:
        super().__init__()
        self.depthwise = he_normal((channels, 1, width, width), generator)
        self.pointwise = he_normal((out, channels, 1, 1), generator)
        self.norm = norm.build(out)

    def forward(self, x: Activation, how: Pass, stride: int = 1) -> Activation:
        """norm(pointwise(depthwise(x))) [B, O, H / stride, W / stride]."""
        return separable_norm(
            x,
            self.depthwise,
            self.pointwise,
            self.norm,
            stride=stride,
            statistics=how.statistics,
            dtype=how.dtype,
        )


class JoinedConv(nn.Module):
    """A 1×1 convolution of a concatenation, with a block of columns for each part that may be in it, and its norm.

    Blocks are parameters of their own, named after the parts, so that those of absent parts get no gradient.
    """

    def __init__(
        self,
        parts: Iterable[str],
        channels: int,
        out: int,
        generator: torch.Generator,
        norm: NormConfig,
    ) -> None:
        """Each part has `channels` channels. The fan-in is that of all parts together."""
        super().__init__()
        names = list(parts)
        self.blocks = nn.ParameterDict(
            {
                name: he_normal((out, channels, 1, 1), generator, fan_in=channels * len(names))
                for name in names
            }
        )
        self.norm = norm.build(out)

    def forward(self, xs: dict[str, Activation], how: Pass) -> Activation:
        """norm(conv(concatenation of the parts that are there)) [B, O, H, W]."""
        return joined_conv_norm(
            list(xs.values()),
            [self.blocks[name] for name in xs],
            self.norm,
            statistics=how.statistics,
            dtype=how.dtype,
        )


class FactorizedReduction(nn.Module):
    """Half the size: a 1×1 convolution of the even pixels beside one of the odd ones, and a norm over both.

    Of the `out` channels, the first half (rounded down) sees the even rows and columns, the rest the odd ones.
    """

    def __init__(self, channels: int, out: int, generator: torch.Generator, norm: NormConfig) -> None:
        super().__init__()
        self.even = he_normal((out // 2, channels, 1, 1), generator)
        self.odd = he_normal((out - out // 2, channels, 1, 1), generator)
        self.norm = norm.build(out)

    def forward(self, x: Activation, how: Pass) -> Activation:
        """norm(both halves) [B, O, H / 2, W / 2], sizes rounded up."""
        return factorized_reduction_norm(
            x, self.even, self.odd, self.norm, statistics=how.statistics, dtype=how.dtype
        )


class Classifier(nn.Module):
    """Class scores: the mean over all pixels, dropout in training, and a linear map without bias."""

    def __init__(self, channels: int, classes: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = he_normal((classes, channels), generator)
        self.dropout = dropout

    def forward(self, x: Activation, how: Pass) -> Tensor:
        """The class scores [B, K]."""
        features_BC = global_average(x)
        if self.training and self.dropout > 0:
            features_BC = features_BC * dropout_mask(features_BC.shape, self.dropout, how.draw, features_BC)
        return F.linear(features_BC, self.weight)


def dropout_mask(shape: Sequence[int], rate: float, draw: torch.Generator | None, like: Tensor) -> Tensor:
    """0 with probability `rate`, else 1 / (1 - rate), each independently; type and device of `like`.

    A given generator (of the CPU) draws the same mask whatever the device.
    """
    where = like.device if draw is None else draw.device
    kept = torch.rand(tuple(shape), generator=draw, device=where) >= rate
    return kept.to(like.device, like.dtype) / (1 - rate)


def check_shape(shape: ImageShape, halvings: int) -> None:
    """Raises `ConfigError` if a network cannot be built for such images, which it halves so many times."""
    if shape.channels < 1:
        raise ConfigError(f"images need at least one channel, not {shape.channels}")
    if shape.classes < 2:
        raise ConfigError(f"a classifier needs at least two classes, not {shape.classes}")
    smallest = 2**halvings
    if min(shape.height, shape.width) < smallest:
        raise ConfigError(
            f"images of {shape.height}×{shape.width} pixels are too small: the network halves them {halvings} "
            f"times, so each side needs at least {smallest} pixels"
        )


def check_images(images_BCHW: Tensor, shape: ImageShape) -> None:
    """Raises `ConfigError` if a batch is not of the images that the network was built for."""
    expected = (shape.channels, shape.height, shape.width)
    if images_BCHW.dim() != 4 or tuple(images_BCHW.shape[1:]) != expected:
        given, wanted = ("×".join(map(str, sizes)) for sizes in (images_BCHW.shape, expected))
        raise ConfigError(f"images of shape {given} given, but the network takes batches of {wanted}")
