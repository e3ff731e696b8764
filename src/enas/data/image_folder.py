"""A folder of class folders of pictures: sizes, channels and classes are read off the files.

    photos/cat/1.jpg  photos/dog/a.png ...                          all pictures, to be split
    photos/train/cat/1.jpg ...  photos/test/cat/7.jpg ...           split already; photos/valid/ may be there too

Classes are the names of the folders, sorted; a picture may lie deeper in its class folder. Every file that has
the suffix of a picture must be one, other files and hidden ones are left out. If all pictures are grey, there
is one channel, otherwise there are three (red, green, blue; transparency is dropped). A photo is turned
upright as its camera says.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from enas.data.image_splits import ImagePool
from enas.data.text import SPLITS, Split
from enas.errors import DataError

LAYOUT = "a folder of pictures holds a folder for each class, or train/ and test/ that do"
GREY = {"1", "L", "LA"}
WIDE = ("I", "F")
"""First letters of the modes of more than 8 bits."""


def read_image_folder(folder: str | Path, size: int | None = None) -> ImagePool:
    """All pictures of a folder; with `size`, the middle of each, scaled to size × size pixels.

    Raises `DataError` if classes or pictures are missing, a picture cannot be read, or two differ in size
    without `size`.
    """
    folder = Path(folder).expanduser()
    given = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    is_split = {"train", "test"} <= given.keys()
    tops: dict[Split, Path] = given if is_split else {"train": folder}
    classes = _classes(tops["train"])
    for top in tops.values():
        if unknown := sorted(set(_classes(top)) - set(classes)):
            raise DataError(
                f"{top} has the class {unknown[0]!r}, which {tops['train']} lacks: add it there, or remove it."
            )

    files: dict[Split, list[tuple[Path, int]]] = {
        split: [(file, label) for label, name in enumerate(classes) for file in _pictures(top / name)]
        for split, top in tops.items()
    }
    listed = [entry for entries in files.values() for entry in entries]
    paths = [path for path, _ in listed]
    bounds = np.cumsum([0, *map(len, files.values())])
    return ImagePool(
        name=folder.resolve().name,
        classes=tuple(classes),
        images_NCHW=_read(paths, size),
        labels_N=np.array([label for _, label in listed], np.int64),
        splits={split: np.arange(*bounds[i : i + 2]) for i, split in enumerate(files)} if is_split else {},
        source={"folder": str(folder.resolve())} | ({} if size is None else {"size": str(size)}),
        names=tuple(path.relative_to(folder).as_posix() for path in paths),
    )


def _classes(folder: Path) -> list[str]:
    classes = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{folder} needs two class folders or more, and has {found}; {LAYOUT}.")
    return classes


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a class in the order of their names, the same on every machine."""
    if not folder.is_dir():
        return []
    suffixes = Image.registered_extensions().keys()
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise DataError(f"The class folder {folder} has no pictures: put some there, or remove it; {LAYOUT}.")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _read(paths: Sequence[Path], size: int | None) -> NDArray[np.uint8]:
    """images_NCHW of the files."""
    images = [_read_picture(path, size) for path in paths]
    first = images[0].shape[1:]
    for path, image_CHW in zip(paths, images, strict=True):
        if image_CHW.shape[1:] != first:
            raise DataError(
                f"Pictures differ in size: {paths[0]} has {_pixels(first)} pixels, {path} has "
                f"{_pixels(image_CHW.shape[1:])}. Set `size` to scale all to one size, such as 32."
            )
    channels = max(len(image_CHW) for image_CHW in images)
    return np.stack([np.broadcast_to(image_CHW, (channels, *first)) for image_CHW in images])


def _pixels(size: tuple[int, ...]) -> str:
    height, width = size
    return f"{width}×{height}"


def _read_picture(path: Path, size: int | None) -> NDArray[np.uint8]:
    """image_CHW of one channel if it is grey, else of three."""
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith(WIDE):
                raise DataError(
                    f"{path} has more than 8 bits a pixel (mode {picture.mode}): convert it to 8 bits."
                )
            if "transparency" in picture.info:  # a palette with one is read through RGBA, or Pillow warns
                picture = picture.convert("RGBA")
            picture = picture.convert("L" if picture.mode in GREY else "RGB")
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "it is none" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path} cannot be read as a picture ({reason}): replace or remove it.") from error
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
