"""The commands that ask what a search was worth."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Self

import tyro

from enas.cli.flags import FLAT, Chosen, Command, subcommands
from enas.cli.stages import FromRecipe, RunFolder, folder_name, of_recipe
from enas.config import RunConfig
from enas.errors import ConfigError, enas_command
from enas.evidence import ablate as ablation
from enas.evidence import benchmark, compare, comparison, ensemble, rank, variants
from enas.evidence.tables import minispaces, score
from enas.evidence.tables import table as tables
from enas.evidence.tables.minispaces import MINI_SPACES, mini_space, table_of
from enas.paths import OptionalPath
from enas.runtime.devices import set_threads
from enas.runtime.lock import run_lock
from enas.runtime.streams import show_text
from enas.stages import Run

# ---- on a finished search ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnSearch(Command, ABC):
    """A question about the finished search of a run."""

    run: RunFolder

    @abstractmethod
    def ask(self, run: Run) -> str:
        """Find the answer, and say it."""

    def __call__(self) -> int:
        """Hold the run, so that nobody else works on it, and print the answer."""
        run = Run.open(self.run)
        with run_lock(self.run):
            run.config.set_process()
            with run.config.told_later(self.run):
                text = self.ask(run)
        return show_text(text)


@dataclass(frozen=True)
class Ensemble(OnSearch):
    """Score an ensemble of sampled architectures with a search's shared weights."""

    settings: Annotated[ensemble.EnsembleConfig, FLAT] = field(default_factory=ensemble.EnsembleConfig)

    def ask(self, run: Run) -> str:
        record = ensemble.ensemble(run, self.settings)
        if self.settings.json:
            return json.dumps(record, indent=2)
        return (
            f"{record['samples']} architectures with the shared weights, {record['split']} images: together "
            f"{record['accuracy']:.2f} %; one alone {record['mean_accuracy_of_members']:.2f} % on average, "
            f"{record['worst_member']:.2f} to {record['best_member']:.2f} %"
        )


@dataclass(frozen=True)
class Rank(OnSearch):
    """Compare the order that a search's shared weights give architectures with what they reach trained alone."""

    settings: Annotated[rank.RankConfig, FLAT] = field(default_factory=rank.RankConfig)

    def ask(self, run: Run) -> str:
        record = rank.rank(run, self.settings)
        return json.dumps(record, indent=2) if self.settings.json else rank.describe(record)


@dataclass(frozen=True)
class Compare(OnSearch):
    """Compare a run's method with random ones, other searches on shared weights, and what needs no shared weights, at equal
    budget."""

    settings: Annotated[compare.CompareConfig, FLAT] = field(default_factory=compare.CompareConfig)

    def ask(self, run: Run) -> str:
        found = compare.compare_run(run, self.settings)
        return json.dumps(asdict(found), indent=2) if self.settings.json else comparison.describe(found)


# ---- tables of known scores --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnTable(Command, ABC):
    """Something about the table of a mini-space."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join(MINI_SPACES) + "}")]
    """The mini-space; for `score` also nas-bench-201."""

    @abstractmethod
    def ask(self) -> str:
        """Do it, and say what came out."""

    def checked(self) -> Self:
        """Raises `ConfigError` for a mini-space that there is not."""
        mini_space(self.name)
        return self

    def __call__(self) -> int:
        """Do it, and print what came out."""
        return show_text(self.ask())


@dataclass(frozen=True)
class BuildTable(OnTable):
    """Train the architectures of a mini-space, and write their table.jsonl into the run folder."""

    settings: Annotated[minispaces.BuildOptions, FLAT]

    def ask(self) -> str:
        return tables.describe(minispaces.build(mini_space(self.name), self.settings))


@dataclass(frozen=True)
class ScoreTable(OnTable):
    """Search a mini-space with several seeds and methods, and score what comes out against its table."""

    settings: Annotated[score.ScoreOptions, FLAT]

    def checked(self) -> Self:
        """Raises `ConfigError` for a space that there is not."""
        return self if self.name == score.NAS_BENCH_201 else super().checked()

    def ask(self) -> str:
        record = score.score_methods(self.name, self.settings)
        return json.dumps(record, indent=2) if self.settings.json else score.describe(record)


@dataclass(frozen=True)
class ShowTable(OnTable):
    """Say what a table holds, and how well two trainings of an architecture agree."""

    file: OptionalPath = None
    """A table.jsonl of the mini-space; by default the one that comes with the package."""
    json: bool = False
    """Print JSON."""

    def ask(self) -> str:
        table = table_of(self.name, self.file)
        return json.dumps(tables.figures(table), indent=2) if self.json else tables.describe(table)


TABLE = {
    "show": ("What a table holds.", "enas.cli.evidence:ShowTable"),
    "build": ("Train it again, side by side.", "enas.cli.evidence:BuildTable"),
    "score": ("Searches on it, scored against the truth.", "enas.cli.evidence:ScoreTable"),
}


def table(words: list[str]) -> Chosen:
    """`table show|build|score NAME`."""
    return subcommands("task", TABLE, words)


@dataclass(frozen=True)
class Benchmark(Command):
    """Controllers against random search where every architecture's score is known; nothing is trained.

    nas-bench-graph: graph neural networks on eight data sets; needs pip install 'enas[graph]'.
    nas-bench-201: image cells; needs --file, a table of their accuracies that you have.
    """

    settings: Annotated[benchmark.BenchmarkConfig, FLAT]

    def __call__(self) -> int:
        """Search tables of known scores, and say how the controllers did."""
        set_threads(1)  # the tensors of a controller are too small to share
        found = benchmark.benchmark(self.settings)
        if self.settings.json:
            return show_text("\n".join(json.dumps(record) for record in benchmark.as_json(found)))
        return show_text(benchmark.as_text(found))


# ---- ablations ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ablate(FromRecipe):
    """A recipe and variants of it."""

    variant: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Names of variants."""
    seeds: int = 1
    """Runs of the recipe and of each variant, with seeds from that of the recipe on."""

    @property
    def names(self) -> list[str]:
        """The variants."""
        return [name for some in self.variant for name in some]

    def checked(self) -> Self:
        """Raises `ConfigError` for no variants, unknown ones, and ones that change nothing."""
        if not self.names:
            known = " ".join(variants.variants_of(self.settings))
            raise ConfigError(
                f"name variants: --variant {known}; see {enas_command('ablate', self.recipe, '--help')!r}"
            )
        variants.named(self.settings, self.names)
        return self

    def __call__(self) -> int:
        """Run the recipe and the variants, and print the table."""
        folder = Path("runs") / f"{folder_name(self.recipe)}-ablation" if self.run is None else self.run
        rows = ablation.ablate(self.settings, self.names, self.seeds, folder)
        return show_text(ablation.table(rows, self.settings.metric))


def ablate(words: list[str]) -> Chosen:
    """`ablate RECIPE --variant NAME … [--seeds N] [--SETTING VALUE …]`."""
    return of_recipe(Ablate, words, about_variants)


def about_variants(config: RunConfig) -> str:
    """What the help of `ablate RECIPE` says beside the settings."""
    return f"""Runs the recipe as it is and each variant with N seeds, each in a folder of its own below FOLDER, by default
runs/RECIPE-ablation, and prints a table with the paper's figures beside what was measured. The same command goes on after
a stop. Variants:

{ablation.list_variants(config)}"""
