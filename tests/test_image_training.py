"""Learning rates, loss, Nesterov momentum, minibatches, evaluation and recalibration, against formulas and references."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.data.augmentation import AugmentConfig, augment, normalise
from enas.data.images import ImageData, ImageSet
from enas.errors import ConfigError, NotFiniteError
from enas.norms import batch_statistics, kept_statistics, norms_of, recalibrate
from enas.runtime.seeding import generator
from enas.spaces.image_network import Outputs
from enas.tasks.image_data import EvaluationImages, TrainingImages, is_right
from enas.tasks.image_settings import CosineConfig, ImageRewardConfig, ImageTrainingConfig, MomentumConfig
from enas.tasks.images import ImageTask, classification_loss
from enas.trainer import Trainer, descend, saved_bytes

CPU = torch.device("cpu")
B, K = 6, 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_set(count: int, seed: int = 0) -> ImageSet:
    """Images whose first two pixels say which one it is."""
    images_NCHW = torch.randint(256, (count, 2, 5, 6), generator=seeded(seed), dtype=torch.uint8)
    images_NCHW[:, 0, 0, 0] = torch.arange(count)
    labels_N = torch.randint(K, (count,), generator=seeded(seed + 1))
    return ImageSet(images_NCHW, labels_N)


def task_of(training: ImageTrainingConfig) -> ImageTask:
    images = ImageSet(image_set(8).images_NCHW, torch.arange(8) % K)
    data = ImageData("made up", tuple("abcd"), images, images, images, {})
    return ImageTask(data, training, ImageRewardConfig(), seed=0, device=CPU, dtype=torch.float32)


# ---- learning rates -------------------------------------------------------------------------------------------------

RESTARTS = [10, 30, 70, 150, 310, 630]


def test_the_learning_rate_restarts_where_the_recipe_does() -> None:
    cosine = CosineConfig()
    assert all(cosine.rate(epoch) == 0.05 for epoch in [0, *RESTARTS])
    highest = [epoch for epoch in range(640) if cosine.rate(epoch) == 0.05]
    assert highest == [0, *RESTARTS]  # nowhere else, and no half-way first step after a restart
    for begin, end in zip([0, *RESTARTS], RESTARTS, strict=False):
        period = end - begin
        last = 0.001 + 0.049 / 2 * (1 + math.cos(math.pi * (period - 1) / period))
        assert cosine.rate(end - 1) == pytest.approx(last, rel=1e-12)
        assert cosine.rate((begin + end) // 2) == pytest.approx(0.0255, rel=1e-12)
        after = 0.001 + 0.049 / 2 * (1 + math.cos(math.pi / (2 * period)))  # the next period is twice as long
        assert cosine.rate(end + 1) == pytest.approx(after, rel=1e-12)


@pytest.mark.parametrize(("low", "first", "factor"), [(0.001, 10, 2), (0.0001, 7, 3), (0.0005, 4, 1)])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the optimiser has nothing to do
def test_every_learning_rate_is_that_of_the_library(low: float, first: int, factor: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.05)
    library = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, factor, low)
    cosine, expected = CosineConfig(0.05, low, first, factor), []
    for _ in range(320):
        expected.append(optimizer.param_groups[0]["lr"])
        library.step()
    assert [cosine.rate(epoch) for epoch in range(320)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"high": 0.1, "low": 0.2}, "low must be at most high, which is 0.1, not 0.2"),
        ({"low": 0.0}, "low must be above 0, not 0.0"),
        ({"high": math.inf}, "high must be finite, not inf"),
        ({"first_period": 0}, "first_period must be at least 1, not 0"),
        ({"period_factor": 0}, "period_factor must be at least 1, not 0"),
    ],
)
def test_learning_rates_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CosineConfig(**settings)


@pytest.mark.parametrize(
    "settings", [{"momentum": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"clip": 0.0}]
)
def test_optimiser_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        MomentumConfig(**settings)


@pytest.mark.parametrize("settings", [{"batch": 0}, {"auxiliary_weight": -0.1}])
def test_training_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be at least"):
        ImageTrainingConfig(**settings)


def test_images_that_do_not_fill_a_minibatch_are_refused_if_that_is_all_there_is() -> None:
    images = image_set(7)
    config = ImageTrainingConfig(8)
    assert TrainingImages(images, images.normalisation, config, 0, CPU).steps == 1
    with pytest.raises(ConfigError, match="no whole batch of 8"):
        TrainingImages(images, images.normalisation, replace(config, drop_last=True), 0, CPU)


# ---- one step -------------------------------------------------------------------------------------------------------


def scores_of(weight_KD: Tensor, seed: int) -> Tensor:
    return torch.randn(B, 3, generator=seeded(seed), dtype=torch.float64) @ weight_KD.T


@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_gradient_is_that_of_both_cross_entropies(auxiliary: bool) -> None:
    weight_KD = nn.Parameter(torch.randn(K, 3, generator=seeded(1), dtype=torch.float64))
    labels_B = torch.randint(K, (B,), generator=seeded(2))
    main_BK = scores_of(weight_KD, 3)
    other_BK = scores_of(weight_KD, 4) if auxiliary else None
    found = classification_loss(Outputs(main_BK, other_BK), labels_B, 0.4)
    found.backward(0.25)

    def cross_entropy(scores_BK: Tensor) -> Tensor:
        return -torch.stack([scores_BK[b].log_softmax(0)[labels_B[b]] for b in range(B)]).mean()

    loss = cross_entropy(scores_of(weight_KD, 3))
    total = loss + 0.4 * cross_entropy(scores_of(weight_KD, 4)) if auxiliary else loss
    (expected,) = torch.autograd.grad(0.25 * total, [weight_KD])
    torch.testing.assert_close(weight_KD.grad, expected)
    assert float(found.logged["loss"]) == pytest.approx(loss.item(), rel=1e-6)
    right = sum(int(max(range(K), key=lambda k: main_BK[b, k])) == labels_B[b] for b in range(B))
    assert float(found.logged["accuracy"]) == pytest.approx(int(right) / B)
    classification_loss(Outputs(scores_of(weight_KD, 3)), labels_B, 0.4).backward(1.0)  # adds
    torch.testing.assert_close(
        weight_KD.grad, expected + torch.autograd.grad(cross_entropy(scores_of(weight_KD, 3)), weight_KD)[0]
    )


class Spoilt(nn.Module):
    """Scores that are not numbers, of the main head or of the auxiliary one."""

    def __init__(self, bad: float, auxiliary: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(K))
        self.bad, self.auxiliary = bad, auxiliary

    def forward(self, images_BCHW: Tensor, architecture: object) -> Outputs:
        scores_BK = self.weight.expand(len(images_BCHW), K)
        spoilt_BK = torch.where(torch.arange(K) == 0, self.bad, scores_BK)
        return Outputs(scores_BK, spoilt_BK) if self.auxiliary else Outputs(spoilt_BK)


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_adds_no_gradient(bad: float, auxiliary: bool) -> None:
    model = Spoilt(bad, auxiliary)
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        Trainer(model, task_of(ImageTrainingConfig())).step(0, 0)
    assert model.weight.grad is None
    assert torch.equal(model.weight, torch.ones(K))


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
def test_descent_is_the_recipes_nesterov_momentum_on_what_has_a_gradient(clip: float | None) -> None:
    """v ← 0.9 v + g, w ← w - rate (g + 0.9 v), with g including the weight decay; off the path nothing moves."""
    weights = [nn.Parameter(torch.randn(3, 2, generator=seeded(i), dtype=torch.float64)) for i in range(3)]
    optimizer = task_of(ImageTrainingConfig(momentum=MomentumConfig(0.9, 0.02, clip))).optimizer(weights)
    expected = [weight.detach().clone() for weight in weights]
    velocity = [torch.zeros_like(weight) for weight in expected]
    # The last is never on the path, the first not in the third step, the second joins in the second.
    for step, path in enumerate([[0], [0, 1], [1], [0, 1]]):
        rate = 0.1 / (step + 1)
        gradients = {i: torch.randn(3, 2, generator=seeded(10 * step + i), dtype=torch.float64) for i in path}
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        for i, gradient in gradients.items():
            weights[i].grad = gradient.clone()
            g = gradient * (1 if clip is None else min(1.0, clip / norm)) + 0.02 * expected[i]
            velocity[i] = 0.9 * velocity[i] + g
            expected[i] = expected[i] - rate * (g + 0.9 * velocity[i])
        assert descend(optimizer, rate, clip) == pytest.approx(norm, rel=1e-12)
        for weight, value in zip(weights, expected, strict=True):
            assert weight.grad is None
            torch.testing.assert_close(weight.detach(), value, rtol=1e-5, atol=1e-9)
    assert weights[2] not in optimizer.state
    for weight, value in zip(weights[:2], velocity, strict=False):
        torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], value, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_no_weight(bad: float) -> None:
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    optimizer = task_of(ImageTrainingConfig()).optimizer(weights)
    weights[0].grad, weights[1].grad = torch.ones(2), torch.tensor([1.0, bad])
    with pytest.raises(NotFiniteError, match="gradient"):
        descend(optimizer, 0.1, None)
    assert all(torch.equal(weight, torch.ones(2)) and weight.grad is None for weight in weights)
    assert not optimizer.state


# ---- minibatches ----------------------------------------------------------------------------------------------------


def which(images_BCHW: Tensor, images: ImageSet) -> list[int]:
    """Which images of a set these are, not augmented."""
    found = []
    for image in images_BCHW:
        same = [
            i
            for i, other in enumerate(normalise(images.images_NCHW, images.normalisation))
            if torch.equal(image, other)
        ]
        found += same
    assert len(found) == len(images_BCHW)
    return found


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_pass_takes_every_image_once_with_its_label_in_an_order_of_its_own(drop_last: bool) -> None:
    images = image_set(23)
    config = ImageTrainingConfig(5, drop_last, augmentation=AugmentConfig(pad=0, flip=False))
    training = TrainingImages(images, images.normalisation, config, 3, CPU)
    assert training.steps == (4 if drop_last else 5)
    orders = []
    for epoch in range(2):
        minibatches = [training.minibatch(epoch, step) for step in range(training.steps)]
        assert [len(minibatch.labels_B) for minibatch in minibatches] == (
            [5] * 4 if drop_last else [5, 5, 5, 5, 3]
        )
        order = which(torch.cat([minibatch.images_BCHW for minibatch in minibatches]), images)
        assert len(set(order)) == len(order)
        labels_N = torch.cat([minibatch.labels_B for minibatch in minibatches])
        assert torch.equal(labels_N, images.labels_N[order])
        orders.append(order)
    assert orders[0] != orders[1]


def test_a_minibatch_follows_from_seed_and_place_whatever_came_before() -> None:
    images = image_set(40)
    config = ImageTrainingConfig(8, augmentation=AugmentConfig(pad=2, flip=True, cutout=2))

    def training(seed: int) -> TrainingImages:
        return TrainingImages(images, images.normalisation, config, seed, CPU)

    used = training(1)
    for epoch, step in [(0, 0), (1, 2), (0, 1), (2, 4)]:
        used.minibatch(epoch, step)
        again, fresh = used.minibatch(0, 3), training(1).minibatch(0, 3)
        assert torch.equal(again.images_BCHW, fresh.images_BCHW)
        assert torch.equal(again.labels_B, fresh.labels_B)
    others = [training(2).minibatch(0, 3), used.minibatch(1, 3), used.minibatch(0, 2)]
    assert not any(torch.equal(other.images_BCHW, fresh.images_BCHW) for other in others)


def test_a_minibatch_is_augmented_with_the_draws_of_its_step() -> None:
    images = image_set(16)
    augmentation = AugmentConfig(pad=2, flip=True, cutout=2)
    whole = ImageTrainingConfig(16, augmentation=AugmentConfig(pad=0, flip=False))
    plain = TrainingImages(images, images.normalisation, whole, 7, CPU).minibatch(4, 0)
    varied = TrainingImages(
        images, images.normalisation, ImageTrainingConfig(16, augmentation=augmentation), 7, CPU
    ).minibatch(4, 0)
    pixels = images.images_NCHW[which(plain.images_BCHW, images)]
    expected = augment(pixels, images.normalisation, augmentation, generator(7, "augmentation", 4, 0))
    assert torch.equal(varied.images_BCHW, expected)
    assert not torch.equal(varied.images_BCHW, plain.images_BCHW)


@pytest.mark.parametrize(("count", "sizes"), [(2, [5, 5]), (3, [5, 5, 2]), (9, [5, 5, 2])])
def test_samples_are_distinct_and_not_augmented(count: int, sizes: list[int]) -> None:
    images = image_set(12)
    config = ImageTrainingConfig(5, augmentation=AugmentConfig(pad=2, flip=True, cutout=2))
    samples = TrainingImages(images, images.normalisation, config, 0, CPU).samples(count, seeded(1))
    assert [len(sample) for sample in samples] == sizes
    order = which(torch.cat(samples), images)
    assert len(set(order)) == len(order)


# ---- evaluation -----------------------------------------------------------------------------------------------------


def linear(images_BCHW: Tensor) -> Tensor:
    weight = torch.randn(images_BCHW[0].numel(), K, generator=seeded(9))
    return images_BCHW.flatten(1) @ weight


@pytest.mark.parametrize("batch", [1, 4, 22, 23, 100])
def test_a_score_is_of_the_whole_split_whatever_the_batch(batch: int) -> None:
    train, images = image_set(30, seed=5), image_set(23)
    evaluation = EvaluationImages(images, train.normalisation, CPU)
    scores_NK = linear(normalise(images.images_NCHW, train.normalisation)).double()
    torch.testing.assert_close(evaluation.class_scores(linear, batch), scores_NK, rtol=1e-5, atol=1e-5)
    loss, accuracy = evaluation.score(linear, batch)
    assert loss == pytest.approx(float(F.cross_entropy(scores_NK, images.labels_N)), rel=1e-6)
    right = sum(int(scores_NK[n].argmax()) == int(images.labels_N[n]) for n in range(23))
    assert accuracy == pytest.approx(100 * right / 23, rel=1e-12)


def test_batches_are_of_equal_size_and_mixed() -> None:
    images = image_set(101)
    in_order = ImageSet(images.images_NCHW, images.labels_N.sort().values)
    evaluation = EvaluationImages(in_order, in_order.normalisation, CPU)
    chosen = [chosen_B for chosen_B, _ in evaluation.batches(linear, 25)]
    assert sorted(len(part) for part in chosen) == [20, 20, 20, 20, 21]
    assert sorted(torch.cat(chosen).tolist()) == list(range(101))
    assert all(len(in_order.labels_N[part].unique()) == K for part in chosen)


def test_a_reward_minibatch_is_of_distinct_images_with_their_labels() -> None:
    images = image_set(20)
    evaluation = EvaluationImages(images, images.normalisation, CPU)
    drawn = set()
    for seed in range(30):
        minibatch = evaluation.sample(6, seeded(seed))
        order = which(minibatch.images_BCHW, images)
        assert len(set(order)) == 6
        assert torch.equal(minibatch.labels_B, images.labels_N[order])
        drawn |= set(order)
    assert drawn == set(range(20))
    assert sorted(which(evaluation.sample(50, seeded()).images_BCHW, images)) == list(range(20))


def test_scores_that_are_not_numbers_are_never_right() -> None:
    scores_BK = torch.tensor([[0.0, 2.0], [2.0, 0.0], [math.nan, 0.0], [0.0, math.nan], [math.inf, 0.0]])
    labels_B = torch.tensor([1, 1, 0, 1, 0])
    assert is_right(scores_BK, labels_B).tolist() == [True, False, False, False, True]


# ---- batch norms ----------------------------------------------------------------------------------------------------


class TwoNorms(nn.Module):
    """Only the first is used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = (nn.BatchNorm2d(2, momentum=rate).double() for rate in (0.1, 0.5))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        result: Tensor = self.used(images_BCHW)
        return result


def modes(model: TwoNorms) -> list[tuple[float | None, bool, bool]]:
    return [(norm.momentum, norm.training, norm.track_running_stats) for norm in (model.used, model.unused)]


REST = [(0.1, False, True), (0.5, False, True)]
"""The modes of both norms in evaluation."""


def averages(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    return norm.get_buffer("running_mean"), norm.get_buffer("running_var")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_recalibrated_statistics_are_the_plain_means_of_the_minibatches(count: int) -> None:
    model = TwoNorms().eval()
    for norm in (model.used, model.unused):
        for average, values in zip(averages(norm), ([3.0, -3.0], [7.0, 0.1]), strict=True):
            average.copy_(torch.tensor(values))
        norm.get_buffer("num_batches_tracked").fill_(17)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    minibatches = [
        torch.randn(4, 2, 3, 3, generator=seeded(i), dtype=torch.float64) * (i + 1) + i for i in range(count)
    ]
    norms = norms_of(model)
    assert norms == [model.used, model.unused]
    with kept_statistics(norms):
        recalibrate(norms, minibatches, model)
        means_MC = torch.stack([minibatch.mean((0, 2, 3)) for minibatch in minibatches])
        variances_MC = torch.stack([minibatch.transpose(0, 1).flatten(1).var(1) for minibatch in minibatches])
        mean_C, variance_C = averages(model.used)
        torch.testing.assert_close(mean_C, means_MC.mean(0))
        torch.testing.assert_close(variance_C, variances_MC.mean(0))
        assert torch.equal(model.unused.get_buffer("running_mean"), before["unused.running_mean"])
        assert torch.equal(model.unused.get_buffer("running_var"), before["unused.running_var"])
        assert modes(model) == REST
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_failed_recalibration_leaves_no_trace() -> None:
    model = TwoNorms().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fails(images_BCHW: Tensor) -> None:
        model(images_BCHW)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), kept_statistics(norms_of(model)):
        recalibrate(norms_of(model), [torch.ones(2, 2, 3, 3, dtype=torch.float64)], fails)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes(model) == REST


@pytest.mark.parametrize("fails", [False, True])
def test_batch_statistics_normalise_and_leave_no_trace(fails: bool) -> None:
    """In evaluation mode, whatever happens inside; norms that are not named go by their moving averages."""
    model = TwoNorms().eval()
    mean_C, variance_C = averages(model.used)
    mean_C.fill_(3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images_BCHW = torch.randn(4, 2, 3, 3, generator=seeded(), dtype=torch.float64)
    moving = (images_BCHW - 3) / math.sqrt(1 + 1e-5)
    with (
        pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext(),
        batch_statistics(norms_of(model)),
    ):
        y_BCHW = model(images_BCHW)
        torch.testing.assert_close(y_BCHW.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64))
        variance_C = images_BCHW.var((0, 2, 3), correction=0)
        torch.testing.assert_close(y_BCHW.var((0, 2, 3), correction=0), variance_C / (variance_C + 1e-5))
        if fails:
            raise KeyboardInterrupt
    torch.testing.assert_close(model(images_BCHW), moving)
    with batch_statistics([model.unused]):
        torch.testing.assert_close(model(images_BCHW), moving)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes(model) == REST


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_what_the_backward_pass_keeps_is_counted_once() -> None:
    x, y = torch.rand(10, 3, requires_grad=True), torch.rand(10, 3, requires_grad=True)
    with saved_bytes() as saved:
        z = x * y  # keeps both
        assert saved() == 2 * 10 * 3 * 4
        z = z * x  # keeps x, again, and the product
        assert saved() == 3 * 10 * 3 * 4
        with torch.no_grad():
            z * y
        assert saved() == 3 * 10 * 3 * 4
    z * y
    assert saved() == 3 * 10 * 3 * 4
