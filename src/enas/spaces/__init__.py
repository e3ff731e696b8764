"""The search spaces: one folder each, `space.py` what can be chosen, `net.py` what it computes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from enas.architecture import Architecture, Space
from enas.errors import ArchitectureError, ConfigError, RunFolderError, shown
from enas.registry import Registry
from enas.runtime.files import read_json
from enas.runtime.records import WrongRecord, validated

SPACES: Registry[type[Space]] = Registry(
    "space",
    "enas.spaces",
    {
        "recurrent": "enas.spaces.recurrent.space:RecurrentSpace",
        "macro": "enas.spaces.macro.space:MacroSpace",
        "micro": "enas.spaces.micro.space:MicroSpace",
        "nasbench201": "enas.spaces.nasbench201.space:NASBench201Space",
        "graph": "enas.spaces.graph.space:GraphSpace",
        "choices": "enas.spaces.choices.space:ChoiceSpace",
    },
    Space,
    "name",
)
"""The spaces, by the name that their JSON carries."""


@dataclass(frozen=True)
class ArchitectureRecord:
    """What `Architecture.to_json` writes; written by hand, it may lack the id."""

    space: dict[str, Any]
    choices: list[int]
    id: str | None = None


def space_from_json(record: Any) -> Space:
    """The space written by `Space.to_json`. Raises `ArchitectureError` for an unknown one, and for wrong fields."""
    name = record.get("name") if isinstance(record, dict) else None
    kind = SPACES.find(name) if isinstance(name, str) else None
    if kind is None:
        known = ", ".join(SPACES.names)
        raise ArchitectureError(f"{shown(record)} is not the JSON of a space; known spaces are {known}")
    fields = {key: value for key, value in record.items() if key != "name"}
    try:
        space: Space = validated(kind, fields, closed=True)
    except (WrongRecord, ConfigError) as error:
        raise ArchitectureError(f"not the JSON of a {name} space: {error}") from error
    missing = space.to_json().keys() - record.keys()
    if missing:
        raise ArchitectureError(f"not the JSON of a {name} space: {', '.join(sorted(missing))} is missing")
    return space


def architecture_from_json(record: object) -> Architecture:
    """The architecture written by `Architecture.to_json`.

    Raises `ArchitectureError` if it is not in its space, or has another id than its choices have.
    """
    try:
        read = validated(ArchitectureRecord, record)
    except WrongRecord as error:
        raise ArchitectureError(f"an architecture needs the keys 'space' and 'choices': {error}") from error
    architecture = space_from_json(read.space).architecture(read.choices)
    if read.id is not None and read.id != architecture.id:
        raise ArchitectureError(
            f"its id is {shown(read.id)}, but the choices are those of {architecture.id}: one of the two was "
            "changed; leave the id out if the choices are right"
        )
    return architecture


def architecture_in(path: str | os.PathLike[str]) -> Architecture:
    """The architecture in a JSON file. Raises `RunFolderError` naming the file and what is wrong."""
    try:
        return architecture_from_json(read_json(path))
    except ArchitectureError as error:
        raise RunFolderError(f"{path}: {error}") from error
