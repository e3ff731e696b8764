"""Which kernels there are, what they take, whether they can be used here, and their part of `enas doctor`.

Needs no numba: what compiles kernels is imported with them.
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from enas.cpu.deferred import Maps
from enas.cpu.products import packs

F = TypeVar("F", bound=Callable[..., Any])

SWITCH = "ENAS_KERNELS"
"""The environment variable that turns kernels off where it is `off`."""

KERNELS: dict[str, Callable[..., Any]] = {}
"""The kernels by the names of their operations. Each returns None for a call that it does not take."""


def takes_over(operation: str) -> Callable[[F], F]:
    """Register a function as the kernel of an operation with the same arguments."""

    def register(kernel: F) -> F:
        KERNELS[operation] = kernel
        return kernel

    return register


def registered() -> Mapping[str, Callable[..., Any]]:
    """All kernels. Needs numba."""
    for module in ("dense", "separable", "maps", "recurrence", "softmax"):
        importlib.import_module(f"enas.cpu.{module}")
    return KERNELS


# ---- what they take ----------------------------------------------------------------------------------------------------


def takes(*maps: Maps, weights: tuple[Tensor, ...] = ()) -> bool:
    """Whether kernels take such feature maps and weights: float32 on a CPU, in the order B, C, H, W. Filters of one pixel
    may be a part of others. The operation has only looked where the first of the maps is.
    """
    for x in maps:
        z = x if isinstance(x, Tensor) else x.z_BCHW
        if z.dtype != torch.float32 or not (z.is_cpu and z.is_contiguous() and z.numel()):
            return False
    for weight in weights:
        if weight.dtype != torch.float32 or not (weight.is_contiguous() or weight.shape[-2:] == (1, 1)):
            return False
    return operand_type() in (torch.float32, torch.bfloat16)


def known(conv: nn.Conv2d, groups: int = 1) -> bool:
    """Whether kernels compute such a convolution: of odd width, padded with zeros to the size of its input."""
    k, _ = conv.kernel_size
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return (
        shape == ((k, k), (1, 1), (k // 2, k // 2), (1, 1))
        and (k % 2, conv.groups, conv.padding_mode) == (1, groups, "zeros")
        and conv.bias is None
    )


def few_enough(columns: int, shape: Sequence[int]) -> bool:
    """Whether channels times width are few enough for kernels to be faster than the library.

    The limits are those that `benchmarks/operations.py` shows, for maps [B, C, H, W] of this shape.
    """
    return columns <= (200 if shape[2] * shape[3] >= 256 else 80)


def fits(xs: Sequence[Maps], channels: Sequence[int], out: int, norm: nn.BatchNorm2d) -> bool:
    """Whether maps, filters and norm agree in size: kernels read memory without checking."""
    B, _, *size = xs[0].shape
    return [x.shape for x in xs] == [(B, C, *size) for C in channels] and norm.num_features == out


def takes_products(x: Tensor, *weights: Tensor) -> bool:
    """Whether kernels take states and weights of this type: float32 or float64 on a CPU, all alike."""
    return (
        x.is_cpu
        and x.dtype in (torch.float32, torch.float64)
        and all(weight.dtype == x.dtype for weight in weights)
        and operand_type(x.dtype) in (x.dtype, torch.bfloat16)
    )


def operand_type(own: torch.dtype = torch.float32) -> torch.dtype:
    """The type of the operands of convolutions and products: autocast's if it is on, else their `own`. float64 stays."""
    if own == torch.float64 or not torch.is_autocast_enabled("cpu"):
        return own
    return torch.get_autocast_dtype("cpu")


# ---- whether they can be used ------------------------------------------------------------------------------------------


@cache
def why_no_kernels() -> str | None:
    """Why kernels cannot be used on this machine; None if they can. The first call tries one, which takes a moment."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return f"{SWITCH} is off"
    try:
        numba = importlib.import_module("numba")  # here, as it takes its time
    except ImportError as error:  # numba follows new versions of Python months later
        return f"numba cannot be imported ({_first_line(error)})"
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set"
    try:
        if platform.machine().lower() in ("x86_64", "amd64") and "fma" not in instructions():
            return "the processor has no fused multiply-add (FMA)"
        registered()
        return str(importlib.import_module("enas.cpu.probe").fault() or "") or None
    except Exception as error:  # kernels use parts of numba and LLVM that may change in any version
        return f"numba {numba.__version__} does not compile them ({_first_line(error)})"


@cache
def instructions() -> frozenset[str]:
    """The instruction sets that numba compiles for, by LLVM's names: the processor's, unless numba's settings say others."""
    from numba.core.registry import cpu_target

    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return frozenset(word[1:] for word in features.split(",") if word.startswith("+"))


def wide_filters_pay() -> bool:
    """Whether kernels are faster than the library at dense filters wider than 1: not with AVX2's 16 registers."""
    return "avx512f" in instructions() or "avx2" not in instructions()


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__


def report() -> list[tuple[str, bool, str]]:
    """As `enas.ops.kernels_report`: whether compiled kernels work, on which threads, and where they are kept; and what
    multiplies matrices."""
    why_not = why_no_kernels()
    lines = [("kernels", why_not is None, f"plain PyTorch instead, slower: {why_not}")]
    if why_not is None:
        from enas.cpu.compiler import shares_threads  # here, as it needs numba
        from enas.cpu.probe import kept

        shared = "one thread, as PyTorch's OpenMP cannot be shared on this system"
        threads = f"{torch.get_num_threads()} threads" if shares_threads() else shared
        lines = [("kernels", True, f"compiled, on {threads}; {kept()}")]
    for dtype in (torch.float32, torch.bfloat16):
        words = "matrix products with packed weights" if packs(dtype) else "plain matrix products, slower"
        lines.append((f"oneDNN {str(dtype).removeprefix('torch.')}", packs(dtype), words))
    return lines
