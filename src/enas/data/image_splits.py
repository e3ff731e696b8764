"""From one pool of images to the three splits of a run: given splits are kept, the others are drawn by class.

A split is a set of positions in the pool. A split that a source lacks is held out of its training images, at random by a
seed and stratified: each class has the same share of both parts, as nearly as whole images allow. No position is in two
splits. Unless that is allowed, no picture, judged by its pixels, is in two splits either: rewards and test accuracy on
training images would flatter.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from enas.data.images import ImageConfig, ImageData, ImageSet
from enas.data.own_files import SPLITS, Split, printable
from enas.errors import ConfigError, DataError, shown
from enas.runtime.seeding import derive_seed

Positions = NDArray[np.int64]
SHOWN_PAIRS = 10
"""Most pairs of equal pictures that are named."""


@dataclass(frozen=True, eq=False)
class ImagePool:
    """All images of a source, before they are split."""

    name: str
    """What logs and reports call the data."""
    classes: tuple[str, ...]
    """Name of each label."""
    images_NCHW: NDArray[np.uint8]
    labels_N: Positions
    splits: Mapping[Split, Positions]
    """The splits that the source has; without `train`, all images are to be split."""
    source: Mapping[str, str]
    """Where the images come from."""
    names: tuple[str, ...] = ()
    """What each image is called, such as its file; by default its number."""

    def name_of(self, position: int) -> str:
        """What to call an image in a message."""
        return printable(self.names[position]) if self.names else f"image {position:,}"


def split_pool(pool: ImagePool, config: ImageConfig) -> ImageData:
    """The images of a run, in the memory of the pool, which is used up: its images change places.

    Raises `DataError` if a class has too few images to be split, an image is in two splits, or the same picture is in two
    and that is not allowed; `ConfigError` for impossible numbers of images.
    """
    splits = choose_positions(pool, config)
    order = np.concatenate([splits[split] for split in SPLITS])
    if len(np.unique(order)) < len(order):
        raise DataError(
            f"The splits of {pool.name} overlap: an image is in two of them, or twice in one; leave each out of one."
        )
    repeated = repeated_pictures(pool, splits)
    if repeated and not config.allow_overlap:
        _, split, _, earlier_split = repeated[0]
        named = [
            f"{pool.name_of(late)} {'as' if i else 'is the same picture as'} {pool.name_of(early)}"
            for i, (late, _, early, _) in enumerate(repeated[:SHOWN_PAIRS])
        ] + ["…"] * (len(repeated) > SHOWN_PAIRS)
        raise DataError(
            f"The {split} split of {pool.name} overlaps the {earlier_split} split: {', '.join(named)} ({len(repeated):,} "
            "such in all). Remove one of each, or set `allow_overlap`."
        )
    train, valid, test = _take(pool, [splits[split] for split in SPLITS])
    source = dict(pool.source) | ({"overlap": f"{len(repeated):,} pictures"} if repeated else {})
    return ImageData(pool.name, pool.classes, train, valid, test, source)


def choose_positions(pool: ImagePool, config: ImageConfig) -> dict[Split, Positions]:
    """The positions of each split; those that are drawn are ascending. Raises as `split_pool`."""
    hold_out = partial(_hold_out, pool, config.split_seed)
    train = pool.splits.get("train", np.arange(len(pool.labels_N)))
    if "test" in pool.splits:
        test = pool.splits["test"]
    else:
        train, test = hold_out(train, config.test, "test")
    if config.max_test is not None and config.max_test < len(test):
        test = hold_out(test, config.max_test, "max_test")[1]
    if config.max_train is not None and config.max_train < len(train):
        train = hold_out(train, config.max_train, "max_train")[1]
    if "valid" in pool.splits:
        valid = pool.splits["valid"]
    else:
        train, valid = hold_out(train, config.valid, "valid")
    return {"train": train, "valid": valid, "test": test}


def _hold_out(
    pool: ImagePool, seed: int, positions: Positions, part: int | float, setting: str
) -> tuple[Positions, Positions]:
    """The positions that are left and those that are held out, for the setting of this name."""
    if part >= 1 and part != int(part):
        raise ConfigError(
            f"`{setting}` is {part}; set it to a share of the images, below 1, or to a number of them."
        )
    number = round(part * len(positions)) if part < 1 else int(part)
    labels_N = pool.labels_N[positions]
    labels, counts = np.unique(labels_N, return_counts=True)
    if counts.min() == 1:
        alone = int(labels[counts.argmin()])
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
    if not len(labels) <= number <= len(positions) - len(labels):
        share = f"{number:,} of" if number <= len(positions) else "more than"
        raise ConfigError(
            f"`{setting}` is {shown(part)}, {share} {len(positions):,} images of {pool.name}, but its "
            f"{len(labels)} classes need at least one image each on both sides of a split: "
            f"set it from {len(labels):,} to {len(positions) - len(labels):,}."
        )
    rest, held = stratified(labels_N, number, derive_seed(seed, "images", setting))
    return positions[rest], positions[held]


def stratified(labels_N: Positions, number: int, seed: int) -> tuple[Positions, Positions]:
    """Positions of the images left and of the `number` held out, both ascending, each class in proportion.

    Every class needs two images, and both parts one for every class.
    """
    from sklearn.model_selection import train_test_split  # slow to import

    rest, held = train_test_split(
        np.arange(len(labels_N)), test_size=number, stratify=labels_N, random_state=seed % 2**32
    )
    return np.sort(rest), np.sort(held)


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


def _take(pool: ImagePool, splits: Sequence[Positions]) -> list[ImageSet]:
    """The images of each split. If all images are used, they are moved within the pool's memory instead of copied."""
    order = np.concatenate(splits)
    images_NCHW = pool.images_NCHW
    if len(order) < len(images_NCHW):
        images_NCHW = images_NCHW[order]
    else:
        _reorder(images_NCHW, order)
    images, labels = torch.from_numpy(images_NCHW), torch.from_numpy(pool.labels_N[order])
    bounds = np.cumsum([0, *map(len, splits)])
    return [ImageSet(images[start:end], labels[start:end]) for start, end in pairwise(bounds)]


def _reorder(images_NCHW: NDArray[np.uint8], order: Positions) -> None:
    """Put the image at `order[i]` in place i, for every i, with one image more in memory.

    Each place is filled from the next of its cycle; the image that stood in the cycle's first place goes to its last.
    """
    filled = np.zeros(len(order), bool)
    for start in range(len(order)):
        place, first = start, images_NCHW[start].copy()
        while not filled[place]:
            filled[place] = True
            images_NCHW[place] = first if order[place] == start else images_NCHW[order[place]]
            place = order[place]
