"""Reading a run's records: JSON into typed dataclasses, every field checked.

A record is a frozen dataclass of plain types and other records. Further names in a file are ignored: a newer version may
write more.
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
    """Values are not those of a record. The message begins with the field's name, such as `outer.inner`."""


_adapter = functools.cache(TypeAdapter)


def validated(kind: type[T], values: object, *, strict: bool = True, closed: bool = False) -> T:
    """The dataclass `kind`, and those in it, from plain values.

    `strict` takes JSON's own types only: not `true` or `"1"` for 1. `closed` refuses names that are no fields, and suggests
    the nearest. Raises `WrongRecord` for a missing or wrong value.
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
    """The record that these values, from the file `path`, are. Raises `RunFolderError` as `read_record`."""
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
    """Compare the settings that `what` was made with, by their names with dots, with the settings `now`.

    A setting that only one of them has is of another version, and is not compared. Raises `RunFolderError` naming the first
    that differs, with both values; `otherwise` says what to do instead of putting the value back.
    """
    for name, value in now.items():
        if made_with is not None and name in made_with and made_with[name] != value:
            then, here = shown(made_with[name]), shown(value)
            raise RunFolderError(
                f"{name} is {here} in config.json, but {Path(what)} was made with {then}: put {then} back, or {otherwise}"
            )
