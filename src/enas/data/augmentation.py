"""Augmentation of training images, a whole batch at once on its device, in the order of the authors' code.

Normalise, pad with zeros, crop the original size at random, flip half of the images, and cut a square out of each
(CutOut: DeVries and Taylor, 2017). Padding and square are zero after normalisation, that is, of the mean colour. For
evaluation, images are only normalised.

All random numbers are drawn first (`draw`), from a generator on the CPU, so that they are the same on every device;
`transform` is then a plain function of images and draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from enas.constraints import Pixels, Settings
from enas.data.images import Normalisation
from enas.runtime.transfers import sent


@dataclass(frozen=True)
class AugmentConfig(Settings):
    """How training images are changed at random."""

    pad: Pixels = 4
    """Pixels of zeros on each side before an image of the original size is cropped; 0 crops nothing."""
    flip: bool = True
    """Mirror half of the images, left to right; not for digits or letters."""
    cutout: Pixels = 0
    """Side of the square that is set to zero in each image (16 for the paper's best result), in pixels."""
    cutout_placement: Literal["centre", "corner"] = "centre"
    """Where the square is: `centre` draws its centre from all pixels, as DeVries and Taylor; `corner` its upper
    left corner, as the authors' code, which spares the upper and left edges. What lies outside the image is
    cut off."""


class Draws(NamedTuple):
    """The random numbers for a batch, on the CPU; None for what the settings leave out."""

    top_B: Tensor | None
    """Upper edge of the crop in the padded image, 0 to 2 pad."""
    left_B: Tensor | None
    """Left edge, likewise."""
    flip_B: Tensor | None
    """Whether the image is mirrored."""
    row_B: Tensor | None
    """Row of the image where the square is placed."""
    column_B: Tensor | None
    """Column, likewise."""

    def sent(self, device: torch.device) -> Draws:
        """The same on a device, in one transfer."""
        there = [drawn for drawn in self if drawn is not None]
        if not there or device.type == "cpu":
            return self
        moved = iter(sent(torch.stack([drawn.long() for drawn in there]), device))
        found = Draws(*(None if drawn is None else next(moved) for drawn in self))
        return found if found.flip_B is None else found._replace(flip_B=found.flip_B.bool())


def normalise(images_BCHW: Tensor, normalisation: Normalisation) -> Tensor:
    """(x / 255 − mean) / std by channel, float32, of uint8 images; contiguous."""
    scale_C11, shift_C11 = _scale_and_shift(normalisation, images_BCHW.device)
    return torch.addcmul(shift_C11, images_BCHW.float(), scale_C11)


@cache
def _scale_and_shift(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and −mean / std, [C, 1, 1] each, sent to a device once."""
    mean, std = torch.tensor(normalisation, dtype=torch.float64)
    both = torch.stack([1 / (255 * std), -mean / std]).float()[:, :, None, None]
    scale_C11, shift_C11 = both.to(device)
    return scale_C11, shift_C11


def augment(
    images_BCHW: Tensor, normalisation: Normalisation, config: AugmentConfig, generator: Generator
) -> Tensor:
    """Training images as the network sees them, float32 [B, C, H, W] contiguous, of uint8 images.

    `generator` is on the CPU; seeded from run, epoch and step, it makes every batch reproducible by itself.
    """
    batch, _, height, width = images_BCHW.shape
    return transform(images_BCHW, normalisation, config, draw(config, batch, height, width, generator))


def draw(config: AugmentConfig, batch: int, height: int, width: int, generator: Generator) -> Draws:
    """The random numbers for a batch of images of this size."""

    def below(limit: int) -> Tensor:
        return torch.randint(limit, (batch,), generator=generator)

    offsets = 2 * config.pad + 1
    return Draws(
        top_B=below(offsets) if config.pad else None,
        left_B=below(offsets) if config.pad else None,
        flip_B=below(2).bool() if config.flip else None,
        row_B=below(height) if config.cutout else None,
        column_B=below(width) if config.cutout else None,
    )


def transform(
    images_BCHW: Tensor, normalisation: Normalisation, config: AugmentConfig, draws: Draws
) -> Tensor:
    """The images that the draws make of a batch, float32 [B, C, H, W] contiguous."""
    top_B, left_B, flip_B, row_B, column_B = draws.sent(images_BCHW.device)
    x_BCHW = normalise(images_BCHW, normalisation)
    if top_B is not None or left_B is not None or flip_B is not None:
        x_BCHW = _crop(x_BCHW, config.pad, top_B, left_B, flip_B)
    if row_B is not None and column_B is not None:
        before = config.cutout // 2 if config.cutout_placement == "centre" else 0
        height, width = x_BCHW.shape[2:]
        rows_BH = _within(row_B - before, config.cutout, height)
        columns_BW = _within(column_B - before, config.cutout, width)
        x_BCHW.masked_fill_((rows_BH[:, :, None] & columns_BW[:, None, :])[:, None], 0.0)
    return x_BCHW


def _crop(
    x_BCHW: Tensor, pad: int, top_B: Tensor | None, left_B: Tensor | None, flip_B: Tensor | None
) -> Tensor:
    """Zero-padded images, cropped to their size again and mirrored: each pixel is fetched once."""
    batch, channels, height, width = x_BCHW.shape
    rows_BH = _from(top_B, batch, height, x_BCHW.device)
    columns_BW = _from(left_B, batch, width, x_BCHW.device)
    if flip_B is not None:
        columns_BW = torch.where(flip_B[:, None], columns_BW.flip(1), columns_BW)
    pixels_BHW = rows_BH[:, :, None] * (width + 2 * pad) + columns_BW[:, None, :]
    index_BCP = pixels_BHW.flatten(1)[:, None].expand(-1, channels, -1)
    padded_BCP = F.pad(x_BCHW, [pad] * 4).flatten(2)
    return padded_BCP.gather(2, index_BCP).view(batch, channels, height, width)


def _from(start_B: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor:
    """start, start + 1, ... start + length − 1 of each image."""
    steps = torch.arange(length, device=device)
    return steps.expand(batch, length) if start_B is None else start_B[:, None] + steps


def _within(start_B: Tensor, side: int, length: int) -> Tensor:
    """For each image, which of 0 ... length − 1 are from start up to, and without, start + side."""
    steps = torch.arange(length, device=start_B.device)
    return (steps >= start_B[:, None]) & (steps < start_B[:, None] + side)
