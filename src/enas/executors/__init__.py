"""Where trainings run that are done side by side: executors, found by name and imported when one is asked for.

`local` is processes of this machine, `ray` a Ray cluster, `slurm` a Slurm cluster. Whichever it is, a training comes out the
same, bit for bit on equal processors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from enas.constraints import Settings, Threads
from enas.errors import ConfigError, shown
from enas.runtime.launch import started_as

if TYPE_CHECKING:
    from enas.config import RunConfig
    from enas.trainings import Executor

ExecutorName = Literal["local", "ray", "slurm"]

CLASSES: dict[ExecutorName, str] = {"local": "LocalExecutor", "ray": "RayExecutor", "slurm": "SlurmExecutor"}
"""What the module of each name defines."""


@dataclass(frozen=True, kw_only=True)
class Where(Settings):
    """Where the trainings of a command run, if not where its run says."""

    executor: ExecutorName | None = None
    """Where trainings run side by side: in processes of this machine (local), or on a cluster; by default as the run
    says."""
    ray_address: str | None = None
    """HOST:PORT of the Ray cluster, or `auto`; by default as the run says."""

    def applied(self, config: RunConfig) -> RunConfig:
        """The settings of a run, with what is given here."""
        executor = config.executor if self.executor is None else self.executor
        address = config.ray_address if self.ray_address is None else self.ray_address
        return replace(config, executor=executor, ray_address=address)


@dataclass(frozen=True, kw_only=True)
class SideBySide(Where):
    """How the trainings of a command run side by side."""

    workers: Threads | None = None
    """Trainings at the same time; by default as many as there are cores for, or as the cluster has room for."""


def executor_for(config: RunConfig, workers: int | None = None) -> Executor:
    """What trains the jobs of a run, up to `workers` at a time.

    Raises `ConfigError` if what an executor needs is not installed, or its cluster cannot be reached.
    """
    name = config.executor
    if config.origin is not None and not config.origin.importable:
        from enas.executors.local import ThisProcess

        return ThisProcess(config)
    if name != "local" and ":" in config.device:
        raise ConfigError(
            f"--device {shown(config.device)} is one of this machine; with --executor {name}, which chooses among those of "
            "many, name only its kind"
        )
    try:
        module = import_module(f"enas.executors.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--executor {name} needs {error.name}, which is not installed: pip install 'enas[{name}]'"
        ) from error
    found: Executor = getattr(module, CLASSES[name]).for_run(config, workers)
    return found


def in_stages(config: RunConfig) -> bool:
    """Whether the stages of a run train side by side as well: on a cluster they do, and on several GPUs without
    torchrun. Here they do if the run says how many threads a training takes, as last digits may depend on that."""
    from enas.runtime.devices import gpus_of, pick_device

    if config.executor != "local" or config.threads is not None:
        return True
    return started_as()[1] == 1 and len(gpus_of(pick_device(config.device))) > 1
