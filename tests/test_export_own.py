"""A network of a user's own, exported by the command: all formats, and code that needs neither enas nor their file."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import enas
from enas import NetworkConfig, Task
from enas.cli import main
from enas.errors import ConfigError
from enas.evidence.variants import with_settings
from enas.recipes import recipe
from enas.recipes.files import module_of
from enas.run import Run
from enas.runtime.files import digest_of_file, read_json
from enas.stages import execute, put_architecture
from tests import own_network
from tests.test_cli import refusal
from tests.test_export import Computes, close, runtime, without_enas

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = ("digits", "diabetes", "transformer", "nas_bench_201", "slices")
SMALL: dict[str, object] = {"retrain.child.epochs": 1, "retrain.random": 1, "threads": 1}


def trained(file: Path, folder: Path, architecture: str | None = None) -> Path:
    """A run of the recipe in a file, in which an architecture was trained and tested, with a random one beside it."""
    config = with_settings(recipe(str(file)), SMALL)
    space = config.searched_space()
    run = Run.create(folder, config, ("retrain", "test"))
    given = space.sample(random.Random(1)) if architecture is None else space.parse(architecture)
    put_architecture(folder, given)
    execute(run, ("retrain", "test"))
    return folder


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an example, exported in all formats; not to be changed."""
    folder = trained(EXAMPLES / f"{request.param}.py", tmp_path_factory.mktemp(request.param) / request.param)
    assert main(["export", str(folder)]) == 0
    return folder


def given(run: Path, batch: int) -> tuple[Tensor, ...]:
    """Examples of the test data, which no check has seen."""
    task = module_of(EXAMPLES / f"{run.name}.py")[0].task()
    return (next(iter(task.test_batches))[0][:batch],)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Computes]:
    with without_enas() as computed:
        yield computed


@torch.no_grad()
def test_code_runs_where_neither_enas_nor_the_file_can_be_imported(
    run: Path, elsewhere: Computes, tmp_path: Path
) -> None:
    x = given(run, 3)
    close(elsewhere(run, tmp_path, x), enas.load(run)(*x), 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 5])
def test_graphs_take_any_batch(run: Path, batch: int) -> None:
    x, model = given(run, batch), enas.load(run)
    close(torch.export.load(run / "export" / "model.pt2").module()(*x), model(*x), 1e-5)
    close(runtime(run / "export" / "model.onnx")(*x), model(*x), 1e-4)


def test_every_file_is_recorded_and_the_card_says_what_it_is(run: Path) -> None:
    files = {"weights.safetensors", "model.py", "model.pt2", "model.onnx"}
    made = {path.name for path in (run / "export").iterdir()}
    assert made == files | {f"{name}.json" for name in files} | {"README.md"}
    for name in files:
        record = read_json(run / "export" / f"{name}.json")
        assert record["digest"] == vars(digest_of_file(run / "export" / name))
        assert 0 <= record["largest_difference"] <= record["tolerance"] <= 1e-4
        assert record["inputs"][0]["shape"][0] == "batch"
    card, (found, other) = (run / "export" / "README.md").read_text(), Run.open(run).results()
    assert f"{found['parameters']:,} parameters" in card
    scores = [result["test"]["test_score"] for result in (found, other)]
    own, random_one = (f"{score:.{4 if abs(score) < 2 else 2}f}" for score in scores)
    assert f"Test score {own}, as the task measures it." in card
    assert f"test score {random_one} in the mean, {random_one} the best." in card
    assert read_json(run / "environment.json")["data_hash"] in card
    assert "unknown, as the data are the user's own" in card


OWN = """
from collections import OrderedDict
import torch
from torch import nn
import enas

class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.given = nn.Linear(4, 4)
        self.steps = nn.Sequential(OrderedDict([("a-1", nn.Linear(4, 4)), ("last", nn.PReLU())]))

    def forward(self, x_BTF):
        time = x_BTF.shape[1]
        mask_TT = torch.full((time, time), float("-inf"), device=x_BTF.device).triu(1)
        x_BTF = self.given(x_BTF)
        mixed_BTF = (x_BTF @ x_BTF.mT + mask_TT).softmax(-1) @ x_BTF
        mixed_BTF = mixed_BTF + torch.arange(time, dtype=x_BTF.dtype, device=x_BTF.device)[:, None]
        return x_BTF + self.steps(mixed_BTF.masked_fill(mixed_BTF <= 0, 1))

class Apart(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.kept = [torch.ones(4)]

    def forward(self, x):
        return self.inner(x) + self.kept[0]

class Twice(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 2

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = enas.Choice({"mixer": Mixer(), "odd": ODD, "idle": nn.Identity()})
        self.head = nn.Linear(4, 4)

    def forward(self, x, weight):
        return self.head(self.mix(x).mean(1)) * weight[:, None]

def split(seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 3, 4, generator=draw)
    return {"weight": torch.rand(12, generator=draw), "x": x, "target": x.sum(1)}

def loss(output, batch):
    return (output - batch["target"]).square().mean()

def task():
    return enas.Task(split(0), split(1), split(2), batch=5, loss=loss, score=loss, higher_is_better=False)

def recipe():
    return enas.NetworkConfig(network=Net, task=task)
"""


def own(odd: str, folder: Path, architecture: str) -> Path:
    """A run of a network with an odd option, of whose architectures one was trained."""
    file = folder / "mine.py"
    file.write_text(OWN.replace("ODD", odd))
    return trained(file, folder / "run", architecture)


def test_inputs_by_name_are_given_in_the_order_of_forward(tmp_path: Path) -> None:
    run = own("nn.Identity()", tmp_path, "mix=mixer")
    assert main(["export", str(run)]) == 0
    code = (run / "export" / "model.py").read_text()
    assert "def forward(self, x, weight):" in code
    assert "device=x_BTF.device" in code
    space: dict[str, Any] = {"__file__": str(run / "export" / "model.py"), "__name__": "model"}
    exec(code, space)
    x, weight = torch.randn(7, 3, 4), torch.rand(7)
    with torch.no_grad():
        expected = enas.load(run)(x, weight)
        assert torch.equal(space["load"]()(x, weight), expected)
    close(runtime(run / "export" / "model.onnx")(x, weight), expected, 1e-4)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (
            "nn.TransformerEncoderLayer(4, 2, 8)",
            "code cannot say how the TransformerEncoderLayer 'mix' is made",
        ),
        (
            "nn.Sequential(Apart())",
            "the Apart 'mix.0' uses a tensor that is neither given to it nor a parameter",
        ),
        (
            "Twice(nn.Linear(4, 4))",
            "how the Twice 'mix' is made, which derives from Sequential and adds to it",
        ),
    ],
)
def test_a_module_that_code_cannot_say_is_named_and_other_formats_are_written(
    odd: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = own(odd, tmp_path, "mix=odd")
    capsys.readouterr()
    assert said in refusal(capsys, "export", str(run), "--to", "py")
    written = {path.name for path in (run / "export").iterdir()}
    assert written == {"weights.safetensors", "weights.safetensors.json"}
    assert main(["export", str(run), "--to", "pt2"]) == 0


def test_a_run_without_a_trained_network_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(own_network.__file__)
    run = Run.create(tmp_path / "run", config, ("retrain",))
    capsys.readouterr()
    assert "has no architecture yet" in refusal(capsys, "export", str(run.folder))
    put_architecture(run.folder, next(config.searched_space().enumerate()))
    assert "is not retrained yet; run 'enas retrain" in refusal(capsys, "export", str(run.folder))
    assert not (run.folder / "export").exists()


def test_inputs_that_are_no_tensors_are_told() -> None:
    def loss(output: Tensor, batch: dict[str, Any]) -> Tensor:
        return (output - batch["target"]).square().mean()

    def example(forward: Any, **inputs: Any) -> tuple[Tensor, ...]:
        data = [{**inputs, "target": torch.rand(4, 2)}]
        task = Task(data, data, loss=loss, score=loss, higher_is_better=False)
        config = NetworkConfig(network=nn.Identity(), task=task)
        return config.example(type("Net", (nn.Module,), {"forward": forward})())

    x = torch.rand(4, 2)
    assert example(lambda self, x, y: x, y=x[:, 0], x=x)[1].shape == (4,)
    with pytest.raises(ConfigError, match=r"inputs are tensors, .* get Tensor \[4, 2\], list"):
        example(lambda self, x, note: x, x=x, note=["a"])
    with pytest.raises(ConfigError, match=r"get Tensor \[4, 2\], Tensor \[3\]"):
        example(lambda self, x, note: x, x=x, note=x[:3, 0])
    with pytest.raises(ConfigError, match="forward gets note by name"):
        example(lambda self, x, *, note: x, x=x, note=x)
