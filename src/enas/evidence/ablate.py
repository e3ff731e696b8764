"""What a recipe owes to each of its parts: named variants of it, run alike, with the paper's figures beside them.

Command:  enas ablate RECIPE --variant NAME ... [--seeds N] [--run FOLDER] [--SETTING VALUE ...]

Every variant is a run folder of its own, FOLDER/NAME-seedS, that goes through the ordinary stages; FOLDER/recipe-seedS is
the recipe as it is. Only the found network is retrained in each: what it is compared with are the other variants. The same
command goes on where it was stopped.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from enas.config import Metric, RunConfig
from enas.errors import ConfigError, NotFiniteError
from enas.evidence.ensemble import EnsembleConfig, EnsembleRecord, ensemble
from enas.evidence.runs import aligned, run_in
from enas.evidence.variants import OfArchitecture, OfSettings, Variant, named, variants_of
from enas.retrain import score_in
from enas.runtime.files import write_json
from enas.runtime.lock import folder_of_run, run_lock
from enas.runtime.progress import say
from enas.runtime.records import read_record
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import Stopped
from enas.scores import decimals
from enas.stages import ALL_STAGES, Run, StageName, execute, put_architecture

RECIPE = "recipe"
"""The name of the recipe as it is, among the variants."""


def ablate(config: RunConfig, names: Sequence[str], seeds: int, folder: Path) -> list[dict[str, Any]]:
    """Run the recipe and its variants, each with seeds `config.seed`, `config.seed` + 1, …; write FOLDER/ablation.json
    after each of them, and return what it holds.

    Raises `ConfigError` for an unknown variant, and `Stopped`, after saving, if a stop is requested; the same call goes
    on from there.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, not {seeds}")
    config.check_test()
    config = config.alone()
    chosen = named(config, names)
    rows: list[dict[str, Any]] = [{"name": RECIPE, "about": "as it is", "paper": "", "records": []}]
    rows += [
        {"name": v.name, "about": v.about, "paper": config.paper.get(v.name, ""), "records": []}
        for v in chosen
    ]
    try:
        for seed in range(config.seed, config.seed + seeds):
            say(f"ablation: {RECIPE}, seed {seed}")
            base = run_stages(folder / f"{RECIPE}-seed{seed}", replace(config, seed=seed), ALL_STAGES)
            rows[0]["records"].append(record_of(base))
            write_json(folder / "ablation.json", rows)
            for row, variant in zip(rows[1:], chosen, strict=True):
                say(f"ablation: {variant.name}, seed {seed}: {variant.about}")
                row["records"].append(run_variant(variant, base, folder / f"{variant.name}-seed{seed}"))
                write_json(folder / "ablation.json", rows)
    except Stopped:
        say("ablation: stopped; the same 'enas ablate' command, with --run, goes on from here")
        raise
    return rows


def run_stages(
    folder: Path,
    config: RunConfig,
    stages: tuple[StageName, ...],
    prepare: Callable[[Path], None] = lambda folder: None,
) -> Run:
    """Run stages in a folder, from where they were; `prepare` may put files there first.

    Raises `RunFolderError` if the folder holds a run of other settings.
    """
    with folder_of_run(folder):
        run = run_in(folder, config, stages)
        prepare(folder)
        with run.config.told_later(run.folder):
            execute(run, stages)
    return run


def run_variant(variant: Variant, base: Run, folder: Path) -> dict[str, Any]:
    """Run a variant of a finished run of the recipe; returns its record. If its loss diverges, that is recorded."""
    try:
        if isinstance(variant, OfArchitecture):
            return changed_architecture(variant, base, folder)
        return changed_settings(variant, base, folder)
    except NotFiniteError as error:
        say(f"{error}. It counts as diverged, and the ablation goes on.")
        lost = {"valid": None, "test": None, "diverged": str(error)}
        return {"seed": base.config.seed, "folder": folder.name, **lost}


def changed_architecture(variant: OfArchitecture, base: Run, folder: Path) -> dict[str, Any]:
    """Retrain another architecture than the one that the recipe found."""
    rng = random.Random(derive_seed(base.config.seed, "ablation", variant.name))
    config, given = variant.change(base.config, base.architecture(), rng)

    def put(folder: Path) -> None:
        if not (folder / "architecture.json").exists():
            put_architecture(folder, given)

    return record_of(run_stages(folder, config, ("retrain", "test"), put))


def changed_settings(variant: OfSettings, base: Run, folder: Path) -> dict[str, Any]:
    """Run the recipe with other settings; a search that would be the recipe's own is taken over from there."""
    config = variant.change(base.config)
    same_search = replace(config, derive=base.config.derive, retrain=base.config.retrain) == base.config

    def take_over(folder: Path) -> None:
        if not same_search or (folder / "search.json").exists():
            return
        shutil.copytree(base.folder / "checkpoints", folder / "checkpoints", dirs_exist_ok=True)
        latencies = [base.goals.file.name] if base.goals.file.exists() else []  # what they are predicted by
        for name in (
            "metrics.jsonl",
            "archive.jsonl",
            *latencies,
            "search.json",
        ):  # which says that it is done
            shutil.copyfile(base.folder / name, folder / name)

    if not variant.ensemble:
        return record_of(run_stages(folder, config, ALL_STAGES, take_over))
    return ensemble_record(run_stages(folder, config, ("search",), take_over), variant.ensemble)


def record_of(run: Run) -> dict[str, Any]:
    """What the found network of a run came to."""
    metric, (result,) = run.config.metric, run.results()
    return {
        "seed": run.config.seed,
        "folder": run.folder.name,
        "architecture": str(run.architecture()),
        "parameters": result["parameters"],
        "valid": result.get(f"valid_{metric.name}"),
        "test": score_in(result, f"test_{metric.name}"),
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


# ---- text --------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """What was measured, with the paper's figure beside it: a line a variant, a mean over its seeds."""
    of_recipe = {record["seed"]: record["test"] for record in rows[0]["records"]}
    places = decimals(record["test"] for row in rows for record in row["records"])
    cells = [("variant", f"test {metric.name}", "minus the recipe's", "paper")]
    for row in rows:
        tests = {record["seed"]: record["test"] for record in row["records"] if record["test"] is not None}
        lost = len(row["records"]) - len(tests)
        ones = [record["test_of_one"] for record in row["records"] if "test_of_one" in record]
        found = f"{np.mean(list(tests.values())):.{places}f}" if tests else "-"
        found += f" (one alone {np.mean(ones):.{places}f})" if ones else ""
        found += f", {lost} diverged" if lost else ""
        changes = [test - of_recipe[seed] for seed, test in tests.items() if of_recipe.get(seed) is not None]
        change = f"{np.mean(changes):+.{places}f}" if changes and row is not rows[0] else "-"
        if len(changes) > 1 and row is not rows[0]:
            change += f" ({min(changes):+.{places}f} to {max(changes):+.{places}f})"
        cells.append((row["name"], found, change, row["paper"] or "-"))
    better = "lower" if metric.lower_is_better else "higher"
    of_seeds = f"n = {len(of_recipe)} seeds, paired; mean (smallest to largest)"
    if len(of_recipe) == 1:
        of_seeds = "n = 1 seed. With one seed each, the order may be chance"
    caption = (
        f"the found network of each variant, trained alike; {metric.name}: {better} is better; {of_seeds}"
    )
    return "\n".join([caption, *aligned(cells)])


def list_variants(config: RunConfig) -> str:
    """The variants of a recipe, a line each."""
    rows = []
    for name, variant in variants_of(config).items():
        paper = config.paper.get(name)
        rows.append((f"  {name}", variant.about + (f" (paper: {paper})" if paper else "")))
    return "\n".join(aligned(rows))
