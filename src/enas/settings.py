"""A run's settings as JSON and back: checked types, nothing evaluated; and what each stage's work depends on of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from enas.config import RunConfig
from enas.controllers.config import ControllerConfig
from enas.errors import RunFolderError, shortened
from enas.runs.images import MacroConfig, MicroConfig
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.records import WrongRecord, validated

CONFIGS: dict[str, type[RunConfig]] = {
    "recurrent": RecurrentConfig,
    "macro": MacroConfig,
    "micro": MicroConfig,
}
"""The kinds of run, by the name that config.json carries."""

CONTROLLERS: dict[str, type] = {cls.__name__: cls for cls in get_args(ControllerConfig)}
"""The kinds of controller, likewise."""


Work = Literal["search", "derive", "training"]

FREE = (
    # where it is computed, and what is shown
    *("device", "threads", "allow_slow", "tensorboard"),
    # where the data are, which are compared by their hash
    *("data.source", "data.folder", "data.download", "data.allow_overlap"),
    # when it is saved
    *("search.checkpoint_every", "search.keep_checkpoints", "retrain.checkpoint_every"),
    # what is told
    *("search.log_every", "search.percentile_every", "search.percentile_samples", "search.collapse_share"),
)
"""Settings that may be changed in config.json at any time: what is computed does not depend on them."""

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
    ),
    "derive": ("derive",),
    "training": ("kind", "precision", "data", "space", "cell", "child_network", "retrain.child"),
}
"""What a stage's work depends on, the settings below these names. The seed of a training is in the name of its folder."""


@dataclass(frozen=True)
class ConfigRecord:
    """What config.json holds."""

    kind: Literal["recurrent", "macro", "micro"]
    controller: str
    settings: dict[str, Any]


def settings_for(work: Work, config: RunConfig) -> dict[str, Any]:
    """The settings that a stage's work depends on, as plain values by their names with dots."""
    record = config_to_json(config)
    named = {"kind": record["kind"], "controller": record["controller"], **flat(record["settings"])}
    return {
        name: value
        for name, value in named.items()
        if name not in FREE and any(f"{name}.".startswith(f"{part}.") for part in NEEDED[work])
    }


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
    """The settings as plain values, with the kind of run they are for."""
    kind = next(name for name, cls in CONFIGS.items() if type(config) is cls)
    return {"kind": kind, "controller": type(config.controller).__name__, "settings": asdict(config)}


def config_from_json(record: dict[str, Any]) -> RunConfig:
    """The settings written by `config_to_json`. Raises `RunFolderError` naming the setting that is wrong."""
    try:
        read = validated(ConfigRecord, record)
        kind, controller = CONFIGS[read.kind], CONTROLLERS[read.controller]
        values = read.settings["controller"]
    except (KeyError, WrongRecord) as error:
        raise RunFolderError(
            f"config.json lacks or does not know {shortened(str(error))}; was it written by a newer version?"
        ) from error
    settings = {**read.settings, "controller": _read(controller, values, "controller")}
    config: RunConfig = _read(kind, settings)
    return config


def _read(cls: type, values: Any, *place: str) -> Any:
    """A dataclass, and those in it, from plain values. Raises `RunFolderError` for a wrong value or an unknown name."""
    try:
        return validated(cls, values, strict=False, closed=True)
    except WrongRecord as error:
        name = ".".join(part for part in (*place, error.place) if part)
        reason = "there is no such setting" if error.unknown else error.reason
        joint = " " if error.of_setting else ": "
        raise RunFolderError(f"config.json, setting {name}{joint}{reason}") from error
