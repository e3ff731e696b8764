"""The search loop: what it does in which order, what it logs, and that it can be stopped after any step."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from enas.architecture import Architecture
from enas.controllers import ControllerConfig, IndependentConfig, UniformConfig, build_controller
from enas.errors import ConfigError, NotFiniteError
from enas.phases import Place, Search, SearchConfig
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import JsonlLog, read_jsonl
from enas.runtime.metrics import Metrics
from enas.runtime.stop import Stopped, StopRequest
from enas.search_loop import run_search
from enas.shared_weights import SharedWeights
from enas.spaces.recurrent.space import RecurrentSpace
from enas.task import BaseTask
from enas.trainer import Estimate
from enas.watch import Watch
from tests import tiny

SPACE = RecurrentSpace(nodes=3)
UNIFORM = UniformConfig()
Call = tuple[str, Any, Any, list[Architecture]]


def worth(architecture: Architecture) -> float:
    """A reward that one architecture alone has most of: each choice that is the last option counts."""
    pairs = zip(architecture.choices, architecture.space.decisions, strict=True)
    return 1.0 * sum(choice == len(decision.options) - 1 for choice, decision in pairs)


class PlantedTask(BaseTask):
    """What is told of the planted rewards."""

    def describe_reward(self, reward: float) -> dict[str, float]:
        return {"worth": reward}


PlantedTask.__abstractmethods__ = frozenset()


class PlantedWeights(SharedWeights):
    """Rewards are known; training does nothing but write down what it was asked."""

    def __init__(self, steps: Sequence[int] = (3,)) -> None:
        self.space = SPACE
        self.task = PlantedTask(seed=0, device=torch.device("cpu"), dtype=torch.float32)
        self.calls: list[Call] = []
        self.lengths = steps

    def steps(self, epoch: int) -> int:
        return self.lengths[epoch % len(self.lengths)]

    def train_step(self, epoch: int, step: int, architectures: Sequence[Architecture]) -> dict[str, float]:
        self.calls.append(("weights", epoch, step, list(architectures)))
        return {"loss": float(step)}

    def rewards(self, architectures: Sequence[Architecture], purpose: str, draw: int) -> Tensor:
        self.calls.append(("rewards", purpose, draw, list(architectures)))
        return torch.tensor([worth(architecture) for architecture in architectures])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def estimate(self) -> tuple[Estimate, float]:
        return Estimate(0.0, 0.0), 0.0


def search_of(
    folder: Path,
    config: SearchConfig,
    weights: SharedWeights | None = None,
    controller: ControllerConfig = UNIFORM,
    seed: int = 0,
) -> Search:
    weights = PlantedWeights() if weights is None else weights
    made = build_controller(controller, weights.space, seed)
    folder.mkdir(exist_ok=True)
    metrics = Metrics(JsonlLog(folder / "metrics.jsonl"))
    watch = Watch(config, weights, made, seed, metrics)
    return Search(config, weights, made, seed, JsonlLog(folder / "archive.jsonl"), watch)


def go_on(search: Search, folder: Path, stop: StopRequest) -> None:
    assert isinstance(search.watcher, Watch)
    checkpoints = CheckpointStore(folder / "checkpoints", 2, rhythm=search.config.rhythm)
    run_search(search, search.watcher, checkpoints, stop, folder)


def run(folder: Path, search: Search) -> Search:
    go_on(search, folder, StopRequest())
    return search


def calls_of(search: Search) -> list[Call]:
    assert isinstance(search.weights, PlantedWeights)
    return search.weights.calls


def test_phases_alternate_and_warmup_epochs_have_no_controller_updates(tmp_path: Path) -> None:
    config = SearchConfig(epochs=4, warmup=0.5, updates=2, proposals=1, samples=2)
    search = run(tmp_path, search_of(tmp_path, config, PlantedWeights(steps=(3, 1, 2, 2))))
    order = [(kind, first, second) for kind, first, second, _ in calls_of(search)]
    assert order == [
        *[("weights", 0, step) for step in range(3)],
        ("weights", 1, 0),
        *[("weights", 2, step) for step in range(2)],
        *[("rewards", "controller", 4 + step) for step in range(2)],
        *[("weights", 3, step) for step in range(2)],
        *[("rewards", "controller", 6 + step) for step in range(2)],
    ]
    assert search.total_steps() == len(order) == 12
    assert all(len(drawn) == 2 for kind, _, _, drawn in calls_of(search) if kind == "weights")


def test_places_start_anywhere_and_end_after_the_last_epoch(tmp_path: Path) -> None:
    search = search_of(tmp_path, SearchConfig(epochs=2, updates=2))
    everything = list(search.places(Place(0, "weights", 0)))
    assert [place for place, _ in everything[1:]] == [following for _, following in everything[:-1]]
    assert everything[-1][1] == Place(2, "weights", 0)
    for index, (place, _) in enumerate(everything):
        assert list(search.places(place)) == everything[index:]
    assert list(search.places(Place(2, "weights", 0))) == []


def concentrated(search: Search) -> Architecture:
    """Make the controller certain of one architecture, and return it."""
    best = SPACE.architecture([len(decision.options) - 1 for decision in SPACE.decisions])
    state = search.controller.state_dict()
    for row, choice in enumerate(best.choices):
        state["policy"]["logits_LK"][row, choice] = 50.0
    search.controller.load_state_dict(state)
    return best


@pytest.mark.parametrize(("explore", "warmup"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.3, 0.0)])
def test_share_of_uniformly_sampled_training_steps(tmp_path: Path, explore: float, warmup: float) -> None:
    steps = 300
    config = SearchConfig(epochs=1, explore=explore, warmup=warmup, updates=0)
    search = search_of(tmp_path, config, PlantedWeights((steps,)), IndependentConfig())
    certain = concentrated(search)
    for step in range(steps):
        search.train_weights(0, step)
    drawn = [architectures[0] for _, _, _, architectures in calls_of(search)]
    uniform = sum(architecture != certain for architecture in drawn)
    expected = 1.0 if warmup else explore
    chance = expected * (1 - 1 / SPACE.count())  # a uniform sample may be the certain one
    assert stats.binomtest(uniform, steps, chance).pvalue > 1e-4 if 0 < chance < 1 else uniform == 0
    if expected == 1.0:  # every option of every decision alike
        for row, decision in enumerate(SPACE.decisions):
            counts = Counter(architecture.choices[row] for architecture in drawn)
            observed = [counts[option] for option in range(len(decision.options))]
            assert len(observed) == 1 or stats.chisquare(observed).pvalue > 1e-4


@pytest.mark.parametrize("same", [True, False])
def test_proposals_share_a_validation_minibatch_or_have_one_each(tmp_path: Path, same: bool) -> None:
    config = SearchConfig(epochs=2, updates=3, proposals=4, same_minibatch=same)
    search = run(tmp_path, search_of(tmp_path, config))
    rewarded = [(draw, len(drawn)) for kind, _, draw, drawn in calls_of(search) if kind == "rewards"]
    assert rewarded == ([(update, 4) for update in range(6)] if same else [(draw, 1) for draw in range(24)])


def test_same_seed_same_search_and_another_seed_another(tmp_path: Path) -> None:
    config = SearchConfig(epochs=2, updates=3, proposals=4)

    def drawn(name: str, seed: int) -> list[Call]:
        return calls_of(run(tmp_path / name, search_of(tmp_path / name, config, seed=seed)))

    assert drawn("a", 0) == drawn("b", 0)
    assert drawn("a2", 0) != drawn("c", 1)


def test_planted_best_architecture_is_found(tmp_path: Path) -> None:
    config = SearchConfig(epochs=4, updates=100, proposals=8, checkpoint_every=10_000)
    search = run(tmp_path, search_of(tmp_path, config, controller=IndependentConfig()))
    best = max(SPACE.enumerate(), key=worth)
    assert search.controller.mode() == best.choices
    records = read_jsonl(tmp_path / "archive.jsonl")
    late = [record["reward"] for record in records[-100:]]
    assert sum(late) / len(late) > 0.9 * worth(best)


def test_archive_has_every_rewarded_architecture_with_its_reward(tmp_path: Path) -> None:
    config = tiny.config(tiny.write_text(tmp_path / "text"))
    weights = config.shared_weights()
    search = search_of(tmp_path, replace(config.search, same_minibatch=False), weights, IndependentConfig())
    rewarded: list[tuple[tuple[int, ...], float]] = []
    measure = weights.rewards

    def rewards(architectures: Sequence[Architecture], purpose: str, draw: int) -> Tensor:
        rewards_N = measure(architectures, purpose, draw)
        assert torch.equal(rewards_N, measure(architectures, purpose, draw))  # rewarding changes nothing
        if purpose == "controller":  # not the estimate
            rewarded.extend((a.choices, r) for a, r in zip(architectures, rewards_N.tolist(), strict=True))
        return rewards_N

    weights.rewards = rewards
    run(tmp_path, search)
    archive = read_jsonl(tmp_path / "archive.jsonl")
    assert [(tuple(record["choices"]), record["reward"]) for record in archive] == rewarded
    assert len(archive) == config.search.updates * config.search.proposals
    assert {record["epoch"] for record in archive} == {1}  # the first epoch is the warm-up
    last = archive[-config.search.proposals :]  # the weights have not moved since
    first_draw = (2 * config.search.updates - 1) * config.search.proposals
    for draw, record in enumerate(last, start=first_draw):
        again = measure([weights.space.architecture(record["choices"])], "controller", draw)
        assert again.item() == record["reward"]


def test_metrics_are_means_over_the_training_steps_of_a_record(tmp_path: Path) -> None:
    run(tmp_path, search_of(tmp_path, SearchConfig(epochs=1, updates=2, log_every=4), PlantedWeights((10,))))
    records = read_jsonl(tmp_path / "metrics.jsonl")
    weights = [(record["step"], record["loss"]) for record in records if record["stage"] == "search/weights"]
    assert weights == [(4, 1.5), (8, 5.5), (10, 8.5)]
    assert [record["step"] for record in records if record["stage"] == "search/controller"] == [11, 12]


def test_stopped_after_any_step_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    config = tiny.config(tiny.write_text(tmp_path / "text"))

    def search_in(folder: Path) -> Search:
        return search_of(folder, config.search, config.shared_weights(), config.controller)

    def outcome(folder: Path) -> tuple[Any, ...]:
        logs = [tiny.without_times(folder / name) for name in ("metrics.jsonl", "archive.jsonl")]
        return tiny.newest_checkpoint(folder / "checkpoints"), *logs

    total = run(tmp_path / "whole", search_in(tmp_path / "whole")).total_steps()
    expected = outcome(tmp_path / "whole")
    assert total == 2 * 10 + 4
    for stop_after in (1, 2, 5, 9, 10, 11, 19, 20, 21, 23):  # about checkpoints and the ends of phases
        folder = tmp_path / f"stopped-{stop_after}"
        search, stop = search_in(folder), StopRequest()
        do_step = search.step

        def step(
            place: Place,
            following: Place,
            number: int,
            do: Any = do_step,
            stop: Any = stop,
            last: int = stop_after,
        ) -> dict[str, float]:
            if number == last:
                stop.request("test")
            result: dict[str, float] = do(place, following, number)
            return result

        search.step = step
        with pytest.raises(Stopped):
            go_on(search, folder, stop)
        assert CheckpointStore(folder / "checkpoints").steps()[-1] == stop_after
        run(folder, search_in(folder))
        assert outcome(folder) == expected, stop_after


def test_logs_of_a_start_without_a_checkpoint_are_dropped(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "archive.jsonl"):
        JsonlLog(tmp_path / name).append({"stale": 1})
    run(tmp_path, search_of(tmp_path, SearchConfig(epochs=1, updates=2)))
    records = [*read_jsonl(tmp_path / "metrics.jsonl"), *read_jsonl(tmp_path / "archive.jsonl")]
    assert records
    assert not any("stale" in record for record in records)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_reward_that_is_not_finite_stops_with_place_and_architecture(tmp_path: Path, bad: float) -> None:
    weights = PlantedWeights()
    measure = weights.rewards
    asked: list[Architecture] = []

    def rewards(architectures: Sequence[Architecture], purpose: str, draw: int) -> Tensor:
        rewards_N = measure(architectures, purpose, draw)
        if draw == 2:
            asked.extend(architectures)
            rewards_N[1] = bad
        return rewards_N

    weights.rewards = rewards
    config = SearchConfig(epochs=1, updates=4, proposals=2, checkpoint_every=2)
    search = search_of(tmp_path, config, weights, IndependentConfig())
    with pytest.raises(NotFiniteError) as caught:
        run(tmp_path, search)
    message = str(caught.value)
    assert "epoch 0, controller step 2" in message
    assert str(asked[1]) in message
    assert "lower learning rate" in message.lower()
    assert CheckpointStore(tmp_path / "checkpoints").steps() == [2, 4]


@pytest.mark.parametrize("name", ["epochs", "samples", "proposals", "keep_checkpoints", "log_every"])
def test_counts_below_one_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be at least 1, not 0$"):
        SearchConfig(**{name: 0})


@pytest.mark.parametrize("name", ["warmup", "explore"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_outside_0_to_1_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} must be at (least 0|most 1), not {value}$"):
        SearchConfig(**{name: value})
