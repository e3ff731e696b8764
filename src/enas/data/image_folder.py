"""A folder of class folders of pictures: sizes, channels and classes are read off the files.

    photos/cat/1.jpg  photos/dog/a.png ...                          all pictures, to be split
    photos/train/cat/1.jpg ...  photos/test/cat/7.jpg ...           split already; photos/val/ may be there too

Splits may be called train or training, valid, val, validation or dev, test or testing, in capitals or not. A picture may
lie deeper in its class folder. Every file that has the suffix of a picture must be one; other files, hidden ones and those
of operating systems are left out. If all pictures are grey, there is one channel, otherwise there are three (red, green,
blue). What is transparent is white. A photo is turned upright as its camera says.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from enas.data.image_layout import find_pictures
from enas.data.image_splits import ImagePool
from enas.data.own_files import check_memory, data_path
from enas.data.pictures import read_picture
from enas.errors import DataError
from enas.runtime.progress import say

IN_MEMORY = 4
"""Bytes that a pixel takes while its picture is open."""


def read_image_folder(folder: str | Path, size: int | None = None) -> ImagePool:
    """All pictures of a folder; with `size`, the middle of each, scaled to size × size pixels.

    Raises `DataError` if classes or pictures are missing, a picture cannot be read, two differ in size without `size`,
    or the memory that is free cannot hold them.
    """
    folder = data_path(str(folder))
    layout = find_pictures(folder)
    listed = [entry for entries in layout.files.values() for entry in entries]
    paths = [path for path, _ in listed]
    bounds = np.cumsum([0, *map(len, layout.files.values())])
    splits = {split: np.arange(*bounds[i : i + 2]) for i, split in enumerate(layout.files)}
    return ImagePool(
        name=folder.resolve().name,
        classes=layout.classes,
        images_NCHW=_read(paths, size),
        labels_N=np.array([label for _, label in listed], np.int64),
        splits=splits if layout.is_split else {},
        source={"folder": str(folder.resolve())} | ({} if size is None else {"size": str(size)}),
        names=tuple(path.relative_to(folder).as_posix() for path in paths),
    )


def _read(paths: Sequence[Path], size: int | None) -> NDArray[np.uint8]:
    """images_NCHW of the files, read one by one into their place."""
    images = np.empty((len(paths), 1, 0, 0), np.uint8)
    first, on_white = (0, 0), 0
    for i, path in enumerate(paths):
        picture, transparent = read_picture(path)
        on_white += transparent
        first = first if i else picture.size
        if size is None and picture.size != first:
            raise DataError(
                f"Pictures differ in size: {paths[0]} has {_pixels(first)} pixels, {path} has "
                f"{_pixels(picture.size)}. Set `size` to scale all to one size, such as 32."
            )
        width, height = first if size is None else (size, size)
        channels = len(picture.getbands())
        if i == 0 or channels > images.shape[1]:
            bytes_needed = channels * len(paths) * height * width - images.size + IN_MEMORY * height * width
            check_memory(
                bytes_needed,
                f"{len(paths):,} pictures of {_pixels((width, height))} pixels",
                "scale them with `size`, to less, or use fewer",
            )
            # Grown in place, so that there is never a second copy.
            images.resize((len(paths), channels, height, width), refcheck=False)
            if i:
                _spread(images, i)
        if size is not None:
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
        images[i] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if on_white:
        say(
            f"data: {on_white:,} of {len(paths):,} pictures are transparent in places, which are read as white"
        )
    return images


def _spread(images_NCHW: NDArray[np.uint8], count: int) -> None:
    """Give colours to so many grey pictures that lie one after the other at the beginning of the memory."""
    grey_NHW = images_NCHW.reshape(-1, *images_NCHW.shape[2:])
    for i in reversed(range(count)):  # from the last on, as each one's place covers those of others before it
        images_NCHW[i] = grey_NHW[i].copy()


def _pixels(size: tuple[int, int]) -> str:
    width, height = size
    return f"{width}×{height}"
