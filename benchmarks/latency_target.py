"""Searches with a latency as their target: how near their picks come to it, and how they score at that cost.

Command:  python benchmarks/latency_target.py     (about 5 minutes a seed on one idle core; --help for other sizes)
Prints:   one JSON line a seed, then one of all together; the measured ones stand in docs/results.md with hardware and date.

The recipe is micro-quick, on scikit-learn's digits, with one thread. Its target is a share of the median latency of random
architectures, as a model predicts it that is fitted to measured ones at the start. Every seed searches, picks, and trains
its pick; random architectures of the same predicted cost, within 10 %, are trained alike (`enas compare`).
At the end all picks are measured once more, in turns. Everything is kept in the folder --run, and the same command goes on.

predicted, measured   of a pick, in milliseconds; measured after everything else.
off_target            measured / target - 1.
score                 accuracy on the test data, in %.
within_tenth          picks whose measured latency is within 10 % of the target.
better                the probability that a pick scores better than a random one of the same cost, with the ends of its 95 %
                      interval; ties count half.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from recurrent import print_record

from enas.config import RunConfig
from enas.costs.measuring import LATENCY, RunCosts
from enas.evidence.compare import CompareConfig, compare_run
from enas.evidence.comparison import SAMPLING, Comparison, Record
from enas.evidence.runs import finish, run_in
from enas.evidence.variants import with_settings
from enas.recipes import recipe
from enas.run import Run
from enas.runtime.devices import set_threads
from enas.runtime.memory import keep_freed_memory
from enas.runtime.stop import StopRequest
from enas.stages import derive, search

EXAMPLES = 100
"""Random architectures whose median latency the target is a share of."""


def settings_of(arguments: argparse.Namespace) -> RunConfig:
    """The recipe, shorter if asked for."""
    config = recipe("micro-quick")
    if arguments.epochs is not None:
        config = config.with_epochs(arguments.epochs, config.child_epochs)
    return with_settings(config, {"threads": 1, "retrain.random": 0, "latency.samples": arguments.measured})


def with_target(config: RunConfig, folder: Path, share: float) -> RunConfig:
    """The settings with a target, a share of the median latency of random architectures."""
    folder.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop:
        model = RunCosts(config).latency_model(folder, None, stop)
    rng, space = random.Random(0), config.searched_space()
    median = statistics.median(model.predict([space.sample(rng) for _ in range(EXAMPLES)]).tolist())
    return with_settings(config, {"cost.measure": "latency", "cost.target": f"{share * median:.4f}ms"})


def compared(run: Run, arguments: argparse.Namespace) -> tuple[Comparison, list[Record]]:
    """The searches of all seeds, their picks and the random ones trained; with the picks' records."""
    with StopRequest() as stop:
        finish(run, (search, derive), stop)
    options = CompareConfig(
        seeds=arguments.seeds, samples=arguments.samples, rivals="none", workers=arguments.workers
    )
    comparison = compare_run(run, options)
    lines = (run.folder / "compare" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [Record(**json.loads(line)) for line in lines]
    return comparison, [record for record in records if record.method == comparison.method]


def print_picks(run: Run, picks: Sequence[Record]) -> list[float]:
    """Measure the picks again, and print what came out; returns how far each is off the target."""
    space, target = run.config.searched_space(), run.config.cost.amount
    architectures = [space.parse(pick.architecture) for pick in picks]
    predicted = run.goals.latencies.predict(architectures).tolist()
    off = []
    for pick, expected, latency in zip(
        picks, predicted, run.goals.costs.latencies(architectures), strict=True
    ):
        off.append(latency.median_ms / target - 1)
        print_record(
            {
                "seed": pick.seed,
                "target": target,
                "predicted": expected,
                "measured": latency.median_ms,
                "low": latency.low_ms,
                "high": latency.high_ms,
                "off_target": off[-1],
                "score": pick.score,
            }
        )
    return off


def main() -> None:
    """Search, compare and print what the flags ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=5, help="searches, at least two")
    parser.add_argument("--samples", type=int, default=24, help="random architectures of the same cost")
    parser.add_argument(
        "--share", type=float, default=0.85, help="target / median latency of random architectures"
    )
    parser.add_argument("--measured", type=int, default=100, help="architectures that the model is fitted to")
    parser.add_argument("--epochs", type=int, help="of each search; by default the recipe's")
    parser.add_argument("--workers", type=int, help="trainings at the same time; by default as many as cores")
    parser.add_argument("--run", type=Path, default=Path("runs/latency-target"), help="folder of everything")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command line does
    set_threads(1)
    config = with_target(settings_of(arguments), arguments.run, arguments.share)
    run = run_in(arguments.run / "run", config, ("search", "derive"), latencies=arguments.run / LATENCY)
    comparison, picks = compared(run, arguments)
    off = print_picks(run, [pick for pick in picks if pick.architecture])
    contest = next(one for one in comparison.contests if one.rival == SAMPLING)
    scores = {summary.method: summary.score for summary in comparison.summaries}
    print_record(
        {
            "target": config.cost.amount,
            "within_tenth": sum(abs(one) <= 0.1 for one in off),
            "picks": len(picks),
            "score": scores[comparison.method],
            "random_score": scores[SAMPLING],
            "better": asdict(contest.better),
            "claim": contest.claim,
            "median_error": run.goals.latencies.errors.median_relative,
        }
    )


if __name__ == "__main__":
    main()
