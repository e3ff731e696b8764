"""Images: sets, splits, the published layouts, folders of pictures, arrays, the setting, and batches."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import itertools
import logging
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from sklearn.datasets import load_digits

from enas.data import image_sources
from enas.data.batches import batch_positions, epoch_order, number_of_batches
from enas.data.image_arrays import read_image_arrays
from enas.data.image_folder import read_image_folder
from enas.data.image_sources import ImageConfig, load_images
from enas.data.image_splits import (
    ImagePool,
    Parts,
    check_disjoint,
    choose_positions,
    repeated_pictures,
    split_pool,
    stratified,
)
from enas.data.images import ImageData, ImageSet
from enas.data.published_images import (
    CIFAR10,
    FASHION_MNIST,
    PublishedImages,
    read_cifar,
    read_idx,
    read_idx_pair,
    read_published,
)
from enas.data.text import SPLITS
from enas.errors import ConfigError, DataError

ALL = Parts(valid=0.1, test=0.2, max_train=None, max_test=None)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def image_set(labels: list[int], *shape: int, seed: int = 0) -> ImageSet:
    return ImageSet(
        torch.from_numpy(pixels(len(labels), *(shape or (1, 2, 2)), seed=seed)), torch.tensor(labels)
    )


def image_pool(labels: list[int], splits: dict | None = None, seed: int = 0) -> ImagePool:
    classes = tuple("abcdefghij"[: max(labels) + 1])
    images = pixels(len(labels), 1, 4, 4, seed=seed)
    return ImagePool("mine", classes, images, np.array(labels), splits or {}, {"from": "a test"})


# --- sets of images -----------------------------------------------------------------------------------------


def test_normalisation_is_mean_and_standard_deviation_of_each_channel() -> None:
    images = image_set([0] * 50, 3, 5, 4)
    scaled = images.images_NCHW.numpy().astype(np.float64) / 255
    mean, std = images.normalisation
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-12)


def test_a_channel_without_variation_is_only_shifted() -> None:
    flat = ImageSet(torch.full((4, 2, 3, 3), 51, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    assert flat.normalisation == ((0.2, 0.2), (1.0, 1.0))


def test_final_networks_get_training_and_validation_images_with_their_own_normalisation() -> None:
    train, valid, test = image_set([0, 1, 0]), image_set([1, 1], seed=1), image_set([0], seed=2)
    joined = ImageData("mine", ("a", "b"), train, valid, test, {}).joined()
    assert joined.labels_N.tolist() == [0, 1, 0, 1, 1]
    assert torch.equal(joined.images_NCHW, torch.cat([train.images_NCHW, valid.images_NCHW]))
    assert joined.normalisation.mean[0] == pytest.approx(joined.images_NCHW.double().mean().item() / 255)
    assert joined.normalisation != train.normalisation


def test_data_describe_themselves() -> None:
    data = ImageData(
        "mine", ("a", "b"), *(image_set([0, 1], 3, 4, 5, seed=i) for i in range(3)), {"from": "x"}
    )
    assert data.shape == (3, 4, 5, 2)
    assert str(data) == "mine: 2 classes, 4×5 RGB; train 2, valid 2, test 2"
    assert data.source == {
        "from": "x",
        "images": "train 2, valid 2, test 2",
        "shape": "4×5 RGB",
        "hash": data.hash,
    }


def test_hash_says_whether_the_data_are_equal() -> None:
    def data(classes: str = "ab", seed: int = 0, last: int = 1, cut: int = 3) -> ImageData:
        pool = image_set([0, 1, 0, 1, 0, last], seed=seed)
        return ImageData("mine", tuple(classes), pool[:cut], pool[cut:5], pool[5:], {})

    different = [data(), data("ac"), data(seed=1), data(last=0), data(cut=2)]
    assert len({each.hash for each in different}) == len(different)
    assert data().hash == data().hash


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 3, 3), torch.tensor([0, 1]), r"not torch.float32 of shape \(2, 1, 3, 3\)"),
        (
            torch.zeros(2, 3, 3, dtype=torch.uint8),
            torch.tensor([0, 1]),
            r"not torch.uint8 of shape \(2, 3, 3\)",
        ),
        (torch.zeros(0, 1, 3, 3, dtype=torch.uint8), torch.tensor([]), r"with pixels in it"),
        (
            torch.zeros(2, 1, 3, 3, dtype=torch.uint8),
            torch.tensor([0]),
            r"labels of 2 images .* shape \(1,\)",
        ),
        (
            torch.zeros(1, 1, 3, 3, dtype=torch.uint8),
            torch.tensor([0.0]),
            r"not torch.float32 of shape \(1,\)",
        ),
    ],
)
def test_sets_refuse_other_tensors(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet(images, labels)


def test_data_refuse_splits_that_do_not_fit() -> None:
    good, wide = image_set([0, 1]), image_set([0, 1], 1, 2, 3)
    with pytest.raises(DataError, match=r"^The test images of mine have the shape \(1, 2, 3\), the training"):
        ImageData("mine", ("a", "b"), good, good, wide, {})
    with pytest.raises(DataError, match=r"^The valid labels of mine are from 1 to 2, but it has 2 classes"):
        ImageData("mine", ("a", "b"), good, image_set([1, 2]), good, {})
    with pytest.raises(DataError, match=r"^The class 'c' of mine has no training image: "):
        ImageData("mine", ("a", "b", "c"), good, image_set([2]), good, {})


# --- splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [10, 33, 100, 250])
def test_stratified_parts_have_every_image_once_and_every_class_in_proportion(number: int) -> None:
    labels = np.random.default_rng(0).choice(5, 300, p=[0.5, 0.25, 0.15, 0.05, 0.05])
    rest, held = stratified(labels, number, seed=1)
    assert len(held) == number
    assert sorted([*rest, *held]) == list(range(300))
    assert np.all(np.diff(rest) > 0)
    assert np.all(np.diff(held) > 0)
    expected = np.bincount(labels) * number / 300
    assert np.all(np.abs(np.bincount(labels[held], minlength=5) - expected) < 1)


def test_stratified_parts_follow_from_the_seed() -> None:
    labels = np.arange(200) % 4
    first = stratified(labels, 40, seed=5)[1]
    state = np.random.get_state()[1].copy()
    assert np.array_equal(stratified(labels, 40, seed=5)[1], first)
    assert not np.array_equal(stratified(labels, 40, seed=6)[1], first)
    assert np.array_equal(np.random.get_state()[1], state)


def test_a_source_with_a_test_split_keeps_it() -> None:
    pool = image_pool([0, 1] * 60, {"train": np.arange(100), "test": np.arange(100, 120)})
    splits = choose_positions(pool, ALL, 0)
    assert splits["test"].tolist() == list(range(100, 120))
    assert sorted([*splits["train"], *splits["valid"]]) == list(range(100))
    assert np.bincount(pool.labels_N[splits["valid"]]).tolist() == [5, 5]


def test_a_source_with_a_validation_split_keeps_it() -> None:
    given = {"train": np.arange(40), "valid": np.arange(40, 44), "test": np.arange(44, 50)}
    splits = choose_positions(image_pool([0, 1] * 25, given), dataclasses.replace(ALL, max_train=10), 0)
    assert splits["valid"].tolist() == [40, 41, 42, 43]
    assert len(splits["train"]) == 10


def test_reduced_runs_take_every_class_in_proportion() -> None:
    pool = image_pool([0, 0, 0, 1] * 50, {"train": np.arange(160), "test": np.arange(160, 200)})
    splits = choose_positions(pool, Parts(8, 0.2, max_train=80, max_test=20), 0)
    counts = {split: np.bincount(pool.labels_N[splits[split]]).tolist() for split in SPLITS}
    assert counts == {"train": [54, 18], "valid": [6, 2], "test": [15, 5]}
    assert set(splits["test"]) <= set(range(160, 200))
    check_disjoint(splits)
    more = Parts(8, 0.2, max_train=1000, max_test=1000)
    assert [len(positions) for positions in choose_positions(pool, more, 0).values()] == [152, 8, 40]


def test_splits_that_overlap_are_refused() -> None:
    splits = {"train": np.arange(5), "valid": np.array([7, 8]), "test": np.array([8, 9])}
    message = (
        r"^The valid and test splits overlap: 1 images are in both, the first at position 8\. Leave each"
    )
    with pytest.raises(DataError, match=message):
        check_disjoint(splits)
    with pytest.raises(DataError, match=r"^The train and test splits overlap: 3 images .* position 2"):
        check_disjoint(splits | {"test": np.array([4, 3, 2])})
    with pytest.raises(DataError, match=r"^The valid split has an image twice"):
        check_disjoint(splits | {"valid": np.array([7, 7])})
    given = {"train": np.arange(10), "test": np.arange(8, 12)}
    with pytest.raises(DataError, match=r"splits overlap: "):
        split_pool(image_pool([0, 1] * 6, given), Parts(2, 0.2, None, None), 0, True)


def test_the_same_picture_in_two_splits_is_refused_or_counted() -> None:
    pool = image_pool([0, 1] * 20, {"train": np.arange(30), "test": np.arange(30, 40)})
    assert repeated_pictures(pool, choose_positions(pool, ALL, 0)) == []
    pool.images_NCHW[35] = pool.images_NCHW[3]
    pool.images_NCHW[36] = pool.images_NCHW[37]  # within a split it does no harm
    message = (
        r"^The test split of mine overlaps the (train|valid) split: image 35 is the same picture as image 3 "
        r"\(1 such in all\). Remove one of each, or set `allow_overlap`.$"
    )
    with pytest.raises(DataError, match=message):
        split_pool(pool, ALL, 0, False)
    assert split_pool(pool, ALL, 0, True).source["overlap"] == "1 pictures"
    assert "overlap" not in split_pool(image_pool([0, 1] * 20), ALL, 0, True).source


@pytest.mark.parametrize(
    ("labels", "parts", "error", "message"),
    [
        (
            [0] * 9 + [1],
            {},
            DataError,
            r"^The class 'b' of mine cannot be split for `test`: .* one \(image 9\)",
        ),
        (
            [0, 1] * 9,
            {"test": 1},
            ConfigError,
            r"^`test` is 1, 1 of 18 images of mine, but its 2 classes need",
        ),
        ([0, 1] * 9, {"test": 17}, ConfigError, r"set it from 2 to 16.$"),
        ([0, 1] * 9, {"test": 4, "valid": 0.01}, ConfigError, r"^`valid` is 0.01, 0 of 14 images of mine"),
        (
            [0, 1] * 9,
            {"valid": 0},
            ConfigError,
            r"^`valid` is 0; set it to a share of the images, below 1, or",
        ),
        ([0, 1] * 9, {"valid": 2.5}, ConfigError, r"^`valid` is 2.5; set it to"),
        ([0, 1] * 9, {"max_train": 1}, ConfigError, r"^`max_train` is 1, 1 of 14 images of mine"),
        ([0, 1] * 9, {"max_test": -1}, ConfigError, r"^`max_test` is -1; set it to"),
    ],
)
def test_splits_that_cannot_be_are_refused(
    labels: list[int], parts: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        split_pool(image_pool(labels), dataclasses.replace(ALL, **parts), 0, False)


# --- digits -------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_with_a_fifth_held_out_for_testing() -> None:
    data = load_images(ImageConfig())
    digits = load_digits()
    assert data.shape == (1, 8, 8, 10)
    assert {split: len(images) for split, images in data.splits().items()} == {
        "train": 1294,
        "valid": 144,
        "test": 359,
    }
    known = {
        image.astype(np.uint8).tobytes(): label
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    seen = set()
    for images in data.splits().values():
        for image, label in zip(images.images_NCHW, images.labels_N.tolist(), strict=True):
            original = np.rint(image[0].numpy() / 255 * 16).astype(np.uint8).tobytes()
            assert known[original] == label
            seen.add(original)
    assert seen == known.keys()
    assert max(int(images.images_NCHW.max()) for images in data.splits().values()) == 255
    counts = torch.bincount(data.test.labels_N)
    assert (counts - torch.from_numpy(np.bincount(digits.target)) * 359 / 1797).abs().max() < 1


def test_what_is_held_out_follows_from_the_split_seed_alone() -> None:
    first = load_images(ImageConfig()).hash
    torch.manual_seed(1)
    np.random.seed(1)
    assert load_images(ImageConfig()).hash == first
    assert load_images(ImageConfig(split_seed=1)).hash != first


# --- published sets -----------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def cifar_images() -> tuple[np.ndarray, np.ndarray]:
    return pixels(60, 3, 32, 32), np.arange(60, dtype=np.uint8) % 10


def cifar_files() -> dict[str, bytes]:
    """Ten images in each file of CIFAR-10, written byte for byte as its page describes."""
    images, labels = cifar_images()
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    return {
        name: b"".join(
            bytes([labels[i]]) + b"".join(images[i, c].tobytes() for c in range(3))
            for i in range(10 * k, 10 * k + 10)
        )
        for k, name in enumerate(names)
    }


def fashion_images() -> tuple[np.ndarray, np.ndarray]:
    return pixels(50, 28, 28), np.arange(50, dtype=np.uint8) % 10


def fashion_files() -> dict[str, bytes]:
    images, labels = fashion_images()
    return {
        "train-images-idx3-ubyte": idx(images[:40]),
        "train-labels-idx1-ubyte": idx(labels[:40]),
        "t10k-images-idx3-ubyte": idx(images[40:]),
        "t10k-labels-idx1-ubyte": idx(labels[40:]),
    }


def small(published: PublishedImages, files: dict[str, bytes], **changes: object) -> PublishedImages:
    """The published set with these files in the place of its own."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert hashes.keys() == published.sha256.keys()
    return dataclasses.replace(published, sha256=hashes, **changes)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def compressed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


def archive(files: dict[str, bytes]) -> bytes:
    """As CIFAR-10's: all files in one folder, with others that are not needed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in (files | {"readme.html": b"see the page"}).items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_cifar10_is_read_image_for_image(tmp_path: Path) -> None:
    files = cifar_files()
    write_files(tmp_path / "cifar-10-batches-bin", files)
    images, labels = cifar_images()
    for folder in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        pool = read_published(small(CIFAR10, files), folder)
        assert np.array_equal(pool.images_NCHW, images)
        assert np.array_equal(pool.labels_N, labels)
        assert pool.labels_N.dtype == np.int64
        assert pool.splits["train"].tolist() == list(range(50))
        assert pool.splits["test"].tolist() == list(range(50, 60))
        assert pool.classes[3] == "cat"


@pytest.mark.parametrize("change", [dict, compressed], ids=["plain", "compressed"])
def test_fashion_mnist_is_read_image_for_image(tmp_path: Path, change: Callable) -> None:
    files = fashion_files()
    pool = read_published(small(FASHION_MNIST, files), write_files(tmp_path / "mine", change(files)))
    images, labels = fashion_images()
    assert np.array_equal(pool.images_NCHW, images[:, None])
    assert np.array_equal(pool.labels_N, labels)
    assert pool.splits["train"].tolist() == list(range(40))
    assert pool.splits["test"].tolist() == list(range(40, 50))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda: read_cifar([b"\0" * 3074]),
            r"^A file of 3,074 bytes is not in CIFAR-10's layout of 3,073 an image",
        ),
        (lambda: read_cifar([b""]), r"^A file of 0 bytes"),
        (
            lambda: read_idx(b"\0\0\x0d\x01\0\0\0\1aaaa"),
            r"^A file that begins with '00 00 0d 01' is not an array",
        ),
        (lambda: read_idx(b"\0\0\x08\x03\0\0\0\1"), r"is not an array of bytes in idx layout"),
        (
            lambda: read_idx(idx(pixels(2, 3))[:-1]),
            r"^An idx file says that its array is 2×3, but 5 values follow",
        ),
        (
            lambda: read_idx_pair([idx(pixels(2, 3, 3)), idx(pixels(3))]),
            r"^Arrays of shapes \(2, 3, 3\) and \(3,\)",
        ),
    ],
)
def test_other_layouts_are_refused(read: Callable, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read()


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    files = cifar_files()
    published = small(CIFAR10, files)
    folder = write_files(tmp_path / "mine", files)
    changed = bytearray(files["data_batch_3.bin"])
    changed[500] ^= 1
    (folder / "data_batch_3.bin").write_bytes(changed)
    message = (
        r"mine/data_batch_3.bin is not the published file of cifar10: its sha256 is [0-9a-f]{64}, not [0-9a-f]{64}. "
        r"Delete or replace it. Put data_batch_1.bin, .*test_batch.bin into .*mine, or set `folder`"
    )
    with pytest.raises(DataError, match=message):
        read_published(published, folder)
    assert (folder / "data_batch_3.bin").read_bytes() == changed
    (folder / "data_batch_3.bin").unlink()
    (folder / "test_batch.bin").unlink()
    message = r"^The images cifar10 are not in .*mine: data_batch_3.bin and test_batch.bin not found. Put .* 'digits'"
    with pytest.raises(DataError, match=message):
        read_published(published, folder)

    grey = fashion_files()
    cut = compressed(grey)
    cut["t10k-images-idx3-ubyte.gz"] = cut["t10k-images-idx3-ubyte.gz"][:-100]
    folder = write_files(tmp_path / "cut", cut)
    with pytest.raises(
        DataError, match=r"cut/t10k-images-idx3-ubyte.gz is damaged: gzip cannot .* Delete or replace"
    ):
        read_published(small(FASHION_MNIST, grey), folder)


class Requests(http.server.SimpleHTTPRequestHandler):
    """Serves files and keeps the paths that were asked for."""

    seen: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.seen.append(self.path)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, the address of a server of what is in it, and the requests that it has had."""
    monkeypatch.setenv("ENAS_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    seen: list[str] = []
    handler = type("Handler", (Requests,), {"seen": seen})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=folder)
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/", seen
        server.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


def test_an_archive_is_downloaded_once_and_unpacked(
    served: tuple[Path, str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, url, seen = served
    files = cifar_files()
    write_files(folder, {"cifar-10-binary.tar.gz": archive(files)})
    checksum = md5((folder / "cifar-10-binary.tar.gz").read_bytes())
    published = small(CIFAR10, files, url=url, downloads={"cifar-10-binary.tar.gz": checksum})
    cache = tmp_path / "cache" / "cifar-10-batches-bin"
    with pytest.raises(DataError, match=r"^The images cifar10 are not in .*cache/cifar-10-batches-bin"):
        read_published(published, download=False)
    assert (seen, cache.exists()) == ([], False)
    with caplog.at_level(logging.INFO, "enas"):
        pool = read_published(published)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("enas")] == [
        f"downloading cifar10 (170.1 MB in all) from {url} to {cache}"
    ]
    assert np.array_equal(pool.images_NCHW, cifar_images()[0])
    assert {path.name for path in cache.iterdir()} == files.keys()
    read_published(published)
    assert len(seen) == 1
    with pytest.raises(DataError, match=r"^The images cifar10 are not in "):
        read_published(published, tmp_path)


def test_only_missing_files_are_downloaded(served: tuple[Path, str, list[str]], tmp_path: Path) -> None:
    folder, url, seen = served
    files = fashion_files()
    write_files(folder, compressed(files))
    checksums = {name: md5((folder / name).read_bytes()) for name in compressed(files)}
    published = small(FASHION_MNIST, files, url=url, downloads=checksums)
    cache = write_files(tmp_path / "cache" / "fashion-mnist", dict(itertools.islice(files.items(), 2)))
    pool = read_published(published)
    assert np.array_equal(pool.labels_N, fashion_images()[1])
    assert len(seen) == 2
    assert sorted(path.name for path in cache.iterdir()) == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
    ]


def test_downloads_that_fail_leave_nothing_behind(
    served: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    folder, url, _ = served
    files = cifar_files()
    published = small(CIFAR10, files, url=url)
    cache = tmp_path / "cache" / "cifar-10-batches-bin"
    with pytest.raises(
        DataError, match=r"^cifar10 could not be downloaded from \S*tar.gz \(HTTPError\). Put data"
    ):
        read_published(published)
    write_files(folder, {"cifar-10-binary.tar.gz": archive(files)[:-10]})
    message = r"^What \S*/cifar-10-binary.tar.gz sends is not the published file: its md5 is not c32a1d4a\w*. Put data"
    with pytest.raises(DataError, match=message):
        read_published(published)
    assert list(cache.iterdir()) == []
    cache.rmdir()
    cache.write_text("a file in the place of the folder")
    with pytest.raises(DataError, match=r"^cifar10 could not be written to .*cifar-10-batches-bin"):
        read_published(published)


def test_published_images_are_pinned() -> None:
    for published in (CIFAR10, FASHION_MNIST):
        assert {len(bytes.fromhex(digits)) for digits in published.sha256.values()} == {32}
        assert {len(bytes.fromhex(sum_.removeprefix("md5:"))) for sum_ in published.downloads.values()} == {
            16
        }
        assert {*published.train, *published.test} == published.sha256.keys()
        assert len(set(published.classes)) == 10


# --- folders of pictures ------------------------------------------------------------------------------------


def write_picture(
    path: Path, seed: int, mode: str = "RGB", size: tuple[int, int] = (5, 4), **options
) -> np.ndarray:
    """A picture of noise; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    array = pixels(height, width, 3, seed=seed)
    image = Image.fromarray(array).convert(mode)
    image.save(path, **options)
    return np.asarray(image)


def write_classes(folder: Path, count: int = 6, start: int = 0, **options) -> Path:
    for i in range(count):
        write_picture(folder / ("dog" if i % 2 else "cat") / f"{i}.png", start + i, **options)
    return folder


def test_pictures_are_read_pixel_for_pixel(tmp_path: Path) -> None:
    colours = {
        f"{name}/{i}.png": write_picture(tmp_path / name / f"{i}.png", i) for i, name in enumerate("bab")
    }
    deep = write_picture(tmp_path / "a" / "deep" / "er.bmp", 9)
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    (tmp_path / "a" / ".hidden.png").write_text("nor this")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.md").write_text("nor this")
    pool = read_image_folder(tmp_path)
    assert pool.classes == ("a", "b")
    assert pool.names == ("a/1.png", "a/deep/er.bmp", "b/0.png", "b/2.png")
    assert pool.labels_N.tolist() == [0, 0, 1, 1]
    expected = [colours["a/1.png"], deep, colours["b/0.png"], colours["b/2.png"]]
    assert np.array_equal(pool.images_NCHW, np.stack(expected).transpose(0, 3, 1, 2))
    assert pool.splits == {}
    assert pool.source == {"folder": str(tmp_path.resolve())}


def test_grey_pictures_are_one_channel_unless_one_has_colours(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, mode="L")
    grey = read_image_folder(folder)
    assert grey.images_NCHW.shape == (6, 1, 4, 5)
    write_picture(folder / "cat" / "z.png", 50)
    mixed = read_image_folder(folder)
    assert mixed.images_NCHW.shape == (7, 3, 4, 5)
    assert np.array_equal(mixed.images_NCHW[:3], np.repeat(grey.images_NCHW[:3], 3, axis=1))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1", "CMYK"])
def test_other_modes_become_grey_or_colours(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    for i, name in enumerate("abab"):
        write_picture(tmp_path / name / f"{i}.{suffix}", i, mode)
    pool = read_image_folder(tmp_path)
    assert pool.images_NCHW.shape[1] == (1 if mode in {"LA", "1"} else 3)
    with Image.open(tmp_path / "a" / f"0.{suffix}") as image:
        expected = np.atleast_3d(image.convert("L" if mode in {"LA", "1"} else "RGB"))
    assert np.array_equal(pool.images_NCHW[0], expected.transpose(2, 0, 1))


def test_transparent_palettes_are_read_without_a_warning(tmp_path: Path) -> None:
    for i, name in enumerate("ab"):
        write_picture(tmp_path / name / "0.png", i, "P", transparency=bytes(range(256)))
    assert read_image_folder(tmp_path).images_NCHW.shape == (2, 3, 4, 5)


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the right
    turned = write_picture(tmp_path / "a" / "0.png", 0, size=(5, 4), exif=exif)
    write_picture(tmp_path / "b" / "0.png", 1, size=(4, 5))
    pool = read_image_folder(tmp_path)
    assert np.array_equal(pool.images_NCHW[0].transpose(1, 2, 0), np.rot90(turned, -1))


def test_pictures_of_several_sizes_are_scaled_if_asked_to(tmp_path: Path) -> None:
    write_classes(tmp_path)
    wide = write_picture(tmp_path / "dog" / "z.png", 9, size=(10, 4))
    message = (
        r"^Pictures differ in size: .*cat/0.png has 5×4 pixels, .*dog/z.png has 10×4. Set `size` to scale"
    )
    with pytest.raises(DataError, match=message):
        read_image_folder(tmp_path)
    assert read_image_folder(tmp_path, size=3).images_NCHW.shape == (7, 3, 3, 3)
    cut = read_image_folder(
        tmp_path, size=4
    )  # as high as the picture: its middle is cut out, nothing is scaled
    assert np.array_equal(cut.images_NCHW[-1].transpose(1, 2, 0), wide[:, 3:7])
    assert cut.source["size"] == "4"
    grey = np.full((8, 8), 100, np.uint8)
    for name in ("a", "b"):
        (tmp_path / "flat" / name).mkdir(parents=True)
        Image.fromarray(grey).save(tmp_path / "flat" / name / "0.png")
    assert np.unique(read_image_folder(tmp_path / "flat", size=3).images_NCHW).tolist() == [100]


def test_splits_of_a_folder_are_kept(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6)
    write_classes(tmp_path / "test", 2, start=10)
    pool = read_image_folder(tmp_path)
    assert pool.classes == ("cat", "dog")
    assert pool.names[pool.splits["test"][1]] == "test/dog/1.png"
    assert (pool.splits["train"].tolist(), pool.splits["test"].tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7])
    write_classes(tmp_path / "valid", 4, start=20)
    data = load_images(ImageConfig(str(tmp_path)))
    assert data.source["images"] == "train 6, valid 4, test 2"
    (tmp_path / "test" / "bird").mkdir()
    with pytest.raises(
        DataError, match=r"test has the class 'bird', which .*train lacks: add it there, or remove"
    ):
        read_image_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for i, name in enumerate(["train", "plane"] * 5):
        write_picture(tmp_path / name / f"{i}.png", i)
    assert load_images(ImageConfig(str(tmp_path), test=2, valid=2)).classes == ("plane", "train")


def test_the_same_picture_in_train_and_test_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6)
    write_classes(tmp_path / "test", 2, start=10)
    write_picture(tmp_path / "test" / "cat" / "copy.jpeg.png", 3)
    config = ImageConfig(str(tmp_path), valid=2)
    message = r"overlaps the (train|valid) split: test/cat/copy.jpeg.png is the same picture as train/dog/3.png \(1 "
    with pytest.raises(DataError, match=message):
        load_images(config)
    assert load_images(dataclasses.replace(config, allow_overlap=True)).source["overlap"] == "1 pictures"


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path)
    bad = tmp_path / "cat" / "bad.png"
    bad.write_text("this is text")
    with pytest.raises(
        DataError, match=r"cat/bad.png cannot be read as a picture \(it is none\): replace or remove"
    ):
        read_image_folder(tmp_path)
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    for length in (0, 40, 60, len(whole) // 2):
        bad.write_bytes(whole[:length])
        with pytest.raises(
            DataError, match=r"cat/bad.png cannot be read as a picture \(.+\): replace or remove it"
        ):
            read_image_folder(tmp_path)
    Image.fromarray(np.full((4, 5), 1000, np.uint16)).save(bad)
    with pytest.raises(
        DataError, match=r"cat/bad.png has more than 8 bits a pixel \(mode I;16\): convert it"
    ):
        read_image_folder(tmp_path)


def test_folders_that_are_no_class_folders_are_refused(tmp_path: Path) -> None:
    layout = r"a folder of pictures holds a folder for each class, or train/ and test/ that do.$"
    with pytest.raises(DataError, match=rf"needs two class folders or more, and has none; {layout}"):
        read_image_folder(tmp_path)
    write_picture(tmp_path / "cat" / "0.png", 0)
    with pytest.raises(DataError, match=rf"needs two class folders or more, and has only 'cat'; {layout}"):
        read_image_folder(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(
        DataError, match=rf"^The class folder .*dog has no pictures: put some there, .*; {layout}"
    ):
        read_image_folder(tmp_path)
    write_picture(tmp_path / "dog" / "0.png", 1)
    write_picture(tmp_path / "dog" / "1.png", 2)
    with pytest.raises(
        DataError, match=r"^The class 'cat' of .* cannot be split for `test`: .* one \(cat/0.png\)"
    ):
        load_images(ImageConfig(str(tmp_path)))


# --- arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "channels"),
    [((0, 1, 2, 3), 3), ((0, 2, 3, 1), 3), ((0, 2, 3, 1), 1), ((0, 1, 2, 3), 4)],
    ids=["NCHW", "NHWC", "NHWC grey", "NCHW of four"],
)
def test_arrays_are_read_in_either_layout(tmp_path: Path, layout: tuple[int, ...], channels: int) -> None:
    images = pixels(6, channels, 7, 8)
    np.savez(tmp_path / "a.npz", images=images.transpose(layout), labels=np.array([5, 3, 5, 3, 9, 9]))
    pool = read_image_arrays(tmp_path / "a.npz")
    assert np.array_equal(pool.images_NCHW, images)
    assert pool.classes == ("3", "5", "9")
    assert pool.labels_N.tolist() == [1, 0, 1, 0, 2, 2]
    assert (pool.splits, pool.name) == ({}, "a")


def test_grey_arrays_with_splits_and_named_labels(tmp_path: Path) -> None:
    x_train, x_test = pixels(8, 5, 6), pixels(2, 5, 6, seed=1)
    path = tmp_path / "a.npz"
    np.savez_compressed(
        path, x_train=x_train, y_train=[["cat"], ["dog"]] * 4, x_test=x_test, y_test=np.array(["dog", "cat"])
    )
    pool = read_image_arrays(path)
    assert np.array_equal(pool.images_NCHW[:, 0], np.concatenate([x_train, x_test]))
    assert pool.classes == ("cat", "dog")
    assert pool.labels_N.tolist() == [0, 1] * 4 + [1, 0]
    assert pool.splits["test"].tolist() == [8, 9]
    data = load_images(ImageConfig(str(path), valid=2))
    assert data.source["images"] == "train 6, valid 2, test 2"


GOOD = {"images": pixels(4, 5, 6), "labels": np.array([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": GOOD["images"]},
            r"a.npz has the arrays images; it needs x_train, y_train, x_test and y_test, or",
        ),
        (
            GOOD | {"extra": np.zeros(2)},
            r"has the arrays extra, images, labels; it needs .*, and no others.$",
        ),
        (
            GOOD | {"images": np.zeros((4, 5, 6))},
            r"^images of .* is float64 of shape 4×5×6; images are uint8",
        ),
        (GOOD | {"images": pixels(4, 30)}, r"^images of .* has the shape 4×30; it must be"),
        (GOOD | {"images": pixels(4, 3, 9, 3)}, r"^images of .* has the shape 4×3×9×3; it must be"),
        (
            GOOD | {"images": pixels(4, 9, 9, 9)},
            r"with at most 4 channels, and height and width above that.$",
        ),
        (GOOD | {"labels": np.zeros(4)}, r"^labels of .* is float64 of shape 4; labels are 4 whole numbers"),
        (GOOD | {"labels": np.arange(3)}, r"^labels of .* is int64 of shape 3; labels are 4 whole"),
        (GOOD | {"labels": np.array([None, 1, 2, {}])}, r"a.npz cannot be read as arrays of plain numbers"),
        (
            {"x_train": pixels(4, 5, 6), "y_train": [0, 1, 0, 1], "x_test": pixels(1, 5, 5), "y_test": [0]},
            r"x_train and x_test differ in the shape of an image",
        ),
        (
            {"x_train": pixels(4, 5, 6), "y_train": [0, 1, 0, 1], "x_test": pixels(1, 5, 6), "y_test": ["0"]},
            r"or y_train and y_test in type",
        ),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_image_arrays(tmp_path / "a.npz")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_text("this is text")
    with pytest.raises(DataError, match=r"a.npz cannot be read as arrays of plain numbers or strings"):
        read_image_arrays(path)
    np.savez(path, **GOOD)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a.npz cannot be read as arrays of plain numbers or strings"):
        read_image_arrays(path)
    with path.open("wb") as file:
        np.save(file, GOOD["images"])
    with pytest.raises(
        DataError, match=r"a.npz holds one array; images and labels go into one file by numpy.savez.$"
    ):
        read_image_arrays(path)


# --- the setting --------------------------------------------------------------------------------------------


def test_a_setting_names_a_published_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files()
    monkeypatch.setitem(image_sources.PUBLISHED_IMAGES, "cifar10", small(CIFAR10, files))
    config = ImageConfig("cifar10", folder=str(write_files(tmp_path, files)), valid=10, max_train=30)
    data = load_images(config)
    assert str(data) == "cifar10: 10 classes, 32×32 RGB; train 20, valid 10, test 10"
    assert torch.bincount(data.train.labels_N).tolist() == [2] * 10
    images, labels = cifar_images()
    where = {image.tobytes(): i for i, image in enumerate(images)}
    for image, label in zip(data.train.images_NCHW.numpy(), data.train.labels_N.tolist(), strict=True):
        position = where[image.tobytes()]
        assert (position < 50, labels[position]) == (True, label)


def test_settings_that_name_no_images_are_refused(tmp_path: Path) -> None:
    names = "neither a folder, nor an .npz file, nor one of digits, cifar10, fashion-mnist"
    with pytest.raises(DataError, match=rf"^`source` is 'cifar-10', {names}; did you mean 'cifar10'\?$"):
        load_images(ImageConfig("cifar-10"))
    with pytest.raises(DataError, match=rf"^`source` is 'no/such.npz', {names}.$"):
        load_images(ImageConfig("no/such.npz"))
    with pytest.raises(
        ConfigError, match=r"^`folder` is for cifar10 and fashion-mnist, but `source` is 'digits': "
    ):
        load_images(ImageConfig(folder=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"^`size` is 16, but only the pictures of a folder are scaled"):
        load_images(ImageConfig(size=16))
    with pytest.raises(ConfigError, match=r"^`size` is 0; set it to 1 or more"):
        load_images(ImageConfig(str(tmp_path), size=0))


def test_settings_are_flags_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--source",
        "cifar10",
        "--valid",
        "5000",
        "--test",
        "0.25",
        "--max-train",
        "1000",
        "--no-download",
    ]
    config = tyro.cli(ImageConfig, args=flags)
    assert config == ImageConfig("cifar10", valid=5000, test=0.25, max_train=1000, download=False)
    assert (type(config.valid), type(config.test)) == (int, float)
    with pytest.raises(SystemExit):
        tyro.cli(ImageConfig, args=["--help"])
    shown = capsys.readouterr().out
    assert "no download" in shown
    assert "pixel for pixel" in shown


# --- batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "batch", "steps"), [(45_000, 128, 352), (45_000, 160, 282), (50_000, 144, 348)]
)
def test_steps_of_an_epoch_are_the_authors(images: int, batch: int, steps: int) -> None:
    assert number_of_batches(images, batch) == steps
    assert number_of_batches(images, batch, drop_last=True) == images // batch


def test_an_epoch_has_every_image_once_in_an_order_known_from_seed_and_epoch() -> None:
    state = torch.random.get_rng_state()
    order = epoch_order(103, seed=1, epoch=2)
    steps = [batch_positions(order, 10, step) for step in range(number_of_batches(103, 10))]
    assert [len(step) for step in steps] == [10] * 10 + [3]
    assert sorted(torch.cat(steps).tolist()) == list(range(103))
    assert torch.equal(epoch_order(103, 1, 2), order)
    assert not torch.equal(epoch_order(103, 1, 3), order)
    assert not torch.equal(epoch_order(103, 2, 2), order)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_set_is_indexed_by_positions_and_slices() -> None:
    images = image_set(list(range(11)))
    taken = images[torch.tensor([3, 0])]
    assert taken.labels_N.tolist() == [3, 0]
    assert torch.equal(taken.images_NCHW[1], images.images_NCHW[0])
    assert images[4:6].labels_N.tolist() == [4, 5]


def test_batches_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^The batch size is 0; set it to 1 or more.$"):
        number_of_batches(10, 0)
    with pytest.raises(
        ConfigError, match=r"^9 images are no whole batch of 10: lower the batch size, or keep"
    ):
        number_of_batches(9, 10, drop_last=True)
