"""The one reader of a run's records: JSON into typed dataclasses, every field checked, so that no reader forgets to.

A record is a frozen dataclass of plain types, other records in it. What a file has beside the fields is left alone: a
newer version may write more.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from enas.errors import RunFolderError, SettingError, shown
from enas.runtime.files import read_json, read_jsonl

T = TypeVar("T")


class WrongRecord(ValueError):
    """Values are not those of a record."""

    def __init__(self, place: str, reason: str, *, unknown: bool = False, of_setting: bool = False) -> None:
        joint = " " if of_setting else ": "
        super().__init__(f"{place}{joint}{reason}" if place else reason)
        self.place = place
        """The field, inner ones after dots; empty for the record itself."""
        self.reason = reason
        self.unknown = unknown
        """Whether there is no such field."""
        self.of_setting = of_setting
        """Whether a setting's own bounds are broken: the reason goes on after its name."""


def validated(kind: type[T], values: object, *, strict: bool = True, closed: bool = False) -> T:
    """The dataclass `kind`, and those in it, from plain values.

    `strict` takes JSON's own types only: no `true` or `"1"` for 1. `closed` refuses names that are no fields. Numbers are
    finite. Raises `WrongRecord` for a value that is missing or wrong.
    """
    try:
        adapter = _adapter(cast(Any, kind), strict, closed)
        record: T = (
            adapter.validate_json(json.dumps([values])) if strict else adapter.validate_python((values,))
        )[0]
        return record
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        unknown, reason = first["type"] == "unexpected_keyword_argument", first["msg"]
        if isinstance(broken := first.get("ctx", {}).get("error"), SettingError):
            name, _, needs = str(broken).partition(" ")
            place = f"{place}.{name}" if place else name
            raise WrongRecord(place, needs, of_setting=True) from error
        if first["type"] not in ("missing", "unexpected_keyword_argument", "value_error", "json_invalid"):
            reason += f", not {shown(first['input'])}"
        raise WrongRecord(place, reason.removeprefix("Value error, "), unknown=unknown) from error


@functools.cache
def _adapter(kind: Any, strict: bool, closed: bool) -> TypeAdapter[Any]:
    # Pydantic takes settings for a container only, not for a dataclass that has none of its own.
    container: Any = GenericAlias(tuple, (kind,))
    extra: Literal["forbid", "ignore"] = "forbid" if closed else "ignore"
    return TypeAdapter(container, config=ConfigDict(extra=extra, strict=strict, allow_inf_nan=not strict))


def read_record(path: str | os.PathLike[str], kind: type[T], advice: str) -> T:
    """The record of a JSON file. Raises `RunFolderError` naming the file, the field, and the `advice`, what to do."""
    return record_in(path, read_json(path), kind, advice)


def record_in(path: str | os.PathLike[str], values: object, kind: type[T], advice: str) -> T:
    """The record that these values are, which a file holds. Raises `RunFolderError` as `read_record`."""
    try:
        return validated(kind, values)
    except WrongRecord as error:
        raise RunFolderError(f"{path}: {error}. {advice}") from error


def read_records(path: str | os.PathLike[str], kind: type[T], advice: str) -> list[T]:
    """The records of a file of JSON lines. Raises `RunFolderError` naming the file, the record and the field."""
    records = []
    for number, values in enumerate(read_jsonl(path), start=1):
        try:
            records.append(validated(kind, values))
        except WrongRecord as error:
            raise RunFolderError(f"{path}, record {number}: {error}. {advice}") from error
    return records


# ---- the settings that something was made with -------------------------------------------------------------------------


def check_settings(
    made_with: Mapping[str, Any] | None, now: Mapping[str, Any], what: str | os.PathLike[str], otherwise: str
) -> None:
    """Compare the settings that `what` was made with, by their names with dots, with those of now.

    A setting that only one of them has is of another version, and so is `what` without any. Raises `RunFolderError` naming
    the first that differs, with both values; `otherwise` is what can be done instead of putting it back.
    """
    for name, value in now.items():
        if made_with is not None and name in made_with and made_with[name] != value:
            then, here = shown(made_with[name]), shown(value)
            raise RunFolderError(
                f"{name} is {here} in config.json, but {Path(what)} was made with {then}: put {then} back, or {otherwise}"
            )
