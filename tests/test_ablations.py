"""Ablations: each variant changes what its name says, runs as an ordinary run, and is never repeated."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import enas.stages
from enas.architecture import Architecture, Kind, Space
from enas.choices import space_of
from enas.cli import parse
from enas.cli.evidence import Ablate
from enas.config import Metric, RunConfig
from enas.controllers import UniformConfig
from enas.data.images import ImageShape
from enas.errors import ConfigError, NotFiniteError, RunFolderError
from enas.evidence import ablate as ablation
from enas.evidence.ablate import ablate, table
from enas.evidence.variants import (
    CHANGED,
    ENSEMBLE,
    OfArchitecture,
    OfSettings,
    at_random,
    named,
    switched,
    variants_of,
)
from enas.recipes import RECIPES, recipe
from enas.runs.images import MacroConfig, parameters
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.files import read_json
from enas.runtime.stop import Stopped, StopRequest
from enas.settings import config_from_json, config_to_json
from enas.stages import ALL_STAGES, Run, execute
from tests import tiny
from tests.conditional_space import SPACE, asked
from tests.own_network import Net


def differences(a: Any, b: Any, prefix: str = "") -> set[str]:
    """The settings in which two configs differ."""
    found = set()
    for key in a.keys() | b.keys():
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            found |= differences(x, y, f"{prefix}{key}.")
        elif x != y:
            found.add(prefix + key)
    return found


REINFORCE = "controller.reinforce."
SETTINGS = {
    "no-warmup": {"search.warmup"},
    "statistics-batch": {"shared.reward.statistics"},
    "statistics-moving": {"shared.reward.statistics"},
    "statistics-recalibrated": {"shared.reward.statistics"},
    "average-none": {"shared.average"},
    "average-99": {"shared.average"},
    "baseline-ema": {REINFORCE + "baseline"},
    "baseline-leave-one-out": {REINFORCE + "baseline"},
    "proposals-1": {
        "search.proposals",
        "search.updates",
        REINFORCE + "baseline",
        REINFORCE + "normalise_advantages",
    },
    "proposals-4": {"search.proposals", "search.updates"},
    "proposals-8": {"search.proposals", "search.updates"},
    "no-entropy": {REINFORCE + "entropy_weight"},
    "entropy-tenfold": {REINFORCE + "entropy_weight"},
    "stop-entropy": {"search.stop_entropy"},
    "sampler-policy": {"search.explore"},
    "sampler-mixed": {"search.explore"},
    "sampler-uniform": {"search.explore"},
    "sampler-fair": {"search.exploration"},
    "derive-reward": {"derive.rule"},
    "derive-mode": {"derive.rule"},
    "derive-ridge": {"derive.rule", "derive.ridge_candidate"},
    "derive-shortlist": {"derive.rule"},
    "frozen": {"search.updates"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_variant_changes_what_its_name_says_and_nothing_else(name: str) -> None:
    config = recipe(name)
    seen = 0
    for variant in variants_of(config).values():
        if isinstance(variant, OfSettings):
            if variant.name == "baseline-leave-one-out" and config.search.proposals == 1:
                with pytest.raises(ConfigError, match="two proposals"):
                    variant.change(config)
                continue
            changed = variant.change(config)
            assert differences(asdict(config), asdict(changed)) <= SETTINGS[variant.name], variant.name
            if changed == config:
                with pytest.raises(ConfigError, match=rf"'{variant.name}' changes nothing"):
                    named(config, [variant.name])
            else:
                assert named(config, [variant.name]) == [variant]
                seen += 1
            record = json.loads(json.dumps(config_to_json(changed)))
            assert config_from_json(record) == changed
    assert seen >= 10


def test_proposals_an_update_leave_the_number_of_rewards_as_it_is() -> None:
    config = recipe("recurrent-quick")
    budget = config.search.updates * config.search.proposals
    for count in (1, 4):
        (variant,) = named(config, [f"proposals-{count}"])
        assert isinstance(variant, OfSettings)
        search = variant.change(config).search
        assert (search.proposals, search.updates * search.proposals) == (count, budget)


def test_variants_of_learning_need_a_controller_that_learns() -> None:
    config = replace(recipe("recurrent-quick"), controller=UniformConfig())
    with pytest.raises(ConfigError, match="UniformConfig has no 'reinforce'"):
        named(config, ["no-entropy"])


def test_unknown_variant_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'no-warmup'"):
        named(recipe("micro-quick"), ["no-warmupp"])
    with pytest.raises(ConfigError, match="there is no variant 'plain-convolutions'"):
        named(recipe("micro-quick"), ["plain-convolutions"])


# ---- variants of the found architecture ---------------------------------------------------------------------------------


def architectures(config: RunConfig, count: int = 200) -> list[Architecture]:
    rng = random.Random(0)
    return [config.searched_space().sample(rng) for _ in range(count)]


def change(name: str, config: RunConfig, found: Architecture, seed: int = 0) -> Architecture:
    variant = variants_of(config)[name]
    assert isinstance(variant, OfArchitecture)
    changed, architecture = variant.change(config, found, random.Random(seed))
    assert changed == config
    return architecture


def options(architecture: Architecture, positions: Sequence[int]) -> list[str]:
    return [architecture.space.decisions[p].options[architecture.choices[p]] for p in positions]


@pytest.mark.parametrize(
    ("name", "recipe_name", "kind", "allowed"),
    [
        ("random-connections", "micro-quick", "source", None),
        (
            "identity-or-sigmoid",
            "recurrent-quick",
            "function",
            {(a, b) for a in ("tanh", "relu") for b in ("identity", "sigmoid")},
        ),
        ("relu-and-tanh-switched", "recurrent-quick", "function", {("tanh", "relu"), ("relu", "tanh")}),
    ],
)
def test_some_decisions_of_a_kind_are_switched(
    name: str, recipe_name: str, kind: str, allowed: set[tuple[str, str]] | None
) -> None:
    config = recipe(recipe_name)
    pairs: Counter[tuple[str, str]] = Counter()
    for seed, found in enumerate(architectures(config)):
        decisions = found.space.decisions
        can = [
            p
            for p, d in enumerate(decisions)
            if d.kind == kind
            and len(d.options) > 1
            and (allowed is None or options(found, [p])[0] in ("tanh", "relu"))
        ]
        if not can:
            with pytest.raises(ConfigError, match="that this variant could change"):
                change(name, config, found, seed)
            continue
        changed = change(name, config, found, seed)
        differ = [p for p in range(len(decisions)) if found.choices[p] != changed.choices[p]]
        assert len(differ) == min(CHANGED, len(can))
        assert set(differ) <= set(can)
        pairs.update(zip(options(found, differ), options(changed, differ), strict=True))
        assert changed == change(name, config, found, seed)
    if allowed is not None:
        assert set(pairs) == allowed


def test_random_architecture_has_the_papers_share_of_skips() -> None:
    config = recipe("macro-paper")
    found = architectures(config, 1)[0]
    skips = operations = 0
    counts: Counter[int] = Counter()
    for seed in range(100):
        drawn = change("random", config, found, seed)
        for choice, decision in zip(drawn.choices, found.space.decisions, strict=True):
            if decision.kind == "skip":
                skips += choice
            else:
                operations += 1
                counts[choice] += 1
    assert abs(skips / 6600 - 0.4) < 0.02
    assert all(abs(counts[option] / operations - 1 / 6) < 0.05 for option in range(6))


@pytest.mark.parametrize("space", [SPACE, space_of(Net())], ids=["nested", "choices"])
def test_a_random_architecture_is_any_of_a_space_whose_decisions_depend_on_each_other(space: Space) -> None:
    config, rng = recipe("micro-quick"), random.Random(0)
    found = space.sample(rng)
    drawn = [at_random(config, found, rng)[1] for _ in range(4000)]
    assert set(drawn) == set(space.enumerate())


@pytest.mark.parametrize("kind", ["operation", "function", "skip", "structure"])
def test_decisions_that_depend_on_each_other_are_switched_to_what_can_be_taken(kind: Kind) -> None:
    config, variant = recipe("micro-quick"), switched("any", "any", kind, {})
    for seed, found in enumerate(SPACE.enumerate()):
        free = [
            place
            for place, decision in enumerate(SPACE.decisions)
            if decision.kind == kind and asked(found.choices)[place]
        ]
        if not free:
            with pytest.raises(ConfigError, match="that this variant could change"):
                variant.change(config, found, random.Random(seed))
            continue
        changed = variant.change(config, found, random.Random(seed))[1]
        differ = [
            place for place, (a, b) in enumerate(zip(found.choices, changed.choices, strict=True)) if a != b
        ]
        assert differ[0] in free
        if kind == "structure":  # on which nothing depends
            assert differ == [len(SPACE.decisions) - 1]


def test_plain_convolutions_have_the_parameters_of_the_found_network_as_nearly_as_a_width_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = recipe("macro-quick")
    assert isinstance(config, MacroConfig)
    variant, shape = variants_of(config)["plain-convolutions"], ImageShape(1, 8, 8, 10)
    assert isinstance(variant, OfArchitecture)
    for found in architectures(config, 6):
        changed, plain = variant.change(config, found, random.Random(0))
        assert isinstance(changed, MacroConfig)
        before, after = config.space.operations_of(found), config.space.operations_of(plain)
        assert [b.replace("sep", "conv") for b in before] == list(after)
        assert config.space.skips_of(plain) == config.space.skips_of(found)
        assert differences(asdict(config), asdict(changed)) <= {"child_network.filters"}
        target = parameters(config, found, shape)

        def off(filters: int, plain: Architecture = plain, target: int = target) -> int:
            network = replace(config.child_network, filters=filters)
            return abs(parameters(replace(config, child_network=network), plain, shape) - target)

        assert off(changed.child_network.filters) == min(map(off, range(2, 20)))


# ---- running ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("data") / "text")


NAMES = ("no-warmup", "derive-mode", "random", "relu-and-tanh-switched")


@pytest.fixture(scope="module")
def done(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation that nobody interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("ablations") / "done"
    ablate(tiny.config(text), NAMES, 1, folder)
    return folder


def test_every_variant_is_an_ordinary_run_of_its_settings(text: Path, done: Path, tmp_path: Path) -> None:
    config = tiny.config(text).alone()
    rows = {row["name"]: row for row in read_json(done / "ablation.json")}
    assert list(rows) == ["recipe", *NAMES]
    assert tiny.keys(list(rows.values())) - tiny.documented() == set()
    for name in ("no-warmup", "derive-mode"):
        variant = variants_of(config)[name]
        assert isinstance(variant, OfSettings)
        by_hand = Run.create(tmp_path / name, variant.change(config), ALL_STAGES)
        execute(by_hand, ALL_STAGES)
        assert tiny.content(by_hand.folder) == tiny.content(done / f"{name}-seed0")
    for name, row in rows.items():
        run = Run.open(done / f"{name}-seed0")
        (result,) = run.results()
        (record,) = row["records"]
        assert record["test"] == result["test"]["test_ppl"]
        assert record["architecture"] == str(run.architecture())
        assert result["role"] == "found"
    found = Run.open(done / "recipe-seed0").architecture()
    switched = Run.open(done / "relu-and-tanh-switched-seed0").architecture()
    assert 1 <= sum(a != b for a, b in zip(found.choices, switched.choices, strict=True)) <= CHANGED


def stamps(folder: Path) -> dict[str, int]:
    kept = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p): p.stat().st_mtime_ns for p in kept if p.name not in ("comparison.json", "ablation.json")}


def test_finished_ablation_is_not_repeated(text: Path, done: Path) -> None:
    before, rows = stamps(done), read_json(done / "ablation.json")
    assert ablate(tiny.config(text), NAMES, 1, done) == rows
    assert stamps(done) == before


def test_search_that_would_be_the_same_is_not_repeated(text: Path, tmp_path: Path, monkeypatch: Any) -> None:
    searched: list[Path] = []
    real = enas.stages.run_search

    def run_search(*given: Any) -> None:
        searched.append(given[-1])
        real(*given)

    monkeypatch.setattr(enas.stages, "run_search", run_search)
    ablate(tiny.config(text), ["derive-mode", "derive-reward", "random"], 2, tmp_path / "a")
    assert searched == [tmp_path / "a" / f"recipe-seed{seed}" for seed in (0, 1)]


def test_a_search_that_is_taken_over_has_the_model_of_latencies_that_it_was_made_with(
    text: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Run.open(Path(shutil.copytree(done / "recipe-seed0", tmp_path / "recipe-seed0")))
    base.goals.file.write_text("what predicts latencies")
    (variant,) = named(base.config, ["derive-mode"])

    def prepared(folder: Path, config: RunConfig, stages: Any, prepare: Callable[[Path], None]) -> Run:
        folder.mkdir()
        prepare(folder)
        return base

    monkeypatch.setattr(ablation, "run_stages", prepared)
    ablation.run_variant(variant, base, tmp_path / "variant")
    for name in ("search.json", "latency.json"):
        assert (tmp_path / "variant" / name).read_bytes() == (base.folder / name).read_bytes()


@pytest.mark.parametrize("moment", [1, 3, 5])
def test_stopped_and_continued_equals_uninterrupted(
    text: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    stages = 0
    real = enas.stages.StopRequest.__enter__

    def enter(self: StopRequest) -> StopRequest:
        nonlocal stages
        stages += 1
        if stages == moment:
            self.request("test")
        return real(self)

    folder = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__enter__", enter)
        with pytest.raises(Stopped):  # in the recipe's run, or in one of its four variants'
            ablate(tiny.config(text), NAMES, 1, folder)
    ablate(tiny.config(text), NAMES, 1, folder)
    assert tiny.content(folder) == tiny.content(done)


def test_folder_of_other_settings_is_refused(text: Path, done: Path) -> None:
    before = stamps(done)
    with pytest.raises(RunFolderError, match="holds a run of other settings; choose another --run"):
        ablate(tiny.config(text, "--search.updates", "5"), NAMES, 1, done)
    assert stamps(done) == before


def test_variant_that_diverges_is_a_result(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RecurrentConfig.child_training

    def child_training(self: RecurrentConfig, *arguments: Any) -> Any:
        training = real(self, *arguments)
        if self.derive.rule == "mode":

            def step() -> dict[str, float]:
                raise NotFiniteError("the loss is nan")

            training.step = step
        return training

    monkeypatch.setattr(RecurrentConfig, "child_training", child_training)
    rows = ablate(tiny.config(text), ["derive-mode", "random"], 1, tmp_path / "a")
    assert "the loss is nan" in rows[1]["records"][0]["diverged"]
    assert rows[2]["records"][0]["test"] > 1
    assert "-, 1 diverged" in table(rows, RecurrentConfig.metric)


def test_frozen_controller_ends_in_an_ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.image_config("macro")
    variant = variants_of(config)["frozen"]
    assert isinstance(variant, OfSettings)
    assert variant.ensemble == ENSEMBLE == 250
    monkeypatch.setattr("enas.evidence.variants.VARIANTS", (replace(variant, ensemble=5),))
    rows = ablate(config, ["frozen"], 1, tmp_path / "a")
    scored = read_json(tmp_path / "a" / "frozen-seed0" / "ensemble.json")
    (record,) = rows[1]["records"]
    assert (record["test"], record["test_of_one"]) == (scored["accuracy"], scored["mean_accuracy_of_members"])
    assert scored["samples"] == 5
    assert f"(one alone {record['test_of_one']:.2f})" in table(rows, config.metric)
    assert not (tmp_path / "a" / "frozen-seed0" / "retrain").exists()


# ---- the table and the command ------------------------------------------------------------------------------------------


def test_table_pairs_seeds_and_sets_the_papers_figure_beside() -> None:
    def row(name: str, paper: str, tests: dict[int, float | None]) -> dict[str, Any]:
        records = [{"seed": seed, "test": test} for seed, test in tests.items()]
        return {"name": name, "about": "", "paper": paper, "records": records}

    rows = [
        row("recipe", "", {0: 90.0, 1: 92.0, 2: 94.0}),
        row("worse", "2.1 points more error", {0: 88.0, 1: 91.5, 2: 91.0}),
        row("lost", "", {0: None, 1: 93.0, 2: 96.0}),
    ]
    said = table(rows, Metric("accuracy", lower_is_better=False)).splitlines()
    assert "higher is better; n = 3 seeds, paired" in said[0]
    assert said[2].split() == ["recipe", "92.00", "-", "-"]
    assert said[3].split("  ")[0] == "worse"
    assert "90.17" in said[3]
    assert "-1.83 (-3.00 to -0.50)" in said[3]
    assert said[3].endswith("2.1 points more error")
    assert "94.50, 1 diverged" in said[4]
    assert "+1.50 (+1.00 to +2.00)" in said[4]
    single = [{**r, "records": r["records"][:1]} for r in rows]
    assert "With one seed each, the order may be chance" in table(
        single, Metric("accuracy", lower_is_better=False)
    )


def test_words_of_a_flag_are_taken_wherever_they_stand() -> None:
    argv = ["--variant", "random", "frozen", "--search.epochs", "3", "--variant=no-warmup", "--seeds", "2"]
    command = parse(["ablate", "micro-quick", *argv, "--variant", "derive-mode"])
    assert isinstance(command, Ablate)
    assert command.names == ["random", "frozen", "no-warmup", "derive-mode"]
    assert (command.seeds, command.settings.search.epochs) == (2, 3)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["ablate"], "name a recipe"),
        (["ablate", "recurrent-quick"], "name variants: --variant random"),
        (["ablate", "recurrent-quik", "--variant", "random"], "did you mean 'recurrent-quick'"),
        (["ablate", "recurrent-quick", "--variant", "no-warmupp"], "did you mean 'no-warmup'"),
        (
            ["ablate", "recurrent-quick", "--variant", "random", "--seeds", "x"],
            "--seeds must be a whole number, not 'x'",
        ),
        (
            ["ablate", "recurrent-quick", "--variant", "random", "--serch.epochs", "1"],
            "no flag --serch.epochs",
        ),
    ],
)
def test_mistakes_are_named(argv: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(argv)


def test_command_lists_its_variants_and_prints_the_table(
    text: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["ablate", "macro-quick", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in variants_of(recipe("macro-quick")))
    argv = ["ablate", "recurrent-quick", *tiny.flags(text), "--run", str(done), "--variant", *NAMES]
    assert parse(argv)() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["recipe", *NAMES]
    assert "test perplexity 81.2, found 55.8" in lines[4 + NAMES.index("random") - 1]


def test_seeds_below_one_are_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--seeds must be at least 1, not 0"):
        ablate(tiny.config(text), ["random"], 0, tmp_path / "a")
    assert not (tmp_path / "a").exists()
