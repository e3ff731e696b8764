"""What a setting may be: bounds stand in its type, and hold wherever settings are made.

A settings class is a frozen dataclass that derives from `Settings`. Its fields are checked when it is made, by a recipe,
by flags, from config.json and by `dataclasses.replace` alike: a number must be of its kind and finite, and keep the bounds
that its type names.

    @dataclass(frozen=True)
    class Example(Settings):
        epochs: PositiveInt = 10
        dropout: PartialShare = 0.1
        clip: PositiveFloat | None = None
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from enas.errors import SettingError, shown

LARGEST_COUNT = 10**9
"""Of steps, epochs, tokens and whatever else is counted one by one."""
LARGEST_EPOCHS = 100_000
"""Of passes over the data, whose steps are listed before the first."""
LARGEST_SAMPLE = 100_000
"""Of architectures and other things that are held in memory together."""
LARGEST_WIDTH = 65_536
"""Of channels or units of a layer."""
LARGEST_SIDE = 4096
"""Of an image, in pixels."""
LARGEST_SPACE = 256
"""Of nodes of a cell and of layers of a network. A macro network of so many has 32,896 decisions."""
LARGEST_FLOAT = 3.4028234663852886e38
"""Of what becomes float32."""
LARGEST_THREADS = 1024
"""Of threads and processes."""


@dataclass(frozen=True)
class Bounds:
    """The numbers from `low` to `high`, both among them unless they are said to be left out."""

    low: float
    high: float
    without_low: bool = False
    without_high: bool = False

    def broken_by(self, value: float) -> str | None:
        """What the number would have to be, if it is too small or too large."""
        if value < self.low or (self.without_low and value == self.low):
            return f"{'above' if self.without_low else 'at least'} {self.low}"
        if value > self.high or (self.without_high and value == self.high):
            return f"{'below' if self.without_high else 'at most'} {self.high}"
        return None


PositiveInt = Annotated[int, Bounds(1, LARGEST_COUNT)]
"""A number of things, at least one."""
Several = Annotated[int, Bounds(2, LARGEST_COUNT)]
"""A number of things, at least two."""
Count = Annotated[int, Bounds(0, LARGEST_COUNT)]
"""A number of things, or none."""
Epochs = Annotated[int, Bounds(1, LARGEST_EPOCHS)]
"""Passes over the data."""
SampleSize = Annotated[int, Bounds(1, LARGEST_SAMPLE)]
"""A number of things that are in memory together."""
SampleCount = Annotated[int, Bounds(0, LARGEST_SAMPLE)]
"""The same, or none."""
Width = Annotated[int, Bounds(1, LARGEST_WIDTH)]
"""Channels or units of a layer."""
Depth = Annotated[int, Bounds(1, LARGEST_SPACE)]
"""Nodes of a cell, or layers of a network."""
Pixels = Annotated[int, Bounds(0, LARGEST_SIDE)]
"""A length in an image."""
Threads = Annotated[int, Bounds(1, LARGEST_THREADS)]
"""Threads or processes that work at the same time."""
Seed = Annotated[int, Bounds(-(2**63), 2**63 - 1)]
"""A number that random numbers follow from."""
Share = Annotated[float, Bounds(0, 1)]
"""A part of a whole."""
PartialShare = Annotated[float, Bounds(0, 1, without_high=True)]
"""A part of a whole that leaves something over."""
SomeShare = Annotated[float, Bounds(0, 1, without_low=True)]
"""A part of a whole that is not nothing."""
InnerShare = Annotated[float, Bounds(0, 1, without_low=True, without_high=True)]
"""A part of a whole that is neither nothing nor all."""
Part = Annotated[int | float, Bounds(0, LARGEST_COUNT, without_low=True)]
"""A share below 1, or a number of things."""
LearningRate = Annotated[float, Bounds(0, 1000, without_low=True)]
"""What Adam's steps are multiplied by, which are about 1 long for every weight."""
PositiveFloat = Annotated[float, Bounds(0, LARGEST_FLOAT, without_low=True, without_high=True)]
"""A number above zero."""
Weight = Annotated[float, Bounds(0, LARGEST_FLOAT, without_high=True)]
"""What a term of a loss is multiplied by."""


class Settings:
    """Base of the settings classes. One that checks more in `__post_init__` calls this one's first."""

    def __post_init__(self) -> None:
        """Raises `SettingError`, naming the setting, the value and what it must be."""
        cls: Any = type(self)
        for name, hint in _hints(cls).items():
            needs = _unmet(getattr(self, name), hint)
            if needs is not None:
                raise SettingError(f"{name} must be {needs}, not {shown(getattr(self, name))}")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of the fields of a settings class, with their bounds."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def _unmet(value: object, hint: Any) -> str | None:
    """What a value of this type must be, if this one is not."""
    arguments = get_args(hint)
    match get_origin(hint):
        case origin if origin is Annotated:
            bounds = [part for part in arguments[1:] if isinstance(part, Bounds)]
            needs = [_unmet(value, arguments[0]), *(_broken(value, bound) for bound in bounds)]
            return next((need for need in needs if need is not None), None)
        case origin if origin in (Union, UnionType):
            needs = [_unmet(value, argument) for argument in arguments if argument is not NoneType]
            if None in needs or (value is None and NoneType in arguments):
                return None
            return str(needs[-1]) + (" or None" if NoneType in arguments else "")
        case origin if origin is Literal:
            return None if value in arguments else f"one of {', '.join(map(str, arguments))}"
        case origin if origin is tuple and isinstance(value, tuple):
            each = arguments[:1] * len(value) if arguments[-1] is ... else arguments
            if len(each) != len(value):
                return f"{len(each)} values"
            return next((f"made of what is {n}" for n in map(_unmet, value, each) if n is not None), None)
    return _wrong_kind(value, get_origin(hint) or hint)


def _broken(value: object, bound: Bounds) -> str | None:
    return bound.broken_by(value) if isinstance(value, int | float) else None


def _wrong_kind(value: object, kind: Any) -> str | None:
    """What a value must be that is not of a plain type."""
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        return None if -math.inf < value < math.inf else "finite"
    if kind is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if not isinstance(kind, type):
        return None
    names = {bool: "True or False", str: "text", tuple: "several values"}
    return None if isinstance(value, kind) else names.get(kind, f"a {kind.__name__}")
