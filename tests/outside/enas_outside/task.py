"""Points on either side of a plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from enas import Task, Training


def points() -> Task:
    """60 points to learn from, 40 to choose by, 40 to test on."""
    x_NF = torch.randn(140, 4, generator=torch.Generator().manual_seed(0))
    y_N = (x_NF.sum(1) > 0).long()
    parts = [(x_NF[part], y_N[part]) for part in (slice(60), slice(60, 100), slice(100, 140))]
    training = Training(learning_rate=0.1, weight_decay=0.0)
    return Task(*parts, batch=10, loss=loss, score=accuracy, training=training)


def loss(output: Tensor, batch: Any) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(output, batch[1])


def accuracy(output: Tensor, batch: Any) -> Tensor:
    """Share of right ones."""
    return (output.argmax(1) == batch[1]).float().mean()
