"""Recipes: whole runs as functions that return one complete typed config.

The docstring of each says what it does, the command, what to expect and where that figure comes from. A variant of a recipe
calls it and changes fields with `dataclasses.replace`. The modules of recipes take seconds to import, for torch. So
docstrings are read from the source, and a module is imported when one of its recipes is asked for.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from enas.errors import ConfigError, did_you_mean, shown
from enas.recipes.files import names_own
from enas.registry import Registry, package_of

if TYPE_CHECKING:
    from enas.config import RunConfig
    from enas.controllers import ControllerConfig

MODULES = ("recurrent", "macro", "micro", "nasbench201")
"""The modules of this package's recipes; the recipe `macro-quick` is the function `macro_quick` of `macro`."""

CONTROLLERS = ("independent", "uniform", "evolution", "lstm", "lstm-authors")
"""Names of this package's controllers that may take the place of a recipe's."""


def _documented(source: str) -> dict[str, str]:
    """The docstrings of the functions in a module's source, by name."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_docstring(node) or "" for node in functions}


def _source(module: str) -> str:
    """The source of a module that is installed, without importing it."""
    names = module.split(".")
    spec = importlib.util.find_spec(names[0])
    for length in range(2, len(names) + 1):
        assert spec is not None
        spec = PathFinder.find_spec(".".join(names[:length]), spec.submodule_search_locations)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text("utf-8")


_BUILT_IN = {
    name.replace("_", "-"): (f"enas.recipes.{module}:{name}", text)
    for module in MODULES
    for name, text in _documented(Path(__file__).with_name(f"{module}.py").read_text("utf-8")).items()
}

KNOWN: Registry[Callable[[], RunConfig]] = Registry(
    "recipe", "enas.recipes", {name: place for name, (place, _) in _BUILT_IN.items()}
)
"""The functions of all recipes, by the recipe's name."""


def _texts() -> Mapping[str, str]:
    texts = {name: text for name, (_, text) in _BUILT_IN.items()}
    for name, (entry, *_) in KNOWN.added.items():
        try:
            text = _documented(_source(entry.module))[entry.attr]
        except Exception:  # whatever is wrong with it is said when it is asked for
            text = ""
        texts[name] = f"{text}\nPackage:  {package_of(entry)}".strip()
    return texts


RECIPES = _texts()
"""Every recipe's docstring by the recipe's name."""


def recipe(name: str) -> RunConfig:
    """The settings of a recipe: of this package's, of another package's, or of a file, `mine.py`, `mine.py:function` or
    `package.module:function`.

    Raises `ConfigError`, suggesting the nearest name, if there is none so called, and for whatever is wrong with a file.
    """
    from enas.recipes.origin import PackageRecipe, RecipeFile

    if names_own(name):
        return RecipeFile.of(name).config()
    if name in KNOWN.added:
        return PackageRecipe(name, package_of(KNOWN.added[name][0])).config()
    if name not in RECIPES:
        raise ConfigError(
            f"there is no recipe {shown(name)}; {did_you_mean(name, RECIPES)}The recipes are {', '.join(RECIPES)}"
        )
    found = KNOWN.find(name)
    assert found is not None
    return found()


def named_controllers(space: str) -> Mapping[str, ControllerConfig]:
    """The controllers called `CONTROLLERS` in a space: `lstm` is that of the paper's recipe, `lstm-authors` the authors'.

    In a space without such recipes they have the settings of those for recurrent cells, but for the prior on distances.
    """
    from enas.controllers import EvolutionConfig, IndependentConfig, LSTMConfig, UniformConfig

    has_published = f"{space}-paper" in _BUILT_IN
    source = space if has_published else "recurrent"
    published = [recipe(f"{source}-{by}").controller for by in ("paper", "authors")]
    if not has_published:
        published = [
            replace(config, distance_prior=False) for config in published if isinstance(config, LSTMConfig)
        ]
    settings = (IndependentConfig(), UniformConfig(), EvolutionConfig(), *published)
    return dict(zip(CONTROLLERS, settings, strict=True))


def controller_names() -> list[str]:
    """The names of the controllers that may take the place of a recipe's."""
    from enas.config import CONTROLLER_KINDS

    return [*CONTROLLERS, *CONTROLLER_KINDS.added]


def named_controller(name: str, space: str) -> ControllerConfig:
    """The controller of this name in a space; one of another package as its settings are by default. Raises `ConfigError`,
    naming the package, if that cannot be built so."""
    from enas.config import CONTROLLER_KINDS

    if name in CONTROLLERS:
        return named_controllers(space)[name]
    found = CONTROLLER_KINDS.find(name)
    if found is None:
        names = ", ".join(controller_names())
        raise ConfigError(f"there is no controller {shown(name)}; the controllers are {names}")
    return found()
