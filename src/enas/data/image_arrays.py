"""Images in arrays of an .npz file, as numpy.savez writes them.

    x_train, y_train, x_test, y_test        split already; x_val and y_val may be there too
    images, labels                          all images, to be split

Capitals do not matter, and other orders and usual words are known: `train_images`, `val_labels`, `X_validation`.
Images are [N, H, W] grey, [N, H, W, C] or [N, C, H, W]; the channels are the axis of at most four, or what `channels` says.
Pixels are uint8, or what can become that without loss of meaning (`pixel_reading`). Labels are whole numbers or strings,
one an image; their sorted values are the classes. Nothing is unpickled, and headers are checked before memory is taken.
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
from enas.data.own_files import check_memory, data_path, printable
from enas.data.text import SPLITS, Split, named_split
from enas.errors import DataError
from enas.runtime.progress import say

Part = Literal["images", "labels"]
Channels = Literal["first", "last"]
PARTS: Mapping[str, Part] = {"x": "images", "images": "images", "y": "labels", "labels": "labels"}
MOST_CHANNELS = 4
PIECE = 2**22
"""Bytes of an array that are read at once."""


@dataclass(frozen=True)
class _Array:
    """An array in an archive, of which only the header has been read."""

    archive: zipfile.ZipFile
    member: str
    name: str
    """What to call it in a message."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int
    """Bytes of the header."""

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
                content = file.read(count * self.size // rows)
                flat = np.frombuffer(content, self.dtype)
                if len(flat) != count * prod(row_shape):
                    raise EOFError(f"{self.member} is cut short")
                yield flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(count, *row_shape)

    def described(self) -> str:
        """Name, type and shape."""
        return f"{self.name} is {self.dtype} of shape {_times(self.shape)}"


def read_image_arrays(path: str | Path, channels: Channels | None = None) -> ImagePool:
    """The images of an .npz file; `channels` says where those of [N, ?, ?, ?] are, if it cannot be seen.

    Raises `DataError` if it cannot be read, an array is missing, unknown, or of another type or shape, there is only one
    class, or the memory that is free cannot hold it.
    """
    path = data_path(str(path))
    try:
        with path.open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{path} holds one array; images and labels go into one file by numpy.savez.")
        with zipfile.ZipFile(path) as archive:
            return _read(path, _pairs(path, archive), channels)
    except DataError:
        raise
    except Exception as error:  # parts of zip files and headers that are damaged raise errors of many kinds
        reason = printable(str(error), 200) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as arrays of plain numbers or strings ({reason}); write it with numpy.savez."
        ) from error


def _pairs(path: Path, archive: zipfile.ZipFile) -> dict[Split | None, dict[Part, _Array]]:
    """Images and labels of each split, or of no split."""
    names = sorted(member.removesuffix(".npy") for member in archive.namelist())
    needs = (
        f"{path} has the arrays {printable(', '.join(names), 200) or 'of no name'}; it needs "
        "x_train, y_train, x_test and y_test, or also x_val and y_val, or images and labels, and no others."
    )
    pairs: dict[Split | None, dict[Part, _Array]] = {}
    for member in archive.namelist():
        role = _role(member.removesuffix(".npy"))
        if role is None or role[1] in pairs.get(role[0], {}):
            raise DataError(needs)
        split, part = role
        pairs.setdefault(split, {})[part] = _header(path, archive, member)
    whole = pairs.keys() == {None} or {"train"} < pairs.keys() <= set(SPLITS)
    if not whole or any(len(pair) < 2 for pair in pairs.values()):
        raise DataError(needs)
    order: list[Split | None] = [None, *SPLITS]
    return {split: pairs[split] for split in order if split in pairs}


def _role(name: str) -> tuple[Split | None, Part] | None:
    """What an array of this name holds; None if that is not known."""
    words = name.casefold().split("_")
    parts = [PARTS[word] for word in words if word in PARTS]
    splits = [split for word in words if (split := named_split(word)) is not None]
    if len(parts) != 1 or len(splits) > 1 or len(parts) + len(splits) != len(words):
        return None
    return (splits[0] if splits else None), parts[0]


def _header(path: Path, archive: zipfile.ZipFile, member: str) -> _Array:
    """What a member says of its array. Raises `ValueError` if it has objects, or not the size it says."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"{member} is in version {version} of numpy's format")
        shape, fortran, dtype = readers[version](file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{member} holds Python objects, which are not unpickled")
    array = _Array(
        archive, member, f"{printable(member.removesuffix('.npy'))} of {path}", shape, dtype, fortran, start
    )
    size = archive.getinfo(member).file_size
    if size != start + array.size or not all(0 <= length < 2**63 for length in shape):
        raise ValueError(f"{member} has {size - start:,} bytes for an array of {_times(shape)} {dtype}")
    return array


def _read(
    path: Path, pairs: Mapping[Split | None, Mapping[Part, _Array]], channels: Channels | None
) -> ImagePool:
    images = [pair["images"] for pair in pairs.values()]
    for array in images:
        if array.size == 0:
            raise DataError(f"{array.described()}; images are uint8, from 0 to 255, and not none.")
    axes = [_channel_axis(array, channels) for array in images]
    shapes = {_channels_first(array.shape, axis) for array, axis in zip(images, axes, strict=True)}
    kinds = {pair["labels"].dtype.kind in "US" for pair in pairs.values()}
    if len(shapes) > 1 or len(kinds) > 1 or len({array.dtype for array in images}) > 1:
        of_images, of_labels = (
            " and ".join(pair[part].member.removesuffix(".npy") for pair in pairs.values())
            for part in ("images", "labels")
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
    shape = array.shape
    if len(shape) == 3:
        return None
    if len(shape) == 4:
        few = [axis for axis in (1, 3) if shape[axis] <= MOST_CHANNELS]
        if channels is not None:
            few = [axis for axis in few if axis == (1 if channels == "first" else 3)]
        if len(few) == 1:
            return few[0]
        if len(few) == 2:
            raise DataError(
                f"{array.name} has the shape {_times(shape)}; it must be [N, H, W], or [N, H, W, C] or [N, C, H, W] with at "
                f"most {MOST_CHANNELS} channels, and both may be meant: set `channels` to first or last."
            )
    raise DataError(
        f"{array.name} has the shape {_times(shape)}; it must be [N, H, W], or [N, H, W, C] or [N, C, H, W] with at most "
        f"{MOST_CHANNELS} channels{'' if channels is None else f', which are {channels}'}, and height and width above that."
    )


def _channels_first(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Shape [C, H, W] of one image."""
    rest = [length for i, length in enumerate(shape) if i not in (0, axis)]
    return (1 if axis is None else shape[axis], *rest)


def pixel_reading(arrays: Sequence[_Array]) -> tuple[Callable[[NDArray[Any]], NDArray[np.uint8]], str]:
    """How the values of these arrays, all of one type, become pixels from 0 to 255, and the words to say so.

    * uint8 as they are, and nothing is said; booleans as 0 and 255;
    * whole numbers from 0 to 255 as they are; uint16 that are all multiples of 257 or of 256, which is how 8 bits are
      stretched to 16, divided by that;
    * floats from 0 to 1 times 255, others from 0 to 255 as they are. They are rounded, if the largest becomes 128 or
      more, so that few levels are lost; if it does not, they must be whole already.

    Raises `DataError` for anything else.
    """
    dtype = arrays[0].dtype
    if dtype == np.uint8:
        return lambda piece: piece, ""
    if dtype.kind == "b":
        return lambda piece: piece * np.uint8(255), "False and True were read as 0 and 255"
    if dtype.kind not in "iuf":
        raise DataError(f"{arrays[0].described()}; images are uint8, from 0 to 255.")
    seen = _Values.of(arrays)
    span = f"{dtype} values from {seen.low:g} to {seen.high:g}"
    if dtype.kind == "f" and seen.low >= 0:
        for scale, highest, off in ((255, 1, seen.off_times_255), (1, 255, seen.off)):
            if seen.high <= highest:
                if seen.high * scale < 128 and off > 0.01:
                    break
                how = "times 255, rounded" if scale == 255 else "rounded" if off > 0.01 else "as they are"
                return (
                    lambda piece, scale=scale: np.rint(piece.astype(np.float64) * scale).astype(np.uint8),
                    f"{span} were read as 0 to 255, {how}",
                )
    elif dtype.kind in "iu" and seen.low >= 0:
        if seen.high <= 255:
            return lambda piece: piece.astype(np.uint8), f"{span} were read as they are"
        for step in (257, 256):
            if seen.high <= 255 * step and step in seen.steps:
                return (
                    lambda piece, step=step: (piece // step).astype(np.uint8),
                    f"{span} were read as 0 to 255, divided by {step}",
                )
    raise DataError(
        f"{arrays[0].described()}, {span}; images are uint8, from 0 to 255, and these cannot become that without loss: "
        "scale and round them before they are saved."
    )


@dataclass(frozen=True)
class _Values:
    """What must be known of numbers to read them as pixels."""

    low: float
    high: float
    off: float
    """Largest distance to a whole number."""
    off_times_255: float
    """Likewise, once they are multiplied by 255."""
    steps: set[int]
    """Those of 257 and 256 of which all are multiples."""

    @staticmethod
    def of(arrays: Sequence[_Array]) -> "_Values":
        low, high, off, off_times_255, steps = np.inf, -np.inf, 0.0, 0.0, {257, 256}
        for array in arrays:
            for piece in array.pieces():
                with np.errstate(over="ignore"):  # more than a float64 holds is infinite, and refused as that
                    values = piece.astype(np.float64) if piece.dtype.kind == "f" else piece
                if not np.isfinite(values).all():
                    raise DataError(
                        f"{array.described()} and holds NaN or infinity; images are uint8, from 0 to 255."
                    )
                low, high = min(low, values.min().item()), max(high, values.max().item())
                if piece.dtype.kind == "f":
                    off = max(off, _off(values))
                    off_times_255 = max(off_times_255, _off(values * 255)) if high <= 1 else np.inf
                else:
                    steps = {
                        step
                        for step in steps
                        if step > np.iinfo(piece.dtype).max or not (values % step).any()
                    }
        return _Values(low, high, off, off_times_255, steps)


def _off(values: NDArray[np.float64]) -> float:
    """The largest distance to a whole number."""
    return float(np.abs(values - np.rint(values)).max())


def _labels(array: _Array, number: int) -> NDArray[Any]:
    """labels_N of whole numbers or strings; a second axis of one, as some have it, is taken off."""
    if array.shape not in ((number,), (number, 1)) or array.dtype.kind not in "iuUS":
        raise DataError(f"{array.described()}; labels are {number:,} whole numbers or strings, one an image.")
    labels = np.concatenate(list(array.pieces())).reshape(number)
    if array.dtype.kind == "U":
        return labels
    if array.dtype.kind == "S":
        try:
            return np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{array.name} has labels of bytes that are not UTF-8, such as {error.object!r}: save them as strings."
            ) from error
    if labels.max() > np.iinfo(np.int64).max:
        raise DataError(
            f"{array.name} has the label {labels.max()}; whole numbers are at most {np.iinfo(np.int64).max}."
        )
    return labels.astype(np.int64)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
