"""A file of the user's with a recipe in it: imported as Python runs a script, so that it finds the modules beside it.

The recipe is the function called `recipe`, or else the only public function of the file whose annotation says that it
returns a `RunConfig`. `mine.py:name` picks one. **Importing a file runs it.**
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from enas.errors import ConfigError, did_you_mean, enas_command, shortened, shown
from enas.paths import user_path
from enas.runtime.files import digest_of, digest_of_file

_NAMED = re.compile(r"(?P<file>.+\.py)(:(?P<function>\w+))?")

_loaded: dict[Path, tuple[str, ModuleType]] = {}
"""The file that was imported last, with the hash of what was read of it."""


def names_a_file(word: str) -> bool:
    """Whether a word is FILE.py or FILE.py:NAME."""
    return _NAMED.fullmatch(word) is not None


def file_and_function(word: str) -> tuple[Path, str | None]:
    """The absolute path of the file that a word names, and the function in it if it names one."""
    found = _NAMED.fullmatch(word)
    if found is None:
        raise ConfigError(f"{shown(word)} is no file of Python: its name must end in .py")
    return Path(os.path.abspath(user_path(found["file"]))), found["function"]


def module_of(path: Path) -> tuple[ModuleType, str]:
    """The module in a file, and the SHA-256 of the bytes that it was made of. It is imported again only if it has changed.

    Raises `ConfigError` if it is missing, is no Python, has the name of another module, or fails.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {shortened(str(path), 300)}: {error.strerror}") from error
    digest = digest_of(source).sha256
    if path in _loaded and _loaded[path][0] == digest:
        return _loaded[path][1], digest
    forget()
    name = path.stem
    imported = getattr(sys.modules.get(name), "__file__", None)
    if imported is not None and os.path.abspath(imported) == str(path):  # by the program that asks
        return sys.modules[name], digest
    if name in sys.modules or _installed(name, path):
        raise ConfigError(
            f"{path} has the name of the module {name!r}, which it would hide: call the file something else"
        )
    sys.path.insert(0, str(path.parent))  # as `python FILE` does
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _loaded[path] = digest, module
    try:
        with errors_of(path), _importing():
            exec(compile(source, path, "exec"), vars(module))
    except ConfigError:
        forget()
        raise
    return module, digest


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
    for path in list(_loaded):
        del _loaded[path]
        for name in [path.stem, *beside(path)]:
            sys.modules.pop(name, None)
        if str(path.parent) in sys.path:
            sys.path.remove(str(path.parent))


def beside(path: Path) -> dict[str, Path]:
    """The modules that have been imported from the folder of a file, and from folders in it, without the file's own."""
    folder = str(path.parent) + os.sep
    roots = {root for each in sys.path if (root := os.path.abspath(each) + os.sep) != folder}
    nested = tuple(
        root for root in roots if root.startswith(folder)
    )  # such as the site-packages of an environment
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith(folder) and not file.startswith(nested) and file != str(path):
            found[name] = Path(file)
    return found


def hashes_beside(path: Path) -> dict[str, str]:
    """The SHA-256 of each of those files, by their paths from the folder of the file."""
    return {
        file.relative_to(path.parent).as_posix(): digest_of_file(file).sha256
        for file in sorted(set(beside(path).values()))
    }


def function_in(path: Path, name: str | None) -> Callable[[], Any]:
    """The recipe of a file. Raises `ConfigError` if there is none, or several of which none is picked."""
    from enas.config import RunConfig  # which imports torch, as every recipe does

    module = module_of(path)[0]
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


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Inside, whatever the code of a file and of those beside it raises is a `ConfigError` of one line that says where.

    An error of other code, with none of the file's on its way, is as it is.
    """
    try:
        yield
    except SyntaxError as error:
        text = f": {shortened(error.text.strip(), 120)}" if error.text else ""
        where = f"{error.filename or path}, line {error.lineno or 1}"
        raise ConfigError(f"{where}: {error.msg}{text}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename.startswith(str(path.parent) + os.sep)]
        if not own:
            raise
        said = shortened(" ".join(f"{type(error).__name__}: {error}".split()), 500)
        raise ConfigError(f"{own[-1].filename}, line {own[-1].lineno}: {said}") from error
