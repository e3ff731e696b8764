"""From one pool of images to the three splits of a run: given splits are kept, the others are drawn by class.

A split is a set of positions in the pool. What a source has no split for is held out of its training images, at
random by a seed and stratified: each class has the same share of both parts, as nearly as whole images allow.
No position is in two splits. Nor, unless that is allowed, is the same picture, by its pixels: rewards and test
accuracy on images that were trained on would flatter.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from enas.data.images import ImageData, ImageSet
from enas.data.text import SPLITS, Split
from enas.errors import ConfigError, DataError
from enas.runtime.seeding import derive_seed

Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImagePool:
    """All images of a source, before they are split."""

    name: str
    """What the data are called."""

    classes: tuple[str, ...]
    """Name of each label."""

    images_NCHW: NDArray[np.uint8]
    """Pixels."""

    labels_N: Positions
    """Class of each image."""

    splits: Mapping[Split, Positions]
    """The splits that the source has; without `train`, all images are there to be split."""

    source: Mapping[str, str]
    """Where the images come from."""

    names: tuple[str, ...] = ()
    """What each image is called, such as its file; by default its number."""

    def name_of(self, position: int) -> str:
        """What to call an image in a message."""
        return self.names[position] if self.names else f"image {position:,}"


@dataclass(frozen=True)
class Parts:
    """How many images go where. A value below 1 is a share, one from 1 up a number of images."""

    valid: int | float
    """Of the training images, held out for validation."""
    test: int | float
    """Of all images, held out for testing."""
    max_train: int | None
    """Most training and validation images together."""
    max_test: int | None
    """Most test images."""


def split_pool(pool: ImagePool, parts: Parts, seed: int, allow_overlap: bool) -> ImageData:
    """The images of a run.

    Raises `DataError` if a class has too few images to be split, or the same picture is in two splits and
    that is not allowed; `ConfigError` for numbers of images that cannot be.
    """
    splits = choose_positions(pool, parts, seed)
    check_disjoint(splits)
    repeated = repeated_pictures(pool, splits)
    if repeated and not allow_overlap:
        position, split, earlier, earlier_split = repeated[0]
        raise DataError(
            f"The {split} split of {pool.name} overlaps the {earlier_split} split: {pool.name_of(position)} is "
            f"the same picture as {pool.name_of(earlier)} ({len(repeated):,} such in all). Remove one of each, "
            "or set `allow_overlap`."
        )
    train, valid, test = (_take(pool, splits[split]) for split in SPLITS)
    source = dict(pool.source) | ({"overlap": f"{len(repeated):,} pictures"} if repeated else {})
    return ImageData(pool.name, pool.classes, train, valid, test, source)


def _take(pool: ImagePool, positions: Positions) -> ImageSet:
    return ImageSet(torch.from_numpy(pool.images_NCHW[positions]), torch.from_numpy(pool.labels_N[positions]))


def choose_positions(pool: ImagePool, parts: Parts, seed: int) -> dict[Split, Positions]:
    """The positions of each split, ascending where they are drawn. Raises as `split_pool`."""
    train = pool.splits.get("train", np.arange(len(pool.labels_N)))
    if "test" in pool.splits:
        test = pool.splits["test"]
    else:
        train, test = _hold_out(pool, train, parts.test, "test", seed)
    if parts.max_test is not None and parts.max_test < len(test):
        test = _hold_out(pool, test, parts.max_test, "max_test", seed)[1]
    if parts.max_train is not None and parts.max_train < len(train):
        train = _hold_out(pool, train, parts.max_train, "max_train", seed)[1]
    if "valid" in pool.splits:
        valid = pool.splits["valid"]
    else:
        train, valid = _hold_out(pool, train, parts.valid, "valid", seed)
    return {"train": train, "valid": valid, "test": test}


def _hold_out(
    pool: ImagePool, positions: Positions, part: int | float, setting: str, seed: int
) -> tuple[Positions, Positions]:
    """What is left and what is held out, for the setting of this name."""
    number = _number(part, len(positions), setting)
    labels_N = pool.labels_N[positions]
    names, counts = np.unique(labels_N, return_counts=True)
    if counts.min() == 1:
        alone = int(names[counts.argmin()])
        picture = pool.name_of(int(positions[labels_N == alone][0]))
        raise DataError(
            f"The class {pool.classes[alone]!r} of {pool.name} cannot be split for `{setting}`: of its pictures "
            f"there is only one ({picture}). Add more, or remove the class."
        )
    if not len(names) <= number <= len(positions) - len(names):
        raise ConfigError(
            f"`{setting}` is {part}, {number:,} of {len(positions):,} images of {pool.name}, but its "
            f"{len(names)} classes need at least one image each on both sides of a split: "
            f"set it from {len(names):,} to {len(positions) - len(names):,}."
        )
    rest, held = stratified(labels_N, number, derive_seed(seed, "images", setting))
    return positions[rest], positions[held]


def _number(part: int | float, total: int, setting: str) -> int:
    if part <= 0 or (part >= 1 and part != int(part)):
        raise ConfigError(
            f"`{setting}` is {part}; set it to a share of the images, below 1, or to a number of them."
        )
    return round(part * total) if part < 1 else int(part)


def stratified(labels_N: Positions, number: int, seed: int) -> tuple[Positions, Positions]:
    """Positions of the images left and of the `number` held out, both ascending, each class in proportion.

    Every class needs two images, and both parts one for every class.
    """
    # Imported where it is needed: it takes as long as all else of this package but torch.
    from sklearn.model_selection import train_test_split

    rest, held = train_test_split(
        np.arange(len(labels_N)), test_size=number, stratify=labels_N, random_state=seed % 2**32
    )
    return np.sort(rest), np.sort(held)


def check_disjoint(splits: Mapping[Split, Positions]) -> None:
    """Raises `DataError` if an image is in two splits, or twice in one."""
    for split, positions in splits.items():
        if len(np.unique(positions)) < len(positions):
            raise DataError(f"The {split} split has an image twice: list each position once.")
    for i, first in enumerate(SPLITS):
        for second in SPLITS[i + 1 :]:
            shared = np.intersect1d(splits[first], splits[second])
            if len(shared):
                raise DataError(
                    f"The {first} and {second} splits overlap: {len(shared):,} images are in both, the first "
                    f"at position {shared[0]:,}. Leave each out of one."
                )


def repeated_pictures(
    pool: ImagePool, splits: Mapping[Split, Positions]
) -> list[tuple[int, Split, int, Split]]:
    """Images whose pixels are those of one in an earlier split: (position, split, earlier position, its split)."""
    seen: dict[bytes, tuple[int, Split]] = {}
    repeated = []
    for split in SPLITS:
        prints = {int(position): _fingerprint(pool.images_NCHW[position]) for position in splits[split]}
        repeated += [(position, split, *seen[p]) for position, p in prints.items() if p in seen]
        for position, fingerprint in prints.items():
            seen.setdefault(fingerprint, (position, split))
    return repeated


def _fingerprint(image_CHW: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image_CHW).data, digest_size=16).digest()
