"""Which device a run computes on, and with how many threads."""

import re

import torch

from enas.errors import ConfigError, shown


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`: `auto` (the best there is), `cpu`, `cuda`, `cuda:1`, … or `mps`.

    Raises:
        ConfigError: there is no such kind of device, or this machine or this build of PyTorch lacks it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) is None:
        raise ConfigError(f"Unknown device {shown(name)}. Use auto, cpu, cuda, cuda:N or mps.")
    device = torch.device(name)
    missing = {"cpu": None, "cuda": _why_no_cuda(device.index), "mps": _why_no_mps()}[device.type]
    if missing is not None:
        raise ConfigError(f"Device '{name}' cannot be used: {missing}. Choose another, for example cpu.")
    return device


def set_threads(count: int | None) -> int:
    """Let torch compute with `count` threads (None: as it is); return the number in effect.

    Raises:
        ConfigError: `count` is below 1.
    """
    if count is not None:
        if count < 1:
            raise ConfigError(f"Cannot compute with {count} threads: give 1 or more.")
        torch.set_num_threads(count)
    return torch.get_num_threads()


def _why_no_cuda(index: int | None) -> str | None:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no working CUDA driver and GPU"
    count = torch.cuda.device_count()
    if index is not None and index >= count:
        return f"this machine has {count} CUDA device(s), numbered from 0"
    return None


def _why_no_mps() -> str | None:
    if torch.backends.mps.is_available():
        return None
    return "it needs a Mac with Apple silicon and a PyTorch built for it"
