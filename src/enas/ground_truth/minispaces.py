"""Two spaces so small that every architecture of them is trained: the truth that a search is measured against.

    enas table build recurrent --run runs/table-recurrent
    enas table show recurrent

Sources: settings of this package, chosen so that a training takes some ten seconds on one core and that two trainings of
an architecture with different seeds agree far better than those of two architectures.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.data.augmentation import AugmentConfig
from enas.data.image_sources import ImageConfig
from enas.data.sources import TextConfig
from enas.errors import ConfigError, DataError, did_you_mean
from enas.ground_truth.table import Table, read_table
from enas.recipes.macro import macro_quick
from enas.recipes.recurrent import recurrent_quick
from enas.retrain import Network
from enas.runs.images import MacroConfig
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.seeding import derive_seed
from enas.spaces.macro.net import MacroNetConfig
from enas.spaces.macro.space import MacroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.image_child import ImageChildConfig
from enas.tasks.image_training import CosineConfig, ImageTrainingConfig, MomentumConfig

TABLES = Path(__file__).parent / "tables"
"""Where the tables are that come with the package."""

FIRST_SEED, SECOND_SEED = 0, 1


@dataclass(frozen=True)
class MiniSpace:
    """A space and the recipe that all of its architectures are trained with."""

    name: str
    config: Callable[[], RunConfig]
    """The settings, those of a search on the space among them."""
    repeated: int
    """How many architectures are trained with a second seed as well, at least a third."""

    def order(self) -> list[Architecture]:
        """Every architecture once, shuffled, the same at all times."""
        architectures = list(self.config().searched_space().enumerate())
        random.Random(derive_seed(0, "table", self.name)).shuffle(architectures)
        return architectures

    def plan(self) -> list[Network]:
        """The trainings in the order of the rows: every architecture once, then the first ones again."""
        order = self.order()
        again = order[: self.repeated]
        return [
            *(Network("table", architecture, FIRST_SEED) for architecture in order),
            *(Network("table", architecture, SECOND_SEED) for architecture in again),
        ]

    @property
    def shipped(self) -> Path:
        """The file of its table in the package."""
        return TABLES / f"{self.name}.jsonl"


def recurrent() -> RecurrentConfig:
    """Cells of three searched nodes, 4^3 · 2! = 128 of them, on 2,000 words of Python's own standard library."""
    quick = recurrent_quick()
    child = replace(quick.retrain.child, hidden=64, epochs=4)
    return replace(
        quick,
        data=TextConfig(
            "stdlib",
            max_vocabulary=2000,
            max_train_tokens=150_000,
            max_valid_tokens=20_000,
            max_test_tokens=20_000,
        ),
        space=RecurrentSpace(nodes=3),
        shared=replace(quick.shared, hidden=64),
        retrain=replace(quick.retrain, child=child, lstm=False, random=0),
    )


def convolutional() -> MacroConfig:
    """Networks of three layers with three operations, 3^3 · 2^3 = 216 of them, on few training digits."""
    quick = macro_quick()
    training = ImageTrainingConfig(
        batch=50,
        cosine=CosineConfig(0.05, 0.001, first_period=16),
        momentum=MomentumConfig(weight_decay=1e-4),
        augmentation=AugmentConfig(pad=1, flip=False),
    )
    network = MacroNetConfig(filters=16, dropout=0.0)
    return replace(
        quick,
        data=ImageConfig("digits", valid=500, test=697, max_train=800),
        space=MacroSpace(layers=3, operations=("conv3x3", "sep3x3", "avg3x3")),
        network=network,
        child_network=network,
        shared=replace(quick.shared, training=training),
        retrain=replace(
            quick.retrain,
            random=0,
            child=ImageChildConfig(epochs=16, training=training, evaluation="recalibrated"),
        ),
    )


MINI_SPACES = {
    space.name: space
    for space in (MiniSpace("recurrent", recurrent, 64), MiniSpace("convolutional", convolutional, 108))
}


def mini_space(name: str) -> MiniSpace:
    """The mini-space of this name. Raises `ConfigError`, suggesting the nearest, if there is none."""
    if name not in MINI_SPACES:
        raise ConfigError(
            f"there is no mini-space {name!r}; {did_you_mean(name, MINI_SPACES)}they are {', '.join(MINI_SPACES)}"
        )
    return MINI_SPACES[name]


def shipped_table(name: str) -> Table:
    """The table of a mini-space that comes with the package. Raises `DataError` if it does not."""
    space = mini_space(name)
    if not space.shipped.exists():
        raise DataError(
            f"this version comes without the table of {name!r}; build it: enas table build {name} --run FOLDER"
        )
    return read_table(space.shipped)


def table_for(config: RunConfig, data_hash: str) -> Table | None:
    """The shipped table whose trainings are those of this run, if there is one."""
    for space in MINI_SPACES.values():
        if space.shipped.exists() and (table := read_table(space.shipped)).fits(config, data_hash):
            return table
    return None
