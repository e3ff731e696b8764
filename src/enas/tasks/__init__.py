"""What networks are searched and trained for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enas.errors import ConfigError, did_you_mean, shown
from enas.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from enas.tasks.own import Task

TASKS: Registry[Task | Callable[[], Task]] = Registry("task", "enas.tasks", {})
"""Tasks of other packages, or functions that make them."""


def named_task(name: str) -> Task | Callable[[], Task]:
    """The task of another package that is called so. Raises `ConfigError` if there is none."""
    found = TASKS.find(name)
    if found is None:
        names = TASKS.names
        raise ConfigError(
            f"there is no task {shown(name)}; {did_you_mean(name, names)}packages have {', '.join(names) or 'none'}"
        )
    return found
