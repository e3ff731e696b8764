"""Names for the settings of a search on a mini-space: pieces that change them, joined by `+`.

    default                       as the mini-space comes
    independent, lstm, …          another controller in its place
    paper, authors                the search of that recipe at the mini-space's size
    no-warmup, proposals-1, …     a variant of `enas ablate` that changes settings
    search.updates=30             any setting, with its value as JSON or as a word

`lstm+no-warmup+search.explore=0.5` is all three changes, from left to right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from enas.config import RunConfig
from enas.errors import ConfigError, SettingError, did_you_mean, shortened, shown
from enas.evidence.variants import Change, OfSettings, setting, variants_of, with_settings
from enas.phases import SearchConfig
from enas.recipes import RECIPES, named_controllers, recipe
from enas.runtime.json_text import parse_json
from enas.settings import config_from_json, config_to_json

SIZES = ("batch", "bptt")
"""Settings of a reward that say how much data it is computed on."""


def named_settings(config: RunConfig, name: str) -> RunConfig:
    """The settings with the changes that a name stands for.

    Raises `ConfigError`, suggesting the nearest, for a piece that there is not, and for a value that a setting cannot have.
    """
    known = pieces(config)
    for piece in name.split("+"):
        path, equals, value = piece.partition("=")
        if equals:
            config = with_flag(config, path, value)
        elif piece in known:
            config = known[piece](config)
        else:
            raise ConfigError(
                f"{did_you_mean(piece, known)}--methods are some of {', '.join(known)}, or SETTING=VALUE, joined by +, "
                f"not {shown(piece)}"
            )
    return config


def pieces(config: RunConfig) -> Mapping[str, Change]:
    """All that a piece may be called."""
    return {
        "default": setting({}),
        **{
            name: setting({"controller": controller})
            for name, controller in named_controllers(config.searched_space().name).items()
        },
        **{
            name: searched_as(name)
            for name in ("paper", "authors")
            if f"{config.searched_space().name}-{name}" in RECIPES
        },
        **{
            name: variant.change
            for name, variant in variants_of(config).items()
            if isinstance(variant, OfSettings) and not variant.ensemble
        },
    }


def with_flag(config: RunConfig, flag: str, value: str) -> RunConfig:
    """One setting by its flag's name, with a value as JSON, or as a word. Raises `ConfigError` if it cannot be so."""
    path = flag.removeprefix("--").replace("-", "_")
    try:
        parsed = parse_json(value.encode())
    except ValueError:
        parsed = value
    try:
        changed = with_settings(config, {path: tuple(parsed) if isinstance(parsed, list) else parsed})
    except SettingError as error:
        raise ConfigError(f"{shortened(flag)}={shortened(value)}: {error}") from error
    # Through JSON, so that a number becomes one of its setting's kind.
    return config_from_json(json.loads(json.dumps(config_to_json(changed))))


def searched_as(name: str) -> Change:
    """The search of the recipe `paper` or `authors`: its rhythm, its controller, and what its rewards are computed with.

    Its epochs are the present ones, with as many rewards in all, as nearly as whole updates allow. The shared weights, the
    size of a minibatch and the way of picking stay too.
    """

    def changed(config: RunConfig) -> RunConfig:
        source: Any = recipe(f"{config.searched_space().name}-{name}")
        own: Any = config
        sizes = {size: value for size, value in vars(own.shared.reward).items() if size in SIZES}
        changes = {
            "controller": source.controller,
            "search": rhythm(source.search, config.search),
            "shared.reward": replace(source.shared.reward, **sizes),
            "shared.average": source.shared.average,
        }
        return with_settings(config, changes)

    return changed


def rhythm(of_recipe: SearchConfig, here: SearchConfig) -> SearchConfig:
    """A recipe's search with the epochs and the number of rewards of another.

    An update has as many proposals as the recipe's, or fewer if the rewards of an epoch could not be shared out otherwise.
    """
    rewards = here.updates * here.proposals * (here.epochs - here.warmup_epochs)
    learning = max(1, here.epochs - round(of_recipe.warmup * here.epochs))
    of_epoch = max(1, rewards // learning)
    proposals = max(n for n in range(1, min(of_recipe.proposals, of_epoch) + 1) if of_epoch % n == 0)
    return replace(
        of_recipe,
        epochs=here.epochs,
        proposals=proposals,
        updates=round(rewards / (proposals * learning)),
        log_every=here.log_every,
        checkpoint_minutes=here.checkpoint_minutes,
        checkpoint_every=here.checkpoint_every,
        keep_checkpoints=here.keep_checkpoints,
    )
