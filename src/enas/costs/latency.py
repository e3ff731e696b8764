"""How long a network's forward pass takes on the device at hand."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from enas.constraints import LARGEST_SAMPLE, Count, PositiveInt, Settings
from enas.plain import in_plain_torch
from enas.runtime.devices import set_threads, wait_for

A_TURN = 3
"""Passes that are timed, one after the other, before the next network has its turn. The fastest counts: in the others the
machine may have had other work."""
LOW, HIGH = 0.1, 0.9
"""Between which quantiles the turns are said to lie."""

Pass = Callable[[], object]
"""One forward pass."""
Clock = Callable[[], float]
"""Returns seconds."""


@dataclass(frozen=True)
class LatencyConfig(Settings):
    """How latencies are measured."""

    batch: PositiveInt | None = None
    """Inputs side by side in a pass. None is one image; for a language model the rows of an evaluation, each as long as its
    windows; for a task of your own a validation batch."""
    warmup: Count = 3
    """Passes of a network before any is timed."""
    repeats: PositiveInt = 9
    """Turns of a network, of each of which the fastest of three passes counts."""
    samples: Annotated[int, Field(ge=20, le=LARGEST_SAMPLE)] = 100
    """Random architectures that a model of latencies is fitted to."""


@dataclass(frozen=True)
class Latency:
    """The time of a forward pass."""

    median_ms: float
    """Milliseconds."""
    low_ms: float
    """A tenth of the turns are faster."""
    high_ms: float
    """A tenth of the turns are slower."""
    repeats: int
    """Turns, of each of which the fastest of three passes counts."""
    threads: int
    """Threads of the CPU."""
    batch: int
    """Inputs side by side."""
    device: str
    """As torch calls it."""


def measure_latency(
    module: Callable[..., object],
    inputs: Sequence[Any],
    *,
    threads: int | None = None,
    warmup: int = 3,
    repeats: int = 9,
    clock: Clock | None = None,
) -> Latency:
    """The latency of a module that is in evaluation mode, on the device of its first input, a tensor with the batch as its
    first axis. `threads` are those of the CPU, None for torch's own choice; `clock` returns seconds, by default as
    `clock_for` says."""
    device, batch = inputs[0].device, len(inputs[0])
    config = LatencyConfig(batch, warmup, repeats)
    with using_threads(threads):
        return measure_in_turn([lambda: module(*inputs)], config, device, batch, clock=clock)[0]


@torch.inference_mode()
def measure_in_turn(
    passes: Sequence[Pass],
    config: LatencyConfig,
    device: torch.device,
    batch: int,
    between: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
) -> list[Latency]:
    """The latency of several networks, in plain torch. Their passes are timed in turns, in an order that is drawn anew for
    every round, so that what else the machine does hits all alike. `between` is called between two turns."""
    clock = clock_for(device) if clock is None else clock
    seconds: list[list[float]] = [[] for _ in passes]
    order = list(range(len(passes)))
    rng = random.Random(0)
    with in_plain_torch():
        for turn in range(config.repeats):
            rng.shuffle(order)
            for number in order:
                between()
                for _ in range(1 if turn else config.warmup):
                    passes[number]()
                seconds[number].append(min(timed(passes[number], device, clock) for _ in range(A_TURN)))
    return [latency_of(times, device, batch) for times in seconds]


def timed(one: Pass, device: torch.device, clock: Clock) -> float:
    """Seconds of a pass."""
    wait_for(device)
    began = clock()
    one()
    wait_for(device)
    return clock() - began


def clock_for(device: torch.device) -> Clock:
    """The clock that passes on a device are timed by, inside `using_threads`.

    A pass on one thread of a CPU is timed by how long the thread has computed: that is what the pass takes on a machine
    without other work. Windows counts that in steps that are too long.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1 and sys.platform != "win32"
    return time.thread_time if alone else time.perf_counter


def latency_of(seconds: Sequence[float], device: torch.device, batch: int) -> Latency:
    """What these turns come to."""
    low, median, high = (1000 * float(value) for value in np.quantile(seconds, (LOW, 0.5, HIGH)))
    return Latency(median, low, high, len(seconds), torch.get_num_threads(), batch, str(device))


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes with so many threads of the CPU; None leaves it as it is."""
    before = torch.get_num_threads()
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)
