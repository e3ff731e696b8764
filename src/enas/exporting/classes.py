"""A recorded network as classes of plain torch. Modules that do the same are one class; what differs between them, such as
a number of channels, becomes an argument of it."""

from __future__ import annotations

import ast
import inspect
import json
import keyword
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from enas.data.own_files import printable
from enas.errors import ExportError
from enas.exporting.recorded import Expression, Frame, Recording, Step, Value, listed, of_torch

WIDTH = 100
"""Characters of a line, where it can be broken."""
INLINE = 60
"""Characters up to which an expression goes into the one that reads it."""
RESERVED = ("F", "OrderedDict", "Path", "load", "load_file", "network", "nn", "preprocess", "torch")
"""Names of the file that are no class."""
TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|.""", re.DOTALL)
"""A string in code, or one character."""
SQUARE = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")
"""Arguments that take one number for several equal ones."""
LISTS = (nn.ModuleList, nn.Sequential, nn.ParameterList)
DICTS = (nn.ModuleDict, nn.ParameterDict)


@dataclass(frozen=True)
class Literal:
    """An argument of one of torch's modules."""

    name: str
    text: str


@dataclass
class Node:
    """How a part of a network is made: text with literals, and parts of its own."""

    kind: str
    """`leaf`, `list`, `dict` or the name of a class."""
    pieces: list[str | Literal] = field(default_factory=list)
    parts: dict[str, Node] = field(default_factory=dict)
    doc: str = ""
    forward: str = ""

    def literals(self) -> list[Literal]:
        """All literals, those of the parts among them, in order."""
        own = [piece for piece in self.pieces if isinstance(piece, Literal)]
        return own + [literal for part in self.parts.values() for literal in part.literals()]

    def skeleton(self) -> Any:
        """All but the literals."""
        pieces = tuple(piece if isinstance(piece, str) else None for piece in self.pieces)
        parts = tuple((name, part.skeleton()) for name, part in self.parts.items())
        return self.kind, self.forward, pieces, parts

    def inside(self) -> Iterator[Node]:
        """The parts, their parts, and so on; the innermost first."""
        for part in self.parts.values():
            yield from part.inside()
            yield part


def source(recording: Recording) -> tuple[str, str]:
    """The classes of a network as text, and the expression that makes the network.

    Raises `ExportError` for a module of torch that does not say how it is made.
    """
    root = node_of(recording.model, [""], recording)
    groups = grouped([node for node in (*root.inside(), root) if node.kind not in ("leaf", "list", "dict")])
    classes = "\n\n\n".join(group.text(groups) for group in groups.values())
    return classes, made(root, [literal.text for literal in root.literals()], groups)


# ---- what there is -----------------------------------------------------------------------------------------------------


def node_of(module: nn.Module, used: Iterable[str], recording: Recording) -> Node:
    """How a module is made, with those parts that it uses itself, and those that are `used` by others, by their names with
    dots."""
    named = recording.named(module)
    container = container_of(module, named)
    if of_torch(module) and container is None:
        return leaf(module, named)
    calls = recording.frames.get(module, [])
    taking_part = {name for name in used if name}.union(*(frame.used for frame in calls))
    if container is nn.Sequential:
        taking_part |= {name for name, _ in module.named_children()}
    parts: dict[str, Node] = {}
    for name, child in parts_of(module, named):
        below = [place.partition(".")[2] for place in taking_part if place.partition(".")[0] == name]
        if below:
            parts[name] = tensor(child) if isinstance(child, Tensor) else node_of(child, below, recording)
        elif container in LISTS:
            parts[name] = Node("leaf", ["nn.Identity()"])  # keeps the numbers of the others
    if container is not None:
        return Node("list" if container in LISTS else "dict", [f"nn.{container.__name__}"], parts)
    done = {forward(frame) for frame in calls}
    if len(done) > 1:
        raise ExportError(f"it calls {named} twice, and each call does something else")
    return Node(type(module).__name__, [], parts, about(module), "".join(done))


def container_of(module: nn.Module, named: str) -> type[nn.Module] | None:
    """The container of torch's that a module is; None for any other. Raises `ExportError` for one that is more than that."""
    kind = next((kind for kind in (*LISTS, *DICTS) if isinstance(module, kind)), None)
    own = module._buffers or (kind not in (nn.ParameterList, nn.ParameterDict) and module._parameters)
    if kind is not None and (own or type(module).forward is not kind.forward):
        raise ExportError(
            f"code cannot say how {named} is made, which derives from {kind.__name__} and adds to it"
        )
    return kind


def about(module: nn.Module) -> str:
    """The first sentence of what a module's class says of itself."""
    paragraph = " ".join(inspect.cleandoc(type(module).__doc__ or "").partition("\n\n")[0].split())
    sentence = paragraph.partition(". ")[0].rstrip(".")
    safe = printable(sentence, WIDTH + 10).replace("\\", "/").replace('"', "'")
    return f"{safe}." if safe else ""


def parts_of(module: nn.Module, named: str) -> Iterator[tuple[str, nn.Module | Tensor]]:
    """The parts of a module by name, its own tensors among them.

    Raises `ExportError` for a tensor that its weights leave out.
    """
    for name in module._non_persistent_buffers_set:
        raise ExportError(f"{named} keeps {name} outside its weights")
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)
    yield from module.named_children()


def leaf(module: nn.Module, named: str) -> Node:
    """One of torch's modules, as what prints it says: that is how it is made. What is not printed, such as
    `count_include_pad`, it has as an attribute."""
    text = repr(module)
    try:
        call = ast.parse(f"nn.{text}", mode="eval").body
        assert isinstance(call, ast.Call)
        known = list(inspect.signature(type(module)).parameters.values())
    except (SyntaxError, AssertionError) as error:
        raise ExportError(f"code cannot say how {named} is made") from error
    pieces: list[str | Literal] = [f"nn.{type(module).__name__}("]
    first = zip((each.name for each in known), call.args, strict=False)
    printed = [*first, *((each.arg or "", each.value) for each in call.keywords)]
    # A mode of padding is printed without quotes.
    given = {
        name: value.id if isinstance(value, ast.Name) else ast.literal_eval(value) for name, value in printed
    }
    defaults = {each.name: each.default for each in known}
    given |= {
        name: value
        for name in defaults.keys() - given.keys()
        if isinstance(value := getattr(module, name, None), bool | int | float | str | tuple)
    }
    for number, (name, value) in enumerate(given.items()):
        plain = simplified(name, value)
        if simplified(name, defaults.get(name)) == plain:
            continue
        required = (
            number < len(known) and known[number].name == name and defaults[name] is inspect.Parameter.empty
        )
        pieces += [", "] if len(pieces) > 1 else []
        pieces += [] if required else [f"{name}="]
        pieces.append(Literal(name, repr(plain)))
    return Node("leaf", [*pieces, ")"])


def simplified(name: str, value: Any) -> Any:
    """One number for several equal ones, where an argument takes that; and no digits of rounding."""
    if name in SQUARE and isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def tensor(value: Tensor) -> Node:
    """A parameter or buffer of a module's own."""
    sizes: list[str | Literal] = []
    for length in value.shape:
        sizes += [*([", "] if sizes else []), Literal("size", str(length))]
    kind = "Parameter" if isinstance(value, nn.Parameter) else "Buffer"
    return Node("leaf", [f"nn.{kind}(torch.empty(", *(sizes or ["()"]), "))"])


# ---- what a module does ------------------------------------------------------------------------------------------------


def forward(frame: Frame) -> str:
    """The method of a frame, with its result."""
    steps = inlined([*frame.steps, Step((), ["return ", *listed(frame.outputs)])])
    names: dict[Value, str] = {}
    taken = {"self", "F", "float", "nn", "torch"}
    for value in frame.inputs:
        names[value] = free_name(value.hint, taken)
    lines = [f"def forward({', '.join(['self', *names.values()])}):"]
    for step in steps:
        right = "".join(piece if isinstance(piece, str) else names[piece] for piece in step.expression)
        for value in flat(step.makes):
            names[value] = free_name(value.hint, taken)
        left = target(step.makes, names)
        lines += broken(f"    {left} = {right}" if left else f"    {right}")
    return "\n".join(lines)


def inlined(steps: list[Step]) -> list[Step]:
    """Fewer steps: what is read once, by the next step, stands there."""
    places = {step.makes: step for step in steps if step.place}
    uses = Counter(piece for each in steps for piece in each.expression if isinstance(piece, Value))
    rest: list[Step] = []
    for step in steps:
        if step.place:
            continue
        for value, place in places.items():
            step = put_into(step, value, place)
        while rest and isinstance(value := rest[-1].makes, Value) and value in step.expression:
            longer = put_into(step, value, rest[-1])
            if uses[value] > 1 or not readable(rest[-1], longer):
                break
            step = longer
            rest.pop()
        rest.append(step)
    return rest


def readable(inner: Step, outer: Step) -> bool:
    """Whether a step reads well within another: the calls of many parts, such as layers, stand on lines of their own."""
    if outer.makes == ():
        return length(outer) <= WIDTH - 10
    of_many = (
        isinstance(first := inner.expression[0], str) and first.startswith("self.") and first.endswith("]")
    )
    return not of_many and length(inner) <= INLINE and length(outer) <= WIDTH - 20


def put_into(step: Step, value: Value, inner: Step) -> Step:
    """The step with an expression in the place of a value."""
    pieces: Expression = []
    for piece, after in zip(step.expression, [*step.expression[1:], ""], strict=True):
        if piece is not value:
            pieces.append(piece)
            continue
        bound = step.operator or (isinstance(after, str) and after[:1] in (".", "["))
        pieces += ["(", *inner.expression, ")"] if inner.operator and bound else inner.expression
    return Step(step.makes, pieces, step.operator)


def length(step: Step) -> int:
    """About how long a step is in characters."""
    return sum(len(piece) if isinstance(piece, str) else 4 for piece in step.expression)


def flat(makes: Any) -> list[Value]:
    """The values within tuples."""
    return [makes] if isinstance(makes, Value) else [value for part in makes for value in flat(part)]


def target(makes: Any, names: dict[Value, str]) -> str:
    """The left side of an assignment."""
    if isinstance(makes, Value):
        return names[makes]
    return ", ".join(
        f"({target(part, names)})" if isinstance(part, tuple) else target(part, names) for part in makes
    )


def free_name(hint: str, taken: set[str]) -> str:
    """A name that is not taken yet, which then is."""
    usable = hint.isidentifier() and hint.isascii() and not keyword.iskeyword(hint)
    name = base = hint if usable else "x"
    number = 1
    while name in taken:
        number += 1
        name = f"{base}{number}"
    taken.add(name)
    return name


# ---- classes -----------------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """Nodes that are one class."""

    name: str
    nodes: list[Node]
    columns: dict[tuple[str, ...], tuple[str, int]] = field(default_factory=dict)
    """What differs between the nodes: for the texts in each of them, the name of the argument and the first place."""

    def settle(self) -> None:
        """Find out what differs."""
        taken = {"self"}
        for place, column in enumerate(zip(*(node.literals() for node in self.nodes), strict=True)):
            texts = tuple(literal.text for literal in column)
            if len(set(texts)) > 1 and texts not in self.columns:
                self.columns[texts] = free_name(column[0].name, taken), place

    def names(self) -> list[str]:
        """How the literals are written in the class."""
        columns = zip(*(node.literals() for node in self.nodes), strict=True)
        texts = [tuple(literal.text for literal in column) for column in columns]
        return [self.columns[text][0] if text in self.columns else text[0] for text in texts]

    def text(self, groups: dict[Any, Group]) -> str:
        """The class."""
        node, names = self.nodes[0], self.names()
        lines = [f"class {self.name}(nn.Module):", *([f'    """{node.doc}"""', ""] if node.doc else [])]
        arguments = ", ".join(["self", *(name for name, _ in self.columns.values())])
        if node.parts:
            lines += [f"    def __init__({arguments}):", "        super().__init__()"]
            at = 0
            for name, part in node.parts.items():
                count = len(part.literals())
                lines += broken(f"        self.{name} = {made(part, names[at : at + count], groups)}")
                at += count
            lines.append("")
        lines += [f"    {line}" for line in node.forward.splitlines()]
        return "\n".join(lines).rstrip()


def grouped(nodes: list[Node]) -> dict[Any, Group]:
    """The classes that nodes are, by their skeletons."""
    groups: dict[Any, Group] = {}
    taken = set(RESERVED)
    for node in nodes:
        skeleton = node.skeleton()
        if skeleton not in groups:
            groups[skeleton] = Group(free_name(node.kind, taken), [])
        groups[skeleton].nodes.append(node)
    for group in groups.values():
        group.settle()
    return groups


def made(node: Node, texts: list[str], groups: dict[Any, Group]) -> str:
    """The expression that makes a node, its literals written as these texts."""
    if node.kind == "leaf":
        rest = iter(texts)
        return "".join(piece if isinstance(piece, str) else next(rest) for piece in node.pieces)
    if node.kind not in ("list", "dict"):
        group = groups[node.skeleton()]
        return f"{group.name}({', '.join(texts[place] for _, place in group.columns.values())})"
    parts, at = [], 0
    for part in node.parts.values():
        count = len(part.literals())
        parts.append(made(part, texts[at : at + count], groups))
        at += count
    if node.kind == "dict":
        return f"{node.pieces[0]}({{{', '.join(map(': '.join, zip(map(json.dumps, node.parts), parts, strict=True)))}}})"
    if node.pieces[0] == "nn.Sequential":
        if list(node.parts) == [str(number) for number in range(len(parts))]:
            return f"nn.Sequential({', '.join(parts)})"
        named = (f"({json.dumps(name)}, {part})" for name, part in zip(node.parts, parts, strict=True))
        return f"nn.Sequential(OrderedDict([{', '.join(named)}]))"
    if len(parts) > 1 and len(set(parts)) == 1:
        return f"{node.pieces[0]}({parts[0]} for _ in range({len(parts)}))"
    return f"{node.pieces[0]}([{', '.join(parts)}])"


def broken(line: str) -> list[str]:
    """A line of code in several, if it is too long: what stands between its outermost brackets on lines of its own."""
    start = next((found.start() for found in TOKEN.finditer(line) if found[0] in "([{"), None)
    if len(line) <= WIDTH or start is None or line[-1] not in ")]}":
        return [line]
    depth, parts, part = 0, [], ""
    for c in TOKEN.findall(line[start + 1 : -1]):
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return [line]  # the bracket that ends the line is another one's
        if c == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += c
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    parts += [part.strip()] if part.strip() else []
    comma = "" if " for _ in range(" in parts[-1] else ","
    inner = [
        piece
        for text in parts
        for piece in [*broken(f"{indent}{text}")[:-1], broken(f"{indent}{text}")[-1] + comma]
    ]
    return [line[: start + 1], *inner, indent[4:] + line[-1]]
