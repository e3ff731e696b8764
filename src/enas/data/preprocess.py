"""From pictures, pixels and text as people have them to what a trained network takes. Needs no data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from enas.data.augmentation import normalise
from enas.data.image_folder import plain_picture, read_picture
from enas.data.images import ImageShape, Normalisation
from enas.data.own_files import readable
from enas.data.text import BYTE_ORDER_MARK, UNKNOWN, ended
from enas.errors import DataError, shown

Picture = Image.Image | str | os.PathLike[str]
"""A picture, or the path of its file."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's names of pictures by their number of channels."""


@dataclass(frozen=True)
class ImagePreprocess:
    """Called with images, it returns them as the network was trained on them."""

    shape: ImageShape
    normalisation: Normalisation

    def __call__(self, images: Tensor | Picture | Sequence[Picture]) -> Tensor:
        """Normalised images [B, C, H, W], float32.

        `images` are pixels, uint8 [B, C, H, W] or [C, H, W]; or pictures, or the paths of their files, which are scaled to
        the size of the network, what is longer cut, and turned into grey or colour. Raises `DataError` for anything else.
        """
        if isinstance(images, Tensor):
            pixels_BCHW = images if images.dim() == 4 else images.unsqueeze(0)
            expected = self.shape[:3]
            if images.dtype != torch.uint8 or tuple(pixels_BCHW.shape[1:]) != expected:
                raise DataError(
                    f"images must be uint8 [B, {', '.join(map(str, expected))}], not {images.dtype} of shape "
                    f"{list(images.shape)}"
                )
        else:
            pictures = [images] if isinstance(images, Image.Image | str | os.PathLike) else list(images)
            if not pictures:
                raise DataError("there are no pictures: give at least one")
            pixels_BCHW = torch.stack([self.pixels(picture) for picture in pictures])
        return normalise(pixels_BCHW, self.normalisation)

    def pixels(self, picture: Picture) -> Tensor:
        """The pixels [C, H, W] of one picture, uint8."""
        if self.shape.channels not in MODES:
            raise DataError(
                f"the network takes images of {self.shape.channels} channels, which pictures do not have: give pixels, "
                "uint8 [B, C, H, W]"
            )
        with readable():
            if isinstance(picture, Image.Image):
                plain, _ = plain_picture(picture, "a picture")
            else:
                plain, _ = read_picture(Path(picture))
        fitted = ImageOps.fit(
            plain.convert(MODES[self.shape.channels]),
            (self.shape.width, self.shape.height),
            Image.Resampling.BILINEAR,
        )
        pixels_HWC = torch.from_numpy(np.array(fitted)).view(self.shape.height, self.shape.width, -1)
        return pixels_HWC.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class WordPreprocess:
    """Called with text, it returns the numbers of its words."""

    words: tuple[str, ...] = field(repr=False)

    def __call__(self, text: str) -> Tensor:
        """The words of a text as tokens [T, 1], int64, as `enas.data.text` reads them: what white space separates, and
        `<eos>` where a line ends. A last line that does not end goes on.

        Raises `DataError` for a text without words, and for a word that the vocabulary lacks, if it has no `<unk>`.
        """
        numbers = {word: number for number, word in enumerate(self.words)}
        *lines, last = text.replace(BYTE_ORDER_MARK, "").split("\n")
        found = [word for line in lines for word in ended(line.split())] + last.split()
        if not found:
            raise DataError("there are no words: give a text with at least one")
        unknown = numbers.get(UNKNOWN)
        missing = next((word for word in found if word not in numbers), None)
        if missing is not None and unknown is None:
            raise DataError(
                f"the network has no word {shown(missing)}, and none for unknown words: leave it out"
            )
        return torch.tensor([[numbers.get(word, unknown)] for word in found])
