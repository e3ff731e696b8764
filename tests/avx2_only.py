"""Run a command as on an x86-64 processor that has AVX2 and no AVX-512: torch, oneDNN and compiled kernels alike.

Command:  python tests/avx2_only.py pytest -m "not slow"
"""

import os
import sys

from llvmlite import binding


def environment() -> dict[str, str]:
    """The variables that hide the newer instructions; names and features are LLVM's."""
    newer = ("avx512", "avx10", "avxvnni", "amx")
    features = binding.get_host_cpu_features().items()
    return {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NUMBA_CPU_NAME": "znver3",
        "NUMBA_CPU_FEATURES": ",".join(
            f"{'+' if has and not name.startswith(newer) else '-'}{name}" for name, has in features
        ),
    }


if __name__ == "__main__":
    os.execvpe(sys.argv[1], sys.argv[1:], {**os.environ, **environment()})
