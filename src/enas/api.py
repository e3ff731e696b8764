"""Search, train and compare from Python, a script or a notebook alike.

    found = enas.search(net, task, run="runs/mine", epochs=20)
    model = enas.train(found, random=3)
    verdict = enas.compare("runs/mine", seeds=6)

Every call goes on from where it was stopped, and returns at once where all is done. What is in the run folder is what the
commands make, so `enas show`, `enas rank` and the others work on it: by themselves, if the network and the task stand in a
file under names of their own, a script's or a module's; otherwise only this program has them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import nn

from enas.architecture import Architecture, Space
from enas.errors import ConfigError, RunFolderError, did_you_mean, shown
from enas.evidence.compare import CompareConfig, compare_run
from enas.evidence.comparison import Comparison
from enas.evidence.variants import with_settings
from enas.executors import ExecutorName
from enas.paths import user_path
from enas.recipes import named_controller
from enas.recipes.files import refuse_while_importing
from enas.recipes.origin import InMemory, NetworkFile
from enas.report.summary import table
from enas.runs.network import Net, NetworkConfig, OfTask
from enas.runtime.launch import started_as
from enas.runtime.lock import folder_of_run
from enas.runtime.progress import say
from enas.runtime.stop import Stopped
from enas.settings import FREE, settings_for
from enas.stages import Run, StageName, execute, put_architecture
from enas.tasks import named_task

AnyPath = str | os.PathLike[str]

_begun: dict[Path, NetworkConfig] = {}
"""The runs that this program has begun or gone on with, by their folders."""


@dataclass(frozen=True, repr=False)
class Found:
    """What a search has found."""

    architecture: Architecture
    run: Path
    """The folder of the search."""
    config: NetworkConfig = field(compare=False)
    """The settings of the search, with its network and its task."""

    @property
    def space(self) -> Space:
        """What might have been chosen."""
        return self.architecture.space

    def __repr__(self) -> str:
        return f"<found in {self.run}: {self.architecture}>"


def search(
    network: Net, task: OfTask | str, run: AnyPath, *, epochs: int | None = None, **settings: object
) -> Found:
    """Search an architecture, or go on with the search in this folder, and pick one.

    Args:
        network: a module with choices in it, or one by the contract of `enas.searchable`; or a function or class that makes
            one, whose weights then follow from the seed. A module itself is not changed.
        task: what it is trained for; a function that makes a task; or the name of one of another package.
        run: the folder of the run.
        epochs: passes over the training data in the search.
        settings: further settings of `enas.NetworkConfig` by their names, as `seed=3`, `controller="lstm"` or
            `**{"search.proposals": 4}`; a name may have dashes, as its flag has. Where the search is in the folder already,
            those are taken over that may change at any time, such as `threads`; those of trainings stay as they are there.

    Raises `ConfigError` for what cannot work, `RunFolderError` if the folder holds a search of other settings, and `Stopped`
    after saving on Ctrl-C.
    """
    refuse_while_importing("enas.search")
    if isinstance(task, str):
        task = named_task(task)
    origin = NetworkFile.of(network, task) or InMemory()
    config = NetworkConfig(network=network, task=task, origin=origin)
    _ = config.own_task  # or there is none
    config, folder = changed(config, settings, epochs=("search.epochs", epochs)), user_path(os.fspath(run))
    stages: tuple[StageName, ...] = ("search", "derive")
    with held(folder):
        if (folder / "config.json").exists():
            opened = Run.open(folder, recipe=config)
            check_same(opened, config)
            free = {name: value for name, value in settings.items() if name.replace("-", "_") in FREE}
            if (now := changed(settings_of(opened), free)) != opened.config:
                opened = rewritten(opened, now)
        else:
            opened = Run.create(folder, config, stages)
        say(f"run folder: {folder}")
        execute(opened, stages)
        return Found(opened.architecture(), folder, remembered(opened))


def train(
    found: Found,
    task: OfTask | None = None,
    run: AnyPath | None = None,
    *,
    epochs: int | None = None,
    random: int | None = None,
    **settings: object,
) -> nn.Module:
    """Train what was found from scratch, test it if the task has test data, say how it does, and return it in evaluation
    mode.

    Args:
        found: what a search found.
        task: in place of the search's.
        run: a folder other than the search's for the training.
        epochs: passes over the training data.
        random: how many random architectures are trained beside it, by the same recipe.
        settings: further settings, as for `search`.

    Raises as `search`.
    """
    refuse_while_importing("enas.train")
    short = {"epochs": ("retrain.child.epochs", epochs), "random": ("retrain.random", random)}
    folder = found.run if run is None else user_path(os.fspath(run))
    stages: tuple[StageName, ...] = ("retrain", "test")
    with held(folder):
        if (folder / "config.json").exists():
            opened = Run.open(folder, recipe=given(found.config, task))
            if not (folder / "architecture.json").exists():  # it was stopped before there was one
                put_architecture(folder, found.architecture)
            if opened.architecture() != found.architecture:
                raise RunFolderError(f"{folder} has another architecture; choose another run=")
            opened = rewritten(opened, changed(settings_of(opened), settings, **short))
        else:
            config = changed(given(found.config, task), settings, **short)
            opened = Run.create(folder, config, stages)
            put_architecture(folder, found.architecture)
        remembered(opened)
        execute(opened, stages)
        say(table(opened.results(), opened.config.metric))
        return opened.found_model()


class CompareOptions(TypedDict, total=False):
    """The options of `enas compare`, of `enas.evidence.compare.CompareConfig`."""

    seeds: int
    samples: int
    rivals: str
    epochs: int | None
    workers: int | None
    executor: ExecutorName | None
    ray_address: str | None


def compare(run: Found | AnyPath, **options: Unpack[CompareOptions]) -> Comparison:
    """Was the search worth it? Compare its method with random architectures and what needs no shared weights.

    `options` are those of `enas compare`: `seeds`, `samples`, `rivals`, `epochs`, `workers`, `executor`, `ray_address`. What
    is returned has all numbers, and as a string the verdict. Raises `ConfigError` for an option that makes no sense,
    `RunFolderError` if the search is not finished, and `Stopped` after saving on Ctrl-C.
    """
    refuse_while_importing("enas.compare")
    known = CompareOptions.__annotations__
    for name in options:
        if name not in known:
            raise ConfigError(
                f"enas.compare: there is no option {shown(name)}; {did_you_mean(name, known)}There are {', '.join(known)}"
            )
    folder = run.run if isinstance(run, Found) else user_path(os.fspath(run))
    recipe = run.config if isinstance(run, Found) else _begun.get(folder.absolute())
    opened = Run.open(folder, recipe=recipe)
    usual = min(CompareConfig.samples, opened.config.searched_space().count())
    wanted: CompareOptions = {"samples": usual, **options}
    asked = replace(CompareConfig(), **wanted)
    with held(folder):
        opened.config.set_process()
        return compare_run(opened, asked)


# ---- what these share --------------------------------------------------------------------------------------------------


def changed(
    config: NetworkConfig, settings: Mapping[str, object], **short: tuple[str, object]
) -> NetworkConfig:
    """The config with other settings, some of them by a `short` name: the whole one, and the value if it is not None.

    Raises `ConfigError` if one is given by both names, and as `with_settings`.
    """
    changes = {name.replace("-", "_"): value for name, value in settings.items()}
    for name, (whole, value) in short.items():
        if value is not None and changes.setdefault(whole, value) is not value:
            raise ConfigError(
                f"{name} and {whole} are one setting, which is given twice: leave one of them out"
            )
    controller = changes.get("controller")
    if isinstance(controller, str):
        space = config.searched_space().name
        changes["controller"] = named_controller(controller, space)
    found = with_settings(config, changes, list(short))
    assert isinstance(found, NetworkConfig)
    return found


def given(config: NetworkConfig, task: OfTask | None) -> NetworkConfig:
    """The config, for another task if there is one."""
    if task is None or task is config.task:
        return config
    origin = NetworkFile.of(config.network, task) or InMemory()
    return replace(config, task=task, origin=origin)


def check_same(run: Run, wanted: NetworkConfig) -> None:
    """Raise `ConfigError` naming the first setting of the search that is not the one it was begun with."""
    for work in ("search", "derive"):
        then, now = settings_for(work, run.config), settings_for(work, wanted)
        for name, value in now.items():
            if then.get(name) != value:
                raise ConfigError(
                    f"{name} is {shown(then.get(name))} in {run.run_file}, not {shown(value)}: give the settings that the "
                    "run was begun with, or another run="
                )


def settings_of(run: Run) -> NetworkConfig:
    """The config of a run of this kind."""
    assert isinstance(run.config, NetworkConfig)
    return run.config


def rewritten(run: Run, config: NetworkConfig) -> Run:
    """The run with other settings, which config.json then has. Raises `RunFolderError`, and writes nothing, if the data are
    not those that it began with."""
    found = Run(run.folder, config, run.stages)
    _ = found.data
    found.write_config()
    return found


def remembered(run: Run) -> NetworkConfig:
    """The config of a run, which `compare` then finds by the folder."""
    _begun[run.folder.absolute()] = settings_of(run)
    return settings_of(run)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, the folder is there, and this call's alone; afterwards torch has as many threads as before. A stop says how to
    go on. Raises `ConfigError` in one of several processes of torchrun."""
    if started_as()[1] > 1:
        raise ConfigError(
            "a script is one process: start it without torchrun, or its recipe with 'torchrun ... -m -- enas run FILE'"
        )
    threads = torch.get_num_threads()
    try:
        with folder_of_run(folder):
            yield
    except Stopped as stopped:
        said = str(stopped).partition(" Continue with")[0]
        stopped.args = (f"{said} The same call goes on from there.",)
        raise
    finally:
        torch.set_num_threads(threads)
