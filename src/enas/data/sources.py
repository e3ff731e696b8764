"""From settings to data: chooses the reader of the text or the images that a run learns from."""

import os
from collections.abc import Collection, Mapping
from typing import TypeVar

from enas.data.image_arrays import read_image_arrays
from enas.data.image_folder import read_image_folder
from enas.data.image_splits import ImagePool, split_pool
from enas.data.images import NAMED_IMAGES, ImageConfig, ImageData
from enas.data.own_files import SPLITS, data_path, no_source, printable, readable
from enas.data.published import (
    PUBLISHED_IMAGES,
    PUBLISHED_TEXTS,
    Published,
    locate_text,
    read_digits,
    read_images,
)
from enas.data.stdlib import DEFAULT_VOCABULARY, read_stdlib
from enas.data.text import NAMED_TEXTS, Corpus, TextConfig, read_folder
from enas.errors import ConfigError
from enas.runtime.progress import say

P = TypeVar("P", bound=Published)

LICENCES = {
    "digits": "CC BY 4.0 (UCI Machine Learning Repository, by way of scikit-learn)",
    "cifar10": "none is stated by its authors",
    "fashion-mnist": "MIT",
    "stdlib": "Python Software Foundation License",
    "ptb": "for research use, as prepared by Mikolov",
    "wikitext-2": "CC BY-SA 3.0",
}
"""Of the data by the names of their sources; of a user's own data it is unknown."""


@readable()
def load_text(config: TextConfig) -> Corpus:
    """The text that the settings name.

    Raises `DataError` if it is missing or cannot be used, `ConfigError` if settings contradict each other.
    """
    most = (config.max_train_tokens, config.max_valid_tokens, config.max_test_tokens)
    limits = {split: tokens for split, tokens in zip(SPLITS, most, strict=True) if tokens is not None}
    published = _published(config.source, config.folder, PUBLISHED_TEXTS, NAMED_TEXTS, "a text")
    if published is not None:
        place = locate_text(published, config.folder, config.download)
        return read_folder(place, published.name, config.max_vocabulary, limits)
    if config.source == "stdlib":
        max_vocabulary = DEFAULT_VOCABULARY if config.max_vocabulary is None else config.max_vocabulary
        return read_stdlib(max_vocabulary=max_vocabulary, max_tokens=limits)
    folder = data_path(config.source)
    if not folder.is_dir():
        raise no_source(config.source, "neither a folder nor", NAMED_TEXTS)
    return read_folder(folder, max_vocabulary=config.max_vocabulary, max_tokens=limits)


@readable()
def load_images(config: ImageConfig) -> ImageData:
    """The images that the settings name, in three splits. Raises as `load_text`."""
    pool = _read_images(config)
    if pool.splits and "test" not in pool.splits:
        say(
            f"data: {printable(pool.name)} has no test images; some of its training images are held out (data.test)"
        )
    return split_pool(pool, config)


def _read_images(config: ImageConfig) -> ImagePool:
    published = _published(config.source, config.folder, PUBLISHED_IMAGES, NAMED_IMAGES, "pictures")
    path = None if config.source in NAMED_IMAGES else data_path(config.source)
    own_folder = path is not None and path.is_dir()
    own_file = path is not None and path.suffix.lower() == ".npz" and path.is_file()
    if config.size is not None and not own_folder:
        raise ConfigError(
            f"`size` is {config.size}, but only the pictures of a folder are scaled, and `source` is "
            f"{config.source!r}: leave `size` out."
        )
    if config.channels is not None and not own_file:
        raise ConfigError(
            f"`channels` is {config.channels!r}, but only those of an .npz file are looked for, and `source` is "
            f"{config.source!r}: leave `channels` out."
        )
    if published is not None:
        return read_images(published, config.folder, config.download)
    if path is None:
        return read_digits()
    if own_folder:
        return read_image_folder(path, config.size)
    if own_file:
        return read_image_arrays(path, config.channels)
    raise no_source(config.source, "neither a folder, nor an .npz file, nor", NAMED_IMAGES)


def _published(
    source: str, folder: str | None, published: Mapping[str, P], named: Collection[str], what: str
) -> P | None:
    """The published data of this name, if there are any; `named` are all built-in sources, `what` are a user's own data."""
    chosen = published.get(source)
    if folder is not None and chosen is None:
        raise ConfigError(
            f"`folder` is for {' and '.join(published)}, but `source` is {source!r}: "
            f"to read {what} of your own, set `source` to {folder!r} and leave `folder` out."
        )
    if source in named and os.path.isdir(source):
        say(
            f"data: {source} means the built-in data; for the folder of this name that is here, write ./{source}"
        )
    return chosen
