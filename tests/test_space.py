"""The recurrent space: exact counts, strings in three notations, JSON, names that hold in every process. And which space
a string belongs to that does not say."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import scipy.stats

from enas.architecture import Architecture
from enas.errors import ArchitectureError, ConfigError
from enas.spaces import architecture_from_json
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.reading import read_text
from enas.spaces.recurrent.space import FUNCTIONS, RecurrentSpace, read_authors_string
from enas.testing import check_space

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_architectures.json").read_text())
PAPER_STRING = " ".join(map(str, PUBLISHED["ptb_12"]["tokens"]))
AUTHORS_STRING = " ".join(map(str, PUBLISHED["ptb_enas_lm_8"]["tokens"]))

SPACES = {
    "paper": RecurrentSpace(12),
    "authors": RecurrentSpace(8, input_function="tanh"),
    "authors-in-their-order": RecurrentSpace(9, ("tanh", "relu", "sigmoid", "identity"), "tanh"),
    "two-functions": RecurrentSpace(5, ("relu", "tanh")),
    "input-function-not-searched": RecurrentSpace(3, ("relu", "identity"), "sigmoid"),
    "one-node": RecurrentSpace(1),
}
SMALL = {
    "paper": RecurrentSpace(3),
    "authors": RecurrentSpace(3, ("tanh", "relu"), "tanh"),
    "one-function": RecurrentSpace(5, ("tanh",)),
    "one-node": RecurrentSpace(1),
}


def random_architectures(space: RecurrentSpace, count: int) -> list[Architecture]:
    rng = random.Random(7)
    return [space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("space", "count"),
    [
        (RecurrentSpace(12), 669_692_775_628_800),  # 4^12 · 11!
        (RecurrentSpace(12, ("tanh", "relu")), 2**12 * math.factorial(11)),
        (RecurrentSpace(9, input_function="tanh"), 4**9 * math.factorial(9)),
        (RecurrentSpace(8, input_function="tanh"), 2_642_411_520),
        (RecurrentSpace(1), 4),
    ],
)
def test_the_count_is_exact(space: RecurrentSpace, count: int) -> None:
    assert space.count() == count


@pytest.mark.parametrize("space", SMALL.values(), ids=SMALL)
def test_samples_are_uniform(space: RecurrentSpace) -> None:
    rng = random.Random(5)
    drawn = Counter(space.sample(rng) for _ in range(20 * space.count()))
    observed = [drawn[architecture] for architecture in space.enumerate()]
    assert sum(observed) == 20 * space.count()  # nothing outside the space
    assert scipy.stats.chisquare(observed).pvalue > 1e-3


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_strings_read_back(space: RecurrentSpace) -> None:
    for architecture in random_architectures(space, 50):
        assert space.parse(space.format(architecture)) == architecture
        assert space.parse(str(architecture)) == architecture
        assert space.parse(" ".join(map(str, space.tokens(architecture)))) == architecture
        assert space.parse(",".join(map(str, space.tokens(architecture)))) == architecture


@pytest.mark.parametrize("space", [*SPACES.values(), *SMALL.values()], ids=str)
def test_the_space_keeps_its_contract(space: RecurrentSpace) -> None:
    check_space(space)


def test_the_paper_cell() -> None:
    """Figure 6: nodes counted from 1; the output is the mean of nodes 4, 5, 8, 10, 11 and 12."""
    space = RecurrentSpace(12)
    cell = space.parse(PAPER_STRING)
    assert str(cell) == (
        "tanh tanh(1) relu(2) relu(3) tanh(3) tanh(3) relu(6) tanh(2) relu(7) relu(9) relu(9) relu(9)"
    )
    assert [end + 1 for end in space.loose_ends(cell)] == [4, 5, 8, 10, 11, 12]
    assert list(space.tokens(cell)) == PUBLISHED["ptb_12"]["tokens"]
    assert read_authors_string(PAPER_STRING) == cell


def test_the_cell_of_the_corrected_code() -> None:
    """Nodes counted from the fixed tanh node 0; functions have other numbers than in the first code."""
    space = RecurrentSpace(8, input_function="tanh")
    cell = space.parse(AUTHORS_STRING)
    assert str(cell) == ("tanh sigmoid(0) tanh(1) relu(2) sigmoid(2) tanh(4) tanh(5) sigmoid(3) sigmoid(6)")
    assert space.loose_ends(cell) == (7, 8)
    assert list(space.tokens(cell)) == PUBLISHED["ptb_enas_lm_8"]["tokens"]
    assert read_authors_string(AUTHORS_STRING) == cell


def test_a_string_means_the_same_cell_whatever_the_order_of_the_space_s_functions() -> None:
    reordered = RecurrentSpace(8, ("sigmoid", "identity", "relu", "tanh"), "tanh")
    cell = reordered.parse(AUTHORS_STRING)
    assert str(cell) == str(read_authors_string(AUTHORS_STRING))
    assert list(reordered.tokens(cell)) == PUBLISHED["ptb_enas_lm_8"]["tokens"]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_loose_ends_are_the_nodes_without_a_reader(space: RecurrentSpace) -> None:
    for architecture in random_architectures(space, 50):
        edges = architecture.graph().edges
        to_output = {source for source, target in edges if target == "out"}
        read_by_nodes = {source for source, target in edges if target != "out"} - {"x", "h"}
        every = {str(node) for node in range(space.total_nodes)}
        assert to_output == every - read_by_nodes == {str(end) for end in space.loose_ends(architecture)}
        assert space.total_nodes - 1 in space.loose_ends(architecture)


PAPER_3, AUTHORS_2 = RecurrentSpace(3), RecurrentSpace(2, input_function="tanh")


@pytest.mark.parametrize(
    ("space", "text", "named"),
    [
        (PAPER_3, "", "empty"),
        (PAPER_3, "tanh tanh(1) softmax(1)", "softmax"),
        (PAPER_3, "gelu tanh(1) relu(1)", "gelu"),
        (PAPER_3, "tanh tanh(1) relu(3)", "relu(3)"),
        (PAPER_3, "tanh tanh(0) relu(1)", "tanh(0)"),
        (PAPER_3, "tanh tanh(1) relu", "'relu'"),
        (PAPER_3, "tanh tanh(1) relu(-1)", "relu(-1)"),
        (PAPER_3, "tanh tanh(1)", "3 searched nodes"),
        (PAPER_3, "tanh tanh(1) relu(2) relu(2)", "3 searched nodes"),
        (PAPER_3, "0 0 1 0", "4 numbers"),
        (PAPER_3, "0 0 1 0 4", "number 4"),
        (PAPER_3, "0 0 1 2 0", "2"),
        (PAPER_3, "0 0 1 0 x", "'x' is not a number"),
        (AUTHORS_2, "relu tanh(0) tanh(0)", "relu"),
        (AUTHORS_2, "tanh tanh(0) sigmoid(2)", "sigmoid(2)"),
        (AUTHORS_2, "0 0 0", "3 numbers"),
        (AUTHORS_2, "0 7 0 0", "number 7"),
        (RecurrentSpace(2, ("tanh", "relu")), "0 0 3", "sigmoid"),
    ],
)
def test_a_wrong_string_is_named(space: RecurrentSpace, text: str, named: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        space.parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "0 0 9", "0 5 0 0", "tanh tanh(1) tanh(1)"])
def test_a_wrong_string_of_the_authors(text: str) -> None:
    with pytest.raises(ArchitectureError):
        read_authors_string(text)


@pytest.mark.parametrize(
    ("choices", "named"),
    [((0, 0, 0, 0), "4 choices"), ((0, 1, 0, 0, 0), "node 2 source"), ((0, 0, 4, 0, 0), "node 2 function")],
)
def test_choices_outside_the_space(choices: tuple[int, ...], named: str) -> None:
    with pytest.raises(ArchitectureError, match=named):
        PAPER_3.architecture(choices)


def test_spaces_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="not 0"):
        RecurrentSpace(0)
    for functions in ((), ("tanh", "tanh"), ("tanh", "gelu")):
        with pytest.raises(ConfigError, match="distinct names"):
            RecurrentSpace(3, functions)
    with pytest.raises(ConfigError, match="gelu"):
        RecurrentSpace(3, FUNCTIONS, "gelu")


@pytest.mark.parametrize(
    "record", [{}, {"space": {"name": "recurrent"}}, {"space": {"name": "x"}, "choices": []}, []]
)
def test_json_that_is_no_architecture(record: object) -> None:
    with pytest.raises(ArchitectureError):
        architecture_from_json(record)


def test_architectures_are_equal_by_space_and_choices() -> None:
    first, again, other = (
        RecurrentSpace(3).architecture([0] * 5),
        PAPER_3.architecture([0] * 5),
        PAPER_3.parse("1 0 0 0 0"),
    )
    assert len({first, again}) == 1
    assert len({first, other, RecurrentSpace(3, ("tanh", "relu")).architecture([0] * 5)}) == 3


def test_ids_are_the_same_in_every_process() -> None:
    program = (
        "from enas.spaces.recurrent.space import read_authors_string as read\n"
        f"print(read({PAPER_STRING!r}).id, read({AUTHORS_STRING!r}).id)"
    )
    ids = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert ids == {f"{read_authors_string(PAPER_STRING).id} {read_authors_string(AUTHORS_STRING).id}"}


# ------------------------------------------------------------------------------- strings that do not say their space

MACRO_NUMBERS = " ".join(str(number) for row in PUBLISHED["macro_24"]["layers"] for number in row)
NORMAL, REDUCTION = (" ".join(map(str, PUBLISHED["micro"][cell])) for cell in ("normal", "reduction"))

EVERY_SPACE = [
    RecurrentSpace(12),
    RecurrentSpace(2),
    RecurrentSpace(1),
    RecurrentSpace(8, input_function="tanh"),
    RecurrentSpace(2, input_function="sigmoid"),
    RecurrentSpace(1, input_function="identity"),
    MacroSpace(12),
    MacroSpace(24),
    MacroSpace(1),
    MicroSpace(5),
    MicroSpace(1),
]


@pytest.mark.parametrize("space", EVERY_SPACE, ids=str)
def test_words_tell_their_space_and_its_size(space: RecurrentSpace | MacroSpace | MicroSpace) -> None:
    rng = random.Random(3)
    for architecture in (space.sample(rng) for _ in range(50)):
        assert read_text(str(architecture)) == architecture
        assert read_text(f"{space.name}: {architecture}") == architecture


@pytest.mark.parametrize("space", EVERY_SPACE, ids=str)
def test_numbers_with_the_name_of_their_space_read_back(
    space: RecurrentSpace | MacroSpace | MicroSpace,
) -> None:
    rng = random.Random(4)
    for architecture in (space.sample(rng) for _ in range(50)):
        numbers = " ".join(map(str, space.tokens(architecture)))
        again = read_text(f"{space.name}: {numbers}")
        assert again.space.name == space.name
        if space.name != "recurrent" or space.input_function in (None, "tanh"):
            assert again == architecture


def test_published_numbers_are_read_for_the_space_that_they_were_written_for() -> None:
    assert read_text(PAPER_STRING) == RecurrentSpace(12).parse(PAPER_STRING)
    assert read_text(AUTHORS_STRING) == RecurrentSpace(8, input_function="tanh").parse(AUTHORS_STRING)
    assert read_text(MACRO_NUMBERS) == MacroSpace(24).parse(MACRO_NUMBERS)
    for between in (" ", " | ", ";", "\n"):
        assert read_text(NORMAL + between + REDUCTION) == MicroSpace().parse(f"{NORMAL} {REDUCTION}")


@pytest.mark.parametrize("space", [MacroSpace(12), MicroSpace(5), RecurrentSpace(12)], ids=str)
def test_numbers_of_the_papers_spaces_need_no_name(space: RecurrentSpace | MacroSpace | MicroSpace) -> None:
    rng = random.Random(6)
    for architecture in (space.sample(rng) for _ in range(200)):
        assert read_text(" ".join(map(str, space.tokens(architecture)))) == architecture


def test_the_published_macro_numbers_also_fit_a_recurrent_cell() -> None:
    """Why reading numbers needs a rule: all 300 are in the ranges of a cell of 150 nodes."""
    cell = read_text(f"recurrent: {MACRO_NUMBERS}")
    assert cell.space == RecurrentSpace(150, input_function="tanh")
    assert 1000 * MacroSpace(24).count() < cell.space.count()


@pytest.mark.parametrize(
    ("numbers", "first", "second"),
    [
        ("0 0 1", "recurrent", "macro"),  # 16 cells, 72 networks
        ("0 0 0 0 0 1 1 0", "micro", "recurrent"),  # 10,000 pairs of cells, 6,144 cells
    ],
)
def test_numbers_that_may_well_mean_two_things_are_refused(numbers: str, first: str, second: str) -> None:
    with pytest.raises(
        ArchitectureError, match=r"these numbers fit the \w+ and the \w+ space; say which"
    ) as caught:
        read_text(numbers)
    assert first in str(caught.value)
    assert second in str(caught.value)
    assert read_text(f"{first}: {numbers}").space.name == first
    assert read_text(f"{second}: {numbers}").space.name == second


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "",
            "none of the words of a recurrent cell (tanh, relu, identity, sigmoid), of a macro network (conv3x3",
        ),
        ("hello", "none of the words"),
        ("9 0 0", "as recurrent: function number 9"),
        ("9 0 0", "as macro: operation number 9"),
        ("9 0 0", "as micro: 3 numbers given"),
        ("macro: 0 0", "2 numbers given; L layers are written with L(L+1)/2"),
        ("micro: 0 0", "2 numbers given; two cells of N nodes are written with 8N"),
        ("0 0 0 0 0 0 0 0 | 0 0", "10 numbers given; two cells"),
        ("macro:", "empty"),
        ("micro:", "empty"),
        ("recurrent:", "empty"),
        ("conv3x3 conv3x3(1)", "'conv3x3(1)' is layer 1"),
        ("sep3x3(0)+sep3x3(9) | sep3x3(0)+sep3x3(0)", "'sep3x3(0)+sep3x3(9)' is node 2 of the normal cell"),
        ("tanh tanh(0) relu(2)", "'relu(2)' is node 2; it can read nodes 0 to 1 only"),
        ("tanh tanh(1) relu(0)", "'relu(0)' is node 3; it can read nodes 1 to 2 only"),
        ("tanh sine(0)", "function sine is not in this space"),
    ],
)
def test_what_is_wrong_with_a_string_of_no_named_space(text: str, named: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        read_text(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
