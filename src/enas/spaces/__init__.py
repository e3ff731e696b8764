"""The search spaces: one folder each, `space.py` what can be chosen, `net.py` what it computes."""

from __future__ import annotations

from typing import Any

from enas.architecture import Architecture, Space
from enas.errors import ArchitectureError, shown
from enas.spaces.graph.space import GraphSpace
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.space import RecurrentSpace

SPACES: dict[str, type[RecurrentSpace] | type[MacroSpace] | type[MicroSpace] | type[GraphSpace]] = {
    space.name: space for space in (RecurrentSpace, MacroSpace, MicroSpace, GraphSpace)
}


def space_from_json(record: dict[str, Any]) -> Space:
    """The space written by `Space.to_json`. Raises `ArchitectureError` for an unknown one, and `ConfigError`
    for one that makes no sense or is too large."""
    try:
        return SPACES[record["name"]].from_json(record)
    except (KeyError, TypeError) as error:
        known = ", ".join(SPACES)
        raise ArchitectureError(
            f"{shown(record)} is not the JSON of a space; known spaces are {known}"
        ) from error


def architecture_from_json(record: dict[str, Any]) -> Architecture:
    """The architecture written by `Architecture.to_json`.

    Raises `ArchitectureError` if it is not in its space.
    """
    try:
        space, choices = record["space"], tuple(record["choices"])
    except (KeyError, TypeError) as error:
        raise ArchitectureError("an architecture needs the keys 'space' and 'choices'") from error
    return space_from_json(space).architecture(choices)
