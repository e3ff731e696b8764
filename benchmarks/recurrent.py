"""Speed of the recurrent search: training, rewards and controller against a floor and plain code.

Command:  python benchmarks/recurrent.py            (about 10 minutes on 2 cores; --help for parts of it)
          python benchmarks/recurrent.py --memory   (peak memory of a search in its place; half a minute)
Prints:   one JSON line a figure; the measured ones stand in docs/results.md with hardware and date.

Everything is measured in one process and in turn (floor, plain, package, floor, ...), and medians are compared.

floor    the step's matrix products alone, each kind by the faster of `torch.mm` and oneDNN with weights packed once a step:
         N·T products forward, N·T for input gradients, N + 1 weight gradients over all time steps, the input projection and
         the softmax with their gradients. Where oneDNN is taken, packing counts (once for all cells of a reward step), from
         the layout that packs fastest. `products_seconds` and `times_products` leave packing out: the stricter reading.
plain    the same step in plain autograd: `recurrence.plain`, all logits at once, the library's SGD.
package  `SharedWeights.train_step` and `.rewards`: embedding to optimiser, with packing, without dropout, as for the
         others.
memory   peak resident memory of three training steps on random cells and one reward step of four, less that of the process
         with its libraries and compiled kernels (after the same steps at width 8 with 64 words); compared with weights and
         kept activations. `process_mb` is the whole process, libraries and all. Measure twice: the first run compiles.

The workload is the paper's published cell of 12 nodes: batch 64, 35 steps, vocabulary 10,000. For the controller, "plain" is
eight updates of one proposal each, the package's is one update of eight; it has no floor.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture
from enas.controllers import build_controller
from enas.cpu.products import packs
from enas.data.text import Corpus
from enas.ops import recurrence
from enas.recipes import recipe
from enas.runs.recurrent import build_supernet
from enas.runtime.devices import products_in
from enas.runtime.memory import keep_freed_memory
from enas.shared_weights import SharedWeights
from enas.spaces.recurrent.net import CellConfig, cell_plan
from enas.spaces.recurrent.space import RecurrentSpace, read_authors_string
from enas.tasks.language import LanguageTask
from enas.tasks.language_settings import (
    DropoutConfig,
    LanguageTrainingConfig,
    RegularisationConfig,
    RewardConfig,
    SGDConfig,
    SharedConfig,
    WindowConfig,
)

PUBLISHED = read_authors_string("0 0 0 1 1 2 1 2 0 2 0 5 1 1 0 6 1 8 1 8 1 8 1")
BATCH, STEPS, VOCABULARY = 64, 35, 10_000
UPDATES = 20
"""Turns of the controller at least: they are short."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Timed = Callable[[], object]


def medians(timed: Sequence[Timed], rounds: int) -> list[float]:
    """Median seconds of each, all measured in turn, after one warm-up each."""
    for function in timed:
        function()
    seconds: list[list[float]] = [[] for _ in timed]
    for _ in range(rounds):
        for taken, function in zip(seconds, timed, strict=True):
            began = time.perf_counter()
            function()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in seconds]


def resident_mb(key: str) -> float:
    """Resident memory of the process in MiB: "VmRSS" now, "VmHWM" at its peak. Raises OSError outside Linux."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024


def peak_mb(function: Timed) -> float | None:
    """Peak memory of the process in MiB while the function runs; None where the system cannot say (not Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        function()
        return resident_mb("VmHWM")
    except OSError:
        return None


# ---- the floor ---------------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """A way to do products, and what has to be done for it once a step."""

    multiply: Timed
    pack: Timed | None


@dataclass(frozen=True)
class Products:
    """Products of one kind: `calls` times x [rows, inner] by each of the weights [inner, columns]."""

    rows: int
    inner: int
    columns: int
    weights: int
    calls: int

    def ways(self, dtype: torch.dtype) -> list[Way]:
        """Ways to do them all: torch.mm into a buffer, and oneDNN with packed weights where it is to be had."""
        x = torch.randn(self.rows, self.inner).to(dtype)
        weights = [torch.randn(self.inner, self.columns).to(dtype) for _ in range(self.weights)]
        out = torch.empty(self.rows, self.columns, dtype=dtype)

        def plain() -> None:
            for _ in range(self.calls):
                for weight in weights:
                    torch.mm(x, weight, out=out)

        if not packs(dtype):
            return [Way(plain, None)]
        mkldnn = torch.ops.mkldnn
        transposed = [weight.t().contiguous() for weight in weights]
        packed = [mkldnn._reorder_linear_weight(weight, self.rows) for weight in transposed]

        def with_packed() -> None:
            for _ in range(self.calls):
                for weight in packed:
                    mkldnn._linear_pointwise(x, weight, None, "none", [], "")

        def pack() -> None:
            for weight in transposed:
                mkldnn._reorder_linear_weight(weight, self.rows)

        return [Way(plain, None), Way(with_packed, pack)]


def floor(hidden: int, architecture: Architecture, train: bool) -> list[Products]:
    """The products of a step, kind by kind."""
    nodes = cell_plan(architecture, "loose-ends").sources
    positions = BATCH * STEPS
    kinds = [
        Products(positions, hidden, 2 * hidden, 1, 1),  # input projection
        Products(BATCH, hidden, 2 * hidden, 1 + len(nodes), STEPS),  # the state's and every node's product
        Products(positions, hidden, VOCABULARY, 1, 1),  # logits
    ]
    if train:
        kinds += [
            Products(positions, 2 * hidden, hidden, 1, 1),  # gradient of the embedded inputs
            Products(BATCH, 2 * hidden, hidden, 1 + len(nodes), STEPS),  # gradients of the states
            Products(hidden, positions, 2 * hidden, 2 + len(nodes), 1),  # gradients of the weights
            Products(positions, VOCABULARY, hidden, 1, 1),  # gradient of the outputs
            Products(VOCABULARY, positions, hidden, 1, 1),  # gradient of the embedding
        ]
    return kinds


# ---- plain autograd ----------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """The same language model as a person would write it first."""

    def __init__(self, hidden: int, architecture: Architecture, dtype: torch.dtype) -> None:
        super().__init__()
        self.plan = cell_plan(architecture, "loose-ends")
        self.hidden, self.dtype = hidden, dtype

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-0.04, 0.04))

        self.embedding = weight(VOCABULARY, hidden)
        self.input_weight = weight(2 * hidden, 2 * hidden)
        self.node_weights = nn.ParameterList(weight(hidden, 2 * hidden) for _ in self.plan.sources)

    def loss(self, tokens_TB: Tensor, targets_TB: Tensor) -> Tensor:
        """Mean cross-entropy of a window."""
        x_TBD = F.embedding(tokens_TB, self.embedding)
        weight_x, weight_h = self.input_weight[: self.hidden], self.input_weight[self.hidden :]
        state_BD = x_TBD.new_zeros(tokens_TB.shape[1], self.hidden)
        with products_in(self.dtype, x_TBD.device):
            projected_TBE = (x_TBD @ weight_x).to(x_TBD.dtype)
            output_TBD = recurrence.plain(
                projected_TBE, state_BD, weight_h, list(self.node_weights), self.plan
            ).output_TBD
            logits_TBV = (output_TBD @ self.embedding.T).to(x_TBD.dtype)
        return F.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten())


def plain_step(model: Plain, optimizer: torch.optim.Optimizer, tokens_TB: Tensor, targets_TB: Tensor) -> None:
    """Loss, gradient, clipping, SGD."""
    model.loss(tokens_TB, targets_TB).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    optimizer.zero_grad()


# ---- the package -------------------------------------------------------------------------------------------------------


def search_task(hidden: int, dtype: torch.dtype, vocabulary: int) -> SharedWeights:
    """A search on random words, without dropout; the shared weights are all blocks of the paper's space."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(vocabulary, (BATCH * (STEPS + 1) * 2,), generator=generator)
    corpus = Corpus("random words", tuple(map(str, range(vocabulary))), words, words, words, {})
    training = LanguageTrainingConfig(
        WindowConfig(BATCH, STEPS), SGDConfig(), RegularisationConfig(DropoutConfig(), l2=0.0)
    )
    shared = SharedConfig(hidden, training, RewardConfig(batch=BATCH, bptt=STEPS))
    cpu = torch.device("cpu")
    space = RecurrentSpace(nodes=12)
    task = LanguageTask(corpus, training, shared.reward, seed=0, device=cpu, dtype=dtype)
    return SharedWeights(build_supernet(space, vocabulary, shared, CellConfig(), 0), space, task)


# ---- figures -----------------------------------------------------------------------------------------------------------


def print_record(record: Mapping[str, Any]) -> None:
    """Print a figure as a JSON line."""
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in record.items()}
    print(json.dumps(rounded), flush=True)


def ratio(seconds: float, to: float | None) -> float | None:
    """How many times as long; None where there is nothing to compare with."""
    return None if to is None else seconds / to


def figure(
    workload: str, phase: str, dtype: str, package: float, plain: float, least: Floor | None, **more: Any
) -> None:
    """Print the time of a phase, in seconds and against the floor and plain code."""
    floor_seconds, products_seconds = (None, None) if least is None else least
    print_record(
        {
            "workload": workload,
            "phase": phase,
            "dtype": dtype,
            "threads": torch.get_num_threads(),
            "seconds": package,
            "floor_seconds": floor_seconds,
            "products_seconds": products_seconds,
            "plain_seconds": plain,
            "times_floor": ratio(package, floor_seconds),
            "times_products": ratio(package, products_seconds),
            "times_plain": package / plain,
            **more,
        }
    )


class Floor(NamedTuple):
    """Seconds of the products alone, each kind by the fastest way."""

    floor: float
    """With packing, where a way needs it."""
    products: float
    """Without."""


def measure(
    timed: Sequence[Timed], kinds: Sequence[Products], dtype: torch.dtype, cells: int, rounds: int
) -> tuple[list[float], Floor]:
    """Median seconds of `timed`, and of the products of so many cells, all measured in turn."""
    ways = [(owner, way) for owner, kind in enumerate(kinds) for way in kind.ways(dtype)]
    packing = [way.pack for _, way in ways if way.pack is not None]
    seconds = medians([*timed, *(way.multiply for _, way in ways), *packing], rounds)
    multiplied = iter(seconds[len(timed) :])
    packed = iter(seconds[len(timed) + len(ways) :])
    with_packing, without = [math.inf] * len(kinds), [math.inf] * len(kinds)
    for owner, way in ways:
        multiply = cells * next(multiplied)
        pack = 0.0 if way.pack is None else next(packed)
        with_packing[owner] = min(with_packing[owner], multiply + pack)
        without[owner] = min(without[owner], multiply)
    return seconds[: len(timed)], Floor(sum(with_packing), sum(without))


def measure_model(hidden: int, dtype_name: str, rounds: int) -> None:
    """The training and the reward step at one width and type. Plain steps of bf16 are compared with plain fp32."""
    dtype = DTYPES[dtype_name]
    task = search_task(hidden, dtype, VOCABULARY)
    plain, plain32 = Plain(hidden, PUBLISHED, dtype), Plain(hidden, PUBLISHED, torch.float32)
    optimizers = {model: torch.optim.SGD(model.parameters(), 0.1) for model in (plain, plain32)}
    minibatch = task.task.minibatch(0, 0)
    tokens_TB, targets_TB = minibatch.tokens_TB, minibatch.targets_TB
    workload = f"published cell, 12 nodes, hidden {hidden}"

    steps: list[Timed] = [
        lambda: task.train_step(0, 0, [PUBLISHED]),
        lambda: plain_step(plain, optimizers[plain], tokens_TB, targets_TB),
        lambda: plain_step(plain32, optimizers[plain32], tokens_TB, targets_TB),
    ]
    kinds = floor(hidden, PUBLISHED, True)
    (package, plain_seconds, plain32_seconds), least = measure(steps, kinds, dtype, 1, rounds)
    figure(
        workload,
        "train",
        dtype_name,
        package,
        plain_seconds,
        least,
        times_plain_fp32=package / plain32_seconds,
        peak_mb=peak_mb(steps[0]),
        weights_mb=weights_mb(task),
    )

    kinds = floor(hidden, PUBLISHED, False)
    for count in (1, 8):
        cells = [PUBLISHED] * count

        def plain_rewards(count: int = count) -> None:
            with torch.no_grad():
                for _ in range(count):
                    plain.loss(tokens_TB, targets_TB)

        rewards = functools.partial(task.rewards, cells, "benchmark", 0)
        (package, plain_seconds), least = measure([rewards, plain_rewards], kinds, dtype, count, rounds)
        name = f"{workload}, K = {count}"
        figure(name, "reward", dtype_name, package, plain_seconds, least, peak_mb=peak_mb(rewards))


def weights_mb(task: SharedWeights) -> float:
    """MiB of the shared weights."""
    return sum(parameter.numel() for parameter in task.trainer.model.parameters()) * 4 / 2**20


def measure_memory(hidden: int, dtype_name: str) -> None:
    """Peak memory of a short search, in a process that has done nothing else."""

    def search(width: int, vocabulary: int) -> SharedWeights:
        task = search_task(width, DTYPES[dtype_name], vocabulary)
        rng = random.Random(0)
        cells = [task.space.sample(rng) for _ in range(7)]
        for cell in cells[:3]:
            task.train_step(0, 0, [cell])
        task.rewards(cells[3:], "benchmark", 0)
        return task

    search(8, 64)
    libraries = resident_mb("VmRSS")
    task = search(hidden, VOCABULARY)
    peak = resident_mb("VmHWM")
    nodes = task.space.total_nodes
    # In widths D a position: N + 1 states, N candidates and gates, an operand, the input, its projection, the output.
    widths = (nodes + 1) + 2 * nodes + 1 + 1 + 2 + 1
    activations = BATCH * STEPS * hidden * widths * 4 / 2**20
    weights = weights_mb(task)
    print_record(
        {
            "workload": f"search of 12 nodes, hidden {hidden}",
            "phase": "memory",
            "dtype": dtype_name,
            "threads": torch.get_num_threads(),
            "peak_mb": peak - libraries,
            "process_mb": peak,
            "weights_mb": weights,
            "activations_mb": activations,
            "times_weights_and_activations": (peak - libraries) / (weights + activations),
        }
    )


def measure_controller(rounds: int) -> None:
    """One update of eight proposals against eight updates of one, with the paper's LSTM."""
    space = RecurrentSpace(nodes=12)
    controller = build_controller(recipe("recurrent-paper").controller, space, 0)
    generator = torch.Generator().manual_seed(0)
    rewards_N = torch.rand(8, generator=generator)

    def update(rewards_n: Tensor) -> None:
        controller.feedback(controller.propose(len(rewards_n), generator), rewards_n)

    def eight_times_one() -> None:
        for reward in rewards_N:
            update(reward.unsqueeze(0))

    eight, ones = medians([lambda: update(rewards_N), eight_times_one], max(rounds, UPDATES))
    figure("LSTM of 100 units, 12 nodes, 8 proposals", "controller", "fp32", eight, ones, None, peak_mb=None)


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--memory",
        action="store_true",
        help="measure peak memory alone, at the last --hidden, in the first --dtype",
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    keep_freed_memory()  # as the command line does; for floor and plain code too
    if arguments.memory:
        torch.set_num_threads(arguments.threads[0])
        measure_memory(arguments.hidden[-1], arguments.dtype[0])
        return
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        measure_controller(arguments.rounds)
        for hidden in arguments.hidden:
            for dtype in arguments.dtype:
                measure_model(hidden, dtype, arguments.rounds)


if __name__ == "__main__":
    main()
