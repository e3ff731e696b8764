"""Seconds of work, by which budgets are compared: those of the processor on a CPU, those of the clock on a GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Clock = Callable[[], float]
"""Returns seconds since some moment."""


def processor_seconds() -> float:
    """Seconds that cores have worked for this process: in all its threads, and in processes that it started and that have
    ended, such as those of a data loader (which Windows does not tell)."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def work_clock(device: torch.device, processes: int = 1) -> Clock:
    """What counts the work of a computation on a device, in which so many processes have equal parts.

    On a CPU other programs then take nothing away from a budget, and a second in which two cores work counts two. What a GPU
    does no processor tells: there it is the time that passes.
    """
    clock = processor_seconds if device.type == "cpu" else time.monotonic
    return clock if processes == 1 else lambda: processes * clock()


def work_of(record: Mapping[str, Any]) -> float:
    """Seconds of work that a record tells: its `work`, or `seconds` by the clock if it is from before there was a `work`; 0
    if it tells neither, as of a training that diverged."""
    work = record.get("work")
    return float(record.get("seconds") or 0.0) if work is None else float(work)
