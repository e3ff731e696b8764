"""How large a network is and what one image costs it, counted exactly, from shapes alone."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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
    counter = OperationCounter()
    with torch.no_grad(), counter:
        on_meta(network).eval()(images_BCHW)
    return counter.operations // 2


class OperationCounter(TorchDispatchMode):
    """Inside, the multiplications and additions of convolutions and products are counted, by torch's own formulas.

    Torch's own counter (`torch.utils.flop_counter.FlopCounterMode`) takes three times as long: it counts for every module,
    and computes what shape a norm or a ReLU has, which is that of its input.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)  # not by super(), whose type is not known
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_batch_norm.default:
            return args[0], args[0], args[0]  # the statistics are read by nobody
        if func is torch.ops.aten.relu.default:
            return args[0]
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.operations += int(count(*args, **(kwargs or {}), out_val=out))
        return out


def on_meta(network: nn.Module) -> nn.Module:
    """A copy that has shapes but no values, and takes no memory."""
    shapes: dict[int, torch.Tensor] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        shapes[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(network, shapes)
