"""What is exported: a module, what goes in, and which of its axes may have any length.

Shape letters: T time, B batch, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map

from enas.errors import ConfigError
from enas.runtime.seeding import generator

Inputs = tuple[Tensor, ...]
Run = Callable[..., Any]
"""A module, or what was made of it: tensors in, tensors out, possibly within tuples."""


@dataclass(frozen=True)
class Subject:
    """A module to export."""

    name: str
    """Of its files."""
    module: nn.Module
    drawn: Callable[[int], Inputs]
    """Inputs for a batch of this size, the same at every call."""
    axes: tuple[Mapping[int, str], ...]
    """For each input, the axes whose length may vary, by what they are."""
    inputs: tuple[str, ...]
    """The names of the inputs."""
    outputs: tuple[str, ...]
    """The names of the outputs."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else a user has to know, such as the names of the classes; goes into a file where it has a place for that."""
    title: str = "A network."
    """What it is, for people."""
    caller: Callable[[nn.Module], Run] = lambda module: module
    """From a module like the one that a user has to a function of the inputs."""
    whole: nn.Module | None = None
    """The module that a user has, if `module` is a part of it, or another form."""
    code: Callable[[], tuple[str, str]] | None = None
    """Its classes as text, and the expression that makes it, if they are not those that a recording gives."""

    @property
    def reference(self) -> Run:
        """What every file is compared with."""
        return self.module if self.whole is None else self.caller(self.whole)

    def example(self) -> Inputs:
        """Inputs to record the module with. A batch of one would be taken for a batch that is always one."""
        return self.drawn(2)

    def varying(self) -> tuple[Any, ...]:
        """The axes as `torch.export` takes them: an entry for each parameter of `forward`."""
        lengths = {name: Dim(name) for axes in self.axes for name in axes.values()}
        each = iter([{axis: lengths[name] for axis, name in axes.items()} for axes in self.axes])
        given = inspect.signature(self.module.forward).bind(*self.example()).arguments
        return tuple(tree_map(lambda _: next(each), list(given.values())))


def tensors(output: Any) -> list[Tensor]:
    """The tensors of an output. Raises `ConfigError` if there is none."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if not found:
        raise ConfigError(f"the module returns no tensor, but {type(output).__name__}")
    return found


def any_module(module: nn.Module, example: Tensor | Sequence[Tensor]) -> Subject:
    """A module whose inputs are tensors, each with the batch as its first axis.

    The values of inputs are drawn from those of the example. Raises `ConfigError` if the example is something else.
    """
    given: tuple[Any, ...] = (example,) if isinstance(example, Tensor) else tuple(example)
    if not given or not all(isinstance(x, Tensor) and x.dim() and x.numel() for x in given):
        raise ConfigError(
            "an example is a tensor, or several, each with the batch as its first axis and not empty"
        )

    def drawn(batch: int) -> Inputs:
        draw = generator(0, "example", batch)
        return tuple(
            x.detach().flatten()[torch.randint(x.numel(), (batch, *x.shape[1:]), generator=draw)]
            for x in given
        )

    return batched(module, drawn)


def batched(module: nn.Module, drawn: Callable[[int], Inputs], title: str = "A network.") -> Subject:
    """A module whose inputs all have the batch as their first axis. Raises `ConfigError` if it returns no tensor."""
    inputs = drawn(2)
    with torch.no_grad():
        outputs = tensors(module(*inputs))
    return Subject(
        "model",
        module,
        drawn,
        tuple({0: "batch"} for _ in inputs),
        numbered("input", len(inputs)),
        numbered("output", len(outputs)),
        title=title,
    )


def numbered(name: str, count: int) -> tuple[str, ...]:
    """The names of several things."""
    return (name,) if count == 1 else tuple(f"{name}_{number}" for number in range(count))
