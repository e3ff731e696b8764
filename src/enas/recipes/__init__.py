"""Recipes: whole runs as functions that return one complete typed config.

The docstring of each says what it does, the command, what to expect and where that figure comes from. A variant of a recipe
calls it and changes fields with `dataclasses.replace`. The modules of recipes take seconds to import, for torch. So
docstrings are read from the source, and a module is imported when one of its recipes is asked for.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING

from enas.errors import ConfigError, did_you_mean, shown

if TYPE_CHECKING:
    from enas.config import RunConfig
    from enas.controllers import ControllerConfig

SPACES = ("recurrent", "macro", "micro", "nasbench201")
"""The modules of recipes; the recipe `macro-quick` is the function `macro_quick` of `macro`."""

CONTROLLERS = ("independent", "uniform", "evolution", "lstm", "lstm-authors")
"""Names of the controllers that may take the place of a recipe's."""


def _documented() -> Mapping[str, str]:
    return {
        node.name.replace("_", "-"): ast.get_docstring(node) or ""
        for space in SPACES
        for node in ast.parse(files(__package__).joinpath(f"{space}.py").read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


RECIPES = _documented()
"""Every recipe's docstring by the recipe's name."""


def recipe(name: str) -> RunConfig:
    """The settings of a recipe. Raises `ConfigError`, suggesting the nearest name, if there is none so called."""
    if name not in RECIPES:
        raise ConfigError(
            f"there is no recipe {shown(name)}; {did_you_mean(name, RECIPES)}The recipes are {', '.join(RECIPES)}"
        )
    module = importlib.import_module(f"enas.recipes.{name.partition('-')[0]}")
    config: RunConfig = getattr(module, name.replace("-", "_"))()
    return config


def named_controllers(space: str) -> Mapping[str, ControllerConfig]:
    """The controllers called `CONTROLLERS` in a space: `lstm` is that of the paper's recipe, `lstm-authors` the authors'.

    In a space without such recipes they have the settings of those for recurrent cells, but for the prior on distances.
    """
    from enas.controllers import EvolutionConfig, IndependentConfig, LSTMConfig, UniformConfig

    has_published = f"{space}-paper" in RECIPES
    source = space if has_published else "recurrent"
    published = [recipe(f"{source}-{by}").controller for by in ("paper", "authors")]
    if not has_published:
        published = [
            replace(config, distance_prior=False) for config in published if isinstance(config, LSTMConfig)
        ]
    settings = (IndependentConfig(), UniformConfig(), EvolutionConfig(), *published)
    return dict(zip(CONTROLLERS, settings, strict=True))
