"""Reads an architecture string that does not name its space.

Words tell their space: `sep5x5(0)` is a layer of a macro network, `sep5x5(0)+identity(1)` a node of a micro cell,
`tanh(1)` a node of a recurrent cell, `skip_connect~1` an edge of a cell of NAS-Bench-201. Numbers may fit several spaces by
coincidence, the more rarely the fewer strings of that length a space has. So numbers are read for the smallest space that
they fit if every other one is at least a thousand times larger, and refused as ambiguous otherwise. The name of a space and
a colon, as in `macro: 0 3 0`, always decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from enas.architecture import Architecture
from enas.errors import ArchitectureError, ConfigError
from enas.spaces.macro.space import OPERATIONS as MACRO_OPERATIONS
from enas.spaces.macro.space import MacroSpace, split_layers
from enas.spaces.micro.space import CELLS, ONE_CELL, MicroSpace, split_cells
from enas.spaces.micro.space import OPERATIONS as MICRO_OPERATIONS
from enas.spaces.nasbench201.space import NASBench201Space
from enas.spaces.notation import numbers_in
from enas.spaces.recurrent.space import FUNCTIONS, RecurrentSpace, read_authors_string

COINCIDENCE = 1000
"""How many times larger every other space must be for numbers to be read for the smallest one that they fit."""


def read_text(text: str) -> Architecture:
    """The architecture of a string in any notation of any space, its space as large as the string says.

    Raises `ArchitectureError` saying what is wrong, or as which spaces the string was tried.
    """
    name, colon, rest = text.partition(":")
    if colon and name.strip() in READERS:
        return READERS[name.strip()](rest)
    if numbers_in(text) is not None:
        return read_numbers(text)
    return READERS[space_of_words(text)](text)


def read_numbers(text: str) -> Architecture:
    """Numbers in one of the authors' notations, read for the space that they were most likely written for."""
    fitting: list[Architecture] = []
    tried: list[str] = []
    for name, read in READERS.items():
        try:
            fitting.append(read(text))
        except (ArchitectureError, ConfigError) as error:
            tried.append(f"as {name}: {error}")
    if not fitting:
        raise ArchitectureError("; ".join(tried))
    fitting.sort(key=lambda architecture: architecture.space.count())
    likely, *others = fitting
    for other in others:
        if other.space.count() < COINCIDENCE * likely.space.count():
            names = (likely.space.name, other.space.name)
            raise ArchitectureError(
                f"these numbers fit the {names[0]} and the {names[1]} space; say which is meant, as in "
                f"'{names[0]}: {' '.join(text.split()[:3])} ...'"
            )
    return likely


def space_of_words(text: str) -> str:
    """The name of the space whose words a string has. Raises `ArchitectureError` if no word is known."""
    if "~" in text:
        return NASBench201Space.name
    words = re.findall(r"[a-z]\w*", text)
    if re.search(r"[+|;]", text) or set(words) & {*CELLS, ONE_CELL}:
        return MicroSpace.name
    if any(word in MACRO_OPERATIONS for word in words):
        return MacroSpace.name
    if any(word in FUNCTIONS for word in words):
        return RecurrentSpace.name
    raise ArchitectureError(
        f"it has none of the words of a recurrent cell ({', '.join(FUNCTIONS)}), of a macro network "
        f"({', '.join(MACRO_OPERATIONS)}) or of micro cells ({', '.join(MICRO_OPERATIONS)})"
    )


def read_recurrent(text: str) -> Architecture:
    """A recurrent cell. It has a fixed input node, as in the corrected code, if there is an even count of numbers, or if the
    second node reads node 0."""
    numbers = numbers_in(text)
    if numbers is not None:
        return read_authors_string(" ".join(map(str, numbers)))
    words = text.replace(",", " ").split()
    if len(words) > 1 and words[0] in FUNCTIONS and words[1].endswith("(0)"):
        return RecurrentSpace(len(words) - 1, FUNCTIONS, words[0]).parse(text)
    return RecurrentSpace(max(1, len(words))).parse(text)


def read_macro(text: str) -> Architecture:
    """A macro network. L layers are L words, or L(L+1)/2 numbers."""
    numbers = numbers_in(text)
    if numbers is None:
        return MacroSpace(max(1, len(split_layers(text)))).parse(text)
    layers = (math.isqrt(8 * len(numbers) + 1) - 1) // 2
    if layers * (layers + 1) // 2 != len(numbers):
        raise ArchitectureError(
            f"{len(numbers)} numbers given; L layers are written with L(L+1)/2, 78 for 12"
        )
    return MacroSpace(layers).parse(text)


def read_micro(text: str) -> Architecture:
    """A pair of micro cells, or the one that is labelled `cell:`. N computed nodes are N words a cell, or 4N numbers."""
    one_cell = text.strip().startswith(f"{ONE_CELL}:")
    cells = split_cells(text, lines=not one_cell)
    numbers = numbers_in(" ".join(cells))
    if numbers is None:
        return MicroSpace(max(1, cells[0].count("+") if cells else 0), one_cell=one_cell).parse(text)
    if len(numbers) % 8:
        raise ArchitectureError(
            f"{len(numbers)} numbers given; two cells of N nodes are written with 8N, 40 for 5"
        )
    return MicroSpace(len(numbers) // 8).parse(text)


READERS: dict[str, Callable[[str], Architecture]] = {
    RecurrentSpace.name: read_recurrent,
    MacroSpace.name: read_macro,
    MicroSpace.name: read_micro,
    NASBench201Space.name: NASBench201Space().parse,
}
"""How a string is read once its space is known. The string shows the size of the space."""
