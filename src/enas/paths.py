"""Paths as a person types them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from enas.errors import ConfigError, shown


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
