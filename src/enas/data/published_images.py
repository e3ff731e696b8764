"""CIFAR-10 and Fashion-MNIST as published: from a local folder, or downloaded and checked.

Files are looked for in a folder given by hand, or else under $ENAS_DATA or the user's cache folder, in a folder
of the name that the data are published under. Only the latter is ever written to, only if a file is missing and
downloads are allowed. Every file must have its published content, so that an accuracy on `cifar10` is one on the
CIFAR-10 of the literature.

CIFAR-10 (Krizhevsky, 2009) is published without a licence, Fashion-MNIST under the MIT licence. Neither is part
of this package.
"""

import logging
import os
import shutil
import struct
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enas.data.downloads import cache_folder, read_checked, retrieve
from enas.data.image_splits import ImagePool
from enas.data.own_files import data_path
from enas.errors import DataError

logger = logging.getLogger(__name__)

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""images_NCHW and labels_N."""


@dataclass(frozen=True)
class PublishedImages:
    """Where the files of a published set of images are, what must be in them, and how they are read."""

    name: str
    folder: str
    """The folder that the files are published in."""
    url: str
    """Where the downloads are, up to their names."""
    downloads: Mapping[str, str]
    """Checksum of each file to download, as its publisher gives it: an archive of the files, or all of them,
    compressed."""
    megabytes: float
    """Size of the downloads together."""
    sha256: Mapping[str, str]
    """Of each file's content, not compressed."""
    train: tuple[str, ...]
    """The files of the training split, as `read` takes them."""
    test: tuple[str, ...]
    """The files of the test split, likewise."""
    read: Callable[[list[bytes]], Arrays]
    """Images and labels of the contents of a split's files."""
    classes: tuple[str, ...]


CIFAR_SIDE = 32


def read_cifar(files: list[bytes]) -> Arrays:
    """The binary layout of CIFAR-10: of each image a byte for the label, then its red, green and blue plane.

    Raises `DataError` if a file is not a number of whole images.
    """
    record = 1 + 3 * CIFAR_SIDE**2
    for content in files:
        if len(content) % record or not content:
            raise DataError(
                f"A file of {len(content):,} bytes is not in CIFAR-10's layout of {record:,} an image."
            )
    records = np.frombuffer(b"".join(files), np.uint8).reshape(-1, record)
    return records[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE), records[:, 0]


def read_idx(content: bytes) -> NDArray[np.uint8]:
    """An array of bytes in the layout of MNIST: its type (8) and dimensions, sizes in big-endian order, values.

    Raises `DataError` if that is not what is there.
    """
    dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if not dimensions or len(content) < start:
        raise DataError(
            f"A file that begins with {content[:4].hex(' ')!r} is not an array of bytes in idx layout."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != np.prod(shape, dtype=object):
        raise DataError(
            f"An idx file says that its array is {'×'.join(map(str, shape))}, but {len(content) - start:,} values follow."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx_pair(files: list[bytes]) -> Arrays:
    """Grey images and their labels, each in an idx file. Raises `DataError` if they are not as many."""
    images_NHW, labels_N = map(read_idx, files)
    if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
        raise DataError(
            f"Arrays of shapes {images_NHW.shape} and {labels_N.shape} are not images and their labels."
        )
    return images_NHW[:, None], labels_N


CIFAR10 = PublishedImages(
    name="cifar10",
    folder="cifar-10-batches-bin",
    url="https://www.cs.toronto.edu/~kriz/",
    downloads={"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
    megabytes=170.1,
    sha256={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    read=read_cifar,
    # The names of batches.meta.txt, which is not read: it has no more to say.
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
)
FASHION_MNIST = PublishedImages(
    name="fashion-mnist",
    folder="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    downloads={
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
    megabytes=30.9,
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    train=("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    test=("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    read=read_idx_pair,
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)
PUBLISHED_IMAGES = {images.name: images for images in (CIFAR10, FASHION_MNIST)}


def read_published(
    published: PublishedImages, folder: str | Path | None = None, download: bool = True
) -> ImagePool:
    """A published set with its two splits.

    Looks in `folder` if given (the folder of the files, or the one above), or else in the cache folder, to
    which it downloads what is missing if `download`.
    Raises `DataError` if a file is missing and not downloaded, or is not the published one.
    """
    above = cache_folder() if folder is None else data_path(str(folder))
    place = above / published.folder
    if folder is not None and not place.is_dir():
        place = above
    missing = [name for name in published.sha256 if _find(place, name) is None]
    if missing and (folder is not None or not download):
        raise DataError(
            f"The images {published.name} are not in {place}: {' and '.join(missing)} not found. "
            f"{_remedy(published, place)}"
        )
    if missing:
        _download(published, place)
    train, test = (_read(published, files, place) for files in (published.train, published.test))
    images_NCHW, labels_N = (np.concatenate(both) for both in zip(train, test, strict=True))
    trained = len(train[1])
    return ImagePool(
        name=published.name,
        classes=published.classes,
        images_NCHW=images_NCHW,
        labels_N=labels_N.astype(np.int64),
        splits={"train": np.arange(trained), "test": np.arange(trained, len(labels_N))},
        source={"folder": str(place.resolve())},
    )


def _find(place: Path, name: str) -> Path | None:
    """The file of this name, compressed or not."""
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)


def _read(published: PublishedImages, names: tuple[str, ...], place: Path) -> Arrays:
    contents = []
    for name in names:
        path = _find(place, name) or place / name
        remedy = f"Delete or replace it. {_remedy(published, place)}"
        contents.append(read_checked(published.name, path, published.sha256[name], remedy))
    return published.read(contents)


def _remedy(published: PublishedImages, place: Path) -> str:
    return (
        f"Put {', '.join(published.sha256)} into {place}, or set `folder` to where they are, "
        "or `source` to 'digits', which needs no download."
    )


def _download(published: PublishedImages, place: Path) -> None:
    """Fetch and unpack on the side, then move what is missing into place: each file is whole or not there."""
    logger.info(
        "downloading %s (%.1f MB in all) from %s to %s",
        published.name,
        published.megabytes,
        published.url,
        place,
    )
    remedy = _remedy(published, place)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix="part-") as part:
            for name, checksum in published.downloads.items():
                archive = name.endswith(".tar.gz")
                if archive or _find(place, name.removesuffix(".gz")) is None:
                    retrieve(published.name, published.url + name, checksum, Path(part, name), remedy)
                if archive:
                    _unpack(Path(part, name), published.sha256)
            for name in published.sha256:
                found = _find(Path(part), name)
                if found is not None and _find(place, name) is None:
                    os.replace(found, place / found.name)
    except OSError as error:
        raise DataError(f"{published.name} could not be written to {place} ({error}). {remedy}") from error


def _unpack(archive: Path, names: Mapping[str, str]) -> None:
    """Write the files of these names beside their archive, whatever folder they have in it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            content = tar.extractfile(member) if name in names else None
            if content is not None:
                with content, (archive.parent / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
