"""A search in two processes against the same search in one, both with M = 2 architectures a step and one thread a process.

Command:  torchrun --nproc-per-node=2 benchmarks/processes.py      (a minute or two on 2 idle cores; --help for other sizes)
Prints:   one JSON line a recipe; the measured ones stand in docs/results.md with hardware and date.

Process 0 takes the same steps twice, in turns, the order drawn anew each time: with weights of its own, while the other
process waits, and with weights that both have. A turn is `steps` training steps on the recipe's minibatches, and the rewards
of `updates` controller updates. Medians over the turns, in seconds of a turn:

alone, together        the whole turn
times                  alone divided by together: 2 would be perfect
times_weights, times_rewards    the same for either part
equal                  whether both have the same weights at the end, bit for bit

With more processes, M is their number.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from recurrent import print_record

from enas import parallel
from enas.architecture import Architecture, Space
from enas.config import RunConfig
from enas.recipes import recipe
from enas.runtime.devices import set_threads
from enas.runtime.stop import StopRequest
from enas.shared_weights import SharedWeights


class Copies:
    """The weights of recipes, in every process."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def copy(self, kind: str, *of: Any) -> SharedWeights:
        """The weights of the recipe of this name."""
        return config_of(kind).shared_weights()


def config_of(name: str) -> RunConfig:
    """A recipe with as many architectures a step as there are processes."""
    config = recipe(name)
    return replace(config, threads=1, search=replace(config.search, samples=parallel.processes()))


def turn(
    weights: SharedWeights,
    paths: Sequence[list[Architecture]],
    proposals: Sequence[list[Architecture]],
    number: int,
) -> tuple[float, float]:
    """Seconds of a turn's training steps, and of its rewards."""
    began, steps = time.perf_counter(), weights.steps(0)
    for step, architectures in enumerate(paths, number * len(paths)):
        weights.train_step(step // steps, step % steps, architectures)
    trained = time.perf_counter()
    for draw, architectures in enumerate(proposals, number * len(proposals)):
        weights.rewards(architectures, "benchmark", draw)
    return trained - began, time.perf_counter() - trained


def measure(name: str, turns: int, steps: int, updates: int) -> None:
    """Measure a recipe, and print the figure."""
    config, rng = config_of(name), random.Random(0)
    alone, together = config.shared_weights(), config.shared_weights()
    space = alone.space
    seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with parallel.shared(together, name):
        for number in range(turns + 1):
            paths, proposals = (
                [[space.sample(rng) for _ in range(each)] for _ in range(count)]
                for count, each in ((steps, config.search.samples), (updates, config.search.proposals))
            )
            for shares in rng.sample((False, True), 2):
                taken = turn(together if shares else alone, paths, proposals, number)
                seconds[shares] += [taken] if number else []  # the first warms up
    a, b = (torch.cat([p.flatten() for p in w.trainer.model.parameters()]) for w in (alone, together))

    def times(part: slice) -> float:
        first, second = (
            statistics.median(sum(one[part]) for one in seconds[shares]) for shares in (False, True)
        )
        return first / second

    print_record(
        {
            "recipe": name,
            "processes": parallel.processes(),
            "proposals": config.search.proposals,
            "alone": statistics.median(map(sum, seconds[False])),
            "together": statistics.median(map(sum, seconds[True])),
            "times": times(slice(2)),
            "times_weights": times(slice(1)),
            "times_rewards": times(slice(1, 2)),
            "equal": torch.equal(a, b),
        }
    )


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=["recurrent-quick", "micro-quick"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--updates", type=int, default=5)
    options = parser.parse_args()
    set_threads(1)
    with parallel.joined() as processes, StopRequest() as stop:
        if processes is not None and processes.rank > 0:
            processes.repeat(Copies(config_of(options.recipes[0]).searched_space()), stop)
        for name in options.recipes:
            measure(name, options.turns, options.steps, options.updates)


if __name__ == "__main__":
    main()
