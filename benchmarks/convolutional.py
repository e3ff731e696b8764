"""Speed of the convolutional searches: training and reward steps against a floor and plain code.

Command:  python benchmarks/convolutional.py --threads 2 --dtype fp32      (about 6 minutes on 2 cores; --help for parts)
Prints:   one JSON line a figure; the measured ones stand in docs/results.md with hardware and date.

Everything is measured in one process, over the same uniformly drawn architectures, each in a turn of its own (floor,
plain, package). `seconds` are medians over the turns, `times_floor` and its like medians of the ratios within a turn.

floor    the convolutions of the path alone, each distinct one timed on its own by the library in channels_last: forward,
         input gradient, weight gradient. In bf16, each of these in the type that is faster for it.
plain    the same step in plain modules: `plain_convolutional.py` in channels_last, autograd, autocast for bf16, the
         library's SGD, on a network that has the weights of one path only.
package  `SharedWeights.train_step` and `.rewards`: images to optimiser, without augmentation and dropout as the others.

The workloads are the search graphs of the authors' first code and, for macro, the paper's as well. Before anything is
timed, plain code and package have to find the same loss for the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from convolution_floor import PARTS, Operands, Part, floor_parts, seconds_of
from plain_convolutional import CLASSES, Convolution, PlainMacro, PlainMicro, convolutions_of
from recurrent import DTYPES, peak_mb, print_record
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture, Space
from enas.data.augmentation import AugmentConfig
from enas.data.images import ImageData, ImageSet, ImageShape
from enas.runtime.memory import keep_freed_memory
from enas.shared_weights import SharedWeights
from enas.spaces.image_network import ImageSupernet
from enas.spaces.macro.net import MacroNetConfig, MacroSupernet
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.net import MicroNetConfig, MicroSupernet
from enas.spaces.micro.space import MicroSpace
from enas.tasks.image_settings import (
    ImageRewardConfig,
    ImageTrainingConfig,
    MomentumConfig,
)
from enas.tasks.images import ImageTask

SHAPE = ImageShape(3, 32, 32, CLASSES)
AUXILIARY_WEIGHT = 0.4
MOMENTUM = MomentumConfig(momentum=0.9, weight_decay=2e-4)
RATE = 0.05

Plain = PlainMacro | PlainMicro
Turn = dict[tuple[str, str], float]
"""Seconds by (floor, plain or package; type)."""


@dataclass(frozen=True)
class Workload:
    """Networks of one space, ours and plain."""

    name: str
    batch: int
    space: Space
    supernet: Callable[[], ImageSupernet]
    plain: Callable[[Architecture], Plain]


def macro(merge: Literal["sum", "concat"]) -> Workload:
    """12 layers of 36 filters."""
    space = MacroSpace(12)
    order: Literal["conv-norm-relu", "relu-conv-norm"] = (
        "conv-norm-relu" if merge == "sum" else "relu-conv-norm"
    )
    config = MacroNetConfig(filters=36, merge=merge, order=order, dropout=0.0)
    return Workload(
        f"macro, 12 layers, 36 filters, {merge}",
        128,
        space,
        lambda: MacroSupernet(space, config, SHAPE, torch.Generator().manual_seed(0)),
        lambda a: PlainMacro(space.operations_of(a), space.skips_of(a), 36, merge),
    )


def micro() -> Workload:
    """6 + 2 layers of 20 filters, cells of 5 nodes."""
    space = MicroSpace(5)
    config = MicroNetConfig(
        filters=20, layers=6, output="convolution", reduction="factorized", auxiliary=True, dropout=0.0
    )
    return Workload(
        "micro, 6 + 2 layers, 20 filters, 5 nodes",
        160,
        space,
        lambda: MicroSupernet(space, config, SHAPE, torch.Generator().manual_seed(0)),
        lambda a: PlainMicro(*space.cells(a), 6, 20),
    )


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "macro-sum": lambda: macro("sum"),
    "macro-concat": lambda: macro("concat"),
    "micro": micro,
}


# ---- the package -------------------------------------------------------------------------------------------------------


def search_task(workload: Workload, dtype: torch.dtype) -> SharedWeights:
    """The shared weights of a search on random images, which are neither augmented nor dropped."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> ImageSet:
        pixels = torch.randint(256, (count, *SHAPE[:3]), generator=generator, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(count) % CLASSES)

    classes = tuple(map(str, range(CLASSES)))
    batch = workload.batch
    most = max(batch, CLASSES)  # every class has an image
    data = ImageData("random pixels", classes, images(most), images(most), images(CLASSES), {})
    training = ImageTrainingConfig(
        batch,
        momentum=MOMENTUM,
        augmentation=AugmentConfig(pad=0, flip=False),
        auxiliary_weight=AUXILIARY_WEIGHT,
    )
    reading, cpu = ImageRewardConfig(batch, "batch"), torch.device("cpu")
    supernet, task = (
        workload.supernet(),
        ImageTask(data, training, reading, seed=0, device=cpu, dtype=dtype),
    )
    return SharedWeights(supernet, supernet.space, task)


# ---- plain autograd ----------------------------------------------------------------------------------------------------


class PlainSteps:
    """Plain steps with the network of one architecture."""

    def __init__(self, workload: Workload, architecture: Architecture, dtype: torch.dtype) -> None:
        self.network = workload.plain(architecture).to(memory_format=torch.channels_last)
        self.dtype = dtype
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            RATE,
            momentum=MOMENTUM.momentum,
            weight_decay=MOMENTUM.weight_decay,
            nesterov=True,
        )

    def _cast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def train(self, images_BCHW: Tensor, labels_B: Tensor) -> None:
        """Loss, gradient, SGD."""
        with self._cast():
            loss = self.network.loss(images_BCHW, labels_B)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def reward(self, images_BCHW: Tensor, labels_B: Tensor) -> float:
        """Accuracy by batch statistics."""
        with self._cast():
            scores_BK = self.network(images_BCHW)
        return float((scores_BK.argmax(1) == labels_B).float().mean())


# ---- the same network? -------------------------------------------------------------------------------------------------


@torch.no_grad()
def tie(network: nn.Module) -> None:
    """Give all filters of one shape the same values, repeated every four input channels.

    So two networks that hold their weights in other orders and other blocks have the same filters all the same.
    """
    for weight in network.parameters():
        if weight.dim() > 1:
            outputs, inputs, *width = weight.shape
            period = inputs if inputs < 4 else 4
            generator = torch.Generator().manual_seed(outputs)
            values = torch.randn(outputs, period, math.prod(width), generator=generator)
            weight.copy_(values.repeat(1, inputs // period, 1).view(weight.shape))


@torch.no_grad()
def check_same_loss(workload: Workload, architecture: Architecture) -> None:
    """Plain code and package find the same loss with the same weights."""
    supernet, plain = workload.supernet(), workload.plain(architecture)
    tie(supernet)
    tie(plain)
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randn(16, *SHAPE[:3], generator=generator)
    labels_B = torch.arange(16) % CLASSES
    outputs = supernet(images_BCHW, architecture)
    loss = F.cross_entropy(outputs.logits_BK, labels_B)
    if outputs.auxiliary_BK is not None:
        loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(outputs.auxiliary_BK, labels_B)
    torch.testing.assert_close(loss, plain.loss(images_BCHW, labels_B), rtol=1e-4, atol=0)


# ---- figures -----------------------------------------------------------------------------------------------------------


class Bench:
    """What is measured of one workload."""

    def __init__(self, workload: Workload, dtypes: Sequence[str], architectures: int) -> None:
        self.workload = workload
        self.dtypes = dtypes
        self.compared = list(dict.fromkeys(["fp32", *dtypes]))
        rng = random.Random(0)
        self.architectures = [workload.space.sample(rng) for _ in range(architectures)]
        check_same_loss(workload, self.architectures[0])
        self.tasks = {dtype: search_task(workload, DTYPES[dtype]) for dtype in self.compared}
        minibatch = self.tasks["fp32"].task.minibatch(0, 0)
        self.images_BCHW = minibatch.images_BCHW.contiguous(memory_format=torch.channels_last)
        self.labels_B = minibatch.labels_B
        self.operands = Operands()

    def convolutions(self, phase: str, architecture: Architecture) -> Counter[Convolution]:
        """Those of a step."""

        def run(network: Plain) -> None:
            images_BCHW = torch.empty(self.images_BCHW.shape)
            if phase == "train":
                network.loss(images_BCHW, torch.empty(len(images_BCHW), dtype=torch.int64))
            else:
                network(images_BCHW)

        return convolutions_of(lambda: self.workload.plain(architecture), run)

    def floor(self, phase: str, architectures: Sequence[Architecture]) -> Turn:
        """The sum over all convolutions of the fastest way to do each."""
        seconds: Turn = dict.fromkeys((("floor", dtype) for dtype in self.compared), 0.0)
        for architecture in architectures:
            path = self.convolutions(phase, architecture)
            fastest: dict[tuple[Convolution, Part], float] = {}
            for dtype in self.compared:
                for key, taken in floor_parts(path, PARTS[phase], DTYPES[dtype], self.operands).items():
                    fastest[key] = min(taken, fastest.get(key, math.inf))
                    seconds["floor", dtype] += path[key[0]] * fastest[key]
        return seconds

    def package(self, phase: str, dtype: str, architectures: Sequence[Architecture]) -> Callable[[], object]:
        """The package's step."""
        task = self.tasks[dtype]
        if phase == "train":
            return lambda: task.train_step(0, 0, architectures)
        return lambda: task.rewards(architectures, "benchmark", 0)

    def plain(self, phase: str, dtype: str, architectures: Sequence[Architecture]) -> Callable[[], object]:
        """Plain steps, one architecture after the other."""
        steps = [PlainSteps(self.workload, architecture, DTYPES[dtype]) for architecture in architectures]
        ways = [step.train if phase == "train" else step.reward for step in steps]
        return lambda: [way(self.images_BCHW, self.labels_B) for way in ways]

    def turn(self, phase: str, architectures: Sequence[Architecture]) -> Turn:
        """Floor, plain and package, in every type."""
        seconds = self.floor(phase, architectures)
        for dtype in self.compared:
            seconds["plain", dtype] = seconds_of(self.plain(phase, dtype, architectures))
            seconds["package", dtype] = seconds_of(self.package(phase, dtype, architectures))
        return seconds

    def measure(self, phase: str, count: int, rounds: int) -> None:
        """Print the figures of steps with `count` architectures."""
        drawn = self.architectures * math.ceil(count / len(self.architectures))
        groups = [drawn[start : start + count] for start in range(0, len(drawn) - count + 1, count)]
        peaks = {dtype: self.package_peak_mb(phase, dtype, groups) for dtype in self.dtypes}
        self.turn(phase, groups[0])  # as a warm-up
        turns = [self.turn(phase, group) for _ in range(rounds) for group in groups]
        for dtype in self.dtypes:
            own = [turn["package", dtype] for turn in turns]

            def median(name: str, dtype: str = dtype) -> float:
                return statistics.median(turn[name, dtype] for turn in turns)

            def times(name: str, dtype: str = dtype, own: Sequence[float] = own) -> float:
                pairs = zip(own, turns, strict=True)
                return statistics.median(seconds / turn[name, dtype] for seconds, turn in pairs)

            print_record(
                {
                    "workload": self.workload.name
                    if phase == "train"
                    else f"{self.workload.name}, K = {count}",
                    "phase": phase,
                    "dtype": dtype,
                    "threads": torch.get_num_threads(),
                    "seconds": median("package"),
                    "floor_seconds": median("floor"),
                    "plain_seconds": median("plain"),
                    "times_floor": times("floor"),
                    "times_plain": times("plain"),
                    "times_plain_fp32": times("plain", "fp32"),
                    "times_package_fp32": times("package", "fp32"),
                    "architectures": len(groups) * count,
                    "peak_mb": peaks[dtype],
                }
            )

    def package_peak_mb(
        self, phase: str, dtype: str, groups: Sequence[Sequence[Architecture]]
    ) -> float | None:
        """Peak memory of the process over the package's steps, without the floor's operands. Warms the package up, too."""
        steps = [self.package(phase, dtype, group) for group in groups]
        self.operands.clear()
        release_memory()
        return peak_mb(lambda: [step() for step in steps])


def release_memory() -> None:
    """Give back to the system what the process has freed, where the C library can do that."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


PHASES = {"train": ("train", 1), "reward-1": ("reward", 1), "reward-8": ("reward", 8)}


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=WORKLOADS, nargs="+", default=["macro-sum", "micro"])
    parser.add_argument("--phase", choices=PHASES, nargs="+", default=list(PHASES))
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--architectures", type=int, default=20)
    parser.add_argument("--batch", type=int, help="images of a step; by default those of the authors' code")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each architecture")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    keep_freed_memory()  # as the command line does; for floor and plain code too
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name in arguments.workload:
            workload = WORKLOADS[name]()
            workload = replace(workload, batch=arguments.batch or workload.batch)
            bench = Bench(workload, arguments.dtype, arguments.architectures)
            for phase in arguments.phase:
                bench.measure(*PHASES[phase], arguments.rounds)


if __name__ == "__main__":
    main()
