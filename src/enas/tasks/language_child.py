"""Training one language model from scratch: a found cell, a random one, or the LSTM they are compared
with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from enas.architecture import Architecture
from enas.constraints import Count, Epochs, PositiveInt, Settings, Width
from enas.data.text import Corpus
from enas.data.windows import Window
from enas.masks import masks_from
from enas.runtime.devices import products_in
from enas.runtime.seeding import generator
from enas.spaces.recurrent.net import CellConfig, ChildCell
from enas.tasks.base import ChildTraining
from enas.tasks.language_model import LanguageModel, LSTMCell, lstm_hidden_of_equal_size
from enas.tasks.language_training import (
    LanguageTrainingConfig,
    Minibatch,
    accumulate_gradient,
    cut,
    descend,
    evaluate,
    memory_mb,
    perplexity,
    rows_of,
    training_windows,
)


@dataclass(frozen=True)
class AveragingConfig(Settings):
    """Averaged SGD: the mean of the weights over the last steps is what is evaluated and kept."""

    enabled: bool = False
    """Whether the weights are averaged at all."""
    patience: Count = 10
    """Averaging starts once an epoch's validation perplexity is worse than the best of all but the last
    `patience` epochs (authors' corrected code; Merity et al. 2017)."""

    def starts(self, valid_nlls: list[float]) -> bool:
        """Whether the last of these validation losses triggers the averaging."""
        earlier = valid_nlls[: -1 - self.patience]
        return self.enabled and bool(earlier) and valid_nlls[-1] > min(earlier)


@dataclass(frozen=True)
class ChildTrainingConfig(Settings):
    """The recipe that a network is trained with from scratch."""

    hidden: Width = 200
    """Width of the cell and of the tied embedding."""
    epochs: Epochs = 150
    """Passes over the training text."""
    training: LanguageTrainingConfig = field(default_factory=LanguageTrainingConfig)
    """Text windows, optimiser, regularisation."""
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    """Averaged SGD."""
    eval_batch: PositiveInt = 64
    """Rows of the validation text, read side by side after every epoch."""


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


def child_parameters(architecture: Architecture, vocabulary: int, hidden: int) -> int:
    """The number of parameters of a child: V·D + (2N + 2)·D² with N computed nodes, the input node
    included."""
    nodes = 1 + sum(decision.kind == "source" for decision in architecture.space.decisions)
    return vocabulary * hidden + (2 * nodes + 2) * hidden**2


class LanguageChildTraining(ChildTraining):
    """A language model and its training on a corpus.

    Random numbers follow from the seed and the step's place (epoch, window).
    """

    shown = ("valid_ppl",)

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        config: ChildTrainingConfig,
        *,
        epochs: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.epochs = epochs
        self.model = model.to(device)
        self.corpus = corpus
        self.config = config
        self.seed = seed
        self.dtype = dtype
        self.optimizer = torch.optim.SGD(self.model.parameters(), config.training.sgd.learning_rate)
        self.train_TB = rows_of(corpus.train, config.training.windows.batch, "train").to(device)
        rows_of(
            corpus.valid, config.eval_batch, "valid"
        )  # too short a text is to be known before the training
        self.total_steps = sum(len(self._windows(epoch)) for epoch in range(epochs))
        self.done = 0
        self.epoch, self.windows_left = 0, self._windows(0)
        self.state: Any = None
        self.loss_sum = 0.0
        self.average: dict[str, Tensor] = {}
        self.averaged_steps = 0
        self.valid_nlls: list[float] = []

    def _windows(self, epoch: int) -> list[Window]:
        return training_windows(len(self.train_TB), self.config.training.windows, self.seed, epoch)

    def step(self) -> dict[str, float]:
        config = self.config.training
        window, rest = self.windows_left[0], self.windows_left[1:]
        if window.start == 0:  # a pass starts from the beginning of every row
            self.state = self.model.initial_state(config.windows.batch)
        self.model.train()
        loss = self._backward(cut(self.train_TB, window), self.epoch, window.start)
        descend(
            self.model,
            self.optimizer,
            config.sgd.rate(self.epoch) * window.length / config.windows.bptt,
            config,
        )
        if self.average:
            self.averaged_steps += 1
            for name, weight in self.model.state_dict().items():
                self.average[name].lerp_(weight, 1 / self.averaged_steps)
        self.windows_left = rest
        self.done += 1
        self.loss_sum += loss
        return {"epoch": self.epoch + 1, "ppl": perplexity(loss)}

    def _backward(self, minibatch: Minibatch, epoch: int, start: int) -> float:
        """Compute the gradient of a window; returns its loss."""
        regularisation = self.config.training.regularisation
        with masks_from(generator(self.seed, "masks", epoch, start)), self._products():
            loss, _, self.state = accumulate_gradient(self.model, minibatch, self.state, regularisation)
        return loss

    def _products(self) -> contextlib.AbstractContextManager[object]:
        return products_in(self.dtype, self.train_TB.device)

    def at_epoch_end(self) -> bool:
        return not self.windows_left

    def end_epoch(self) -> dict[str, float]:
        with self._evaluated(), self._products():
            bptt = self.config.training.windows.bptt
            nll = evaluate(self.model, self.corpus.valid, self.config.eval_batch, bptt)
        best = not self.valid_nlls or nll < min(self.valid_nlls)
        self.valid_nlls.append(nll)
        record = {
            "epoch": self.epoch,
            "loss": self.loss_sum / len(self._windows(self.epoch)),
            "valid_loss": nll,
            "valid_ppl": perplexity(nll),
            "learning_rate": self.config.training.sgd.rate(self.epoch),
            "averaged": float(bool(self.average)),
            "best": float(best),
        }
        if not self.average and self.config.averaging.starts(self.valid_nlls):
            self.average = {name: weight.clone() for name, weight in self.model.state_dict().items()}
            self.averaged_steps = 1
        self.loss_sum = 0.0
        self.epoch += 1
        self.windows_left = self._windows(self.epoch) if self.epoch < self.epochs else []
        return record

    @contextlib.contextmanager
    def _evaluated(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, if there are any."""
        if not self.average:
            yield
            return
        own = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        yield
        self.model.load_state_dict(own)

    def best_weights(self) -> dict[str, Tensor]:
        # An average that the last evaluation has just started holds the very weights that were evaluated.
        return self.average or self.model.state_dict()

    def size(self) -> dict[str, Any]:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {"parameters": parameters, "hidden": self.model.hidden, "epochs": self.epochs}

    def result(self) -> dict[str, Any]:
        return {
            **self.size(),
            "best_epoch": 1 + self.valid_nlls.index(min(self.valid_nlls)),
            "valid_loss": min(self.valid_nlls),
            "valid_ppl": perplexity(min(self.valid_nlls)),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "epoch": self.epoch,
            "windows_left": len(self.windows_left),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": self.state,
            "loss_sum": self.loss_sum,
            "average": self.average,
            "averaged_steps": self.averaged_steps,
            "valid_nlls": self.valid_nlls,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.train_TB.device
        self.done, self.epoch = state["done"], state["epoch"]
        windows = self._windows(self.epoch)
        self.windows_left = windows[len(windows) - state["windows_left"] :]  # none are left at the very end
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        carried = state["state"]
        if isinstance(carried, tuple):
            self.state = tuple(part.to(device) for part in carried)
        else:
            self.state = (
                None if carried is None else carried.to(device)
            )  # there is none before the first step
        self.loss_sum = state["loss_sum"]
        self.average = {name: weight.to(device) for name, weight in state["average"].items()}
        self.averaged_steps = state["averaged_steps"]
        self.valid_nlls = list(state["valid_nlls"])

    def estimate(self) -> tuple[float, float]:
        kept, self.state = self.state, self.model.initial_state(self.config.training.windows.batch)
        minibatch = cut(self.train_TB, self._windows(0)[0])
        self.model.train()
        for _ in range(2):  # the first one warms the kernels up
            began = time.perf_counter()
            self._backward(minibatch, 0, 0)
            seconds = time.perf_counter() - began
            self.optimizer.zero_grad()
        self.state = kept
        return seconds, memory_mb(self.model, minibatch.tokens_TB.numel())
