"""Pictures of numbers as SVG files: a comparison of methods, and two scores against each other.

Places are in pixels, y downwards. No library, no network; a word shows where the pointer rests on a point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from enas.evidence.comparison import Comparison, Record
from enas.scores import decimals

POINT, BEST_POINT, INK, GRID = "#4477aa", "#cc6677", "#222222", "#dddddd"
"""Colours: of points, of those that stand out, of words, of the lines behind them."""
WIDE = 4.0
"""If the largest score is this many times the smallest, the axis is logarithmic, as for perplexities."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis across a span of the picture: what it shows, and the numbers of its ticks, or their logarithms."""

    label: str
    ticks: tuple[float, ...]
    span: Span
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value is."""
        number = math.log10(value) if self.logarithmic else value
        share = (number - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(self.span[0] + share * (self.span[1] - self.span[0]), 1)

    def numbers(self) -> list[tuple[float, str]]:
        """Where the ticks are, and what they say."""
        values = [10**tick if self.logarithmic else tick for tick in self.ticks]
        return [(self.at(value), f"{value:.6g}") for value in values]


def axis(label: str, values: Sequence[float], span: Span, scores: bool = False) -> Axis:
    """An axis with room for all values, and four to eight ticks at round numbers (1, 2 or 5 times a power of ten).

    Of scores that are positive and far apart, as perplexities may be, it is logarithmic.
    """
    low, high = min(values), max(values)
    if scores and 0 < WIDE * low <= high:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        numbers = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        first = max(number for number in numbers if number <= low * (1 + 1e-9))
        last = min(number for number in numbers if number >= high * (1 - 1e-9))
        return Axis(
            label, tuple(math.log10(n) for n in numbers if first <= n <= last), span, logarithmic=True
        )
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # ticks closer than that could not be told apart
        room = max(0.5, 1e-6 * max(abs(low), abs(high)))
        low, high = low - room, high + room
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return Axis(
        label, tuple(n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)), span
    )


# ---- pieces ------------------------------------------------------------------------------------------------------------


def picture(width: float, height: float, parts: Sequence[str]) -> str:
    """An SVG file of this size, on white."""
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    return "\n".join([opening, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


HEADING = ' font-size="14"'


def text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
    """Words at a place; `more` is other attributes."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def line(x: float, y: float, to: str, colour: str, more: str = "") -> str:
    """A line from a place, `to` where an SVG path says."""
    return f'<path d="M{x} {y}{to}" stroke="{colour}"{more}/>'


def point(x: float, y: float, colour: str, hint: str) -> str:
    """A point that says something where the pointer rests on it."""
    title = f"<title>{escape(hint)}</title>"
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}" fill-opacity="0.7">{title}</circle>'


def vertical_lines(across: Axis, bottom: float, top: float) -> list[str]:
    """The grid of a horizontal axis, its numbers and its name."""
    parts = [text(sum(across.span) / 2, bottom + 44, across.label)]
    for x, number in across.numbers():
        parts += [line(x, bottom, f"V{top}", GRID), text(x, bottom + 18, number)]
    return parts


def horizontal_lines(up: Axis, left: float, right: float) -> list[str]:
    """The grid of a vertical axis, and its numbers."""
    parts = []
    for y, number in up.numbers():
        parts += [line(left, y, f"H{right}", GRID), text(left - 8, y + 4, number, "end")]
    return parts


# ---- two scores --------------------------------------------------------------------------------------------------------


def scatter_svg(
    title: str,
    x: tuple[str, Sequence[float]],
    y: tuple[str, Sequence[float]],
    names: Sequence[str],
    best: set[int],
) -> str:
    """Named points: a label and the values for each axis; `best` are the places of those to stand out."""
    width, height, margin = 520, 440, 64
    across = axis(*x, (margin, width - margin))
    up = axis(*y, (height - margin, margin))
    side = height / 2
    parts = [
        text(width / 2, 28, title, more=HEADING),
        *vertical_lines(across, *up.span),
        *horizontal_lines(up, *across.span),
        text(16, side, up.label, more=f' transform="rotate(-90 16 {side})"'),
        *(
            point(across.at(x_value), up.at(y_value), BEST_POINT if place in best else POINT, name)
            for place, (x_value, y_value, name) in enumerate(zip(x[1], y[1], names, strict=True))
        ),
    ]
    return picture(width, height, parts)


# ---- a comparison ------------------------------------------------------------------------------------------------------

ROW, TOP, BOTTOM = 44, 64, 64
RUNS, CURVE = (140, 460), (560, 930)
"""From where to where the two parts of a comparison go across."""
LEAST_HEIGHT = 240
"""Of the part between the axes."""


def comparison_svg(comparison: Comparison, records: Sequence[Record]) -> str:
    """Left, a row a method with a point a run and a bar at their mean; right, what k random architectures reach."""
    bottom = TOP + max(LEAST_HEIGHT, ROW * len(comparison.summaries))
    better = "lower" if comparison.lower_is_better else "higher"
    parts = [
        text(sum(RUNS) / 2, 32, f"every run of every method ({better} is better)", more=HEADING),
        *_runs(comparison, records, bottom),
    ]
    if len(comparison.best_of_random) > 1:
        title = "expected best of k random architectures"
        parts += [text(sum(CURVE) / 2, 32, title, more=HEADING), *_curve(comparison, bottom)]
    return picture(960, bottom + BOTTOM, parts)


def _runs(comparison: Comparison, records: Sequence[Record], bottom: float) -> list[str]:
    """A row a method."""
    scores = [record.score for record in records if record.score is not None]
    if not scores:
        return [text(sum(RUNS) / 2, (TOP + bottom) / 2, "all runs diverged")]
    across = axis(f"test {comparison.metric}", scores, RUNS, scores=True)
    parts, places = vertical_lines(across, bottom, TOP), decimals(scores)
    row = (bottom - TOP) / len(comparison.summaries)
    for place, summary in enumerate(comparison.summaries):
        y = round(TOP + (place + 0.5) * row, 1)
        colour = BEST_POINT if summary.method == comparison.method else POINT
        parts.append(text(RUNS[0] - 12, y + 4, summary.method, "end"))
        for record in records:
            if record.method == summary.method and record.score is not None:
                hint = f"seed {record.seed}: {record.score:.{places}f}, {record.architecture}"
                parts.append(point(across.at(record.score), y, colour, hint))
        if summary.score is not None:
            bar = line(across.at(summary.score), y - 12, f"V{y + 12}", colour, ' stroke-width="3"')
            parts.append(bar)
    return parts


def _curve(comparison: Comparison, bottom: float) -> list[str]:
    """The curve, the mean of the method, and how many random architectures its seconds are enough for."""
    curve = comparison.best_of_random
    mean = next(one.score for one in comparison.summaries if one.method == comparison.method)
    across = Axis("k", _whole_ticks(len(curve)), CURVE)
    up = axis("", [*curve, *([] if mean is None else [mean])], (bottom, TOP), scores=True)
    points = " ".join(f"{across.at(k)},{up.at(best)}" for k, best in enumerate(curve, start=1))
    parts = [
        *vertical_lines(across, bottom, TOP),
        *horizontal_lines(up, *CURVE),
        f'<polyline points="{points}" fill="none" stroke="{POINT}" stroke-width="2"/>',
    ]
    if mean is not None:
        y = up.at(mean)
        parts.append(line(CURVE[0], y, f"H{CURVE[1]}", BEST_POINT, ' stroke-width="2"'))
        parts.append(text(CURVE[1], y - 6, f"mean of {comparison.method}", "end"))
    budget = comparison.random_in_budget
    if budget is not None and 1 <= budget <= len(curve):
        x = across.at(budget)
        parts.append(line(x, bottom, f"V{TOP}", INK, ' stroke-dasharray="4 4"'))
        parts.append(text(max(x, CURVE[0] + 90), TOP - 8, f"in the seconds of a run: {budget:.1f}"))
    return parts


def _whole_ticks(count: int) -> tuple[float, ...]:
    """Whole numbers from 1 to `count`, at most about eight, both ends among them."""
    step = max(1, -(-(count - 1) // 7))
    inner = [float(k) for k in range(1, count, step) if count - k >= step / 2]
    return (*inner, float(count))
