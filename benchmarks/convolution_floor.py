"""The time of a network's convolutions alone: each on its own, in channels_last, the library's way."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from plain_convolutional import Convolution
from torch import Tensor

Part = Literal["forward", "input gradient", "weight gradient"]
PARTS: dict[str, tuple[Part, ...]] = {
    "train": ("forward", "input gradient", "weight gradient"),
    "reward": ("forward",),
}
REPEATS = 3


class Operands:
    """Random feature maps and filters in channels_last, cut from memory that is filled once."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def clear(self) -> None:
        """Give the memory back."""
        self._memory.clear()

    def __call__(self, role: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape)
        memory = self._memory.get((role, dtype))
        if memory is None or len(memory) < size:
            memory = self._memory[role, dtype] = torch.randn(size).to(dtype)
        first, second, *spatial = shape
        return memory[:size].view(first, *spatial, second).permute(0, 3, 1, 2)


def computations(
    convolution: Convolution, parts: Sequence[Part], dtype: torch.dtype, operands: Operands
) -> Iterator[tuple[Part, Callable[[], object]]]:
    """What a convolution takes in this type, part by part."""
    x_BCHW = operands("input", convolution.input_BCHW, dtype)
    weight_OCkk = operands("filter", convolution.weight_OCkk, dtype)
    gradient_BOHW = operands("gradient", convolution.output_BOHW, dtype)
    stride, padding, groups = convolution.stride, convolution.padding, convolution.groups

    def backward(*wanted: bool) -> object:
        return torch.ops.aten.convolution_backward(
            gradient_BOHW, x_BCHW, weight_OCkk, None, (stride,) * 2, (padding,) * 2, (1, 1), False, (0, 0), groups,
            wanted,
        )  # fmt: skip

    ways: dict[Part, Callable[[], object]] = {
        "forward": lambda: torch.conv2d(x_BCHW, weight_OCkk, None, stride, padding, 1, groups),
        "input gradient": lambda: backward(True, False, False),
        "weight gradient": lambda: backward(False, True, False),
    }
    for part in parts:
        if part != "input gradient" or convolution.input_gradient:
            yield part, ways[part]


def seconds_of(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def settled_seconds(function: Callable[[], object]) -> float:
    """Median seconds of a few calls after a first one."""
    function()
    return statistics.median(seconds_of(function) for _ in range(REPEATS))


def floor_parts(
    path: Iterable[Convolution], parts: Sequence[Part], dtype: torch.dtype, operands: Operands
) -> dict[tuple[Convolution, Part], float]:
    """Seconds of each distinct convolution of a path, part by part."""
    return {
        (convolution, part): settled_seconds(compute)
        for convolution in path
        for part, compute in computations(convolution, parts, dtype, operands)
    }
