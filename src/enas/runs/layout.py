"""Whether convolutions are faster with the channels of an image together in memory: found by trying."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from enas.architecture import Architecture
from enas.runtime.devices import channels_last_destroys, wait_for
from enas.runtime.progress import say
from enas.runtime.seeding import derive_seed
from enas.shared_weights import SharedWeights

WORTH = 1.15
"""How many times as fast a step must be."""
SHORTEST = 0.02
"""Seconds of a step below which nothing is tried: there is little to gain, and too little to measure."""
ARCHITECTURES = 5
"""Random ones that are timed; what they gain differs."""
TOLERANCE, LOOSE = 1e-2, 0.1
"""Largest difference between the gradients, as a share of their norm: in float32 on a CPU, and otherwise. Rounding alone
makes far less: two orders of the sums in bfloat16 made 0.01."""


def channels_last_pays(weights_with: Callable[[bool], SharedWeights]) -> bool:
    """Time a few steps in both layouts; `weights_with` makes the shared weights in one. Nothing is trained.

    Where there is no two-dimensional convolution, or a step is short, the answer is no; also where the gradients differ, and
    where it is dangerous to try.
    """
    plain = weights_with(False)
    model, device = plain.trainer.model, plain.task.device
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    if not convolutional or channels_last_destroys(model, device):
        return False
    rng = random.Random(derive_seed(plain.task.seed, "layout"))
    drawn = [plain.space.sample(rng) for _ in range(ARCHITECTURES)]
    if plain.trainer.estimate(drawn[0]).seconds < SHORTEST:
        return False
    together = weights_with(True)
    exact = device.type == "cpu" and plain.task.dtype == torch.float32
    gains = []
    for architecture in drawn:
        (before, long), (after, short) = (gradient(weights, architecture) for weights in (plain, together))
        if not alike(before, after, TOLERANCE if exact else LOOSE):
            return False
        gains.append(long / short)
    gain = statistics.median(gains)
    if gain >= WORTH:
        say(f"channels last: {gain:.1f} times as fast here, and taken")
    return gain >= WORTH


Gradient = list[Tensor | None]


def gradient(weights: SharedWeights, architecture: Architecture) -> tuple[Gradient, float]:
    """The gradient of a training step, and the seconds that it takes."""
    trainer = weights.trainer
    minibatch = weights.task.minibatch(0, 0)
    for _ in range(2):  # the first pass chooses algorithms
        trainer.optimizer.zero_grad()
        began = time.perf_counter()
        trainer.add_gradients(minibatch, 0, 0, [architecture])
        wait_for(weights.task.device)
        seconds = time.perf_counter() - began
    found = [parameter.grad for parameter in trainer.model.parameters()]
    trainer.optimizer.zero_grad()
    return found, seconds


def alike(a: Gradient, b: Gradient, tolerance: float = TOLERANCE) -> bool:
    """Whether two gradients are the same but for rounding."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    apart = sum(float((x - y).square().sum()) for x, y in pairs)
    size = sum(float(x.square().sum()) for x, _ in pairs)
    return apart <= tolerance**2 * size
