"""Efficient Neural Architecture Search by parameter sharing, in PyTorch.

What stands here imports no torch, so that `import enas` and `enas --help` are quick: what needs it is imported when it is
first used. Stages, networks and controllers are imported from their own modules.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from enas.architecture import Architecture, Decision, Space

if TYPE_CHECKING:
    from enas.api import Found, compare, search, train
    from enas.choices import Choice, Inputs, SharedDecision, child_of, fresh_decisions, space_of, use
    from enas.exporting.exports import export
    from enas.loading import load
    from enas.runs.network import NetworkConfig
    from enas.tasks.own import Task
    from enas.tasks.training_settings import Training

try:
    __version__ = version("enas")
except PackageNotFoundError:
    __version__ = "unknown"  # the source tree itself is on the path, without an installation

__all__ = [
    "Architecture",
    "Choice",
    "Decision",
    "Found",
    "Inputs",
    "NetworkConfig",
    "SharedDecision",
    "Space",
    "Task",
    "Training",
    "__version__",
    "child_of",
    "compare",
    "export",
    "fresh_decisions",
    "load",
    "search",
    "space_of",
    "train",
    "use",
]

_LATER = {
    **dict.fromkeys(("Choice", "Inputs", "SharedDecision"), "enas.choices"),
    **dict.fromkeys(("child_of", "fresh_decisions", "space_of", "use"), "enas.choices"),
    **dict.fromkeys(("Found", "compare", "search", "train"), "enas.api"),
    "NetworkConfig": "enas.runs.network",
    "Task": "enas.tasks.own",
    "export": "enas.exporting.exports",
    "load": "enas.loading",
    "Training": "enas.tasks.training_settings",
}
"""The modules of the public names that are imported when they are first used."""


def __getattr__(name: str) -> object:
    """A public name, from its module."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_LATER[name]), name)
    return found
