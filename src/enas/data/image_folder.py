"""A folder of class folders of pictures: classes, sizes and channels are read off the files.

    photos/cat/1.jpg  photos/dog/a.png ...                          all pictures, to be split
    photos/train/cat/1.jpg ...  photos/test/cat/7.jpg ...           split already; photos/val/ may be there too

Classes are the names of the class folders, sorted. Splits have the usual names (`own_files.SPLIT_NAMES`), in capitals or
not. A picture may lie deeper in its class folder. Every file with the suffix of a picture must be one; other files, hidden
ones and those of operating systems are left out. If all pictures are grey, there is one channel, otherwise there are three
(red, green, blue). Transparent pixels become white. A photo is turned upright as its camera says.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from enas.data.image_splits import ImagePool
from enas.data.own_files import SPLITS, Split, check_memory, data_path, is_data, named_split, printable
from enas.errors import DataError
from enas.runtime.progress import say

LAYOUT = "a folder of pictures holds a folder for each class, or train/ and test/ that do"
FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
"""Formats that are read. Of the others that Pillow knows, one is handed to another program, and some have no signature."""
UNREAD = {".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".jxl": "JPEG XL"}
"""Common formats that Pillow may not know."""
BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"
)
"""Formats by the bytes after `ftyp` at the beginning of a file; phones give such pictures the suffixes of others."""
LARGE = 2**22
"""A picture of this many pixels or more is read only if there is memory for it."""
BYTES_PER_PIXEL = 16
"""Bytes of a pixel while it is read: four in each of four copies (as stored, upright, with transparency, on white)."""
IN_MEMORY = 4
"""Bytes that a pixel takes once its picture is read."""


def read_image_folder(folder: str | Path, size: int | None = None) -> ImagePool:
    """All pictures of a folder; with `size`, the middle of each, scaled to size × size pixels.

    Raises `DataError` if classes or pictures are missing, a picture cannot be read, two differ in size without `size`,
    or the memory that is free cannot hold them.
    """
    folder = data_path(folder)
    top, given = _find_top(folder)
    parts: Mapping[Split, Path] = given or {"train": top}
    classes = _classes(parts["train"])
    for part in parts.values():
        if unknown := sorted(set(_classes(part)) - set(classes)):
            raise DataError(
                f"{part} has the class {unknown[0]!r}, which {parts['train']} lacks: add it there, or remove it."
            )
    for place in dict.fromkeys((folder, top, *parts.values())):
        _say_loose(place)
    paths: list[Path] = []
    labels: list[int] = []
    splits: dict[Split, NDArray[np.int64]] = {}
    for split, part in parts.items():
        start = len(paths)
        for label, name in enumerate(classes):
            found = _pictures(part / name)
            paths += found
            labels += [label] * len(found)
        splits[split] = np.arange(start, len(paths))
    return ImagePool(
        name=folder.resolve().name,
        classes=tuple(classes),
        images_NCHW=_read_all(paths, size),
        labels_N=np.array(labels, np.int64),
        splits=splits if given else {},
        source={"folder": str(folder.resolve())} | ({} if size is None else {"size": str(size)}),
        names=tuple(path.relative_to(folder).as_posix() for path in paths),
    )


# --- which files ------------------------------------------------------------------------------------------------------


def _find_top(folder: Path) -> tuple[Path, dict[Split, Path]]:
    """The folder of the class folders or of the splits, and the splits. It may be the only folder in `folder`."""
    top = folder
    while not (given := _splits(top)) and len(inside := _folders(top)) == 1:
        top = inside[0]
    if not given and not inside:  # nowhere down there are class folders
        top = folder
    if top != folder:
        say(f"data: the class folders are in {top}, which is read")
    return top, given


def _splits(top: Path) -> dict[Split, Path]:
    """The folders of the splits, `train` among them; none if the folders are those of classes.

    A class may be called `train`. So folders are splits only if two of three things are true: they are named for two splits
    or more; one of them has class folders; no other folder has pictures.
    """
    folders = _folders(top)
    named = [(split, path) for path in folders if (split := named_split(path.name)) is not None]
    if not named:
        return {}
    others = [
        path.name
        for path in folders
        if named_split(path.name) is None
        and any(is_picture(name) for _, names in _walk(path) for name in names)
    ]
    signs = (len(dict(named)) > 1, any(_folders(path) for _, path in named), not others)
    if sum(signs) < 2:
        return {}
    found: dict[Split, Path] = {}
    for split, path in named:
        if split in found:
            raise DataError(
                f"{top} has two folders for the same split, {found[split].name} and {path.name}: join them, or rename one."
            )
        found[split] = path
    if "train" not in found:
        names = " and ".join(path.name for path in found.values())
        raise DataError(
            f"{top} has the folder{'s' if len(found) > 1 else ''} {names}, but none for training: add a folder train."
        )
    if others:
        say(f"data: {top} has the folders of splits; beside them is left out: {', '.join(others)}")
    return {split: found[split] for split in SPLITS if split in found}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_data(path.name) and path.is_dir())


def _classes(folder: Path) -> list[str]:
    classes = [path.name for path in _folders(folder)]
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{folder} needs two class folders or more, and has {found}; {LAYOUT}.")
    return classes


def _say_loose(folder: Path) -> None:
    """Say how many pictures lie beside the folders, and are not read."""
    loose = [
        path.name
        for path in folder.iterdir()
        if is_data(path.name) and is_picture(path.name) and path.is_file()
    ]
    if loose:
        say(
            f"data: {len(loose):,} pictures in {folder} lie in no class folder and are left out, such as {loose[0]}"
        )


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a class in the order of their names, which is the same on every machine."""
    if not folder.is_dir():
        return []
    found = [Path(parent, name) for parent, names in _walk(folder) for name in names if is_picture(name)]
    found = [path for path in found if path.is_file()]
    if not found:
        raise DataError(f"The class folder {folder} has no pictures: put some there, or remove it; {LAYOUT}.")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and every folder below it, each with the names of its files."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = filter(is_data, folders)
        yield parent, [name for name in names if is_data(name)]


# --- pixels -----------------------------------------------------------------------------------------------------------


def _read_all(paths: Sequence[Path], size: int | None) -> NDArray[np.uint8]:
    """images_NCHW of the files, read one by one into their place."""
    images = np.empty((len(paths), 1, 0, 0), np.uint8)
    first, on_white = (0, 0), 0
    for i, path in enumerate(paths):
        picture, transparent = read_picture(path)
        on_white += transparent
        first = first if i else picture.size
        if size is None and picture.size != first:
            raise DataError(
                f"Pictures differ in size: {paths[0]} has {first[0]}×{first[1]} pixels, {path} has "
                f"{picture.width}×{picture.height}. Set `size` to scale all to one size, such as 32."
            )
        width, height = first if size is None else (size, size)
        channels = len(picture.getbands())
        if i == 0 or channels > images.shape[1]:
            check_memory(
                channels * len(paths) * height * width - images.size + IN_MEMORY * height * width,
                f"{len(paths):,} pictures of {width}×{height} pixels",
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
    """Turn the first `count` pictures into colour; they lie in grey, one after the other, where the memory begins."""
    grey_NHW = images_NCHW.reshape(-1, *images_NCHW.shape[2:])
    for i in reversed(range(count)):  # backwards, as a picture in colour covers grey ones before it
        images_NCHW[i] = grey_NHW[i].copy()


@functools.cache
def picture_formats() -> Mapping[str, str]:
    """The format of every suffix of a picture, in small letters, whether it is read or not."""
    return UNREAD | Image.registered_extensions()


@functools.cache
def _read_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return tuple(sorted(FORMATS & Image.OPEN.keys()))


def is_picture(name: str) -> bool:
    """Whether a file has the suffix of a picture."""
    return Path(name).suffix.lower() in picture_formats()


def read_picture(path: Path) -> tuple[Image.Image, bool]:
    """The picture in a file, as `plain_picture` makes it. Raises `DataError` if it cannot be read."""
    try:
        with Image.open(path, formats=_read_formats()) as opened:
            if prod(opened.size) >= LARGE:
                check_memory(
                    BYTES_PER_PIXEL * prod(opened.size),
                    f"{path}, of {opened.width}×{opened.height} pixels,",
                    "make it smaller",
                )
            return plain_picture(opened, str(path))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        if name := _unread_format(path):
            raise DataError(
                f"{path} is a picture in {name}, which is not read: convert it to PNG or JPEG."
            ) from error
        raise DataError(f"{path} cannot be read as a picture (it is none): replace or remove it.") from error
    except Exception as error:  # the decoders raise errors of any kind
        reason = printable(str(error), 200) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a picture ({reason}): replace or remove it, or save it again with another program."
        ) from error


def _unread_format(path: Path) -> str | None:
    """The format of a file that is not read, if its first bytes or its suffix tell."""
    with path.open("rb") as file:
        beginning = file.read(12)
    if beginning[4:8] == b"ftyp" and beginning[8:] in BRANDS:
        return BRANDS[beginning[8:]]
    name = picture_formats().get(path.suffix.lower())
    return None if name in _read_formats() else name


def plain_picture(picture: Image.Image, name: str) -> tuple[Image.Image, bool]:
    """A picture upright and without palette, of mode L if it is grey, else RGB; and whether something of it was transparent.

    Raises `DataError`, which calls it by `name`, if it has more than 8 bits a channel.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"{name} has more than 8 bits a pixel (mode {picture.mode}): convert it to 8 bits.")
    grey, palette = picture.mode in {"1", "L", "LA", "La"}, picture.mode in {"P", "PA"}
    transparent = False
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        lowest, _ = picture.getchannel("A").getextrema()
        transparent = lowest != 255
        if transparent:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if not grey:
        picture = picture.convert("RGB")
    if palette:
        pixels_HWC = np.asarray(picture)
        grey = bool((pixels_HWC == pixels_HWC[..., :1]).all())
    return picture.convert("L") if grey else picture, transparent
