"""One layer of a macro network: one of its operations, joined with what skip connections bring.

Shape letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from enas import ops
from enas.constraints import LARGEST_WIDTH, PartialShare, PositiveFloat, Settings
from enas.ops import Maps
from enas.spaces.blocks import DenseConv, JoinedConv, NormConfig, SeparableConv

Order = Literal["relu-conv-norm", "conv-norm-relu"]

POOLS: dict[str, Callable[[Maps], Maps]] = {"avg3x3": ops.average_pool, "max3x3": ops.max_pool}
DENSE_WIDTHS = {"conv3x3": 3, "conv5x5": 5}
SEPARABLE_WIDTHS = {"sep3x3": 3, "sep5x5": 5}


@dataclass(frozen=True)
class MacroNetConfig(Settings):
    """What the networks of the space compute, and their width."""

    filters: Annotated[int, Field(ge=2, le=LARGEST_WIDTH)] = 36
    """Channels of the stem and of the layers before the first reduction."""
    double_channels: bool = False
    """Whether each reduction doubles the channels (the authors' final network) or keeps them (their search)."""
    merge: Literal["concat", "sum"] = "concat"
    """How a layer's skip connections join its output: concatenated, then a 1×1 convolution with a norm (paper, appendix
    B), or added, then a norm (the authors' search)."""
    order: Order = "relu-conv-norm"
    """Where the ReLU of a convolution stands: before it (paper, appendix B), or after its norm (the authors' search)."""
    dense_separable: bool = False
    """Whether separable convolutions are dense ones instead, as in the authors' final network."""
    dropout: PartialShare = 0.1
    """The share of the pooled features that are dropped before the classifier in training."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance in every norm, except those of the operations."""
    operation_norm_eps: PositiveFloat = 1e-5
    """Added to the variance in the norms of the operations; the authors' search has 1e-3."""
    norm_decay: PartialShare = 0.9
    """How much of the moving statistics is kept at every minibatch."""

    @property
    def norm(self) -> NormConfig:
        """The norms outside the operations."""
        return NormConfig(self.norm_eps, self.norm_decay)

    @property
    def operation_norm(self) -> NormConfig:
        """The norms of the operations."""
        return NormConfig(self.operation_norm_eps, self.norm_decay)


class Pool(nn.Module):
    """A pooling operation: nothing to learn, no norm and no ReLU after it."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = operation

    def extra_repr(self) -> str:
        """What it does, where a network is printed."""
        return self.operation

    def forward(self, x: Maps) -> Maps:
        """The pooled feature maps, as large as x."""
        return POOLS[self.operation](x)


def operation_block(
    operation: str, channels: int, config: MacroNetConfig, generator: torch.Generator
) -> nn.Module:
    """What one of the space's operations is made of."""
    if operation in POOLS:
        return Pool(operation)
    if operation in SEPARABLE_WIDTHS and not config.dense_separable:
        width = SEPARABLE_WIDTHS[operation]
        return SeparableConv(channels, channels, width, generator, config.operation_norm)
    width = (DENSE_WIDTHS | SEPARABLE_WIDTHS)[operation]
    return DenseConv(channels, channels, width, generator, config.operation_norm)


def with_relu(block: nn.Module, x: Maps, order: Order) -> Maps:
    """norm(conv(relu(x))) or relu(norm(conv(x)))."""
    y: Maps = block(ops.relu(x) if order == "relu-conv-norm" else x)
    return y if order == "relu-conv-norm" else ops.relu(y)


class Branch(nn.Module):
    """One operation of a layer, with the 1×1 convolution before it."""

    def __init__(
        self, operation: str, channels: int, config: MacroNetConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.order = config.order
        self.entry = DenseConv(channels, channels, 1, generator, config.norm)
        self.operation = operation_block(operation, channels, config, generator)

    def forward(self, x: Maps) -> Maps:
        """The operation's output, as large as x; there is no ReLU around pooling."""
        x = with_relu(self.entry, x, self.order)
        pools = isinstance(self.operation, Pool)
        y: Maps = self.operation(x) if pools else with_relu(self.operation, x, self.order)
        return y


class Sum(nn.Module):
    """Skip connections added to a layer's output, and a norm over the sum."""

    def __init__(self, channels: int, norm: NormConfig) -> None:
        super().__init__()
        self.norm = norm.build(channels)

    def forward(self, xs: dict[str, Maps]) -> Maps:
        """norm(Σ xs)."""
        return ops.total_norm(list(xs.values()), self.norm)


class Concat(nn.Module):
    """Skip connections beside a layer's output, brought to its number of channels by a 1×1 convolution and a norm."""

    def __init__(
        self, parts: Sequence[str], channels: int, config: MacroNetConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.order = config.order
        self.conv = JoinedConv(parts, channels, channels, generator, config.norm)

    def forward(self, xs: dict[str, Maps]) -> Maps:
        """norm(conv(xs)), with the ReLU where the order puts it."""
        if self.order == "relu-conv-norm":
            y: Maps = self.conv({name: ops.relu(x) for name, x in xs.items()})
            return y
        return ops.relu(self.conv(xs))


class Layer(nn.Module):
    """The operations that a layer may apply, and how skip connections join their output."""

    def __init__(
        self,
        operations: Sequence[str],
        sources: Sequence[int],
        first: bool,
        channels: int,
        config: MacroNetConfig,
        generator: torch.Generator,
    ) -> None:
        """`sources` are the numbers of the tensors that it may take; the `first` layer joins nothing."""
        super().__init__()
        self.branches = nn.ModuleDict(
            {operation: Branch(operation, channels, config, generator) for operation in operations}
        )
        self.merge: Sum | Concat | None = None
        if not first and config.merge == "sum":
            self.merge = Sum(channels, config.norm)
        elif not first:
            self.merge = Concat([*map(str, sources), "own"], channels, config, generator)

    def forward(self, x: Maps, skips: dict[str, Maps], operation: str) -> Maps:
        """The output of one operation, joined with the tensors that the skip connections bring, by their numbers."""
        y: Maps = self.branches[operation](x)
        if self.merge is not None:
            y = self.merge({**skips, "own": y})
        return y
