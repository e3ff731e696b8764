"""A run as one complete, typed value: every setting, and how to build what the stages work with.

A recipe (`enas.recipes`) is a function that returns one of these. The stages know only `RunConfig`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import nn

from enas.architecture import Architecture, Space
from enas.controllers.config import ControllerConfig, IndependentConfig
from enas.data.sources import TextConfig, load_text
from enas.data.text import Corpus
from enas.derive import DeriveConfig
from enas.retrain import Network, RetrainConfig
from enas.runtime.devices import pick_device
from enas.search import SearchConfig
from enas.spaces.recurrent.net import CellConfig
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.base import ChildTraining, SearchTask
from enas.tasks.language import LanguageSearchTask, SharedConfig
from enas.tasks.language_child import LanguageChildTraining, build_child, build_lstm, child_parameters
from enas.tasks.language_model import LanguageModel
from enas.tasks.language_training import evaluate, perplexity

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class RunConfig(ABC):
    """What every run has, whatever its space and task."""

    seed: int = 0
    """Every random number of the run follows from it."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, …, `mps`."""
    threads: int | None = None
    """Threads of the CPU that are used; None leaves the choice to PyTorch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of the operands of the large matrix products; weights, states and sums stay fp32."""
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

    @abstractmethod
    def searched_space(self) -> Space:
        """What may be chosen."""

    @abstractmethod
    def load(self) -> Workshop:
        """Load the data; returns what builds models on it."""

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

    @abstractmethod
    def trained(self, network: Network, weights: Path) -> nn.Module:
        """A network as an ordinary module, with weights that its training left."""

    @abstractmethod
    def test(self, network: Network, weights: Path) -> dict[str, float]:
        """The metrics of a trained network on the test data."""


@dataclass(frozen=True)
class RecurrentConfig(RunConfig):
    """Searching a recurrent cell for a word-level language model (paper §2.1 and §3.1)."""

    data: TextConfig = field(default_factory=TextConfig)
    """The text."""
    space: RecurrentSpace = field(default_factory=RecurrentSpace)
    """The cells that may be chosen."""
    cell: CellConfig = field(default_factory=CellConfig)
    """How cells compute and share weights."""
    shared: SharedConfig = field(default_factory=SharedConfig)
    """The shared weights and the reward."""

    def searched_space(self) -> Space:
        return self.space

    def load(self) -> Workshop:
        return RecurrentWorkshop(self)


class RecurrentWorkshop(Workshop):
    """The corpus of a recurrent run, and its models."""

    def __init__(self, config: RecurrentConfig) -> None:
        self.config = config
        self.corpus: Corpus = load_text(config.data)
        self.data_hash = self.corpus.hash
        self.description = str(self.corpus)

    @cached_property
    def device(self) -> torch.device:
        """The device that everything is on."""
        return pick_device(self.config.device)

    def search_task(self) -> LanguageSearchTask:
        config = self.config
        return LanguageSearchTask(
            config.space,
            config.cell,
            self.corpus,
            config.shared,
            seed=config.seed,
            device=self.device,
            dtype=config.dtype,
        )

    def model(self, network: Network) -> LanguageModel:
        """The untrained model of a network; the LSTM has the size of a cell of the space."""
        child, vocabulary = self.config.retrain.child, len(self.corpus.vocabulary)
        init_range = child.training.init_range
        if network.architecture is not None:
            cell = self.config.cell
            return build_child(network.architecture, vocabulary, child.hidden, cell, init_range, network.seed)
        any_cell: Architecture = self.config.space.architecture([0] * len(self.config.space.decisions))
        size = child_parameters(any_cell, vocabulary, child.hidden)
        return build_lstm(size, vocabulary, init_range, network.seed)

    def child_training(self, network: Network, epochs: int | None = None) -> LanguageChildTraining:
        return LanguageChildTraining(
            self.model(network),
            self.corpus,
            self.config.retrain.child,
            epochs=self.config.retrain.child.epochs if epochs is None else epochs,
            seed=network.seed,
            device=self.device,
            dtype=self.config.dtype,
        )

    def trained(self, network: Network, weights: Path) -> LanguageModel:
        model = self.model(network)
        model.load_state_dict(safetensors.torch.load(weights.read_bytes()))
        return model.eval()

    def test(self, network: Network, weights: Path) -> dict[str, float]:
        model = self.trained(network, weights).to(self.device)
        bptt = self.config.retrain.child.training.windows.bptt
        return {"test_ppl": perplexity(evaluate(model, self.corpus.test, 1, bptt, dtype=self.config.dtype))}
