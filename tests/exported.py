"""Tiny runs whose found network is trained, without a search, and tiny networks of every space."""

import random
from pathlib import Path

from enas.config import RunConfig
from enas.stages import Run, execute, put_architecture
from tests import tiny

SPACES = ("recurrent", "macro", "micro", "nasbench201")


def config(space: str, folder: Path) -> RunConfig:
    """The settings of a tiny run, whose data are in `folder` if they are text."""
    if space == "recurrent":
        return tiny.config(tiny.write_text(folder / "text"), "--retrain.random", "1")
    return tiny.image_config(space)


def trained(space: str, folder: Path, settings: RunConfig | None = None, seed: int = 3) -> Path:
    """A run folder in which a random architecture was trained and tested."""
    made = config(space, folder) if settings is None else settings
    run = Run.create(folder / "run", made, ("retrain", "test"))
    put_architecture(run.folder, made.searched_space().sample(random.Random(seed)))
    execute(run, ("retrain", "test"))
    return run.folder
