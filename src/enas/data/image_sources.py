"""The setting that says which images a run learns from, and the one function that loads them."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from enas.constraints import LARGEST_SIDE, Part, PositiveInt, Seed, Settings
from enas.data.digits import read_digits
from enas.data.image_arrays import Channels, read_image_arrays
from enas.data.image_folder import read_image_folder
from enas.data.image_splits import ImagePool, Parts, split_pool
from enas.data.images import ImageData
from enas.data.own_files import data_path, locate_sources, no_source, printable, readable, say_if_hidden
from enas.data.published_images import PUBLISHED_IMAGES, read_published
from enas.errors import ConfigError
from enas.runtime.progress import say

DIGITS = "digits"
NAMED_SOURCES = (DIGITS, *PUBLISHED_IMAGES)


@dataclass(frozen=True)
class ImageConfig(Settings):
    """Which images to learn from, how many of them, and how they are split."""

    source: str = DIGITS
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
    """Most training and validation images together, each class in proportion. By default all."""

    max_test: PositiveInt | None = None
    """Most test images, likewise. The accuracy on a part does not compare with that on the whole."""

    split_seed: Seed = 0
    """What images are held out follows from this number, whatever the seed of the run."""

    allow_overlap: bool = False
    """Accept images that are, pixel for pixel, in two splits."""

    download: bool = True
    """Download `cifar10` or `fashion-mnist` if it is not found and `folder` is not set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        locate_sources(self, NAMED_SOURCES)


def load_images(config: ImageConfig) -> ImageData:
    """The images of a setting.

    Raises `DataError` if they are missing or cannot be used, `ConfigError` if settings contradict each other.
    """
    parts = Parts(config.valid, config.test, config.max_train, config.max_test)
    with readable():
        pool = _read(config)
        if pool.splits and "test" not in pool.splits:
            say(
                f"data: {printable(pool.name)} has no test images; some of its training images are held out (data.test)"
            )
        return split_pool(pool, parts, config.split_seed, config.allow_overlap)


def _read(config: ImageConfig) -> ImagePool:
    published = PUBLISHED_IMAGES.get(config.source)
    if config.folder is not None and published is None:
        raise ConfigError(
            f"`folder` is for {' and '.join(PUBLISHED_IMAGES)}, but `source` is {config.source!r}: "
            f"to read pictures of your own, set `source` to {config.folder!r} and leave `folder` out."
        )
    path = None if config.source in NAMED_SOURCES else data_path(config.source)
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
    say_if_hidden(config.source, NAMED_SOURCES)
    if published is not None:
        return read_published(published, config.folder, config.download)
    if path is None:
        return read_digits()
    if own_folder:
        return read_image_folder(path, config.size)
    if own_file:
        return read_image_arrays(path, config.channels)
    raise no_source(config.source, "neither a folder, nor an .npz file, nor", NAMED_SOURCES)
