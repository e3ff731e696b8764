"""How large a network is and what an input costs it, counted exactly, from shapes alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from enas.data.images import ImageShape


@dataclass(frozen=True)
class Costs:
    """What a network costs in evaluation, counted exactly."""

    parameters: int
    """Trained values."""
    multiply_adds: int
    """Multiplications of one input's pass, each with its addition, in convolutions and products; norms, activations, pooling
    and sums are not counted."""
    activation_bytes: int
    """Bytes that all operations of one input's pass write, in plain torch and float32. Not all of them are held at once."""


class Calls:
    """The calls of one kind of operation in a pass."""

    def __init__(self) -> None:
        self.calls = 0
        self.operations = 0
        """Multiplications and additions."""
        self.written = 0
        """Bytes."""


Work = Mapping[str, Calls]
"""What a pass has to do, by kind of operation."""
SHAPE_KEEPING = (torch.ops.aten.native_batch_norm.default, torch.ops.aten.relu.default)
"""Operations whose result has the shape of their input."""


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
    and computes what shape a norm or a ReLU has on "meta", which is that of its input.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)  # not by super(), whose type is not known
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operations, out = 0, None
        # What has values may be changed in place afterwards, and must not be the input then.
        if func in SHAPE_KEEPING and args[0].is_meta:
            out = (
                args[0] if func is torch.ops.aten.relu.default else (args[0],) * 3
            )  # nobody reads the statistics
        else:
            out = func(*args, **(kwargs or {}))
            count = flop_registry.get(func.overloadpacket)
            if count is not None:
                operations = int(count(*args, **(kwargs or {}), out_val=out))
        self.note(func, args, out, operations)
        return out

    def note(self, func: Any, args: Any, out: Any, operations: int) -> None:
        """Take in a call of an operation."""
        self.operations += operations


class WorkCounter(OperationCounter):
    """Inside, it is also counted what else a pass has to do."""

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[str, Calls] = defaultdict(Calls)

    def note(self, func: Any, args: Any, out: Any, operations: int) -> None:
        super().note(func, args, out, operations)
        kind = self.work[kind_of(func, args)]
        kind.calls += 1
        kind.operations += operations
        kind.written += bytes_written(func, out)


def kind_of(func: Any, args: Any) -> str:
    """The name of an operation; of a convolution with the size of its filters, and whether each has a channel of its own."""
    name: str = func.overloadpacket.__name__
    if func is not torch.ops.aten.convolution.default:
        return name
    filters = args[1]
    size = "x".join(map(str, filters.shape[2:]))
    return f"{name} {size} depthwise" if args[8] == len(filters) > 1 else f"{name} {size}"


def bytes_written(func: Any, out: Any) -> int:
    """Bytes of an operation's results, but for those that share the memory of an argument."""
    if func is torch.ops.aten.native_batch_norm.default:
        return int(out[0].nbytes)
    returns = func._schema.returns
    parts = (out,) if len(returns) == 1 else out
    own = [part for part, kind in zip(parts, returns, strict=True) if kind.alias_info is None]
    return sum(leaf.nbytes for leaf in tree_leaves(own) if isinstance(leaf, torch.Tensor))


def on_meta(network: nn.Module) -> nn.Module:
    """A copy that has shapes but no values, and takes no memory."""
    shapes: dict[int, torch.Tensor] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        shapes[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(network, shapes)
