"""Efficient Neural Architecture Search by parameter sharing, in PyTorch.

What stands here imports no torch, so that `import enas` and `enas --help` are quick. Stages, networks and
controllers are imported from their own modules.
"""

from importlib.metadata import PackageNotFoundError, version

from enas.architecture import Architecture, Decision, Space

try:
    __version__ = version("enas")
except PackageNotFoundError:
    __version__ = "unknown"  # the source tree itself is on the path, without an installation

__all__ = ["Architecture", "Decision", "Space", "__version__"]
