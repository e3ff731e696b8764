"""The stages of a run, in order: search, derive, retrain, test. Each reads only files that the one before wrote."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from enas import parallel, verification
from enas.architecture import Architecture
from enas.controllers import Controller
from enas.controllers.uniform import UniformController
from enas.costs.bounds import CostBounds, bounded
from enas.costs.goals import NEAR
from enas.derive import Train, candidates, in_time, pick
from enas.effects import Effects, Groups, archive_effects
from enas.errors import ArchitectureError, ConfigError, EnasError, RunFolderError
from enas.executors import executor_for, in_stages
from enas.following import Trainings, described
from enas.phases import Search
from enas.report.drawing import write_svg
from enas.retrain import Network, score_in
from enas.run import ALL_STAGES, Run, StageName
from enas.runtime.checkpoint import check_still_there, fitting
from enas.runtime.compiling import compiling_told
from enas.runtime.files import JsonlLog, write_json
from enas.runtime.metrics import Metrics, tensorboard_writer
from enas.runtime.progress import in_passing, say
from enas.runtime.records import check_settings
from enas.runtime.seeding import generator
from enas.runtime.stop import StopRequest
from enas.runtime.whose import noted
from enas.runtime.work import work_clock
from enas.search_loop import run_search
from enas.settings import settings_for
from enas.shared_weights import SharedWeights
from enas.trainings import Job, train_all
from enas.verification import Verification, Verifying
from enas.watch import Watch

__all__ = ["ALL_STAGES", "Run", "StageName", "derive", "derive_by", "execute", "put_architecture", "search"]

WORTH_PROCESSES = 30.0
"""Seconds of training in all from which on processes are started for it, which takes seconds itself."""

# ---- search ------------------------------------------------------------------------------------------------------------


def search(run: Run, stop: StopRequest, train: verification.Train | None = None) -> None:
    """Train the shared weights and the controller (paper §2.2).

    `train` says what the trainings of a verification come to; by default they are done.
    """
    # Once an architecture is derived, nothing reads the search's checkpoint any more.
    derived = (run.folder / "architecture.json").exists()
    if run.search_record() is not None and (derived or run.search_end() is not None):
        return
    run.goals.prepare(stop)
    searching, watch = search_of(run, train or partial(train_alone, run, stop))
    parallel.check_norms(searching.weights.trainer.model)
    count, samples = parallel.processes(), run.config.search.samples
    if samples < count and not run.config.search.same_path:
        say(
            f"search: of {count} processes {samples} train weights at a time, as search.samples is {samples}; raise it, or "
            "let all share each minibatch with --search.same-path True"
        )
    with run.config.refusals_explained("search"), parallel.shared(searching.weights, "search"):
        run_search(searching, watch, run.search_checkpoints(going_on=True), stop, run.folder)
    limits = run.goals.limits
    write_json(
        run.folder / "search.json",
        {
            "steps": searching.total_steps(),
            "updates_end": searching.updates_end,
            "seconds": round(watch.metrics.seconds(), 3),
            "work": round(watch.metrics.work(), 3),
            "archive": asdict(searching.archive.digest()),
            "settings": settings_for("search", run.config),
            **({} if limits is None else limits.state_dict()),
        },
    )
    if limits is not None:
        say(
            f"search: {limits.rejected:,} of {limits.drawn:,} architectures drawn were over a limit, and rejected"
        )


def search_of(run: Run, train: verification.Train) -> tuple[Search, Watch]:
    """The search of a run, at its start, and who looks on."""
    config, folder = run.config, run.folder
    weights, controller = run.shared_weights(), run.search_controller()
    weights.trainer.by_examples = config.search.same_path
    board = partial(tensorboard_writer, folder / "tensorboard") if config.tensorboard else None
    worked = work_clock(weights.task.device, parallel.processes())
    metrics = Metrics(JsonlLog(folder / "metrics.jsonl"), board, worked=worked)
    archive = JsonlLog(folder / "archive.jsonl")
    verifier, limits = None, run.goals.limits
    if config.verify.trainings:
        verifier = Verifying(
            config.verify,
            config.search,
            weights,
            controller,
            config.costs,
            train,
            config.seed,
            limits,
            metrics.work,
        )
    watch = Watch(config.search, weights, controller, config.seed, metrics, verifier, limits)
    target = run.goals.target()
    found = Search(config.search, weights, controller, config.seed, archive, watch, verifier, limits, target)
    return found, watch


def train_alone(run: Run, stop: StopRequest, architectures: Sequence[Architecture]) -> list[float]:
    """Train architectures for the short while that a verification asks for; their scores, -infinity where one diverged."""
    networks = [Network("candidate", architecture, run.config.seed) for architecture in architectures]
    results = train_missing(run, "verify", networks, stop, run.config.verify.epochs)
    if run.config.verify.score == "validation":
        return [run.config.metric.score(result) for result in results]
    return [-math.inf if "diverged" in result else -score_in(result, "train_loss") for result in results]


# ---- derive ------------------------------------------------------------------------------------------------------------


def derive(run: Run, stop: StopRequest) -> None:
    """Pick an architecture from the trained policy."""
    if (run.folder / "architecture.json").exists():
        record = run.derive_record()
        otherwise = f"delete architecture.json, then run {run.command('derive')}"
        if record is not None:
            now = settings_for("derive", run.config)
            check_settings(record.settings, now, run.folder / "architecture.json", otherwise)
        return

    def train(architectures: Sequence[Architecture]) -> list[float]:
        networks = [Network("candidate", architecture, run.config.seed) for architecture in architectures]
        results = train_missing(run, "derive", networks, stop, run.config.derive.shortlist_epochs)
        return [run.config.metric.shortlisted_by(result) for result in results]

    with run.config.refusals_explained("search"):
        derive_by(run, train)


def derive_by(run: Run, train: Train) -> None:
    """Pick an architecture; `train` says what the short trainings of some come to, their validation losses."""
    weights, controller = run.searched()
    known = verified(run, weights)
    config, bounds = run.config.derive, run.goals.around(NEAR)
    effects = logged_effects(run)
    if effects is not None:
        in_passing(effects.table())
    elif config.needs_ridge:
        raise RunFolderError(
            f"{run.folder} has no rewards that differ on one minibatch, which the ridge regression needs; choose another "
            "derive.rule and derive.shortlist_order, and no derive.ridge_candidate"
        )
    worked = work_clock(weights.task.device, parallel.processes())
    began, work_before = time.monotonic(), worked()
    found = candidates(
        weights,
        proposing(controller, bounds, config.samples, run.config.seed),
        config,
        run.config.seed,
        effects=effects,
        verification=known,
        earlier=earlier_weights(run, config.checkpoints - 1),
        epoch=run.config.search.epochs - 1,
        bounds=bounds,
    )
    if bounds is not None and "latency" in bounds.ranges:
        for candidate, latency in zip(
            found, run.goals.measured([one.architecture for one in found]), strict=True
        ):
            candidate.latency_ms = latency
        limit = run.config.limit.amounts.get("latency", math.inf)
        found = in_time(found, bounds.ranges["latency"], limit, config.shortlist)
    seconds, work = time.monotonic() - began, worked() - work_before
    del weights, known  # their memory is needed for the shortlist's trainings
    picked = pick(found, config, train).architecture
    costs = run.goals.again(picked)
    write_json(run.folder / "candidates.json", [candidate.to_json() for candidate in found])
    if effects is not None:
        write_json(run.folder / "effects.json", effects.to_json())
    record = {
        "candidates": len(found),
        "seconds": round(seconds, 3),
        "work": round(work, 3),
        "settings": settings_for("derive", run.config),
    }
    if costs:
        record["costs"] = {name: asdict(cost) for name, cost in costs.items()}
        say(f"derive: what is picked has {'; '.join(cost.text(name) for name, cost in costs.items())}")
    write_json(run.folder / "derive.json", record)
    put_architecture(run.folder, picked)


def proposing(controller: Controller, bounds: CostBounds | None, count: int, seed: int) -> Controller:
    """The controller within the bounds of what may be picked; random search within them if the controller proposes too few
    such architectures, which is said."""
    policy = bounded(controller, bounds)
    try:
        with torch.no_grad():
            policy.propose(count, generator(seed, "derive"))
        policy.mode()
    except ConfigError as error:
        say(
            f"derive: the policy proposes too little of what may be picked: {error}. Random architectures stand in for it"
        )
        return bounded(UniformController(controller.space), bounds)
    return policy


def verified(run: Run, weights: SharedWeights) -> Verification | None:
    """The verification of a finished search; None if it had none."""
    end = run.search_end()
    if end is None or end[1].verifier is None:
        return None
    found = Verification(run.config.verify, weights, run.config.costs, run.config.seed)
    with fitting(end[0]):
        found.load_state_dict(end[1].verifier)
    return found


def earlier_weights(run: Run, count: int) -> Iterator[dict[str, Any]]:
    """States of the shared weights at the `count` checkpoints by steps before the newest, one at a time, the latest first.

    Says so if there are fewer; one from before the first step is none. When the clock asked for one plays no part.
    """
    checkpoints = run.search_checkpoints()
    newest = max(checkpoints.steps(), default=0)
    between = checkpoints.whole(lambda step: 0 < step < newest and checkpoints.rhythm.of_steps(step))
    earlier = (state["weights"] for _, state in between)
    read = 0
    for state in islice(earlier, count):
        read += 1
        yield state
    if read < count:
        say(
            f"derive: the search left {read} checkpoints by steps before its end, not {count}; they rank the candidates"
        )


def logged_effects(run: Run) -> Effects | None:
    """What the logged rewards say each option is worth; None if there are none to compare."""
    config, space = run.config.search, run.config.searched_space()
    within: Groups = "update" if config.same_minibatch and config.proposals > 1 else "epoch"
    archive = run.archive()
    try:
        return archive_effects(space, archive, within)
    except ArchitectureError as error:
        raise RunFolderError(
            f"{run.folder / 'archive.jsonl'}: {error}. Put the original back, or begin a new run"
        ) from error


def put_architecture(folder: Path, architecture: Architecture) -> None:
    """Write the architecture of a run, as values and as a picture."""
    try:
        write_svg(architecture.graph(), folder / "architecture.svg", own=True)
    except EnasError as error:  # the picture is a convenience: its library may be missing
        say(f"no architecture.svg: {error}")
    write_json(folder / "architecture.json", architecture.to_json())


# ---- retrain, test ------------------------------------------------------------------------------------------------------


def retrain(run: Run, stop: StopRequest) -> None:
    """Train the found architecture from scratch, and what it is compared with."""
    train_missing(run, "retrain", run.networks(), stop)


def train_missing(
    run: Run, part: str, networks: Sequence[Network], stop: StopRequest, epochs: int | None = None
) -> list[dict[str, Any]]:
    """Train those networks under RUN/PART that are not trained yet, and return the results of all.

    `epochs` is another length than the recipe's. Where it is worth the start of processes, they are trained side by side.
    Where there are several processes of this run, they take turns; a network that is trained alone is trained by all of
    them.
    """
    missing = [network for network in networks if run.result(network, part, epochs) is None]
    executor = executor_for(run.config) if len(missing) > 1 and in_stages(run.config) else None
    if (
        executor is not None
        and executor.at_once > 1
        and len(missing) * training_seconds(run, missing[0], epochs, stop) > WORTH_PROCESSES
    ):
        jobs = [Job(run.folder, part, network, epochs) for network in missing]
        for outcome in train_all(run, jobs, executor, stop, part):
            if outcome.ending == "died":
                say(f"{outcome.reason}; its training goes on here, after the others")
    elif parallel.processes() > 1 and len(missing) > 1:
        trainings = Trainings(run, stop, part, epochs)
        with parallel.shared(trainings, "trainings", part, epochs):
            trainings.train([described(network) for network in missing])
    return [run.train(network, part, stop, epochs) for network in networks]


def training_seconds(run: Run, network: Network, epochs: int | None, stop: StopRequest) -> float:
    """About how long a network's training takes."""
    training = run.child_training(network, epochs)
    with compiling_told(stop, run.folder):
        return training.estimate().seconds * training.total_steps


def test(run: Run, stop: StopRequest) -> None:
    """Read the test data, once for every retrained network."""
    if not run.results():
        raise RunFolderError(f"{run.folder} has no retrained network yet; run {run.command('retrain')} first")
    if not run.config.has_test:
        say("test: the task has no test data")
    for network in run.networks() if run.config.has_test else []:
        result = run.result(network, "retrain")
        if result is not None and "test" not in result and "diverged" not in result:
            say(f"test {network}: reading the test data")
            run.measure(network, "retrain")
        if stop.requested:
            raise stop.stopped(run.folder)
    run.goals.measure_trained(run.networks())
    write_json(run.folder / "comparison.json", run.results())


STAGES: dict[StageName, Callable[[Run, StopRequest], None]] = {
    "search": search,
    "derive": derive,
    "retrain": retrain,
    "test": test,
}


def execute(run: Run, stages: Sequence[StageName]) -> None:
    """Run these stages in order, each from where it was. Raises `Stopped`, after saving, on SIGTERM or Ctrl-C."""
    run.config.set_process()
    with StopRequest(parallel.stop_of_any) as stop, parallel.shared(run, "run", str(run.folder)):
        for stage in stages:
            check_still_there(run.run_file)
            with noted("in the stage", stage):
                STAGES[stage](run, stop)
            if stop.requested and stage != stages[-1]:
                raise stop.stopped(run.folder)
