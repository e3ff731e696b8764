"""Efficient Neural Architecture Search by parameter sharing, in PyTorch.

What is imported here needs no torch, so that `import enas` and `enas --help` are quick; what needs it is imported when it
is first used. Stages, networks and controllers are imported from their own modules.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from enas.architecture import Architecture, Decision, Space

if TYPE_CHECKING:
    from enas.tasks.own import Task
    from enas.tasks.training_settings import Training

try:
    __version__ = version("enas")
except PackageNotFoundError:
    __version__ = "unknown"  # the source tree itself is on the path, without an installation

__all__ = ["Architecture", "Decision", "Space", "Task", "Training", "__version__"]

_MODULES = {"Task": "enas.tasks.own", "Training": "enas.tasks.training_settings"}
"""Where the names are that are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'enas' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
