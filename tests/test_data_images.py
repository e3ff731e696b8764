"""Images: sets, splits, the published layouts, folders of pictures, arrays, the setting, and batches."""

import dataclasses
import errno
import functools
import gc
import gzip
import hashlib
import http.server
import io
import itertools
import logging
import math
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image, features
from sklearn.datasets import load_digits

from enas.data import image_arrays, own_files, sources
from enas.data.image_arrays import read_image_arrays
from enas.data.image_folder import read_image_folder
from enas.data.image_splits import (
    ImagePool,
    choose_positions,
    repeated_pictures,
    split_pool,
    stratified,
)
from enas.data.images import ImageConfig, ImageData, ImageSet
from enas.data.own_files import SPLITS
from enas.data.published import (
    CIFAR10,
    FASHION_MNIST,
    PublishedImages,
    read_images,
)
from enas.data.sources import load_images, load_text
from enas.data.text import TextConfig
from enas.errors import ConfigError, DataError
from enas.tasks.image_data import epoch_order, number_of_batches

ALL = ImageConfig(valid=0.1, test=0.2)
OVERLAPPING = dataclasses.replace(ALL, allow_overlap=True)


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
    assert str(data) == "mine: 2 classes (a, b), 4×5 RGB; train 2, valid 2, test 2"
    assert data.source == {
        "from": "x",
        "images": "train 2, valid 2, test 2",
        "shape": "4×5 RGB",
        "hash": data.hash,
    }


def test_a_description_names_the_first_classes_in_characters_that_any_file_holds() -> None:
    images = ImageSet(torch.zeros(12, 1, 1, 1, dtype=torch.uint8), torch.arange(12))
    classes = ("caf\udce9", "x" * 30, *"cdefghijkl")
    shown = rf"caf\udce9, {'x' * 23}…, c, d, e, f, g, h, i, j, …"
    assert str(ImageData("mine", classes, images, images, images, {})).startswith(
        f"mine: 12 classes ({shown}), "
    )


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
    splits = choose_positions(pool, ALL)
    assert splits["test"].tolist() == list(range(100, 120))
    assert sorted([*splits["train"], *splits["valid"]]) == list(range(100))
    assert np.bincount(pool.labels_N[splits["valid"]]).tolist() == [5, 5]


def test_a_source_with_a_validation_split_keeps_it() -> None:
    given = {"train": np.arange(40), "valid": np.arange(40, 44), "test": np.arange(44, 50)}
    splits = choose_positions(image_pool([0, 1] * 25, given), dataclasses.replace(ALL, max_train=10))
    assert splits["valid"].tolist() == [40, 41, 42, 43]
    assert len(splits["train"]) == 10


def test_reduced_runs_take_every_class_in_proportion() -> None:
    pool = image_pool([0, 0, 0, 1] * 50, {"train": np.arange(160), "test": np.arange(160, 200)})
    splits = choose_positions(pool, ImageConfig(valid=8, max_train=80, max_test=20))
    counts = {split: np.bincount(pool.labels_N[splits[split]]).tolist() for split in SPLITS}
    assert counts == {"train": [54, 18], "valid": [6, 2], "test": [15, 5]}
    assert set(splits["test"]) <= set(range(160, 200))
    assert len(np.unique(np.concatenate(list(splits.values())))) == 100
    more = ImageConfig(valid=8, max_train=1000, max_test=1000)
    assert [len(positions) for positions in choose_positions(pool, more).values()] == [152, 8, 40]


@pytest.mark.parametrize(
    "given",
    [
        {"train": np.arange(10), "valid": np.arange(10, 12), "test": np.arange(8, 12)},
        {"train": np.arange(10), "test": np.arange(8, 12)},
        {"train": np.arange(5), "valid": np.array([7, 8]), "test": np.array([4, 3, 2])},
        {"train": np.arange(5), "valid": np.array([7, 7]), "test": np.array([8, 9])},
    ],
)
def test_splits_that_overlap_are_refused(given: dict) -> None:
    message = r"^The splits of mine overlap: an image is in two of them, or twice in one; leave each out"
    with pytest.raises(DataError, match=message):
        split_pool(image_pool([0, 1] * 6, given), dataclasses.replace(OVERLAPPING, valid=2))


def test_the_same_picture_in_two_splits_is_refused_or_counted() -> None:
    pool = image_pool([0, 1] * 20, {"train": np.arange(30), "test": np.arange(30, 40)})
    assert repeated_pictures(pool, choose_positions(pool, ALL)) == []
    pool.images_NCHW[35] = pool.images_NCHW[3]
    pool.images_NCHW[36] = pool.images_NCHW[37]  # within a split it does no harm
    message = (
        r"^The test split of mine overlaps the (train|valid) split: image 35 is the same picture as image 3 "
        r"\(1 such in all\). Remove one of each, or set `allow_overlap`.$"
    )
    with pytest.raises(DataError, match=message):
        split_pool(pool, ALL)
    pool.images_NCHW[34] = pool.images_NCHW[2]
    message = r"is the same picture as image \d+, image \d+ as image \d+ \(2 such in all\)"
    with pytest.raises(DataError, match=message):
        split_pool(pool, ALL)
    for i in range(30, 40):
        pool.images_NCHW[i] = pool.images_NCHW[0]
    pool.images_NCHW[29] = pool.images_NCHW[0]
    repeated = len(repeated_pictures(pool, choose_positions(pool, ALL)))
    assert repeated > 10
    with pytest.raises(DataError, match=rf", … \({repeated} such in all\)") as raised:
        split_pool(pool, ALL)
    assert str(raised.value).count(" as image ") == 10
    pool = image_pool([0, 1] * 20, {"train": np.arange(30), "test": np.arange(30, 40)})
    pool.images_NCHW[35] = pool.images_NCHW[3]
    assert split_pool(pool, OVERLAPPING).source["overlap"] == "1 pictures"
    assert "overlap" not in split_pool(image_pool([0, 1] * 20), OVERLAPPING).source


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
            r"^valid must be above 0, not 0$",
        ),
        (
            [0] * 6 + [1] * 6 + [2] * 2,
            {},
            DataError,
            r"^The class 'c' of mine cannot be split for `valid`: of its pictures there are 2, and what the other settings "
            r"hold out or leave out leaves one \(image 1[23]\)",
        ),
        ([0, 1] * 9, {"valid": 2.5}, ConfigError, r"^`valid` is 2.5; set it to"),
        ([0, 1] * 9, {"valid": math.nan}, ConfigError, r"^valid must be finite, not nan$"),
        ([0, 1] * 9, {"test": math.inf}, ConfigError, r"^test must be finite, not inf$"),
        (
            [0, 1] * 9,
            {"test": 1e9},
            ConfigError,
            r"^`test` is 1000000000.0, more than 18 images of mine, but its",
        ),
        ([0, 1] * 9, {"max_train": 1}, ConfigError, r"^`max_train` is 1, 1 of 14 images of mine"),
        ([0, 1] * 9, {"max_test": -1}, ConfigError, r"^max_test must be at least 1 or None, not -1$"),
    ],
)
def test_splits_that_cannot_be_are_refused(
    labels: list[int], parts: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        split_pool(image_pool(labels), dataclasses.replace(ALL, **parts))


def test_splitting_moves_every_image_with_its_label_and_takes_no_second_copy() -> None:
    labels = np.random.default_rng(0).permutation([0, 1, 2] * 100)
    pool = ImagePool("mine", ("a", "b", "c"), pixels(300, 3, 32, 32), labels, {}, {})
    expected = choose_positions(pool, dataclasses.replace(ALL, split_seed=3))
    images = pool.images_NCHW.copy()
    gc.collect()
    tracemalloc.start()
    data = split_pool(pool, dataclasses.replace(ALL, split_seed=3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for split, part in data.splits().items():
        assert np.array_equal(part.images_NCHW.numpy(), images[expected[split]])
        assert np.array_equal(part.labels_N.numpy(), labels[expected[split]])
    assert peak < images.nbytes / 4


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
        pool = read_images(small(CIFAR10, files), folder)
        assert np.array_equal(pool.images_NCHW, images)
        assert np.array_equal(pool.labels_N, labels)
        assert pool.labels_N.dtype == np.int64
        assert pool.splits["train"].tolist() == list(range(50))
        assert pool.splits["test"].tolist() == list(range(50, 60))
        assert pool.classes[3] == "cat"


@pytest.mark.parametrize("change", [dict, compressed], ids=["plain", "compressed"])
def test_fashion_mnist_is_read_image_for_image(tmp_path: Path, change: Callable) -> None:
    files = fashion_files()
    pool = read_images(small(FASHION_MNIST, files), write_files(tmp_path / "mine", change(files)))
    images, labels = fashion_images()
    assert np.array_equal(pool.images_NCHW, images[:, None])
    assert np.array_equal(pool.labels_N, labels)
    assert pool.splits["train"].tolist() == list(range(40))
    assert pool.splits["test"].tolist() == list(range(40, 50))


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
        read_images(published, folder)
    assert (folder / "data_batch_3.bin").read_bytes() == changed
    (folder / "data_batch_3.bin").unlink()
    (folder / "test_batch.bin").unlink()
    message = (
        r"^The data cifar10 are not in .*mine: data_batch_3.bin and test_batch.bin not found. Put .* 'digits'"
    )
    with pytest.raises(DataError, match=message):
        read_images(published, folder)

    grey = fashion_files()
    cut = compressed(grey)
    cut["t10k-images-idx3-ubyte.gz"] = cut["t10k-images-idx3-ubyte.gz"][:-100]
    folder = write_files(tmp_path / "cut", cut)
    with pytest.raises(
        DataError, match=r"cut/t10k-images-idx3-ubyte.gz is damaged: gzip cannot .* Delete or replace"
    ):
        read_images(small(FASHION_MNIST, grey), folder)


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
    published = small(CIFAR10, files, url=url + "{}", downloads={"cifar-10-binary.tar.gz": checksum})
    cache = tmp_path / "cache" / "cifar-10-batches-bin"
    with pytest.raises(DataError, match=r"^The data cifar10 are not in .*cache/cifar-10-batches-bin"):
        read_images(published, download=False)
    assert (seen, cache.exists()) == ([], False)
    with caplog.at_level(logging.INFO, "enas"):
        pool = read_images(published)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("enas")] == [
        f"downloading cifar10 (170.1 MB in all) from {url} to {cache}"
    ]
    assert np.array_equal(pool.images_NCHW, cifar_images()[0])
    assert {path.name for path in cache.iterdir()} == files.keys()
    read_images(published)
    assert len(seen) == 1
    with pytest.raises(DataError, match=r"^The data cifar10 are not in "):
        read_images(published, tmp_path)


def test_only_missing_files_are_downloaded(served: tuple[Path, str, list[str]], tmp_path: Path) -> None:
    folder, url, seen = served
    files = fashion_files()
    write_files(folder, compressed(files))
    checksums = {name: md5((folder / name).read_bytes()) for name in compressed(files)}
    published = small(FASHION_MNIST, files, url=url + "{}", downloads=checksums)
    cache = write_files(tmp_path / "cache" / "fashion-mnist", dict(itertools.islice(files.items(), 2)))
    pool = read_images(published)
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
    published = small(CIFAR10, files, url=url + "{}")
    cache = tmp_path / "cache" / "cifar-10-batches-bin"
    with pytest.raises(
        DataError, match=r"^cifar10 could not be downloaded from \S*tar.gz \(HTTPError\). Put data"
    ):
        read_images(published)
    write_files(folder, {"cifar-10-binary.tar.gz": archive(files)[:-10]})
    message = r"^What \S*/cifar-10-binary.tar.gz sends is not the published file: its md5 is not c32a1d4a\w*. Put data"
    with pytest.raises(DataError, match=message):
        read_images(published)
    assert list(cache.iterdir()) == []
    cache.rmdir()
    cache.write_text("a file in the place of the folder")
    with pytest.raises(DataError, match=r"^cifar10 could not be written to .*cifar-10-batches-bin"):
        read_images(published)


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


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("L", "png", {"transparency": 7}),
        ("P", "png", {}),
        ("P", "gif", {}),
        ("LA", "png", {}),
        ("1", "bmp", {}),
    ],
)
def test_grey_stays_one_channel_however_it_is_stored(
    tmp_path: Path, mode: str, suffix: str, options: dict
) -> None:
    expected = []
    for i, name in enumerate("ab"):
        grey = Image.fromarray(pixels(4, 5, seed=i)).convert("1" if mode == "1" else "L")
        (tmp_path / name).mkdir()
        grey.convert(mode).save(tmp_path / name / f"0.{suffix}", **options)
        pixels_HW = np.asarray(grey.convert("L"))
        expected.append(np.where(pixels_HW == 7, 255, pixels_HW) if options else pixels_HW)
    assert np.array_equal(read_image_folder(tmp_path).images_NCHW, np.stack(expected)[:, None])


def test_what_is_transparent_is_white_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = np.zeros((4, 5), np.uint8)
    shape[1:3, 1:4] = 255
    for i, name in enumerate("abc"):
        icon = Image.new("RGB", (5, 4), (0, 100 * i, 0))
        icon.putalpha(Image.fromarray(shape if i else np.full_like(shape, 255)))
        (tmp_path / name).mkdir()
        icon.save(tmp_path / name / "icon.png")
    opaque, *icons = read_image_folder(tmp_path).images_NCHW
    assert np.unique(opaque).tolist() == [0]
    for i, image in enumerate(icons, 1):
        colour = np.array([0, 100 * i, 0])[:, None, None]
        assert np.array_equal(image, np.where(shape == 255, colour, 255))
    said = "data: 2 of 3 pictures are transparent in places, which are read as white\n"
    assert capsys.readouterr().err == said
    half = Image.new("LA", (5, 4), (100, 51))  # a fifth of 100 and four fifths of white
    for name in "ab":
        (tmp_path / "half" / name).mkdir(parents=True)
        half.save(tmp_path / "half" / name / "0.png")
    assert np.unique(read_image_folder(tmp_path / "half").images_NCHW).tolist() == [224]


def test_reading_takes_the_memory_of_the_pictures_once(tmp_path: Path) -> None:
    for i in range(40):
        array = pixels(64, 64, 3, seed=i)
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        # The only one with colours is the last that is read.
        Image.fromarray(array if i == 39 else array[..., 0]).save(folder / f"{i:02}.bmp")
    read_image_folder(tmp_path, size=1)
    gc.collect()
    tracemalloc.start()
    images = read_image_folder(tmp_path).images_NCHW
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.shape == (40, 3, 64, 64)
    for position, i in enumerate([*range(0, 40, 2), *range(1, 39, 2)]):
        assert np.array_equal(
            images[position], np.broadcast_to(pixels(64, 64, 3, seed=i)[..., 0], (3, 64, 64))
        )
    assert np.array_equal(images[39], pixels(64, 64, 3, seed=39).transpose(2, 0, 1))
    assert peak < 1.4 * images.nbytes


def test_pictures_that_no_memory_holds_are_refused_before_they_are_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path)
    monkeypatch.setattr(own_files, "available_memory_mib", lambda: 100)
    message = r"^6 pictures of 4096×4096 pixels would take 0\.3 GiB of memory, and 0\.1 GiB are free: scale"
    with pytest.raises(DataError, match=message):
        load_images(ImageConfig(str(tmp_path), size=4096))


def test_a_picture_that_no_memory_holds_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path)
    header = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, 9000, 9000, 1, 24, *[0] * 6
    )
    (tmp_path / "cat" / "huge.bmp").write_bytes(header)
    monkeypatch.setattr(own_files, "available_memory_mib", lambda: 1000)
    message = r"cat/huge.bmp, of 9000×9000 pixels, would take 1.2 GiB of memory, and 1.0 GiB are free: make it smaller.$"
    with pytest.raises(DataError, match=message):
        read_image_folder(tmp_path)


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


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("train", "val", "test"), "train 10, valid 4, test 4"),
        (("Train", "Validation", "Testing"), "train 10, valid 4, test 4"),
        (("TRAINING", "dev", "Test"), "train 10, valid 4, test 4"),
        (("training", "testing"), "train 8, valid 2, test 4"),
        (("train", "val"), "train 8, valid 4, test 2"),
        (("train", "valid"), "train 8, valid 4, test 2"),
        (("Train",), "train 6, valid 2, test 2"),
    ],
)
def test_splits_have_many_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], images: str
) -> None:
    for i, name in enumerate(names):
        write_classes(tmp_path / name, 4 if i else 10, start=100 * i)
    data = load_images(ImageConfig(str(tmp_path), valid=2, test=2))
    assert data.classes == ("cat", "dog")
    assert data.source["images"] == images
    test_is_there = any(name.lower().startswith("test") for name in names)
    assert (f"data: {tmp_path.name} has no test images; some" in capsys.readouterr().err) is not test_is_there


def test_splits_that_are_not_whole_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(tmp_path / "test")
    with pytest.raises(DataError, match=r" has the folder test, but none for training: add a folder train.$"):
        read_image_folder(tmp_path)
    write_classes(tmp_path / "val", start=10)
    with pytest.raises(DataError, match=r" has the folders test and val, but none for training: add a"):
        read_image_folder(tmp_path)
    write_classes(tmp_path / "train", start=20)
    write_classes(tmp_path / "Validation", start=30)
    message = r" has two folders for the same split, Validation and val: join them, or rename one.$"
    with pytest.raises(DataError, match=message):
        read_image_folder(tmp_path)
    (tmp_path / "Validation").rename(tmp_path / "unlabelled")
    write_picture(tmp_path / "train" / "loose.png", 40)
    write_picture(tmp_path / "cover.png", 41)
    assert len(read_image_folder(tmp_path).labels_N) == 18
    said = capsys.readouterr().err
    assert f"1 pictures in {tmp_path} lie in no class folder and are left out, such as cover.png" in said
    assert f"{tmp_path} has the folders of splits; beside them is left out: unlabelled\n" in said
    assert (
        f"1 pictures in {tmp_path / 'train'} lie in no class folder and are left out, such as loose.png"
        in said
    )
    for name in ("train", "test"):
        write_picture(tmp_path / "flat" / name / "0.png", 1)
    with pytest.raises(DataError, match=r"train needs two class folders or more, and has none"):
        read_image_folder(tmp_path / "flat")


def test_a_folder_around_the_class_folders_is_entered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = write_classes(tmp_path / "set" / "photos")
    (tmp_path / "__MACOSX" / "photos").mkdir(parents=True)
    pool = read_image_folder(tmp_path)
    assert (pool.classes, pool.names[0]) == (("cat", "dog"), "set/photos/cat/0.png")
    assert capsys.readouterr().err == f"data: the class folders are in {inner}, which is read\n"
    write_classes(tmp_path / "b" / "photos" / "train", start=10)
    write_classes(tmp_path / "b" / "photos" / "test", start=20)
    write_picture(tmp_path / "b" / "cover.png", 30)
    assert set(read_image_folder(tmp_path / "b").splits) == {"train", "test"}
    assert f"1 pictures in {tmp_path / 'b'} lie in no class folder" in capsys.readouterr().err


def test_hidden_folders_and_those_of_systems_are_neither_classes_nor_pictures(tmp_path: Path) -> None:
    write_classes(tmp_path)
    clutter = (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "System Volume Information", "$RECYCLE.BIN")
    for place in (tmp_path, tmp_path / "cat", tmp_path / "dog" / "deep"):
        for name in (*clutter, "lost+found", "@eaDir"):
            write_picture(place / name / "0.png", 0)
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png"):
            (place / name).write_bytes(b"not a picture")
    pool = read_image_folder(tmp_path)
    assert pool.classes == ("cat", "dog")
    assert pool.names == ("cat/0.png", "cat/2.png", "cat/4.png", "dog/1.png", "dog/3.png", "dog/5.png")


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


DAMAGED_EXIF = {
    "a model that is no text": (0x110, 5, 1, struct.pack("<I", 0)),
    "a resolution that is no number": (0x11A, 2, 2, b"\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("tag", DAMAGED_EXIF.values(), ids=DAMAGED_EXIF)
def test_photos_with_odd_metadata_are_named(tmp_path: Path, tag: tuple[int, int, int, bytes]) -> None:
    write_classes(tmp_path)
    entries = sorted([(0x112, 3, 1, struct.pack("<HH", 6, 0)), tag])
    block = b"Exif\0\0II" + struct.pack("<HIH", 42, 8, len(entries))
    block += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    write_picture(tmp_path / "cat" / "odd.jpg", 0, exif=block)
    with pytest.raises(
        DataError, match=r"cat/odd.jpg cannot be read as a picture \(.+\): replace or remove it"
    ):
        read_image_folder(tmp_path)


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path)
    what = "which is not read: convert it to PNG or JPEG.$"
    for name, content, form in (
        ("photo.HEIC", b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        ("phone.jpg", b"\0\0\0\x18ftypmif1" + bytes(20), "HEIC"),
        ("drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n", "EPS"),
        ("texture.tga", b"\0\0\2", "TGA"),
        ("new.jxl", b"\xff\x0a", "JPEG XL"),
    ):
        path = tmp_path / "cat" / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"cat/{name} is a picture in {form}, {what}"):
            read_image_folder(tmp_path)
        path.unlink()


def test_files_of_other_programs_languages_are_never_handed_to_them(tmp_path: Path) -> None:
    write_classes(tmp_path)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\nshowpage\n"
    (tmp_path / "cat" / "page.png").write_bytes(page)
    with pytest.raises(DataError, match=r"cat/page.png cannot be read as a picture \(it is none\)"):
        read_image_folder(tmp_path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    for name in "ab":
        write_picture(tmp_path / name / "0.avif", 0, size=(16, 16))
    with Image.open(tmp_path / "a" / "0.avif") as picture:
        expected = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(read_image_folder(tmp_path).images_NCHW[0], expected)


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
            GOOD | {"images": np.zeros((4, 5, 6), np.complex64)},
            r"^images of .* is complex64 of shape 4×5×6; images are uint8",
        ),
        (
            {"x_train": GOOD["images"], "y_train": GOOD["labels"]},
            r"has the arrays x_train, y_train; it needs x_train, y_train, x_test and y_test, or",
        ),
        (GOOD | {"a\nb": GOOD["images"]}, r"has the arrays a\\nb, images, labels; it needs"),
        (GOOD | {"x": GOOD["images"]}, r"has the arrays images, labels, x; it needs"),
        (GOOD | {"x_val_test": GOOD["images"]}, r"has the arrays images, labels, x_val_test; it needs"),
        (GOOD | {"labels": np.zeros(4, int)}, r"a.npz has only the class '0'; a network needs two or more.$"),
        (
            GOOD | {"labels": np.arange(4, dtype=np.uint64) + 2**63},
            r"has the label 9223372036854775811; whole",
        ),
        (
            GOOD | {"labels": np.array(["café".encode("latin-1"), b"b"] * 2)},
            r"^labels of .* has labels of bytes that are not UTF-8, such as b'caf\\xe9': save them as strings.$",
        ),
        (
            GOOD | {"images": pixels(4, 3, 3, 3)},
            r"has the shape 4×3×3×3; it must be .*, and both may be meant: set `channels` to first or last.$",
        ),
        (
            GOOD | {"images": pixels(4, 0, 6)},
            r"^images of .* is uint8 of shape 4×0×6; images .* and not none",
        ),
        (
            {
                "x_train": pixels(4, 5, 6),
                "y_train": [0, 1, 0, 1],
                "x_test": np.ones((1, 5, 6)),
                "y_test": [0],
            },
            r"x_train and x_test differ in the shape of an image or in type",
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


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("X_Train", "Y_Train", "X_Validation", "Y_Validation", "X_Test", "Y_Test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("train_x", "train_y", "dev_x", "dev_y"),
    ],
)
def test_arrays_have_many_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    counts = (8, 4, 6)[: len(names) // 2]
    images = [pixels(count, 5, 6, seed=count) for count in counts]
    arrays = [array for x in images for array in (x, np.arange(len(x)) % 2)]
    np.savez(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
    pool = read_image_arrays(tmp_path / "a.npz")
    assert np.array_equal(pool.images_NCHW[:, 0], np.concatenate(images))
    expected = {"train": list(range(8)), "valid": list(range(8, 12)), "test": list(range(12, 18))}
    assert {split: p.tolist() for split, p in pool.splits.items()} == dict(
        itertools.islice(expected.items(), len(counts))
    )


BYTES = pixels(4, 5, 6)
BYTES[0, 0, :2] = 0, 255


@pytest.mark.parametrize(
    ("images", "expected", "said"),
    [
        (BYTES.astype(np.int64), BYTES, "int64 values from 0 to 255 were read as 0 to 255, as they are"),
        (
            (BYTES * np.uint16(257)).astype(">u2"),
            BYTES,
            "u2 values from 0 to 65535 were read as 0 to 255, divided by 257",
        ),
        (
            BYTES.astype(np.uint16) * 256,
            BYTES,
            "uint16 values from 0 to 65280 were read as 0 to 255, divided by 256",
        ),
        (BYTES / np.float32(255), BYTES, "float32 values from 0 to 1 were read as 0 to 255, times 255"),
        (
            (BYTES / 255).astype(np.float16),
            BYTES,
            "float16 values from 0 to 1 were read as 0 to 255, times 255",
        ),
        (BYTES.astype(np.float64), BYTES, "float64 values from 0 to 255 were read as 0 to 255, as they are"),
        (BYTES * 0.9, np.rint(BYTES * 0.9), "float64 values from 0 to 229.5 were read as 0 to 255, rounded"),
        (BYTES > 99, (BYTES > 99) * 255, "False and True were read as 0 and 255"),
        (
            np.asfortranarray(BYTES / 255),
            BYTES,
            "float64 values from 0 to 1 were read as 0 to 255, times 255",
        ),
        (BYTES, BYTES, ""),
    ],
    ids=[
        "int64",
        "of 257",
        "of 256",
        "float32",
        "float16",
        "whole",
        "to 229.5",
        "bool",
        "columns first",
        "uint8",
    ],
)
def test_other_numbers_are_read_where_nothing_is_lost(
    tmp_path: Path, images: np.ndarray, expected: np.ndarray, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "a.npz", **GOOD | {"images": images})
    pool = read_image_arrays(tmp_path / "a.npz")
    assert np.array_equal(pool.images_NCHW[:, 0], expected)
    assert said in (err := capsys.readouterr().err)
    assert bool(said) == bool(err)


@pytest.mark.parametrize(
    "images",
    [
        BYTES / 127.5 - 1,
        BYTES.astype(np.int16) - 1,
        BYTES.astype(np.int32) * 2,
        BYTES.astype(np.uint16) * 100,
        BYTES.astype(np.float32) * 2,
        np.where(BYTES == 0, np.nan, BYTES),
        np.where(BYTES == 0, np.inf, BYTES),
        BYTES / 100,
        BYTES / 25_500,
        BYTES.astype(np.longdouble) * np.longdouble("1e4000"),
    ],
    ids=[
        "around 0",
        "-1",
        "to 510",
        "no step",
        "floats to 510",
        "NaN",
        "inf",
        "to 2.55",
        "to 0.01",
        "longdouble",
    ],
)
def test_numbers_of_which_something_would_be_lost_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", **GOOD | {"images": images})
    with pytest.raises(
        DataError, match=r"^images of .*a.npz is \S+ of shape 4×5×6.*; images are uint8, from 0 to 255"
    ):
        read_image_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("channels", ["first", "last"])
def test_a_setting_says_where_channels_are_that_cannot_be_seen(tmp_path: Path, channels: Any) -> None:
    images = pixels(20, 3, 3, 2)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)
    pool = read_image_arrays(tmp_path / "a.npz", channels)
    expected = images if channels == "first" else images.transpose(0, 3, 1, 2)
    assert np.array_equal(pool.images_NCHW, expected)
    data = load_images(ImageConfig(str(tmp_path / "a.npz"), channels=channels))
    assert data.shape[:3] == expected.shape[1:]
    np.savez(
        tmp_path / "b.npz", **GOOD | {"images": pixels(4, *((9, 9, 3) if channels == "first" else (3, 9, 9)))}
    )
    with pytest.raises(DataError, match=rf"with at most 4 channels, which are {channels}, and height"):
        read_image_arrays(tmp_path / "b.npz", channels)
    with pytest.raises(ConfigError, match=rf"^`channels` is '{channels}', but only those of an .npz file"):
        load_images(ImageConfig(channels=channels))


def test_labels_of_bytes_are_read_as_utf8(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **GOOD | {"labels": np.array(["café".encode(), b"chien"] * 2)})
    assert read_image_arrays(tmp_path / "a.npz").classes == ("café", "chien")


def npz(path: Path, headers: dict[str, tuple[int, ...]]) -> Path:
    """A file of arrays that have only headers."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in headers.items():
            file = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            archive.writestr(f"{name}.npy", file.getvalue())
    return path


def test_headers_are_checked_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path / "a.npz", {"images": (64, 2**15, 2**15), "labels": (64,)})
    message = r"\(images.npy has 0 bytes for an array of 64×32768×32768 uint8\); write it with numpy.savez.$"
    with pytest.raises(DataError, match=message):
        read_image_arrays(path)
    np.savez(path, **GOOD)
    monkeypatch.setattr(own_files, "available_memory_mib", lambda: 100 / 2**20)
    message = (
        r"^The arrays of .*a.npz would take 0.0 GiB of memory, and 0.0 GiB are free: use fewer or smaller"
    )
    with pytest.raises(DataError, match=message):
        read_image_arrays(path)


def test_reading_arrays_takes_their_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_arrays, "PIECE", 2**15)
    x_train, x_test = pixels(100, 32, 32, 3), pixels(20, 32, 32, 3, seed=1)
    np.savez(
        tmp_path / "a.npz",
        x_train=x_train / 255,
        y_train=np.arange(100) % 2,
        x_test=x_test / 255,
        y_test=np.arange(20) % 2,
    )
    gc.collect()
    tracemalloc.start()
    images = read_image_arrays(tmp_path / "a.npz").images_NCHW
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(images, np.concatenate([x_train, x_test]).transpose(0, 3, 1, 2))
    assert peak < 2 * images.nbytes  # the file has eight times as much


def changed_byte(content: bytes, mark: bytes, offset: int, value: int) -> bytes:
    """The content with another byte so far after the last of these marks."""
    place = content.rindex(mark) + offset
    return content[:place] + bytes([value]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("mark", "offset", "value"),
    [(b"PK\1\2", 8, 1), (b"PK\1\2", 8, 0x20), (b"PK\1\2", 10, 99), (b"}", 0, ord("("))],
    ids=["encrypted", "a patch", "a method that nobody knows", "a header of other syntax"],
)
def test_damaged_or_encrypted_archives_are_refused(
    tmp_path: Path, mark: bytes, offset: int, value: int
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    path.write_bytes(changed_byte(path.read_bytes(), mark, offset, value))
    with pytest.raises(
        DataError, match=r"^.*a.npz cannot be read as arrays of plain numbers or strings \(.+\); "
    ):
        read_image_arrays(path)


# --- the setting --------------------------------------------------------------------------------------------


def test_a_setting_names_a_published_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files()
    monkeypatch.setitem(sources.PUBLISHED_IMAGES, "cifar10", small(CIFAR10, files))
    config = ImageConfig("cifar10", folder=str(write_files(tmp_path, files)), valid=10, max_train=30)
    data = load_images(config)
    names = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
    assert str(data) == f"cifar10: 10 classes ({names}), 32×32 RGB; train 20, valid 10, test 10"
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
    with pytest.raises(ConfigError, match=r"^size must be at least 1 or None, not 0$"):
        load_images(ImageConfig(str(tmp_path), size=0))


def test_paths_become_absolute_where_they_lead_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "photos", 20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for typed in ("photos", "./photos", "~/photos"):
        assert ImageConfig(typed).source == str(tmp_path / "photos")
    assert ImageConfig("cifar10", folder="photos").folder == str(tmp_path / "photos")
    assert ImageConfig("nowhere").source == "nowhere"
    (tmp_path / "photos").rename(tmp_path / "digits")
    assert ImageConfig("./digits").source == str(tmp_path / "digits")
    assert ImageConfig("digits").source == "digits"
    assert load_images(ImageConfig("digits")).name == "digits"
    said = "data: digits means the built-in data; for the folder of this name that is here, write ./digits\n"
    assert capsys.readouterr().err == said
    assert load_images(ImageConfig("./digits")).classes == ("cat", "dog")
    np.savez(tmp_path / "A.NPZ", images=pixels(20, 5, 6), labels=np.arange(20) % 2)  # numpy adds .npz
    (tmp_path / "A.NPZ.npz").rename(tmp_path / "A.NPZ")
    assert load_images(ImageConfig("A.NPZ")).name == "A"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "~nosuchuser/photos",
            r"^The path of the data, '~nosuchuser/photos', begins with the home folder of nobody",
        ),
        ("caf\udce9", r"^The path of the data, 'caf\\udce9', is not in UTF-8, which"),
        ("a\0b", r"^The path of the data, 'a\\x00b', is not in UTF-8"),
        ("", r"^The path of the data is empty: name a folder"),
        ("x" * 10_000, r"^.{1,400}$"),
    ],
)
def test_paths_that_cannot_be_are_refused(source: str, message: str) -> None:
    for load in (lambda: load_images(ImageConfig(source)), lambda: load_text(TextConfig(source))):
        with pytest.raises(DataError, match=message):
            load()
    if source.startswith("~"):
        with pytest.raises(DataError, match=message):
            load_images(ImageConfig("cifar10", folder=source))
        with pytest.raises(DataError, match=message):
            load_text(TextConfig("ptb", folder=source))


def test_folders_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=rf"^{tmp_path} cannot be read \(Permission denied\): check that"):
        load_images(ImageConfig(str(tmp_path)))


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
    assert len(order.split(10)) == number_of_batches(103, 10)
    assert sorted(order.tolist()) == list(range(103))
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
