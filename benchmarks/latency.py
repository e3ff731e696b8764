"""Predicted against measured latency, on random architectures that the model was not fitted to.

Command:  python benchmarks/latency.py      (some 10 minutes on one idle core; --help for other sizes)
Prints:   one JSON line a space; figures stand in docs/results.md with hardware and date.

The networks are those that the quick recipe of each space trains alone, and those of examples/digits.py. The model is fitted
to random architectures, as a search with a latency in its reward does it, and then predicts others, which are measured.

median_error, error_90    of |predicted - measured| / measured over these others: the median, and what 90 % stay below.
spearman                  the correlation of the ranks.
errors                    what the model itself says of either predictor, from a cross-validation.
slowest_times             the slowest architecture's latency divided by the fastest one's.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from recurrent import print_record
from scipy.stats import spearmanr

from enas.costs.latency import LatencyConfig
from enas.costs.measuring import RunCosts
from enas.recipes import recipe
from enas.retrain import uniform_architectures
from enas.runtime.memory import keep_freed_memory
from enas.runtime.stop import StopRequest

DIGITS = str(Path(__file__).parents[1] / "examples" / "digits.py")
OTHERS = ("nasbench201-quick", "macro-quick", "recurrent-quick", DIGITS)


def measure(name: str, count: int, arguments: argparse.Namespace) -> None:
    """Print the figures of a recipe's networks."""
    config = replace(recipe(name), threads=arguments.threads)
    costs = RunCosts(config, LatencyConfig(samples=arguments.samples))
    began = time.monotonic()
    with TemporaryDirectory() as folder, StopRequest() as stop:
        model = costs.latency_model(Path(folder), None, stop)
    seconds = time.monotonic() - began
    drawn = uniform_architectures(config.searched_space(), config.seed, costs.sampled())
    others = list(islice(drawn, count))
    measured_N = np.array([latency.median_ms for latency in costs.latencies(others)])
    predicted_N = model.predict(others)
    error_N = np.abs(predicted_N - measured_N) / measured_N
    print_record(
        {
            "recipe": Path(name).name,
            "architectures": len(others),
            "samples": model.samples,
            **costs.machine(),
            "predictor": model.best,
            "median_error": float(np.median(error_N)),
            "error_90": float(np.quantile(error_N, 0.9)),
            "spearman": float(spearmanr(predicted_N, measured_N).statistic),
            "errors": {each: asdict(found.errors) for each, found in model.predictors.items()},
            "median_ms": float(np.median(measured_N)),
            "slowest_times": float(measured_N.max() / measured_N.min()),
            "seconds_fit": seconds,
        }
    )


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--micro", default="micro-quick", help="the recipe of the micro space")
    parser.add_argument("--architectures", type=int, default=100, help="predicted ones of the micro space")
    parser.add_argument("--others", nargs="*", default=list(OTHERS), help="further recipes")
    parser.add_argument("--fewer", type=int, default=50, help="predicted architectures of those")
    parser.add_argument("--samples", type=int, default=100, help="that a model is fitted to")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command line does
    for name, count in (
        (arguments.micro, arguments.architectures),
        *((o, arguments.fewer) for o in arguments.others),
    ):
        measure(name, count, arguments)


if __name__ == "__main__":
    main()
