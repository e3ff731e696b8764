"""Which kernel takes over which operation of `enas.ops`, and what feature maps kernels take."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from enas.cpu.deferred import Deferred

F = TypeVar("F", bound=Callable[..., Any])

KERNELS: dict[str, Callable[..., Any]] = {}
"""The kernels by the names of their operations. Each returns None for a call that it does not take."""


def takes_over(operation: str) -> Callable[[F], F]:
    """Register a function as the kernel of an operation, whose arguments it has."""

    def register(kernel: F) -> F:
        KERNELS[operation] = kernel
        return kernel

    return register


def registered() -> Mapping[str, Callable[..., Any]]:
    """All kernels. Needs numba."""
    for module in ("convolutions", "maps", "recurrence", "softmax"):
        importlib.import_module(f"enas.cpu.{module}")
    return KERNELS


def takes(*maps: torch.Tensor | Deferred, weights: tuple[torch.Tensor, ...] = ()) -> bool:
    """Whether kernels take such feature maps and weights: float32 on a CPU, the maps in the order B, C, H, W."""
    zs = [x.z_BCHW if isinstance(x, Deferred) else x for x in maps]
    return (
        all(z.is_cpu and z.dtype == torch.float32 and z.is_contiguous() and z.numel() > 0 for z in zs)
        and all(weight.dtype == torch.float32 for weight in weights)
        and operand_type() in (torch.float32, torch.bfloat16)
    )


def takes_products(x: torch.Tensor, *weights: torch.Tensor) -> bool:
    """Whether kernels take states and weights of this type: float32 or float64 on a CPU, all alike."""
    return (
        x.is_cpu
        and x.dtype in (torch.float32, torch.float64)
        and all(weight.dtype == x.dtype for weight in weights)
        and operand_type(x.dtype) in (x.dtype, torch.bfloat16)
    )


def operand_type(own: torch.dtype = torch.float32) -> torch.dtype:
    """The type that operands of convolutions and products have: autocast's, or their `own`. float64 stays as it is."""
    if own == torch.float64 or not torch.is_autocast_enabled("cpu"):
        return own
    return torch.get_autocast_dtype("cpu")
