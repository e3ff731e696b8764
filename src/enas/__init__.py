"""Efficient Neural Architecture Search by parameter sharing, in PyTorch.

What stands here imports no torch, so that `import enas` and `enas --help` are quick: what needs it is imported when it is
first used. Stages, networks and controllers are imported from their own modules.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from enas.architecture import Architecture, Decision, Space

if TYPE_CHECKING:
    from enas.exporting.exports import export
    from enas.loading import load

try:
    __version__ = version("enas")
except PackageNotFoundError:
    __version__ = "unknown"  # the source tree itself is on the path, without an installation

__all__ = ["Architecture", "Decision", "Space", "__version__", "export", "load"]

_LATER = {
    "export": "enas.exporting.exports",
    "load": "enas.loading",
}
"""The modules of the public names that are imported when they are first used."""


def __getattr__(name: str) -> object:
    """A public name, from its module."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_LATER[name]), name)
    return found
