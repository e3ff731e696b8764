"""The examples: each runs at a small size, from the command line and as a script, and computes what it says."""

import ast
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import enas
from enas import Choice, child_of, space_of
from enas.cli import main
from enas.costs import parameter_count
from enas.data.images import ImageShape
from enas.recipes.files import module_of
from enas.spaces.nasbench201.net import NASBench201Child, NASBench201NetConfig
from enas.spaces.nasbench201.space import NASBench201Space
from enas.stages import Run
from enas.testing import check_network

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SMALL: dict[str, object] = {
    "search.epochs": 1,
    "search.updates": 1,
    "search.proposals": 2,
    "verify.trainings": 0,
    "derive.samples": 1,
    "derive.minibatches": 1,
    "derive.shortlist": 2,
    "derive.shortlist_epochs": 1,
    "retrain.child.epochs": 1,
    "threads": 1,
}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]

SMALLER: dict[str, dict[str, object]] = {
    "nas_bench_201": {"CHANNELS": 4},
    "transformer": {"TOKENS": dict.fromkeys(("train", "valid", "test"), 4_000)},
}
"""Constants of examples that make what they train smaller."""


def example(name: str) -> ModuleType:
    return module_of(EXAMPLES / f"{name}.py")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("digits", 1 * 3 * 7 * 15 * 3**4 * 3),
        ("diabetes", 1 + 3 * (1 + 3 * (1 + 3 * (1 + 3)))),
        ("transformer", 4**2 * 3**2 * 2 * 3),
        ("nas_bench_201", 5**6),
        ("slices", 4**3),
    ],
)
def test_an_example_is_a_recipe_and_a_script_that_goes_on_with_its_run(
    name: str,
    networks: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    for constant, value in SMALLER.get(name, {}).items():
        monkeypatch.setattr(example(name), constant, value)
    assert main(["run", str(EXAMPLES / f"{name}.py"), *FLAGS, "--run", str(folder)]) == 0
    found = Run.open(folder).architecture()
    assert found.space.count() == networks
    assert str(found) in capsys.readouterr().out
    searched = (folder / "archive.jsonl").read_bytes()
    example(name).main(str(folder), **SMALL)
    assert (folder / "archive.jsonl").read_bytes() == searched
    assert Run.open(folder).architecture() == found
    assert len(Run.open(folder).results()) == 4
    assert not [module for module in enas.load(folder).modules() if isinstance(module, Choice)]


@pytest.mark.parametrize("name", ["digits", "diabetes", "transformer", "nas_bench_201", "slices"])
def test_the_network_of_an_example_keeps_its_contract(name: str) -> None:
    inputs = {
        "diabetes": torch.randn(4, 10, generator=torch.Generator().manual_seed(0)),
        "transformer": torch.arange(4 * 32).reshape(4, 32),
    }
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    check_network(example(name).Net(), inputs.get(name, images))


def test_numbers_of_heads_share_their_weights() -> None:
    net = example("transformer").Net()
    one, eight = (
        space_of(net).parse(
            f"layers.0.layer.heads=heads{heads} norm=first layers.1.layer=wide64 activation=gelu "
            f"layers.2.layer.heads=heads{heads} layers.3.layer=wide64"
        )
        for heads in (1, 8)
    )
    states = [child_of(net, architecture, "shared").state_dict() for architecture in (one, eight)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("cells", [1, 2])
def test_the_cell_of_nas_bench_201_is_that_of_the_package(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same choices in the same order, and as many parameters, but for the biases of the ten classes."""
    module, space, rng = example("nas_bench_201"), NASBench201Space(), random.Random(0)
    monkeypatch.setattr(module, "CELLS", cells)
    net, config, shape = module.Net(), NASBench201NetConfig(16, cells), ImageShape(1, 8, 8, 10)
    for _ in range(5):
        theirs = space.reduced(space.sample(rng))
        ours = space_of(net).architecture(theirs.choices)
        named = {"none": "none", "skip": "skip_connect", "pool": "avg_pool_3x3"}
        named |= {f"conv{width}": f"nor_conv_{width}x{width}" for width in (1, 3)}
        assert [named[word.split("=")[1]] for word in str(ours).split()] == [
            decision.options[choice] for decision, choice in zip(space.decisions, theirs.choices, strict=True)
        ]
        child = NASBench201Child(theirs, config, shape, torch.Generator())
        assert parameter_count(child_of(net, ours)) == parameter_count(child) + 10


def test_the_cell_of_nas_bench_201_takes_40_lines() -> None:
    text = (EXAMPLES / "nas_bench_201.py").read_text(encoding="utf-8")
    lines: set[int] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in ("recipe", "main"):
            lines |= set(range(node.lineno, node.end_lineno + 1))
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
                    lines -= set(range(inner.body[0].lineno, inner.body[0].end_lineno + 1))
    assert 0 < len([line for line in lines if text.splitlines()[line - 1].strip()]) <= 40


def test_a_child_of_the_slices_computes_what_the_network_does() -> None:
    net, rng = example("slices").Net(), random.Random(0)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        architecture = net.space.sample(rng)
        assert net.space.parse(str(architecture)) == architecture
        child = net.child(architecture, "shared")
        torch.testing.assert_close(child(images), net(images, architecture))
        sizes = [64, *net.space.taken(architecture), 10]
        assert parameter_count(child) == sum((before + 1) * after for before, after in pairwise(sizes))


@pytest.mark.slow
def test_pictures_in_folders_are_read_by_other_processes(tmp_path: Path) -> None:
    pixels = random.Random(0)
    for name, colour in (("dark", 40), ("light", 200)):
        (tmp_path / name).mkdir()
        for number in range(20):
            tone = colour + pixels.randrange(-20, 20)
            Image.new("RGB", (40, 32), (tone, tone, tone)).save(tmp_path / name / f"{number}.png")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "picture_folder.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["epoch 1", "epoch 2", "epoch 3"]


@pytest.mark.slow
def test_the_notebook_searches_draws_and_takes_the_model_out(tmp_path: Path) -> None:
    """In a kernel of its own, at a small size: every cell runs, and those with pictures have pictures."""
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    sizes = re.compile(r'RUN, EPOCHS, SEEDS, RANDOM = "runs/notebook", \d+, \d+, \d+')
    (first,) = [cell for cell in cells if sizes.search(cell.source)]
    first.source = sizes.sub('RUN, EPOCHS, SEEDS, RANDOM = "run", 1, 2, 2', first.source)
    split = "order.split((1197, 300, 300))"
    (data,) = [cell for cell in cells if split in cell.source]
    data.source = data.source.replace(split, "order[:360].split((120, 120, 120))")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [set().union(*(output.get("data", {}) for output in cell.outputs)) for cell in cells]
    assert sum("image/svg+xml" in kinds for kinds in shown) == 2
    assert sum("image/png" in kinds for kinds in shown) >= 1
    assert (tmp_path / "run" / "compare" / "comparison.json").exists()
    weights = torch.load(tmp_path / "run" / "model.pt")
    assert weights["head.weight"].shape == (10, 16)
