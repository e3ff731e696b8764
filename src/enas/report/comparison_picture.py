"""A comparison as an SVG file: every run of every method, and the expected best of k random architectures beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from enas.compare import Comparison, Record
from enas.report.scatter import BEST_POINT, GRID, INK, POINT, Axis, axis

WIDTH, ROW, TOP, BOTTOM = 960, 44, 64, 64
RUNS, CURVE = (140, 460), (560, 930)
"""From where to where the two parts go across."""
LEAST_HEIGHT = 240
"""Of the part between the axes."""
WIDE = 4.0
"""Scores whose largest is so many times the smallest are drawn logarithmically, as perplexities may be."""


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


def scale(label: str, values: Sequence[float], span: tuple[float, float]) -> Scale:
    """A scale with room for all values, its ticks at round numbers."""
    low, high = min(values), max(values)
    if low <= 0 or high < WIDE * low:
        return Scale(axis(label, values), span)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_numbers = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(number for number in round_numbers if number <= low * (1 + 1e-9))
    last = min(number for number in round_numbers if number >= high * (1 - 1e-9))
    ticks = tuple(math.log10(number) for number in round_numbers if first <= number <= last)
    return Scale(Axis(label, ticks[0], ticks[-1], ticks), span, logarithmic=True)


def comparison_svg(comparison: Comparison, records: Sequence[Record]) -> str:
    """The picture: left, a row a method with a point a run and a bar at their mean; right, what k random ones reach."""
    names = [summary.method for summary in comparison.summaries]
    inner = max(LEAST_HEIGHT, ROW * len(names))
    bottom = TOP + inner
    better = "lower" if comparison.lower_is_better else "higher"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + BOTTOM}" width="{WIDTH}" '
        f'height="{bottom + BOTTOM}" font-family="sans-serif" font-size="12" fill="{INK}">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text((RUNS[0] + RUNS[1]) / 2, 32, f"every run of every method ({better} is better)", size=14),
        *_runs(comparison, records, bottom),
    ]
    if len(comparison.best_of_random) > 1:
        title = "expected best of k random architectures"
        parts += [_text((CURVE[0] + CURVE[1]) / 2, 32, title, size=14), *_curve(comparison, bottom)]
    return "\n".join([*parts, "</svg>", ""])


def _runs(comparison: Comparison, records: Sequence[Record], bottom: float) -> list[str]:
    """A row a method."""
    scores = [record.score for record in records if record.score is not None]
    if not scores:
        return [_text(sum(RUNS) / 2, (TOP + bottom) / 2, "all runs diverged")]
    across = scale(f"test {comparison.metric}", scores, RUNS)
    parts = _vertical_lines(across, bottom)
    row = (bottom - TOP) / len(comparison.summaries)
    for place, summary in enumerate(comparison.summaries):
        y = round(TOP + (place + 0.5) * row, 1)
        colour = BEST_POINT if summary.method == comparison.method else POINT
        parts.append(_text(RUNS[0] - 12, y + 4, summary.method, anchor="end"))
        for record in records:
            if record.method == summary.method and record.score is not None:
                hint = escape(f"seed {record.seed}: {record.score:.2f}, {record.architecture}")
                x = across.at(record.score)
                parts.append(
                    f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}" fill-opacity="0.6"><title>{hint}</title></circle>'
                )
        if summary.score is not None:
            x = across.at(summary.score)
            parts.append(f'<path d="M{x} {y - 12}V{y + 12}" stroke="{colour}" stroke-width="3"/>')
    return parts


def _curve(comparison: Comparison, bottom: float) -> list[str]:
    """The curve, the mean of the method, and how many random architectures its seconds are enough for."""
    curve = comparison.best_of_random
    mean = next(one.score for one in comparison.summaries if one.method == comparison.method)
    across = Scale(Axis("k", 1.0, float(len(curve)), _whole_ticks(len(curve))), CURVE)
    up = scale("", [*curve, *([] if mean is None else [mean])], (bottom, TOP))
    parts = _vertical_lines(across, bottom)
    for y, number in up.ticks():
        parts.append(f'<path d="M{CURVE[0]} {y}H{CURVE[1]}" stroke="{GRID}"/>')
        parts.append(_text(CURVE[0] - 8, y + 4, number, anchor="end"))
    points = (f"{across.at(k)},{up.at(best)}" for k, best in enumerate(curve, start=1))
    parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{POINT}" stroke-width="2"/>')
    if mean is not None:
        y = up.at(mean)
        parts.append(f'<path d="M{CURVE[0]} {y}H{CURVE[1]}" stroke="{BEST_POINT}" stroke-width="2"/>')
        parts.append(_text(CURVE[1], y - 6, f"mean of {comparison.method}", anchor="end"))
    budget = comparison.random_in_budget
    if budget is not None and 1 <= budget <= len(curve):
        x = across.at(budget)
        parts.append(f'<path d="M{x} {bottom}V{TOP}" stroke="{INK}" stroke-dasharray="4 4"/>')
        parts.append(_text(max(x, CURVE[0] + 90), TOP - 8, f"in the seconds of a run: {budget:.1f}"))
    return parts


def _vertical_lines(across: Scale, bottom: float) -> list[str]:
    """The grid of a horizontal axis, its numbers and its name."""
    parts = [_text(sum(across.span) / 2, bottom + 44, across.axis.label)]
    for x, number in across.ticks():
        parts.append(f'<path d="M{x} {bottom}V{TOP}" stroke="{GRID}"/>')
        parts.append(_text(x, bottom + 18, number))
    return parts


def _whole_ticks(count: int) -> tuple[float, ...]:
    """Whole numbers from 1 to `count`, at most about eight, both ends among them."""
    step = max(1, -(-(count - 1) // 7))
    inner = [float(k) for k in range(1, count, step) if count - k >= step / 2]
    return (*inner, float(count))


def _text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12) -> str:
    """Words at a place."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'
