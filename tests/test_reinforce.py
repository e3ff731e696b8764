"""REINFORCE against enumeration: on spaces of 16 and 64 architectures every expectation is an exact sum."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from enas.architecture import Space
from enas.controllers import LSTMConfig, Policy, ReinforceConfig
from enas.controllers.build import lstm_policy
from enas.controllers.categorical import gumbel_noise
from enas.controllers.independent import IndependentPolicy
from enas.controllers.policy_gradient import PolicyGradientController
from enas.controllers.reinforce import (
    ema_baseline,
    leave_one_out_baseline,
    normalise,
    policy_gradient_loss,
    rank_advantages,
    skip_penalty,
    taken_action_entropy,
)
from enas.errors import ConfigError, NotFiniteError
from enas.spaces.macro.space import MacroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from tests import conditional_space

SPACE = RecurrentSpace(2)
SKIP_SPACE = MacroSpace(3, ("conv3x3", "max3x3"))
SKIPS = (2, 4, 5)
"""The positions of its skip decisions: one in layer 1, two in layer 2."""


def random_policy(name: str, space: Space = SPACE) -> Policy:
    generator = torch.Generator().manual_seed(3)
    independent = name == "independent"
    policy = IndependentPolicy(space) if independent else lstm_policy(space, LSTMConfig(8), generator)
    for parameter in policy.double().parameters():
        torch.nn.init.normal_(parameter, std=0.7, generator=generator)
    return policy


def all_choices(space: Space = SPACE) -> Tensor:
    return torch.tensor([architecture.choices for architecture in space.enumerate()])


def gradient(value: Tensor, policy: Policy) -> Tensor:
    gradients = torch.autograd.grad(
        value, list(policy.parameters()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])


def rewards_of_all(space: Space = SPACE) -> Tensor:
    return torch.rand(space.count(), dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("space", [SPACE, conditional_space.SPACE], ids=lambda space: space.name)
@pytest.mark.parametrize("name", ["independent", "lstm"])
@pytest.mark.parametrize("baseline", [0.0, 0.37, -2.0])
def test_the_mean_gradient_with_a_constant_baseline_is_the_exact_one(
    space: Space, name: str, baseline: float
) -> None:
    policy, rewards_N = random_policy(name, space), rewards_of_all(space)
    log_prob_N = policy.score(all_choices(space)).log_prob_N
    pi_N = log_prob_N.detach().exp()
    losses = [policy_gradient_loss(log_prob_N[[i]], rewards_N[[i]] - baseline) for i in range(len(pi_N))]
    estimate = gradient(torch.stack(losses) @ pi_N, policy)
    exact = gradient(policy.score(all_choices(space)).log_prob_N.exp() @ rewards_N, policy)
    assert exact.norm() > 1e-3
    torch.testing.assert_close(-estimate, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["independent", "lstm"])
def test_the_mean_gradient_with_the_leave_one_out_baseline_is_the_exact_one(name: str) -> None:
    """Over all pairs of architectures, each weighted with its probability."""
    policy, rewards_N = random_policy(name), rewards_of_all()
    log_prob_N = policy.score(all_choices()).log_prob_N
    pi_N = log_prob_N.detach().exp()
    mean_loss = torch.zeros((), dtype=torch.float64)
    for i, j in itertools.product(range(len(pi_N)), repeat=2):
        advantage_N = rewards_N[[i, j]] - leave_one_out_baseline(rewards_N[[i, j]])
        mean_loss = mean_loss + pi_N[i] * pi_N[j] * policy_gradient_loss(log_prob_N[[i, j]], advantage_N)
    exact = gradient(policy.score(all_choices()).log_prob_N.exp() @ rewards_N, policy)
    torch.testing.assert_close(-gradient(mean_loss, policy), exact, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_an_independent_policys_entropy_is_the_exact_one() -> None:
    policy = random_policy("independent")
    scored = policy.score(all_choices())
    exact = gradient(-(scored.log_prob_N.exp() * scored.log_prob_N).sum(), policy)
    assert exact.norm() > 1e-3
    torch.testing.assert_close(gradient(policy.score(all_choices()).entropy_N.mean(), policy), exact)


def test_the_leave_one_out_baseline_is_the_mean_of_the_others() -> None:
    rewards = [0.3, -1.0, 2.5, 0.3]
    others = [sum(rewards[:i] + rewards[i + 1 :]) / 3 for i in range(4)]
    torch.testing.assert_close(leave_one_out_baseline(torch.tensor(rewards)).tolist(), others)


def test_the_leave_one_out_baseline_needs_two_proposals() -> None:
    with pytest.raises(ConfigError, match=r"at least 2 proposals.*not 1.*'ema'"):
        leave_one_out_baseline(torch.ones(1))


def test_the_moving_average_follows_its_recursion_and_holds_the_reward_it_is_subtracted_from() -> None:
    rewards_N, decay, previous = torch.tensor([1.0, 4.0, -2.0]), 0.9, 0.5
    b = [0.9 * 0.5 + 0.1 * 1.0]
    b.append(0.9 * b[0] + 0.1 * 4.0)
    b.append(0.9 * b[1] + 0.1 * -2.0)
    baseline_N = ema_baseline(rewards_N, previous, decay)
    torch.testing.assert_close(baseline_N.tolist(), b)
    before_N = torch.tensor([previous, *b[:2]], dtype=torch.float64)
    torch.testing.assert_close(rewards_N - baseline_N, decay * (rewards_N - before_N))


@pytest.mark.parametrize(("start", "first"), [("zero", 0.1 * 6.0), ("first-reward", 6.0)])
def test_where_the_moving_average_starts(start: Literal["zero", "first-reward"], first: float) -> None:
    config = ReinforceConfig(baseline="ema", decay=0.9, baseline_start=start, entropy_weight=0.0)
    controller = PolicyGradientController(IndependentPolicy(SPACE), config)
    proposals = controller.propose(1, torch.Generator().manual_seed(0))
    metrics = controller.feedback(proposals, torch.tensor([6.0]))
    assert metrics["baseline"] == pytest.approx(first)
    assert metrics["advantage"] == pytest.approx(6.0 - first)
    later = controller.feedback(controller.propose(1, torch.Generator().manual_seed(0)), torch.tensor([2.0]))
    assert later["baseline"] == pytest.approx(0.9 * first + 0.1 * 2.0)


def test_normalised_advantages_have_unit_root_mean_square_and_their_signs() -> None:
    advantage_N = torch.tensor([3.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    scaled_N = normalise(advantage_N)
    torch.testing.assert_close(scaled_N.square().mean().item(), 1.0)
    torch.testing.assert_close(scaled_N / scaled_N[0], advantage_N / advantage_N[0])


def test_equal_rewards_teach_nothing() -> None:
    """The mean of three 0.1 is rounded, and that rounding must not count as an advantage."""
    rewards_N = torch.full((3,), 0.1)
    assert normalise(rewards_N.double() - leave_one_out_baseline(rewards_N)).abs().max() < 1e-8


def test_no_gradient_flows_through_the_advantage() -> None:
    advantage_N = torch.ones(2, requires_grad=True)
    log_prob_N = torch.tensor([-1.0, -2.0], requires_grad=True)
    policy_gradient_loss(log_prob_N, advantage_N).backward()
    assert advantage_N.grad is None
    torch.testing.assert_close(log_prob_N.grad, torch.tensor([-0.5, -0.5]))


def test_the_taken_action_entropy_sums_p_log_p_of_the_taken_options() -> None:
    p_NL = torch.tensor([[0.5, 0.25], [1.0, 0.125]], dtype=torch.float64)
    expected_N = -(p_NL * p_NL.log()).sum(1)
    torch.testing.assert_close(taken_action_entropy(p_NL.log()), expected_N)


def update(config: ReinforceConfig, rewards: list[float]) -> tuple[dict[str, float], Tensor]:
    """The metrics and the gradient of one update of an independent policy with random logits."""
    policy = random_policy("independent")
    controller = PolicyGradientController(policy, config)
    proposals = controller.propose(len(rewards), torch.Generator().manual_seed(5))
    metrics = controller.feedback(proposals, torch.tensor(rewards))
    gradient_P = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    return metrics, gradient_P


def fresh(n: int) -> tuple[Policy, Tensor, Tensor, Tensor]:
    """The same policy and proposals as `update`'s, with their log-probabilities and entropies."""
    policy = random_policy("independent")
    scored = policy.sample(n, torch.Generator().manual_seed(5))
    return policy, scored.log_prob_N, scored.entropy_N, scored.log_prob_NL


def test_an_update_descends_the_loss_written_out() -> None:
    rewards = [1.0, 3.0, -2.0]
    metrics, actual_P = update(ReinforceConfig(entropy_weight=0.2), rewards)
    policy, log_prob_N, entropy_N, _ = fresh(3)
    advantage = torch.tensor([1.0 - 0.5, 3.0 + 0.5, -2.0 - 2.0], dtype=torch.float64)
    loss = -(log_prob_N * advantage / advantage.square().mean().sqrt()).mean() - 0.2 * entropy_N.mean()
    torch.testing.assert_close(actual_P, gradient(loss, policy))
    assert metrics["loss"] == pytest.approx(loss.item())
    assert metrics["grad_norm"] == pytest.approx(actual_P.norm().item())
    assert metrics["reward"] == pytest.approx(2.0 / 3)
    assert metrics["baseline"] == pytest.approx(2.0 / 3)
    assert metrics["advantage"] == pytest.approx(0.0, abs=1e-12)
    assert metrics["entropy"] == pytest.approx(entropy_N.mean().item())


def test_ranks_are_of_the_recent_rewards_and_see_no_distances() -> None:
    """By hand: of 1, 5, 5, 9 the share below 1 is 1/8, counting half of itself; below 5 it is 1/2; below 9 it is 7/8."""
    rewards_N, recent_W = torch.tensor([1.0, 5.0, 9.0]).double(), torch.tensor([5.0, 1.0, 5.0, 9.0]).double()
    expected = [math.sqrt(12) * place for place in (-3 / 8, 0, 3 / 8)]
    assert rank_advantages(rewards_N, recent_W).tolist() == pytest.approx(expected)
    torch.testing.assert_close(
        rank_advantages(rewards_N**5, recent_W**5), rank_advantages(rewards_N, recent_W)
    )
    many_N = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double()
    assert rank_advantages(many_N, many_N).mean().abs() < 1e-9
    assert rank_advantages(many_N, many_N).square().mean().item() == pytest.approx(1, abs=1e-3)


RANKS = ReinforceConfig(
    learning_rate=0.5,
    optimiser="sgd",
    baseline="ranks",
    window=4,
    normalise_advantages=False,
    entropy_weight=0.0,
)


def test_a_plain_step_goes_along_the_gradient_of_the_ranks_among_the_last_rewards() -> None:
    """The window keeps the last four rewards of three updates; one proposal an update is enough."""
    policy = IndependentPolicy(SPACE).double()
    controller = PolicyGradientController(policy, RANKS)
    generator = torch.Generator().manual_seed(0)
    for rewards in ([3.0, 1.0, 2.0], [4.0, 7.0]):
        controller.feedback(controller.propose(len(rewards), generator), torch.tensor(rewards))
    assert controller.recent_W.tolist() == [1.0, 2.0, 4.0, 7.0]
    before_LK, proposals = policy.logits_LK.detach().clone(), controller.propose(1, generator)
    metrics = controller.feedback(proposals, torch.tensor([5.0]))
    advantage = math.sqrt(12) * (2.5 / 4 - 0.5)  # above 2 and 4, below 7
    assert metrics["advantage"] == pytest.approx(advantage)
    assert metrics["baseline"] == 4.0
    scored = IndependentPolicy(SPACE).double()
    scored.logits_LK.data.copy_(before_LK)
    step = gradient(scored.score(proposals.choices_NL).log_prob_N.sum() * advantage, scored)
    torch.testing.assert_close((policy.logits_LK - before_LK).flatten().detach(), 0.5 * step)


def test_a_policy_of_ranks_goes_on_from_its_state_as_if_it_had_never_stopped() -> None:
    def updates(controller: PolicyGradientController, seeds: range) -> None:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            controller.feedback(controller.propose(3, generator), torch.rand(3, generator=generator))

    whole, first, second = (PolicyGradientController(IndependentPolicy(SPACE), RANKS) for _ in range(3))
    updates(whole, range(6))
    updates(first, range(3))
    state = first.state_dict()
    updates(first, range(3, 4))  # leaves the state as it was
    second.load_state_dict(state)
    updates(second, range(3, 6))
    assert torch.equal(whole.policy.table(), second.policy.table())
    assert torch.equal(whole.recent_W, second.recent_W)


def test_a_refused_update_leaves_the_recent_rewards_as_they_were() -> None:
    controller = PolicyGradientController(IndependentPolicy(SPACE), RANKS)
    proposals = controller.propose(2, torch.Generator().manual_seed(0))
    with pytest.raises(NotFiniteError):
        controller.feedback(proposals, torch.tensor([1.0, math.nan]))
    assert not len(controller.recent_W)


@pytest.mark.parametrize("entropy", ["reward", "taken-action-in-reward"])
def test_entropy_in_the_reward_has_no_gradient_of_its_own(
    entropy: Literal["reward", "taken-action-in-reward"],
) -> None:
    config = ReinforceConfig(
        baseline="ema", decay=0.5, baseline_start="zero", normalise_advantages=False, entropy=entropy
    )
    metrics, actual_P = update(config, [1.0])
    policy, log_prob_N, entropy_N, log_prob_NL = fresh(1)
    bonus_N = entropy_N if entropy == "reward" else taken_action_entropy(log_prob_NL)
    advantage_N = 0.5 * (1.0 + config.entropy_weight * bonus_N.detach())
    torch.testing.assert_close(actual_P, gradient(-(log_prob_N * advantage_N).mean(), policy))
    assert metrics["reward"] == pytest.approx(1.0)


def skip_penalty_by_enumeration(choices_NL: Tensor, log_prob_N: Tensor) -> Tensor:
    """The penalty of every architecture of `SKIP_SPACE` [N], from the probabilities of whole architectures alone."""
    pi_N = log_prob_N.exp()
    penalty_N = torch.zeros_like(pi_N)
    for position in SKIPS:
        same_NN = (choices_NL[:, None, :position] == choices_NL[None, :, :position]).all(-1).double()
        q_N = (same_NN @ (pi_N * choices_NL[:, position])) / (same_NN @ pi_N)
        penalty_N = penalty_N + q_N * (q_N / 0.4).log() + (1 - q_N) * ((1 - q_N) / 0.6).log()
    return penalty_N / 2


@pytest.mark.parametrize("name", ["independent", "lstm"])
def test_the_skip_penalty_and_its_gradient_are_those_of_the_enumerated_probabilities(name: str) -> None:
    policy, choices_NL = random_policy(name, SKIP_SPACE), all_choices(SKIP_SPACE)
    expected_N = skip_penalty_by_enumeration(choices_NL, policy.score(choices_NL).log_prob_N)
    actual_N = skip_penalty(SKIP_SPACE, policy.score(choices_NL), 0.4)
    torch.testing.assert_close(actual_N, expected_N)
    weights_N = rewards_of_all(SKIP_SPACE)
    exact = gradient(weights_N @ expected_N, policy)
    assert exact.norm() > 1e-3
    torch.testing.assert_close(gradient(weights_N @ actual_N, policy), exact, rtol=1e-9, atol=1e-12)


def mean_gradient_of_updates(policy: Policy, config: ReinforceConfig) -> Tensor:
    """The mean over all architectures of `SKIP_SPACE`, by probability, of an update's gradient with that one alone."""
    choices_NL, rewards_N = all_choices(SKIP_SPACE), rewards_of_all(SKIP_SPACE)
    controller = PolicyGradientController(policy, replace(config, learning_rate=1e-30))
    pi_N = policy.score(choices_NL).log_prob_N.detach().exp()
    total = torch.zeros(sum(p.numel() for p in policy.parameters()), dtype=torch.float64)
    for choices_L, reward, pi in zip(choices_NL, rewards_N, pi_N, strict=True):
        controller.moving_average = None
        controller.feedback(policy.score(choices_L.unsqueeze(0)), reward.unsqueeze(0))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters()]
        total += pi * torch.cat([g.flatten() for g in gradients])
    return total


HALVED = ReinforceConfig(
    baseline="ema",
    decay=0.5,
    baseline_start="zero",
    normalise_advantages=False,
    entropy_weight=0.0,
    skip_weight=0.8,
)
"""Half of the first reward is its baseline, so that its advantage is the other half."""


@pytest.mark.parametrize("name", ["independent", "lstm"])
def test_with_the_skip_penalty_in_the_reward_the_mean_gradient_is_that_of_the_penalised_reward(
    name: str,
) -> None:
    policy, choices_NL = random_policy(name, SKIP_SPACE), all_choices(SKIP_SPACE)
    log_prob_N = policy.score(choices_NL).log_prob_N
    penalised_N = rewards_of_all(SKIP_SPACE) - 0.8 * skip_penalty_by_enumeration(choices_NL, log_prob_N)
    exact = gradient(log_prob_N.exp() @ (0.5 * penalised_N.detach()), policy)
    unpenalised = gradient(policy.score(choices_NL).log_prob_N.exp() @ rewards_of_all(SKIP_SPACE) / 2, policy)
    actual = mean_gradient_of_updates(policy, replace(HALVED, skip_penalty="reward"))
    torch.testing.assert_close(-actual, exact, rtol=1e-6, atol=1e-9)
    if name == "independent":
        torch.testing.assert_close(exact, unpenalised)  # the same for every proposal, so it teaches nothing
    else:
        assert (exact - unpenalised).norm() > 1e-2 * exact.norm()


@pytest.mark.parametrize("name", ["independent", "lstm"])
def test_with_the_skip_penalty_as_regulariser_the_mean_gradient_is_that_of_reward_and_penalty(
    name: str,
) -> None:
    policy, choices_NL = random_policy(name, SKIP_SPACE), all_choices(SKIP_SPACE)
    log_prob_N = policy.score(choices_NL).log_prob_N
    penalty_N = skip_penalty_by_enumeration(choices_NL, log_prob_N)
    pi_N = log_prob_N.exp()
    objective = pi_N @ rewards_of_all(SKIP_SPACE) / 2 - 0.8 * pi_N.detach() @ penalty_N
    exact = gradient(objective, policy)
    actual = mean_gradient_of_updates(policy, replace(HALVED, skip_penalty="regulariser"))
    torch.testing.assert_close(-actual, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "learning_rate"), [("independent", 0.05), ("lstm", 0.01)])
@pytest.mark.parametrize("rate", [0.4, 0.2])
def test_by_the_penalty_alone_every_skip_is_taken_at_the_rate(
    name: str, learning_rate: float, rate: float
) -> None:
    """Equal rewards teach nothing; the probability that is drawn from goes to ρ, and the penalty to 0."""
    config = ReinforceConfig(learning_rate=learning_rate, entropy_weight=0.0, skip_weight=0.8, skip_rate=rate)
    controller = PolicyGradientController(random_policy(name, SKIP_SPACE), config)
    generator = torch.Generator().manual_seed(0)
    logged = [controller.feedback(controller.propose(4, generator), torch.ones(4)) for _ in range(250)]
    assert logged[0]["skip_penalty"] > 1e-2
    assert logged[-1]["skip_penalty"] < 1e-4
    taken_NM = controller.propose(4000, generator).choices_NL[:, list(SKIPS)].double()
    standard_error = math.sqrt(rate * (1 - rate) / 4000)
    assert (taken_NM.mean(0) - rate).abs().max().item() < 4 * standard_error + 5e-3


def test_the_skip_penalty_is_logged_unweighted_where_there_are_skips() -> None:
    policy = random_policy("lstm", SKIP_SPACE)
    proposals = policy.sample(3, torch.Generator().manual_seed(0))
    expected = skip_penalty(SKIP_SPACE, proposals, 0.4).mean().item()
    for weight in (0.0, 0.8):
        config = ReinforceConfig(learning_rate=1e-30, skip_weight=weight)
        metrics = PolicyGradientController(policy, config).feedback(
            policy.score(proposals.choices_NL), torch.tensor([1.0, 2.0, 4.0])
        )
        assert metrics["skip_penalty"] == pytest.approx(expected)
    assert "skip_penalty" not in update(ReinforceConfig(), [1.0, 3.0])[0]


def test_clipping_shortens_the_gradient_and_reports_its_length_before() -> None:
    free, free_P = update(ReinforceConfig(), [1.0, 3.0, -2.0])
    clipped, clipped_P = update(ReinforceConfig(max_grad_norm=0.01), [1.0, 3.0, -2.0])
    assert clipped["grad_norm"] == free["grad_norm"] > 0.01
    torch.testing.assert_close(clipped_P, free_P * 0.01 / free_P.norm(), rtol=1e-4, atol=0.0)


def test_a_gradient_that_is_not_finite_is_not_learnt() -> None:
    controller = PolicyGradientController(
        IndependentPolicy(SPACE), ReinforceConfig(normalise_advantages=False)
    )
    before = controller.state_dict()["policy"]["logits_LK"]
    proposals = controller.propose(2, torch.Generator().manual_seed(0))
    with pytest.raises(NotFiniteError, match="gradient of the controller"):
        controller.feedback(proposals, torch.tensor([1e300, -1e300], dtype=torch.float64))
    assert torch.equal(controller.state_dict()["policy"]["logits_LK"], before)


def test_gumbel_noise_follows_its_distribution() -> None:
    """Mean 0.5772 (Euler's constant), variance π²/6; 200,000 draws put both within 0.01."""
    noise = gumbel_noise((200_000,), torch.Generator().manual_seed(1), like=torch.zeros(1))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(1.64493, abs=0.02)


def test_gumbel_noise_is_finite_even_where_the_exponential_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plus infinity on an option that is missing, whose logit is minus infinity, would be drawn as NaN."""
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda tensor, generator: tensor.zero_())
    assert gumbel_noise((4,), torch.Generator(), like=torch.zeros(1)).isfinite().all()
