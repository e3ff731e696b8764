"""Where scores stand among others. A score is better the higher it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from enas.errors import DataError


def checked(name: str, values: npt.ArrayLike, least: int = 1) -> npt.NDArray[np.float64]:
    """The values as a flat array. Raises `DataError` unless they are one row of at least `least` finite numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < least:
        raise DataError(f"{name} must be a row of at least {least} numbers, not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} must be finite numbers; {array[~np.isfinite(array)][0]} is among them")
    return array


def decimals(scores: Iterable[float | None]) -> int:
    """How many decimals tell such scores apart: two for percents and perplexities, four where all are below 2."""
    known = [abs(score) for score in scores if score is not None]
    return 4 if known and max(known) < 2 else 2


def percentile(scores: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The mean share of the reference that lies below a score, ties counted half.

    Scores drawn from the reference have 0.5 on average, whatever its distribution.
    """
    score_N, sorted_R = checked("scores", scores), np.sort(checked("reference", reference))
    below_N, not_above_N = (np.searchsorted(sorted_R, score_N, side) for side in ("left", "right"))
    return float((below_N + not_above_N).mean() / (2 * len(sorted_R)))


def front(
    points: Sequence[tuple[float, float]], is_better: Callable[[float, float], bool]
) -> list[tuple[float, float]]:
    """The points, cheapest first, that no cheaper or equally cheap one reaches in score."""
    found: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: point[0]):
        if not found or is_better(score, found[-1][1]):
            if found and found[-1][0] == cost:
                found.pop()
            found.append((cost, score))
    return found
