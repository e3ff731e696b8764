"""Drawings of architectures: as text for a terminal, SVG or PNG.

Any `Graph` can be drawn. `enas.report.layout` finds the places of nodes, `enas.report.text` writes them as text, `to_dot` in
Graphviz's language. A picture of a chain, in which every node reads the one before it, is a column of boxes. If other nodes
read a box too, a line runs down at its right, with branches to them. Graphviz places the nodes of any other graph, in rows
by depth.
"""

import contextlib
import html
import itertools
import math
import os
from collections.abc import Iterator
from typing import Literal, TextIO

from rich.console import Console

from enas.architecture import Graph, GraphNode
from enas.errors import EnasError
from enas.report.layout import Layout, colours, layout, parts
from enas.report.text import to_text
from enas.runtime.files import write_atomic
from enas.runtime.streams import can_show

_PITCH = 38
"""From one node of a chain to the next, in points."""
_RADIUS = 7
"""Of the corners of its lines."""
_FONT = 'fontname="Helvetica,Arial,sans-serif"'
_INK = "#222b36"
_ARROW = "#6b7684"
_PALE_ARROW = "#b4bcc6"
"""Of arrows into an output: there are many, and all end there."""
_GROUND = 'style="rounded,filled", color="#eef1f4", fillcolor="#f6f8fa", fontcolor="#5b6673"'


def text_for(graph: Graph, stream: TextIO | None = None) -> str:
    """The drawing as text that `stream` (standard output) can show.

    It has colours only on a terminal that has them, and never with NO_COLOR; it is in ASCII where the encoding lacks
    line-drawing characters.
    """
    console = Console(file=stream)
    colour = console.color_system in ("standard", "256", "truecolor") and not console.no_color
    text = to_text(graph, colour=colour)
    return text if can_show(text, stream) else to_text(graph, colour=colour, unicode=False)


def to_dot(graph: Graph) -> str:
    """The drawing in Graphviz's language: for `dot`, or for `nop2` if it is a chain, whose nodes and arrows have places.

    Raises `EnasError` as `layout`.
    """
    plan = layout(graph)
    colour = {kind: picture for kind, (picture, _) in colours(graph).items()}
    body = _chain(plan, colour) if plan.chain else _rows(graph, plan, colour)
    lines = [
        "digraph {",
        f"  graph [label=<<b>{html.escape(plan.title)}</b><br/> >, labelloc=t, {_FONT}, fontsize=15]",
        f'  graph [fontcolor="{_INK}", bgcolor="#ffffff", pad=0.25, nodesep=0.28, ranksep=0.36]',
        f'  node [shape=box, style="rounded,filled", height=0.36, margin="0.16,0.06", {_FONT}, fontsize=12]',
        "  node [penwidth=1.4]",
        f'  edge [penwidth=1.2, arrowsize=0.65, color="{_ARROW}"]',
        *("  " + line for line in body),
    ]
    return "\n".join([*lines, "}", ""])


def _rows(graph: Graph, plan: Layout, colour: dict[str, str]) -> list[str]:
    """Nodes in rows by depth; if no arrow joins the groups, each has a ground of its own."""
    lines: list[str] = []
    grounds = parts(graph)
    if len(grounds) > 1:
        lines.append("graph [pack=14, packmode=array_i1]")  # one below the other, in this order
    for number, part in enumerate(grounds):
        if len(grounds) > 1:
            lines += [
                f"subgraph cluster_{number} {{",
                f"graph [label={quoted(part.title)}, {_GROUND}, fontsize=13, margin=14]",
            ]
        lines += [f"{quoted(node.key)} [{_box(node, colour)}]" for node in part.nodes]
        for depth in sorted({plan.places[node.key].depth for node in part.nodes}):
            row = (quoted(node.key) for node in part.nodes if plan.places[node.key].depth == depth)
            lines.append(f"{{rank=same; {'; '.join(row)}}}")
        if len(grounds) > 1:
            lines.append("}")
    for key, place in plan.places.items():
        for source in place.reads:
            one_step = place.depth - plan.places[source].depth == 1
            style = f"weight={4 if one_step else 1}"  # the heavier, the straighter
            if place.node.role == "output":
                style = f'color="{_PALE_ARROW}"'
            lines.append(f"{quoted(source)} -> {quoted(key)} [{style}]")
    return lines


def _chain(plan: Layout, colour: dict[str, str]) -> list[str]:
    """Nodes in a column; at their right the lines from those that nodes further down read. Lengths are in points.

    The line of a node runs left of the lines of nodes above it, so that it crosses none where it leaves its box.
    """
    right = 14 + 3.6 * max(len(place.node.label) for place in plan.chain)
    line_x = {key: right + 26 + 13 * number for number, key in enumerate(reversed(plan.sources))}
    edge = max(line_x.values(), default=right) + 16
    left = right + 14 + 5.8 * max(len(place.node.group) for place in plan.chain)

    lines: list[str] = []
    y: dict[str, float] = {}
    bottom = 0.0
    for number, (name, nodes) in enumerate(
        itertools.groupby((place.node for place in plan.chain), key=lambda node: node.group)
    ):
        top = bottom
        bottom -= 6
        for node in nodes:
            y[node.key] = bottom - _PITCH / 2
            bottom -= _PITCH
        bottom -= 6
        if name:
            middle = f"{(edge - left) / 2:.1f},{(top + bottom) / 2:.1f}"
            size = f"width={(edge + left) / 72:.3f}, height={(top - bottom) / 72:.3f}"
            caption = quoted(name).removesuffix('"') + r'\l"'  # \l: at the left
            look = f"class=ground, labelloc=t, fontsize=12, {_GROUND}"
            lines.append(f'"ground {number}" [label={caption}, pos="{middle}", {size}, {look}]')
        bottom -= 7

    for place in plan.chain:
        where = f'pos="0,{y[place.node.key]:.1f}", width={2 * right / 72:.3f}'
        lines.append(f"{quoted(place.node.key)} [{_box(place.node, colour)}, {where}]")
    for before, place in itertools.pairwise(plan.chain):
        start, end = y[before.node.key] - 13, y[place.node.key] + 13
        lines.append(_arrow(before.node.key, place.node.key, [(0, start), (0, end)], _ARROW))
    for key, others in plan.skips.items():
        for source in others:
            kind, x = plan.places[source].node.kind, line_x[source]
            leave, enter = y[source] - 5, y[key] + 5
            corners = [(right, leave), (x, leave), (x, enter), (right, enter)]
            lines.append(_arrow(source, key, corners, colour.get(kind, _ARROW)))
    return lines


def _arrow(source: str, target: str, corners: list[tuple[float, float]], colour: str) -> str:
    """An arrow along these corners, rounded by Bézier curves."""
    *before, (tip_x, tip_y) = corners
    back_x, back_y = _towards((tip_x, tip_y), before[-1], 6)
    corners = [*before, (back_x, back_y)]
    curve = [corners[0]]
    for last, corner, following in zip(corners, corners[1:], corners[2:], strict=False):
        begin, end = _towards(corner, last, _RADIUS), _towards(corner, following, _RADIUS)
        curve += [curve[-1], begin, begin, corner, corner, end]
    curve += [curve[-1], corners[-1], corners[-1]]
    spline = " ".join(f"{x:.1f},{y:.1f}" for x, y in curve)
    return (
        f'{quoted(source)} -> {quoted(target)} [pos="e,{tip_x:.1f},{tip_y:.1f} {spline}", color="{colour}"]'
    )


def _towards(start: tuple[float, float], end: tuple[float, float], length: float) -> tuple[float, float]:
    """The point at this distance from the start on the way to the end."""
    share = length / math.dist(start, end)
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def write_svg(graph: Graph, path: str | os.PathLike[str], *, own: bool = False) -> None:
    """Draw the architecture into an SVG file, a run's `own` or not; see `atomic_file`.

    Raises `EnasError` if pygraphviz is missing, and as `layout` and `write_atomic`.
    """
    write_atomic(path, picture_of(graph, "svg"), own=own)


def write_png(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Draw the architecture into a PNG file, at twice a screen's resolution; otherwise as `write_svg`."""
    write_atomic(path, picture_of(graph, "png"))


def _box(node: GraphNode, colour: dict[str, str]) -> str:
    """The look of a node: its label, and the colours of its box."""
    if node.role == "output":
        fill, border, text = _INK, _INK, "#ffffff"
    elif node.role == "input" or not node.kind:
        fill, border, text = "#ffffff", "#7a8594", _INK
    else:
        fill, border, text = _tint(colour[node.kind]), colour[node.kind], _INK
    style = ', style="rounded,filled,dashed"' if node.role == "input" else ""
    return f'label={quoted(node.label)}, fillcolor="{fill}", color="{border}", fontcolor="{text}"{style}'


def _tint(colour: str) -> str:
    """The colour `#rrggbb`, three quarters of the way to white, so that dark text on it reads well."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - channel) / 4):02x}" for channel in channels)


def quoted(text: str) -> str:
    r"""The text as a string of Graphviz's language, in which \ begins a command."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def picture_of(graph: Graph, format: Literal["svg", "png"]) -> bytes:
    """The drawing as the bytes of a picture file, a PNG at twice a screen's resolution. Raises as `write_svg`."""
    dot = to_dot(graph)
    if format == "png":
        dot = dot.replace("digraph {", "digraph {\n  graph [dpi=192]", 1)
    return rendered(dot, format, "nop2" if layout(graph).chain else "dot")


def rendered(dot: str, format: Literal["svg", "png"], program: Literal["dot", "nop2"]) -> bytes:
    """A graph in Graphviz's language as the bytes of a picture file. Raises `EnasError` if pygraphviz is missing."""
    try:
        import pygraphviz
    except ImportError as error:
        raise EnasError(
            f"an SVG or PNG drawing needs pygraphviz, which cannot be imported ({error}). "
            "Install it with: python -m pip install 'pygraphviz>=2.0'. The drawing as text works without it."
        ) from error
    with _silent_libraries():
        picture: bytes = pygraphviz.AGraph(string=dot).draw(format=format, prog=program)
    return picture


@contextlib.contextmanager
def _silent_libraries() -> Iterator[None]:
    """Drop what C libraries write to standard error: fontconfig warns of settings newer than itself."""
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
