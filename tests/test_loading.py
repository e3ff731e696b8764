"""A trained network is taken up again from two files, computes what it did, and takes what people have."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import enas
from enas.cli import main
from enas.data.augmentation import normalise
from enas.data.images import ImageData, ImageShape, Normalisation
from enas.data.preprocess import ImagePreprocess, WordPreprocess
from enas.data.text import Corpus, read_folder
from enas.errors import DataError, RunFolderError
from enas.run import Run
from enas.runs.images import ImageRunConfig
from enas.runtime.files import read_json
from enas.stages import execute
from tests import exported, tiny


@pytest.fixture(scope="module", params=exported.SPACES)
def space(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(space: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a trained network; not to be changed."""
    return exported.trained(space, tmp_path_factory.mktemp(space))


def network(run: Path) -> Path:
    """The folder of the found network."""
    (found,) = [one["id"] for one in Run.open(run).results() if one["role"] == "found"]
    return run / "retrain" / str(found)


def inputs(data: Any) -> Tensor:
    """Images or tokens of the test data as the data's own reader has them."""
    if isinstance(data, Corpus):
        return data.test[:20].view(10, 2)
    assert isinstance(data, ImageData)
    return normalise(data.test.images_NCHW[:5], data.train.normalisation)


@torch.no_grad()
def test_a_moved_network_computes_what_it_did_bit_for_bit(run: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in ("weights.safetensors", "model.json"):
        shutil.copy(network(run) / name, tmp_path / "here")
    held = Run.open(run)
    expected, x = held.found_model(), inputs(held.data)
    for model in (enas.load(tmp_path / "here"), enas.load(str(run))):
        assert not model.training
        assert model.state_dict().keys() == expected.state_dict().keys()
        found, wanted = model(x), expected(x)
        assert torch.equal(*(y if isinstance(y, Tensor) else y[0] for y in (found, wanted)))


@torch.no_grad()
def test_preprocess_makes_of_raw_data_what_was_trained_on(run: Path) -> None:
    model, data = enas.load(run), Run.open(run).data
    if isinstance(data, Corpus):
        assert model.words == data.vocabulary
        text = (run.parent / "text" / "test.txt").read_text()
        assert model.preprocess(text).flatten().tolist() == data.test.tolist()
    else:
        assert isinstance(data, ImageData)
        assert model.classes == data.classes
        assert torch.equal(
            model.preprocess(data.test.images_NCHW),
            normalise(data.test.images_NCHW, data.train.normalisation),
        )


def test_a_loaded_network_can_be_trained_further(run: Path) -> None:
    model = enas.load(run).train()
    output = model(inputs(Run.open(run).data))
    (output if isinstance(output, Tensor) else output[0]).sum().backward()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (
        sum(parameter.grad is not None for parameter in model.parameters()) > 3
    )  # some reductions are not read


def test_loading_draws_nothing(run: Path) -> None:
    before = torch.get_rng_state()
    enas.load(run)
    assert torch.equal(before, torch.get_rng_state())


def test_a_final_network_has_the_normalisation_of_all_it_was_trained_on(tmp_path: Path) -> None:
    settings = tiny.image_config("micro", "--retrain.child.train-on", "all")
    run = exported.trained("micro", tmp_path, settings)
    data = Run.open(run).data
    assert isinstance(data, ImageData)
    assert data.joined().normalisation != data.train.normalisation
    assert enas.load(run).preprocess.normalisation == data.joined().normalisation


def test_the_lstm_beside_a_cell_is_loaded_too(tmp_path: Path) -> None:
    run = exported.trained("recurrent", tmp_path)
    model = enas.load(run / "retrain" / "lstm-seed0")
    scores, (h, c) = model(torch.zeros(3, 2, dtype=torch.int64))
    assert (scores.shape[:2], h.shape) == ((3, 2), c.shape)


def test_the_package_itself_imports_no_torch() -> None:
    code = "import sys, enas; assert 'torch' not in sys.modules; assert callable(enas.load) and callable(enas.export)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = enas.no_such_name


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path, run: Path) -> Path:
    """The folder of a trained network, to be damaged."""
    return Path(shutil.copytree(network(run), tmp_path / "copy"))


def refused(folder: Path, said: str) -> None:
    with pytest.raises(RunFolderError, match=said) as error:
        enas.load(folder)
    assert len(str(error.value)) < 700


def edit(folder: Path, change: Any) -> None:
    record = read_json(folder / "model.json")
    change(record)
    (folder / "model.json").write_text(json.dumps(record))


def test_changed_weights_are_refused(copy: Path) -> None:
    data = bytearray((copy / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(data)
    refused(copy, r"weights\.safetensors has changed")
    (copy / "weights.safetensors").unlink()
    refused(copy, r"weights\.safetensors cannot be read")


@pytest.mark.parametrize("cut", [0, 1, 100, -3])
def test_a_cut_record_is_refused(copy: Path, cut: int) -> None:
    path = copy / "model.json"
    path.write_bytes(path.read_bytes()[:cut])
    refused(copy, r"model\.json")


def change_choice(record: Any) -> None:
    record["model"]["architecture"]["choices"][0] += 1


def change_width(record: Any) -> None:
    model = record["model"]
    if "hidden" in model:
        model["hidden"] += 1
    else:
        model["network"]["filters"] += 2


def change_kind(record: Any) -> None:
    record["model"]["kind"] = "<script>"


def no_kind(record: Any) -> None:
    del record["model"]["kind"]


def no_data(record: Any) -> None:
    del record["data"]


def huge(record: Any) -> None:
    model = record["model"]
    if "hidden" in model:
        model["hidden"] = 65_536
    else:
        model["network"]["filters"] = 65_536


CHANGES = {
    change_choice: "its id is|not in its space|must be|no option",
    change_width: "is not of the network in",
    huge: "is not of the network in",
    change_kind: "kind must be one of",
    no_kind: "kind is missing",
    no_data: "data is missing",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_record_is_refused(copy: Path, change: Any) -> None:
    edit(copy, change)
    refused(copy, CHANGES[change])


def test_classes_that_are_not_those_of_the_shape_are_refused(copy: Path, space: str) -> None:
    if space == "recurrent":
        edit(copy, lambda record: record["model"]["words"].append("more"))
        refused(copy, "is not of the network in")
    else:
        edit(copy, lambda record: record["model"]["classes"].append("more"))
        refused(copy, "11 names for 10 classes")
        edit(copy, lambda record: record["model"]["classes"].pop())
        edit(copy, lambda record: record["model"]["normalisation"].update(std=[0.0]))
        refused(copy, "standard deviation")


def test_a_folder_without_a_network_is_told(tmp_path: Path, run: Path) -> None:
    refused(tmp_path, "has no trained network")
    refused(tmp_path / "nowhere", "has no trained network")
    untrained = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(untrained / "retrain")
    refused(untrained, "is not retrained yet; run 'enas retrain")


def test_a_run_of_an_earlier_version_gets_its_record_without_a_new_training(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = shutil.copytree(run, tmp_path / "run")
    for path in old.glob("retrain/*/model.json"):
        path.unlink()
    refused(old, "has no model.json, as an earlier version trained it; 'enas retrain")
    execute(Run.open(old), ("retrain",))
    assert tiny.content(old) == tiny.content(run)


def test_a_run_of_an_earlier_version_without_its_data_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = exported.trained("recurrent", tmp_path)
    for path in run.glob("retrain/*/model.json"):
        path.unlink()
    before = tiny.content(run)
    shutil.rmtree(tmp_path / "text")
    execute(Run.open(run), ("retrain",))
    assert tiny.content(run) == before
    assert capsys.readouterr().err.count("stays without model.json") == 3


# ---- what people have ------------------------------------------------------------------------------------------------

GREY = ImagePreprocess(ImageShape(1, 4, 6, 2), Normalisation((0.0,), (1.0,)))
COLOUR = ImagePreprocess(ImageShape(3, 4, 6, 2), Normalisation((0.0,) * 3, (1.0,) * 3))


def test_pictures_become_pixels(tmp_path: Path) -> None:
    pixels = torch.randint(256, (3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    from_file, from_picture = COLOUR(str(tmp_path / "a.png")), COLOUR(Image.open(tmp_path / "a.png"))
    assert torch.equal(from_file, COLOUR(pixels))
    assert torch.equal(from_picture, COLOUR(pixels.unsqueeze(0)))
    assert COLOUR([tmp_path / "a.png"] * 3).shape == (3, 3, 4, 6)
    assert GREY(tmp_path / "a.png").shape == (1, 1, 4, 6)
    Image.new("L", (60, 40), 51).save(tmp_path / "large.png")
    assert torch.allclose(GREY(tmp_path / "large.png"), torch.full((1, 1, 4, 6), 0.2))


def test_what_are_no_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "no\npicture.png").write_text("<script>")
    wrong: list[tuple[Any, str]] = [
        (torch.zeros(1, 3, 4, 6), "must be uint8"),
        (torch.zeros(2, 1, 4, 6, dtype=torch.uint8), r"\[B, 3, 4, 6\]"),
        (torch.zeros(6, dtype=torch.uint8), "must be uint8"),
        ([], "no pictures"),
        (tmp_path / "no\npicture.png", "cannot be read as a picture"),
        (tmp_path / "missing.png", "cannot be read"),
    ]
    for images, said in wrong:
        with pytest.raises(DataError, match=said):
            COLOUR(images)
    with pytest.raises(DataError, match="2 channels"):
        replace(GREY, shape=ImageShape(2, 4, 6, 2))(Image.new("L", (6, 4)))


def test_text_becomes_tokens() -> None:
    with_unknown = WordPreprocess(("<eos>", "<unk>", "a", "b"))
    assert with_unknown("a b\nc").flatten().tolist() == [2, 3, 0, 1]
    assert with_unknown("a\n\nb\n").flatten().tolist() == [2, 0, 0, 3, 0]
    assert with_unknown("a <eos>").flatten().tolist() == [2, 0]
    with pytest.raises(DataError, match="no word 'c'"):
        WordPreprocess(("<eos>", "a"))("a c")
    with pytest.raises(DataError, match="no words"):
        with_unknown("")
    with pytest.raises(DataError, match="no words"):
        with_unknown("   ")


def test_text_becomes_the_tokens_that_it_has_in_training(tmp_path: Path) -> None:
    text = "a b <eos>\nc\u2028d \x0c e\rf\u00a0\x85a\r\n\n\ufeffg <eos>\n<eos>\nb\n"
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(text, "utf-8", newline="")
    corpus = read_folder(tmp_path)
    assert WordPreprocess(corpus.vocabulary)(text).flatten().tolist() == corpus.train.tolist()


def test_a_picture_is_read_as_its_file(tmp_path: Path) -> None:
    turned = Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    exif = turned.getexif()
    exif[0x112] = 6  # as a camera that was held upright says
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    for path in tmp_path.iterdir():
        assert torch.equal(COLOUR(Image.open(path)), COLOUR(path))
        assert torch.equal(GREY(Image.open(path)), GREY(path))
    deep = Image.fromarray(np.full((4, 6), 40_000, np.uint16))
    with pytest.raises(DataError, match=r"a picture has more than 8 bits a pixel \(mode I;16\)"):
        GREY(deep)


def test_names_of_classes_may_be_anything(tmp_path: Path) -> None:
    names = [
        "<script>alert('x')</script>".replace("/", "|"),
        'quote" and \\ and *',
        "line\nbreak, (and) more " * 4,
        b"caf\xe9".decode(errors="surrogateescape"),
    ]
    for number, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        for one in range(6):
            Image.new("L", (8, 8), 40 * number + one).save(tmp_path / "data" / name / f"{one}.png")
    settings = tiny.image_config("nasbench201", "--data.source", str(tmp_path / "data"), "--data.valid", "4")
    assert isinstance(settings, ImageRunConfig)
    run = exported.trained("nasbench201", tmp_path, settings)
    assert set(enas.load(run).classes) == {*names[:3], "caf\N{REPLACEMENT CHARACTER}"}
    assert main(["export", str(run), "--to", "py"]) == 0
    card, code = ((run / "export" / name).read_text() for name in ("README.md", "model.py"))
    assert "<script>" not in card
    assert "&lt;script&gt;" in card
    assert "line\nbreak" not in card
    space: dict[str, Any] = {"__file__": str(run / "export" / "model.py"), "__name__": "model"}
    exec(compile(code, "model.py", "exec"), space)
    assert space["CLASSES"] == enas.load(run).classes
