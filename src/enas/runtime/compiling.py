"""Telling the person watching that kernels are being compiled, which takes minutes in the first run on a machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from enas.runtime.progress import duration, say
from enas.runtime.stop import StopRequest

_listeners: list[Callable[[str, str], None]] = []
"""Called with the name of a kernel and where it will be kept. What they raise ends the kernel's call."""


def announce(kernel: str, where: str) -> None:
    """Say that a kernel is compiled next. Not called for kernels that are read from the disk."""
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
    """Inside, say that kernels are compiled, and every `interval` seconds how many are; nothing where all are on the disk.

    A request to stop is answered before the next kernel: raises `Stopped`, whose `command` continues `run`. So use it only
    around work that has nothing to save.
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

    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)
    if begun:
        say(f"compiling kernels: {len(begun)} done in {duration(clock() - begun[0])}")
