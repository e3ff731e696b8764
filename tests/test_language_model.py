"""Dropout masks, the tied softmax, carried states and the LSTM, against definitions and PyTorch's layers."""

from __future__ import annotations

import math
import random

import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.errors import ConfigError
from enas.masks import masks_from
from enas.runs.recurrent import build_lstm
from enas.spaces.recurrent.net import CellConfig, ChildCell, SupernetCell
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.language_model import (
    NO_MASKS,
    LanguageModel,
    LSTMCell,
    Masks,
    detach,
    draw_masks,
    lstm_hidden_of_equal_size,
)
from enas.tasks.language_settings import ChildTrainingConfig, DropoutConfig

T, B, D, V = 6, 4, 8, 20
SPACE = RecurrentSpace(4)
ARCHITECTURE = SPACE.sample(random.Random(1))
EVERY_PLACE = DropoutConfig(
    words=0.3, words_per="sequence", embeddings=0.2, cell_input=0.4, state=0.25, output=0.5
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(time: int = T, batch: int = B, vocabulary: int = V, seed: int = 3) -> Tensor:
    return torch.randint(vocabulary, (time, batch), generator=seeded(seed))


def child(init_range: float = 0.5) -> LanguageModel:
    cell = ChildCell(ARCHITECTURE, D, CellConfig(), init_range, seeded(1))
    return LanguageModel(cell, V, init_range, seeded(2))


def lstm(init_range: float = 0.5) -> LanguageModel:
    return LanguageModel(LSTMCell(D, seeded(1)), V, init_range, seeded(2))


def drawn_masks(
    config: DropoutConfig, tokens_TB: Tensor, vocabulary: int, hidden: int, generator: torch.Generator
) -> Masks:
    with masks_from(generator):
        return draw_masks(config, tokens_TB, vocabulary, torch.empty(vocabulary, hidden))


def is_binomial(dropped: Tensor, rate: float) -> bool:
    test = scipy.stats.binomtest(int(dropped.sum()), dropped.numel(), rate)
    return bool(test.pvalue > 1e-3)


# Masks


def test_nothing_is_dropped_by_default() -> None:
    assert drawn_masks(DropoutConfig(), words(), V, D, seeded()) == NO_MASKS


def test_masks_are_zero_or_the_inverse_of_what_is_kept() -> None:
    masks = drawn_masks(EVERY_PLACE, words(), V, D, seeded())
    assert masks.words_TB is not None
    assert masks.input_BD is not None
    assert masks.state_BD is not None
    assert masks.output_BD is not None
    scales = [
        (masks.words_TB, 1 / 0.7, (T, B)),
        (masks.input_BD, 1 / (0.8 * 0.6), (B, D)),
        (masks.state_BD, 1 / 0.75, (B, D)),
        (masks.output_BD, 1 / 0.5, (B, D)),
    ]
    for mask, scale, shape in scales:  # none has a time of its own: the same at every step
        assert mask.shape == shape
        torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], scale))
        assert (mask == 0).any()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75])
def test_the_share_that_is_dropped(rate: float) -> None:
    every_word = torch.arange(3000).view(30, 100)
    for seed, config in enumerate(
        [
            DropoutConfig(words=rate),
            DropoutConfig(words=rate, words_per="sequence"),
            DropoutConfig(embeddings=rate),
            DropoutConfig(cell_input=rate),
            DropoutConfig(state=rate),
            DropoutConfig(output=rate),
        ]
    ):
        masks = [m for m in drawn_masks(config, every_word, 3000, 40, seeded(seed)) if m is not None]
        assert len(masks) == 1
        assert is_binomial(masks[0] == 0, rate)
        assert abs(float(masks[0].mean()) - 1) < 0.2  # the expected value is kept


def test_embeddings_and_cell_input_are_dropped_independently() -> None:
    mask_BD = drawn_masks(
        DropoutConfig(embeddings=0.2, cell_input=0.5), words(batch=300), V, 40, seeded()
    ).input_BD
    assert mask_BD is not None
    assert is_binomial(mask_BD == 0, 1 - 0.8 * 0.5)


def test_words_per_batch_are_dropped_wherever_they_stand() -> None:
    tokens_TB = words(50, 10)
    words_TB = drawn_masks(DropoutConfig(words=0.5), tokens_TB, V, D, seeded()).words_TB
    assert words_TB is not None
    for word in range(V):
        assert len(words_TB[tokens_TB == word].unique()) == 1
    assert len(words_TB.unique()) == 2


def test_words_per_sequence_are_dropped_throughout_a_sequence_but_not_in_all() -> None:
    tokens_TB = words(50, 10)
    config = DropoutConfig(words=0.5, words_per="sequence")
    words_TB = drawn_masks(config, tokens_TB, V, D, seeded()).words_TB
    assert words_TB is not None
    for row in range(10):
        for word in tokens_TB[:, row].unique():
            assert len(words_TB[tokens_TB[:, row] == word, row].unique()) == 1
    assert any(len(words_TB[tokens_TB == word].unique()) == 2 for word in range(V))
    # A frequent word is dropped no more often than a rare one.
    same_word = torch.zeros(20, 3000, dtype=torch.long)
    repeated_TB = drawn_masks(config, same_word, V, D, seeded(1)).words_TB
    assert repeated_TB is not None
    assert is_binomial(repeated_TB[0] == 0, 0.5)


def test_masks_follow_from_the_generator() -> None:
    first, again, other = (drawn_masks(EVERY_PLACE, words(), V, D, seeded(seed)) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        assert a is not None
        assert b is not None
        assert c is not None
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize("place", ["words", "embeddings", "cell_input", "state", "output"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_a_rate_is_a_share(place: str, rate: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{place} must be (at least 0|below 1|finite), not {rate}$"):
        DropoutConfig(**{place: rate})


# The model


def test_logits_are_products_with_the_embedding() -> None:
    model, tokens_TB = child(), words()
    logits_TBV, state_BD = model(tokens_TB)
    features = model.features(tokens_TB, torch.zeros(B, D))
    assert torch.equal(features.hidden_TBD, features.output_TBD)
    torch.testing.assert_close(logits_TBV, features.hidden_TBD @ model.embedding.weight.T)
    assert torch.equal(state_BD, features.hidden_TBD[-1])
    assert logits_TBV.shape == (T, B, V)


def test_inputs_are_rows_of_the_embedding() -> None:
    model, tokens_TB = child(), words()
    inputs_TBD = torch.stack(
        [torch.stack([model.embedding.weight[word] for word in row]) for row in tokens_TB]
    )
    expected_TBD = model.cell(inputs_TBD, torch.zeros(B, D))[0]
    assert torch.equal(model.features(tokens_TB, torch.zeros(B, D)).hidden_TBD, expected_TBD)


def test_every_mask_acts_where_its_setting_says() -> None:
    """A cell written out step by step, with the masks of all places."""
    model, tokens_TB = child(), words()
    masks = drawn_masks(EVERY_PLACE, tokens_TB, V, D, seeded(5))
    words_TB, input_BD, state_mask_BD, output_BD = masks
    assert words_TB is not None
    assert input_BD is not None
    assert state_mask_BD is not None
    assert output_BD is not None
    start_BD = torch.randn(B, D, generator=seeded(6))
    features = model.features(tokens_TB, start_BD, masks)

    cell = model.cell
    assert isinstance(cell, ChildCell)
    functions, sources = SPACE.node_functions(ARCHITECTURE), SPACE.sources(ARCHITECTURE)
    apply = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": torch.clone}
    h_BD = start_BD
    for t in range(T):
        x_BD = model.embedding.weight[tokens_TB[t]] * words_TB[t][:, None] * input_BD
        nodes: list[Tensor] = []
        for node, function in enumerate(functions):
            carry_BD = h_BD if node == 0 else nodes[sources[node - 1]]  # the highway's: never masked
            weight = cell.input_weight[D:] if node == 0 else cell.node_weights[node - 1]
            product_BE = (carry_BD * state_mask_BD) @ weight
            if node == 0:
                product_BE = product_BE + x_BD @ cell.input_weight[:D]
            gate_BD = torch.sigmoid(product_BE[:, D:])
            nodes.append(gate_BD * apply[function](product_BE[:, :D]) + (1 - gate_BD) * carry_BD)
        ends = [s for node, s in enumerate(nodes) if node not in sources]
        h_BD = sum(ends, torch.zeros(B, D)) / len(ends)
        torch.testing.assert_close(features.hidden_TBD[t], h_BD, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(features.output_TBD[t], h_BD * output_BD, rtol=1e-5, atol=1e-5)
    assert torch.equal(features.state, features.hidden_TBD[-1])  # not masked on its way to the next window


def test_two_windows_with_the_state_carried_are_one() -> None:
    for model in (child(), lstm()):
        tokens_TB = words(10)
        whole_TBV, _ = model(tokens_TB)
        first_TBV, state = model(tokens_TB[:4])
        second_TBV, _ = model(tokens_TB[4:], detach(state))
        torch.testing.assert_close(torch.cat([first_TBV, second_TBV]), whole_TBV, rtol=1e-5, atol=1e-6)


def test_detach_cuts_the_gradient_and_the_memory() -> None:
    for model in (child(), lstm()):
        _, state = model(words())
        cut = detach(state)
        assert isinstance(cut, tuple) == isinstance(state, tuple)
        pairs = zip(cut, state, strict=True) if isinstance(state, tuple) else [(cut, state)]
        for after, before in pairs:
            assert torch.equal(after, before)
            assert before.requires_grad
            assert not after.requires_grad
            assert after.grad_fn is None
            assert after.untyped_storage().data_ptr() != before.untyped_storage().data_ptr()
            assert after.untyped_storage().nbytes() == after.nbytes  # not a view of a whole window


def test_the_embedding_starts_uniformly_in_its_range() -> None:
    cell = ChildCell(ARCHITECTURE, 32, CellConfig(), 0.04, seeded())
    values = LanguageModel(cell, 500, 0.04, seeded(1)).embedding.weight.detach().flatten() / 0.08 + 0.5
    assert scipy.stats.kstest(values.numpy(), "uniform").pvalue > 1e-3


def test_a_supernet_in_the_model_computes_the_architecture_asked_for() -> None:
    supernet = LanguageModel(SupernetCell(SPACE, D, CellConfig(), 0.5, seeded(4)), V, 0.5, seeded(2))
    model = child()
    assert isinstance(model.cell, ChildCell)
    assert isinstance(supernet.cell, SupernetCell)
    model.cell.load_slice(supernet.cell)
    assert torch.equal(model.embedding.weight, supernet.embedding.weight)
    tokens_TB, masks = words(), drawn_masks(EVERY_PLACE, words(), V, D, seeded(5))
    expected = supernet.features(tokens_TB, torch.zeros(B, D), masks, architecture=ARCHITECTURE)
    actual = model.features(tokens_TB, torch.zeros(B, D), masks)
    torch.testing.assert_close(actual.output_TBD, expected.output_TBD, rtol=0, atol=1e-6)


# The LSTM


def test_the_lstm_is_pytorch_s() -> None:
    cell = LSTMCell(D, seeded(1))
    inputs_TBD = torch.randn(T, B, D, generator=seeded(2))
    h_BD, c_BD = torch.randn(2, B, D, generator=seeded(3))
    expected_TBD, (expected_h, expected_c) = cell.lstm(inputs_TBD, (h_BD[None], c_BD[None]))
    weight_TBD = torch.randn(T, B, D, generator=seeded(4))
    of_library = torch.autograd.grad((expected_TBD * weight_TBD).sum(), list(cell.parameters()))
    output_TBD, (h_BD, c_BD) = cell(inputs_TBD, (h_BD, c_BD))
    torch.testing.assert_close(output_TBD, expected_TBD, rtol=0, atol=1e-6)
    torch.testing.assert_close(h_BD, expected_h[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(c_BD, expected_c[0], rtol=0, atol=1e-6)
    of_cell = torch.autograd.grad((output_TBD * weight_TBD).sum(), list(cell.parameters()))
    for mine, theirs in zip(of_cell, of_library, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_lstm_s_state_mask_multiplies_h_before_its_product_only() -> None:
    """Equal to an LSTM step each time with h masked, whose c is its own."""
    cell = LSTMCell(D, seeded(1))
    step = nn.LSTMCell(D, D)
    step.load_state_dict({name.removesuffix("_l0"): w for name, w in cell.lstm.state_dict().items()})
    inputs_TBD = torch.randn(T, B, D, generator=seeded(2))
    mask_BD = (torch.rand(B, D, generator=seeded(3)) > 0.5).float() * 2
    output_TBD, _ = cell(inputs_TBD, cell.initial_state(B), state_mask_BD=mask_BD)
    h_BD, c_BD = torch.zeros(2, B, D)
    for t in range(T):
        h_BD, c_BD = step(inputs_TBD[t], (h_BD * mask_BD, c_BD))
        torch.testing.assert_close(output_TBD[t], h_BD, rtol=0, atol=1e-6)


@pytest.mark.parametrize("parameters", [5_000, 123_456, 2_360_000, 22_027_104])
@pytest.mark.parametrize("vocabulary", [50, 10_000])
def test_an_lstm_of_equal_size(parameters: int, vocabulary: int) -> None:
    """The width is the best of all, and the formula it uses is what the model has."""
    hidden = lstm_hidden_of_equal_size(parameters, vocabulary)
    with torch.device("meta"):
        sizes = {
            width: sum(
                p.numel()
                for p in LanguageModel(LSTMCell(width, seeded()), vocabulary, 0.1, seeded()).parameters()
            )
            for width in {max(1, hidden - 1), hidden, hidden + 1}
        }
        built = sum(
            p.numel() for p in build_lstm(parameters, vocabulary, ChildTrainingConfig(), seed=0).parameters()
        )
    assert built == sizes[hidden]
    distances = {width: abs(size - parameters) for width, size in sizes.items()}
    assert min(distances, key=lambda width: distances[width]) == hidden


def test_in_training_mode_masks_are_drawn_from_the_generator_given() -> None:
    cell = ChildCell(ARCHITECTURE, D, CellConfig(), 0.5, seeded(1))
    model, tokens_TB = LanguageModel(cell, V, 0.5, seeded(2), EVERY_PLACE), words()
    state_BD = model.initial_state(B)
    masks = drawn_masks(EVERY_PLACE, tokens_TB, V, D, seeded(5))
    with masks_from(seeded(5)):
        drawn = model.train().features(tokens_TB, state_BD)
        quiet = model.eval().features(tokens_TB, state_BD)
    assert torch.equal(drawn.output_TBD, model.features(tokens_TB, state_BD, masks).output_TBD)
    assert torch.equal(quiet.output_TBD, model.features(tokens_TB, state_BD, NO_MASKS).output_TBD)


def test_unmasked_features_equal_those_with_masks_of_one() -> None:
    for model in (child(), lstm()):
        tokens_TB, state = words(), model.initial_state(B)
        ones = Masks(torch.ones(T, B), torch.ones(B, D), torch.ones(B, D), torch.ones(B, D))
        plain, masked = model.features(tokens_TB, state), model.features(tokens_TB, state, ones)
        torch.testing.assert_close(plain.output_TBD, masked.output_TBD, rtol=0, atol=1e-6)


def test_a_model_learns_a_text_of_one_cycle() -> None:
    """Words that always follow each other are soon predicted: gradients reach embedding and cell."""
    for model in (child(), lstm()):
        tokens = torch.arange(T * B + B).remainder(5)
        rows_TB = tokens.view(B, -1).t()
        optimizer = torch.optim.Adam(model.parameters(), 0.03)
        for _ in range(60):
            logits_TBV, _ = model(rows_TB[:-1])
            loss = F.cross_entropy(logits_TBV.flatten(0, 1), rows_TB[1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.1 * math.log(5)
