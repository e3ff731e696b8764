"""Searches that are asked for a cost: amounts with units, the reward, what is rejected, what is picked and compared."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from enas.architecture import Architecture, Space
from enas.child_training import ChildTraining
from enas.cli import main
from enas.controllers import IndependentConfig
from enas.controllers.independent import IndependentPolicy
from enas.controllers.policy_gradient import PolicyGradientController
from enas.controllers.reinforce import leave_one_out_baseline, policy_gradient_loss
from enas.controllers.uniform import UniformController
from enas.costs.bounds import BoundedController, BoundedSampler, CostBounds, Range
from enas.costs.goals import CostGoals
from enas.costs.latency import Latency, LatencyConfig
from enas.costs.reward import FIRST, CostTarget, absolute_reward, spread
from enas.costs.settings import CostConfig, CostMeasure, LimitConfig, amount_of, asked, said
from enas.errors import ConfigError, RunFolderError
from enas.evidence.compare import CompareConfig, compare_run
from enas.evidence.variants import with_settings
from enas.executors.local import LocalExecutor
from enas.recipes import recipe
from enas.report.page import sections
from enas.report.page_numbers import numbers_of
from enas.retrain import Network, random_architectures
from enas.run import Run
from enas.run_records import CostRecord
from enas.runs.network import NetworkConfig
from enas.runtime.files import read_json, read_jsonl, write_json
from enas.runtime.seeding import generator
from enas.samplers import Uniform
from enas.shared_weights import SharedWeights
from enas.spaces.macro.space import MacroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from enas.stages import ALL_STAGES, execute, proposing
from tests import own_network, tiny
from tests.test_cli import refusal
from tests.test_compare_command import InThisProcess
from tests.test_image_runs import interrupt
from tests.test_network_runs import config as network_config

# ---- amounts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "measure", "amount"),
    [
        ("5ms", "latency", 5.0),
        ("1.5s", "latency", 1500.0),
        ("250us", "latency", 0.25),
        ("500k", "parameters", 500_000),
        ("500000", "parameters", 500_000),
        ("2 M", "multiply_adds", 2_000_000),
        ("64MiB", "activation_bytes", 64 * 2**20),
        ("1.5kB", "activation_bytes", 1500),
    ],
)
def test_an_amount_is_a_number_with_a_unit(text: str, measure: CostMeasure, amount: float) -> None:
    assert amount_of("it", text, measure) == amount


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            "--limit.latency 5",
            "--limit.latency must be a number above 0 with one of the units us, ms, s, not '5'",
        ),
        ("--limit.latency 5h", "with one of the units us, ms, s, not '5h'"),
        (
            "--limit.parameters 5ms",
            "--limit.parameters must be a number above 0 with none or one of the units k, M, G",
        ),
        ("--limit.activation-bytes 64", "one of the units B, kB, MB, GB, KiB, MiB, GiB, not '64'"),
        ("--limit.parameters 0", "must be a number above 0"),
        ("--limit.parameters many", "not 'many'"),
        (
            "--cost.measure latency --cost.target 5",
            "--cost.target must be a number above 0 with one of the units us",
        ),
        ("--cost.measure parameters", "give both, or none"),
        ("--cost.target 5ms", "give both, or none"),
        ("--cost.measure parameters --cost.target 5k --cost.weight -1", "--cost.weight must be at least 0"),
        ("--cost.measure watts --cost.target 5", "--cost.measure must be one of"),
    ],
)
def test_an_amount_that_means_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: str, says: str
) -> None:
    assert says in refusal(capsys, "run", "micro-quick", *flags.split(), "--run", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_settings_that_are_only_right_together_are_set_together() -> None:
    made = with_settings(
        tiny.image_config("micro"), {"cost.target": "5k", "cost.measure": "parameters", "seed": 7}
    )
    assert (made.cost, made.seed) == (CostConfig("parameters", "5k"), 7)
    assert asked(made.cost, LimitConfig(latency="5ms")) == "5,000 parameters within 10 %, at most 5 ms"
    assert said(3 * 2**19, "activation_bytes") == "1.5 MiB of activations"


# ---- the reward --------------------------------------------------------------------------------------------------------

SPACE = RecurrentSpace(nodes=2)
"""4 · 4 · 1 architectures."""


def sum_of_choices(measure: CostMeasure, architecture: Architecture) -> float:
    """A cost that is known."""
    return 1.0 + sum(architecture.choices)


def test_the_reward_is_tunas_absolute_one() -> None:
    quality_N, cost_N = torch.tensor([0.5, 0.5, 0.8]), torch.tensor([10.0, 5.0, 25.0])
    found = absolute_reward(quality_N, cost_N, target=10.0, weight=0.07)
    assert found.tolist() == pytest.approx([0.5, 0.5 - 0.035, 0.8 - 0.07 * 1.5])


def test_the_weight_makes_a_tenth_off_the_target_as_much_as_the_spread_of_the_first_rewards() -> None:
    target = CostTarget(CostConfig("parameters", "10"), sum_of_choices)
    architectures = list(SPACE.enumerate())[:2]
    (low, high) = (sum_of_choices("parameters", one) for one in architectures)
    reward_N, log = target.rewarded(architectures, torch.tensor([0.2, 0.6]))
    # Of 0.2 and 0.6 the standard deviation is √(0.04 + 0.04) = 0.2828.
    assert log["cost_weight"] == pytest.approx(2.8284271)
    assert log["cost"] == (low + high) / 2
    expected = [0.2 - 2.8284271 * abs(low / 10 - 1), 0.6 - 2.8284271 * abs(high / 10 - 1)]
    assert reward_N.tolist() == pytest.approx(expected)
    _, log = target.rewarded(architectures, torch.tensor([5.0, 5.0]))  # another minibatch, other rewards
    assert log["cost_weight"] == pytest.approx(10 * math.sqrt(0.08 / 2))
    while sum(map(len, target.updates)) < FIRST:
        target.rewarded(architectures, torch.tensor([0.0, 1.0]))
    before = target.weight
    target.rewarded(architectures, torch.tensor([0.0, 1000.0]))
    assert target.weight == before
    again = CostTarget(CostConfig("parameters", "10"), sum_of_choices)
    again.load_state_dict(target.state_dict())
    assert again.weight == before


def test_a_weight_that_is_given_stays_and_rewards_that_are_alike_leave_the_cost_alone() -> None:
    architectures = list(SPACE.enumerate())[:2]
    given = CostTarget(CostConfig("parameters", "10", weight=0.5), sum_of_choices)
    assert given.rewarded(architectures, torch.tensor([0.2, 0.6]))[1]["cost_weight"] == 0.5
    alike = CostTarget(CostConfig("parameters", "10"), sum_of_choices)
    assert alike.rewarded(architectures, torch.tensor([0.2, 0.2]))[1]["cost_weight"] == 1.0


def test_the_spread_of_single_proposals_is_that_of_all_updates() -> None:
    assert spread([[1.0], [3.0]]) == pytest.approx(math.sqrt(2))
    assert spread([[1.0, 3.0], [11.0, 13.0]]) == pytest.approx(math.sqrt(2))
    assert spread([[1.0]]) == spread([]) == 0


# ---- rejection ---------------------------------------------------------------------------------------------------------


def bounds_of(most: float, low: float = 0.0) -> CostBounds:
    return CostBounds({"parameters": Range(low, most)}, sum_of_choices)


def test_what_is_accepted_is_what_is_drawn_and_within_the_bounds() -> None:
    """Draw by draw: the same random numbers, without those that are rejected."""
    bounds = bounds_of(3)
    found = BoundedController(UniformController(SPACE), bounds).propose(40, draw := generator(0, "x"))
    assert all(map(bounds.hold, found.architectures(SPACE)))
    assert len(found) == 40
    assert bounds.drawn - bounds.rejected == 40
    again, kept = generator(0, "x"), []
    while len(kept) < 40:
        kept += filter(
            bounds.hold, UniformController(SPACE).propose(40 - len(kept), again).architectures(SPACE)
        )
    assert found.architectures(SPACE) == kept
    assert draw.get_state().equal(again.get_state())


@pytest.mark.parametrize("space", [SPACE, MacroSpace(2)])
def test_accepted_ones_are_uniform_among_all_within_the_bounds(space: Space) -> None:
    bounds = bounds_of(6, low=2)
    allowed = list(filter(bounds.hold, space.enumerate()))
    assert 5 < len(allowed) < space.count()
    sampler = BoundedSampler(Uniform(space, 0), bounds)
    counts = Counter(sampler.sample(40 * len(allowed), generator(0, "x")))
    assert set(counts) <= set(allowed)
    assert stats.chisquare([counts[one] for one in allowed]).pvalue > 0.01


def test_accepted_proposals_have_the_policys_probabilities_given_the_bounds() -> None:
    policy = IndependentPolicy(SPACE)
    with torch.no_grad():
        policy.logits_LK.copy_(torch.randn(policy.logits_LK.shape, generator=generator(1, "logits")))
    bounds = bounds_of(5)
    allowed = list(filter(bounds.hold, SPACE.enumerate()))
    log_prob_N = policy.score(torch.tensor([one.choices for one in allowed])).log_prob_N.double()
    controller = BoundedController(PolicyGradientController(policy, IndependentConfig().reinforce), bounds)
    with torch.no_grad():
        counts = Counter(controller.propose(3000, generator(0, "x")).architectures(SPACE))
    expected = (3000 * log_prob_N.softmax(0)).tolist()
    assert stats.chisquare([counts[one] for one in allowed], expected).pvalue > 0.01


def test_the_gradient_of_accepted_proposals_is_that_of_the_policy_within_the_bounds() -> None:
    """The expectation over all pairs of accepted proposals, against autograd of the exact expected reward."""
    policy = IndependentPolicy(SPACE)
    with torch.no_grad():
        policy.logits_LK.copy_(torch.randn(policy.logits_LK.shape, generator=generator(1, "logits")))
    allowed = [one for one in SPACE.enumerate() if bounds_of(5).hold(one)]
    reward_N = torch.rand(len(allowed), generator=generator(2, "rewards"), dtype=torch.float64)

    def probabilities() -> tuple[Tensor, Tensor]:
        log_prob_N = policy.score(torch.tensor([one.choices for one in allowed])).log_prob_N.double()
        return log_prob_N, log_prob_N.softmax(0)

    log_prob_N, given_N = probabilities()
    (exact_LK,) = torch.autograd.grad((given_N * reward_N).sum(), policy.logits_LK)
    log_prob_N, given_N = probabilities()
    loss = torch.zeros((), dtype=torch.float64)
    for pair in itertools.product(range(len(allowed)), repeat=2):
        two = list(pair)
        advantage_2 = reward_N[two] - leave_one_out_baseline(reward_N[two])
        loss = loss + given_N[two].prod().detach() * policy_gradient_loss(log_prob_N[two], advantage_2)
    (estimated_LK,) = torch.autograd.grad(-loss, policy.logits_LK)
    assert torch.allclose(estimated_LK, exact_LK, atol=1e-6)


def test_a_mode_that_is_out_of_bounds_gives_way_to_the_most_probable_proposal() -> None:
    policy = IndependentPolicy(SPACE)
    with torch.no_grad():
        for logits_K in policy.logits_LK:
            logits_K[-1] += 1.0
    inner = PolicyGradientController(policy, IndependentConfig().reinforce)
    assert not bounds_of(5).hold(SPACE.architecture(inner.mode()))
    mode = BoundedController(inner, bounds_of(5)).mode()
    assert bounds_of(5).hold(SPACE.architecture(mode))
    assert BoundedController(inner, bounds_of(100)).mode() == inner.mode()


def test_bounds_that_nothing_keeps_say_what_was_found() -> None:
    bounds = bounds_of(0.5)
    with pytest.raises(
        ConfigError, match="at most 0 parameters are asked for, and the smallest found has 1 parameters"
    ):
        BoundedController(UniformController(SPACE), bounds).propose(1, generator(0, "x"))
    with pytest.raises(ConfigError, match="only 0 were found"):
        random_architectures(SPACE, 3, 0, set(), bounds.hold)


def test_of_several_bounds_the_one_that_presses_is_told() -> None:
    bounds = CostBounds({"parameters": Range(0, 5), "multiply_adds": Range(0, 1000)}, sum_of_choices)
    found = list(SPACE.enumerate())
    missing = sum(not bounds_of(5).hold(one) for one in found)
    assert 0 < missing < len(found)
    said = bounds.missed(found)
    assert f" parameters ({missing:,} miss it); at most 1,000 multiply-adds are asked for" in said
    assert said.endswith(" multiply-adds (0 miss it). Ask for what there is")
    assert "miss it" not in bounds_of(5).missed(found)


# ---- whole runs --------------------------------------------------------------------------------------------------------

ASKS: dict[str, object] = {
    "limit.parameters": "900",
    "cost.measure": "parameters",
    "cost.target": "760",
    "search.explore": 0.5,
    "search.warmup": 0.0,
    "verify.trainings": 4,
    "verify.rounds": 1,
    "verify.epochs": 1,
    "derive.shortlist_order": "corrected",
    "retrain.random": 2,
}
"""Children have 610 to 978 parameters; those with 770 are within 5 % of the target, those with 698 within 10 %."""


def asking() -> NetworkConfig:
    """The settings of a run whose recipe any process can find."""
    made = with_settings(recipe(own_network.__file__), {**own_network.SMALL, **ASKS})
    assert isinstance(made, NetworkConfig)
    return made


def parameters_of(architecture: Architecture) -> int:
    """Of a child, counted one by one."""
    return sum(p.numel() for p in network_config().model(Network("found", architecture, 0)).parameters())


class Seen:
    """What a search has drawn."""

    def __init__(self) -> None:
        self.trained: list[Architecture] = []
        self.rewarded: list[tuple[str, Architecture]] = []

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        train_step, rewards = SharedWeights.train_step, SharedWeights.rewards

        def training(
            weights: SharedWeights, epoch: int, step: int, architectures: Sequence[Architecture]
        ) -> dict[str, float]:
            self.trained += architectures
            return train_step(weights, epoch, step, architectures)

        def rewarding(
            weights: SharedWeights, architectures: Sequence[Architecture], purpose: str, draw: int
        ) -> Tensor:
            self.rewarded += [(purpose, one) for one in architectures]
            return rewards(weights, architectures, purpose, draw)

        patch.setattr(SharedWeights, "train_step", training)
        patch.setattr(SharedWeights, "rewards", rewarding)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A run that is asked for a cost and that nobody interrupted, and what it has drawn."""
    folder, seen = tmp_path_factory.mktemp("runs") / "run", Seen()
    with pytest.MonkeyPatch.context() as patch:
        seen.watch(patch)
        execute(Run.create(folder, asking(), ALL_STAGES), ALL_STAGES)
    return folder, seen


def test_all_that_is_drawn_keeps_the_limit(whole: tuple[Path, Seen]) -> None:
    folder, seen = whole
    purposes = {purpose for purpose, _ in seen.rewarded}
    assert {"controller", "verification", "percentile", "derive"} <= purposes
    drawn = [*seen.trained, *(one for purpose, one in seen.rewarded if purpose != "estimate")]
    assert max(map(parameters_of, set(drawn))) <= 900
    space = network_config().searched_space()
    archived = [space.architecture(record["choices"]) for record in read_jsonl(folder / "archive.jsonl")]
    verified = [path.name for path in (folder / "verify").iterdir()]
    assert len(verified) == 4
    assert max(map(parameters_of, archived)) <= 900


def test_what_is_rejected_is_logged_and_said(
    whole: tuple[Path, Seen], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = whole
    record = read_json(folder / "search.json")
    log = read_jsonl(folder / "metrics.jsonl")
    shares = [one["rejected"] for one in log if one["stage"] in ("search/weights", "search/controller")]
    assert 0 < record["rejected"] < record["drawn"]
    assert 0 < max(shares) <= 1
    assert all(share >= 0 for share in shares)
    rewarded = [one for one in log if one["stage"] == "search/controller"]
    assert all(610 <= one["cost"] <= 900 for one in rewarded)
    assert all(one["cost_weight"] > 0 for one in rewarded)


def test_what_is_picked_is_near_the_target_and_counted_again(whole: tuple[Path, Seen]) -> None:
    folder, _ = whole
    for candidate in read_json(folder / "candidates.json"):
        assert abs(cost_in(candidate) / 760 - 1) <= 0.05
    picked = read_json(folder / "architecture.json")
    cost = cost_in({"architecture": picked})
    assert read_json(folder / "derive.json")["costs"] == {
        "parameters": {"predicted": cost, "measured": cost, "target": 760.0, "limit": 900.0}
    }


def cost_in(record: Mapping[str, Any]) -> int:
    return parameters_of(network_config().searched_space().architecture(record["architecture"]["choices"]))


def test_random_networks_beside_it_cost_the_same(whole: tuple[Path, Seen]) -> None:
    random_ones = [one for one in Run.open(whole[0]).results() if one["role"] == "random"]
    assert len(random_ones) == 2
    assert all(abs(one["parameters"] / 760 - 1) <= 0.1 for one in random_ones)


@pytest.mark.parametrize(
    ("cls", "name", "call"),
    [
        *((SharedWeights, "train_step", call) for call in (2, 8)),
        *((SharedWeights, "rewards", call) for call in (3, 5, 8)),
        *((ChildTraining, "step", call) for call in (3, 30)),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(
    whole: tuple[Path, Seen], tmp_path: Path, cls: type, name: str, call: int
) -> None:
    run = Run.create(tmp_path / "run", asking(), ALL_STAGES)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, cls, name, call)
        with pytest.raises(KeyboardInterrupt):
            execute(run, ALL_STAGES)
    execute(Run.open(run.folder), ALL_STAGES)
    assert tiny.content(run.folder) == tiny.content(whole[0])


def test_a_search_that_a_limit_stops_goes_on_with_a_looser_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enas.costs.bounds.TRIES", 5)
    config = with_settings(recipe(own_network.__file__), {**own_network.SMALL, "limit.parameters": "700"})
    run = Run.create(tmp_path / "run", config, ("search",))
    with pytest.raises(ConfigError) as caught:
        execute(run, ("search",))
    every = [parameters_of(one) for one in config.searched_space().enumerate()]
    assert "at most 700 parameters are asked for, and the smallest found has 770 parameters" in str(
        caught.value
    )
    kept = sum(count <= 700 for count in every)
    assert (
        f"Of {len(every)} random architectures {kept} keep the limits. Raise them in {run.run_file}: "
        in str(caught.value)
    )
    assert max(run.search_checkpoints().steps()) == 12
    record = read_json(run.run_file)
    record["settings"]["limit"]["parameters"] = "900"
    write_json(run.run_file, record)
    again = Run.open(run.folder)
    execute(again, ("search",))
    assert again.search_record() is not None
    record["settings"]["limit"]["parameters"] = "980"
    write_json(run.run_file, record)
    with pytest.raises(
        RunFolderError, match=r"limit\.parameters is '980' in config\.json, but .* made with '900'"
    ):
        Run.open(run.folder).search_record()


def test_without_them_nothing_is_bounded_or_logged(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", network_config(), ("search", "derive"))
    execute(run, ("search", "derive"))
    assert (run.goals.limits, run.goals.target(), run.goals.around(0.1)) == (None, None, None)
    assert isinstance(run.search_controller(), PolicyGradientController)
    logged = tiny.keys(list(read_jsonl(run.folder / "metrics.jsonl")))
    assert not {"rejected", "cost", "cost_weight"} & logged
    assert not {"rejected", "drawn"} & set(read_json(run.folder / "search.json"))
    assert "costs" not in read_json(run.folder / "derive.json")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            "--cost.measure parameters --cost.target 100",
            "90 parameters to 110 parameters are asked for, and the smallest found has",
        ),
        ("--limit.multiply-adds 1k", "at most 1,000 multiply-adds are asked for, and the cheapest found has"),
    ],
)
def test_what_nothing_costs_is_refused_before_there_is_a_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, says: str
) -> None:
    monkeypatch.setattr("enas.costs.goals.CHECKED", 5)
    given = tiny.image_flags("micro", *flags.split())
    assert main(["run", "micro-quick", *given, "--run", str(tmp_path / "run")]) == 2
    said_last = capsys.readouterr().err.splitlines()[-1]
    assert said_last.startswith("enas: none of 5 architectures")
    assert says in said_last
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_policy_far_from_the_target_gives_way_to_random_ones_near_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("enas.costs.bounds.TRIES", 40)
    policy, bounds = IndependentPolicy(SPACE), bounds_of(5)
    controller = PolicyGradientController(policy, IndependentConfig().reinforce)
    found = proposing(controller, bounds, 4, 0)
    assert isinstance(found, BoundedController)
    assert found.inner is controller
    with torch.no_grad():
        policy.logits_LK[:, -1] += 50.0  # the dearest of all
    found = proposing(controller, bounds, 4, 0)
    assert "Random architectures stand in for it" in capsys.readouterr().err
    assert all(map(bounds.hold, found.propose(4, generator(0, "x")).architectures(SPACE)))
    assert proposing(controller, None, 4, 0) is controller


def test_compare_draws_random_ones_of_the_same_cost_and_has_the_front(
    whole: tuple[Path, Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())
    folder, _ = whole
    options = CompareConfig(seeds=2, samples=3, rivals="shared-random,most-parameters", epochs=1)
    found = compare_run(Run.open(folder), options)
    assert found.same_cost == "760 parameters within 10 %, at most 900 parameters"
    assert found.same_cost in str(found)
    record = read_json(folder / "compare" / "comparison.json")
    assert found.front is not None
    assert record["front"]["measure"] == "parameters"
    assert {method for _, _, method in found.front.networks} == {s.method for s in found.summaries} - {
        "random-search"
    }
    assert all(abs(cost / 760 - 1) <= 0.1 for cost, _, _ in found.front.networks)
    for cost, score in found.front.best:
        assert not any(c <= cost and s > score for c, s, _ in found.front.networks)
    assert [score for _, score in found.front.best] == sorted({score for _, score in found.front.best})


# ---- latencies ---------------------------------------------------------------------------------------------------------

IN_TIME: dict[str, object] = {
    "cost.measure": "latency",
    "cost.target": "7.6ms",
    "limit.latency": "9ms",
    "latency.samples": 20,
    "retrain.random": 2,
}
"""A thousand parameters take 10 ms, as far as the tests know."""


class FakeClock:
    """Stands in for the measurement: a pass takes a hundredth of a millisecond a parameter, some networks more."""

    def __init__(self) -> None:
        self.measured: list[int] = []
        """Networks that were measured together."""
        self.slower: Mapping[int, float] = {}
        """How many times as long networks of so many parameters take."""

    def __call__(
        self, passes: Sequence[Any], config: LatencyConfig, device: torch.device, batch: int, *args: object
    ) -> list[Latency]:
        self.measured.append(len(passes))
        times = [self.ms(sum(p.numel() for p in one.func.parameters())) for one in passes]
        return [Latency(ms, ms, ms, 9, torch.get_num_threads(), batch, str(device)) for ms in times]

    def ms(self, parameters: int) -> float:
        return parameters / 100 * self.slower.get(parameters, 1.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr("enas.costs.measuring.measure_in_turn", made)
    return made


def in_time(**more: object) -> NetworkConfig:
    made = with_settings(recipe(own_network.__file__), {**own_network.SMALL, **IN_TIME, **more})
    assert isinstance(made, NetworkConfig)
    return made


def test_a_latency_is_predicted_in_the_search_and_measured_for_what_may_be_picked(
    clock: FakeClock, tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "run", in_time(), ALL_STAGES)
    assert clock.measured == []
    execute(run, ALL_STAGES)
    assert clock.measured[0] == 20  # what the model is fitted to
    model = (run.folder / "latency.json").read_bytes()
    found = read_json(run.folder / "candidates.json")
    assert all(abs(one["latency_ms"] / 7.6 - 1) <= 0.05 for one in found)
    (record,) = read_json(run.folder / "derive.json")["costs"].values()
    assert record["measured"] == pytest.approx(
        cost_in({"architecture": read_json(run.folder / "architecture.json")}) / 100
    )
    assert record["predicted"] == pytest.approx(record["measured"], rel=0.1)
    assert (record["target"], record["limit"]) == (7.6, 9.0)
    again = Run.open(run.folder)
    assert all(again.goals.paid(one)["latency"] == one["parameters"] / 100 for one in again.results())
    count = len(clock.measured)
    execute(again, ALL_STAGES)
    again.networks()
    assert len(clock.measured) == count
    assert (run.folder / "latency.json").read_bytes() == model


@pytest.mark.parametrize("changed", [{"threads": 2}, {"latency.batch": 4}])
def test_latencies_of_other_threads_or_another_batch_are_measured_again(
    clock: FakeClock, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, int]
) -> None:
    before = in_time(threads=1)
    first, second = random_architectures(before.searched_space(), 2, 0, set())
    goals = CostGoals(before, tmp_path)
    goals.measured([first, second])
    assert (goals.measured([first]), clock.measured) == ([goals.kept[first.id].median_ms], [2])
    later = CostGoals(in_time(**{"threads": 1, **changed}), tmp_path)
    later.measured([first])
    assert clock.measured == [2, 1]
    (kept,) = later.kept.values()
    assert (kept.threads, kept.batch) == (changed.get("threads", 1), changed.get("latency.batch", kept.batch))
    assert "2 of 2 have another device, batch or threads: dropped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cls", "name", "call"),
    [(SharedWeights, "train_step", 3), (SharedWeights, "rewards", 6), (ChildTraining, "step", 3)],
)
def test_a_search_with_a_latency_resumes_with_the_model_that_it_has(
    clock: FakeClock, tmp_path: Path, cls: type, name: str, call: int
) -> None:
    unlimited = in_time(**{"limit.latency": None})
    whole = Run.create(tmp_path / "whole", unlimited, ("search", "derive"))
    execute(whole, ("search", "derive"))
    stopped = Run.create(tmp_path / "run", unlimited, ("search", "derive"))
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, cls, name, call)
        with pytest.raises(KeyboardInterrupt):
            execute(stopped, ("search", "derive"))
    clock.slower = dict.fromkeys(range(2000), 3.0)  # the machine has become slow
    execute(Run.open(stopped.folder), ("search", "derive"))
    found, expected = tiny.content(stopped.folder), tiny.content(whole.folder)
    for file in ("latency.json", "metrics.jsonl", "archive.jsonl", "checkpoints"):
        assert found[file] == expected[file]
    if name == "step":  # what may be picked was measured before the trainings
        assert found == expected


def test_what_is_slower_than_predicted_is_not_picked(clock: FakeClock, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", in_time(), ("search", "derive"))
    execute(run, ("search",))
    clock.slower = {770: 1.3}  # all that is predicted to be near the target
    with pytest.raises(
        ConfigError, match=r"the latency of none of .* is at most 9 ms, .* the fastest takes 10.01 ms"
    ):
        execute(run, ("derive",))
    (run.folder / "latencies.json").unlink()
    clock.slower = {770: 1.15}
    execute(run, ("derive",))
    (record,) = read_json(run.folder / "derive.json")["costs"].values()
    assert record["measured"] == pytest.approx(8.855)


def test_a_latency_that_nothing_has_says_the_fastest_found(
    clock: FakeClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        word
        for name, value in {**IN_TIME, "cost.target": "2ms"}.items()
        for word in (f"--{name}", str(value))
    ]
    argv = ["run", own_network.__file__, *own_network.FLAGS, *flags, "--run", str(tmp_path / "run")]
    assert main([argv[0], argv[1], *pairs_once(argv[2:])]) == 2
    said_last = capsys.readouterr().err.splitlines()[-1]
    assert "1.8 ms to 2.2 ms are asked for, and the fastest found has 6." in said_last


def pairs_once(words: Sequence[str]) -> list[str]:
    """Each flag once, with its last value."""
    return [word for pair in dict(zip(words[::2], words[1::2], strict=True)).items() for word in pair]


def test_compare_measures_nothing_twice_and_shares_the_model(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())
    run = Run.create(tmp_path / "run", in_time(), ("search", "derive"))
    execute(run, ("search", "derive"))
    found = compare_run(run, CompareConfig(seeds=2, samples=3, rivals="none", epochs=1))
    assert clock.measured.count(20) == 1
    assert found.front is not None
    assert found.front.measure == "latency"
    assert all(abs(cost / 7.6 - 1) <= 0.1 for cost, _, _ in found.front.networks)
    numbers = numbers_of(run)
    assert {one.latency_ms for one in numbers.of_part("compare")} == {
        cost for cost, _, _ in found.front.networks
    }
    (costs,) = [section for name, section in sections(numbers, 100) if name == "costs"]
    assert set(costs.numbers["asked"]) == {"latency"}
    assert f"What was picked has {said(record_of(run).measured, 'latency')}" in " ".join(costs.words)


def record_of(run: Run) -> CostRecord:
    """What derive.json says of the latency."""
    derived = run.derive_record()
    assert derived is not None
    return derived.costs["latency"]
