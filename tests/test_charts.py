"""Charts: every mark stands where its number says, whatever its name is called."""

import io
import math
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest
from PIL import Image

from enas.report.charts import (
    Line,
    Row,
    Span,
    bars,
    compact,
    dots_in_rows,
    intervals,
    lines,
    points_in_plane,
    shares_over_time,
    steps,
)
from enas.report.marks import LIGHT, MARGIN, TITLE, Boxes, Chart, Dot, Path, Words, as_file, as_png, in_page
from enas.report.page_parts import thinned

ODD = """<script>alert("1")</script> 'a' & b\nc\0 ]]> \ud800"""
SVG = "{http://www.w3.org/2000/svg}"


def charts(name: str = "a name") -> list[Chart]:
    return [
        dots_in_rows("dots", name, name, [Row(name, [(1.0, name), (3.0, name)], 2.0, own=True)]),
        intervals("spans", name, name, [Span(name, 0.5, 0.2, 0.9, name, name)], 0.5),
        lines(
            "lines",
            name,
            name,
            [Line(name, [(0.0, 1.0), (5.0, 3.0)], "own"), Line("", [(1.0, 2.0)], "other")],
        ),
        points_in_plane(
            "plane", name, name, name, [(1.0, 2.0, name), (3.0, 1.0, name)], {0}, [(1.0, 1.0), (3.0, 2.0)]
        ),
        shares_over_time("shares", name, name, [(name, [(name, [0.0, 1.0]), ("b", [1.0, 0.0])])]),
        bars("bars", name, [(name, 3.0, name), ("b", 0.0, "none")]),
    ]


def drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(as_file(chart))


def words(chart: Chart) -> dict[str, tuple[float, float]]:
    return {mark.text: mark.place for mark in chart.marks if isinstance(mark, Words)}


# ---- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "scale"),
    [([-2.0, 0.0, 7.5, 20.0], float), ([2.0, 2.5, 3.0], float), ([80.0, 95.0, 900.0], math.log)],
)
def test_dots_stand_between_the_numbers_of_the_axis_as_their_values_do(
    values: list[float], scale: Callable[[float], float]
) -> None:
    chart = dots_in_rows("x", "", "axis", [Row("a", [(value, "") for value in values])])
    said = {float(text): x for text, (x, _) in words(chart).items() if re.fullmatch(r"-?[\d.]+", text)}
    (low, low_x), *_, (high, high_x) = ((scale(value), x) for value, x in sorted(said.items()))
    for value, dot in zip(values, (mark for mark in chart.marks if isinstance(mark, Dot)), strict=True):
        assert dot.place[0] == pytest.approx(
            low_x + (scale(value) - low) / (high - low) * (high_x - low_x), abs=0.11
        )


def test_dots_of_one_value_can_be_told_apart_and_stay_in_their_row() -> None:
    chart = dots_in_rows("x", "", "", [Row("a", [(1.0, "")] * 5), Row("b", [(1.0, ""), (2.0, "")])])
    places = [mark.place for mark in chart.marks if isinstance(mark, Dot)]
    assert len(set(places)) == 7
    assert max(y for _, y in places[:5]) < min(y for _, y in places[5:])


def test_an_interval_is_a_line_from_its_low_to_its_high_end_and_the_neutral_value_is_dashed() -> None:
    rows = [Span("a", 0.5, 0.0, 1.0), Span("b", 0.75, 0.5, 1.0)]
    chart = intervals("x", "", "", rows, 0.5)
    solid = [m.places for m in chart.marks if isinstance(m, Path) and m.colour in ("own", "other")]
    dashed = next(m.places for m in chart.marks if isinstance(m, Path) and m.dashed)
    (a_low, a_high), (b_low, b_high) = (((p[0][0]), (p[1][0])) for p in solid)
    assert b_low == pytest.approx((a_low + a_high) / 2, abs=0.11)
    assert b_high == a_high
    assert dashed[0][0] == b_low


def test_what_an_interval_leaves_open_does_not_stand_out() -> None:
    rows = [Span("open", 0.6, 0.4, 0.8), Span("shown", 0.7, 0.6, 0.8)]
    dots = [mark.colour for mark in intervals("x", "", "", rows, 0.5).marks if isinstance(mark, Dot)]
    assert dots == ["other", "own"]


def test_the_ink_of_a_row_over_time_is_its_share() -> None:
    shares = [0.0, 0.25, 1.0, 0.5]
    chart = shares_over_time("x", "", "", [("group", [("a", shares), ("b", [1 - s for s in shares])])])
    ink = {}
    for mark in chart.marks:
        if isinstance(mark, Boxes):
            for _, y, width, height in mark.places:
                ink[y] = ink.get(y, 0.0) + mark.opacity * width * height
                cell = width * height
    assert [ink[y] / cell for y in sorted(ink)] == pytest.approx([sum(shares), 4 - sum(shares)])


def test_bars_are_as_long_as_their_values() -> None:
    chart = bars("x", "", [("a", 30.0, "30 s"), ("b", 10.0, "10 s")])
    (a,), (b,) = (mark.places for mark in chart.marks if isinstance(mark, Boxes))
    assert a[2] == pytest.approx(3 * b[2])
    assert a[0] == b[0]


def test_a_front_is_drawn_as_what_is_reached_up_to_a_cost() -> None:
    assert steps([(1.0, 5.0), (2.0, 7.0), (4.0, 8.0)]) == [
        (1.0, 5.0),
        (2.0, 5.0),
        (2.0, 7.0),
        (4.0, 7.0),
        (4.0, 8.0),
    ]


@pytest.mark.parametrize(
    ("number", "said"),
    [("5000", "5000"), ("20000", "20k"), ("1.5e+07", "15M"), ("-2e+09", "-2G"), ("0.5", "0.5")],
)
def test_large_numbers_of_an_axis_are_short(number: str, said: str) -> None:
    assert compact(number) == said


def test_thinned_rows_keep_their_ends_and_their_order() -> None:
    for count in (0, 1, 2, 7, 10_000):
        row = list(range(count))
        kept = thinned(row, 7)
        assert len(kept) == min(count, 7)
        assert kept == sorted(set(kept))
        assert kept[:1] + kept[-1:] == row[:1] + row[-1:]
    gaps = [b - a for a, b in zip(thinned(range(1000), 11), thinned(range(1000), 11)[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1


# ---- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", charts(ODD), ids=lambda chart: chart.name)
def test_names_are_words_and_never_markup(chart: Chart) -> None:
    root = drawn(chart)
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds <= {"svg", "circle", "path", "text", "title"}
    texts = "".join(root.itertext())
    assert 'alert("1")' in texts
    page = in_page(chart)
    assert "<script" not in page
    ET.fromstring(page)


@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.name)
def test_a_picture_is_twice_as_large_in_pixels_as_on_paper(chart: Chart) -> None:
    picture = Image.open(io.BytesIO(as_png(chart))).convert("RGB")
    wanted = 2 * (chart.width + 2 * MARGIN), 2 * (chart.height + TITLE + MARGIN)
    assert picture.size == pytest.approx(wanted, abs=3)
    assert picture.getpixel((3, 3)) == (255, 255, 255)


def test_a_picture_has_its_marks_where_the_drawing_has_them() -> None:
    box = Boxes(((10, 20, 30, 40),), "own")
    chart = Chart("x", 'a "title" \\ <b>', 100, 80, (box, Path(((60, 10), (60, 70)), "other", 3)))
    picture = Image.open(io.BytesIO(as_png(chart))).convert("RGB")

    def at(x: float, y: float) -> str:
        red, green, blue = picture.getpixel((round(2 * (x + MARGIN)), round(2 * (y + TITLE))))
        return f"#{red:02x}{green:02x}{blue:02x}"

    assert [at(25, 40), at(12, 22), at(38, 58)] == [LIGHT["own"]] * 3
    assert [at(8, 40), at(42, 40), at(25, 18), at(25, 62)] == [LIGHT["paper"]] * 4
    assert at(60, 40) == LIGHT["other"]


def test_a_picture_of_many_marks_can_be_painted() -> None:
    rng = random.Random(0)
    dots = tuple(Dot((rng.uniform(0, 300), rng.uniform(0, 200)), "other", ODD) for _ in range(3000))
    assert Image.open(io.BytesIO(as_png(Chart("x", ODD, 300, 200, dots)))).size[0] > 600
