"""What a setting may be: bounds stand in its type, and pydantic holds them wherever settings are made.

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
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, cast, get_args, get_type_hints

from pydantic import ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError

from enas.errors import SettingError, did_you_mean, shown

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
"""Of nodes of a cell and of layers of a network. A macro network of 256 layers has 32,896 decisions."""
LARGEST_FLOAT = 3.4028234663852886e38
"""Of what becomes float32."""
LARGEST_THREADS = 1024
"""Of threads and processes."""

PositiveInt = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
"""A number of things, at least one."""
Several = Annotated[int, Field(ge=2, le=LARGEST_COUNT)]
"""A number of things, at least two."""
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
"""A number of things, or none."""
Epochs = Annotated[int, Field(ge=1, le=LARGEST_EPOCHS)]
"""Passes over the data."""
SampleSize = Annotated[int, Field(ge=1, le=LARGEST_SAMPLE)]
"""A number of things that are in memory together."""
SampleCount = Annotated[int, Field(ge=0, le=LARGEST_SAMPLE)]
"""The same, or none."""
Width = Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]
"""Channels or units of a layer."""
Depth = Annotated[int, Field(ge=1, le=LARGEST_SPACE)]
"""Nodes of a cell, or layers of a network."""
Pixels = Annotated[int, Field(ge=0, le=LARGEST_SIDE)]
"""A length in an image."""
Threads = Annotated[int, Field(ge=1, le=LARGEST_THREADS)]
"""Threads or processes that work at the same time."""
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""A number that random numbers follow from."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole."""
PartialShare = Annotated[float, Field(ge=0, lt=1)]
"""A part of a whole that leaves something over."""
SomeShare = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole that is not nothing."""
InnerShare = Annotated[float, Field(gt=0, lt=1)]
"""A part of a whole that is neither nothing nor all."""
Part = Annotated[int | float, Field(gt=0, le=LARGEST_COUNT)]
"""A share below 1, or a number of things."""
LearningRate = Annotated[float, Field(gt=0, le=1000)]
"""What Adam's steps are multiplied by, which are about 1 long for every weight."""
PositiveFloat = Annotated[float, Field(gt=0, lt=LARGEST_FLOAT)]
"""A number above zero."""
Weight = Annotated[float, Field(ge=0, lt=LARGEST_FLOAT)]
"""What a term of a loss is multiplied by."""


class Settings:
    """Base of the settings classes. One that checks more in `__post_init__` calls this one's first."""

    def __post_init__(self) -> None:
        """Raises `SettingError`, naming the setting, the value and what it must be."""
        cls: Any = type(self)
        try:
            _checker(cls).validate_python({field.name: getattr(self, field.name) for field in fields(cls)})
        except ValidationError as error:
            raise SettingError(complaint(error, cls)) from error


@cache
def _checker(cls: Any) -> TypeAdapter[Any]:
    """What checks the fields of a settings class; settings in it have checked themselves."""
    instance_of, named_tuple = cast(Any, InstanceOf), cast(Any, NamedTuple)  # of types known only now
    hints = get_type_hints(cls, include_extras=True)
    kinds = {field.name: hints[field.name] for field in fields(cls)}
    own = {name: instance_of[kind] if is_dataclass(kind) else kind for name, kind in kinds.items()}
    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return TypeAdapter(named_tuple(cls.__name__, list(own.items())), config=config)


NEEDS = {
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "True or False",
    "string_type": "text",
    "tuple_type": "several values",
    "list_type": "several values",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "dataclass_exact_type": "a {class_name}",
    "too_long": "{max_length} values",
    "literal_error": "{expected}",
    "model_attributes_type": "an object",
    "is_instance_of": "a {class}",
}
"""What a value must be, by pydantic's name of what is wrong with it."""


def complaint(error: ValidationError, cls: type) -> str:
    """What is wrong in values of a dataclass, in one line: the name of the field, with dots, and what it must be."""
    errors = error.errors(include_url=False)
    place, hint = _place(errors[0]["loc"], cls)
    *_, wrong = (
        each for each in errors if _place(each["loc"], cls)[0] == place
    )  # of a union the last type's
    kind, context = wrong["type"], wrong.get("ctx", {})
    if isinstance(context.get("error"), SettingError):
        said = str(context["error"])  # the place in it, or what it must be itself
        return f"{place} {said}" if said.startswith("must ") else f"{place}.{said}".lstrip(".")
    if kind == "union_tag_invalid":
        return f"{place}.kind must be one of {context['expected_tags']}, not {shown(context['tag'])}"
    if kind == "union_tag_not_found":
        return f"{place}.kind is missing"
    if kind == "missing":
        return f"{place} is missing"
    if kind == "unexpected_keyword_argument":
        owner, name = _place(errors[0]["loc"][:-1], cls)[1], str(errors[0]["loc"][-1])
        near = did_you_mean(name, (field.name for field in fields(owner))) if is_dataclass(owner) else ""
        return f"{'.'.join(filter(None, (place, name)))} is not known; {near}".removesuffix("; ").rstrip()
    infinite = isinstance(wrong["input"], float) and not math.isfinite(wrong["input"])
    if kind not in NEEDS and not infinite:
        return f"{place}: {wrong['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    bounds = {name: f"{bound:.17g}" if isinstance(bound, float) else bound for name, bound in context.items()}
    optional = " or None" if NoneType in get_args(hint) else ""
    needs = "finite" if infinite else NEEDS[kind].format(**bounds)
    return f"{place or 'it'} must be {needs}{optional}, not {shown(wrong['input'])}"


def _place(loc: tuple[int | str, ...], cls: Any) -> tuple[str, Any]:
    """The name of a place in a dataclass, without what pydantic calls the types of a union; and its type."""
    names: list[str] = []
    for part in loc:
        if is_dataclass(cls):
            cls = get_type_hints(cls).get(str(part))
            if cls is not None:
                names.append(str(part))
        elif isinstance(part, int):
            names.append(str(part))
    return ".".join(names), cls
