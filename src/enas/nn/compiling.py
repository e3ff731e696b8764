"""Hearing of it when a kernel is about to be compiled, which takes seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Listener = Callable[[str, str], None]
"""Takes the name of a kernel that is not compiled yet, and where it will be kept. What it raises ends the kernel's call."""

_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, the listener is called before a kernel is compiled; not for those that are read from the disk."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(kernel: str, where: str) -> None:
    """Tell all listeners."""
    for listener in list(_listeners):
        listener(kernel, where)
