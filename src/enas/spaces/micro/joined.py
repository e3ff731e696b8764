"""Feature maps in named parts, which stand for their concatenation, and the modules that read them.

A cell hands on its loose ends, and architectures differ in which nodes these are. So its output travels as parts named
after the nodes, and each reader holds a block of weights for every part that may come.

Shape letters: B images, C channels of a part, P Q channels out of either half, H rows, W columns, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas import ops
from enas.masks import Dropout
from enas.ops import Maps
from enas.spaces.blocks import (
    Classifier,
    JoinedConv,
    NormConfig,
    chosen,
    class_scores,
    convolution,
    linear,
    parts_of_convolution,
)

Parts = dict[str, Maps]
"""Feature maps of one size, in the order of their concatenation."""
POOL, STRIDE = 5, 3
"""Width of the auxiliary head's average pooling, and its stride, in pixels; nothing is padded."""
NARROW, WIDE = 128, 768
"""Channels of the auxiliary head's two convolutions."""


class Layout(NamedTuple):
    """The shape of feature maps, known before they are computed."""

    parts: tuple[str, ...]
    """The names of the parts that may come."""
    channels: int
    """Of each part."""
    halvings: int
    """How often the image's size has been halved."""


def rectified(xs: Parts) -> Parts:
    """ReLU of every part."""
    return {name: ops.relu(x) for name, x in xs.items()}


class JoinedReduction(nn.Module):
    """Half the size of a concatenation: `FactorizedReduction` with a convolution for each part."""

    def __init__(self, layout: Layout, out: int, generator: torch.Generator, norm: NormConfig) -> None:
        super().__init__()
        parts, channels = layout.parts, layout.channels
        self.even = parts_of_convolution(parts, channels, out // 2, generator, stride=2)
        self.odd = parts_of_convolution(parts, channels, out - out // 2, generator, stride=2)
        self.norm = norm.build(out)

    def forward(self, xs: Parts) -> Maps:
        """norm of both halves [B, P + Q, H / 2, W / 2], sizes rounded up."""
        return ops.reduction_norm(list(xs.values()), chosen(self.even, xs), chosen(self.odd, xs), self.norm)


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

    def forward(self, xs: Parts) -> Maps:
        """The input as the cell reads it."""
        fit = self.reduction or self.conv
        if fit is None or (fit is self.conv and sum(x.shape[1] for x in xs.values()) == self.out):
            return ops.concatenation(list(xs.values()))
        fitted: Maps = fit(rectified(xs))
        return fitted


class JoinedClassifier(nn.Module):
    """Class scores of a concatenation: ReLU, the mean over all pixels, dropout in training, and a linear map without bias,
    as one map for each part."""

    def __init__(self, layout: Layout, classes: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        fan_in = layout.channels * len(layout.parts)
        self.linears = nn.ModuleDict(
            {name: linear(layout.channels, classes, generator, fan_in) for name in layout.parts}
        )

    def forward(self, xs: Parts) -> Tensor:
        """The class scores [B, K]."""
        features_BC = torch.cat([ops.global_average(ops.relu(x)) for x in xs.values()], 1)
        linears: list[Any] = [self.linears[name] for name in xs]
        return class_scores(self.dropout(features_BC), *linears)


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier: a second loss nearer to the lower layers, in training only.

    ReLU, average pooling 5×5 with stride 3, 1×1 convolution to 128 channels, 2×2 to 768, and a classifier. Norm and ReLU
    follow both convolutions. All its weights are trained, unlike in the authors' first code.
    """

    def __init__(self, layout: Layout, classes: int, generator: torch.Generator, norm: NormConfig) -> None:
        super().__init__()
        self.narrow = JoinedConv(layout.parts, layout.channels, NARROW, generator, norm)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))  # an even width keeps the size only if padded on one side
        self.wide = convolution(NARROW, WIDE, 2, generator, padding=0)
        self.wide_norm = norm.build(WIDE)
        self.classifier = Classifier(WIDE, classes, 0.0, generator)

    def forward(self, xs: Parts) -> Tensor:
        """The class scores [B, K]."""
        pooled = {name: F.avg_pool2d(ops.computed(ops.relu(x)), POOL, STRIDE) for name, x in xs.items()}
        narrow_BCHW = self.pad(ops.computed(ops.relu(self.narrow(pooled))))
        wide = ops.batch_norm(self.wide(narrow_BCHW), self.wide_norm)
        scores_BK: Tensor = self.classifier(ops.relu(wide))
        return scores_BK
