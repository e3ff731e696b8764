"""What the notations of the convolutional spaces have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence

from enas.errors import ArchitectureError, ConfigError, did_you_mean, shortened, shown

MOST_DIGITS = 9
"""Of a number in a string: many more than a choice can have."""


def numbers_in(text: str) -> list[int] | None:
    """The numbers of a string that holds nothing else but spaces, commas, lines and brackets, as logs of arrays
    have them; `None` if there is any word, or nothing at all."""
    words = re.sub(r"[\s,\[\]]+", " ", text).split()
    return [number_in(word) for word in words] if words and all(map(str.isdecimal, words)) else None


def number_in(digits: str) -> int:
    """A number of an architecture string. Raises `ArchitectureError` for one that no space could mean."""
    if len(digits) > MOST_DIGITS:
        raise ArchitectureError(f"the number {shortened(digits)} is larger than any choice of any space")
    return int(digits)


def check_operations(operations: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless these are distinct and known operations, at least one."""
    if not operations or len(set(operations)) < len(operations) or not set(operations) <= set(known):
        raise ConfigError(
            f"operations must be distinct names out of {', '.join(known)}; got {shortened(', '.join(operations)) or 'none'}"
        )


def operation_number(name: str, operations: tuple[str, ...]) -> int:
    """Which option of a space an operation is. Raises `ArchitectureError` if the space does not have it."""
    if name not in operations:
        raise ArchitectureError(
            f"{did_you_mean(name, operations)}operation {shown(name)} is not in this space; it has {', '.join(operations)}"
        )
    return operations.index(name)


def operation_name(number: int, known: Sequence[str]) -> str:
    """The operation that has this number in the authors' code. Raises `ArchitectureError` if none has."""
    if number >= len(known):
        numbered = ", ".join(f"{i} {name}" for i, name in enumerate(known))
        raise ArchitectureError(f"operation number {number} is not in 0..{len(known) - 1} ({numbered})")
    return known[number]
