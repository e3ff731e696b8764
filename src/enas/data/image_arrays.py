"""Images in arrays of an .npz file, as numpy.savez writes them.

    x_train, y_train, x_test, y_test        split already
    images, labels                          all images, to be split

Images are uint8, [N, H, W] grey, [N, H, W, C] or [N, C, H, W]; the channels are the axis of at most four.
Labels are whole numbers or strings, one an image; their sorted values are the classes. Nothing is unpickled.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enas.data.image_splits import ImagePool
from enas.errors import DataError

SPLIT = {"x_train", "y_train", "x_test", "y_test"}
WHOLE = {"images", "labels"}
MOST_CHANNELS = 4


def read_image_arrays(path: str | Path) -> ImagePool:
    """The images of an .npz file.

    Raises `DataError` if it cannot be read, or an array is missing, unknown, or of another type or shape.
    """
    path = Path(path).expanduser()
    arrays = _load(path)
    if arrays.keys() not in (SPLIT, WHOLE):
        raise DataError(
            f"{path} has the arrays {', '.join(sorted(arrays)) or 'of no name'}; it needs x_train, y_train, x_test and "
            "y_test, or images and labels, and no others."
        )
    pairs = (
        [("x_train", "y_train"), ("x_test", "y_test")] if arrays.keys() == SPLIT else [("images", "labels")]
    )
    images = [_channels_first(arrays[x], f"{x} of {path}") for x, _ in pairs]
    labels = [_labels(arrays[y], len(arrays[x]), f"{y} of {path}") for x, y in pairs]
    if (
        len({image.shape[1:] for image in images}) > 1
        or len({label.dtype.kind in "US" for label in labels}) > 1
    ):
        raise DataError(
            f"In {path}, x_train and x_test differ in the shape of an image, or y_train and y_test in type."
        )
    classes, labels_N = np.unique(np.concatenate(labels), return_inverse=True)
    trained = len(labels[0])
    return ImagePool(
        name=path.stem,
        classes=tuple(str(value) for value in classes),
        images_NCHW=np.concatenate(images),
        labels_N=labels_N.astype(np.int64),
        splits={"train": np.arange(trained), "test": np.arange(trained, len(labels_N))}
        if len(pairs) == 2
        else {},
        source={"file": str(path.resolve())},
    )


def _load(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = None if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as arrays of plain numbers or strings ({error}); write it with numpy.savez."
        ) from error
    if arrays is None:
        raise DataError(f"{path} holds one array; images and labels go into one file by numpy.savez.")
    return arrays


def _channels_first(images: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """images_NCHW in any of the three layouts."""
    shape = "×".join(map(str, images.shape))
    if images.dtype != np.uint8 or images.size == 0:
        raise DataError(
            f"{name} is {images.dtype} of shape {shape}; images are uint8, from 0 to 255, and not none."
        )
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4:
        first, last = images.shape[1] <= MOST_CHANNELS, images.shape[3] <= MOST_CHANNELS
        if first != last:
            return images if first else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    raise DataError(
        f"{name} has the shape {shape}; it must be [N, H, W], or [N, H, W, C] or [N, C, H, W] with at most "
        f"{MOST_CHANNELS} channels, and height and width above that."
    )


def _labels(labels: NDArray[Any], number: int, name: str) -> NDArray[Any]:
    """labels_N of whole numbers or strings; a second axis of one, as some have it, is taken off."""
    if labels.shape == (number, 1):
        labels = labels[:, 0]
    if labels.shape != (number,) or labels.dtype.kind not in "iuUS":
        shape = "×".join(map(str, labels.shape))
        raise DataError(
            f"{name} is {labels.dtype} of shape {shape}; labels are {number:,} whole numbers or strings, one an image."
        )
    return labels.astype(np.str_) if labels.dtype.kind in "US" else labels.astype(np.int64)
