"""Labelled images in memory, pixels as bytes: one set of them, and the three splits that a run reads.

A network sees pixels scaled to 0..1, minus the mean of their channel, divided by its standard deviation. Both
are those of the images that the network is trained on (authors' code): of the training split in a search, of
training and validation split together for a final network.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from enas.data.own_files import printable
from enas.data.text import SPLITS, Split
from enas.errors import DataError

SHOWN_CLASSES = 10
"""Most classes whose names are shown where the data are described."""


class ImageShape(NamedTuple):
    """The images and classes that a network is built for."""

    channels: int
    height: int
    width: int
    classes: int


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, of pixels scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels, on one device.

    Raises `DataError` if there are none, or the tensors are of other types or shapes.
    """

    images_NCHW: Tensor
    """Pixels, uint8."""

    labels_N: Tensor
    """Classes, int64."""

    def __post_init__(self) -> None:
        images, labels = self.images_NCHW, self.labels_N
        if images.dtype != torch.uint8 or images.dim() != 4 or images.numel() == 0:
            raise DataError(
                "Images must be a uint8 tensor [N, C, H, W] with pixels in it, "
                f"not {images.dtype} of shape {tuple(images.shape)}."
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"The labels of {len(images):,} images must be as many int64 values, "
                f"not {labels.dtype} of shape {tuple(labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index: Tensor | slice) -> "ImageSet":
        """Some of the images: those at the positions of an int64 tensor, or of a slice (then without a copy)."""
        return ImageSet(self.images_NCHW[index], self.labels_N[index])

    def to(self, device: torch.device | str) -> "ImageSet":
        """The set on a device."""
        return ImageSet(self.images_NCHW.to(device), self.labels_N.to(device))

    @cached_property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of these images, from whole numbers: the same on every machine.

        A channel that is the same in all of them has the standard deviation 1, so that it becomes 0.
        """
        counts = [_counts(channel) for channel in self.images_NCHW.unbind(1)]
        pixels = self.images_NCHW.numel() // self.images_NCHW.shape[1]
        means, stds = [], []
        for count in counts:
            total = sum(value * n for value, n in enumerate(count))
            squares = sum(value**2 * n for value, n in enumerate(count))
            variance = pixels * squares - total**2  # times pixels²
            means.append(total / (255 * pixels))
            stds.append(variance**0.5 / (255 * pixels) if variance else 1.0)
        return Normalisation(tuple(means), tuple(stds))


def _counts(pixels: Tensor) -> list[int]:
    """How often each of the 256 values is there."""
    counts: list[int] = torch.bincount(pixels.flatten(), minlength=256).tolist()
    return counts


@dataclass(frozen=True, eq=False)
class ImageData:
    """The images of a run, in three splits.

    Raises `DataError` if images differ in shape between splits, a label is not that of a class, or a class
    has no training image.
    """

    name: str
    """What they are called in logs and reports."""

    classes: tuple[str, ...]
    """Name of each label."""

    train: ImageSet = field(repr=False)
    """What weights are trained on."""

    valid: ImageSet = field(repr=False)
    """What rewards and every choice are taken on."""

    test: ImageSet = field(repr=False)
    """What is read once, after training."""

    source: dict[str, str]
    """Where they come from, for the record of a run. Added here: `images` (a split), `shape` and `hash`."""

    hash: str = field(init=False)
    """Hexadecimal sha256 over classes, splits, pixels and labels, the same on every machine."""

    def __post_init__(self) -> None:
        splits = self.splits()
        for split, images in splits.items():
            self._check(split, images)
        trained = torch.bincount(self.train.labels_N, minlength=len(self.classes))
        if not trained.all():
            untrained = self.classes[int(trained.argmin())]
            raise DataError(
                f"The class {untrained!r} of {self.name} has no training image: add some, use more of the "
                "training images, or leave the class out."
            )
        digest = _hash(self.classes, splits)
        described = {
            "images": ", ".join(f"{split} {len(images):,}" for split, images in splits.items()),
            "shape": self._size(),
            "hash": digest,
        }
        object.__setattr__(self, "hash", digest)
        object.__setattr__(self, "source", self.source | described)

    def _check(self, split: Split, images: ImageSet) -> None:
        shape, expected = images.images_NCHW.shape[1:], self.train.images_NCHW.shape[1:]
        if shape != expected:
            raise DataError(
                f"The {split} images of {self.name} have the shape {tuple(shape)}, "
                f"the training images {tuple(expected)}: channels, height and width must agree."
            )
        low, high = int(images.labels_N.min()), int(images.labels_N.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"The {split} labels of {self.name} are from {low} to {high}, "
                f"but it has {len(self.classes)} classes, numbered from 0."
            )

    def splits(self) -> dict[Split, ImageSet]:
        """The three splits by name."""
        return dict(zip(SPLITS, (self.train, self.valid, self.test), strict=True))

    @property
    def shape(self) -> ImageShape:
        """What a network for these images is built for."""
        channels, height, width = self.train.images_NCHW.shape[1:]
        return ImageShape(channels, height, width, len(self.classes))

    def joined(self) -> ImageSet:
        """Training and validation images together, which a final network is trained on; a copy."""
        return ImageSet(
            torch.cat([self.train.images_NCHW, self.valid.images_NCHW]),
            torch.cat([self.train.labels_N, self.valid.labels_N]),
        )

    def _size(self) -> str:
        channels, height, width, _ = self.shape
        colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        return f"{height}×{width} {colour}"

    def __str__(self) -> str:
        classes = f"{len(self.classes)} classes ({_some(self.classes)})"
        return f"{printable(self.name)}: {classes}, {self.source['shape']}; {self.source['images']}"


def _some(names: tuple[str, ...]) -> str:
    """The first names, and `…` for the others."""
    shown = [printable(name, 24) for name in names[:SHOWN_CLASSES]]
    return ", ".join([*shown, "…"] if len(names) > SHOWN_CLASSES else shown)


def _hash(classes: tuple[str, ...], splits: dict[Split, ImageSet]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode("ascii"))
    for split, images in splits.items():
        digest.update(f"{split} {tuple(images.images_NCHW.shape)}\n".encode("ascii"))
        digest.update(images.images_NCHW.cpu().contiguous().numpy().data)
        digest.update(images.labels_N.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()
