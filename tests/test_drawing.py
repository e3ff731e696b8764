"""Drawings show the whole graph and nothing else: what is read back from them is the graph."""

import functools
import io
import itertools
import json
import math
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pygraphviz
import pytest

from enas.architecture import Graph, GraphNode
from enas.errors import EnasError
from enas.report.drawing import text_for, to_dot, write_png, write_svg
from enas.report.layout import layout, parts
from enas.report.text import WIDTH, to_text
from enas.spaces.macro.space import OPERATIONS as MACRO_OPERATIONS
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import OPERATIONS as MICRO_OPERATIONS
from enas.spaces.micro.space import MicroSpace
from enas.spaces.reading import read_text as read_architecture
from enas.spaces.recurrent.space import FUNCTIONS, RecurrentSpace, read_authors_string

PUBLISHED = read_authors_string("0 0 0 1 1 2 1 2 0 2 0 5 1 1 0 6 1 8 1 8 1 8 1").graph()
CHAIN = RecurrentSpace(12).build(tuple(range(11)), ("sigmoid",) * 12).graph()
STAR = RecurrentSpace(12, input_function="tanh").build((0,) * 12, ("identity",) * 12).graph()
STRINGS = json.loads((Path(__file__).parent / "data" / "published_architectures.json").read_text())
MACRO = read_architecture(" ".join(str(n) for row in STRINGS["macro_24"]["layers"] for n in row)).graph()
MICRO = read_architecture(
    " ".join(map(str, STRINGS["micro"]["normal"] + STRINGS["micro"]["reduction"]))
).graph()
AFTER_LABEL = r"(?:  also reads ([^─│]+?))?(?: +│| (─+(?:[┐┤]|[┴─]─▶ (\S.*))))?"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def recurrent_cell(seed: int) -> Graph:
    space = RecurrentSpace(12, FUNCTIONS, "tanh" if seed % 2 else None)
    return space.sample(random.Random(seed)).graph()


def network_with_skips(seed: int) -> Graph:
    """Two inputs; every node reads one or more of all before it, and the output reads every loose end."""
    rng = random.Random(seed)
    nodes = [GraphNode("a", "a[0] image", "input"), GraphNode("b", "b[0] image", "input")]
    edges = []
    for number in range(1, 11):
        operation = rng.choice(["conv 3x3", "conv 5x5", "max pool"])
        sources = rng.sample([node.key for node in nodes], k=min(len(nodes), rng.choice([1, 1, 2, 3])))
        edges += [(source, str(number)) for source in sources]
        nodes.append(GraphNode(str(number), f"{number} {operation}", "node", operation))
    read = {source for source, _ in edges}
    edges += [(node.key, "out") for node in nodes if node.key not in read]
    nodes.append(GraphNode("out", "softmax", "output"))
    return Graph(f"network {seed}", tuple(nodes), tuple(edges))


RECURRENT = [PUBLISHED, CHAIN, STAR, *(recurrent_cell(seed) for seed in range(60))]
GRAPHS = [*RECURRENT, *(network_with_skips(seed) for seed in range(60))]
CHAINS = [
    MACRO,
    Graph("upside down", MACRO.nodes[::-1], MACRO.edges[::-1]),
    *(
        MacroSpace(layers).sample(random.Random(layers)).graph()
        for layers in (1, 2, 3, 7, 12, 24, 24, 30, 40)
    ),
]
CELLS = [MICRO, *(MicroSpace(1 + seed % 6).sample(random.Random(seed)).graph() for seed in range(30))]


def labelled_edges(graph: Graph) -> set[tuple[str, str]]:
    label = {node.key: node.label for node in graph.nodes}
    return {(label[source], label[target]) for source, target in graph.edges}


def read_text(text: str, graph: Graph) -> set[tuple[str, str]]:
    """The arrows of a drawing, as labels, told from its characters; the graph only tells the labels."""
    labels = sorted((node.label for node in graph.nodes), key=len, reverse=True)
    inputs = {node.label for node in graph.nodes if node.role == "input"}
    by_first_word = {label.split()[0]: label for label in labels}
    edges: set[tuple[str, str]] = set()
    above: list[tuple[int, str]] = []  # nodes that a branch may hang on, with their columns
    bracket: list[str] = []
    also: dict[str, str] = {}
    rail: list[str] = []
    newest = ""
    for line in text.splitlines()[2:]:
        column = re.match("[ │├└─]*", line).end()
        name = next((label for label in labels if line.startswith(label, column)), None)
        if name is None:  # the line above goes on
            also[newest] += " " + line[column:].rstrip("│┐┤ ")
            continue
        rest = line[column + len(name) :]
        joint = re.match(" *─([┐┤]$|┴─ )", rest) if name in inputs and column == 0 and not rail else None
        if joint:
            bracket.append(name)
            if "┴" not in joint[1]:
                continue
            column += len(name) + joint.end()
            name = next(label for label in labels if line.startswith(label, column))
            rest = line[column + len(name) :]
            edges |= {(source, name) for source in bracket}
        elif column:
            branch = max(line.rfind("├", 0, column), line.rfind("└", 0, column))
            while above[-1][0] > branch:
                above.pop()
            assert above[-1][0] == branch, f"the branch of {name!r} hangs on no node"
            edges.add((above[-1][1], name))
        above.append((column, name))
        newest = name
        said, to_rail, output = re.fullmatch(AFTER_LABEL, rest).groups()
        also[name] = said or ""
        if to_rail:
            rail.append(name)
        if output:
            edges |= {(source, output) for source in rail}
    for name, words in also.items():
        edges |= {(by_first_word[word], name) for word in words.replace(",", "").split()}
    return edges


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.title)
def test_text_is_the_graph_in_eighty_columns(graph: Graph) -> None:
    text = to_text(graph)
    assert text.splitlines()[:2] == [graph.title, ""]
    assert read_text(text, graph) == labelled_edges(graph)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(text.count(node.label) >= 1 for node in graph.nodes)


def read_chain(text: str, graph: Graph) -> set[tuple[str, str]]:
    """The arrows of a drawing of a chain, as labels; the graph only tells the labels."""
    labels = {node.label for node in graph.nodes}
    named = {label.split()[0]: label for label in labels if " " in label}
    edges: set[tuple[str, str]] = set()
    before = ""
    for line in text.splitlines()[2:]:
        words = line.replace(",", "").replace("also reads", "").split()
        label = next((label for label in (" ".join(words[:2]), words[0]) if label in labels), None)
        if line.lstrip().startswith("── "):
            assert line.strip("─ ") in {node.group for node in graph.nodes}
            continue
        if label is None:  # the line above goes on
            edges |= {(named[word], before) for word in words}
            continue
        if before:
            edges.add((before, label))
        before = label
        edges |= {(named[word], label) for word in line.partition(label)[2].split() if word in named}
        edges |= {(named[word], label) for word in words[len(label.split()) :] if word != "·"}
    return edges


@pytest.mark.parametrize("graph", CHAINS, ids=lambda graph: graph.title)
def test_text_of_a_chain_is_the_graph_in_eighty_columns(graph: Graph) -> None:
    text = to_text(graph)
    assert read_chain(text, graph) == labelled_edges(graph)
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_skip_of_a_chain_stands_in_the_column_of_its_source() -> None:
    lines = to_text(MACRO).splitlines()[2:]
    columns: dict[str, set[int]] = {}
    for line in lines[1:]:
        for match in re.finditer(r"(?<= )\d+(?= |$)", line[11:]):
            columns.setdefault(match[0], set()).add(match.end())
    assert all(len(ends) == 1 for ends in columns.values())
    assert [min(columns[number]) for number in sorted(columns, key=int)] == [
        3 * n for n in range(1, 1 + len(columns))
    ]


@pytest.mark.parametrize("graph", CHAINS, ids=lambda graph: graph.title)
def test_text_of_a_chain_marks_where_a_group_begins(graph: Graph) -> None:
    text = to_text(graph).splitlines()[2:]
    for before, node in itertools.pairwise(place.node for place in layout(graph).chain):
        at = next(number for number, line in enumerate(text) if line.lstrip().startswith(node.label))
        assert (text[at - 1].strip("─ ") == node.group) == (before.group != node.group)


def read_cells(text: str) -> dict[str, list[tuple[str, str, str]]]:
    """By cell, the arrows of a drawing of sums: (source, operation, sum), and (source, "", "output")."""
    cells: dict[str, list[tuple[str, str, str]]] = {}
    for block in text.split("\n\n")[1:]:
        heading, *lines = block.splitlines()
        cells[heading] = arrows = []
        for line in lines:
            name = line.split()[0]
            arrows += [(source, operation, name) for operation, source in re.findall(r"(\w+)\((\d+)\)", line)]
            if re.search(r"─[┐┤┴─]", line):
                arrows.append((name, "", "output"))
    return cells


@pytest.mark.parametrize("graph", CELLS, ids=lambda graph: graph.title)
def test_text_of_cells_is_the_graph(graph: Graph) -> None:
    text = to_text(graph)
    assert max(map(len, text.splitlines())) <= WIDTH
    nodes = {node.key: node for node in graph.nodes}
    drawn = read_cells(text)
    assert set(drawn) == {"normal cell", "reduction cell"}
    for cell, arrows in drawn.items():
        edges = [(source, target) for source, target in graph.edges if nodes[source].group == cell]
        expected = []
        for source, target in edges:
            if nodes[target].role == "output":
                expected.append((source.split()[-1], "", "output"))
            elif nodes[target].role == "node":
                (added_to,) = (after for before, after in edges if before == target)
                expected.append((source.split()[-1], nodes[target].kind, added_to.split()[-1]))
        assert sorted(arrows) == sorted(expected)


def examples_of_the_module() -> list[list[str]]:
    """The indented blocks of the module's docstring."""
    blocks = re.findall(r"(?:\n {4}.*)+", sys.modules["enas.report.text"].__doc__)
    return [[line[4:] for line in block.splitlines()[1:]] for block in blocks]


@pytest.mark.parametrize(
    ("number", "graph"),
    [
        (0, MacroSpace(4).parse("conv3x3 sep5x5(0) conv5x5(1) max3x3(0,1)").graph()),
        (
            1,
            parts(
                MicroSpace(2)
                .parse(
                    "avg3x3(0)+sep3x3(0) identity(1)+sep5x5(0) | avg3x3(0)+sep3x3(0) identity(1)+sep5x5(0)"
                )
                .graph()
            )[0],
        ),
        (2, RecurrentSpace(4).parse("tanh relu(1) tanh(1) relu(3)").graph()),
    ],
    ids=["chain", "sums", "tree"],
)
def test_small_drawings_are_those_that_the_module_promises(number: int, graph: Graph) -> None:
    assert to_text(graph).splitlines()[2:] == examples_of_the_module()[number]


@pytest.mark.parametrize("graph", [*GRAPHS[::7], *CHAINS, *CELLS[:5]], ids=lambda graph: graph.title)
def test_ascii_says_the_same(graph: Graph) -> None:
    text = to_text(graph, unicode=False)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= WIDTH
    drawn, plain = to_text(graph).splitlines(), text.splitlines()
    assert len(plain) == len(drawn)
    for ours, theirs in zip(plain, drawn, strict=True):
        assert re.findall(r"\w+", ours) == re.findall(r"\w+", theirs)


def test_labels_without_ascii_form_do_not_break_the_ascii_drawing() -> None:
    graph = Graph("σ", (GraphNode("a", "a 3×3 → b", "input"), GraphNode("b", "b 层", "node")), (("a", "b"),))
    assert to_text(graph, unicode=False) == "?\n\na 3x3 -> b\nb ?"


@pytest.mark.parametrize("graph", [*GRAPHS[::7], *CHAINS[:5], *CELLS[:5]], ids=lambda graph: graph.title)
def test_layout_has_every_node_at_its_longest_distance_from_an_input(graph: Graph) -> None:
    @functools.cache
    def depth(key: str) -> int:
        return max((1 + depth(source) for source, target in graph.edges if target == key), default=0)

    plan = layout(graph)
    places = plan.places
    assert {key: place.depth for key, place in places.items()} == {
        node.key: depth(node.key) for node in graph.nodes
    }
    assert {(source, key) for key, place in places.items() for source in place.reads} == set(graph.edges)
    for key, place in places.items():
        assert place.depth == (0 if place.parent is None else 1 + places[place.parent].depth)
        assert place.children == tuple(
            child for child in places if places[child].parent == key and child != plan.output
        )


def test_a_chain_is_a_graph_with_a_path_through_all_nodes() -> None:
    rng = random.Random(1)
    seen = set()
    for _ in range(300):
        pairs = list(itertools.combinations("abcde", 2))
        edges = tuple(pair for pair in pairs if rng.random() < 0.7)
        graph = Graph("any", tuple(GraphNode(key, key, "node") for key in "abcde"), edges)
        path = all(pair in edges for pair in itertools.pairwise("abcde"))
        assert [place.node.key for place in layout(graph).chain] == (list("abcde") if path else [])
        seen.add(path)
    assert seen == {True, False}


def test_parts_are_groups_that_no_arrow_joins() -> None:
    assert [part.title for part in parts(MICRO)] == ["normal cell", "reduction cell"]
    assert [node for part in parts(MICRO) for node in part.nodes] == list(MICRO.nodes)
    assert sorted(edge for part in parts(MICRO) for edge in part.edges) == sorted(MICRO.edges)
    assert parts(MACRO) == (MACRO,)
    assert parts(PUBLISHED) == (PUBLISHED,)


@pytest.mark.parametrize("graph", [*GRAPHS[::7], *CHAINS, *CELLS[:5]], ids=lambda graph: graph.title)
def test_dot_and_svg_are_the_graph(graph: Graph, tmp_path: Path) -> None:
    dot = pygraphviz.AGraph(string=to_dot(graph))
    boxes = [node for node in dot.nodes() if node.attr["class"] != "ground"]
    assert {(node, node.attr["label"]) for node in boxes} == {(node.key, node.label) for node in graph.nodes}
    assert set(dot.edges()) == set(graph.edges)

    write_svg(graph, tmp_path / "cell.svg")
    boxes, arrows, height = read_svg(tmp_path / "cell.svg")
    assert boxes == {node.key: node.label for node in graph.nodes}
    assert arrows == {f"{source}->{target}" for source, target in graph.edges}
    for part in parts(graph):
        rows: dict[int, set[float]] = {}
        for key, place in layout(part).places.items():
            rows.setdefault(place.depth, set()).add(height[key])
        assert all(len(heights) == 1 for heights in rows.values()), "nodes of one depth stand in one row"
        downwards = [rows[depth].pop() for depth in sorted(rows)]
        assert downwards == sorted(set(downwards))


@pytest.mark.parametrize("graph", CHAINS, ids=lambda graph: graph.title)
def test_lines_of_a_chain_lead_from_the_box_to_its_reader(graph: Graph, tmp_path: Path) -> None:
    write_svg(graph, tmp_path / "network.svg")
    svg = "{http://www.w3.org/2000/svg}"
    box: dict[str, tuple[float, float, float, float]] = {}
    columns: dict[str, set[float]] = {}
    for group in ElementTree.parse(tmp_path / "network.svg").iter(f"{svg}g"):
        title = group.findtext(f"{svg}title")
        path = group.find(f"{svg}path")
        numbers = (
            [float(number) for number in re.findall(r"-?\d+\.?\d*", path.get("d"))]
            if path is not None
            else []
        )
        xs, ys = numbers[::2], numbers[1::2]
        if group.get("class") == "node":
            box[title] = (min(xs), max(xs), min(ys), max(ys))
        elif group.get("class") == "edge":
            source, target = title.split("->")
            tip = [
                float(number)
                for number in re.findall(r"-?\d+\.?\d*", group.find(f"{svg}polygon").get("points"))
            ]
            for name, at_x, at_y in ((source, xs[0], ys[0]), (target, *nearest(tip, box[target]))):
                left, right, top, bottom = box[name]
                assert left - 2 <= at_x <= right + 2
                assert top - 2 <= at_y <= bottom + 2
            if int(target.replace("out", "-1")) - int(source) > 1:
                columns.setdefault(source, set()).add(max(xs))
    assert all(len(places) == 1 for places in columns.values()), "every source has one line of its own"
    at = [places.pop() for _, places in sorted(columns.items(), key=lambda item: int(item[0]))]
    assert at == sorted(set(at), reverse=True)


def nearest(points: list[float], box: tuple[float, float, float, float]) -> tuple[float, float]:
    """The point, of x and y in turn, that is nearest to the middle of the box."""
    middle = ((box[0] + box[1]) / 2, (box[2] + box[3]) / 2)
    return min(zip(points[::2], points[1::2], strict=True), key=lambda point: math.dist(point, middle))


def read_svg(path: Path) -> tuple[dict[str, str], set[str], dict[str, float]]:
    """Labels of boxes by key, arrows as Graphviz titles them, and how far down the page each box stands."""
    svg = "{http://www.w3.org/2000/svg}"
    boxes, arrows, height = {}, set(), {}
    for group in ElementTree.parse(path).iter(f"{svg}g"):
        title = group.findtext(f"{svg}title")
        if group.get("class") == "node":
            text = group.find(f"{svg}text")
            boxes[title] = text.text.replace("\xa0", " ")
            height[title] = float(text.get("y"))
        elif group.get("class") == "edge":
            arrows.add(title)
    return boxes, arrows, height


def test_any_character_of_a_label_reaches_the_picture(tmp_path: Path) -> None:
    labels = ['say "x"', r"back\slash \N", "a < b & c > d", "{x|y}", "σ → 层", "<b>bold</b>"]
    nodes = tuple(GraphNode(f"key {label}", label, "node", label) for label in labels)
    edges = tuple((f"key {a}", f"key {b}") for a, b in itertools.pairwise(labels))
    graph = Graph('<title> & "more"', nodes, edges)
    write_svg(graph, tmp_path / "odd.svg")
    boxes, arrows, _ = read_svg(tmp_path / "odd.svg")
    assert sorted(boxes.values()) == sorted(labels)
    assert len(arrows) == len(edges)
    assert all(label in to_text(graph) for label in labels)


@pytest.mark.parametrize("graph", [PUBLISHED, STAR, MACRO, MICRO], ids=lambda graph: graph.title)
def test_png_is_a_picture(graph: Graph, tmp_path: Path) -> None:
    write_png(graph, tmp_path / "cell.png")
    data = (tmp_path / "cell.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 600
    assert height > 600
    assert len(data) > 20_000
    assert [path.name for path in tmp_path.iterdir()] == ["cell.png"]


def test_drawing_writes_nothing_else_and_imports_no_torch(tmp_path: Path) -> None:
    script = """
import sys
from enas.report.drawing import write_png
from enas.spaces.recurrent.space import RecurrentSpace
write_png(RecurrentSpace(2).parse("tanh relu(1)").graph(), sys.argv[1])
assert "torch" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "cell.png"], capture_output=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_each_function_has_one_colour_of_its_own() -> None:
    graph = (
        RecurrentSpace(8)
        .parse("tanh relu(1) identity(1) sigmoid(1) tanh(2) relu(3) identity(4) sigmoid(4)")
        .graph()
    )
    dot = pygraphviz.AGraph(string=to_dot(graph))
    fills, escapes = {}, {}
    text = to_text(graph, colour=True)
    for node in graph.nodes:
        if node.kind:
            fills.setdefault(node.kind, set()).add(dot.get_node(node.key).attr["fillcolor"])
            escapes.setdefault(node.kind, set()).add(re.search(rf"(\x1b\[[0-9;]+m){node.label}\x1b", text)[1])
    for colours in (fills, escapes):
        assert sorted(colours) == sorted(FUNCTIONS)
        assert all(len(shades) == 1 for shades in colours.values())
        assert len(set.union(*colours.values())) == len(FUNCTIONS)
    inputs_and_output = {dot.get_node(key).attr["fillcolor"] for key in ("x", "h", "out")}
    assert len(inputs_and_output) == 2
    assert not inputs_and_output & set.union(*fills.values())


def test_each_operation_has_one_colour_of_its_own() -> None:
    networks = [
        MacroSpace(6).build(MACRO_OPERATIONS, ((),) * 6).graph(),
        MicroSpace(3)
        .parse(
            "sep3x3(0)+sep5x5(0) avg3x3(0)+max3x3(0) identity(1)+sep3x3(1) | "
            "sep3x3(0)+sep5x5(0) avg3x3(0)+max3x3(0) identity(1)+sep3x3(1)"
        )
        .graph(),
    ]
    fills: dict[str, set[str]] = {}
    escapes: dict[str, set[str]] = {}
    for graph in networks:
        dot = pygraphviz.AGraph(string=to_dot(graph))
        text = to_text(graph, colour=True)
        for node in graph.nodes:
            if node.kind:
                fills.setdefault(node.kind, set()).add(dot.get_node(node.key).attr["fillcolor"])
                escapes.setdefault(node.kind, set()).update(
                    re.findall(rf"(\x1b\[[0-9;]+m)[ 0-9]*{node.kind}\x1b", text)
                )
    for colours in (fills, escapes):
        assert set(colours) == {*MACRO_OPERATIONS, *MICRO_OPERATIONS}
        assert all(len(shades) == 1 for shades in colours.values())
        assert len(set.union(*colours.values())) == len(colours)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.usefixtures("_plain_environment")
def test_colours_only_on_a_terminal_and_never_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = to_text(PUBLISHED)
    assert text_for(PUBLISHED, io.StringIO()) == plain
    for graph in (PUBLISHED, MACRO, MICRO):
        coloured = text_for(graph, Terminal())
        assert coloured != to_text(graph)
        assert ESCAPE.sub("", coloured) == to_text(graph)
    monkeypatch.setenv("TERM", "dumb")
    assert text_for(PUBLISHED, Terminal()) == plain
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert text_for(PUBLISHED, Terminal()) == plain


@pytest.mark.usefixtures("_plain_environment")
@pytest.mark.parametrize(("encoding", "ascii_alone"), [("utf-8", False), ("cp437", True), ("ascii", True)])
def test_an_encoding_without_the_characters_gets_ascii(encoding: str, ascii_alone: bool) -> None:
    text = text_for(PUBLISHED, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert text == to_text(PUBLISHED, unicode=not ascii_alone)
    assert text.encode(encoding)


def test_without_pygraphviz_the_error_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    for write in (write_svg, write_png):
        with pytest.raises(EnasError, match="pip install 'pygraphviz"):
            write(PUBLISHED, tmp_path / "cell")
    assert list(tmp_path.iterdir()) == []
    assert to_text(PUBLISHED)


@pytest.mark.parametrize(
    ("keys", "edges", "message"),
    [
        ("ab", [("a", "b"), ("b", "a")], "circle"),
        ("ab", [("a", "c")], "a -> c"),
        ("ab", [("c", "b")], "c -> b"),
        ("aba", [("a", "b")], "key a"),
    ],
)
def test_what_is_no_graph_is_refused(keys: str, edges: list[tuple[str, str]], message: str) -> None:
    graph = Graph("broken", tuple(GraphNode(key, key, "node") for key in keys), tuple(edges))
    for draw in (to_text, to_dot):
        with pytest.raises(EnasError, match=message):
            draw(graph)
