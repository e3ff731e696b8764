"""NAS-Bench-201 (Dong and Yang 2020, arXiv:2001.00326): the accuracies of all 15,625 cells, from a table that a user has.

The project does not come with them. A table is a CSV file, or one compressed by xz: a column `architecture` with the
benchmark's strings, and for each data set its validation and test accuracies in percent, such as `cifar10_valid` and
`cifar10_test`; a line for every cell, in any order.
"""

from __future__ import annotations

import csv
import io
import lzma
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from enas.errors import ArchitectureError, DataError, shown
from enas.evidence.known_scores import KnownScores, rows_of
from enas.spaces import space_from_json

EXPORTED = (
    "a CSV file (or .csv.xz) that you export from Dong and Yang's NAS-Bench-201: columns architecture, cifar10_valid, "
    "cifar10_test (and so for other data sets), a line for each of its 15,625 cells, accuracies in percent"
)
"""What a table is and where one comes from."""
LARGEST = 2**24
"""Most bytes of a table, compressed or not; one data set takes 1.6 million."""
MEMORY = 2**27
"""Most bytes that decompression may take; xz needs 65 MiB for what it compressed hardest."""
_XZ = b"\xfd7zXZ\x00"
_COLUMN = re.compile(r"([A-Za-z0-9-]+)_(valid|test)")


def read_cells(path: Path, data_set: str = "cifar10") -> KnownScores:
    """The accuracies of all cells on a data set. Raises `DataError` as `read_tables`, or if the data set is not there."""
    tables = read_tables(path)
    if data_set not in tables:
        raise DataError(f"{path} has no data set {shown(data_set)}; it has {', '.join(tables)}")
    return tables[data_set]


def read_tables(path: Path) -> Mapping[str, KnownScores]:
    """The validation and test accuracies, shares in [0, 1], of all cells, by data set.

    Raises `DataError` naming line and value if the file is no such table: a column or a cell that there is not, a cell
    twice or missing, or an accuracy that is none.
    """
    space = space_from_json({"name": "nasbench201"})
    lines = csv.reader(io.StringIO(_content(path), newline=""), strict=True)
    try:
        columns = next(lines, [])
        data_sets = _data_sets(path, columns)
        where = columns.index("architecture")
        scores_MC = np.full((space.count(), len(columns)), np.nan)
        line_of_row: dict[int, int] = {}
        for cells in lines:
            if not cells:
                continue
            line = f"{path}, line {lines.line_num}"
            if len(cells) != len(columns):
                raise DataError(f"{line}: {len(cells)} values for {len(columns)} columns")
            try:
                row = int(rows_of(space, space.parse(cells[where]).choices))
            except ArchitectureError as error:
                raise DataError(f"{line}: {error}") from error
            if row in line_of_row:
                raise DataError(f"{line}: the cell {cells[where]} is in line {line_of_row[row]} already")
            line_of_row[row] = lines.line_num
            scores_MC[row] = [
                0 if place == where else _share(line, name, cell)
                for place, (name, cell) in enumerate(zip(columns, cells, strict=True))
            ]
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: no CSV ({error})") from error
    if len(line_of_row) < space.count():
        missing = next(a for row, a in enumerate(space.enumerate()) if row not in line_of_row)
        raise DataError(
            f"{path} has {len(line_of_row):,} of the {space.count():,} cells; {missing}, for example, is missing"
        )
    return {
        name: KnownScores(
            name, space, *(scores_MC[:, columns.index(f"{name}_{split}")] for split in ("valid", "test"))
        )
        for name in data_sets
    }


def _content(path: Path) -> str:
    """The text of a file, decompressed if it is of xz."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
        if content.startswith(_XZ):
            xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
            content = xz.decompress(content, LARGEST + 1)
            if len(content) <= LARGEST and (not xz.eof or xz.unused_data):
                raise DataError(f"{path} is cut off, or more than one file of xz")
        if len(content) > LARGEST:
            raise DataError(f"{path} holds more than {LARGEST / 2**20:.0f} MiB; a table is {EXPORTED}")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}); a table is {EXPORTED}"
        ) from error
    except lzma.LZMAError as error:
        raise DataError(f"{path} is damaged: xz cannot decompress it ({error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8; a table is {EXPORTED}") from error


def _data_sets(path: Path, columns: list[str]) -> list[str]:
    """The data sets that have both their columns, in order. Raises `DataError` for any other column."""
    found: dict[str, set[str]] = {}
    for number, column in enumerate(columns):
        match = _COLUMN.fullmatch(column)
        if column in columns[:number] or (match is None and column != "architecture"):
            fault = "is there twice" if column in columns[:number] else "is none of a table's"
            raise DataError(f"{path}, line 1: the column {shown(column)} {fault}; a table is {EXPORTED}")
        if match is not None:
            found.setdefault(match[1], set()).add(match[2])
    needed = ["architecture"] * (not found or "architecture" not in columns)
    needed += [f"{name}_{split}" for name in found or ["cifar10"] for split in ("valid", "test")]
    missing = next((column for column in needed if column not in columns), None)
    if missing is not None:
        raise DataError(f"{path}, line 1: the column {missing} is missing; a table is {EXPORTED}")
    return list(found)


def _share(line: str, column: str, text: str) -> float:
    """An accuracy in percent as a share."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise DataError(f"{line}: {column} is {shown(text)}, no accuracy in percent from 0 to 100")
    return value / 100
