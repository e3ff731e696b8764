"""The search spaces: one folder each, `space.py` what can be chosen, `net.py` what it computes."""

from __future__ import annotations

from typing import Any

from enas.architecture import Architecture, Space
from enas.errors import ArchitectureError
from enas.spaces.recurrent.space import RecurrentSpace

SPACES: dict[str, type[RecurrentSpace]] = {RecurrentSpace.name: RecurrentSpace}


def space_from_json(record: dict[str, Any]) -> Space:
    """The space written by `Space.to_json`. Raises `ArchitectureError` for an unknown one."""
    name = record.get("name")
    if name not in SPACES:
        raise ArchitectureError(f"unknown space {name!r}; known are {', '.join(SPACES)}")
    return SPACES[name].from_json(record)


def architecture_from_json(record: dict[str, Any]) -> Architecture:
    """The architecture written by `Architecture.to_json`. Raises `ArchitectureError` if it is not in its space."""
    try:
        space, choices = record["space"], record["choices"]
    except (KeyError, TypeError) as error:
        raise ArchitectureError("an architecture needs the keys 'space' and 'choices'") from error
    return space_from_json(space).architecture(choices)
