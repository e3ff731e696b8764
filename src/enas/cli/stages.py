"""The commands that begin a run from a recipe, and those that go on with one."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, ClassVar, Self

import tyro

from enas.architecture import Architecture
from enas.budget import seconds_of, within
from enas.cli.flags import FLAT, Chosen, Command, controller_in, subcommands
from enas.config import RunConfig
from enas.errors import ConfigError, FolderInUseError, RunFolderError, enas_command
from enas.executors import Where, executor_for
from enas.following import follow
from enas.parallel import joined
from enas.paths import OptionalPath, UserPath
from enas.recipes import RECIPES, controller_names, named_controller, recipe
from enas.recipes.files import function_in, names_own, place_of
from enas.report.summary import summary
from enas.runtime.files import read_json
from enas.runtime.lock import folder_of_run, run_lock
from enas.runtime.progress import say
from enas.runtime.streams import show_text
from enas.stages import ALL_STAGES, Run, StageName, execute, put_architecture

RunFolder = Annotated[
    UserPath,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN", help="The folder of a run, for example runs/recurrent-quick."),
]


# ---- from a recipe -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FromRecipe(Command):
    """The settings of a recipe, and what else a command that begins with one is told."""

    settings: Annotated[RunConfig, FLAT]
    recipe: tyro.conf.Suppress[str]
    run: OptionalPath = None
    """Folder of the run; by default runs/RECIPE, or runs/NAME for a file NAME.py."""
    controller: Annotated[str | None, tyro.conf.arg(metavar="{" + ",".join(controller_names()) + "}")] = None
    """Puts another controller in the place of the recipe's."""

    def follow(self) -> int:
        return follow()


@dataclass(frozen=True)
class Begin(FromRecipe):
    """A new run."""

    stages: ClassVar[tuple[StageName, ...]] = ALL_STAGES

    budget: Annotated[str | None, tyro.conf.arg(metavar="TIME")] = None
    """A time such as 30m: the search and all trainings are shortened, in the recipe's proportions, to take about that long
    on this machine."""

    def checked(self) -> Self:
        """Raises `ConfigError` for a budget that is no time."""
        if self.budget is not None:
            seconds_of(self.budget)
        return self

    def __call__(self) -> int:
        """Begin a run in a new folder and run its stages."""
        if self.budget is None:
            return begin(self, self.stages, None)
        self.settings.set_process()
        return begin(replace(self, settings=within(self.settings, self.budget)), self.stages, None)


@dataclass(frozen=True)
class BeginSearch(Begin):
    """A new run, of which only the search is made."""

    stages: ClassVar[tuple[StageName, ...]] = ("search",)


@dataclass(frozen=True)
class BeginRetrain(FromRecipe):
    """A new run without a search."""

    architecture: str | None = None
    """The architecture, as a string, instead of a search."""

    @cached_property
    def given(self) -> Architecture:
        """The architecture that the string describes.

        Raises `ConfigError` without a string, and `ArchitectureError` for an architecture that the space does not have.
        """
        if self.architecture is None:
            raise ConfigError(
                f"{enas_command('retrain', self.recipe)!r} needs --architecture; to search for one, use "
                f"{enas_command('run', self.recipe)!r}"
            )
        return self.settings.searched_space().parse(self.architecture)

    def checked(self) -> Self:
        """The command itself. Raises as `given`."""
        _ = self.given
        return self

    def __call__(self) -> int:
        """Train a given architecture from scratch, and test it."""
        return begin(self, ("retrain", "test"), self.given)


def of_recipe(
    options: type[FromRecipe], words: list[str], more: Callable[[RunConfig], str] | None = None
) -> Chosen:
    """A subcommand for each recipe, and for the file that is named if one is, whose settings are the defaults of the flags;
    `more` is said in its help."""
    recipes = dict(RECIPES)
    if words and names_own(words[0]):
        recipes[words[0]] = inspect.getdoc(function_in(*place_of(words[0]))) or ""

    def load(name: str, rest: list[str]) -> Chosen:
        config = recipe(name)
        if (controller := controller_in(rest, controller_names())) is not None:
            config = replace(config, controller=named_controller(controller, config.searched_space().name))
        markers = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
        return Chosen(Annotated[(options, *markers)], options(config, name))

    def about(name: str) -> str:
        if words[:1] != [name]:
            return recipes[name].partition("\n")[0]
        return recipes[name] if more is None else f"{recipes[name]}\n\n{more(recipe(name))}"

    return subcommands("recipe", {name: (about(name), partial(load, name)) for name in recipes}, words)


def run(words: list[str]) -> Chosen:
    """`run RECIPE [--SETTING VALUE …]`."""
    return of_recipe(Begin, words)


def search(words: list[str]) -> Chosen:
    """`search RECIPE [--SETTING VALUE …]`."""
    return of_recipe(BeginSearch, words)


def retrain(words: list[str]) -> Chosen:
    """`retrain RUN`, or `retrain RECIPE --architecture STRING`: no search, an architecture from elsewhere."""
    of_one = words and (words[0] in RECIPES or names_own(words[0]))
    return of_recipe(BeginRetrain, words) if of_one else Chosen(Retrain, Retrain)


def begin(options: FromRecipe, stages: tuple[StageName, ...], given: Architecture | None) -> int:
    """Begin a run in a new folder and run its stages."""
    with joined(), contextlib.ExitStack() as held:
        if options.run is not None:
            folder = options.run
            try:
                held.enter_context(folder_of_run(folder))
            except FolderInUseError as error:
                raise FolderInUseError(f"{error} Or choose another folder with --run.") from None
        else:
            folder = take_free_folder(held, Path("runs") / folder_name(options.recipe))
        run = Run.create(folder, options.settings, stages)
        if given is not None:
            put_architecture(folder, given)
        say(f"run folder: {folder}")
        with run.config.told_later(folder):
            execute(run, stages)
        write_page_of(run)
    return show_text(summary(run))


def folder_name(recipe: str) -> str:
    """What the folder of a run is called by default: for `mine.py`, `mine`; for `mine.py:name` and `package.mine:name`,
    `mine-name`."""
    if not names_own(recipe):
        return recipe
    path, _, function = place_of(recipe)
    return path.stem if function is None else f"{path.stem}-{function}"


def write_page_of(run: Run) -> None:
    """Write the page of a run, and say where it is."""
    from enas.report.page import write_own_page  # scipy and Jinja take a while

    write_own_page(run)


def take_free_folder(held: contextlib.ExitStack, wanted: Path) -> Path:
    """Hold the first of NAME, NAME-2, NAME-3, … that holds no run, and that no other process has just taken. Says so if the
    one before it waits to be gone on with."""
    before: Path | None = None
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not (folder / "config.json").exists():
            with contextlib.ExitStack() as lock:
                try:
                    lock.enter_context(folder_of_run(folder))
                except FolderInUseError:
                    continue
                if not (folder / "config.json").exists():  # another process may have begun, and ended, since
                    held.enter_context(lock.pop_all())
                    if before is not None and waits(before):
                        resume = enas_command("resume", before)
                        say(f"{before} is not finished, and {resume!r} goes on with it; this begins {folder}")
                    return folder
        before = folder
    raise AssertionError("numbers do not end")


LEAVES = {"search": "search.json", "derive": "architecture.json", "test": "comparison.json"}
"""The file that a stage leaves with which a run may end."""


def waits(folder: Path) -> bool:
    """Whether the last stage of a run is missing, and nobody is at work on it."""
    with contextlib.suppress(RunFolderError, KeyError, IndexError, TypeError), run_lock(folder):
        last = read_json(folder / "config.json")["stages"][-1]
        return not (folder / LEAVES[last]).exists()
    return False


# ---- on a run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resume(Where, Command):
    """Go on with a run after a stop or a crash, exactly."""

    run: RunFolder
    stages: ClassVar[tuple[StageName, ...] | None] = None
    """None for those that the run was begun with."""
    changed_file_ok: bool = False
    """Go on although the file that the recipe is in, or one that it imports, has changed since the run was begun."""

    def follow(self) -> int:
        return follow()

    def __call__(self) -> int:
        """Run the stages, and say what came out."""
        with joined():
            run = Run.open(self.run, self.changed_file_ok)
            with run_lock(self.run):
                elsewhere = self.applied(run.config)
                if elsewhere != run.config:
                    executor_for(elsewhere)  # which may have no room
                    run.config = elsewhere
                    run.write_config()
                with run.config.told_later(self.run):
                    execute(run, run.stages if self.stages is None else self.stages)
                write_page_of(run)
        return show_text(summary(run))


@dataclass(frozen=True)
class Derive(Resume):
    """Pick an architecture from a finished search."""

    stages: ClassVar[tuple[StageName, ...] | None] = ("derive",)


@dataclass(frozen=True)
class Retrain(Resume):
    """Train a run's architecture from scratch, and what it is compared with; then test. 'enas retrain RECIPE
    --architecture TEXT' trains an architecture that you have."""

    stages: ClassVar[tuple[StageName, ...] | None] = ("retrain", "test")


@dataclass(frozen=True)
class Test(Resume):
    """Read the test data, once a network."""

    stages: ClassVar[tuple[StageName, ...] | None] = ("test",)
