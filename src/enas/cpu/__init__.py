"""Compiled kernels for the CPU (numba, llvmlite): one file an operation over a few shared ones.

In the package, only `enas.ops` imports them. numba is imported with the kernels and not before, so that `enas.cpu.registry`
can say whether they can be used.
"""
