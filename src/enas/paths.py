"""Paths as a person types them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import tyro

from enas.errors import ConfigError, nearest, shown


def user_path(text: str) -> Path:
    """The path that a person means: `~` is their own home folder, `~NAME` that of another.

    Raises `ConfigError` for an empty one, which would be the folder one is in, and for a home folder that there is not.
    """
    if not text:
        raise ConfigError("a path is empty; write . for the folder you are in")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{shown(text)}: there is no such home folder; write ./~ for a name with ~"
        ) from error


def near_folder(path: Path) -> str:
    """What to do where there is no folder: `did you mean 'runs/fashion'?`, or `check the path` if none is near.

    Looked at are the folders beside it, and for a bare name those in `runs`, where runs are by default.
    """
    found: dict[str, Path] = {}
    if not os.path.exists(path):  # which says no to a name that is too long
        for place in (path.parent, *([Path("runs")] if str(path) == path.name else [])):
            with contextlib.suppress(OSError, ValueError):  # the place is not there either
                for one in sorted(place.iterdir()):
                    if one.is_dir():
                        found.setdefault(one.name, one)
    near = nearest(path.name, found)
    return "check the path" if near is None else f"did you mean {shown(str(found[near]), 200)}?"


_AS_TYPED = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="PATH",
    instance_from_str=lambda words: user_path(words[0]),
    is_instance=lambda value: value is None or isinstance(value, Path),
    str_from_instance=lambda path: [str(path)],
)

UserPath = Annotated[Path, _AS_TYPED]
"""The path of a flag, as `user_path` reads it."""

OptionalPath = Annotated[Path | None, _AS_TYPED]
"""The same, of a flag that may be left out."""
