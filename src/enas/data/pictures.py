"""One picture file as pixels: upright, on white where it is transparent, grey or with colours."""

import functools
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from enas.data.own_files import check_memory, printable
from enas.errors import DataError

FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
"""What is read. Pillow knows more, but one of them is handed to another program, and some have no mark to be known by."""
UNREAD = {
    ".avif": "AVIF",
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".hif": "HEIC",
    ".jxl": "JPEG XL",
}
"""Formats of pictures that are common and that Pillow may not know."""
BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"
)
"""Formats by what follows `ftyp` at the beginning of a file; phones give such pictures the names of others."""
GREY = {"1", "L", "LA", "La"}
PALETTES = {"P", "PA"}
LARGE = 2**22
"""Pixels from which on it is asked whether there is memory for a picture."""
BYTES_PER_PIXEL = 16
"""What a pixel may take: four bytes in as many copies, as read, upright, with transparency, on white."""
WIDE = ("I", "F")
"""First letters of the modes of more than 8 bits."""


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
    """A picture of mode L if it is grey, else RGB; and whether something of it was transparent.

    Raises `DataError` if it cannot be read, is of another format, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path, formats=_read_formats()) as opened:
            if prod(opened.size) >= LARGE:
                check_memory(
                    BYTES_PER_PIXEL * prod(opened.size),
                    f"{path}, of {opened.width}×{opened.height} pixels,",
                    "make it smaller",
                )
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith(WIDE):
                raise DataError(
                    f"{path} has more than 8 bits a pixel (mode {picture.mode}): convert it to 8 bits."
                )
            return _flat(picture)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        name = _unread_format(path)
        if name is not None:
            raise DataError(
                f"{path} is a picture in {name}, which is not read: convert it to PNG or JPEG."
            ) from error
        raise DataError(f"{path} cannot be read as a picture (it is none): replace or remove it.") from error
    except Exception as error:  # the decoders raise whatever their parts do, of any kind
        reason = printable(str(error), 200) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a picture ({reason}): replace or remove it, or save it again with another program."
        ) from error


def _unread_format(path: Path) -> str | None:
    """The format of a file that Pillow was not let read, if it is known by its beginning or by its name."""
    with path.open("rb") as file:
        beginning = file.read(12)
    if beginning[4:8] == b"ftyp" and beginning[8:] in BRANDS:
        return BRANDS[beginning[8:]]
    name = picture_formats().get(path.suffix.lower())
    return None if name in _read_formats() else name


def _flat(picture: Image.Image) -> tuple[Image.Image, bool]:
    """The picture without palette and transparency, and whether something of it was transparent."""
    grey, palette = picture.mode in GREY, picture.mode in PALETTES
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
