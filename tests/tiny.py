"""A whole run that takes a second, and what two runs must have in common to be called the same."""

import copy
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from enas.cli import parse
from enas.cli.stages import FromRecipe
from enas.config import RunConfig
from enas.controllers import LSTMConfig
from enas.recipes import recipe
from enas.runs.images import ImageRunConfig
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import read_json, read_jsonl

WORDS = ["the", "a", "cat", "dog", "tree", "saw", "ate", "and", "of", "under"]

_FLAGS = """
    --data.max-vocabulary None --data.max-train-tokens None --data.max-valid-tokens None --data.max-test-tokens None
    --space.nodes 3 --shared.hidden 8 --shared.training.windows.batch 4 --shared.training.windows.bptt 5
    --shared.reward.batch 3 --shared.reward.bptt 5
    --search.epochs 2 --search.warmup 0.5 --search.updates 4 --search.proposals 3 --search.log-every 4
    --search.checkpoint-every 5
    --derive.samples 4 --derive.minibatches 2 --derive.shortlist 2
    --retrain.child.hidden 8 --retrain.child.epochs 2 --retrain.child.eval-batch 2 --retrain.checkpoint-every 4
    --retrain.child.training.windows.batch 4 --retrain.child.training.windows.bptt 5
    --threads 1
"""
"""What makes `recurrent-quick` tiny: 10 windows a pass, 24 steps of search, 5 networks trained."""


TIMES = {"time", "work", "round_work", "seconds"}
"""Keys of a run's JSON whose values are measured times."""


def write_text(folder: Path, seed: int = 0) -> Path:
    """A folder with 211 training, 80 validation and 60 test tokens."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for split, lines in (("train", 20), ("valid", 8), ("test", 6)):
        text = "".join(" ".join(rng.choices(WORDS, k=9)) + "\n" for _ in range(lines))
        (folder / f"{split}.txt").write_text(text + ("" if split != "train" else " ".join(WORDS) + "\n"))
    return folder


def flags(text: Path, *more: str) -> list[str]:
    """The flags of a tiny run on this text; later ones win."""
    return words([*_FLAGS.split(), "--data.source", str(text), *more])


def words(given: list[str]) -> list[str]:
    """Pairs of a flag and a value, each flag once, with its last value."""
    return [word for pair in dict(zip(given[::2], given[1::2], strict=True)).items() for word in pair]


def config(text: Path, *more: str) -> RecurrentConfig:
    """The settings of a tiny run on this text."""
    given = flags(text, *more)
    place = given.index("--data.source")
    source = given[place + 1]  # set afterwards, as every test has another one
    made = settings("recurrent-quick", given[:place] + given[place + 2 :])
    assert isinstance(made, RecurrentConfig)
    return replace(made, data=replace(made.data, source=source))


def plain(value: Any) -> Any:
    """A state with its tensors as bytes, so that == compares bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def newest_checkpoint(folder: Path) -> Any:
    """The newest state in a folder of checkpoints, without the clock and what depends on its digits."""
    found = CheckpointStore(folder).load_newest()
    assert found is not None
    step, state = found
    return step, plain({key: value for key, value in state.items() if key != "metrics"})


def without_times(path: Path) -> Any:
    """What a JSON file says, apart from durations."""
    records = read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)
    text = json.dumps(records)
    return json.loads(text, object_hook=lambda r: {k: v for k, v in r.items() if k not in TIMES})


def content(run: Path) -> dict[str, Any]:
    """All that a run has computed, by the name of its file."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if (
            path.name.startswith(".")
            or path.name in ("environment.json", "report.html")
            or path.suffix == ".pt"
        ):
            continue
        if path.name == "checkpoints":
            found[name] = newest_checkpoint(path)
        elif path.suffix in (".json", ".jsonl"):
            found[name] = without_times(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def documented() -> set[str]:
    """Every word that docs/metrics.md defines, or mentions, as a key."""
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    return set(re.findall(r"`([\w/]+)`", text))


def keys(value: Any) -> set[str]:
    """Every key of a JSON value, at any depth."""
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in keys(item)}
    return {key for item in value for key in keys(item)} if isinstance(value, list) else set()


_IMAGE_FLAGS = """
    --data.max-train 60 --data.max-test 30 --data.valid 20
    --network.filters 4 --child-network.filters 4
    --shared.training.batch 10 --shared.reward.batch 20
    --search.epochs 2 --search.warmup 0.5 --search.updates 3 --search.proposals 3 --search.log-every 2
    --search.checkpoint-every 3
    --verify.trainings 0
    --derive.samples 4 --derive.minibatches 1 --derive.shortlist 2 --derive.shortlist-epochs 1
    --retrain.random 1 --retrain.child.epochs 2 --retrain.child.training.batch 20 --retrain.child.eval-batch 20
    --retrain.checkpoint-every 3
    --threads 1
"""
"""What makes `macro-quick` and `micro-quick` tiny: 4 steps a pass, 11 steps of search, 4 networks trained."""

_SPACE_FLAGS = {
    "macro": "--space.layers 3",
    "micro": "--space.nodes 2 --network.layers 1 --child-network.layers 1",
    "nasbench201": "--network.cells 1 --child-network.cells 1",
}


def image_flags(space: str, *more: str) -> list[str]:
    """The flags of a tiny run on 60 digits; later ones win."""
    return words([*_IMAGE_FLAGS.split(), *_SPACE_FLAGS[space].split(), *more])


def image_config(space: str, *more: str) -> ImageRunConfig:
    """The settings of a tiny run on 60 digits; later flags win."""
    made = settings(f"{space}-quick", image_flags(space, *more))
    assert isinstance(made, ImageRunConfig)
    return made


def published(name: str) -> LSTMConfig:
    """The controller of a recipe that follows the paper or the authors."""
    controller = recipe(name).controller
    assert isinstance(controller, LSTMConfig)
    return controller


def settings(name: str, flags: Sequence[str]) -> RunConfig:
    """A recipe's settings with flags applied."""
    return copy.copy(_read(name, tuple(flags)))  # data that are loaded once are kept with a copy


@cache
def _read(name: str, flags: tuple[str, ...]) -> RunConfig:
    """Reading flags takes a tenth of a second."""
    command = parse(["run", name, *flags])
    assert isinstance(command, FromRecipe)
    return command.settings
