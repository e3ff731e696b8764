"""What some tests need of the machine that runs them."""

import pytest

from enas.cpu.registry import why_no_kernels

KERNELS = pytest.mark.skipif(
    why_no_kernels() is not None, reason="compiled kernels cannot be used here, or are turned off"
)
