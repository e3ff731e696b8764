"""Efficient Neural Architecture Search by parameter sharing, in PyTorch.

What stands here imports no torch, so that `import enas` and `enas --help` are quick: what needs it is imported when it is
first used. Stages, networks and controllers are imported from their own modules.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from enas.architecture import Architecture, Decision, Space

try:
    __version__ = version("enas")
except PackageNotFoundError:
    __version__ = "unknown"  # the source tree itself is on the path, without an installation

WHEN_USED = {"export": "enas.exporting.exports", "load": "enas.loading"}
"""Public names, and the modules that they are imported from when they are first used."""

__all__ = ["Architecture", "Decision", "Space", "__version__", *WHEN_USED]


def __getattr__(name: str) -> object:
    if name not in WHEN_USED:
        raise AttributeError(f"module 'enas' has no attribute {name!r}")
    return getattr(import_module(WHEN_USED[name]), name)
