"""Files of people's own, as they are found on disks: typed paths, files of the system between the data, memory."""

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from enas.errors import DataError, MissingDataError, did_you_mean
from enas.runtime.memory import MIB, available_memory_mb
from enas.runtime.progress import say

SYSTEM_NAMES = {
    "__macosx",
    "$recycle.bin",
    "@eadir",
    "desktop.ini",
    "lost+found",
    "system volume information",
    "thumbs.db",
}
"""Files and folders, in small letters, that systems leave beside the data."""


LONGEST = 200
"""Characters of a path that are shown."""


def is_data(name: str) -> bool:
    """Whether a file or folder of this name may be data: it is not hidden, and no system has put it there."""
    return not name.startswith(".") and name.casefold() not in SYSTEM_NAMES


def located(path: str) -> str:
    """A typed path in full, if there is something; otherwise, and if it cannot be one, as it was typed."""
    with contextlib.suppress(OSError):  # the present folder may be gone
        full = os.path.abspath(os.path.expanduser(path))
        if path and os.path.exists(full):
            return full
    return path


def locate_sources(config: Any, named: Collection[str]) -> None:
    """Make the paths of a new setting absolute: its `source`, unless it is one of the `named` ones, and its `folder`."""
    if config.source not in named:
        object.__setattr__(config, "source", located(config.source))
    if config.folder is not None:
        object.__setattr__(config, "folder", located(config.folder))


def say_if_hidden(source: str, named: Collection[str]) -> None:
    """Say that a named source is read, where a folder of its name is there too."""
    if source in named and os.path.isdir(source):
        say(
            f"data: {source} means the built-in data; for the folder of this name that is here, write ./{source}"
        )


def no_source(source: str, what: str, named: Collection[str]) -> MissingDataError:
    """The error for a setting that is neither one of the `named` sources nor `what` it could be otherwise."""
    hint = did_you_mean(source, named)
    return MissingDataError(
        f"`source` is {printable(source, LONGEST)!r}, {what} one of {', '.join(named)}"
        + (f"; {hint.rstrip()}" if hint else ".")
    )


def data_path(path: str) -> Path:
    """A typed path, `~` replaced by the home folder.

    Raises `DataError` if there is no such home folder, or a character that no record of a run could hold.
    """
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
    """A name in one line that any file in UTF-8 can hold: other bytes and control characters as escapes.

    Of one that is longer than `longest`, the beginning.
    """
    text = "".join(
        c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else c.encode("unicode_escape").decode()
        for c in name
    )
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Turn the system's errors about reading into a `DataError` that says which file."""
    try:
        yield
    except OSError as error:
        name = printable(str(error.filename or "A data file"), LONGEST)
        raise DataError(
            f"{name} cannot be read ({error.strerror or error}): check that it is whole and may be read."
        ) from error


def check_memory(size: int, what: str, remedy: str) -> None:
    """Raise `DataError`, ending in `remedy`, if so many bytes for `what` are more than this machine has free."""
    free = available_memory_mb()
    if free is not None and size > free * MIB:
        raise DataError(
            f"{what} would take {size / 2**30:,.1f} GiB of memory, and {free / 1024:,.1f} GiB are free: {remedy}."
        )
