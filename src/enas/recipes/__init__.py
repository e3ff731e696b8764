"""Recipes: whole runs as functions that return one complete typed config.

Each says what it does, the command, what to expect and where that figure comes from. A variant of a recipe calls it and
changes fields with `dataclasses.replace`. Letters of sources: "paper" is Pham et al. 2018; "authors" is their corrected
recurrent code, google-research/enas_lm; "first code" is melodyguan/enas, whose language model its authors withdrew in
2019 and whose convolutional searches are the only ones that they published.
"""

from __future__ import annotations

from collections.abc import Callable

from enas.config import RunConfig
from enas.errors import ConfigError, did_you_mean, shown
from enas.recipes.macro import macro_authors, macro_default, macro_paper, macro_quick
from enas.recipes.micro import micro_authors, micro_default, micro_paper, micro_quick
from enas.recipes.recurrent import recurrent_authors, recurrent_default, recurrent_paper, recurrent_quick

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "recurrent-quick": recurrent_quick,
    "recurrent-default": recurrent_default,
    "recurrent-paper": recurrent_paper,
    "recurrent-authors": recurrent_authors,
    "macro-quick": macro_quick,
    "macro-default": macro_default,
    "macro-paper": macro_paper,
    "macro-authors": macro_authors,
    "micro-quick": micro_quick,
    "micro-default": micro_default,
    "micro-paper": micro_paper,
    "micro-authors": micro_authors,
}


def recipe(name: str) -> RunConfig:
    """The settings of a recipe. Raises `ConfigError`, suggesting the nearest name, if there is none so called."""
    if name not in RECIPES:
        raise ConfigError(
            f"there is no recipe {shown(name)}; {did_you_mean(name, RECIPES)}The recipes are {', '.join(RECIPES)}"
        )
    return RECIPES[name]()
