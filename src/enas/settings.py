"""A run's settings as JSON and back: checked types, nothing evaluated; and what each stage's work depends on of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from enas.config import NO_SETTING, RunConfig
from enas.errors import ConfigError, RunFolderError, shown
from enas.recipes.origin import origin_from_json
from enas.registry import Registry
from enas.runtime.records import WrongRecord, record_in, validated

CONFIGS: Registry[type[RunConfig]] = Registry(
    "kind of run",
    "enas.runs",
    {
        "recurrent": "enas.runs.recurrent:RecurrentConfig",
        "macro": "enas.runs.images:MacroConfig",
        "micro": "enas.runs.images:MicroConfig",
        "nasbench201": "enas.runs.images:NASBench201Config",
        "network": "enas.runs.network:NetworkConfig",
    },
    RunConfig,
    "kind",
)
"""The kinds of run, by the name that config.json carries."""


Work = Literal["search", "derive", "training"]

FREE = (
    # where it is computed, and what is shown
    *("device", "threads", "deterministic", "channels_last", "allow_slow"),
    *("executor", "ray_address", "tensorboard"),
    # where the data are, which are compared by their hash
    *("data.source", "data.folder", "data.download", "data.allow_overlap"),
    # when it is saved
    *("search.checkpoint_minutes", "search.checkpoint_every", "search.keep_checkpoints"),
    *("retrain.checkpoint_minutes", "retrain.checkpoint_every"),
    # what is reported
    *("search.log_every", "search.percentile_every", "search.percentile_samples", "search.collapse_share"),
)
"""Settings that may be changed in config.json at any time: what is computed does not depend on them. Only
`derive.checkpoints` looks at more than the last checkpoint, at those that `search.checkpoint_every` has left."""

NEEDED: dict[Work, tuple[str, ...]] = {
    "search": (
        "kind",
        "seed",
        "precision",
        "data",
        "space",
        "cell",
        "network",
        "shared",
        "search",
        "controller",
        "verify",
        "cost",
        "limit",
        "latency",
    ),
    "derive": ("derive", "cost", "limit", "latency"),
    "training": (
        "kind",
        "precision",
        "data",
        "space",
        "cell",
        "child_network",
        "retrain.child",
        "retrain.short_schedule",
    ),
}
"""What a stage's work depends on, the settings below these names. The seed of a training is in the name of its folder."""


@dataclass(frozen=True)
class ConfigRecord:
    """What config.json holds."""

    kind: str
    settings: dict[str, Any]
    recipe: dict[str, Any] | None = None
    """Where the recipe is, if not in this package."""


def settings_for(work: Work, config: RunConfig) -> dict[str, Any]:
    """The settings that a stage's work depends on, as plain values by their names with dots."""
    record = config_to_json(config)
    named = {"kind": record["kind"], **flat(record["settings"])}
    return {
        name: value
        for name, value in named.items()
        if name not in FREE and any(f"{name}.".startswith(f"{part}.") for part in NEEDED[work])
    }


def limits_left_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without limits of costs, which may change while a search is under way: what was drawn has kept those of
    then. Those at its end count."""
    return {name: value for name, value in settings.items() if not name.startswith("limit.")}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings by one name with dots; sequences as JSON has them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as plain values, with the kind of run they are for, and where the recipe is if not in this package.

    Raises `ConfigError` if another class has that kind.
    """
    if CONFIGS.find(config.kind) is not type(config):
        raise ConfigError(
            f"{type(config).__name__} is not the class of the kind of run {shown(config.kind)}: give it a `kind` of its own"
        )
    recipe = {} if config.origin is None else {"recipe": config.origin.to_json()}
    named = {name: getattr(config, name) for name in _names(config, settings=True)}
    settings = {
        name: asdict(cast(Any, value)) if is_dataclass(value) else value for name, value in named.items()
    }
    return {"kind": config.kind, "settings": settings, **recipe}


def _names(config: RunConfig, settings: bool) -> list[str]:
    """The fields of a config that are settings, or those that are not."""
    return [field.name for field in fields(config) if (field.metadata != NO_SETTING) is settings]


def config_from_json(
    record: object,
    changed_ok: bool = False,
    recipe: RunConfig | None = None,
    run: Path = Path("RUN"),
) -> RunConfig:
    """The settings written by `config_to_json`, and what is no setting from the recipe, or from the one that is given.

    **Without one, that runs the recipe's file, if it is one.** Raises `RunFolderError` naming the setting that is wrong, or
    the file that has changed, unless that is `changed_ok`, with the command to go on with the `run` in that folder.
    """
    read = record_in("config.json", record, ConfigRecord, "Was it written by another version?")
    if recipe is None and read.recipe is not None:
        recipe = origin_from_json(read.recipe).checked(changed_ok, run).config()
    kind = CONFIGS.find(read.kind) if recipe is None else type(recipe)
    if kind is None or kind.kind != read.kind:
        known = ", ".join(CONFIGS.names)
        raise RunFolderError(
            f"config.json: kind is {shown(read.kind)}, which no recipe and no package has that is here; known are {known}"
        )
    try:
        made = validated(kind, read.settings, closed=True)
    except WrongRecord as error:
        raise RunFolderError(f"config.json, setting {error}") from error
    return (
        made
        if recipe is None
        else replace(made, **{name: getattr(recipe, name) for name in _names(made, False)})
    )
