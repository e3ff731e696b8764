"""`enas show FILE.py`: what would be searched, before anything is spent."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from enas import NetworkConfig
from enas.report.space import SAMPLED, described
from enas.runtime.seeding import derive_seed
from tests import own_network, tiny
from tests.own_network import Net, task
from tests.test_cli import printed, refusal

FILE = Path(own_network.__file__)


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_file_shows_decisions_who_asks_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    heading, decisions, sizes = printed(capsys, "show", str(FILE)).strip().split("\n\n")
    space = NetworkConfig(network=Net, task=task).searched_space()
    assert heading == (
        f"{len(space.decisions)} decisions, some of them only after certain choices; {space.count()} architectures"
    )
    assert [columns(line)[:2] for line in decisions.splitlines()[1:]] == [
        [decision.name, ", ".join(decision.options)] for decision in space.decisions
    ]
    assert columns(decisions.splitlines()[-1])[2] == "skip"
    rng = random.Random(derive_seed(0, "sizes"))
    drawn = [space.sample(rng) for _ in range(SAMPLED)]
    supernet = NetworkConfig(network=Net, task=task).supernet()
    counts = [sum(p.numel() for p in supernet.child(one, weights="shared").parameters()) for one in drawn]
    smallest, mean, largest = (columns(line) for line in sizes.splitlines()[2:])
    assert smallest[1] == f"{min(counts):,}"
    assert largest[1] == f"{max(counts):,}"
    assert mean[1] == f"{round(sum(counts) / SAMPLED):,}"
    # Linear layers alone: a multiply-add for every weight, none for a bias or a norm.
    one = supernet.child(space.parse(largest[3]), weights="shared")
    weights = sum(m.weight.numel() for m in one.modules() if isinstance(m, torch.nn.Linear))
    assert largest[2] == f"{weights:,}"


def test_other_recipes_have_no_modules_that_ask() -> None:
    config = tiny.image_config("macro")
    heading, decisions, sizes = described(config).split("\n\n")
    assert heading.endswith(f"decisions; {config.searched_space().count():,} architectures")
    assert columns(decisions.splitlines()[0]) == ["decision", "options"]
    assert sizes.startswith(f"of {SAMPLED} random architectures")


def test_a_drawing_of_a_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refusal(capsys, "show", str(FILE), "--svg", str(tmp_path / "a.svg"))
    assert "--svg is for an architecture" in said
    assert not list(tmp_path.iterdir())
