"""Searching a recurrent cell for a word-level language model: the settings, and what is built of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self, cast

from enas.architecture import Architecture, Space
from enas.child_training import ChildTraining
from enas.config import Metric, RunConfig, TakesMemory
from enas.data.sources import load_text
from enas.data.text import Corpus, TextConfig
from enas.retrain import Network, RetrainConfig
from enas.runs.models import Model, WordModel
from enas.runtime.seeding import generator
from enas.shared_weights import SharedWeights
from enas.spaces.recurrent.net import CellConfig, ChildCell, SupernetCell
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.language import LanguageTask
from enas.tasks.language_model import LanguageModel, LSTMCell, lstm_hidden_of_equal_size
from enas.tasks.language_settings import ChildTrainingConfig, SharedConfig


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

    kind: ClassVar[str] = "recurrent"
    metric: ClassVar[Metric] = Metric("ppl", lower_is_better=True)
    of_size: ClassVar[Mapping[TakesMemory, tuple[str, ...]]] = {
        "search": ("shared.training.windows.batch", "shared.hidden"),
        "training": ("retrain.child.training.windows.batch", "retrain.child.hidden"),
    }
    on_own_data: ClassVar[str] = (
        "enas run recurrent-quick --data.source FOLDER   # train.txt, valid.txt, test.txt of your own"
    )
    paper: ClassVar[Mapping[str, str]] = {
        "random": "test perplexity 81.2, found 55.8",
        "identity-or-sigmoid": "perplexity higher by up to 8",
        "relu-and-tanh-switched": "perplexity higher by up to 3",
    }

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

    @cached_property
    def corpus(self) -> Corpus:
        """The text, loaded once."""
        return load_text(self.data)

    def load(self) -> Corpus:
        return self.corpus

    def searched_space(self) -> Space:
        return self.space

    def shared_weights(self) -> SharedWeights:
        shared, vocabulary = self.shared, len(self.corpus.vocabulary)
        supernet = build_supernet(self.space, vocabulary, shared, self.cell, self.seed)
        task = LanguageTask(self.corpus, shared.training, shared.reward, seed=self.seed, **self.hardware)
        return SharedWeights(supernet, self.space, task, shared.average)

    def model(self, network: Network) -> LanguageModel:
        """The untrained model of a network; the LSTM has the size of a cell of the space."""
        child, vocabulary = self.retrain.child, len(self.corpus.vocabulary)
        if network.architecture is not None:
            return build_child(network.architecture, vocabulary, child, self.cell, network.seed)
        parameters = child_parameters(self.space, vocabulary, child.hidden)
        return build_lstm(parameters, vocabulary, child, network.seed)

    def child_training(self, network: Network, epochs: int | None = None) -> ChildTraining:
        child = self.retrain.child
        length = child.epochs if epochs is None else epochs
        training = self.retrain.scheduled(child.training, epochs, child.epochs)
        task = LanguageTask(self.corpus, training, child.reading(), seed=network.seed, **self.hardware)
        return ChildTraining(self.model(network), task, length, child.averaging.starts)

    def described(self, training: ChildTraining) -> Model:
        model = cast(LanguageModel, training.model)
        architecture = model.cell.architecture.to_json() if isinstance(model.cell, ChildCell) else None
        words = self.corpus.vocabulary
        return WordModel(architecture, model.hidden, self.cell, model.dropout, words)

    def alone(self) -> Self:
        return replace(self, retrain=replace(self.retrain, random=0, lstm=False))

    def child_settings(self) -> dict[str, Any]:
        return {"output": self.cell.output}  # what else a cell has is of the supernet

    def references(self) -> list[Network]:
        return [Network("lstm", None, self.seed)] if self.retrain.lstm else []


def build_supernet(
    space: RecurrentSpace, vocabulary: int, config: SharedConfig, cell: CellConfig, seed: int
) -> LanguageModel:
    """The untrained shared weights of a space."""
    weights, training = generator(seed, "shared weights"), config.training
    supernet = SupernetCell(space, config.hidden, cell, training.init_range, weights)
    return LanguageModel(supernet, vocabulary, training.init_range, weights, training.regularisation.dropout)


def build_child(
    architecture: Architecture, vocabulary: int, config: ChildTrainingConfig, cell: CellConfig, seed: int
) -> LanguageModel:
    """The untrained language model of an architecture."""
    weights, training = generator(seed, "child weights"), config.training
    child = ChildCell(architecture, config.hidden, cell, training.init_range, weights)
    return LanguageModel(child, vocabulary, training.init_range, weights, training.regularisation.dropout)


def build_lstm(parameters: int, vocabulary: int, config: ChildTrainingConfig, seed: int) -> LanguageModel:
    """The untrained LSTM language model whose size is nearest to `parameters`."""
    weights, training = generator(seed, "child weights"), config.training
    lstm = LSTMCell(lstm_hidden_of_equal_size(parameters, vocabulary), weights)
    return LanguageModel(lstm, vocabulary, training.init_range, weights, training.regularisation.dropout)


def child_parameters(space: RecurrentSpace, vocabulary: int, hidden: int) -> int:
    """The number of parameters of a child: V·D + (2N + 2)·D² with N computed nodes, the input node included."""
    return vocabulary * hidden + (2 * space.total_nodes + 2) * hidden**2
