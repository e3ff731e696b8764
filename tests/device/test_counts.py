"""What steps of the recipes give a GPU to do, held by numbers: launches, gigabytes and waits, at their real sizes.

One more launch or copy in a layer shows.
"""

import pytest

from tests.device.counting import steps_of

BOUNDS = {
    "micro-paper": {"weights": (1164, 16.2), "reward": (487, 6.6), "child": (3368, 82)},
    "micro-default": {"weights": (1249, 20.3), "reward": (487, 26.2), "child": (3239, 88)},
    "macro-paper": {"weights": (735, 9.4), "reward": (303, 3.6), "child": (735, 37)},
    "nasbench201-default": {"weights": (156, 0.29), "reward": (63, 0.45), "child": (154, 0.29)},
}
"""Launches and gigabytes."""
WAITS = {"weights": 0, "reward": 1, "child": 0}
"""Beside the one for the step before."""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_steps_at_their_real_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = steps_of(name, monkeypatch)
    counted = {kind: (count.launches.total(), count.bytes / 1e9) for kind, count in found.items()}
    for kind, (launches, gigabytes) in BOUNDS[name].items():
        assert counted[kind][0] <= launches, (kind, found[kind].launches.most_common(20))
        assert counted[kind][1] <= gigabytes, kind
    assert {kind: count.waits.total() for kind, count in found.items()} == WAITS
