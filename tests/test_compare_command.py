"""`enas compare`: equal budgets, one interface for all methods, and a killed comparison that repeats no training."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from enas import cli
from enas.architecture import Architecture
from enas.config import Metric, RunConfig
from enas.controllers import EvolutionConfig, UniformConfig, build_controller
from enas.errors import ConfigError, FolderInUseError, NotFiniteError, RunFolderError
from enas.evidence import compare as compare_run
from enas.evidence.compare import CompareConfig
from enas.evidence.comparison import RANDOM_SEARCH, SAMPLING, Comparison, Record, compare
from enas.evidence.methods import (
    ASHA,
    BY_PROXY,
    ENAS,
    EVOLUTION,
    SHARED_RANDOM,
    UNIFORM,
    Spent,
    own_name,
    rivals,
)
from enas.evidence.pictures import comparison_svg
from enas.evidence.random_search import random_searches
from enas.evidence.runs import command_line, finish
from enas.evidence.statistics import probability_better_paired
from enas.executors.local import LocalExecutor
from enas.phases import Search
from enas.recipes import RECIPES, recipe
from enas.retrain import Network
from enas.runtime.files import read_json, read_jsonl, write_json
from enas.runtime.lock import run_lock
from enas.runtime.records import validated
from enas.runtime.stop import EXIT_STOPPED, StopRequest
from enas.settings import config_from_json, config_to_json
from enas.shared_weights import SharedWeights
from enas.stages import ALL_STAGES, Run, execute
from enas.trainings import Job, Outcome
from tests import tiny
from tests.test_ablations import differences
from tests.test_trainings import Forbidden, InThisProcess

SMALL = CompareConfig(seeds=2, samples=4, epochs=1)
MEASURED = ("--search.percentile-every", "1")
"""So that there are rewards which are no evaluations of the search."""
ARGUMENTS = ["--seeds=2", "--samples=4", "--epochs=1"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("data") / "text")


def searched(text: Path, folder: Path, *flags: str) -> Path:
    """A run whose search is finished."""
    execute(Run.create(folder, tiny.config(text, *flags), ("search",)), ("search",))
    return folder


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())


@dataclass
class Watched:
    """A comparison that nobody interrupted, and what was seen while it ran; its folder is not to be changed."""

    folder: Path
    entered: list[tuple[str, str]] = field(default_factory=list)
    """Folder and stage, one entry each time that a stage was entered."""
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Rewards that the method and seed asked the task for: pairs of an architecture and a minibatch."""


@pytest.fixture(scope="module")
def watched(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The run's own derivation is a part of it, its search is not."""
    seen = Watched(searched(text, tmp_path_factory.mktemp("runs") / "done", *MEASURED))
    rewards = SharedWeights.rewards
    asking: list[tuple[str, int]] = []

    def counting(
        self: SharedWeights, architectures: Sequence[Architecture], purpose: str, draw: int
    ) -> Tensor:
        if purpose in ("controller", "derive"):
            seen.asked[asking[-1]] += len(architectures)
        return rewards(self, architectures, purpose, draw)

    def entering(name: str, real: Callable[[Run, StopRequest], None]) -> Callable[[Run, StopRequest], None]:
        def stage(run: Run, stop: StopRequest) -> None:
            seen.entered.append((run.folder.name, name))
            method = ENAS if run.folder == seen.folder else run.folder.name.partition("-seed")[0]
            asking.append((method, run.config.seed))
            real(run, stop)

        return stage

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())
        patch.setattr(SharedWeights, "rewards", counting)
        patch.setattr(compare_run, "search", entering("search", compare_run.search))
        patch.setattr(compare_run, "derive", entering("derive", compare_run.derive))
        compare_run.compare_run(Run.open(seen.folder), SMALL)
    return seen


@pytest.fixture(scope="module")
def done(watched: Watched) -> Path:
    return watched.folder


def records(run: Path) -> dict[tuple[str, int], Record]:
    found = [
        validated(Record, values, closed=True) for values in read_jsonl(run / "compare" / "records.jsonl")
    ]
    return {(record.method, record.seed): record for record in found}


def folder_of(run: Path, method: str, seed: int) -> Path:
    return run if (method, seed) == (ENAS, 0) else run / "compare" / f"{method}-seed{seed}"


# ---- one interface ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_rivals_are_the_run_with_other_settings_and_nothing_else(name: str) -> None:
    config, spent = recipe(name), Spent(recipe_rewards(recipe(name)), 30)
    assert own_name(config) == ENAS
    made = {method: settings(config, spent) for method, settings in rivals(config).items()}
    assert list(made) == [SHARED_RANDOM, EVOLUTION]
    for rival in made.values():
        assert config_from_json(json.loads(json.dumps(config_to_json(rival)))) == rival
        build_controller(rival.controller, rival.searched_space(), 0)
    assert top_level(config, made[EVOLUTION]) <= {"controller", "search.stop_entropy"}
    assert isinstance(made[EVOLUTION].controller, EvolutionConfig)
    assert top_level(config, made[SHARED_RANDOM]) <= {
        "controller",
        "search.updates",
        "search.stop_entropy",
        "verify.trainings",  # it has no policy to correct
        *(f"derive.{key}" for key in asdict(config.derive) if not key.startswith("shortlist_epochs")),
    }
    assert made[SHARED_RANDOM].derive.shortlist == config.derive.shortlist
    assert isinstance(made[SHARED_RANDOM].controller, UniformConfig)


def recipe_rewards(config: RunConfig) -> int:
    search = config.search
    return search.updates * search.proposals * (search.epochs - search.warmup_epochs)


def top_level(a: RunConfig, b: RunConfig) -> set[str]:
    """The settings in which two configs differ, those of the controller as one."""
    found = differences(asdict(a), asdict(b))
    return {"controller" if name.startswith("controller") else name for name in found}


def test_rivals_can_be_chosen(text: Path) -> None:
    config = tiny.config(text)
    chosen = {given: list(CompareConfig(rivals=given).rivals_of(config)) for given in ("none", EVOLUTION)}
    assert chosen == {"none": [], EVOLUTION: [EVOLUTION]}
    assert list(CompareConfig().rivals_of(config)) == [SHARED_RANDOM, EVOLUTION]
    assert CompareConfig().chosen == [SHARED_RANDOM, EVOLUTION, *BY_PROXY]  # asha takes as long as a search
    assert CompareConfig(rivals="asha,evolution").chosen == [EVOLUTION, ASHA]
    with pytest.raises(ConfigError, match=r"--rivals are some of shared-random, evolution, .* not 'lstm'"):
        CompareConfig(rivals="evolution,lstm")


def test_a_comparison_without_rivals_searches_by_the_own_method_only(text: Path, tmp_path: Path) -> None:
    run = Run.open(searched(text, tmp_path / "run"))
    compare_run.compare_run(run, replace(SMALL, rivals="none"))
    assert {method for method, _ in records(run.folder)} == {ENAS, RANDOM_SEARCH, SAMPLING}
    assert not list((run.folder / "compare").glob(f"{EVOLUTION}-*"))


def test_a_search_whose_entropy_ended_its_updates_leaves_its_rivals_no_more_rewards(text: Path) -> None:
    config = tiny.config(
        text, "--search.epochs", "5", "--search.warmup", "0.2", "--search.stop-entropy", "0.5"
    )
    evolution = rivals(config)[EVOLUTION](config, Spent(24, 10))
    assert recipe_rewards(evolution) == 24
    assert evolution.search.stop_entropy is None


@pytest.mark.parametrize(("rewards", "population"), [(1440, 50), (200, 20), (10, 2)])
def test_evolution_mutates_most_of_its_proposals(text: Path, rewards: int, population: int) -> None:
    config = tiny.config(text)
    controller = rivals(config)[EVOLUTION](config, Spent(rewards, 0)).controller
    assert isinstance(controller, EvolutionConfig)
    assert controller.population == population
    assert 1 <= controller.tournament <= max(1, population // 5)


def test_the_own_method_is_not_its_own_rival(text: Path) -> None:
    config = tiny.config(text)
    evolving, uniform = (replace(config, controller=c) for c in (EvolutionConfig(), UniformConfig()))
    assert (own_name(evolving), list(rivals(evolving))) == (EVOLUTION, [SHARED_RANDOM])
    assert (own_name(uniform), list(rivals(uniform))) == (UNIFORM, [SHARED_RANDOM, EVOLUTION])


def test_every_method_goes_through_the_same_stages(watched: Watched) -> None:
    names = ["done", f"{SHARED_RANDOM}-seed0", f"{EVOLUTION}-seed0"]
    names += [f"{method}-seed1" for method in (ENAS, SHARED_RANDOM, EVOLUTION)]
    assert watched.entered == [(name, stage) for name in names for stage in ("search", "derive")]
    for name in names[1:]:
        assert Run.open(watched.folder / "compare" / name).stages == ("search", "derive")


# ---- equal budgets ----------------------------------------------------------------------------------------------------


def test_evaluations_are_the_rewards_that_the_searches_asked_for(watched: Watched) -> None:
    found, run = records(watched.folder), watched.folder
    archived = len(read_jsonl(run / "archive.jsonl"))  # of the run's own search, which was done before
    asked = watched.asked + Counter({(ENAS, 0): archived})
    assert len(asked) == 6
    assert asked == {key: found[key].evaluations for key in asked}
    for seed in (0, 1):
        enas = found[ENAS, seed].evaluations
        drawn = Run.open(folder_of(run, SHARED_RANDOM, seed)).config.derive.samples + 1
        assert drawn == enas
        assert found[SHARED_RANDOM, seed].evaluations <= enas  # an architecture drawn twice is rewarded once
        archives = [read_jsonl(folder_of(run, name, seed) / "archive.jsonl") for name in (ENAS, EVOLUTION)]
        assert [len(archive) for archive in archives] == [12, 12]
        assert not read_jsonl(folder_of(run, SHARED_RANDOM, seed) / "archive.jsonl")


def test_seconds_are_those_of_search_shortlist_and_final_training(done: Path) -> None:
    found = records(done)
    for (method, seed), record in found.items():
        if method in (ENAS, EVOLUTION, SHARED_RANDOM):
            folder = folder_of(done, method, seed)
            shortlist = [read_json(path)["work"] for path in folder.glob("derive/*/result.json")]
            assert len(shortlist) == 2
            assert record.search_seconds == read_json(folder / "search.json")["work"]
            scoring = read_json(folder / "derive.json")["work"]
            assert record.validate_seconds == pytest.approx(scoring + sum(shortlist))
            picked = Network("candidate", Run.open(folder).architecture(), seed)
            result = read_json(done / "compare" / picked.id / "result.json")
            assert (record.final_seconds, record.score) == (result["work"], result["test"]["test_ppl"])
            assert (result["epochs"], record.architecture) == (1, str(picked.architecture))


def test_all_methods_have_a_run_a_seed_and_random_search_has_architectures_of_its_own(done: Path) -> None:
    methods = Counter(method for method, _ in records(done))
    assert methods == {ENAS: 2, SHARED_RANDOM: 2, EVOLUTION: 2, RANDOM_SEARCH: 2, SAMPLING: 4}
    sampled = [record for (method, _), record in records(done).items() if method == SAMPLING]
    parts = [sampled[:2], sampled[2:]]
    for seed, part in enumerate(parts):
        found = records(done)[RANDOM_SEARCH, seed]
        assert found.evaluations == len(part)
        assert (found.search_seconds, found.final_seconds) == (0, 0)
        assert found.validate_seconds == pytest.approx(sum(record.final_seconds for record in part))
        assert found.architecture in [record.architecture for record in part]


def own_run(seed: int, seconds: float) -> Record:
    return Record(ENAS, seed, "a", 50.0, 100, seconds, 0.0, 0.0)


def trained(number: int, valid: float, seconds: float = 10.0) -> dict[str, Any]:
    text = {"text": f"a{number}"}
    return {
        "architecture": text,
        "valid_loss": valid,
        "test": {"test_ppl": 100.0 - valid},
        "seconds": seconds,
    }


def test_random_search_picks_by_validation_among_as_many_trainings_as_the_seconds_allow(text: Path) -> None:
    config, valid = tiny.config(text), [5.0, 3.0, 4.0, 1.0, 9.0, 2.0, 0.5]
    pool = [trained(number, loss) for number, loss in enumerate(valid)]
    own = [own_run(seed, seconds) for seed, seconds in ((4, 25.0), (5, 35.0))]  # on average three trainings
    found = random_searches(config, own, pool)
    assert [(r.seed, r.architecture, r.score, r.evaluations, r.seconds) for r in found] == [
        (4, "a1", 97.0, 3, 30.0),
        (5, "a3", 99.0, 3, 30.0),
    ]
    (rounded_up, _) = random_searches(config, [own_run(s, 21.0) for s in (0, 1)], pool)
    assert rounded_up.evaluations == 3


def test_too_few_trainings_are_said_and_shared_out_evenly(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = [trained(number, number) for number in range(5)]
    found = random_searches(tiny.config(text), [own_run(seed, 100.0) for seed in range(2)], pool)
    assert [record.evaluations for record in found] == [2, 2]
    assert "2 trainings a seed, not the 10" in (said := capsys.readouterr().err)
    assert "--samples 20" in said


@pytest.mark.parametrize(("seconds", "asks"), [(20.0, False), (22.0, False), (23.0, True)])
def test_no_more_trainings_are_asked_for_where_the_budget_counts_as_equal(
    seconds: float, asks: bool, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = [trained(number, number) for number in range(4)]  # 20 seconds for each of two seeds
    own = [own_run(seed, seconds) for seed in range(2)]
    found = random_searches(tiny.config(text), own, pool)
    assert [record.seconds for record in found] == [20.0, 20.0]
    assert ("for those, --samples 6" in capsys.readouterr().err) == asks


def test_random_search_leaves_out_diverged_trainings(text: Path) -> None:
    lost = {"architecture": {"text": "x"}, "diverged": "the loss is nan"}
    own = [own_run(seed, 20.0) for seed in range(2)]
    first, second = random_searches(tiny.config(text), own, [trained(0, 1.0), lost, lost, lost])
    assert (first.architecture, first.score, first.evaluations) == ("a0", 99.0, 2)
    assert (second.architecture, second.score) == ("", None)


# ---- resuming ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a test kills a comparison by: nothing of the package catches it."""


def computed(run: Path) -> dict[str, Any]:
    """All that a comparison has computed, without what depends on the clock."""
    return {
        name: value
        for name, value in tiny.content(run).items()
        if name not in ("compare/comparison.json", "compare/comparison.svg", "compare/records.jsonl")
    }


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Kill a comparison right before its n-th search or training from now on; returns the list of those that ended."""
    left, names = [0], []

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    run_search, perform = compare_run.search, Job.perform

    def searching(run: Run, stop: StopRequest) -> None:
        if not (run.folder / "search.json").exists():
            count()
            run_search(run, stop)
            names.append(run.folder.name)

    def performing(self: Job, *arguments: Any) -> dict[str, Any]:
        count()
        result = perform(self, *arguments)
        names.append(self.folder.name)
        return result

    monkeypatch.setattr(compare_run, "search", searching)
    monkeypatch.setattr(Job, "perform", performing)

    def kill_before(number: int) -> list[str]:
        left[0] = number
        return names

    return kill_before


@pytest.mark.parametrize("moment", [3, 9])
def test_killed_and_resumed_equals_uninterrupted_and_repeats_nothing(
    text: Path, done: Path, tmp_path: Path, ended: Callable[[int], list[str]], moment: int
) -> None:
    run = searched(text, tmp_path / "run", *MEASURED)
    names = ended(moment)
    with pytest.raises(Killed):
        compare_run.compare_run(Run.open(run), SMALL)
    assert len(names) == moment - 1
    ended(1000)
    comparison = compare_run.compare_run(Run.open(run), SMALL)
    trainings = {path.parent.name for path in run.glob("compare/*/result.json")}
    searches = {path.parent.name for path in run.glob("compare/*/search.json")}
    assert Counter(names) == Counter([*trainings, *searches])  # each exactly once
    assert len(searches) == 5
    assert computed(run) == computed(done)
    again = len(names)
    assert compare_run.compare_run(Run.open(run), SMALL) == comparison
    assert len(names) == again


def test_a_signal_in_the_middle_of_a_search_or_training_saves_and_names_the_command(
    text: Path,
    done: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = searched(text, tmp_path / "run", *MEASURED)
    argv = ["compare", str(run), *ARGUMENTS]
    weights, steps = Search.train_weights, [0]

    def stopping(self: Search, epoch: int, step: int) -> dict[str, float]:
        steps[0] += 1
        if steps[0] == 7:
            stops[-1].request("SIGTERM")
        return weights(self, epoch, step)

    stops: list[StopRequest] = []
    enter = StopRequest.__enter__

    def entering(self: StopRequest) -> StopRequest:
        stops.append(self)
        return enter(self)

    class StoppedAfterOne(InThisProcess):
        def run(self, jobs: Sequence[Job], stop: StopRequest, on_step: Any) -> Iterator[Outcome]:
            for outcome in super().run(jobs, stop, on_step):
                yield outcome
                stop.request("SIGINT")

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__enter__", entering)
        patch.setattr(Search, "train_weights", stopping)
        assert cli.main(argv) == EXIT_STOPPED
        again = f"Continue with: enas compare {' '.join(ARGUMENTS)} {run}"
        assert again in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "for_run", lambda config, workers=None: StoppedAfterOne())
        assert cli.main(argv) == EXIT_STOPPED
        assert again in capsys.readouterr().err
    assert cli.main(argv) == 0
    assert computed(run) == computed(done)
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: Forbidden())
    assert cli.main(argv) == 0


def test_a_finished_retraining_of_the_run_is_not_repeated(text: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", tiny.config(text, "--retrain.child.epochs", "1"), ALL_STAGES)
    execute(run, ALL_STAGES)
    compare_run.compare_run(Run.open(run.folder), replace(SMALL, epochs=None))
    (result,) = (one for one in run.results() if one["role"] == "found")
    record = records(run.folder)[ENAS, 0]
    assert (record.score, record.final_seconds) == (result["test"]["test_ppl"], result["work"])
    assert not (run.folder / "compare" / f"{run.architecture().id}-seed0").exists()
    assert (
        read_json(run.folder / "comparison.json") == run.results()
    )  # the stage test's own file is left alone


def test_a_search_that_diverges_is_a_result_and_not_repeated(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = searched(text, tmp_path / "run", *MEASURED)
    begun, held, weights = [], [], Search.train_weights

    def in_use(folder: Path) -> bool:
        try:
            with run_lock(folder):
                return False
        except FolderInUseError:
            return True

    def diverging(self: Search, epoch: int, step: int) -> dict[str, float]:
        if self.seed == 1 and step == 3:
            begun.append(type(self.controller).__name__)
            held.extend(folder.name for folder in (run / "compare").glob("*-seed1") if in_use(folder))
            raise NotFiniteError("the loss is nan")
        return weights(self, epoch, step)

    monkeypatch.setattr(Search, "train_weights", diverging)
    comparison = compare_run.compare_run(Run.open(run), SMALL)
    assert sorted(held) == [f"{method}-seed1" for method in (ENAS, EVOLUTION, SHARED_RANDOM)]
    assert sorted(begun) == ["EvolutionController", "PolicyGradientController", "UniformController"]
    found = records(run)
    for method in (ENAS, EVOLUTION, SHARED_RANDOM):
        assert found[method, 1].score is None
        assert found[method, 0].score is not None
    assert {contest.rival: contest.better.value for contest in comparison.contests}[EVOLUTION] in (
        0.25,
        0.5,
        0.75,
    )
    assert compare_run.compare_run(Run.open(run), SMALL) == comparison
    assert len(begun) == 3


# ---- the command ------------------------------------------------------------------------------------------------------


def test_command_says_what_it_takes_and_leaves_numbers_and_picture(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(done), *ARGUMENTS]) == 0
    captured = capsys.readouterr()
    assert (
        "compare: enas, shared-random, evolution, most-parameters, most-multiply-adds, naswot, synflow with 2 seeds, 4 "
        "random architectures; 0 searches"
    ) in captured.err
    for proxy in (
        "most-multiply-adds: networks",
        "naswot: it is",
        "synflow: it is",
        "most-parameters: all of",
    ):
        assert f"compare: without {proxy}" in captured.err
    assert "enas is not shown to beat what needs no shared weights: random-search" in captured.out
    for method in (ENAS, EVOLUTION, SHARED_RANDOM, RANDOM_SEARCH, SAMPLING):
        assert method in captured.out
    assert "enas: no difference from evolution shown" in captured.out  # of two pairs there never is one
    assert "times the evaluations and" in captured.out
    assert "expected best ppl of k random architectures: 1: " in captured.out
    assert "random architectures are trained" in captured.out
    assert cli.main(["compare", str(done), *ARGUMENTS, "--json"]) == 0
    written = read_json(done / "compare" / "comparison.json")
    assert json.loads(capsys.readouterr().out) == written
    assert validated(Comparison, written, closed=True).method == ENAS
    documented = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    known = tiny.documented() | set(re.findall(r"`(\w+)`", documented))
    assert tiny.keys([written, *read_jsonl(done / "compare" / "records.jsonl")]) <= known
    svg = ET.fromstring((done / "compare" / "comparison.svg").read_text())
    circles = [element for element in svg.iter() if element.tag.endswith("circle")]
    assert len(circles) == len(records(done))


def test_a_derivation_that_did_not_note_its_seconds_is_refused(done: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, Run.open(done).config, ("search",))
    (tmp_path / "search.json").write_bytes((done / "search.json").read_bytes())
    with pytest.raises(RunFolderError, match=r"derive\.json is missing"):
        compare_run.found_by(run, ENAS)


def test_a_search_from_before_work_was_counted_counts_its_seconds_by_the_clock(
    done: Path, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(done, tmp_path / "old"), Run.open(done).config, ("search",))
    assert compare_run.counts_work(run)
    by_clock = {}
    for name in ("search.json", "derive.json"):
        record = read_json(run.folder / name)
        by_clock[name] = record["seconds"]
        del record["work"]
        write_json(run.folder / name, record)
        assert not compare_run.counts_work(run)
    found = compare_run.found_by(run, ENAS)
    shortlist = [read_json(path)["work"] for path in run.folder.glob("derive/*/result.json")]
    assert found.search_seconds == by_clock["search.json"]
    assert found.validate_seconds == pytest.approx(by_clock["derive.json"] + sum(shortlist))


def test_estimate_counts_what_is_missing(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(searched(text, tmp_path / "run"))
    finish(run, (compare_run.search, compare_run.derive), StopRequest())
    own = replace(compare_run.found_by(run, ENAS), search_seconds=3600.0, validate_seconds=0.0)
    said = compare_run.plan(run, CompareConfig(seeds=3, samples=6), own)
    assert "8 searches and at most 27 trainings are missing: about 8 h" in said
    assert not capsys.readouterr().out


def pictured(scores: list[float | None], metric: Metric) -> ET.Element:
    """A comparison of two methods of four runs each, the second one with these scores."""
    known = [Record(SAMPLING, seed, "a < b", 60.0 + seed, 1, 0.0, 0.0, 5.0) for seed in range(4)]
    own = [Record(ENAS, seed, "c", score, 9, 5.0, 1.0, 5.0) for seed, score in enumerate(scores)]
    made = [*known, *own]
    return ET.fromstring(comparison_svg(compare(made, ENAS, metric), made))


@pytest.mark.parametrize("scores", [[50.0, 55.0, 52.0, 61.0], [70.0, 100.0, 1000.0, 7.5]])
def test_points_of_the_picture_are_in_the_order_of_their_scores(scores: list[float]) -> None:
    svg = pictured([*scores], Metric("ppl", lower_is_better=True))
    circles = [element for element in svg.iter() if element.tag.endswith("circle")]
    places = [float(circle.get("cx", "")) for circle in circles]
    known = [60.0, 61.0, 62.0, 63.0, *scores]
    assert len(places) == 8
    order = sorted(range(8), key=known.__getitem__)
    assert [places[number] for number in order] == sorted(places)
    assert all(140 <= place <= 460 for place in places)
    texts = [element.text for element in svg.iter() if element.tag.endswith("text")]
    assert ("1000" in texts) == (1000.0 in scores)
    assert "every run of every method (lower is better)" in texts
    assert "in the seconds of a run: 2.2" in texts


def test_runs_that_diverged_have_no_point() -> None:
    svg = pictured([None, 50.0, None, 51.0], Metric("accuracy", lower_is_better=False))
    assert sum(element.tag.endswith("circle") for element in svg.iter()) == 6
    hints = [element.text for element in svg.iter() if element.tag.endswith("title")]
    assert hints[0] == "seed 0: 60.00, a < b"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds=1"], "--seeds must be at least 2, not 1"),
        (["--seeds=4", "--samples=3"], "--samples must be at least --seeds, 4, not 3"),
        (["--epochs=0"], "--epochs must be at least 1 or None, not 0"),
        (["--samples=1000"], "--samples is 1000, but the space has 128 architectures"),
        (["--sample=8"], "there is no flag --sample; did you mean '--samples'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    done: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert cli.main(["compare", str(done), *arguments]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.splitlines()) == 1


def test_an_unfinished_search_and_other_settings_are_refused(text: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "new", tiny.config(text), ("search",))
    with pytest.raises(RunFolderError, match="is not finished; run 'enas resume"):
        compare_run.compare_run(run, SMALL)
    execute(run, ("search",))
    folder = run.folder / "compare" / f"{SHARED_RANDOM}-seed0"
    Run.create(folder, tiny.config(text), ("search", "derive"))
    with pytest.raises(RunFolderError, match="holds a run of other settings"):
        compare_run.compare_run(Run.open(run.folder), SMALL)
    with pytest.raises(ConfigError, match="RUN is missing"):
        cli.parse(["compare"])


def test_command_to_go_on_is_the_one_given() -> None:
    assert command_line("enas compare", CompareConfig()) == "enas compare"
    again = command_line("enas compare", CompareConfig(seeds=8, samples=40, epochs=2, json=True))
    assert again == "enas compare --seeds=8 --samples=40 --epochs=2"


def test_fewer_pairs_than_the_default_cannot_carry_a_claim() -> None:
    def lowest(pairs: int) -> float:
        return probability_better_paired([1.0] * pairs, [0.0] * pairs).low

    assert lowest(CompareConfig().seeds) > 0.5 > lowest(CompareConfig().seeds - 1)
