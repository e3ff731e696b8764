"""Speed of the recurrent search: training, rewards and controller against a floor and plain code.

Command:  python benchmarks/recurrent.py            (about 10 minutes on 2 cores; --help for parts of it)
Prints:   one JSON line a figure; the measured ones stand in docs/results.md with hardware and date.

Everything is measured in one process and in turn (floor, plain, package, floor, ...), and medians are compared.

floor    the step's matrix products alone, each kind by the faster of `torch.mm` and oneDNN with packed weights, the packing
         not counted: N·T products forward, N·T for input gradients, N + 1 weight gradients over all time steps, the input
         projection and the softmax with their gradients.
plain    the same step in plain autograd: `recurrence_reference`, all logits at once, the library's SGD.
package  `LanguageSearchTask.train_step` and `.rewards`: embedding to optimiser, without dropout, as for the others.

The workload is the paper's published cell of 12 nodes: batch 64, 35 steps, vocabulary 10,000. For the controller, "plain" is
eight updates of one proposal each, the package's is one update of eight; it has no floor.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture
from enas.controllers import LSTMConfig, build_controller
from enas.data.text import Corpus
from enas.nn.memory import keep_freed_memory
from enas.nn.products import packs
from enas.nn.recurrence import recurrence_reference
from enas.spaces.recurrent.net import CellConfig, cell_plan
from enas.spaces.recurrent.space import RecurrentSpace, read_authors_string
from enas.tasks.language import LanguageSearchTask, RewardConfig, SharedConfig
from enas.tasks.language_model import DropoutConfig
from enas.tasks.language_training import LanguageTrainingConfig, RegularisationConfig, SGDConfig, WindowConfig

PUBLISHED = read_authors_string("0 0 0 1 1 2 1 2 0 2 0 5 1 1 0 6 1 8 1 8 1 8 1")
BATCH, STEPS, VOCABULARY = 64, 35, 10_000
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


def peak_mb(function: Timed) -> float | None:
    """Peak memory of the process in MiB while the function runs; None where the system cannot say (not Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        function()
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- the floor ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Products:
    """Products of one kind: `calls` times x [rows, inner] by each of the weights [inner, columns]."""

    rows: int
    inner: int
    columns: int
    weights: int
    calls: int

    def ways(self, dtype: torch.dtype) -> Iterator[Timed]:
        """Ways to do them all: torch.mm into a buffer, and oneDNN with packed weights where it is to be had."""
        x = torch.randn(self.rows, self.inner).to(dtype)
        weights = [torch.randn(self.inner, self.columns).to(dtype) for _ in range(self.weights)]
        out = torch.empty(self.rows, self.columns, dtype=dtype)

        def plain() -> None:
            for _ in range(self.calls):
                for weight in weights:
                    torch.mm(x, weight, out=out)

        yield plain
        if packs(dtype):
            mkldnn = torch.ops.mkldnn
            packed = [mkldnn._reorder_linear_weight(weight.t().contiguous(), self.rows) for weight in weights]

            def with_packed() -> None:
                for _ in range(self.calls):
                    for weight in packed:
                        mkldnn._linear_pointwise(x, weight, None, "none", [], "")

            yield with_packed


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
        projected_TBE = (x_TBD.to(self.dtype) @ weight_x.to(self.dtype)).to(x_TBD.dtype)
        state_BD = x_TBD.new_zeros(tokens_TB.shape[1], self.hidden)
        output_TBD = recurrence_reference(
            projected_TBE, state_BD, weight_h, list(self.node_weights), self.plan, dtype=self.dtype
        ).output_TBD
        logits_TBV = (output_TBD.to(self.dtype) @ self.embedding.to(self.dtype).T).to(x_TBD.dtype)
        return F.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten())


def plain_step(model: Plain, optimizer: torch.optim.Optimizer, tokens_TB: Tensor, targets_TB: Tensor) -> None:
    """Loss, gradient, clipping, SGD."""
    model.loss(tokens_TB, targets_TB).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    optimizer.zero_grad()


# ---- the package -------------------------------------------------------------------------------------------------------


def search_task(hidden: int, dtype: torch.dtype) -> LanguageSearchTask:
    """A search on random words, without dropout, whose supernet holds all blocks of the paper's space."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(VOCABULARY, (BATCH * (STEPS + 1) * 2,), generator=generator)
    corpus = Corpus("random words", tuple(map(str, range(VOCABULARY))), words, words, words, {})
    training = LanguageTrainingConfig(
        WindowConfig(BATCH, STEPS), SGDConfig(), RegularisationConfig(DropoutConfig(), l2=0.0)
    )
    shared = SharedConfig(hidden, training, RewardConfig(batch=BATCH, bptt=STEPS))
    cpu = torch.device("cpu")
    space = RecurrentSpace(nodes=12)
    return LanguageSearchTask(space, CellConfig(), corpus, shared, seed=0, device=cpu, dtype=dtype)


# ---- figures -----------------------------------------------------------------------------------------------------------


def figure(workload: str, phase: str, dtype: str, seconds: Mapping[str, float | None], **more: Any) -> None:
    """Print a figure as a JSON line."""
    package, least, plain = (seconds[name] for name in ("package", "floor", "plain"))
    assert package is not None
    record = {
        "workload": workload,
        "phase": phase,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "seconds": package,
        "floor_seconds": least,
        "plain_seconds": plain,
        "times_floor": None if least is None else package / least,
        "times_plain": None if plain is None else package / plain,
        **more,
    }
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in record.items()}
    print(json.dumps(rounded), flush=True)


def floor_seconds(times: Sequence[float], owners: Sequence[int]) -> float:
    """The sum over kinds of products of the fastest way to do each."""
    fastest: dict[int, float] = {}
    for owner, seconds in zip(owners, times, strict=True):
        fastest[owner] = min(seconds, fastest.get(owner, seconds))
    return sum(fastest.values())


def measure_model(hidden: int, dtype_name: str, rounds: int) -> None:
    """The training and the reward step at one width and type. Plain steps of bf16 are compared with plain fp32."""
    dtype = DTYPES[dtype_name]
    task = search_task(hidden, dtype)
    plain, plain32 = Plain(hidden, PUBLISHED, dtype), Plain(hidden, PUBLISHED, torch.float32)
    optimizers = {model: torch.optim.SGD(model.parameters(), 0.1) for model in (plain, plain32)}
    tokens_TB, targets_TB = task.train_TB[:STEPS], task.train_TB[1 : STEPS + 1]
    workload = f"published cell, 12 nodes, hidden {hidden}"

    ways = [
        (owner, way) for owner, kind in enumerate(floor(hidden, PUBLISHED, True)) for way in kind.ways(dtype)
    ]
    steps: list[Timed] = [
        lambda: task.train_step(0, 0, [PUBLISHED]),
        lambda: plain_step(plain, optimizers[plain], tokens_TB, targets_TB),
        lambda: plain_step(plain32, optimizers[plain32], tokens_TB, targets_TB),
    ]
    package, plain_seconds, plain32_seconds, *products = medians([*steps, *(way for _, way in ways)], rounds)
    least = floor_seconds(products, [owner for owner, _ in ways])
    figure(
        workload,
        "train",
        dtype_name,
        {"package": package, "floor": least, "plain": plain_seconds},
        times_plain_fp32=package / plain32_seconds,
        peak_mb=peak_mb(steps[0]),
        weights_mb=sum(parameter.numel() for parameter in task.model.parameters()) * 4 / 2**20,
    )

    del ways
    ways = [
        (owner, way) for owner, kind in enumerate(floor(hidden, PUBLISHED, False)) for way in kind.ways(dtype)
    ]
    for count in (1, 8):
        cells = [PUBLISHED] * count

        def plain_rewards(count: int = count) -> None:
            with torch.no_grad():
                for _ in range(count):
                    plain.loss(tokens_TB, targets_TB)

        rewards = functools.partial(task.rewards, cells, "benchmark", 0)
        package, plain_seconds, *products = medians(
            [rewards, plain_rewards, *(way for _, way in ways)], rounds
        )
        least = count * floor_seconds(products, [owner for owner, _ in ways])
        seconds = {"package": package, "floor": least, "plain": plain_seconds}
        figure(f"{workload}, K = {count}", "reward", dtype_name, seconds, peak_mb=peak_mb(rewards))


def measure_controller(rounds: int) -> None:
    """One update of eight proposals against eight updates of one, with the paper's LSTM."""
    space = RecurrentSpace(nodes=12)
    controller = build_controller(LSTMConfig(), space, 0)
    generator = torch.Generator().manual_seed(0)
    rewards_N = torch.rand(8, generator=generator)

    def update(rewards_n: Tensor) -> None:
        controller.feedback(controller.propose(len(rewards_n), generator), rewards_n)

    def eight_times_one() -> None:
        for reward in rewards_N:
            update(reward.unsqueeze(0))

    eight, ones = medians([lambda: update(rewards_N), eight_times_one], max(rounds, 20))
    seconds = {"package": eight, "floor": None, "plain": ones}
    figure("LSTM of 100 units, 12 nodes, 8 proposals", "controller", "fp32", seconds, peak_mb=None)


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    keep_freed_memory()  # as the command line does; for floor and plain code too
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        measure_controller(arguments.rounds)
        for hidden in arguments.hidden:
            for dtype in arguments.dtype:
                measure_model(hidden, dtype, arguments.rounds)


if __name__ == "__main__":
    main()
