"""The auxiliary classifier of the micro network: a second loss nearer to the lower layers, in training only.

Shape letters: B images, H rows, W columns, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.nn.activation import Activation
from enas.nn.blocks import Classifier, JoinedConv, NormConfig, he_normal
from enas.nn.image_network import Pass
from enas.spaces.micro.joined import Layout, Parts

POOL, STRIDE = 5, 3
"""Pixels of its average pooling, and between two of them; nothing is padded."""

NARROW, WIDE = 128, 768
"""Channels of its two convolutions."""


class AuxiliaryHead(nn.Module):
    """ReLU, average pooling 5×5 with stride 3, 1×1 convolution to 128 channels, 2×2 to 768, and a classifier.

    Both convolutions are followed by norm and ReLU. All its weights are trained, unlike in the authors' first code.
    """

    def __init__(self, layout: Layout, classes: int, generator: torch.Generator, norm: NormConfig) -> None:
        super().__init__()
        self.narrow = JoinedConv(layout.parts, layout.channels, NARROW, generator, norm)
        self.wide = he_normal((WIDE, NARROW, 2, 2), generator)
        self.wide_norm = norm.build(WIDE)
        self.classifier = Classifier(WIDE, classes, 0.0, generator)

    def forward(self, xs: Parts, how: Pass) -> Tensor:
        """The class scores [B, K]."""
        pooled = {name: Activation(F.avg_pool2d(x.relu().value(), POOL, STRIDE)) for name, x in xs.items()}
        narrow_BCHW = self.narrow(pooled, how).relu().value()
        padded_BCHW = F.pad(
            narrow_BCHW, (0, 1, 0, 1)
        )  # an even width keeps the size only if padded on one side
        wide_BCHW = F.conv2d(padded_BCHW.to(how.dtype), self.wide.to(how.dtype)).to(narrow_BCHW.dtype)
        scores_BK: Tensor = self.classifier(self.wide_norm(wide_BCHW, how.statistics).relu(), how)
        return scores_BK
