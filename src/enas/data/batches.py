"""How images are walked through in training: in a new order each epoch.

An epoch has every image once, unlike that of the authors' code, whose queue hands out some twice.
"""

import torch
from torch import Tensor

from enas.errors import ConfigError
from enas.runtime.seeding import generator


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """The positions of all images [N] in the order of this epoch, int64 on the CPU."""
    return torch.randperm(images, generator=generator(seed, "order of images", epoch))


def number_of_batches(images: int, batch: int, drop_last: bool = False) -> int:
    """How many batches an epoch has; the last one may be smaller, unless it is dropped.

    45,000 images in batches of 128 are the authors' 352 steps, the last of 72 images.
    Raises `ConfigError` if there is none.
    """
    if batch < 1:
        raise ConfigError(f"The batch size is {batch}; set it to 1 or more.")
    if drop_last and images < batch:
        raise ConfigError(
            f"{images:,} images are no whole batch of {batch}: lower the batch size, or keep the last batch."
        )
    return images // batch if drop_last else -(-images // batch)


def batch_positions(order_N: Tensor, batch: int, step: int) -> Tensor:
    """The positions of the batch of a step, counted from 0; a view, shorter for the last batch of an epoch."""
    return order_N[step * batch : (step + 1) * batch]
