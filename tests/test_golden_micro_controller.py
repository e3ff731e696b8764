"""The LSTM controller of cells against records of the authors' first released code (melodyguan/enas, 4bcfd73).

`data/golden_micro_controller.npz` holds weights, ten (normal, reduction) pairs and what the code computed for
them, in float32, with the settings of the released script and two of the paper's: `big` with large random
weights, `init` with the code's own initial ones. Of the gradients of matrices it holds every fourth row.

A pair's tokens are (source 1, operation 1, source 2, operation 2) for each node; the controller decides both
sources first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enas.controllers import LSTMConfig
from enas.controllers.base import Proposals
from enas.controllers.lstm_micro import MicroLSTMPolicy
from enas.spaces.micro.space import MicroSpace
from tests.tiny import published

AUTHORS_MICRO = published("micro-authors")

SETTINGS = {
    "script": LSTMConfig(
        hidden=64, temperature=None, tanh_constant=1.10, operation_tanh_reduce=2.5, operation_prior="authors"
    ),
    "paper": LSTMConfig(
        hidden=64, temperature=5.0, tanh_constant=2.5, operation_tanh_reduce=1.0, operation_prior="authors"
    ),
    "paper_r25": LSTMConfig(
        hidden=64, temperature=5.0, tanh_constant=2.5, operation_tanh_reduce=2.5, operation_prior="authors"
    ),
}
CASES = [(weights, setting) for weights in ("big", "init") for setting in SETTINGS]
FIXED_BIAS = ((0.25, 0.25, -0.25, -0.25, -0.25), (0.0, 0.0, 0.0, 0.0, 0.0))
"""What the code adds to the logits of operations in the normal and in the reduction cell."""
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3

RECORDS = dict(np.load(Path(__file__).parent / "data" / "golden_micro_controller.npz"))


def record(name: str) -> Tensor:
    return torch.from_numpy(RECORDS[name])


def policy_of(weights: str, setting: str) -> MicroLSTMPolicy:
    policy = MicroLSTMPolicy(MicroSpace(nodes=5), SETTINGS[setting], torch.Generator().manual_seed(0))
    w_lstm = record(f"{weights}/w/w_lstm")
    policy.load_state_dict(
        {
            "empty_S": record(f"{weights}/w/g_emb")[0],
            "embedding_FS": record(f"{weights}/w/w_emb"),
            "softmax_FS": record(f"{weights}/w/w_soft").T,
            "bias_F": record(f"{weights}/w/b_soft")[0],
            "prior_MF": torch.tensor(FIXED_BIAS),
            "input_SG": w_lstm[:64],
            "state_SG": w_lstm[64:],
            "key_SS": record(f"{weights}/w/w_attn_1"),
            "query_SS": record(f"{weights}/w/w_attn_2"),
            "attention_S": record(f"{weights}/w/v_attn")[:, 0],
        }
    )
    return policy


def as_decided(tokens_NMT: Tensor) -> Tensor:
    """What belongs to the 20 tokens of both cells [N, 2, 20], in the order of the decisions [N, 40]."""
    n = len(tokens_NMT)
    return tokens_NMT.view(n, 2, 5, 4)[..., [0, 2, 1, 3]].reshape(n, 40)


def choices_of(weights: str, setting: str) -> Tensor:
    cells = [record(f"{weights}/{setting}/arcs_{cell}") for cell in ("normal", "reduce")]
    return as_decided(torch.stack(cells, 1).long())


def scored(weights: str, setting: str) -> Proposals:
    with torch.no_grad():
        return policy_of(weights, setting).score(choices_of(weights, setting))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """|actual - expected| <= 1e-5 max(1, |expected|)."""
    assert actual.shape == expected.shape
    assert ((actual - expected).abs() <= TOLERANCE * expected.abs().clamp(min=1)).all()


@pytest.mark.parametrize(("weights", "setting"), CASES)
def test_the_nll_of_every_decision(weights: str, setting: str) -> None:
    nll_NL = as_decided(record(f"{weights}/{setting}/nll_each"))
    assert_close(-scored(weights, setting).log_prob_NL, nll_NL)


@pytest.mark.parametrize(("weights", "setting"), CASES)
def test_the_logits_of_sources_and_operations(weights: str, setting: str) -> None:
    with torch.no_grad():
        logits = policy_of(weights, setting).logits(choices_of(weights, setting)).view(10, 2, 5, 4, 6)
    sources, source_records = logits[..., :2, :], record(f"{weights}/{setting}/logits_index")
    assert torch.equal(sources.isneginf(), source_records.isnan())
    assert_close(sources.nan_to_num(neginf=0.0), source_records.nan_to_num(nan=0.0))
    operations = logits[..., 2:, :]
    assert_close(operations[..., :5], record(f"{weights}/{setting}/logits_op"))
    assert operations[..., 5].isneginf().all()


@pytest.mark.parametrize(("weights", "setting"), CASES)
def test_the_entropy_of_every_decision_and_of_the_path(weights: str, setting: str) -> None:
    proposals = scored(weights, setting)
    assert_close(proposals.entropy_NL, as_decided(record(f"{weights}/{setting}/entropy_code_each")))
    assert_close(proposals.entropy_N, record(f"{weights}/{setting}/entropy_code_sum"))


@pytest.mark.parametrize("setting", ["script", "paper"])
@pytest.mark.parametrize("pair", [0, 6])
def test_the_gradient_of_the_nll(setting: str, pair: int) -> None:
    policy = policy_of("big", setting)
    choices_NL = choices_of("big", setting)[[pair]]
    (-policy.score(choices_NL).log_prob_N).sum().backward()
    recorded = {
        name: record(f"big/{setting}/grad/pair{pair}/{name}")
        for name in ("w_lstm", "g_emb", "w_emb", "w_soft", "b_soft", "w_attn_1", "w_attn_2", "v_attn")
    }
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    assert gradients.keys() == dict(policy.named_parameters()).keys()
    w_lstm = torch.cat([gradients["input_SG"], gradients["state_SG"]])
    actual = {
        "w_lstm": w_lstm[::4],
        "g_emb": gradients["empty_S"].unsqueeze(0),
        "w_emb": gradients["embedding_FS"],
        "w_soft": gradients["softmax_FS"].T,
        "b_soft": gradients["bias_F"].unsqueeze(0),
        "w_attn_1": gradients["key_SS"][::4],
        "w_attn_2": gradients["query_SS"][::4],
        "v_attn": gradients["attention_S"].unsqueeze(1),
    }
    for name, gradient in recorded.items():
        assert actual[name].shape == gradient.shape
        error = actual[name] - gradient
        assert error.norm() <= GRADIENT_TOLERANCE * gradient.norm() + 1e-6, name


def test_with_the_codes_own_bias_the_separable_convolutions_learn_nothing() -> None:
    """The defect itself: at 10 the tanh is flat in float32. No other test starts the bias there."""
    policy = policy_of("init", "script")
    (-policy.score(choices_of("init", "script")[[0]]).log_prob_N).sum().backward()
    assert policy.bias_F.grad is not None
    assert policy.softmax_FS.grad is not None
    assert (policy.bias_F.grad[:2] == 0).all()
    assert (policy.softmax_FS.grad[:2] == 0).all()
    for name, actual in (("b_soft", policy.bias_F.grad[None]), ("w_soft", policy.softmax_FS.grad.T)):
        gradient = record(f"init/script/grad/pair0/{name}")
        assert (actual - gradient).norm() <= GRADIENT_TOLERANCE * gradient.norm() + 1e-6


def test_the_authors_preset_starts_at_the_codes_entropy_without_the_flat_tanh() -> None:
    """57.2 of at most 58.5 nats; the code's ten pairs at its initial weights say the same."""
    policy = MicroLSTMPolicy(MicroSpace(nodes=5), AUTHORS_MICRO, torch.Generator().manual_seed(0))
    entropy = policy.score(choices_of("init", "script")).entropy_N.mean().item()
    assert entropy == pytest.approx(record("init/script/entropy_code_sum").mean().item(), abs=0.02)
    assert entropy == pytest.approx(57.2, abs=0.05)
