"""Reads the space of a network, and tries the network's choices on an example."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from enas.choices.modules import Asking, Choice
from enas.choices.plan import plan_of, sites_of, use
from enas.data.batches import copied
from enas.errors import ConfigError
from enas.spaces.choices.space import ChoiceSpace

Example = Tensor | Sequence[Any] | Mapping[str, Any]
"""The inputs of a network: one tensor, several in a row, or by name."""


def space_of(net: nn.Module, example: Example | None = None) -> ChoiceSpace:
    """What may be chosen in a network: one decision for every `Choice`, one or more for every `Inputs`.

    They stand in the order of the modules, parents before what is nested in their options, and have the names of the
    modules' paths. With an example, the network computes a random architecture of it, and every choice all of its options.
    The example, the network's buffers and mode and torch's random numbers stay as they are. Warns of a choice that is never
    called.

    Raises `ConfigError` if nothing in the network asks; if modules that share a decision ask for different things; if one
    module is an option of two choices; and, with an example, if a choice is called twice in a pass, or if its options give
    different shapes.
    """
    space = plan_of(net, anew=True).space
    if example is not None:
        architecture = space.sample(random.Random(0))
        with (
            torch.no_grad(),
            torch.random.fork_rng(),
            buffers_kept(net),
            Trial(net) as trial,
            use(net, architecture),
        ):
            given = copied(example)
            if isinstance(given, Mapping):
                net(**given)
            else:
                net(*((given,) if isinstance(given, Tensor) else given))
        if trial.never:
            warnings.warn(
                f"{', '.join(trial.never)}: never called with this example, so that what is chosen there changes nothing",
                stacklevel=2,
            )
    return space


class Trial(contextlib.ExitStack):
    """Inside, every module of a network that asks is watched, and every choice computes all of its options."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._paths = {site.module: site.path for site in reversed(list(sites_of(net)))}
        self._calls: list[Counter[Asking]] = [Counter()]
        """Of the pass, and of the options that are being tried, which are passes of their own."""
        self._tried: set[Asking] = set()
        for module in self._paths:
            hook = module.register_forward_pre_hook(self._called, with_kwargs=True)
            self.callback(hook.remove)

    @property
    def never(self) -> list[str]:
        """The paths of the modules that were not called."""
        return [path for module, path in reversed(self._paths.items()) if module not in self._tried]

    def _called(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        assert isinstance(module, Asking)
        self._calls[-1][module] += 1
        if self._calls[-1][module] > 1:
            raise ConfigError(
                f"{self._paths[module]} was called twice in one pass; use a copy of it for every call "
                "(copy.deepcopy): it decides as the original does"
            )
        if module not in self._tried:
            self._tried.add(module)
            if isinstance(module, Choice):
                self._try_options(module, inputs, named)

    def _try_options(self, choice: Choice, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        shapes: dict[str, object] = {}
        for name, option in choice.named_children():
            where = f"{self._paths[choice]}, option {name!r}"
            self._calls.append(Counter())
            try:
                shapes[name] = shapes_in(option(*inputs, **named))
            except (RuntimeError, TypeError) as error:
                raise ConfigError(f"{where}, cannot take what the choice is called with: {error}") from error
            finally:
                self._calls.pop()
            first = next(iter(shapes))
            if shapes[name] != shapes[first]:
                raise ConfigError(
                    f"{where}, gives the shape {shapes[name]}, but option {first!r} gives {shapes[first]}; all options of a "
                    "choice must give the same"
                )


def shapes_in(output: object) -> object:
    """The shapes of all tensors in an output."""
    if isinstance(output, Tensor):
        return list(output.shape)
    if isinstance(output, Mapping):
        return {key: shapes_in(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return tuple(shapes_in(value) for value in output)
    return type(output).__name__


@contextlib.contextmanager
def buffers_kept(net: nn.Module) -> Iterator[None]:
    """Put all buffers back afterwards, such as the running statistics of norms."""
    kept = [
        (module._buffers, name, buffer, buffer.clone())
        for module in net.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, value in kept:
            buffer.copy_(value)
            buffers[name] = buffer
