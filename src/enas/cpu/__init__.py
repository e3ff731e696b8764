"""Compiled kernels for the CPU (numba, llvmlite): one file an operation over a few shared ones.

Nothing outside this package but `enas.ops` imports it. What it needs is imported with the kernels, not with the package, so
that `enas.cpu.usable` can be asked first.
"""
