"""A scatter plot as an SVG file of its own: no library, no network. Two colours tell the best points from the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT, MARGIN = 520, 440, 64
POINT, BEST_POINT, INK, GRID = "#4477aa", "#cc6677", "#222222", "#dddddd"


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


def scatter_svg(
    title: str,
    x: tuple[str, Sequence[float]],
    y: tuple[str, Sequence[float]],
    names: Sequence[str],
    best: set[int],
) -> str:
    """The picture of named points: a label and the values for each axis; `best` are the places of those to stand out.

    A name shows where the pointer rests.
    """
    horizontal, vertical = axis(*x), axis(*y)
    inner_width, inner_height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def at(x_value: float, y_value: float) -> tuple[float, float]:
        across, up = horizontal.place(x_value), vertical.place(y_value)
        return round(MARGIN + across * inner_width, 1), round(HEIGHT - MARGIN - up * inner_height, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="28" text-anchor="middle" font-size="14">{escape(title)}</text>',
    ]
    for tick in horizontal.ticks:
        left, bottom = at(tick, vertical.low)
        _, top = at(tick, vertical.high)
        parts.append(f'<path d="M{left} {bottom}V{top}" stroke="{GRID}"/>')
        parts.append(f'<text x="{left}" y="{bottom + 18}" text-anchor="middle">{tick:.6g}</text>')
    for tick in vertical.ticks:
        left, bottom = at(horizontal.low, tick)
        right, _ = at(horizontal.high, tick)
        parts.append(f'<path d="M{left} {bottom}H{right}" stroke="{GRID}"/>')
        parts.append(f'<text x="{left - 8}" y="{bottom + 4}" text-anchor="end">{tick:.6g}</text>')
    middle, side = f"{WIDTH / 2}", f"{HEIGHT / 2}"
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 16}" text-anchor="middle">{escape(horizontal.label)}</text>'
    )
    parts.append(
        f'<text x="16" y="{side}" text-anchor="middle" transform="rotate(-90 16 {side})">{escape(vertical.label)}</text>'
    )
    for place, (x_value, y_value, name) in enumerate(zip(x[1], y[1], names, strict=True)):
        left, bottom = at(x_value, y_value)
        colour = BEST_POINT if place in best else POINT
        parts.append(
            f'<circle cx="{left}" cy="{bottom}" r="4" fill="{colour}" fill-opacity="0.8">'
            f"<title>{escape(name)}</title></circle>"
        )
    return "\n".join([*parts, "</svg>", ""])
