"""Copies between the CPU and a GPU that nobody waits for.

A GPU is given work ahead of what it does, and any wait for its numbers leaves it idle
until it is given more. So random draws go there from pinned memory while the CPU goes on, and what is logged comes back a
step later.
"""

from __future__ import annotations

import torch
from torch import Tensor


def queues(device: torch.device) -> bool:
    """Whether a device does what it is given later, in order, so that waiting for it costs: a CUDA GPU."""
    return device.type == "cuda"


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. A GPU copies one of the CPU when its turn comes."""
    if queues(device) and tensor.is_cpu:
        return pinned(tensor).to(device, non_blocking=True)
    return tensor.to(device)


class Arriving:
    """Numbers on their way from a GPU, as it computes them."""

    def __init__(self, values_N: Tensor) -> None:
        """`values_N` is a vector on the GPU."""
        self._host_N = pinned(torch.empty(values_N.shape, dtype=values_N.dtype))
        self._host_N.copy_(values_N, non_blocking=True)
        self._arrived = marked(values_N.device)

    def read(self) -> list[float]:
        """The numbers; waits until they are there."""
        self._arrived.synchronize()
        numbers: list[float] = self._host_N.tolist()
        return numbers


def pinned(tensor: Tensor) -> Tensor:
    """A copy in memory that a GPU reads and writes by itself."""
    return tensor.pin_memory()


def marked(device: torch.device) -> torch.cuda.Event:
    """An event that comes when a GPU has done what it was given so far."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))  # of this device, which need not be the current one
    return event
