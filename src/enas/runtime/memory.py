"""How much memory there is and how much is left, in MiB, on Linux, macOS and Windows; and keeping what a step frees."""

import contextlib
import ctypes
import os
import subprocess
import sys
from pathlib import Path

MIB = 2**20
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def total_memory_mib() -> float:
    """Return the physical memory of this machine."""
    if sys.platform == "win32":
        return _windows_memory()[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB


def available_memory_mib() -> float | None:
    """Return the memory that this process may still take without swapping, None where it cannot be known.

    The limit of a container or batch job (control groups, version 2) counts where it is tighter.
    """
    if sys.platform == "win32":
        return _windows_memory()[1]
    machine = _available_macos() if sys.platform == "darwin" else _available_linux()
    return min((mib for mib in (machine, _left_in_cgroups()) if mib is not None), default=None)


if sys.platform == "win32":

    def _windows_memory() -> tuple[float, float]:
        """Total and available memory, from MEMORYSTATUSEX of the Windows API: eight numbers of 64 bits."""
        status = (ctypes.c_ulonglong * 8)(64)  # the first is the length of all
        ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status))
        return status[1] / MIB, status[2] / MIB


def _available_linux() -> float | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    return None


def _available_macos() -> float | None:
    """Return the free and the reclaimable pages that `vm_stat` counts."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        text = subprocess.run(
            ["vm_stat"], capture_output=True, encoding="utf-8", timeout=5, check=True
        ).stdout
        rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        names = ("Pages free", "Pages inactive", "Pages speculative")
        pages = sum(int(rows[name].strip(" .")) for name in names if name in rows)
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return None


def _left_in_cgroups(
    membership: Path = Path("/proc/self/cgroup"), top: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Return what the tightest of this process's control groups has left, None if none has a limit."""
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    folders = [top / line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    levels = [level for folder in folders for level in (folder, *folder.parents)]
    left = [_left_in_cgroup(level) for level in levels if level.is_relative_to(top)]
    return min((mib for mib in left if mib is not None), default=None)


def _left_in_cgroup(group: Path) -> float | None:
    """Return what one control group has left; caches of files count as free."""
    try:
        limit, used, statistics = (
            (group / name).read_text(encoding="utf-8")
            for name in ("memory.max", "memory.current", "memory.stat")
        )
        caches = dict(line.split() for line in statistics.splitlines())["inactive_file"]
        return (int(limit) - int(used) + int(caches)) / MIB
    except (OSError, ValueError):  # no limit reads "max"; the top group has no such files
        return None


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
