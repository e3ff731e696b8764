"""How much memory the device of a run has left, and running out of it, said in one line."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping

import torch

from enas.errors import ConfigError
from enas.runtime.memory import MIB, available_memory_mib

OF_A_PROCESS = 600.0
"""MiB that a process takes on a GPU beside its tensors, for torch and the kernels."""


def free_mib(device: torch.device) -> float | None:
    """What this process may still take on a device, in MiB; None where it cannot be known.

    On a GPU that includes what torch holds there and does not use.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + unused) / MIB
    return available_memory_mib() if device.type == "cpu" else None


def too_little(free: Mapping[str, float], mib: float, lower: str) -> ConfigError:
    """What to say where no GPU carries a process that takes so much; `lower` says which settings take less."""
    found = ", ".join(f"{_name(torch.device(gpu))} has {_amount(room)} free" for gpu, room in free.items())
    return ConfigError(f"a training takes about {_amount(mib)} of a GPU, and {found}: lower {lower}")


def memory_line(mib: float, device: torch.device, *, here: bool = True) -> str:
    """So much memory, of which device, and whether that much is free if it is `here`: `1.1 GiB of memory`."""
    line, free = f"{_amount(mib)} of {_name(device)}", free_mib(device) if here else None
    if free is not None and free < mib:
        line += f", of which {_amount(free)} are free: it may not suffice"
    return line


def shared_out(free: Mapping[str, float], mib: float, most: int) -> list[str]:
    """The GPU of each process, at most so many, that takes `mib` beside what torch itself needs: as many a GPU as its `free`
    MiB carry, one more on each in turn, those with the most room first.

    Where that is none, one process may try the GPU with the most memory, if that holds the `mib`, which are an estimate.
    """
    carried = {gpu: int(0.95 * room / (mib + OF_A_PROCESS)) for gpu, room in free.items()}
    first = sorted(free, key=lambda gpu: -free[gpu])  # of equal ones, in the order that they are given
    places = [gpu for turn in range(max(carried.values())) for gpu in first if carried[gpu] > turn]
    return places[:most] or [gpu for gpu in first[:1] if free[gpu] >= mib]


def release(device: torch.device) -> None:
    """Give back what torch holds on a GPU and does not use, so that other processes can have it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def peak_mib(device: torch.device) -> Iterator[Callable[[], float]]:
    """Inside, the most that torch has taken on a GPU is counted; the function given returns it, and 0 on other devices."""
    if device.type != "cuda":
        yield lambda: 0.0
        return
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) / MIB


@contextlib.contextmanager
def refusals_explained(device: torch.device, lower: str) -> Iterator[None]:
    """Inside, what a device refuses is said in one line: memory, where `lower` says which settings take less of it, and
    operations that are not deterministic. Raises `ConfigError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
            raise ConfigError(
                f"the networks and their minibatches do not fit into {_name(device)}{_who_has_it(device)}: lower {lower}"
            ) from error
        if "does not have a deterministic implementation" in text:
            raise ConfigError(
                f"{text.split(maxsplit=1)[0]} has no deterministic algorithm on '{device}': use another operation, or "
                "--deterministic False"
            ) from error
        raise


_OUT_OF_MEMORY = ("out of memory", "allocate memory", "STATUS_ALLOC_FAILED")
"""What the errors of CUDA, of MPS, of the CPU's allocator, and of cuBLAS and cuDNN say."""


def _name(device: torch.device) -> str:
    return "memory" if device.type == "cpu" else f"the memory of '{device}'"


def _who_has_it(device: torch.device) -> str:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        return f" ({_amount(total / MIB)}, of which other processes have {_amount(max(0, others) / MIB)})"
    free_now = free_mib(device)
    return "" if free_now is None else f" ({_amount(free_now)} are free)"


def _amount(mib: float) -> str:
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"
