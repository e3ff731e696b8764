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
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from enas.ablations import OfSettings, variants_of
from enas.config import RunConfig
from enas.controllers import ControllerConfig
from enas.errors import ConfigError, RunFolderError, did_you_mean, shortened, shown
from enas.recipes import named_controllers, recipe
from enas.search import SearchConfig
from enas.settings import config_from_json, config_to_json

Change = Callable[[RunConfig], RunConfig]


def named_settings(config: RunConfig, name: str) -> RunConfig:
    """A mini-space's settings with the changes that a name stands for.

    Raises `ConfigError`, suggesting the nearest, for a piece that there is not, and for a value that a setting cannot have.
    """
    known = pieces(config)
    for piece in name.split("+"):
        setting, equals, value = piece.partition("=")
        if equals:
            config = with_setting(config, setting, value)
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
    controllers = {
        name: other_controller(settings)
        for name, settings in named_controllers(config.searched_space().name).items()
    }
    variants = {
        name: variant.change
        for name, variant in variants_of(config).items()
        if isinstance(variant, OfSettings) and not variant.ensemble
    }
    return {
        "default": lambda same: same,
        **controllers,
        "paper": of("paper"),
        "authors": of("authors"),
        **variants,
    }


def other_controller(settings: ControllerConfig) -> Change:
    """A controller with these settings."""
    return lambda config: replace(config, controller=settings)


def of(name: str) -> Change:
    """The search of the recipe `paper` or `authors`: its rhythm, its controller, and what its rewards are computed with.

    Its epochs are the mini-space's, with as many rewards in all, as nearly as whole updates allow. The shared weights, the
    size of a minibatch and the way of picking stay too.
    """

    def changed(config: Any) -> RunConfig:
        source: Any = recipe(f"{config.searched_space().name}-{name}")
        shared = config.shared
        kept = {size: value for size, value in vars(shared.reward).items() if size in ("batch", "bptt")}
        searched: RunConfig = replace(
            config,
            controller=source.controller,
            search=rhythm(source.search, config.search),
            shared=replace(
                shared, reward=replace(source.shared.reward, **kept), average=source.shared.average
            ),
        )
        return searched

    return changed


def rhythm(of_recipe: SearchConfig, here: SearchConfig) -> SearchConfig:
    """A recipe's search with the epochs and the number of rewards of another.

    An update has as many proposals as the recipe's, or fewer if the rewards of an epoch could not be shared out otherwise.
    """
    rewards = here.updates * here.proposals * (here.epochs - here.warmup_epochs)
    learning = here.epochs - round(of_recipe.warmup * here.epochs)
    of_epoch = max(1, rewards // max(1, learning))
    proposals = max(n for n in range(1, min(of_recipe.proposals, of_epoch) + 1) if of_epoch % n == 0)
    return replace(
        of_recipe,
        epochs=here.epochs,
        proposals=proposals,
        updates=round(rewards / (proposals * max(1, learning))),
        log_every=here.log_every,
        checkpoint_every=here.checkpoint_every,
        keep_checkpoints=here.keep_checkpoints,
    )


def with_setting(config: RunConfig, setting: str, value: str) -> RunConfig:
    """One setting by its flag's name, with a value as JSON, or as a word. Raises `ConfigError` if it cannot be so."""
    record = config_to_json(config)
    *path, last = setting.removeprefix("--").replace("-", "_").split(".")
    try:
        parsed: Any = json.loads(value)
    except json.JSONDecodeError:
        parsed = value
    place: Any = record["settings"]
    for part in path:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place or isinstance(place[last], dict):
        raise ConfigError(f"there is no setting {shown(setting)}; 'enas run RECIPE --help' lists them")
    place[last] = parsed
    try:
        return config_from_json(json.loads(json.dumps(record)))
    except RunFolderError as error:
        raise ConfigError(
            f"{shortened(setting)}={shortened(value)}: {str(error).removeprefix('config.json, ')}"
        ) from error
