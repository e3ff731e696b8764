"""Labelled images in memory, pixels as bytes: one set of them, the three splits of a run, and the settings that choose them.

A network sees pixels scaled to 0..1, minus the mean of their channel, divided by its standard deviation. As in the authors'
code, both are those of the images that the network is trained on: the training split in a search, training and validation
split together for a final network.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from enas.constraints import LARGEST_SIDE, Part, PositiveInt, Seed, Settings
from enas.data.own_files import SPLITS, Split, located, printable
from enas.errors import DataError

Channels = Literal["first", "last"]
NAMED_IMAGES = ("digits", "cifar10", "fashion-mnist")
COLOURS = {1: "grey", 3: "RGB"}
SHOWN_CLASSES = 10
"""Most classes whose names are shown where the data are described."""


@dataclass(frozen=True)
class ImageConfig(Settings):
    """Which images to learn from, how many of them, and how they are split."""

    source: str = "digits"
    """`digits` (from scikit-learn, no download), `cifar10`, `fashion-mnist`, the path of a folder of class
    folders of pictures, or of an .npz file of arrays. A path that leads somewhere becomes absolute."""
    folder: str | None = None
    """Where the files of `cifar10` or `fashion-mnist` are; by default in a folder of their published name in
    $ENAS_DATA, or else in the cache folder of the platform."""
    size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None = None
    """Scale the pictures of a folder to size × size pixels, cutting what is longer; by default all pictures
    must be of one size."""
    channels: Channels | None = None
    """Where the channels of the arrays of an .npz file are, `first` or `last`; by default the axis of at most four."""
    valid: Part = 0.1
    """Images held out of the training images for validation: a share below 1, or a number. The default is
    CIFAR-10's 5,000 of 50,000. Not used if the source has validation images itself."""
    test: Part = 0.2
    """Images held out for testing where the source has no test images of its own, likewise."""
    max_train: PositiveInt | None = None
    """Most training images, with those that are held out for validation, each class in proportion. By default all."""
    max_test: PositiveInt | None = None
    """Most test images, likewise. The accuracy on a part does not compare with that on the whole."""
    split_seed: Seed = 0
    """Decides which images are held out, whatever the seed of the run."""
    allow_overlap: bool = False
    """Accept images that are, pixel for pixel, in two splits."""
    download: bool = True
    """Download `cifar10` or `fashion-mnist` if it is not found and `folder` is not set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source not in NAMED_IMAGES:
            object.__setattr__(self, "source", located(self.source))
        object.__setattr__(self, "folder", located(self.folder))


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
    """Images and their labels, on one device. Raises `DataError` for tensors of other types or shapes, or without pixels."""

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
        """The images at the positions of an int64 tensor, or of a slice (then without a copy)."""
        return ImageSet(self.images_NCHW[index], self.labels_N[index])

    def to(self, device: torch.device | str) -> "ImageSet":
        """The set on a device."""
        return ImageSet(self.images_NCHW.to(device), self.labels_N.to(device))

    @cached_property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of these images, from whole numbers: the same on every machine.

        A channel that is the same in all images has the standard deviation 1, so that it becomes 0.
        """
        pixels = self.images_NCHW.numel() // self.images_NCHW.shape[1]
        means, stds = [], []
        for channel in self.images_NCHW.unbind(1):
            counts = list(enumerate(torch.bincount(channel.flatten(), minlength=256).tolist()))
            total = sum(value * count for value, count in counts)
            squares = sum(value**2 * count for value, count in counts)
            variance = pixels * squares - total**2  # times pixels²
            means.append(total / (255 * pixels))
            stds.append(variance**0.5 / (255 * pixels) if variance else 1.0)
        return Normalisation(tuple(means), tuple(stds))


@dataclass(frozen=True, eq=False)
class ImageData:
    """The images of a run, in three splits.

    Raises `DataError` if splits differ in the shape of an image, a label names no class, or a class has no training image.
    """

    name: str
    """What logs and reports call the data."""
    classes: tuple[str, ...]
    """Name of each label."""
    train: ImageSet = field(repr=False)
    """What weights are trained on."""
    valid: ImageSet = field(repr=False)
    """What rewards are measured on and choices are made by."""
    test: ImageSet = field(repr=False)
    """What is evaluated once, after training."""
    source: dict[str, str]
    """Where the data come from, for the record of a run. Added here: `images` (a split), `shape` and `hash`."""
    hash: str = field(init=False)
    """Hexadecimal sha256 over classes, splits, pixels and labels, the same on every machine."""

    def __post_init__(self) -> None:
        splits = self.splits()
        for split, images in splits.items():
            self._check(split, images)
        trained = torch.bincount(self.train.labels_N, minlength=len(self.classes))
        if not trained.all():
            raise DataError(
                f"The class {self.classes[int(trained.argmin())]!r} of {self.name} has no training image: add some, "
                "use more of the training images, or leave the class out."
            )
        digest = hashlib.sha256(json.dumps(self.classes).encode("ascii"))
        for split, images in splits.items():
            digest.update(f"{split} {tuple(images.images_NCHW.shape)}\n".encode("ascii"))
            digest.update(images.images_NCHW.cpu().contiguous().numpy().data)
            digest.update(images.labels_N.cpu().numpy().astype("<i8").tobytes())
        channels, height, width, _ = self.shape
        described = {
            "images": ", ".join(f"{split} {len(images):,}" for split, images in splits.items()),
            "shape": f"{height}×{width} {COLOURS.get(channels, f'{channels} channels')}",
            "hash": digest.hexdigest(),
        }
        object.__setattr__(self, "hash", described["hash"])
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
        """The images and classes that a network for these data is built for."""
        channels, height, width = self.train.images_NCHW.shape[1:]
        return ImageShape(channels, height, width, len(self.classes))

    def joined(self) -> ImageSet:
        """Training and validation images together, which a final network is trained on; a copy."""
        return ImageSet(
            torch.cat([self.train.images_NCHW, self.valid.images_NCHW]),
            torch.cat([self.train.labels_N, self.valid.labels_N]),
        )

    def __str__(self) -> str:
        names = [printable(name, 24) for name in self.classes[:SHOWN_CLASSES]]
        names += ["…"] * (len(self.classes) > SHOWN_CLASSES)
        classes = f"{len(self.classes)} classes ({', '.join(names)})"
        return f"{printable(self.name)}: {classes}, {self.source['shape']}; {self.source['images']}"
