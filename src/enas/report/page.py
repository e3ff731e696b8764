"""One page of what runs came to: a file that fetches nothing, for a screen, a telephone and paper.

Several runs are set side by side. What a run does not have is left out. All numbers that are drawn are in the page as JSON.
"""

from __future__ import annotations

import base64
import datetime
import math
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from enas import __version__
from enas.architecture import Graph
from enas.errors import EnasError
from enas.report.charts import Row, dots_in_rows
from enas.report.drawing import picture_of
from enas.report.marks import DARK, LIGHT, Chart, as_file, as_png, in_page
from enas.report.page_numbers import Numbers, numbers_of
from enas.report.page_parts import Section, Table
from enas.report.page_sections import PARTS
from enas.report.summary import number
from enas.report.text import to_text
from enas.runtime.files import write_atomic
from enas.runtime.progress import duration, say
from enas.scores import decimals
from enas.stages import Run

REPORT = "report.html"
POINTS = 240
"""Points of a chart at most, of all runs together: the rest of a long row is left out evenly."""
FEWEST = 40
"""Points of a chart that even one of many runs may have."""
PAUSE = 5.0
"""Seconds between two pages of a search that is going on."""


def write_page(runs: Sequence[Run], path: Path) -> bool:
    """Write the page of these runs; returns whether all of them are finished.

    Raises `RunFolderError` for a file of a run that is damaged, and if the page cannot be written.
    """
    found = [numbers_of(run) for run in runs]
    own = len(runs) == 1 and path == runs[0].folder / REPORT
    write_atomic(path, page(found).encode(errors="backslashreplace"), own=own)
    return all(one.finished for one in found)


def write_own_page(run: Run) -> None:
    """Write the page of a run into its folder, and say where; without one, say why. No run fails for its page."""
    path = run.folder / REPORT
    try:
        write_page([run], path)
    except EnasError as error:
        say(f"no {REPORT}: {error}")
    else:
        say(f"report: {path}")


def watch(runs: Sequence[Run], path: Path, pause: float = PAUSE) -> None:
    """Write the page again and again until all runs are finished."""
    say(f"{path} is written every {duration(pause)} until the runs are finished; Ctrl-C ends that")
    while not write_page(runs, path):
        time.sleep(pause)


def write_pictures(runs: Sequence[Run], folder: Path) -> int:
    """Write the charts of the page as SVG and PNG files, and the drawings of the architectures; returns how many charts.

    Of several runs, the names begin with their numbers, from 1. Raises `EnasError` if pygraphviz is missing.
    """
    found = [numbers_of(run) for run in runs]
    pictures = [("", chart) for part in [side_by_side(found)] if part is not None for chart in part.charts]
    for place, one in enumerate(found, start=1):
        before = f"{place}-" if len(found) > 1 else ""
        pictures += [
            (before, chart) for _, section in sections(one, share(found)) for chart in section.charts
        ]
        if one.architecture is not None:
            for kind in ("svg", "png"):
                write_atomic(
                    folder / f"{before}architecture.{kind}", picture_of(one.architecture.graph(), kind)
                )
    for before, chart in pictures:
        write_atomic(folder / f"{before}{chart.name}.svg", as_file(chart))
        write_atomic(folder / f"{before}{chart.name}.png", as_png(chart))
    return len(pictures)


# ---- the page ----------------------------------------------------------------------------------------------------------


def page(runs: Sequence[Numbers]) -> str:
    """The page as HTML."""
    parts = [dict(sections(run, share(runs))) for run in runs]
    together = side_by_side(runs)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters |= {"chart": in_page, "drawing": drawn}
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    return template.render(
        title=", ".join(run.name for run in runs),
        runs=runs,
        live=not all(run.finished for run in runs),
        pause=round(PAUSE),
        together=together,
        parts=[(key, title, [part.get(key) for part in parts]) for key, (title, _) in PARTS.items()],
        colours={"light": LIGHT, "dark": DARK},
        version=__version__,
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        numbers=finite(
            [
                {"run": run.name, **{key: part.numbers for key, part in found.items() if part.numbers}}
                for run, found in zip(runs, parts, strict=True)
            ]
        ),
    )


def share(runs: Sequence[Numbers]) -> int:
    """Points that a chart of one of the runs may have."""
    return max(FEWEST, POINTS // len(runs))


def sections(run: Numbers, most: int) -> list[tuple[str, Section]]:
    """The parts that a run has something for, by their keys, with at most so many points a chart."""
    made = ((key, part(run, most)) for key, (_, part) in PARTS.items())
    return [(key, section) for key, section in made if section is not None]


def side_by_side(runs: Sequence[Numbers]) -> Section | None:
    """Several runs in one table, and in one chart if they are compared by one metric."""
    if len(runs) < 2:
        return None
    rows, dots, labels = [], [], set()
    for run in runs:
        networks = [
            (one, scored) for one in run.of_part("retrain") if (scored := one.score(run.metric)) is not None
        ]
        found = next(((one, scored) for one, scored in networks if one.role == "found"), None)
        points = [(scored[1], f"{one.role} {one.id}: {scored[1]:.4g}") for one, scored in networks]
        labels |= {scored[0] for _, scored in networks}
        if points:
            dots.append(Row(run.name, points, None if found is None else found[1][1]))
        rows.append(
            (
                run.name,
                "-" if run.architecture is None else str(run.architecture),
                "-" if found is None else f"{found[1][0]} {number(found[1][1], decimals([found[1][1]]))}",
                "-" if found is None else f"{found[0].cost('parameters') or 0:,}",
                duration(sum(run.spent.values())),
            )
        )
    charts: tuple[Chart, ...] = ()
    if dots and len(labels) == 1:
        title = "Networks of each run; the bar is the found one"
        charts = (dots_in_rows("runs", title, f"{labels.pop()}, {runs[0].order}", dots),)
    head = ("run", "architecture", "found", "parameters", "time")
    said = "Runs side by side show no difference by themselves; 'enas gate A B' says what pairs of seeds do."
    return Section((said,), charts, (Table(head, tuple(rows)),))


def drawn(graph: Graph) -> dict[str, str]:
    """A drawing for the page: as a picture inside it, or as text where there is no Graphviz."""
    text = to_text(graph)
    try:
        data = base64.b64encode(picture_of(graph, "svg")).decode()
    except EnasError:
        return {"text": text, "picture": ""}
    return {"text": text, "picture": f"data:image/svg+xml;base64,{data}"}


def finite(value: Any) -> Any:
    """Plain values with null for numbers that JSON cannot say."""
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
