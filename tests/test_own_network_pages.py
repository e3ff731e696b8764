"""The pages on a network of one's own: every block of code runs, in its order, and prints what its comments say.

A block with a title is a file. A comment is a line that the block prints. The last one may be the error that it raises, or
how that begins. The commands run at a small size.
"""

import contextlib
import functools
import importlib
import io
import re
import shlex
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import enas
from enas import errors
from enas.cli import main
from enas.executors.local import LocalExecutor
from enas.runtime.files import read_json
from tests.test_documentation import COMMAND_LANGUAGES, FENCE
from tests.test_examples import FLAGS, SMALL
from tests.test_trainings import InThisProcess

DOCS = Path(__file__).resolve().parent.parent / "docs"
FOUND = "first=conv3 second=conv5 skip.0=yes skip.1=yes skip.2=yes third=layer third.layer=conv5"
"""The architecture that the page shows; the small search of the test finds another one."""
ERROR = re.compile(r"(?P<kind>\w+Error): (?P<said>.*)")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str


def blocks(page: str) -> list[Block]:
    found = []
    for fence in FENCE.finditer((DOCS / page).read_text(encoding="utf-8")):
        title = re.search(r'title="([^"]+)"', fence[0].partition("\n")[0])
        found.append(Block(fence["language"], title and title[1], fence["body"]))
    return found


def comments(code: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [token.string.removeprefix("# ") for token in tokens if token.type == tokenize.COMMENT]


def check(code: str, names: dict[str, object]) -> None:
    """Run a block; what it defines is added to the names."""
    printed, expected = io.StringIO(), comments(code)
    error = ERROR.fullmatch(expected[-1]) if expected else None
    with contextlib.redirect_stdout(printed):
        if error is None:
            exec(compile(code, "block", "exec"), names)
        else:
            expected.pop()
            with pytest.raises(getattr(errors, error["kind"])) as raised:
                exec(compile(code, "block", "exec"), names)
            assert str(raised.value).startswith(error["said"])
    assert printed.getvalue().splitlines() == expected


def test_a_block_that_prints_something_else_is_noticed() -> None:
    check("print(1 + 1)  # 2", {})
    with pytest.raises(AssertionError):
        check("print(1 + 1)  # 3", {})
    with pytest.raises(pytest.fail.Exception):
        check("1 + 1\n# ConfigError: no", {})


class Columns(list[dict[str, torch.Tensor]]):
    """Examples by their number, with the one method of a data set of Hugging Face that the page calls."""

    def with_format(self, kind: str) -> "Columns":
        assert kind == "torch"
        return self


def test_the_page_on_choices_is_right() -> None:
    columns = Columns([{"x": torch.zeros(4), "labels": torch.tensor(1)}] * 64)
    names: dict[str, object] = {"__name__": "page", "dataset": {"train": columns, "validation": columns}}
    found = blocks("choices.md")
    for block in found:
        assert (block.language, block.title) == ("python", None)
        check(block.text, names)
    assert len(found) >= 15
    task = names["task"]
    assert isinstance(task, enas.Task)
    assert task.training_source.length == 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, from which modules are imported too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
def test_the_ten_minutes_lead_to_a_verdict(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = {"show": [], "run": FLAGS, "compare": ["--seeds", "2", "--samples", "4", "--workers", "1"]}
    called: list[str] = []
    shown: dict[str, str] = {}

    def small(name: str, **settings: object) -> None:
        real = getattr(enas, name)

        @functools.wraps(real)
        def call(*args: object, **given: object) -> object:
            called.append(name)
            return real(*args, **{**given, **settings})

        monkeypatch.setattr(enas, name, call)

    small("search", **{"epochs": 1, **{key: value for key, value in SMALL.items() if key != "search.epochs"}})
    small("train", random=1)
    small("compare", seeds=2, samples=4, rivals="none", workers=1)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks("own_network.md"):
        if block.title is not None:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and "enas.compare" in block.text:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block.text, "block", "exec"), names)
            assert "sampling" in printed.getvalue()
        elif block.language == "python":
            found = folder / "runs" / "mine" / "architecture.json"
            check(block.text.replace(FOUND, read_json(found)["text"] if found.exists() else FOUND), names)
        elif block.language == "sh":
            _, command, *words = shlex.split(block.text)
            called.append(command)
            line = [command, *words, *smaller[command]]  # of two, the last holds
            with contextlib.redirect_stdout(io.StringIO()) as printed, monkeypatch.context() as here:
                here.setattr(LocalExecutor, "for_run", lambda config, workers: InThisProcess())
                assert main(line) == 0
            shown[command] = printed.getvalue()
        elif "├─" in block.text:
            assert block.text.rstrip().endswith(FOUND)
        elif block.text.startswith("7 decisions"):
            assert shown["show"].startswith(block.text)
    assert called == ["show", "run", "compare", "search", "train", "compare"]
    assert (folder / "runs" / "mine" / "compare" / "comparison.json").exists()
    assert importlib.import_module("plain").Net()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_the_space_of_the_page_takes_40_lines() -> None:
    mine = next(block.text for block in blocks("own_network.md") if block.title == "mine.py")
    network = mine[mine.index("def convolution") : mine.index("def loss")]
    assert len([line for line in network.splitlines() if line.strip()]) <= 40


def test_every_block_of_a_shell_on_these_pages_is_one_command() -> None:
    shell = [block for block in blocks("own_network.md") if block.language in COMMAND_LANGUAGES - {"text"}]
    assert [block.text.split()[:2] for block in shell] == [
        ["enas", "show"],
        ["enas", "run"],
        ["enas", "compare"],
    ]
