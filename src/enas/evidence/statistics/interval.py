"""A number and how far the truth may be from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from enas.errors import DataError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    level: float
    """How often such intervals hold the truth, such as 0.95."""
    n: int
    """Independent observations that it stands on: pairs, runs of the smaller arm, or architectures."""

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def holds(self, value: float) -> bool:
        """Whether the data leave `value` open."""
        return self.low <= value <= self.high

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def checked(name: str, values: npt.ArrayLike, least: int = 1) -> Floats:
    """The values as a flat array of float64.

    Raises `DataError` unless they are one row of at least `least` finite numbers.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < least:
        raise DataError(f"{name} must be a row of at least {least} numbers, not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} must be finite numbers; {array[~np.isfinite(array)][0]} is among them")
    return array


def checked_pairs(names: tuple[str, str], a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Two rows of which number i of one belongs to number i of the other, at least two of them.

    Raises `DataError` as `checked`, or if they are not of one length.
    """
    a_N, b_N = checked(names[0], a, least=2), checked(names[1], b, least=2)
    if len(a_N) != len(b_N):
        raise DataError(
            f"{names[0]} and {names[1]} are pairs, but there are {len(a_N)} of the one and {len(b_N)} of the other"
        )
    return a_N, b_N
