"""A comparison as an SVG file: every run of every method, and the expected best of k random architectures beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from enas.evidence.comparison import Comparison, Record
from enas.report.plot import (
    BEST_POINT,
    INK,
    POINT,
    Axis,
    Scale,
    axis,
    horizontal_lines,
    picture,
    point,
    text,
    vertical_lines,
)

WIDTH, ROW, TOP, BOTTOM = 960, 44, 64, 64
RUNS, CURVE = (140, 460), (560, 930)
"""From where to where the two parts go across."""
LEAST_HEIGHT = 240
"""Of the part between the axes."""
WIDE = 4.0
"""Scores whose largest is so many times the smallest are drawn logarithmically, as perplexities may be."""


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
        text((RUNS[0] + RUNS[1]) / 2, 32, f"every run of every method ({better} is better)", size=14),
        *_runs(comparison, records, bottom),
    ]
    if len(comparison.best_of_random) > 1:
        title = "expected best of k random architectures"
        parts += [text((CURVE[0] + CURVE[1]) / 2, 32, title, size=14), *_curve(comparison, bottom)]
    return picture(WIDTH, bottom + BOTTOM, parts)


def _runs(comparison: Comparison, records: Sequence[Record], bottom: float) -> list[str]:
    """A row a method."""
    scores = [record.score for record in records if record.score is not None]
    if not scores:
        return [text(sum(RUNS) / 2, (TOP + bottom) / 2, "all runs diverged")]
    across = scale(f"test {comparison.metric}", scores, RUNS)
    parts = vertical_lines(across, bottom, TOP)
    row = (bottom - TOP) / len(comparison.summaries)
    for place, summary in enumerate(comparison.summaries):
        y = round(TOP + (place + 0.5) * row, 1)
        colour = BEST_POINT if summary.method == comparison.method else POINT
        parts.append(text(RUNS[0] - 12, y + 4, summary.method, anchor="end"))
        for record in records:
            if record.method == summary.method and record.score is not None:
                hint = f"seed {record.seed}: {record.score:.2f}, {record.architecture}"
                parts.append(point(across.at(record.score), y, colour, hint))
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
    parts = [*vertical_lines(across, bottom, TOP), *horizontal_lines(up, *CURVE)]
    points = (f"{across.at(k)},{up.at(best)}" for k, best in enumerate(curve, start=1))
    parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{POINT}" stroke-width="2"/>')
    if mean is not None:
        y = up.at(mean)
        parts.append(f'<path d="M{CURVE[0]} {y}H{CURVE[1]}" stroke="{BEST_POINT}" stroke-width="2"/>')
        parts.append(text(CURVE[1], y - 6, f"mean of {comparison.method}", anchor="end"))
    budget = comparison.random_in_budget
    if budget is not None and 1 <= budget <= len(curve):
        x = across.at(budget)
        parts.append(f'<path d="M{x} {bottom}V{TOP}" stroke="{INK}" stroke-dasharray="4 4"/>')
        parts.append(text(max(x, CURVE[0] + 90), TOP - 8, f"in the seconds of a run: {budget:.1f}"))
    return parts


def _whole_ticks(count: int) -> tuple[float, ...]:
    """Whole numbers from 1 to `count`, at most about eight, both ends among them."""
    step = max(1, -(-(count - 1) // 7))
    inner = [float(k) for k in range(1, count, step) if count - k >= step / 2]
    return (*inner, float(count))
