"""A GPU: whether it comes to what the CPU comes to, whether a run resumes on it, and how long steps take there.

Command:  make test-gpu     or  python benchmarks/gpu.py        (under 8 minutes; --help for parts of it)
Prints:   one line a check. Leaves gpu-record.json, which says the same to others. Exit code 1 if a check failed; 2, and one
          line, if there is no GPU.

numbers   tiny runs of every space (tests/device/runs.py) on the CPU and on the GPU, resumed in between: the largest relative
          difference of what steps log, rewards and scores among it.
gradient  the gradient of one step of the shared weights likewise, of the whole network.
resume    four steps in a row against two, a checkpoint, and two: the relative difference of the weights, and whether it is
          0. And the checkpoint of a GPU taken over by the CPU, and the other way round.
late      a loss that is no number in step 1: the error has that place, and no weight changed.
recorded  steps and rewards of recurrent cells, launched one by one, recorded as CUDA graphs and repeated, against their
          plain form on the same device.
waits     how often torch says that a step waits for the GPU. The one wait for the step before is not among it.
speed     seconds of a step of the shared weights, of a reward and of a step of a child, at the real sizes of recipes, with
          random data; steps of tiny recipes also on the CPU.

Not run yet: nobody who wrote this had a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from enas.config import DTYPES
from enas.errors import ConfigError, NotFiniteError
from enas.gpu.graphs import GRAPHS
from enas.gpu.registry import why_not
from enas.ops import PLAIN
from enas.recipes import recipe
from enas.retrain import Network
from enas.run import Run
from enas.runtime.devices import pick_device, wait_for
from enas.runtime.environment import environment
from enas.runtime.files import write_json
from enas.shared_weights import SharedWeights
from enas.task import Loss
from tests.device.counting import corpus, images
from tests.device.runs import SPACES, config_of, numbers

MINUTES = 8.0
RECIPES = ("recurrent-paper", "macro-paper", "micro-paper")
TINY = ("macro-quick", "micro-quick")
"""Timed on the CPU as well."""
TOLERANCE = 1e-3
"""Of logged numbers and gradients in float32, relative."""

Record = dict[str, Any]


def largest_difference(here: Any, there: Any) -> float:
    """The largest relative difference of numbers in the same places."""
    if isinstance(here, dict):
        return max((largest_difference(here[key], there[key]) for key in here), default=0.0)
    if isinstance(here, list):
        return max((largest_difference(a, b) for a, b in zip(here, there, strict=True)), default=0.0)
    if isinstance(here, torch.Tensor):
        return float((here.double() - there.double()).norm() / here.double().norm())
    return abs(here - there) / max(abs(here), 1e-6)


# ---- does it come to the same ------------------------------------------------------------------------------------------


def numbers_of(space: str, device: str, folder: Path) -> Record:
    """The numbers of a tiny run on the CPU and on the device."""
    found = []
    for place, where in (("here", "cpu"), ("there", device)):
        config = replace(config_of(space, folder / place), device=where)
        found.append(numbers(Run.create(folder / place / "run", config, ("search",)))[0])
    difference = largest_difference(*found)
    return {"passed": difference < TOLERANCE, "largest_relative_difference": difference}


def gradient_of(space: str, device: str, folder: Path) -> Record:
    """The gradient of a step on the CPU and on the device."""
    found = []
    for place, where in (("here", "cpu"), ("there", device)):
        weights = weights_on(space, where, folder / place)
        trainer, architecture = weights.trainer, weights.space.sample(random.Random(1))
        trainer.add_gradients(weights.task.minibatch(0, 0), 0, 0, [architecture])
        found.append(flat(p.grad for p in trainer.model.parameters() if p.grad is not None))
    difference = largest_difference(*found)
    return {"passed": difference < TOLERANCE, "relative_difference": difference}


def flat(values: Iterable[torch.Tensor]) -> torch.Tensor:
    """All numbers in one vector on the CPU."""
    return torch.cat([value.detach().flatten().cpu() for value in values])


def weights_on(space: str, device: str, folder: Path) -> SharedWeights:
    """The shared weights of a tiny run."""
    config = replace(config_of(space, folder), device=device)
    config.set_arithmetic()
    return config.shared_weights()


def resumed(space: str, device: str, folder: Path) -> Record:
    """Four steps, against two and two from a checkpoint; and checkpoints that change devices."""
    whole, first, second = (weights_on(space, device, folder / name) for name in ("a", "b", "c"))
    paths = [whole.space.sample(random.Random(seed)) for seed in range(4)]
    for step in range(4):
        whole.train_step(0, step, [paths[step]])
    for step in range(2):
        first.train_step(0, step, [paths[step]])
    second.load_state_dict(saved(first.state_dict()))
    here = weights_on(space, "cpu", folder / "d")
    here.load_state_dict(saved(first.state_dict()))
    for step in range(2, 4):
        second.train_step(0, step, [paths[step]])
        here.train_step(0, step, [paths[step]])
    there = weights_on(space, device, folder / "e")
    there.load_state_dict(saved(here.state_dict()))
    there.train_step(0, 1, [paths[0]])
    there.trainer.settle()
    models = [flat(one.trainer.model.parameters()) for one in (whole, second, here)]
    itself, other = (largest_difference(models[0], model) for model in models[1:])
    passed = itself < TOLERANCE and other < 10 * TOLERANCE
    return {
        "passed": passed,
        "relative_difference": itself,
        "equal": itself == 0,
        "on_the_cpu": other,
    }


def saved(state: Record) -> Record:
    """A state as a checkpoint has it: on the CPU."""
    with tempfile.TemporaryFile() as file:
        torch.save(state, file)
        file.seek(0)
        found: Record = torch.load(file, map_location="cpu", weights_only=True)
    return found


def late(space: str, device: str, folder: Path) -> Record:
    """A loss that is no number."""
    weights = weights_on(space, device, folder)
    architecture = weights.space.sample(random.Random(1))
    weights.train_step(0, 0, [architecture])
    weights.trainer.settle()
    before = copy.deepcopy(list(weights.trainer.model.parameters()))
    real = weights.task.loss

    def loss(*args: Any) -> Loss:
        found = real(*args)
        found.total = found.total * math.nan
        return found

    vars(weights.task)["loss"] = loss
    try:
        weights.train_step(0, 1, [architecture])
        del vars(weights.task)["loss"]
        weights.train_step(0, 2, [architecture])
    except NotFiniteError as error:
        place = error.place
    else:
        return {"passed": False, "error": "none"}
    same = all(torch.equal(a, b) for a, b in zip(before, weights.trainer.model.parameters(), strict=True))
    return {"passed": same and place in (None, (0, 1)), "place": place, "weights_untouched": same}


def waits(space: str, device: str, folder: Path) -> Record:
    """How often torch warns of a wait in the third step of either kind."""
    if not device.startswith("cuda"):
        return {"passed": True, "left_out": "torch tells waits for CUDA alone"}
    config = replace(config_of(space, folder), device=device)
    weights: SharedWeights = config.shared_weights()
    architecture = weights.space.sample(random.Random(1))
    training = config.child_training(Network("found", architecture, 0))
    found = {}
    for kind, step in (
        ("weights", lambda n: weights.train_step(0, n, [architecture])),
        ("child", lambda n: training.step()),
    ):
        for number in range(2):
            step(number)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            step(2)
            torch.cuda.set_sync_debug_mode("default")
        found[kind] = [str(one.message) for one in caught if "synchroniz" in str(one.message)]
    counts = {kind: len(messages) for kind, messages in found.items()}
    return {"passed": not any(counts.values()), "waits": counts}


def recorded(space: str, device: str, folder: Path) -> Record:
    """Gradients along several cells and their rewards. The second of each kind is recorded, and later ones repeat it."""
    if space != "recurrent":
        return {"passed": True, "left_out": "recurrent cells alone are recorded"}
    found = []
    for place, plain in (("plain", True), ("recorded", False)):
        token = PLAIN.set(plain)
        try:
            found.append(gradients_and_rewards(weights_on(space, device, folder / place)))
        finally:
            PLAIN.reset(token)
    difference = largest_difference(*found)
    why, layouts = why_not(torch.device(device)), len(GRAPHS.recorded)
    used = why is None and layouts > 0
    return {
        "passed": difference < TOLERANCE and (used or not device.startswith("cuda")),
        "largest_relative_difference": difference,
        "not_used": why,
        "layouts": layouts,
    }


def gradients_and_rewards(weights: SharedWeights) -> list[torch.Tensor]:
    """Of four steps and three minibatches."""
    trainer, draw = weights.trainer, random.Random(1)
    found = []
    for step in range(4):
        trainer.add_gradients(weights.task.minibatch(0, step), 0, step, [weights.space.sample(draw)])
        found.append(flat(p.grad for p in trainer.model.parameters() if p.grad is not None))
        trainer.optimizer.zero_grad()
    together = [weights.space.sample(draw) for _ in range(8)]
    return [*found, *(weights.rewards(together, "compared", number) for number in range(3))]


CHECKS: dict[str, Callable[[str, str, Path], Record]] = {
    "numbers": numbers_of,
    "gradient": gradient_of,
    "resume": resumed,
    "late": late,
    "recorded": recorded,
    "waits": waits,
}


def checked(device: str, spaces: list[str]) -> Iterator[tuple[str, Record]]:
    """Every check of every space, by name. One that fails with an error says which."""
    for name, check in CHECKS.items():
        for space in spaces:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = check(space, device, Path(folder))
                except Exception as error:  # whatever it is, the others are worth to be known
                    found = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
            yield f"{name} {space}", found


# ---- how fast ----------------------------------------------------------------------------------------------------------


def speeds(name: str, device: str, precision: str, seconds: float) -> Record:
    """Seconds of each kind of step of a recipe, the median of as many as fit into `seconds`."""
    config: Any = replace(recipe(name), device=device, precision=precision, allow_slow=True)
    vars(config).update(images=images(), corpus=corpus())  # in the place of data that are loaded once
    config.set_arithmetic()
    weights = config.shared_weights()
    paths = [weights.space.sample(random.Random(seed)) for seed in range(8)]
    training = config.child_training(Network("found", paths[0], 0))
    steps: dict[str, Callable[[int], object]] = {
        "weights": lambda n: weights.train_step(0, n % weights.steps(0), [paths[n % 8]]),
        "reward": lambda n: weights.rewards([paths[n % 8]], "timed", n),
        "child": lambda n: training.trainer.step(0, n % training.task.steps(0)),
    }
    return {kind: timed(step, pick_device(device), seconds) for kind, step in steps.items()}


def timed(step: Callable[[int], object], device: torch.device, seconds: float) -> float:
    """Seconds of a step in the long run: many are given to the device at once, after three."""
    for number in range(3):
        step(number)
    wait_for(device)
    began, done = time.perf_counter(), 0
    while done < 2 or time.perf_counter() - began < seconds:
        step(3 + done)
        done += 1
    wait_for(device)
    return (time.perf_counter() - began) / done


def measured(
    device: str, recipes: list[str], tiny: list[str], seconds: float, until: float
) -> Iterator[tuple[str, Record]]:
    """The speeds of recipes, and of tiny ones on the CPU too, while there is time."""
    plan = [(name, device, precision) for name in recipes for precision in DTYPES]
    plan += [(name, where, "fp32") for name in tiny for where in dict.fromkeys((device, "cpu"))]
    for name, where, precision in plan:
        if time.monotonic() > until:
            yield f"speed {name} {where} {precision}", {"left_out": "no time was left"}
            continue
        try:
            found: Record = {"seconds": speeds(name, where, precision, seconds)}
        except Exception as error:  # such as too little memory; the others are worth to be known
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        yield f"speed {name} {where} {precision}", found


# ---- the record --------------------------------------------------------------------------------------------------------


def described(device: torch.device) -> Record:
    """The GPU and what drives it."""
    if device.type != "cuda":
        return {"device": str(device)}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "memory_mib": properties.total_memory // 2**20,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the GPU; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, mps; cpu tries the program itself")
    parser.add_argument("--spaces", nargs="*", default=list(SPACES))
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--tiny", nargs="*", default=list(TINY), help="recipes that are timed on the CPU too")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each kind of step")
    parser.add_argument("--record", type=Path, default=Path("gpu-record.json"))
    given = parser.parse_args(arguments)
    try:
        device = pick_device(given.device)
    except ConfigError as error:
        print(f"There is no GPU to test: {error}", file=sys.stderr)
        return 2
    began = time.monotonic()
    record: Record = {**environment(), **described(device), "checks": {}, "speeds": {}}

    def take(part: str, found: Iterator[tuple[str, Record]]) -> None:
        for name, result in found:
            record[part][name] = result
            print(f"{name:40}", json.dumps(result), flush=True)
            write_json(given.record, record)

    take("checks", checked(given.device, given.spaces))
    take(
        "speeds", measured(given.device, given.recipes, given.tiny, given.seconds, began + 60 * (MINUTES - 2))
    )
    record["minutes"] = round((time.monotonic() - began) / 60, 2)
    write_json(given.record, record)
    failed = [name for name, result in record["checks"].items() if not result["passed"]]
    print(
        f"{len(record['checks']) - len(failed)} of {len(record['checks'])} checks passed; see {given.record}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
