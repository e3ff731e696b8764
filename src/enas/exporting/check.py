"""Whether what was written computes what the network does, and how long a pass takes."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from enas.errors import ExportError
from enas.exporting.subject import Inputs, Run, Subject, tensors

BATCHES = (1, 2, 7)
"""The sizes of batch at which outputs are compared."""
WARM_UP, LEAST, MOST, ENOUGH = 3, 5, 50, 0.3
"""Passes before the measurement, fewest and most passes of it, and seconds after which they are enough."""


@torch.no_grad()
def largest_difference(subject: Subject, run: Run) -> float:
    """How far the outputs of `run` are from those of the module, at most, as a share of the module's largest output.

    Raises `ExportError` if it cannot be run at one of the sizes, or its outputs have other shapes.
    """
    largest = 0.0
    for batch in BATCHES:
        inputs = subject.drawn(batch)
        expected = tensors(subject.reference(*inputs))
        try:
            found = tensors(run(*inputs))
        except Exception as error:  # runtimes raise errors of any kind
            raise ExportError(f"it does not run with a batch of {batch} ({first_line(error)})") from error
        shapes = [[tuple(x.shape) for x in outputs] for outputs in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ExportError(
                f"with a batch of {batch} its outputs have the shapes {shapes[0]}, not {shapes[1]}"
            )
        largest = max(largest, *(distance(*pair) for pair in zip(found, expected, strict=True)))
    return largest


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value; infinity unless NaN and infinity are alike."""
    if torch.equal(found, expected):
        return 0.0
    found, expected = found.double(), expected.double()
    odd, expected_odd = (x.where(~x.isfinite(), 0.0) for x in (found, expected))
    if not torch.allclose(odd, expected_odd, equal_nan=True):
        return float("inf")
    scale = float(expected.abs().nan_to_num(0, 0, 0).max()) or 1.0
    return float((found - expected).abs().nan_to_num(0, 0, 0).max()) / scale


@torch.no_grad()
def median_seconds(run: Run, inputs: Inputs) -> float:
    """The median time of a forward pass."""
    for _ in range(WARM_UP):
        run(*inputs)
    times: list[float] = []
    while len(times) < LEAST or (len(times) < MOST and sum(times) < ENOUGH):
        began = time.perf_counter()
        run(*inputs)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line of bearable length."""
    said = " ".join(str(error).strip().split("\n", 1)[0].split())
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__
