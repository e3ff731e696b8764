"""What the pictures of numbers are made of: axes with round ticks, and pieces of SVG. No library, no network.

A picture is an SVG file of its own. Places are in its pixels, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

POINT, BEST_POINT, INK, GRID = "#4477aa", "#cc6677", "#222222", "#dddddd"
"""Colours: of points, of those that stand out, of words, of the lines behind them."""


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows, and the numbers of its ticks."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value is, from 0 at the low end to 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def axis(label: str, values: Sequence[float]) -> Axis:
    """An axis with room for all values, and four to eight ticks at round numbers (1, 2 or 5 times a power of ten)."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(label, ticks[0], ticks[-1], ticks)


@dataclass(frozen=True)
class Scale:
    """An axis across a span of the picture, of the values or of their logarithms."""

    axis: Axis
    span: tuple[float, float]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value is."""
        low, high = self.span
        place = self.axis.place(math.log10(value) if self.logarithmic else value)
        return round(low + place * (high - low), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Where the round numbers are, and what they are."""
        values = [10**tick if self.logarithmic else tick for tick in self.axis.ticks]
        return [(self.at(value), f"{value:.6g}") for value in values]


def picture(width: float, height: float, parts: Sequence[str]) -> str:
    """An SVG file of this size, on white."""
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    return "\n".join([opening, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12) -> str:
    """Words at a place."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'


def point(x: float, y: float, colour: str, hint: str) -> str:
    """A point that says something where the pointer rests on it."""
    title = f"<title>{escape(hint)}</title>"
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}" fill-opacity="0.7">{title}</circle>'


def vertical_lines(across: Scale, bottom: float, top: float) -> list[str]:
    """The grid of a horizontal axis, its numbers and its name."""
    parts = [text(sum(across.span) / 2, bottom + 44, across.axis.label)]
    for x, number in across.ticks():
        parts.append(f'<path d="M{x} {bottom}V{top}" stroke="{GRID}"/>')
        parts.append(text(x, bottom + 18, number))
    return parts


def horizontal_lines(up: Scale, left: float, right: float) -> list[str]:
    """The grid of a vertical axis, and its numbers."""
    parts = []
    for y, number in up.ticks():
        parts.append(f'<path d="M{left} {y}H{right}" stroke="{GRID}"/>')
        parts.append(text(left - 8, y + 4, number, anchor="end"))
    return parts
