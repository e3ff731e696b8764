"""What readers of users' own data share: names of splits, typed paths, files that systems leave beside data, free memory."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from enas.errors import DataError, MissingDataError, did_you_mean
from enas.runtime.memory import MIB, available_memory_mib

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SPLIT_NAMES: Mapping[Split, set[str]] = {
    "train": {"train", "training"},
    "valid": {"valid", "val", "validation", "dev"},
    "test": {"test", "testing"},
}
SYSTEM_NAMES = {
    "__macosx",
    "$recycle.bin",
    "@eadir",
    "desktop.ini",
    "lost+found",
    "system volume information",
    "thumbs.db",
}
"""Files and folders, in small letters, that operating systems leave beside the data."""
LONGEST = 200
"""Most characters of a path that a message shows."""


def named_split(name: str) -> Split | None:
    """The split with this usual name, in capitals or small letters; None for any other name."""
    return next((split for split in SPLITS if name.casefold() in SPLIT_NAMES[split]), None)


def is_data(name: str) -> bool:
    """Whether a file or folder of this name may be data: not hidden, and not left by a system."""
    return not name.startswith(".") and name.casefold() not in SYSTEM_NAMES


def located(path: str | None) -> str | None:
    """The absolute form of a typed path if there is something; else the path as it was typed."""
    with contextlib.suppress(OSError):  # the current folder may be gone
        full = os.path.abspath(os.path.expanduser(path or ""))
        if path and os.path.exists(full):
            return full
    return path


def no_source(source: str, kinds: str, named: Collection[str]) -> MissingDataError:
    """The error for a source that is none of `kinds` and none of the `named` ones."""
    hint = did_you_mean(source, named)
    return MissingDataError(
        f"`source` is {printable(source, LONGEST)!r}, {kinds} one of {', '.join(named)}"
        + (f"; {hint.rstrip()}" if hint else ".")
    )


def data_path(path: str | Path) -> Path:
    """A typed path, with `~` replaced by the home folder.

    Raises `DataError` for an empty path, an unknown home folder, and characters that the records of a run cannot hold.
    """
    path = str(path)
    if not path:
        raise DataError("The path of the data is empty: name a folder, or ./ for this one.")
    shown = repr(path if len(path) <= LONGEST else path[:LONGEST] + "…")
    if "\0" in path or path.encode("utf-8", "replace").decode() != path:
        raise DataError(
            f"The path of the data, {shown}, is not in UTF-8, which the records of a run are in: rename it, or make a link "
            "to it of another name."
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"The path of the data, {shown}, begins with the home folder of nobody: write it in full."
        ) from error


def printable(name: str, longest: int | None = None) -> str:
    """A name on one line, in valid UTF-8: control characters and invalid bytes become escapes; cut after `longest`."""
    text = "".join(
        c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else c.encode("unicode_escape").decode()
        for c in name
    )
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Turn the system's errors about reading into a `DataError` that names the file."""
    try:
        yield
    except OSError as error:
        name = printable(str(error.filename or "A data file"), LONGEST)
        raise DataError(
            f"{name} cannot be read ({error.strerror or error}): check that it is whole and may be read."
        ) from error


def check_memory(size: int, what: str, remedy: str) -> None:
    """Raise `DataError`, ending in `remedy`, if `what` needs more bytes than this machine has free."""
    free = available_memory_mib()
    if free is not None and size > free * MIB:
        raise DataError(
            f"{what} would take {size / 2**30:,.1f} GiB of memory, and {free / 1024:,.1f} GiB are free: {remedy}."
        )
