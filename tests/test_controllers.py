"""What every controller must do, and what is particular to each; probabilities against full enumeration."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from enas.architecture import Architecture, Decision, Graph, Kind, Space
from enas.controllers import (
    Controller,
    ControllerConfig,
    EvolutionConfig,
    IndependentConfig,
    LSTMConfig,
    Policy,
    Proposals,
    ReinforceConfig,
    UniformConfig,
    build_controller,
)
from enas.controllers.independent import IndependentPolicy
from enas.controllers.lstm import LSTMPolicy
from enas.controllers.lstm_macro import MacroLSTMPolicy
from enas.controllers.lstm_sequence import SequenceLSTMPolicy
from enas.controllers.lstm_steps import StepwisePolicy
from enas.controllers.policy_gradient import PolicyGradientController
from enas.errors import ConfigError, NotFiniteError, RunFolderError
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from enas.testing import check_controller
from tests import conditional_space
from tests.tiny import published

PAPER = published("recurrent-paper")
PAPER_MACRO = published("macro-paper")
PAPER_MICRO = published("micro-paper")
AUTHORS = published("recurrent-authors")
AUTHORS_MACRO = published("macro-authors")
AUTHORS_MICRO = published("micro-authors")


@dataclass(frozen=True)
class PlainSpace(Space):
    """Any decisions at all."""

    name: ClassVar[str] = "plain"

    asked: tuple[Decision, ...]

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self.asked

    def format(self, architecture: Architecture) -> str:
        return " ".join(map(str, architecture.choices))

    def parse(self, text: str) -> Architecture:
        return self.architecture([int(word) for word in text.split()])

    def graph(self, architecture: Architecture) -> Graph:
        return Graph("plain", (), ())

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}


LEARNING = ("independent", "lstm", "lstm-paper", "lstm-authors")
CONTROLLERS = ("uniform", "evolution", *LEARNING)
PAPERS = {"recurrent": PAPER, "macro": PAPER_MACRO, "micro": PAPER_MICRO, "plain": PAPER, "nested": PAPER}
AUTHORS_OF = {
    "recurrent": AUTHORS,
    "macro": AUTHORS_MACRO,
    "micro": AUTHORS_MICRO,
    "plain": replace(AUTHORS, distance_prior=False),
    "nested": replace(AUTHORS, distance_prior=False),
}
SPACES = {
    "paper": RecurrentSpace(3),
    "authors": RecurrentSpace(3, input_function="tanh"),
    "many-functions-few-sources": RecurrentSpace(2),
    "few-functions-many-sources": RecurrentSpace(5, ("tanh", "relu")),
    "macro": MacroSpace(3, ("conv3x3", "sep5x5", "max3x3")),
    "micro": MicroSpace(1, ("sep3x3", "max3x3", "identity")),
    "micro-two-nodes": MicroSpace(2, ("sep3x3",)),
    "structure": PlainSpace(
        (
            Decision("structure", "structure", 0, ("tree", "chain")),
            Decision("first", "operation", 1, ("a", "b", "c")),
            Decision("second", "operation", 2, ("a", "b", "c")),
        )
    ),
    "nested": conditional_space.SPACE,
}


def config_of(name: str, space: Space) -> ControllerConfig:
    """The controller of this name for this space, small; paper and authors have settings for each."""
    configs: dict[str, ControllerConfig] = {
        "uniform": UniformConfig(),
        "evolution": EvolutionConfig(population=6, tournament=3),
        "independent": IndependentConfig(),
        "lstm": LSTMConfig(hidden=8, reinforce=ReinforceConfig()),
        "lstm-paper": replace(PAPERS[space.name], hidden=8),
        "lstm-authors": replace(AUTHORS_OF[space.name], hidden=8),
    }
    return configs[name]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def enumerated(space: Space) -> Tensor:
    return torch.tensor([architecture.choices for architecture in space.enumerate()])


def uniform_probabilities(space: Space) -> Tensor:
    """The probability of every architecture under uniform sampling, in the order of the enumeration."""
    if not space.conditional:
        return torch.full((space.count(),), 1 / space.count(), dtype=torch.float64)
    known = conditional_space.probabilities()
    return torch.tensor([known[a.choices] for a in space.enumerate()], dtype=torch.float64)


def randomise(policy: nn.Module) -> None:
    """Weights that make a policy far from uniform."""
    generator = seeded(1)
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=1.5, generator=generator)


def random_policy(name: str, space: Space) -> Policy:
    """In float64, so that sums over an enumeration can be compared closely."""
    controller = build_controller(config_of(name, space), space, seed=0)
    assert isinstance(controller, PolicyGradientController)
    policy = controller.policy.double()
    randomise(policy)
    return policy


def learn(controller: Controller, updates: int, generator: torch.Generator) -> list[dict[str, float]]:
    """Updates with rewards that depend on the choices; what was logged."""
    logged = []
    for _ in range(updates):
        proposals = controller.propose(4, generator)
        logged.append(controller.feedback(proposals, proposals.choices_NL.double().std(1)))
    return logged


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """The state written and read again, without unpickling anything that could run code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, tensors in nested containers included."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]


@pytest.fixture(params=CONTROLLERS)
def config(request: pytest.FixtureRequest, space: Space) -> ControllerConfig:
    return config_of(request.param, space)


@pytest.fixture
def controller(config: ControllerConfig, space: Space) -> Controller:
    return build_controller(config, space, seed=0)


class TestEveryController:
    """The contract of `Controller`, whichever it is."""

    def test_what_the_contract_tests_say(self, config: ControllerConfig, space: Space) -> None:
        check_controller(lambda space: build_controller(config, space, seed=0), space)

    def test_log_prob_and_entropy_are_sums_over_decisions(self, controller: Controller) -> None:
        proposals = controller.propose(5, seeded(0))
        torch.testing.assert_close(proposals.log_prob_N, proposals.log_prob_NL.sum(1))
        torch.testing.assert_close(proposals.entropy_N, proposals.entropy_NL.sum(1))

    def test_feedback_reports_reward_and_entropy(self, controller: Controller, space: Space) -> None:
        proposals = controller.propose(3, seeded(0))
        entropy = proposals.entropy_N.mean().item()
        metrics = controller.feedback(proposals, torch.tensor([1.0, 2.0, 6.0]))
        assert metrics["reward"] == pytest.approx(3.0)
        assert metrics["entropy"] == pytest.approx(entropy)
        largest = math.log(space.count())
        if space.conditional:
            listed = {architecture.choices for architecture in space.enumerate()}
            largest = (
                sum(
                    math.log(conditional_space.ways(listed, tuple(path)))
                    for path in proposals.choices_NL.tolist()
                )
                / 3
            )
        assert metrics["entropy_share"] == pytest.approx(entropy / largest)
        assert {type(value) for value in metrics.values()} == {float}
        assert all(map(math.isfinite, metrics.values()))

    def test_feedback_refuses_another_number_of_rewards(self, controller: Controller) -> None:
        with pytest.raises(ConfigError, match=r"3 proposals need .* 3 rewards.*\(2,\)"):
            controller.feedback(controller.propose(3, seeded(0)), torch.ones(2))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_feedback_learns_nothing_from_rewards_that_are_not_finite(
        self, controller: Controller, space: Space, bad: float
    ) -> None:
        before = controller.state_dict()
        proposals = controller.propose(2, seeded(0))
        with pytest.raises(NotFiniteError) as error:
            controller.feedback(proposals, torch.tensor([1.0, bad]))
        assert str(proposals.architectures(space)[1]) in str(error.value)
        assert equal(controller.state_dict(), before)

    def test_resuming_continues_bit_for_bit(self, config: ControllerConfig, space: Space) -> None:
        original = build_controller(config, space, seed=0)
        generator = seeded(2)
        learn(original, 3, generator)
        saved, drawn = through_a_file(original.state_dict()), generator.get_state()
        expected = learn(original, 4, generator)

        resumed = build_controller(config, space, seed=77)
        copy = through_a_file(saved)
        resumed.load_state_dict(saved)
        generator.set_state(drawn)
        assert learn(resumed, 4, generator) == expected
        assert equal(resumed.state_dict(), original.state_dict())
        assert equal(saved, copy)

    def test_a_state_of_another_controller_is_refused(self, config: ControllerConfig, space: Space) -> None:
        other = "independent" if config == UniformConfig() else "uniform"
        saved = build_controller(config_of(other, space), space, seed=0).state_dict()
        with pytest.raises(RunFolderError, match="does not fit"):
            build_controller(config, space, seed=0).load_state_dict(saved)

    @pytest.mark.parametrize("name", CONTROLLERS)
    @pytest.mark.parametrize(
        "space",
        [SPACES[name] for name in ("paper", "macro", "micro", "structure", "nested")],
        ids=lambda s: s.name,
    )
    def test_the_frequencies_are_the_probabilities(self, name: str, space: Space) -> None:
        """Chi-square over all architectures of a small space, under weights far from uniform."""
        config, draws = config_of(name, space), 20_000
        controller = build_controller(config, space, seed=0)
        probabilities = uniform_probabilities(space).numpy()
        if isinstance(controller, PolicyGradientController):
            randomise(controller.policy)
            with torch.no_grad():
                probabilities = controller.policy.score(enumerated(space)).log_prob_N.double().exp().numpy()
            assert probabilities.max() > 10 * probabilities.min()
        with torch.no_grad():
            drawn = controller.propose(draws, seeded(3)).choices_NL
        index = {architecture.choices: i for i, architecture in enumerate(space.enumerate())}
        counts = np.bincount([index[tuple(c)] for c in drawn.tolist()], minlength=space.count())
        rare = probabilities * draws < 5
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(probabilities[~rare], probabilities[rare].sum()) * draws
        keep = expected > 0
        expected *= draws / expected.sum()
        assert scipy.stats.chisquare(counts[keep], expected[keep]).pvalue > 1e-3


class TestUniform:
    def test_log_prob_and_entropy_are_those_of_the_uniform_distribution(self, space: Space) -> None:
        proposals = build_controller(UniformConfig(), space, seed=0).propose(400, seeded(0))
        place = {architecture: i for i, architecture in enumerate(space.enumerate())}
        drawn_N = [place[architecture] for architecture in proposals.architectures(space)]
        pi_A = uniform_probabilities(space)
        torch.testing.assert_close(proposals.log_prob_N, pi_A.log()[drawn_N].float())
        entropies_A = dict(zip(drawn_N, proposals.entropy_N.tolist(), strict=True))
        if len(entropies_A) == len(pi_A):  # all were drawn
            mean = sum(float(pi_A[i]) * entropy for i, entropy in entropies_A.items())
            assert mean == pytest.approx(-float((pi_A * pi_A.log()).sum()))
        elif not space.conditional:
            torch.testing.assert_close(proposals.entropy_N, torch.full((400,), math.log(space.count())))


@pytest.mark.parametrize("name", LEARNING)
class TestEveryPolicy:
    """The contract of `Policy`, under random weights far from uniform."""

    def test_a_sample_scores_as_it_was_drawn(self, name: str, space: Space) -> None:
        policy = random_policy(name, space)
        sampled = policy.sample(64, seeded(0))
        scored = policy.score(sampled.choices_NL)
        torch.testing.assert_close(sampled.log_prob_NL, scored.log_prob_NL)
        torch.testing.assert_close(sampled.entropy_NL, scored.entropy_NL)

    def test_the_probabilities_of_all_architectures_sum_to_one(self, name: str, space: Space) -> None:
        log_prob_N = random_policy(name, space).score(enumerated(space)).log_prob_N
        assert log_prob_N.max() - log_prob_N.min() > 1
        assert log_prob_N.exp().sum().item() == pytest.approx(1.0, abs=1e-12)

    def test_the_mean_path_entropy_is_the_entropy(self, name: str, space: Space) -> None:
        scored = random_policy(name, space).score(enumerated(space))
        pi_N = scored.log_prob_N.exp()
        entropy = -(pi_N * scored.log_prob_N).sum()
        torch.testing.assert_close((pi_N * scored.entropy_N).sum(), entropy)
        if name == "independent" and not space.conditional:
            torch.testing.assert_close(scored.entropy_N, entropy.expand(len(pi_N)))

    def test_proposals_are_scored_alone_as_in_a_batch(self, name: str, space: Space) -> None:
        policy = random_policy(name, space)
        choices_NL = policy.sample(6, seeded(1)).choices_NL
        alone = torch.cat([policy.score(choices_L.unsqueeze(0)).log_prob_NL for choices_L in choices_NL])
        torch.testing.assert_close(policy.score(choices_NL).log_prob_NL, alone)

    def test_proposals_made_without_gradient_teach_the_same(self, name: str, space: Space) -> None:
        states = []
        for grad in (True, False):
            controller = PolicyGradientController(random_policy(name, space), ReinforceConfig())
            with torch.set_grad_enabled(grad):
                proposals = controller.propose(4, seeded(0))
            assert proposals.log_prob_N.requires_grad == grad
            controller.feedback(proposals, torch.tensor([0.0, 1.0, 5.0, 2.0]))
            states.append(controller.state_dict()["policy"])
        for tensor, other in zip(states[0].values(), states[1].values(), strict=True):
            torch.testing.assert_close(tensor, other)

    def test_the_seed_decides_the_initial_weights(self, name: str, space: Space) -> None:
        states = [build_controller(config_of(name, space), space, seed).state_dict() for seed in (3, 3, 4)]
        assert equal(states[0], states[1])
        assert equal(states[0], states[2]) == (name == "independent")

    def test_the_state_of_another_space_is_refused(self, name: str) -> None:
        space, other = RecurrentSpace(3), RecurrentSpace(4, ("tanh", "relu"))
        saved = build_controller(config_of(name, space), space, seed=0).state_dict()
        with pytest.raises(RunFolderError, match="does not fit"):
            build_controller(config_of(name, other), other, seed=0).load_state_dict(saved)


@pytest.mark.parametrize(
    ("space", "planted", "lstm_updates"),
    [
        (RecurrentSpace(4, ("tanh", "relu", "sigmoid")), (1, 0, 1, 0, 2, 0, 1), 200),
        (RecurrentSpace(4, ("tanh", "relu", "sigmoid")), (0, 0, 2, 1, 0, 0, 1), 200),
        (SPACES["macro"], (1, 0, 1, 2, 0, 1), 120),
        (SPACES["micro"], (1, 1, 2, 0, 0, 0, 2, 1), 120),
    ],
    ids=["recurrent-0", "recurrent-1", "macro", "micro"],
)
@pytest.mark.parametrize("name", ["independent", "lstm"])
def test_a_planted_best_architecture_is_found(
    name: str, space: Space, planted: tuple[int, ...], lstm_updates: int
) -> None:
    """Of hundreds; the reward is the share of right decisions, and 8 proposals make an update."""
    assert 200 < space.count() < 2000
    lstm = LSTMConfig(hidden=64, init_range=0.3, reinforce=ReinforceConfig(learning_rate=0.01))
    config, updates = (IndependentConfig(), 100) if name == "independent" else (lstm, lstm_updates)
    controller, generator = build_controller(config, space, seed=1), seeded(1)
    start = controller.propose(200, generator)
    for _ in range(updates):
        proposals = controller.propose(8, generator)
        controller.feedback(proposals, (proposals.choices_NL == torch.tensor(planted)).double().mean(1))
    assert controller.mode() == planted
    end = controller.propose(200, generator)
    found_start, found_end = (
        (p.choices_NL == torch.tensor(planted)).all(1).double().mean().item() for p in (start, end)
    )
    assert found_start < 0.05
    assert found_end > 0.3


class TestIndependent:
    def test_the_policy_starts_uniform(self, space: Space) -> None:
        log_prob_N = IndependentPolicy(space).score(enumerated(space)).log_prob_N
        torch.testing.assert_close(log_prob_N, uniform_probabilities(space).log().float())

    def test_the_mode_is_the_most_probable_architecture(self, space: Space) -> None:
        policy = random_policy("independent", space)
        if space.conditional:  # greedy: the most probable option at each step
            mode_1L = torch.tensor([policy.mode()])
            assert torch.equal(policy.logits(mode_1L).argmax(-1), mode_1L)
            return
        best = policy.score(enumerated(space)).log_prob_N.argmax().item()
        assert policy.mode() == tuple(enumerated(space)[int(best)].tolist())

    def test_options_that_do_not_exist_are_out_of_reach(self) -> None:
        """Whatever stands in the padding: never sampled, never the mode, no gradient, no entropy."""
        space = RecurrentSpace(3)
        policy = IndependentPolicy(space)
        missing_LK = policy.table().isneginf()
        assert missing_LK.sum().item() == 3 + 2
        with torch.no_grad():
            policy.logits_LK[missing_LK] = 100.0
        proposals = policy.sample(500, seeded(0))
        assert len(proposals.architectures(space)) == 500
        space.architecture(policy.mode())
        torch.testing.assert_close(proposals.entropy_N, torch.full((500,), math.log(space.count())))
        (proposals.log_prob_N.square() + proposals.entropy_N).sum().backward()
        assert policy.logits_LK.grad is not None
        assert policy.logits_LK.grad.isfinite().all()
        assert (policy.logits_LK.grad[missing_LK] == 0).all()


def lstm_logits_one_by_one(policy: LSTMPolicy, config: LSTMConfig, choices: tuple[int, ...]) -> list[Tensor]:
    """The logits of every decision of one architecture of a paper's space, as the authors' code describes it.

    Written apart from the package: torch's own LSTM cell, a step at a time, columns i, f, g, o.
    """
    units = config.hidden
    i, f, o, g = range(4)
    columns = torch.cat([torch.arange(block * units, (block + 1) * units) for block in (i, f, g, o)])
    cell = nn.LSTMCell(units, units, bias=False, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.copy_(policy.input_SG[:, columns].T)
        cell.weight_hh.copy_(policy.state_SG[:, columns].T)

    def squash(z: Tensor) -> Tensor:
        if config.temperature is not None:
            z = z / config.temperature
        return z if config.tanh_constant is None else config.tanh_constant * torch.tanh(z)

    given = iter(choices)
    state = (torch.zeros(units, dtype=torch.float64), torch.zeros(units, dtype=torch.float64))
    word: Tensor = policy.empty_S
    anchors: list[Tensor] = []
    logits: list[Tensor] = []
    for k in range(len(policy.nodes)):
        state = cell(word, state)
        anchors.append(state[0])
        if k == 0:
            word = policy.empty_S
        else:
            query = state[0] @ policy.query_SS
            z = torch.stack([policy.attention_S @ torch.tanh(query + a @ policy.key_SS) for a in anchors[:k]])
            prior = torch.tensor([(k - j) ** 2 / 6 for j in range(k)], dtype=torch.float64)
            logits.append(squash(z) - prior if config.distance_prior else squash(z))
            j = next(given)
            word = anchors[j] / (0.1 + k - j)
        state = cell(word, state)
        logits.append(squash(policy.softmax_FS @ state[0]))
        word = policy.embedding_FS[next(given)]
    return logits


class TestLSTM:
    @pytest.mark.parametrize(
        "config",
        [
            LSTMConfig(hidden=8),
            LSTMConfig(hidden=8, distance_prior=True),
            LSTMConfig(hidden=8, tied_softmax=True),
            LSTMConfig(hidden=8, temperature=None),
            LSTMConfig(hidden=8, tanh_constant=None),
        ],
        ids=["paper", "distance-prior", "tied", "no-temperature", "no-tanh"],
    )
    def test_the_logits_are_those_of_the_description_step_by_step(self, config: LSTMConfig) -> None:
        space = RecurrentSpace(4)
        policy = LSTMPolicy(space, config, seeded(0)).double()
        randomise(policy)
        choices_NL = policy.sample(12, seeded(1)).choices_NL
        for choices_L, logits_LK in zip(choices_NL.tolist(), policy.logits(choices_NL), strict=True):
            expected = lstm_logits_one_by_one(policy, config, tuple(choices_L))
            for logits_K, decision, right in zip(logits_LK, space.decisions, expected, strict=True):
                torch.testing.assert_close(logits_K[: len(decision.options)], right, rtol=1e-12, atol=1e-12)
                assert logits_K[len(decision.options) :].isneginf().all()

    def test_the_number_of_parameters_is_that_of_the_released_code(self) -> None:
        for functions, count in (
            (("tanh", "relu"), 100_600),
            (("tanh", "relu", "identity", "sigmoid"), 101_000),
        ):
            policy = LSTMPolicy(RecurrentSpace(12, functions), PAPER, seeded(0))
            assert sum(p.numel() for p in policy.parameters()) == count

    def test_the_weights_start_uniform_in_the_initial_range(self) -> None:
        for config in (PAPER, AUTHORS):
            policy = LSTMPolicy(RecurrentSpace(12), config, seeded(0))
            weights = (
                torch.cat([p.detach().flatten() for p in policy.parameters()]).numpy() / config.init_range
            )
            assert scipy.stats.kstest(weights, "uniform", args=(-1, 2)).pvalue > 1e-3

    def test_the_mode_decodes_greedily(self, space: Space) -> None:
        policy = random_policy("lstm", space)
        assert isinstance(policy, StepwisePolicy)
        mode_1L = torch.tensor([policy.mode()])
        assert torch.equal(policy.logits(mode_1L).argmax(-1), mode_1L)

    def test_later_decisions_depend_on_earlier_ones(self) -> None:
        """What the independent policy cannot do."""
        policy = random_policy("lstm", RecurrentSpace(3))
        assert isinstance(policy, LSTMPolicy)
        logits_NLK = policy.logits(torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]))
        assert torch.equal(logits_NLK[0, 0], logits_NLK[1, 0])
        assert not torch.allclose(logits_NLK[0, 2], logits_NLK[1, 2])

    def test_nodes_may_decide_a_source_only(self) -> None:
        """And nodes without any decision may stand first."""
        names = tuple("0123")
        decisions = tuple(Decision(f"node {k}", "source", k, names[:k]) for k in (2, 3))
        space = PlainSpace(decisions)
        policy = LSTMPolicy(space, LSTMConfig(hidden=8), seeded(0)).double()
        randomise(policy)
        assert policy.score(enumerated(space)).log_prob_N.exp().sum().item() == pytest.approx(1.0)

    @pytest.mark.parametrize(
        "asked",
        [
            [("skip", 1, 2)],
            [("source", 2, 2), ("source", 2, 2)],
            [("function", 1, 4), ("source", 1, 1)],
            [("function", 1, 4), ("function", 0, 4)],
            [("function", 0, 4), ("function", 1, 3)],
            [("source", 2, 1)],
            [("operation", 0, 3), ("skip", 1, 2), ("operation", 1, 3)],
            [("operation", 0, 3), ("operation", 1, 2), ("skip", 1, 2)],
            [("operation", 0, 3), ("operation", 1, 3), ("skip", 1, 3)],
            [("source", 2, 2), ("operation", 2, 3), ("source", 2, 2), ("operation", 2, 3)],
            [("source", 3, 3), ("source", 3, 3), ("operation", 3, 3), ("operation", 3, 3)],
            [("source", 2, 1), ("source", 2, 2), ("operation", 2, 3), ("operation", 2, 3)],
            [("source", 2, 2), ("source", 2, 2), ("operation", 2, 3), ("operation", 2, 2)],
            [("source", 2, 2), ("source", 2, 2), ("operation", 2, 3)],
        ],
        ids=[
            "skip",
            "two-sources",
            "function-first",
            "nodes-backwards",
            "other-functions",
            "not-all-nodes",
            "skip-first",
            "layers-of-other-operations",
            "skip-of-three-options",
            "operation-before-source",
            "no-node-2",
            "cell-not-all-nodes",
            "cell-of-other-operations",
            "one-operation",
        ],
    )
    def test_decisions_that_are_no_cell_or_network_are_decided_in_a_row(
        self, asked: list[tuple[Kind, int, int]]
    ) -> None:
        space = PlainSpace(tuple(Decision("d", kind, node, tuple("abcd"[:n])) for kind, node, n in asked))
        policy = random_policy("lstm", space)
        assert isinstance(policy, SequenceLSTMPolicy)
        assert policy.score(enumerated(space)).log_prob_N.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
        for meaningless in ({"distance_prior": True}, {"operation_prior": "authors"}):
            config = replace(LSTMConfig(), **meaningless)
            with pytest.raises(ConfigError, match="means nothing to the lstm controller of the plain space"):
                build_controller(config, space, seed=0)

    @pytest.mark.parametrize("options", [(3, 3), (3, 2, 4)])
    def test_plain_operations_are_decided_in_a_row(self, options: tuple[int, ...]) -> None:
        """Its probabilities over all architectures sum to one, and it learns which is best."""
        decisions = tuple(Decision(f"d{i}", "operation", i, tuple("abcd"[:n])) for i, n in enumerate(options))
        space = PlainSpace(decisions)
        controller = build_controller(LSTMConfig(), space, seed=0)
        assert isinstance(controller, PolicyGradientController)
        assert isinstance(controller.policy, SequenceLSTMPolicy)
        with torch.no_grad():
            probabilities = controller.policy.score(enumerated(space)).log_prob_N.exp()
        assert len(probabilities) == math.prod(options)
        assert probabilities.sum().item() == pytest.approx(1.0, rel=1e-5)

    def test_a_single_layer_is_a_whole_network(self) -> None:
        controller = build_controller(LSTMConfig(), MacroSpace(1), seed=0)
        assert isinstance(controller, PolicyGradientController)
        assert isinstance(controller.policy, MacroLSTMPolicy)


@pytest.mark.parametrize(
    ("owner", "setting", "value"),
    [
        (ReinforceConfig(), "learning_rate", 0.0),
        (ReinforceConfig(), "betas", (0.9, 1.0)),
        (ReinforceConfig(), "eps", 0.0),
        (ReinforceConfig(), "decay", 1.0),
        (ReinforceConfig(), "entropy_weight", -0.1),
        (ReinforceConfig(), "skip_weight", -0.8),
        (ReinforceConfig(), "skip_rate", 0.0),
        (ReinforceConfig(), "skip_rate", 1.0),
        (ReinforceConfig(), "max_grad_norm", 0.0),
        (LSTMConfig(), "hidden", 0),
        (LSTMConfig(), "init_range", 0.0),
        (LSTMConfig(), "temperature", 0.0),
        (LSTMConfig(), "tanh_constant", -1.0),
        (LSTMConfig(), "operation_tanh_reduce", 0.0),
        (LSTMConfig(tanh_constant=None), "operation_tanh_reduce", 2.5),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(owner: Any, setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{setting}(\.1)? must be"):
        replace(owner, **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value", "known_to"),
    [
        ("distance_prior", True, {"recurrent"}),
        ("operation_tanh_reduce", 2.5, {"micro"}),
        ("operation_prior", "authors", {"micro"}),
        ("tied_softmax", True, {"recurrent", "macro", "micro"}),
    ],
)
def test_a_setting_that_means_nothing_in_a_space_is_refused_there(
    setting: str, value: Any, known_to: set[str]
) -> None:
    config: LSTMConfig = replace(LSTMConfig(hidden=8), **{setting: value})
    for space in (SPACES["paper"], SPACES["macro"], SPACES["micro"]):
        if space.name in known_to:
            build_controller(config, space, seed=0)
        else:
            with pytest.raises(ConfigError, match=f"{setting} = {value} means nothing .*{space.name} space"):
                build_controller(config, space, seed=0)


@pytest.mark.parametrize("owner", [IndependentConfig(), LSTMConfig(hidden=8)])
def test_a_skip_penalty_is_refused_where_there_are_no_skips(owner: Any) -> None:
    config = replace(owner, reinforce=ReinforceConfig(skip_weight=0.8))
    build_controller(config, SPACES["macro"], seed=0)
    for space in (SPACES["paper"], SPACES["micro"]):
        with pytest.raises(ConfigError, match=f"{space.name} space has no skip connections.*skip_weight"):
            build_controller(config, space, seed=0)


def test_a_skip_penalty_in_the_reward_of_an_independent_policy_is_refused() -> None:
    config = IndependentConfig(ReinforceConfig(skip_weight=0.8, skip_penalty="reward"))
    with pytest.raises(ConfigError, match="teaches nothing; set skip_penalty to regulariser"):
        build_controller(config, SPACES["macro"], seed=0)


def test_a_space_of_one_architecture_has_no_entropy_to_lose() -> None:
    space = PlainSpace((Decision("d", "function", 0, ("a",)),))
    controller = build_controller(IndependentConfig(), space, seed=0)
    proposals = controller.propose(2, seeded(0))
    assert controller.feedback(proposals, torch.ones(2))["entropy_share"] == 1.0


def test_proposals_share_one_row_of_logits() -> None:
    logits_1LK = torch.tensor([[[0.0, 0.0, -math.inf], [1.0, 2.0, 3.0]]])
    choices_NL = torch.tensor([[0, 2], [1, 0]])
    one = Proposals.from_logits(choices_NL, logits_1LK)
    each = Proposals.from_logits(choices_NL, logits_1LK.expand(2, -1, -1))
    assert torch.equal(one.log_prob_NL, each.log_prob_NL)
    assert torch.equal(one.entropy_NL, each.entropy_NL)
    torch.testing.assert_close(one.log_prob_NL[:, 0], torch.full((2,), -math.log(2)))


@pytest.mark.parametrize("config", [IndependentConfig(), LSTMConfig(hidden=4)])
def test_a_policy_without_probabilities_proposes_nothing(config: Any) -> None:
    """Rather than an option that no decision has."""
    controller = build_controller(config, MacroSpace(3), seed=0)
    assert isinstance(controller, PolicyGradientController)
    with torch.no_grad():
        for parameter in controller.policy.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="lower the controller's learning rate"):
        controller.propose(2, seeded(0))
    with pytest.raises(NotFiniteError, match="no numbers any more"):
        controller.mode()


def test_the_largest_learning_rate_leaves_a_policy_its_probabilities() -> None:
    reinforce = ReinforceConfig(learning_rate=1000.0)
    controller = build_controller(IndependentConfig(reinforce), MacroSpace(3), seed=0)
    for update in range(5):
        proposals = controller.propose(4, seeded(update))
        controller.feedback(proposals, torch.rand(4, generator=seeded(update)))
    controller.mode()
