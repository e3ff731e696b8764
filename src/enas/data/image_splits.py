"""From one pool of images to the three splits of a run: given splits are kept, the others are drawn by class.

A split is a set of positions in the pool. What a source has no split for is held out of its training images, at
random by a seed and stratified: each class has the same share of both parts, as nearly as whole images allow.
No position is in two splits. Nor, unless that is allowed, is the same picture, by its pixels: rewards and test
accuracy on images that were trained on would flatter.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from enas.data.images import ImageData, ImageSet
from enas.data.own_files import printable
from enas.data.text import SPLITS, Split
from enas.errors import ConfigError, DataError, shown
from enas.runtime.seeding import derive_seed

Positions = NDArray[np.int64]
SHOWN_PAIRS = 10
"""Most pairs of equal pictures that are named."""


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
        return printable(self.names[position]) if self.names else f"image {position:,}"


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
    """The images of a run, in the memory of the pool, which is used up by that: its images change their places.

    Raises `DataError` if a class has too few images to be split, or the same picture is in two splits and
    that is not allowed; `ConfigError` for numbers of images that cannot be.
    """
    splits = choose_positions(pool, parts, seed)
    check_disjoint(splits)
    repeated = repeated_pictures(pool, splits)
    if repeated and not allow_overlap:
        _, split, _, earlier_split = repeated[0]
        pairs = [(pool.name_of(late), pool.name_of(early)) for late, _, early, _ in repeated[:SHOWN_PAIRS]]
        named = ", ".join(
            f"{late} {'as' if i else 'is the same picture as'} {early}"
            for i, (late, early) in enumerate(pairs)
        )
        more = ", …" if len(repeated) > SHOWN_PAIRS else ""
        raise DataError(
            f"The {split} split of {pool.name} overlaps the {earlier_split} split: {named}{more} ({len(repeated):,} such "
            "in all). Remove one of each, or set `allow_overlap`."
        )
    train, valid, test = _take(pool, [splits[split] for split in SPLITS])
    source = dict(pool.source) | ({"overlap": f"{len(repeated):,} pictures"} if repeated else {})
    return ImageData(pool.name, pool.classes, train, valid, test, source)


def _take(pool: ImagePool, splits: Sequence[Positions]) -> list[ImageSet]:
    """The images of each split. Where all are used, they are moved within the pool's memory instead of copied."""
    order = np.concatenate(splits)
    if len(order) == len(pool.images_NCHW):
        images_NCHW = pool.images_NCHW
        _reorder(images_NCHW, order)
    else:
        images_NCHW = pool.images_NCHW[order]
    bounds = np.cumsum([0, *map(len, splits)])
    images, labels = torch.from_numpy(images_NCHW), torch.from_numpy(pool.labels_N[order])
    return [ImageSet(images[start:end], labels[start:end]) for start, end in pairwise(bounds)]


def _reorder(images_NCHW: NDArray[np.uint8], order: Positions) -> None:
    """Put the image at `order[i]` in place i, for every i, with one image more in memory.

    Each place is filled from the next, round by round, and what stood in the first of a round goes to its last.
    """
    filled = np.zeros(len(order), bool)
    for start in range(len(order)):
        if filled[start]:
            continue
        first, place = images_NCHW[start].copy(), start
        while order[place] != start:
            images_NCHW[place] = images_NCHW[order[place]]
            filled[place] = True
            place = int(order[place])
        images_NCHW[place] = first
        filled[place] = True


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
        total = int((pool.labels_N == alone).sum())
        left = (
            "there is only one"
            if total == 1
            else f"there are {total}, and what the other settings hold out or leave out leaves one"
        )
        raise DataError(
            f"The class {pool.classes[alone]!r} of {pool.name} cannot be split for `{setting}`: of its pictures "
            f"{left} ({picture}). Add more, or remove the class."
        )
    if not len(names) <= number <= len(positions) - len(names):
        share = f"{number:,} of" if number <= len(positions) else "more than"
        raise ConfigError(
            f"`{setting}` is {shown(part)}, {share} {len(positions):,} images of {pool.name}, but its "
            f"{len(names)} classes need at least one image each on both sides of a split: "
            f"set it from {len(names):,} to {len(positions) - len(names):,}."
        )
    rest, held = stratified(labels_N, number, derive_seed(seed, "images", setting))
    return positions[rest], positions[held]


def _number(part: int | float, total: int, setting: str) -> int:
    if not (math.isfinite(part) and part > 0) or (part >= 1 and part != int(part)):
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
