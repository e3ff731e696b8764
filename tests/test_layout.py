"""Images with their channels together in memory: the same numbers, and taken only where it was found to be faster."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from enas import Choice, NetworkConfig, Task
from enas.errors import ConfigError
from enas.run import Run
from enas.runs import layout
from enas.runs.layout import alike, channels_last_pays, gradient
from enas.shared_weights import SharedWeights
from enas.stages import ALL_STAGES
from tests.own_network import Net, digits, loss, score, task


class Convolutions(nn.Module):
    """Three filters to choose from."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.mix = Choice({f"k{k}": nn.Conv2d(8, 8, k, padding=k // 2) for k in (1, 3, 5)})
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.mix(self.stem(images))).relu().mean((2, 3)))


def images(first: int, end: int) -> tuple[Tensor, Tensor]:
    x, y = digits(first, end)
    return x.reshape(-1, 1, 8, 8), y


def pictures() -> Task:
    return Task(images(0, 60), images(60, 100), batch=10, loss=loss, score=score)


def weights_with(channels_last: bool) -> SharedWeights:
    config = NetworkConfig(network=Convolutions, task=pictures, channels_last=channels_last)
    return config.shared_weights()


class Strided(Convolutions):
    """With a convolution of one pixel that skips pixels; it is not computed here."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Conv2d(3, 3, 1, stride=2)


@pytest.mark.parametrize(
    ("network", "capability", "destroys"),
    [(Strided, "AVX2", True), (Convolutions, "AVX2", False), (Strided, "AVX512", False)],
)
def test_what_would_destroy_memory_is_refused(
    network: type[nn.Module],
    capability: str,
    destroys: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On processors with AVX2 alone: when a run begins, when one from elsewhere goes on, and when both layouts are tried."""
    config = NetworkConfig(network=network, task=pictures, channels_last=True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    Run.create(tmp_path / "elsewhere", config, ALL_STAGES)

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    run = Run.open(tmp_path / "elsewhere", recipe=config)
    if not destroys:
        assert run.shared_weights().task.memory_format is torch.channels_last
        Run.create(tmp_path / "here", config, ALL_STAGES)
        return
    with pytest.raises(ConfigError, match="without AVX-512"):
        run.shared_weights()
    with pytest.raises(ConfigError, match="without AVX-512"):
        Run.create(tmp_path / "here", config, ALL_STAGES)
    assert not (tmp_path / "here").exists()

    apart = replace(config, channels_last=False).shared_weights()

    def never(channels_last: bool) -> SharedWeights:
        assert not channels_last
        return apart

    assert not channels_last_pays(never)


def test_both_layouts_have_the_same_gradients() -> None:
    plain, together = weights_with(False), weights_with(True)
    seen: dict[bool, list[bool]] = {False: [], True: []}

    def note(module: nn.Module, inputs: tuple[Tensor], *, of: bool) -> None:
        tensors = (inputs[0], module.weight)
        seen[of].append(all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors))

    for of, weights in enumerate((plain, together)):
        for module in weights.trainer.model.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels > 1:  # one channel lies alike in both
                module.register_forward_pre_hook(partial(note, of=bool(of)))
    for architecture in plain.space.enumerate():
        a, b = (gradient(weights, architecture)[0] for weights in (plain, together))
        assert any(x is not None for x in a)
        for x, y in zip(a, b, strict=True):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                torch.testing.assert_close(x, y)
    assert len(seen[True]) == len(seen[False]) > 0
    assert all(seen[True])
    assert not all(seen[False])


@pytest.mark.parametrize(("slower", "taken"), [(1.0, False), (2.0, True)])
def test_it_is_taken_where_it_is_faster(slower: float, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "SHORTEST", 0.0)
    measured = iter([seconds for _ in range(layout.ARCHITECTURES) for seconds in (slower, 1.0)])
    real = layout.gradient
    monkeypatch.setattr(layout, "gradient", lambda w, a: (real(w, a)[0], next(measured)))
    assert channels_last_pays(weights_with) is taken


def test_wrong_gradients_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "SHORTEST", 0.0)
    found = iter([([torch.ones(3), None], 2.0), ([torch.tensor([1.0, 1.0, 1.1]), None], 1.0)])
    monkeypatch.setattr(layout, "gradient", lambda w, a: next(found))
    assert not channels_last_pays(weights_with)
    assert alike([torch.ones(3)], [torch.ones(3) * (1 + 1e-5)])


def test_short_steps_and_networks_without_convolutions_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout, "gradient", lambda w, a: pytest.fail("tried"))
    monkeypatch.setattr(layout, "SHORTEST", 1e9)
    assert not channels_last_pays(weights_with)
    monkeypatch.setattr(layout, "SHORTEST", 0.0)
    config = NetworkConfig(network=Net, task=task)
    assert not channels_last_pays(
        lambda channels_last: replace(config, channels_last=channels_last).shared_weights()
    )


def test_what_was_found_is_a_setting_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = NetworkConfig(network=Convolutions, task=pictures)
    monkeypatch.setattr("enas.runs.network.channels_last_pays", lambda weights_with: True)
    run = Run.create(tmp_path, config, ALL_STAGES)
    opened = Run.open(tmp_path, recipe=config)
    assert run.config == opened.config
    assert isinstance(run.config, NetworkConfig)
    assert isinstance(opened.config, NetworkConfig)
    assert run.config.channels_last is opened.config.channels_last is True
    assert opened.config.shared_weights().task.memory_format is torch.channels_last
