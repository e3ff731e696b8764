"""Whether compiled kernels can be used here, and if not, why; plain torch then does their work, more slowly."""

from __future__ import annotations

import importlib
import os
import platform
from functools import cache

from enas.cpu.registry import registered

SWITCH = "ENAS_KERNELS"
"""The environment variable that turns kernels off where it is `off`."""


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
    """The instruction sets that numba compiles for, by LLVM's names: the processor's, unless numba is told otherwise."""
    from numba.core.registry import cpu_target

    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return frozenset(word[1:] for word in features.split(",") if word.startswith("+"))


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__
