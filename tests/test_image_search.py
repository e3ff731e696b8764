"""Searching and training image classifiers: gradients, rewards, ensembles, and work that can stop anywhere."""

from __future__ import annotations

import copy
import io
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Architecture, Decision, Graph, Space
from enas.child_training import ChildTraining, evaluate
from enas.data.augmentation import AugmentConfig, normalise
from enas.data.images import ImageData, ImageSet, ImageShape
from enas.errors import ConfigError, NotFiniteError
from enas.evidence.ensemble import accuracies
from enas.masks import mask, masks_from
from enas.norms import NormStatistics, batch_statistics, norms_of
from enas.phases import SearchConfig
from enas.runtime.seeding import generator
from enas.runtime.stop import StopRequest
from enas.shared_weights import SharedWeights
from enas.spaces.image_network import ImageChild, ImageSupernet, Outputs
from enas.spaces.macro.net import MacroChild, MacroNetConfig, MacroSupernet
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.net import MicroChild, MicroNetConfig, MicroSupernet
from enas.spaces.micro.space import MicroSpace
from enas.tasks.image_data import EvaluationImages
from enas.tasks.image_settings import (
    CosineConfig,
    ImageChildConfig,
    ImageRewardConfig,
    ImageTrainingConfig,
    MomentumConfig,
)
from enas.tasks.images import ImageTask
from tests import tiny
from tests.test_search import go_on, search_of

CPU = torch.device("cpu")
SIZE, CLASSES, CHANNELS = 8, 3, 4
SHAPE = ImageShape(1, SIZE, SIZE, CLASSES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_set(count: int, seed: int) -> ImageSet:
    """Each class has a pattern of its own, in much noise."""
    pattern_KCHW = torch.randint(128, (CLASSES, 1, SIZE, SIZE), generator=seeded(0), dtype=torch.uint8)
    noise_NCHW = torch.randint(128, (count, 1, SIZE, SIZE), generator=seeded(seed), dtype=torch.uint8)
    labels_N = torch.arange(count) % CLASSES
    return ImageSet(pattern_KCHW[labels_N] + noise_NCHW, labels_N)


DATA = ImageData("made up", ("a", "b", "c"), image_set(26, 1), image_set(20, 2), image_set(14, 3), {})


# ---- a network small enough to compute by hand ---------------------------------------------------------------------


@dataclass(frozen=True)
class TwoFilters(Space):
    """Two convolutions after each other, each with one of three filters."""

    name: ClassVar[str] = "two filters"

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(Decision(f"filter {i}", "operation", i, ("a", "b", "c")) for i in range(2))

    def format(self, architecture: Architecture) -> str:
        return " ".join("abc"[choice] for choice in architecture.choices)

    def parse(self, text: str) -> Architecture:
        return self.architecture(["abc".index(letter) for letter in text.split()])

    def graph(self, architecture: Architecture) -> Graph:
        return Graph(self.name, (), ())

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}


SPACE = TwoFilters()
FIRST, SECOND, THIRD = SPACE.parse("a b"), SPACE.parse("c b"), SPACE.parse("b a")


class Filter(nn.Module):
    def __init__(self, channels: int, draw: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(CHANNELS, channels, 3, 3, generator=draw))
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        result: Tensor = self.norm(F.conv2d(x_BCHW, self.weight, padding=1))
        return result


class Network(nn.Module):
    """A choice of filters, the auxiliary head after the first, dropout before the last."""

    def __init__(self, options: list[str], seed: int) -> None:
        super().__init__()
        draw = seeded(seed)
        self.first = nn.ModuleDict({option: Filter(1, draw) for option in options[0]})
        self.second = nn.ModuleDict({option: Filter(CHANNELS, draw) for option in options[1]})
        self.auxiliary = nn.Parameter(torch.randn(CLASSES, CHANNELS, generator=draw))
        self.classifier = nn.Parameter(torch.randn(CLASSES, CHANNELS, generator=draw))

    def forward(self, images_BCHW: Tensor, architecture: Architecture, progress: float = 1.0) -> Outputs:
        first, second = str(architecture).split()
        x_BCHW = torch.relu(self.first[first](images_BCHW.to(self.classifier.dtype)))
        auxiliary_BK = x_BCHW.mean((2, 3)) @ self.auxiliary.T if self.training else None
        features_BC = self.second[second](x_BCHW).mean((2, 3))
        if self.training:
            features_BC = features_BC * mask(features_BC.shape, 0.5 * progress, features_BC)
        return Outputs(features_BC @ self.classifier.T, auxiliary_BK)


class TinySupernet(ImageSupernet):
    def __init__(self) -> None:
        super().__init__()
        self.space = SPACE
        self.network = Network(["abc", "abc"], 1)

    def forward(self, images_BCHW: Tensor, architecture: Architecture) -> Outputs:
        outputs: Outputs = self.network(images_BCHW, architecture)
        return outputs


class TinyChild(ImageChild):
    def __init__(self) -> None:
        super().__init__()
        self.architecture = FIRST
        self.network = Network(str(FIRST).split(), 2)

    def outputs(self, images_BCHW: Tensor) -> Outputs:
        outputs: Outputs = self.network(images_BCHW, self.architecture, self.progress)
        return outputs


def macro_supernet() -> ImageSupernet:
    return MacroSupernet(MacroSpace(3), MacroNetConfig(filters=CHANNELS), SHAPE, seeded(1))


def micro_supernet() -> ImageSupernet:
    config = MicroNetConfig(filters=CHANNELS, layers=1, drop_path_keep=0.6)
    return MicroSupernet(MicroSpace(2), config, SHAPE, seeded(1))


def macro_child() -> ImageChild:
    architecture = MacroSpace(3).sample(random.Random(1))
    return MacroChild(architecture, MacroNetConfig(filters=CHANNELS), SHAPE, seeded(1))


def micro_child() -> ImageChild:
    config = MicroNetConfig(filters=CHANNELS, layers=1, drop_path_keep=0.6)
    return MicroChild(MicroSpace(2).sample(random.Random(1)), config, SHAPE, seeded(1))


# ---- helpers -------------------------------------------------------------------------------------------------------

TRAINING = ImageTrainingConfig(
    batch=10,
    cosine=CosineConfig(0.2, 0.01, 2),
    momentum=MomentumConfig(weight_decay=0.01),
    augmentation=AugmentConfig(pad=1, flip=True, cutout=2),
)


def search_task(
    build: Callable[[], ImageSupernet] = TinySupernet,
    *,
    training: ImageTrainingConfig = TRAINING,
    statistics: NormStatistics = "batch",
    dtype: torch.dtype = torch.float32,
) -> SharedWeights:
    reading, supernet = ImageRewardConfig(8, statistics, recalibration_batches=2), build().to(dtype)
    task = ImageTask(DATA, training, reading, seed=5, device=CPU, dtype=dtype)
    return SharedWeights(supernet, supernet.space, task)


def images_of(made: SharedWeights | ChildTraining) -> ImageTask:
    assert isinstance(made.task, ImageTask)
    return made.task


def child_training(
    build: Callable[[], ImageChild] = TinyChild,
    *,
    epochs: int = 3,
    data: ImageData = DATA,
    train_on: Literal["train", "all"] = "train",
    evaluation: NormStatistics = "moving",
) -> ChildTraining:
    config = ImageChildConfig(epochs, TRAINING, train_on, evaluation, recalibration_batches=2, eval_batch=7)
    task = ImageTask(
        data,
        TRAINING,
        config.reading(),
        train_on=train_on,
        epochs=epochs,
        seed=5,
        device=CPU,
        dtype=torch.float32,
    )
    return ChildTraining(build(), task, epochs)


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


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


def no_gradient(model: nn.Module) -> bool:
    return all(parameter.grad is None for parameter in model.parameters())


# ---- searching -----------------------------------------------------------------------------------------------------


def test_a_step_of_two_architectures_follows_the_mean_of_their_gradients() -> None:
    """Steps of plain gradients: a first step's momentum is the gradient, so it is 1.9 times it."""
    training = replace(TRAINING, momentum=MomentumConfig(weight_decay=0.0))

    def taken(supernet: TinySupernet, slot: int, architectures: list[Architecture]) -> dict[str, Tensor]:
        weights = search_task(lambda: supernet, training=training, dtype=torch.float64)
        before = parameters_of(weights.trainer.model)
        if slot:  # the masks of the second slot
            minibatch = images_of(weights).train.minibatch(0, 0)
            with masks_from(generator(5, "masks", 0, 0, slot)):
                outputs = supernet.train()(minibatch.images_BCHW, architectures[0])
            assert outputs.auxiliary_BK is not None
            loss = F.cross_entropy(outputs.logits_BK, minibatch.labels_B)
            loss = loss + 0.4 * F.cross_entropy(outputs.auxiliary_BK, minibatch.labels_B)
            gradients = torch.autograd.grad(loss, list(supernet.parameters()), allow_unused=True)
            named = zip(before, gradients, strict=True)
            return {name: torch.zeros(()) if g is None else -0.2 * 1.9 * g for name, g in named}
        weights.train_step(0, 0, architectures)
        return {name: weight - before[name] for name, weight in parameters_of(weights.trainer.model).items()}

    both = taken(TinySupernet(), 0, [FIRST, SECOND])
    first, second = taken(TinySupernet(), 0, [FIRST]), taken(TinySupernet(), 1, [SECOND])
    for name, step in both.items():
        expected = (first[name] + second[name]).expand_as(step) / 2
        torch.testing.assert_close(step, expected, rtol=1e-7, atol=1e-12)
    assert any((first[name] - second[name]).abs().max() > 1e-4 for name in both)


def test_what_a_training_step_reports() -> None:
    weights = search_task(dtype=torch.float64)
    log = weights.train_step(2, 1, [FIRST, SECOND])
    assert log.keys() == {"loss", "accuracy", "gradient_norm", "learning_rate"}
    assert log["learning_rate"] == 0.2  # a restart
    assert weights.train_step(1, 0, [FIRST])["learning_rate"] == pytest.approx(0.105)
    same = search_task(dtype=torch.float64)
    minibatch, losses, right = images_of(same).train.minibatch(2, 1), [], []
    for slot, architecture in enumerate([FIRST, SECOND]):
        with masks_from(generator(5, "masks", 2, 1, slot)):
            logits_BK = same.trainer.model.train()(minibatch.images_BCHW, architecture).logits_BK
        losses.append(F.cross_entropy(logits_BK, minibatch.labels_B).item())
        right += [
            int(row.argmax()) == int(label) for row, label in zip(logits_BK, minibatch.labels_B, strict=True)
        ]
    assert log["loss"] == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert log["accuracy"] == pytest.approx(100 * sum(right) / len(right), rel=1e-6)
    assert weights.steps(0) == 3


def test_drop_path_grows_with_the_steps_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.image_config("micro", "--search.epochs=2", "--network.drop-path-keep=0.6")
    weights = config.shared_weights()
    asked: list[float] = []

    def keep_at(self: MicroNetConfig, number: int, progress: float) -> float:
        asked.append(progress)
        return 1.0

    monkeypatch.setattr(MicroNetConfig, "keep_at", keep_at)
    steps = weights.steps(0)
    architecture = weights.space.sample(random.Random(0))
    for place in (0, steps, 2 * steps - 1):
        asked.clear()
        weights.train_step(*divmod(place, steps), [architecture])
        assert set(asked) == {(place + 1) / (2 * steps)}


@pytest.mark.parametrize("build", [TinySupernet, macro_supernet, micro_supernet])
def test_off_the_path_weights_momentum_and_statistics_keep_still(build: Callable[[], ImageSupernet]) -> None:
    weights = search_task(build)
    rng = random.Random(0)
    drawn = [weights.space.sample(rng) for _ in range(4)]
    for step, architecture in enumerate(drawn[:3]):
        weights.train_step(0, step, [architecture])
    before, momentum = (
        copy.deepcopy(weights.trainer.model.state_dict()),
        copy.deepcopy(weights.trainer.optimizer.state_dict()),
    )
    weights.trainer.model.eval()
    reference = copy.deepcopy(weights.trainer.model).train()
    minibatch = images_of(weights).train.minibatch(1, 0)
    with masks_from(generator(5, "masks", 1, 0, 0)):
        reference(minibatch.images_BCHW, drawn[3]).logits_BK.sum().backward()
    weights.train_step(1, 0, [drawn[3]])
    after, path = (
        weights.trainer.model.state_dict(),
        {n for n, p in reference.named_parameters() if p.grad is not None},
    )
    names = [name for name, _ in weights.trainer.model.named_parameters()]
    off = [name for name in names if name not in path and "auxiliary" not in name]
    assert off
    for index, name in enumerate(names):
        moved = not torch.equal(before[name], after[name])
        assert moved == (name not in off), name
        if name in off:
            assert_same(
                weights.trainer.optimizer.state_dict()["state"].get(index), momentum["state"].get(index)
            )
    with torch.no_grad():
        of_path = copy.deepcopy(reference.state_dict())
        for name, value in after.items():
            if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                assert torch.equal(value, of_path[name]), name  # the reference's pass was the same


@pytest.mark.parametrize("statistics", ["batch", "moving", "recalibrated"])
@pytest.mark.parametrize("build", [TinySupernet, macro_supernet, micro_supernet])
def test_rewards_together_are_rewards_one_by_one_and_leave_no_trace(
    build: Callable[[], ImageSupernet], statistics: NormStatistics
) -> None:
    weights = search_task(build, statistics=statistics)
    rng = random.Random(3)
    architectures = [weights.space.sample(rng) for _ in range(4)]
    for step in range(3):  # moving averages are no longer the initial ones
        weights.train_step(0, step, architectures[:2])
    before = copy.deepcopy(weights.state_dict())
    together_N = weights.rewards([*architectures, architectures[0]], "policy", 7)
    assert together_N.shape == (5,)
    assert not together_N.requires_grad
    assert together_N[0] == together_N[4]
    for architecture, together in zip(architectures, together_N, strict=False):
        assert torch.equal(weights.rewards([architecture], "policy", 7)[0], together)
    assert_same(weights.state_dict(), before)
    assert no_gradient(weights.trainer.model)
    norms = norms_of(weights.trainer.model)
    assert not any(norm.training for norm in norms)
    assert all(norm.track_running_stats and norm.momentum is not None for norm in norms)
    if build is TinySupernet:
        draws = [tuple(weights.rewards(architectures, "policy", draw).tolist()) for draw in range(10)]
        assert draws[7] == tuple(together_N[:4].tolist())
        assert len(set(draws)) > 1


@pytest.mark.parametrize("statistics", ["batch", "moving", "recalibrated"])
def test_a_reward_is_the_accuracy_on_plain_validation_images(statistics: NormStatistics) -> None:
    weights = search_task(statistics=statistics, dtype=torch.float64)
    for step in range(3):
        weights.train_step(0, step, [FIRST, SECOND])
    draw = generator(5, "reward", "policy", 2)
    chosen_B = torch.randperm(20, generator=draw)[:8]
    images_BCHW = normalise(DATA.valid.images_NCHW[chosen_B], DATA.train.normalisation).double()
    labels_B = DATA.valid.labels_N[chosen_B]
    samples = images_of(weights).train.samples(2, generator(5, "recalibration", "policy", 2))
    network = weights.trainer.model.network
    first, second = network.first["a"], network.second["b"]

    def convolved(x_BCHW: Tensor, layer: Filter) -> Tensor:
        return F.conv2d(x_BCHW, layer.weight, padding=1)

    def normed(z_BCHW: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        mean, variance = mean_C[:, None, None], variance_C[:, None, None]
        return (z_BCHW - mean) / torch.sqrt(variance + 1e-5)

    def moments(parts: list[Tensor], correction: int) -> tuple[Tensor, Tensor]:
        means = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
        variances = [part.transpose(0, 1).flatten(1).var(1, correction=correction) for part in parts]
        return means, torch.stack(variances).mean(0)

    with torch.no_grad():
        for layer in (first, second):  # plain norms, so that the formulas are short
            layer.norm.weight.fill_(1.0)
            layer.norm.bias.fill_(0.0)
        x_BCHW, calibration = images_BCHW, [sample.double() for sample in samples]
        for layer in (first, second):
            z_BCHW = convolved(x_BCHW, layer)
            if statistics == "batch":
                mean_C, variance_C = moments([z_BCHW], 0)
            elif statistics == "moving":
                mean_C = layer.norm.get_buffer("running_mean")
                variance_C = layer.norm.get_buffer("running_var")
            else:
                convolutions = [convolved(part, layer) for part in calibration]
                mean_C, variance_C = moments(convolutions, 1)
                calibration = [normed(part, *moments([part], 0)).relu() for part in convolutions]
            x_BCHW = normed(z_BCHW, mean_C, variance_C)
            x_BCHW = x_BCHW.relu() if layer is first else x_BCHW
        logits_BK = x_BCHW.mean((2, 3)) @ network.classifier.T
        with weights.evaluating("policy", 2) as ready:
            torch.testing.assert_close(weights.task.scores_of(ready(FIRST), FIRST)(images_BCHW), logits_BK)
    right = [int(row.argmax()) == int(label) for row, label in zip(logits_BK, labels_B, strict=True)]
    reward = float(weights.rewards([FIRST], "policy", 2)[0])
    assert reward == pytest.approx(sum(right) / 8)
    described = weights.task.describe_reward(reward)
    assert described["valid_accuracy"] == pytest.approx(100 * reward)
    assert described["valid_error"] == pytest.approx(100 - 100 * reward)


def test_scores_that_are_not_numbers_have_reward_zero() -> None:
    weights = search_task()
    with torch.no_grad():
        weights.trainer.model.network.first["a"].weight.fill_(math.nan)
    rewards_N = weights.rewards([FIRST, SECOND], "policy", 0)
    assert rewards_N[0] == 0
    assert rewards_N.isfinite().all()


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    weights = search_task()
    weights.train_step(0, 0, [FIRST])
    with torch.no_grad():
        weights.trainer.model.network.first["c"].weight.fill_(math.nan)
    before, momentum = (
        parameters_of(weights.trainer.model),
        copy.deepcopy(weights.trainer.optimizer.state_dict()),
    )
    with pytest.raises(NotFiniteError, match=re.escape(f"'{SECOND}' is nan")):
        weights.train_step(0, 1, [FIRST, SECOND])
    for name, parameter in parameters_of(weights.trainer.model).items():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0, equal_nan=True)
    assert_same(weights.trainer.optimizer.state_dict(), momentum)
    assert no_gradient(weights.trainer.model)


@pytest.mark.parametrize("build", [TinySupernet, macro_supernet, micro_supernet])
def test_estimating_changes_nothing(build: Callable[[], ImageSupernet]) -> None:
    def continued(estimating: bool) -> dict[str, Any]:
        weights = search_task(build)
        architectures = [weights.space.sample(random.Random(seed)) for seed in range(2)]
        for step in range(2):
            if estimating:
                before = copy.deepcopy(weights.state_dict())
                (seconds, mib), reward_seconds = weights.estimate()
                assert min(seconds, mib, reward_seconds) > 0
                assert_same(weights.state_dict(), before)
                assert no_gradient(weights.trainer.model)
            weights.train_step(0, step, architectures)
        return weights.state_dict()

    assert_same(continued(estimating=True), continued(estimating=False))


@pytest.mark.parametrize(
    ("build", "statistics", "steps", "stops"),
    [
        (TinySupernet, "batch", 6, (0, 1, 3)),
        (TinySupernet, "recalibrated", 6, (2,)),
        (macro_supernet, "batch", 3, (2,)),
        (micro_supernet, "recalibrated", 3, (2,)),
    ],
)
def test_a_resumed_search_task_goes_on_bit_for_bit(
    build: Callable[[], ImageSupernet], statistics: NormStatistics, steps: int, stops: tuple[int, ...]
) -> None:
    def weights() -> SharedWeights:
        return search_task(build, statistics=statistics)

    drawn = [weights().space.sample(random.Random(seed)) for seed in range(3)]

    def go_on(weights: SharedWeights, places: list[tuple[int, int]]) -> list[Any]:
        logs: list[Any] = []
        for epoch, step in places:
            logs.append(weights.train_step(epoch, step, drawn[:2] if step % 2 else drawn[2:]))
            logs.append(weights.rewards(drawn, "policy", step).tolist())
        return logs

    whole = weights()
    places = [divmod(number, 3) for number in range(steps)]
    logs = go_on(whole, places)
    for at in stops:
        stopped = weights()
        first_logs = go_on(stopped, places[:at])
        resumed = weights()
        resumed.load_state_dict(through_a_file(stopped.state_dict()))
        assert_same(first_logs + go_on(resumed, places[at:]), logs)
        assert_same(resumed.state_dict(), whole.state_dict())


def test_a_search_whose_controller_rests_trains_the_shared_weights_alone(tmp_path: Path) -> None:
    weights = search_task()
    search = search_of(tmp_path, SearchConfig(epochs=2, updates=0), weights)
    before = parameters_of(weights.trainer.model)
    go_on(search, tmp_path, StopRequest())
    assert search.total_steps() == 2 * weights.steps(0)
    assert search.archive.position() == 0
    moved = [
        name
        for name, weight in parameters_of(weights.trainer.model).items()
        if not torch.equal(weight, before[name])
    ]
    assert len(moved) > 5


@pytest.mark.parametrize("name", ["batch", "recalibration_batches"])
def test_reward_settings_that_make_no_sense(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be at least 1, not 0$"):
        ImageRewardConfig(**{name: 0})


# ---- ensembles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["batch", "moving", "recalibrated"])
def test_an_ensemble_averages_class_probabilities(statistics: NormStatistics) -> None:
    weights = search_task(dtype=torch.float64)
    for step in range(3):
        weights.train_step(0, step, [FIRST, SECOND, THIRD])
    before = copy.deepcopy(weights.state_dict())
    members = list(SPACE.enumerate())
    labels_N = weights.task.labels("test")
    together, of_members = accuracies(weights.class_probabilities(members, "test", 100, statistics), labels_N)
    assert_same(weights.state_dict(), before)
    images_NCHW = normalise(DATA.test.images_NCHW, DATA.train.normalisation)
    labels = DATA.test.labels_N.tolist()
    probabilities, alone = [], []
    with weights.evaluating("ensemble", statistics=statistics) as ready:
        for member in members:
            rows = weights.task.scores_of(ready(member), member)(images_NCHW).exp()
            rows = rows / rows.sum(1, keepdim=True)
            probabilities.append(rows.tolist())
            alone.append(sum(int(row.argmax()) == label for row, label in zip(rows, labels, strict=True)))
    right = 0
    for n, label in enumerate(labels):
        mean = [sum(rows[n][k] for rows in probabilities) / len(members) for k in range(CLASSES)]
        right += mean.index(max(mean)) == label
    assert together == pytest.approx(100 * right / len(labels))
    assert of_members == pytest.approx([100 * count / len(labels) for count in alone])
    assert len(set(of_members)) > 1


def test_an_ensemble_of_one_is_that_one_and_of_none_is_refused() -> None:
    weights = search_task()
    images = EvaluationImages(DATA.valid, DATA.train.normalisation, CPU)
    probabilities = weights.class_probabilities([SECOND], "valid", 7, "moving")
    together, alone = accuracies(probabilities, weights.task.labels("valid"))
    with weights.evaluating(statistics="moving") as ready:
        _, accuracy = images.score(weights.task.scores_of(ready(SECOND), SECOND), 20)
    assert together == accuracy
    assert alone == [together]
    with pytest.raises(ConfigError, match="at least one architecture"):
        accuracies([], weights.task.labels("valid"))


# ---- training a child ----------------------------------------------------------------------------------------------


def train(training: ChildTraining, steps: int) -> list[dict[str, float]]:
    """So many steps, with what is logged."""
    logs = []
    for _ in range(steps):
        logs.append(training.step())
        if training.at_epoch_end():
            logs.append(training.end_epoch())
    return logs


@pytest.mark.parametrize(
    ("build", "train_on", "evaluation", "epochs", "stops"),
    [
        (TinyChild, "train", "moving", 3, (0, 1, 3, 4, 9)),
        (TinyChild, "train", "recalibrated", 3, (3, 5)),
        (TinyChild, "all", "batch", 3, (5, 6, 15)),
        (macro_child, "train", "moving", 2, (4,)),
        (micro_child, "train", "recalibrated", 2, (4,)),
    ],
)
def test_an_interrupted_training_is_an_uninterrupted_one(
    build: Callable[[], ImageChild],
    train_on: Literal["train", "all"],
    evaluation: NormStatistics,
    epochs: int,
    stops: tuple[int, ...],
) -> None:
    def training() -> ChildTraining:
        return child_training(build, epochs=epochs, train_on=train_on, evaluation=evaluation)

    whole = training()
    logs = train(whole, whole.total_steps)
    assert whole.total_steps == epochs * (3 if train_on == "train" else 5)
    assert [log["epoch"] for log in logs if "best" in log] == list(range(epochs))
    for at in stops:
        stopped = training()
        first_logs = train(stopped, at)
        resumed = training()
        resumed.load_state_dict(through_a_file(stopped.state_dict()))
        assert_same(first_logs + train(resumed, whole.total_steps - at), logs)
        assert_same(resumed.state_dict(), whole.state_dict())
        assert_same(resumed.result(), whole.result())


def test_a_step_of_a_child_follows_the_recipe() -> None:
    """Both heads, the masks and the progress of the step, Nesterov momentum, in fp64 by autograd."""
    training = child_training(lambda: TinyChild().double())
    training.task.dtype = torch.float64
    reference = TinyChild().double()
    velocity = {name: torch.zeros_like(weight) for name, weight in reference.named_parameters()}
    for step in range(4):
        epoch, within = divmod(step, 3)
        minibatch = images_of(training).train.minibatch(epoch, within)
        reference.progress = (step + 1) / 9
        with masks_from(generator(5, "masks", step)):
            outputs = reference.outputs(minibatch.images_BCHW)
        assert outputs.auxiliary_BK is not None
        loss = F.cross_entropy(outputs.logits_BK, minibatch.labels_B)
        loss = loss + 0.4 * F.cross_entropy(outputs.auxiliary_BK, minibatch.labels_B)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        rate = 0.2 if epoch == 0 else 0.105
        with torch.no_grad():
            for (name, weight), gradient in zip(reference.named_parameters(), gradients, strict=True):
                g = gradient + 0.01 * weight
                velocity[name] = 0.9 * velocity[name] + g
                weight -= rate * (g + 0.9 * velocity[name])
        train(training, 1)
        for name, weight in parameters_of(reference).items():
            torch.testing.assert_close(
                training.model.get_parameter(name).detach(), weight, rtol=1e-7, atol=1e-9
            )


@pytest.mark.parametrize("evaluation", ["moving", "batch", "recalibrated"])
def test_the_validation_score_is_that_of_the_weights_kept(evaluation: NormStatistics) -> None:
    training = child_training(evaluation=evaluation)
    scores = []
    for _ in range(3):
        while not training.at_epoch_end():
            training.step()
        record = training.end_epoch()
        scores.append((record["valid_accuracy"], -record["valid_loss"]))
        assert record["best"] == float(max(scores) == scores[-1])
        kept = TinyChild()
        kept.load_state_dict(training.best_weights())
        kept.eval()
        images_NCHW = normalise(DATA.valid.images_NCHW, DATA.train.normalisation)
        if evaluation == "batch":
            valid = EvaluationImages(DATA.valid, DATA.train.normalisation, CPU)
            with batch_statistics(norms_of(kept)):
                logits_NK = valid.class_scores(kept, 7).float()
        else:
            logits_NK = kept(images_NCHW).detach()  # as any module is called
        assert record["valid_loss"] == pytest.approx(
            F.cross_entropy(logits_NK, DATA.valid.labels_N).item(), rel=1e-5
        )
        right = int((logits_NK.argmax(1) == DATA.valid.labels_N).sum())
        assert record["valid_accuracy"] == pytest.approx(100 * right / 20)
    result = training.result()
    best = scores.index(max(scores))
    assert result["best_epoch"] == 1 + best
    assert (result["valid_accuracy"], -result["valid_loss"]) == scores[best]


def test_recalibrating_after_an_epoch_does_not_change_the_training() -> None:
    plain, recalibrated = child_training(evaluation="moving"), child_training(evaluation="recalibrated")
    train(plain, plain.total_steps)
    train(recalibrated, plain.total_steps)
    assert_same(parameters_of(recalibrated.model), parameters_of(plain.model))
    for own, other in zip(recalibrated.trainer.norms(), plain.trainer.norms(), strict=True):
        assert not torch.equal(own.get_buffer("running_mean"), other.get_buffer("running_mean"))


def test_the_best_epoch_is_by_accuracy_then_loss_then_the_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [(1.0, 50.0), (2.0, 60.0), (0.5, 50.0), (1.5, 60.0), (1.5, 60.0)]
    scores = iter([{"loss": loss, "accuracy": accuracy} for loss, accuracy in given])
    monkeypatch.setattr(ImageTask, "evaluate", lambda *_: next(scores))
    training = child_training(epochs=5)
    logs = train(training, training.total_steps)
    assert [log["best"] for log in logs if "best" in log] == [1, 1, 0, 1, 0]
    result = training.result()
    assert (result["best_epoch"], result["valid_loss"], result["valid_accuracy"]) == (4, 1.5, 60.0)


def test_training_on_all_images_takes_the_validation_images_too_and_keeps_the_last_epoch() -> None:
    training = child_training(train_on="all")
    assert len(images_of(training).train.images) == 46
    assert images_of(training).train.normalisation == DATA.joined().normalisation != DATA.train.normalisation
    logs = [log for log in train(training, training.total_steps) if "best" in log]
    assert [log["best"] for log in logs] == [0, 0, 1]
    assert not any(key.startswith("valid") for key in logs[-1] | training.result())
    assert training.result()["best_epoch"] == 3


def test_the_size_of_a_network_leaves_the_auxiliary_head_out() -> None:
    config = MicroNetConfig(filters=CHANNELS, layers=1, auxiliary=True)
    shape = ImageShape(1, 18, 18, CLASSES)
    architecture = MicroSpace(2).sample(random.Random(1))
    data = ImageData(
        "larger",
        ("a", "b", "c"),
        *(ImageSet(torch.ones(6, 1, 18, 18, dtype=torch.uint8), torch.arange(6) % 3) for _ in range(3)),
        {},
    )
    training = child_training(lambda: MicroChild(architecture, config, shape, seeded()), data=data)
    without = MicroChild(architecture, replace(config, auxiliary=False), shape, seeded())
    size = training.size()
    assert size["parameters"] == sum(parameter.numel() for parameter in without.parameters())
    assert size["parameters"] < sum(parameter.numel() for parameter in training.model.parameters())
    plain = child_training(lambda: without, data=data).size()
    assert size == plain
    assert size["epochs"] == 3
    convolutions = 2 * 9 * SIZE * SIZE * CHANNELS * (1 + CHANNELS) // 2 + CHANNELS * CLASSES
    assert child_training().size()["multiply_adds"] == convolutions


@pytest.mark.parametrize("train_on", ["train", "all"])
@pytest.mark.parametrize("evaluation", ["moving", "batch", "recalibrated"])
def test_the_test_score_is_of_the_test_images(
    train_on: Literal["train", "all"], evaluation: NormStatistics
) -> None:
    training = child_training(train_on=train_on, evaluation=evaluation)
    train(training, training.total_steps)
    model = training.model
    images_of(training).reading = replace(images_of(training).reading, batch=14)
    found = evaluate(model, training.task, "test")
    assert found is not None
    normalisation = (DATA.joined() if train_on == "all" else DATA.train).normalisation
    images_NCHW = normalise(DATA.test.images_NCHW, normalisation)
    norms = norms_of(model.eval()) if evaluation == "batch" else []
    with torch.no_grad(), batch_statistics(norms):
        logits_NK = model(images_NCHW)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits_NK, DATA.test.labels_N).item(), rel=1e-5)
    right = int((logits_NK.argmax(1) == DATA.test.labels_N).sum())
    assert found["accuracy"] == pytest.approx(100 * right / 14)


@pytest.mark.parametrize("build", [TinyChild, macro_child, micro_child])
def test_estimating_a_child_changes_nothing(build: Callable[[], ImageChild]) -> None:
    def continued(estimating: bool) -> dict[str, Any]:
        training = child_training(build)
        for _ in range(3):
            if estimating:
                before = copy.deepcopy(training.state_dict())
                assert all(value > 0 for value in training.estimate())
                assert_same(training.state_dict(), before)
                assert no_gradient(training.model)
            training.step()
        return training.state_dict()

    assert_same(continued(estimating=True), continued(estimating=False))


def test_a_child_whose_loss_is_not_finite_keeps_its_weights() -> None:
    training = child_training()
    train(training, 1)
    with torch.no_grad():
        next(training.model.parameters()).fill_(math.inf)
    before, done = parameters_of(training.model), training.done
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        training.step()
    assert_same(parameters_of(training.model), before)
    assert training.done == done
    assert no_gradient(training.model)


def test_a_validation_loss_that_is_not_finite_is_an_error() -> None:
    training = child_training()
    train(training, 2)
    training.step()
    training.trainer.norms()[0].get_buffer("running_mean").fill_(math.nan)
    with pytest.raises(NotFiniteError, match="not trained on is nan"):
        training.end_epoch()


@pytest.mark.parametrize("name", ["epochs", "recalibration_batches", "eval_batch"])
def test_child_settings_that_make_no_sense(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, not 0"):
        ImageChildConfig(**{name: 0})
