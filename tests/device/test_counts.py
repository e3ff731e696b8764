"""What steps of the recipes give a GPU to do, held by numbers: launches, gigabytes and waits, at their real sizes.

One more launch or copy in a layer shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from enas.gpu import graphs
from tests.device.counting import Count, steps_of, weights_of

BOUNDS = {
    "micro-paper": {"weights": (1164, 16.2), "reward": (487, 6.6), "child": (3368, 82)},
    "micro-default": {"weights": (1249, 20.3), "reward": (487, 26.2), "child": (3239, 88)},
    "macro-paper": {"weights": (735, 9.4), "reward": (303, 3.6), "child": (735, 37)},
    "nasbench201-default": {"weights": (156, 0.29), "reward": (63, 0.45), "child": (154, 0.29)},
    "recurrent-paper": {"weights": (1828, 12.5), "reward": (888, 5.2), "child": (1814, 8.8)},
    "micro-paper bf16": {"weights": (1486, 8.2), "reward": (652, 3.4), "child": (4352, 41.3)},
    "recurrent-paper bf16": {"weights": (1841, 8.4), "reward": (894, 3.2), "child": (1827, 6.1)},
}
"""Launches and gigabytes."""
CHANGES: dict[str, dict[str, Any]] = {
    "micro-paper bf16": {"precision": "bf16", "channels_last": True},
    "recurrent-paper bf16": {"precision": "bf16"},
}
"""Settings beside those of the recipe."""
WAITS = {"weights": 0, "reward": 1, "child": 0}
"""Beside the one for the step before."""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_steps_at_their_real_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = steps_of(name.split()[0], monkeypatch, **CHANGES.get(name, {}))
    counted = {kind: (count.launches.total(), count.bytes / 1e9) for kind, count in found.items()}
    for kind, (launches, gigabytes) in BOUNDS[name].items():
        assert counted[kind][0] <= launches, (kind, found[kind].launches.most_common(20))
        assert counted[kind][1] <= gigabytes, kind
    assert {kind: count.waits.total() for kind, count in found.items()} == WAITS


@pytest.mark.slow
def test_eight_rewards_in_hardly_more_launches_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_of("recurrent-paper", monkeypatch)
    draw = random.Random(1)
    architectures = [weights.space.sample(draw) for _ in range(8)]
    found = {}
    for number in (1, 8):
        with Count() as count:
            assert len(weights.rewards(architectures[:number], "counted", 0)) == number
        found[number] = count.launches.total()
    assert found[8] <= 1.1 * found[1]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "most"), [("fp32", 87), ("bf16", 100)])
def test_recorded_steps_are_few_launches_whatever_the_cell(
    precision: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph counts as one launch."""

    def recorded(works: Sequence[object], device: object) -> list[Callable[[], None]]:
        return [lambda: replayed.append(1)] * len(works)

    replayed: list[int] = []
    monkeypatch.setattr(graphs, "can_record", lambda device: True)
    monkeypatch.setattr(graphs, "recorded", recorded)
    monkeypatch.setattr("enas.gpu.recurrence.GRAPHS", graphs.Graphs())
    weights = weights_of("recurrent-paper", monkeypatch, precision=precision)
    draw = random.Random(1)
    counted = []
    for step in range(4):  # the first is launched one by one, the second is recorded
        replayed.clear()
        with Count() as count:
            weights.train_step(0, step, [weights.space.sample(draw)])
        counted.append(count.launches.total() + len(replayed))
    assert counted[0] > 1800
    assert counted[2] == counted[3] <= most
