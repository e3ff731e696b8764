"""What is particular to the LSTM controller of cells; the golden test holds its numbers to the released code's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from enas.architecture import Architecture, Decision, Graph, Space
from enas.controllers import LSTMConfig, build_controller
from enas.controllers.lstm_micro import MicroLSTMPolicy
from enas.errors import ConfigError
from enas.spaces.micro.space import MicroSpace
from tests.tiny import published

PAPER_MICRO = published("micro-paper")
AUTHORS_MICRO = published("micro-authors")

NORMAL, REDUCTION = slice(0, 20), slice(20, 40)
"""Where the decisions of the two cells of five nodes stand."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def operation_probabilities(policy: MicroLSTMPolicy, n: int = 8) -> tuple[Tensor, Tensor]:
    """Of all operation decisions of the normal and of the reduction cell, along n sampled paths [.., 5]."""
    p_NLK = policy.logits(policy.sample(n, seeded(0)).choices_NL).softmax(-1)
    is_operation_L = torch.tensor([decision.kind == "operation" for decision in policy.space.decisions])
    normal, reduction = (
        p_NLK[:, cell][:, is_operation_L[cell], :5].flatten(0, 1) for cell in (NORMAL, REDUCTION)
    )
    return normal, reduction


def zeroed(policy: MicroLSTMPolicy) -> MicroLSTMPolicy:
    """With no word or state that says anything, but the biases as they start."""
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name != "prior_MF":
                parameter.zero_()
    return policy


def test_the_numbers_of_parameters_are_those_of_the_released_code_and_the_prior() -> None:
    plain = LSTMConfig(hidden=64)
    for config, count in ((plain, 41_733), (replace(plain, operation_prior="authors"), 41_733 + 2 * 5)):
        policy = MicroLSTMPolicy(MicroSpace(), config, seeded(0))
        assert sum(parameter.numel() for parameter in policy.parameters()) == count


def test_without_a_prior_operations_start_uniform() -> None:
    """Within the small logits of small initial weights; exactly, where those are zero."""
    policy = MicroLSTMPolicy(MicroSpace(), PAPER_MICRO, seeded(0))
    assert (policy.bias_F == 0).all()
    for p in operation_probabilities(policy):
        assert (p - 0.2).abs().max() < 0.01
    log_prob_N = zeroed(policy).sample(4, seeded(0)).log_prob_N
    torch.testing.assert_close(log_prob_N, torch.full((4,), -math.log(MicroSpace().count())))


@pytest.mark.parametrize("config", [PAPER_MICRO, AUTHORS_MICRO], ids=["paper", "authors"])
def test_the_logit_of_every_operation_learns(config: LSTMConfig) -> None:
    """In the released code those of the two separable convolutions have a gradient of exactly 0."""
    policy = MicroLSTMPolicy(MicroSpace(), config, seeded(0))
    choices_NL = policy.sample(1, seeded(0)).choices_NL
    (-policy.score(choices_NL).log_prob_N).sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
    assert policy.bias_F.grad is not None
    assert policy.softmax_FS.grad is not None
    assert (policy.bias_F.grad.abs() > 1e-3).all()
    assert (policy.softmax_FS.grad.abs().sum(1) > 1e-3).all()
    if policy.prior_MF is not None:
        assert policy.prior_MF.grad is not None
        assert (policy.prior_MF.grad.abs() > 1e-3).all()


def test_the_prior_starts_at_the_probabilities_of_the_released_code() -> None:
    policy = zeroed(MicroLSTMPolicy(MicroSpace(), AUTHORS_MICRO, seeded(0)))
    normal, reduction = operation_probabilities(policy)
    for p, expected in (
        (normal, [0.315, 0.315, 0.123, 0.123, 0.123]),
        (reduction, [0.254, 0.254, 0.164, 0.164, 0.164]),
    ):
        assert (p - torch.tensor(expected)).abs().max() < 5e-4


def test_the_prior_goes_by_the_names_of_the_operations() -> None:
    for names, sep in ((("max3x3", "sep5x5"), 1), (("sep3x3", "identity"), 0)):
        policy = zeroed(MicroLSTMPolicy(MicroSpace(1, names), AUTHORS_MICRO, seeded(0)))
        logits_LK = policy.logits(torch.zeros(1, 8, dtype=torch.int64))[0]
        for position, margin in ((2, 0.44 + 0.5), (6, 0.44)):
            actual = logits_LK[position, sep] - logits_LK[position, 1 - sep]
            assert actual.item() == pytest.approx(margin)


def test_one_cell_has_the_prior_of_a_normal_cell() -> None:
    policy = zeroed(MicroLSTMPolicy(MicroSpace(1, one_cell=True), AUTHORS_MICRO, seeded(0)))
    logits_LK = policy.logits(torch.zeros(1, 4, dtype=torch.int64))[0]
    pair = zeroed(MicroLSTMPolicy(MicroSpace(1), AUTHORS_MICRO, seeded(0)))
    torch.testing.assert_close(logits_LK, pair.logits(torch.zeros(1, 8, dtype=torch.int64))[0][:4])
    assert (logits_LK[2, 0] - logits_LK[2, 4]).item() == pytest.approx(0.44 + 0.5)


def test_operations_have_a_tanh_constant_of_their_own() -> None:
    """With weights so large that every tanh is ±1."""
    config = LSTMConfig(hidden=8, temperature=None, tanh_constant=1.10, operation_tanh_reduce=2.5)
    policy = MicroLSTMPolicy(MicroSpace(3), config, seeded(0)).double()
    with torch.no_grad():
        policy.softmax_FS.mul_(1e12)
        policy.attention_S.mul_(1e12)
    logits_NLK = policy.logits(policy.sample(3, seeded(0)).choices_NL)
    for position, decision in enumerate(policy.space.decisions):
        logits_NK = logits_NLK[:, position, : len(decision.options)].abs()
        constant = 1.10 if decision.kind == "source" else 0.44
        torch.testing.assert_close(logits_NK, torch.full_like(logits_NK, constant))


def test_the_reduction_cell_goes_on_from_the_normal_one() -> None:
    """Its first decision depends on the last of the normal cell."""
    policy = MicroLSTMPolicy(MicroSpace(2), LSTMConfig(hidden=8, init_range=2.0), seeded(0)).double()
    choices_NL = torch.zeros(2, 16, dtype=torch.int64)
    choices_NL[1, 7] = 3
    first_N = policy.logits(choices_NL)[:, 8, 0]
    assert (first_N[0] - first_N[1]).abs() > 1e-6
    assert torch.equal(*policy.logits(choices_NL)[:, :8])


class ThreeCells(Space):
    """A space with one node in each of three cells."""

    name = "three-cells"
    decisions = (
        Decision("source 1", "source", 2, ("0", "1")),
        Decision("source 2", "source", 2, ("0", "1")),
        Decision("operation 1", "operation", 2, ("sep3x3",)),
        Decision("operation 2", "operation", 2, ("sep3x3",)),
    ) * 3

    def format(self, architecture: Architecture) -> str:
        return str(architecture.choices)

    def parse(self, text: str) -> Architecture:
        return self.architecture([int(word) for word in text.split()])

    def graph(self, architecture: Architecture) -> Graph:
        return Graph("three cells", (), ())

    def to_json(self) -> dict[str, str]:
        return {"name": self.name}


def test_any_number_of_cells_is_decided_but_the_prior_is_for_two() -> None:
    space = ThreeCells()
    build_controller(LSTMConfig(hidden=8), space, seed=0)
    policy = MicroLSTMPolicy(space, LSTMConfig(hidden=8), seeded(0)).double()
    choices_NL = torch.tensor([architecture.choices for architecture in space.enumerate()])
    assert policy.score(choices_NL).log_prob_N.exp().sum().item() == pytest.approx(1.0)
    with pytest.raises(ConfigError, match=r"operation_prior.*normal and a reduction cell.*3"):
        MicroLSTMPolicy(space, LSTMConfig(hidden=8, operation_prior="authors"), seeded(0))
