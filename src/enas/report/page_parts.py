"""What a page is put together from: sections, tables, and rows that are thinned so that the page stays small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from enas.architecture import Graph
from enas.report.marks import Chart

T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """Rows of words below a head, which may be empty."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A part of a page about one run, and its numbers as plain values."""

    words: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    text: str = ""
    """To be copied."""
    drawing: Graph | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)


def thinned(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values, at least two, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]
