"""Which device a run computes on, how precisely, and with how many threads."""

import contextlib
import math
import os
import re
import time
from typing import Literal

import torch
from torch import nn

from enas.errors import ConfigError, shown

Precision = Literal["fp32", "tf32", "bf16"]


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, …, `mps`.

    Raises `ConfigError` if there is no such kind of device, or this machine or this build of PyTorch lacks it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # mps is slower than the CPU's compiled kernels
    if re.fullmatch(r"cpu|mps|cuda(:(0|[1-9][0-9]?))?", name) is None:  # to torch, cuda:256 is cuda:0
        raise ConfigError(f"Unknown device {shown(name)}. Use auto, cpu, cuda, cuda:N or mps.")
    device = torch.device(name)
    missing = None
    if device.type == "cuda":
        missing = _why_no_cuda(device.index)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        missing = "it needs a Mac with Apple silicon and a PyTorch built for it"
    if missing is not None:
        raise ConfigError(f"Device '{name}' cannot be used: {missing}. Choose another, for example cpu.")
    return device


def gpus_of(device: torch.device) -> list[torch.device]:
    """The GPUs that a device leaves open: for `cuda` all that this process sees, for `cuda:1` that one; else none."""
    if device.type != "cuda":
        return []
    every = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [device] if ":" in str(device) else every


def take_device(name: str) -> torch.device:
    """The device of this name, which from now on is the one of this process: what names only a kind of device means it."""
    device = pick_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def numbered(device: torch.device) -> str:
    """The name of a device, with its number if it is a GPU of CUDA: `cuda:0`."""
    return f"cuda:{torch.cuda.current_device()}" if str(device) == "cuda" else str(device)


def check_precision(device: torch.device, precision: Precision, allow_slow: bool) -> None:
    """Raise `ConfigError` if the device has no instructions for this precision: it would compute tf32 as fp32, and bf16 many
    times more slowly.

    For bf16 one product is timed on a CPU. That is not checked where `allow_slow` is true.
    """
    if precision == "tf32" and not _has_tf32(device):
        raise ConfigError(
            f"--precision tf32 is for NVIDIA GPUs of compute capability 8.0 and later; '{device}' is none. Use fp32."
        )
    if precision != "bf16" or allow_slow:
        return
    why = None
    if device.type == "cpu" and (times := slowness_of_bfloat16()) > _TOO_SLOW:
        why = (
            f"this processor has no instructions for it; a product takes {times:.0f} times as long as in fp32"
        )
    elif device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        why = "this GPU has no instructions for it"
    if why is not None:
        raise ConfigError(
            f"--precision bf16 would be slow: {why}. Use fp32, or insist with --allow-slow True."
        )


_TOO_SLOW = 3.0
"""Compared with fp32, bf16 takes 0.3 times as long on processors made for it, 1.4 times with AVX-512, 40 times with AVX2."""


def _has_tf32(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def set_arithmetic(
    device: torch.device, precision: Precision, *, deterministic: bool, same_shapes: bool
) -> None:
    """Choose how a CUDA GPU computes in this process; other devices leave no choice.

    Products of float32 are of TensorFloat-32 in tf32 alone; by torch's own default those of convolutions always are. Where
    minibatches have the `same_shapes`, cuDNN tries its algorithms once for each shape. `deterministic` algorithms give the
    same every time, and an operation without one raises a RuntimeError.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        torch.backends.cudnn.benchmark = False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch asks for
    elif same_shapes:
        torch.backends.cudnn.benchmark = True


def slowness_of_bfloat16() -> float:
    """The time of a product in bfloat16 on the CPU, divided by that of one in float32. Takes some 10 ms."""
    shortest = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(5):  # the shortest counts, as the machine may have other work
        for dtype, seconds in shortest.items():
            x = torch.ones(32, 256, dtype=dtype)
            weight = torch.ones(256, 256, dtype=dtype)
            began = time.perf_counter()
            x @ weight
            shortest[dtype] = min(seconds, time.perf_counter() - began)
    return shortest[torch.bfloat16] / shortest[torch.float32]


def set_threads(count: int | None) -> int:
    """Let torch compute with `count` threads (None: leave it as it is); return the number in effect.

    Raises `ConfigError` if `count` is below 1.
    """
    if count is not None:
        if count < 1:
            raise ConfigError(f"Cannot compute with {count} threads: give 1 or more.")
        torch.set_num_threads(count)
    return torch.get_num_threads()


def products_in(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, convolutions and matrix products take operands of this type, by autocast, if it is shorter than float32."""
    if dtype.itemsize >= torch.float32.itemsize:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def as_they_are(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, autocast is off: convolutions and products take their operands as they are."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def channels_last_destroys(model: nn.Module, device: torch.device) -> bool:
    """Whether channels that lie together would destroy what else is in memory: on processors with AVX2 but without AVX-512
    oneDNN's gradient of a 1×1 convolution that skips pixels writes where it must not (torch 2.13)."""
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return False
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return any(conv.kernel_size == (1, 1) and max(conv.stride) > 1 for conv in convs)


def check_channels_last(model: nn.Module, device: torch.device) -> None:
    """Raise `ConfigError` where `channels_last_destroys`."""
    if channels_last_destroys(model, device):
        raise ConfigError(
            "channels_last = True: on this processor, without AVX-512, torch's gradient of the network's 1×1 convolutions "
            "with a stride destroys what is in memory; leave it out, or set it to false in the config.json of a run"
        )


def _why_no_cuda(index: int | None) -> str | None:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no working CUDA driver and GPU"
    count = torch.cuda.device_count()
    if index is not None and index >= count:
        return f"this machine has {count} CUDA device(s), numbered from 0"
    return None


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given; the CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
