"""How large a network is and what one image costs it, counted exactly, from shapes alone."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from enas.data.images import ImageShape


def parameter_count(network: nn.Module) -> int:
    """The number of trained values. Build the network under `torch.device("meta")` to count without its memory."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, shape: ImageShape) -> int:
    """Multiplications of one image's forward pass in evaluation, each with its addition, in convolutions and products.

    `network` maps images [B, C, H, W] to class scores. Border pixels count like all others, padding included; norms,
    ReLUs, pooling and sums are not counted.
    """
    images_BCHW = torch.empty(1, shape.channels, shape.height, shape.width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(network).eval()(images_BCHW)
    return int(counter.get_total_flops()) // 2


def on_meta(network: nn.Module) -> nn.Module:
    """A copy that has shapes but no values, and takes no memory."""
    shapes: dict[int, torch.Tensor] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        shapes[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(network, shapes)
