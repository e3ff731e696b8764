"""When networks compute in plain torch, whatever kernels there are: in a context, or while there are hooks on modules."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

P = ParamSpec("P")
R = TypeVar("R")

PLAIN: ContextVar[bool] = ContextVar("plain", default=False)
"""Whether kernels are off in this context: for whoever records what a network computes."""


@contextlib.contextmanager
def in_plain_torch() -> Iterator[None]:
    """Inside, no compiled kernel takes a part of a network over."""
    token = PLAIN.set(True)
    try:
        yield
    finally:
        PLAIN.reset(token)


def hooked(modules: Iterable[nn.Module]) -> bool:
    """Whether there is a hook on one of these modules: somebody looks on, or makes its weights anew before each call."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(vars(module)[kind] for module in modules for kind in kinds)


def hooks_called(forward: Callable[P, R]) -> Callable[P, R]:
    """The forward pass of a network, in plain torch while there are hooks on its modules: kernels call no modules."""
    without = WeakKeyDictionary[nn.Module, int]()
    """How many hooks had ever been registered, anywhere, when a network had none: looking at all its modules takes long."""

    @functools.wraps(forward)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return forward(*args, **kwargs)
        network, registered = cast(nn.Module, args[0]), RemovableHandle.next_id
        if without.get(network) != registered:
            if hooked(network.modules()):
                with in_plain_torch():
                    return forward(*args, **kwargs)
            without[network] = registered
        return forward(*args, **kwargs)

    return called
