"""Retraining: which networks, with which recipe, what they leave behind, and that none is trained twice."""

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from enas.child_training import ChildTraining
from enas.errors import ConfigError, NotFiniteError
from enas.retrain import (
    Network,
    RetrainConfig,
    network_from_json,
    networks_to_train,
    random_architectures,
    read_result,
    train_network,
)
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.checkpoint import CheckpointStore, Rhythm
from enas.runtime.files import JsonlLog, read_jsonl
from enas.runtime.stop import Stopped, StopRequest
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.language import evaluate, perplexity
from tests import tiny

SPACE = RecurrentSpace(nodes=3)
FOUND = SPACE.parse("tanh relu(1) identity(1)")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RecurrentConfig:
    text = tiny.write_text(tmp_path_factory.mktemp("data") / "text")
    return tiny.config(
        text, "--retrain.child.epochs", "3", "--retrain.child.training.sgd.learning-rate", "1.0"
    )


def train(
    config: RecurrentConfig, network: Network, folder: Path, stop: StopRequest | None = None
) -> dict[str, Any]:
    training = config.child_training(network)
    return train_network(
        network, training, folder, Rhythm(steps=4), StopRequest() if stop is None else stop, folder
    )


def outcome(folder: Path) -> tuple[Any, ...]:
    logs = [tiny.without_times(folder / name) for name in ("metrics.jsonl", "result.json")]
    return (
        tiny.newest_checkpoint(folder / "checkpoints"),
        (folder / "weights.safetensors").read_bytes(),
        *logs,
    )


def test_found_comes_first_then_the_lstm_then_random_cells() -> None:
    networks = networks_to_train(RetrainConfig(random=3), FOUND, [Network("lstm", None, 7)], 7)
    assert [network.role for network in networks] == ["found", "lstm", "random", "random", "random"]
    assert networks[0].architecture == FOUND
    assert networks[1].architecture is None
    assert {network.seed for network in networks} == {7}
    assert len({network.id for network in networks}) == 5
    alone = networks_to_train(RetrainConfig(random=0), FOUND, [], 7)
    assert alone == networks[:1]


def test_every_network_is_trained_with_the_same_recipe(config: RecurrentConfig) -> None:
    networks = networks_to_train(config.retrain, FOUND, config.references(), 0)
    trainings = [config.child_training(network) for network in networks]
    assert len(trainings) == 3
    assert all(training.task.training is config.retrain.child.training for training in trainings)
    assert len({training.total_steps for training in trainings}) == 1
    found, lstm, other = (sum(p.numel() for p in training.model.parameters()) for training in trainings)
    assert found == other
    hidden = trainings[1].model.hidden
    for near in (hidden - 1, hidden + 1):  # no other LSTM is nearer in size
        size = len(config.corpus.vocabulary) * near + 8 * near * (near + 1)
        assert abs(lstm - found) <= abs(size - found)


def test_random_architectures_are_distinct_seeded_and_never_the_found_one() -> None:
    small = RecurrentSpace(nodes=2, functions=("tanh", "relu"))
    everything = list(small.enumerate())
    assert len(everything) == 4
    for seed, found in itertools.product(range(5), everything):
        drawn = random_architectures(small, 3, seed, {found})
        assert set(drawn) == set(everything) - {found}
        assert random_architectures(small, 3, seed, {found}) == drawn
    firsts = {random_architectures(SPACE, 1, seed, {FOUND})[0] for seed in range(20)}
    assert len(firsts) > 10
    with pytest.raises(ConfigError, match="4 random architectures are asked for"):
        random_architectures(small, 4, 0, {everything[0]})


def test_networks_survive_json() -> None:
    for network in networks_to_train(RetrainConfig(random=2), FOUND, [Network("lstm", None, 3)], 3):
        assert network_from_json(network.to_json(), Path(network.id, "result.json")) == network


@pytest.mark.parametrize(
    "network", [Network("found", FOUND, 0), Network("lstm", None, 0)], ids=["cell", "lstm"]
)
def test_weights_are_those_of_the_best_epoch(
    config: RecurrentConfig, network: Network, tmp_path: Path
) -> None:
    result = train(config, network, tmp_path)
    epochs = read_jsonl(tmp_path / "metrics.jsonl")
    losses = [epoch["valid_loss"] for epoch in epochs]
    assert len(losses) == result["epochs"] == 3
    assert len(set(losses)) == 3
    assert result["valid_loss"] == min(losses)
    assert result["best_epoch"] == 1 + losses.index(min(losses))
    model = config.model(replace(network, seed=99))  # another beginning
    model.load_state_dict(safetensors.torch.load((tmp_path / "weights.safetensors").read_bytes()))
    child = config.retrain.child
    loss = evaluate(model, config.corpus.valid, child.eval_batch, child.training.windows.bptt)
    assert perplexity(loss) == result["valid_ppl"]
    assert result["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_best_epoch_is_kept_when_later_ones_are_worse(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([2.0, 1.0, 3.0])
    seen: list[dict[str, torch.Tensor]] = []

    def evaluated(model: torch.nn.Module, *_: object, **__: object) -> float:
        seen.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return next(given)

    monkeypatch.setattr("enas.tasks.language.evaluate", evaluated)
    result = train(config, Network("found", FOUND, 0), tmp_path)
    kept = safetensors.torch.load((tmp_path / "weights.safetensors").read_bytes())
    assert result["best_epoch"] == 2
    assert all(torch.equal(kept[name], weight) for name, weight in seen[1].items())
    assert not all(torch.equal(kept[name], weight) for name, weight in seen[2].items())


@pytest.mark.parametrize(
    "network", [Network("found", FOUND, 0), Network("lstm", None, 0)], ids=["cell", "lstm"]
)
def test_stopped_after_any_step_and_resumed_equals_uninterrupted(
    config: RecurrentConfig, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config, network, tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    do_step = ChildTraining.step
    for last in {10, 30, *random.Random(0).sample(range(1, 31), 10)}:  # 10 ends an epoch, 30 the training
        folder, stop = tmp_path / f"stopped-{last}", StopRequest()

        def step(self: ChildTraining, last: int = last, stop: StopRequest = stop) -> dict[str, float]:
            shown = do_step(self)
            if self.done == last:
                stop.request("test")
            return shown

        monkeypatch.setattr(ChildTraining, "step", step)
        with pytest.raises(Stopped):
            train(config, network, folder, stop)
        monkeypatch.undo()
        assert read_result(folder) is None
        assert CheckpointStore(folder / "checkpoints").steps()[-1] == last
        train(config, network, folder)
        assert outcome(folder) == expected, last


def test_log_of_a_start_without_a_checkpoint_is_dropped(config: RecurrentConfig, tmp_path: Path) -> None:
    JsonlLog(tmp_path / "metrics.jsonl").append({"stale": 1})
    train(config, Network("found", FOUND, 0), tmp_path)
    assert [record["epoch"] for record in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_loss_that_is_not_finite_names_step_and_architecture_and_keeps_the_checkpoint(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_step = ChildTraining.step

    def step(self: ChildTraining) -> dict[str, float]:
        if self.done == 6:
            with torch.no_grad():
                self.model.embedding.weight.fill_(float("nan"))
        return do_step(self)

    monkeypatch.setattr(ChildTraining, "step", step)
    with pytest.raises(NotFiniteError) as caught:
        train(config, Network("found", FOUND, 0), tmp_path)
    message = str(caught.value)
    assert "step 6" in message
    assert "The checkpoint after step 4 is kept." in message
    assert str(FOUND) in message
    assert "Lower the learning rate" in message
    newest = CheckpointStore(tmp_path / "checkpoints").load_newest()
    assert newest is not None
    assert newest[0] == 4
    assert all(weight.isfinite().all() for weight in newest[1]["training"]["trainer"]["model"].values())


def test_no_checkpoint_is_said_to_be_kept_where_there_is_none(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: ChildTraining) -> dict[str, float]:
        raise NotFiniteError("the loss is nan")

    monkeypatch.setattr(ChildTraining, "step", step)
    with pytest.raises(NotFiniteError, match=r"stopped in step 0: the loss is nan\. Lower the") as caught:
        train(config, Network("found", FOUND, 0), tmp_path)
    assert "kept" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random": -1}, "^random must be at least 0, not -1$"),
        ({"checkpoint_every": 0}, "^checkpoint_every must be at least 1 or None, not 0$"),
    ],
)
def test_impossible_counts_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RetrainConfig(**settings)
