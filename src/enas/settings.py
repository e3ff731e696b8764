"""A run's settings as JSON and back: checked types, nothing evaluated; and what each stage's work depends on of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from enas.config import RunConfig
from enas.errors import RunFolderError
from enas.runs.images import MacroConfig, MicroConfig, NASBench201Config
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.records import WrongRecord, record_in, validated

CONFIGS: dict[str, type[RunConfig]] = {
    "recurrent": RecurrentConfig,
    "macro": MacroConfig,
    "micro": MicroConfig,
    "nasbench201": NASBench201Config,
}
"""The kinds of run, by the name that config.json carries."""


Work = Literal["search", "derive", "training"]

FREE = (
    # where it is computed, and what is shown
    *("device", "threads", "allow_slow", "tensorboard"),
    # where the data are, which are compared by their hash
    *("data.source", "data.folder", "data.download", "data.allow_overlap"),
    # when it is saved
    *("search.checkpoint_every", "search.keep_checkpoints", "retrain.checkpoint_every"),
    # what is reported
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
        "verify",
    ),
    "derive": ("derive",),
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

    kind: Literal["recurrent", "macro", "micro", "nasbench201"]
    settings: dict[str, Any]


def settings_for(work: Work, config: RunConfig) -> dict[str, Any]:
    """The settings that a stage's work depends on, as plain values by their names with dots."""
    record = config_to_json(config)
    named = {"kind": record["kind"], **flat(record["settings"])}
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
    return {"kind": kind, "settings": asdict(config)}


def config_from_json(record: object) -> RunConfig:
    """The settings written by `config_to_json`. Raises `RunFolderError` naming the setting that is wrong."""
    read = record_in("config.json", record, ConfigRecord, "Was it written by another version?")
    try:
        return validated(CONFIGS[read.kind], read.settings, closed=True)
    except WrongRecord as error:
        raise RunFolderError(f"config.json, setting {error}") from error
