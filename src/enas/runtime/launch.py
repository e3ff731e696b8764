"""Which of several processes of one run this is, by what torchrun puts into the environment; no torch."""

import contextlib
import os
import re
from collections.abc import Iterator

from enas.errors import ConfigError, shown

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def started_as() -> tuple[int, int]:
    """(the number of this process from 0 on, how many there are): (0, 1) unless torchrun started it.

    Raises `ConfigError` if what stands for them in the environment is none of torchrun's.
    """
    if any(name not in os.environ for name in _NEEDED):
        return 0, 1
    rank, count = os.environ["RANK"], os.environ["WORLD_SIZE"]
    numbers = all(re.fullmatch(r"\d{1,9}", one, re.ASCII) for one in (rank, count))
    if not numbers or int(rank) >= int(count):
        raise ConfigError(
            f"RANK={shown(rank)} and WORLD_SIZE={shown(count)} in the environment are not a process's number and how many "
            "there are, as torchrun sets them; unset both, or start with torchrun"
        )
    return int(rank), int(count)


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
