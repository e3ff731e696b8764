"""What charts are made of: dots, lines, boxes and words, written as SVG, or in Graphviz's drawing language for PNG.

Places are in pixels, y downwards. A colour is named by what it is for, so that a page may be light or dark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Literal

from enas.report.drawing import quoted, rendered

Colour = Literal["paper", "ink", "muted", "grid", "own", "other", "third"]
LIGHT: Mapping[Colour, str] = {
    "paper": "#ffffff",
    "ink": "#1f2933",
    "muted": "#5b6673",
    "grid": "#dde2e8",
    "own": "#c0392f",
    "other": "#4477aa",
    "third": "#228833",
}
DARK: Mapping[Colour, str] = {
    "paper": "#14181d",
    "ink": "#e6eaee",
    "muted": "#a3adb8",
    "grid": "#343b44",
    "own": "#ff8a7a",
    "other": "#7fb2e5",
    "third": "#66c27a",
}

Place = tuple[float, float]
TITLE = 26
"""Height of a title above a chart that stands alone."""
MARGIN = 8
"""Around it."""
RESOLUTION = 144
"""Dots an inch of a PNG: twice a screen's."""

LONGEST_STRING = 4000
"""In Graphviz's language, in characters; its reader fails at four times as many."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A point that says something where the pointer rests on it."""

    place: Place
    colour: Colour
    hint: str = ""
    radius: float = 4.0


@dataclass(frozen=True, slots=True)
class Path:
    """A line from place to place."""

    places: tuple[Place, ...]
    colour: Colour
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Boxes:
    """Rectangles of one colour: x, y, width, height of each."""

    places: tuple[tuple[float, float, float, float], ...]
    colour: Colour
    opacity: float = 1.0
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """Text at a place on its base line."""

    place: Place
    text: str
    anchor: Literal["start", "middle", "end"] = "middle"
    colour: Colour = "ink"
    size: int = 12
    hint: str = ""


Mark = Dot | Path | Boxes | Words


@dataclass(frozen=True, slots=True)
class Chart:
    """Marks in a picture of a size."""

    name: str
    """For a file: lower-case letters and hyphens."""
    title: str
    width: float
    height: float
    marks: tuple[Mark, ...]


# ---- SVG ---------------------------------------------------------------------------------------------------------------


def in_page(chart: Chart) -> str:
    """The chart as a part of a page, whose style says what `--ink` and the other colours are."""
    label = escape(printable(chart.title))
    opening = f'<svg viewBox="0 0 {chart.width:g} {chart.height:g}" role="img" aria-label="{label}">'
    return "".join(
        [opening, *(_svg(mark, lambda colour: f"var(--{colour})") for mark in chart.marks), "</svg>"]
    )


def as_file(chart: Chart) -> str:
    """The chart as an SVG file, below its title, on white."""
    width, height = chart.width + 2 * MARGIN, chart.height + TITLE + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-MARGIN} {-TITLE} {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" font-family="sans-serif">',
            *(_svg(mark, LIGHT.__getitem__) for mark in _titled(chart)),
            "</svg>",
            "",
        ]
    )


def _titled(chart: Chart) -> list[Mark]:
    ground = Boxes(((-MARGIN, -TITLE, chart.width + 2 * MARGIN, chart.height + TITLE + MARGIN),), "paper")
    return [ground, Words((chart.width / 2, -9), chart.title, size=13), *chart.marks]


def _svg(mark: Mark, paint: Callable[[Colour], str]) -> str:
    colour, hint = paint(mark.colour), ""
    if not isinstance(mark, Path) and mark.hint:
        hint = f"<title>{escape(printable(mark.hint))}</title>"
    if isinstance(mark, Dot):
        x, y = mark.place
        look = f'r="{mark.radius:g}" fill="{colour}" fill-opacity=".75"'
        return f'<circle cx="{_short(x)}" cy="{_short(y)}" {look}>{hint}</circle>'
    if isinstance(mark, Path):
        way = "L".join(f"{_short(x)} {_short(y)}" for x, y in mark.places)
        dashes = ' stroke-dasharray="4 3"' if mark.dashed else ""
        return f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="{mark.width:g}"{dashes}/>'
    if isinstance(mark, Boxes):
        way = "".join(
            f"M{_short(x)} {_short(y)}h{_short(w)}v{_short(h)}h{_short(-w)}z" for x, y, w, h in mark.places
        )
        return f'<path d="{way}" fill="{colour}" fill-opacity="{mark.opacity:.2g}">{hint}</path>'
    x, y = mark.place
    look = f'text-anchor="{mark.anchor}" font-size="{mark.size}" fill="{colour}"'
    return f'<text x="{_short(x)}" y="{_short(y)}" {look}>{escape(printable(mark.text))}{hint}</text>'


def printable(text: str) -> str:
    """The text with a space for every character that is none to look at: neither XML nor a drawing takes them all."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _short(number: float) -> str:
    """With one digit behind the point at most."""
    return f"{round(number, 1) + 0.0:g}"


# ---- PNG ---------------------------------------------------------------------------------------------------------------


def as_png(chart: Chart) -> bytes:
    """The chart below its title as a PNG picture, at twice a screen's resolution.

    Graphviz paints it, as the background of a graph that has nothing but two corners. Raises `EnasError` if pygraphviz is
    missing.
    """
    drawing = " ".join(_xdot(mark, chart.height) for mark in _titled(chart))
    corner = 'shape=point, width=0, height=0, style=invis, label=""'
    dot = (
        f"digraph {{ graph [_background={_in_quotes(drawing)}, pad=0, dpi={RESOLUTION}]\n"
        f'a [{corner}, pos="{-MARGIN},{-MARGIN}"]\n'
        f'b [{corner}, pos="{chart.width + MARGIN:g},{chart.height + TITLE:g}"] }}'
    )
    return rendered(dot, "png", "nop2")


def _xdot(mark: Mark, height: float) -> str:
    """A mark in the language of Graphviz's attribute `_background`, whose y goes upwards."""

    def at(place: Place) -> str:
        return f"{place[0]:.2f} {height - place[1]:.2f}"

    colour = LIGHT[mark.colour]
    if isinstance(mark, Dot):
        return f"{_fill(colour, 0.75)} E {at(mark.place)} {mark.radius:g} {mark.radius:g}"
    if isinstance(mark, Path):
        style = "dashed" if mark.dashed else f"setlinewidth({mark.width:g})"
        line = f"L {len(mark.places)} {' '.join(map(at, mark.places))}"
        return f"S {len(style)} -{style} c {len(colour)} -{colour} {line} S 5 -solid"
    if isinstance(mark, Boxes):
        corners = (((x, y), (x + w, y), (x + w, y + h), (x, y + h)) for x, y, w, h in mark.places)
        return " ".join(
            [_fill(colour, mark.opacity), *(f"P 4 {' '.join(map(at, four))}" for four in corners)]
        )
    side = {"start": -1, "middle": 0, "end": 1}[mark.anchor]
    text = printable(mark.text)
    size = f"F {mark.size} 9 -Helvetica c {len(colour)} -{colour}"
    return f"{size} T {at(mark.place)} {side} {len(text) * mark.size / 2:.0f} {len(text.encode())} -{text}"


def _fill(colour: str, opacity: float) -> str:
    """Fills with this colour, and draws no line around."""
    shade = f"{colour}{round(255 * opacity):02x}"
    return f"c 9 -#ffffff00 C {len(shade)} -{shade}"


def _in_quotes(text: str) -> str:
    """A string of Graphviz's language. Its reader takes no long ones, but a sum of short ones."""
    pieces = (text[place : place + LONGEST_STRING] for place in range(0, len(text), LONGEST_STRING))
    return " + ".join(map(quoted, pieces))
