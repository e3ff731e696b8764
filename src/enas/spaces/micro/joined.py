"""Feature maps in named parts: a concatenation that nobody has to write out.

A cell hands on its loose ends, and which nodes these are differs between architectures. So its output travels as parts
named after the nodes, and whoever reads it holds a block of weights for each part that may come.

Shape letters: B images, C channels of a part, P Q channels out of either half, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.nn.activation import Activation
from enas.nn.blocks import JoinedConv, NormConfig, dropout_mask, he_normal
from enas.nn.convolution import factorized_reduction_norm, global_average
from enas.nn.image_network import Pass

Parts = dict[str, Activation]
"""Feature maps of one size, in the order of their concatenation."""


class Layout(NamedTuple):
    """What is known of feature maps before they are computed."""

    parts: tuple[str, ...]
    """The names of the parts that may come."""
    channels: int
    """Of each part."""
    halvings: int
    """How often the image's size has been halved."""


def rectified(xs: Parts) -> Parts:
    """ReLU of every part."""
    return {name: x.relu() for name, x in xs.items()}


def concatenation(xs: Parts) -> Activation:
    """All parts as one, in memory; their norms are still to come. Either every part is rectified or none."""
    parts = list(xs.values())
    if len(parts) == 1:
        return parts[0]
    z_BCHW, rectify = torch.cat([x.z_BCHW for x in parts], 1), parts[0].rectified
    if all(x.scale_C is None for x in parts):
        return Activation(z_BCHW, rectified=rectify)
    scales, shifts = zip(*map(affine, parts), strict=True)
    return Activation(z_BCHW, torch.cat(scales), torch.cat(shifts), rectify)


def affine(x: Activation) -> tuple[Tensor, Tensor]:
    """(scale_C, shift_C) that are still to come: 1 and 0 where there are none."""
    if x.scale_C is None or x.shift_C is None:
        channels = x.z_BCHW.shape[1]
        return x.z_BCHW.new_ones(channels), x.z_BCHW.new_zeros(channels)
    return x.scale_C, x.shift_C


def blocks(parts: Iterable[str], channels: int, out: int, generator: torch.Generator) -> nn.ParameterDict:
    """A matrix of `out` rows with a block of columns for each part; its fan-in is that of all parts together."""
    names = list(parts)
    fan_in = channels * len(names)
    return nn.ParameterDict({name: he_normal((out, channels), generator, fan_in) for name in names})


def joined(weights: nn.ParameterDict, xs: Parts) -> Tensor:
    """The blocks of the parts that are there, side by side [out, C of all of them]."""
    return torch.cat([weights[name] for name in xs], 1)


class JoinedReduction(nn.Module):
    """Half the size of a concatenation: `enas.nn.blocks.FactorizedReduction` with a block of weights for each part."""

    def __init__(self, layout: Layout, out: int, generator: torch.Generator, norm: NormConfig) -> None:
        super().__init__()
        self.even = blocks(layout.parts, layout.channels, out // 2, generator)
        self.odd = blocks(layout.parts, layout.channels, out - out // 2, generator)
        self.norm = norm.build(out)

    def forward(self, xs: Parts, how: Pass) -> Activation:
        """norm of both halves [B, P + Q, H / 2, W / 2], sizes rounded up."""
        return factorized_reduction_norm(
            concatenation(xs),
            joined(self.even, xs)[:, :, None, None],
            joined(self.odd, xs)[:, :, None, None],
            self.norm,
            statistics=how.statistics,
            dtype=how.dtype,
        )


class Calibration(nn.Module):
    """Brings an input of a cell to the cell's channels, and to half its size where `halve` says so.

    An input that has the cell's size and channels is left as it is.
    """

    def __init__(
        self, layout: Layout, out: int, halve: bool, generator: torch.Generator, norm: NormConfig
    ) -> None:
        super().__init__()
        fits = layout.channels * len(layout.parts) == out
        self.out = out
        self.reduction = JoinedReduction(layout, out, generator, norm) if halve else None
        self.conv = None if halve or fits else JoinedConv(layout.parts, layout.channels, out, generator, norm)

    def forward(self, xs: Parts, how: Pass) -> Activation:
        """The input as the cell reads it."""
        if self.reduction is not None:
            reduced: Activation = self.reduction(rectified(xs), how)
            return reduced
        if self.conv is None or sum(x.z_BCHW.shape[1] for x in xs.values()) == self.out:
            return concatenation(xs)
        calibrated: Activation = self.conv(rectified(xs), how)
        return calibrated


class JoinedClassifier(nn.Module):
    """Class scores: ReLU, the mean over all pixels, dropout in training, and a linear map without bias."""

    def __init__(self, layout: Layout, classes: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weights = blocks(layout.parts, layout.channels, classes, generator)
        self.dropout = dropout

    def forward(self, xs: Parts, how: Pass) -> Tensor:
        """The class scores [B, K]."""
        features_BC = torch.cat([global_average(x.relu()) for x in xs.values()], 1)
        if self.training and self.dropout > 0:
            features_BC = features_BC * dropout_mask(features_BC.shape, self.dropout, how.draw, features_BC)
        return F.linear(features_BC, joined(self.weights, xs))
