"""Successive halving of random architectures: many are trained for one epoch, the best third of them for three, and so on.

Who is promoted is ASHA's rule (Li et al. 2020, arXiv:1810.05934, algorithm 2): a network goes up as soon as it is among the
best third of those that its rung has so far, and nobody waits for a rung to be complete. Trainings are given out in rounds,
so that they can run side by side; a round of new architectures is as large as what is left of the budget is enough for, the
first one small.

    FOLDER/                  a run folder with the recipe of the trainings
      halving.json           what was expected of an epoch
      rung-E/ID-seedS/       a training of E epochs, which goes on from that of the rung below
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

from enas.architecture import Architecture
from enas.evidence.runs import complete, seconds_of, train_networks
from enas.retrain import METRICS, WEIGHTS, Network
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import write_json
from enas.runtime.progress import say
from enas.runtime.records import read_record
from enas.runtime.stop import StopRequest
from enas.stages import Run, training_seconds

REDUCTION = 3
"""How many times as long the trainings of a rung are as those of the rung below, and how many of these none follows."""

FIRST = REDUCTION**2
"""Architectures of the first round, which shows how long an epoch takes."""

# ---- the rule ----------------------------------------------------------------------------------------------------------

Rungs = Sequence[Mapping[Network, float]]
"""For every rung from the lowest on, the scores of what it has trained; higher is better, -infinity if it diverged."""


def lengths(epochs: int) -> list[int]:
    """Epochs of each rung: 1, 3, 9, … up to `epochs`."""
    return [REDUCTION**rung for rung in range(epochs.bit_length()) if REDUCTION**rung <= epochs]


def promotable(rungs: Rungs, rung: int) -> list[Network]:
    """Those of a rung that go up: among the best third of it, rounded down, not gone up yet, and not diverged; the best
    first, of equal ones the earlier."""
    scores = rungs[rung]
    best = sorted(scores, key=scores.__getitem__, reverse=True)[: len(scores) // REDUCTION]
    return [one for one in best if one not in rungs[rung + 1] and scores[one] > -math.inf]


class Promotion(NamedTuple):
    """Who is to be trained on a rung."""

    rung: int
    networks: list[Network]


def promotion(rungs: Rungs) -> Promotion | None:
    """The promotions to the highest rung that has any; None if there are none anywhere."""
    for rung in reversed(range(len(rungs) - 1)):
        if found := promotable(rungs, rung):
            return Promotion(rung + 1, found)
    return None


def epochs_each(epochs: Sequence[int]) -> float:
    """Epochs that a new architecture costs on average, its share of the promotions that it brings about included."""
    return epochs[0] + sum(
        (longer - shorter) / float(REDUCTION) ** rung
        for rung, (shorter, longer) in enumerate(pairwise(epochs), start=1)
    )


# ---- the trainings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Halved:
    """What came out."""

    architecture: Architecture | None
    """The best by the validation data of the highest rung that has any; None if all diverged."""
    architectures: int
    """How many were trained."""
    seconds: float
    """The work of all trainings, each epoch counted once."""


@dataclass(frozen=True)
class HalvingRecord:
    """What halving.json holds."""

    epoch_seconds: float


def halve(
    run: Run,
    drawn: Iterator[Architecture],
    epochs: int,
    seconds: float,
    stop: StopRequest,
    command: str,
    workers: int | None,
) -> Halved:
    """Train the architectures that are `drawn`, at least one, for at most `epochs`, until the trainings have taken so many
    `seconds` of work. The last training may take longer; one is always done.

    A training that diverged is taken to have cost what others of its length do. Raises `Stopped`, after saving, if a stop is
    requested.
    """
    rung_epochs = lengths(epochs)
    rungs: list[dict[Network, float]] = [{} for _ in rung_epochs]
    results: list[dict[Network, Mapping[str, Any]]] = [{} for _ in rung_epochs]
    first = next(drawn)
    candidates = (Network("candidate", one, run.config.seed) for one in chain([first], drawn))
    example = Network("candidate", first, run.config.seed)
    expected, spent = expected_epoch_seconds(run, example, stop), 0.0
    while not rungs[0] or spent < seconds:
        left = seconds - spent
        if (up := promotion(rungs)) is not None:
            rung, below = up.rung, rung_epochs[up.rung - 1]
            each = expected * (rung_epochs[rung] - below)
            networks = up.networks[: math.ceil(left / each)]
            for network in networks:
                carry_on(run, network, below, rung_epochs[rung])
        else:
            rung, each = 0, expected * rung_epochs[0]
            count = max(1, int(left / (expected * epochs_each(rung_epochs))))
            networks = list(islice(candidates, count if rungs[0] else min(count, FIRST)))
        if not networks:
            break  # the space has no more
        epochs = rung_epochs[rung]
        trained = train_networks(run, part(epochs), networks, stop, command, workers=workers, epochs=epochs)
        trained = complete(trained, networks, run.folder / part(epochs))
        for network in networks:
            result = trained[network]
            rungs[rung][network] = run.config.metric.score(result)
            results[rung][network] = result
            shorter = seconds_of(results[rung - 1][network]) if rung else 0.0
            spent += seconds_of(result) - shorter if "seconds" in result else each
        timed = [
            seconds_of(one) / one["epochs"]
            for of_rung in results
            for one in of_rung.values()
            if "seconds" in one
        ]
        if sum(timed):
            expected = sum(timed) / len(timed)
    highest = next(
        (scores for scores in reversed(rungs) if any(s > -math.inf for s in scores.values())), None
    )
    best = None if highest is None else max(highest, key=highest.__getitem__).architecture
    counts = ", ".join(
        f"{len(scores)} for {of}" for scores, of in zip(rungs, rung_epochs, strict=True) if scores
    )
    say(f"architectures trained for so many epochs: {counts}")
    return Halved(best, len(rungs[0]), spent)


def part(epochs: int) -> str:
    """The folder of a rung."""
    return f"rung-{epochs}"


def expected_epoch_seconds(run: Run, network: Network, stop: StopRequest) -> float:
    """About how long an epoch takes; measured once and kept, so that a halving that goes on goes the same way."""
    path = run.folder / "halving.json"
    if not path.exists():
        write_json(path, {"epoch_seconds": training_seconds(run, network, 1, stop)})
    return read_record(path, HalvingRecord, f"Delete {run.folder} to begin again").epoch_seconds


def carry_on(run: Run, network: Network, below: int, epochs: int) -> None:
    """Have a training of a rung begin where that of the rung below ended: at its last checkpoint."""
    shorter, longer = run.folder / part(below) / network.id, run.folder / part(epochs) / network.id
    old, new = (
        CheckpointStore(folder / "checkpoints", 2, say, run.training_settings(length), run.run_file)
        for folder, length in ((shorter, below), (longer, epochs))
    )
    if new.steps():
        return  # it has begun
    end = old.load_newest()
    if end is None:
        return  # it was deleted: the longer training begins at its start
    longer.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, WEIGHTS):
        shutil.copyfile(shorter / name, longer / name)
    new.save(*end)
