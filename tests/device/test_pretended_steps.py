"""Every step of a run on a pretended device comes to what it comes to on the CPU, and hardly ever waits for the device."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from enas.config import RunConfig
from enas.gpu import graphs
from enas.plain import in_plain_torch
from enas.run import Run
from tests.device.pretended import pretended
from tests.device.runs import SPACES, config_of, numbers


def check(
    config: RunConfig, folder: Path, patch: pytest.MonkeyPatch, plant: Callable[[], object] = bool
) -> None:
    """Compare a run on the pretended device with one on the CPU, and count how often it waits. `plant` is called between."""
    with in_plain_torch():
        here, _ = numbers(Run.create(folder / "here", config, ("search",)))
    plant()
    with pretended(patch, float64=False) as device:
        there, waits = numbers(Run.create(folder / "there", config, ("search",)), device)
    for a, b in zip(here, there, strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-6), "other numbers"
    assert max(waits["weights"], waits["child"]) <= 1, "more waits"
    if config.kind != "network":
        assert waits["epoch"] <= 3, "more waits"  # for the last step, for the data of the score, and for it
    assert waits["reward"] <= (3 if config.kind == "network" else 1), (
        "more waits"
    )  # a user's scores are read one by one


pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")


@pytest.mark.parametrize("space", SPACES)
def test_a_run(space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(config_of(space, tmp_path), tmp_path, monkeypatch)


def test_a_run_with_recorded_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With calls that are repeated in the place of CUDA's graphs."""

    def recorded(works: Sequence[Callable[[], None]], device: object) -> Sequence[Callable[[], None]]:
        made.append(len(works))
        for work in works:
            work()
        return works

    made: list[int] = []
    monkeypatch.setattr(graphs, "can_record", lambda device: True)
    monkeypatch.setattr(graphs, "recorded", recorded)
    monkeypatch.setattr("enas.gpu.recurrence.GRAPHS", graphs.Graphs())
    check(config_of("recurrent", tmp_path), tmp_path, monkeypatch)
    assert sorted(made) == [1, 1, 2, 2]  # rewards and scores; steps of the search and of the child
