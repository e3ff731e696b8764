"""Images in arrays of an .npz file, as numpy.savez writes them.

    x_train, y_train, x_test, y_test        split already; x_val and y_val may be there too
    images, labels                          all images, to be split

Capitals do not matter, and other orders and usual words are known: `train_images`, `val_labels`, `X_validation`. Images
are [N, H, W] grey, [N, H, W, C] or [N, C, H, W]; the channels are the axis of at most four, or the one that `channels`
names. Pixels are uint8, or of a type that becomes uint8 without loss of meaning (`pixel_reading`). Labels are whole numbers
or strings, one an image; their sorted values are the classes. Nothing is unpickled, and headers are checked before memory is
taken.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enas.data.image_splits import ImagePool
from enas.data.images import Channels
from enas.data.own_files import SPLITS, Split, check_memory, data_path, named_split, printable
from enas.errors import DataError
from enas.runtime.progress import say

Part = Literal["images", "labels"]
PARTS: Mapping[str, Part] = {"x": "images", "images": "images", "y": "labels", "labels": "labels"}
MOST_CHANNELS = 4
PIECE = 2**22
"""Bytes of an array that are read at once."""


@dataclass(frozen=True)
class _Array:
    """An array in an archive, of which only the header has been read."""

    archive: zipfile.ZipFile
    member: str
    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int
    """Bytes of the header."""

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"{printable(self.member.removesuffix('.npy'))} of {self.path}"

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[NDArray[Any]]:
        """The array from the first row to the last, some rows at a time. Raises `EOFError` if it is cut short."""
        rows, row_shape = self.shape[0], self.shape[1:]
        at_once = rows if self.fortran else max(1, PIECE // max(1, self.size // max(1, rows)))
        with self.archive.open(self.member) as file:
            file.read(self.start)
            for first in range(0, rows, at_once):
                count = min(at_once, rows - first)
                flat = np.frombuffer(file.read(count * self.size // rows), self.dtype)
                if len(flat) != count * prod(row_shape):
                    raise EOFError(f"{self.member} is cut short")
                yield flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(count, *row_shape)

    def __str__(self) -> str:
        return f"{self.name} is {self.dtype} of shape {_times(self.shape)}"


def read_image_arrays(path: str | Path, channels: Channels | None = None) -> ImagePool:
    """The images of an .npz file; `channels` says where their channels are if the shape does not tell.

    Raises `DataError` if the file cannot be read, an array is missing, unknown, or of another type or shape, there is only
    one class, or there is not enough memory.
    """
    path = data_path(path)
    try:
        with path.open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{path} holds one array; images and labels go into one file by numpy.savez.")
        with zipfile.ZipFile(path) as archive:
            return _read(path, _pairs(path, archive), channels)
    except DataError:
        raise
    except Exception as error:  # damaged zip files and headers raise errors of many kinds
        reason = printable(str(error), 200) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as arrays of plain numbers or strings ({reason}); write it with numpy.savez."
        ) from error


def _pairs(path: Path, archive: zipfile.ZipFile) -> dict[Split | None, dict[Part, _Array]]:
    """Images and labels of each split, or of no split."""
    pairs: dict[Split | None, dict[Part, _Array]] = {None: {}} | {split: {} for split in SPLITS}
    names = sorted(member.removesuffix(".npy") for member in archive.namelist())
    wrong = DataError(
        f"{path} has the arrays {printable(', '.join(names), 200) or 'of no name'}; it needs "
        "x_train, y_train, x_test and y_test, or also x_val and y_val, or images and labels, and no others."
    )
    for member in archive.namelist():
        words = member.removesuffix(".npy").casefold().split("_")
        parts = [PARTS[word] for word in words if word in PARTS]
        splits = [split for word in words if (split := named_split(word)) is not None]
        if len(parts) != 1 or len(splits) > 1 or len(parts) + len(splits) != len(words):
            raise wrong
        pair = pairs[splits[0] if splits else None]
        if parts[0] in pair:
            raise wrong
        pair[parts[0]] = _header(path, archive, member)
    pairs = {split: pair for split, pair in pairs.items() if pair}
    whole = pairs.keys() == {None} or {"train"} < pairs.keys() <= set(SPLITS)
    if not whole or any(len(pair) < 2 for pair in pairs.values()):
        raise wrong
    return pairs


def _header(path: Path, archive: zipfile.ZipFile, member: str) -> _Array:
    """The array of a member, from its header. Raises `ValueError` for Python objects, and for a wrong size."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"{member} is in version {version} of numpy's format")
        shape, fortran, dtype = readers[version](file)
        array = _Array(archive, member, path, shape, dtype, fortran, file.tell())
    if dtype.hasobject:
        raise ValueError(f"{member} holds Python objects, which are not unpickled")
    size = archive.getinfo(member).file_size - array.start
    if size != array.size or not all(0 <= length < 2**63 for length in shape):
        raise ValueError(f"{member} has {size:,} bytes for an array of {_times(shape)} {dtype}")
    return array


def _read(
    path: Path, pairs: Mapping[Split | None, Mapping[Part, _Array]], channels: Channels | None
) -> ImagePool:
    images = [pair["images"] for pair in pairs.values()]
    for array in images:
        if array.size == 0:
            raise DataError(f"{array}; images are uint8, from 0 to 255, and not none.")
    axes = [_channel_axis(array, channels) for array in images]
    shapes = {_channels_first(array.shape, axis) for array, axis in zip(images, axes, strict=True)}
    kinds = {pair["labels"].dtype.kind in "US" for pair in pairs.values()}
    if len(shapes) > 1 or len(kinds) > 1 or len({array.dtype for array in images}) > 1:
        kinds_of_array: tuple[Part, Part] = ("images", "labels")
        of_images, of_labels = (
            " and ".join(pair[part].member.removesuffix(".npy") for pair in pairs.values())
            for part in kinds_of_array
        )
        raise DataError(
            f"In {path}, {of_images} differ in the shape of an image or in type, or {of_labels} in type."
        )
    (shape,) = shapes
    bounds = np.cumsum([0, *(array.shape[0] for array in images)]).tolist()
    taken = sum(pair["labels"].size for pair in pairs.values())
    taken += sum(array.size for array in images if array.fortran)
    check_memory(bounds[-1] * prod(shape) + taken, f"The arrays of {path}", "use fewer or smaller images")

    labels = [_labels(pair["labels"], pair["images"].shape[0]) for pair in pairs.values()]
    classes, labels_N = np.unique(np.concatenate(labels), return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{path} has only the class {str(classes[0])!r}; a network needs two or more.")
    read_pixels, reading = pixel_reading(images)
    images_NCHW = np.empty((bounds[-1], *shape), np.uint8)
    position = 0
    for array, axis in zip(images, axes, strict=True):
        for piece in array.pieces():
            pixels = read_pixels(piece)
            pixels = pixels[:, None] if axis is None else np.moveaxis(pixels, axis, 1)
            images_NCHW[position : position + len(pixels)] = pixels
            position += len(pixels)
    if reading:
        say(f"data: {path}: {reading}")
    return ImagePool(
        name=path.stem,
        classes=tuple(str(value) for value in classes),
        images_NCHW=images_NCHW,
        labels_N=labels_N.astype(np.int64),
        splits={split: np.arange(*bounds[i : i + 2]) for i, split in enumerate(pairs) if split is not None},
        source={"file": str(path.resolve())},
    )


def _channel_axis(array: _Array, channels: Channels | None) -> int | None:
    """The axis of the channels; None for grey images without one."""
    if len(array.shape) == 3:
        return None
    asked = {None: (1, 3), "first": (1,), "last": (3,)}[channels]
    few = [axis for axis in asked if len(array.shape) == 4 and array.shape[axis] <= MOST_CHANNELS]
    if len(few) == 1:
        return few[0]
    if few:
        advice = ", and both may be meant: set `channels` to first or last."
    else:
        advice = f"{'' if channels is None else f', which are {channels}'}, and height and width above that."
    raise DataError(
        f"{array.name} has the shape {_times(array.shape)}; it must be [N, H, W], or [N, H, W, C] or [N, C, H, W] with at "
        f"most {MOST_CHANNELS} channels{advice}"
    )


def _channels_first(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Shape [C, H, W] of one image."""
    rest = [length for i, length in enumerate(shape) if i not in (0, axis)]
    return (1 if axis is None else shape[axis], *rest)


def pixel_reading(arrays: Sequence[_Array]) -> tuple[Callable[[NDArray[Any]], NDArray[np.uint8]], str]:
    """The function that turns values of these arrays, all of one type, into pixels, and its description for the user.

    * uint8: as they are, without a description; booleans: 0 and 255;
    * whole numbers: from 0 to 255 as they are; if all are multiples of 257 or of 256, which is how 8 bits are stretched to
      16, divided by that;
    * floats: from 0 to 1 times 255, others from 0 to 255 as they are. They are rounded if the largest becomes 128 or more,
      so that few levels are lost; otherwise they must be whole already.

    Raises `DataError` for anything else.
    """
    dtype = arrays[0].dtype
    is_float = dtype.kind == "f"
    if dtype == np.uint8:
        return lambda piece: piece, ""
    if dtype.kind == "b":
        return lambda piece: piece * np.uint8(255), "False and True were read as 0 and 255"
    if dtype.kind not in "iuf":
        raise DataError(f"{arrays[0]}; images are uint8, from 0 to 255.")
    scales = {(255, 1): 0.0, (1, 1): 0.0} if is_float else {(1, 1): 0.0, (1, 257): 0.0, (1, 256): 0.0}
    # Factors and divisors, each with the largest distance of a pixel to a whole number.
    low, high = np.inf, -np.inf
    for array in arrays:
        for piece in array.pieces():
            with np.errstate(over="ignore", invalid="ignore"):  # too large a value is infinite, and refused
                values = piece.astype(np.float64)
                for (factor, divisor), off in scales.items():
                    pixels = values * factor / divisor
                    scales[factor, divisor] = max(off, np.abs(pixels - np.rint(pixels)).max())
            if not np.isfinite(values).all():
                raise DataError(f"{array} and holds NaN or infinity; images are uint8, from 0 to 255.")
            low, high = min(low, values.min()), max(high, values.max())
    if is_float:
        scales.pop((1, 1) if high <= 1 else (255, 1))
    span = f"{dtype} values from {low:g} to {high:g}"
    for (factor, divisor), off in scales.items():
        largest = high * factor / divisor
        rounded = bool(off > (0.01 if is_float else 0))
        if low < 0 or largest > 255 or (rounded and not (is_float and largest >= 128)):
            continue
        steps = ["times 255"] * (factor > 1) + [f"divided by {divisor}"] * (divisor > 1)
        steps += ["rounded"] * (rounded or factor > 1)
        return (
            lambda piece, factor=factor, divisor=divisor: np.rint(
                piece.astype(np.float64) * factor / divisor
            ).astype(np.uint8),
            f"{span} were read as 0 to 255, {', '.join(steps) or 'as they are'}",
        )
    raise DataError(
        f"{arrays[0]}, {span}; images are uint8, from 0 to 255, and these cannot become that without loss: "
        "scale and round them before they are saved."
    )


def _labels(array: _Array, number: int) -> NDArray[Any]:
    """labels_N of whole numbers or strings; a second axis of length 1 is removed."""
    if array.shape not in ((number,), (number, 1)) or array.dtype.kind not in "iuUS":
        raise DataError(f"{array}; labels are {number:,} whole numbers or strings, one an image.")
    labels = np.concatenate(list(array.pieces())).reshape(number)
    if array.dtype.kind == "S":
        try:
            return np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{array.name} has labels of bytes that are not UTF-8, such as {error.object!r}: save them as strings."
            ) from error
    if array.dtype.kind == "U":
        return labels
    if labels.max() > np.iinfo(np.int64).max:
        raise DataError(
            f"{array.name} has the label {labels.max()}; whole numbers are at most {np.iinfo(np.int64).max}."
        )
    return labels.astype(np.int64)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
