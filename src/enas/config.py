"""A run as one complete, typed value: every setting, and how to build what the stages work with.

A recipe (`enas.recipes`) is a function that returns one of these. The stages know only `RunConfig`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import nn

from enas.architecture import Space
from enas.constraints import Seed, Settings, Threads
from enas.controllers import ControllerConfig, IndependentConfig
from enas.derive import DeriveConfig
from enas.errors import ConfigError
from enas.retrain import Network, RetrainConfig
from enas.search import SearchConfig
from enas.tasks.base import ChildTraining, SearchTask


class Metric(NamedTuple):
    """What networks are compared by: the keys of a result are `valid_NAME` and, of its test, `test_NAME`."""

    name: str
    lower_is_better: bool

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`."""
        return a < b if self.lower_is_better else a > b


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class RunConfig(Settings, ABC):
    """What every run has, whatever its space and task."""

    metric: ClassVar[Metric]
    """What networks are compared by."""
    on_own_data: ClassVar[str]
    """A command that runs the quick recipe on data of one's own, and what those are, as a comment."""

    seed: Seed = 0
    """Every random number of the run follows from it."""
    device: str = "auto"
    """`auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, …, `mps`."""
    threads: Threads | None = None
    """Threads of the CPU that are used; None leaves the choice to PyTorch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of the operands of the large matrix products; weights, states and sums stay fp32."""
    allow_slow: bool = False
    """Take bf16 also where the processor would emulate it, many times slower than fp32."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard (needs `pip install enas[tensorboard]`)."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """Length and rhythm of the search."""
    controller: ControllerConfig = field(default_factory=IndependentConfig)
    """What proposes architectures, and how it learns."""
    derive: DeriveConfig = field(default_factory=DeriveConfig)
    """How an architecture is picked at the end of the search."""
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    """How the found architecture, and what it is compared with, are trained from scratch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        asked, kept = self.derive.checkpoints, self.search.keep_checkpoints
        if asked > kept:
            raise ConfigError(
                f"derive.checkpoints = {asked} needs as many kept: raise search.keep_checkpoints, which is {kept}"
            )

    @abstractmethod
    def searched_space(self) -> Space:
        """What may be chosen."""

    @abstractmethod
    def load(self) -> Workshop:
        """Load the data; returns what builds models on it."""

    def references(self) -> list[Network]:
        """Networks of another kind than the space's that the found architecture is compared with: none by default."""
        return []

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of `precision`."""
        return DTYPES[self.precision]


class Workshop(ABC):
    """A run's data, loaded once, and the models that are trained on them."""

    data_hash: str
    description: str

    @abstractmethod
    def search_task(self) -> SearchTask:
        """The supernet with its data, untrained."""

    @abstractmethod
    def child_training(self, network: Network, epochs: int | None = None) -> ChildTraining:
        """A network's training from scratch, at its start; `epochs` shortens it."""

    def try_out(self, network: Network) -> None:
        """Build a network and its training, as retraining will, and train nothing. Raises an `EnasError` for settings that
        cannot work."""
        self.child_training(network)

    @abstractmethod
    def trained(self, network: Network, weights: Path) -> nn.Module:
        """A network as an ordinary module, with weights that its training left."""

    @abstractmethod
    def test(self, network: Network, weights: Path) -> dict[str, float]:
        """The metrics of a trained network on the test data."""
