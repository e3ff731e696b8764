"""One training step of a language model: loss, regularisers, clipping, SGD; and exact evaluation.

The search trains the shared weights with it and the retraining stage a child, so that both follow the same
recipe. Shape letters: T time, B batch, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.constraints import Count, PositiveFloat, PositiveInt, Settings, Several, SomeShare, Weight
from enas.data.windows import Window, batchify, eval_windows, fixed_windows, random_windows
from enas.errors import NotFiniteError
from enas.ops import tied_cross_entropy, tied_nll
from enas.runtime.devices import as_they_are
from enas.runtime.seeding import generator
from enas.tasks.language_model import DropoutConfig, Features, LanguageModel, detach


@dataclass(frozen=True)
class RegularisationConfig(Settings):
    """What keeps a language model from overfitting."""

    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    """Variational dropout, place by place."""
    l2: Weight = 1e-7
    """Weight c of c·Σw² over the weights that the step uses (PyTorch's weight_decay would be 2c)."""
    activation: Weight = 0.0
    """Weight of mean(h_t²): activation regularisation (Merity et al. 2017)."""
    slowness: Weight = 0.0
    """Weight of mean((h_t - h_{t-1})²) within a window: slowness, or temporal activation regularisation."""


@dataclass(frozen=True)
class SGDConfig(Settings):
    """Plain SGD with a clipped gradient."""

    learning_rate: PositiveFloat = 20.0
    """Multiplies the gradient of the mean loss per token; with random window lengths also multiplied by
    length/bptt."""
    decay: SomeShare = 0.96
    """Factor on the learning rate after every epoch, from `decay_from` on; 1 keeps it constant."""
    decay_from: Count = 15
    """The first epoch, counted from 1, after which the learning rate is decayed."""
    clip: PositiveFloat = 0.25
    """Bound on the global norm of the gradient."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch counted from 0."""
        return self.learning_rate * self.decay ** max(0, epoch + 1 - self.decay_from)


@dataclass(frozen=True)
class WindowConfig(Settings):
    """How the training text is cut."""

    batch: PositiveInt = 64
    """Rows the text is cut into, read side by side."""
    bptt: Several = 35
    """Time steps the gradient goes back through; the state is carried from window to window."""
    random_length: bool = False
    """Whether window lengths vary around `bptt` as in the authors' corrected code, rather than all being
    `bptt`."""


@dataclass(frozen=True)
class LanguageTrainingConfig(Settings):
    """A whole recipe of training: text windows, optimiser, regularisation."""

    windows: WindowConfig = field(default_factory=WindowConfig)
    """How the training text is cut."""
    sgd: SGDConfig = field(default_factory=SGDConfig)
    """The optimiser."""
    regularisation: RegularisationConfig = field(default_factory=RegularisationConfig)
    """Dropout, L2, activation and slowness terms."""
    init_range: PositiveFloat = 0.04
    """Weights start as U(-init_range, init_range)."""


class Minibatch(NamedTuple):
    """Inputs and the words that follow them, [T, B] each."""

    tokens_TB: Tensor
    targets_TB: Tensor


def rows_of(tokens: Tensor, batch: int, split: str) -> Tensor:
    """The text as [T, B]: B contiguous rows side by side, time first. Raises `DataError` if it is too short
    for them."""
    return batchify(tokens, batch, split).t().contiguous()


def training_windows(columns: int, config: WindowConfig, seed: int, epoch: int) -> list[Window]:
    """The windows of an epoch's pass; with random lengths they follow from the seed and the epoch."""
    if config.random_length:
        return random_windows(columns, config.bptt, generator(seed, "windows", epoch))
    return fixed_windows(columns, config.bptt)


def cut(rows_TB: Tensor, window: Window) -> Minibatch:
    """The columns of a window, and the same one step ahead."""
    start, length = window
    return Minibatch(rows_TB[start : start + length], rows_TB[start + 1 : start + 1 + length])


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


def accumulate_gradient(
    model: LanguageModel,
    minibatch: Minibatch,
    state: Any,
    config: RegularisationConfig,
    *,
    share: float = 1.0,
    whose: str = "",
    **cell_settings: Any,
) -> tuple[float, float, Any]:
    """Add `share` times the gradient of a window to the parameters.

    Returns (loss, loss with regularisers, state to carry with the gradient stopped). Raises `NotFiniteError`, with
    no gradient added, if the loss is NaN or infinite; `whose` says in its message whose loss that is.
    """
    weight_VD = model.embedding.weight
    looked_up_TBD = F.embedding(minibatch.tokens_TB, weight_VD.detach()).requires_grad_()
    features = model.features(minibatch.tokens_TB, state, looked_up_TBD=looked_up_TBD, **cell_settings)
    loss, total = window_loss(model, features, minibatch.targets_TB, config)
    if not math.isfinite(value := float(total.detach())):
        raise NotFiniteError(f"the loss{whose} is {value}")
    with as_they_are(total.device):  # the backward pass has its types from the forward pass
        (total * share).backward()
    if weight_VD.grad is not None and looked_up_TBD.grad is not None:
        add_to_rows(weight_VD.grad, minibatch.tokens_TB, looked_up_TBD.grad)
    return float(loss.detach()), value, detach(features.state)


def add_to_rows(sum_VD: Tensor, tokens_TB: Tensor, rows_TBD: Tensor) -> None:
    """Add a row for every token, in the tokens' order: a gradient of the embedding in place of autograd's, which is of
    the whole vocabulary again."""
    if sum_VD.device.type == "cpu":
        sum_VD.index_add_(0, tokens_TB.flatten(), rows_TBD.flatten(0, 1))
    else:  # where index_add_ leaves the order to chance
        sum_VD.index_put_((tokens_TB,), rows_TBD, accumulate=True)


def add_l2(parameters: Iterable[nn.Parameter], weight: float) -> None:
    """Add the gradient of weight·Σw² to the parameters that have a gradient: those on the sampled path."""
    used = [(p.grad, p.detach()) for p in parameters if p.grad is not None]
    if weight and used:
        gradients, weights = zip(*used, strict=True)
        torch._foreach_add_(gradients, weights, alpha=2 * weight)


def clip_factor(parameters: Iterable[nn.Parameter], bound: float) -> tuple[float, float]:
    """(global norm of the gradient, what to multiply the gradient by so that its norm is at most `bound`)."""
    norm = float(nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None))
    return norm, min(1.0, bound / (norm + 1e-6))


def descend(
    model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, config: LanguageTrainingConfig
) -> float:
    """L2, clipping and one SGD step on the parameters that have a gradient, which is then dropped.

    The gradient is clipped by way of the learning rate, which spares a pass over it: the optimiser must be plain SGD.
    Returns the gradient's norm before clipping. Raises `NotFiniteError`, with the weights untouched, if it is
    NaN or infinite.
    """
    used = [parameter for parameter in model.parameters() if parameter.grad is not None]
    add_l2(used, config.regularisation.l2)
    norm, factor = clip_factor(used, config.sgd.clip)
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise NotFiniteError(f"the gradient's norm is {norm}")
    optimizer.param_groups[0]["lr"] = rate * factor
    optimizer.step()
    optimizer.zero_grad()
    return norm


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    tokens: Tensor,
    batch: int,
    length: int,
    **cell_settings: Any,
) -> float:
    """Mean negative log-likelihood (nats a token) of a text, state carried, every target counted once.

    With batch 1 that is every word after the first; with more rows the words that do not fill a row are left
    out.
    """
    was_training = model.training
    if was_training:  # otherwise the caller may have put its norms into a mode of their own
        model.eval()
    rows_TB = rows_of(tokens, batch, "evaluated").to(model.embedding.weight.device)
    state = model.initial_state(batch)
    total, count = 0.0, 0
    for window in eval_windows(len(rows_TB), length):
        minibatch = cut(rows_TB, window)
        features = model.features(minibatch.tokens_TB, state, **cell_settings)
        nll_N = nll(model, features, minibatch.targets_TB)
        total += float(nll_N.cpu().double().sum())  # not every device has float64
        count += nll_N.numel()
        state = detach(features.state)
    model.train(was_training)
    return total / count


def memory_mb(model: LanguageModel, positions: int) -> float:
    """MiB of a training step over so many positions (T·B): weights, gradients, and what the backward pass
    keeps.

    The backward pass keeps about four [T, B, D] arrays for every node that a cell can compute, and six around
    it.
    """
    blocks = sum(parameter.dim() == 2 for parameter in model.cell.parameters())
    nodes = min(blocks, 12)
    weights = sum(parameter.numel() for parameter in model.parameters())
    path = model.embedding.weight.numel() + (2 * nodes + 2) * model.hidden**2
    return 4 * (weights + path + positions * model.hidden * (4 * nodes + 6)) / 2**20
