"""One training step of an image classifier: learning rate, loss, gradient, Nesterov momentum; and exact evaluation.

The search trains the shared weights with it and the retraining stage a child, so that both follow the same recipe.
Shape letters: B images of a minibatch, N images of a split, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.constraints import InnerShare, PositiveFloat, PositiveInt, Settings, Weight
from enas.data.augmentation import AugmentConfig, augment, normalise
from enas.data.batches import batch_positions, epoch_order, number_of_batches
from enas.data.images import ImageSet, Normalisation
from enas.errors import ConfigError, NotFiniteError
from enas.runtime.memory import MIB
from enas.runtime.seeding import generator
from enas.spaces.image_network import Outputs

NormStatistics = Literal["batch", "moving", "recalibrated"]
"""What the batch norms of an evaluated network normalise by: the minibatch's own statistics; the moving averages of the
training; or the plain means over a few training minibatches, gathered for this very network."""


@dataclass(frozen=True)
class CosineConfig(Settings):
    """A learning rate that falls as half a cosine within a period and then starts again (Loshchilov & Hutter 2017).

    With the paper's periods of 10, 20, 40, … epochs it starts again in epochs 10, 30, 70, 150, 310 and 630.
    """

    high: PositiveFloat = 0.05
    """The rate in the first epoch of a period."""
    low: PositiveFloat = 0.001
    """What the rate falls to; the period ends one epoch before it is reached."""
    first_period: PositiveInt = 10
    """Epochs of the first period; as many as the training has give one fall without a restart."""
    period_factor: PositiveInt = 2
    """How many times longer each period is than the one before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ConfigError(f"low must be at most high, which is {self.high}, not {self.low}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch counted from 0, the same for all of its steps."""
        since, period = epoch, self.first_period
        while since >= period:
            since -= period
            period *= self.period_factor
        return self.low + (self.high - self.low) * (1 + math.cos(math.pi * since / period)) / 2


@dataclass(frozen=True)
class MomentumConfig(Settings):
    """SGD with Nesterov momentum: v ← m·v + g, w ← w - rate·(g + m·v), only where there is a gradient."""

    momentum: InnerShare = 0.9
    """m, the share of the earlier steps that is kept."""
    weight_decay: Weight = 1e-4
    """d in g = gradient of the loss + d·w: half of it is the weight of Σw² in the loss."""
    clip: PositiveFloat | None = None
    """Bound on the global norm of the gradient, before the weight decay; None for no bound."""


@dataclass(frozen=True)
class ImageTrainingConfig(Settings):
    """A whole recipe of training: minibatches, learning rate, optimiser, augmentation."""

    batch: PositiveInt = 128
    """Images a step."""
    drop_last: bool = False
    """Whether a pass leaves out the images that do not fill a minibatch, rather than taking a smaller one."""
    cosine: CosineConfig = field(default_factory=CosineConfig)
    """The learning rate, epoch by epoch."""
    momentum: MomentumConfig = field(default_factory=MomentumConfig)
    """The optimiser."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """How training images are varied."""
    auxiliary_weight: Weight = 0.4
    """Weight of the auxiliary head's cross-entropy, for networks that have one."""

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """The optimiser; `descend` sets its learning rate."""
        config = self.momentum
        return torch.optim.SGD(
            parameters,
            self.cosine.high,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=True,
            foreach=True,
        )


class Score(NamedTuple):
    """How well images are classified."""

    loss: float
    """Cross-entropy in nats an image."""
    accuracy: float
    """Percent of the images whose highest class score is the right one's."""


def accumulate_gradient(
    outputs: Outputs, labels_B: Tensor, auxiliary_weight: float, *, share: float = 1.0, whose: str = ""
) -> Score:
    """Add `share` times the gradient of the loss, auxiliary head included, to the parameters.

    Returns the score of the main head alone. Raises `NotFiniteError`, with no gradient added, if the loss is NaN or
    infinite; `whose` says in its message whose loss that is.
    """
    loss = F.cross_entropy(outputs.logits_BK, labels_B)
    total = loss
    if outputs.auxiliary_BK is not None:
        total = loss + auxiliary_weight * F.cross_entropy(outputs.auxiliary_BK, labels_B)
    correct = (outputs.logits_BK.detach().argmax(1) == labels_B).float().mean()
    # One transfer from the device for all three.
    value, loss_value, accuracy = torch.stack([total.detach(), loss.detach(), correct]).tolist()
    if not math.isfinite(value):
        raise NotFiniteError(f"the loss{whose} is {value}")
    (total * share).backward()
    return Score(loss_value, 100 * accuracy)


def descend(optimizer: torch.optim.Optimizer, rate: float, clip: float | None) -> float:
    """Clipping, weight decay and one step on the parameters that have a gradient, which is then dropped.

    Parameters without one, off the sampled path, keep still, and so does their momentum. Returns the gradient's norm
    before clipping. Raises `NotFiniteError`, with the weights untouched, if it is NaN or infinite.
    """
    (group,) = optimizer.param_groups
    used = [parameter for parameter in group["params"] if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in used])
    if not math.isfinite(value := float(norm)):
        optimizer.zero_grad()
        raise NotFiniteError(f"the gradient's norm is {value}")
    if clip is not None:
        nn.utils.clip_grads_with_norm_(used, clip, norm)
    group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return value


def is_right(scores_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Whether the highest score [B] is the right class's; never where a score is not a number."""
    return (scores_BK.argmax(1) == labels_B) & ~scores_BK.isnan().any(1)


# ---- images ---------------------------------------------------------------------------------------------------------


class Minibatch(NamedTuple):
    """Normalised images and their classes."""

    images_BCHW: Tensor
    labels_B: Tensor


class TrainingImages:
    """Training images, in memory on the device as bytes, cut into the minibatches of any epoch.

    Every pass has an order of its own. Order and augmentation follow from the seed and the place (epoch, step).
    """

    def __init__(
        self,
        images: ImageSet,
        normalisation: Normalisation,
        config: ImageTrainingConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        """Raises `ConfigError` if the images do not fill a minibatch, and smaller ones are left out."""
        self.images = images.to(device)
        self.normalisation = normalisation
        self.config = config
        self.seed = seed
        self.device = device
        self.steps = number_of_batches(len(images), config.batch, config.drop_last)
        self._order: tuple[int, Tensor] | None = None

    def minibatch(self, epoch: int, step: int) -> Minibatch:
        """The augmented minibatch of a step."""
        chosen = self.images[batch_positions(self._order_of(epoch), self.config.batch, step)]
        draw = generator(self.seed, "augmentation", epoch, step)
        images_BCHW = augment(chosen.images_NCHW, self.normalisation, self.config.augmentation, draw)
        return Minibatch(images_BCHW, chosen.labels_N)

    def _order_of(self, epoch: int) -> Tensor:
        """The permutation [N] of an epoch's pass, kept until another is asked for."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(len(self.images), self.seed, epoch).to(self.device)
        return self._order[1]

    def samples(self, count: int, draw: torch.Generator) -> list[Tensor]:
        """So many minibatches of distinct images, not augmented; fewer if there are not so many images."""
        chosen_N = torch.randperm(len(self.images), generator=draw)[: count * self.config.batch]
        parts = chosen_N.to(self.device).split(self.config.batch)
        return [normalise(self.images.images_NCHW[part_B], self.normalisation) for part_B in parts]


class EvaluationImages:
    """The images of a split, in memory on the device as bytes, for rewards and exact evaluation; never augmented."""

    def __init__(self, images: ImageSet, normalisation: Normalisation, device: torch.device) -> None:
        self.images = images.to(device)
        self.normalisation = normalisation
        self.device = device
        self.labels_N = images.labels_N.cpu()

    def sample(self, count: int, draw: torch.Generator) -> Minibatch:
        """So many distinct images; all of them if there are not so many."""
        chosen_B = torch.randperm(len(self.images), generator=draw)[:count]
        chosen = self.images[chosen_B.to(self.device)]
        return Minibatch(normalise(chosen.images_NCHW, self.normalisation), chosen.labels_N)

    @torch.no_grad()
    def batches(self, forward: Callable[[Tensor], Tensor], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, at most `batch` at a time: (their places in the split, their class scores [B, K] in fp64).

        For the sake of batch statistics, images are mixed, as a split may be sorted by class, and batches are of equal
        size, as a small one would have statistics of its own.
        """
        order_N = torch.randperm(len(self.images), generator=generator(0, "evaluation order"))
        for chosen_B in order_N.tensor_split(math.ceil(len(order_N) / batch)):
            pixels_BCHW = self.images.images_NCHW[chosen_B.to(self.device)]
            yield chosen_B, forward(normalise(pixels_BCHW, self.normalisation)).cpu().double()

    def class_scores(self, forward: Callable[[Tensor], Tensor], batch: int) -> Tensor:
        """The class scores [N, K] of the whole split, in fp64 on the CPU."""
        chosen, scores = zip(*self.batches(forward, batch), strict=True)
        scores_NK = torch.cat(scores)
        return torch.empty_like(scores_NK).index_copy_(0, torch.cat(chosen), scores_NK)

    def score(self, forward: Callable[[Tensor], Tensor], batch: int) -> Score:
        """The score of the whole split, summed in fp64."""
        loss, right = 0.0, 0
        for chosen_B, scores_BK in self.batches(forward, batch):
            labels_B = self.labels_N[chosen_B]
            loss += float(F.cross_entropy(scores_BK, labels_B, reduction="sum"))
            right += int(is_right(scores_BK, labels_B).sum())
        return Score(loss / len(self.labels_N), 100 * right / len(self.labels_N))


# ---- what a step costs ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def saved_bytes() -> Iterator[Callable[[], int]]:
    """Count what forward passes inside keep for the backward pass; the function given returns the bytes so far."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storages.values())


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked for, before reading the clock."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def memory_mb(model: nn.Module, saved: int, *images: ImageSet) -> float:
    """MiB of training: weights, gradients and momentum, what the backward pass keeps (in bytes), and the images."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return (3 * weights + saved + sum(part.images_NCHW.nbytes for part in images)) / MIB
