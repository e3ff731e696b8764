"""Charts of a page, each one idea: dots in rows, intervals, lines, points in a plane, shares over time, bars.

They are 340 pixels wide, so that their words are readable on a telephone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enas.errors import DataError
from enas.evidence import pictures
from enas.evidence.pictures import Axis
from enas.evidence.statistics import LARGEST
from enas.report.marks import Boxes, Chart, Colour, Dot, Mark, Path, Place, Words

WIDTH, ROW = 340, 24
NARROWEST, WIDEST = 70, 140
"""Of the column of names at the left of rows."""
LETTER = 7.2
"""About the width of one, in pixels."""
EDGE = 14
"""Free at the right, where half of the last number stands."""
LEVELS = 8
"""Shades of a share."""


@dataclass(frozen=True, slots=True)
class Row:
    """A name and the points in its row; the last of them are drawn on top."""

    name: str
    points: Sequence[tuple[float, str]]
    """Values with what each is."""
    mean: float | None = None
    own: bool = False
    """Whether it is what the page is about."""


@dataclass(frozen=True, slots=True)
class Span:
    """A name, an estimate, and the ends of its interval."""

    name: str
    value: float
    low: float
    high: float
    hint: str = ""
    heading: str = ""
    """Above this row and those below it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A named line through these places."""

    name: str
    places: Sequence[Place]
    colour: Colour


def dots_in_rows(name: str, title: str, label: str, rows: Sequence[Row]) -> Chart:
    """A row a group: a dot a value, and a bar at the mean. Raises `ValueError` if there is no value."""
    values = [value for row in rows for value, _ in row.points]
    left, top, bottom = names_width([row.name for row in rows]), 4, 4 + ROW * len(rows)
    across = axis(label, values, (left, WIDTH - EDGE), scores=True)
    marks: list[Mark] = _grid(across, top, bottom)
    for number, row in enumerate(rows):
        y = top + (number + 0.5) * ROW
        colour: Colour = "own" if row.own else "other"
        marks.append(_name(row.name, left, y))
        marks += swarm([(across.at(value), hint) for value, hint in row.points], y, colour)
        if row.mean is not None:
            x = across.at(row.mean)
            marks.append(Path(((x, y - 9), (x, y + 9)), colour, 3))
    return Chart(name, title, WIDTH, bottom + 40, tuple(marks))


def intervals(
    name: str, title: str, label: str, rows: Sequence[Span], neutral: float, room: Sequence[float] = ()
) -> Chart:
    """A row an estimate: a dot, and a line between the ends of its interval; what is `neutral` is dashed.

    The axis has room for the values `room` too, so that several charts can have one.
    """
    values = [end for row in rows for end in (row.low, row.high, row.value)] + [neutral, *room]
    headings = sum(bool(row.heading) for row in rows)
    left, top, bottom = names_width([row.name for row in rows]), 4, 4 + ROW * (len(rows) + headings)
    across = axis(label, values, (left, WIDTH - EDGE))
    x = across.at(neutral)
    marks: list[Mark] = [
        *_grid(across, top, bottom),
        Path(((x, top), (x, bottom)), "muted", 1.5, dashed=True),
    ]
    y = top - ROW / 2
    for row in rows:
        if row.heading:
            y += ROW
            marks.append(Words((0, y + 5), clipped(row.heading, WIDTH), "start", "muted", hint=row.heading))
        y += ROW
        away = not row.low <= neutral <= row.high
        colour: Colour = "own" if away else "other"
        marks.append(_name(row.name, left, y))
        marks.append(Path(((across.at(row.low), y), (across.at(row.high), y)), colour, 2))
        marks.append(Dot((across.at(row.value), y), colour, row.hint))
    return Chart(name, title, WIDTH, bottom + 40, tuple(marks))


def lines(name: str, title: str, x_label: str, series: Sequence[Line], scores: bool = False) -> Chart:
    """Lines over a common axis, named above it. Raises `ValueError` if there is no place."""
    places = [place for line in series for place in line.places]
    named = [line for line in series if line.name]
    top, bottom = 8 + 16 * len(named), 8 + 16 * len(named) + 170
    across = axis(x_label, [x for x, _ in places], (46, WIDTH - EDGE))
    up = axis("", [y for _, y in places], (bottom, top), scores=scores)
    marks: list[Mark] = [*_grid(across, top, bottom), *_rungs(up, across)]
    for line in series:
        colour = line.colour
        if line in named:
            y = 12 + 16 * named.index(line)
            marks.append(Path(((46, y - 4), (62, y - 4)), colour, 3))
            marks.append(Words((68, y), clipped(line.name, WIDTH - 68), "start", "muted", hint=line.name))
        marks.append(Path(tuple((across.at(x), up.at(y)) for x, y in line.places), colour, 1.8))
        if len(line.places) == 1:
            marks.append(Dot((across.at(line.places[0][0]), up.at(line.places[0][1])), colour, line.name, 3))
    return Chart(name, title, WIDTH, bottom + 40, tuple(marks))


def points_in_plane(
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    points: Sequence[tuple[float, float, str]],
    own: frozenset[int] | set[int],
    front: Sequence[Place] = (),
) -> Chart:
    """Points with what each is; those at the places `own` stand out, and the `front` is a line of steps."""
    top, bottom = 24, 214
    across = axis(x_label, [x for x, _, _ in points], (46, WIDTH - EDGE))
    up = axis("", [y for _, y, _ in points], (bottom, top))
    marks: list[Mark] = [
        *_grid(across, top, bottom),
        *_rungs(up, across),
        Words((0, 12), y_label, "start", "muted"),
    ]
    if len(front) > 1:
        marks.append(Path(tuple((across.at(x), up.at(y)) for x, y in steps(front)), "third", 1.8))
    order = sorted(range(len(points)), key=lambda place: place in own)
    for place in order:
        x, y, hint = points[place]
        marks.append(Dot((across.at(x), up.at(y)), "own" if place in own else "other", hint))
    return Chart(name, title, WIDTH, bottom + 40, tuple(marks))


def steps(front: Sequence[Place]) -> list[Place]:
    """What a front reaches: the score of a point holds until the next dearer one."""
    found = [front[0]]
    for x, y in front[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return found


def shares_over_time(
    name: str,
    title: str,
    label: str,
    groups: Sequence[tuple[str, Sequence[tuple[str, Sequence[float | None]]]]],
) -> Chart:
    """Options in groups, each with its name and its shares, 0 to 1, over time; None, which is left out, where there was
    nothing to choose. A group of one is named in its row."""
    named = [(group, rows if len(rows) > 1 else [(group, rows[0][1])]) for group, rows in groups]
    height, left = 14, names_width([option for _, rows in named for option, _ in rows])
    columns = max(len(shares) for _, rows in groups for _, shares in rows)
    width = (WIDTH - EDGE - left) / columns
    words: list[Mark] = []
    by_level: dict[int, list[tuple[float, float, float, float]]] = {}
    y = 0.0
    for group, rows in named:
        if len(rows) > 1:
            words.append(Words((0, y + 12), clipped(group, WIDTH), "start", "muted", 11, group))
            y += height + 2
        for option, shares in rows:
            known = [share for share in shares if share is not None]
            hint = f"{group}: {option}, from {known[0]:.2f} to {known[-1]:.2f}"
            words.append(Words((left - 6, y + 11), clipped(option, left), "end", size=11, hint=hint))
            for column, share in enumerate(shares):
                if share is not None:
                    box = (left + column * width, y, width, height - 1)
                    by_level.setdefault(round(share * LEVELS), []).append(box)
            y += height
        y += 4 if len(rows) > 1 else 0
    shades = [
        Boxes(tuple(boxes), "other", level / LEVELS) for level, boxes in sorted(by_level.items()) if level
    ]
    below = Words((WIDTH / 2, y + 14), label, colour="muted")
    return Chart(name, title, WIDTH, y + 20, (*shades, *words, below))


def bars(name: str, title: str, rows: Sequence[tuple[str, float, str]]) -> Chart:
    """A bar a row from zero, with a name and with words about its length."""
    longest = max(value for _, value, _ in rows) or 1.0
    left = names_width([row for row, _, _ in rows])
    room = WIDTH - left - LETTER * max(len(words) for _, _, words in rows) - 10
    marks: list[Mark] = []
    for number, (row, value, words) in enumerate(rows):
        y = 4 + (number + 0.5) * ROW
        length = max(room * value / longest, 1.0)
        marks += [_name(row, left, y), Boxes(((left, y - 7, length, 14),), "other", hint=f"{row}: {words}")]
        marks.append(Words((left + length + 6, y + 4), words, "start", "muted"))
    return Chart(name, title, WIDTH, 8 + ROW * len(rows), tuple(marks))


# ---- pieces ------------------------------------------------------------------------------------------------------------


def axis(label: str, values: Sequence[float], span: tuple[float, float], scores: bool = False) -> Axis:
    """An axis with room for all values. Raises `DataError` for values that are too large to be drawn, or are none."""
    for value in values:
        if not abs(value) <= LARGEST:
            raise DataError(f"{label or 'a score'}: {value} cannot be drawn")
    return pictures.axis(label, values, span, scores=scores)


def clipped(text: str, width: float) -> str:
    """The beginning that fits into a width."""
    most = int(width / LETTER)
    return text if len(text) <= most else text[: most - 1] + "…"


def compact(number: str) -> str:
    """A number of an axis with k, M or G for thousands, millions and thousands of millions."""
    size = abs(float(number))
    for letter, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= max(unit, 1e4):
            return f"{float(number) / unit:g}{letter}"
    return number


def names_width(names: Sequence[str]) -> float:
    """Of the column at the left that has the names of rows, as wide as the longest one where there is room for it."""
    return min(max(LETTER * max(map(len, names), default=0) + 12, NARROWEST), WIDEST)


def _name(text: str, left: float, y: float) -> Words:
    return Words((left - 10, y + 4), clipped(text, left - 10), "end", hint=text)


def swarm(points: Sequence[tuple[float, str]], y: float, colour: Colour) -> list[Mark]:
    """Dots of a row, those that would lie on another one moved up or down."""
    marks: list[Mark] = []
    taken: dict[int, int] = {}
    for x, hint in points:
        column = round(x / 5)
        count = taken[column] = taken.get(column, -1) + 1
        offset = min(count // 2 + count % 2, 2) * (4 if count % 2 else -4)
        marks.append(Dot((x, y + offset), colour, hint))
    return marks


def _grid(across: Axis, top: float, bottom: float) -> list[Mark]:
    """The lines of a horizontal axis, its name, and as many of its numbers as there is room for."""
    numbers = [(x, compact(text)) for x, text in across.numbers()]
    widest = LETTER * max(len(text) for _, text in numbers) + 8
    room = abs(numbers[-1][0] - numbers[0][0]) / max(1, len(numbers) - 1)
    every = max(1, -(-int(widest) // max(1, int(room))))
    middle = (
        WIDTH / 2 if len(across.label) * LETTER > across.span[1] - across.span[0] else sum(across.span) / 2
    )
    marks: list[Mark] = [Words((middle, bottom + 34), across.label, colour="muted")]
    for number, (x, text) in enumerate(numbers):
        marks.append(Path(((x, top), (x, bottom)), "grid"))
        if number % every == 0:
            marks.append(Words((x, bottom + 16), text, colour="muted"))
    return marks


def _rungs(up: Axis, across: Axis) -> list[Mark]:
    """The lines of a vertical axis, and its numbers."""
    marks: list[Mark] = []
    for y, text in up.numbers():
        marks.append(Path(((across.span[0], y), (across.span[1], y)), "grid"))
        marks.append(Words((across.span[0] - 6, y + 4), compact(text), "end", "muted", size=11))
    return marks
