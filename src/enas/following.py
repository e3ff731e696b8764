"""What the processes beside process 0 do: they follow it through the stages of a run (`enas.parallel`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from enas import collective, parallel
from enas.architecture import Architecture, Space
from enas.config import TakesMemory
from enas.retrain import Network, Role
from enas.run import Run
from enas.runtime.stop import Stopped, StopRequest
from enas.shared_weights import SharedWeights

Described = tuple[Role, Architecture | None, int]
"""The fields of a `Network`."""


class Trainings:
    """Trainings of a run, each done by one of the processes, from and into the run folder that all of them see."""

    def __init__(self, run: Run, stop: StopRequest, part: str, epochs: int | None) -> None:
        """As for `Run.train`."""
        self.run = run
        self.stop = stop
        self.part = part
        self.epochs = epochs

    @property
    def space(self) -> Space:
        """That of the architectures."""
        return self.run.config.searched_space()

    @parallel.repeated
    def train(self, networks: Sequence[Described]) -> None:
        """Train the networks to the end, or until a stop is requested; what is missing then goes on from its checkpoint."""

        def train(network: Described) -> None:
            if not self.stop.requested:
                with contextlib.suppress(Stopped), parallel.by_itself():
                    self.run.train(Network(*network), self.part, self.stop, self.epochs)

        collective.spread(networks, train)


def described(network: Network) -> Described:
    """A network as it is sent."""
    return network.role, network.architecture, network.seed


class Follower:
    """A process beside process 0, and its copies of what that has `shared`."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.run: Run | None = None

    @property
    def space(self) -> Space:
        """That of the run's architectures."""
        assert self.run is not None
        return self.run.config.searched_space()

    def copy(self, kind: str, *of: Any) -> object:
        """A copy of what process 0 has: the run, which comes first, its search, one of its trainings, or several."""
        if kind == "run":
            self.run = Run.open(Path(*of))
            self.run.config.set_process()
            return self.run
        assert self.run is not None
        if kind == "search":
            weights = self.run.shared_weights()
            weights.trainer.by_examples = self.run.config.search.same_path
            return weights
        if kind == "training":
            network, epochs = of
            return self.run.child_training(Network(*network), epochs).trainer
        return Trainings(self.run, self.stop, *of)

    @contextlib.contextmanager
    def told(self, copies: Sequence[object]) -> Iterator[None]:
        """Inside, what process 0 says in a line is said so here too: what the device refuses, of the newest of the `copies`,
        and errors of the user's code."""
        try:
            yield
        except Exception:
            if self.run is None:
                raise
            searching = any(isinstance(newest, SharedWeights) for newest in copies[-1:])
            work: TakesMemory = "search" if searching else "training"
            with self.run.config.told_later(self.run.folder), self.run.config.refusals_explained(work):
                raise


def follow() -> int:
    """Do what process 0 says, until it ends: raises `SystemExit` with its exit code."""
    with parallel.joined() as processes, StopRequest(parallel.stop_of_any) as stop:
        assert processes is not None  # or nobody would be followed
        follower = Follower(stop)
        with follower.told(processes.copies):
            processes.repeat(follower, stop)
    return 0
