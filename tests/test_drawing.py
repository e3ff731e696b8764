"""Drawings show the whole graph and nothing else: what is read back from them is the graph."""

import io
import itertools
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
from enas.report.drawing import WIDTH, layout, text_for, to_dot, to_text, write_png, write_svg
from enas.spaces.recurrent.space import FUNCTIONS, RecurrentSpace, read_authors_string

PUBLISHED = read_authors_string("0 0 0 1 1 2 1 2 0 2 0 5 1 1 0 6 1 8 1 8 1 8 1").graph()
CHAIN = RecurrentSpace(12).build(tuple(range(11)), ("sigmoid",) * 12).graph()
STAR = RecurrentSpace(12, input_function="tanh").build((0,) * 12, ("identity",) * 12).graph()
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


def test_text_of_a_small_cell_is_the_drawing_that_the_module_promises() -> None:
    graph = RecurrentSpace(4).parse("tanh relu(1) tanh(1) relu(3)").graph()
    drawing = to_text(graph).splitlines()[2:]
    module = sys.modules["enas.report.drawing"].__doc__
    assert drawing == [line[4:] for line in module.splitlines()[-len(drawing) :]]


@pytest.mark.parametrize("graph", GRAPHS[::7], ids=lambda graph: graph.title)
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
    assert to_text(graph, unicode=False) == "?\n\na 3x3 -> b\n`- b ?"


@pytest.mark.parametrize("graph", GRAPHS[::7], ids=lambda graph: graph.title)
def test_layout_has_every_node_at_its_longest_distance_from_an_input(graph: Graph) -> None:
    def depth(key: str) -> int:
        return max((1 + depth(source) for source, target in graph.edges if target == key), default=0)

    places = layout(graph).places
    assert {key: place.depth for key, place in places.items()} == {
        node.key: depth(node.key) for node in graph.nodes
    }
    assert {(source, key) for key, place in places.items() for source in place.reads} == set(graph.edges)
    for key, place in places.items():
        assert place.depth == (0 if place.parent is None else 1 + places[place.parent].depth)
        assert place.children == tuple(
            child for child in places if places[child].parent == key and child != "out"
        )


@pytest.mark.parametrize("graph", GRAPHS[::7], ids=lambda graph: graph.title)
def test_dot_and_svg_are_the_graph(graph: Graph, tmp_path: Path) -> None:
    dot = pygraphviz.AGraph(string=to_dot(graph))
    assert {(node, node.attr["label"]) for node in dot.nodes()} == {
        (node.key, node.label) for node in graph.nodes
    }
    assert set(dot.edges()) == set(graph.edges)

    write_svg(graph, tmp_path / "cell.svg")
    boxes, arrows, height = read_svg(tmp_path / "cell.svg")
    assert boxes == {node.key: node.label for node in graph.nodes}
    assert arrows == {f"{source}->{target}" for source, target in graph.edges}
    rows: dict[int, set[float]] = {}
    for key, place in layout(graph).places.items():
        rows.setdefault(place.depth, set()).add(height[key])
    assert all(len(heights) == 1 for heights in rows.values()), "nodes of one depth stand in one row"
    downwards = [rows[depth].pop() for depth in sorted(rows)]
    assert downwards == sorted(set(downwards))


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


@pytest.mark.parametrize("graph", [PUBLISHED, STAR], ids=lambda graph: graph.title)
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
    coloured = text_for(PUBLISHED, Terminal())
    assert coloured != plain
    assert ESCAPE.sub("", coloured) == plain
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
