"""Which of several processes of one run this is, by what torchrun puts into the environment; no torch."""

import contextlib
import os
from collections.abc import Iterator

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def started_as() -> tuple[int, int]:
    """(the number of this process from 0 on, how many there are): (0, 1) unless torchrun started it."""
    if any(name not in os.environ for name in _NEEDED):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def follows() -> bool:
    """Whether this process does what another one, process 0, begins."""
    return started_as()[0] > 0


@contextlib.contextmanager
def followers_silent() -> Iterator[None]:
    """Inside, a process that follows prints nothing: process 0 says it all. A traceback is printed outside."""
    if not follows():
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        yield
