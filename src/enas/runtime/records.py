"""The one reader of a run's records: JSON into typed dataclasses, every field checked, so that no reader forgets to.

A record is a frozen dataclass of plain types, other records in it. What a file has beside the fields is left alone: a
newer version may write more.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from enas.constraints import complaint
from enas.errors import RunFolderError, shown
from enas.runtime.files import read_json, read_jsonl

T = TypeVar("T")


class WrongRecord(ValueError):
    """Values are not those of a record; the message begins with the field's name, inner ones after dots."""


_adapter = functools.cache(TypeAdapter)


def validated(kind: type[T], values: object, *, strict: bool = True, closed: bool = False) -> T:
    """The dataclass `kind`, and those in it, from plain values.

    `strict` takes JSON's own types only: no `true` or `"1"` for 1. `closed` refuses names that are no fields, and suggests
    the nearest. Raises `WrongRecord` for a value that is missing or wrong.
    """
    adapter: TypeAdapter[T] = _adapter(cast(Hashable, kind))
    extra: Any = "forbid" if closed else "ignore"
    try:
        if strict:
            return adapter.validate_json(json.dumps(values), strict=True, extra=extra)
        return adapter.validate_python(values, extra=extra)
    except ValidationError as error:
        raise WrongRecord(complaint(error, kind)) from error


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
    lines = enumerate(read_jsonl(path), start=1)
    return [record_in(f"{path}, record {number}", values, kind, advice) for number, values in lines]


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
