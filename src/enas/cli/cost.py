"""`enas cost`: what an architecture costs, beside random ones."""

from __future__ import annotations

import contextlib
import json as as_json
import os
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from enas.architecture import Architecture, Space
from enas.cli.flags import Command
from enas.cli.show import read_architecture
from enas.constraints import PositiveInt, SampleSize, Settings, Threads
from enas.errors import ArchitectureError, ConfigError, shown
from enas.paths import user_path
from enas.recipes import RECIPES, recipe
from enas.recipes.files import names_own
from enas.runtime.streams import show_text
from enas.spaces.reading import read_text

if TYPE_CHECKING:
    from enas.config import RunConfig


@dataclass(frozen=True)
class Cost(Command, Settings):
    """Parameters, multiply-adds, activation bytes and latency on this machine of an architecture's network, beside those of
    random architectures. Nothing is trained."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN-OR-ARCHITECTURE")]
    """A run folder, an architecture.json, or an architecture string in quotes, as `enas show` takes them. Or a recipe, or a
    file of yours with one: then only what random architectures cost is said."""
    recipe: str | None = None
    """The recipe whose networks are meant, or a file of yours with one. By default the run's own settings, and for an
    architecture alone those of the quick recipe of its space."""
    samples: SampleSize = 50
    """Random architectures."""
    no_latency: bool = False
    """Do not measure how long a pass takes."""
    batch: PositiveInt | None = None
    """Inputs side by side in a pass. By default one image, the rows of an evaluation of text, a validation batch of your own
    task."""
    threads: Threads | None = None
    """Threads of the CPU. By default as the run or the recipe says."""
    json: bool = False
    """Print JSON, the units in its names."""

    def __call__(self) -> int:
        """Print the costs."""
        from enas.costs.measuring import RunCosts
        from enas.report.costs import cost_report

        config, architecture = self.asked()
        if self.threads is not None:
            config = replace(config, threads=self.threads)
        config.tried()
        if self.batch is not None:
            config = replace(config, latency=replace(config.latency, batch=self.batch))
        costs = RunCosts(config)
        found = cost_report(costs, architecture, self.samples, not self.no_latency)
        return show_text(as_json.dumps(found.to_json(), indent=2) if self.json else str(found))

    def asked(self) -> tuple[RunConfig, Architecture | None]:
        """The settings of the networks, and the architecture if there is one.

        Raises `ConfigError` for a recipe of another space, and as `read_architecture`.
        """
        if names_own(self.source) or self.source in RECIPES:
            if self.recipe is not None:
                raise ConfigError(
                    f"{shown(self.source)} is a recipe itself; --recipe is for a run or an architecture"
                )
            return recipe(self.source), None
        config = None if self.recipe is None else recipe(self.recipe)
        path = user_path(self.source)
        if os.path.isdir(path):  # which says no to a string that is too long for a path
            from enas.stages import Run

            run = Run.open(path)
            architecture = run.architecture()
            if config is None:
                _ = run.data  # which is compared with that of the start
                return run.config, architecture
        elif config is None or path.suffix == ".json":
            architecture = read_architecture(self.source)
        else:
            architecture = read_in(config.searched_space(), self.source)
        return in_space(config or recipe_of(architecture.space), architecture.space), architecture


def read_in(space: Space, text: str) -> Architecture:
    """The architecture of a string, in this space or in one of another size. Raises `ArchitectureError` as this space."""
    try:
        return space.parse(text)
    except ArchitectureError:
        with contextlib.suppress(ArchitectureError, ConfigError):
            return read_text(text)
        raise


def recipe_of(space: Space) -> RunConfig:
    """The quick recipe of a space. Raises `ConfigError` if there is none."""
    name = f"{space.name}-quick"
    if name not in RECIPES:
        raise ConfigError(
            f"no recipe of this package has networks of the {space.name} space: say with --recipe which ones are meant"
        )
    return recipe(name)


def in_space(config: RunConfig, space: Space) -> RunConfig:
    """The settings for architectures of this space, which may be larger or smaller than theirs.

    Raises `ConfigError` if it is of another kind.
    """
    own = config.searched_space()
    if own == space:
        return config
    if type(own) is not type(space) or "space" not in {field.name for field in fields(config)}:
        raise ConfigError(
            f"the architecture is of another space ({space.name}) than the recipe's ({own.name}): name another with --recipe"
        )
    settings: Any = config  # whose class has a field `space`
    found: RunConfig = replace(settings, space=space)
    return found
