"""A search, step by step: from its newest checkpoint to its end, where it saves, and where it stops."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from enas import parallel
from enas.errors import NotFiniteError
from enas.phases import START, Place, Search
from enas.runtime.checkpoint import CheckpointStore, fitting
from enas.runtime.compiling import compiling_told
from enas.runtime.device_memory import memory_line
from enas.runtime.metrics import MetricsState
from enas.runtime.progress import estimate_line, in_passing, progress, say
from enas.runtime.stop import StopRequest
from enas.runtime.whose import noted
from enas.watch import Watch


def run_search(
    search: Search, watch: Watch, checkpoints: CheckpointStore, stop: StopRequest, run: Path
) -> None:
    """Run a search to its end, from its newest checkpoint if there is one.

    Raises `Stopped` after saving if a stop is requested, and `NotFiniteError`, keeping the last good checkpoint, if a
    loss or reward is not finite.
    """
    found = checkpoints.load_newest()
    checkpoints.prune()
    if found is None:
        done, start = 0, START
        watch.metrics.restore(MetricsState())  # drops what a start without a checkpoint has logged
        search.archive.rewind(0)
        with compiling_told(stop, run):
            estimated = estimate(search, watch)
        in_passing(estimated)
        watch.begins()
        checkpoints.save(done, search.state_dict(start))
    else:
        with fitting(checkpoints.path(found[0])):
            done, start = found[0], search.load_state_dict(found[1])
        say(f"search: going on after step {done} of {search.total_steps()}")
    with progress("search", search.total_steps(), "steps", done=done) as bar:
        for place, following in search.places(start):
            with told_where(place, checkpoints):
                log = search.step(place, following, done + 1)
                done += 1
                following = search.resolved(following)
                if search.updates_end == (place.epoch, place.step):  # there are fewer steps than it seemed
                    bar.total = search.total_steps()
                bar.advance(1, epoch=place.epoch + 1, **watch.shown(log))
                stops, at_end = stop.requested, following.epoch == search.config.epochs
                before_trainings = following.phase == "verification"  # which may take long, and be stopped
                if stops or at_end or before_trainings or checkpoints.due(done):
                    checkpoints.save(done, search.state_dict(following))
                if stops and not at_end:
                    raise stop.stopped(run)


@contextlib.contextmanager
def told_where(place: Place, checkpoints: CheckpointStore) -> Iterator[None]:
    """Inside, a `NotFiniteError` is said with the place of its step, and with what can be done."""
    try:
        with noted(f"in epoch {place.epoch}, {place.phase} step {place.step}"):
            yield
    except NotFiniteError as error:
        epoch, phase, step = (
            place if error.place is None else Place(error.place[0], "weights", error.place[1])
        )
        again = "" if error.advised else " with a lower learning rate or clipping bound"
        raise NotFiniteError(
            f"search stopped in epoch {epoch}, {phase} step {step}: {error}."
            f"{checkpoints.said_kept()} Search again into a new folder{again}"
        ) from error


def estimate(search: Search, watch: Watch) -> str:
    """One line: how long a search will take and how much memory it needs."""
    config, epochs = search.config, range(search.config.epochs)
    step, reward_seconds = search.weights.estimate()
    at_once = parallel.processes()
    samples = math.ceil(config.samples / at_once)
    train = sum(search.weights.steps(epoch) for epoch in epochs) * samples * step.seconds
    updates = [search.phase_steps(epoch, "controller") for epoch in epochs]
    measured = sum(1 for epoch in epochs if updates[epoch] and watch.measures_percentile(epoch, ended=False))
    rewards = sum(updates) * config.proposals + 2 * measured * config.percentile_samples
    memory = memory_line(step.mib, search.weights.task.device)
    return estimate_line("search", train + rewards * reward_seconds / at_once, memory)
