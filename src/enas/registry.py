"""Things by name: those of this package, and those that other packages add by entry points.

A package adds a recipe, for example, by two lines of its pyproject.toml:

    [project.entry-points."enas.recipes"]
    mine-quick = "my_package.recipes:mine_quick"

The groups are `enas.recipes`, `enas.runs`, `enas.spaces`, `enas.controllers` and `enas.tasks`. Nothing is imported before it
is asked for, so a package that is broken stops only who asks for something of it. No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from enas.errors import ConfigError, shortened, shown

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind, found by name."""

    def __init__(
        self, what: str, group: str, built_in: Mapping[str, str], base: type = object, key: str = ""
    ) -> None:
        """`what` one of them is called, and the `group` of entry points that adds some. `built_in` says where those of this
        package are, `module:name`. If they are classes, they derive from `base`, and their attribute `key` is the name."""
        self.what = what
        self.group = group
        self.built_in = built_in
        self.base = base
        self.key = key

    @cached_property
    def added(self) -> dict[str, list[EntryPoint]]:
        """The entry points of other packages by their names; whatever this package has is not among them."""
        found: dict[str, list[EntryPoint]] = {}
        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            if entry.name not in self.built_in:
                found.setdefault(entry.name, []).append(entry)
        return found

    @property
    def names(self) -> list[str]:
        """Of all that can be asked for."""
        return [*self.built_in, *self.added]

    def find(self, name: str) -> T | None:
        """What is called so; None if nothing is.

        Where no package has anything of the name, a class that is already defined, as by a file of the user's, is found too.
        Raises `ConfigError`, naming the package, if it cannot be imported or is something else.
        """
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            built_in: T = getattr(import_module(module), attribute)
            return built_in
        if name in self.added:
            added: T = self._load(*self.added[name])
            return added
        classes = _below(self.base) if self.key else ()
        defined: list[Any] = [each for each in classes if self._name(each) == name]
        return defined[-1] if defined else None

    def _name(self, found: object) -> object:
        return getattr(found, self.key, None)

    def _load(self, entry: EntryPoint, *others: EntryPoint) -> Any:
        """What an entry point names."""
        whose = f"the {self.what} {shown(entry.name)} of the package {package_of(entry)}"
        if others:
            packages = ", ".join(package_of(other) for other in others)
            raise ConfigError(
                f"{whose} is also one of the package {packages}; uninstall all but one of these packages"
            )
        try:
            found = entry.load()
        except Exception as error:
            said = shortened(" ".join(f"{type(error).__name__}: {error}".split()), 300)
            raise ConfigError(f"{whose} cannot be imported: {entry.value}: {said}") from error
        if self.key and not (isinstance(found, type) and issubclass(found, self.base)):
            raise ConfigError(
                f"{whose}: {entry.value} is no class that derives from {self.base.__name__}, but {shown(found)}"
            )
        if self.key and self._name(found) != entry.name:
            raise ConfigError(
                f"{whose}: {entry.value} has the {self.key} {shown(self._name(found))}; both names must be the same"
            )
        return found


def package_of(entry: EntryPoint) -> str:
    """The name and the version of the package that an entry point belongs to."""
    return "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _below(base: type) -> Iterator[type]:
    """The classes that derive from one, in the order in which they were defined."""
    derived: list[type] = base.__subclasses__()
    for cls in derived:
        yield cls
        yield from _below(cls)
