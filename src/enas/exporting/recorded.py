"""What the modules of a network do in a forward pass: for each module, the calls of torch's functions and of the modules in
it, in order.

Modules of torch itself are taken as they are. Every other module has a frame, with the tensors that go in and come out. What
is no tensor, such as a size or which path is taken, is what it was in the pass that is recorded.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import keystr, tree_flatten_with_path

from enas.errors import ExportError

OPERATORS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "matmul": "@",
    "__truediv__": "/",
    "__matmul__": "@",
    "__pow__": "**",
    "__eq__": "==",
    "__ne__": "!=",
    "__lt__": "<",
    "__le__": "<=",
    "__gt__": ">",
    "__ge__": ">=",
    "__and__": "&",
    "__or__": "|",
}
"""Methods of tensors that have a sign, which all bind alike here: whatever is put into another expression has brackets."""
AUGMENTED = {"__iadd__": "add_", "__isub__": "sub_", "__imul__": "mul_", "__idiv__": "div_"}
"""What an assignment such as `x += y` calls, by a name that reads better."""


class Value:
    """A tensor of a forward pass, within one frame."""

    def __init__(self, hint: str) -> None:
        self.hint = hint
        """What it may be called."""


Expression = list["str | Value"]
"""Text, with values in the places of their names."""


@dataclass
class Step:
    """One call, and the tensors that it makes."""

    makes: Any
    """A value, or values within tuples."""
    expression: Expression
    operator: bool = False
    """Whether it needs brackets inside another expression."""
    place: bool = False
    """Whether it only says where something is."""


@dataclass
class Frame:
    """What one module does."""

    module: nn.Module
    inputs: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """The modules and tensors in it that take part, by their names with dots."""
    known: dict[int, tuple[Tensor, Value]] = field(default_factory=dict)
    """The tensors by their identity, which are kept so that it stays theirs."""

    def knows(self, tensor: Tensor, value: Value) -> None:
        """From now on, the tensor is this value."""
        self.known[id(tensor)] = tensor, value

    @property
    def idle(self) -> bool:
        """Whether it returns what it is given."""
        return not self.steps and all(value in self.inputs for value in self.outputs)


class Recording(TorchFunctionMode):
    """Inside, what is called is recorded."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.places = {module: place for place, module in model.named_modules()}
        self.frames: dict[nn.Module, list[Frame]] = {}
        """What each module did, at each of its calls."""
        self.stack: list[Frame | None] = []
        """The frames of the modules that are at work; None for one of torch's own."""
        self.hooks: list[Any] = []

    def __enter__(self) -> Recording:
        for module in self.model.modules():
            self.hooks += [
                module.register_forward_pre_hook(self.begin, with_kwargs=True),
                module.register_forward_hook(self.end, with_kwargs=True),
            ]
        TorchFunctionMode.__enter__(self)  # not by super(), whose type is not known
        return self

    def __exit__(self, *error: object) -> None:
        TorchFunctionMode.__exit__(self, *error)
        for hook in self.hooks:
            hook.remove()

    def named(self, module: nn.Module) -> str:
        """What a module is called in a message: its class, and where it is."""
        kind, place = type(module).__name__, self.places.get(module)
        return f"the {kind} {place!r}" if place else f"the {kind}"

    # ---- modules -----------------------------------------------------------------------------------------------------

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is called."""
        if of_torch(module):
            self.stack.append(None)
            return
        frame = Frame(module)
        for name, tensor in arguments(module, args, kwargs):
            if id(tensor) not in frame.known:
                frame.inputs.append(Value(name))
                frame.knows(tensor, frame.inputs[-1])
        self.stack.append(frame)

    def end(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module returns."""
        frame = self.stack.pop()
        made = [tensor for _, tensor in named_tensors("", output)]
        if frame is not None:
            frame.outputs = [self.value(frame, tensor) for tensor in made]
            self.frames.setdefault(module, []).append(frame)
        outer = self.stack[-1] if self.stack else None
        if outer is None:
            return
        given = list({id(x): x for _, x in arguments(module, args, kwargs)}.values())
        if frame is not None and frame.idle:
            for tensor, value in zip(made, frame.outputs, strict=True):
                outer.knows(tensor, self.value(outer, given[frame.inputs.index(value)]))
            return
        if isinstance(module, nn.modules.dropout._DropoutNd):  # nothing is dropped in evaluation
            outer.knows(made[0], self.value(outer, given[0]))
            return
        place = next((name for name, each in outer.module.named_modules() if each is module), None)
        if place is None:
            raise ExportError(f"{self.named(outer.module)} calls a {type(module).__name__} that is not in it")
        outer.used.add(place)
        if frame is None:
            inputs = self.arguments(outer, args, kwargs)
        else:
            inputs, output = listed(self.value(outer, tensor) for tensor in given), tuple(made)
        expression: Expression = [access(outer.module, place), "(", *inputs, ")"]
        outer.steps.append(Step(self.makes(outer, output, place.rpartition(".")[2]), expression))

    def makes(self, frame: Frame, output: Any, hint: str) -> Any:
        """New values for the tensors of an output, within the tuples that they are in."""
        if isinstance(output, Tensor):
            value = Value(hint)
            frame.knows(output, value)
            return value
        if isinstance(output, list | tuple):
            parts = tuple(self.makes(frame, part, hint) for part in output)
            return parts[0] if len(parts) == 1 else parts
        raise ExportError(f"{self.named(frame.module)} is given a {type(output).__name__} by a module in it")

    def value(self, frame: Frame, tensor: Tensor) -> Value:
        """What a tensor is in a frame. Raises `ExportError` if it comes from nowhere."""
        if id(tensor) in frame.known:
            return frame.known[id(tensor)][1]
        owned = (*frame.module.named_parameters(), *frame.module.named_buffers())
        place = next((name for name, each in owned if each is tensor), None)
        if place is None:
            raise ExportError(
                f"{self.named(frame.module)} uses a tensor that is neither given to it nor a parameter or buffer of it"
            )
        frame.used.add(place)
        weight = Value("weight")
        frame.steps.append(Step(weight, [access(frame.module, place)], place=True))
        frame.knows(tensor, weight)
        return weight

    # ---- functions ---------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        frame = self.stack[-1] if self.stack else None
        made = [tensor for _, tensor in named_tensors("", result)]
        name = resolve_name(func) or ""
        word = name.rpartition(".")[2]
        if frame is not None and word == "__setitem__":
            part, _ = self.call(frame, name.replace("set", "get"), args[:2], {})
            frame.steps.append(Step((), [*part, " = ", *self.written(frame, args[2])]))
        if frame is None or not made:
            return result
        given = [tensor for _, tensor in named_tensors("", (args, kwargs))]
        arguments = called_with(func, args, kwargs)
        in_place = (
            word.startswith("__i")
            or (word.endswith("_") and not word.endswith("__"))
            or arguments.get("inplace")
        )
        dropped = word.endswith("dropout") and not arguments.get("training", True)
        if (
            (name == "torch.cat" and len(given) == 1)
            or dropped
            or (given and made[0] is given[0] and not in_place)
        ):
            frame.knows(made[0], self.value(frame, given[0]))  # nothing has changed
            return result
        expression, operator = self.call(frame, name, args, without_defaults(func, kwargs))
        if isinstance(result, list | tuple) and len(result) == 1:
            expression = [*expression, "[0]"]
        frame.steps.append(Step(self.makes(frame, result, "x"), expression, operator))
        return result

    def arguments(self, frame: Frame, args: Any, kwargs: dict[str, Any]) -> Expression:
        """The arguments of a call as text."""
        named = ([f"{key}=", *self.written(frame, value)] for key, value in kwargs.items())
        return listed([*(self.written(frame, value) for value in args), *named])

    def call(self, frame: Frame, name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Expression, bool]:
        """A function's call as text, and whether it is one with a sign."""
        write = partial(self.written, frame)
        if name.startswith("torch.Tensor.") and args:
            word, first, rest = name.removeprefix("torch.Tensor."), write(args[0]), args[1:]
            if word.endswith(".__get__"):
                return [*first, ".", word.removesuffix(".__get__")], False
            if word == "__getitem__":
                index = rest[0] if isinstance(rest[0], tuple) else rest
                return [*first, "[", *listed(map(write, index)), "]"], False
            if word in OPERATORS and len(rest) == 1 and not kwargs:
                return [*first, f" {OPERATORS[word]} ", *write(rest[0])], True
            start: Expression = [*first, f".{AUGMENTED.get(word, word)}("]
        elif name.startswith("torch.nn.functional."):
            start, rest = [f"F.{name.rpartition('.')[2]}("], args
        elif name.startswith("torch."):
            start, rest = [f"{name}("], args
        else:
            raise ExportError(f"{self.named(frame.module)} calls a function of torch that has no public name")
        return [*start, *self.arguments(frame, rest, kwargs), ")"], False

    def written(self, frame: Frame, value: Any) -> Expression:
        """An argument as text."""
        if isinstance(value, Tensor):
            return [self.value(frame, value)]
        if isinstance(value, list | tuple):
            inner = listed(self.written(frame, part) for part in value)
            if isinstance(value, list):
                return ["[", *inner, "]"]
            return ["(", *inner, ",)" if len(value) == 1 else ")"]
        if isinstance(value, slice):
            ends = ["" if end is None else repr(end) for end in (value.start, value.stop, value.step)]
            return [":".join(ends[: 2 if value.step is None else 3])]
        if value is Ellipsis:
            return ["..."]
        if isinstance(value, torch.device) and frame.inputs:  # wherever the network is then
            return [frame.inputs[0], ".device"]
        if isinstance(value, float) and not math.isfinite(value):
            return [f"float('{value}')"]
        if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.memory_format):
            return [repr(value)]
        raise ExportError(f"{self.named(frame.module)} gives a {type(value).__name__} to a function of torch")


def of_torch(module: nn.Module) -> bool:
    """Whether a module is one of torch's own."""
    return type(module).__module__.startswith("torch.nn.")


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """The tensors that a module is called with, by names made of those of its parameters."""
    given = called_with(module.forward, args, kwargs)
    return [pair for name, value in given.items() for pair in named_tensors(name, value)]


def called_with(function: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name; none where a function does not say its own."""
    try:
        return dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {}


def without_defaults(function: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are not what they are anyway."""
    function = getattr(F, f"_{function.__name__}", function)  # which has the signature, where there are two
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return kwargs
    plain = (bool, int, float, str, type(None))
    return {
        name: value
        for name, value in kwargs.items()
        if not (name in known and isinstance(value, plain) and value == known[name].default)
    }


def named_tensors(name: str, value: Any) -> list[tuple[str, Tensor]]:
    """The tensors in a value, by its name and their places in it."""
    leaves, _ = tree_flatten_with_path(value)
    tensors = [(path, leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
    if len(tensors) == 1:
        return [(name, tensors[0][1])]
    return [("_".join([name, *re.findall(r"[^\W_]+", keystr(path))]), tensor) for path, tensor in tensors]


def access(module: nn.Module, place: str) -> str:
    """How a part of a module is written inside it: `self.layers[0].conv.weight`."""
    text = "self"
    for key in place.split("."):
        if isinstance(module, nn.ModuleList | nn.Sequential | nn.ParameterList) and key.isdigit():
            text += f"[{key}]"
        elif isinstance(module, nn.Sequential) and not key.isidentifier():
            text += f".get_submodule({json.dumps(key)})"
        elif isinstance(module, nn.ModuleDict | nn.ParameterDict):
            text += f"[{json.dumps(key)}]"
        else:
            text += f".{key}"
        module = getattr(module, key, module)
    return text


def listed(parts: Iterable[Value | Expression]) -> Expression:
    """Parts with commas between them."""
    joined: Expression = []
    for part in parts:
        joined += [", "] if joined else []
        joined += part if isinstance(part, list) else [part]
    return joined
