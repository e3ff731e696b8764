"""A run's settings as JSON and back: checked types, nothing evaluated."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from enas.config import RecurrentConfig, RunConfig
from enas.errors import RunFolderError

CONFIGS: dict[str, type[RunConfig]] = {"recurrent": RecurrentConfig}
"""The kinds of run, by the name that config.json carries."""


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as plain values, with the kind of run they are for."""
    kind = next(name for name, cls in CONFIGS.items() if type(config) is cls)
    return {"kind": kind, "controller": type(config.controller).__name__, "settings": asdict(config)}


def config_from_json(record: dict[str, Any]) -> RunConfig:
    """The settings written by `config_to_json`. Raises `RunFolderError` naming the setting that is wrong."""
    try:
        kind = CONFIGS[record["kind"]]
        config: RunConfig = TypeAdapter(kind).validate_python(record["settings"])
    except KeyError as error:
        raise RunFolderError(f"config.json lacks or does not know {error}; was it written by a newer version?") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunFolderError(f"config.json, setting {place}: {first['msg']}") from error
    return config
