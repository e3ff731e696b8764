"""Memory that a step frees and the next step asks for again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for its next allocations; returns whether the C library can do that.

    By default glibc gives large blocks back to the system and asks for new ones, which the system has to clear page by
    page: up to a tenth of a training step on a CPU. For a program to call as it starts, as it holds for the whole
    process; the peak of its memory stays the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    never = 2**31 - 1
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, never))
