"""The cells of NAS-Bench-201: notation, what has a part in the output, sizes against the benchmark's, shared weights."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from enas.costs import multiply_adds, parameter_count
from enas.data.images import ImageShape
from enas.errors import ArchitectureError
from enas.spaces.nasbench201.net import NASBench201Child, NASBench201NetConfig, NASBench201Supernet
from enas.spaces.nasbench201.space import NONE, OPERATIONS, PAIRS, NASBench201Space
from enas.spaces.reading import read_text

SPACE = NASBench201Space()
SHAPE = ImageShape(3, 32, 32, 10)
SMALL = NASBench201NetConfig(filters=4, cells=1)
CONVOLUTIONS = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)
NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
PUBLISHED = {
    CONVOLUTIONS: (1_531_546, 220_119_690),
    NOTHING: (73_306, 7_783_050),
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|": (
        129_306,
        15_647_370,
    ),
}
"""Parameters and multiply-adds that the benchmark states for CIFAR-10; ten of each are the classifier's bias."""


def random_cells(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [str(SPACE.sample(rng)) for _ in range(count)]


def test_the_space_has_the_cells_of_the_benchmark() -> None:
    assert SPACE.count() == 15_625
    assert len(set(map(str, SPACE.enumerate()))) == 15_625


@pytest.mark.parametrize("text", [*PUBLISHED, *random_cells(5)])
def test_a_string_reads_back(text: str) -> None:
    assert str(SPACE.parse(text)) == text
    assert read_text(text) == SPACE.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("|none~0|+|none~0|none~1|", "no cell of NAS-Bench-201"),
        (NOTHING.replace("none~2", "none~1"), "no cell of NAS-Bench-201"),
        (NOTHING.replace("|none~1|none~2", "|none~1|more|none~2"), "no cell of NAS-Bench-201"),
        (f"{NOTHING} none", "no cell of NAS-Bench-201"),
        (NOTHING.replace("none~2", "skip_conect~2"), "skip_connect?"),
    ],
)
def test_other_strings_are_refused(text: str, why: str) -> None:
    with pytest.raises(ArchitectureError, match=why):
        SPACE.parse(text)


def carries(choices: tuple[int, ...]) -> set[tuple[int, int]]:
    """The pairs that some path of operations other than none from node 0 to node 3 goes over: by trying every path."""
    taken = {pair for pair, choice in zip(PAIRS, choices, strict=True) if OPERATIONS[choice] != NONE}
    found = set()
    for between in ((), (1,), (2,), (1, 2)):
        path = set(itertools.pairwise((0, *between, 3)))
        if path <= taken:
            found |= path
    return found


def test_what_has_no_part_in_the_output_is_left_out() -> None:
    reduced = set()
    for architecture in SPACE.enumerate():
        edges = SPACE.edges(architecture)
        assert {edge[:2] for edge in edges} == carries(architecture.choices)
        assert SPACE.edges(SPACE.reduced(architecture)) == edges
        reduced.add(SPACE.reduced(architecture))
    assert len(reduced) == 9_445


@pytest.mark.parametrize(("text", "sizes"), PUBLISHED.items())
def test_sizes_are_the_benchmarks(text: str, sizes: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = NASBench201Child(SPACE.parse(text), NASBench201NetConfig(), SHAPE, torch.Generator())
    assert (parameter_count(network), multiply_adds(network, SHAPE)) == (sizes[0] - 10, sizes[1] - 10)


@pytest.mark.parametrize("text", [CONVOLUTIONS, NOTHING, *random_cells(4, seed=1)])
def test_a_child_computes_what_its_path_does(text: str) -> None:
    draw = torch.Generator().manual_seed(0)
    supernet = NASBench201Supernet(SPACE, SMALL, SHAPE, draw)
    images_BCHW = torch.randn(3, 3, 32, 32, generator=draw)
    architecture = SPACE.parse(text)
    for same in (architecture, SPACE.reduced(architecture)):
        child = NASBench201Child(same, SMALL, SHAPE, torch.Generator())
        child.load_slice(supernet)
        for network in (child, supernet):
            network.eval()
        assert torch.equal(child(images_BCHW), supernet(images_BCHW, architecture).logits_BK)
    if text == NOTHING:
        assert not child(images_BCHW).any()
    else:
        assert child(images_BCHW).any()
