"""The search child against records of the authors' corrected code (google-research, enas_lm, 3424ef2).

`data/enas_lm_child_search.npz` holds, in float32, the weights of 8 searched nodes (width 16, 50 words), ten
architectures and what the code computed for them on windows of 4 rows and 7 steps. Of the weights after the
training step it holds the ones on the path, `train/w_after/layer_k` [16, 32]; the others did not change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture
from enas.spaces.recurrent.net import CellConfig, SupernetCell
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.language import nll
from enas.tasks.language import window_loss as loss_of
from enas.tasks.language_model import NO_MASKS, Features, LanguageModel, Masks
from enas.tasks.language_settings import RegularisationConfig
from enas.trainer import descend

NODES, HIDDEN, VOCABULARY, BATCH = 8, 16, 50, 4
FUNCTIONS = ("tanh", "relu", "sigmoid", "identity")
SPACE = RecurrentSpace(NODES, FUNCTIONS, input_function="tanh")
L2 = 8e-7
TRAINED = 6
"""The architecture of the training step."""
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3

RECORDS = dict(np.load(Path(__file__).parent / "data" / "enas_lm_child_search.npz"))


def record(name: str) -> Tensor:
    return torch.from_numpy(RECORDS[name])


def time_first(name: str) -> Tensor:
    """A record [B, T, ...] as [T, B, ...]; words as indices."""
    value = record(name).transpose(0, 1)
    return value if value.is_floating_point() else value.long()


def architecture(arc: int) -> Architecture:
    return SPACE.parse(" ".join(map(str, RECORDS["arcs"][arc])))


def by_block(prefix: str) -> dict[str, Tensor]:
    """The record's arrays under the names of the model's parameters."""
    tensors = {
        "embedding.weight": record(f"{prefix}/embedding"),
        "cell.input_weights.shared": record(f"{prefix}/w_prev"),
    }
    for node in range(1, NODES + 1):
        bank = record(f"{prefix}/layer_{node}")
        for source in range(node):
            for number, function in enumerate(FUNCTIONS):
                tensors[f"cell.node_weights.{node}-{source}-{function}"] = bank[number, source]
    return tensors


def language_model() -> LanguageModel:
    generator = torch.Generator().manual_seed(0)
    cell = SupernetCell(SPACE, HIDDEN, CellConfig("function-source", "all", "none"), 0.04, generator)
    model = LanguageModel(cell, VOCABULARY, 0.04, generator)
    model.load_state_dict(by_block("w"))  # strict: the names and shapes are all there are
    return model.eval()


def window_features(model: LanguageModel, arc: int, masks: Masks = NO_MASKS) -> Features:
    return model.features(time_first("x"), record("s0"), masks, architecture=architecture(arc))


def window_loss(model: LanguageModel, features: Features, slowness: float = 0.0) -> tuple[Tensor, Tensor]:
    config = RegularisationConfig(l2=0.0, slowness=slowness)
    return loss_of(model, features, time_first("y"), config)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """|actual - expected| <= 1e-5 max(1, |expected|)."""
    assert actual.shape == expected.shape
    assert ((actual - expected).abs() <= TOLERANCE * expected.abs().clamp(min=1)).all()


def assert_gradients_close(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert not expected[name].any(), name
        else:
            error = parameter.grad - expected[name]
            assert error.norm() <= GRADIENT_TOLERANCE * expected[name].norm() + 1e-6, name


@pytest.mark.parametrize("arc", range(10))
def test_logits_states_and_loss(arc: int) -> None:
    model = language_model()
    with torch.no_grad():
        logits_TBV, state_BD = model(time_first("x"), record("s0"), architecture=architecture(arc))
        features = window_features(model, arc)
    assert_close(logits_TBV.transpose(0, 1), record("logits")[arc])
    assert_close(features.hidden_TBD.transpose(0, 1), record("all_s")[arc])
    assert_close(features.state, record("all_s")[arc, :, -1])
    assert torch.equal(features.state, state_BD)
    with torch.no_grad():
        assert_close(window_loss(model, features)[0], record("loss")[arc])
    each_N = nll(model, features, time_first("y"))
    expected_N = F.cross_entropy(
        record("logits")[arc].flatten(0, 1), record("y").long().flatten(), reduction="none"
    )
    assert_close(each_N.view(-1, BATCH).t().flatten(), expected_N)


@pytest.mark.parametrize("arc", [0, 6])
def test_the_gradient_of_the_loss(arc: int) -> None:
    model = language_model()
    window_loss(model, window_features(model, arc))[0].backward()
    assert_gradients_close(model, by_block(f"grad/arc{arc}"))


def test_a_second_window_with_the_state_carried() -> None:
    model = language_model()
    with torch.no_grad():
        first = window_features(model, 0)
        second = model.features(time_first("carry/x"), first.state, architecture=architecture(0))
        each_N = nll(model, second, time_first("carry/y"))
    assert_close(second.state, record("carry/final_state"))
    assert_close(each_N.mean(), record("carry/loss"))


def training_masks() -> Masks:
    """The recorded masks; the code multiplies the looked-up embeddings by two of them."""
    return Masks(
        words_TB=record("train/mask_e")[time_first("x"), 0],
        input_BD=record("train/mask_i")[:, 0] * record("train/mask_x"),
        state_BD=record("train/mask_s"),
        output_BD=record("train/mask_o")[:, 0],
    )


def l2_matrices(model: LanguageModel) -> list[nn.Parameter]:
    """What the code's L2 acts on: the matrices of the input node and of nodes 2 to 8; it misses node 1."""
    cell = model.cell
    assert isinstance(cell, SupernetCell)
    weights = cell.weights(architecture(TRAINED))
    return [p for p in (weights.input_2DE, *weights.nodes_DE[1:]) if isinstance(p, nn.Parameter)]


def test_a_whole_training_step() -> None:
    """Masks, losses, gradient, clipping and SGD.

    The code's L2 is a slip, 0.5·Σw⁴ instead of Σw²; the package has no such term: it is added by hand here.
    """
    model = language_model().train()
    features = window_features(model, TRAINED, training_masks())
    assert_close(features.hidden_TBD.transpose(0, 1), record("train/all_s"))
    logits_TBV = F.linear(features.output_TBD, model.embedding.weight)
    assert_close(logits_TBV.transpose(0, 1), record("train/logits"))
    assert_close(features.state, record("train/all_s")[:, -1])

    loss, total = window_loss(model, features, slowness=1.0)
    assert_close(loss, record("train/loss"))
    matrices = l2_matrices(model)
    assert len(matrices) == NODES
    l2 = torch.stack([0.5 * matrix.pow(4).sum() for matrix in matrices]).sum()
    assert_close(l2, record("train/l2"))
    assert_close(total + L2 * l2, record("train/reg_loss"))

    (total + L2 * l2).backward()
    assert_gradients_close(model, by_block("train/grad"))

    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    norm = descend(optimizer, float(record("train/lr")), 0.1)
    assert_close(torch.tensor(norm), record("train/grad_norm"))

    before, after = by_block("w"), weights_after()
    for name, parameter in model.named_parameters():
        expected = after.get(name, before[name])
        assert_close(parameter.detach(), expected)
        if name in after:
            step, expected_step = parameter.detach() - before[name], expected - before[name]
            assert (step - expected_step).norm() <= GRADIENT_TOLERANCE * expected_step.norm() + 1e-6, name
        else:
            assert torch.equal(parameter.detach(), expected)


def weights_after() -> dict[str, Tensor]:
    """The weights on the path after the step."""
    tokens = RECORDS["arcs"][TRAINED]
    after = {
        "embedding.weight": record("train/w_after/embedding"),
        "cell.input_weights.shared": record("train/w_after/w_prev"),
    }
    for node in range(1, NODES + 1):
        source, function = tokens[2 * node - 2], FUNCTIONS[tokens[2 * node - 1]]
        after[f"cell.node_weights.{node}-{source}-{function}"] = record(f"train/w_after/layer_{node}")
    return after
