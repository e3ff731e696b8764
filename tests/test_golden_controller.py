"""The LSTM controller against records of the authors' corrected code (google-research, enas_lm, 3424ef2).

`data/enas_lm_controller.npz` holds weights, ten architectures and what the code computed for them, in
float32: `big8` with large random weights, `init9` with the code's own initial ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enas.controllers import ReinforceConfig
from enas.controllers.base import Proposals
from enas.controllers.lstm import LSTMPolicy
from enas.controllers.policy_gradient import PolicyGradientController
from enas.controllers.reinforce import ema_baseline, policy_gradient_loss, taken_action_entropy
from enas.spaces.recurrent.space import RecurrentSpace
from tests.tiny import published

AUTHORS = published("recurrent-authors")

FUNCTIONS = ("tanh", "relu", "sigmoid", "identity")
NODES = {"big8": 8, "init9": 9}
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3

RECORDS = dict(np.load(Path(__file__).parent / "data" / "enas_lm_controller.npz"))


def record(name: str) -> Tensor:
    return torch.from_numpy(RECORDS[name])


def policy_of(case: str) -> LSTMPolicy:
    space = RecurrentSpace(NODES[case], FUNCTIONS, input_function="tanh")
    policy = LSTMPolicy(space, AUTHORS, torch.Generator().manual_seed(0))
    w_lstm = record(f"{case}/w/w_lstm")
    policy.load_state_dict(
        {
            "empty_S": record(f"{case}/w/g_emb")[0],
            "embedding_FS": record(f"{case}/w/w_emb"),
            "softmax_FS": record(f"{case}/w/w_emb"),
            "input_SG": w_lstm[:64],
            "state_SG": w_lstm[64:],
            "key_SS": record(f"{case}/w/attn_w_1"),
            "query_SS": record(f"{case}/w/attn_w_2"),
            "attention_S": record(f"{case}/w/attn_v")[:, 0],
        }
    )
    return policy


def scored(case: str) -> Proposals:
    with torch.no_grad():
        return policy_of(case).score(record(f"{case}/arcs").long())


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """|actual - expected| <= 1e-5 max(1, |expected|)."""
    assert actual.shape == expected.shape
    assert ((actual - expected).abs() <= TOLERANCE * expected.abs().clamp(min=1)).all()


@pytest.mark.parametrize("case", NODES)
def test_the_nll_of_every_decision(case: str) -> None:
    assert_close(-scored(case).log_prob_NL, record(f"{case}/nll_each"))


@pytest.mark.parametrize("case", NODES)
def test_the_logits_of_sources_and_functions(case: str) -> None:
    with torch.no_grad():
        logits_NLK = policy_of(case).logits(record(f"{case}/arcs").long())
    index_NLK, function_NLK = record(f"{case}/logits_index"), record(f"{case}/logits_func")
    assert_close(logits_NLK[:, 1::2, :4], function_NLK)
    assert logits_NLK[:, 1::2, 4:].isneginf().all()
    assert torch.equal(logits_NLK[:, 0::2].isneginf(), index_NLK.isnan())
    assert_close(logits_NLK[:, 0::2].nan_to_num(neginf=0.0), index_NLK.nan_to_num(nan=0.0))


@pytest.mark.parametrize("case", NODES)
def test_the_true_entropy_of_every_decision(case: str) -> None:
    assert_close(scored(case).entropy_NL, record(f"{case}/entropy_true_each"))


@pytest.mark.parametrize("case", NODES)
def test_what_the_code_calls_entropy(case: str) -> None:
    log_prob_NL = scored(case).log_prob_NL
    each_NL = torch.stack([taken_action_entropy(column_N1) for column_N1 in log_prob_NL.split(1, dim=1)], 1)
    assert_close(each_NL, record(f"{case}/entropy_code_each"))
    assert_close(taken_action_entropy(log_prob_NL), record(f"{case}/entropy_code_sum"))


@pytest.mark.parametrize("arc", [3, 4])
def test_the_gradient_of_the_nll(arc: int) -> None:
    policy = policy_of("big8")
    (-policy.score(record("big8/arcs")[[arc]].long()).log_prob_N).sum().backward()
    w_lstm = record(f"big8/grad/arc{arc}/w_lstm")
    expected = {
        "empty_S": record(f"big8/grad/arc{arc}/g_emb")[0],
        "embedding_FS": record(f"big8/grad/arc{arc}/w_emb"),
        "input_SG": w_lstm[:64],
        "state_SG": w_lstm[64:],
        "key_SS": record(f"big8/grad/arc{arc}/attn_w_1"),
        "query_SS": record(f"big8/grad/arc{arc}/attn_w_2"),
        "attention_S": record(f"big8/grad/arc{arc}/attn_v")[:, 0],
    }
    actual = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        error = actual[name] - gradient
        assert error.norm() <= GRADIENT_TOLERANCE * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("case", NODES)
def test_three_updates_of_reward_baseline_and_loss_by_the_functions(case: str) -> None:
    """The average is updated before it is subtracted: with the one before, losses differ by 0.1 %."""
    proposals = scored(case)
    log_prob_NL, log_prob_N = proposals.log_prob_NL[4:7], proposals.log_prob_N[4:7]
    rewards_N = 80 / record(f"{case}/trainer/child_loss").exp() + 1e-5 * taken_action_entropy(log_prob_NL)
    assert_close(rewards_N, record(f"{case}/trainer/reward"))
    baseline_N = ema_baseline(rewards_N, previous=0.0, decay=0.999)
    assert_close(baseline_N, record(f"{case}/trainer/baseline_after"))
    losses = [policy_gradient_loss(log_prob_N[[i]], (rewards_N - baseline_N)[[i]]) for i in range(3)]
    assert_close(torch.stack(losses), record(f"{case}/trainer/loss"))


@pytest.mark.parametrize("case", NODES)
def test_three_updates_of_the_controller(case: str) -> None:
    """The records hold the weights still; a learning rate far below their rounding does so here."""
    still = ReinforceConfig(**{**vars(AUTHORS.reinforce), "learning_rate": 1e-30})
    controller = PolicyGradientController(policy_of(case), still)
    losses, baselines = [], []
    for i in range(3):
        proposals = controller.policy.score(record(f"{case}/arcs")[[4 + i]].long())
        metrics = controller.feedback(proposals, 80 / record(f"{case}/trainer/child_loss")[[i]].exp())
        losses.append(metrics["loss"])
        baselines.append(metrics["baseline"])
    assert_close(torch.tensor(losses), record(f"{case}/trainer/loss"))
    assert_close(torch.tensor(baselines), record(f"{case}/trainer/baseline_after"))
