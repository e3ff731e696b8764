"""A scatter plot as an SVG file. Two colours tell the best points from the others."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from enas.report.plot import (
    BEST_POINT,
    POINT,
    Scale,
    axis,
    horizontal_lines,
    picture,
    point,
    text,
    vertical_lines,
)

WIDTH, HEIGHT, MARGIN = 520, 440, 64


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
    left, right, top, bottom = MARGIN, WIDTH - MARGIN, MARGIN, HEIGHT - MARGIN
    across, up = Scale(axis(*x), (left, right)), Scale(axis(*y), (bottom, top))
    side = HEIGHT / 2
    parts = [
        text(WIDTH / 2, 28, title, size=14),
        *vertical_lines(across, bottom, top),
        *horizontal_lines(up, left, right),
        f'<text x="16" y="{side}" text-anchor="middle" transform="rotate(-90 16 {side})">{escape(up.axis.label)}</text>',
        *(
            point(across.at(x_value), up.at(y_value), BEST_POINT if place in best else POINT, name)
            for place, (x_value, y_value, name) in enumerate(zip(x[1], y[1], names, strict=True))
        ),
    ]
    return picture(WIDTH, HEIGHT, parts)
