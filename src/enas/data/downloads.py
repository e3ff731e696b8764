"""Files of published data, known by their checksums: fetched into the user's cache folder, and checked when read."""

import gzip
import hashlib
import logging
import os
import zlib
from pathlib import Path

import pooch

from enas.data.own_files import data_path
from enas.errors import DataError

DATA_VARIABLE = "ENAS_DATA"


def cache_folder() -> Path:
    """Where downloaded data are kept: $ENAS_DATA, or else the platform's cache folder for this package."""
    return data_path(os.environ.get(DATA_VARIABLE) or str(pooch.os_cache("enas")))


def retrieve(name: str, url: str, checksum: str, path: Path, remedy: str) -> None:
    """Download a file whole or not at all; `checksum` is `sha256:` or `md5:` and hexadecimal digits.

    Raises `DataError`, which calls the data by `name` and ends in `remedy`, if it cannot be had or is another.
    """
    pooch.get_logger().setLevel(logging.WARNING)  # it would say the same again for every file
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


def read_checked(name: str, path: Path, sha256: str, remedy: str) -> bytes:
    """The content of a file, decompressed if its name ends in .gz; `sha256` is that of the content.

    Raises `DataError`, which calls the data by `name` and ends in `remedy`, if it is not the published one.
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
