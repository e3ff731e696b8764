"""The micro space: exact counts, both notations, the published cells, wrong strings named."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from enas.architecture import Architecture, Decision
from enas.errors import ArchitectureError, ConfigError
from enas.spaces.micro.space import OPERATIONS, Cell, MicroSpace, Node
from enas.spaces.reading import read_text
from enas.testing import check_space

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_architectures.json").read_text())["micro"]
NORMAL = " ".join(map(str, PUBLISHED["normal"]))
REDUCTION = " ".join(map(str, PUBLISHED["reduction"]))

NORMAL_CELL = Cell(
    (
        Node(0, "avg3x3", 0, "sep3x3"),
        Node(0, "identity", 0, "sep5x5"),
        Node(0, "identity", 1, "sep5x5"),
        Node(1, "sep3x3", 0, "sep5x5"),
        Node(0, "avg3x3", 1, "sep5x5"),
    )
)
REDUCTION_CELL = Cell(
    (
        Node(1, "sep3x3", 1, "sep3x3"),
        Node(0, "max3x3", 0, "avg3x3"),
        Node(1, "sep5x5", 3, "sep5x5"),
        Node(1, "sep3x3", 0, "identity"),
        Node(0, "max3x3", 1, "sep5x5"),
    )
)

SPACES = {
    "paper": MicroSpace(),
    "another-order": MicroSpace(3, ("identity", "max3x3", "sep5x5")),
    "one-node": MicroSpace(1),
    "one-cell": MicroSpace(3, one_cell=True),
}


def random_architectures(space: MicroSpace, count: int) -> list[Architecture]:
    rng = random.Random(7)
    return [space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("space", "a_cell"),
    [
        (MicroSpace(5), 5_062_500_000_000),
        (MicroSpace(1), 100),
        (MicroSpace(2, ("sep3x3",)), 4 * 9),
    ],
)
def test_the_count_is_exact(space: MicroSpace, a_cell: int) -> None:
    assert space.count() == a_cell**2


def test_enumeration_has_every_pair_of_cells_that_can_be_described_once() -> None:
    """All nodes, put together without the space."""
    for space in (MicroSpace(1, ("sep3x3", "identity")), MicroSpace(2, ("max3x3",))):
        nodes = [
            [
                Node(j, f, k, g)
                for j, k in itertools.product(range(number), repeat=2)
                for f, g in itertools.product(space.operations, repeat=2)
            ]
            for number in range(2, 2 + space.nodes)
        ]
        cells = [Cell(chosen) for chosen in itertools.product(*nodes)]
        enumerated = list(space.enumerate())
        assert len(enumerated) == space.count() == len(cells) ** 2
        assert {space.cells(a) for a in enumerated} == set(itertools.product(cells, repeat=2))


def test_one_cell_is_the_normal_and_the_reduction_cell() -> None:
    """A hundred of one node and five operations, each the pair of it and itself: same choices, twice."""
    single, pair = MicroSpace(1, one_cell=True), MicroSpace(1)
    everything = list(single.enumerate())
    assert len(everything) == single.count() == 100
    for cell in everything:
        assert single.cells(cell) == pair.cells(pair.architecture(cell.choices * 2))
        assert str(cell) == f"cell: {single.decided(cell)[0]}"
        assert read_text(str(cell)) == cell
    assert len({single.cells(cell) for cell in everything}) == 100
    two = MicroSpace(2, one_cell=True)
    assert two.decisions[-1].name == "cell 3 operation 2"
    assert read_text("cell: sep3x3(0)+avg3x3(1)\nmax3x3(2)+max3x3(0)") == two.architecture(
        [0, 1, 0, 2, 2, 0, 3, 3]
    )


def test_decisions_come_in_the_order_of_the_controller() -> None:
    """Both sources of a node before its operations; all of the normal cell before the reduction cell."""
    assert MicroSpace(2).decisions == tuple(
        Decision(f"{cell} {node} {kind} {slot}", kind, node, options)
        for cell in ("normal", "reduction")
        for node, sources in ((2, ("0", "1")), (3, ("0", "1", "2")))
        for kind, options in (("source", sources), ("operation", OPERATIONS))
        for slot in (1, 2)
    )
    assert len(MicroSpace().decisions) == 40


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_strings_read_back(space: MicroSpace) -> None:
    for architecture in random_architectures(space, 50):
        text, tokens = str(architecture), list(space.tokens(architecture))
        assert "\n" not in text
        for written in (
            text,
            text.replace("+", " + "),
            text.replace("normal:", "").replace("| reduction:", ";").replace("cell:", ""),
            text.replace(" | ", "\n"),
            text.replace(" ", "\n"),
        ):
            assert space.parse(written) == architecture
        half = 4 * space.nodes
        assert space.parse(" ".join(map(str, tokens))) == architecture
        assert space.parse(f"{tokens[:half]}\n{tokens[half:]}\n") == architecture
        assert space.build(*space.decided(architecture)) == architecture


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_space_keeps_its_contract(space: MicroSpace) -> None:
    check_space(space)


@pytest.mark.parametrize("between", [" ", " | ", ";", "\n", ", "])
def test_the_published_cells(between: str) -> None:
    space = MicroSpace()
    cells = space.parse(NORMAL + between + REDUCTION)
    assert space.cells(cells) == (NORMAL_CELL, REDUCTION_CELL)
    assert space.tokens(cells) == (*PUBLISHED["normal"], *PUBLISHED["reduction"])
    assert NORMAL_CELL.loose_ends == (2, 3, 4, 5, 6)
    assert REDUCTION_CELL.loose_ends == (2, 4, 5, 6)
    assert str(cells) == (
        "normal: avg3x3(0)+sep3x3(0) identity(0)+sep5x5(0) identity(0)+sep5x5(1) sep3x3(1)+sep5x5(0) "
        "avg3x3(0)+sep5x5(1) | reduction: sep3x3(1)+sep3x3(1) max3x3(0)+avg3x3(0) sep5x5(1)+sep5x5(3) "
        "sep3x3(1)+identity(0) max3x3(0)+sep5x5(1)"
    )


def test_choices_are_both_sources_then_both_operations() -> None:
    cells = MicroSpace(1).architecture([0, 1, 2, 4, 1, 0, 3, 1])
    assert str(cells) == "normal: avg3x3(0)+identity(1) | reduction: max3x3(1)+sep5x5(0)"
    assert MicroSpace(1).tokens(cells) == (0, 2, 1, 4, 1, 3, 0, 1)


def test_numbers_mean_the_same_operations_whatever_the_order_of_the_space_s() -> None:
    space = MicroSpace(1, ("identity", "max3x3"))
    cells = space.parse("0 4 1 3 1 3 1 3")
    assert str(cells) == "normal: identity(0)+max3x3(1) | reduction: max3x3(1)+max3x3(1)"
    assert space.tokens(cells) == (0, 4, 1, 3, 1, 3, 1, 3)


def test_an_unused_input_is_a_loose_end() -> None:
    assert Cell((Node(1, "sep3x3", 1, "sep3x3"), Node(2, "identity", 1, "max3x3"))).loose_ends == (0, 3)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_graph_says_what_every_node_adds(space: MicroSpace) -> None:
    for architecture in random_architectures(space, 20):
        graph = architecture.graph()
        kind = {node.key: node.kind for node in graph.nodes}
        assert len(graph.edges) == len(set(graph.edges))
        for name, cell in zip(space.cell_names, space.decided(architecture), strict=True):
            for number, node in enumerate(cell.nodes, start=2):
                terms = [source for source, target in graph.edges if target == f"{name} {number}"]
                added = sorted(
                    (source, kind[term]) for term in terms for source, target in graph.edges if target == term
                )
                assert added == sorted(
                    [
                        (f"{name} {node.source_1}", node.operation_1),
                        (f"{name} {node.source_2}", node.operation_2),
                    ]
                )
            ends = {source for source, target in graph.edges if target == f"{name} output"}
            assert ends == {f"{name} {end}" for end in cell.loose_ends}


ONE, TWO, SINGLE = MicroSpace(1), MicroSpace(2), MicroSpace(1, one_cell=True)
PAIR = "sep3x3(0)+max3x3(1)"


@pytest.mark.parametrize(
    ("space", "text", "named"),
    [
        (ONE, "", "empty"),
        (ONE, " | ", "empty"),
        (ONE, PAIR, "a normal and a reduction cell are needed, with '|' between them"),
        (ONE, f"{PAIR}|{PAIR}|{PAIR}", "parts: 3"),
        (SINGLE, f"{PAIR}|{PAIR}", "one cell is needed; the string has parts: 2"),
        (SINGLE, f"normal: {PAIR}", "'normal' stands where the cell is expected"),
        (SINGLE, f"{PAIR} {PAIR}", "the cell has 2 nodes; this space has 1 a cell"),
        (SINGLE, "0 0 0 0 0", "5 numbers for the cell; a cell of 1 computed nodes"),
        (ONE, f"{PAIR} {PAIR} | {PAIR}", "the normal cell has 2 nodes; this space has 1 a cell"),
        (TWO, f"{PAIR} {PAIR} | {PAIR}", "the reduction cell has 1 nodes; this space has 2 a cell"),
        (ONE, f"reduction: {PAIR} | normal: {PAIR}", "'reduction' stands where the normal cell is expected"),
        (ONE, f"{PAIR} | sep3x3(0)", "'sep3x3(0)' in the reduction cell is not of the form"),
        (ONE, f"{PAIR} | sep3x3(0)+sep5x5(x)", "'sep3x3(0)+sep5x5(x)' in the reduction cell"),
        (ONE, f"sep3x3(0)+sep5x5(2) | {PAIR}", "'sep3x3(0)+sep5x5(2)' is node 2 of the normal cell"),
        (ONE, f"sep3x3(0)+conv5x5(1) | {PAIR}", "operation 'conv5x5' is not in this space"),
        (ONE, f"sep3x3(0)+sepp3x3(1) | {PAIR}", "did you mean 'sep3x3'?"),
        (ONE, "0 0 0 0 | 0 0 0", "3 numbers for the reduction cell"),
        (ONE, "0 0 0 0 0 0 0 0 0", "5 numbers for the reduction cell"),
        (ONE, "0 0 0", "3 numbers for the normal cell"),
        (ONE, "0 0 0 0 0 5 0 0", "operation number 5"),
        (ONE, "0 0 0 0 0 0 2 0", "node 2 of the reduction cell; it can read nodes 0 to 1 only"),
        (MicroSpace(1, ("sep3x3",)), "0 0 0 0 0 0 0 4", "'identity' is not in this space"),
    ],
)
def test_a_wrong_string_is_named(space: MicroSpace, text: str, named: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        space.parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_spaces_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="nodes must be at least 1, not 0"):
        MicroSpace(0)
    for operations in ((), ("sep3x3", "sep3x3"), ("sep3x3", "conv3x3")):
        with pytest.raises(ConfigError, match="distinct names out of sep3x3"):
            MicroSpace(3, operations)


def test_operations_are_numbered_as_in_the_published_code() -> None:
    assert tuple(PUBLISHED["operations"]) == OPERATIONS
