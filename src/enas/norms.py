"""The modes of a network's batch norms, as contexts of whoever calls the network.

In training mode torch's batch norm normalises by the minibatch and takes it into the moving averages; in evaluation mode it
normalises by these. Rewards and evaluations also want the first without the second, and averages taken anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from torch import nn

NormStatistics = Literal["batch", "moving", "recalibrated"]
"""What the batch norms of an evaluated network normalise by: the minibatch's own statistics; the moving averages of the
training; or the plain means over a few training minibatches, gathered for this very network."""

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
Norms = Sequence[Norm]

Inputs = TypeVar("Inputs")


def norms_of(model: nn.Module) -> list[Norm]:
    """All batch norms of a network."""
    return [module for module in model.modules() if isinstance(module, Norm)]


def with_counters_on_the_cpu(model: nn.Module) -> nn.Module:
    """The network, with the counters of its norms on the CPU, where torch reads them: on a GPU, each costs a launch in
    training, and a wait in `recalibrate`."""
    for norm in norms_of(model):
        if norm.num_batches_tracked is not None and not norm.num_batches_tracked.is_cpu:
            norm.num_batches_tracked = norm.num_batches_tracked.cpu()
    return model


@contextlib.contextmanager
def batch_statistics(norms: Norms) -> Iterator[None]:
    """Inside, the norms normalise by the minibatch's own statistics, and the moving averages rest."""
    with _modes(norms, training=True, averaging=False):
        yield


@contextlib.contextmanager
def kept_statistics(norms: Norms) -> Iterator[None]:
    """Put the moving averages back afterwards, bit for bit."""
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [torch.empty_like(buffer) for buffer in buffers]
    if buffers:
        torch._foreach_copy_(before, buffers)
    try:
        yield
    finally:
        if buffers:
            torch._foreach_copy_(buffers, before)


@torch.no_grad()
def recalibrate(norms: Norms, minibatches: Iterable[Inputs], forward: Callable[[Inputs], object]) -> None:
    """Make the moving averages of the norms that `forward` uses the plain means of the minibatches' statistics.

    The rest of the network should be in evaluation mode, so that nothing is dropped.
    """
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()  # so that the first minibatch replaces the averages
            norm.momentum = None  # the mean of all minibatches so far
        with _modes(norms, training=True, averaging=True):
            for inputs in minibatches:
                forward(inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextlib.contextmanager
def _modes(norms: Norms, *, training: bool, averaging: bool) -> Iterator[None]:
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        _set_mode(norm, training, averaging)
    try:
        yield
    finally:
        for norm, modes in zip(norms, before, strict=True):
            _set_mode(norm, *modes)


def _set_mode(norm: Norm, training: bool, averaging: bool) -> None:
    # A supernet has thousands of norms, and a module's own way to set an attribute takes ten times as long.
    vars(norm).update(training=training, track_running_stats=averaging)
