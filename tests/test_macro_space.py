"""The macro space: exact counts, both notations, the published network, wrong strings named."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from enas.architecture import Architecture, Decision
from enas.errors import ArchitectureError, ConfigError
from enas.spaces.macro.space import OPERATIONS, MacroSpace, reduction_layers
from enas.testing import check_space

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_architectures.json").read_text())
ROWS = PUBLISHED["macro_24"]["layers"]
NUMBERS = " ".join(str(number) for row in ROWS for number in row)
FOUR = ("conv3x3", "sep3x3", "conv5x5", "sep5x5")

DECODED = """
conv3 -                  sep3  1 2 3 5 7          conv5 1 5 8 9 10 11 14
sep5  -                  conv3 -                  conv5 4 6 8 11 13 16
conv3 0                  conv5 5                  sep5  1 2 4 10 12 14
conv5 2                  conv3 0 3 4 9 10         sep5  1 2 12 13 18
conv5 -                  conv5 1 7 9 10           conv3 0 3 5 6 10 16 17
sep5  0 1 3              sep3  2 6 7 8 10 12      sep5  1 3 4 7 9 10 12 13 15 18
conv5 5                  conv3 0 1 3 5 11         conv3 0 2 4 13 15 18
conv5 1 2 4 5 6          conv5 2 10 12 14         conv3 0 1 5 6 7 9 13 15 18 19
"""
"""The published network by hand, layers downwards in three columns: operation, and the tensors it takes."""

SPACES = {
    "paper": MacroSpace(),
    "published": MacroSpace(24, FOUR),
    "another-order": MacroSpace(5, ("max3x3", "sep5x5", "conv3x3")),
    "one-layer": MacroSpace(1),
}


def decoded() -> list[tuple[str, tuple[int, ...]]]:
    columns = zip(
        *[(line[:25], line[25:50], line[50:]) for line in DECODED.strip().splitlines()], strict=True
    )
    layers = []
    for words in (cell.split() for column in columns for cell in column):
        operation = words[0] + "x" + words[0][-1]
        layers.append((operation, tuple(int(word) for word in words[1:] if word != "-")))
    return layers


def random_architectures(space: MacroSpace, count: int) -> list[Architecture]:
    rng = random.Random(7)
    return [space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("space", "count"),
    [
        (MacroSpace(12), 160_618_186_625_454_535_808_756_219_904),
        (MacroSpace(24, FOUR), 4**24 * 2**276),
        (MacroSpace(3, ("conv3x3", "avg3x3")), 64),
        (MacroSpace(1), 6),
    ],
)
def test_the_count_is_exact(space: MacroSpace, count: int) -> None:
    assert space.count() == count


def test_enumeration_has_every_network_that_can_be_described_once() -> None:
    """All pairs of operations and subsets of earlier tensors, put together without the space."""
    space = MacroSpace(3, ("conv3x3", "avg3x3"))
    subsets = [[()], [(), (0,)], [(), (0,), (1,), (0, 1)]]
    every = {
        (operations, skips)
        for operations in itertools.product(space.operations, repeat=3)
        for skips in itertools.product(*subsets)
    }
    enumerated = list(space.enumerate())
    assert len(enumerated) == len(every) == space.count()
    assert {(space.operations_of(a), space.skips_of(a)) for a in enumerated} == every


def test_decisions_come_layer_after_layer_the_operation_first() -> None:
    assert MacroSpace(3, FOUR).decisions == (
        Decision("layer 0 operation", "operation", 0, FOUR),
        Decision("layer 1 operation", "operation", 1, FOUR),
        Decision("layer 1 skip 0", "skip", 1, ("no", "yes")),
        Decision("layer 2 operation", "operation", 2, FOUR),
        Decision("layer 2 skip 0", "skip", 2, ("no", "yes")),
        Decision("layer 2 skip 1", "skip", 2, ("no", "yes")),
    )
    assert len(MacroSpace().decisions) == 78


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_strings_read_back(space: MacroSpace) -> None:
    for architecture in random_architectures(space, 50):
        assert space.parse(str(architecture)) == architecture
        assert space.parse(str(architecture).replace(",", ", ").replace(" ", "\n")) == architecture
        assert space.parse(" ".join(map(str, space.tokens(architecture)))) == architecture
        assert "\n" not in str(architecture)
        assert space.build(space.operations_of(architecture), space.skips_of(architecture)) == architecture


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_space_keeps_its_contract(space: MacroSpace) -> None:
    check_space(space)


@pytest.mark.parametrize("space", [MacroSpace(24), MacroSpace(24, FOUR)], ids=["six", "four"])
@pytest.mark.parametrize(
    "text", [NUMBERS, "\n".join(map(str, ROWS)), NUMBERS.replace(" ", ", ")], ids=["string", "log", "commas"]
)
def test_the_published_network(space: MacroSpace, text: str) -> None:
    network = space.parse(text)
    assert list(zip(space.operations_of(network), space.skips_of(network), strict=True)) == decoded()
    assert list(space.tokens(network)) == [number for row in ROWS for number in row]
    assert str(network).startswith("conv3x3 sep5x5 conv3x3(0) conv5x5(2) conv5x5 sep5x5(0,1,3) conv5x5(5) ")
    assert str(MacroSpace(24).parse(str(network))) == str(network)


def test_numbers_mean_the_same_operations_whatever_the_order_of_the_space_s() -> None:
    space = MacroSpace(3, ("max3x3", "conv5x5", "conv3x3"))
    network = space.parse("5 0 1 2 1 0")
    assert str(network) == "max3x3 conv3x3(0) conv5x5(0)"
    assert space.tokens(network) == (5, 0, 1, 2, 1, 0)


THREE = MacroSpace(3)


@pytest.mark.parametrize(
    ("space", "text", "named"),
    [
        (THREE, "", "empty"),
        (THREE, "[ ]", "'['"),
        (THREE, "conv3x3 conv3x3", "2 layers given, 'conv3x3' to 'conv3x3'; this space has 3"),
        (THREE, "conv3x3 conv4x4 sep3x3", "'conv4x4'"),
        (THREE, "conv3x3 conv3x4 sep3x3", "did you mean 'conv3x3'?"),
        (THREE, "conv3x3 conv3x3(1) sep3x3", "'conv3x3(1)' is layer 1; it can take tensors 0 to 0"),
        (THREE, "conv3x3(0) conv3x3 sep3x3", "there is nothing before it to take"),
        (THREE, "conv3x3 conv3x3 sep3x3(0,0)", "'sep3x3(0,0)'"),
        (THREE, "conv3x3 conv3x3 sep3x3(0", "'sep3x3(0' is not of the form"),
        (THREE, "conv3x3 conv3x3 sep3x3(a)", "'sep3x3(a)' is not of the form"),
        (THREE, "conv3x3 conv3x3 sep3x3(-1)", "'sep3x3(-1)' is not of the form"),
        (THREE, "conv3x3 sep3x3 (0)", "'(0)' is not of the form"),
        (THREE, "0 0 0 0 0", "5 numbers given; a network of 3 layers is written with 6"),
        (THREE, "0 6 0 0 0 0", "operation number 6"),
        (THREE, "0 0 2 0 0 0", "layer 1: a skip is 0 or 1, not 2"),
        (MacroSpace(3, FOUR), "0 0 0 4 0 0", "'avg3x3' is not in this space"),
        (MacroSpace(3, FOUR), "conv3x3 conv3x3 avg3x3", "'avg3x3' is not in this space"),
    ],
)
def test_a_wrong_string_is_named(space: MacroSpace, text: str, named: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        space.parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_networks_that_cannot_be_built() -> None:
    with pytest.raises(ArchitectureError, match="layer 1 cannot take tensor 1; it can take tensors 0 to 0"):
        MacroSpace(2).build(("conv3x3", "conv3x3"), ((), (1,)))
    with pytest.raises(ArchitectureError, match="1 operations and 2 sets of skips given for 2 layers"):
        MacroSpace(2).build(("conv3x3",), ((), ()))


def test_spaces_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="layers must be at least 1, not 0"):
        MacroSpace(0)
    for operations in ((), ("conv3x3", "conv3x3"), ("conv3x3", "identity")):
        with pytest.raises(ConfigError, match="distinct names out of conv3x3"):
            MacroSpace(3, operations)


@pytest.mark.parametrize(
    ("layers", "after"), [(12, (3, 7)), (24, (7, 15)), (3, (0, 1)), (8, (1, 4)), (2, ()), (1, ())]
)
def test_sizes_are_halved_after_each_third(layers: int, after: tuple[int, ...]) -> None:
    assert reduction_layers(layers) == after
    groups = [node.group for node in MacroSpace(layers).sample(random.Random(0)).graph().nodes]
    changes = [tensor for tensor in range(1, len(groups)) if groups[tensor] != groups[tensor - 1]]
    assert changes == [layer + 2 for layer in after]  # the output of layer i is box i + 1


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_graph_is_a_chain_with_skips(space: MacroSpace) -> None:
    for architecture in random_architectures(space, 20):
        edges = set(architecture.graph().edges)
        chain = {(str(tensor), str(tensor + 1)) for tensor in range(space.layers)}
        skips = {
            (str(tensor), str(layer + 1))
            for layer, taken in enumerate(space.skips_of(architecture))
            for tensor in taken
        }
        assert edges == chain | skips | {(str(space.layers), "out")}
        assert len(edges) == len(architecture.graph().edges)


def test_operations_are_numbered_as_in_the_published_code() -> None:
    assert OPERATIONS == ("conv3x3", "sep3x3", "conv5x5", "sep5x5", "avg3x3", "max3x3")
