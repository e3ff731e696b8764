"""Where the recipe of a run is, if not in this package: what config.json says of it, and how it is found again.

A run folder whose recipe is a file brings no code along: the path is absolute, and the file is imported only while it is,
with the modules beside it, what the run was begun with, by its SHA-256.
"""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from enas.errors import ConfigError, RunFolderError, enas_command, shown
from enas.recipes.files import (
    folder_of,
    function_in,
    hashes_beside,
    module_of,
    place_of,
    without_arguments,
)
from enas.runtime.files import digest_of_file
from enas.runtime.records import record_in
from enas.runtime.whose import hands_over, told_in_a_line, told_in_lines

if TYPE_CHECKING:
    from enas.config import RunConfig


@dataclass(frozen=True)
class Origin(ABC):
    """Where a recipe is."""

    importable: ClassVar[bool] = True
    """Whether another process can find it."""

    @abstractmethod
    def config(self) -> RunConfig:
        """What the recipe returns. Raises `ConfigError` if there is none, and if it returns something else."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        return {"from": type(self).__name__, **asdict(self)}

    def checked(self, changed_ok: bool, run: Path) -> Self:
        """The origin of the run in this folder as it is now. Raises `RunFolderError` if it has changed, unless that is
        `changed_ok`."""
        return self

    def told(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what the recipe's own code raises is said in a line."""
        return contextlib.nullcontext()

    def told_later(self, run: Path) -> contextlib.AbstractContextManager[None]:
        """Inside, in the middle of a run in this folder, it is said with its lines of the traceback."""
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
            raise ConfigError(
                f"there is no recipe {shown(self.name)} any more: install the package {self.package}"
            )
        return self.called(found(), f"the recipe {self.name} of the package {self.package}")


@dataclass(frozen=True)
class InFile(Origin, ABC):
    """Something in a file of the user's."""

    file: str
    """Its absolute path."""
    sha256: str
    beside: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """The SHA-256 of what it has imported from its folder, by the path from there."""

    @property
    def imported_as(self) -> str:
        """The name with dots of a module in a package; empty for a file by itself."""
        return ""

    @property
    def folder(self) -> Path:
        """Where the modules are that belong to it."""
        return folder_of(Path(self.file), self.imported_as)

    def told(self) -> contextlib.AbstractContextManager[None]:
        return told_in_a_line(Path(self.file), self.folder)

    def told_later(self, run: Path) -> contextlib.AbstractContextManager[None]:
        return told_in_lines(self.folder, run)

    def to_json(self) -> dict[str, Any]:
        now = hashes_beside(Path(self.file), self.folder)
        return {**super().to_json(), "beside": {**self.beside, **now}}

    def checked(self, changed_ok: bool, run: Path) -> Self:
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
            **{self.folder / _inside(name): sha for name, sha in self.beside.items()},
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
                f"there now by {enas_command('resume', run, '--changed-file-ok')!r}"
            )
        return replace(self, sha256=digest_of_file(path).sha256, beside={})


@dataclass(frozen=True)
class RecipeFile(InFile):
    """A recipe in a file of the user's."""

    function: str

    @classmethod
    def of(cls, word: str) -> RecipeFile:
        """That of `mine.py`, `mine.py:name` or `package.module:name`, which is imported. Raises `ConfigError` if there is no
        recipe."""
        path, module, name = place_of(word)
        function = function_in(path, module, name).__name__
        sha256 = module_of(path, module)[1]
        return (
            RecipeModule(str(path), sha256, function, module) if module else cls(str(path), sha256, function)
        )

    @hands_over
    def config(self) -> RunConfig:
        path = Path(self.file)
        function = function_in(path, self.imported_as, self.function)
        if not without_arguments(function):
            raise ConfigError(f"{path}: {self.function}() needs arguments, which a recipe is not given")
        with self.told():
            made = function()
        return self.called(made, f"{path}: {self.function}()")


@dataclass(frozen=True)
class RecipeModule(RecipeFile):
    """A recipe in a module of a package, with which its relative imports work. All of the package belongs to it."""

    module: str
    """Its name with dots."""

    @property
    def imported_as(self) -> str:
        return self.module

    def checked(self, changed_ok: bool, run: Path) -> Self:
        path, names = Path(self.file), self.module.split(".")
        own = path.parent if path.name == "__init__.py" else path.with_suffix("")
        if list(own.parts[-len(names) :]) != names:
            raise RunFolderError(
                f"config.json: recipe.module is {shown(self.module)}, which is not imported from {self.file}"
            )
        return super().checked(changed_ok, run)


@dataclass(frozen=True)
class NetworkFile(InFile):
    """A network and its task, by their names in a file, for a run that was begun from Python."""

    network: str
    task: str

    @classmethod
    def of(cls, network: object, task: object) -> NetworkFile | None:
        """Where both are, in the running script or in a module; None if another process could not import them from there,
        as they are in a notebook or inside a function."""
        owners = {getattr(one, "__module__", None) for one in (network, task)}
        for module in map(sys.modules.get, ("__main__", *(owner for owner in owners if owner))):
            names = [] if module is None else [_name_in(module, one) for one in (network, task)]
            if module is not None and all(names):
                file = Path(str(module.__file__)).absolute()
                return cls(str(file), digest_of_file(file).sha256, *map(str, names))
        return None

    def config(self) -> RunConfig:
        from enas.runs.network import NetworkConfig

        module = module_of(Path(self.file))[0]
        for name in (self.network, self.task):
            if not hasattr(module, name):
                raise ConfigError(f"{self.file} has no {shown(name)} any more, which the run was begun with")
        made = NetworkConfig(network=getattr(module, self.network), task=getattr(module, self.task))
        return self.called(made, self.file)


def _name_in(module: ModuleType, thing: object) -> str | None:
    """The name of a thing in a module that can be imported from its file alone; None if there is none."""
    file = getattr(module, "__file__", None) or ""
    if getattr(module, "__package__", None) or not (file.endswith(".py") and Path(file).is_file()):
        return None
    return next((name for name, value in vars(module).items() if value is thing), None)


@dataclass(frozen=True)
class InMemory(Origin):
    """What only the program has that began the run."""

    importable: ClassVar[bool] = False

    def config(self) -> RunConfig:
        raise RunFolderError(
            "the network and the task of this run are in no file: it was begun from Python, and goes on there with the same "
            "call of enas.search"
        )


KINDS: tuple[type[Origin], ...] = (PackageRecipe, RecipeFile, RecipeModule, NetworkFile, InMemory)


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
    kind = next((kind for kind in KINDS if kind.__name__ == record.get("from")), None)
    if kind is None:
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise RunFolderError(
            f"config.json: recipe.from must be one of {known}, not {shown(record.get('from'))}; was it written by "
            "another version?"
        )
    return record_in("config.json, recipe", record, kind, "Was it written by another version?")
