"""Drawings of architectures: text for a terminal, SVG, PNG.

Any `Graph` can be drawn. `layout` works out what stands where, as plain numbers; `to_text` and `to_dot` only
write that down. The text is a tree with one line a node, each below the deepest node that it reads and one
step further right; what else it reads is named beside it, and a rail collects what goes into the output:

    x[t]   ─┐
    h[t-1] ─┴─ 1 tanh
               ├─ 2 relu ────┐
               └─ 3 tanh     │
                  └─ 4 relu ─┴─▶ mean → h[t]
"""

import contextlib
import graphlib
import html
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TextIO

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from enas.architecture import Graph, GraphNode
from enas.errors import EnasError
from enas.runtime.files import write_atomic

WIDTH = 80
"""Columns that a text drawing keeps to, unless the architecture is so deep that indentation needs more."""

_COLOURS = {
    "tanh": ("#56B4E9", "cyan"),
    "relu": ("#E69F00", "yellow"),
    "sigmoid": ("#009E73", "green"),
    "identity": ("#CC79A7", "magenta"),
}
"""Function: its colour in a picture and in a terminal. The palette is Okabe and Ito's, for every eyesight."""

_MORE_COLOURS = (
    ("#0072B2", "bright_blue"),
    ("#D55E00", "red"),
    ("#F0E442", "bright_yellow"),
    ("#999999", "white"),
)
"""For functions and operations without a colour of their own, in the order in which a drawing meets them."""

_TO_ASCII = str.maketrans("─│├└┐┤┴▶", "-|+`+++>")


# ----------------------------------------------------------------------------------------------------- layout


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands. `parent`, the node that it is drawn below, is the deepest one that it reads."""

    node: GraphNode
    depth: int
    """Arrows on the longest way to it from a node that reads nothing."""
    reads: tuple[str, ...]
    """Keys of all nodes that it reads, in the graph's order."""
    parent: str | None
    children: tuple[str, ...]
    """Keys of the nodes drawn below it, in the graph's order."""


@dataclass(frozen=True, slots=True)
class Layout:
    """All that a drawing shows: every node is in `places`, every arrow in the `reads` of its target."""

    title: str
    places: dict[str, Place]
    """By key, in the graph's order."""
    output: str | None
    """The node that the rail of a text drawing leads to: the only output, if no other node reads it."""


def layout(graph: Graph) -> Layout:
    """Place every node.

    Raises:
        EnasError: an arrow leads nowhere, two nodes have one key, or arrows form a circle.
    """
    order = {node.key: number for number, node in enumerate(graph.nodes)}
    if len(order) < len(graph.nodes):
        twice = [key for key, count in Counter(node.key for node in graph.nodes).items() if count > 1]
        raise EnasError(f"cannot draw {graph.title!r}: several nodes have the key {', '.join(twice)}")
    reads: dict[str, list[str]] = {key: [] for key in order}
    for source, target in sorted(dict.fromkeys(graph.edges), key=lambda edge: order.get(edge[0], -1)):
        if source not in order or target not in order:
            raise EnasError(
                f"cannot draw {graph.title!r}: the arrow {source} -> {target} has an end that is no node"
            )
        reads[target].append(source)

    depth: dict[str, int] = {}
    try:
        for key in graphlib.TopologicalSorter(reads).static_order():
            depth[key] = 1 + max((depth[source] for source in reads[key]), default=-1)
    except graphlib.CycleError as error:
        raise EnasError(
            f"cannot draw {graph.title!r}: arrows form a circle, {' -> '.join(error.args[1])}"
        ) from None

    sinks = order.keys() - {source for source, _ in graph.edges}
    outputs = [node.key for node in graph.nodes if node.role == "output"]
    output = outputs[0] if len(outputs) == 1 and outputs[0] in sinks and reads[outputs[0]] else None

    parent = {
        key: max(reads[key], key=lambda source: (depth[source], order[source]), default=None) for key in order
    }
    places = {
        node.key: Place(
            node,
            depth[node.key],
            tuple(reads[node.key]),
            parent[node.key],
            tuple(key for key in order if parent[key] == node.key and key != output),
        )
        for node in graph.nodes
    }
    return Layout(graph.title, places, output)


# ------------------------------------------------------------------------------------------------------- text


@dataclass(slots=True)
class _Line:
    """One line of a text drawing: pieces, each with its colour or emphasis."""

    pieces: list[tuple[str, str]]
    key: str | None = None
    """The node that the line shows; none for a line that goes on with the one above."""

    def width(self) -> int:
        return sum(cell_len(text) for text, _ in self.pieces)

    def render(self, colour: bool) -> str:
        if not colour:
            return "".join(text for text, _ in self.pieces).rstrip()
        system = ColorSystem.STANDARD
        return "".join(Style.parse(style).render(text, color_system=system) for text, style in self.pieces)


def text_for(graph: Graph, stream: TextIO | None = None) -> str:
    """The drawing as text, with no more than `stream` (standard output) can show.

    Colours only on a terminal that has them, and never with NO_COLOR; ASCII where the encoding has no lines.
    """
    stream = sys.stdout if stream is None else stream
    console = Console(file=stream)
    colour = console.color_system in ("standard", "256", "truecolor") and not console.no_color
    text = to_text(graph, colour=colour)
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return to_text(graph, colour=colour, unicode=False)
    return text


def to_text(graph: Graph, *, colour: bool = False, unicode: bool = True) -> str:
    """Draw the architecture as text: its title, then one line a node. Raises `EnasError` as `layout` does.

    Args:
        graph: what to draw.
        colour: with the escape sequences of a terminal; every function has its colour.
        unicode: with line-drawing characters; otherwise in ASCII alone.
    """
    plan = layout(graph if unicode else _in_ascii(graph))
    styles = {kind: f"bold {terminal}" for kind, (_, terminal) in _colours(graph).items()}
    lines: list[_Line] = []
    for step in (3, 2, 1):
        lines = _tree(plan, styles, step)
        _add_rail(lines, plan)
        if max((line.width() for line in lines), default=0) <= WIDTH:
            break
    text = "\n".join(
        [_Line([(plan.title, "bold")]).render(colour), "", *(line.render(colour) for line in lines)]
    )
    return text if unicode else text.translate(_TO_ASCII)


def _tree(plan: Layout, styles: dict[str, str], step: int) -> list[_Line]:
    """The drawing without its rail, every level of depth indented by `step` columns."""
    lines: list[_Line] = []
    joined = _joined_inputs(plan)
    names = _short_names(plan)

    def label(key: str) -> tuple[str, str]:
        node = plan.places[key].node
        return node.label, styles.get(node.kind, "bold")

    def grow(key: str, before: list[tuple[str, str]], below: str) -> None:
        """Draw a node behind the pieces `before`, and what hangs on it behind the text `below`."""
        place = plan.places[key]
        line = _Line([*before, label(key)], key)
        lines.append(line)
        others = [names[source] for source in place.reads if source != place.parent]
        if others and key not in joined:
            indent = line.width() + 2
            room = max(WIDTH - _rail_width(plan) - indent, 20)
            first, *more = textwrap.wrap("also reads " + ", ".join(others), room, break_long_words=False)
            line.pieces.append(("  " + first, "dim"))
            stem = below + ("│" if place.children else "")
            lines.extend(_Line([(stem + " " * (indent - cell_len(stem)) + words, "dim")]) for words in more)
        for child in place.children:
            last = child == place.children[-1]
            branch = ("└" if last else "├") + "─" * (step - 2) + " " * (step > 1)
            grow(child, [(below + branch, "dim")], below + (" " if last else "│") + " " * (step - 1))

    for reader, inputs in joined.items():
        width = max(cell_len(label(key)[0]) for key in inputs)
        for key, arm in zip(inputs, ["┐", *"┤" * (len(inputs) - 2), "┴─ "], strict=True):
            text, style = label(key)
            lines.append(_Line([(text, style), (" " * (width - cell_len(text)) + " ─" + arm, "dim")], key))
        grow(reader, lines.pop().pieces, " " * (width + 5))
    bracketed = {key for inputs in joined.values() for key in inputs}
    for key, place in plan.places.items():
        if not place.reads and key not in bracketed:
            grow(key, [], "")
    return lines


def _joined_inputs(plan: Layout) -> dict[str, tuple[str, ...]]:
    """Nodes that read several inputs, which nobody else reads, and nothing else: a bracket joins them."""
    readers = Counter(source for place in plan.places.values() for source in place.reads)
    return {
        key: place.reads
        for key, place in plan.places.items()
        if key != plan.output and len(place.reads) > 1 and place.depth == 1
        if all(readers[source] == 1 for source in place.reads)
    }


def _short_names(plan: Layout) -> dict[str, str]:
    """The first word of every label, where it tells one node; the whole label where it does not."""
    labels = {key: place.node.label for key, place in plan.places.items()}
    count = Counter(label.split(" ")[0] for label in labels.values())
    return {
        key: first if count[first := label.split(" ")[0]] == 1 else label for key, label in labels.items()
    }


def _rail_width(plan: Layout) -> int:
    """Columns that the rail takes beside the widest line."""
    return 0 if plan.output is None else len(" ─┴─▶ ") + cell_len(plan.places[plan.output].node.label)


def _add_rail(lines: list[_Line], plan: Layout) -> None:
    """Lead every node that goes into the output to a rail at the right, and the rail to the output."""
    if plan.output is None:
        return
    output = plan.places[plan.output]
    feeding = [number for number, line in enumerate(lines) if line.key in output.reads]
    first, last = feeding[0], feeding[-1]
    column = max(line.width() for line in lines[first : last + 1]) + 2
    for number, line in enumerate(lines[first : last + 1], start=first):
        gap = column - line.width()
        if number not in feeding:
            line.pieces.append((" " * gap + "│", "dim"))
        elif number < last:
            line.pieces.append((" " + "─" * (gap - 1) + ("┐" if number == first else "┤"), "dim"))
        else:
            line.pieces.append((" " + "─" * (gap - 1) + ("─" if first == last else "┴") + "─▶ ", "dim"))
            line.pieces.append((output.node.label, "bold"))


def _in_ascii(graph: Graph) -> Graph:
    """The graph with labels in ASCII: arrows and crosses spelled out, a question mark for anything else."""

    def plain(text: str) -> str:
        return text.replace("→", "->").replace("×", "x").encode("ascii", "replace").decode()

    nodes = tuple(replace(node, label=plain(node.label)) for node in graph.nodes)
    return Graph(plain(graph.title), nodes, graph.edges)


def _colours(graph: Graph) -> dict[str, tuple[str, str]]:
    """The colour of every function or operation in the graph: for a picture, and for a terminal."""
    kinds = dict.fromkeys(node.kind for node in graph.nodes if node.kind)
    more = [kind for kind in kinds if kind not in _COLOURS]
    return _COLOURS | {kind: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, kind in enumerate(more)}


# --------------------------------------------------------------------------------------------------- pictures


def to_dot(graph: Graph) -> str:
    """Describe the drawing in Graphviz's language. Raises `EnasError` as `layout` does."""
    plan = layout(graph)
    colours = {kind: picture for kind, (picture, _) in _colours(graph).items()}
    lines = [
        "digraph {",
        f"  graph [label=<<b>{html.escape(plan.title)}</b><br/> >, labelloc=t, {_FONT}, fontsize=15]",
        f'  graph [fontcolor="{_INK}", bgcolor="#ffffff", pad=0.25, nodesep=0.28, ranksep=0.36]',
        f'  node [shape=box, style="rounded,filled", height=0.36, margin="0.16,0.06", {_FONT}, fontsize=12]',
        "  node [penwidth=1.4]",
        f'  edge [penwidth=1.2, arrowsize=0.65, color="{_ARROW}"]',
    ]
    for key, place in plan.places.items():
        fill, border, text = _paint(place.node, colours)
        style = ', style="rounded,filled,dashed"' if place.node.role == "input" else ""
        lines.append(
            f"  {_quoted(key)} [label={_quoted(place.node.label)}, "
            f'fillcolor="{fill}", color="{border}", fontcolor="{text}"{style}]'
        )
    for key, place in plan.places.items():
        for source in place.reads:
            if place.node.role == "output":
                style = f'color="{_PALE_ARROW}"'
            else:
                one_step = place.depth - plan.places[source].depth == 1
                weight = 4 if one_step else 1  # the heavier, the straighter
                style = f"weight={weight}"
            lines.append(f"  {_quoted(source)} -> {_quoted(key)} [{style}]")
    for depth in sorted({place.depth for place in plan.places.values()}):
        layer = (_quoted(key) for key, place in plan.places.items() if place.depth == depth)
        lines.append(f"  {{rank=same; {'; '.join(layer)}}}")
    return "\n".join([*lines, "}", ""])


def write_svg(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Draw the architecture into an SVG file, written atomically.

    Raises:
        EnasError: pygraphviz is missing, or as `layout` and `write_atomic` say.
    """
    write_atomic(path, _picture(graph, "svg"))


def write_png(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Draw the architecture into a PNG file, written atomically, at twice a screen's resolution.

    Raises:
        EnasError: pygraphviz is missing, or as `layout` and `write_atomic` say.
    """
    write_atomic(path, _picture(graph, "png"))


_FONT = 'fontname="Helvetica,Arial,sans-serif"'
_INK = "#222b36"
_ARROW = "#6b7684"
_PALE_ARROW = "#b4bcc6"  # into an output: there are many, and where they end is plain


def _paint(node: GraphNode, colours: dict[str, str]) -> tuple[str, str, str]:
    """Fill, border and text of a node's box."""
    if node.role == "output":
        return _INK, _INK, "#ffffff"
    if node.role == "input" or not node.kind:
        return "#ffffff", "#7a8594", _INK
    return _tint(colours[node.kind]), colours[node.kind], _INK


def _tint(colour: str) -> str:
    """The colour `#rrggbb`, three quarters of the way to white, so that dark text on it reads well."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - channel) / 4):02x}" for channel in channels)


def _quoted(text: str) -> str:
    r"""The text as a string of Graphviz's language, in which \ begins a command."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _picture(graph: Graph, format: Literal["svg", "png"]) -> bytes:
    """The drawing as the bytes of a picture file."""
    try:
        import pygraphviz
    except ImportError as error:
        raise EnasError(
            f"an SVG or PNG drawing needs pygraphviz, which cannot be imported ({error}). "
            "Install it with: python -m pip install 'pygraphviz>=2.0'. The drawing as text works without it."
        ) from error
    dot = pygraphviz.AGraph(string=to_dot(graph))
    if format == "png":
        dot.graph_attr["dpi"] = "192"
    with _silent_libraries():
        picture: bytes = dot.draw(format=format, prog="dot")
    return picture


@contextlib.contextmanager
def _silent_libraries() -> Iterator[None]:
    """Drop what C libraries write to standard error: fontconfig complains of settings newer than itself."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
