"""Where a run was made: versions, hardware and time, as stored in environment.json."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from enas.runtime.memory import total_memory_mib

NVIDIA = Path("/proc/driver/nvidia")
"""Where NVIDIA's driver for Linux tells of itself."""


def environment() -> dict[str, Any]:
    """The software and the machine of this process, in values that JSON can hold.

    `git_commit` is the commit of the package's own checkout, with `-dirty` at its end if files differ from it; None for an
    installed package. `devices` are the accelerators that torch sees; `cuda` and `cudnn` are what it was built for, None for
    a build for the CPU alone; `driver` is NVIDIA's.
    """
    return {
        **versions(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_mib": round(total_memory_mib()),
        "devices": _device_names(),
        "cuda": torch.version.cuda,
        "cudnn": cudnn_version(),
        "driver": nvidia_driver(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
    }


def versions() -> dict[str, str | None]:
    """The versions of what computes; None for what is not installed."""
    return {
        "enas": version_of("enas"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version_of("numpy"),
        "numba": version_of("numba"),
    }


def usable_cores() -> int:
    """Logical cores that this process may run on; in a container or batch job fewer than the machine has."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version_of(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cudnn_version() -> str | None:
    """The cuDNN that torch uses; None without one."""
    number = torch.backends.cudnn.version()
    if number is None:
        return None
    major, rest = divmod(number, 10_000 if number >= 90_000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def nvidia_driver() -> str | None:
    """The version of NVIDIA's driver, whether torch can use it or not; None if there is none."""
    with contextlib.suppress(OSError):
        found = re.search(r"\d+\.[\d.]*\d", (NVIDIA / "version").read_text(encoding="utf-8"))
        if found is not None:
            return found[0]
    return next(iter(_asked_of_nvidia("driver_version")), None)


def nvidia_gpus() -> list[str]:
    """The names of NVIDIA's GPUs here, whether torch can use them or not."""
    told = [path.read_text(encoding="utf-8") for path in sorted(NVIDIA.glob("gpus/*/information"))]
    names = [match[1].strip() for text in told if (match := re.search(r"^Model:(.*)$", text, re.MULTILINE))]
    return names or _asked_of_nvidia("name")


def _asked_of_nvidia(what: str) -> list[str]:
    """What NVIDIA's own program says, a line for each GPU; nothing where it is missing."""
    return (_output("nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader") or "").splitlines()


def _cpu_model() -> str:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _device_names() -> list[str]:
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["Apple MPS"] if torch.backends.mps.is_available() else []


def _git_commit() -> str | None:
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists():
        return None
    return _output(
        "git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"
    )


def _output(*command: str) -> str | None:
    """What a command prints; None if it fails or is missing."""
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
