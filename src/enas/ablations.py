"""What a recipe owes to each of its parts: named variants of it, run alike, with the paper's figures beside them.

Command:  enas ablate RECIPE --variant NAME ... [--seeds N] [--run FOLDER] [--SETTING VALUE ...]

Every variant is a run folder of its own, FOLDER/NAME-seedS, that goes through the ordinary stages; FOLDER/recipe-seedS is
the recipe as it is. Only the found network is retrained in each: what it is compared with are the other variants. The same
command goes on where it was stopped. A variant is a function from settings to settings, or, where it changes a found
architecture (paper, §3.1 to §3.3), from those and the architecture that the recipe found to both.
"""

from __future__ import annotations

import random
import shutil
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from enas.architecture import Architecture, Kind
from enas.config import Metric, RunConfig
from enas.controllers import IndependentConfig, LSTMConfig, ReinforceConfig
from enas.costs import parameter_count
from enas.data.images import ImageShape
from enas.ensemble import EnsembleConfig, EnsembleRecord, ensemble
from enas.errors import ConfigError, NotFiniteError, RunFolderError, did_you_mean, shown
from enas.runs.images import ImageRunConfig, MacroConfig, MicroConfig
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.files import write_json
from enas.runtime.lock import run_lock
from enas.runtime.progress import say
from enas.runtime.records import read_record
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import Stopped
from enas.stages import ALL_STAGES, Run, StageName, execute, put_architecture

RECIPE = "recipe"
"""The name of the recipe as it is, among the variants."""
ENSEMBLE = 250
"""Architectures of the frozen controller's ensemble (paper, §3.3)."""
CHANGED = 3
"""Decisions that are changed at random in a found architecture; the paper says "some nodes" and "several connections"."""
SKIP_RATE = 0.4
"""The probability of a skip connection in the paper's random network (§3.3)."""


# ---- what a variant is ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant(ABC):
    """A change of a recipe, in words and as a function."""

    name: str
    about: str
    """What is changed, in a line."""

    @property
    @abstractmethod
    def paper(self) -> str:
        """What the paper states of it; empty if nothing."""


@dataclass(frozen=True)
class OfSettings(Variant):
    """Other settings; the run is searched anew, unless its search would be the recipe's own."""

    change: Callable[[RunConfig], RunConfig]
    paper: str = ""
    ensemble: int = 0
    """Sample so many architectures at the end of the search and let them classify together, instead of retraining."""


@dataclass(frozen=True)
class OfArchitecture(Variant):
    """Another architecture than the one found is retrained, with settings that may depend on it."""

    change: Callable[[RunConfig, Architecture, random.Random], tuple[RunConfig, Architecture]]
    paper: str = ""


# ---- of the settings --------------------------------------------------------------------------------------------------


def searched(**changes: Any) -> Callable[[RunConfig], RunConfig]:
    """Other settings of the search."""
    return lambda config: replace(config, search=replace(config.search, **changes))


def derived(**changes: Any) -> Callable[[RunConfig], RunConfig]:
    """Another way of picking an architecture."""
    return lambda config: replace(config, derive=replace(config.derive, **changes))


def learnt(change: Callable[[ReinforceConfig], ReinforceConfig]) -> Callable[[RunConfig], RunConfig]:
    """Another way of learning from rewards. Raises `ConfigError` if the recipe's controller does not learn."""

    def changed(config: RunConfig) -> RunConfig:
        controller = config.controller
        if not isinstance(controller, IndependentConfig | LSTMConfig):
            raise ConfigError(
                f"this variant changes how a policy learns; the controller {type(controller).__name__} has none"
            )
        return replace(config, controller=replace(controller, reinforce=change(controller.reinforce)))

    return changed


def shared(change: Callable[[Any], Any]) -> Callable[[RunConfig], RunConfig]:
    """Another way of training the shared weights or of rewarding with them."""

    def changed(config: RunConfig) -> RunConfig:
        assert isinstance(config, ImageRunConfig | RecurrentConfig)
        settings: Any = config
        return cast(RunConfig, replace(settings, shared=change(settings.shared)))

    return changed


def rewarded(statistics: str) -> Callable[[RunConfig], RunConfig]:
    """Other statistics of the batch norms when an architecture is rewarded."""
    return shared(lambda settings: replace(settings, reward=replace(settings.reward, statistics=statistics)))


def averaged(keep: float) -> Callable[[RunConfig], RunConfig]:
    """Rewards with another average of the shared weights, or with the weights themselves."""
    return shared(lambda settings: replace(settings, average=keep))


def leave_one_out(config: RunConfig) -> RunConfig:
    """The baseline that needs other rewards in the update. Raises `ConfigError` if there are none."""
    if config.search.proposals < 2:
        raise ConfigError(
            "baseline-leave-one-out needs two proposals an update or more; set --search.proposals"
        )
    return learnt(lambda reinforce: replace(reinforce, baseline="leave-one-out"))(config)


def proposing(count: int) -> Callable[[RunConfig], RunConfig]:
    """So many proposals an update, and as many rewards in all: a baseline and a scale that need several of them are
    replaced where there is one."""

    def alone(reinforce: ReinforceConfig) -> ReinforceConfig:
        return replace(reinforce, baseline="ema", normalise_advantages=False)

    def changed(config: RunConfig) -> RunConfig:
        rewards = config.search.updates * config.search.proposals
        changed = searched(proposals=count, updates=max(1, round(rewards / count)))(config)
        return learnt(alone)(changed) if count == 1 else changed

    return changed


OF_SETTINGS = (
    OfSettings("no-warmup", "the controller learns from the first epoch on", searched(warmup=0.0)),
    OfSettings("statistics-batch", "rewards by batch statistics", rewarded("batch")),
    OfSettings("statistics-moving", "rewards by the norms' moving averages", rewarded("moving")),
    OfSettings("average-none", "rewards with the shared weights as they are", averaged(0.0)),
    OfSettings("average-99", "rewards with a moving average of the shared weights", averaged(0.99)),
    OfSettings("baseline-ema", "a moving average as baseline", learnt(lambda r: replace(r, baseline="ema"))),
    OfSettings(
        "baseline-leave-one-out",
        "the mean of the update's other rewards as baseline",
        leave_one_out,
    ),
    OfSettings(
        "proposals-1", "one proposal an update, a moving average as baseline, equal rewards", proposing(1)
    ),
    OfSettings("proposals-4", "four proposals an update, equal rewards", proposing(4)),
    OfSettings("proposals-8", "eight proposals an update, equal rewards", proposing(8)),
    OfSettings("no-entropy", "no entropy term", learnt(lambda r: replace(r, entropy_weight=0.0))),
    OfSettings(
        "entropy-tenfold",
        "ten times the weight of the entropy",
        learnt(lambda r: replace(r, entropy_weight=10 * r.entropy_weight)),
    ),
    OfSettings("stop-entropy", "updates end at 90 % of the largest entropy", searched(stop_entropy=0.9)),
    OfSettings(
        "sampler-policy", "after the warm-up weights are trained by the policy alone", searched(explore=0.0)
    ),
    OfSettings(
        "sampler-mixed", "a quarter of the weight steps takes uniform samples", searched(explore=0.25)
    ),
    OfSettings("sampler-uniform", "weights are trained by uniform samples alone", searched(explore=1.0)),
    OfSettings("sampler-fair", "fair samples instead of uniform ones", searched(exploration="fair")),
    OfSettings(
        "derive-reward", "the sample of the highest reward with the shared weights", derived(rule="reward")
    ),
    OfSettings("derive-mode", "the policy's most probable architecture", derived(rule="mode")),
    OfSettings("derive-ridge", "the best by ridge regression", derived(rule="ridge", ridge_candidate=True)),
    OfSettings("derive-shortlist", "the best of a shortlist trained for a while", derived(rule="shortlist")),
)
"""Of the search itself, in every space."""

RECALIBRATED = OfSettings(
    "statistics-recalibrated", "rewards by statistics taken anew", rewarded("recalibrated")
)


def frozen(paper: str) -> OfSettings:
    """The controller never learns; many of its architectures classify together."""
    about = f"the controller never learns; {ENSEMBLE} of its architectures together"
    return OfSettings("frozen", about, searched(updates=0), paper, ENSEMBLE)


# ---- of the architecture ----------------------------------------------------------------------------------------------


def at_random(config: RunConfig, found: Architecture, rng: random.Random) -> tuple[RunConfig, Architecture]:
    """Every decision uniform; skip connections with the paper's rate."""
    choices = [
        int(rng.random() < SKIP_RATE) if decision.kind == "skip" else rng.randrange(len(decision.options))
        for decision in found.space.decisions
    ]
    return config, found.space.architecture(choices)


def switched(kind: Kind, of: Sequence[str], to: Mapping[str, Sequence[str]]) -> Callable[..., Any]:
    """Some of the decisions of a kind that took one of the options `of`, all if it is empty, take one of those that `to`
    lists for it, or any other."""

    def changed(config: RunConfig, found: Architecture, rng: random.Random) -> tuple[RunConfig, Architecture]:
        choices, places = list(found.choices), []
        for position, (choice, decision) in enumerate(zip(choices, found.space.decisions, strict=True)):
            taken = decision.options[choice]
            others = [o for o in to.get(taken, decision.options) if o != taken and o in decision.options]
            if decision.kind == kind and others and (not of or taken in of):
                places.append((position, [decision.options.index(other) for other in others]))
        if not places:
            raise ConfigError(
                f"the found architecture '{found}' has no {kind} that this variant could change"
            )
        for position, others_K in rng.sample(places, min(CHANGED, len(places))):
            choices[position] = rng.choice(others_K)
        return config, found.space.architecture(choices)

    return changed


def plain_convolutions(
    config: RunConfig, found: Architecture, rng: random.Random
) -> tuple[RunConfig, Architecture]:
    """Dense convolutions for separable ones, in a network whose width gives it the parameters of the found one."""
    assert isinstance(config, MacroConfig)
    dense = {"sep3x3": "conv3x3", "sep5x5": "conv5x5"}
    if not set(dense.values()) <= set(config.space.operations):
        raise ConfigError("this variant needs a space that has conv3x3 and conv5x5")
    operations = [dense.get(operation, operation) for operation in config.space.operations_of(found)]
    plain = config.space.build(operations, config.space.skips_of(found))
    shape = config.load().data.shape

    def with_filters(filters: int) -> MacroConfig:
        return replace(config, child_network=replace(config.child_network, filters=filters))

    def size(filters: int) -> int:
        return parameters(with_filters(filters), plain, shape)

    target = parameters(config, found, shape)
    widths = range(2, config.child_network.filters + 1)  # dense ones never have fewer parameters
    reached = bisect_left(widths, target, key=size)
    near = widths[max(reached - 1, 0) : reached + 1]
    return with_filters(min(near, key=lambda filters: abs(size(filters) - target))), plain


def parameters(config: ImageRunConfig, architecture: Architecture, shape: ImageShape) -> int:
    """Of a child, without its memory."""
    with torch.device("meta"):
        return parameter_count(config.child(architecture, shape, torch.Generator()))


def random_variant(paper: str) -> OfArchitecture:
    """No search."""
    return OfArchitecture("random", "an architecture drawn at random, no search", at_random, paper)


MACRO: tuple[Variant, ...] = (
    random_variant("5.86 % error, found 4.23 %"),
    frozen("8.92 % error of one, 5.49 % together; found 4.23 %"),
    OfArchitecture(
        "plain-convolutions",
        "dense convolutions for the separable ones found, at equal parameters",
        plain_convolutions,
        "1.7 points more error",
    ),
    RECALIBRATED,
    *OF_SETTINGS,
)
MICRO: tuple[Variant, ...] = (
    random_variant("6.77 % error, found 3.54 %"),
    frozen(""),
    OfArchitecture(
        "random-connections",
        f"{CHANGED} sources of the found cells changed at random",
        switched("source", (), {}),
        "2.1 points more error",
    ),
    RECALIBRATED,
    *OF_SETTINGS,
)
RECURRENT: tuple[Variant, ...] = (
    random_variant("test perplexity 81.2, found 55.8"),
    OfArchitecture(
        "identity-or-sigmoid",
        f"{CHANGED} functions of the found cell switched to identity or sigmoid",
        switched("function", ("tanh", "relu"), dict.fromkeys(("tanh", "relu"), ("identity", "sigmoid"))),
        "perplexity higher by up to 8",
    ),
    OfArchitecture(
        "relu-and-tanh-switched",
        f"{CHANGED} functions of the found cell switched, relu to tanh or tanh to relu",
        switched("function", ("tanh", "relu"), {"tanh": ("relu",), "relu": ("tanh",)}),
        "perplexity higher by up to 3",
    ),
    *OF_SETTINGS,
)


def variants_of(config: RunConfig) -> dict[str, Variant]:
    """The variants that there are of a recipe, by name."""
    of_kind = {MacroConfig: MACRO, MicroConfig: MICRO, RecurrentConfig: RECURRENT}
    return {variant.name: variant for variant in of_kind.get(type(config), OF_SETTINGS)}


def named(config: RunConfig, names: Sequence[str]) -> list[Variant]:
    """The variants called so, each once. Raises `ConfigError` for an unknown name, and for one that changes nothing."""
    known = variants_of(config)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"there is no variant {shown(name)}; {did_you_mean(name, known)}of this recipe there are {', '.join(known)}"
            )
        variant = known[name]
        if isinstance(variant, OfSettings) and variant.change(config) == config:
            raise ConfigError(f"the variant {name!r} changes nothing: the recipe is like that already")
    return [known[name] for name in dict.fromkeys(names)]


# ---- running them -----------------------------------------------------------------------------------------------------


def alone(config: RunConfig) -> RunConfig:
    """The settings without networks to compare the found one with."""
    if isinstance(config, RecurrentConfig):
        config = replace(config, retrain=replace(config.retrain, lstm=False))
    return replace(config, retrain=replace(config.retrain, random=0))


def run_in(
    folder: Path, config: RunConfig, stages: tuple[StageName, ...], prepare: Callable[[Path], None]
) -> Run:
    """Run stages in a folder, from where they were; `prepare` may put files there first.

    Raises `RunFolderError` if the folder holds a run of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with run_lock(folder):
        if (folder / "config.json").exists():
            run = Run.open(folder)
            if run.config != config:
                raise RunFolderError(
                    f"{folder} holds a run of other settings; choose another folder with --run"
                )
        else:
            run = Run.create(folder, config, stages)
        prepare(folder)
        execute(run, stages)
    return run


def nothing(folder: Path) -> None:
    """Prepare nothing."""


def put(given: Architecture) -> Callable[[Path], None]:
    """Have an architecture retrained that no search of this folder found."""

    def prepare(folder: Path) -> None:
        if not (folder / "architecture.json").exists():
            put_architecture(folder, given)

    return prepare


def copy_search(source: Path) -> Callable[[Path], None]:
    """Take over a finished search: the same settings and seed would only repeat it."""

    def prepare(folder: Path) -> None:
        if (folder / "search.json").exists():
            return
        for name in ("metrics.jsonl", "archive.jsonl"):
            shutil.copyfile(source / name, folder / name)
        shutil.copytree(source / "checkpoints", folder / "checkpoints", dirs_exist_ok=True)
        shutil.copyfile(
            source / "search.json", folder / "search.json"
        )  # the last: it says that the search is done

    return prepare


def run_variant(variant: Variant, base: Run, folder: Path) -> dict[str, Any]:
    """Run a variant of a finished run of the recipe; returns its record."""
    config, seed = base.config, base.config.seed
    prepare: Callable[[Path], None]
    if isinstance(variant, OfArchitecture):
        rng = random.Random(derive_seed(seed, "ablation", variant.name))
        changed, given = variant.change(config, base.architecture(), rng)

        run = run_in(folder, changed, ("retrain", "test"), put(given))
    else:
        assert isinstance(variant, OfSettings)
        changed = variant.change(config)
        same = replace(changed, derive=config.derive, retrain=config.retrain) == config
        prepare = copy_search(base.folder) if same else nothing
        stages: tuple[StageName, ...] = ("search",) if variant.ensemble else ALL_STAGES
        run = run_in(folder, changed, stages, prepare)
        if variant.ensemble:
            return ensemble_record(run, variant.ensemble)
    return record_of(run)


def record_of(run: Run) -> dict[str, Any]:
    """What the found network of a run came to."""
    metric, (result,) = run.config.metric, run.results()
    return {
        "seed": run.config.seed,
        "folder": run.folder.name,
        "architecture": str(run.architecture()),
        "parameters": result["parameters"],
        "valid": result.get(f"valid_{metric.name}"),
        "test": result["test"][f"test_{metric.name}"],
    }


def ensemble_record(run: Run, samples: int) -> dict[str, Any]:
    """What an ensemble came to; scored once."""
    path = run.folder / "ensemble.json"
    if not path.exists():
        with run_lock(run.folder):
            ensemble(run, EnsembleConfig(samples=samples))
    scored = read_record(path, EnsembleRecord, "Delete it; the same command scores the ensemble again")
    return {
        "seed": run.config.seed,
        "folder": run.folder.name,
        "architecture": f"{scored.samples} architectures together",
        "valid": None,
        "test": scored.accuracy,
        "test_of_one": scored.mean_accuracy_of_members,
    }


def diverged_record(folder: Path, seed: int, error: NotFiniteError) -> dict[str, Any]:
    """A variant whose loss stopped being finite: a result too."""
    return {"seed": seed, "folder": folder.name, "valid": None, "test": None, "diverged": str(error)}


def ablate(config: RunConfig, names: Sequence[str], seeds: int, folder: Path) -> list[dict[str, Any]]:
    """Run the recipe and its variants, each with seeds `config.seed`, `config.seed` + 1, …; write FOLDER/ablation.json
    after each of them, and return what it holds.

    Raises `ConfigError` for an unknown variant, and `Stopped`, after saving, if a stop is requested; the same call goes
    on from there.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, not {seeds}")
    config = alone(config)
    rows: list[dict[str, Any]] = [{"name": RECIPE, "about": "as it is", "paper": "", "records": []}]
    chosen = named(config, names)
    rows += [{"name": v.name, "about": v.about, "paper": v.paper, "records": []} for v in chosen]
    try:
        for seed in range(config.seed, config.seed + seeds):
            say(f"ablation: {RECIPE}, seed {seed}")
            base = run_in(folder / f"{RECIPE}-seed{seed}", replace(config, seed=seed), ALL_STAGES, nothing)
            rows[0]["records"].append(record_of(base))
            write_json(folder / "ablation.json", rows)
            for row, variant in zip(rows[1:], chosen, strict=True):
                say(f"ablation: {variant.name}, seed {seed}: {variant.about}")
                place = folder / f"{variant.name}-seed{seed}"
                try:
                    row["records"].append(run_variant(variant, base, place))
                except NotFiniteError as error:
                    say(f"{error}. It counts as diverged, and the ablation goes on.")
                    row["records"].append(diverged_record(place, seed, error))
                write_json(folder / "ablation.json", rows)
    except Stopped:
        say("ablation: stopped; the same 'enas ablate' command, with --run, goes on from here")
        raise
    return rows


# ---- the table --------------------------------------------------------------------------------------------------------


def difference(row: Mapping[str, Any], base: Mapping[str, Any]) -> list[float]:
    """A variant's test metric minus the recipe's, seed by seed, where both have one."""
    of_base = {record["seed"]: record["test"] for record in base["records"]}
    pairs = ((record["test"], of_base.get(record["seed"])) for record in row["records"])
    return [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def table(rows: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """What was measured, with the paper's figure beside it: a line a variant, a mean over its seeds."""
    base = rows[0]
    lines = [("variant", f"test {metric.name}", "minus the recipe's", "paper")]
    for row in rows:
        tests = [record["test"] for record in row["records"] if record["test"] is not None]
        lost = sum(record["test"] is None for record in row["records"])
        found = f"{mean(tests):.2f}" if tests else "-"
        ones = [record["test_of_one"] for record in row["records"] if "test_of_one" in record]
        found += f" (one alone {mean(ones):.2f})" if ones else ""
        found += f", {lost} diverged" if lost else ""
        changes = [] if row is base else difference(row, base)
        change = f"{mean(changes):+.2f}" if changes else "-"
        if len(changes) > 1:
            change += f" ({min(changes):+.2f} to {max(changes):+.2f})"
        lines.append((row["name"], found, change, row["paper"] or "-"))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    seeds = len(base["records"])
    better = "lower" if metric.lower_is_better else "higher"
    caption = (
        f"the found network of each variant, trained alike; {metric.name}: {better} is better; n = {seeds} "
        + (
            "seed, which shows no more than that"
            if seeds == 1
            else "seeds, paired; mean (smallest to largest)"
        )
    )
    return "\n".join(
        [
            caption,
            *("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines),
        ]
    )


def list_variants(config: RunConfig) -> str:
    """The variants of a recipe, a line each."""
    variants = variants_of(config)
    width = max(map(len, variants))
    return "\n".join(
        f"  {name.ljust(width)}  {variant.about}" + (f" (paper: {variant.paper})" if variant.paper else "")
        for name, variant in variants.items()
    )
