"""Searching a recurrent cell for a word-level language model: the settings, and the models on a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from enas.architecture import Architecture, Space
from enas.config import Metric, RunConfig, Workshop
from enas.data.sources import TextConfig, load_text
from enas.data.text import Corpus
from enas.retrain import Network, RetrainConfig, load_weights
from enas.runtime.devices import pick_device, products_in
from enas.spaces.recurrent.net import CellConfig
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.language import LanguageSearchTask, SharedConfig
from enas.tasks.language_child import (
    ChildTrainingConfig,
    LanguageChildTraining,
    build_child,
    build_lstm,
    child_parameters,
)
from enas.tasks.language_model import LanguageModel
from enas.tasks.language_training import evaluate, perplexity


@dataclass(frozen=True)
class LanguageRetrainConfig(RetrainConfig):
    """How the found cell is trained from scratch, and what is trained beside it."""

    child: ChildTrainingConfig = field(default_factory=ChildTrainingConfig)
    """The recipe, the same for every network."""
    lstm: bool = True
    """Also train an LSTM of equal size."""


@dataclass(frozen=True)
class RecurrentConfig(RunConfig):
    """Searching a recurrent cell for a word-level language model (paper §2.1 and §3.1)."""

    metric: ClassVar[Metric] = Metric("ppl", lower_is_better=True)
    on_own_data: ClassVar[str] = (
        "enas run recurrent-quick --data.source FOLDER   # train.txt, valid.txt, test.txt of your own"
    )

    retrain: LanguageRetrainConfig = field(default_factory=LanguageRetrainConfig)
    """How the found cell, and what it is compared with, are trained from scratch."""
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

    def references(self) -> list[Network]:
        return [Network("lstm", None, self.seed)] if self.retrain.lstm else []


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
        if network.architecture is not None:
            cell = self.config.cell
            return build_child(network.architecture, vocabulary, child, cell, network.seed)
        any_cell: Architecture = self.config.space.architecture([0] * len(self.config.space.decisions))
        size = child_parameters(any_cell, vocabulary, child.hidden)
        return build_lstm(size, vocabulary, child, network.seed)

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

    def try_out(self, network: Network) -> None:
        self.child_training(network, 1)  # with random lengths, the windows of all epochs take a while

    def trained(self, network: Network, weights: Path) -> LanguageModel:
        model = self.model(network)
        load_weights(model, weights)
        return model.eval()

    def test(self, network: Network, weights: Path) -> dict[str, float]:
        model = self.trained(network, weights).to(self.device)
        bptt = self.config.retrain.child.training.windows.bptt
        with products_in(self.config.dtype, self.device):
            return {"test_ppl": perplexity(evaluate(model, self.corpus.test, 1, bptt))}
