"""Blocks of convolutional networks, each with its norm, made of torch's own modules.

Initial weights come from one explicit generator. Torch's own initialisation would draw from the global one, so modules
are created without values. No block applies a ReLU: the network decides where it stands.

Shape letters: B images, C channels in, O channels out, H rows, W columns, k the width of a filter, K classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas import ops
from enas.data.images import ImageShape
from enas.errors import ConfigError
from enas.masks import Dropout
from enas.ops import Maps
from enas.plain import hooked
from enas.runtime.devices import as_they_are

TRUNCATED_STD = 0.8796256610342398
"""Standard deviation of a standard normal that is cut off at ±2."""


class NormConfig(NamedTuple):
    """How the norms of a network are made."""

    eps: float = 1e-5
    decay: float = 0.9

    def build(self, channels: int) -> nn.BatchNorm2d:
        """A norm of its own for this number of channels."""
        return nn.BatchNorm2d(channels, self.eps, momentum=1 - self.decay)


def he_normal_(weight: Tensor, generator: torch.Generator, fan_in: int | None = None) -> None:
    """Fill a filter [O, C, k, k] or matrix [O, C] with N(0, 2 / fan_in), cut off at two standard deviations.

    He et al. 2015, truncated as the authors' code has it. The fan-in is that of one output, C·k·k for a filter (so k·k
    for a depthwise one), unless the filter is a part of a wider one and `fan_in` says so.
    """
    std = math.sqrt(2 / (fan_in or math.prod(weight.shape[1:]))) / TRUNCATED_STD
    nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std, generator)


def convolution(
    channels: int,
    out: int,
    width: int,
    generator: torch.Generator,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    fan_in: int | None = None,
) -> nn.Conv2d:
    """A convolution without bias, which keeps the size, or divides it by the stride, unless `padding` is given."""
    padding = width // 2 if padding is None else padding
    conv = nn.Conv2d(channels, out, width, stride, padding, groups=groups, bias=False, device="meta")
    conv.to_empty(device=torch.get_default_device())
    he_normal_(conv.weight, generator, fan_in)
    return conv


def parts_of_convolution(
    parts: Iterable[str], channels: int, out: int, generator: torch.Generator, stride: int = 1
) -> nn.ModuleDict:
    """A 1×1 convolution of a concatenation, as one convolution for each part; the fan-in is that of all together."""
    names = list(parts)
    fan_in = channels * len(names)
    return nn.ModuleDict(
        {name: convolution(channels, out, 1, generator, stride=stride, fan_in=fan_in) for name in names}
    )


def chosen(convs: nn.ModuleDict, xs: Iterable[str]) -> list[nn.Conv2d]:
    """The convolutions of the parts that are present."""
    found: list[Any] = [convs[name] for name in xs]
    return found


class DenseConv(nn.Module):
    """A convolution of odd width k over all channels, and its norm."""

    def __init__(
        self,
        channels: int,
        out: int,
        width: int,
        generator: torch.Generator,
        norm: NormConfig,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = convolution(channels, out, width, generator, stride=stride)
        self.norm = norm.build(out)

    def forward(self, x: Maps) -> Maps:
        """norm(conv(x)) [B, O, H / stride, W / stride]."""
        return ops.conv_norm(x, self.conv, self.norm)


class SeparableConv(nn.Module):
    """A depthwise convolution of odd width k, then a 1×1 one, and a norm after both."""

    def __init__(
        self,
        channels: int,
        out: int,
        width: int,
        generator: torch.Generator,
        norm: NormConfig,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.depthwise = convolution(channels, channels, width, generator, stride=stride, groups=channels)
        self.pointwise = convolution(channels, out, 1, generator)
        self.norm = norm.build(out)

    def forward(self, x: Maps) -> Maps:
        """norm(pointwise(depthwise(x))) [B, O, H / stride, W / stride]."""
        return ops.separable_norm(x, self.depthwise, self.pointwise, self.norm)


class JoinedConv(nn.Module):
    """A 1×1 convolution of a concatenation, as one convolution for each possible part, and its norm.

    The convolutions of absent parts get no gradient.
    """

    def __init__(
        self,
        parts: Iterable[str],
        channels: int,
        out: int,
        generator: torch.Generator,
        norm: NormConfig,
    ) -> None:
        """Each part has `channels` channels."""
        super().__init__()
        self.convs = parts_of_convolution(parts, channels, out, generator)
        self.norm = norm.build(out)

    def forward(self, xs: Mapping[str, Maps]) -> Maps:
        """norm(conv(concatenation of the present parts)) [B, O, H, W]."""
        return ops.joined_norm(list(xs.values()), chosen(self.convs, xs), self.norm)


class FactorizedReduction(nn.Module):
    """Half the size: a 1×1 convolution of the even pixels beside one of the odd ones, and a norm over both.

    Of the `out` channels, the first half (rounded down) sees the even rows and columns, the rest the odd ones.
    """

    def __init__(self, channels: int, out: int, generator: torch.Generator, norm: NormConfig) -> None:
        super().__init__()
        self.even = convolution(channels, out // 2, 1, generator, stride=2)
        self.odd = convolution(channels, out - out // 2, 1, generator, stride=2)
        self.norm = norm.build(out)

    def forward(self, x: Maps) -> Maps:
        """norm(both halves) [B, O, H / 2, W / 2], sizes rounded up."""
        return ops.reduction_norm([x], [self.even], [self.odd], self.norm)


class Classifier(nn.Module):
    """Class scores: the mean over all pixels, dropout in training, and a linear map without bias."""

    def __init__(self, channels: int, classes: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = linear(channels, classes, generator)

    def forward(self, x: Maps) -> Tensor:
        """The class scores [B, K]."""
        return class_scores(self.dropout(ops.global_average(x)), self.linear)


def class_scores(features_BC: Tensor, *parts: nn.Linear) -> Tensor:
    """Class scores [B, K] by a linear map, or by one for each part of the features, all of one size.

    They are in the weights' own type even under autocast: in bfloat16 classes would tie for the best.
    """
    with as_they_are(features_BC.device):
        features_BC = features_BC.to(parts[0].weight.dtype)
        if len(parts) == 1:
            alone: Tensor = parts[0](features_BC)
            return alone
        if hooked(parts):
            own = features_BC.chunk(len(parts), 1)
            scores: list[Tensor] = [linear(x) for linear, x in zip(parts, own, strict=True)]
            return functools.reduce(torch.add, scores)
        return F.linear(features_BC, torch.cat([linear.weight for linear in parts], 1))


def linear(channels: int, out: int, generator: torch.Generator, fan_in: int | None = None) -> nn.Linear:
    """A linear map without bias."""
    layer = nn.Linear(channels, out, bias=False, device="meta").to_empty(device=torch.get_default_device())
    he_normal_(layer.weight, generator, fan_in)
    return layer


def check_shape(shape: ImageShape, halvings: int) -> None:
    """Raise `ConfigError` if these images are too small to be halved as often as the network does."""
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
    """Raise `ConfigError` if a batch does not have the shape that the network was built for."""
    expected = (shape.channels, shape.height, shape.width)
    if images_BCHW.dim() != 4 or tuple(images_BCHW.shape[1:]) != expected:
        given, wanted = ("×".join(map(str, sizes)) for sizes in (images_BCHW.shape, expected))
        raise ConfigError(f"images of shape {given} given, but the network takes batches of {wanted}")
