"""Checkpoints by time and by steps: when there is one changes no number, and a state is a few flat tensors."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enas.child_training import ChildTraining
from enas.errors import ConfigError, RunFolderError
from enas.retrain import Network, train_network
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.checkpoint import CheckpointStore, Rhythm
from enas.runtime.flat import packed, unpacked
from enas.runtime.stop import Stopped, StopRequest
from enas.search_loop import run_search
from enas.stages import Run, earlier_weights, execute, search_of
from tests import tiny


class Clock:
    """Says what time a test wants it to be, in seconds; `pace` passes whenever it is looked at."""

    def __init__(self, pace: float = 0.0) -> None:
        self.now, self.pace = 0.0, pace

    def __call__(self) -> float:
        self.now += self.pace
        return self.now


@pytest.fixture
def config(tmp_path: Path) -> RecurrentConfig:
    return tiny.config(tiny.write_text(tmp_path / "text"), "--retrain.child.epochs", "3")


# ---- when there is one -------------------------------------------------------------------------------------------------


def test_one_is_due_by_the_clock_and_at_every_multiple_of_steps(tmp_path: Path) -> None:
    clock = Clock()
    store = CheckpointStore(tmp_path, rhythm=Rhythm(minutes=5, steps=10, clock=clock))
    assert [step for step in range(1, 31) if store.due(step)] == [10, 20, 30]
    clock.now = 299.9
    assert not store.due(3)
    clock.now = 300.0
    assert store.due(3)
    store.save(3, {})
    assert not store.due(4)
    clock.now = 600.0
    assert store.due(4)
    alone = CheckpointStore(tmp_path, rhythm=Rhythm(minutes=5, clock=clock))
    assert not any(alone.due(step) for step in range(1, 1000))


def test_those_by_steps_stay_beside_the_newest(tmp_path: Path) -> None:
    for keep, kept in ((1, [40]), (2, [30, 38, 40]), (3, [20, 30, 37, 38, 40])):
        store = CheckpointStore(tmp_path / str(keep), keep=keep, rhythm=Rhythm(steps=10))
        for step in (0, 10, 13, 20, 21, 30, 34, 37, 38, 40):
            store.save(step, {})
        assert store.steps() == kept


@pytest.mark.parametrize("pace", [0.0, 7.0, 31.0, 1000.0])
def test_the_clock_changes_no_number_of_a_search(
    config: RecurrentConfig, tmp_path: Path, pace: float
) -> None:
    run = Run.create(tmp_path / "run", config, ("search",))
    saved: list[int] = []

    class Noting(CheckpointStore):
        def save(self, step: int, state: Any) -> Path:
            saved.append(step)
            return super().save(step, state)

    def searched(folder: Path, clock: Clock) -> Any:
        search, watch = search_of(replace_folder(run, folder), lambda architectures: [])
        checkpoints = Noting(folder / "c", rhythm=Rhythm(minutes=1, clock=clock))
        run_search(search, watch, checkpoints, StopRequest(), folder)
        return tiny.newest_checkpoint(folder / "c"), tiny.without_times(folder / "metrics.jsonl")

    expected = searched(tmp_path / "still", Clock())
    assert saved == [0, 24]  # its start and its end
    saved.clear()
    assert searched(tmp_path / "other", Clock(pace)) == expected
    assert len(saved) == {0.0: 2, 7.0: 4, 31.0: 13, 1000.0: 25}[pace]


def replace_folder(run: Run, folder: Path) -> Run:
    folder.mkdir()
    return replace(run, folder=folder)


@pytest.mark.parametrize("killed", [7, 13, 22, 29])
def test_a_training_that_was_killed_goes_on_from_the_last_checkpoint_by_time(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    """Its best weights are written with a checkpoint, so that both are of one moment."""
    network = Network("found", config.space.architecture([0] * len(config.space.decisions)), 0)

    def train(folder: Path, clock: Clock) -> dict[str, Any]:
        training, rhythm = config.child_training(network), Rhythm(minutes=5, clock=clock)
        return train_network(network, training, folder, rhythm, StopRequest(), folder)

    def outcome(folder: Path) -> Any:
        logs = [tiny.without_times(folder / name) for name in ("metrics.jsonl", "result.json")]
        weights = (folder / "weights.safetensors").read_bytes()
        return tiny.newest_checkpoint(folder / "checkpoints"), weights, *logs

    train(tmp_path / "whole", Clock())
    assert CheckpointStore(tmp_path / "whole" / "checkpoints").steps() == [30]
    do_step = ChildTraining.step

    def step(self: ChildTraining) -> dict[str, float]:
        if self.done == killed:
            raise KeyboardInterrupt
        return do_step(self)

    monkeypatch.setattr(ChildTraining, "step", step)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", Clock(70))
    monkeypatch.undo()
    kept = CheckpointStore(tmp_path / "killed" / "checkpoints").steps()
    assert kept[-1] == killed // 5 * 5  # every fifth look at the clock
    train(tmp_path / "killed", Clock(70))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_earlier_weights_are_those_by_steps_whatever_the_clock_says_and_wherever_the_search_was_stopped(
    config: RecurrentConfig, tmp_path: Path
) -> None:
    search = replace(config.search, checkpoint_every=5, keep_checkpoints=9)
    config = replace(config, search=search, derive=replace(config.derive, checkpoints=3, rule="reward"))

    def given(folder: Path, minutes: float, stopped_after: int | None) -> Any:
        run = Run.create(
            folder, replace(config, search=replace(search, checkpoint_minutes=minutes)), ("search",)
        )
        if stopped_after is not None:
            searching, watch = search_of(run, lambda architectures: [])
            stop, do_step = StopRequest(), searching.step

            def step(*place: Any) -> dict[str, float]:
                if place[-1] == stopped_after:
                    stop.request("test")
                return do_step(*place)

            searching.step = step
            with pytest.raises(Stopped):
                run_search(searching, watch, run.search_checkpoints(), stop, folder)
        execute(run, ("search",))
        return run.search_checkpoints().steps(), tiny.plain(list(earlier_weights(run, 2)))

    steps, expected = given(tmp_path / "a", 5.0, None)
    assert steps == [0, 5, 10, 15, 20, 24]
    steps, found = given(tmp_path / "b", 1e-9, 17)  # saved at every step
    assert steps == [0, 5, 10, 15, *range(16, 25)]
    assert found == expected


def test_several_checkpoints_for_a_pick_need_some_by_steps(config: RecurrentConfig) -> None:
    search = replace(config.search, checkpoint_every=None)
    with pytest.raises(ConfigError, match=r"derive\.checkpoints = 2 .*set search\.checkpoint_every"):
        replace(config, search=search, derive=replace(config.derive, checkpoints=2))


# ---- what is in one ----------------------------------------------------------------------------------------------------


def test_a_state_is_one_tensor_for_each_role(tmp_path: Path) -> None:
    weights = tiny.image_config("micro").shared_weights()
    space = weights.space
    for step in range(3):
        weights.train_step(0, step, [space.architecture([0] * len(space.decisions))])
    state = weights.state_dict()
    assert len(state["model"]) > 300
    path = CheckpointStore(tmp_path).save(3, {"weights": state})
    names = zipfile.ZipFile(path).namelist()
    stored = sum(name.split("/")[-2] == "data" for name in names)
    assert "average" in state
    assert stored == 5  # numbers and counters of the network and of its average, and momentum


def test_tensors_come_back_as_they_lay_in_memory_and_have_their_own() -> None:
    x = torch.arange(120.0).view(2, 3, 4, 5)
    state = {
        "a": {"plain": x, "together": x.to(memory_format=torch.channels_last), "scalar": torch.tensor(7)},
        "b": [
            (x[0, :, ::2], torch.zeros(0, 3)),
            {3: torch.ones(2, dtype=torch.bfloat16), "nan": float("nan")},
        ],
        "text": '\ud800 { "tensor": [0] }',
        "like one": {"tensor": [0, False, 1]},
    }
    text, flat = packed(state)
    assert len(flat) == 4  # float32 and int64 of a, float32 and bfloat16 of b
    found = unpacked(text, flat)
    assert tiny.plain({**found, "b": found["b"][0]}) == tiny.plain({**state, "b": state["b"][0]})
    assert type(found["b"][0]) is tuple
    assert torch.equal(found["b"][1][3], torch.ones(2, dtype=torch.bfloat16))
    assert found["b"][1]["nan"] != found["b"][1]["nan"]
    assert found["a"]["together"].is_contiguous(memory_format=torch.channels_last)
    assert found["a"]["plain"].is_contiguous()
    found["a"]["plain"].zero_()
    assert torch.equal(found["a"]["together"], x)


def test_large_tensors_are_not_copied_and_views_are_written_without_what_they_are_of() -> None:
    large, small = torch.rand(600, 600), torch.rand(5)
    text, flat = packed({"a": {"large": large, "view": large[:500], "small": small[1:], "zero": small[0]}})
    assert [x.numel() for x in flat] == [360_000, 300_000, 5]
    assert flat[0].data_ptr() == large.data_ptr()
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in flat)
    assert tiny.plain(unpacked(text, flat)["a"]["view"]) == tiny.plain(large[:500])


def test_one_of_an_earlier_version_says_so(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    path = store.save(1, {})
    torch.save({"step": 1, "settings": {}, "state": {"weights": torch.ones(2)}}, path)
    with path.open("ab") as file:
        file.write(b"\nenas sha256 " + hashlib.sha256(path.read_bytes()).digest())
    with pytest.raises(RunFolderError, match=r"an earlier version of enas.* begin again without /") as caught:
        store.load_newest()
    assert "\n" not in str(caught.value)
