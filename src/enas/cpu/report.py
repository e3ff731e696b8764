"""What `enas doctor` says of the kernels."""

from __future__ import annotations

import torch

from enas.cpu.products import packs
from enas.cpu.usable import why_no_kernels

Line = tuple[str, bool, str]
"""What was looked at, whether it is there, and in words."""


def report() -> list[Line]:
    """Whether compiled kernels work, on which threads, and where they are kept; and what multiplies matrices."""
    return [_kernels(), *map(_products, (torch.float32, torch.bfloat16))]


def _kernels() -> Line:
    why_not = why_no_kernels()
    if why_not is not None:
        return "kernels", False, f"plain PyTorch instead, slower: {why_not}"
    from enas.cpu.probe import kept  # here, as it needs numba
    from enas.cpu.threads import shares_threads

    threads = (
        f"{torch.get_num_threads()} threads"
        if shares_threads()
        else "one thread, as PyTorch's OpenMP cannot be shared on this system"
    )
    return "kernels", True, f"compiled, on {threads}; {kept()}"


def _products(dtype: torch.dtype) -> Line:
    packed = packs(dtype)
    words = "matrix products with packed weights" if packed else "plain matrix products, slower"
    return f"oneDNN {str(dtype).removeprefix('torch.')}", packed, words
