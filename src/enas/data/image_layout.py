"""Which files of a folder of pictures belong to which split and class.

Classes are the names of the class folders, sorted. Folders with the usual names of splits, in capitals or small letters,
hold class folders of their own. Hidden files and folders, and those of operating systems, are passed over.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from enas.data.own_files import is_data
from enas.data.pictures import is_picture
from enas.data.text import SPLITS, Split, named_split
from enas.errors import DataError
from enas.runtime.progress import say

LAYOUT = "a folder of pictures holds a folder for each class, or train/ and test/ that do"


@dataclass(frozen=True)
class Layout:
    """The pictures of a folder, each class in the order of their names, which is the same on every machine."""

    classes: tuple[str, ...]
    files: Mapping[Split, list[tuple[Path, int]]]
    """File and class of each picture."""
    is_split: bool
    """Whether the folder has splits; without, all pictures stand under `train`."""


def find_pictures(folder: Path) -> Layout:
    """The pictures of a folder, or of the one folder in it; says what was entered and what was left out.

    Raises `DataError` if classes or pictures are missing, or splits are not whole.
    """
    top = folder
    while not (given := _splits(top)) and len(inside := _folders(top)) == 1:
        top = inside[0]
    if not given and not inside:  # nowhere down there are class folders
        top = folder
    if top != folder:
        say(f"data: the class folders are in {top}, which is read")
    tops: Mapping[Split, Path] = given or {"train": top}
    classes = _classes(tops["train"])
    for part in tops.values():
        if unknown := sorted(set(_classes(part)) - set(classes)):
            raise DataError(
                f"{part} has the class {unknown[0]!r}, which {tops['train']} lacks: add it there, or remove it."
            )
    for place in dict.fromkeys((folder, top, *tops.values())):
        _say_loose(place)
    files = {
        split: [(file, label) for label, name in enumerate(classes) for file in _pictures(part / name)]
        for split, part in tops.items()
    }
    return Layout(tuple(classes), files, bool(given))


def _splits(top: Path) -> dict[Split, Path]:
    """The folders of the splits, if that is what is there; `train` always among them.

    A class may be called `train`. Two of these three speak for splits: folders for two of them, class folders in such a
    folder, no other folder with pictures.
    """
    folders = _folders(top)
    named = [(split, path) for path in folders if (split := named_split(path.name)) is not None]
    if not named:
        return {}
    others = [path for path in folders if named_split(path.name) is None and _has_pictures(path)]
    signs = (
        len({split for split, _ in named}) > 1,
        any(_folders(path) for _, path in named),
        not others,
    )
    if sum(signs) < 2:
        return {}
    found: dict[Split, Path] = {}
    for split, path in named:
        if split in found:
            raise DataError(
                f"{top} has two folders for the same split, {found[split].name} and {path.name}: join them, or rename one."
            )
        found[split] = path
    if "train" not in found:
        names = " and ".join(path.name for path in found.values())
        raise DataError(
            f"{top} has the folder{'s' if len(found) > 1 else ''} {names}, but none for training: add a folder train."
        )
    if others:
        names = ", ".join(path.name for path in others)
        say(f"data: {top} has the folders of splits; beside them is left out: {names}")
    return {split: found[split] for split in SPLITS if split in found}


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if is_data(path.name) and path.is_dir())


def _classes(folder: Path) -> list[str]:
    classes = [path.name for path in _folders(folder)]
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{folder} needs two class folders or more, and has {found}; {LAYOUT}.")
    return classes


def _say_loose(folder: Path) -> None:
    """Say how many pictures lie beside the folders."""
    loose = [
        path for path in folder.iterdir() if is_data(path.name) and is_picture(path.name) and path.is_file()
    ]
    if loose:
        say(
            f"data: {len(loose):,} pictures in {folder} lie in no class folder and are left out, such as {loose[0].name}"
        )


def _has_pictures(folder: Path) -> bool:
    return any(is_picture(name) for _, names in _walk(folder) for name in names)


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a class in the order of their names."""
    if not folder.is_dir():
        return []
    found = [Path(parent, name) for parent, names in _walk(folder) for name in names if is_picture(name)]
    found = [path for path in found if path.is_file()]
    if not found:
        raise DataError(f"The class folder {folder} has no pictures: put some there, or remove it; {LAYOUT}.")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below one, and itself, with the names of its files."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = filter(is_data, folders)
        yield parent, [name for name in names if is_data(name)]


def _raise(error: OSError) -> NoReturn:
    raise error
