"""Trainings side by side in several processes of this machine, against the same trainings in one, one thread a process.

Command:  python benchmarks/side_by_side.py      (some 5 minutes on 2 idle cores; --help for other sizes)
Prints:   one JSON line a recipe; the measured ones stand in docs/results.md with hardware and date.

The same random networks are trained for the recipe's own length, in one process and in several, the order drawn anew in
every turn. What is timed is what `enas compare` and `enas rank` wait for: starting processes, training, and writing results.
Medians, in seconds.

one, several    all trainings
times           one divided by several: as many as there are processes would be perfect
equal           whether all results are the same, bit for bit
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recurrent import print_record

from enas.executors.local import LocalExecutor
from enas.recipes import recipe
from enas.retrain import Network, uniform_architectures
from enas.run import Run
from enas.runtime.stop import StopRequest
from enas.trainings import Job, Outcome


def scores(outcomes: list[Outcome]) -> list[Any]:
    """What the trainings came to, by their networks: why one diverged, or its loss and the hash of its weights."""
    assert all(outcome.ending != "died" for outcome in outcomes)
    return sorted(
        (one.job.network.id, one.reason or (one.result["valid_loss"], one.result["weights"]["sha256"]))
        for one in outcomes
    )


def measure(name: str, trainings: int, epochs: int | None, processes: int, turns: int) -> None:
    """Measure a recipe, and print the figure."""
    rng, config = random.Random(0), replace(recipe(name), threads=1)
    space = config.searched_space()
    networks = [
        Network("random", one, 0) for one in islice(uniform_architectures(space, random.Random(0)), trainings)
    ]
    seconds: dict[int, list[float]] = {1: [], processes: []}
    found: list[list[Any]] = []

    def trained(workers: int, chosen: list[Network], folder: Path) -> None:
        run = Run.create(folder, config, ("retrain",))
        jobs = [Job(run.folder, "rank", network, epochs) for network in chosen]
        for job in jobs:
            job.put()
        began = time.perf_counter()
        outcomes = list(LocalExecutor(workers, threads=1).run(jobs, stop, lambda job, steps: None))
        seconds[workers].append(time.perf_counter() - began)
        found.append(scores(outcomes))

    with TemporaryDirectory() as folder, StopRequest() as stop:
        trained(1, networks[:1], Path(folder) / "first")  # which compiles
        seconds[1].clear()
        found.clear()
        for turn in range(turns):
            for workers in rng.sample((1, processes), 2):
                trained(workers, networks, Path(folder) / f"{turn}-{workers}")
    one, several = (statistics.median(seconds[workers]) for workers in (1, processes))
    print_record(
        {
            "recipe": name,
            "processes": processes,
            "trainings": trainings,
            "epochs": epochs,
            "one": one,
            "several": several,
            "times": one / several,
            "equal": all(scores == found[0] for scores in found),
        }
    )


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=["macro-quick", "micro-quick"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--trainings", type=int, default=8)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--turns", type=int, default=1)
    options = parser.parse_args()
    for name in options.recipes:
        measure(name, options.trainings, options.epochs, options.processes, options.turns)


if __name__ == "__main__":
    main()
