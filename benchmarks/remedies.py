"""Which ways to train and to read shared weights order architectures as training alone does.

Command:  python benchmarks/remedies.py nas-bench-201 --file TABLE --data FOLDER     (or cells, or convolutional; see --help)
          python benchmarks/remedies.py run --run RUN       (a run that `enas compare` has trained random architectures for)
Prints:   one JSON line a remedy and seed, then a table of means; the measured ones stand in docs/results.md.

For every remedy and seed a supernet is trained along random paths, without a controller. Then random architectures are
scored with it in several ways, and each order is compared with the known scores on test data by Kendall's tau: over all of
them, and within the best fifth. Of a run, the test scores of the random architectures are what is known. What is done is
kept in the file --records and not repeated.

tau, top      over all compared architectures, and within the best fifth.
accuracy      of 4 validation minibatches, with the norms' statistics of these.
loss          on the same, negative.
strata        by accuracy, among architectures that take equally many options without parameters; its tau alone is the mean
              over such groups, weighted by pairs, so that it is not to be compared with the others.

Of the recipe's weights also:
speed         the mean training loss over 20 steps of this path alone, at the schedule's first rate, negative (as in Ru et
              al. 2021, arXiv:2006.04492); `fall` is by how much it fell from the first to the mean of the last five.
tuned         the accuracy after these steps.
wide          the accuracy on 16 minibatches. `moving`, `recalibrated`: with other statistics of the norms.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recurrent import print_record
from scipy import stats
from torch.nn import functional as F

from enas.architecture import Architecture, Space
from enas.config import RunConfig
from enas.controllers.uniform import UniformController
from enas.errors import NotFiniteError
from enas.evidence.agreement import top
from enas.evidence.compare import PART, RECORDS
from enas.evidence.comparison import SAMPLING
from enas.evidence.statistics import Floats
from enas.evidence.tables.score import NAS_BENCH_201, Truth, known_of
from enas.evidence.variants import with_settings
from enas.health import parameter_free
from enas.norms import NormStatistics, norms_of
from enas.runtime.devices import set_threads
from enas.runtime.files import read_jsonl
from enas.runtime.memory import keep_freed_memory
from enas.runtime.seeding import derive_seed, generator
from enas.samplers import Fair
from enas.shared_weights import SharedWeights
from enas.stages import Run
from enas.task import Loss, Minibatch
from enas.tasks.images import outputs_of

MINIBATCHES, WIDE = 4, 16
TUNING = 20
Paths = Callable[["Trained", int, int], list[Architecture]]
"""From what is trained, the epoch and the step, the architectures that are trained next."""


@dataclass
class Trained:
    """Shared weights in training."""

    weights: SharedWeights
    epochs: int
    seed: int
    samples: int
    """Architectures of a step."""
    norms_of_options: dict[tuple[int, int], float] = field(default_factory=dict)
    """The mean norm of the gradients of paths with an option, by decision and choice."""

    @property
    def space(self) -> Space:
        """The space."""
        return self.weights.space

    def uniform(self, n: int, *place: int) -> list[Architecture]:
        """Some uniformly random architectures; `place` says which."""
        draw = generator(self.seed, "paths", *place)
        return UniformController(self.space).propose(n, draw).architectures(self.space)


# ---- paths -------------------------------------------------------------------------------------------------------------


def uniform(trained: Trained, epoch: int, step: int) -> list[Architecture]:
    """As many as the recipe asks for, uniformly."""
    return trained.uniform(trained.samples, epoch, step)


def fairly() -> Paths:
    """Each option of a decision equally often."""
    samplers: dict[int, Fair] = {}

    def paths(trained: Trained, epoch: int, step: int) -> list[Architecture]:
        sampler = samplers.setdefault(id(trained), Fair(trained.space, trained.seed))
        return sampler.sample(trained.samples, generator(0))

    return paths


def weighted_first(trained: Trained, epoch: int, step: int) -> list[Architecture]:
    """In the first half, of eight random paths the one with the fewest options without parameters; then uniform."""
    if 2 * epoch >= trained.epochs:
        return uniform(trained, epoch, step)
    return [min(trained.uniform(8, epoch, step), key=lambda one: free_options(trained.space, one))]


def grown(trained: Trained, epoch: int, step: int) -> list[Architecture]:
    """A curriculum: decisions offer their options one after the other, all from half of the epochs on, those with parameters
    first (after the operation sets of CNAS, which grow, Guo et al. 2020, arXiv:2007.07197)."""
    offered = []
    for weighted, free in by_parameters(trained):
        order = [*weighted, *free]
        grown_to = math.ceil(len(order) * 2 * (epoch + 1) / trained.epochs)
        offered.append(order[:grown_to] if free else order)
    return mostly(trained, epoch, step, offered, 1.0)


def dropped(trained: Trained, epoch: int, step: int) -> list[Architecture]:
    """Options without parameters are dropped early: at first always, ever less until half of the epochs. Random ones with
    parameters take their place (after the dropout of skip connections of P-DARTS, Chen et al. 2019, arXiv:1904.12760)."""
    weighted = [with_parameters for with_parameters, _ in by_parameters(trained)]
    return mostly(trained, epoch, step, weighted, max(0.0, 1 - 2 * epoch / trained.epochs))


def by_parameters(trained: Trained) -> list[tuple[list[int], list[int]]]:
    """The choices of each decision: those with parameters, and those without."""
    found = []
    for decision in trained.space.decisions:
        without = trained.space.parameter_free(decision)
        free = [choice for choice, option in enumerate(decision.options) if option in without]
        found.append(([choice for choice in range(len(decision.options)) if choice not in free], free))
    return found


def mostly(
    trained: Trained, epoch: int, step: int, among: Sequence[Sequence[int]], rate: float
) -> list[Architecture]:
    """Uniformly random architectures. Choices that are not `among` those of their decision become random ones of these, at
    this rate."""
    rng = random.Random(derive_seed(trained.seed, "mostly", epoch, step))
    found = []
    for one in trained.uniform(trained.samples, epoch, step):
        choices = list(one.choices)
        for place, choice in enumerate(choices):
            if choice not in among[place] and rng.random() < rate:
                choices[place] = rng.choice(among[place])
        found.append(trained.space.architecture(choices))
    return found


def by_gradients(trained: Trained, epoch: int, step: int) -> list[Architecture]:
    """Options as probable as the mean norm of the gradients of paths with them, half uniform (after PA&DA, Lu et al. 2023,
    arXiv:2302.14772, without its weights of importance)."""
    rng = random.Random(derive_seed(trained.seed, "gradients", epoch, step))
    choices = []
    for place, decision in enumerate(trained.space.decisions):
        found = [
            trained.norms_of_options.get((place, choice), 0.0) for choice in range(len(decision.options))
        ]
        total = sum(found)
        share = [0.5 / len(found) + (0.5 * one / total if total else 0.5 / len(found)) for one in found]
        choices.append(rng.choices(range(len(found)), share)[0])
    return [trained.space.architecture(choices)]


def with_largest(trained: Trained, epoch: int, step: int) -> list[Architecture]:
    """The path with the most parameters of many, and a random one, which learns its class probabilities too."""
    return [largest(trained), *trained.uniform(1, epoch, step)]


def largest(trained: Trained) -> Architecture:
    """The architecture with the fewest options without parameters, of 1,000 random ones."""
    return min(trained.uniform(1000, -1), key=lambda one: free_options(trained.space, one))


def free_options(space: Space, architecture: Architecture) -> int:
    """How many options without parameters an architecture takes."""
    found = parameter_free(space, architecture.choices)
    return 0 if found is None else found.taken


# ---- remedies ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remedy:
    """A way to train shared weights."""

    settings: dict[str, object] = field(default_factory=dict)
    """Changes of the recipe."""
    length: float = 1.0
    """Epochs, in those of the recipe."""
    paths: Paths = uniform
    prepare: Callable[[SharedWeights], None] | None = None
    parts: bool = False
    """Whether each option of one decision has a supernet of its own; all together are trained as long as one."""


def without_affine(weights: SharedWeights) -> None:
    """Norms that only normalise."""
    for norm in norms_of(weights.trainer.model):
        norm.weight.requires_grad_(False)
        norm.bias.requires_grad_(False)


def distilled(weights: SharedWeights) -> None:
    """The second path of a step also learns the class probabilities of the first."""
    task, plain = weights.task, weights.task.loss
    taught: dict[int, torch.Tensor] = {}

    def loss(
        model: torch.nn.Module, minibatch: Minibatch, architecture: Architecture | None, slot: int
    ) -> Loss:
        logits_BK = outputs_of(model, task.laid_out(minibatch.images_BCHW), architecture).logits_BK
        found = plain(model, minibatch, architecture, slot) if slot == 0 else None
        if found is not None:
            taught[0] = logits_BK.detach().softmax(1)
            return found
        own = F.cross_entropy(logits_BK, minibatch.labels_B)
        right = (logits_BK.detach().argmax(1) == minibatch.labels_B).float().mean()
        total = (own + F.cross_entropy(logits_BK, taught[0])) / 2
        return Loss(total, {"loss": own.detach(), "accuracy": right})

    vars(task)["loss"] = loss


RATE, BATCH = "shared.training.cosine.high", "shared.training.batch"


def remedies(config: RunConfig) -> dict[str, Remedy]:
    """All of them, by name."""
    shared = vars(config)["shared"]
    rate, batch = shared.training.cosine.high, shared.training.batch
    return {
        "the recipe": Remedy(),
        "half as long": Remedy(length=0.5),
        "twice as long": Remedy(length=2),
        "a quarter of the rate": Remedy({RATE: rate / 4}),
        "twice the rate": Remedy({RATE: rate * 2}),
        "no moving average": Remedy({"shared.average": 0.0}),
        "four paths, a quarter of the steps": Remedy({"search.samples": 4}, length=0.25),
        "fair": Remedy(paths=fairly()),
        "weighted options first": Remedy(paths=weighted_first),
        "a curriculum of options": Remedy(paths=grown),
        "options without parameters dropped early": Remedy(paths=dropped),
        "by gradients": Remedy(paths=by_gradients),
        "norms without affine": Remedy(prepare=without_affine),
        "distilled from the largest": Remedy(length=0.5, paths=with_largest, prepare=distilled),
        "a supernet for each option of a decision": Remedy(parts=True),
        "four times as long": Remedy(length=4),
        "four paths a step": Remedy({"search.samples": 4}),
        "minibatches four times as large": Remedy({BATCH: 4 * batch}, length=4),
        "twice the filters": Remedy({"network.filters": 2 * vars(config)["network"].filters}),
    }


# ---- training ----------------------------------------------------------------------------------------------------------


def trained_by(config: RunConfig, remedy: Remedy, fixed: tuple[int, int] | None = None) -> Trained:
    """Shared weights that a remedy has trained; with a decision `fixed` to a choice, along paths that take it."""
    weights = config.shared_weights()
    if remedy.prepare is not None:
        remedy.prepare(weights)
    trained = Trained(weights, config.search.epochs, config.seed, config.search.samples)
    for epoch in range(config.search.epochs):
        for step in range(weights.steps(epoch)):
            paths = remedy.paths(trained, epoch, step)
            if fixed is not None:
                paths = [at(trained.space, one, *fixed) for one in paths]
            norm = weights.train_step(epoch, step, paths)["gradient_norm"]
            for key in enumerate(paths[-1].choices):
                before = trained.norms_of_options.get(key, norm)
                trained.norms_of_options[key] = 0.95 * before + 0.05 * norm
    return trained


def at(space: Space, architecture: Architecture, place: int, choice: int) -> Architecture:
    """The architecture with another choice at one place."""
    choices = list(architecture.choices)
    choices[place] = choice
    return space.architecture(choices)


# ---- reading -----------------------------------------------------------------------------------------------------------


def readings(trained: Trained, architectures: Sequence[Architecture], extra: bool) -> dict[str, Floats]:
    """The scores [N] of architectures by each way to read shared weights, higher ones better."""
    accuracy_N, loss_N = measured(trained, architectures, MINIBATCHES)
    found = {"accuracy": accuracy_N, "loss": loss_N}
    if extra:
        found |= tuned(trained, architectures)
        found["wide"] = measured(trained, architectures, WIDE)[0]
        for statistics in ("moving", "recalibrated"):
            found[statistics] = measured(trained, architectures, MINIBATCHES, statistics)[0]
    return found


def measured(
    trained: Trained, architectures: Sequence[Architecture], count: int, statistics: NormStatistics = "batch"
) -> tuple[Floats, Floats]:
    """Accuracies and negative losses [N] on so many validation minibatches."""
    task = trained.weights.task
    minibatches = [task.reward_minibatch("remedies", draw) for draw in range(count)]
    found = []
    with trained.weights.evaluating("remedies", statistics=statistics) as ready:
        for architecture in architectures:
            model, accuracy, loss = ready(architecture), 0.0, 0.0
            for minibatch in minibatches:
                logits_BK = outputs_of(model, task.laid_out(minibatch.images_BCHW), architecture).logits_BK
                accuracy += float((logits_BK.argmax(1) == minibatch.labels_B).float().mean())
                loss += float(F.cross_entropy(logits_BK, minibatch.labels_B))
            found.append((accuracy / count, -loss / count))
    accuracy_N, loss_N = np.array(found).T
    return accuracy_N, loss_N


def tuned(trained: Trained, architectures: Sequence[Architecture]) -> dict[str, Floats]:
    """Accuracies [N] after training each alone for a few steps, the negative mean loss of these, and by how much it fell."""
    weights = trained.weights
    found = []
    for architecture in architectures:
        losses: list[float] = []
        try:
            with weights.finetuned(architecture, 0, 0):
                for step in range(TUNING):
                    losses.append(weights.train_step(0, step % weights.steps(0), [architecture])["loss"])
                accuracy = measured(trained, [architecture], MINIBATCHES)[0][0]
        except NotFiniteError:
            accuracy, losses = -np.inf, [0.0, np.inf]
        found.append((accuracy, -float(np.mean(losses)), losses[0] - float(np.mean(losses[-5:]))))
    return dict(zip(("tuned", "speed", "fall"), np.array(found).T, strict=True))


def figures(name: str, config: RunConfig, truth: Truth, remedy: Remedy) -> Iterator[tuple[str, float, float]]:
    """(reading, tau, tau within the best fifth) of one remedy with one seed."""
    compared = list(truth.compared)
    if remedy.parts:
        space = config.searched_space()
        place = max(range(len(space.decisions)), key=lambda one: len(space.decisions[one].options))
        found = dict[str, Floats]()
        for choice in range(len(space.decisions[place].options)):
            own = [number for number, one in enumerate(compared) if one.choices[place] == choice]
            part = trained_by(config, remedy, (place, choice))
            for reading, scores in readings(part, [compared[number] for number in own], False).items():
                found.setdefault(reading, np.zeros(len(compared)))[own] = scores
    else:
        found = readings(trained_by(config, remedy), compared, name == "the recipe")
    known_N = np.array([truth.scores["test"][one] for one in compared])
    best = top(known_N)
    for reading, score_N in found.items():
        yield reading, kendall(score_N, known_N), kendall(score_N[best], known_N[best])
    space = config.searched_space()
    free_N = np.array([free_options(space, one) for one in compared])
    yield "strata", within(free_N, found["accuracy"], known_N), float("nan")


def kendall(a_N: Floats, b_N: Floats) -> float:
    """Kendall's tau-b; what is no number counts as the worst. NaN for fewer than two."""
    if len(a_N) < 2:
        return float("nan")
    ranks = [stats.rankdata(np.nan_to_num(one, nan=-np.inf, neginf=-np.inf)) for one in (a_N, b_N)]
    return float(np.nan_to_num(stats.kendalltau(*ranks).statistic))


def within(groups_N: Floats, a_N: Floats, b_N: Floats) -> float:
    """The mean of tau within groups, weighted by their pairs; NaN if no group has two."""
    taus, pairs = [], []
    for group in np.unique(groups_N):
        inside = groups_N == group
        if inside.sum() > 1:
            taus.append(kendall(a_N[inside], b_N[inside]))
            pairs.append(inside.sum() * (inside.sum() - 1) / 2)
    return float(np.average(taus, weights=pairs)) if pairs else float("nan")


def known_of_run(folder: Path) -> tuple[Truth, RunConfig]:
    """The random architectures that `enas compare` has trained, and the settings of the run."""
    config = Run.open(folder).config
    space, records = config.searched_space(), read_jsonl(folder / PART / RECORDS)
    trained = [one for one in records if one["method"] == SAMPLING and one["score"] is not None]
    known = {space.parse(one["architecture"]): one["score"] for one in trained}
    return Truth({"test": known}, list(known)), config


def main() -> None:
    """Train, read and compare what the flags ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("space", choices=(NAS_BENCH_201, "cells", "convolutional", "run"))
    parser.add_argument("--file", type=Path, help="the table of NAS-Bench-201's accuracies")
    parser.add_argument("--run", type=Path, help="the folder of a run, with what enas compare left there")
    parser.add_argument("--data", help="the folder of CIFAR-10, for NAS-Bench-201")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--architectures", type=int, default=100, help="compared, at most so many")
    parser.add_argument("--epochs", type=int, help="of the recipe; by default its own")
    parser.add_argument("--only", nargs="*", help="names of remedies; by default all")
    parser.add_argument("--records", type=Path, default=Path("runs/remedies.jsonl"), help="what is done")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command line does
    set_threads(1)
    truth, recipe = (
        known_of_run(arguments.run) if arguments.space == "run" else known_of(arguments.space, arguments.file)
    )
    if arguments.epochs is not None:
        recipe = recipe.with_epochs(arguments.epochs, recipe.child_epochs)
    count = min(arguments.architectures, len(truth.compared))
    truth = replace(truth, compared=random.Random(0).sample(list(truth.compared), count))
    changes: dict[str, object] = {"threads": 1}
    if arguments.data:
        changes["data.folder"] = arguments.data
    arguments.records.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.records.read_text("utf-8").splitlines() if arguments.records.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(one["space"], one["remedy"], one["seed"]) for one in records}
    for seed in range(arguments.seeds):
        for name, remedy in remedies(recipe).items():
            if (arguments.only and name not in arguments.only) or (arguments.space, name, seed) in done:
                continue
            parts = max(len(one.options) for one in recipe.searched_space().decisions) if remedy.parts else 1
            epochs = max(1, round(recipe.search.epochs * remedy.length / parts))
            stretched = recipe.with_epochs(epochs, recipe.child_epochs)
            config = replace(with_settings(stretched, {**changes, **remedy.settings}), seed=seed)
            began = time.process_time()
            found = list(figures(name, config, truth, remedy))
            one = {"space": arguments.space, "remedy": name, "seed": seed}
            seconds = time.process_time() - began
            new = [{**one, "reading": r, "tau": t, "top": b, "seconds": seconds} for r, t, b in found]
            for record in new:
                print_record(record)
            with arguments.records.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(record) + "\n" for record in new))
            records += new
    print_means([one for one in records if one["space"] == arguments.space])


def print_means(records: Sequence[dict[str, Any]]) -> None:
    """A row for each remedy: tau by each reading, and within the best fifth by accuracy, means over the seeds."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in records:
        rows[one["remedy"]][one["reading"]].append(one["tau"])
        rows[one["remedy"]]["top of " + one["reading"]].append(one["top"])
    columns = ["accuracy", "loss", "strata", "top of accuracy", "top of loss"]
    columns += sorted({reading for row in rows.values() for reading in row} - {*columns, "top of strata"})
    print(" | ".join(["remedy", "n", *columns]))
    for name, row in rows.items():
        means = [f"{np.mean(row[column]):.2f}" if column in row else "" for column in columns]
        print(" | ".join([name, str(len(row["accuracy"])), *means]))


if __name__ == "__main__":
    main()
