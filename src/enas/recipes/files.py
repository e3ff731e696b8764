"""A file of the user's with a recipe in it: imported as Python runs a script, so that it finds the modules beside it.

The recipe is the function called `recipe`, or else the only public function of the file whose annotation says that it
returns a `RunConfig`. `mine.py:name` picks one. `package.module:name` is that of a module in a package, which is looked for
in the working directory too, and imported by that name. **Importing a file runs it.**
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_type_hints

from enas.errors import ConfigError, did_you_mean, enas_command, shortened, shown
from enas.paths import near_folder, user_path
from enas.runtime.files import digest_of, digest_of_file
from enas.runtime.whose import hands_over, told_in_a_line

_IN_FILE = re.compile(r"(?P<file>.+\.py)(:(?P<function>\w+))?")
_NAME = r"[^\W\d]\w*"
_IN_MODULE = re.compile(rf"(?P<module>{_NAME}(\.{_NAME})*):(?P<function>{_NAME})")


class _Loaded(NamedTuple):
    """A file that has been imported."""

    sha256: str
    """Of what was read of it."""
    module: ModuleType
    folder: Path
    """Where the modules are that belong to it."""
    added: str | None
    """What was put on the path for it."""
    before: frozenset[str]
    """The modules that there were before."""


_loaded: dict[Path, _Loaded] = {}
"""The file that was imported last."""


class Place(NamedTuple):
    """Where a recipe is."""

    path: Path
    """Of the file, absolute."""
    module: str
    """The name with dots that it is imported by; empty for one that is in no package."""
    function: str | None


def names_own(word: str) -> bool:
    """Whether a word is FILE.py, FILE.py:NAME or MODULE:NAME."""
    return _IN_FILE.fullmatch(word) is not None or _IN_MODULE.fullmatch(word) is not None


def no_run_in(path: Path) -> str:
    """Why there is no run at a path that has no config.json, and what to give: a file with a recipe is not its run."""
    if path.suffix == ".py" and path.is_file():
        return f"it is a file. Give the folder of a run of it, such as runs/{path.stem}"
    return f"it has no config.json; {near_folder(path)}"


def place_of(word: str) -> Place:
    """What such a word names; nothing is imported. Raises `ConfigError` if there is no such module."""
    if found := _IN_FILE.fullmatch(word):
        return Place(Path(os.path.abspath(user_path(found["file"]))), "", found["function"])
    found = _IN_MODULE.fullmatch(word)
    if found is None:
        raise ConfigError(f"{shown(word)} is no file of Python: its name must end in .py")
    name = found["module"]
    path = _file_of(name)
    return Place(path, name if "." in name or path.name == "__init__.py" else "", found["function"])


def _file_of(module: str) -> Path:
    """The file of a module, without importing it or a package that it is in. Raises `ConfigError` if there is none."""
    importlib.invalidate_caches()  # of files that have been written since
    first, *rest = module.split(".")
    spec = PathFinder.find_spec(first, [os.getcwd(), *sys.path])
    with suppress(ValueError):  # of a module that was not imported by name, as __main__
        spec = spec or importlib.util.find_spec(first)
    for name in itertools.accumulate(rest, "{}.{}".format, initial=first):
        if name != first:
            inside = None if spec is None else spec.submodule_search_locations
            spec = None if inside is None else PathFinder.find_spec(name, inside)
    if spec is None:
        raise ConfigError(
            f"there is no module {shown(module)}, neither in the working directory nor among what is installed"
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(f"{shown(module)} is no module in a .py file: name the one that has the function")
    return Path(os.path.abspath(spec.origin))


def folder_of(path: Path, module: str) -> Path:
    """Where the modules are that belong to a file: the folder that it is in, or that of the outermost package."""
    return path.parents[max(0, module.count(".") - (path.name != "__init__.py"))]


@hands_over
def module_of(path: Path, name: str = "") -> tuple[ModuleType, str]:
    """The module in a file, and the SHA-256 of the bytes that it was made of. It is imported again only if it has changed.
    One of a package has a `name` with dots.

    Raises `ConfigError` if it is missing, is no Python, has the name of another module, or fails.
    """
    folder = folder_of(path, name)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {shortened(str(path), 300)}: {error.strerror}") from error
    digest = digest_of(source).sha256
    if path in _loaded and _loaded[path].sha256 == digest:
        return _loaded[path].module, digest
    forget()
    importlib.invalidate_caches()
    in_package, name = bool(name), name or path.stem
    if _imported(name, path):  # by the program that asks
        return sys.modules[name], digest
    if not in_package and (name in sys.modules or _installed(name, path)):
        raise ConfigError(
            f"{path} has the name of the module {name!r}, which it would hide: call the file something else"
        )
    root = str(folder.parent if in_package else folder)
    added = None if in_package and root in sys.path else root
    _loaded[path] = _Loaded(digest, ModuleType(name), folder, added, frozenset(sys.modules))
    if added is not None:
        sys.path.insert(0, added)  # as `python FILE` does
    try:
        with told_in_a_line(path, folder), _importing():
            outer = _package(name, path)
            if not _imported(name, path):  # by the package
                inside = [str(path.parent)] if path.name == "__init__.py" else None
                spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
                assert spec is not None
                module = sys.modules[name] = importlib.util.module_from_spec(spec)
                exec(compile(source, path, "exec"), vars(module))
                if outer is not None:
                    setattr(outer, name.rpartition(".")[2], module)
    except BaseException:
        forget()
        raise
    _loaded[path] = _loaded[path]._replace(module=sys.modules[name])
    return sys.modules[name], digest


def _imported(name: str, path: Path) -> bool:
    """Whether the module of this name has been imported, from this file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and os.path.abspath(file) == str(path)


@hands_over
def _package(name: str, path: Path) -> ModuleType | None:
    """The package that a module is in, imported; None if it is in none. Raises `ConfigError` if it is another one."""
    if not (outer := name.rpartition(".")[0]):
        return None
    package = importlib.import_module(outer)
    folders = [os.path.abspath(folder) for folder in package.__path__]
    if str(path.parent if path.name != "__init__.py" else path.parent.parent) not in folders:
        raise ConfigError(f"{path} is not {name!r}: the package {outer!r} is that in {', '.join(folders)}")
    return package


importing = False
"""Whether a file is just being imported."""


@contextmanager
def _importing() -> Iterator[None]:
    global importing
    importing = True
    try:
        yield
    finally:
        importing = False


def refuse_while_importing(call: str) -> None:
    """Raise `ConfigError` if it is the import of a file that makes this call: a script that was begun by Python is imported
    again by whoever goes on with its run."""
    if importing:
        raise ConfigError(
            f"{call} is called while its script is imported: put it under if __name__ == '__main__':"
        )


def _installed(name: str, path: Path) -> bool:
    """Whether there is a module of this name that is not in the file."""
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin is None or os.path.abspath(spec.origin) != str(path))


def forget() -> None:
    """Take back the import of a file, with the modules beside it: another file's may be called alike."""
    for path, loaded in list(_loaded.items()):
        del _loaded[path]
        for name in {loaded.module.__name__, *beside(path, loaded.folder)} - loaded.before:
            sys.modules.pop(name, None)
        if loaded.added in sys.path:
            sys.path.remove(loaded.added)


def beside(path: Path, inside: Path) -> dict[str, Path]:
    """The modules that have been imported from the folder that a file is in, and from folders in it, without the file's
    own."""
    folder = str(inside) + os.sep
    roots = {root for each in sys.path if (root := os.path.abspath(each) + os.sep) != folder}
    nested = tuple(root for root in roots if root.startswith(folder))  # as an environment's site-packages
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith(folder) and not file.startswith(nested) and file != str(path):
            found[name] = Path(file)
    return found


def hashes_beside(path: Path, folder: Path) -> dict[str, str]:
    """The SHA-256 of each of those files, by their paths from the folder."""
    return {
        file.relative_to(folder).as_posix(): digest_of_file(file).sha256
        for file in sorted(set(beside(path, folder).values()))
    }


def function_in(path: Path, module_name: str, name: str | None) -> Callable[[], Any]:
    """The recipe of a file. Raises `ConfigError` if there is none, or several of which none is picked."""
    from enas.config import RunConfig  # which imports torch, as every recipe does

    module = module_of(path, module_name)[0]
    own = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    }
    if name is not None:
        if name not in own:
            raise ConfigError(f"{path} has no function {shown(name)}; {did_you_mean(name, own)}{_those(own)}")
        return own[name]
    recipes = {key: one for key, one in own.items() if _returns(one, RunConfig)}
    if "recipe" in own:
        return own["recipe"]
    if len(recipes) > 1:
        command = enas_command("run", f"{path.name}:{next(iter(recipes))}")
        raise ConfigError(f"{path} has several recipes, {', '.join(recipes)}: name one, as in {command!r}")
    if not recipes:
        raise ConfigError(
            f"{path} has no recipe: write a function `recipe` that returns the settings of a run. {_those(own)}"
        )
    return next(iter(recipes.values()))


def without_arguments(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with no argument."""
    parameters = inspect.signature(function).parameters.values()
    given = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(each.default is not inspect.Parameter.empty or each.kind in given for each in parameters)


def _those(functions: dict[str, Any]) -> str:
    return f"Its functions are {shortened(', '.join(functions), 200)}" if functions else "It has no function"


def _returns(function: Callable[..., Any], kind: type) -> bool:
    """Whether a function says that it returns objects of a class."""
    try:
        said = get_type_hints(function).get("return")
    except Exception:  # of names that only a type checker knows
        return False
    return isinstance(said, type) and issubclass(said, kind)
