"""Architectures, run folders, flags and data as accidents and enemies make them: nothing but one line comes of it.

Limits, odd values and how many there are: fuzz.py.
"""

import contextlib
import io
import json
import math
import os
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import configuration, given
from hypothesis import strategies as st
from PIL import Image

from enas import cli
from enas.architecture import Architecture, Space
from enas.cli.flags import flag_names
from enas.data.images import ImageConfig
from enas.data.sources import load_images, load_text
from enas.data.text import TextConfig
from enas.errors import ConfigError
from enas.executors.local import LocalExecutor
from enas.recipes import RECIPES, recipe
from enas.runtime.stop import EXIT_STOPPED, StopRequest
from enas.spaces import architecture_from_json
from enas.spaces.graph.space import GraphSpace
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from tests import fuzz, tiny
from tests.test_trainings import InThisProcess

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "enas-hypothesis")  # none in the project

pytestmark = pytest.mark.filterwarnings("ignore")  # what is odd may be warned of
ODD = fuzz.ODD_WORDS


# ---- the limits --------------------------------------------------------------------------------------------------------


def forever() -> None:
    while True:
        pass


def test_what_takes_too_long_is_asked_to_stop_and_then_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "POLITE", 0.05)
    with fuzz.limits(), StopRequest() as stop:
        while not stop.requested:
            pass
    monkeypatch.setattr(fuzz, "SECONDS", 0.1)
    with pytest.raises(fuzz.Hang), fuzz.limits():
        forever()


def test_memory_and_what_is_touched_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "MEGABYTES", 30)
    with pytest.raises(AssertionError, match="MB of memory"), fuzz.limits():
        np.ones(8 * 2**20)
    with fuzz.limits(), pytest.raises(MemoryError):
        np.ones(2**33)
    (tmp_path / "read").touch()
    with fuzz.touched() as touched:
        (tmp_path / "written").write_text((tmp_path / "read").read_text())
        (tmp_path / "written").rename(tmp_path / "renamed")
    made = [(Path(path).name, written) for path, written in touched if path.startswith(str(tmp_path))]
    assert made == [("read", False), ("written", True), ("written", True), ("renamed", True)]


@pytest.mark.parametrize(
    "call", [lambda: [][0], lambda: sys.exit(1), lambda: (_ for _ in ()).throw(ConfigError("x" * 10_000))]
)
def test_tracebacks_and_endless_complaints_are_no_refusals(call: Callable[[], Any]) -> None:
    with pytest.raises((IndexError, AssertionError)):
        fuzz.refused(call)
    assert fuzz.refused(lambda: 1) == 1


# ---- architectures -----------------------------------------------------------------------------------------------------

SPACES: tuple[Space, ...] = (
    RecurrentSpace(3),
    RecurrentSpace(2, input_function="tanh"),
    MacroSpace(3),
    MicroSpace(2),
    MicroSpace(1, one_cell=True),
    GraphSpace(),
)
ARCHITECTURES: tuple[Architecture, ...] = tuple(
    space.architecture(
        [decision_number % len(d.options) for decision_number, d in enumerate(space.decisions)]
    )
    for space in SPACES
)
WRITTEN = (
    *(str(architecture) for architecture in ARCHITECTURES),
    *(
        "0 0 0 1 1 2 1 2 0",
        "0 1 1 0",
        "[1]\n[2 0]\n[3 1 0]",
        "1 2 0 3 1 0",
        "macro: 0 3 0",
        "cell: identity(0)+identity(1)",
    ),
    *("0 1 1 2 0 1 1 2", "micro: 0 1 1 2 0 1 1 2"),
)
WORDS = st.one_of(
    st.sampled_from(
        (
            *(
                "tanh",
                "relu",
                "identity",
                "sigmoid",
                "conv3x3",
                "sep5x5",
                "avg3x3",
                "max3x3",
                "normal:",
                "reduction:",
                "cell:",
            ),
            *(
                "macro:",
                "micro:",
                "recurrent:",
                "graph:",
                "gcn(0)",
                "|",
                "+",
                ";",
                "(",
                ")",
                "(0)",
                "(1)",
                "(0,1)",
                "(9)",
                "(",
            ),
            *(
                "0",
                "1",
                "2",
                "5",
                "[1]",
                "\n",
                ",",
                "tanh(0)",
                "tanh(1)",
                "sep5x5(0)",
                "identity(0)+identity(1)",
            ),
        )
    ),
    ODD,
)


@st.composite
def architecture_texts(draw: st.DrawFn) -> str:
    """Strings in the notations of the spaces, and what typing, pasting and malice make of them."""
    how = draw(st.sampled_from(("words", "changed", "changed", "repeated", "characters", "odd")))
    if how == "odd":
        return draw(ODD)
    if how == "words":
        return draw(st.sampled_from((" ", "", "\n"))).join(draw(st.lists(WORDS, max_size=8)))
    text = draw(st.sampled_from(WRITTEN))
    if how == "repeated":
        return " ".join(
            [draw(WORDS if draw(st.booleans()) else st.just(text))]
            * draw(st.sampled_from((2, 50, 1000, 3000)))
        )
    if how == "characters":
        place = draw(st.integers(0, len(text)))
        return text[:place] + draw(st.text(max_size=3)) + text[place + draw(st.integers(0, 3)) :]
    words = text.split(" ")
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(words)))
        words[place : place + draw(st.integers(0, 2))] = draw(st.lists(WORDS, max_size=2))
    return " ".join(words)


def whole(architecture: Architecture) -> None:
    """An architecture that was read is one: it can be written, and read again as the same."""
    again = fuzz.refused(lambda: architecture_from_json(json.loads(json.dumps(architecture.to_json()))))
    assert again == architecture
    assert fuzz.refused(lambda: architecture.space.parse(str(architecture))) == architecture


@fuzz.examples(100)
@given(architecture_texts(), st.sampled_from(SPACES))
def test_any_architecture_string_is_read_or_refused(text: str, space: Space) -> None:
    with fuzz.trying((text, space)):
        read = fuzz.refused(lambda: space.parse(text))
        if read is not None:
            whole(read)
        if not text.startswith("-"):
            fuzz.enas("show", text)


@st.composite
def architecture_files(draw: st.DrawFn) -> bytes:
    """Files of architectures: odd ones, and sizes that would take all memory."""
    record = draw(st.sampled_from(ARCHITECTURES)).to_json()
    sizes = [key for key in ("nodes", "layers") if key in record["space"]]
    if sizes and draw(st.integers(0, 4)) == 0:
        size = draw(st.sampled_from((0, -1, 3, 6000, 10**6, 10**9, 10**20, 2.0, True, "3", None, [3])))
        record["space"] = {**record["space"], sizes[0]: size}
        return json.dumps(record).encode()
    data = draw(fuzz.json_bytes(record))
    return draw(fuzz.damaged(data)) if draw(st.integers(0, 4)) == 0 else data


@fuzz.examples(80)
@given(data=architecture_files(), form=st.sampled_from(("", "--json", "--svg", "--png")))
def test_any_architecture_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, form: str
) -> None:
    folder = folder_of(tmp_path_factory, "architectures")
    (folder / "architecture.json").write_bytes(data)
    more = {"": [], "--json": ["--json"]}.get(form, [form, str(folder / f"picture.{form[2:]}")])
    with fuzz.trying((data, form)):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(data)
            read = fuzz.refused(lambda: architecture_from_json(value))
            if read is not None:
                whole(read)
        fuzz.enas("show", str(folder / "architecture.json"), *more)


def folder_of(factory: pytest.TempPathFactory, name: str) -> Path:
    """One folder for all examples of a test, empty."""
    folder = factory.getbasetemp() / f"fuzz-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


# ---- run folders -------------------------------------------------------------------------------------------------------

STAGES = ("search", "derive", "retrain", "test")
COMPARE = ("compare", "--seeds=2", "--samples=2", "--epochs=1")


@dataclass
class Template:
    """A run as it was after each stage, `compare` counting as the last, and what came out."""

    folder: Path
    """Holds run folders called by the stages."""
    outcome: dict[str, Any]
    """The content of the files that say what came out."""
    data: Path
    """What the run reads from outside."""


OUTCOMES = ("architecture.json", "comparison.json")


def outcome(run: Path) -> dict[str, Any]:
    """What came out of a run, network by network."""
    return {name: tiny.without_times(run / name) for name in OUTCOMES if (run / name).exists()}


@pytest.fixture(scope="module", params=("recurrent", "micro") if fuzz.EXAMPLES else ("recurrent",))
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """All records there are, made within the process as `compare` also does here."""
    folder = tmp_path_factory.mktemp("templates")
    data = tiny.write_text(folder / "text")
    flags = tiny.flags(data) if request.param == "recurrent" else tiny.image_flags("micro")
    run = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())
        patch.chdir(folder)
        for stage in (*STAGES, COMPARE[0]):
            begins = ["search", f"{request.param}-quick", *flags, "--run", str(run)]
            goes_on = [*COMPARE[:1], str(run), *COMPARE[1:]] if stage == COMPARE[0] else [stage, str(run)]
            assert cli.main(begins if stage == "search" else goes_on) == 0
            shutil.copytree(run, folder / stage)
        shutil.rmtree(run)
        yield Template(folder, outcome(folder / "test"), data)


class Damage(NamedTuple):
    """What is done to a file of a run folder."""

    file: str
    how: str
    content: Any = None
    """The bytes that it is replaced by, or the name of another file that it is."""

    @property
    def physical(self) -> bool:
        """Whether it is an accident that says nothing other than before, only less or nonsense: not another value."""
        return self.how in ("delete", "empty") or (
            self.how == "damage" and not self.file.endswith((".json", ".jsonl"))
        )


@st.composite
def damages(draw: st.DrawFn, run: Path) -> Damage:
    """One odd file of a run."""
    files = sorted(
        str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name[0] != "."
    )
    names = sorted({kind_of(file) for file in files})
    name = draw(st.sampled_from(names))  # so that rare kinds of files have their turn
    file = draw(st.sampled_from([file for file in files if kind_of(file) == name]))
    data = (run / file).read_bytes()
    how = draw(
        st.sampled_from(
            ("delete", "empty", "damage", "record", "record", "record", "other", "folder", "link")
        )
    )
    if how == "damage":
        return Damage(file, how, draw(fuzz.damaged(data)))
    if how == "other":
        return Damage(
            file,
            how,
            draw(st.sampled_from([other for other in files if Path(other).suffix == Path(file).suffix])),
        )
    if how == "record":
        return Damage(file, how, draw(records(file, data)))
    return Damage(file, how)


def kind_of(file: str) -> str:
    """Files of one kind are equal in this: `step-00000024.pt` of the search, `retrain/…/result.json`."""
    top = Path(file).parts[0] if len(Path(file).parts) > 1 else ""
    return f"{top} {Path(file).name if Path(file).suffix != '.pt' else '.pt'}"


@st.composite
def records(draw: st.DrawFn, file: str, data: bytes) -> bytes:
    """The same kind of file, its values changed."""
    suffix = Path(file).suffix
    if suffix == ".json":
        record = json.loads(data)
        if (names := [place for place in fuzz.places(record) if place[-1:] == ("id",)]) and draw(
            st.booleans()
        ):
            named = record
            *parents, last = draw(st.sampled_from(names))
            for key in parents:
                named = named[key]
            there = f"../../retrain/retrain/{Path(file).parent.name}"  # of a template, which is not in the run folder
            named[last] = draw(st.sampled_from((there, "../../x", "../x", "..", "", "/", "a/b", "\0")))
            return json.dumps(record).encode()
        return draw(fuzz.json_bytes(record))
    if suffix == ".jsonl":
        lines = data.splitlines() or [b"{}"]
        place = draw(st.integers(0, len(lines) - 1))
        some = draw(st.sampled_from(("odd", "odd", "drop", "double", "blank", "cut")))
        new = {
            "odd": [draw(fuzz.json_bytes(json.loads(lines[place])))],
            "double": lines[place : place + 1] * 2,
            "blank": [b""],
        }
        lines[place : None if some == "cut" else place + 1] = new.get(some, [])
        return b"\n".join([*lines, b""])
    if suffix == ".safetensors":
        return draw(tensor_files(data))
    if suffix == ".pt":
        state = torch.load(io.BytesIO(data), weights_only=True)
        file_like = io.BytesIO()
        torch.save(draw(states(state)), file_like)
        return file_like.getvalue()
    return draw(fuzz.damaged(data))


@st.composite
def tensor_files(draw: st.DrawFn, data: bytes) -> bytes:
    """Weights of other names, shapes, types and values; headers that lie."""
    if draw(st.booleans()):
        size = struct.unpack("<Q", data[:8])[0]
        header = draw(fuzz.json_bytes(json.loads(data[8 : 8 + size])))
        length = draw(st.sampled_from((len(header), 0, 2**40, 2**63, len(header) + 1)))
        return struct.pack("<Q", length) + header + data[8 + size :]
    tensors = safetensors.torch.load(data)
    name = draw(st.sampled_from(sorted(tensors)))
    odd = draw(odd_tensors(tensors[name]))
    if odd is None:
        del tensors[name]
    else:
        tensors[name] = odd
    return safetensors.torch.save(tensors)


@st.composite
def odd_tensors(draw: st.DrawFn, tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor in the place of this one; None for none."""
    made: dict[str, Callable[[], torch.Tensor | None]] = {
        "none": lambda: None,
        "nan": lambda: torch.full_like(tensor, 0 if tensor.dtype.is_floating_point is False else math.nan),
        "empty": lambda: tensor.new_empty(0),
        "scalar": lambda: tensor.new_zeros(()),
        "longer": lambda: torch.cat([tensor.flatten(), tensor.flatten(), tensor.new_zeros(1)]),
        "other type": lambda: tensor.to(torch.int64 if tensor.dtype.is_floating_point else torch.float64),
        "half": lambda: tensor.to(torch.float16),
    }
    return made[draw(st.sampled_from(sorted(made)))]()


@st.composite
def states(draw: st.DrawFn, state: Any) -> Any:
    """A checkpoint with one part replaced or taken out."""
    if isinstance(state, dict) and state and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(list(state)))
        changed = dict(state)
        if draw(st.integers(0, 3)) == 0:
            del changed[key]
        else:
            changed[key] = draw(states(state[key]))
        return changed
    if isinstance(state, list | tuple) and state and draw(st.integers(0, 5)):
        index = draw(st.integers(0, len(state) - 1))
        return type(state)([*state[:index], draw(states(state[index])), *state[index + 1 :]])
    if isinstance(state, torch.Tensor) and draw(st.integers(0, 4)):
        return draw(odd_tensors(state))
    return draw(
        st.sampled_from(
            (None, 0, -1, 7, 1.5, True, "", "x", 10**12, math.nan, (), [], {}, {"a": 1}, torch.zeros(2))
        )
    )


def apply(damage: Damage, run: Path, outside: Path) -> None:
    """Do the damage."""
    path = run / damage.file
    if damage.how == "other":
        data = (run / damage.content).read_bytes()
    path.unlink()
    if damage.how == "folder":
        path.mkdir()
    elif damage.how == "link":
        path.symlink_to(outside)  # which does not exist
    elif damage.how != "delete":
        path.write_bytes(data if damage.how == "other" else damage.content or b"")


COMMANDS = {
    "search": ("derive", "derive", "resume", "compare"),
    "derive": ("retrain", "retrain", "derive", "show"),
    "retrain": ("test", "test", "test", "retrain"),
    "test": ("test", "test", "show", "compare", "report"),
    "compare": ("compare", "compare", "test", "resume", "report", "report"),
}
"""What is tried after each stage, mostly what reads most of what there is."""


@fuzz.examples(25)
@given(data=st.data())
def test_any_run_folder_goes_on_or_is_refused(template: Template, data: st.DataObject) -> None:
    stage = data.draw(st.sampled_from((*STAGES, COMPARE[0])))
    command = data.draw(st.sampled_from(COMMANDS[stage]))
    done = [data.draw(damages(template.folder / stage)) for _ in range(data.draw(st.sampled_from((1, 1, 2))))]
    run = template.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(template.folder / stage, run)
    with fuzz.trying((stage, command, done)):
        for damage in done:
            with contextlib.suppress(
                FileNotFoundError, IsADirectoryError
            ):  # of two, the first may have taken it
                apply(damage, run, template.folder / "outside")
        argv = [command, str(run), *(COMPARE[1:] if command == "compare" else ())]
        with fuzz.touched() as touched:
            ended = fuzz.enas(*argv, stopped=True)
        inside(template, run, touched, reads=all(damage.file != "config.json" for damage in done))
        if all(damage.physical for damage in done) and ended.code == 0:
            same_outcome(template.outcome, run, {damage.file for damage in done})


def inside(template: Template, run: Path, touched: list[fuzz.Touched], *, reads: bool) -> None:
    """Nothing beside the run folder was written, nor read but the data; with its settings changed, others may be."""
    for path, written in touched:
        full = Path(os.path.abspath(path))  # the working folder is that of the template
        if not full.is_relative_to(template.folder) or full.is_relative_to(run) or run.is_relative_to(full):
            continue
        assert not written, f"{path} was written"
        assert full.is_relative_to(template.data) or not reads, f"{path} was read"


def same_outcome(expected: dict[str, Any], run: Path, damaged: set[str]) -> None:
    """A run that lost something, and went on without complaint, came to nothing else than it would have without."""
    for name in damaged & set(OUTCOMES):
        with contextlib.suppress(OSError):
            if not (run / name).read_bytes().endswith(b"}\n") and not (run / name).read_bytes().endswith(
                b"]\n"
            ):
                (run / name).unlink()  # nothing needed it, or wrote it again
    found = outcome(run)
    if "architecture.json" in found:
        assert found["architecture.json"] == expected["architecture.json"]
    for row in found.get("comparison.json", []):
        assert row in expected["comparison.json"]


# ---- flags -------------------------------------------------------------------------------------------------------------

FLAGS = {name: ("--run", "--controller", "--budget", *flag_names(recipe(name))) for name in RECIPES}
OTHER_COMMANDS = {
    "rank": ("runs/none", "--architectures", "--repeats", "--epochs", "--workers", "--json"),
    "compare": ("runs/none", "--seeds", "--samples", "--rivals", "--epochs", "--workers", "--json"),
    "ensemble": ("runs/none", "--samples", "--split", "--json"),
    "table": (
        "show",
        "build",
        "score",
        "--run",
        "--file",
        "--first",
        "--workers",
        "--methods",
        "--seeds",
        "--json",
    ),
    "ablate": ("recurrent-quick", "micro-quick", "--variant", "--seeds", "--run", "no-skips"),
    "benchmark": ("nas-bench-graph", "--controllers", "--seeds", "--evaluations", "--json"),
    "show": ("tanh", "--svg", "--png", "--json"),
    "retrain": ("recurrent-quick", "macro-quick", "--architecture", "tanh tanh(1)", "--run"),
    "report": ("runs/none", "--page", "--pictures"),
    "gate": ("runs/none", "runs/other", "--lower-is-better", "--json"),
    "recipes": ("--json",),
    "doctor": ("--json",),
    "resume": (),
    "derive": (),
    "test": (),
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with flags that exist, and values that do not make sense."""
    if draw(st.integers(0, 3)) == 0:
        command = draw(st.sampled_from(sorted(OTHER_COMMANDS)) | ODD)
        words = st.sampled_from((*OTHER_COMMANDS.get(command, ()), "--json")) | ODD
        return [command, *draw(st.lists(words, max_size=5))]
    name = draw(st.sampled_from(sorted(RECIPES)))
    line = [draw(st.sampled_from(("run", "search", "retrain"))), name]
    for flag in draw(st.lists(st.sampled_from(FLAGS[name]), min_size=1, max_size=2)):
        value = draw(ODD | st.sampled_from(fuzz.ODD_NUMBERS))
        line += draw(st.sampled_from(([flag, value], [f"{flag}={value}"], [flag], [flag, value, value])))
    return line


@fuzz.examples(60)
@given(command_lines())
def test_any_command_line_is_understood_or_refused(line: list[str]) -> None:
    with fuzz.trying(line):
        fuzz.refused(lambda: cli.parse(line))


SMALL = ("recurrent-quick", "macro-quick", "micro-quick")


@st.composite
def small_runs(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """A recipe's tiny run, and a setting or two with values that cost nothing."""
    name = draw(st.sampled_from(SMALL))
    free = [
        flag
        for flag in FLAGS[name]
        if flag not in ("--run", "--controller", "--data.source", "--data.folder")
    ]
    changed = draw(st.lists(st.sampled_from(free), min_size=1, max_size=2))
    return name, {flag: draw(st.sampled_from(fuzz.ODD_NUMBERS)) for flag in changed}


@pytest.fixture(scope="module")
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Kernels are compiled and loaded, which may take a minute."""
    for space in ("macro", "micro"):
        folder = tmp_path_factory.mktemp("warm") / "run"
        assert cli.main(["run", f"{space}-quick", *tiny.image_flags(space), "--run", str(folder)]) == 0


@pytest.mark.usefixtures("_warm")
@fuzz.examples(10)
@given(small_runs())
def test_any_value_of_a_setting_makes_a_run_or_none(
    tmp_path_factory: pytest.TempPathFactory, run: tuple[str, dict[str, str]]
) -> None:
    folder = folder_of(tmp_path_factory, "flags")
    name, changed = run
    more = [word for pair in changed.items() for word in pair]
    space = name.partition("-")[0]
    text = tiny.write_text(folder / "text")
    flags = tiny.flags(text, *more) if space == "recurrent" else tiny.image_flags(space, *more)
    with fuzz.trying(run):
        ended = fuzz.enas("run", name, *flags, "--run", str(folder / "run"), stopped=True)
        begun = (folder / "run" / "config.json").exists()
        assert begun or ended.code == 2
        if begun:
            diverged = " stopped in " in ended.stderr  # so says a search or training whose loss is not finite
            assert ended.code in (0, EXIT_STOPPED) or diverged, (
                f"refused after it began: {ended.stderr[-500:]}"
            )


# ---- data --------------------------------------------------------------------------------------------------------------

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "I;16",
    "F",
    "PA",
    "RGBX",
    "La",
    "RGBa",
)
FORMATS = (
    "png",
    "jpg",
    "gif",
    "bmp",
    "tiff",
    "webp",
    "ppm",
    "ico",
    "tga",
    "jp2",
    "pcx",
    "dds",
    "sgi",
    "im",
    "eps",
    "pdf",
)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[str, bytes]:
    """The suffix and bytes of a picture, odd in its mode, size, metadata or bytes."""
    width, height = draw(st.sampled_from(((8, 8), (8, 8), (1, 1), (1, 3000), (9, 8), (17, 5))))
    picture = Image.new(draw(st.sampled_from(MODES)), (width, height))
    suffix = draw(st.sampled_from(FORMATS))
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["exif"] = draw(exif_blocks())
    if draw(st.integers(0, 3)) == 0:
        options["transparency"] = draw(st.sampled_from((0, 300, b"\0", b"\0\1\2", (1, 2, 3))))
    if draw(st.integers(0, 5)) == 0:
        options |= {"save_all": True, "append_images": [picture.copy()]}
    file = io.BytesIO()
    try:
        picture.save(file, Image.registered_extensions()[f".{suffix}"], **options)
        data = file.getvalue()
    except Exception:  # Pillow cannot write this, and says so by any kind of error
        data = draw(st.binary(max_size=60))
    if draw(st.integers(0, 2)) == 0:
        data = draw(fuzz.damaged(data))
    if suffix == "png" and draw(st.integers(0, 7)) == 0:
        data = huge_png(
            *draw(st.sampled_from(((60_000, 60_000), (12_000, 12_000), (2**31 - 1, 1), (0, 0), (1, 2**31))))
        )
    return draw(st.sampled_from((suffix, suffix, "png", "jpg", "PNG", "txt", "heic", "avif"))), data


@st.composite
def exif_blocks(draw: st.DrawFn) -> bytes:
    """What cameras write, and what they do not."""
    exif = Image.Exif()
    exif[0x0112] = draw(st.sampled_from((0, 1, 3, 6, 8, 9, 65535)))
    block = exif.tobytes()
    how = draw(st.sampled_from(("as it is", "damaged", "random", "types")))
    if how == "damaged":
        return block[:6] + draw(fuzz.damaged(block[6:]))
    if how == "random":
        return (
            b"Exif\0\0"
            + draw(st.sampled_from((b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0", b"")))
            + draw(st.binary(max_size=60))
        )
    if how == "types":  # an entry of another type and count than an orientation has
        kind, count = draw(st.integers(0, 20)), draw(st.sampled_from((0, 1, 2, 5, 2**16, 2**32 - 1)))
        entry = struct.pack(">HHLL", 0x0112, kind, count, draw(st.integers(0, 2**32 - 1)))
        return (
            b"Exif\0\0MM\0*\0\0\0\x08"
            + struct.pack(">H", draw(st.sampled_from((1, 2, 1000))))
            + entry
            + b"\0\0\0\0"
        )
    return block


def huge_png(width: int, height: int) -> bytes:
    """A few bytes that say that they are a large picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


NAMES = st.sampled_from(
    (
        "a",
        "b",
        "train",
        "test",
        "val",
        "valid",
        "Validation",
        ".hidden",
        "__MACOSX",
        "é",
        "\udcff",
        "a\nb",
        " ",
        "x" * 200,
    )
)


@fuzz.examples(120)
@given(
    files=st.lists(st.tuples(st.lists(NAMES, max_size=3), pictures()), min_size=1, max_size=5),
    size=st.sampled_from((None, 8, 8, 1, 0, -1, 1_000_000)),
    whole_classes=st.booleans(),
    more=st.sampled_from(((), ("folder",), ("loop",), ("pipe",), ("text",))),
)
def test_any_folder_of_pictures_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[str], tuple[str, bytes]]],
    size: int | None,
    whole_classes: bool,
    more: tuple[str, ...],
) -> None:
    folder = folder_of(tmp_path_factory, "pictures")
    if whole_classes:
        for number in range(16):
            path = folder / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (8, 8), number * 3).save(path)
    for number, (folders, (suffix, data)) in enumerate(files):
        path = folder.joinpath(*folders, f"odd{number}.{suffix}")
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    strange = folder / "a" / "strange.png"
    strange.parent.mkdir(exist_ok=True)
    for kind in more:
        if kind == "folder":
            strange.mkdir()
        elif kind == "loop":
            strange.symlink_to(folder, target_is_directory=True)
        elif kind == "pipe":
            os.mkfifo(strange)
        else:
            strange.write_text("no picture")
    with fuzz.trying((files, size, whole_classes, more)):
        read = fuzz.refused(
            lambda: load_images(ImageConfig(source=str(folder), size=size, allow_overlap=True))
        )
        assert read is None or str(read)


NUMPY_TYPES = (
    "u1",
    "i1",
    "u2",
    "i8",
    "f2",
    "f4",
    "f8",
    "?",
    "c8",
    "S3",
    "U2",
    "M8[s]",
    "V4",
    ">u2",
    "O",
    "u1,f4",
)
ARRAYS = (
    "x_train",
    "y_train",
    "x_test",
    "y_test",
    "images",
    "labels",
    "X_TRAIN",
    "x_val",
    "y_val",
    "train_images",
    "",
    "a/b",
)
SHAPES = (
    (12, 8, 8),
    (12, 8, 8, 3),
    (12, 3, 8, 8),
    (12, 3, 3, 3),
    (0, 8, 8),
    (12,),
    (12, 1),
    (),
    (12, 0, 0),
    (1, 1, 1, 1, 1),
)


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """One array as numpy writes it: any type and shape, and headers that promise more than there is."""
    shape, kind = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(("u1", "u1", "i8", *NUMPY_TYPES)))
    count = math.prod(shape)
    values = (np.arange(count) % draw(st.sampled_from((1, 2, 3, 200)))).astype("u1")
    file = io.BytesIO()
    if draw(st.integers(0, 4)) == 0:
        promised = draw(
            st.sampled_from(((2**36,), (2**63,), (-1,), (10**6, 10**6), (2**20, 2**20, 0), (3, 2**62)))
        )
        header = {
            "descr": draw(st.sampled_from(("|u1", "<f8", "|O", "<U1000"))),
            "fortran_order": False,
            "shape": promised,
        }
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue() + bytes(100)
    if kind in ("S3", "U2") and draw(st.booleans()):
        odd = np.array(
            [draw(st.text(max_size=2)).encode("utf-8", "replace") for _ in range(min(count, 12))] or [b""]
        )
        array: Any = odd if kind == "S3" else np.array([str(value) for value in values.tolist()] or [""])
    elif kind == "u1,f4":
        array = np.zeros(shape, kind)
    elif kind == "V4":
        array = np.zeros(shape, "V4")
    elif kind == "M8[s]":
        array = values.astype("i8").astype(kind).reshape(shape)
    else:
        array = values.astype(kind).reshape(shape)
        if kind in ("f2", "f4", "f8") and array.size and draw(st.booleans()):
            array = array * draw(st.sampled_from((np.nan, np.inf, 1 / 255, -1, 1e30)))
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    data = file.getvalue()
    return draw(fuzz.damaged(data)) if draw(st.integers(0, 5)) == 0 else data


def bomb(megabytes: int) -> bytes:
    """A compressed entry of zeros: the same compressed block over and over, which takes no time to make."""
    packer = zlib.compressobj(wbits=-15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + packer.flush()


@st.composite
def array_files(draw: st.DrawFn) -> bytes:
    """The bytes of an .npz file."""
    names = draw(
        st.sampled_from((("images", "labels"), ("x_train", "y_train", "x_test", "y_test")))
        | st.lists(st.sampled_from(ARRAYS), max_size=5, unique=True)
    )
    file = io.BytesIO()
    usual = draw(st.booleans())
    with zipfile.ZipFile(
        file, "w", draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    ) as archive:
        for name in names:
            content = plain_array(name) if usual and draw(st.booleans()) else draw(arrays())
            suffix = draw(st.sampled_from((".npy", ".npy", ".npy", "", ".txt")))
            archive.writestr(f"{name}{suffix}" or "/", content)
    data = file.getvalue()
    how = draw(st.sampled_from(("whole", "whole", "damaged", "flags", "bomb", "bare")))
    if how == "bare":
        return draw(arrays())
    if how == "damaged":
        return draw(fuzz.damaged(data))
    if how == "flags" and names:
        changed = bytearray(data)
        for start in (data.find(b"PK\1\2"), data.find(b"PK\3\4")):
            offset = draw(st.integers(4, 12))
            changed[start + offset] = draw(st.integers(0, 255))
        return bytes(changed)
    return bombed() if how == "bomb" else data


def plain_array(name: str) -> bytes:
    """Nothing is odd about this one."""
    file = io.BytesIO()
    labels = name.lower().startswith(("y", "labels"))
    array = np.arange(30) % 2 if labels else (np.arange(30 * 64) % 251).astype("u1").reshape(30, 8, 8)
    np.lib.format.write_array(file, array)
    return file.getvalue()


def bombed(megabytes: int = 700) -> bytes:
    """A file of a megabyte with an array of zeros that is far larger."""
    header = io.BytesIO()
    shape = (megabytes * 2**20 // 64, 8, 8)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    start = zlib.compressobj(wbits=-15)
    body = start.compress(header.getvalue()) + start.flush(zlib.Z_FULL_FLUSH) + bomb(megabytes)
    size, name = len(header.getvalue()) + megabytes * 2**20, b"images.npy"
    common = struct.pack("<HHHHHLLL", 20, 0, 8, 0, 0, 0, len(body), size)
    local = b"PK\3\4" + common + struct.pack("<HH", len(name), 0) + name + body
    entry = (
        b"PK\1\2"
        + struct.pack("<H", 20)
        + common
        + struct.pack("<HHHHHLL", len(name), 0, 0, 0, 0, 0, 0)
        + name
    )
    return local + entry + b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(entry), len(local), 0)


@fuzz.examples(80)
@given(data=array_files(), suffix=st.sampled_from((".npz", ".npz", ".npz", ".NPZ", ".npy")))
def test_any_file_of_arrays_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = folder_of(tmp_path_factory, "arrays") / f"images{suffix}"
    path.write_bytes(data)
    with fuzz.trying((data, suffix)):
        read = fuzz.refused(lambda: load_images(ImageConfig(source=str(path), allow_overlap=True)))
        assert read is None or str(read)


TEXTS = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(
        st.sampled_from(
            ("the", "cat", "<unk>", "<eos>", "\n", "\r", "\x00", "\ufeff", "\u00a0", "\u2028", "x" * 10_000)
        )
    ).map(lambda words: " ".join(words).encode()),
    st.sampled_from(("a b c\n" * 400, "a\n" * 2000, "\n" * 2000, "a " * 3000, "")).map(str.encode),
    st.sampled_from(("utf-16", "utf-32", "latin-1", "utf-8-sig", "cp1252")).map("é a b\n".encode),
)


@fuzz.examples(120)
@given(
    splits=st.dictionaries(
        st.sampled_from(("train", "valid", "test", "val", "validation", "Train")), TEXTS, max_size=4
    ),
    usual=st.sampled_from(((), ("valid", "test"), ("train", "valid"), ("train", "valid", "test"))),
    suffix=st.sampled_from((".txt", ".txt", ".txt", ".tokens", ".TXT", "")),
    limits=st.sampled_from(((None, None), (3, None), (2, 5), (0, 0), (-1, -1), (None, 1), (10**12, 10**12))),
    strange=st.sampled_from(("", "", "folder", "loop")),
)
def test_any_folder_of_texts_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    splits: dict[str, bytes],
    usual: tuple[str, ...],
    suffix: str,
    limits: tuple[int | None, int | None],
    strange: str,
) -> None:
    folder = folder_of(tmp_path_factory, "texts")
    for split in usual:
        (folder / f"{split}.txt").write_text("the cat saw the dog\n" * 40)
    for split, data in splits.items():
        (folder / f"{split}{suffix}").write_bytes(data)
    path = folder / "train.txt"
    if strange:
        path.unlink(missing_ok=True)
        path.mkdir() if strange == "folder" else path.symlink_to(path)
    settings = {"source": str(folder), "max_vocabulary": limits[0], "max_train_tokens": limits[1]}
    with fuzz.trying((splits, usual, suffix, limits, strange)):
        read = fuzz.refused(lambda: load_text(TextConfig(**settings)))
        assert read is None or str(read)
