"""How much memory there is, is left, and was used at most, in MiB, on Linux, macOS and Windows."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

MIB = 2**20

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", wintypes.DWORD),
            ("load", wintypes.DWORD),
            ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong),
            ("others", ctypes.c_ulonglong * 5),
        )

    class _ProcessMemory(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of the Windows API."""

        _fields_ = (
            ("length", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            ("peak_working_set", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    def _status() -> _MemoryStatus:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status

    def total_memory_mb() -> float:
        """Return the physical memory of this machine."""
        return float(_status().total) / MIB

    def available_memory_mb() -> float | None:
        """Return the memory that this process may still take without swapping."""
        return float(_status().available) / MIB

    def peak_memory_mb() -> float:
        """Return the most physical memory that this process has held at once."""
        memory = _ProcessMemory(length=ctypes.sizeof(_ProcessMemory))
        this_process = wintypes.HANDLE(-1)
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(this_process, ctypes.byref(memory), memory.length)
        return float(memory.peak_working_set) / MIB

else:
    import resource

    def total_memory_mb() -> float:
        """Return the physical memory of this machine."""
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB

    def available_memory_mb() -> float | None:
        """Return the memory that this process may still take without swapping, None where it cannot be known.

        The limit of a container or batch job (control groups, version 2) counts where it is tighter.
        """
        machine = (
            _available_macos() if sys.platform == "darwin" else _proc_kib("/proc/meminfo", "MemAvailable")
        )
        return min((mb for mb in (machine, _left_in_cgroups()) if mb is not None), default=None)

    def peak_memory_mb() -> float:
        """Return the most physical memory that this process has held at once."""
        # Linux hands getrusage's figure from a parent process down to its children, but not this one.
        peak = _proc_kib("/proc/self/status", "VmHWM")
        if peak is not None:
            return peak
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB

    def _proc_kib(path: str, key: str) -> float | None:
        """Return the line `key: N kB` of a file of Linux's /proc, in MiB."""
        with contextlib.suppress(OSError):
            for line in Path(path).read_text(encoding="utf-8").splitlines():
                if line.startswith(f"{key}:"):
                    return int(line.split()[1]) / 1024
        return None

    def _left_in_cgroups(
        membership: Path = Path("/proc/self/cgroup"), top: Path = Path("/sys/fs/cgroup")
    ) -> float | None:
        """Return what the tightest of this process's control groups has left, None if none has a limit."""
        lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
        folders = [top / line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
        levels = [level for folder in folders for level in (folder, *folder.parents)]
        left = [_left_in_cgroup(level) for level in levels if level.is_relative_to(top)]
        return min((mb for mb in left if mb is not None), default=None)

    def _left_in_cgroup(group: Path) -> float | None:
        """Return what one control group has left; caches of files count as free."""
        try:
            limit = int((group / "memory.max").read_text(encoding="utf-8"))
            used = int((group / "memory.current").read_text(encoding="utf-8"))
            stat = dict(
                line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines()
            )
        except (OSError, ValueError):  # no limit reads "max"; the top group has no such files
            return None
        return (limit - used + int(stat["inactive_file"])) / MIB

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
