"""The auxiliary classifier of the micro network: a second loss nearer to the lower layers, in training only.

Shape letters: B images, H rows, W columns, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas import ops
from enas.spaces.blocks import Classifier, JoinedConv, NormConfig, convolution
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
