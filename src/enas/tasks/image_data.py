"""Labelled images as a task reads them: minibatches of training images, and whole splits to evaluate on.

Shape letters: B images of a minibatch, N images of a split, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from enas.data.augmentation import augment, normalise
from enas.data.images import ImageSet, Normalisation
from enas.errors import ConfigError
from enas.runtime.seeding import generator
from enas.runtime.transfers import sent
from enas.tasks.image_settings import ImageTrainingConfig


class Minibatch(NamedTuple):
    """Normalised images and their classes."""

    images_BCHW: Tensor
    labels_B: Tensor
    progress: float = 1.0
    """The share of the training steps that are done, this one among them."""


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """The positions of all images [N] in the order of this epoch, int64 on the CPU."""
    return torch.randperm(images, generator=generator(seed, "order of images", epoch))


def number_of_batches(images: int, batch: int, drop_last: bool = False) -> int:
    """The number of batches of an epoch; the last one may be smaller, unless it is dropped.

    45,000 images in batches of 128 are the authors' 352 steps, the last of 72 images. Raises `ConfigError` if there is no
    batch.
    """
    if batch < 1:
        raise ConfigError(f"The batch size is {batch}; set it to 1 or more.")
    if drop_last and images < batch:
        raise ConfigError(
            f"{images:,} images are no whole batch of {batch}: lower the batch size, or keep the last batch."
        )
    return images // batch if drop_last else -(-images // batch)


class TrainingImages:
    """Training images, in memory on the device as bytes, cut into the minibatches of any epoch.

    Every pass has an order of its own, with every image once; in the authors' code a queue hands out some of them twice.
    Order and augmentation follow from the seed and the place (epoch, step).
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
        first = step * self.config.batch
        chosen = self.images[self._order_of(epoch)[first : first + self.config.batch]]
        draw = generator(self.seed, "augmentation", epoch, step)
        images_BCHW = augment(chosen.images_NCHW, self.normalisation, self.config.augmentation, draw)
        return Minibatch(images_BCHW, chosen.labels_N)

    def _order_of(self, epoch: int) -> Tensor:
        """The permutation [N] of an epoch's pass, kept until another is asked for."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, sent(epoch_order(len(self.images), self.seed, epoch), self.device)
        return self._order[1]

    def samples(self, count: int, draw: torch.Generator) -> list[Tensor]:
        """`count` minibatches of distinct images, not augmented; fewer if there are too few images."""
        chosen_N = torch.randperm(len(self.images), generator=draw)[: count * self.config.batch]
        parts = sent(chosen_N, self.device).split(self.config.batch)
        return [normalise(self.images.images_NCHW[part_B], self.normalisation) for part_B in parts]


class EvaluationImages:
    """The images of a split, in memory on the device as bytes, for rewards and exact evaluation; never augmented."""

    def __init__(self, images: ImageSet, normalisation: Normalisation, device: torch.device) -> None:
        self.images = images.to(device)
        self.normalisation = normalisation
        self.device = device
        self.labels_N = images.labels_N.cpu()

    def sample(self, count: int, draw: torch.Generator) -> Minibatch:
        """`count` distinct images; all of them if there are fewer."""
        chosen_B = torch.randperm(len(self.images), generator=draw)[:count]
        chosen = self.images[sent(chosen_B, self.device)]
        return Minibatch(normalise(chosen.images_NCHW, self.normalisation), chosen.labels_N)

    @torch.no_grad()
    def batches(self, forward: Callable[[Tensor], Tensor], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, at most `batch` at a time: (their places in the split, their class scores [B, K] in fp64).

        For the sake of batch statistics, images are mixed, as a split may be sorted by class, and batches are of equal
        size, as a small one would have statistics of its own.
        """
        order_N = torch.randperm(len(self.images), generator=generator(0, "evaluation order"))
        parts = order_N.tensor_split(math.ceil(len(order_N) / batch))
        found = []
        for chosen_B in parts:
            pixels_BCHW = self.images.images_NCHW[sent(chosen_B, self.device)]
            found.append(forward(normalise(pixels_BCHW, self.normalisation)))
        scores_NK = torch.cat(found).cpu().double()  # at once: every transfer would be waited for
        return zip(parts, scores_NK.split([len(part) for part in parts]), strict=True)

    def class_scores(self, forward: Callable[[Tensor], Tensor], batch: int) -> Tensor:
        """The class scores [N, K] of the whole split, in fp64 on the CPU."""
        chosen, scores = zip(*self.batches(forward, batch), strict=True)
        scores_NK = torch.cat(scores)
        return torch.empty_like(scores_NK).index_copy_(0, torch.cat(chosen), scores_NK)

    def score(self, forward: Callable[[Tensor], Tensor], batch: int) -> tuple[float, float]:
        """(cross-entropy in nats an image, percent that are right) of the whole split, summed in fp64."""
        loss, right = 0.0, 0
        for chosen_B, scores_BK in self.batches(forward, batch):
            labels_B = self.labels_N[chosen_B]
            loss += float(F.cross_entropy(scores_BK, labels_B, reduction="sum"))
            right += int(is_right(scores_BK, labels_B).sum())
        return loss / len(self.labels_N), 100 * right / len(self.labels_N)


def is_right(scores_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Whether the highest score [B] is the right class's; never where a score is not a number."""
    return (scores_BK.argmax(1) == labels_B) & ~scores_BK.isnan().any(1)
