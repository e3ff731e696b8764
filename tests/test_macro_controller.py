"""The LSTM controller of whole networks: against its description, step by step, and what its skip bits mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from enas.controllers import LSTMConfig, UniformConfig, build_controller
from enas.controllers.base import Proposals
from enas.controllers.lstm_macro import MacroLSTMPolicy
from enas.controllers.reinforce import skip_penalty, taken_action_entropy
from enas.spaces.macro.space import MacroSpace
from tests.tiny import published

PAPER_MACRO = published("macro-paper")
AUTHORS_MACRO = published("macro-authors")

SPACE = MacroSpace(4)
NO, YES = 0, 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_policy(config: LSTMConfig, space: MacroSpace = SPACE) -> MacroLSTMPolicy:
    """In float64, with weights far from uniform."""
    policy = MacroLSTMPolicy(space, config, seeded(0)).double()
    generator = seeded(1)
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=1.0, generator=generator)
    return policy


def logits_one_by_one(
    policy: MacroLSTMPolicy, config: LSTMConfig, space: MacroSpace, choices: tuple[int, ...]
) -> list[Tensor]:
    """The logits of every decision of one network, as the authors' code has them, but for the anchors of the bits.

    Written apart from the package: torch's own LSTM cell, one network and one bit at a time, columns i, f, g, o.
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
    zero = torch.zeros(units, dtype=torch.float64)
    state = (zero, zero)
    word: Tensor = policy.empty_S
    anchor_of_layer: list[Tensor] = []
    logits: list[Tensor] = []
    for layer in range(space.layers):
        state = cell(word, state)
        logits.append(squash(policy.softmax_FS @ state[0]))
        state = cell(policy.embedding_FS[next(given)], state)
        word, taken = zero, 0
        for j in range(layer):
            key = zero if j == 0 else anchor_of_layer[j - 1] @ policy.key_SS
            z = policy.attention_S @ torch.tanh(state[0] @ policy.query_SS + key)
            logits.append(squash(torch.stack([-z, z])))
            if next(given) == YES:
                word, taken = word + (zero if j == 0 else anchor_of_layer[j - 1]), taken + 1
        word = policy.empty_S if layer == 0 else word / (1 + taken)
        anchor_of_layer.append(state[0])
    return logits


@pytest.mark.parametrize(
    "config",
    [
        LSTMConfig(hidden=8),
        LSTMConfig(hidden=8, temperature=None, tanh_constant=1.5),
        LSTMConfig(hidden=8, tanh_constant=None),
        LSTMConfig(hidden=8, tied_softmax=True),
    ],
    ids=["paper", "authors", "no-tanh", "tied"],
)
def test_the_logits_are_those_of_the_description_step_by_step(config: LSTMConfig) -> None:
    policy = random_policy(config)
    choices_NL = policy.sample(12, seeded(1)).choices_NL
    for choices_L, logits_LK in zip(choices_NL.tolist(), policy.logits(choices_NL), strict=True):
        expected = logits_one_by_one(policy, config, SPACE, tuple(choices_L))
        for logits_K, decision, right in zip(logits_LK, SPACE.decisions, expected, strict=True):
            torch.testing.assert_close(logits_K[: len(decision.options)], right, rtol=1e-12, atol=1e-12)
            assert logits_K[len(decision.options) :].isneginf().all()


def test_a_skip_is_drawn_with_the_probability_sigmoid_of_twice_its_attention() -> None:
    config = LSTMConfig(hidden=8, temperature=None, tanh_constant=None)
    policy = random_policy(config)
    proposals = policy.sample(5, seeded(2))
    logits_NLK = policy.logits(proposals.choices_NL)
    for position, decision in enumerate(SPACE.decisions):
        if decision.kind == "skip":
            z_N = logits_NLK[:, position, YES]
            sign_N = 2.0 * proposals.choices_NL[:, position] - 1
            torch.testing.assert_close(
                proposals.log_prob_NL[:, position], torch.nn.functional.logsigmoid(2 * z_N * sign_N)
            )


def position_of(kind: str, layer: int, bit: int = 0) -> int:
    positions = [i for i, d in enumerate(SPACE.decisions) if (d.kind, d.node) == (kind, layer)]
    return positions[bit]


def test_a_bit_attends_to_the_tensor_that_it_takes() -> None:
    """With the query at zero a bit sees its own anchor only: T[j], the output of layer j-1, and so all up to there."""
    policy = random_policy(LSTMConfig(hidden=8))
    with torch.no_grad():
        policy.query_SS.zero_()
    base_L = torch.zeros(len(SPACE.decisions), dtype=torch.int64)
    for changed in range(SPACE.layers):
        other_L = base_L.clone()
        other_L[position_of("operation", changed)] = 1
        base_LK, other_LK = policy.logits(torch.stack([base_L, other_L]))
        for layer in range(SPACE.layers):
            for bit in range(layer):
                position = position_of("skip", layer, bit)
                depends = (base_LK[position, YES] - other_LK[position, YES]).abs().item() > 1e-9
                assert depends == (bit - 1 >= changed), (
                    f"layer {layer} bit {bit}, operation of layer {changed}"
                )


def test_the_stem_is_the_anchor_zero() -> None:
    """Neither attention nor the next step sees more of it than that it is there, and whether it was taken."""
    policy = random_policy(LSTMConfig(hidden=8))
    with torch.no_grad():
        policy.query_SS.zero_()
    proposals = policy.sample(20, seeded(3))
    logits_NLK = policy.logits(proposals.choices_NL)
    for layer in range(1, SPACE.layers):
        assert (logits_NLK[:, position_of("skip", layer), :2] == 0).all()


def test_the_numbers_of_parameters_and_the_start_are_those_of_the_released_code() -> None:
    """41,856 parameters; logits near zero, so nearly the largest entropy, 12 ln 6 + 66 ln 2 = 67.2 nats."""
    space = MacroSpace()
    policy = MacroLSTMPolicy(space, AUTHORS_MACRO, seeded(0))
    assert sum(parameter.numel() for parameter in policy.parameters()) == 41_856
    largest = 12 * math.log(6) + 66 * math.log(2)
    assert 0.99 * largest < policy.sample(10, seeded(1)).entropy_N.mean().item() < largest


def test_weights_of_zero_are_the_uniform_distribution() -> None:
    space = MacroSpace(12)
    policy = MacroLSTMPolicy(space, PAPER_MACRO, seeded(0)).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    log_prob_N = policy.sample(5, seeded(0)).log_prob_N
    torch.testing.assert_close(log_prob_N, torch.full((5,), -12 * math.log(6) - 66 * math.log(2)).double())


def test_what_the_code_calls_entropy_is_26_of_67_nats_where_the_policy_is_uniform() -> None:
    """Σ of p log(1/p) of the options taken: 12 (ln 6)/6 + 66 (ln 2)/2 = 26.46."""
    proposals = build_controller(UniformConfig(), MacroSpace(12), seed=0).propose(3, seeded(0))
    expected = 12 * math.log(6) / 6 + 66 * math.log(2) / 2
    assert expected == pytest.approx(26.46, abs=0.005)
    torch.testing.assert_close(taken_action_entropy(proposals.log_prob_NL), torch.full((3,), expected))


def proposals_with_skip_probability(space: MacroSpace, q: float) -> Proposals:
    """Ten networks of a policy that takes every skip connection with probability q."""
    logits_1LK = torch.zeros(1, len(space.decisions), 6, dtype=torch.float64)
    for position, decision in enumerate(space.decisions):
        logits_1LK[:, position, len(decision.options) :] = -math.inf
        if decision.kind == "skip":
            logits_1LK[:, position, YES] = math.log(q / (1 - q))
    choices_NL = torch.randint(2, (10, len(space.decisions)), generator=seeded(0))
    return Proposals.from_logits(choices_NL, logits_1LK)


def test_the_skip_penalty_is_zero_at_its_rate_and_least_there() -> None:
    space = MacroSpace(6)
    rates = torch.arange(0.05, 1.0, 0.05).tolist()
    penalties = [
        skip_penalty(space, proposals_with_skip_probability(space, q), 0.4).mean().item() for q in rates
    ]
    assert penalties[rates.index(min(rates, key=lambda q: abs(q - 0.4)))] == pytest.approx(0.0, abs=1e-12)
    assert min(range(len(rates)), key=penalties.__getitem__) == 7
    assert rates[7] == pytest.approx(0.4)
    assert all(penalty > 1e-3 for i, penalty in enumerate(penalties) if i != 7)


def test_the_skip_penalty_is_the_mean_over_layers_of_the_sum_over_bits() -> None:
    """Every bit at q: 1 + 2 + ... + 5 bits in the five layers that have any."""
    space, q = MacroSpace(6), 0.7
    kl = q * math.log(q / 0.4) + (1 - q) * math.log((1 - q) / 0.6)
    penalty_N = skip_penalty(space, proposals_with_skip_probability(space, q), 0.4)
    torch.testing.assert_close(penalty_N, torch.full((10,), kl * 15 / 5).double())


def test_a_space_of_one_layer_has_no_skip_penalty() -> None:
    proposals = MacroLSTMPolicy(MacroSpace(1), LSTMConfig(hidden=8), seeded(0)).sample(3, seeded(0))
    assert torch.equal(skip_penalty(MacroSpace(1), proposals, 0.4), torch.zeros(3))


def test_the_skip_penalty_is_finite_where_a_skip_is_certain() -> None:
    """In float32, where 1 - q is exactly 0."""
    logits_1LK = torch.tensor([[[0.0, -math.inf], [0.0, -math.inf], [-60.0, 60.0]]]).requires_grad_()
    proposals = Proposals.from_logits(torch.tensor([[0, 0, YES]]), logits_1LK)
    penalty_N = skip_penalty(MacroSpace(2, ("conv3x3",)), proposals, 0.4)
    torch.testing.assert_close(penalty_N, torch.tensor([-math.log(0.4)]))
    penalty_N.sum().backward()
    assert logits_1LK.grad is not None
    assert logits_1LK.grad.isfinite().all()
