"""Telling the person watching that kernels are being compiled, which the first run on a machine does for minutes.

What compiles a kernel announces it; whoever listens hears of it before the seconds that it takes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from enas.runtime.progress import duration, say
from enas.runtime.stop import StopRequest

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


@contextlib.contextmanager
def compiling_told(
    stop: StopRequest,
    run: str | os.PathLike[str],
    command: str = "enas resume",
    *,
    interval: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Inside, say that kernels are compiled and every `interval` seconds how far; nothing where all are on the disk.

    A request to stop is answered before the next kernel: raises `Stopped`, whose `command` continues `run`. So it is for
    work that leaves nothing to save.
    """
    begun: list[float] = []
    said = 0.0

    def tell(kernel: str, where: str) -> None:
        nonlocal said
        if stop.requested:
            raise stop.stopped(run, command)
        now = clock()
        if not begun:
            say(f"compiling kernels for this processor (once; {where}) …")
            said = now
        elif now - said >= interval:
            say(f"compiling kernels: {len(begun)} done in {duration(now - begun[0])}, now {kernel}")
            said = now
        begun.append(now)

    with listening(tell):
        yield
    if begun:
        say(f"compiling kernels: {len(begun)} done in {duration(clock() - begun[0])}")
