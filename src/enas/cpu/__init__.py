"""Compiled kernels for the CPU (numba, llvmlite): one file an operation over a few shared ones.

Nothing outside this package but `enas.ops` imports it. Importing it registers the kernels.
"""

from enas.cpu import convolutions, maps, recurrence, softmax
from enas.cpu.registry import KERNELS

__all__ = ["KERNELS", "convolutions", "maps", "recurrence", "softmax"]
