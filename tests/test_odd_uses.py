"""What a user may do with a network and a task of their own, and what becomes of it: no traceback, and nothing lost."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from enas import collective, retrain, search_loop
from enas.cli import main
from enas.errors import NotFiniteError
from enas.phases import Place
from enas.retrain import Network
from enas.runtime.checkpoint import CheckpointStore
from enas.shared_weights import SharedWeights
from enas.tasks.measures import checked
from tests import tiny
from tests.test_image_runs import interrupt

Begin = Callable[..., int]

FILE = '''
import os

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from enas import Choice, NetworkConfig, Task

X = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
VALID = (X[64:], Y[64:])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = Choice({"linear": nn.Linear(4, 4), "tanh": nn.Tanh(), "nothing": nn.Identity()})
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.mix(x))


class One(Net):
    def __init__(self):
        super().__init__()
        self.mix = Choice({"linear": nn.Linear(4, 4)})


class Rows(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, number):
        return X[number], Y[number]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Rows())


class Wider:
    """The third batch has other shapes."""

    def __len__(self):
        return 4

    def __iter__(self):
        for number in range(4):
            rows = slice(16 * number, 16 * number + 16)
            yield (X[rows] if number != 2 else X[rows].repeat(1, 2)), Y[rows]


def loss(scores, batch):
    return F.cross_entropy(scores, batch[1])


def accuracy(scores, batch):
    return (scores.argmax(1) == batch[1]).float().mean()


def recall_of_a_class_that_is_not_there(scores, batch):
    return ((scores.argmax(1) == 3) & (batch[1] == 3)).sum() / (batch[1] == 3).sum()


def given(train, valid=VALID, score=accuracy, **more):
    return lambda: Task(train, valid, batch=16, loss=loss, score=score, **more)


TASKS = {
    "workers": given(DataLoader(Rows(), 16, shuffle=True, num_workers=int(os.environ.get("WORKERS", "0")))),
    "wider": given(Wider()),
    "stream": given(DataLoader(Stream(), 16), DataLoader(Stream(), 16), steps=4),
    "nan": given((X[:64], Y[:64]), score=recall_of_a_class_that_is_not_there),
    "parts": given((X[:64], Y[:64]), [(*VALID, torch.ones(16))]),
    "plain": given((X[:64], Y[:64])),
}


def recipe() -> NetworkConfig:
    network = {"one": One}.get(os.environ["ODD"], Net)
    return NetworkConfig(network=network, task=TASKS.get(os.environ["ODD"], TASKS["plain"]))
'''
FLAGS = [
    *("--search.epochs=2", "--search.updates=3", "--search.proposals=3", "--search.checkpoint-every=3"),
    *("--verify.trainings=2", "--verify.rounds=1", "--verify.epochs=1"),
    *("--derive.samples=4", "--derive.shortlist=2", "--derive.shortlist-epochs=1"),
    *("--retrain.child.epochs=2", "--threads=1"),
]


@pytest.fixture(autouse=True)
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Run one of the file's tasks."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FILE)

    def begun(odd: str, folder: str = "run") -> int:
        monkeypatch.setenv("ODD", odd)
        return main(["run", "mine.py", *FLAGS, "--run", folder])

    return begun


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line that a command said."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_other_workers_of_a_loader_that_draw_nothing_change_no_bit(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begin("workers", "whole") == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, SharedWeights, "train_step", 6)
        assert begin("workers") != 0
    monkeypatch.setenv("WORKERS", "2")
    resumed = subprocess.run(
        [sys.executable, "-m", "enas", "resume", "run"], env=os.environ, capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after step" in resumed.stderr
    assert tiny.content(Path("run")) == tiny.content(Path("whole"))


def test_a_stream_of_unknown_length_is_searched_and_resumed(begin: Begin) -> None:
    assert begin("stream", "whole") == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, SharedWeights, "train_step", 6)
        assert begin("stream") != 0
    assert main(["resume", "run"]) == 0
    assert tiny.content(Path("run")) == tiny.content(Path("whole"))


def test_an_error_in_the_middle_says_where_and_keeps_what_was_done(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begin("wider") == 2
    said = capsys.readouterr().err
    line = FILE.splitlines().index("        return self.head(self.mix(x))") + 1
    assert f'mine.py", line {line}, in forward' in said
    assert "\nRuntimeError: mat1 and mat2 shapes cannot be multiplied" in said
    assert said.splitlines()[-1].startswith("enas: your own code has failed with architecture mix=")
    assert list(Path("run/checkpoints").glob("*.pt"))


def test_a_network_of_one_architecture_is_refused_before_there_is_a_folder(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begin("one") == 2
    assert "there is only one architecture in this network" in complaint(capsys)
    assert not Path("run").exists()


def test_a_batch_of_other_parts_says_what_the_network_was_called_with(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begin("parts") == 2
    assert (
        "3 were given (the network is called with all parts of a batch but the last: (Tensor, Tensor, Tensor))"
        in complaint(capsys)
    )


def test_a_score_that_is_not_finite_says_whether_the_network_is_to_blame(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begin("nan") == 2
    assert "is nan, though what the network returned is finite: look at the score itself" in complaint(capsys)
    with pytest.raises(NotFiniteError, match=r"was not trained on is inf$"):
        checked({"score": float("inf")}, None, [torch.ones(3), {"more": torch.tensor([1.0, float("nan")])}])
    checked({"score": 1.0}, None, torch.tensor(float("nan")))


@pytest.mark.parametrize("output", [1.0, math.nan])
def test_a_lower_rate_is_advised_unless_the_score_itself_is_to_blame(output: float, tmp_path: Path) -> None:
    """In a search, also where another process computed the score, and in a retraining."""
    store = CheckpointStore(tmp_path, 2, print)
    training: Any = SimpleNamespace(done=3, number=lambda place: 3)

    def refused(item: int) -> None:
        checked({"score": math.nan}, None, torch.tensor(output))

    def refuse_in_another_process() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collective, "division", lambda: (0, 2))
            patch.setattr(collective, "gathered", lambda value: [value, ([], None)])
            collective.spread([0, 1], refused)

    with pytest.raises(NotFiniteError) as search, search_loop.told_where(Place(0, "controller", 1), store):
        refused(0)
    with pytest.raises(NotFiniteError) as several, search_loop.told_where(Place(0, "controller", 1), store):
        refuse_in_another_process()
    with (
        pytest.raises(NotFiniteError) as child,
        retrain.told_where(Network("LSTM", None, 0), training, store),
    ):
        refused(0)
    rate, itself = "ower the learning rate or the clipping bound", "look at the score itself"
    for message in map(str, (search.value, several.value)):
        assert message.endswith("Search again into a new folder") is math.isfinite(output)
        assert ("a lower learning rate" in message) is math.isnan(output)
        assert (itself in message) is math.isfinite(output)
    assert (rate in str(child.value)) is math.isnan(output)
    assert (itself in str(child.value)) is math.isfinite(output)
