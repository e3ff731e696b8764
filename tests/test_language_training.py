"""Losses, clipping, SGD, evaluation, and training that can stop anywhere, against formulas and autograd."""

from __future__ import annotations

import copy
import io
import math
import random
import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture
from enas.child_training import ChildTraining
from enas.data.text import Corpus
from enas.data.windows import Window
from enas.errors import ConfigError, DataError, NotFiniteError
from enas.masks import masks_from
from enas.norms import batch_statistics, norms_of
from enas.runs.recurrent import build_child, build_lstm, build_supernet
from enas.shared_weights import SharedWeights
from enas.spaces.recurrent.net import CellConfig, ChildCell
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.language import (
    LanguageTask,
    Minibatch,
    cut,
    evaluate,
    nll,
    perplexity,
    rows_of,
    training_windows,
    window_gradient,
    window_loss,
)
from enas.tasks.language_model import LanguageModel, LSTMCell
from enas.tasks.language_settings import (
    AveragingConfig,
    ChildTrainingConfig,
    DropoutConfig,
    LanguageTrainingConfig,
    RegularisationConfig,
    RewardConfig,
    SGDConfig,
    SharedConfig,
    WindowConfig,
)
from enas.trainer import add_l2, descend

T, B, D, V = 6, 4, 8, 20
SPACE = RecurrentSpace(4)
FIRST, SECOND, THIRD = (SPACE.sample(random.Random(seed)) for seed in (1, 2, 3))
CPU = torch.device("cpu")
DROPOUT = DropoutConfig(
    words=0.1, words_per="sequence", embeddings=0.2, cell_input=0.3, state=0.25, output=0.4
)
EVERYTHING = RegularisationConfig(DROPOUT, l2=1e-4, activation=0.5, slowness=1.0)
NOTHING = RegularisationConfig(l2=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(*shape: int, seed: int = 3) -> Tensor:
    return torch.randint(V, shape, generator=seeded(seed))


def corpus(train: int = 200, valid: int = 90, test: int = 50) -> Corpus:
    vocabulary = tuple(f"w{i:02}" for i in range(V))
    return Corpus("made up", vocabulary, words(train, seed=1), words(valid, seed=2), words(test), source={})


def child(dtype: torch.dtype = torch.float32) -> LanguageModel:
    cell = ChildCell(FIRST, D, CellConfig(), 0.5, seeded(1))
    return LanguageModel(cell, V, 0.5, seeded(2)).to(dtype)


def lstm(dtype: torch.dtype = torch.float32) -> LanguageModel:
    return LanguageModel(LSTMCell(D, seeded(1)), V, 0.5, seeded(2)).to(dtype)


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(actual: Any, expected: Any) -> None:
    """Bit for bit, however nested."""
    assert type(actual) is type(expected)
    if isinstance(expected, Tensor):
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b)
    else:
        assert actual == expected


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


# One step


@pytest.mark.parametrize(("activation", "slowness"), [(0.0, 0.0), (0.7, 0.0), (0.0, 1.5), (0.7, 1.5)])
def test_the_loss_and_its_regularisers(activation: float, slowness: float) -> None:
    """On activations before the output mask; the cross-entropy after it."""
    model, tokens_TB, targets_TB = child(torch.float64), words(T, B), words(T, B, seed=4)
    mask_BD = (torch.rand(B, D, generator=seeded(5)) > 0.5).double() * 2
    plain = model.features(tokens_TB, model.initial_state(B))
    features = plain._replace(output_TBD=plain.hidden_TBD * mask_BD)
    config = RegularisationConfig(activation=activation, slowness=slowness)
    loss, total = window_loss(model, features, targets_TB, config)

    log_softmax_TBV = torch.log_softmax(features.output_TBD @ model.embedding.weight.T, -1)
    picked = [log_softmax_TBV[t, b, targets_TB[t, b]] for t in range(T) for b in range(B)]
    torch.testing.assert_close(loss, -sum(picked, torch.zeros(())) / (T * B))
    h = features.hidden_TBD
    differences = [(h[t + 1] - h[t]) ** 2 for t in range(T - 1)]
    expected = loss + activation * (h**2).sum() / (T * B * D)
    expected = expected + slowness * sum(differences, torch.zeros(())).sum() / ((T - 1) * B * D)
    torch.testing.assert_close(total, expected)
    of_total = torch.autograd.grad(total, list(model.parameters()), retain_graph=True)
    of_formula = torch.autograd.grad(
        -torch.stack(picked).mean() + activation * (h**2).mean() + slowness * torch.stack(differences).mean(),
        list(model.parameters()),
    )
    for mine, formula in zip(of_total, of_formula, strict=True):
        torch.testing.assert_close(mine, formula, rtol=1e-7, atol=1e-9)


def test_slowness_of_a_window_of_one_step_is_zero() -> None:
    model = child()
    features = model.features(words(1, B), model.initial_state(B))
    config = RegularisationConfig(slowness=3.0)
    loss, total = window_loss(model, features, words(1, B), config)
    assert torch.equal(loss, total)


@pytest.mark.parametrize("build", [child, lstm])
def test_the_accumulated_gradient_is_autograds(build: Callable[[torch.dtype], LanguageModel]) -> None:
    """Of the embedding too, which is looked up and multiplied with: words stand several times, some not at all."""
    model = build(torch.float64)
    minibatch = Minibatch(words(T, B, seed=4) // 2, words(T, B, seed=5))
    state = model.initial_state(B)
    model.dropout = EVERYTHING.dropout
    with masks_from(seeded(6)):
        features = model.features(minibatch.tokens_TB, state)
    _, total = window_loss(model, features, minibatch.targets_TB, EVERYTHING)
    expected = torch.autograd.grad(0.25 * total, list(model.parameters()))
    for times in (1, 2):  # the second time it is added
        with masks_from(seeded(6)):
            found, _ = window_gradient(model, minibatch, state, EVERYTHING)
        found.backward(0.25)
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, times * gradient)


def test_l2_adds_the_gradient_of_the_squares_to_what_is_used() -> None:
    used = [nn.Parameter(torch.randn(3, 4, generator=seeded(i), dtype=torch.float64)) for i in (1, 2)]
    unused = nn.Parameter(torch.ones(2))
    gradients = [torch.randn(3, 4, generator=seeded(i), dtype=torch.float64) for i in (3, 4)]
    squares = torch.autograd.grad(0.3 * sum((w**2).sum() for w in used), used)
    for parameter, gradient in zip(used, gradients, strict=True):
        parameter.grad = gradient.clone()
    add_l2([used[0], unused, used[1]], 0.3)
    for parameter, gradient, square in zip(used, gradients, squares, strict=True):
        torch.testing.assert_close(parameter.grad, gradient + square)
    assert unused.grad is None
    before = used[0].grad.clone() if used[0].grad is not None else None
    add_l2(used, 0.0)
    assert_same(used[0].grad, before)
    add_l2([unused], 1.0)
    assert unused.grad is None


@pytest.mark.parametrize("clip", [0.25, 1e3])
def test_descent(clip: float) -> None:
    """w - rate · clipped(g + 2·l2·w) where there is a gradient; the others keep still."""
    model = child(torch.float64)
    before = parameters_of(model)
    assert isinstance(model.cell, ChildCell)
    model.cell.node_weights[1].requires_grad_(False)
    gradients = {
        name: torch.randn(p.shape, generator=seeded(i), dtype=torch.float64)
        for i, (name, p) in enumerate(model.named_parameters())
        if p.requires_grad
    }
    for name, gradient in gradients.items():
        model.get_parameter(name).grad = gradient.clone()
    regularised = {name: gradient + 2 * 0.01 * before[name] for name, gradient in gradients.items()}
    norm = math.sqrt(sum(float((g**2).sum()) for g in regularised.values()))
    optimizer = torch.optim.SGD(model.parameters(), 99.0)
    assert descend(optimizer, 0.5, clip, 0.01) == pytest.approx(norm, rel=1e-12)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        if name in regularised:
            step = 0.5 * min(1.0, clip / norm) * regularised[name]
            torch.testing.assert_close(before[name] - parameter.detach(), step, rtol=1e-5, atol=1e-12)
        else:
            assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_no_weight(bad: float) -> None:
    model = child()
    before = parameters_of(model)
    model(words(T, B))[0].sum().backward()
    assert model.embedding.weight.grad is not None
    model.embedding.weight.grad[0, 0] = bad
    with pytest.raises(NotFiniteError, match="gradient"):
        descend(torch.optim.SGD(model.parameters(), 1.0), 1.0, 0.25, 1e-7)
    assert_same(parameters_of(model), before)
    assert not gradients_of(model)


def test_the_learning_rate_by_epoch() -> None:
    paper = SGDConfig()  # 20.0, times 0.96 after the 15th epoch and every later one
    rates = [paper.rate(epoch) for epoch in range(18)]
    assert rates[:15] == [20.0] * 15
    assert rates[15:] == pytest.approx([20 * 0.96, 20 * 0.96**2, 20 * 0.96**3])
    assert SGDConfig(decay=1.0).rate(500) == 20.0
    assert [SGDConfig(8.0, 0.5, 1).rate(epoch) for epoch in range(3)] == [8.0, 4.0, 2.0]


@pytest.mark.parametrize("settings", [{"learning_rate": 0.0}, {"learning_rate": -1.0}, {"clip": 0.0}])
def test_sgd_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(settings))} must be above 0, not "):
        SGDConfig(**settings)


@pytest.mark.parametrize("settings", [{"batch": 0}, {"bptt": 1}])
def test_window_settings_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(
        ConfigError, match=r"^(batch must be at least 1, not 0|bptt must be at least 2, not 1)$"
    ):
        WindowConfig(**settings)


def test_perplexity() -> None:
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e6) == math.inf


def test_rows_read_side_by_side_and_targets_one_word_ahead() -> None:
    rows_TB = rows_of(torch.arange(14), 3, "train")
    assert rows_TB.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert cut(rows_TB, Window(1, 2)).tokens_TB.tolist() == [[1, 5, 9], [2, 6, 10]]
    assert cut(rows_TB, Window(1, 2)).targets_TB.tolist() == [[2, 6, 10], [3, 7, 11]]
    with pytest.raises(DataError, match="train"):
        rows_of(torch.arange(5), 3, "train")


def test_windows_of_an_epoch_follow_from_seed_and_epoch() -> None:
    fixed, drawn = WindowConfig(B, 7), WindowConfig(B, 30, random_length=True)
    assert training_windows(50, fixed, 0, 0) == training_windows(50, fixed, 9, 9)
    assert training_windows(500, drawn, 1, 2) == training_windows(500, drawn, 1, 2)
    assert training_windows(500, drawn, 1, 2) != training_windows(500, drawn, 1, 3)
    assert training_windows(500, drawn, 1, 2) != training_windows(500, drawn, 2, 2)


# Evaluation


@pytest.mark.parametrize("build", [child, lstm])
@pytest.mark.parametrize("length", [1, 7, 89, 500])
def test_evaluation_is_of_the_whole_text_whatever_the_window(
    build: Callable[[torch.dtype], LanguageModel], length: int
) -> None:
    model, tokens = build(torch.float64).train(), corpus().valid
    before = copy.deepcopy(model.state_dict())
    actual = evaluate(model, tokens, 1, length)
    with torch.no_grad():
        logits_T1V, _ = model(tokens[:-1, None])
    expected = F.cross_entropy(logits_T1V[:, 0], tokens[1:])  # every word but the first
    assert actual == pytest.approx(float(expected), rel=1e-12)
    assert model.training
    assert_same(model.state_dict(), before)


def test_evaluation_of_several_rows_is_their_mean() -> None:
    model, tokens = child(torch.float64), corpus().valid  # 90 words: 4 rows of 22 and a rest of 2
    rows = [evaluate(model, tokens[22 * row : 22 * (row + 1)], 1, 5) for row in range(4)]
    assert evaluate(model, tokens, 4, 5) == pytest.approx(sum(rows) / 4, rel=1e-12)


def test_the_nll_of_every_target() -> None:
    model, targets_TB = child(), words(T, B, seed=4)
    with torch.no_grad():
        features = model.features(words(T, B), model.initial_state(B))
        expected = -torch.log_softmax(features.output_TBD @ model.embedding.weight.T, -1)
        actual_N = nll(model, features, targets_TB)
    torch.testing.assert_close(actual_N.view(T, B), expected.gather(-1, targets_TB[..., None])[..., 0])


# Searching


def search_task(
    *,
    norm: Literal["none", "output", "output-and-nodes"] = "none",
    regularisation: RegularisationConfig = NOTHING,
    windows: WindowConfig | None = None,
    reward: RewardConfig | None = None,
    dtype: torch.dtype = torch.float32,
    clip: float = 0.25,
    learning_rate: float = 2.0,
) -> SharedWeights:
    training = LanguageTrainingConfig(
        windows or WindowConfig(B, T), SGDConfig(learning_rate, clip=clip), regularisation, init_range=0.5
    )
    config = SharedConfig(D, training, reward or RewardConfig(batch=3, bptt=5))
    task = LanguageTask(corpus(), training, config.reward, seed=5, device=CPU, dtype=dtype)
    supernet = build_supernet(SPACE, V, config, CellConfig(norm=norm, norm_decay=0.9), seed=5)
    return SharedWeights(supernet.to(dtype), SPACE, task)


def model_of(weights: SharedWeights) -> LanguageModel:
    assert isinstance(weights.trainer.model, LanguageModel)
    return weights.trainer.model


def language(made: SharedWeights | ChildTraining) -> LanguageTask:
    assert isinstance(made.task, LanguageTask)
    return made.task


def step_taken(weights: SharedWeights, architectures: list[Architecture]) -> dict[str, Tensor]:
    before = parameters_of(model_of(weights))
    weights.train_step(0, 0, architectures)
    return {name: w - before[name] for name, w in parameters_of(model_of(weights)).items()}


@pytest.mark.parametrize("norm", ["none", "output"])
def test_a_step_of_two_architectures_follows_the_mean_of_their_gradients(
    norm: Literal["none", "output"],
) -> None:
    def taken(architectures: list[Architecture]) -> dict[str, Tensor]:
        weights = search_task(norm=norm, dtype=torch.float64, clip=1e9, learning_rate=1.0)
        return step_taken(weights, architectures)

    both, first, second = taken([FIRST, SECOND]), taken([FIRST]), taken([SECOND])
    for name, step in both.items():
        torch.testing.assert_close(step, (first[name] + second[name]) / 2, rtol=1e-7, atol=1e-12)
    assert any((first[name] - second[name]).abs().max() > 1e-4 for name in both)


def test_what_a_training_step_reports() -> None:
    weights = search_task(regularisation=EVERYTHING)
    log = weights.train_step(0, 0, [FIRST, SECOND])
    assert log["ppl"] == pytest.approx(math.exp(log["loss"]))
    assert log["regularised_loss"] > log["loss"]
    assert log["gradient_norm"] > 0
    assert log["learning_rate"] == 2.0


def test_each_slot_carries_its_state_and_a_pass_starts_from_zero() -> None:
    weights = search_task(learning_rate=1e-12)  # so small that the weights hold still
    windows = language(weights).windows(0)
    state_BD = torch.zeros(B, D)
    for step in range(3):
        weights.train_step(0, step, [FIRST, SECOND])
        with torch.no_grad():
            tokens_TB = cut(language(weights).train_TB, windows[step]).tokens_TB
            state_BD = model_of(weights).features(tokens_TB, state_BD, architecture=FIRST).state
        torch.testing.assert_close(language(weights).states[0], state_BD)
        assert not torch.allclose(language(weights).states[1], state_BD)
    after_three = copy.deepcopy(language(weights).states)
    weights.train_step(1, 0, [FIRST, SECOND])
    weights.train_step(1, 1, [FIRST, SECOND])
    weights.train_step(1, 2, [FIRST, SECOND])
    torch.testing.assert_close(language(weights).states, after_three)


def test_random_lengths_scale_the_learning_rate() -> None:
    weights = search_task(windows=WindowConfig(2, 24, random_length=True))
    windows = language(weights).windows(0)
    assert len(windows) == weights.steps(0)
    assert len({length for _, length in windows}) > 1
    for step, window in enumerate(windows):
        log = weights.train_step(0, step, [FIRST])
        assert log["learning_rate"] == pytest.approx(2.0 * window.length / 24)


@pytest.mark.parametrize("statistics", ["batch", "moving"])
@pytest.mark.parametrize("norm", ["none", "output", "output-and-nodes"])
def test_rewards_together_are_rewards_one_by_one(
    norm: Literal["none", "output", "output-and-nodes"], statistics: Literal["batch", "moving"]
) -> None:
    reward = RewardConfig(scale=80.0, batch=3, bptt=5, statistics=statistics)
    weights = search_task(norm=norm, reward=reward, regularisation=EVERYTHING)
    weights.train_step(0, 0, [FIRST])  # moving statistics are no longer the initial ones
    before = copy.deepcopy(weights.state_dict())
    together_N = weights.rewards([FIRST, SECOND, THIRD, FIRST], "policy", 7)
    for architecture, together in zip([FIRST, SECOND, THIRD], together_N, strict=False):
        (alone,) = weights.rewards([architecture], "policy", 7)
        torch.testing.assert_close(alone, together, rtol=1e-6, atol=0)
    assert torch.equal(together_N[0], together_N[3])
    assert len(set(together_N.tolist())) == 3
    assert not together_N.requires_grad
    assert_same(weights.state_dict(), before)


@pytest.mark.parametrize("statistics", ["batch", "moving"])
def test_a_reward_is_the_scale_over_the_perplexity_of_the_window(
    statistics: Literal["batch", "moving"],
) -> None:
    reward = RewardConfig(scale=80.0, batch=3, bptt=5, statistics=statistics)
    weights = search_task(norm="output", reward=reward, regularisation=EVERYTHING, dtype=torch.float64)
    tokens_TB, targets_TB, *_ = cut(language(weights).valid_TB, language(weights).reward_window("policy", 2))
    model_of(weights).eval()
    norms = norms_of(model_of(weights)) if statistics == "batch" else []
    with torch.no_grad(), batch_statistics(norms):
        logits_TBV, _ = model_of(weights)(tokens_TB, architecture=SECOND)
    ppl = F.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten()).exp()
    torch.testing.assert_close(weights.rewards([SECOND], "policy", 2)[0], 80 / ppl)
    assert language(weights).describe_reward(float(80 / ppl))["valid_ppl"] == pytest.approx(float(ppl))
    assert language(weights).describe_reward(0.0)["valid_ppl"] == math.inf


@pytest.mark.parametrize("order", ["random", "sequential"])
@pytest.mark.parametrize(("batch", "bptt"), [(3, 5), (3, 28), (3, 29), (3, 500), (45, 35), (1, 88)])
def test_reward_windows_stay_inside_the_text(
    order: Literal["random", "sequential"], batch: int, bptt: int
) -> None:
    weights = search_task(reward=RewardConfig(batch=batch, bptt=bptt, windows=order))
    columns = 90 // batch
    starts = set()
    for draw in range(200):
        start, length = window = language(weights).reward_window("policy", draw)
        starts.add(start)
        assert length == min(bptt, columns - 1)
        assert start >= 0
        assert cut(language(weights).valid_TB, window).tokens_TB.shape == (length, batch)
        assert cut(language(weights).valid_TB, window).targets_TB.shape == (length, batch)
    if order == "random":  # every place is drawn
        assert starts == set(range(columns - min(bptt, columns - 1)))


def test_sequential_reward_windows_follow_each_other() -> None:
    weights = search_task(reward=RewardConfig(batch=3, bptt=5, windows="sequential"))
    assert [language(weights).reward_window("policy", draw).start for draw in range(5)] == [0, 5, 10, 15, 20]


def test_random_reward_windows_follow_from_purpose_and_draw() -> None:
    weights = search_task(reward=RewardConfig(batch=1, bptt=5))
    drawn = [language(weights).reward_window("policy", draw) for draw in range(20)]
    assert drawn == [language(weights).reward_window("policy", draw) for draw in range(20)]
    assert drawn != [language(weights).reward_window("derive", draw) for draw in range(20)]
    assert len(set(drawn)) > 10


@pytest.mark.parametrize("norm", ["none", "output", "output-and-nodes"])
def test_estimating_changes_nothing(norm: Literal["none", "output", "output-and-nodes"]) -> None:
    def continued(estimating: bool) -> dict[str, Any]:
        weights = search_task(norm=norm, regularisation=EVERYTHING)
        for step in range(4):
            if estimating:
                before = copy.deepcopy(weights.state_dict())
                (seconds, mib), reward_seconds = weights.estimate()
                assert min(seconds, mib, reward_seconds) > 0
                assert_same(weights.state_dict(), before)
                assert not gradients_of(model_of(weights))
            weights.train_step(0, step, [FIRST, SECOND])
        return weights.state_dict()

    assert_same(continued(estimating=True), continued(estimating=False))


@pytest.mark.parametrize(
    ("norm", "random_length"), [("none", False), ("output", True), ("output-and-nodes", True)]
)
def test_a_resumed_search_task_goes_on_bit_for_bit(
    norm: Literal["none", "output", "output-and-nodes"], random_length: bool
) -> None:
    def build() -> SharedWeights:
        windows = WindowConfig(5, 10, random_length)
        return search_task(norm=norm, regularisation=EVERYTHING, windows=windows)

    def go_on(weights: SharedWeights, places: list[tuple[int, int]]) -> list[Any]:
        logs: list[Any] = []
        for epoch, step in places:
            logs.append(weights.train_step(epoch, step, [FIRST, SECOND] if step % 2 else [THIRD, FIRST]))
            logs.append(weights.rewards([FIRST, THIRD], "policy", step).tolist())
        return logs

    whole = build()
    places = [(epoch, step) for epoch in range(2) for step in range(whole.steps(epoch))]
    logs = go_on(whole, places)
    for at in (0, 1, whole.steps(0) + 1):
        stopped = build()
        first_logs = go_on(stopped, places[:at])
        resumed = build()
        resumed.load_state_dict(through_a_file(stopped.state_dict()))
        assert_same(first_logs + go_on(resumed, places[at:]), logs)
        assert_same(resumed.state_dict(), whole.state_dict())


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    weights = search_task()
    with torch.no_grad():
        model_of(weights).embedding.weight.fill_(math.nan)
    before = parameters_of(model_of(weights))
    with pytest.raises(NotFiniteError, match=re.escape(f"'{SECOND}' is nan")):
        weights.train_step(0, 0, [SECOND])
    for name, parameter in parameters_of(model_of(weights)).items():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0, equal_nan=True)
    assert not gradients_of(model_of(weights))


# Training a child


def child_training(
    kind: str = "cell",
    *,
    averaging: AveragingConfig | None = None,
    regularisation: RegularisationConfig = EVERYTHING,
    random_length: bool = True,
    epochs: int = 3,
    learning_rate: float = 2.0,
) -> ChildTraining:
    config = ChildTrainingConfig(
        hidden=D,
        epochs=epochs,
        training=LanguageTrainingConfig(
            WindowConfig(2, 15, random_length), SGDConfig(learning_rate, 0.9, 1), regularisation, 0.3
        ),
        averaging=averaging or AveragingConfig(),
        eval_batch=3,
    )
    if kind == "cell":
        model = build_child(FIRST, V, config, CellConfig(), seed=5)
    else:
        model = build_lstm(1000, V, config, seed=5)
    task = LanguageTask(corpus(), config.training, config.reading(), seed=5, device=CPU, dtype=torch.float32)
    return ChildTraining(model, task, epochs, config.averaging.starts)


def train(training: ChildTraining, steps: int) -> list[dict[str, float]]:
    """So many steps, with what is logged, and what the best weights were after each epoch."""
    logs = []
    for _ in range(steps):
        logs.append(training.step())
        if training.at_epoch_end():
            logs.append(training.end_epoch())
    return logs


@pytest.mark.parametrize(
    ("kind", "random_length", "averaged"),
    [("cell", False, False), ("cell", True, True), ("lstm", False, True), ("lstm", True, False)],
)
def test_an_interrupted_training_is_an_uninterrupted_one(
    kind: str, random_length: bool, averaged: bool
) -> None:
    def build() -> ChildTraining:
        training = child_training(kind, averaging=AveragingConfig(averaged, 0), random_length=random_length)
        if averaged:
            training.scores = [
                {"loss": 0.0, "ppl": 1.0}
            ]  # nothing is as good: averaging starts after the first epoch
        return training

    whole = build()
    logs = train(whole, whole.total_steps)
    assert whole.epoch == 3
    assert [log["averaged"] for log in logs if "averaged" in log] == [0.0, float(averaged), float(averaged)]
    of_first_epoch = len(training_windows(100, language(whole).training.windows, 5, 0))
    for at in (0, 1, of_first_epoch, of_first_epoch + 3, whole.total_steps):
        stopped = build()
        first_logs = train(stopped, at)
        resumed = build()
        resumed.load_state_dict(through_a_file(stopped.state_dict()))
        assert resumed.at_epoch_end() == stopped.at_epoch_end()
        assert_same(first_logs + train(resumed, whole.total_steps - at), logs)
        assert_same(resumed.state_dict(), whole.state_dict())
        assert_same(dict(resumed.best_weights()), dict(whole.best_weights()))


@pytest.mark.parametrize(
    ("enabled", "patience", "losses", "starts"),
    [
        (True, 0, [3.0], False),
        (True, 0, [3.0, 4.0], True),
        (True, 0, [3.0, 2.0], False),
        (True, 2, [3.0, 2.0, 4.0], False),  # there is nothing before the last two
        (True, 2, [3.0, 2.0, 1.0, 4.0], True),
        (True, 2, [5.0, 2.0, 1.0, 4.0], False),  # worse than the last two, better than all before
        (True, 2, [4.0, 2.0, 1.0, 4.0], False),  # as good is not worse
        (True, 2, [3.0, 5.0, 2.0, 1.0, 4.0], True),
        (False, 0, [3.0, 4.0], False),
        (False, 2, [3.0, 2.0, 1.0, 4.0], False),
    ],
)
def test_when_averaging_starts(enabled: bool, patience: int, losses: list[float], starts: bool) -> None:
    assert AveragingConfig(enabled, patience).starts(losses) is starts


def test_the_average_is_the_mean_of_the_weights_since_its_start() -> None:
    training = child_training(averaging=AveragingConfig(True, 0))
    training.scores = [{"loss": 0.0, "ppl": 1.0}]
    seen: list[dict[str, Tensor]] = []
    while training.trainer.averaged is None:
        training.step()
        if training.at_epoch_end():
            training.end_epoch()
    seen.append(parameters_of(training.model))
    while not training.at_epoch_end():
        training.step()
        seen.append(parameters_of(training.model))
        for name, average in parameters_of(training.trainer.evaluation_model).items():
            expected = torch.stack([weights[name].double() for weights in seen]).mean(0)
            torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
    assert len(seen) > 5
    record = training.end_epoch()  # which evaluates the average and trains on with the weights
    assert_same(parameters_of(training.model), seen[-1])
    other = child_training()
    other.model.load_state_dict(training.trainer.evaluation_model.state_dict())
    assert record["valid_loss"] == evaluate(other.model, corpus().valid, 3, 15)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("learning_rate", [0.5, 20.0])
def test_the_best_weights_are_the_ones_that_were_evaluated(averaged: bool, learning_rate: float) -> None:
    training = child_training(
        averaging=AveragingConfig(averaged, 0), epochs=6, learning_rate=learning_rate, regularisation=NOTHING
    )
    losses, best = [], 0
    for _ in range(6):
        while not training.at_epoch_end():
            training.step()
        record = training.end_epoch()
        losses.append(record["valid_loss"])
        assert record["best"] == float(losses[-1] == min(losses) and losses[-1] not in losses[:-1])
        assert record["valid_ppl"] == pytest.approx(math.exp(record["valid_loss"]))
        if record["best"]:
            best = len(losses)
            kept = child_training()
            kept.model.load_state_dict(training.best_weights())
            assert evaluate(kept.model, corpus().valid, 3, 15) == record["valid_loss"]
    result = training.result()
    assert result["best_epoch"] == best
    assert result["valid_loss"] == min(losses)
    assert result["valid_ppl"] == pytest.approx(math.exp(min(losses)))
    assert result["parameters"] == V * D + (2 * 4 + 2) * D * D


def test_a_step_of_a_child_is_a_step_of_sgd() -> None:
    """Against autograd on the whole loss, L2 as a term of it."""
    training = child_training(
        regularisation=RegularisationConfig(l2=0.01, activation=0.5, slowness=1.0), random_length=False
    )
    reference = child_training(random_length=False).model.eval()
    tokens_TB, targets_TB, *_ = cut(language(training).train_TB, Window(0, 15))
    logits_TBV, _ = reference(tokens_TB)
    h = reference.features(tokens_TB, torch.zeros(2, D)).hidden_TBD
    loss = F.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten())
    loss = loss + 0.5 * (h**2).mean() + 1.0 * ((h[1:] - h[:-1]) ** 2).mean()
    loss = loss + 0.01 * torch.stack([(w**2).sum() for w in reference.parameters()]).sum()
    loss.backward()
    norm = torch.stack([(g**2).sum() for g in gradients_of(reference).values()]).sum().sqrt()
    training.step()
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        expected = parameter.detach() - 2.0 * min(1.0, 0.25 / float(norm)) * parameter.grad
        torch.testing.assert_close(
            training.model.get_parameter(name).detach(), expected, rtol=1e-4, atol=1e-5
        )


def test_estimating_a_child_changes_nothing() -> None:
    def continued(estimating: bool) -> dict[str, Any]:
        training = child_training()
        for _ in range(4):
            if estimating:
                before = copy.deepcopy(training.state_dict())
                assert min(training.estimate()) > 0
                assert_same(training.state_dict(), before)
                assert not gradients_of(training.model)
            training.step()
        return training.state_dict()

    assert_same(continued(estimating=True), continued(estimating=False))


def test_a_child_whose_loss_is_not_finite_keeps_its_weights() -> None:
    training = child_training()
    with torch.no_grad():
        training.model.embedding.weight[0, 0] = math.inf
    before = parameters_of(training.model)
    with pytest.raises(NotFiniteError):
        training.step()
    assert_same(parameters_of(training.model), before)


@pytest.mark.parametrize("name", ["hidden", "epochs", "eval_batch"])
def test_child_settings_that_make_no_sense(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, not 0"):
        ChildTrainingConfig(**{name: 0})
