"""What a search has to beat without shared weights: proxies without training and successive halving, against hand
calculations, and as rivals of a comparison."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.errors import ConfigError, RunFolderError
from enas.evidence import compare as compare_run
from enas.evidence import halving, proxies
from enas.evidence.compare import CompareConfig
from enas.evidence.comparison import Record, compare, verdict
from enas.evidence.halving import Halved, epochs_each, halve, lengths, promotable, promotion
from enas.evidence.methods import (
    ASHA,
    BY_PROXY,
    ENAS,
    MOST_MULTIPLY_ADDS,
    MOST_PARAMETERS,
    NASWOT,
    SYNFLOW,
)
from enas.evidence.proxies import PROXIES, rank_by
from enas.executors.local import LocalExecutor
from enas.norms import norms_of
from enas.proxies import naswot, synflow
from enas.retrain import Network, uniform_architectures
from enas.runtime.files import read_json, read_jsonl, write_json
from enas.runtime.metrics import Metrics
from enas.runtime.seeding import generator
from enas.runtime.stop import Stopped, StopRequest
from enas.spaces.recurrent.space import RecurrentSpace
from enas.stages import Run, execute
from enas.task import BaseTask
from enas.trainings import Job
from tests import tiny
from tests.test_compare_command import Killed, records
from tests.test_trainings import Forbidden, InThisProcess


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("data") / "text")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())


# ---- NASWOT and SynFlow by hand ----------------------------------------------------------------------------------------


def linear(*rows: list[float], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


INPUTS = torch.tensor([[1.0, 2.0], [2.0, 1.0], [-1.0, 1.0]])
"""They open the ReLUs of x₀, x₁ and x₀ - x₁ as 110, 111 and 010."""


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True)])
def test_naswot_is_the_log_determinant_worked_out_by_hand(relu: nn.Module) -> None:
    network = nn.Sequential(linear([1, 0], [0, 1], [1, -1]), relu, linear([1, 1, 1]))
    # K = [[3, 2, 2], [2, 3, 1], [2, 1, 3]], whose determinant is 3·8 - 2·4 + 2·(-4)
    assert naswot(network, INPUTS) == pytest.approx(math.log(8))


def test_naswot_counts_the_relus_of_all_layers() -> None:
    first, second = linear([1, 0], [0, 1], [1, -1]), linear([1, -1, 0], [0, 0, 1], bias=[0, -0.5])
    network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
    # The second layer sees (1, 2, 0), (2, 1, 1) and (0, 1, 0), and opens 00, 11 and 00.
    kernel_BB = np.array([[5, 2, 4], [2, 5, 1], [4, 1, 5]])
    assert naswot(network, INPUTS) == pytest.approx(math.log(np.linalg.det(kernel_BB)))


def test_naswot_of_inputs_that_nothing_tells_apart_is_the_worst() -> None:
    network = nn.Sequential(linear([1, 0], [0, 1]), nn.ReLU())
    assert naswot(network, torch.tensor([[1.0, 2.0], [2.0, 1.0]])) == -math.inf
    assert naswot(nn.Linear(2, 2), INPUTS) == -math.inf


def test_synflow_is_the_flow_worked_out_by_hand() -> None:
    # |W₁|·1 = (3, 7), and R = 1·3 + 2·7 = 17. Each layer without bias has Σ|θ ∂R/∂θ| = R.
    assert synflow(nn.Sequential(linear([1, -2], [3, -4]), nn.ReLU(), linear([-1, 2])), [2]) == 34
    # With |bias| = 5, R = 22, of which 17 pass through the weights of each layer.
    biased = nn.Sequential(linear([1, -2], [3, -4]), nn.ReLU(), linear([-1, 2], bias=[-5]))
    assert synflow(biased, [2]) == 17 + 17 + 5


def test_synflow_leaves_norms_out() -> None:
    norm = nn.BatchNorm1d(2)
    nn.init.constant_(norm.weight, 7)
    network = nn.Sequential(linear([1, -2], [3, -4]), norm, nn.ReLU(), linear([-1, 2]))
    assert synflow(network, [2]) == 34


@pytest.fixture(scope="module")
def macro() -> RunConfig:
    return tiny.image_config("macro")


def scored(config: RunConfig, proxy: str, architecture: Architecture) -> float:
    network = Network("candidate", architecture, 0)
    return PROXIES[proxy](config, config.child_training(network).task, network)


class PlainForms(TorchDispatchMode):
    """Inside, no kernel takes over."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("space", ["macro", "micro"])
def test_the_proxies_of_a_child_are_what_its_plain_modules_say(
    space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.image_config(space)
    architecture = next(uniform_architectures(config.searched_space(), 3))
    network = Network("candidate", architecture, 0)
    task, model = config.child_training(network).task, config.model(network)
    patterns: list[Tensor] = []
    relu = torch.nn.functional.relu

    def noting(x: Tensor) -> Tensor:
        patterns.append((x > 0).flatten(1))
        return relu(x)

    monkeypatch.setattr("enas.ops.F.relu", noting)
    with task.evaluating(model, norms_of(model), "batch"), PlainForms():
        model(task.inputs(task.minibatch(0, 0)))
    monkeypatch.undo()
    open_BR = torch.cat(patterns, 1).numpy()
    kernel_BB = np.array([[np.sum(a == b) for b in open_BR] for a in open_BR], dtype=np.float64)
    assert scored(config, NASWOT, architecture) == pytest.approx(np.linalg.slogdet(kernel_BB)[1])
    size = task.size(model)
    assert scored(config, MOST_PARAMETERS, architecture) == size["parameters"]
    assert scored(config, MOST_MULTIPLY_ADDS, architecture) == size["multiply_adds"]
    assert 0 < scored(config, SYNFLOW, architecture) < math.inf


@pytest.mark.parametrize("space", ["macro", "micro", "nasbench201"])
def test_costs_of_a_path_are_those_of_its_network(space: str) -> None:
    config: Any = tiny.image_config(space)
    draw = generator(config.seed, "costs")
    supernet = replace(config, network=config.child_network).supernet(config.images.shape, draw)
    for architecture in islice(uniform_architectures(config.searched_space(), 5), 4):
        child = config.child(architecture, config.images.shape, draw)
        child.load_slice(supernet)
        child.outputs(torch.rand(2, 1, 8, 8)).logits_BK.sum().backward()
        of_norms = {id(weight) for norm in norms_of(child) for weight in norm.parameters()}
        used = sum(w.numel() for w in child.parameters() if w.grad is not None and id(w) not in of_norms)
        assert config.costs(architecture) == pytest.approx((used, synflow(child, (1, 8, 8))))


def test_proxies_of_classifiers_are_not_for_words(tmp_path: Path) -> None:
    config = tiny.config(tiny.write_text(tmp_path / "text"))
    architecture = next(uniform_architectures(config.searched_space(), 0))
    assert scored(config, MOST_PARAMETERS, architecture) > 0
    for proxy in (MOST_MULTIPLY_ADDS, NASWOT, SYNFLOW):
        with pytest.raises(ConfigError):
            scored(config, proxy, architecture)


# ---- the best of many --------------------------------------------------------------------------------------------------


def test_uniform_architectures_are_distinct_and_end_with_the_space() -> None:
    space = RecurrentSpace(nodes=2)
    drawn = list(uniform_architectures(space, 5))
    assert len(set(drawn)) == len(drawn) == space.count()
    assert list(uniform_architectures(space, 5, {drawn[0]})) == drawn[1:]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Architecture]:
    """The architectures that were scored, the n-th with (7 n) mod 11."""
    seen: list[Architecture] = []

    def proxy(config: RunConfig, task: BaseTask, network: Network) -> float:
        assert network.architecture is not None
        seen.append(network.architecture)
        return 7.0 * (len(seen) - 1) % 11

    monkeypatch.setattr(proxies, "PROXIES", {NASWOT: proxy})
    return seen


def ranking(run: Run, count: int, seconds: float, stop: StopRequest) -> proxies.Ranked:
    return rank_by(run, NASWOT, run.folder / "scored", 1, count, seconds, stop)


def test_as_many_are_scored_as_asked_and_none_twice(
    macro: RunConfig, tmp_path: Path, asked: list[Architecture]
) -> None:
    run, stop = Run.create(tmp_path / "run", macro, ("search",)), StopRequest()
    stop.request("SIGTERM")
    with pytest.raises(Stopped):
        ranking(run, 8, 1e9, stop)
    assert len(asked) == 1
    ranked = ranking(run, 8, 1e9, StopRequest())
    assert len(set(asked)) == len(asked) == len(ranked.scores) == 8
    assert ranked.best == asked[3]  # 0 7 3 10 6 2 9 5
    again = ranking(run, 8, 1e9, StopRequest())
    assert (again.scores, again.best, len(asked)) == (ranked.scores, ranked.best, 8)
    assert again.seconds == pytest.approx(ranked.seconds, abs=1e-3)


def test_no_more_are_scored_than_there_are_or_than_the_seconds_allow(
    macro: RunConfig, text: Path, tmp_path: Path, asked: list[Architecture]
) -> None:
    run = Run.create(tmp_path / "run", tiny.config(text, "--space.nodes", "2"), ("search",))
    assert len(ranking(run, 100, 1e9, StopRequest()).scores) == run.config.searched_space().count() == 16
    other = Run.create(tmp_path / "other", macro, ("search",))
    assert [len(ranking(other, 100, 0.0, StopRequest()).scores) for _ in range(2)] == [1, 1]
    record = read_json(other.folder / "scored" / "scores.json")
    record["settings"]["retrain.child.training.batch"] = 7
    write_json(other.folder / "scored" / "scores.json", record)
    with pytest.raises(RunFolderError, match=r"retrain\.child\.training\.batch is 20"):
        ranking(other, 100, 0.0, StopRequest())


def test_what_is_no_number_is_the_worst_at_once_and_when_read_again(
    macro: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = iter([math.nan, 1.0, math.inf, 2.0])
    monkeypatch.setattr(proxies, "PROXIES", {NASWOT: lambda *given: next(planted)})
    run = Run.create(tmp_path / "run", macro, ("search",))
    first, again = (ranking(run, 4, 1e9, StopRequest()) for _ in range(2))
    assert first.scores == again.scores == [-math.inf, 1.0, -math.inf, 2.0]
    assert first.best == again.best == first.architectures[3]


def test_whatever_a_proxy_raises_on_these_networks_is_said_in_a_line(macro: RunConfig) -> None:
    def proxy(config: RunConfig, task: BaseTask, network: Network) -> float:
        return float(torch.relu(torch.ones(8)).flatten(1).sum())  # an IndexError

    task: Any = None
    with pytest.raises(ConfigError, match="it does not fit these networks: Dimension out of range"):
        proxies.scored_by(proxy, macro, task, networks(1)[0])


# ---- successive halving ------------------------------------------------------------------------------------------------


def networks(count: int) -> list[Network]:
    drawn = uniform_architectures(RecurrentSpace(nodes=4), 0)
    return [Network("candidate", next(drawn), 0) for _ in range(count)]


def test_rungs_are_powers_of_three_up_to_the_longest_training() -> None:
    assert [lengths(epochs) for epochs in (1, 2, 3, 8, 9, 30)] == [
        [1],
        [1],
        [1, 3],
        [1, 3],
        [1, 3, 9],
        [1, 3, 9, 27],
    ]
    # Of nine that cost 1, three go on for 2 more epochs, and one for 6 more.
    assert 9 * epochs_each([1, 3, 9]) == pytest.approx(9 + 3 * 2 + 6)


def test_promotions_follow_the_rule_on_planted_scores() -> None:
    a, b, c, d, e, f, g = networks(7)
    lowest = {a: 5.0, b: 1.0}
    assert promotion([lowest, {}, {}]) is None  # a third of two is none
    lowest |= {c: 3.0}
    assert promotion([lowest, {}, {}]) == (1, [a])
    assert promotion([lowest, {a: 5.0}, {}]) is None
    lowest |= {d: 7.0, e: 6.0, f: 0.0}
    assert promotable([lowest, {a: 5.0}, {}], 0) == [d, e]  # a is no longer among the best two
    lowest |= {g: -math.inf}
    middle = {a: 5.0, d: 4.0, e: 4.5}
    assert promotion([lowest, middle, {}]) == (2, [a])  # the highest rung first
    assert promotion([lowest, middle, {a: 1.0}]) is None


def test_what_diverged_is_not_promoted_and_of_equal_ones_the_earlier_is() -> None:
    a, b, c, *_ = networks(3)
    assert promotion([{a: -math.inf, b: -math.inf, c: -math.inf}, {}]) is None
    assert promotion([{a: 1.0, b: 2.0, c: 2.0}, {}]) == (1, [b])


@pytest.fixture
def planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[float], int, float], tuple[Halved, list[tuple[int, list[int]]]]]:
    """Halve architectures of these losses, a second an epoch; also returns the rounds: epochs, and who."""
    config = tiny.config(tiny.write_text(tmp_path / "text"))
    run = Run.create(tmp_path / "run", config, ("retrain",))
    monkeypatch.setattr(halving, "training_seconds", lambda *_: 1.0)
    monkeypatch.setattr(halving, "carry_on", lambda *_: None)

    def halved(losses: list[float], epochs: int, seconds: float) -> Any:
        rounds: list[tuple[int, list[int]]] = []
        drawn = [one for one, _ in zip(uniform_architectures(config.space, 0), losses, strict=False)]

        def train(run: Run, part: str, networks: list[Network], *_: Any, epochs: int, **__: Any) -> Any:
            numbers = [drawn.index(one.architecture) for one in networks if one.architecture is not None]
            assert part == f"rung-{epochs}"
            rounds.append((epochs, numbers))
            return {
                network: {"diverged": "nan", "epochs": epochs}
                if math.isinf(losses[number])
                else {"id": "x", "valid_loss": losses[number], "seconds": float(epochs), "epochs": epochs}
                for network, number in zip(networks, numbers, strict=True)
            }

        monkeypatch.setattr(halving, "train_networks", train)
        found = halve(run, iter(drawn), epochs, seconds, StopRequest(), "enas compare", None)
        number = None if found.architecture is None else drawn.index(found.architecture)
        return (number, found.architectures, found.seconds), rounds

    return halved


LOSSES = [5.0, 3.0, 8.0, 1.0, 9.0, 2.0, 7.0, 6.0, 4.0, 0.5, 0.1, 0.2]


def test_a_budget_is_spent_by_rungs_and_each_epoch_is_paid_once(planted: Any) -> None:
    found, rounds = planted(LOSSES, 10, 21.5)  # 9 · (1 + 2/3 + 6/9) = 21
    assert rounds == [(1, [*range(9)]), (3, [3, 5, 1]), (9, [3]), (1, [9])]
    assert found == (3, 10, 9 + 3 * 2 + 6 + 1)


def test_late_architectures_catch_up(planted: Any) -> None:
    found, rounds = planted(LOSSES, 3, 20)
    # After nine, 15 s are spent. What is left is enough for 5 / (1 + 2/3) = 3 more, and then for one promotion.
    assert rounds == [(1, [*range(9)]), (3, [3, 5, 1]), (1, [9, 10, 11]), (3, [10])]
    assert found == (10, 12, 9 + 3 * 2 + 3 + 2)
    # A budget too small for a third: as many as it is enough for, and the best of them.
    found, rounds = planted(LOSSES, 3, 2)
    assert (found, rounds) == ((1, 2, 2), [(1, [0]), (1, [1])])
    assert planted(LOSSES, 3, 0)[0] == (0, 1, 1)


def test_a_halving_ends_with_the_space_and_charges_what_diverged(planted: Any) -> None:
    found, rounds = planted([math.inf] * 4, 3, 100)
    assert (found, [of for of, _ in rounds]) == ((None, 4, 4), [1])
    found, rounds = planted([math.inf, 2.0, 1.0], 9, 100)
    assert (found, rounds) == ((2, 3, 3 + 2), [(1, [0, 1, 2]), (3, [2])])


# ---- in a comparison ---------------------------------------------------------------------------------------------------

SMALL = CompareConfig(seeds=2, samples=4, epochs=3, rivals=ASHA)


def searched(folder: Path, config: RunConfig) -> Run:
    run = Run.create(folder, config, ("search",))
    execute(run, ("search",))
    return run


def test_halving_as_a_rival_continues_its_trainings_and_counts_them(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = searched(tmp_path / "run", tiny.config(text))
    monkeypatch.setattr(compare_run.Found, "seconds", property(lambda found: 20.0))
    monkeypatch.setattr(halving, "training_seconds", lambda *_: 1.0)
    monkeypatch.setattr(
        Metrics, "work", lambda metrics: float(len(read_jsonl(metrics.log.path)))
    )  # an epoch a second
    performed: Counter[Path] = Counter()
    perform = Job.perform

    def performing(self: Job, *arguments: Any) -> dict[str, Any]:
        performed[self.folder] += 1
        if performed.total() == 14:
            raise Killed
        return perform(self, *arguments)

    monkeypatch.setattr(Job, "perform", performing)
    with pytest.raises(Killed):
        compare_run.compare_run(Run.open(run.folder), SMALL)
    comparison = compare_run.compare_run(Run.open(run.folder), SMALL)
    assert max(performed.values()) <= 2  # the one that was killed
    found = records(run.folder)
    for seed in (0, 1):
        folder, record = run.folder / "compare" / f"asha-seed{seed}", found[ASHA, seed]
        lowest, highest = (list(folder.glob(f"rung-{epochs}/*/result.json")) for epochs in (1, 3))
        assert (len(lowest), len(highest), record.evaluations) == (12, 4, 12)
        seconds = {path.parent.name: read_json(path)["work"] for path in [*lowest, *highest]}  # the longest
        assert record.search_seconds == sum(seconds.values()) == 12 + 4 * 2
        best = min(highest, key=lambda path: read_json(path)["valid_loss"])
        picked = Run.open(folder).architecture()
        assert best.parent.name == Network("candidate", picked, seed).id
        assert record.architecture == str(picked)
        final = read_json(run.folder / "compare" / best.parent.name / "result.json")
        assert record.score == final["test"]["test_ppl"]
        # The training that went on from one epoch to three is the one of three, bit for bit.
        continued = read_json(best)
        assert (continued["weights"], continued["valid_loss"]) == (final["weights"], final["valid_loss"])
        assert [line["step"] for line in read_jsonl(best.parent / "metrics.jsonl")] == [
            line["step"] for line in read_jsonl(run.folder / "compare" / best.parent.name / "metrics.jsonl")
        ]
    contest = next(one for one in comparison.contests if one.rival == ASHA)
    assert contest.evaluations_ratio is None
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: Forbidden())
    assert compare_run.compare_run(Run.open(run.folder), SMALL) == comparison


def test_proxies_as_rivals_pick_among_as_many_as_the_search_evaluated(
    macro: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = searched(tmp_path / "run", macro)
    config = CompareConfig(seeds=2, samples=4, epochs=1, rivals=",".join(BY_PROXY))
    comparison = compare_run.compare_run(Run.open(run.folder), config)
    found, space = records(run.folder), macro.searched_space()
    for seed in (0, 1):
        for name in BY_PROXY:
            record = found[name, seed]
            path = run.folder / "compare" / f"{name}-seed{seed}" / "scores.json"
            scores = read_json(path)["scores"]
            assert record.evaluations == len(scores) <= found[ENAS, seed].evaluations
            assert record.search_seconds == pytest.approx(read_json(path)["seconds"], abs=2e-3)
            drawn = list(architectures(space, seed, len(scores)))
            assert record.architecture == str(drawn[scores.index(max(scores))])
            assert record.final_seconds > 0
    said = capsys.readouterr().err
    assert "compare: naswot, seed 1: the best of" in said
    assert {one.rival for one in comparison.contests} == {*BY_PROXY, "random-search", "sampling"}


def test_a_proxy_that_fails_with_a_later_seed_is_left_out_altogether(
    macro: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(run: Run, name: str, folder: Path, seed: int, *more: Any) -> proxies.Ranked:
        if seed == 1:
            raise ConfigError("it does not fit these networks")
        return rank_by(run, name, folder, seed, *more)

    monkeypatch.setattr(compare_run, "rank_by", failing)
    run = searched(tmp_path / "run", macro)
    config = CompareConfig(seeds=2, samples=4, epochs=1, rivals="most-parameters")
    comparison = compare_run.compare_run(Run.open(run.folder), config)
    assert "compare: without most-parameters: it does not fit" in capsys.readouterr().err
    assert {one.rival for one in comparison.contests} == {"random-search", "sampling"}


def architectures(space: Any, seed: int, count: int) -> Iterator[Architecture]:
    drawn = uniform_architectures(space, proxies.derive_seed(seed, "proxies"))
    return (next(drawn) for _ in range(count))


# ---- the verdict -------------------------------------------------------------------------------------------------------


def test_a_search_that_does_not_beat_them_is_said_not_to() -> None:
    def runs(method: str, score: float, evaluations: int = 100) -> list[Record]:
        return [Record(method, seed, "a", score, evaluations, 10.0, 0.0, 5.0) for seed in range(10)]

    metric = tiny.image_config("macro").metric
    ours = runs(ENAS, 5.0)
    beaten = [*ours, *runs(NASWOT, 4.0, 6), *runs(ASHA, 3.0)]  # of NASWOT's six there are no more
    found = compare(beaten, ENAS, metric)
    assert [one.verdict for one in found.contests] == ["better", "better"]
    assert verdict(found) == ["enas beats what needs no shared weights: naswot, asha"]
    lost = compare([*beaten, *runs(MOST_PARAMETERS, 6.0), *runs(SYNFLOW, 5.0)], ENAS, metric)
    assert verdict(lost) == [
        "enas is not shown to beat what needs no shared weights: most-parameters, synflow"
    ]
    assert lost.contests[2].claim.startswith("worse than most-parameters in 10 of 10 pairs")
    assert verdict(compare([*ours, *runs("evolution", 1.0)], ENAS, metric)) == []
