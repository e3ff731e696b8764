"""Search health: every figure equals its definition worked out by enumeration, and a collapse is reported."""

import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from scipy import stats
from torch import Tensor

from enas.architecture import Architecture, Decision, Graph, Space
from enas.controllers import (
    ControllerConfig,
    IndependentConfig,
    LSTMConfig,
    ReinforceConfig,
    UniformConfig,
    build_controller,
)
from enas.controllers.build import lstm_policy
from enas.controllers.categorical import uniform_logits
from enas.controllers.independent import IndependentPolicy
from enas.errors import ConfigError
from enas.health import (
    attainable_probabilities,
    collapsed,
    gradient_power,
    parameter_free,
    relative_probabilities,
)
from enas.phases import Search, SearchConfig
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import read_jsonl
from enas.runtime.stop import Stopped, StopRequest
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from tests import tiny
from tests.test_search import PlantedWeights, go_on, search_of
from tests.tiny import published

AUTHORS_MICRO = published("micro-authors")


@dataclass(frozen=True)
class Toy(Space):
    """Any numbers of options; the first `free` options of a decision are called parameter-free."""

    name: ClassVar[str] = "toy"
    options: tuple[int, ...] = (2, 3)
    free: int = 0

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(
            Decision(str(i), "operation", i, tuple(map(str, range(n)))) for i, n in enumerate(self.options)
        )

    def parameter_free(self, decision: Decision) -> tuple[str, ...]:
        return decision.options[: self.free]

    def format(self, architecture: Architecture) -> str:
        return " ".join(map(str, architecture.choices))

    def parse(self, text: str) -> Architecture:
        return self.architecture([int(word) for word in text.split()])

    def graph(self, architecture: Architecture) -> Graph:
        return Graph(self.name, (), ())

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "options": list(self.options), "free": self.free}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- gradient signal and noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4])
def test_signal_and_noise_are_unbiased_over_all_updates_there_can_be(n: int) -> None:
    space = Toy((2, 3) if n < 4 else (3,))
    logits_LK = uniform_logits(space).double() + torch.randn(
        uniform_logits(space).shape, generator=seeded(n), dtype=torch.float64
    )
    architectures = list(space.enumerate())
    choices_AL = torch.tensor([a.choices for a in architectures])
    probability_A = logits_LK.log_softmax(-1).expand(len(architectures), -1, -1)
    probability_A = probability_A.gather(-1, choices_AL[..., None])[..., 0].sum(1).exp()
    reward_A = torch.randn(len(architectures), generator=seeded(n + 10), dtype=torch.float64) + 3
    taken_ALK = torch.nn.functional.one_hot(choices_AL, logits_LK.shape[1])
    score_AD = (taken_ALK - logits_LK.softmax(-1)).flatten(1)
    gradient_D = ((probability_A * reward_A)[:, None] * score_AD).sum(0)

    expected = torch.zeros(2, dtype=torch.float64)
    variance, of_update = 0.0, torch.zeros_like(gradient_D)
    for picked in itertools.product(range(len(architectures)), repeat=n):
        chance = math.prod(float(probability_A[a]) for a in picked)
        picked_N = torch.tensor(picked)
        logits_NLK = logits_LK.expand(n, -1, -1)
        power = gradient_power(logits_NLK, choices_AL[picked_N], reward_A[picked_N])
        expected += chance * torch.tensor(power, dtype=torch.float64)
        others_N = (reward_A[picked_N].sum() - reward_A[picked_N]) / (n - 1)
        update_D = (score_AD[picked_N] * (reward_A[picked_N] - others_N)[:, None]).mean(0)
        of_update += chance * update_D
        variance += chance * float((update_D - gradient_D).square().sum())
    torch.testing.assert_close(of_update, gradient_D)
    assert expected[0].item() == pytest.approx(float(gradient_D.square().sum()))
    assert expected[1].item() == pytest.approx(variance)


def test_equal_rewards_have_neither_signal_nor_noise() -> None:
    choices_NL = torch.tensor([[0, 1], [1, 2], [1, 0]])
    power = gradient_power(uniform_logits(Toy()).expand(3, -1, -1), choices_NL, torch.full((3,), 0.1))
    assert power == (0.0, 0.0)


def test_noise_of_a_single_proposal_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 proposals, not 1"):
        gradient_power(
            uniform_logits(Toy()).expand(1, -1, -1), torch.zeros(1, 2, dtype=torch.int64), torch.ones(1)
        )


# ---- priors and caps ---------------------------------------------------------------------------------------------------


def test_relative_probabilities_are_of_options_that_exist() -> None:
    space = Toy((2, 3))
    p = [[0.25, 0.75, 0.0], [0.5, 0.3, 0.2]]
    logits_NLK = torch.tensor([p, [[0.5, 0.5, 0.0], [0.1, 0.3, 0.6]]]).log()
    smallest, largest = relative_probabilities(logits_NLK, uniform_logits(space))
    assert smallest == pytest.approx(0.3)
    assert largest == pytest.approx(1.8)


def test_attainable_probability_is_that_of_the_best_corner() -> None:
    low_LK, high_LK = (
        torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, -math.inf]]),
        torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, -math.inf]]),
    )
    found_LK = attainable_probabilities(low_LK, high_LK)
    for row, (low_K, high_K) in enumerate(zip(low_LK, high_LK, strict=True)):
        corners = torch.tensor(list(itertools.product(*zip(low_K.tolist(), high_K.tolist(), strict=True))))
        torch.testing.assert_close(found_LK[row].float(), corners.softmax(-1).amax(0))


@pytest.mark.parametrize(
    ("config", "space"),
    [
        (LSTMConfig(), RecurrentSpace(4)),
        (LSTMConfig(distance_prior=True, tanh_constant=2.25), RecurrentSpace(4, input_function="tanh")),
        (LSTMConfig(temperature=None, tanh_constant=1.5), MacroSpace(4)),
        (LSTMConfig(tanh_constant=1.1, operation_tanh_reduce=2.5), MicroSpace(2)),
    ],
)
def test_bounds_of_a_capped_policy_are_reached_by_huge_weights_and_never_passed(
    config: LSTMConfig, space: Space
) -> None:
    low_LK, high_LK = lstm_policy(space, config, seeded(0)).logit_bounds()
    lowest_LK = torch.full_like(low_LK, math.inf)
    highest_LK = torch.full_like(high_LK, -math.inf)
    for seed in range(40):
        policy = lstm_policy(space, replace(config, init_range=1000.0), seeded(seed))
        with torch.no_grad():
            logits_NLK = policy.logits(policy.sample(16, seeded(seed)).choices_NL)
        lowest_LK = torch.minimum(lowest_LK, logits_NLK.amin(0))
        highest_LK = torch.maximum(highest_LK, logits_NLK.amax(0))
    # A first node has no anchor but 0: its key is 0, and its logit may not reach both ends within these weights.
    exists_LK = uniform_logits(space) == 0
    assert bool((lowest_LK >= low_LK - 1e-4)[exists_LK].all())
    assert bool((highest_LK <= high_LK + 1e-4)[exists_LK].all())
    near_LK = (high_LK - highest_LK < 0.1) & (lowest_LK - low_LK < 0.1)
    assert near_LK[exists_LK].float().mean() > 0.8


def test_authors_prior_and_independent_logits_are_not_capped() -> None:
    space = MicroSpace(2)
    _, high_LK = lstm_policy(space, AUTHORS_MICRO, seeded(0)).logit_bounds()
    operations = torch.tensor([decision.kind == "operation" for decision in space.decisions])
    assert torch.equal(high_LK[:, 0].isinf(), operations)
    low_LK, high_LK = IndependentPolicy(space).logit_bounds()
    exists_LK = uniform_logits(space) == 0
    assert torch.equal(high_LK == math.inf, exists_LK)
    assert bool(low_LK.isneginf().all())
    assert bool((attainable_probabilities(low_LK, high_LK) == exists_LK).all())


@pytest.mark.parametrize(
    ("config", "attainable"),
    [
        (IndependentConfig(), 1.0),
        (LSTMConfig(), 1 / (1 + 3 * math.exp(-5))),  # four functions, logits in ± 2.5
        (LSTMConfig(tanh_constant=0.5), 1 / (1 + 3 * math.exp(-1))),
        (LSTMConfig(tanh_constant=None), 1.0),
    ],
)
def test_prior_of_a_policy(config: ControllerConfig, attainable: float) -> None:
    prior = build_controller(config, RecurrentSpace(4), 0).prior(seeded(1))
    assert prior["attainable"] == pytest.approx(attainable, rel=1e-6)
    if isinstance(config, IndependentConfig):
        assert (prior["initial_smallest"], prior["initial_largest"]) == pytest.approx((1, 1))
    else:
        assert 0.8 < prior["initial_smallest"] < 1 < prior["initial_largest"] < 1.2
    assert build_controller(UniformConfig(), RecurrentSpace(4), 0).prior(seeded(1)) == {}


def test_distance_prior_shows_in_the_initial_probabilities() -> None:
    space = RecurrentSpace(8)
    plain, leaning = (
        build_controller(LSTMConfig(distance_prior=on), space, 0).prior(seeded(1)) for on in (False, True)
    )
    assert leaning["initial_largest"] > 2 > plain["initial_largest"]
    assert leaning["initial_smallest"] < 0.1 < plain["initial_smallest"]
    assert leaning["attainable"] < plain["attainable"]


# ---- parameter-free options --------------------------------------------------------------------------------------------


def test_spaces_name_their_parameter_free_options() -> None:
    macro, micro, recurrent = MacroSpace(3), MicroSpace(2), RecurrentSpace(3)
    for space, kind, free in (
        (macro, "operation", ("avg3x3", "max3x3")),
        (micro, "operation", ("avg3x3", "max3x3", "identity")),
        (recurrent, "function", ()),  # every node has a matrix, whatever its function
    ):
        for decision in space.decisions:
            assert space.parameter_free(decision) == (free if decision.kind == kind else ())


@pytest.mark.parametrize("options", [(2, 3), (3, 4, 2, 3), (5, 5, 5)])
def test_chance_of_so_many_parameter_free_options_is_the_counted_share(options: tuple[int, ...]) -> None:
    space = Toy(options, free=2)
    everything = list(space.enumerate())
    taken = [sum(choice < 2 for choice in architecture.choices) for architecture in everything]
    for architecture, count in zip(everything, taken, strict=True):
        found = parameter_free(space, architecture.choices)
        assert found is not None
        assert (found.taken, found.asked) == (count, len(options))
        assert found.share == count / len(options)
        assert found.expected == pytest.approx(sum(taken) / len(taken))
        at_least = Fraction(sum(other >= count for other in taken), len(taken))
        assert found.chance == pytest.approx(float(at_least))


def test_alarm_needs_a_high_share_that_random_architectures_rarely_have() -> None:
    space = MicroSpace(3)  # 12 operations, three of five free

    def alarm(free: int) -> bool:
        left = iter([4] * free + [0] * (12 - free))
        choices = [next(left) if d.kind == "operation" else 0 for d in space.decisions]
        found = parameter_free(space, choices)
        assert found is not None
        return collapsed(found, 0.8)

    usual = stats.binom(12, 0.6)
    assert [alarm(free) for free in range(13)] == [
        free / 12 >= 0.8 and usual.sf(free - 1) < 0.05 for free in range(13)
    ]
    assert alarm(12)
    assert not alarm(10)
    lone = parameter_free(Toy((3, 3), free=2), [0, 0])
    assert lone is not None
    assert lone.share == 1
    assert not collapsed(lone, 0.8)  # nearly half of that space is like this


def test_space_without_parameter_free_options_has_no_share() -> None:
    assert parameter_free(RecurrentSpace(3), [0] * 5) is None


# ---- in a search -------------------------------------------------------------------------------------------------------


class ToyWeights(PlantedWeights):
    """Rewards parameter-free options: what collapses a policy."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def rewards(self, architectures: Any, purpose: str, draw: int) -> Tensor:
        self.calls.append(("rewards", purpose, draw, list(architectures)))
        free = [parameter_free(self.space, a.choices) for a in architectures]
        return torch.tensor([float(found.taken) if found else 0.0 for found in free])


def toy_search(folder: Path, config: SearchConfig, controller: ControllerConfig, space: Space) -> Search:
    return search_of(folder, config, ToyWeights(space), controller)


def run(folder: Path, search: Search, stop: StopRequest | None = None) -> None:
    go_on(search, folder, stop or StopRequest())


def records_of(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [record for record in read_jsonl(folder / "metrics.jsonl") if record["stage"] == stage]


def test_policy_made_to_collapse_raises_the_alarm_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = MicroSpace(3)
    config = SearchConfig(epochs=4, updates=60, proposals=8, percentile_every=2)
    run(tmp_path, toy_search(tmp_path, config, IndependentConfig(), space))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(said) == 1
    assert "12 of the 12 decisions" in said[0]
    assert "(a random architecture: 7.2)" in said[0]
    health = records_of(tmp_path, "search/health")
    assert [record["epoch"] for record in health] == [0, 1, 2, 3]
    assert health[-1]["collapsed"] == health[-1]["parameter_free"] == 1
    assert health[-1]["parameter_free_of_random"] == pytest.approx(0.6)
    assert ["percentile" in record for record in health] == [False, True, False, True]
    assert health[-1]["percentile"] > 0.9


def test_search_that_rewards_weights_raises_no_alarm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = MicroSpace(3)
    search = toy_search(tmp_path, SearchConfig(epochs=2, updates=60, proposals=8), IndependentConfig(), space)
    given = search.weights.rewards
    search.weights.rewards = lambda *arguments: -given(*arguments)
    run(tmp_path, search)
    assert "warning" not in capsys.readouterr().err
    assert records_of(tmp_path, "search/health")[-1]["collapsed"] == 0


def test_signal_to_noise_of_an_epoch_is_the_ratio_of_its_sums(tmp_path: Path) -> None:
    config = SearchConfig(epochs=2, updates=20, proposals=4)
    run(tmp_path, toy_search(tmp_path, config, IndependentConfig(), MicroSpace(2)))
    updates = records_of(tmp_path, "search/controller")
    for record in records_of(tmp_path, "search/health"):
        of_epoch = [update for update in updates if update["epoch"] == record["epoch"]]
        signal, noise = (sum(u[f"gradient_{part}"] for u in of_epoch) for part in ("signal", "noise"))
        assert record["gradient_snr"] == pytest.approx(signal / noise)
        assert record["gradient_snr"] > 0


def test_single_proposals_have_no_signal_to_noise_and_uniform_search_has_health_too(tmp_path: Path) -> None:
    for name, controller in (("lstm", published("micro-paper")), ("uniform", UniformConfig())):
        folder = tmp_path / name
        config = SearchConfig(epochs=1, updates=3, proposals=1, percentile_every=1)
        run(folder, toy_search(folder, config, controller, MicroSpace(2)))
        (health,) = records_of(folder, "search/health")
        assert "gradient_snr" not in health
        assert 0 <= health["percentile"] <= 1
        assert len(records_of(folder, "search/start")) == (name == "lstm")


def test_start_is_logged_and_said_where_options_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = SearchConfig(epochs=1, updates=1, proposals=2)
    for name, controller in (("even", IndependentConfig()), ("capped", published("micro-paper"))):
        folder = tmp_path / name
        run(folder, toy_search(folder, config, controller, MicroSpace(2)))
        (start,) = records_of(folder, "search/start")
        assert start["step"] == 0
        assert (start["attainable"] == 1) == (name == "even")
        said = capsys.readouterr().err
        assert (f"training can raise any of them to {start['attainable']:.2f}" in said) == (name == "capped")


# ---- the end of the updates by entropy ---------------------------------------------------------------------------------


def test_updates_end_at_the_entropy_and_the_weights_are_trained_on(tmp_path: Path) -> None:
    space = MicroSpace(2)
    free = SearchConfig(epochs=4, updates=40, proposals=8)
    slow = IndependentConfig(ReinforceConfig())
    run(tmp_path / "free", toy_search(tmp_path / "free", free, slow, space))
    shares = [r["entropy_share"] for r in records_of(tmp_path / "free", "search/controller")]
    stopped = next(i for i, share in enumerate(shares) if share <= 0.9)
    assert 40 < stopped < 120  # within an epoch that is neither the first nor the last

    search = toy_search(tmp_path / "early", replace(free, stop_entropy=0.9), slow, space)
    run(tmp_path / "early", search)
    updates = records_of(tmp_path / "early", "search/controller")
    assert [update["entropy_share"] for update in updates] == shares[: stopped + 1]
    assert search.updates_end == divmod(stopped, 40)
    assert isinstance(search.weights, ToyWeights)
    kinds = Counter((kind, epoch) for kind, epoch, _, _ in search.weights.calls if kind == "weights")
    assert kinds == {("weights", epoch): 3 for epoch in range(4)}
    assert search.total_steps() == 4 * 3 + stopped + 1
    newest = CheckpointStore(tmp_path / "early" / "checkpoints").load_newest()
    assert newest is not None
    assert newest[0] == search.total_steps()
    assert newest[1]["place"][0] == 4  # the search is at its end


def test_search_that_the_entropy_ends_at_its_very_end_is_finished(tmp_path: Path) -> None:
    config = SearchConfig(epochs=2, updates=3, proposals=2, warmup=0.5, stop_entropy=1.0)
    search = toy_search(tmp_path, config, IndependentConfig(), MicroSpace(2))
    run(tmp_path, search)
    updates = len(records_of(tmp_path, "search/controller"))
    assert updates < 3
    assert search.updates_end == (1, updates - 1)
    newest = CheckpointStore(tmp_path / "checkpoints").load_newest()
    assert newest is not None
    assert newest[1]["place"] == [2, "weights", 0]


def test_stopped_about_the_end_of_the_updates_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    config = SearchConfig(
        epochs=4,
        updates=10,
        proposals=8,
        stop_entropy=0.985,
        exploration="fair",
        warmup=0.25,
        explore=0.5,
        percentile_every=2,
    )
    space = MicroSpace(2)

    def outcome(folder: Path, search: Search) -> list[Any]:
        assert isinstance(search.weights, ToyWeights)
        logs = [read_jsonl(folder / name) for name in ("metrics.jsonl", "archive.jsonl")]
        return [
            json.dumps([{k: v for k, v in r.items() if k not in tiny.TIMES} for r in log]) for log in logs
        ]

    whole = toy_search(tmp_path / "whole", config, IndependentConfig(), space)
    run(tmp_path / "whole", whole)
    assert whole.updates_end is not None
    last = next(
        r["step"]
        for r in reversed(read_jsonl(tmp_path / "whole" / "metrics.jsonl"))
        if r["stage"] == "search/controller"
    )
    assert 0 < whole.updates_end[1] < 9
    assert isinstance(whole.weights, ToyWeights)
    expected = outcome(tmp_path / "whole", whole)
    for moment in (1, last - 1, last, last + 1, last + 2):
        folder = tmp_path / str(moment)
        search, stop = toy_search(folder, config, IndependentConfig(), space), StopRequest()
        real = search.step

        def step(
            place: Any, following: Any, number: int, real: Any = real, stop: Any = stop, at: int = moment
        ) -> Any:
            if number == at:
                stop.request("test")
            return real(place, following, number)

        search.step = step
        with pytest.raises(Stopped):
            run(folder, search, stop)
        again = toy_search(folder, config, IndependentConfig(), space)
        run(folder, again)
        assert outcome(folder, again) == expected, moment
        assert again.updates_end == whole.updates_end
        assert isinstance(search.weights, ToyWeights)
        assert isinstance(again.weights, ToyWeights)
        weights = [call for call in search.weights.calls + again.weights.calls if call[0] == "weights"]
        assert weights == [call for call in whole.weights.calls if call[0] == "weights"]


# ---- docs --------------------------------------------------------------------------------------------------------------


def test_every_key_of_a_search_is_in_the_documentation(tmp_path: Path) -> None:
    keys: set[str] = set()
    for number, space in enumerate((MicroSpace(2), MacroSpace(3))):
        folder = tmp_path / str(number)
        config = SearchConfig(epochs=1, updates=3, proposals=4, percentile_every=1)
        run(folder, toy_search(folder, config, IndependentConfig(), space))
        for record in read_jsonl(folder / "metrics.jsonl"):
            keys |= {*record, record["stage"]}
    assert keys - tiny.documented() == {"worth"}  # the planted task's own
