"""Settings: every number has bounds, which hold however a setting is made, and what breaks them is named in one line."""

import importlib
import importlib.util
import inspect
import json
import math
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest
from pydantic.fields import FieldInfo

import enas
from enas.constraints import (
    LARGEST_SPACE,
    Count,
    Part,
    PartialShare,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
)
from enas.errors import ArchitectureError, ConfigError, EnasError, RunFolderError, SettingError, shown
from enas.recipes import RECIPES, recipe
from enas.settings import config_from_json, config_to_json
from enas.spaces import space_from_json
from enas.spaces.reading import read_text
from tests.tiny import settings

BAD = (math.nan, math.inf, -math.inf, -1, 0, 10**20, 1e39)


@dataclass(frozen=True)
class Example(Settings):
    count: PositiveInt = 1
    share: Share = 0.5
    clip: PositiveFloat | None = None
    pair: tuple[PartialShare, PartialShare] = (0.1, 0.2)
    names: tuple[str, ...] = ()
    rule: Literal["one", "two"] = "one"
    switch: bool = False
    part: Part = 0.5


@dataclass(frozen=True)
class Inherited(Example):
    more: Count = 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"count": 10**20}, "count must be at most 1000000000, not 100000000000000000000"),
        ({"count": 1.5}, "count must be a whole number, not 1.5"),
        ({"count": True}, "count must be a whole number, not True"),
        ({"count": "3"}, "count must be a whole number, not '3'"),
        ({"count": 10**5000}, "count must be at most 1000000000, not a number of thousands of digits"),
        ({"share": math.nan}, "share must be finite, not nan"),
        ({"share": -0.1}, "share must be at least 0, not -0.1"),
        ({"share": "half"}, "share must be a number, not 'half'"),
        ({"share": 10**400}, "share must be a number, not 1000000000"),
        ({"clip": 0.0}, "clip must be above 0 or None, not 0.0"),
        ({"clip": math.inf}, "clip must be finite or None, not inf"),
        ({"pair": (0.1, 1.0)}, "pair.1 must be below 1, not 1.0"),
        ({"pair": (0.1,)}, "pair.1 is missing"),
        ({"pair": (0.1, 0.2, 0.3)}, "pair must be 2 values, not (0.1, 0.2, 0.3)"),
        ({"pair": [0.1, 0.2]}, "pair must be several values, not [0.1, 0.2]"),
        ({"names": ("a", 1)}, "names.1 must be text, not 1"),
        ({"rule": "three"}, "rule must be 'one' or 'two', not 'three'"),
        ({"switch": "yes"}, "switch must be True or False, not 'yes'"),
        ({"part": math.nan}, "part must be finite, not nan"),
        ({"names": "a" * 10_000}, "names must be several values, not 'aaaa"),
    ],
)
def test_what_breaks_a_bound_is_named(given: dict[str, Any], message: str) -> None:
    for make in (lambda: Example(**given), lambda: replace(Example(), **given), lambda: Inherited(**given)):
        with pytest.raises(SettingError) as caught:
            make()
        assert str(caught.value).startswith(message)
        assert len(str(caught.value)) < 200


def test_bounds_themselves_are_allowed_unless_left_out() -> None:
    Example(count=1, share=0, clip=1e-45, pair=(0, 0.999))
    Example(count=10**9, share=1, clip=3.4e38, part=1)


# ---- every settings class of the package ------------------------------------------------------------------------------


def modules() -> Iterator[Any]:
    left_out = {"enas.__main__"}
    if importlib.util.find_spec("triton") is None:
        left_out.add("enas.gpu.kernels")  # needs it, and has no settings
    for module in pkgutil.walk_packages(enas.__path__, "enas."):
        if module.name not in left_out:
            yield importlib.import_module(module.name)


def settings_classes() -> list[type]:
    """All dataclasses of the package that are made by a person's settings."""
    list(modules())
    found: dict[type, None] = {}
    waiting: list[type] = [Settings]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if cls.__module__.startswith("enas."):
                found[cls] = None
                waiting.append(cls)
    return list(found)


class Bounds(NamedTuple):
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None


def bounds_in(field: FieldInfo) -> Bounds:
    return Bounds(**{name: value for bound in field.metadata for name, value in vars_of(bound).items()})


def vars_of(bound: Any) -> dict[str, float]:
    return {name: getattr(bound, name) for name in Bounds._fields if hasattr(bound, name)}


def bounds_of(hint: Any) -> Iterator[Bounds | None]:
    """The bounds of every number in a type; None for a number that has none."""
    if get_origin(hint) is Annotated:
        own = [bounds_in(part) for part in get_args(hint) if isinstance(part, FieldInfo)]
        yield from own or bounds_of(get_args(hint)[0])
    elif hint in (int, float):
        yield None
    else:
        for argument in get_args(hint):
            yield from bounds_of(argument)


def test_all_numbers_of_all_settings_have_bounds() -> None:
    classes = settings_classes()
    assert {"SearchConfig", "MacroConfig", "ReinforceConfig", "MicroSpace", "RankConfig", "ScoreOptions"} <= {
        cls.__name__ for cls in classes
    }
    without = [
        f"{cls.__name__}.{field.name}"
        for cls in classes
        for field in fields(cls)
        if None in bounds_of(get_type_hints(cls, include_extras=True)[field.name])
    ]
    assert without == []


def test_all_dataclasses_called_like_settings_are_checked() -> None:
    unchecked = {
        f"{value.__module__}.{name}"
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, type)
        and is_dataclass(value)
        and value.__module__.startswith("enas.")
        and name.endswith(("Config", "Options", "Space"))
        and fields(value)
        and not issubclass(value, Settings)
    }
    assert unchecked == {"enas.evidence.tables.minispaces.MiniSpace"}  # which nobody sets


def test_classes_that_check_more_check_their_types_too() -> None:
    classes = [cls for cls in settings_classes() if fields(cls) and not inspect.isabstract(cls)]
    assert len(classes) > 30
    for cls in classes:
        made = object.__new__(cls)
        for field in fields(cls):
            object.__setattr__(made, field.name, object())
        with pytest.raises(SettingError, match=f"^{fields(cls)[0].name} must be "):
            made.__post_init__()


# ---- every setting of every recipe ------------------------------------------------------------------------------------


def numbers_of(config: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The place of every number among nested settings, with its type."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            for place, hint in numbers_of(value):
                yield (field.name, *place), hint
        elif any(True for _ in bounds_of(hints[field.name])):
            yield (field.name,), hints[field.name]


def with_value(config: Any, place: tuple[str, ...], value: Any) -> Any:
    first, *rest = place
    return replace(
        config, **{first: with_value(getattr(config, first), tuple(rest), value) if rest else value}
    )


@pytest.mark.parametrize("name", RECIPES)
def test_bad_numbers_are_refused_by_name_or_within_bounds(name: str) -> None:
    config = recipe(name)
    places = list(numbers_of(config))
    assert len(places) > 40
    for place, hint in places:
        (bounds, *_) = bounds_of(hint)
        assert bounds is not None
        for number in BAD:
            value = (number, number) if get_origin(hint) is tuple else number
            whole = get_origin(hint) is Annotated and get_args(hint)[0] is int
            allowed = (
                math.isfinite(number)
                and (bounds.ge is None or number >= bounds.ge)
                and (bounds.gt is None or number > bounds.gt)
                and (bounds.le is None or number <= bounds.le)
                and (bounds.lt is None or number < bounds.lt)
                and not (whole and isinstance(number, float))
            )
            refused = refusal_of(config, place, value)
            assert isinstance(refused, SettingError) is not allowed, (place, number)
            assert allowed or re.match(rf"{place[-1]}(\.0)? must be ", str(refused))


def refusal_of(config: Any, place: tuple[str, ...], value: Any) -> ConfigError | None:
    """The error of putting a value there; None if it is accepted. Two settings that do not go together are no
    `SettingError`."""
    try:
        with_value(config, place, value)
    except ConfigError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("flag", "value", "needs"),
    [
        ("shared.hidden", "0", "at least 1, not 0"),
        ("shared.hidden", "9" * 20, "at most 65536, not 99999999999999999999"),
        ("shared.reward.bptt", "0", "at least 1, not 0"),
        ("shared.reward.batch", "0", "at least 1, not 0"),
        ("shared.reward.scale", "-1", "above 0, not -1.0"),
        ("shared.training.init-range", "nan", "finite, not nan"),
        ("retrain.child.training.sgd.decay", "nan", "finite, not nan"),
        ("search.updates", "-1", "at least 0, not -1"),
        ("threads", "9" * 20, f"at most 1024 or None, not {'9' * 20}"),
        ("space.nodes", "1000000000", "at most 256, not 1000000000"),
        ("controller.reinforce.learning-rate", "1e38", "at most 1000, not 1e+38"),
    ],
)
def test_flags_name_themselves(flag: str, value: str, needs: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings("recurrent-quick", [f"--{flag}", value])
    assert str(caught.value) == f"--{flag} must be {needs}; see 'enas run recurrent-quick --help'"


@pytest.mark.parametrize(
    ("place", "value", "needs"),
    [
        ("data.valid", math.nan, "finite, not nan"),
        ("data.valid", 0, "above 0, not 0"),
        ("controller.reinforce.eps", math.inf, "finite, not inf"),
        ("space.layers", 10**9, "at most 256, not 1000000000"),
        ("seed", 10**20, "at most 9223372036854775807, not 100000000000000000000"),
    ],
)
def test_numbers_of_config_json_are_checked(place: str, value: float, needs: str) -> None:
    record = json.loads(json.dumps(config_to_json(recipe("macro-quick"))))
    *path, last = place.split(".")
    inner = record["settings"]
    for part in path:
        inner = inner[part]
    inner[last] = value
    with pytest.raises(RunFolderError) as caught:
        config_from_json(record)
    assert str(caught.value) == f"config.json, setting {place} must be {needs}"


# ---- sizes of spaces --------------------------------------------------------------------------------------------------


SPACE_RECORDS = (
    {"name": "recurrent", "nodes": 2, "functions": ["tanh"], "input_function": None},
    {"name": "macro", "layers": 2, "operations": ["conv3x3"]},
    {"name": "micro", "nodes": 2, "operations": ["sep3x3"], "one_cell": False},
)


@pytest.mark.parametrize("record", SPACE_RECORDS, ids=lambda record: record["name"])
@pytest.mark.parametrize("size", [LARGEST_SPACE + 1, 6000, 10**9, 10**20, 0, 2.0, "2", True, None, [2]])
def test_a_space_of_another_size_is_refused_before_it_is_built(record: dict[str, Any], size: Any) -> None:
    key = "layers" if "layers" in record else "nodes"
    needs = "must be (at least 1|at most 256|a whole number), not "
    with pytest.raises(ArchitectureError, match=rf"^not the JSON of a {record['name']} space: {key} {needs}"):
        space_from_json(record | {key: size})


@pytest.mark.parametrize("record", SPACE_RECORDS, ids=lambda record: record["name"])
def test_the_largest_space_can_be_drawn_from_and_written(record: dict[str, Any]) -> None:
    key = "layers" if "layers" in record else "nodes"
    space = space_from_json(record | {key: LARGEST_SPACE})
    architecture = space.architecture([0] * len(space.decisions))
    assert space.parse(str(architecture)) == architecture


@pytest.mark.parametrize(
    "text",
    [
        "0 " * 65_000,
        "macro: " + "0 " * 65_000,
        "micro: " + "0 1 " * 32_000,
        "recurrent: " + "0 " * 65_001,
        "tanh " + "relu(1) " * 16_000,
        "conv3x3 " * 16_000,
        "normal: sep3x3(0)" + " " * 60_000 + "avg3x3(1) | reduction: " + " " * 60_000,
        "normal: " + "sep3x3(0)+avg3x3(1) " * 3000 + "| reduction: sep3x3(0)+avg3x3(1)",
        "9" * 20_000,
        "tanh relu(" + "9" * 20_000 + ")",
        "conv3x3 conv3x3(" + "9" * 20_000 + ")",
        "sep3x3(" + "9" * 20_000 + ")+sep3x3(0) | sep3x3(0)+sep3x3(0)",
        "tanh " + "x" * 20_000,
        "conv3x3 " + "y" * 20_000,
        "z" * 20_000 + "(0)+sep3x3(0) | sep3x3(0)+sep3x3(0)",
        "graph: " + "a" * 20_000,
    ],
    ids=lambda text: text[:24],
)
def test_a_long_string_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(EnasError) as caught:
        read_text(text)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_long_values_are_cut_and_bytes_that_are_no_text_escaped() -> None:
    assert shown("short") == "'short'"
    assert shown("a" * 10_000) == f"'{'a' * 55} ... (10,002 characters)"
    assert shown("caf\udce9") == r"'caf\udce9'"
    assert shown(10**5000) == "a number of thousands of digits"
