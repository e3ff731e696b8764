"""Where the recipe of a run is, if not in this package: what config.json says of it, and how it is found again.

A run folder whose recipe is a file brings no code along: the path is absolute, and the file is imported only while it is,
with the modules beside it, what the run was begun with, by its SHA-256.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from enas.errors import ConfigError, RunFolderError, shown
from enas.recipes.files import errors_of, file_and_function, function_in, hashes_beside, module_of
from enas.runtime.files import digest_of_file
from enas.runtime.records import record_in

if TYPE_CHECKING:
    from enas.config import RunConfig


class Origin(ABC):
    """Where a recipe is."""

    @abstractmethod
    def config(self) -> RunConfig:
        """What the recipe returns. Raises `ConfigError` if there is none, and if it returns something else."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain values, for config.json."""

    @abstractmethod
    def checked(self, changed_ok: bool) -> Self:
        """The origin as it is now. Raises `RunFolderError` if it has changed, unless that is `changed_ok`."""

    def told(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what the recipe's own code raises is said in a line."""
        return contextlib.nullcontext()

    def called(self, config: object, whose: str) -> RunConfig:
        """What a recipe has returned, with its origin. Raises `ConfigError` if it is no settings of a run."""
        from enas.config import RunConfig

        if not isinstance(config, RunConfig):
            raise ConfigError(
                f"{whose} returned {shown(config)}, which is no settings of a run (a RunConfig)"
            )
        return replace(config, origin=self)


@dataclass(frozen=True)
class PackageRecipe(Origin):
    """A recipe that another package adds by an entry point."""

    name: str
    package: str
    """Its name and version, for people."""

    def config(self) -> RunConfig:
        from enas.recipes import KNOWN

        found = KNOWN.find(self.name)
        if found is None:
            raise ConfigError(f"there is no recipe {shown(self.name)} any more: install {self.package}")
        return self.called(found(), f"the recipe {self.name} of {self.package}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def checked(self, changed_ok: bool) -> PackageRecipe:
        return self


@dataclass(frozen=True)
class RecipeFile(Origin):
    """A recipe in a file of the user's."""

    file: str
    """Its absolute path."""
    function: str
    sha256: str
    beside: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of what it has imported from its folder, by the path from there."""

    @classmethod
    def of(cls, word: str) -> RecipeFile:
        """That of `mine.py` or `mine.py:name`, which is imported. Raises `ConfigError` if there is no recipe."""
        path, name = file_and_function(word)
        function = function_in(path, name).__name__
        return cls(str(path), function, module_of(path)[1])

    def config(self) -> RunConfig:
        path = Path(self.file)
        function = function_in(path, self.function)
        with errors_of(path):
            made = function()
        return self.called(made, f"{path}: {self.function}()")

    def told(self) -> contextlib.AbstractContextManager[None]:
        return errors_of(Path(self.file))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "beside": {**self.beside, **hashes_beside(Path(self.file))}}

    def checked(self, changed_ok: bool) -> RecipeFile:
        path = Path(self.file)
        if not path.is_absolute() or path.suffix != ".py":
            raise RunFolderError(
                f"config.json: recipe.file must be the absolute path of a .py file, not {shown(self.file)}"
            )
        if not path.is_file():
            raise RunFolderError(
                f"the recipe of this run is in {path}, which is missing: put it back, or write in config.json, as "
                "recipe.file, where it is now"
            )
        hashes = {
            path: self.sha256,
            **{path.parent / _inside(name): sha for name, sha in self.beside.items()},
        }
        changed = [
            str(file)
            for file, sha in hashes.items()
            if not (file.is_file() and digest_of_file(file).sha256 == sha)
        ]
        if not changed:
            return self
        if not changed_ok:
            raise RunFolderError(
                f"{' and '.join(changed)} changed since the run was begun: put back what was there, or go on with what is "
                "there now by 'enas resume RUN --changed-file-ok'"
            )
        return replace(self, sha256=digest_of_file(path).sha256, beside={})


def _inside(name: str) -> Path:
    """A path that cannot leave the folder it is taken from."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name:
        raise RunFolderError(
            f"config.json: recipe.beside has {shown(name)}, which is no path below the file's folder"
        )
    return Path(*path.parts)


def origin_from_json(record: Mapping[str, Any]) -> Origin:
    """What `to_json` wrote. Raises `RunFolderError` naming what is wrong."""
    kind: type[RecipeFile | PackageRecipe] = RecipeFile if "file" in record else PackageRecipe
    return record_in("config.json, recipe", record, kind, "Was it written by another version?")
