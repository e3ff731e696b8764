"""`enas show`: an architecture as a drawing or as JSON."""

from __future__ import annotations

import json as as_json
import mimetypes
import os
from dataclasses import dataclass
from typing import Annotated

import tyro

from enas.architecture import Architecture
from enas.cli.flags import Command
from enas.constraints import Settings
from enas.errors import ArchitectureError, ConfigError, RunFolderError, SettingError, shown
from enas.paths import OptionalPath, near_folder, user_path
from enas.recipes import recipe
from enas.recipes.files import names_own
from enas.report.drawing import text_for, write_png, write_svg
from enas.report.text import in_digits
from enas.runtime.streams import reader_may_go, show_text
from enas.spaces import architecture_in
from enas.spaces.reading import read_text


@dataclass(frozen=True)
class Show(Command, Settings):
    """Draw an architecture."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN-OR-ARCHITECTURE")]
    """A run folder, an architecture.json, or an architecture string in quotes, such as 'tanh tanh(1) relu(2)' or the
    authors' numbers. Or a file of yours with a recipe, as `enas run` takes it: then what it would search is shown."""
    svg: OptionalPath = None
    """Write a vector drawing here."""
    png: OptionalPath = None
    """Write a picture here."""
    json: bool = False
    """Print the architecture as JSON instead of a drawing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, path, kind in (("svg", self.svg, "image/svg+xml"), ("png", self.png, "image/png")):
            if path is not None and os.path.isdir(path):  # which says no to a name that is too long
                raise SettingError(f"{name} must be a file, not the folder {shown(str(path))}")
            if path is not None and mimetypes.guess_type(path) not in ((kind, None), (None, None)):
                raise SettingError(f"{name} must be a path that ends in .{name}, not {shown(str(path))}")

    def __call__(self) -> int:
        """Draw it in the terminal, and to files if asked; say how many there are in its space."""
        if names_own(self.source):
            return self.show_space()
        architecture = read_architecture(self.source)
        with reader_may_go():
            if self.svg is not None:
                write_svg(architecture.graph(), self.svg)
            if self.png is not None:
                write_png(architecture.graph(), self.png)
        if self.json:
            return show_text(as_json.dumps(architecture.to_json(), indent=2))
        count = f"one of {in_digits(architecture.space.count())} in its space"
        return show_text(f"{text_for(architecture.graph())}\n\n{architecture}\n{count}")

    def show_space(self) -> int:
        """Say what the recipe of a file would search."""
        for name in ("svg", "png", "json"):
            if getattr(self, name):
                raise ConfigError(
                    f"--{name} is for an architecture; {shown(self.source)} is a file with a recipe"
                )
        from enas.report.space import described  # which imports torch

        return show_text(described(recipe(self.source)))


def read_architecture(source: str) -> Architecture:
    """The architecture of a run folder, of a JSON file, or of a string."""
    path = user_path(source)
    if os.path.isdir(path):  # which says no to a string that is too long for a path
        from enas.stages import Run  # which imports torch; a string needs none

        return Run.open(path).architecture()
    if path.suffix == ".json":
        return architecture_in(path)
    try:
        return read_text(source)
    except (ArchitectureError, ConfigError) as error:
        if os.sep in source:  # which no architecture has
            raise RunFolderError(f"there is no folder {shown(str(path))}; {near_folder(path)}") from error
        raise ArchitectureError(
            f"{shown(source)} is no run folder, and as an architecture: {error}"
        ) from error
