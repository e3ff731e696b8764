"""A user's own data, loss and score: what is trained, rewarded and scored, and that it goes on bit for bit."""

from __future__ import annotations

import copy
import io
import math
import os
import random
import runpy
import signal
import subprocess
import sys
from collections import Counter, UserDict, UserList
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, TensorDataset

from enas import Choice, Task, Training, space_of
from enas.architecture import Architecture
from enas.child_training import ChildTraining, evaluate
from enas.controllers import IndependentConfig
from enas.data.batches import EvaluationBatches, TrainingBatches, moved, source_of, tensors_in
from enas.errors import ConfigError, DataError, NotFiniteError
from enas.norms import norms_of
from enas.phases import Search, SearchConfig
from enas.retrain import load_weights, write_weights
from enas.runtime.seeding import global_seed
from enas.runtime.stop import Stopped, StopRequest
from enas.shared_weights import SharedWeights
from enas.trainer import descend
from tests import tiny
from tests.own_task import (
    BATCH,
    FEATURES,
    SOURCES,
    SPACE,
    TRAIN,
    VALID,
    WIDTH,
    Noisy,
    Stream,
    accuracy,
    batch_task,
    batches,
    cross_entropy,
    dicts,
    supernet,
    table,
    task_of,
)
from tests.test_search import go_on, search_of

# A worker is a fork of a process that torch has given threads to, which newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

ROOT = Path(__file__).resolve().parent.parent
STATISTICS = ("batch", "moving", "recalibrated")


def weights_of(task: Task, statistics: Any = "batch", epochs: int = 2) -> SharedWeights:
    return SharedWeights(supernet(), SPACE, batch_task(task, epochs, statistics=statistics))


def disturb(seed: int) -> None:
    """The global generators as they are in another process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(a: Any, b: Any) -> None:
    """Equal bit for bit, tensors and all."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


# ---- what batches there are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOURCES)
def test_an_epoch_has_every_example_once_in_an_order_of_its_own(kind: str) -> None:
    made = SOURCES[kind]()
    source = source_of("train", made["train"], made.get("batch"))
    train = TrainingBatches(source, made.get("steps"), seed=7)
    assert train.steps == 5
    expected = Counter(table(TRAIN, 1)[1].tolist())
    orders = []
    for epoch in range(2):
        read = [list(tensors_in(train.batch(epoch, step))) for step in range(5)]
        assert sum(len(x_BF) for x_BF, _ in read) == TRAIN
        assert Counter(torch.cat([y_B for _, y_B in read]).tolist()) == expected
        orders.append(torch.cat([x_BF for x_BF, _ in read]))
    assert not torch.equal(*orders)
    assert_same(next(tensors_in(train.batch(1, 4))), read[4][0])


@pytest.mark.parametrize("kind", SOURCES)
def test_any_batch_is_the_same_whatever_was_read_before(kind: str) -> None:
    def train() -> TrainingBatches:
        made = SOURCES[kind]()
        return TrainingBatches(
            source_of("train", made["train"], made.get("batch")), made.get("steps"), seed=7
        )

    disturb(1)
    whole = train()
    expected = [[whole.batch(epoch, step) for step in range(5)] for epoch in range(2)]
    disturb(2)
    resumed = train()
    for epoch, step in ((1, 3), (1, 4), (0, 2), (0, 2), (0, 0), (1, 1)):
        assert_same(resumed.batch(epoch, step), expected[epoch][step])


def test_batches_of_tensors_differ_by_one_example_at_most() -> None:
    source = source_of("train", table(TRAIN, 1), BATCH)
    assert [len(x_BF) for x_BF, _ in source.batches(0)] == [5, 5, 4, 4, 4]


def test_a_dict_of_tensors_and_one_tensor_have_one_example_a_row() -> None:
    x_NF, y_N = table(6, 0)
    for given, parts in (({"a": x_NF, "target": y_N}, 2), (x_NF, 1), ((x_NF, y_N), 2)):
        source = source_of("train", given, 4)
        assert source.length == 2
        assert all(len(list(tensors_in(batch))) == parts for batch in source.batches(0))


class Encoding(UserDict[str, Tensor]):
    """Tensors by name that go to a device together, as a tokenizer returns them."""

    def to(self, device: torch.device) -> Encoding:
        return Encoding({name: tensor.to(device) for name, tensor in self.items()})


def test_tensors_that_move_together_have_one_example_a_row_too() -> None:
    x_NF, y_N = table(6, 0)
    given = source_of("train", Encoding(x=x_NF, target=y_N), 4)
    plain = source_of("train", {"x": x_NF, "target": y_N}, 4)
    assert_same(list(given.batches(0)), list(plain.batches(0)))


def test_examples_by_their_number_are_made_into_batches() -> None:
    class Numbered:
        """As a table of Hugging Face has them."""

        def __len__(self) -> int:
            return 7

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"x": torch.tensor(float(index)), "target": torch.tensor(index)}

    source = source_of("train", Numbered(), 3)
    found = list(source.batches(0))
    assert source.length == len(found) == 3
    assert sorted(torch.cat([batch["target"] for batch in found]).tolist()) == list(range(7))


def test_loaders_own_samplers_draw_by_the_seed_and_the_epoch() -> None:
    class ByEpoch(Sampler[int]):
        """Orders by the number of the epoch, as samplers for several processes do."""

        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Any:
            return iter(torch.randperm(10, generator=torch.Generator().manual_seed(self.epoch)).tolist())

        def __len__(self) -> int:
            return 10

    data = TensorDataset(torch.arange(10.0), torch.arange(10))

    def loaders() -> list[Any]:
        own = RandomSampler(data, generator=torch.Generator())
        return [
            DataLoader(data, 2, sampler=own),
            DataLoader(
                data, batch_sampler=BatchSampler(RandomSampler(data, generator=torch.Generator()), 2, False)
            ),
            DataLoader(data, 2, sampler=ByEpoch()),
        ]

    for a, b in zip(loaders(), loaders(), strict=True):
        one, other = (TrainingBatches(source_of("train", given), None, 0) for given in (a, b))
        orders = [torch.cat([one.batch(epoch, step)[1] for step in range(5)]) for epoch in range(2)]
        assert not torch.equal(*orders)
        assert torch.equal(other.batch(1, 3)[1], orders[1][6:8])


def test_a_pass_stays_open_from_step_to_step_and_is_closed_at_its_end() -> None:
    events: list[str] = []

    def generate() -> Any:
        events.append("opened")
        try:
            yield from batches(TRAIN, 1)
            events.append("read further")
        finally:
            events.append("closed")

    train = TrainingBatches(source_of("train", generate), 5, seed=0)
    for step in range(5):
        assert events == ["opened"] * (step > 0)
        train.batch(0, step)
    assert events == ["opened", "closed"]


def test_the_global_generators_are_left_as_they_were() -> None:
    disturb(5)
    expected = random.random(), np.random.random(), float(torch.rand(()))
    disturb(5)
    weights = weights_of(task_of("loader"))
    disturb(5)
    weights.train_step(0, 0, [SPACE.architecture([1, 1])])
    weights.rewards([SPACE.architecture([1, 1])], "a", 0)
    assert (random.random(), np.random.random(), float(torch.rand(()))) == expected
    with pytest.raises(ZeroDivisionError), global_seed(0):
        raise ZeroDivisionError
    disturb(5)
    assert (random.random(), np.random.random(), float(torch.rand(()))) == expected


def test_whatever_holds_tensors_is_moved_to_the_device() -> None:
    class Pair(NamedTuple):
        x: Tensor
        name: str

    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    batch = {
        "a": [torch.ones(2), (torch.ones(1, dtype=torch.float64),)],
        "b": Pair(torch.ones(3), "p"),
        "c": packed,
        "n": 4,
    }
    found = moved(batch, torch.device("meta"))
    assert found["a"][0].device.type == found["a"][1][0].device.type == found["b"].x.device.type == "meta"
    assert found["a"][1][0].dtype == torch.float32
    assert found["b"].name == "p"
    assert found["n"] == 4
    assert found["c"].data.device.type == "meta"
    assert found["c"].batch_sizes.device.type == "cpu"


def test_evaluation_batches_are_read_once_and_kept_in_memory_of_their_own() -> None:
    reads = []

    def generate() -> Any:
        reads.append(1)
        yield from (batch for batch in batches(VALID, 2))

    kept = EvaluationBatches(source_of("valid", generate))
    assert_same(list(kept), batches(VALID, 2))
    assert_same(list(kept), batches(VALID, 2))
    assert kept.sample(torch.Generator().manual_seed(1)) is kept.sample(torch.Generator().manual_seed(1))
    assert len(reads) == 1
    by_workers = EvaluationBatches(source_of("valid", DataLoader(Noisy(VALID, 2), BATCH, num_workers=1)))
    assert not any(tensor.is_shared() for tensor in tensors_in(by_workers.kept()))


def test_of_large_evaluation_data_evenly_spaced_batches_are_kept_and_all_are_evaluated_on() -> None:
    listed = [torch.full((4,), float(number)) for number in range(11)]
    kept = EvaluationBatches(source_of("valid", lambda: iter(listed)), most=3 * listed[0].nbytes)
    assert [int(batch[0]) for batch in kept.kept()] == [0, 4, 8]
    assert [int(batch[0]) for batch in kept] == list(range(11))


# ---- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_a_step_is_the_gradient_of_the_users_loss(named: bool) -> None:
    """Against a loop as a user would write it: SGD, warm-up, cosine, clipping."""
    task = task_of("dicts" if named else "list")
    weights, model = weights_of(task), supernet()
    path = SPACE.architecture([0, 2])  # nothing is dropped
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    twin = batch_task(task)
    for epoch, step in [(epoch, step) for epoch in range(2) for step in range(5)]:
        batch = twin.minibatch(epoch, step).batch
        x_BF, y_B = batch.values() if named else batch
        log = weights.train_step(epoch, step, [path])
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x_BF, architecture=path), y_B)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        rate = 0.1 * (1 + math.cos(math.pi * epoch / 2)) / 2 * min(1, (5 * epoch + step + 1) / 2.5)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert log["loss"] == pytest.approx(loss.item())
        assert log["gradient_norm"] == pytest.approx(norm.item())
        assert log["learning_rate"] == pytest.approx(rate)
    for own, reference in zip(weights.trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, reference)


def test_several_inputs_are_given_by_place_and_one_part_alone_is_the_input() -> None:
    seen: list[tuple[Any, ...]] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, *inputs: Any) -> Tensor:
            seen.append(inputs)
            return self.weight * inputs[0].mean()

    def loss(output: Tensor, batch: Any) -> Tensor:
        return output.square()

    a, b, y = torch.ones(2, 3), torch.zeros(2), torch.ones(2)
    for batch, count in (((a, [b, "words"], y), 2), ((a,), 1), (a, 1), ([a, y], 1)):
        task = Task([batch], [batch], loss=loss, score=lambda output, batch: 1.0)
        training = ChildTraining(Net(), batch_task(task), 1)
        training.step()
        assert len(seen[-1]) == count
        assert torch.equal(seen[-1][0], a)


@pytest.mark.parametrize(
    "changed",
    [
        {"training": Training(optimizer="adamw", learning_rate=0.01, clip=0.1)},
        {
            "training": Training(clip=0.1),
            "optimizer": lambda parameters: torch.optim.RMSprop(parameters, 0.01),
        },
        {"training": Training(momentum=0.0, weight_decay=0.0, clip=0.1)},
    ],
)
def test_parameters_off_the_path_and_their_moments_keep_still(changed: dict[str, Any]) -> None:
    weights = weights_of(task_of(**changed))
    for step in range(2):
        weights.train_step(0, step, [SPACE.architecture([0, 0])])
        weights.train_step(0, step, [SPACE.architecture([1, 1])])
    before = copy.deepcopy(weights.trainer.state_dict())
    weights.train_step(0, 2, [SPACE.architecture([0, 0])])
    after = weights.trainer.state_dict()
    names = [name for name, _ in weights.trainer.model.named_parameters()]
    assert not torch.equal(after["model"]["layers.0.0.0.weight"], before["model"]["layers.0.0.0.weight"])
    for number, name in enumerate(names):
        if name.startswith(("layers.0.1", "layers.1.1")):
            assert torch.equal(after["model"][name], before["model"][name])
            assert_same(after["optimizer"]["state"].get(number), before["optimizer"]["state"].get(number))


def test_a_clipped_step_of_an_optimiser_without_momentum_that_is_not_sgd_clips_the_gradient() -> None:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.Adagrad([parameter], 1.0)
    parameter.grad = torch.tensor([30.0, 40.0])
    assert descend(optimizer, 0.5, clip=1.0) == pytest.approx(50)
    assert optimizer.state[parameter]["sum"].tolist() == pytest.approx([0.36, 0.64], rel=1e-4)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_optimisers_and_schedules_by_name_and_as_functions() -> None:
    model = supernet()
    named = batch_task(task_of(training=Training(optimizer="adamw", momentum=0.8, schedule="constant")))
    made = named.optimizer(model.parameters())
    assert isinstance(made, torch.optim.AdamW)
    assert made.param_groups[0]["betas"] == (0.8, 0.999)
    assert [named.rate(epoch) for epoch in range(3)] == [0.001] * 3
    plain = batch_task(task_of(training=Training(momentum=0.0))).optimizer(model.parameters())
    assert (plain.param_groups[0]["nesterov"], plain.param_groups[0]["lr"]) == (False, 0.05)
    own = batch_task(
        task_of(
            training=Training(),
            optimizer=lambda parameters: torch.optim.Adagrad(parameters, 0.25),
            schedule=lambda epoch, epochs: 1 / (epochs + epoch),
        )
    )
    assert isinstance(own.optimizer(model.parameters()), torch.optim.Adagrad)
    assert [own.rate(epoch) for epoch in range(2)] == [0.125, pytest.approx(0.25 / 3)]


def test_cosine_is_torchs_and_a_warm_up_grows_by_the_step() -> None:
    training = Training(warmup=1.5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], 1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    for epoch in range(8):
        assert training.factor(epoch, 8) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert [training.warmth(done, 4) for done in range(8)] == [min(1, (done + 1) / 6) for done in range(8)]
    assert Training().warmth(0, 4) == 1
    assert training.stretched(2).warmup == 3


def test_bfloat16_reaches_the_products_and_the_weights_stay_float32() -> None:
    weights = SharedWeights(supernet(), SPACE, batch_task(task_of("list"), dtype=torch.bfloat16))
    kinds = []
    weights.trainer.model.head.register_forward_hook(
        lambda module, inputs, output: kinds.append(output.dtype)
    )
    path = SPACE.architecture([0, 0])
    assert math.isfinite(weights.train_step(0, 0, [path])["loss"])
    weights.rewards([path], "a", 0)
    assert kinds == [torch.bfloat16, torch.bfloat16]
    assert all(parameter.dtype == torch.float32 for parameter in weights.trainer.model.parameters())


# ---- rewards and scores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower", [False, True])
def test_rewards_are_scores_on_the_batch_of_the_draw_and_lower_ones_are_turned(lower: bool) -> None:
    task = task_of("list", higher_is_better=not lower)
    weights = weights_of(task)
    drawn = [SPACE.sample(random.Random(seed)) for seed in range(3)]
    seen = set()
    for draw in range(12):
        rewards_N = weights.rewards(drawn, "a", draw)
        batch = weights.task.reward_minibatch("a", draw).batch
        seen.add(float(batch[0][0, 0]))
        model = weights.trainer.model.eval()
        for norm in norms_of(model):
            norm.training = True
        with torch.no_grad():
            expected = [float(accuracy(model(batch[0], architecture=a), batch)) for a in drawn]
        assert rewards_N.tolist() == pytest.approx([-one if lower else one for one in expected])
    assert len(seen) == 3  # all validation batches
    assert weights.task.describe_reward(-0.25 if lower else 0.25) == {"valid_score": 0.25}
    better, worse = ({"score": 0.1, "loss": 1.0}, {"score": 0.2, "loss": 1.0})[:: 1 if lower else -1]
    assert weights.task.sort_key(better) > weights.task.sort_key(worse)


def test_a_score_is_the_mean_over_examples_of_the_whole_split() -> None:
    task = task_of("list", metrics={"confidence": lambda output, batch: output.softmax(1).amax(1).mean()})
    child = supernet().child(SPACE.architecture([0, 1])).eval()
    x_NF, y_N = table(VALID, 2)
    with torch.no_grad():
        logits_NK = child(x_NF)
    found = evaluate(child, batch_task(task, statistics="moving"), "valid")
    assert found == pytest.approx(
        {
            "loss": float(F.cross_entropy(logits_NK, y_N)),
            "score": float((logits_NK.argmax(1) == y_N).float().mean()),
            "confidence": float(logits_NK.softmax(1).amax(1).mean()),
        }
    )
    assert evaluate(child, batch_task(task), "test") is None


class InPlace(nn.Linear):
    """Changes its input in place."""

    def forward(self, x: Tensor, architecture: Architecture | None = None) -> Tensor:
        x -= 0.5
        return super().forward(x)


def test_a_network_that_changes_its_input_in_place_changes_no_batch() -> None:
    listed = batches(VALID, 2)
    task = batch_task(Task(listed, listed, batches(VALID, 2), loss=cross_entropy, score=accuracy))
    net, before = InPlace(FEATURES, 2), copy.deepcopy(listed)
    minibatch = task.minibatch(0, 0)
    losses = {task.loss(net, minibatch, None, slot).total.item() for slot in range(3)}
    assert len(losses) == 1
    assert evaluate(net, task, "valid") == evaluate(net, task, "valid") == evaluate(net, task, "test")
    task.size(net)
    net(*task.example().inputs)
    assert_same(listed, before)
    x_NF = before[0][0].clone()
    space_of(nn.Sequential(Choice({"a": InPlace(FEATURES, 2), "b": nn.Linear(FEATURES, 2)})), x_NF)
    assert torch.equal(x_NF, before[0][0])


def test_a_score_of_the_whole_split_gets_all_outputs_and_batches_joined() -> None:
    def correlation(output: Any, batch: Any) -> Tensor:
        (logits_NK, means_N), (y_N, words) = output, batch["target"]
        assert len(means_N) == 3  # one a batch
        assert words == [["word"] * 5, ["word"] * 5, ["word"] * 2]
        return torch.corrcoef(torch.stack([logits_NK[:, 1], y_N.float()]))[0, 1]

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x.mean()

    listed = [{"x": x_BF, "target": (y_B, Words(["word"] * len(y_B)))} for x_BF, y_B in batches(VALID, 2)]
    task = Task(
        listed,
        lambda: iter(listed),
        loss=lambda output, batch: F.cross_entropy(output[0], batch["target"][0]),
        score=correlation,
        whole_split=True,
    )
    model, (x_NF, y_N) = Net(FEATURES, 2), table(VALID, 2)
    logits_NK = model(x_NF)[0].detach()
    found = evaluate(model, batch_task(task), "valid")
    assert found is not None
    assert found["score"] == pytest.approx(np.corrcoef(logits_NK[:, 1].numpy(), y_N.numpy())[0, 1], rel=1e-5)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits_NK, y_N)))


def test_a_whole_split_of_batches_that_cannot_be_joined_is_told() -> None:
    listed = [(torch.zeros(4, length, FEATURES), torch.zeros(4, length)) for length in (3, 5)]
    task = Task(
        listed,
        listed,
        loss=lambda output, batch: output.mean(),
        score=lambda output, batch: output.mean(),
        whole_split=True,
    )
    with pytest.raises(
        DataError, match=r"whole_split joins the outputs and the batches of valid.*size 3 but got"
    ):
        evaluate(nn.Linear(FEATURES, 2), batch_task(task), "valid")


class Words(UserList[str]):
    """What is no tensor, and of any length."""


def test_metrics_are_logged_beside_the_score() -> None:
    metrics = {"second": lambda output, batch: 0.5, "whole": lambda output, batch: np.float32(2)}
    task = batch_task(task_of("list", metrics=metrics), epochs=1)
    training = ChildTraining(supernet().child(SPACE.architecture([1, 1])), task, 1)
    for _ in range(5):
        training.step()
    record = training.end_epoch()
    assert (record["valid_second"], record["valid_whole"], record["best"]) == (0.5, 2.0, 1.0)
    assert task.shown == ("score", "second", "whole")
    assert training.result()["valid_second"] == 0.5


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d, (8, 3)),
        (nn.BatchNorm2d, (8, 3, 2, 2)),
        (nn.BatchNorm3d, (8, 3, 2, 2, 2)),
        (nn.SyncBatchNorm, (8, 3, 2)),
    ],
)
def test_every_kind_of_batch_norm_has_the_three_modes(
    norm: Callable[..., nn.Module], shape: tuple[int, ...]
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = norm(3), nn.Linear(3, 1)

        def forward(self, x: Tensor, architecture: Any = None) -> Tensor:
            normed = self.norm(x)
            return self.head(normed.flatten(2).mean(2) if normed.ndim > 2 else normed)

    draw = torch.Generator().manual_seed(0)
    data = [(3 + 2 * torch.randn(shape, generator=draw), torch.zeros(8, 1)) for _ in range(3)]

    def seen(output: Tensor, batch: Any) -> Tensor:
        return output.square().mean()

    task = Task(data, data, loss=seen, score=lambda output, batch: seen(output, batch))
    for statistics in STATISTICS:
        torch.manual_seed(0)
        weights = SharedWeights(Net(), SPACE, batch_task(task, statistics=statistics))
        weights.train_step(0, 0, [SPACE.architecture([0, 0])])
        before = copy.deepcopy(weights.trainer.model.state_dict())
        reward = float(weights.rewards([SPACE.architecture([0, 0])], "a", 0))
        assert_same(dict(weights.trainer.model.state_dict()), dict(before))
        batch = weights.task.reward_minibatch("a", 0).batch
        x, model = batch[0], weights.trainer.model
        dims = [d for d in range(x.ndim) if d != 1]
        if statistics == "batch":
            mean, var = x.mean(dims), x.var(dims, unbiased=False)
        elif statistics == "moving":
            mean, var = before["norm.running_mean"], before["norm.running_var"]
        else:  # of all three batches, as there are four to take
            every = [one for one, _ in data]
            mean = torch.stack([one.mean(dims) for one in every]).mean(0)
            var = torch.stack([one.var(dims) for one in every]).mean(0)
        at = [1, 3, *[1] * (x.ndim - 2)]
        with torch.no_grad():
            affine = model.norm.weight.view(at) * (x - mean.view(at)) / (var.view(at) + 1e-5).sqrt()
            affine = affine + model.norm.bias.view(at)
            expected = model.head(affine.flatten(2).mean(2) if x.ndim > 2 else affine).square().mean()
        assert reward == pytest.approx(float(expected), rel=1e-4)


class Plain(nn.Linear):
    """The same for every architecture."""

    def forward(self, x: Tensor, architecture: Architecture | None = None) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_network_without_batch_norm_is_rewarded_by_any_statistics(statistics: Any) -> None:
    path = SPACE.architecture([1, 2])
    plain = Plain(FEATURES, 2)
    weights = SharedWeights(plain, SPACE, batch_task(task_of("list"), statistics=statistics))
    assert norms_of(plain) == []
    assert float(weights.rewards([path], "a", 0)) == float(weights.rewards([path], "a", 0))
    training = ChildTraining(nn.Linear(FEATURES, 2), batch_task(task_of("list"), statistics=statistics), 1)
    for _ in range(5):
        training.step()
    assert training.end_epoch()["best"] == 1


def test_what_there_is_to_know_of_a_network() -> None:
    layers = nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2)
    expected = {
        "parameters": FEATURES * WIDTH + WIDTH + 2 * WIDTH + 2,
        "multiply_adds": FEATURES * WIDTH + 2 * WIDTH,
    }
    assert batch_task(task_of("loader")).size(nn.Sequential(*layers)) == expected
    task = batch_task(task_of("loader"))
    with torch.device("meta"):
        assert task.size(nn.Sequential(*layers).to("meta")) == expected
    child = supernet().child(SPACE.architecture([0, 0]))
    assert math.isfinite(evaluate(child, task, "valid")["score"])
    assert task.inputs(task.minibatch(0, 0)) is task.minibatch(0, 0).batch[0]
    assert task.data_bytes == BATCH * (4 * FEATURES + 8)


# ---- going on ----------------------------------------------------------------------------------------------------------


def new_search(folder: Path, kind: str, statistics: Any = "batch") -> Search:
    config = SearchConfig(epochs=2, updates=2, proposals=3, samples=2, checkpoint_every=100)
    training = Training(optimizer="adamw", learning_rate=0.01, warmup=0.5, clip=1.0)
    return search_of(
        folder, config, weights_of(task_of(kind, training=training), statistics), IndependentConfig()
    )


def stopping_after(search: Search, steps: int, stop: StopRequest) -> None:
    real, taken = search.step, 0

    def step(*place: Any) -> dict[str, float]:
        nonlocal taken
        taken += 1
        if taken == steps:
            stop.request("SIGTERM")
        return real(*place)

    vars(search)["step"] = step


@pytest.mark.parametrize("kind", SOURCES)
def test_a_search_resumed_in_the_middle_of_an_epoch_is_the_same_bit_for_bit(
    kind: str, tmp_path: Path
) -> None:
    disturb(1)
    whole = new_search(tmp_path / "whole", kind)
    go_on(whole, tmp_path / "whole", StopRequest())
    for at in (2, 10):  # of 5 + 2 steps an epoch
        folder = tmp_path / f"stopped after {at}"
        disturb(at)
        stop, stopped = StopRequest(), new_search(folder, kind)
        stopping_after(stopped, at, stop)
        with pytest.raises(Stopped):
            go_on(stopped, folder, stop)
        disturb(100 + at)
        resumed = new_search(folder, kind)
        disturb(200 + at)
        go_on(resumed, folder, StopRequest())
        assert_same(resumed.weights.state_dict(), whole.weights.state_dict())
        for name in ("archive.jsonl", "metrics.jsonl"):
            assert tiny.without_times(folder / name) == tiny.without_times(tmp_path / "whole" / name)
    drawn = list(SPACE.enumerate())
    assert resumed.weights.scores(drawn) == whole.weights.scores(drawn)
    assert len(set(whole.weights.scores(drawn))) > 1


@pytest.mark.parametrize("statistics", STATISTICS)
def test_shared_weights_go_on_from_their_state_by_any_statistics(statistics: Any) -> None:
    drawn = [SPACE.sample(random.Random(seed)) for seed in range(3)]

    def steps(weights: SharedWeights, numbers: range) -> list[Any]:
        logs: list[Any] = []
        for number in numbers:
            logs.append(weights.train_step(*divmod(number, 5), drawn[:2]))
            logs.append(weights.rewards(drawn, "a", number).tolist())
        return logs

    whole = weights_of(task_of("loader"), statistics)
    logs = steps(whole, range(10))
    first = weights_of(task_of("loader"), statistics)
    begun = steps(first, range(7))
    disturb(9)
    resumed = weights_of(task_of("loader"), statistics)
    resumed.load_state_dict(through_a_file(first.state_dict()))
    assert begun + steps(resumed, range(7, 10)) == logs
    assert_same(resumed.state_dict(), whole.state_dict())
    assert len(whole.scores(drawn)) == 3


def test_tied_weights_are_trained_kept_and_loaded(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(
            nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 2)
        )
        model[1].weight = model[0].weight
        return model

    training = ChildTraining(tied(), batch_task(task_of("list"), statistics="moving"), 1)
    for _ in range(5):
        training.step()
    training.end_epoch()
    write_weights(tmp_path / "weights.safetensors", training.best_weights())
    loaded = tied()
    load_weights(loaded, tmp_path / "weights.safetensors")
    assert loaded[1].weight is loaded[0].weight
    assert_same(dict(loaded.state_dict()), dict(training.model.state_dict()))


def test_a_data_loaders_worker_leaves_stopping_to_its_owner(capfd: pytest.CaptureFixture[str]) -> None:
    """A Ctrl-C in a terminal reaches the workers too."""

    class Interrupted(Noisy):
        def __getitem__(self, index: int) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    with StopRequest() as stop:
        assert len(list(DataLoader(Interrupted(4, 0), 2, num_workers=1))) == 2
        assert not stop.requested
        assert capfd.readouterr().err == ""
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested


@pytest.mark.parametrize("kind", ["tensors", "workers", "stream"])
@pytest.mark.parametrize("statistics", ["moving", "recalibrated"])
def test_a_childs_training_goes_on_bit_for_bit(kind: str, statistics: Any) -> None:
    def training() -> ChildTraining:
        torch.manual_seed(4)
        child = supernet().child(SPACE.architecture([0, 1]))
        return ChildTraining(child, batch_task(task_of(kind), statistics=statistics), 2)

    def go_on(training: ChildTraining, until: int) -> list[Any]:
        logs: list[Any] = []
        while training.done < until:
            logs.append(training.step())
            if training.at_epoch_end():
                logs.append(training.end_epoch())
        return logs

    whole = training()
    logs = go_on(whole, 10)
    first = training()
    begun = go_on(first, 7)
    resumed = training()
    disturb(9)
    resumed.load_state_dict(through_a_file(first.state_dict()))
    assert begun + go_on(resumed, 10) == logs
    assert_same(resumed.state_dict(), whole.state_dict())
    assert resumed.result() == whole.result()
    assert resumed.estimate().mib > 0


def test_fine_tuning_and_its_undoing_leave_the_search_as_it_was() -> None:
    weights = weights_of(task_of("loader", training=Training(optimizer="adamw", learning_rate=0.01)))
    path = SPACE.architecture([0, 1])
    weights.train_step(0, 0, [path])
    before = copy.deepcopy(weights.state_dict())
    with weights.finetuned(path, 3, 1):
        assert not torch.equal(weights.trainer.model.head.weight, before["model"]["head.weight"])
    assert_same(weights.state_dict(), before)


def test_dropout_is_the_same_whatever_was_drawn_before_and_other_at_every_step() -> None:
    weights, path = weights_of(task_of("list")), SPACE.architecture([1, 1])
    task, model = weights.task, weights.trainer.model.train()
    same = task.minibatch(0, 0)

    def loss(minibatch: Any, slot: int) -> float:
        disturb(random.randrange(100))
        return task.loss(model, minibatch, path, slot).total.item()

    assert loss(same, 0) == loss(same, 0)
    assert loss(same, 0) != loss(same, 1)
    other = task.minibatch(1, 0)._replace(batch=same.batch)
    assert loss(same, 0) != loss(other, 0)


# ---- bad input ---------------------------------------------------------------------------------------------------------


def used(task: Task) -> None:
    """Train and reward an architecture."""
    weights = weights_of(task)
    for step in range(weights.steps(0)):
        weights.train_step(0, step, [SPACE.architecture([0, 0])])
    weights.rewards([SPACE.architecture([0, 0])], "a", 0)
    weights.scores([SPACE.architecture([0, 0])])


class Shorter(Stream):
    """Fewer examples than it says."""

    def __len__(self) -> int:
        return TRAIN + 8


ROWS = table(6, 0)
X, Y = ROWS
LISTED = batches(TRAIN, 1)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "empty list": ({"train": []}, DataError, "train has no batch"),
    "empty loader": ({"train": DataLoader([], 2)}, DataError, "train has no batch"),
    "loader that drops all": (
        {"train": DataLoader(Noisy(3, 0), 4, drop_last=True)},
        DataError,
        "train has no batch",
    ),
    "empty tensors": ({"train": (X[:0], Y[:0]), "batch": 4}, DataError, "train has no batch"),
    "empty validation data": ({"valid": []}, DataError, "valid has no batch"),
    "empty validation stream": ({"valid": lambda: iter([])}, DataError, "valid has no batch"),
    "unknown length": (
        {"train": DataLoader(Stream(TRAIN, 1), 4)},
        ConfigError,
        "the length of train is not known: say with steps=",
    ),
    "more steps than batches": ({"steps": 6}, ConfigError, "steps = 6 is more than the 5 batches of train"),
    "early end": (
        {"train": lambda: iter(LISTED), "steps": 7},
        DataError,
        "train has ended before step 6 of epoch 1, which should have 7: set steps=",
    ),
    "fewer batches than said": (
        {"train": DataLoader(Shorter(TRAIN, 1), BATCH)},
        DataError,
        "train has ended before step 6 of epoch 1, which should have 6: set steps=",
    ),
    "iterator": ({"train": iter(LISTED)}, DataError, "train can be passed over only once: give the function"),
    "generator": ({"train": (b for b in LISTED)}, DataError, "give the function that makes the generator"),
    "no data": ({"train": 3}, DataError, "train is of type int"),
    "parts in a list": (
        {"train": list(ROWS), "batch": 2},
        DataError,
        "train is a list of batches, and these differ: torch.float32 of shape [6, 4] and torch.int64 of shape [6].",
    ),
    "tensors without batch": ({"train": ROWS}, ConfigError, "say with batch="),
    "dataset without batch": ({"train": Noisy(3, 0)}, ConfigError, "say with batch="),
    "unequal tensors": (
        {"train": (X, Y[:4]), "batch": 2},
        DataError,
        "train has tensors of 6, 4 examples",
    ),
    "scalar tensors": ({"train": (X, torch.ones(())), "batch": 2}, DataError, "6, 0 examples"),
    "words as batches": ({"train": ["a", "b"]}, DataError, "of train is str; a batch is a tensor"),
    "arrays as batches": (
        {"train": [(np.ones(3), np.ones(3))]},
        DataError,
        "is (ndarray, ndarray); a batch is a tensor",
    ),
    "nothing in a batch": ({"train": [()]}, DataError, "batch 1 of train is ()"),
    "changing structure": (
        {"train": lambda: iter([LISTED[0], (*LISTED[1], X)]), "steps": 2},
        DataError,
        "batch 2 of train is (Tensor, Tensor, Tensor), one before it was (Tensor, Tensor)",
    ),
    "changing keys": (
        {
            "train": lambda: iter([dicts(5, 1)[0], {"z": X, "target": Y}]),
            "steps": 2,
            "valid": dicts(5, 1),
        },
        DataError,
        "batch 2 of train is {z: Tensor, target: Tensor}, one before it was {x: Tensor, target: Tensor}",
    ),
    "no target": (
        {"train": [{"x": X, "labels": Y}]},
        ConfigError,
        "no key 'target', only 'x', 'labels'",
    ),
    "one example": (
        {"train": [(X[:1], Y[:1])]},
        DataError,
        "a batch of one example has no statistics that a batch norm could use: leave it out, as drop_last=True",
    ),
    "loss of examples": (
        {"loss": lambda output, batch: F.cross_entropy(output, batch[1], reduction="none")},
        ConfigError,
        "the loss must be a scalar, such as a mean; its shape is [5]",
    ),
    "loss without gradient": (
        {"loss": lambda output, batch: cross_entropy(output.detach(), batch)},
        ConfigError,
        "the loss of architecture 'tanh tanh' is a tensor without a gradient",
    ),
    "loss that is no tensor": (
        {"loss": lambda output, batch: cross_entropy(output, batch).item() * 0 + 1.5},
        ConfigError,
        "the loss of architecture 'tanh tanh' is 1.5 without a gradient",
    ),
    "loss that is NaN": (
        {"loss": lambda output, batch: cross_entropy(output, batch) * math.nan},
        NotFiniteError,
        "the loss of architecture 'tanh tanh' is nan",
    ),
    "score that is NaN": (
        {"score": lambda output, batch: math.nan},
        NotFiniteError,
        "the score of architecture 'tanh tanh' on data that it was not trained on is nan",
    ),
    "metric that is infinite": (
        {"metrics": {"r2": lambda output, batch: math.inf}},
        NotFiniteError,
        "the r2 of architecture 'tanh tanh' on data that it was not trained on is inf",
    ),
    "score of examples": (
        {"score": lambda output, batch: output.argmax(1) == batch[1]},
        ConfigError,
        "the score must be a number, such as a mean over the batch; it is of shape [",
    ),
    "score of words": ({"score": lambda output, batch: "good"}, ConfigError, "the score must be a number"),
    "schedule without number": (
        {"schedule": lambda epoch, epochs: None},
        ConfigError,
        "schedule(0, 2) must be a number",
    ),
    "several groups": (
        {
            "training": Training(),
            "optimizer": lambda own: torch.optim.SGD([{"params": own[:2]}, {"params": own[2:]}], 0.1),
        },
        ConfigError,
        "the optimiser has 2 groups of parameters",
    ),
    "two rates": (
        {"training": Training(learning_rate=0.1), "optimizer": lambda own: torch.optim.SGD(own, 0.1)},
        ConfigError,
        "the learning rate is given twice",
    ),
    "loss that is no function": ({"loss": 1.0}, ConfigError, "loss must be a function, not 1.0"),
    "metric that is no function": (
        {"metrics": {"f1": 2}},
        ConfigError,
        "metrics['f1'] must be a function, not 2",
    ),
    "metric of a taken name": (
        {"metrics": {"loss": accuracy}},
        ConfigError,
        "a metric cannot be called 'loss'",
    ),
    "no batch": ({"batch": 0}, ConfigError, "batch must be a whole number of at least 1, not 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_in_one_line(name: str) -> None:
    changed, kind, message = BAD[name]
    with pytest.raises(kind) as raised:
        used(task_of("list", **changed))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


class Shrinking:
    """Batches that are fewer at the second pass."""

    passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(LISTED if self.passes == 1 else LISTED[:3])


def test_a_loader_that_ends_early_stops_a_search_and_its_checkpoint_is_kept(tmp_path: Path) -> None:
    search = new_search(tmp_path, "list")
    search.config = replace(search.config, checkpoint_every=6)
    search.weights = weights_of(task_of("list", train=Shrinking(), steps=5))
    with pytest.raises(DataError, match=r"train has ended before step 4 of epoch 2, which should have 5"):
        go_on(search, tmp_path, StopRequest())
    assert "step-00000006.pt" in [path.name for path in (tmp_path / "checkpoints").iterdir()]


def test_the_example_learns_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bright and dark ones, of all sizes."""
    draw = np.random.default_rng(0)
    for name, low in (("bright", 130), ("dark", 0)):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = draw.integers(low, low + 125, (20 + number, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.{'png' if number % 2 else 'jpg'}")
    (tmp_path / "bright" / "notes.txt").write_text("no picture")
    runpy.run_path(str(ROOT / "examples" / "picture_folder.py"))["main"](tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["epoch 1", "epoch 2", "epoch 3"]
    assert said[-1] == "epoch 3: accuracy 100.0%"


def test_the_names_are_imported_when_they_are_first_used() -> None:
    code = (
        "import sys, enas; assert 'torch' not in sys.modules; assert enas.Training.__module__.startswith('enas.tasks');"
        "assert enas.Task.__name__ == 'Task'; assert 'torch' in sys.modules; enas.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stderr.strip().endswith("AttributeError: module 'enas' has no attribute 'nothing'")
