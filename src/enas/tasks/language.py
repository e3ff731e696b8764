"""Searching a recurrent cell for a language model: the shared weights, one window of text at a time.

Paper §2.2 and §3.1. The reward of a cell is c / perplexity on a minibatch of the validation text.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from enas.architecture import Architecture
from enas.constraints import PartialShare, PositiveFloat, PositiveInt, Settings, Width
from enas.data.text import Corpus
from enas.data.windows import Window
from enas.errors import NotFiniteError
from enas.masks import masks_from
from enas.norms import batch_statistics, kept_statistics, norms_of
from enas.runtime.devices import products_in
from enas.runtime.seeding import generator
from enas.spaces.recurrent.net import CellConfig, SupernetCell
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.averaging import AveragedWeights
from enas.tasks.base import SearchTask
from enas.tasks.language_model import LanguageModel
from enas.tasks.language_training import (
    LanguageTrainingConfig,
    Minibatch,
    accumulate_gradient,
    cut,
    descend,
    evaluate,
    memory_mb,
    nll,
    perplexity,
    rows_of,
    training_windows,
)


@dataclass(frozen=True)
class RewardConfig(Settings):
    """How a cell is rewarded."""

    scale: PositiveFloat = 80.0
    """The c of c / perplexity."""
    batch: PositiveInt = 64
    """Rows of the validation minibatch."""
    bptt: PositiveInt = 35
    """Time steps of the validation minibatch; its state starts at zero and is not carried."""
    windows: Literal["random", "sequential"] = "random"
    """Where the minibatch of an update is taken from: anywhere (first released code), or the next window in
    order (corrected code)."""
    statistics: Literal["batch", "moving"] = "batch"
    """Which statistics the supernet's batch norm uses for rewards; without batch norm it makes no
    difference."""


@dataclass(frozen=True)
class SharedConfig(Settings):
    """How the shared weights are built, trained and used for rewards."""

    hidden: Width = 200
    """Width of the cell and of the tied embedding."""
    training: LanguageTrainingConfig = field(default_factory=LanguageTrainingConfig)
    """The recipe of the shared weights' steps."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The controller's reward."""
    average: PartialShare = 0.0
    """Share of a moving average of the shared weights that is kept at every training step. Rewards are computed with the
    average; 0 computes them with the weights themselves (paper, authors)."""


class LanguageSearchTask(SearchTask):
    """The supernet of a recurrent space on a corpus."""

    space: RecurrentSpace

    def __init__(
        self,
        space: RecurrentSpace,
        cell: CellConfig,
        corpus: Corpus,
        config: SharedConfig,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.space = space
        self.config = config
        self.seed = seed
        self.dtype = dtype
        training = config.training
        weights = generator(seed, "shared weights")
        supernet = SupernetCell(space, config.hidden, cell, training.init_range, weights)
        dropout = training.regularisation.dropout
        self.model = LanguageModel(
            supernet, len(corpus.vocabulary), training.init_range, weights, dropout
        ).to(device)
        self.averaged = AveragedWeights(self.model, config.average)
        self.optimizer = torch.optim.SGD(self.model.parameters(), training.sgd.learning_rate)
        self.train_TB = rows_of(corpus.train, training.windows.batch, "train").to(device)
        self.valid_TB = rows_of(corpus.valid, config.reward.batch, "valid").to(device)
        self.states: list[Any] = []
        self._windows: dict[int, list[Window]] = {}

    def windows(self, epoch: int) -> list[Window]:
        """The windows of an epoch's pass."""
        if epoch not in self._windows:
            windows = training_windows(len(self.train_TB), self.config.training.windows, self.seed, epoch)
            self._windows = {epoch: windows}
        return self._windows[epoch]

    def steps(self, epoch: int) -> int:
        return len(self.windows(epoch))

    def train_step(self, epoch: int, step: int, architectures: Sequence[Architecture]) -> dict[str, float]:
        config = self.config.training
        window = self.windows(epoch)[step]
        if step == 0:  # a pass starts from the beginning of every row
            self.states = [self.model.initial_state(config.windows.batch) for _ in architectures]
        self.model.train()
        loss, total = self._backward(cut(self.train_TB, window), architectures, epoch, step)
        rate = config.sgd.rate(epoch) * (window.length / config.windows.bptt)
        norm = descend(self.model, self.optimizer, rate, config)
        self.averaged.update()
        return {
            "loss": loss,
            "ppl": perplexity(loss),
            "regularised_loss": total,
            "gradient_norm": norm,
            "learning_rate": rate,
        }

    def _backward(
        self, minibatch: Minibatch, architectures: Sequence[Architecture], epoch: int, step: int
    ) -> tuple[float, float]:
        """Accumulate the mean gradient over the architectures; returns the mean loss, without and with
        regularisers."""
        regularisation = self.config.training.regularisation
        share = 1 / len(architectures)
        loss_sum = total_sum = 0.0
        for slot, architecture in enumerate(architectures):
            try:
                with masks_from(generator(self.seed, "masks", epoch, step, slot)), self.products():
                    loss, total, self.states[slot] = accumulate_gradient(
                        self.model,
                        minibatch,
                        self.states[slot],
                        regularisation,
                        share=share,
                        whose=f" of architecture '{architecture}'",
                        architecture=architecture,
                    )
            except NotFiniteError:
                self.optimizer.zero_grad()  # of the architectures before
                raise
            loss_sum += loss * share
            total_sum += total * share
        return loss_sum, total_sum

    def reward_window(self, purpose: str, draw: int) -> Window:
        """The columns of the validation minibatch of this draw."""
        config = self.config.reward
        length = min(config.bptt, len(self.valid_TB) - 1)
        starts = len(self.valid_TB) - length  # how many there are
        if config.windows == "sequential":
            return Window(draw * length % starts, length)
        drawn = torch.randint(starts, (), generator=generator(self.seed, "reward", purpose, draw))
        return Window(int(drawn), length)

    @torch.no_grad()
    def rewards(self, architectures: Sequence[Architecture], purpose: str, draw: int) -> Tensor:
        config = self.config.reward
        minibatch = cut(self.valid_TB, self.reward_window(purpose, draw))
        state_BD = self.averaged.model.initial_state(config.batch)
        losses = []
        with self.evaluating() as model, self.products():
            for architecture in architectures:
                features = model.features(minibatch.tokens_TB, state_BD, architecture=architecture)
                losses.append(nll(model, features, minibatch.targets_TB).mean())
        return config.scale * torch.exp(-torch.stack(losses).cpu())

    def scores(self, architectures: Sequence[Architecture]) -> list[float]:
        # The state is carried along each row, as when a trained network is evaluated.
        reward, tokens = self.config.reward, self.valid_TB.t().flatten()
        with self.evaluating() as model, self.products():
            return [
                -evaluate(model, tokens, reward.batch, reward.bptt, architecture=a) for a in architectures
            ]

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[LanguageModel]:
        """Inside, the model to reward with drops nothing, and its norms normalise as rewards want it."""
        model = self.averaged.model.eval()
        with batch_statistics(norms_of(model) if self.config.reward.statistics == "batch" else []):
            yield model

    def products(self) -> contextlib.AbstractContextManager[object]:
        """Inside, products take operands of the run's precision."""
        return products_in(self.dtype, self.train_TB.device)

    def describe_reward(self, reward: float) -> dict[str, float]:
        return {"valid_ppl": self.config.reward.scale / reward if reward > 0 else math.inf}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "states": self.states,
            **self.averaged.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        device = self.train_TB.device
        self.states = [part.to(device) for part in state["states"]]
        self.averaged.load_state_dict(state)

    def from_average(self) -> contextlib.AbstractContextManager[None]:
        return self.averaged.adopted()

    def estimate(self) -> tuple[float, float, float]:
        architecture = self.space.architecture([0] * len(self.space.decisions))
        states, self.states = self.states, [self.model.initial_state(self.config.training.windows.batch)]
        minibatch = cut(self.train_TB, self.windows(0)[0])
        seconds = []
        for _ in range(2):  # the first one warms the kernels up
            self.model.train()
            with kept_statistics(norms_of(self.model)):
                began = time.perf_counter()
                self._backward(minibatch, [architecture], -1, 0)
                self.optimizer.zero_grad()
                middle = time.perf_counter()
                self.rewards([architecture], "estimate", 0)
                seconds.append((middle - began, time.perf_counter() - middle))
        self.states = states
        return *seconds[-1], memory_mb(self.model, minibatch.tokens_TB.numel()) + self.averaged.mib
