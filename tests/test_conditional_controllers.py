"""What is particular to controllers, and to what reads them, in a conditional space; against the enumerated space."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from enas.architecture import Space
from enas.controllers import (
    Controller,
    EvolutionConfig,
    IndependentConfig,
    LSTMConfig,
    Policy,
    ReinforceConfig,
    UniformConfig,
    build_controller,
)
from enas.controllers.base import reward_and_entropy
from enas.controllers.categorical import along, uniform_logits
from enas.controllers.lstm_sequence import SequenceLSTMPolicy
from enas.controllers.policy_gradient import PolicyGradientController
from enas.controllers.reinforce import skip_penalty
from enas.controllers.uniform import UniformController
from enas.correction import Features
from enas.errors import NotFiniteError
from enas.health import gradient_power, parameter_free, relative_probabilities
from enas.shared_weights import with_every_operation
from enas.spaces.choices.space import ChoiceSpace, OneOf
from tests.conditional_space import DECISIONS, SPACE, asked, probabilities, samples, ways

GO = tuple((f"go{number}", "go") for number in range(4))
TREE = ChoiceSpace(tuple(OneOf(name, ("stop", "go"), (GO[:place],)) for place, (name, _) in enumerate(GO)))
"""Five architectures: to stop, or to go on and be asked again."""
EVERY = torch.tensor(list(probabilities()))
ASKED = torch.tensor([asked(choices) for choices in probabilities()])
CONFIGS = [
    UniformConfig(),
    EvolutionConfig(population=6, tournament=3),
    IndependentConfig(),
    LSTMConfig(hidden=8),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy_of(config: IndependentConfig | LSTMConfig, std: float) -> Policy:
    """In float64, its weights drawn with this standard deviation."""
    controller = build_controller(config, SPACE, seed=0)
    assert isinstance(controller, PolicyGradientController)
    policy = controller.policy.double()
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=seeded(1))
    return policy


def learnt(config: UniformConfig | EvolutionConfig | IndependentConfig | LSTMConfig) -> Controller:
    """A controller after some updates."""
    controller, generator = build_controller(config, SPACE, seed=0), seeded(0)
    for _ in range(5):
        proposals = controller.propose(4, generator)
        controller.feedback(proposals, proposals.choices_NL.double().std(1))
    return controller


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_inactive_decisions_have_neither_probability_nor_entropy(
    config: UniformConfig | EvolutionConfig | IndependentConfig | LSTMConfig,
) -> None:
    proposals = learnt(config).propose(200, seeded(1))
    drawn = [tuple(choices) for choices in proposals.choices_NL.tolist()]
    assert set(drawn) <= probabilities().keys()  # and so written in the one way there is
    inactive_NL = ~torch.tensor([asked(choices) for choices in drawn])
    assert inactive_NL.any(0).sum() == 5
    assert (proposals.log_prob_NL[inactive_NL] == 0).all()
    assert (proposals.entropy_NL[inactive_NL] == 0).all()
    if not isinstance(config, EvolutionConfig):
        assert (proposals.log_prob_NL[~inactive_NL] < 0).all()
        assert (proposals.entropy_NL[~inactive_NL] > 0).all()


def test_equal_logits_are_uniform_sampling() -> None:
    expected = torch.tensor(list(probabilities().values()), dtype=torch.float64).log()
    for policy in (policy_of(IndependentConfig(), 0.0), policy_of(LSTMConfig(hidden=8), 0.0)):
        torch.testing.assert_close(policy.score(EVERY).log_prob_N, expected)
        smallest, largest = relative_probabilities(
            policy.logits(EVERY), along(SPACE, uniform_logits(SPACE), EVERY)
        )
        assert smallest == pytest.approx(1.0)
        assert largest == pytest.approx(1.0)


def test_decisions_that_are_not_asked_teach_an_independent_policy_nothing() -> None:
    policy = policy_of(IndependentConfig(), 1.0)
    for choices_L, asked_L in zip(EVERY, ASKED, strict=True):
        scored = policy.score(choices_L.unsqueeze(0))
        (gradient_LK,) = torch.autograd.grad(
            (scored.log_prob_N + scored.entropy_N).sum(), [*policy.parameters()]
        )
        assert torch.equal((gradient_LK != 0).any(1), asked_L)


def test_an_lstm_passes_over_decisions_that_are_not_asked() -> None:
    """Its logits are those of a walk over the decisions that are asked alone."""
    policy = policy_of(LSTMConfig(hidden=8), 1.0)
    assert isinstance(policy, SequenceLSTMPolicy)
    logits_NLK = policy.logits(EVERY)
    for choices_L, asked_L, logits_LK in zip(EVERY.tolist(), ASKED.tolist(), logits_NLK, strict=True):
        h = c = policy.zeros(1)
        word = policy.empty_input(1)
        for place, decision in enumerate(DECISIONS):
            first, count = policy.starts[decision.options], len(decision.options)
            rows = slice(first, first + count)
            if not asked_L[place]:
                continue
            h, c = policy.step(word, h, c)
            logits_K = policy.squash(h @ policy.softmax_FS[rows].T)[0]
            weight_K = torch.tensor(SPACE.weights(choices_L[:place]), dtype=torch.float64)
            torch.testing.assert_close(
                logits_LK[place, :count].softmax(-1),
                (logits_K + weight_K.log()).softmax(-1),
            )
            word = policy.embedding_inputs()[rows][[choices_L[place]]]


@pytest.mark.parametrize(
    "config", [IndependentConfig(), LSTMConfig(hidden=8)], ids=lambda config: config.kind
)
def test_a_policy_without_probabilities_proposes_nothing(config: IndependentConfig | LSTMConfig) -> None:
    controller = build_controller(config, SPACE, seed=0)
    assert isinstance(controller, PolicyGradientController)
    with torch.no_grad():
        for parameter in controller.policy.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="lower the controller's learning rate"):
        controller.propose(50, seeded(0))
    with pytest.raises(NotFiniteError, match="no numbers any more"):
        controller.mode()


@pytest.mark.parametrize(
    ("config", "updates"),
    [
        (EvolutionConfig(20, 5), 80),
        (IndependentConfig(), 60),
        (LSTMConfig(hidden=32, init_range=0.3, reinforce=ReinforceConfig(learning_rate=0.02)), 150),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
@pytest.mark.parametrize("planted", [(1, 1, 1, 0, 0, 1, 0, 1, 2), (2, 0, 0, 0, 1, 0, 0, 1, 0)])
def test_a_planted_best_architecture_is_found(
    config: EvolutionConfig | IndependentConfig | LSTMConfig, updates: int, planted: tuple[int, ...]
) -> None:
    """Of 161; the reward is the share of right choices, those at inactive decisions too."""
    controller, generator = build_controller(config, SPACE, seed=1), seeded(1)
    for _ in range(updates):
        proposals = controller.propose(8, generator)
        controller.feedback(proposals, (proposals.choices_NL == torch.tensor(planted)).double().mean(1))
    assert controller.mode() == planted


@pytest.mark.parametrize(
    "config", [IndependentConfig(), LSTMConfig(hidden=8)], ids=lambda config: config.kind
)
def test_the_prior_is_told_in_units_of_uniform_sampling(config: IndependentConfig | LSTMConfig) -> None:
    controller = build_controller(config, SPACE, seed=0)
    prior = controller.prior(seeded(0))
    capped = 1 / (1 + 2 * math.exp(-5))  # three options between logits of -2.5 and 2.5
    assert prior["attainable"] == pytest.approx(1.0 if config.kind == "independent" else capped)
    assert prior["initial_smallest"] == pytest.approx(1.0, abs=0.02)
    assert prior["initial_largest"] == pytest.approx(1.0, abs=0.02)


def test_the_signal_of_a_gradient_is_unbiased_over_all_pairs() -> None:
    policy = policy_of(IndependentConfig(), 1.0)
    with torch.no_grad():
        logits_NLK, scored = policy.logits(EVERY), policy.score(EVERY)
    pi_N = scored.log_prob_N.exp()
    reward_N = torch.rand(len(EVERY), generator=seeded(0), dtype=torch.float64)
    taken_NLK = torch.nn.functional.one_hot(EVERY, logits_NLK.shape[-1])
    score_ND = (taken_NLK - logits_NLK.softmax(-1)).flatten(1)
    assert (score_ND.view_as(logits_NLK)[~ASKED] == 0).all()
    exact = float(((pi_N * reward_N)[:, None] * score_ND).sum(0).square().sum())
    mean = 0.0
    for i, j in itertools.combinations_with_replacement(range(len(EVERY)), 2):
        chance = float(pi_N[i] * pi_N[j]) * (1 if i == j else 2)
        mean += chance * gradient_power(logits_NLK[[i, j]], EVERY[[i, j]], reward_N[[i, j]]).signal
    assert mean == pytest.approx(exact)


def test_the_skip_penalty_is_of_the_bits_that_are_asked() -> None:
    policy = policy_of(IndependentConfig(), 1.0)
    scored = policy.score(EVERY)
    penalty_N = skip_penalty(SPACE, scored, 0.4)
    yes_NL = policy.logits(EVERY).softmax(-1)[..., 1].detach()
    for n, asked_L in enumerate(ASKED.tolist()):
        total = 0.0
        for place, decision in enumerate(DECISIONS):
            if decision.kind == "skip" and asked_L[place]:
                q = float(yes_NL[n, place])
                total += q * math.log(q / 0.4) + (1 - q) * math.log((1 - q) / 0.6)
        assert float(penalty_N[n].detach()) == pytest.approx(total / 2)


def test_parameter_free_options_are_counted_where_they_are_asked() -> None:
    a = parameter_free(SPACE, (0, 0, 0, 0, 0, 0, 0, 1, 0))
    assert a is not None
    assert a[:2] == (1, 1)
    assert a[2:] == pytest.approx((1 / 3, 1 / 3))
    relu = parameter_free(SPACE, (1, 1, 1, 0, 0, 0, 0, 1, 0))
    assert relu is not None
    assert relu[:2] == (1, 2)
    assert relu[2:] == pytest.approx((1 / 3 + 1 / 2, 1 - 2 / 3 * 1 / 2))


def test_features_of_inactive_decisions_are_zero() -> None:
    features = Features(SPACE, lambda architecture: (1.0,), 0)
    widths = [len(decision.options) for decision in DECISIONS]
    names = {(decision.kind, option) for decision in DECISIONS for option in decision.options}
    for architecture in SPACE.enumerate():
        asked_L = asked(architecture.choices)
        raw_D = features._raw(architecture)
        one_hot = np.split(raw_D[1 + len(names) :], np.cumsum(widths)[:-1])
        assert [row.sum() for row in one_hot] == list(map(float, asked_L))
        assert raw_D[1 : 1 + len(names)].sum() == sum(asked_L)
        for row, choice, is_asked in zip(one_hot, architecture.choices, asked_L, strict=True):
            assert row[choice] == is_asked


def test_architectures_with_every_operation_use_each_where_it_is_asked() -> None:
    few = with_every_operation(SPACE, random.Random(0))
    used = {
        decision.options[choice]
        for architecture in few
        for decision, choice, is_asked in zip(
            DECISIONS, architecture.choices, asked(architecture.choices), strict=True
        )
        if is_asked
    }
    assert {"a", "b", "c", "3", "5", "7", "tanh", "relu"} <= used
    assert len(few) <= 8


def mean_of_logs(choices_NL: Tensor) -> float:
    return float(np.mean([math.log(ways(set(probabilities()), tuple(path))) for path in choices_NL.tolist()]))


@torch.no_grad()
@pytest.mark.parametrize("space", [SPACE, TREE], ids=["nested", "tree"])
def test_the_share_of_the_entropy_is_of_what_is_possible_along_the_paths(space: Space) -> None:
    """By the enumerated space: never above 1, and 1 only where all options that can be taken are equally probable."""
    listed = {architecture.choices for architecture in space.enumerate()}
    assert sum(1 / ways(listed, path) for path in listed) == pytest.approx(1)
    every = torch.tensor(sorted(listed))
    policy = build_controller(IndependentConfig(), space, seed=0)
    assert isinstance(policy, PolicyGradientController)
    for spread in (0.0, 0.3, 2.0):
        for parameter in policy.policy.parameters():
            torch.nn.init.normal_(parameter, std=spread, generator=seeded(1))
        scored = policy.policy.score(every)
        for row, path in enumerate(every.tolist()):
            one = reward_and_entropy(space, scored.rows([row]), torch.ones(1))
            expected = float(scored.entropy_N[row]) / math.log(ways(listed, tuple(path)))
            assert one["entropy_share"] == pytest.approx(expected)
            assert one["entropy_share"] < 1 + 1e-6
        if space is TREE and spread == 0:
            assert float(scored.entropy_N.max()) > math.log(space.count())
            assert reward_and_entropy(space, scored, torch.ones(len(every)))[
                "entropy_share"
            ] == pytest.approx(1)


def test_the_uniform_controller_proposes_what_sampling_gives_and_reports_its_entropy() -> None:
    controller = UniformController(SPACE)
    proposals = controller.propose(3000, seeded(0))
    logged = controller.feedback(proposals, torch.rand(3000, generator=seeded(1)))
    entropy = -sum(p * math.log(p) for p in probabilities().values())
    assert logged["entropy"] == pytest.approx(entropy, rel=0.02)
    assert logged["entropy_share"] == pytest.approx(logged["entropy"] / mean_of_logs(proposals.choices_NL))
    assert controller.mode() == next(SPACE.enumerate()).choices
    assert {a.choices for a in samples(3000)} == set(map(tuple, proposals.choices_NL.tolist()))
