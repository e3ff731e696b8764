"""A run's settings as JSON and back: checked types, nothing evaluated."""

from __future__ import annotations

from dataclasses import asdict
from types import GenericAlias
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from enas.config import RunConfig
from enas.controllers.config import ControllerConfig
from enas.errors import RunFolderError, SettingError
from enas.runs.images import MacroConfig, MicroConfig
from enas.runs.recurrent import RecurrentConfig

CONFIGS: dict[str, type[RunConfig]] = {
    "recurrent": RecurrentConfig,
    "macro": MacroConfig,
    "micro": MicroConfig,
}
"""The kinds of run, by the name that config.json carries."""

CONTROLLERS: dict[str, type] = {cls.__name__: cls for cls in get_args(ControllerConfig)}
"""The kinds of controller, likewise."""


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as plain values, with the kind of run they are for."""
    kind = next(name for name, cls in CONFIGS.items() if type(config) is cls)
    return {"kind": kind, "controller": type(config.controller).__name__, "settings": asdict(config)}


def config_from_json(record: dict[str, Any]) -> RunConfig:
    """The settings written by `config_to_json`. Raises `RunFolderError` naming the setting that is wrong."""
    try:
        kind, controller = CONFIGS[record["kind"]], CONTROLLERS[record["controller"]]
        settings = dict(record["settings"])
        settings["controller"] = _read(controller, settings["controller"], "controller")
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"config.json lacks or does not know {error}; was it written by a newer version?"
        ) from error
    config: RunConfig = _read(kind, settings)
    return config


def _read(cls: type, values: Any, *place: str) -> Any:
    """A dataclass, and those in it, from plain values. Raises `RunFolderError` for a wrong value or an unknown name."""
    # Pydantic lets the names it should forbid be set on a container only, not on a dataclass that has no config.
    container: Any = GenericAlias(tuple, (cls,))
    adapter = TypeAdapter(container, config=ConfigDict(extra="forbid"))
    try:
        return adapter.validate_python((values,))[0]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join([*place, *(str(part) for part in first["loc"][1:])])
        raised = first.get("ctx", {}).get("error")
        if isinstance(raised, SettingError):
            raise RunFolderError(
                f"config.json, setting {'.'.join(filter(None, (name, str(raised))))}"
            ) from error
        unknown = first["type"] == "unexpected_keyword_argument"
        reason = "there is no such setting" if unknown else first["msg"].removeprefix("Value error, ")
        raise RunFolderError(f"config.json, setting {name}: {reason}") from error
