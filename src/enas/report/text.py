"""Drawings of architectures as text, in one of three forms.

A chain, in which every node reads the one before it, has one line a node. The earlier nodes that it also reads are beside
it, each in its own column:

    0 stem     also reads
    1 conv3x3
      ── half size
    2 sep5x5   0
      ── quarter size
    3 conv5x5  · 1
    4 max3x3   0 1
      classifier

A graph of sums, such as a cell whose nodes add two operations, has one line a sum. A rail joins the nodes that go into the
output:

    0 older input
    1 newer input
    2 avg3x3(0)   + sep3x3(0) ─┐
    3 identity(1) + sep5x5(0) ─┴─▶ concat

Any other graph is a tree with one line a node, each below the deepest node that it reads and one step further right. Beside
it are the names of the other nodes that it reads:

    x[t]   ─┐
    h[t-1] ─┴─ 1 tanh
               ├─ 2 relu ────┐
               └─ 3 tanh     │
                  └─ 4 relu ─┴─▶ mean → h[t]

Groups of nodes that no arrow joins, such as two cells, are drawn one after the other.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.style import Style

from enas.architecture import Graph
from enas.report.layout import Layout, colours, layout, parts

WIDTH = 80
"""Most columns of a text drawing; very deep architectures need more."""
_TO_ASCII = str.maketrans("─│├└┐┤┴▶·", "-|+`+++>.")


@dataclass(slots=True)
class _Line:
    """One line of a text drawing: pieces, each with its colour or emphasis."""

    pieces: list[tuple[str, str]]
    key: str | None = None
    """The node that the line shows; None for a line that continues the one above."""

    def width(self) -> int:
        return sum(cell_len(text) for text, _ in self.pieces)

    def render(self, colour: bool) -> str:
        if not colour:
            return "".join(text for text, _ in self.pieces).rstrip()
        system = ColorSystem.STANDARD
        return "".join(Style.parse(style).render(text, color_system=system) for text, style in self.pieces)


def to_text(graph: Graph, *, colour: bool = False, unicode: bool = True) -> str:
    """Draw the architecture as text: its title, then its nodes. Raises `EnasError` as `layout` does.

    Args:
        graph: what to draw.
        colour: with the escape sequences of a terminal; every function and operation has its colour.
        unicode: with line-drawing characters; otherwise in ASCII alone.
    """
    drawn = graph if unicode else _in_ascii(graph)
    styles = {kind: f"bold {terminal}" for kind, (_, terminal) in colours(graph).items()}
    lines = [_Line([(drawn.title, "bold")])]
    layout(drawn)  # refuses what is no graph, before it is taken apart
    for part in parts(drawn):
        heading = [] if part is drawn else [_Line([(part.title, "underline")])]
        lines += [_Line([]), *heading, *_draw(layout(part), styles)]
    text = "\n".join(line.render(colour) for line in lines)
    return text if unicode else text.translate(_TO_ASCII)


def _draw(plan: Layout, styles: Mapping[str, str]) -> list[_Line]:
    """The lines of a graph: a chain, sums, or a tree with the widest indentation that fits."""
    if plan.chain:
        return _chain(plan, styles)
    if plan.terms:
        lines = _sums(plan, styles)
        _add_rail(lines, plan)
        return lines
    for step in (3, 2, 1):
        lines = _tree(plan, styles, step)
        _add_rail(lines, plan)
        if max((line.width() for line in lines), default=0) <= WIDTH:
            break
    return lines


def _chain(plan: Layout, styles: Mapping[str, str]) -> list[_Line]:
    """One line a node, and what it reads besides the one above: in columns, or in words if there are too many."""
    names = _short_names(plan)
    numbers = {key: name for key, name in names.items() if name != plan.places[key].node.label}
    margin = max((cell_len(number) + 1 for number in numbers.values()), default=0)
    labels = {
        key: numbers[key].rjust(margin - 1) + place.node.label.removeprefix(numbers[key])
        if key in numbers
        else " " * margin + place.node.label
        for key, place in plan.places.items()
    }
    skips, sources = plan.skips, plan.sources
    beside = [labels[key] for key, place in plan.places.items() if place.node.role != "output" or skips[key]]
    column = max(map(cell_len, beside), default=0) + 1
    cell = max((cell_len(names[key]) for key in sources), default=0) + 1
    in_columns = column + cell * len(sources) <= WIDTH

    lines: list[_Line] = []
    group = plan.chain[0].node.group
    for place in plan.chain:
        key = place.node.key
        if place.node.group != group:
            group = place.node.group
            lines.append(_Line([(" " * margin + "── " + group, "dim")]))
        line = _Line([(labels[key], styles.get(place.node.kind, "bold"))], key)
        lines.append(line)
        gap = " " * (column - line.width())
        possible = [source for source in sources if plan.places[source].depth < place.depth - 1]
        if not place.depth and sources and in_columns:
            line.pieces.append((gap + " also reads", "dim"))
        elif possible and in_columns and (skips[key] or place.node.role != "output"):
            line.pieces.append((gap, "dim"))
            for source in possible:
                kind = plan.places[source].node.kind
                taken = source in skips[key]
                line.pieces.append(
                    (names[source].rjust(cell), styles.get(kind, "bold"))
                    if taken
                    else ("·".rjust(cell), "dim")
                )
        elif skips[key]:
            first, *more = _wrapped([names[source] for source in skips[key]], WIDTH - column - 1)
            line.pieces.append((f"{gap} {first}", "dim"))
            lines += [_Line([(" " * (column + 1) + words, "dim")]) for words in more]
    return lines


def _sums(plan: Layout, styles: Mapping[str, str]) -> list[_Line]:
    """One line a sum: the operations that it adds, each with what it reads."""
    names = _short_names(plan)
    reads = {
        term.node.key: f"({', '.join(names[source] for source in term.reads)})"
        for terms in plan.terms.values()
        for term in terms
    }
    columns = itertools.zip_longest(*plan.terms.values())
    widths = [
        max(cell_len(term.node.label + reads[term.node.key]) for term in column if term) for column in columns
    ]
    lines: list[_Line] = []
    for key, place in plan.places.items():
        if key in plan.terms:
            line = _Line([(names[key] + " ", "bold")], key)
            for number, term in enumerate(plan.terms[key]):
                if number:
                    gap = widths[number - 1] - sum(cell_len(text) for text, _ in line.pieces[-2:])
                    line.pieces.append((" " * gap + " + ", "dim"))
                line.pieces.append((term.node.label, styles.get(term.node.kind, "bold")))
                line.pieces.append((reads[term.node.key], ""))
            lines.append(line)
        elif place.node.role == "input":
            lines.append(_Line([(place.node.label, "bold")], key))
    return lines


def _tree(plan: Layout, styles: Mapping[str, str], step: int) -> list[_Line]:
    """The lines without a rail, each level of depth indented by `step` columns."""
    lines: list[_Line] = []
    joined = _joined_inputs(plan)
    names = _short_names(plan)

    def label(key: str) -> tuple[str, str]:
        node = plan.places[key].node
        return node.label, styles.get(node.kind, "bold")

    def grow(key: str, before: list[tuple[str, str]], below: str) -> None:
        """Draw a node after the pieces `before`, and the nodes below it after the text `below`."""
        place = plan.places[key]
        line = _Line([*before, label(key)], key)
        lines.append(line)
        others = [names[source] for source in place.others]
        if others and key not in joined:
            indent = line.width() + 2
            room = max(WIDTH - _rail_width(plan) - indent, 20)
            first, *more = _wrapped(others, room)
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


def _wrapped(names: list[str], room: int) -> list[str]:
    """The other nodes that a node reads, in lines of at most `room` columns."""
    return textwrap.wrap("also reads " + ", ".join(names), room, break_long_words=False)


def _joined_inputs(plan: Layout) -> dict[str, tuple[str, ...]]:
    """Nodes that read only inputs, at least two, which no other node reads. A bracket joins these inputs."""
    readers = Counter(source for place in plan.places.values() for source in place.reads)
    return {
        key: place.reads
        for key, place in plan.places.items()
        if key != plan.output and len(place.reads) > 1 and place.depth == 1
        if all(readers[source] == 1 for source in place.reads)
    }


def _short_names(plan: Layout) -> dict[str, str]:
    """The first word of every label that no other label begins with; else the whole label."""
    labels = {key: place.node.label for key, place in plan.places.items()}
    count = Counter(label.split(" ")[0] for label in labels.values())
    return {
        key: first if count[first := label.split(" ")[0]] == 1 else label for key, label in labels.items()
    }


def _rail_width(plan: Layout) -> int:
    """Columns that the rail takes beside the widest line."""
    return 0 if plan.output is None else len(" ─┴─▶ ") + cell_len(plan.places[plan.output].node.label)


def _add_rail(lines: list[_Line], plan: Layout) -> None:
    """Join the nodes that go into the output to a rail at the right, and the rail to the output."""
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

    nodes = tuple(replace(node, label=plain(node.label), group=plain(node.group)) for node in graph.nodes)
    return Graph(plain(graph.title), nodes, graph.edges)


def in_digits(count: int) -> str:
    """A number in full, or as a power of ten if nobody could read it."""
    return f"{count:,}" if count < 10**60 else f"about 10^{math.floor(math.log10(count))}"
