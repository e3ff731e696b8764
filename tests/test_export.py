"""What is exported computes what the network does, at every size of batch, without this package; the rest is not kept."""

import contextlib
import copy
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import enas
from enas.cli import main
from enas.errors import ConfigError, ExportError
from enas.exporting.check import distance
from enas.exporting.exports import FORMATS, export_subjects
from enas.exporting.runs import export_run, subjects
from enas.exporting.subject import any_module
from enas.loading import load_described
from enas.run import Run
from enas.runs.models import ImageModel
from enas.runtime.files import digest_of_file, read_json
from tests import exported, tiny
from tests.test_recurrent_net import seeded

ALL = ("safetensors", "py", "pt2", "onnx")


@pytest.fixture(scope="module", params=exported.SPACES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose found network is exported in all formats; not to be changed."""
    folder = exported.trained(request.param, tmp_path_factory.mktemp(request.param))
    assert main(["export", str(folder)]) == 0
    return folder


def words(run: Path) -> bool:
    return (run.parent / "text").exists()


def given(run: Path, batch: int, time: int = 6) -> tuple[Tensor, ...]:
    """Inputs that no check has seen."""
    if words(run):
        tokens_TB = torch.randint(11, (time, batch), generator=seeded(batch))
        return tokens_TB, torch.rand(batch, 8, generator=seeded(batch))
    return (torch.randn(batch, 1, 8, 8, generator=seeded(batch)),)


def flat(output: Any) -> list[Tensor]:
    return list(output) if isinstance(output, tuple | list) else [output]


def close(found: Any, expected: Any, tolerance: float) -> None:
    for a, b in zip(flat(found), flat(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


WITHOUT_ENAS = """
import importlib.abc, json, os, sys, traceback

class Refuses(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "enas":
            raise ImportError("enas is not to be had here")

sys.meta_path.insert(0, Refuses())
import torch

def compute(folder):
    sys.path.insert(0, folder)
    import model
    inputs = torch.load(folder + "/inputs", weights_only=True)
    with torch.no_grad():
        output = model.load()(*inputs)
    torch.save(list(output) if isinstance(output, tuple) else [output], folder + "/outputs")
    assert not any(name.partition(".")[0] == "enas" for name in sys.modules)

for line in sys.stdin:
    if os.fork() == 0:
        folder, code = json.loads(line), 1
        try:
            os.dup2(os.open(folder + "/said", os.O_WRONLY | os.O_CREAT), 2)
            compute(folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
Computes = Callable[[Path, Path, tuple[Tensor, ...]], list[Tensor]]
"""From a run, an empty folder and inputs to what the exported code computes there."""


@contextlib.contextmanager
def without_enas() -> Iterator[Computes]:
    """One process, isolated, in which enas cannot be imported. It imports torch once; each network has a fork of it."""
    command = [sys.executable, "-I", "-c", WITHOUT_ENAS]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd="/") as process:

        def computed(run: Path, folder: Path, x: tuple[Tensor, ...]) -> list[Tensor]:
            assert process.stdin is not None
            assert process.stdout is not None
            for name in ("model.py", "weights.safetensors"):
                shutil.copy(run / "export" / name, folder)
            torch.save(x, folder / "inputs")
            print(json.dumps(str(folder)), file=process.stdin, flush=True)
            code = process.stdout.readline()
            assert (code, (folder / "said").read_text()) == ("0\n", "")
            outputs: list[Tensor] = torch.load(folder / "outputs", weights_only=True)
            return outputs

        yield computed
        assert process.communicate() == ("", "")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Computes]:
    with without_enas() as computed:
        yield computed


@torch.no_grad()
def test_code_runs_where_enas_cannot_be_imported(run: Path, elsewhere: Computes, tmp_path: Path) -> None:
    found = elsewhere(run, tmp_path, given(run, 3))
    assert "enas" not in (tmp_path / "model.py").read_text().replace("enas.load", "")
    close(found, enas.load(run)(*given(run, 3)), 1e-6)


@pytest.fixture(scope="module")
def graph(run: Path) -> nn.Module:
    """The graph of torch, loaded."""
    name = "sequence" if words(run) else "model"
    return torch.export.load(run / "export" / f"{name}.pt2").module()


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_a_graph_of_torch_takes_any_batch(run: Path, graph: nn.Module, batch: int) -> None:
    x = given(run, batch, time=batch + 1)
    close(graph(*x), enas.load(run)(*x), 1e-5)


def runtime(path: Path) -> Callable[..., list[Tensor]]:
    """What onnxruntime makes of a file, here and nowhere else."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *xs: [
        torch.from_numpy(y)
        for y in session.run(None, {name: x.numpy() for name, x in zip(names, xs, strict=True)})
    ]


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_onnxruntime_takes_any_batch(run: Path, batch: int) -> None:
    found = runtime(run / "export" / f"{'sequence' if words(run) else 'model'}.onnx")
    x = given(run, batch, time=batch + 1)
    close(found(*x), enas.load(run)(*x), 1e-4)


@torch.no_grad()
def test_steps_of_a_cell_one_by_one_are_the_sequence(run: Path) -> None:
    if not words(run):
        return
    tokens_TB, state = given(run, 3)
    expected, last = enas.load(run)(tokens_TB, state)
    graphs = (torch.export.load(run / "export" / "step.pt2").module(), runtime(run / "export" / "step.onnx"))
    for step in graphs:
        h = state
        for tokens_B, scores_BV in zip(tokens_TB, expected, strict=True):
            found, h = step(tokens_B, h)
            close(found, scores_BV, 1e-4)
        close(h, last, 1e-4)


@torch.no_grad()
def test_the_exported_weights_are_loaded_as_the_run_is(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run / "export", tmp_path / "moved")
    assert tiny.plain(enas.load(moved).state_dict()) == tiny.plain(enas.load(run).state_dict())
    close(enas.load(moved)(*given(run, 2)), enas.load(run)(*given(run, 2)), 0)


def test_every_file_has_the_record_of_its_check(run: Path) -> None:
    files = {path.name for path in (run / "export").iterdir()} - {"README.md", "model.json"}
    made = {name for name in files if not name.endswith(".json")}
    graphs = {"sequence", "step"} if words(run) else {"model"}
    assert made == {
        "weights.safetensors",
        "model.py",
        *(f"{name}.{suffix}" for name in graphs for suffix in ("pt2", "onnx")),
    }
    assert files == made | {f"{name}.json" for name in made}
    for name in made:
        record = read_json(run / "export" / f"{name}.json")
        assert record["file"] == name
        assert record["digest"] == vars(digest_of_file(run / "export" / name))
        assert 0 <= record["largest_difference"] <= record["tolerance"] <= 1e-4
        assert record["batches"] == [1, 2, 7]
        assert all(0 < seconds < 60 for seconds in record["seconds"].values())
        assert record["versions"]["torch"] == torch.__version__
        (first, *_), (scores, *_) = record["inputs"], record["outputs"]
        if words(run):
            step = name.startswith("step")
            assert first == {
                "name": "tokens",
                "dtype": "int64",
                "shape": ["batch"] if step else ["time", "batch"],
            }
            assert scores["shape"] == (["batch", 11] if step else ["time", "batch", 11])
        else:
            assert first == {"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]}
            assert scores == {"name": "scores", "dtype": "float32", "shape": ["batch", 10]}
        assert tiny.keys(record) <= tiny.documented() | set(record["versions"])
    assert "onnxruntime" in read_json(run / "export" / f"{min(graphs)}.onnx.json")["seconds"]


def test_what_a_user_has_to_know_is_in_the_files(run: Path) -> None:
    import onnx as package

    name = "sequence" if words(run) else "model"
    model, record = load_described(run / "export")
    properties = {
        p.key: json.loads(p.value) for p in package.load(run / "export" / f"{name}.onnx").metadata_props
    }
    kept = {"about.json": ""}
    torch.export.load(run / "export" / f"{name}.pt2", extra_files=kept)
    space: dict[str, Any] = {"__file__": "model.py", "__name__": "model"}
    exec((run / "export" / "model.py").read_text(), space)
    if words(run):
        assert (
            tuple(properties["words"])
            == tuple(json.loads(kept["about.json"])["words"])
            == tuple(space["WORDS"])
            == model.words
        )
        return
    assert isinstance(record.model, ImageModel)
    assert tuple(properties["classes"]) == space["CLASSES"] == model.classes
    assert tuple(json.loads(kept["about.json"])["mean"]) == space["MEAN"] == record.model.normalisation.mean
    pixels = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8, generator=seeded())
    torch.testing.assert_close(space["preprocess"](pixels), model.preprocess(pixels))


def test_the_model_card_says_what_came_out(run: Path) -> None:
    card = (run / "export" / "README.md").read_text()
    found, *_, random = Run.open(run).results()
    metric = Run.open(run).config.metric.name
    assert f"{found['parameters']:,} parameters" in card
    assert f"{found['test'][f'test_{metric}']:.2f}" in card
    assert (
        f"1 random architectures, trained alike, with one seed each: test {metric} {random['test'][f'test_{metric}']:.2f}"
        in card
    )
    assert ("unknown, as the data are the user's own" if words(run) else "CC BY 4.0") in card
    assert "SHA-256" in card
    if not words(run):
        assert "an exact interval of 95% for 30 test images" in card


# ---- bad input -------------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What a command that is refused says, in one line."""
    assert main([*command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return str(line)


def test_a_run_that_cannot_be_exported_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = exported.config("nasbench201", tmp_path)
    folder = Run.create(tmp_path / "run", settings, ("retrain",)).folder
    capsys.readouterr()
    assert "has no architecture yet" in said(capsys, "export", str(folder))
    assert "There is no run folder" in said(capsys, "export", str(tmp_path / "nowhere"))
    assert "has no trained network" in said(capsys, "export", str(tmp_path))
    assert "--to" in said(capsys, "export", str(folder), "--to", "pt3")


@pytest.mark.parametrize("run", ["nasbench201"], indirect=True)
def test_damaged_weights_and_records_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    (trained,) = (
        run / "retrain" / str(one["id"]) for one in Run.open(run).results() if one["role"] == "found"
    )
    capsys.readouterr()
    for name in ("weights.safetensors", "model.json"):
        path = trained / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert name in said(capsys, "export", str(run))
        path.write_bytes(whole)
    (trained / "model.json").unlink()
    assert "enas retrain" in said(capsys, "export", str(run))
    assert not (run / "export").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_told_before_anything_is_written(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}.*pip install 'enas\[onnx\]'"):
        enas.export(nn.Linear(2, 2), torch.randn(3, 2), tmp_path / "export")
    assert not (tmp_path / "export").exists()
    (file,) = enas.export(nn.Linear(2, 2), torch.randn(3, 2), tmp_path / "export", to=["pt2"])
    assert file == tmp_path / "export" / "model.pt2"


class NotInONNX(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(x)


def test_an_operation_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.onnx: ONNX has no operation for torch's \S*airy_ai"):
        enas.export(NotInONNX(), torch.rand(3, 2), tmp_path, to=["pt2", "onnx"])
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", "model.pt2.json"}


@pytest.mark.parametrize("name", ALL)
def test_a_file_that_differs_is_not_kept(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tolerance = FORMATS[name].tolerance

    def off(data: bytes, subject: Any) -> Any:
        return lambda x: subject.module(x) * (1 + 3 * max(tolerance, 1e-6))

    monkeypatch.setitem(FORMATS, name, FORMATS[name]._replace(loaded=off))
    net = nn.Linear(4, 3)
    with pytest.raises(ExportError, match="differs from the network by"):
        export_subjects(
            any_module(net, torch.randn(2, 4)), (any_module(net, torch.randn(2, 4)),), tmp_path, [name]
        )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("model")]


class ByTheBatch(nn.Module):
    """What it does depends on the size of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if len(x) == 7 else x


def test_a_branch_on_the_batch_is_found_out(tmp_path: Path) -> None:
    for name in ("py", "pt2", "onnx"):
        with pytest.raises(ExportError, match=rf"model\.{name}"):
            enas.export(ByTheBatch(), torch.randn(2, 4), tmp_path, to=[name])
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "weights.safetensors.json"}


def test_no_file_of_an_earlier_network_stays_where_this_one_cannot_be_written(tmp_path: Path) -> None:
    enas.export(nn.Linear(4, 4), torch.randn(2, 4), tmp_path, to=["py", "pt2"])
    with pytest.raises(ExportError, match=r"model\.py"):
        enas.export(ByTheBatch(), torch.randn(2, 4), tmp_path, to=["py"])
    kept = ("weights.safetensors", "model.pt2")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, *(f"{name}.json" for name in kept)}


def test_examples_that_are_none_are_told(tmp_path: Path) -> None:
    for example in ((), torch.zeros(0, 2), torch.tensor(1.0), ["text"]):
        with pytest.raises(ConfigError, match="an example is a tensor"):
            enas.export(nn.Linear(2, 2), example, tmp_path)
    with pytest.raises(ConfigError, match="not on the CPU"):
        enas.export(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2), tmp_path)
    with pytest.raises(ConfigError, match="there is no format 'pt3'"):
        enas.export(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path, to=["pt3"])


def test_differences_are_measured() -> None:
    one = torch.tensor([1.0, -2.0])
    assert distance(one, one) == 0
    assert distance(torch.tensor([1.0, -1.0]), one) == 0.5
    assert distance(torch.tensor([1.0, float("nan")]), one) == float("inf")
    assert distance(torch.tensor([0.0, 0.5]), torch.zeros(2)) == 0.5
    odd = torch.tensor([float("nan"), float("inf"), 1.0])
    assert distance(odd, odd) == 0
    assert distance(odd, torch.tensor([float("nan"), float("inf"), 2.0])) == 0.5
    assert distance(odd, torch.tensor([float("nan"), -float("inf"), 1.0])) == float("inf")
    assert distance(odd, torch.tensor([float("inf"), float("nan"), 1.0])) == float("inf")


# ---- other modules ---------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block's "first" line with \\ and <script>.

    More of it.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.norm = nn.GroupNorm(2, out)
        self.scale = nn.Parameter(torch.full((out, 1, 1), 0.5))
        self.register_buffer("shift", torch.ones(out, 1, 1))
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
        y = self.norm(self.conv(x)) * self.scale + self.shift
        return F.gelu(y) + self.skip(x), y.mean((2, 3))


class OwnNet(nn.Module):
    """With inputs of two kinds, shared and unused parts, dropout, and modules by number and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(3, 4), Block(4, 4), Block(4, 4)])
        self.heads = nn.ModuleDict(
            {
                "a-1": nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 5), nn.ReLU(inplace=True)),
                "spare": nn.Linear(1, 1),
            }
        )
        self.table = nn.Embedding(7, 5)
        self.tied = nn.Linear(5, 7, bias=False)
        self.tied.weight = self.table.weight

    def forward(self, images: Tensor, words: Tensor) -> dict[str, Any]:
        x, pooled = images, []
        for block in self.blocks:
            x, features = block(x)
            pooled.append(features)
        x, again = self.blocks[2](x)
        first, rest = torch.stack([*pooled, again]).sum(0).chunk(2, dim=1)
        y = self.heads["a-1"](torch.cat([rest, -first], dim=1) - 1) * (2 - self.table(words))
        return {"scores": self.tied(y), "maps": x[:, :2, 1:]}


def test_any_module_is_exported_and_left_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = OwnNet()
    net.blocks[1].eval()
    before = copy.deepcopy(net.state_dict())
    example = (torch.randn(3, 3, 6, 6), torch.randint(7, (3,)))
    files = enas.export(net, example, tmp_path, to=list(ALL))
    assert [path.name for path in files] == ["weights.safetensors", "model.py", "model.pt2", "model.onnx"]
    assert tiny.plain(net.state_dict()) == tiny.plain(before)
    assert (net.training, net.blocks[1].training, net.blocks[0].training) == (True, False, True)
    net.eval()
    x = torch.randn(4, 3, 6, 6), torch.randint(7, (4,))
    space: dict[str, Any] = {"__file__": str(tmp_path / "model.py"), "__name__": "model"}
    code = (tmp_path / "model.py").read_text()
    exec(code, space)
    with torch.no_grad():
        expected = net(*x)
        scores, maps = space["load"]()(*x)
        assert torch.equal(scores, expected["scores"])
        assert torch.equal(maps, expected["maps"])
        (scores, maps) = runtime(tmp_path / "model.onnx")(*x)
        close(scores, expected["scores"], 1e-4)
    assert code.count("class Block") == 2  # with and without a convolution beside it
    assert "spare" not in code
    assert "A block's 'first' line with / and <script>." in code


class Keyed(nn.Module):
    """Has parts by names that need quotes."""

    def __init__(self) -> None:
        super().__init__()
        names = ['a, "b" (', "[c\n'd'", "<script>)", "é\\{"]
        self.parts = nn.ModuleDict(
            {name: nn.Conv2d(2, 2, (1, 1), bias=number > 1) for number, name in enumerate(names)}
        )
        self.last = nn.LayerNorm((3, 3))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = x + part(x)
        y: Tensor = self.last(x)
        return y


def test_names_of_parts_may_be_anything(tmp_path: Path) -> None:
    enas.export(Keyed(), torch.randn(2, 2, 3, 3), tmp_path, to=["py"])
    assert "nn.LayerNorm((3, 3))" in (tmp_path / "model.py").read_text()


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[-1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    made = {"weights.safetensors", "model.py", "model.pt2", "model.onnx"}
    assert {path.name for path in Path("exported").iterdir()} == made | {f"{name}.json" for name in made}


def test_modules_that_do_the_same_are_one_class_with_arguments(tmp_path: Path) -> None:
    net = nn.Sequential(Pair(3, 4), Pair(4, 6), Pair(6, 6))
    enas.export(net, torch.randn(2, 3, 5, 5), tmp_path, to=["py"])
    code = (tmp_path / "model.py").read_text()
    assert code.count("class ") == 1
    assert "nn.Sequential(Pair(3, 4), Pair(4, 6), Pair(6, 6))" in code


class Pair(nn.Module):
    """Two convolutions."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3)
        self.second = nn.Conv2d(out, channels, 3, padding=2)
        self.last = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x)))


class InPlace(nn.Module):
    """Changes its tensors in all ways that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.relu = nn.ReLU(inplace=True)

    def forward(self, F: Tensor) -> Tensor:
        x = F
        out = nn.functional.relu(self.conv(x) - 0.1, inplace=True)
        out += self.same(out)
        out *= 2
        out -= 1
        out /= 3
        out[:, 0] = x[:, 1]
        out[0, 1:, ..., 2] = 0.5
        out.view(-1)[:2].mul_(3)
        return self.relu(out) + out


@pytest.mark.parametrize("number", range(2))
def test_what_is_changed_in_place_is_written_so(number: int, tmp_path: Path) -> None:
    module = (InPlace(), nn.Sequential(nn.Linear(5, 5), InPlace()))[number]
    enas.export(module, torch.randn(2, 3, 5, 5), tmp_path, to=["py"])
    code = (tmp_path / "model.py").read_text()
    for line in ("[:, 0] = F2[:, 1]", "[0, 1:, ..., 2] = 0.5", ".mul_(2)", "padding_mode='circular'"):
        assert line in code


class Outside(nn.Module):
    """Uses a tensor of nobody's."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = [torch.ones(2)]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.kept[0]


class Unsaved(nn.Module):
    """Has a tensor that is not among its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.kept


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Outside(), "neither given to it nor a parameter"),
        (Unsaved(), "keeps kept outside its weights"),
        (nn.TransformerEncoderLayer(2, 1, 4), "code cannot say how the TransformerEncoderLayer is made"),
    ],
)
def test_what_code_cannot_say_is_told(module: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=said):
        enas.export(module, torch.randn(3, 2), tmp_path, to=["py"])
    assert not (tmp_path / "model.py").exists()


# ---- kernels and examples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["nasbench201"], indirect=True)
def test_no_kernel_takes_part(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is wrong changes what the module computes, and nothing of what is exported."""
    model, record = load_described(run / "retrain" / next((run / "retrain").iterdir()).name)
    whole, graphs = subjects(model, record.model)
    with torch.no_grad():
        right = model(*whole.drawn(2))
        monkeypatch.setattr("enas.ops._kernels", lambda: {"relu": lambda x: torch.zeros_like(x)})
        assert not torch.equal(model(*whole.drawn(2)), right)
        export_subjects(whole, graphs, tmp_path / "export", ["py", "pt2"])
        close(torch.export.load(tmp_path / "export" / "model.pt2").module()(*whole.drawn(2)), right, 1e-5)


def test_the_examples_use_a_run_without_its_data(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    here = shutil.copytree(run, tmp_path / "run")
    if words(run):
        call = ["next_words.py", str(here), "the cat"]
    else:
        Image.new("RGB", (20, 30), "green").save(tmp_path / "a picture.png")
        call = ["classify_images.py", str(here), str(tmp_path / "a picture.png")]
    settings = read_json(here / "config.json")
    settings["settings"]["data"]["source"] = str(tmp_path / "gone")
    (here / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(sys, "argv", call)
    capsys.readouterr()
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / call[0]), run_name="__main__")
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.count("%") == (5 if words(run) else 3)


@pytest.mark.parametrize("run", ["recurrent"], indirect=True)
def test_the_lstm_of_equal_size_is_exported_too(run: Path, tmp_path: Path) -> None:
    trained = shutil.copytree(run / "retrain" / "lstm-seed0", tmp_path / "lstm-seed0")
    folder, checks = export_run(trained, ALL)
    assert len(checks) == 6
    tokens, h, c = torch.randint(11, (5, 3)), torch.rand(3, 10), torch.rand(3, 10)
    model = enas.load(folder)
    h, c = h[:, : model.hidden], c[:, : model.hidden]
    with torch.no_grad():
        scores, (last_h, last_c) = model(tokens, (h, c))
        close(runtime(folder / "sequence.onnx")(tokens, h, c), [scores, last_h, last_c], 1e-4)
