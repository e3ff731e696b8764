"""What goes wrong on a GPU alone is noticed on the pretended one: each fault is planted, and caught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from enas import masks
from enas.data import augmentation
from enas.runtime.transfers import Arriving
from enas.tasks import images, language
from tests.device.runs import config_of
from tests.device.test_pretended_steps import check

Plant = Callable[[pytest.MonkeyPatch], None]


def a_mask_left_on_the_cpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(masks, "sent", lambda tensor, device: tensor)


def a_generator_of_another_device(patch: pytest.MonkeyPatch) -> None:
    def mask(shape: Any, rate: float, like: torch.Tensor) -> torch.Tensor:
        source = masks._SOURCE.get()
        return (torch.rand(shape, generator=source, device=like.device) >= rate).to(like.dtype) / (1 - rate)

    patch.setattr("enas.tasks.language_model.mask", mask)


def a_state_that_is_not_moved_on_resume(patch: pytest.MonkeyPatch) -> None:
    def load(task: language.LanguageTask, state: dict[str, Any]) -> None:
        task.states = dict(state["states"])

    patch.setattr(language.LanguageTask, "load_state_dict", load)


def one_item_more(patch: pytest.MonkeyPatch) -> None:
    real = images.classification_loss

    def loss(*args: Any) -> Any:
        found = real(*args)
        assert found.total.item() >= 0
        return found

    patch.setattr(images, "classification_loss", loss)


def a_constant_built_on_the_cpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(augmentation, "_scale_and_shift", augmentation._scale_and_shift.__wrapped__)


def numbers_of_64_bits(patch: pytest.MonkeyPatch) -> None:
    real = language.nll
    patch.setattr(language, "nll", lambda *args: real(*args).double())


def numbers_read_before_they_are_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Arriving, "read", lambda arriving: arriving._host_N.tolist())


def a_network_that_stays_on_the_cpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("enas.task.BaseTask.placed", lambda task, model: model)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize(
    ("space", "plant", "said"),
    [
        ("recurrent", a_mask_left_on_the_cpu, "mixes devices"),
        ("recurrent", a_generator_of_another_device, "a generator of the CPU"),
        ("recurrent", a_state_that_is_not_moved_on_resume, "mixes devices"),
        ("recurrent", numbers_of_64_bits, "no float64"),
        ("nasbench201", one_item_more, "more waits"),
        ("nasbench201", a_constant_built_on_the_cpu, "more waits"),
        ("nasbench201", numbers_read_before_they_are_there, "is nan"),
        ("nasbench201", a_network_that_stays_on_the_cpu, "mixes devices"),
    ],
)
def test_a_planted_fault_is_caught(
    space: str, plant: Plant, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception, match=said):
        check(config_of(space, tmp_path), tmp_path, monkeypatch, lambda: plant(monkeypatch))
