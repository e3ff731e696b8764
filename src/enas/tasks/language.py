"""Language modelling as a task: words of a text, one window after the other, the state carried along (paper, §3.1).

The reward of a cell is c / perplexity on a window of the validation text. Shape letters: T time, B batch, D hidden,
V vocabulary, N targets or architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture
from enas.data.batches import mapped
from enas.data.text import Corpus
from enas.data.windows import Window, batchify, eval_windows, fixed_windows, random_windows
from enas.ops import tied_cross_entropy, tied_nll
from enas.runtime.seeding import generator
from enas.runtime.transfers import queues
from enas.task import BaseTask, Example, Loss, Score, Split
from enas.tasks.language_model import Features, LanguageModel, detach
from enas.tasks.language_settings import (
    LanguageTrainingConfig,
    RegularisationConfig,
    RewardConfig,
    WindowConfig,
)

# ---- the task ----------------------------------------------------------------------------------------------------------


class Minibatch(NamedTuple):
    """Inputs and the words that follow them, [T, B] each."""

    tokens_TB: Tensor
    targets_TB: Tensor
    first: bool = True
    """Whether it begins every row, so that the state before it is zero."""
    rows: slice = slice(None)
    """Where they begin and end, if they are not all."""


class LanguageTask(BaseTask):
    """Predicting the next word of a corpus."""

    watched: ClassVar[str] = "ppl"
    metric: ClassVar[str] = "ppl"
    unit: ClassVar[str] = "word"

    def __init__(
        self,
        corpus: Corpus,
        training: LanguageTrainingConfig,
        reading: RewardConfig,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`reading` says how the validation text is read. Raises `DataError` if a text is too short for its rows."""
        super().__init__(seed=seed, device=device, dtype=dtype, statistics=reading.statistics)
        self.corpus = corpus
        self.training = training
        self.reading = reading
        self.clip, self.l2 = training.sgd.clip, training.regularisation.l2
        self.train_TB = rows_of(corpus.train, training.windows.batch, "train").to(device)
        self.valid_TB = rows_of(corpus.valid, reading.batch, "valid").to(device)
        self._windows: tuple[int, list[Window]] = -1, []
        self.windows(0)  # too short a text is to be known before the training

    def windows(self, epoch: int) -> list[Window]:
        """The windows of an epoch's pass, kept until another is asked for."""
        if self._windows[0] != epoch:
            columns, config = len(self.train_TB), self.training.windows
            self._windows = epoch, training_windows(columns, config, self.seed, epoch)
        return self._windows[1]

    def steps(self, epoch: int) -> int:
        return len(self.windows(epoch))

    def minibatch(self, epoch: int, step: int) -> Minibatch:
        return cut(self.train_TB, self.windows(epoch)[step])

    def part(self, minibatch: Minibatch) -> Minibatch:
        return Minibatch(minibatch.tokens_TB[:2], minibatch.targets_TB[:2])

    def shard(self, minibatch: Minibatch, part: int, parts: int) -> tuple[Minibatch, float]:
        batch = minibatch.tokens_TB.shape[1]
        first, end = batch * part // parts, batch * (part + 1) // parts
        tokens_TB, targets_TB = minibatch.tokens_TB[:, first:end], minibatch.targets_TB[:, first:end]
        return Minibatch(tokens_TB, targets_TB, minibatch.first, slice(first, end)), (end - first) / batch

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        return torch.optim.SGD(parameters, self.training.sgd.learning_rate, fused=self.fused)

    def rate(self, epoch: int) -> float:
        return self.training.sgd.rate(epoch)

    def rate_factor(self, minibatch: Minibatch) -> float:
        return len(minibatch.tokens_TB) / self.training.windows.bptt

    def mask_place(self, epoch: int, step: int) -> tuple[int, ...]:
        return epoch, self.windows(epoch)[step].start

    def loss(
        self, model: nn.Module, minibatch: Minibatch, architecture: Architecture | None, slot: int
    ) -> Loss:
        language_model = cast(LanguageModel, model)
        if minibatch.first:
            state = language_model.initial_state(minibatch.tokens_TB.shape[1])
        else:
            state = mapped(lambda whole_BD: whole_BD[minibatch.rows], self.states[slot])
        found, self.states[slot] = window_gradient(
            language_model, minibatch, state, self.training.regularisation, **path(architecture)
        )
        return found

    def described(self, log: dict[str, float]) -> dict[str, float]:
        return {**log, "ppl": perplexity(log["loss"])}

    # ---- evaluation ----------------------------------------------------------------------------------------------------

    def reward_window(self, purpose: str, draw: int) -> Window:
        """The columns of the validation minibatch of this draw."""
        length = min(self.reading.bptt, len(self.valid_TB) - 1)
        starts = len(self.valid_TB) - length  # how many there are
        if self.reading.windows == "sequential":
            return Window(draw * length % starts, length)
        drawn = torch.randint(starts, (), generator=generator(self.seed, "reward", purpose, draw))
        return Window(int(drawn), length)

    def reward_minibatch(self, purpose: str, draw: int) -> Minibatch:
        return cut(self.valid_TB, self.reward_window(purpose, draw))

    def measure(self, model: nn.Module, minibatch: Minibatch, architecture: Architecture) -> Tensor:
        language_model = cast(LanguageModel, model)
        state = language_model.initial_state(minibatch.tokens_TB.shape[1])
        features = language_model.features(minibatch.tokens_TB, state, **path(architecture))
        return nll(language_model, features, minibatch.targets_TB).mean()

    @property
    def at_once(self) -> int:
        """As many as the proposals of an update: a GPU computes cells side by side in as many launches as one."""
        return 8 if queues(self.device) else 1

    def measure_each(
        self,
        ready: Callable[[Architecture], nn.Module],
        minibatch: Minibatch,
        architectures: Sequence[Architecture],
    ) -> list[Tensor]:
        if len(architectures) == 1:
            return super().measure_each(ready, minibatch, architectures)
        model = cast(LanguageModel, ready(architectures[0]))  # for all of them: nothing is recalibrated here
        inputs_TBD = model.embedding(minibatch.tokens_TB)
        state = model.initial_state(minibatch.tokens_TB.shape[1])
        targets_N = minibatch.targets_TB.flatten()
        return [
            tied_cross_entropy(output_TBD.flatten(0, 1), model.embedding.weight, targets_N)
            for output_TBD in model.cell.outputs_of(inputs_TBD, state, architectures)
        ]

    def rewards_from(self, measured_N: Tensor) -> Tensor:
        return self.reading.scale * torch.exp(-measured_N)

    def describe_reward(self, reward: float) -> dict[str, float]:
        return {"valid_ppl": self.reading.scale / reward if reward > 0 else math.inf}

    def evaluate(self, model: nn.Module, split: Split, architecture: Architecture | None = None) -> Score:
        tokens, batch = (self.corpus.valid, self.reading.batch) if split == "valid" else (self.corpus.test, 1)
        language_model = cast(LanguageModel, model)
        loss = evaluate(language_model, tokens, batch, self.reading.bptt, **path(architecture))
        return {"loss": loss, "ppl": perplexity(loss)}

    def sort_key(self, score: Score) -> tuple[float, ...]:
        return (-score["loss"],)

    # ---- what there is to know -----------------------------------------------------------------------------------------

    def size(self, model: nn.Module) -> dict[str, int]:
        return {"parameters": self.parameters(model), "hidden": cast(LanguageModel, model).hidden}

    def example(self, batch: int | None = None) -> Example:
        """A window of random words, as long as those of the evaluation, with as many rows or with `batch` rows."""
        return self.words(self.reading.bptt, self.reading.batch if batch is None else batch)

    def smallest_example(self) -> Example:
        """One word: every step of a window costs the same."""
        return self.words(1, 1)

    def words(self, length: int, rows: int) -> Example:
        """Random words [T, B]."""
        drawn = torch.randint(
            len(self.corpus.vocabulary), (length, rows), generator=generator(0, "example"), device="cpu"
        )
        return Example((drawn.to(self.device),), {}, rows, length * rows)

    @property
    def data_bytes(self) -> int:
        return self.train_TB.nbytes + self.valid_TB.nbytes

    def kept_bytes(self, model: nn.Module, minibatch: Minibatch, saved: int) -> int:
        """About four arrays [T, B, D] for every node that a cell can compute, and six around it: compiled recurrences keep
        them without autograd."""
        language_model = cast(LanguageModel, model)
        nodes = min(sum(parameter.dim() == 2 for parameter in language_model.cell.parameters()), 12)
        return 4 * minibatch.tokens_TB.numel() * language_model.hidden * (4 * nodes + 6)

    def state_dict(self) -> dict[str, Any]:
        return {"states": dict(self.states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.states = mapped(lambda part_BD: part_BD.to(self.device), state["states"])


def path(architecture: Architecture | None) -> dict[str, Any]:
    """What a call of the model names its architecture by, if it has several."""
    return {} if architecture is None else {"architecture": architecture}


# ---- text --------------------------------------------------------------------------------------------------------------


def rows_of(tokens: Tensor, batch: int, split: str) -> Tensor:
    """The text as [T, B]: B contiguous rows side by side, time first. Raises `DataError` if it is too short for them."""
    return batchify(tokens, batch, split).t().contiguous()


def training_windows(columns: int, config: WindowConfig, seed: int, epoch: int) -> list[Window]:
    """The windows of an epoch's pass; with random lengths they follow from the seed and the epoch."""
    if config.random_length:
        return random_windows(columns, config.bptt, generator(seed, "windows", epoch))
    return fixed_windows(columns, config.bptt)


def cut(rows_TB: Tensor, window: Window) -> Minibatch:
    """The columns of a window, and the same one step ahead."""
    start, length = window
    inputs_TB, targets_TB = rows_TB[start : start + length], rows_TB[start + 1 : start + 1 + length]
    return Minibatch(inputs_TB, targets_TB, start == 0)


# ---- loss --------------------------------------------------------------------------------------------------------------


class WindowLoss(Loss):
    """The loss of a window. The gradient of the embedding's rows is added by hand: autograd's would be of the whole
    vocabulary again."""

    tokens_TB: Tensor
    looked_up_TBD: Tensor
    """The rows, outside of autograd's way to the embedding."""
    weight_VD: Tensor

    def backward(self, share: float) -> None:
        before_VD, self.weight_VD.grad = self.weight_VD.grad, None
        super().backward(share)
        rows_TBD, sum_VD = self.looked_up_TBD.grad, self.weight_VD.grad
        if sum_VD is None:
            self.weight_VD.grad = before_VD
            return
        if rows_TBD is not None and sum_VD.device.type == "cpu":
            sum_VD.index_add_(0, self.tokens_TB.flatten(), rows_TBD.flatten(0, 1))
        elif rows_TBD is not None:  # where index_add_ leaves the order to chance
            sum_VD.index_put_((self.tokens_TB,), rows_TBD, accumulate=True)
        if before_VD is not None:
            sum_VD += before_VD  # once this gradient is whole, as several processes add theirs


def window_gradient(
    model: LanguageModel,
    minibatch: Minibatch,
    state: Any,
    config: RegularisationConfig,
    **cell_settings: Any,
) -> tuple[WindowLoss, Any]:
    """(the loss of a window with regularisers, ready for its backward pass; the state to carry, without gradient)."""
    weight_VD = model.embedding.weight
    looked_up_TBD = F.embedding(minibatch.tokens_TB, weight_VD.detach()).requires_grad_()
    features = model.features(minibatch.tokens_TB, state, looked_up_TBD=looked_up_TBD, **cell_settings)
    loss, total = window_loss(model, features, minibatch.targets_TB, config)
    found = WindowLoss(total, {"loss": loss.detach(), "regularised_loss": total.detach()})
    found.tokens_TB, found.looked_up_TBD, found.weight_VD = minibatch.tokens_TB, looked_up_TBD, weight_VD
    return found, detach(features.state)


def window_loss(
    model: LanguageModel, features: Features, targets_TB: Tensor, config: RegularisationConfig
) -> tuple[Tensor, Tensor]:
    """(mean cross-entropy in nats a token, the same with the activation and slowness terms)."""
    output_ND = features.output_TBD.flatten(0, 1)
    loss = tied_cross_entropy(output_ND, model.embedding.weight, targets_TB.flatten())
    total = loss
    hidden_TBD = features.hidden_TBD
    if config.activation:
        total = total + config.activation * hidden_TBD.square().mean()
    if config.slowness and len(hidden_TBD) > 1:
        total = total + config.slowness * (hidden_TBD[1:] - hidden_TBD[:-1]).square().mean()
    return loss, total


def nll(model: LanguageModel, features: Features, targets_TB: Tensor) -> Tensor:
    """Negative log-likelihood (nats) of every target [T·B]."""
    return tied_nll(features.output_TBD.flatten(0, 1), model.embedding.weight, targets_TB.flatten())


def perplexity(mean_nll: float) -> float:
    """exp of nats a token; infinite where that overflows."""
    return math.exp(mean_nll) if mean_nll < 700 else math.inf


@torch.no_grad()
def evaluate(model: LanguageModel, tokens: Tensor, batch: int, length: int, **cell_settings: Any) -> float:
    """Mean negative log-likelihood (nats a token) of a text, state carried, every target counted once.

    With batch 1 that is every word after the first; with more rows the words that do not fill a row are left out.
    """
    was_training = model.training
    # Otherwise the caller may have put its norms into a mode of their own, for several evaluations.
    if was_training:
        model.eval()
    rows_TB = rows_of(tokens, batch, "evaluated").to(model.embedding.weight.device)
    state = model.initial_state(batch)
    found: list[Tensor] = []
    for window in eval_windows(len(rows_TB), length):
        minibatch = cut(rows_TB, window)
        features = model.features(minibatch.tokens_TB, state, **cell_settings)
        found.append(nll(model, features, minibatch.targets_TB))
        state = detach(features.state)
    if was_training:
        model.train()
    every_N = torch.cat(found).cpu().double()  # at once, and there: not every device has float64
    return sum(float(nll_N.sum()) for nll_N in every_N.split([len(nll_N) for nll_N in found])) / len(every_N)
