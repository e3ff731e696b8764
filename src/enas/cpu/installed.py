"""Whether kernels can be compiled here."""

import importlib
from functools import cache


@cache
def has_numba() -> bool:
    """Whether numba is installed; the first call imports it."""
    try:
        importlib.import_module("numba")  # here, as it takes its time
    except ImportError:  # numba follows new versions of Python months later
        return False
    return True
